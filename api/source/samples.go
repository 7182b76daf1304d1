package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// sampleBody makes Sample.Body from a text with slots: $ID is the id as the inside of a JSON string, $NUMBER a number
// derived from it, $AT the time in RFC 3339 and $UNIX in seconds.
func sampleBody(text string) func(id string, at time.Time) []byte {
	return func(id string, at time.Time) []byte {
		return []byte(strings.NewReplacer(
			"$ID", jsonInside(id),
			"$NUMBER", strconv.FormatUint(sampleNumber(id), 10),
			"$AT", at.UTC().Format(time.RFC3339),
			"$UNIX", strconv.FormatInt(at.Unix(), 10),
		).Replace(strings.TrimSpace(text)))
	}
}

// sampleNumber derives a number of 53 to 62 bits from an id: wider than a float holds, as real ids are.
func sampleNumber(id string) uint64 {
	hash := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(hash[:8])>>2 | 1<<53
}

func jsonInside(s string) string {
	quoted, err := json.Marshal(s)
	if err != nil { // cannot be: every string marshals
		return ""
	}
	return string(quoted[1 : len(quoted)-1])
}

// signedHeader starts the headers of a signed sample: those of the sample, and its content type unless it names one.
func signedHeader(in SignInput) http.Header {
	h := in.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	return h
}

// errNoSecret is what Sign answers without a secret to sign with.
var errNoSecret = refuse(ReasonSecretMissing, "signing needs a secret")
