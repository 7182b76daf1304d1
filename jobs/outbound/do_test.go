package outbound_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"sluice/jobs/outbound"
)

// brief is a door whose exchanges end soon, for targets that never do.
func brief() *outbound.Door {
	return outbound.New(outbound.Config{AllowLoopback: true, Timeout: 200 * time.Millisecond})
}

func dev() *outbound.Door { return outbound.New(outbound.Config{AllowLoopback: true}) }

// drain reads a request's header, so that a raw target answers what was asked.
func drain(conn net.Conn) {
	_, _ = http.ReadRequest(bufio.NewReader(conn))
}

func TestDo(t *testing.T) {
	t.Parallel()
	server := target(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", fmt.Sprintf("%s %s %s %s", r.Method, r.URL, r.Header.Get("User-Agent"), body))
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write([]byte("short and stout"))
	})
	res, err := post(t, dev(), server.URL+"/a%2Fb?c=d%20e")
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, res.Status)
	require.Equal(t, "POST /a%2Fb?c=d%20e Sluice/1 hello", res.Header.Get("X-Saw"))
	require.Equal(t, "short and stout", string(res.Body))
	require.False(t, res.Truncated)
}

func TestRedirectIsAnAnswer(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	elsewhere := target(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	for _, location := range []string{"http://169.254.169.254/latest/meta-data/", elsewhere.URL, "/again", "//[::1]/", "gopher://x"} {
		for _, status := range []int{301, 302, 303, 307, 308, 300, 304} {
			var asked atomic.Int32
			server := target(t, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.Header().Set("Location", location)
				w.WriteHeader(status)
			})
			res, err := post(t, dev(), server.URL)
			require.NoError(t, err)
			require.Equal(t, status, res.Status)
			require.EqualValues(t, 1, asked.Load())
		}
	}
	require.Zero(t, hits.Load())
}

func TestLongAnswerIsCut(t *testing.T) {
	t.Parallel()
	bomb := &bytes.Buffer{}
	zip := gzip.NewWriter(bomb)
	_, err := zip.Write(make([]byte, 10<<20))
	require.NoError(t, err)
	require.NoError(t, zip.Close())

	for name, c := range map[string]struct {
		write     func(io.Writer, http.Header)
		length    int
		truncated bool
	}{
		"endless": {func(w io.Writer, _ http.Header) {
			for block := make([]byte, 32<<10); ; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, 64 << 10, true},
		"exactly the limit": {func(w io.Writer, _ http.Header) { _, _ = w.Write(make([]byte, 64<<10)) }, 64 << 10, false},
		"one byte more":     {func(w io.Writer, _ http.Header) { _, _ = w.Write(make([]byte, 64<<10+1)) }, 64 << 10, true},
		"gzip bomb": {func(w io.Writer, h http.Header) {
			h.Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}, bomb.Len(), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := target(t, func(w http.ResponseWriter, r *http.Request) {
				require.Empty(t, r.Header.Get("Accept-Encoding"))
				c.write(w, w.Header())
			})
			res, err := post(t, dev(), server.URL)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.Status)
			require.Len(t, res.Body, c.length)
			require.Equal(t, c.truncated, res.Truncated)
		})
	}
}

// An answer whose header came but whose body does not end has told what the target did.
func TestBodyThatNeverEndsKeepsTheStatus(t *testing.T) {
	t.Parallel()
	address := rawTarget(t, func(conn net.Conn) {
		drain(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nx")
	})
	res, err := post(t, brief(), address)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, res.Status)
	require.Equal(t, "x", string(res.Body))
	require.True(t, res.Truncated)
}

func TestFailures(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := target(t, func(http.ResponseWriter, *http.Request) {})
	say := func(text string) func(net.Conn) {
		return func(conn net.Conn) { drain(conn); _, _ = io.WriteString(conn, text) }
	}
	cut := func(conn net.Conn) { drain(conn); _ = conn.Close() }
	endlessHeader := func(conn net.Conn) {
		drain(conn)
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		for err == nil {
			_, err = io.WriteString(conn, "X-More: "+strings.Repeat("a", 1000)+"\r\n")
		}
	}
	for name, c := range map[string]struct {
		url  string
		kind outbound.Kind
		sent bool
	}{
		"nobody listens":         {"http://" + closed.Addr().String(), outbound.Connect, false},
		"no such name":           {"https://gone.example", outbound.DNS, false},
		"certificate of nobody":  {secure.URL, outbound.TLS, false},
		"no TLS at all":          {strings.Replace(plain.URL, "http:", "https:", 1), outbound.TLS, false},
		"handshake never starts": {strings.Replace(rawTarget(t, func(net.Conn) {}), "http:", "https:", 1), outbound.Timeout, false},
		"no answer":              {rawTarget(t, drain), outbound.Timeout, true},
		"slow header":            {rawTarget(t, say("HTTP/1.1 200 OK\r\nX-Slow: ")), outbound.Timeout, true},
		"cut after the request":  {rawTarget(t, cut), outbound.Broken, true},
		"not HTTP":               {rawTarget(t, say("220 smtp.example ESMTP\r\n\r\n")), outbound.Broken, true},
		"endless header":         {rawTarget(t, endlessHeader), outbound.Broken, true},
		"endless interim":        {rawTarget(t, say(strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n", 5000))), outbound.Broken, true},
		"switched protocol": {rawTarget(t, say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")),
			outbound.Broken, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := outbound.New(outbound.Config{
				AllowLoopback: true, Resolver: names(t, nil).Resolver, Timeout: 500 * time.Millisecond,
			})
			_, err := post(t, d, c.url+"/"+canary+"?token="+canary)
			e := failure(t, err)
			require.Equal(t, c.kind, e.Kind, "%v", e.Unwrap())
			require.Equal(t, c.sent, e.Sent)
			require.NotContains(t, e.Error(), "127.0.0.1")
			for err := error(e); err != nil; err = errors.Unwrap(err) {
				require.NotContains(t, fmt.Sprintf("%+v", err), canary)
			}
		})
	}
}

func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	address := rawTarget(t, func(conn net.Conn) { drain(conn); cancel() })
	_, err := dev().Do(ctx, outbound.Request{Method: http.MethodPost, URL: address})
	e := failure(t, err)
	require.Equal(t, outbound.Canceled, e.Kind)
	require.True(t, e.Sent)
	require.ErrorIs(t, err, context.Canceled)
}

func TestTrustedTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Saw", r.Proto)
	}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	d := outbound.New(outbound.Config{
		AllowLoopback: true, Resolver: names(t, map[string][]string{"example.com.": {"127.0.0.1"}}).Resolver, RootCAs: roots,
	})
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	// A name that is not local must use an allowed port, whatever it stands for.
	_, err = post(t, d, "https://example.com:"+port)
	require.Equal(t, outbound.Blocked, failure(t, err).Kind)
	res, err := post(t, d, server.URL)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1", res.Header.Get("X-Saw"))
}

// Names are asked as they are, never below a search domain, and a final dot makes no other name of them.
func TestNamesAreAbsolute(t *testing.T) {
	t.Parallel()
	dns := names(t, nil)
	d := outbound.New(outbound.Config{Resolver: dns.Resolver})
	for _, host := range []string{"hook.gone.example", "HOOK.gone.example."} {
		_, err := post(t, d, "https://"+host)
		require.Equal(t, outbound.DNS, failure(t, err).Kind)
	}
	require.ElementsMatch(t, dns.questions(), []string{
		"A hook.gone.example.", "AAAA hook.gone.example.", "A hook.gone.example.", "AAAA hook.gone.example.",
	})
}

func TestEnvironmentsProxyIsIgnored(t *testing.T) {
	var hits atomic.Int32
	proxy := target(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	d := outbound.New(outbound.Config{
		AllowLoopback: true, Resolver: names(t, map[string][]string{"hook.localhost.": {"127.0.0.1"}}).Resolver,
	})
	server := target(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	res, err := post(t, d, "http://hook.localhost:"+port)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, res.Status)
	require.Zero(t, hits.Load())
}

func TestSpansAndHeadersTellNothing(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	d := outbound.New(outbound.Config{AllowLoopback: true, TracerProvider: provider})
	var header atomic.Pointer[http.Header]
	server := target(t, func(w http.ResponseWriter, r *http.Request) {
		header.Store(&r.Header)
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte(canary))
	})
	ctx, span := provider.Tracer("test").Start(t.Context(), "run")
	address := server.URL + "/" + canary + "?token=" + canary
	_, err := d.Do(ctx, outbound.Request{Method: http.MethodPost, URL: address, Body: []byte(canary)})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	require.NoError(t, err)
	res, err := d.Operator(time.Minute).Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	span.End()

	require.Len(t, spans.GetSpans(), 3)
	require.Equal(t, "POST", spans.GetSpans()[0].Name)
	require.NotContains(t, fmt.Sprintf("%+v", spans.GetSpans()), canary)
	require.Contains(t, fmt.Sprintf("%+v", spans.GetSpans()[0].Attributes), "http.response.status_code")
	for _, name := range []string{"Traceparent", "Tracestate", "Baggage"} {
		require.NotContains(t, *header.Load(), name)
	}
}
