package source

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const (
	authorization = "Authorization"
	basicScheme   = "Basic"
	// basicUser is the user of the credentials that are made here. It is no secret; the password is.
	basicUser = "sluice"
)

// basicMatch looks for the secret, "user:password", that the header Authorization carries by HTTP Basic (RFC 7617). A user
// has no colon in it, so the whole is compared, which holds for both halves at once. The hashes are compared, all of them, so
// that the time it takes tells neither a length nor which half was right. A secret without a colon never matches. It answers
// with the index of the first that matched, or a *Refusal.
func basicMatch(h http.Header, secrets []string) (int, error) {
	value, err := signatureHeader(h, authorization)
	if err != nil {
		return -1, err
	}
	scheme, encoded, _ := strings.Cut(value, " ")
	given, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !strings.EqualFold(scheme, basicScheme) || err != nil || bytes.IndexByte(given, ':') < 0 {
		return -1, refuse(ReasonSignatureMalformed, "header "+authorization+" must be "+basicScheme+" and the base64 of user:password")
	}
	got := sha256.Sum256(given)
	matched, usable := -1, false
	for i, secret := range secrets {
		if strings.IndexByte(secret, ':') < 0 {
			continue
		}
		usable = true
		want := sha256.Sum256([]byte(secret))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && matched < 0 {
			matched = i
		}
	}
	switch {
	case !usable:
		return -1, refuse(ReasonSecretMissing, "the endpoint has no usable user and password")
	case matched < 0:
		return -1, refuse(ReasonSignatureMismatch, "the user and password are none of the endpoint's")
	}
	return matched, nil
}

// basicHeader is the value of the header Authorization for a secret "user:password".
func basicHeader(secret string) string {
	return basicScheme + " " + base64.StdEncoding.EncodeToString([]byte(secret))
}

// newBasicSecret makes a user and a password.
func newBasicSecret() (string, error) {
	password, err := newHexSecret()
	if err != nil {
		return "", err
	}
	return basicUser + ":" + password, nil
}

// checkBasicSecret holds for a secret "user:password". The password alone has to be as long as any other secret, for the user
// is no secret.
func checkBasicSecret(secret string, s Settings) error {
	user, password, found := strings.Cut(secret, ":")
	switch {
	case !found || user == "":
		return errors.New("expected the user, a colon and the password")
	case len(password) < secretBytesMin:
		return fmt.Errorf("the password, after the colon, has at least %d bytes", secretBytesMin)
	default:
		return checkPlainSecret(secret, s)
	}
}
