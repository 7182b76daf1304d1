package source

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// secretBytesMin is the shortest secret a person may bring; a shorter one can be searched for with one delivery in hand.
	secretBytesMin = 8
	secretBytesMax = 512
	// secretRandomBytes is the entropy of a secret that is made here.
	secretRandomBytes = 32
)

// newHexSecret makes a secret of 64 hex digits. That is also valid base64, so it suits every encoding of a key.
func newHexSecret() (string, error) {
	b := make([]byte, secretRandomBytes)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("read random bytes for a secret: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// checkPlainSecret holds for secrets whose bytes are the key. Spaces around a secret come from copying it.
func checkPlainSecret(secret string, _ Settings) error {
	switch {
	case len(secret) < secretBytesMin || len(secret) > secretBytesMax:
		return fmt.Errorf("a secret has %d to %d bytes", secretBytesMin, secretBytesMax)
	case !utf8.ValidString(secret) || strings.ContainsFunc(secret, unicode.IsControl):
		return errors.New("a secret is text without control characters")
	case strings.TrimSpace(secret) != secret:
		return errors.New("a secret has no spaces before or after it")
	default:
		return nil
	}
}
