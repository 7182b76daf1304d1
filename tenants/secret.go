package tenants

import (
	"fmt"
	"io"
	"log/slog"
)

// hidden is what a secret shows of itself.
const hidden = "[secret]"

// Secret is a text that must never be shown by accident: printed, logged or marshalled it says "[secret]". Only Reveal gives it away, so
// that every place where it leaves can be found by name. The zero Secret has no text.
type Secret struct {
	_ [0]func() // no ==, which would compare addresses
	// A pointer, since fmt asks no method of an unexported field, and prints what is in it: here an address.
	text *string
}

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty says whether there is no text.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Last4 are the last four characters, for people to tell secrets apart; fewer than 12 characters show none.
func (s Secret) Last4() string {
	const lenMin = 12
	text := s.Reveal()
	if len(text) < lenMin {
		return "****"
	}
	return text[len(text)-4:]
}

// String hides the text.
func (Secret) String() string { return hidden }

// Format hides the text from every verb, %d and %#v as well.
func (Secret) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, hidden) }

// MarshalJSON hides the text.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalText hides the text.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue hides the text from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }
