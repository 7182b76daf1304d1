package source

import (
	"crypto/sha256"
	"crypto/subtle"
)

// matchToken looks for the secret that a delivery carries as it is. The hashes are compared, all of them, so that the time it
// takes tells neither which matched nor how long one is. An empty secret never matches. It answers with the index of the first
// that matched, or a *Refusal.
func matchToken(given string, secrets []string) (int, error) {
	got := sha256.Sum256([]byte(given))
	matched, usable := -1, false
	for i, secret := range secrets {
		if secret == "" {
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
		return -1, refuse(ReasonSecretMissing, "the endpoint has no usable secret")
	case matched < 0:
		return -1, refuse(ReasonSignatureMismatch, "the token is none of the endpoint's secrets")
	}
	return matched, nil
}
