package outbound_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
)

// certificate makes a certificate by an authority of the test's own, or one that has signed itself.
func certificate(t *testing.T, change func(*x509.Certificate), selfSigned bool) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	require.NoError(t, err)
	trusted, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(trusted)

	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "target"}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		DNSNames: []string{"hook.localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(leaf)
	parent := trusted
	if selfSigned {
		parent = leaf
	}
	raw, err = x509.CreateCertificate(rand.Reader, leaf, parent, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, roots
}

func TestTLSThatIsNotToBeTrusted(t *testing.T) {
	t.Parallel()
	good := func(*x509.Certificate) {}
	raw := func(what string, endless bool) func(net.Conn, tls.Certificate) {
		return func(conn net.Conn, _ tls.Certificate) {
			_, _ = io.WriteString(conn, what)
			if endless {
				forever(conn, block)
			}
		}
	}
	secure := func(c *tls.Config) func(net.Conn, tls.Certificate) {
		return func(conn net.Conn, own tls.Certificate) {
			config := c.Clone()
			config.Certificates = []tls.Certificate{own}
			server := tls.Server(conn, config)
			drain(server)
			_, _ = io.WriteString(server, ok200+"Content-Length: 0\r\n\r\n")
		}
	}
	for name, c := range map[string]struct {
		change     func(*x509.Certificate)
		selfSigned bool
		serve      func(net.Conn, tls.Certificate)
		kind       outbound.Kind // "" is an answer
	}{
		"good":             {good, false, secure(&tls.Config{}), ""},
		"TLS 1.2":          {good, false, secure(&tls.Config{MaxVersion: tls.VersionTLS12}), ""},
		"TLS 1.1":          {good, false, secure(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), outbound.TLS},
		"TLS 1.0":          {good, false, secure(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}), outbound.TLS},
		"has ended":        {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, false, secure(&tls.Config{}), outbound.TLS},
		"not begun":        {func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, false, secure(&tls.Config{}), outbound.TLS},
		"another's":        {func(c *x509.Certificate) { c.DNSNames = []string{"other.localhost"} }, false, secure(&tls.Config{}), outbound.TLS},
		"common name only": {func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "hook.localhost" }, false, secure(&tls.Config{}), outbound.TLS},
		"too wide":         {func(c *x509.Certificate) { c.DNSNames = []string{"*"} }, false, secure(&tls.Config{}), outbound.TLS},
		"for clients": {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, false,
			secure(&tls.Config{}), outbound.TLS},
		"by itself":      {good, true, secure(&tls.Config{}), outbound.TLS},
		"no TLS":         {good, false, raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false), outbound.TLS},
		"endless no TLS": {good, false, raw("220 smtp.example ESMTP\r\n", true), outbound.TLS},
		"endless hello":  {good, false, raw("\x16\x03\x03\x40\x00\x02\xff\xff\xff", true), outbound.TLS},
		"alert":          {good, false, raw("\x15\x03\x03\x00\x02\x02\x28", false), outbound.TLS},
		"half a hello":   {good, false, raw("\x16\x03\x03\x00\x7a\x02\x00", false), outbound.Timeout},
		"silence":        {good, false, raw("", false), outbound.Timeout},
		"dripping hello": {good, false, func(conn net.Conn, _ tls.Certificate) {
			_, _ = io.WriteString(conn, "\x16\x03\x03\x40\x00")
			dripping(conn, "\x02")
		}, outbound.Timeout},
		"hangs up at once": {good, false, func(conn net.Conn, _ tls.Certificate) { _ = conn.Close() }, outbound.TLS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own, roots := certificate(t, c.change, c.selfSigned)
			h := hostile(t, func(conn net.Conn) { c.serve(conn, own) })
			_, port, err := net.SplitHostPort(h.Addr().String())
			require.NoError(t, err)
			config := outbound.Config{
				AllowLoopback: true, RootCAs: roots, Resolver: book(map[string][]netip.Addr{"hook.localhost.": addrs("127.0.0.1")}).resolver(),
			}
			if c.kind == outbound.Timeout {
				config.Timeout = 500 * time.Millisecond
			}
			d := outbound.New(config)
			res, err := post(t, d, "https://hook.localhost:"+port)
			if c.kind == "" {
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, res.Status)
			} else {
				e := failure(t, err)
				require.Equal(t, c.kind, e.Kind, "%v", e.Unwrap())
				require.False(t, e.Sent, "nothing of the request leaves before the handshake")
				require.Contains(t, sentences, e.Error())
			}
			h.endWithin(t, handshakeEnds)
		})
	}
}

// A server that wants to know us by a certificate says so after the request has left, by TLS 1.3: then nobody knows.
func TestRefusalAfterTheHandshakeIsInDoubt(t *testing.T) {
	t.Parallel()
	own, roots := certificate(t, func(*x509.Certificate) {}, false)
	h := hostile(t, func(conn net.Conn) {
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}).Handshake()
	})
	_, port, err := net.SplitHostPort(h.Addr().String())
	require.NoError(t, err)
	d := outbound.New(outbound.Config{
		AllowLoopback: true, RootCAs: roots, Resolver: book(map[string][]netip.Addr{"hook.localhost.": addrs("127.0.0.1")}).resolver(),
	})
	_, err = post(t, d, "https://hook.localhost:"+port)
	require.True(t, failure(t, err).Sent)
	h.end(t)
}
