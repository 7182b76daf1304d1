package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"sluice/proof"
)

// A wire is a round tripper that bounds and observes each exchange: its time, its size, its span, and how far it came.
//
// The spans are made by hand: otelhttp writes the whole address into them, and paths and queries of callbacks hold secrets.
// No trace header is added to a request either: whom a tenant chose, or pays, has no business with our traces.
type wire struct {
	base     http.RoundTripper
	bytesMax int64
	timeout  time.Duration
	tracer   trace.Tracer
}

var errSwitch = errors.New("the answer is informational, or switches protocols")

// progress is how far an exchange has come. It is written by the transport's goroutines.
type progress struct{ connected, shaking atomic.Bool }

// sent reports whether the request may have left: from the moment that a connection is at hand nobody can deny it.
func (p *progress) sent() bool { return p.connected.Load() }

func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn:           func(httptrace.GotConnInfo) { p.connected.Store(true) },
		TLSHandshakeDone:  func(_ tls.ConnectionState, err error) { p.shaking.Store(err != nil) },
		TLSHandshakeStart: func() { p.shaking.Store(true) },
	}
}

// wantedKey is where the context of a dial holds a func(end func()) (stop func() bool) that has end called when the exchange is over before it had a
// connection.
type wantedKey struct{}

// whileWanted makes a connection for as long as its exchange lasts, its handshake included. The transport cuts the context of a dial loose from that of
// the request, since another request may use the connection; here none does, and a target that is silent would hold what nobody waits for any more.
func whileWanted(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	whenOver, ok := ctx.Value(wantedKey{}).(func(func()) func() bool)
	if !ok {
		return dial(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := whenOver(cancel)
	conn, err := dial(ctx)
	stop()
	if err == nil {
		whenOver(func() { _ = conn.Close() })
	}
	return conn, err
}

// RoundTrip sends a request and returns the answer, whatever its status; an error is always an *Error.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	caller := req.Context()
	ctx, span := w.tracer.Start(caller, req.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("http.request.method", req.Method),
		attribute.String("server.address", req.URL.Hostname()),
		attribute.Int("server.port", port(req.URL.Scheme, req.URL.Port())),
	))
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	at := &progress{}
	wanted := context.WithValue(ctx, wantedKey{}, func(end func()) (stop func() bool) {
		return context.AfterFunc(ctx, func() {
			if !at.sent() { // from then on the transport ends the connection itself
				end()
			}
		})
	})
	end := sync.OnceFunc(func() { cancel(); span.End() })

	proof.Before(ctx)
	res, err := w.base.RoundTrip(req.WithContext(httptrace.WithClientTrace(wanted, at.trace())))
	if err == nil && res.StatusCode < http.StatusOK {
		// A peer that switches protocols gets the connection out of the transport's hands, and so out of the deadline's.
		err = errors.Join(errSwitch, res.Body.Close())
	}
	if err != nil {
		failure := classify(err, at, caller.Err)
		mark(span, failure)
		end()
		return nil, failure
	}
	proof.After(ctx)
	span.SetAttributes(attribute.Int("http.response.status_code", res.StatusCode))
	if res.StatusCode >= http.StatusBadRequest {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(attribute.String("error.type", strconv.Itoa(res.StatusCode)))
	}
	res.Body = &body{
		at: at, callerErr: caller.Err, end: end, span: span,
		ReadCloser: http.MaxBytesReader(nil, res.Body, w.bytesMax),
	}
	return res, nil
}

// A body is the body of an answer, within its size and its exchange's time. Closing it ends the exchange.
type body struct {
	io.ReadCloser

	at        *progress
	callerErr func() error
	end       func()
	span      trace.Span
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	failure := classify(err, b.at, b.callerErr)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		failure.Kind = TooLarge
	}
	mark(b.span, failure)
	return n, failure
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// mark writes the kind of a failure into a span, and nothing that the network said.
func mark(span trace.Span, failure *Error) {
	span.SetStatus(codes.Error, string(failure.Kind))
	span.SetAttributes(attribute.String("error.type", string(failure.Kind)))
}

// port is the number of the port that an address means.
func port(scheme, written string) int {
	if n, err := strconv.Atoi(written); err == nil {
		return n
	}
	if scheme == "http" {
		return 80
	}
	return 443
}
