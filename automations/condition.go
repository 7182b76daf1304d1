package automations

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// Limits of one evaluation. A unit of cost is about one step of the interpreter or ten bytes of a string; the whole of
// conditionCostMax takes some tens of milliseconds. The time is a backstop for work that the cost model misses.
const (
	conditionCostMax      = 250_000
	conditionDepthMax     = 64 // nesting of the expression's syntax
	conditionFaultsMax    = 10
	conditionLoopsMax     = 2   // nesting of exists, all, map, filter
	conditionRegexSizeMax = 500 // instructions
	conditionTextBytesMax = 256 << 10
	conditionTimeMax      = 2 * time.Second
	interruptCheckEvery   = 16  // iterations
	searchRunesMax        = 100 // of what indexOf looks for
)

// The reasons of an EvalError.
const (
	ReasonMissingKey  = "missing_key"  // the payload has no such key or index
	ReasonTooCostly   = "too_costly"   // the evaluation went over its limit of work
	ReasonWrongAnswer = "wrong_answer" // the answer is not one of those allowed
	ReasonWrongType   = "wrong_type"   // a value of the payload is of a type the expression cannot take
)

// An EvalError says why a condition could not be evaluated with an event. Its text repeats nothing of the payload.
type EvalError struct {
	Place   string // "when" or "priority"
	Reason  string // one of the Reason constants
	Message string
}

// Error names the place and the cause.
func (e *EvalError) Error() string { return fmt.Sprintf("evaluate %s: %s", e.Place, e.Message) }

// A condition is a compiled CEL expression over event and payload.
type condition struct {
	place   string
	source  string
	program cel.Program

	// searches is whether a single call (matches, indexOf) may take much more time than its text is long. The cost limit sees
	// such a call only after it is done, so a payload with a text beyond conditionTextBytesMax is refused before.
	searches bool
}

// environment is what an expression may speak of: event with its fields known to the type checker, payload without, the
// standard functions, the string functions, and optional fields (payload.?a.orValue(”).
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		ext.NativeTypes(reflect.TypeFor[Event](), ext.ParseStructTags(true)),
		cel.Variable("event", cel.ObjectType("automations.Event")),
		cel.Variable("payload", cel.DynType),
		cel.OptionalTypes(),
		ext.Strings(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(whenBytesMax),
		cel.ParserRecursionLimit(conditionDepthMax),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
			cel.ValidateRegexLiterals(),
			cel.ValidateRegexProgramSizeLimit(conditionRegexSizeMax),
			cel.ValidateComprehensionNestingLimit(conditionLoopsMax),
		),
	)
})

// compileWhen compiles the filter. The answer is nil where every event is wanted, or where there was a fault.
func compileWhen(source string, fault faulter) *condition {
	if strings.TrimSpace(source) == "" {
		return nil
	}
	return compileCondition("when", source, cel.BoolType, fault)
}

// compilePriority answers either an expression or one of the two words.
func compilePriority(source string, fault faulter) (*condition, string) {
	switch strings.TrimSpace(source) {
	case "", PriorityRoutine:
		return nil, PriorityRoutine
	case PriorityUrgent:
		return nil, PriorityUrgent
	}
	said := false
	c := compileCondition("priority", source, cel.StringType, func(place, format string, args ...any) {
		if !said {
			format, said = format+" (priority is urgent, routine, or a CEL expression that answers one of the two)", true
		}
		fault(place, format, args...)
	})
	return c, source
}

func compileCondition(place, source string, want *cel.Type, fault faulter) *condition {
	if len(source) > whenBytesMax {
		fault(place, "expected at most %d bytes, got %d", whenBytesMax, len(source))
		return nil
	}
	if !utf8.ValidString(source) {
		fault(place, "expected valid UTF-8")
		return nil
	}
	env, err := environment()
	if err != nil {
		fault(place, "build the expression environment: %v", err)
		return nil
	}
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		for i, e := range issues.Errors() {
			if i == conditionFaultsMax {
				break
			}
			message, _, _ := strings.Cut(strings.TrimSpace(e.Message), " (in container")
			fault(place, "%d:%d: %s", max(e.Location.Line(), 1), max(e.Location.Column(), 0)+1, message)
		}
		return nil
	}
	if got := checked.OutputType(); !got.IsExactType(want) {
		hint := ""
		if got.IsExactType(cel.DynType) {
			hint = map[string]string{
				"bool":   ": the payload's types are not known beforehand, so compare, as in payload.flag == true",
				"string": ": the payload's types are not known beforehand, so convert, as in string(payload.level)",
			}[want.String()]
		}
		fault(place, "1:1: expected an expression that answers %s, this one answers %s%s", want, got, hint)
		return nil
	}
	searches, ok := checkCalls(place, checked, fault)
	if !ok {
		return nil
	}
	program, err := env.Program(checked,
		cel.EvalOptions(cel.OptOptimize),
		cel.CostTracking(dynamicCost{}),
		cel.CostLimit(conditionCostMax),
		cel.InterruptCheckFrequency(interruptCheckEvery),
	)
	if err != nil {
		fault(place, "1:1: %v", err)
		return nil
	}
	return &condition{place: place, source: source, program: program, searches: searches}
}

// checkCalls refuses the calls whose work the cost limit sees only after it is done: functions that multiply the length of
// their operands, and searches for what the payload says. It also answers whether there are searches at all.
func checkCalls(place string, checked *cel.Ast, fault faulter) (searches, ok bool) {
	ok = true
	native := checked.NativeRep()
	refuse := func(e ast.Expr, format string, args ...any) {
		ok = false
		at := native.SourceInfo().GetStartLocation(e.ID())
		fault(place, "%d:%d: %s", at.Line(), at.Column()+1, fmt.Sprintf(format, args...))
	}
	ast.PostOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch name := call.FunctionName(); name {
		case "format", "join", "replace":
			refuse(e, "%s is not available in conditions, since it can multiply the length of a text", name)
		case "matches":
			searches = true
			if pattern := call.Args()[len(call.Args())-1]; pattern.Kind() != ast.LiteralKind {
				refuse(e, "matches takes a literal pattern")
			}
		case "indexOf", "lastIndexOf":
			searches = true
			if s, literal := literalString(call.Args()[0]); !literal || utf8.RuneCountInString(s) > searchRunesMax {
				refuse(e, "%s takes a literal of at most %d characters", name, searchRunesMax)
			}
		}
	}))
	return searches, ok
}

func literalString(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().Value().(string)
	return s, ok
}

// eval answers the expression's Go value, or an *EvalError.
func (c *condition) eval(e Event, payload any) (any, error) {
	if c.searches && longestText(payload) > conditionTextBytesMax {
		return nil, &EvalError{
			Place: c.place, Reason: ReasonTooCostly,
			Message: fmt.Sprintf("the payload holds a text of more than %d bytes, too long to search", conditionTextBytesMax),
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), conditionTimeMax)
	defer cancel()
	e.OccurredAt, e.ReceivedAt = e.OccurredAt.UTC(), e.ReceivedAt.UTC()
	out, _, err := c.program.ContextEval(ctx, map[string]any{"event": e, "payload": payload})
	if err != nil {
		return nil, c.evalError(err)
	}
	if out == nil || types.IsUnknownOrError(out) {
		return nil, c.evalError(errors.New("no answer"))
	}
	return out.Value(), nil
}

// evalError sorts the interpreter's errors by their text, since they have no types, and leaves out what might quote the
// payload.
func (c *condition) evalError(err error) *EvalError {
	text := err.Error()
	switch {
	case strings.Contains(text, "no such key"):
		message := "the payload does not have a key that the expression reads"
		if _, key, ok := strings.Cut(text, "no such key: "); ok && key != "" && strings.Contains(c.source, key) {
			message = "the payload has no key " + quoted(key) + " where the expression reads it"
		}
		return &EvalError{Place: c.place, Reason: ReasonMissingKey, Message: message}
	case strings.Contains(text, "index out of bounds"), strings.Contains(text, "no such attribute"):
		return &EvalError{
			Place: c.place, Reason: ReasonMissingKey,
			Message: "the payload does not have an element that the expression reads",
		}
	case strings.Contains(text, "interrupted"):
		return &EvalError{Place: c.place, Reason: ReasonTooCostly, Message: "the expression takes too long with this payload"}
	case strings.Contains(text, "cost limit exceeded"):
		return &EvalError{
			Place: c.place, Reason: ReasonTooCostly,
			Message: "the expression needs too much work with this payload",
		}
	}
	return &EvalError{
		Place: c.place, Reason: ReasonWrongType,
		Message: "the expression cannot be applied to the types or values of this payload",
	}
}
