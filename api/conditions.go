package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// versioned is what has an ETag: its version, which If-Match holds a change against.
type versioned interface{ version() int }

// etag is "v<version>-<hash>". The version alone decides about If-Match: a secret that was used since is not a change that could get lost. The
// hash is of the whole answer, so that a 304 never hides a difference.
func etag(v versioned) string {
	text, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return `"v` + strconv.Itoa(v.version()) + "-" + hex.EncodeToString(sum[:6]) + `"`
}

// Known is the If-None-Match of a GET.
type Known struct {
	IfNoneMatch string `header:"If-None-Match" doc:"an ETag: if it is still that of the answer, the answer is 304 without a body"`
}

// got answers one thing that can be changed.
type got[T versioned] struct {
	Status int
	ETag   string `header:"ETag" doc:"to be sent as If-Match with a change"`
	Body   T
}

// answer is 200 with the thing, or 304 if it is known already.
func answer[T versioned](k Known, v T) *got[T] {
	out := &got[T]{Status: http.StatusOK, ETag: etag(v), Body: v}
	for one := range strings.SplitSeq(k.IfNoneMatch, ",") {
		// A comparison of validators for GET is a weak one (RFC 9110, section 13.1.2).
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == out.ETag || one == "*" {
			out.Status = http.StatusNotModified
		}
	}
	return out
}

// Unchanged is the If-Match of a change.
type Unchanged struct {
	IfMatch string `header:"If-Match" doc:"the ETag that was read: if the thing has changed since, nothing is done, and the answer is 412"`
	// Version is the version that was read; 0 if the caller does not care, -1 if it can match nothing.
	Version int `json:"-"`
}

var etagForm = regexp.MustCompile(`^"v([1-9][0-9]{0,8})(-[0-9a-f]{1,64})?"$`)

// Resolve reads the version from the ETag.
func (u *Unchanged) Resolve(huma.Context) []error {
	switch given := strings.TrimSpace(u.IfMatch); given {
	case "", "*":
		return nil
	default:
		m := etagForm.FindStringSubmatch(given)
		if m == nil {
			return []error{&huma.ErrorDetail{Location: "header.If-Match", Message: `expected one ETag as it was answered, such as "v1-0a1b2c3d4e5f"`}}
		}
		u.Version, _ = strconv.Atoi(m[1]) // up to nine digits, as the form says
		return nil
	}
}
