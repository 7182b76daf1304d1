package source

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// fingerprintHelp says what a secret is where a client's certificate is the proof, for a person.
const fingerprintHelp = "the SHA-256 fingerprint of the client certificate: 64 hex digits, with or without colons"

// clientFingerprint reads from a header of the operator's proxy the SHA-256 of the certificate that the client has shown
// to it. It may be written as hex with or without colons, as Envoy's X-Forwarded-Client-Cert with one Hash, or be the
// certificate itself as URL-encoded PEM, since nginx has no SHA-256 of it. Two values are refused, never one chosen: the
// second could be what the client itself has sent through a proxy that appends.
func clientFingerprint(proxy http.Header, name string) ([]byte, error) {
	value, err := signatureHeader(proxy, name)
	if err != nil {
		return nil, err
	}
	if fingerprint, ok := parseFingerprint(value); ok {
		return fingerprint, nil
	}
	if fingerprint, ok := forwardedFingerprint(value); ok {
		return fingerprint, nil
	}
	if fingerprint, ok := certificateFingerprint(value); ok {
		return fingerprint, nil
	}
	return nil, refuse(ReasonSignatureMalformed, "header "+name+" of the proxy must hold one SHA-256 fingerprint, one Hash, or one certificate")
}

// matchFingerprint looks for the secret that is the fingerprint. It compares all of them, in constant time.
func matchFingerprint(secrets []string, got []byte) (int, error) {
	matched, usable := -1, false
	for i, secret := range secrets {
		want, ok := parseFingerprint(secret)
		if !ok {
			continue
		}
		usable = true
		if subtle.ConstantTimeCompare(got, want) == 1 && matched < 0 {
			matched = i
		}
	}
	if !usable {
		return -1, refuse(ReasonSecretMissing, "the endpoint has no fingerprint of a client certificate as its secret")
	}
	if matched < 0 {
		return -1, refuse(ReasonSignatureMismatch, "the client's certificate is not one whose fingerprint the endpoint has as a secret")
	}
	return matched, nil
}

// checkFingerprint says what is wrong with a secret that has to be a fingerprint.
func checkFingerprint(secret string) error {
	if _, ok := parseFingerprint(secret); !ok {
		return errors.New("expected " + fingerprintHelp)
	}
	return nil
}

// parseFingerprint reads 64 hex digits of any case, or 32 pairs of them with a colon between each.
func parseFingerprint(s string) ([]byte, bool) {
	const colons = sha256.Size - 1
	if strings.Contains(s, ":") {
		pairs := strings.Split(s, ":")
		for _, pair := range pairs {
			if len(pair) != hex.EncodedLen(1) {
				return nil, false
			}
		}
		if len(pairs) != colons+1 {
			return nil, false
		}
		s = strings.Join(pairs, "")
	}
	return decodeHex(s, sha256.Size)
}

// forwardedFingerprint reads the one Hash of an X-Forwarded-Client-Cert, "Key=value;Key="quoted"". A comma outside of
// quotes begins the entry of another proxy, and is refused.
func forwardedFingerprint(value string) ([]byte, bool) {
	pairs, ok := splitForwarded(value)
	if !ok {
		return nil, false
	}
	hash, found := "", 0
	for _, pair := range pairs {
		if key, val, _ := strings.Cut(pair, "="); strings.EqualFold(strings.TrimSpace(key), "hash") {
			hash = val
			found++
		}
	}
	if found != 1 {
		return nil, false
	}
	return decodeHex(hash, sha256.Size)
}

// splitForwarded cuts one entry of an X-Forwarded-Client-Cert at the semicolons that stand outside of quotes. In quotes
// a backslash takes the next character's meaning away.
func splitForwarded(value string) (pairs []string, ok bool) {
	start, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && c == ',':
			return nil, false
		case !quoted && c == ';':
			pairs = append(pairs, value[start:i])
			start = i + 1
		}
	}
	return append(pairs, value[start:]), !quoted
}

// certificateFingerprint is the SHA-256 of one certificate that stands alone in a header as URL-encoded PEM, as of nginx
// ($ssl_client_escaped_cert) and the load balancers of AWS.
func certificateFingerprint(value string) ([]byte, bool) {
	text, err := url.PathUnescape(value) // which leaves a plus alone, as base64 needs
	if err != nil {
		return nil, false
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != certificateBlock || strings.TrimSpace(string(rest)) != "" || !strings.HasPrefix(text, "-----BEGIN ") {
		return nil, false
	}
	fingerprint := sha256.Sum256(block.Bytes)
	return fingerprint[:], true
}
