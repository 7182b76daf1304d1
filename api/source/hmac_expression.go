package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

const (
	// expressionMax bounds an expression, in bytes.
	expressionMax = 1000
	// expressionCostMax bounds one evaluation in CEL's cost units, one for each step or ten characters of text. A lookup costs
	// less than ten, a search through a text of 1 MiB about 100,000.
	expressionCostMax = 200_000
	// expressionDepthMax bounds the nesting of an expression.
	expressionDepthMax = 50
	// millisFrom is where whole numbers begin to be milliseconds: as seconds it is the year 5138, as milliseconds 1973.
	millisFrom = 100_000_000_000
)

// expression is a compiled CEL expression over payload (the parsed JSON document) and header (a map of lower-case names to
// values). It is safe for concurrent use.
type expression struct {
	program                 cel.Program
	usesPayload, usesHeader bool
}

// resultTypes are what an expression may give, and how to call them.
type resultTypes struct {
	names string
	types []*cel.Type
}

var (
	nameTypes = resultTypes{"a string or a whole number", []*cel.Type{cel.StringType, cel.IntType, cel.UintType, cel.DynType}}
	timeTypes = resultTypes{"a timestamp, an RFC 3339 string or a unix time",
		[]*cel.Type{cel.TimestampType, cel.StringType, cel.IntType, cel.UintType, cel.DynType}}
)

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("payload", cel.DynType),
		cel.Variable("header", cel.MapType(cel.StringType, cel.StringType)),
		cel.OptionalTypes(),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(expressionMax),
		cel.ParserRecursionLimit(expressionDepthMax),
		ext.Strings(ext.StringsVersion(4)),
	)
})

// compile checks an expression; its error is a sentence about the expression for who wrote it.
func compile(text string, allowed resultTypes) (*expression, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("make the environment for expressions: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		var messages []string
		for _, e := range issues.Errors() {
			messages = append(messages, fmt.Sprintf("%s (line %d, column %d)", e.Message, e.Location.Line(), e.Location.Column()+1))
		}
		return nil, errors.New("is not a valid CEL expression: " + strings.Join(messages, "; "))
	}
	if out := ast.OutputType(); !slices.ContainsFunc(allowed.types, out.IsExactType) {
		return nil, fmt.Errorf("must give %s, and gives %s", allowed.names, out)
	}
	program, err := env.Program(ast, cel.CostLimit(expressionCostMax))
	if err != nil {
		return nil, fmt.Errorf("is not a valid CEL expression: %w", err)
	}
	e := &expression{program: program}
	for _, reference := range ast.NativeRep().ReferenceMap() {
		e.usesPayload = e.usesPayload || reference.Name == "payload"
		e.usesHeader = e.usesHeader || reference.Name == "header"
	}
	return e, nil
}

// view is what the expressions of an endpoint see of one delivery.
type view map[string]any

// view parses the body if an expression asks for it.
func (s *hmacSettings) view(r Request) (view, error) {
	headers := make(map[string]string, len(r.Header))
	for name, values := range r.Header {
		if len(values) > 0 {
			headers[strings.ToLower(name)] = values[0]
		}
	}
	v := view{"header": headers}
	asked := []*expression{s.id, s.kind, s.at, s.entity}
	if !slices.ContainsFunc(asked, func(e *expression) bool { return e != nil && e.usesPayload }) {
		return v, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(r.Body))
	decoder.UseNumber()
	var payload any
	if err := decoder.Decode(&payload); err != nil {
		return nil, refuse(ReasonPayloadMalformed, "expected a JSON document, which the expressions of the settings read")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(ReasonPayloadMalformed, "expected one JSON document")
	}
	v["payload"] = exact(payload)
	return v, nil
}

// exact gives a decoded document numbers that CEL can hold. A whole number too large for 64 bits becomes a string, since as
// a float it would be equal to its neighbours, and an id is made of it.
func exact(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			v[key] = exact(inner)
		}
	case []any:
		for i, inner := range v {
			v[i] = exact(inner)
		}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil && !isInteger(v.String()) {
			return f
		}
		return v.String()
	}
	return value
}

// eval gives the value of an expression, nil where there is none: the expression was not given, it failed (a field is
// absent), it cost too much, or it gave null.
func (v view) eval(e *expression) ref.Val {
	if e == nil {
		return nil
	}
	value, _, err := e.program.Eval(map[string]any(v))
	if err != nil || value == types.NullValue {
		return nil
	}
	return value
}

// text gives a string or whole number as text, and "" for all else: a float may stand for several numbers.
func (v view) text(e *expression) string {
	switch value := v.eval(e).(type) {
	case types.String:
		return string(value)
	case types.Int:
		return strconv.FormatInt(int64(value), 10)
	case types.Uint:
		return strconv.FormatUint(uint64(value), 10)
	default:
		return ""
	}
}

// time gives a timestamp, an RFC 3339 string, or unix time in seconds or, from millisFrom on, milliseconds.
func (v view) time(e *expression) time.Time {
	switch value := v.eval(e).(type) {
	case types.Timestamp:
		return storable(value.Time)
	case types.String:
		return parseTime(string(value))
	case types.Int:
		if value >= millisFrom {
			return unixTime(int64(value), time.Millisecond)
		}
		return unixTime(int64(value), time.Second)
	default:
		return time.Time{}
	}
}
