package source

import (
	"errors"
	"fmt"
	"math"
	"net/http"
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
	// deliveryCostMax bounds all evaluations of one delivery, which are many where one delivery has many events: 5000 of them
	// with five lookups each cost about 250,000.
	deliveryCostMax = 10 * expressionCostMax
	// expressionDepthMax bounds the nesting of an expression.
	expressionDepthMax = 50
	// millisFrom is where whole numbers begin to be milliseconds: as seconds it is the year 5138, as milliseconds 1973.
	millisFrom = 100_000_000_000
	// unixDigits and unixMilliDigits are the digits of unix time from 2001 to 2286, in seconds and in milliseconds.
	unixDigits      = 10
	unixMilliDigits = 13
)

// The variables of an expression.
const (
	payloadVariable = "payload"
	headerVariable  = "header"
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
	fits  func(*cel.Type) bool
}

var (
	nameTypes     = resultTypes{"a string or a whole number", oneOf(cel.StringType, cel.IntType, cel.UintType, cel.DynType)}
	sequenceTypes = resultTypes{"a whole number", nameTypes.fits}
	timeTypes     = resultTypes{"a timestamp, an RFC 3339 string or a unix time",
		oneOf(cel.TimestampType, cel.StringType, cel.IntType, cel.UintType, cel.DynType)}
	listTypes = resultTypes{"a list", func(t *cel.Type) bool { return t.Kind() == types.ListKind || t.Kind() == types.DynKind }}
)

func oneOf(all ...*cel.Type) func(*cel.Type) bool {
	return func(t *cel.Type) bool { return slices.ContainsFunc(all, t.IsExactType) }
}

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable(payloadVariable, cel.DynType),
		cel.Variable(headerVariable, cel.MapType(cel.StringType, cel.StringType)),
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
	if out := ast.OutputType(); !allowed.fits(out) {
		return nil, fmt.Errorf("must give %s, and gives %s", allowed.names, out)
	}
	program, err := env.Program(ast, cel.CostLimit(expressionCostMax))
	if err != nil {
		return nil, fmt.Errorf("is not a valid CEL expression: %w", err)
	}
	e := &expression{program: program}
	for _, reference := range ast.NativeRep().ReferenceMap() {
		e.usesPayload = e.usesPayload || reference.Name == payloadVariable
		e.usesHeader = e.usesHeader || reference.Name == headerVariable
	}
	return e, nil
}

// view is what the expressions of an endpoint see of one delivery, or of one event in it.
type view struct {
	variables map[string]any
	spent     uint64 // in CEL's cost units
}

// newView shows the headers, but the one that holds the proof: a secret must not become the name of an event.
func newView(h http.Header, proof string) *view {
	headers := make(map[string]string, len(h))
	for name, values := range h {
		if len(values) > 0 && !strings.EqualFold(name, proof) {
			headers[strings.ToLower(name)] = values[0]
		}
	}
	return &view{variables: map[string]any{headerVariable: headers}}
}

// eval gives the value of an expression, nil where there is none: the expression was not given, it failed (a field is
// absent), it cost too much, or it gave null.
func (v *view) eval(e *expression) ref.Val {
	if e == nil || v.spent > deliveryCostMax {
		return nil
	}
	value, details, err := e.program.Eval(v.variables)
	if cost := details.ActualCost(); cost != nil {
		v.spent += *cost
	}
	if err != nil || value == types.NullValue {
		return nil
	}
	return value
}

// text gives a string or whole number as text, and "" for all else: a float may stand for several numbers.
func (v *view) text(e *expression) string {
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

// sequence gives a whole number of 64 bits, which may stand in a string as a form's do, and nil for all else.
func (v *view) sequence(e *expression) *int64 {
	n, err := strconv.ParseInt(v.text(e), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// time gives a timestamp, an RFC 3339 string, or unix time in seconds or, from millisFrom on, milliseconds. Unix time may
// stand in a string of as many digits as it has in our age, as a form's does; of other lengths it could be a date.
func (v *view) time(e *expression) time.Time {
	switch value := v.eval(e).(type) {
	case types.Timestamp:
		return storable(value.Time)
	case types.String:
		if text := string(value); isInteger(text) && (len(text) == unixDigits || len(text) == unixMilliDigits) {
			n, _ := strconv.ParseInt(text, 10, 64) // which cannot fail for so few digits
			return unixAge(n)
		}
		return parseTime(string(value))
	case types.Int:
		return unixAge(int64(value))
	case types.Uint:
		return unixAge(int64(min(value, math.MaxInt64)))
	default:
		return time.Time{}
	}
}

// unixAge reads unix time whose unit is told by its size.
func unixAge(n int64) time.Time {
	if n >= millisFrom {
		return unixTime(n, time.Millisecond)
	}
	return unixTime(n, time.Second)
}
