// Package automations is the room for what an automation says: it compiles and checks the CEL condition, the Liquid
// templates and the JSON Schema of an automation, and applies them to one event. It decides which text reaches a model,
// so the fence around untrusted data stands here too.
//
// The room is pure. No I/O, no clock, no randomness, no database row, no provider, no connector and nothing else of the
// house may enter: which providers, credentials and connectors exist is checked by those who hold them.
//
// Both the author of an automation (a tenant) and the payload (a stranger) are bounded: every expression, template and
// schema has a limit of size, work and output, so that neither can take the process down.
package automations

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Limits of an automation's parts. Bytes are counted as the author sent them.
const (
	actionBytesMax   = 64 << 10 // the whole action object, its body template included
	fallbacksMax     = 5
	nameRunesMax     = 100
	schemaBytesMax   = 32 << 10
	templateBytesMax = 32 << 10
	whenBytesMax     = 4 << 10

	maxOutputTokensDefault = 1024
	maxOutputTokensMax     = 32000
)

// The modes an automation can be in. A run of a shadow automation calls the model and posts nothing, ever; one of a review automation waits for a
// person before it posts; a live one posts.
const (
	ModeLive   = "live"
	ModeReview = "review"
	ModeShadow = "shadow"
)

// The two priorities of a run.
const (
	PriorityRoutine = "routine"
	PriorityUrgent  = "urgent"
)

// A Spec is what an automation says: the contract's automation without its ids.
type Spec struct {
	Name            string          `json:"name"`              // 1 to 100 characters
	When            string          `json:"when"`              // CEL over event and payload that answers bool; "" is every event
	Model           string          `json:"model"`             // "provider/model"
	Fallbacks       []string        `json:"fallbacks"`         // at most 5, each "provider/model", none twice
	Prompt          Prompt          `json:"prompt"`            // Liquid over event and payload
	OutputSchema    json.RawMessage `json:"output_schema"`     // JSON Schema 2020-12 of type object; absent means plain text
	MaxOutputTokens int             `json:"max_output_tokens"` // 1 to 32000; 0 means 1024
	Action          json.RawMessage `json:"action"`            // an object with a string kind; its texts are Liquid over event and payload, and those of ContentFields over output too
	Mode            string          `json:"mode"`              // "shadow", "review" or "live"; "" means shadow
	CredentialID    string          `json:"credential_id"`     // of the provider's kind, whose key pays; "" means the tenant's newest, else the operator's
	Priority        string          `json:"priority"`          // "urgent", "routine", or CEL that answers one of them; "" means routine
	Fetch           *Fetch          `json:"fetch,omitempty"`   // what to read before the model is asked; nil is nothing

	Retry        *RetrySpec `json:"retry,omitempty"`         // nil is every default
	OverLimit    string     `json:"over_limit,omitempty"`    // one of OverHold, OverDrop and OverCheaper; "" means hold
	CheaperModel string     `json:"cheaper_model,omitempty"` // "provider/model", with OverCheaper and only there
	MaxCallUSD   string     `json:"max_call_usd,omitempty"`  // a decimal above 0: no call is made that may cost more; "" is no limit
	Loop         *LoopSpec  `json:"loop,omitempty"`          // nil is every default

	Review  *ReviewSpec  `json:"review,omitempty"`  // nil is every default
	Promote *PromoteSpec `json:"promote,omitempty"` // nil is no bar
	Demote  *DemoteSpec  `json:"demote,omitempty"`  // nil is never
}

// A Prompt is the pair of templates that make the request to the model. At least one of them must say something.
type Prompt struct {
	System string `json:"system"`
	User   string `json:"user"`
}

// An Event is what expressions and templates see of an event. Times are shown in UTC.
type Event struct {
	ID            string    `cel:"id"`
	Source        string    `cel:"source"`
	Type          string    `cel:"type"`
	Entity        string    `cel:"entity"`
	EndpointID    string    `cel:"endpoint_id"`
	SourceEventID string    `cel:"source_event_id"`
	OccurredAt    time.Time `cel:"occurred_at"`
	ReceivedAt    time.Time `cel:"received_at"`
	Test          bool      `cel:"test"`
}

// A Fault is one thing that is wrong with a Spec. Place names the part, dotted, and below a JSON document slashed:
// "when", "prompt.user", "fallbacks/0", "output_schema/properties/reply/type". Message is a sentence for the author; for
// an expression or a template it begins with "line:column: ", both counted from 1.
type Fault struct {
	Place   string
	Message string
}

// Error makes a Fault usable as an error.
func (f Fault) Error() string { return f.Place + ": " + f.Message }

// A Compiled automation is a Spec that was found to be without fault, ready to be applied. It is immutable: many
// goroutines may use it at once.
type Compiled struct {
	spec        Spec
	when        *condition // nil: every event
	priority    *condition // nil: spec.Priority is the answer
	system      *template
	user        *template
	schema      *outputSchema        // nil: the output is plain text
	action      map[string]*template // of the action's fields, by their names
	fetchURL    *template            // nil: nothing is fetched
	retry       Retry
	loop        Loop
	maxCallPico int64 // 0: one call may cost anything
}

// Asks reports whether Matches or Priority look at the payload or the event. Where they do not, they take nil for the payload.
func (c *Compiled) Asks() bool { return c.when != nil || c.priority != nil }

// Compile checks every part of s and answers either what it compiled to, or every fault at once, ordered as the fields of
// Spec are. Exactly one of the two is nil.
func Compile(s Spec) (*Compiled, []Fault) {
	var faults []Fault
	fault := func(place, format string, args ...any) {
		faults = append(faults, Fault{Place: place, Message: fmt.Sprintf(format, args...)})
	}
	if s.Mode == "" {
		s.Mode = ModeShadow
	}
	if s.OverLimit == "" {
		s.OverLimit = OverHold
	}
	s.MaxOutputTokens = s.OutputTokens()
	c := &Compiled{spec: s}
	checkName(s.Name, fault)
	c.when = compileWhen(s.When, fault)
	checkModels(s.Model, s.Fallbacks, fault)
	if strings.TrimSpace(s.Prompt.System) == "" && strings.TrimSpace(s.Prompt.User) == "" {
		fault("prompt.user", "expected text: prompt.system and prompt.user must not both be empty")
	}
	roots := promptRoots
	if s.Fetch != nil {
		roots = fetchingRoots
	}
	c.system = compileTemplate("prompt.system", s.Prompt.System, roots, fault)
	c.user = compileTemplate("prompt.user", s.Prompt.User, roots, fault)
	c.schema = compileSchema(s.OutputSchema, fault)
	if s.MaxOutputTokens < 1 || s.MaxOutputTokens > maxOutputTokensMax {
		fault("max_output_tokens", "expected a number from 1 to %d, got %d", maxOutputTokensMax, s.MaxOutputTokens)
	}
	c.action = compileAction(s.Action, fault)
	checkMode(s.Mode, fault)
	c.priority, c.spec.Priority = compilePriority(s.Priority, fault)
	c.fetchURL, c.spec.Fetch = compileFetch(s.Fetch, fault)
	c.retry, c.spec.Retry = compileRetry(s.Retry, fault)
	checkOverLimit(s, fault)
	c.maxCallPico = compileMaxCall(s.MaxCallUSD, fault)
	c.loop, c.spec.Loop = compileLoop(s.Loop, fault)
	checkTrust(s, fault)
	if len(faults) > 0 {
		return nil, faults
	}
	return c, nil
}

// Spec answers what was compiled, with the defaults filled in.
func (c *Compiled) Spec() Spec { return c.spec }

// Matches answers whether the automation wants e. payload is what DecodePayload answered. An expression that cannot be
// evaluated with this payload (a key that is not there, a value of another type, too much work) is false, with an
// *EvalError that says why, for the caller to record.
func (c *Compiled) Matches(e Event, payload any) (bool, error) {
	if c.when == nil {
		return true, nil
	}
	out, err := c.when.eval(e, payload)
	if err != nil {
		return false, err
	}
	matched, ok := out.(bool)
	return ok && matched, nil
}

// Priority answers PriorityUrgent or PriorityRoutine. With an error, which is an *EvalError, the answer is
// PriorityRoutine, so that a caller may record the error and go on.
func (c *Compiled) Priority(e Event, payload any) (string, error) {
	if c.priority == nil {
		return c.spec.Priority, nil
	}
	out, err := c.priority.eval(e, payload)
	if err != nil {
		return PriorityRoutine, err
	}
	if s, ok := out.(string); ok && (s == PriorityUrgent || s == PriorityRoutine) {
		return s, nil
	}
	return PriorityRoutine, &EvalError{
		Place: "priority", Reason: ReasonWrongAnswer,
		Message: "the expression answered neither urgent nor routine",
	}
}
