package scripted_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// proxyPatience bounds what must happen, proxyMoment what must not.
const (
	proxyPatience = 5 * time.Second
	proxyMoment   = 50 * time.Millisecond
)

// echo answers every line with its own name before it.
func echo(t *testing.T, name string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					fmt.Fprintln(conn, name, lines.Text())
				}
				fmt.Fprintln(conn, "bye")
			}()
		}
	}()
	return listener.Addr().String()
}

// proxied is a connection through a proxy.
type proxied struct {
	t *testing.T
	net.Conn
	answers *bufio.Reader
}

func through(t *testing.T, p *scripted.Proxy) proxied {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return proxied{t, conn, bufio.NewReader(conn)}
}

func (c proxied) say(text string) { _, _ = fmt.Fprintln(c.Conn, text) }

func (c proxied) hear(within time.Duration) (string, error) {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(within)))
	line, err := c.answers.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (c proxied) hears(want string) {
	c.t.Helper()
	got, err := c.hear(proxyPatience)
	require.NoError(c.t, err)
	require.Equal(c.t, want, got)
}

func (c proxied) hearsNothing() {
	c.t.Helper()
	_, err := c.hear(proxyMoment)
	var timeout net.Error
	require.ErrorAs(c.t, err, &timeout)
	require.True(c.t, timeout.Timeout(), err)
}

func (c proxied) isGone() {
	c.t.Helper()
	_, err := c.hear(proxyPatience)
	require.Error(c.t, err)
	timeout, ok := err.(net.Error) //nolint:errorlint // the error is the connection's own
	require.False(c.t, ok && timeout.Timeout(), "it stands, and says nothing")
}

func newProxy(t *testing.T, target string) *scripted.Proxy {
	t.Helper()
	p, err := scripted.NewProxy(target)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestProxyPassesOn(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t, "a"))
	c := through(t, p)
	c.say("one")
	c.hears("a one")
	other := echo(t, "b")
	p.Retarget(other)
	c.say("two")
	c.hears("a two")
	d := through(t, p)
	d.say("three")
	d.hears("b three")
	require.NoError(t, d.Conn.(*net.TCPConn).CloseWrite())
	d.hears("bye")
	_, err := d.hear(proxyPatience)
	require.ErrorIs(t, err, io.EOF)
}

func TestProxyCutsAllOrSome(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t, "a"))
	var all []proxied
	for range 4 {
		c := through(t, p)
		c.say("x") // answered, so that it is counted
		c.hears("a x")
		all = append(all, c)
	}
	require.Equal(t, 2, p.Cut(2))
	all[1].isGone()
	all[3].isGone()
	for _, c := range []proxied{all[0], all[2]} {
		c.say("y")
		c.hears("a y")
	}
	p.Cut(1)
	all[0].isGone()
	all[2].isGone()
}

func TestProxyHoldsWhatItSwallowsUntilItIsHealed(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t, "a"))
	stood := through(t, p)
	stood.say("before")
	stood.hears("a before")
	p.Set(scripted.ProxyFault{Blackhole: true, Every: 2})
	fresh := through(t, p) // the second
	fresh.say("one")
	fresh.hearsNothing()
	stood.say("still")
	stood.hears("a still")
	p.Set(scripted.ProxyFault{Blackhole: true})
	stood.say("two")
	stood.hearsNothing()
	p.Set(scripted.ProxyFault{})
	stood.hears("a two")
	fresh.hears("a one")
	p.Set(scripted.ProxyFault{Blackhole: true})
	stood.say("three")
	require.Equal(t, 2, p.Cut(1), "what hangs can be cut")
	stood.isGone()
}

func TestProxyRefusesAndSlowsDown(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t, "a"))
	p.Set(scripted.ProxyFault{Refuse: true})
	if conn, err := net.Dial("tcp", p.Addr()); err == nil { // it may be reset before we hear that it stands
		proxied{t, conn, bufio.NewReader(conn)}.isGone()
		_ = conn.Close()
	}
	for _, slow := range []scripted.ProxyFault{{Latency: 2 * proxyMoment}, {BytesPerSecond: 20}} {
		p.Set(slow)
		c := through(t, p)
		c.say("x")
		c.hearsNothing()
		c.hears("a x")
	}
}

func TestProxyIsForThisMachineAlone(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "example.com:80", "192.0.2.1:80", "127.0.0.1"} {
		_, err := scripted.NewProxy(target)
		require.ErrorContains(t, err, "expected a loopback address", target)
	}
}
