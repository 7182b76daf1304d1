package mail_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	netmail "net/mail"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
	"sluice/jobs/outbound/mail"
)

const (
	// patience is far more than any conversation of these tests may last.
	patience = 30 * time.Second
	// allocatedMax is what one conversation may make us allocate.
	allocatedMax = 1 << 20
	// canary is the password of our login.
	canary = "s3cr3t-canary"
)

// A relay is a mail server that says what it is told, line for line, and keeps what it heard.
type relay struct {
	net.Listener

	mu      sync.Mutex
	heard   []string
	running sync.WaitGroup
}

// A turn is what a relay says when it has heard a line; the first it says unasked.
type turn func(io.Writer)

func says(text string) turn { return func(w io.Writer) { _, _ = io.WriteString(w, text+"\r\n") } }

// endlessly says something until the other side hangs up.
func endlessly(text string) turn {
	block := bytes.Repeat([]byte(text), 1+4096/len(text))
	return func(w io.Writer) {
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
}

// dripping says something, a little at a time.
func dripping(text string) turn {
	return func(w io.Writer) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		}
	}
}

func silence(io.Writer) {}

func hangsUp(w io.Writer) {
	if conn, ok := w.(net.Conn); ok {
		_ = conn.Close()
	}
}

func newRelay(t *testing.T, turns ...turn) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{Listener: listener}
	r.running.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		lines := bufio.NewReader(conn)
		turns[0](conn)
		next, body := 1, false
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimRight(line, "\r\n")
			r.mu.Lock()
			r.heard = append(r.heard, line)
			r.mu.Unlock()
			if body = (body || line == "DATA") && line != "."; body && line != "DATA" || next >= len(turns) {
				continue
			}
			turns[next](conn)
			next++
		}
	})
	return r
}

// end waits until the relay's connection is over, and returns what it heard.
func (r *relay) end(t *testing.T) []string {
	t.Helper()
	_ = r.Close()
	gone := make(chan struct{})
	go func() { r.running.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(patience):
		require.FailNow(t, "the connection is held")
	}
	return r.heard
}

// hand gives a message over to a relay that is known under a name, as a tenant's server.
func hand(t *testing.T, d *outbound.Door, r *relay, name string, m mail.Message) error {
	t.Helper()
	conn, err := d.DialTenant(t.Context(), r.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	client, err := mail.Greet(conn, mail.Server{Host: name, User: "relay", Password: canary}, d.TLS(name), "acme.example")
	if err != nil {
		return err
	}
	return mail.Deliver(client, m)
}

// A conversation with a server that means harm, and how it is to end.
type conversation struct {
	turns []turn
	step  mail.Step // "" where the message was taken
	code  int
	doubt bool
	// world tells that the server is elsewhere, where nothing is said in the clear.
	world bool
	slow  bool // it is time alone that ends it
}

func conversations() map[string]conversation {
	hello := func(more ...turn) []turn {
		return append([]turn{says("220 hi"), says("250-hi\r\n250 AUTH PLAIN"), says("235 in")}, more...)
	}
	yes := says("250 yes")
	secure := func(more ...turn) []turn {
		return append([]turn{says("220 hi"), says("250-hi\r\n250 STARTTLS")}, more...)
	}
	return map[string]conversation{
		"greets for ever":         {turns: []turn{endlessly("220-hello\r\n")}, step: mail.StepGreet},
		"greets in tiny lines":    {turns: []turn{endlessly("220-\r\n")}, step: mail.StepGreet},
		"greets in one line":      {turns: []turn{endlessly("2")}, step: mail.StepGreet},
		"greets byte by byte":     {turns: []turn{dripping("2")}, step: mail.StepGreet, slow: true},
		"does not greet":          {turns: []turn{silence}, step: mail.StepGreet, slow: true},
		"hangs up":                {turns: []turn{hangsUp}, step: mail.StepGreet},
		"refuses at once":         {turns: []turn{says("554 " + canary)}, step: mail.StepGreet, code: 554},
		"is no mail server":       {turns: []turn{says("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n")}, step: mail.StepGreet},
		"is SSH":                  {turns: []turn{says("SSH-2.0-OpenSSH_9.6")}, step: mail.StepGreet, slow: true},
		"codes of no kind":        {turns: []turn{says("999 hi"), says("999 hi"), says("999")}, step: mail.StepGreet, code: 999},
		"offers for ever":         {turns: []turn{says("220 hi"), endlessly("250-X\r\n")}, step: mail.StepGreet},
		"mixes codes":             {turns: []turn{says("220 hi"), endlessly("250-X\r\n251-Y\r\n")}, step: mail.StepGreet},
		"offers no encryption":    {turns: []turn{says("220 hi"), says("250 AUTH PLAIN")}, step: mail.StepInsecure, world: true},
		"spells it otherwise":     {turns: []turn{says("220 hi"), says("250-hi\r\n250 XSTARTTLS")}, step: mail.StepInsecure, world: true},
		"refuses encryption":      {turns: secure(says("454 " + canary)), step: mail.StepSecure, code: 454, world: true},
		"refuses to speak ESMTP":  {turns: []turn{says("220 hi"), says("502 no"), says("250 hi")}, step: mail.StepInsecure, world: true},
		"says more in the clear":  {turns: secure(says("220 go\r\n250-hi\r\n250 AUTH PLAIN\r\n235 in")), step: mail.StepSecure, world: true, slow: true},
		"encrypts with silence":   {turns: secure(says("220 go")), step: mail.StepSecure, world: true, slow: true},
		"encrypts with noise":     {turns: secure(func(w io.Writer) { says("220 go")(w); endlessly("\x16\x03\x03\x40\x00\x02")(w) }), step: mail.StepSecure, world: true},
		"asks on and on":          {turns: append(hello()[:2], says("334 eA=="), endlessly("334 eA==\r\n")), step: mail.StepLogin},
		"repeats our password":    {turns: append(hello()[:2], says("535 "+canary)), step: mail.StepLogin, code: 535, slow: true},
		"refuses the sender":      {turns: hello(says("550 " + canary)), step: mail.StepSender, code: 550},
		"refuses the recipient":   {turns: hello(yes, says("550-x\r\n550 "+canary)), step: mail.StepRecipient, code: 550},
		"accepts for ever":        {turns: hello(yes, endlessly("250-yes\r\n")), step: mail.StepRecipient},
		"wants no message":        {turns: hello(yes, yes, says("554 no")), step: mail.StepData, code: 554},
		"hangs up on the message": {turns: hello(yes, yes, hangsUp), step: mail.StepData},
		"refuses the message":     {turns: hello(yes, yes, says("354 go"), says("554 no")), step: mail.StepEnd, code: 554},
		"is too busy":             {turns: hello(yes, yes, says("354 go"), says("451 no")), step: mail.StepEnd, code: 451},
		"is silent at the end":    {turns: hello(yes, yes, says("354 go"), silence), step: mail.StepEnd, doubt: true, slow: true},
		"hangs up at the end":     {turns: hello(yes, yes, says("354 go"), hangsUp), step: mail.StepEnd, doubt: true},
		"does not come to an end": {turns: hello(yes, yes, says("354 go"), endlessly("250-yes\r\n")), step: mail.StepEnd, doubt: true},
		"takes it":                {turns: hello(yes, yes, says("354 go"), yes, says("221 bye"))},
		"takes it, and is silent": {turns: hello(yes, yes, says("354 go"), yes, silence), slow: true},
		"takes it, and talks":     {turns: hello(yes, yes, says("354 go"), yes, endlessly("221-bye\r\n"))},
	}
}

// hold has a conversation and holds its end to what it is to be.
func hold(t *testing.T, c conversation) {
	t.Helper()
	r := newRelay(t, c.turns...)
	name := "127.0.0.1"
	if c.world {
		name = "mail.example.com"
	}
	d := outbound.New(outbound.Config{AllowLoopback: true})
	if c.slow {
		d = brief()
	}
	done := make(chan error)
	go func() { done <- hand(t, d, r, name, example("x", "y", "")) }()
	var err error
	select {
	case err = <-done:
	case <-time.After(patience):
		require.FailNow(t, "the conversation does not end")
	}
	heard := strings.Join(r.end(t), "\n")
	if c.world {
		require.NotContains(t, heard, "AUTH", "nothing that matters is said in the clear")
		require.NotContains(t, heard, "MAIL")
	}
	if c.step == "" {
		require.NoError(t, err)
		return
	}
	var failed *mail.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, c.step, failed.Step, "%v", failed.Unwrap())
	require.Equal(t, c.code, failed.Code)
	require.Equal(t, c.doubt, failed.Doubt)
	require.NotContains(t, fmt.Sprintf("%v %+v %v", failed, failed, failed.Unwrap()), canary, "what a server says may be what was said to it")
}

func brief() *outbound.Door {
	return outbound.New(outbound.Config{AllowLoopback: true, Timeout: 500 * time.Millisecond})
}

func TestHostileServers(t *testing.T) {
	t.Parallel()
	for name, c := range conversations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hold(t, c)
		})
	}
}

// Nothing that a server says is paid for with memory, and nothing is left behind. It runs alone, since it measures the whole process.
func TestHostileServersCostLittleAndLeaveNothing(t *testing.T) { //nolint:paralleltest // it measures the whole process
	before := runtime.NumGoroutine()
	most, whose := uint64(0), ""
	for name, c := range conversations() {
		var from, to runtime.MemStats
		runtime.ReadMemStats(&from)
		hold(t, c)
		runtime.ReadMemStats(&to)
		if allocated := to.TotalAlloc - from.TotalAlloc; allocated > most {
			most, whose = allocated, name
		}
		require.Less(t, to.TotalAlloc-from.TotalAlloc, uint64(allocatedMax), name)
	}
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
	t.Logf("%d conversations; the dearest, %q, made us allocate %d KiB", len(conversations()), whose, most>>10)
}

// A certificate that nobody vouches for ends the conversation before the login, from the start and after STARTTLS.
func TestServerOfNobody(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	conn, err := brief().DialTenant(t.Context(), server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = mail.Greet(conn, mail.Server{Host: "127.0.0.1", Implicit: true, User: "relay", Password: canary}, brief().TLS("127.0.0.1"), "acme.example")
	var failed *mail.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, mail.StepSecure, failed.Step)
}

// No address, name or text becomes a command.
func TestNothingBecomesACommand(t *testing.T) {
	t.Parallel()
	const evil = "\r\nRCPT TO:<eve@evil.example>"
	for name, change := range map[string]func(*mail.Message){
		"recipient":           func(m *mail.Message) { m.To += evil },
		"recipient, bare CR":  func(m *mail.Message) { m.To += "\rRCPT TO:<eve@evil.example>" },
		"recipient, bare LF":  func(m *mail.Message) { m.To += "\nRCPT TO:<eve@evil.example>" },
		"sender":              func(m *mail.Message) { m.From = &netmail.Address{Address: m.From.Address + evil} },
		"text with its end":   func(m *mail.Message) { m.Text = "x\r\n.\r\nRCPT TO:<eve@evil.example>\r\nDATA\r\n" },
		"text, bare LF":       func(m *mail.Message) { m.Text = "x\n.\nRCPT TO:<eve@evil.example>\n" },
		"text, bare CR":       func(m *mail.Message) { m.Text = "x\r.\rRCPT TO:<eve@evil.example>\r" },
		"text, CR LF dot LF":  func(m *mail.Message) { m.Text = "x\r\n.\nRCPT TO:<eve@evil.example>\n" },
		"subject":             func(m *mail.Message) { m.Subject = "x" + evil },
		"subject with an end": func(m *mail.Message) { m.Subject = "x\r\n\r\n.\r\nRCPT TO:<eve@evil.example>" },
		"id": func(m *mail.Message) {
			m.InReplyTo, m.References = "<a@b>"+evil, []string{"<a@b>\r\n.\r\nRCPT TO:<eve@evil.example>"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			yes := says("250 yes")
			r := newRelay(t, says("220 hi"), says("250-hi\r\n250 AUTH PLAIN"), says("235 in"), yes, yes, says("354 go"), yes, says("221 bye"))
			m := example("x", "y", "")
			change(&m)
			_ = hand(t, brief(), r, "127.0.0.1", m)
			heard := r.end(t)
			commands, inside := 0, false
			for _, line := range heard {
				require.NotContains(t, line, "\r", "no bare line's end reaches a server that may take it for one")
				if inside = (inside || line == "DATA") && line != "."; !inside {
					require.NotContains(t, line, "evil")
					commands++
				}
			}
			require.LessOrEqual(t, commands, 6, "%q", heard) // EHLO, AUTH, MAIL, RCPT, the final dot and QUIT; DATA opens the message
		})
	}
	for _, name := range []string{"acme.example\r\nMAIL FROM:<x@y>", "acme\n.example"} {
		r := newRelay(t, says("220 hi"), says("250 hi"))
		conn, err := brief().DialTenant(t.Context(), r.Addr().String())
		require.NoError(t, err)
		_, err = mail.Greet(conn, mail.Server{Host: "127.0.0.1"}, brief().TLS("127.0.0.1"), name)
		require.Error(t, err)
		_ = conn.Close()
		require.Empty(t, r.end(t))
	}
}
