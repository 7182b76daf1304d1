// Package outbound is the one door out of the house: whatever leaves for another system leaves through it.
//
// It has two sides. Do carries requests to addresses that a tenant chose, which may be chosen to harm: the address that is
// really dialled is checked at every dial, nothing is followed, nothing is unpacked, and every answer has a size and a time.
// Operator carries requests to addresses that the operator configured, such as a model provider's: no address is refused,
// but the same caps, deadlines and spans hold.
//
// What must not enter: what a request means. Signatures, retries, credentials and the reading of an answer belong to those
// who call; no tenant, run or event is known here, and no address is remembered.
package outbound

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
)

// The limits of the door. Those that Config does not name hold for everybody.
const (
	addressesMax           = 16               // of one name that are tried: a name with thousands would make a flood of one request
	connectTimeout         = 5 * time.Second  // one TCP connection, all addresses of a name together
	handshakeTimeout       = 5 * time.Second  // one TLS handshake
	idleConnsPerHostMax    = 128              // kept to one provider, so that a burst of calls does not dial for each
	idleTimeout            = 90 * time.Second // after which an unused connection to a provider is closed
	conversationBytesMax   = 64 << 10         // all that a mail server says over one connection, its certificates included
	operatorBytesMax       = 16 << 20         // one answer of a model provider, streamed or not
	pingAfter              = 15 * time.Second // of silence on HTTP/2, after which a ping asks whether the peer is still there
	pingTimeout            = 10 * time.Second // after which an unanswered ping closes the connection
	responseBytesMax       = 64 << 10         // one answer of a tenant's target
	responseHeaderBytesMax = 32 << 10         // the header of any answer
	timeoutDefault         = 15 * time.Second // the lower end of what the Standard Webhooks specification recommends
	urlBytesMax            = 2048             // an address that a tenant may save
	userAgent              = "Sluice/1"
)

// portsDefault are the ports that a tenant's target may listen on: https, and the customary second https. Port 80 is not
// among them, since no plain http leaves for the world.
var portsDefault = []uint16{443, 8443}

// mailPorts are the ports that a tenant's mail server may listen on: those of mail submission (RFC 8314), and the customary third. Port 25 is not
// among them: it is for servers among themselves, and a relay there would have no need of a login.
var mailPorts = []uint16{465, 587, 2525}

// Config says how a door behaves. The zero Config is the strict one for production.
type Config struct {
	// AllowLoopback lets tenants' requests reach this machine's own loopback addresses, on any port and over plain http too.
	// It is for development and tests; every other address stays guarded.
	AllowLoopback bool
	// Deny adds networks that no tenant may reach, such as the public addresses of the operator's own hosts.
	Deny []netip.Prefix
	// OperatorBytesMax caps the body of an answer to an Operator client. Zero means 16 MiB.
	OperatorBytesMax int64
	// Ports are the ports that tenants' targets may use. Empty means 443 and 8443.
	Ports []uint16
	// Resolver looks names up. Nil means the system's.
	Resolver *net.Resolver
	// ResponseBytesMax caps what is kept of the body of a target's answer. Zero means 64 KiB.
	ResponseBytesMax int64
	// RootCAs are the authorities that are trusted. Nil means the system's.
	RootCAs *x509.CertPool
	// Timeout bounds a whole guarded exchange: lookup, connection, handshake, request and answer. Zero means 15 s.
	Timeout time.Duration
	// TracerProvider makes the spans. Nil means the global one.
	TracerProvider trace.TracerProvider
}

// A Door is the way out. It is safe for concurrent use.
type Door struct {
	dialer           *net.Dialer // to what the operator configured
	publicDialer     *net.Dialer // to what a tenant chose, and likewise the two below
	loopbackDialer   *net.Dialer
	mailDialer       *net.Dialer
	operator         http.RoundTripper
	operatorBytesMax int64
	overTLS          *wire // to the world, and to loopback where Config allows it
	plain            *wire // to loopback only
	public, mail     guard
	rootCAs          *x509.CertPool
	allowLoopback    bool
	tracer           trace.Tracer
}

// New opens a door.
func New(c Config) *Door {
	c.Timeout = cmp.Or(c.Timeout, timeoutDefault)
	c.ResponseBytesMax = cmp.Or(c.ResponseBytesMax, responseBytesMax)
	if len(c.Ports) == 0 {
		c.Ports = portsDefault
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	tracer := c.TracerProvider.Tracer("sluice/jobs/outbound")
	d := &Door{
		allowLoopback:    c.AllowLoopback,
		dialer:           &net.Dialer{Resolver: c.Resolver, Timeout: connectTimeout},
		rootCAs:          c.RootCAs,
		operator:         operatorTransport(c),
		operatorBytesMax: cmp.Or(c.OperatorBytesMax, operatorBytesMax),
		public:           guard{deny: denied(c.Deny), loopback: c.AllowLoopback, ports: c.Ports},
		tracer:           tracer,
	}
	d.mail = guard{deny: d.public.deny, loopback: c.AllowLoopback, ports: mailPorts}
	d.publicDialer, d.mailDialer = tenantDialer(c, d.public), tenantDialer(c, d.mail)
	d.loopbackDialer = tenantDialer(c, guard{loopback: c.AllowLoopback})
	tenant := wire{bytesMax: c.ResponseBytesMax, timeout: c.Timeout, tracer: tracer}
	overTLS, plain := tenant, tenant
	overTLS.base, plain.base = tenantTransport(c, d.publicDialer), tenantTransport(c, d.loopbackDialer)
	d.overTLS, d.plain = &overTLS, &plain
	return d
}

// Operator returns a client for an address that the operator configured. It refuses no address, follows no redirect,
// ignores the environment's proxy, and ends a whole exchange, the reading of the body included, after timeout. Its errors,
// and those of reading a body, are or wrap an *Error, so that errors.As tells whether the request may have arrived. No
// trace header is added. Clients of one door share their connections.
func (d *Door) Operator(timeout time.Duration) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		// The client's own Timeout is not used: its error hides the cause, and with it whether the request was sent.
		Transport: &wire{base: d.operator, bytesMax: d.operatorBytesMax, timeout: timeout, tracer: d.tracer},
	}
}

// tenantDialer dials what the guard lets pass.
func tenantDialer(c Config, g guard) *net.Dialer {
	return &net.Dialer{ControlContext: g.control, KeepAlive: -1, Resolver: c.Resolver, Timeout: connectTimeout}
}

// tenantTransport speaks HTTP/1.1 over what a guarded dialer connects. Each request has a connection of its own: none is shared
// between tenants, and no request is silently repeated on a second connection.
func tenantTransport(c Config, dialer *net.Dialer) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return whileWanted(ctx, func(ctx context.Context) (net.Conn, error) {
				return dialer.DialContext(counting(ctx), "tcp", absolute(address))
			})
		},
		DisableCompression:     true, // a compressed answer is not asked for, and not unpacked
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: responseHeaderBytesMax,
		Proxy:                  nil, // a proxy would resolve the name itself, behind the guard's back
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs},
		TLSHandshakeTimeout:    handshakeTimeout,
	}
}

// absolute makes the host of an address a fully qualified name, so that the resolver's search list is not tried: with it, a
// name could end up inside the operator's own domain.
func absolute(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "localhost" || strings.HasSuffix(host, ".") {
		return address
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return address
	}
	return net.JoinHostPort(host+".", port)
}

// operatorTransport keeps connections and speaks HTTP/2, and notices a peer that went away without a word.
func operatorTransport(c Config) *http.Transport {
	dialer := &net.Dialer{Resolver: c.Resolver, Timeout: connectTimeout}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{PingTimeout: pingTimeout, SendPingTimeout: pingAfter},
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    idleConnsPerHostMax,
		MaxResponseHeaderBytes: responseHeaderBytesMax,
		Proxy:                  nil,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs},
		TLSHandshakeTimeout:    handshakeTimeout,
	}
}
