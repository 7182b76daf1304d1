package llm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

const (
	// bodyBytesMax bounds a reply. 128,000 output tokens in JSON are about 1 MiB.
	bodyBytesMax = 4 << 20
	// sdkTimeout is what we tell an SDK; longer than any deadline of a context, so that only the context's counts.
	sdkTimeout = 24 * time.Hour
)

// ProviderConfig is what a provider needs.
type ProviderConfig struct {
	// HTTP makes the requests; required. Its redirects and its total timeout are not used: no redirect is followed, and the deadline is
	// the context's.
	HTTP *http.Client
	// BaseURL is the vendor's where empty. For OpenAI it ends in the version ("https://host/v1"), for Anthropic it does not.
	BaseURL string
	// Now is the clock that dates in Retry-After are held against; required.
	Now func() time.Time
}

// An exchange is the one POST of one call. It stands between an SDK and the network (it is the SDK's HTTP client), because what we
// have to know is lost behind an SDK: whether anything left the house, the status, the headers, and whether the body came whole.
type exchange struct {
	http    *http.Client
	sending func(ctx context.Context) error

	begun      bool
	sendingErr error
	left       bool // The request may have left.
	status     int
	header     http.Header
	body       []byte
	bodyErr    error
}

var (
	errSecondPost   = errors.New("one call makes one request")
	errBodyTooLarge = fmt.Errorf("the reply is larger than %d bytes", bodyBytesMax)
)

// Do sends req and reads the whole answer, so that the SDK's own reading cannot fail halfway.
func (x *exchange) Do(req *http.Request) (*http.Response, error) {
	if x.begun {
		return nil, errSecondPost
	}
	x.begun = true
	ctx := req.Context()
	if x.sending != nil {
		if x.sendingErr = x.sending(ctx); x.sendingErr != nil {
			return nil, x.sendingErr
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	client := *x.http
	client.Timeout = 0
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	var progress sendProgress
	res, err := client.Do(req.WithContext(httptrace.WithClientTrace(ctx, progress.trace())))
	if err != nil {
		x.left = progress.mayHaveLeft(err)
		return nil, err
	}
	defer res.Body.Close()
	x.left, x.status, x.header = true, res.StatusCode, res.Header
	x.body, x.bodyErr = io.ReadAll(io.LimitReader(res.Body, bodyBytesMax+1))
	if x.bodyErr == nil && len(x.body) > bodyBytesMax {
		x.body, x.bodyErr = nil, errBodyTooLarge
	}
	if x.bodyErr != nil {
		return nil, x.bodyErr
	}
	res.Body = io.NopCloser(bytes.NewReader(x.body))
	return res, nil
}

// sendProgress watches a request on its way out.
type sendProgress struct{ looked, wrote atomic.Bool }

func (p *sendProgress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:      func(string) { p.looked.Store(true) },
		WroteHeaders: func() { p.wrote.Store(true) },
	}
}

// mayHaveLeft is false only on proof: a request that got no further than looking for a connection, or failed to dial one. A
// transport that does not support tracing gives no proof.
func (p *sendProgress) mayHaveLeft(err error) bool {
	if p.wrote.Load() {
		return true
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	return !p.looked.Load()
}

// failure explains a call that gave no reply. sdkErr is what the SDK made of it; nil means that all is well with the transport.
func (x *exchange) failure(ctx context.Context, sdkErr error, key string, now time.Time) error {
	switch {
	case x.sendingErr != nil:
		return x.sendingErr
	case x.status >= 300 && x.bodyErr == nil:
		return statusError(x.status, x.header, x.body, key, now)
	case sdkErr == nil:
		return nil
	case ctx.Err() != nil:
		return contextError(ctx.Err(), x.left)
	case !x.begun:
		return badRequest(oneLine(sdkErr.Error(), key))
	case errors.Is(x.bodyErr, errBodyTooLarge):
		return &Error{Kind: KindMalformedReply, Status: x.status, Message: errBodyTooLarge.Error(), Sent: true}
	case x.status != 0 && x.bodyErr == nil:
		return x.malformed("the reply is not the JSON of this protocol")
	}
	e := &Error{Kind: KindUnavailable, Status: x.status, Message: oneLine(transportReason(sdkErr), key), Sent: x.left}
	var timeout interface{ Timeout() bool }
	if errors.As(sdkErr, &timeout) && timeout.Timeout() {
		e.Kind = KindTimeout
	}
	return e
}

// malformed is the error of a 2xx that cannot be read.
func (x *exchange) malformed(message string) *Error {
	return &Error{Kind: KindMalformedReply, Status: x.status, Message: message, Sent: true}
}

// transportReason leaves out the URL that net/http puts before its reason.
func transportReason(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}
