package tenants

import (
	"log/slog"
)

// hidden is what a secret shows of itself.
const hidden = "[secret]"

// Secret is a text that must never be shown by accident: printed, logged or marshalled it says "[secret]". Only Reveal gives it away, so
// that every place where it leaves can be found by name.
type Secret struct{ text string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal returns the text.
func (s Secret) Reveal() string { return s.text }

// Empty says whether there is no text.
func (s Secret) Empty() bool { return s.text == "" }

// Last4 are the last four characters, for people to tell secrets apart; fewer than 12 characters show none.
func (s Secret) Last4() string {
	const lenMin = 12
	if len(s.text) < lenMin {
		return "****"
	}
	return s.text[len(s.text)-4:]
}

// String hides the text.
func (Secret) String() string { return hidden }

// GoString hides the text from %#v.
func (Secret) GoString() string { return hidden }

// MarshalJSON hides the text.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalText hides the text.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue hides the text from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }
