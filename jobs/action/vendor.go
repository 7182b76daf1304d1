package action

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// lookBytesMax caps an answer that is read to look for an effect: a page of comments may be long.
const lookBytesMax = 8 << 20

// clockSlack is how much earlier than the first attempt an effect is looked for, since the target's clock may be behind ours.
const clockSlack = 2 * time.Minute

// A question is one request of a service's API.
type question struct {
	method string
	base   string // of the service, without a final slash
	path   string // behind it, escaped
	query  url.Values
	header http.Header
	in     any // written as JSON; nil is no body
	out    any // what a 2xx is read into; nil reads nothing
	// large says that the answer may be long: it is a lookup, and what was cut off cannot be read.
	large bool
	at    time.Time
	// judge, if not nil, looks at an answer before its status does: some services say 200 and mean no, or 403 and mean later. nil passes it on.
	judge func(res outbound.Response) *Error
}

// ask puts a question to a service. An error tells by Doubt whether the request may have done what it asked for.
func ask(ctx context.Context, door *outbound.Door, q question) (outbound.Response, error) {
	address := q.base + q.path
	if len(q.query) > 0 {
		address += "?" + q.query.Encode()
	}
	request := outbound.Request{Method: q.method, URL: address, Header: q.header.Clone()}
	if request.Header == nil {
		request.Header = http.Header{}
	}
	request.Header.Set("Accept", cmp.Or(request.Header.Get("Accept"), jsonType))
	if q.in != nil {
		body, err := json.Marshal(q.in)
		if err != nil {
			return outbound.Response{}, refused(CodeInvalid, "what is to be sent cannot be written as JSON")
		}
		request.Body = body
		request.Header.Set("Content-Type", jsonType)
	}
	if q.large {
		request.ResponseBytesMax = lookBytesMax
	}
	res, err := door.Do(ctx, request)
	if err != nil {
		return res, undelivered(err)
	}
	if q.judge != nil {
		if failure := q.judge(res); failure != nil {
			return res, failure
		}
	}
	if failure := answered(res, q.at); failure != nil {
		return res, failure
	}
	if q.out != nil && (res.Truncated || json.Unmarshal(res.Body, q.out) != nil) {
		// The status says that it was done; what was made cannot be named.
		return res, &Error{Code: CodeBroken, Kind: Retry, Message: "the target's answer could not be read", Doubt: true, Status: res.Status}
	}
	return res, nil
}

// bearer is the header of a token.
func bearer(secret string) http.Header {
	return http.Header{"Authorization": {"Bearer " + secret}}
}

// need refuses to send without a secret what is to be authorized by one.
func (s Send) need() error {
	if s.Secret == "" {
		return refused(CodeCredential, "the credential's secret is missing")
	}
	return nil
}

// baseOf is where the service of a send is asked.
func (s Send) baseOf(otherwise string) string { return cmp.Or(s.Base, otherwise) }

// from is the beginning of the time in which the effect of s can have been made.
func (s Send) from() time.Time { return s.Since.Add(-clockSlack).UTC() }

// digits says whether a text is a number that names something: no sign, no leading zero, no more than 19 digits.
func digits(text string) bool {
	_, err := strconv.ParseInt(text, 10, 64)
	return err == nil && text[0] >= '1' && text[0] <= '9'
}

// allowed says whether one of the patterns takes a name: "*" at the end of one stands for any ending. Letters are compared without their case.
func allowed(patterns []string, name string) bool {
	for _, p := range patterns {
		if before, ok := strings.CutSuffix(p, "*"); ok && len(name) >= len(before) && strings.EqualFold(before, name[:len(before)]) || strings.EqualFold(p, name) {
			return true
		}
	}
	return false
}
