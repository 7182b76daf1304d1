package outbound

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

// Dial connects to an address that the operator configured, as host:port, for a protocol that is not HTTP, such as a mail server's. As with
// Operator, no address is refused. The connection ends, whatever is under way on it, when ctx does or after timeout, and no more than 64 KiB are read
// on it. An error is an *Error.
func (d *Door) Dial(ctx context.Context, address string, timeout time.Duration) (net.Conn, error) {
	return dial(ctx, d.dialer, address, timeout)
}

// DialTenant connects to a mail server that a tenant named, as host:port. As with Do, the address that is really dialled is checked at every dial;
// the ports are those of mail submission, or any on this machine where Config allows it. The connection ends when ctx does, or when the time of a
// guarded exchange is over, and no more than 64 KiB are read on it. An error is an *Error.
func (d *Door) DialTenant(ctx context.Context, address string) (net.Conn, error) {
	address, err := d.mailServer(address)
	if err != nil {
		return nil, err
	}
	return dial(ctx, d.mailDialer, absolute(address), d.overTLS.timeout)
}

// CheckDial tells whether a tenant may save host:port as a mail server. Like CheckURL it looks at how the address is written, and asks nobody.
func (d *Door) CheckDial(address string) error {
	_, err := d.mailServer(address)
	return err
}

// mailServer reads host:port and returns it in its one spelling, or says why it is refused.
func (d *Door) mailServer(address string) (string, error) {
	host, written, err := net.SplitHostPort(address)
	if err != nil || host == "" || len(address) > urlBytesMax {
		return "", badURL("the address must be a host and a port")
	}
	if host, err = hostName(host); err != nil {
		return "", err
	}
	number, err := strconv.ParseUint(written, 10, 16)
	if err != nil || number == 0 {
		return "", badURL("the port must be a number from 1 to 65535")
	}
	if err := d.named(d.mail, host, uint16(number)); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.FormatUint(number, 10)), nil
}

func dial(caller context.Context, dialer *net.Dialer, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(caller, timeout)
	conn, err := dialer.DialContext(counting(ctx), "tcp", address)
	if err != nil {
		cancel()
		return nil, classify(err, &progress{}, caller.Err)
	}
	// A deadline in the past ends a read or a write that waits.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	result := &bounded{Conn: conn, release: func() { stop(); cancel() }}
	result.left.Store(conversationBytesMax)
	return result, nil
}

// TLS is how such a connection is encrypted: to a server of this name, with the door's authorities.
func (d *Door) TLS(serverName string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: d.rootCAs, ServerName: serverName}
}

// bounded is a connection on which so much is read and no more, since the readers of line protocols keep an answer until it ends, and which lets go
// of its timer when it is closed.
type bounded struct {
	net.Conn

	left    atomic.Int64 // bytes that may still be read
	release func()
}

func (b *bounded) Read(p []byte) (int, error) {
	left := b.left.Load()
	if left <= 0 {
		return 0, &Error{Kind: TooLarge, Sent: true}
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), left)])
	b.left.Add(int64(-n))
	return n, err
}

func (b *bounded) Close() error {
	b.release()
	return b.Conn.Close()
}
