package outbound

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Dial connects to an address that the operator configured, as host:port, for a protocol that is not HTTP, such as a mail server's. As with
// Operator, no address is refused. The connection ends, whatever is under way on it, when ctx does or after timeout. An error is an *Error.
func (d *Door) Dial(ctx context.Context, address string, timeout time.Duration) (net.Conn, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(caller, timeout)
	conn, err := d.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		cancel()
		return nil, classify(err, &progress{}, caller.Err)
	}
	// A deadline in the past ends a read or a write that waits.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return &bounded{Conn: conn, release: func() { stop(); cancel() }}, nil
}

// TLS is how such a connection is encrypted: to a server of this name, with the door's authorities.
func (d *Door) TLS(serverName string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: d.rootCAs, ServerName: serverName}
}

// bounded is a connection that lets go of its timer when it is closed.
type bounded struct {
	net.Conn

	release func()
}

func (b *bounded) Close() error {
	b.release()
	return b.Conn.Close()
}
