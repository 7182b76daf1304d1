package llm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// bodyBytesMax bounds a reply's text, and each event of a stream. 128,000 output tokens in JSON are about 1 MiB.
	bodyBytesMax = 4 << 20
	// streamBytesMax bounds a stream: OpenAI wraps each token in about 300 bytes.
	streamBytesMax = 64 << 20
	// drainWait is how long a stream that has said all may take to end, for its connection to be used again.
	drainWait = 50 * time.Millisecond
	userAgent = "sluice"
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

// A wire is the way to one vendor.
type wire struct {
	http  *http.Client
	url   string
	now   func() time.Time
	words dialogue
}

func newWire(c ProviderConfig, vendor, path string, words dialogue) wire {
	base := vendor
	if c.BaseURL != "" {
		base = c.BaseURL
	}
	client := *c.HTTP
	client.Timeout = 0
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return wire{http: &client, url: strings.TrimSuffix(base, "/") + path, now: c.Now, words: words}
}

// requestIDHeader is OpenAI's name for a caller's own request id; Anthropic ignores it, proxies log it.
const requestIDHeader = "X-Client-Request-Id"

// An exchange is the one POST of one call, and what came of it.
type exchange struct {
	wire

	watch  *watch
	left   bool // The request may have left.
	status int
	draft  draft
}

var errBodyTooLarge = fmt.Errorf("the reply is larger than %d bytes", bodyBytesMax)

// ask posts body once and takes the reply in, streamed or not. Every error but one of r.Sending is a *Error.
func (w wire) ask(ctx context.Context, r Request, header http.Header, body any) (Reply, error) {
	raw, err := encode(body)
	if err != nil {
		return Reply{}, badRequest(oneLine(err.Error(), r.APIKey))
	}
	x := &exchange{wire: w, draft: draft{key: r.APIKey}}
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var progress sendProgress
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(within, progress.trace()), http.MethodPost, w.url, bytes.NewReader(raw))
	if err != nil {
		return Reply{}, badRequest(oneLine(transportReason(err), r.APIKey))
	}
	req.Header = header
	req.Header["Content-Type"] = []string{"application/json"}
	req.Header["User-Agent"] = []string{userAgent}
	if r.RequestID != "" {
		req.Header[requestIDHeader] = []string{r.RequestID}
	}
	if r.Sending != nil {
		if err := r.Sending(ctx); err != nil {
			return Reply{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return Reply{}, contextError(err, false)
	}

	began := w.now()
	x.watch = r.patience.begin(cancel)
	defer x.watch.end()
	res, err := w.http.Do(req)
	if err != nil {
		x.left = progress.mayHaveLeft(err)
		return Reply{}, x.failure(within, err)
	}
	defer res.Body.Close()
	x.left, x.status = true, res.StatusCode
	if err := x.receive(res, began); err != nil {
		return Reply{}, x.failure(within, err)
	}
	return x.draft.whole(w.words), nil
}

// encode is JSON without the escapes for HTML, which would be paid for in tokens.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// receive takes in what the server answers, in whichever way it does.
func (x *exchange) receive(res *http.Response, began time.Time) error {
	body := &watchedReader{from: res.Body, watch: x.watch}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if x.status < 300 && kind == "text/event-stream" {
		return x.stream(body, began)
	}
	// A server that does not stream, or an error: there will be no first token.
	x.watch.token()
	raw, err := io.ReadAll(io.LimitReader(body, bodyBytesMax+1))
	switch {
	case err != nil:
		return err
	case len(raw) > bodyBytesMax:
		return errBodyTooLarge
	case x.status >= 300:
		return statusError(x.status, res.Header, raw, x.draft.key, x.now())
	}
	if err := x.words.take(&x.draft, raw); err != nil {
		return err
	}
	if !x.draft.finished {
		return malformed("the reply has no end")
	}
	return nil
}

// stream takes events in until there are no more. Once the model has finished, the reply is whole, whatever befalls the rest.
func (x *exchange) stream(body *watchedReader, began time.Time) error {
	events := newEventReader(body)
	wrote := false
	for !x.draft.ended {
		data, err := events.next()
		if err == nil {
			err = x.words.take(&x.draft, data)
		}
		if err == nil && len(x.draft.text) > bodyBytesMax {
			err = errBodyTooLarge
		}
		if err != nil && x.draft.finished {
			return nil
		}
		if err != nil {
			return err
		}
		if x.draft.wrote && !wrote {
			wrote = true
			x.watch.token()
			x.draft.reply.FirstToken = x.now().Sub(began)
		}
	}
	if !x.draft.finished {
		// The protocol's end without the model's: a compatible server that gives no reason.
		if !x.draft.opened {
			return malformed("the stream holds no reply")
		}
		x.draft.stop(FinishOther)
	}
	x.watch.drain()
	_, _ = io.Copy(io.Discard, body) // Its only use is the connection's.
	return nil
}

// failure explains a call that gave no reply.
func (x *exchange) failure(ctx context.Context, err error) *Error {
	e, explained := errors.AsType[*Error](err)
	var late *lateError
	switch {
	case explained:
		e.Status = x.status
		if e.Status >= 300 {
			return e
		}
	case errors.As(context.Cause(ctx), &late):
		e = &Error{Kind: KindTimeout, Message: late.Error(), Sent: x.left, cause: context.DeadlineExceeded}
	case ctx.Err() != nil:
		e = contextError(ctx.Err(), x.left)
	case errors.Is(err, errBodyTooLarge):
		e = malformed(err.Error())
		e.Status = x.status
	case errors.Is(err, io.EOF) && x.status != 0 && !x.draft.opened:
		e = malformed("the stream holds no reply")
		e.Status = x.status
	default:
		e = &Error{Kind: KindUnavailable, Status: x.status, Message: oneLine(transportReason(err), x.draft.key), Sent: x.left}
		var timeout interface{ Timeout() bool }
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			e.Kind = KindTimeout
		case errors.Is(err, io.EOF) && x.status != 0:
			e.Message = "the stream ended before the reply did"
		}
	}
	return x.draft.broken(e, x.words)
}

// malformed is the error of a 2xx that cannot be read.
func malformed(message string) *Error {
	return &Error{Kind: KindMalformedReply, Message: message, Sent: true}
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

// transportReason leaves out the URL that net/http puts before its reason.
func transportReason(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}
