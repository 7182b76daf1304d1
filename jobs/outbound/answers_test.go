package outbound_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
)

// patience is far more than any exchange of these tests may last: it is there so that an endless one fails in place of holding the suite.
const patience = 30 * time.Second

// handshakeEnds is less than the time of a handshake: one whose exchange is over does not go on until then.
const handshakeEnds = 3 * time.Second

// A hostileTarget answers as it is told, and counts the connections that we have not let go of.
type hostileTarget struct {
	net.Listener

	held    atomic.Int64
	running sync.WaitGroup
}

// hostile listens on loopback. What serve does not read is read to its end, which comes when we close.
func hostile(t *testing.T, serve func(net.Conn)) *hostileTarget {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &hostileTarget{Listener: listener}
	h.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			h.held.Add(1)
			h.running.Go(func() {
				serve(conn)
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
				h.held.Add(-1)
			})
		}
	})
	return h
}

// end waits until we have let go of every connection.
func (h *hostileTarget) end(t *testing.T) {
	t.Helper()
	h.endWithin(t, patience)
}

func (h *hostileTarget) endWithin(t *testing.T, limit time.Duration) {
	t.Helper()
	require.NoError(t, h.Close())
	gone := make(chan struct{})
	go func() { h.running.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(limit):
		require.FailNow(t, "a connection is held", "%d are", h.held.Load())
	}
}

// block is what endless answers are made of. It is shared, so that a test measures what we allocate and not what the target does.
var block = bytes.Repeat([]byte("aaaaaaaaaaaaaaa\n"), 1<<12)

// forever writes something again and again until we hang up.
func forever(conn net.Conn, what []byte) {
	for {
		if _, err := conn.Write(what); err != nil {
			return
		}
	}
}

// dripping writes a byte now and then.
func dripping(conn net.Conn, what string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(conn, what); err != nil {
			return
		}
	}
}

// say reads the request, writes something, and then, if it is told so, something for ever.
func say(first string, then ...[]byte) func(net.Conn) {
	endless := bytes.Repeat(bytes.Join(then, nil), 100)
	return func(conn net.Conn) {
		drain(conn)
		_, _ = io.WriteString(conn, first)
		if len(then) > 0 {
			forever(conn, endless)
		}
	}
}

// hangUp says something and closes, with a reset where it is told so.
func hangUp(what string, reset bool) func(net.Conn) {
	return func(conn net.Conn) {
		drain(conn)
		_, _ = io.WriteString(conn, what)
		if tcp, ok := conn.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// An answer to a request, and what the door makes of it: a status, or a kind of failure.
type answer struct {
	serve     func(net.Conn)
	kind      outbound.Kind // "" where there is a status
	status    int
	length    int // of the body
	truncated bool
	sends     []byte // in place of a small body
	slow      bool   // it is time alone that ends it
}

// door is one whose exchanges end soon where an answer needs that, and in production's own time where it must not.
func (a answer) door() *outbound.Door {
	if a.slow || a.kind == outbound.Timeout {
		return outbound.New(outbound.Config{AllowLoopback: true, Timeout: 500 * time.Millisecond})
	}
	return dev()
}

func failsAs(kind outbound.Kind, serve func(net.Conn)) answer {
	return answer{serve: serve, kind: kind}
}

const (
	ok200 = "HTTP/1.1 200 OK\r\n"
	kept  = 64 << 10
)

func hostileAnswers() map[string]answer {
	chunked := ok200 + "Transfer-Encoding: chunked\r\n\r\n"
	packed := strings.Repeat("\x1f\x8b\x08\x00bomb", 1000)
	many := strings.Repeat("a:\r\n", 7000)
	answers := map[string]answer{
		"endless body":         {serve: say(ok200+"\r\n", block), status: 200, length: kept, truncated: true},
		"endless sized body":   {serve: say(ok200+"Content-Length: 9223372036854775807\r\n\r\n", block), status: 200, length: kept, truncated: true},
		"endless chunks":       {serve: say(chunked, []byte("10000\r\n"), block, []byte("\r\n")), status: 200, length: kept, truncated: true},
		"endless failure":      {serve: say("HTTP/1.1 500 Oops\r\n\r\n", block), status: 500, length: kept, truncated: true},
		"endless redirect":     {serve: say("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", block), status: 302, length: kept, truncated: true},
		"dripping body":        {serve: func(c net.Conn) { drain(c); _, _ = io.WriteString(c, ok200+"\r\n"); dripping(c, "a") }, length: -1, status: 200, truncated: true, slow: true},
		"silence after status": {serve: say(ok200 + "Content-Length: 5\r\n\r\n"), status: 200, truncated: true, slow: true},

		"packed, gzip":    {serve: hangUp(ok200+"Content-Encoding: gzip\r\n\r\n"+packed, false), status: 200, length: len(packed)},
		"packed, twice":   {serve: hangUp(ok200+"Content-Encoding: gzip, br\r\n\r\n"+packed, false), status: 200, length: len(packed)},
		"packed on a way": failsAs(outbound.Broken, say(ok200+"Transfer-Encoding: gzip, chunked\r\n\r\n"+packed)),

		"chunk of no size":      {serve: say(chunked + "zz\r\nhello\r\n"), status: 200, truncated: true},
		"chunk below zero":      {serve: say(chunked + "-1\r\nhello\r\n"), status: 200, truncated: true},
		"chunk too large":       {serve: say(chunked + "fffffffffffffffff\r\nhello\r\n"), status: 200, truncated: true},
		"chunk without its end": {serve: say(chunked + "5\r\nhelloworld\r\n0\r\n\r\n"), status: 200, length: 5, truncated: true},
		"chunks without end":    {serve: hangUp(chunked+"5\r\nhello\r\n", false), status: 200, length: 5, truncated: true},
		"endless chunk header":  {serve: say(chunked+"5;", block[:15]), status: 200, truncated: true},
		"all header, no chunk":  {serve: say(chunked, []byte("1;"+strings.Repeat("x", 3000)+"\r\na\r\n")), status: 200, length: -1, truncated: true},
		"endless trailers":      {serve: say(chunked+"0\r\n", []byte("X-More: aaaaaaa\r\n")), status: 200, truncated: true},
		"trailers":              {serve: say(ok200 + "Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"), status: 200, length: 5},

		"length too long":   {serve: hangUp(ok200+"Content-Length: 100\r\n\r\nhello", false), status: 200, length: 5, truncated: true},
		"length too short":  {serve: say(ok200 + "Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\nagain"), status: 200, length: 5},
		"length of none":    {serve: say("HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\nhello"), status: 204},
		"length below zero": failsAs(outbound.Broken, say(ok200+"Content-Length: -5\r\n\r\nhello")),
		"length of words":   failsAs(outbound.Broken, say(ok200+"Content-Length: five\r\n\r\nhello")),
		"length beyond":     failsAs(outbound.Broken, say(ok200+"Content-Length: 99999999999999999999\r\n\r\nhello")),
		"two lengths":       failsAs(outbound.Broken, say(ok200+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")),
		"length and chunks": {serve: say(ok200 + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), status: 200, length: 5},
		"reset in the body": {serve: hangUp(ok200+"Content-Length: 100\r\n\r\n", true), status: 200, truncated: true, length: -1},
		"answered too soon": {serve: func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = io.WriteString(c, ok200+"Content-Length: 0\r\n\r\n")
		}, status: 200},
		"status of no house": {serve: say("HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n"), status: 999},

		"endless status":       failsAs(outbound.Broken, say("HTTP/1.1 200 ", block[:15])),
		"endless headers":      failsAs(outbound.Broken, say(ok200, []byte("X-More: aaaaaaa\r\n"))),
		"one endless header":   failsAs(outbound.Broken, say(ok200+"X-More: ", block[:15])),
		"endless folds":        failsAs(outbound.Broken, say(ok200+"X-More: a\r\n", []byte(" a\r\n"))),
		"thousands of headers": {serve: say(ok200 + many + "Content-Length: 0\r\n\r\n"), status: 200},
		"dripping header":      failsAs(outbound.Timeout, func(c net.Conn) { drain(c); _, _ = io.WriteString(c, ok200+"X: "); dripping(c, "a") }),
		"dripping status":      failsAs(outbound.Timeout, func(c net.Conn) { drain(c); dripping(c, "H") }),
		"silence":              failsAs(outbound.Timeout, drain),
		"endless 100":          failsAs(outbound.Broken, say("", []byte("HTTP/1.1 100 Continue\r\n\r\n"))),
		"endless 102":          failsAs(outbound.Broken, say("", []byte("HTTP/1.1 102 Processing\r\n\r\n"))),
		"endless 103":          failsAs(outbound.Broken, say("", []byte("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"))),
		"100 and silence":      failsAs(outbound.Timeout, say("HTTP/1.1 100 Continue\r\n\r\n")),
		"some 1xx, then 202":   {serve: say("HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 X\r\n\r\nHTTP/1.1 202 Taken\r\nContent-Length: 0\r\n\r\n"), status: 202},
		"101":                  failsAs(outbound.Broken, say("HTTP/1.1 101 Switch\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", block)),
		"status of one digit":  failsAs(outbound.Broken, say("HTTP/1.1 2\r\n\r\n")),
		"status below any":     failsAs(outbound.Broken, say("HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n")),
		"HTTP/0.9":             failsAs(outbound.Broken, hangUp("<html>hello</html>", false)),
		"HTTP/2":               failsAs(outbound.Broken, say("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00\x00\x00\x08\x07\x00\x00\x00\x00\r\n")),
		"SSH":                  failsAs(outbound.Broken, say("SSH-2.0-OpenSSH_9.6\r\n")),
		"Redis":                failsAs(outbound.Broken, say("-ERR wrong number of arguments for 'get' command\r\n")),
		"header of no name":    failsAs(outbound.Broken, say(ok200+": x\r\n\r\n")),
		"NUL in a header":      failsAs(outbound.Broken, say(ok200+"X\x00Y: z\r\n\r\n")),
		"nothing":              failsAs(outbound.Broken, hangUp("", false)),
		"reset":                failsAs(outbound.Broken, hangUp("", true)),
		"reset in the header":  failsAs(outbound.Broken, hangUp(ok200+"X: ", true)),
		"reads nothing":        {serve: func(c net.Conn) { awaitClose(c) }, kind: outbound.Timeout, sends: bytes.Repeat(block, 200)},
	}
	return answers
}

// awaitClose reads nothing until the other side is gone: what is sent fills the buffers of the machine, and waits.
func awaitClose(conn net.Conn) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := conn.Write([]byte("x")); err != nil {
			return
		}
	}
}

// sentences are all that a tenant may read of a failed exchange.
var sentences = []string{
	"the address cannot be used", "the address is not allowed", "the connection broke, or the answer could not be read", "the request was given up",
	"no connection could be made", "the name could not be resolved", "the target did not answer in time", "no secure connection could be made", "the answer is too large",
}

// exchange sends one request and holds what came of it to what the answer is to come to.
func exchange(t *testing.T, d *outbound.Door, a answer, address string) {
	t.Helper()
	var res outbound.Response
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		res, err = d.Do(t.Context(), outbound.Request{Method: http.MethodPost, URL: address, Body: a.sends})
	}()
	select {
	case <-done:
	case <-time.After(patience):
		require.FailNow(t, "the exchange does not end")
	}
	if a.kind != "" {
		e := failure(t, err)
		require.Equal(t, a.kind, e.Kind, "%v", e.Unwrap())
		require.True(t, e.Sent, "the request was on its way: nobody can deny it")
		require.Contains(t, sentences, e.Error())
		return
	}
	require.NoError(t, err)
	require.Equal(t, a.status, res.Status)
	require.Equal(t, a.truncated, res.Truncated)
	require.LessOrEqual(t, len(res.Body), kept)
	if a.length >= 0 {
		require.Len(t, res.Body, a.length)
	}
}

func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, a := range hostileAnswers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := hostile(t, a.serve)
			exchange(t, a.door(), a, "http://"+h.Addr().String())
			h.end(t)
		})
	}
}

// What one hostile answer may make us allocate: header and body at their limits, and what is around them.
const allocatedMax = 1 << 20

// Nothing that a target says is paid for with memory, and nothing is left behind. The tests that run beside others would be measured too: this one
// runs alone.
func TestHostileAnswersCostLittleAndLeaveNothing(t *testing.T) { //nolint:paralleltest // it measures the whole process
	answers := hostileAnswers()
	before := runtime.NumGoroutine()
	most, whose := uint64(0), ""
	for name, a := range answers {
		h := hostile(t, a.serve)
		var from, to runtime.MemStats
		runtime.ReadMemStats(&from)
		exchange(t, a.door(), a, "http://"+h.Addr().String())
		runtime.ReadMemStats(&to)
		h.end(t)
		if allocated := to.TotalAlloc - from.TotalAlloc; allocated > most {
			most, whose = allocated, name
		}
		require.Less(t, to.TotalAlloc-from.TotalAlloc, uint64(allocatedMax), name)
	}
	noGoroutinesLeft(t, before)
	t.Logf("%d answers; the dearest, %q, made us allocate %d KiB", len(answers), whose, most>>10)
}

// noGoroutinesLeft waits until there are no more goroutines than before, in the one of the test: one that polls would be counted.
func noGoroutinesLeft(t *testing.T, before int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ended := time.After(patience); runtime.NumGoroutine() > before; {
		select {
		case <-tick.C:
		case <-ended:
			stacks := make([]byte, 1<<20)
			require.FailNow(t, "goroutines are left", "%s", stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// Where an address is refused, nobody learns whether something listens there: the failures are the same, and no packet leaves.
func TestRefusalTellsNothingOfWhatListens(t *testing.T) {
	t.Parallel()
	h := hostile(t, func(net.Conn) {})
	_, open, err := net.SplitHostPort(h.Addr().String())
	require.NoError(t, err)
	gone := hostile(t, func(net.Conn) {})
	_, shut, err := net.SplitHostPort(gone.Addr().String())
	require.NoError(t, err)
	gone.end(t)
	d := outbound.New(outbound.Config{
		Ports: []uint16{number(t, open), number(t, shut)}, Resolver: book(map[string][]netip.Addr{"hook.example.": addrs("127.0.0.1")}).resolver(),
	})
	for _, host := range []string{"hook.example", "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"} {
		_, one := post(t, d, "https://"+host+":"+open)
		_, two := post(t, d, "https://"+host+":"+shut)
		a, b := failure(t, one), failure(t, two)
		require.Equal(t, []any{outbound.Blocked, false, "the address is not allowed"}, []any{a.Kind, a.Sent, a.Error()}, host)
		require.Equal(t, []any{a.Kind, a.Sent, a.Error()}, []any{b.Kind, b.Sent, b.Error()}, host)
	}
	require.Zero(t, h.held.Load())
	h.end(t)
}

// Nothing that an answer says makes the door go anywhere.
func TestAnswersThatPointElsewhere(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	elsewhere := hostile(t, func(net.Conn) { hits.Add(1) })
	for _, status := range []string{"200", "201", "300", "301", "302", "303", "304", "305", "306", "307", "308", "401", "402", "407", "421", "425", "426", "429", "503"} {
		for name, pointer := range map[string]string{
			"Location": "http://" + elsewhere.Addr().String() + "/", "Content-Location": "//" + elsewhere.Addr().String(), "Refresh": "0; url=http://" + elsewhere.Addr().String(),
			"Alt-Svc": `h2="` + elsewhere.Addr().String() + `"`, "Link": "<http://" + elsewhere.Addr().String() + ">; rel=preload", "Upgrade": "h2c, websocket",
			"Proxy-Authenticate": "Basic", "WWW-Authenticate": "Negotiate", "Set-Cookie": "a=b", "Retry-After": "0",
		} {
			var asked atomic.Int64
			h := hostile(t, func(conn net.Conn) {
				asked.Add(1)
				drain(conn)
				_, _ = io.WriteString(conn, "HTTP/1.1 "+status+" X\r\n"+name+": "+pointer+"\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")
			})
			_, err := post(t, dev(), "http://"+h.Addr().String())
			require.NoError(t, err)
			h.end(t)
			require.EqualValues(t, 1, asked.Load(), "%s %s", status, name)
		}
	}
	require.Zero(t, hits.Load())
	elsewhere.end(t)
}

func number(t *testing.T, port string) uint16 {
	t.Helper()
	n, err := strconv.ParseUint(port, 10, 16)
	require.NoError(t, err)
	return uint16(n)
}

// What is not HTTP is read up to a limit, too, from the operator's server and from a tenant's.
func TestConversationIsCapped(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(*outbound.Door, string) (net.Conn, error){
		"Dial":       func(d *outbound.Door, to string) (net.Conn, error) { return d.Dial(t.Context(), to, patience) },
		"DialTenant": func(d *outbound.Door, to string) (net.Conn, error) { return d.DialTenant(t.Context(), to) },
	} {
		h := hostile(t, func(conn net.Conn) { forever(conn, block) })
		conn, err := dial(dev(), h.Addr().String())
		require.NoError(t, err)
		said, err := io.ReadAll(conn)
		require.Len(t, said, kept, name)
		require.Equal(t, outbound.TooLarge, failure(t, err).Kind)
		require.True(t, failure(t, err).Sent)
		require.NoError(t, conn.Close())
		h.end(t)
	}
}
