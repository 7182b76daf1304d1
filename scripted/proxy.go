package scripted

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A ProxyFault is what a Proxy does to connections. The zero fault does nothing.
type ProxyFault struct {
	// Latency is waited before each piece goes on, in either direction.
	Latency time.Duration
	// BytesPerSecond bounds each direction of each connection; 0 is no bound.
	BytesPerSecond int
	// Blackhole lets nothing go on in either direction, not even the end of a connection, and tells nobody. What was swallowed goes on when it ends,
	// as what is sent again after a partition does.
	Blackhole bool
	// Refuse resets new connections at once.
	Refuse bool
	// Every is which connections it is done to: every second, every third. 0 and 1 are all.
	Every int
}

// A Proxy stands before a TCP server and does to its connections what networks do. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener

	mu      sync.Mutex
	target  string
	fault   ProxyFault
	changed chan struct{} // closed, and replaced, when the fault changes
	conns   map[*proxyConn]struct{}
	next    int
	closed  chan struct{}
	closing sync.Once
	ended   sync.WaitGroup
}

// proxyConn is one connection through a Proxy.
type proxyConn struct {
	proxy        *Proxy
	ordinal      int // from 1
	client       net.Conn
	server       net.Conn // nil until it is made
	gone         chan struct{}
	disappearing sync.Once
}

const (
	proxyPiece       = 16 << 10
	proxyDialTimeout = 5 * time.Second
)

// NewProxy listens on a free port of the loopback address and passes connections on to target, host:port, until Close.
func NewProxy(target string) (*Proxy, error) {
	address, err := netip.ParseAddrPort(target)
	if err != nil || !address.Addr().IsLoopback() {
		return nil, fmt.Errorf("proxy to %q: expected a loopback address and a port", target)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy to %s: %w", target, err)
	}
	p := &Proxy{listener: listener, target: target, changed: make(chan struct{}), conns: map[*proxyConn]struct{}{}, closed: make(chan struct{})}
	p.ended.Go(p.accept)
	return p, nil
}

// Addr is where it listens, as host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Retarget passes new connections on to another address.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Set does this fault to connections, those that stand included, from here on.
func (p *Proxy) Set(fault ProxyFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
	close(p.changed)
	p.changed = make(chan struct{})
}

// Cut resets every n-th of the connections that stand, all of them for 0 and 1, and says how many those were.
func (p *Proxy) Cut(every int) (cut int) {
	p.mu.Lock()
	var chosen []*proxyConn
	for c := range p.conns {
		if c.ordinal%max(every, 1) == 0 {
			chosen = append(chosen, c)
		}
	}
	p.mu.Unlock()
	for _, c := range chosen {
		c.reset()
	}
	return len(chosen)
}

// Close resets every connection, and stops listening.
func (p *Proxy) Close() error {
	var err error
	p.closing.Do(func() {
		close(p.closed)
		err = p.listener.Close()
		p.Cut(1)
		p.ended.Wait()
	})
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.next++
		c := &proxyConn{proxy: p, ordinal: p.next, client: client, gone: make(chan struct{})}
		p.conns[c] = struct{}{}
		p.mu.Unlock()
		p.ended.Go(c.serve)
	}
}

// now is the fault as it is for a connection, and what tells of the next; the zero fault where the connection is not among those that are meant.
func (p *Proxy) now(c *proxyConn) (ProxyFault, string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.ordinal%max(p.fault.Every, 1) != 0 {
		return ProxyFault{}, p.target, p.changed
	}
	return p.fault, p.target, p.changed
}

func (c *proxyConn) serve() {
	defer func() {
		c.reset()
		c.proxy.mu.Lock()
		delete(c.proxy.conns, c)
		c.proxy.mu.Unlock()
	}()
	fault, _, _ := c.proxy.now(c)
	if fault.Refuse || !c.pass(0) {
		return
	}
	_, target, _ := c.proxy.now(c)
	server, err := net.DialTimeout("tcp", target, proxyDialTimeout)
	if err != nil {
		return
	}
	c.proxy.mu.Lock()
	c.server = server
	c.proxy.mu.Unlock()
	select {
	case <-c.gone: // It was cut while the server was called.
		return
	default:
	}
	var both sync.WaitGroup
	both.Go(func() { c.pump(c.client, server) })
	both.Go(func() { c.pump(server, c.client) })
	both.Wait()
}

// pump passes on what one side sends, and its end.
func (c *proxyConn) pump(from, to net.Conn) {
	piece := make([]byte, proxyPiece)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			if !c.pass(n) {
				return
			}
			if _, err := to.Write(piece[:n]); err != nil {
				c.reset()
				return
			}
		}
		if err == nil {
			continue
		}
		half, ok := to.(*net.TCPConn)
		if !errors.Is(err, io.EOF) || !ok || !c.pass(0) || half.CloseWrite() != nil {
			c.reset()
		}
		return
	}
}

// pass waits as the fault says until n bytes may go on; false says that the connection is gone.
func (c *proxyConn) pass(n int) bool {
	for {
		fault, _, changed := c.proxy.now(c)
		var hold <-chan time.Time
		if !fault.Blackhole {
			wait := fault.Latency
			if fault.BytesPerSecond > 0 {
				wait += time.Duration(n) * time.Second / time.Duration(fault.BytesPerSecond)
			}
			if wait == 0 {
				return true
			}
			timer := time.NewTimer(wait)
			defer timer.Stop()
			hold, changed = timer.C, nil
		}
		select {
		case <-hold:
			return true
		case <-changed:
		case <-c.gone:
			return false
		case <-c.proxy.closed:
			return false
		}
	}
}

// reset ends both sides without a word: what is on its way is lost.
func (c *proxyConn) reset() {
	c.disappearing.Do(func() {
		close(c.gone)
		_ = c.client.(*net.TCPConn).SetLinger(0)
		_ = c.client.Close()
	})
	c.proxy.mu.Lock()
	server := c.server
	c.proxy.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}
