package outbound

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// A Request goes to an address that a tenant chose.
type Request struct {
	Method string
	URL    string
	Header http.Header // User-Agent is Sluice/1 where it is not set
	Body   []byte
	// ResponseBytesMax, if not 0, caps what is kept of the answer's body in place of the door's own limit.
	ResponseBytesMax int64
}

// A Response is what a tenant's target answered. Nothing in it can be trusted.
type Response struct {
	Status int // 200 to 999; a redirect is an answer like any other and is not followed
	Header http.Header
	Body   []byte // as it came over the wire, unpacked by nobody, at most ResponseBytesMax
	// Truncated tells that the body was longer, or did not end in time. That is no error: the status says what the target
	// did, and an endless answer must not turn an effect that was made into one that is tried again.
	Truncated bool
}

// Do sends a request to an address that a tenant chose, once, and returns what the target answered, whatever its status.
// Where there is no answer the error is an *Error, and Error.Sent tells whether the request may have arrived.
func (d *Door) Do(ctx context.Context, r Request) (Response, error) {
	target, err := d.parse(r.URL)
	if err != nil {
		return Response{}, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target.String(), bytes.NewReader(r.Body))
	if err != nil {
		return Response{}, badURL("the request has no valid method")
	}
	req.Header = r.Header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", userAgent)
	}
	// The round tripper is called without an http.Client around it: there is nothing that could follow a redirect, keep a
	// cookie, or add a Referer.
	through := d.overTLS
	if target.Scheme == "http" {
		through = d.plain
	}
	if r.ResponseBytesMax > 0 {
		sized := *through
		sized.bytesMax, through = r.ResponseBytesMax, &sized
	}
	res, err := through.RoundTrip(req)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return Response{Status: res.StatusCode, Header: res.Header, Body: body, Truncated: err != nil}, nil
}
