package source

import (
	"crypto/hmac"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"time"
)

const (
	// replayWindow is how far a signed timestamp may lie before or after the arrival, unless the source says otherwise.
	replayWindow = 5 * time.Minute
	// signaturesMax bounds the signatures of one header. A source sends one for each secret that is being rotated.
	signaturesMax = 16
	// timestampDigitsMax bounds the digits of a unix timestamp, in milliseconds at most.
	timestampDigitsMax = 15
)

// matchMAC looks for a key whose MAC over the parts is among the candidates. It computes and compares all of them, so
// that the time it takes does not tell which matched. A nil or empty key never matches. It answers with the index of the
// first key that matched, or a *Refusal.
func matchMAC(algorithm func() hash.Hash, keys, candidates [][]byte, parts ...[]byte) (int, error) {
	matched, usable := -1, false
	for i, key := range keys {
		if len(key) == 0 {
			continue
		}
		usable = true
		want := sum(algorithm, key, parts...)
		for _, got := range candidates {
			if hmac.Equal(got, want) && matched < 0 {
				matched = i
			}
		}
	}
	if !usable {
		return -1, refuse(ReasonSecretMissing, "the endpoint has no usable signing secret")
	}
	if matched < 0 {
		return -1, refuse(ReasonSignatureMismatch, "no secret of the endpoint made this signature over these bytes")
	}
	return matched, nil
}

// sum is the HMAC over the parts, one after another.
func sum(algorithm func() hash.Hash, key []byte, parts ...[]byte) []byte {
	mac := hmac.New(algorithm, key)
	for _, part := range parts {
		mac.Write(part)
	}
	return mac.Sum(nil)
}

// plainKeys uses each secret, byte for byte, as the key.
func plainKeys(secrets []string) [][]byte {
	keys := make([][]byte, len(secrets))
	for i, secret := range secrets {
		keys[i] = []byte(secret)
	}
	return keys
}

// decodeHex gives the bytes of a hex value of exactly size bytes.
func decodeHex(s string, size int) ([]byte, bool) {
	b, err := hex.DecodeString(s)
	return b, err == nil && len(b) == size
}

// header gives the value of a header that may stand only once: with two, one could be verified and the other used.
func header(h http.Header, name, missing, repeated string) (string, error) {
	switch values := h.Values(name); {
	case len(values) > 1:
		return "", refuse(repeated, "header "+name+" must stand once")
	case len(values) == 0 || values[0] == "":
		return "", refuse(missing, "header "+name+" is absent")
	default:
		return values[0], nil
	}
}

func signatureHeader(h http.Header, name string) (string, error) {
	return header(h, name, ReasonSignatureMissing, ReasonSignatureMalformed)
}

func timestampHeader(h http.Header, name string) (string, error) {
	return header(h, name, ReasonTimestampMissing, ReasonTimestampMalformed)
}

func idHeader(h http.Header, name string) (string, error) {
	return header(h, name, ReasonIDMissing, ReasonIDMalformed)
}

// parseTimestamp reads the digits of a signed unix timestamp; signs, spaces and fractions are malformed.
func parseTimestamp(digits string, unit time.Duration) (time.Time, error) {
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || len(digits) > timestampDigitsMax {
		return time.Time{}, refuse(ReasonTimestampMalformed, "the signed timestamp must be digits of unix time")
	}
	if unit == time.Millisecond {
		return time.UnixMilli(int64(n)), nil
	}
	return time.Unix(int64(n), 0), nil
}

// checkWindow holds a signed time against the arrival. It is asked after the signature held, so that its reasons mean a
// rightful delivery that is late, replayed, or met by a wrong clock.
func checkWindow(signed, received time.Time, w Window) error {
	switch age := received.Sub(signed); {
	case age > w.Past:
		return refuse(ReasonTimestampStale, "signed more than "+w.Past.String()+" before it arrived")
	case age < -w.Future:
		return refuse(ReasonTimestampFuture, "signed more than "+w.Future.String()+" after it arrived")
	default:
		return nil
	}
}
