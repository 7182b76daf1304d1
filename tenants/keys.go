package tenants

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
)

// The two kinds of key are told apart by how they begin.
const (
	tenantKeyPrefix   = "slc_"
	operatorKeyPrefix = "slo_"

	keyRandomLen   = 30 // base62: 178 bits
	keyChecksumLen = 6  // base62 of a CRC32
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewKey makes the text of an API key: a prefix, 30 random characters, and 6 of checksum, so that a mistyped key, or a scanner's find, is
// recognised without asking the database.
func NewKey(operator bool) (Secret, error) {
	prefix := tenantKeyPrefix
	if operator {
		prefix = operatorKeyPrefix
	}
	text, err := randomBase62(keyRandomLen)
	if err != nil {
		return Secret{}, fmt.Errorf("make a key: %w", err)
	}
	body := prefix + text
	return NewSecret(body + checksum(body)), nil
}

// ParseKey says whether text has the shape of a key of ours, and whether it is an operator's. It does not say that the key exists.
func ParseKey(text string) (operator, ok bool) {
	switch {
	case strings.HasPrefix(text, operatorKeyPrefix):
		operator = true
	case strings.HasPrefix(text, tenantKeyPrefix):
	default:
		return false, false
	}
	if len(text) != len(tenantKeyPrefix)+keyRandomLen+keyChecksumLen {
		return false, false
	}
	body := text[:len(text)-keyChecksumLen]
	return operator, checksum(body) == text[len(body):]
}

// HashKey is what is stored of a key. A key has 178 random bits, so a plain SHA-256 cannot be guessed back.
func HashKey(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// NewToken makes the token of an endpoint's URL: 32 base62 characters, 190 bits.
func NewToken() (string, error) { return randomBase62(32) }

func randomBase62(n int) (string, error) {
	out := make([]byte, n)
	for i := range out {
		digit, err := rand.Int(rand.Reader, big.NewInt(int64(len(base62))))
		if err != nil {
			return "", fmt.Errorf("read random bytes: %w", err)
		}
		out[i] = base62[digit.Int64()]
	}
	return string(out), nil
}

func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	out := make([]byte, keyChecksumLen)
	for i := keyChecksumLen - 1; i >= 0; i-- {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out)
}
