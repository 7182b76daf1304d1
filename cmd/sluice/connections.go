package main

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connectionsMax bounds the connections of the API at once, and with them the bytes of small bodies and of headers in memory.
	connectionsMax = 4096
	// connectionsCrowded is from when on no connection is kept for a next request, so that those who only stay do not shut the others out.
	connectionsCrowded = connectionsMax * 3 / 4
	// refusalsMax bounds those who are told that there is no room; others only see their connection closed.
	refusalsMax = 256
	// refusalTimeout is how long one of them has to listen.
	refusalTimeout = time.Second
	// refusalReads is how much of its request is read and forgotten, since closing a connection with bytes unread takes the answer away.
	refusalReads = 64 << 10
)

// refusal is what a connection beyond the bound is told.
const refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 128\r\n\r\n" +
	`{"type":"about:blank","title":"Service Unavailable","status":503,"code":"server.busy","detail":"Too many connections are open."}`

// connections is a listener that has no more than so many connections open, and tells the others to come again: a queue in the kernel would only
// make everyone wait, and says nothing.
type connections struct {
	net.Listener

	server  *http.Server
	most    int64
	crowded int64

	open      atomic.Int64
	refusing  chan struct{}
	mu        sync.Mutex
	keptAlive bool
	applying  sync.Mutex
}

func newConnections(l net.Listener, server *http.Server, most, crowded int64) *connections {
	return &connections{Listener: l, server: server, most: most, crowded: crowded, refusing: make(chan struct{}, refusalsMax), keptAlive: true}
}

// Accept gives the next connection that there is room for.
func (c *connections) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.open.Add(1) <= c.most {
			c.keep()
			return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { c.open.Add(-1); c.keep() })}, nil
		}
		c.open.Add(-1)
		select {
		case c.refusing <- struct{}{}:
			go func() {
				refuse(conn)
				<-c.refusing
			}()
		default:
			_ = conn.Close()
		}
	}
}

// keep has connections kept alive while there are few. The server closes those that idle when it is told not to.
func (c *connections) keep() {
	open := c.open.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	want := c.keptAlive
	switch {
	case open >= c.crowded:
		want = false
	case open < c.crowded/2: //nolint:mnd // not at the same number, so that it does not flutter
		want = true
	}
	if want != c.keptAlive {
		c.keptAlive = want
		go c.apply() // closes connections, which come back here
	}
}

// apply tells the server what holds now, whichever of several tells it last.
func (c *connections) apply() {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.mu.Lock()
	kept := c.keptAlive
	c.mu.Unlock()
	c.server.SetKeepAlivesEnabled(kept)
}

// refuse answers without having been asked, and hears the request out so that the answer arrives.
func refuse(conn net.Conn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(refusalTimeout)) != nil {
		return
	}
	if _, err := io.WriteString(conn, refusal); err != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, conn, refusalReads)
}

// countedConn tells when it is closed.
type countedConn struct {
	net.Conn

	closed func()
}

// Close closes it.
func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
