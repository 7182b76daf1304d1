package automations

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

const (
	outputBytesMax        = 512 << 10 // 32,000 tokens are about 128 KiB of English and 400 KiB of dense script
	outputMessageRunesMax = 300
)

// An OutputError says why a model's text is not an answer that the automation takes.
type OutputError struct {
	Place   string // JSON pointer into the text, "" for the whole of it
	Message string // what was expected there; may quote property names of the text, but no values
}

// Error names the place and what was expected.
func (e *OutputError) Error() string {
	if e.Place == "" {
		return "read the model's output: " + e.Message
	}
	return "read the model's output at " + e.Place + ": " + e.Message
}

// Output reads what the model answered. Without an output schema the answer is text itself, a string, unchanged. With one
// it is the JSON object that text holds, in the Go types of DecodePayload, valid by the schema. Blanks around the JSON and
// one code fence (```json ... ```) are taken off; any other text around it is an error. Every error is an *OutputError.
func (c *Compiled) Output(text string) (any, error) {
	switch {
	case len(text) > outputBytesMax:
		return nil, &OutputError{Message: fmt.Sprintf("expected at most %d bytes, got %d", outputBytesMax, len(text))}
	case !utf8.ValidString(text):
		return nil, &OutputError{Message: "expected valid UTF-8"}
	case strings.TrimSpace(text) == "":
		return nil, &OutputError{Message: "expected an answer, got an empty text"}
	case c.schema == nil:
		return text, nil
	}
	v, err := decodeJSON([]byte(unfenced(text)))
	switch {
	case errors.Is(err, ErrTooDeep):
		return nil, &OutputError{Message: err.Error()}
	case err != nil:
		return nil, &OutputError{Message: "expected one JSON object and nothing else" + syntaxOffset(err)}
	case !numbersExact(v):
		return nil, &OutputError{Message: "a number is too long or too large"}
	}
	if err := c.schema.validate(v); err != nil {
		return nil, err
	}
	return plainNumbers(v), nil
}

// unfenced takes off one Markdown code fence that stands around the whole text.
func unfenced(text string) string {
	text = strings.TrimSpace(text)
	body, fenced := strings.CutPrefix(text, "```")
	if !fenced {
		return text
	}
	info, body, ok := strings.Cut(body, "\n")
	if info = strings.TrimSpace(info); !ok || (info != "" && !strings.EqualFold(info, "json")) {
		return text
	}
	body, ok = strings.CutSuffix(body, "```")
	if !ok {
		return text
	}
	return strings.TrimSpace(body)
}

func syntaxOffset(err error) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf(": syntax error at byte %d", syntax.Offset)
	}
	return ""
}

// validate checks v, whose numbers are json.Number, and answers the most telling of the schema's complaints.
func (s *outputSchema) validate(v any) error {
	err := s.compiled.Validate(v)
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return &OutputError{Message: "expected an answer that the output schema allows"}
	}
	leaf := deepest(invalid)
	return &OutputError{Place: pointer(leaf.InstanceLocation), Message: cut(complaint(leaf.ErrorKind), outputMessageRunesMax)}
}

// deepest answers the first complaint without a cause of its own that stands deepest in the document. Where a schema offers
// alternatives, that is the one the answer came nearest to.
func deepest(e *jsonschema.ValidationError) *jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return e
	}
	var best *jsonschema.ValidationError
	for _, cause := range e.Causes {
		if leaf := deepest(cause); best == nil || len(leaf.InstanceLocation) > len(best.InstanceLocation) {
			best = leaf
		}
	}
	return best
}

var english = message.NewPrinter(language.English)

// complaint words a complaint without the value that caused it, which may hold what a stranger wrote.
func complaint(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Pattern:
		return "does not match pattern " + quoted(k.Want)
	case *kind.Format:
		return "is not a valid " + k.Want
	case *kind.MultipleOf, *kind.Minimum, *kind.Maximum, *kind.ExclusiveMinimum, *kind.ExclusiveMaximum:
		return "number out of the range or steps that the schema allows"
	}
	return k.LocalizedString(english)
}

// pointer writes a JSON pointer (RFC 6901).
func pointer(path []string) string {
	var b strings.Builder
	for _, p := range path {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(p))
	}
	return b.String()
}

// cut shortens a message.
func cut(s string, runesMax int) string {
	if r := []rune(s); len(r) > runesMax {
		return string(r[:runesMax]) + "…"
	}
	return s
}
