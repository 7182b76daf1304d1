package outbound_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
)

func TestDial(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	silent := make(chan net.Conn, 2)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				close(silent)
				return
			}
			silent <- conn
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		for conn := range silent {
			_ = conn.Close()
		}
	})
	address := listener.Addr().String()
	d := outbound.New(outbound.Config{})

	conn, err := d.Dial(t.Context(), address, 50*time.Millisecond)
	require.NoError(t, err, "what the operator configured may be on this machine")
	_, err = io.ReadAll(conn)
	require.ErrorContains(t, err, "timeout", "a silent server does not hold us")
	require.NoError(t, conn.Close())

	ctx, cancel := context.WithCancel(t.Context())
	conn, err = d.Dial(ctx, address, time.Hour)
	require.NoError(t, err)
	cancel()
	_, err = io.ReadAll(conn)
	require.Error(t, err, "nor does it when we are told to end")
	require.NoError(t, conn.Close())
	_, err = d.Dial(ctx, address, time.Hour)
	require.Equal(t, outbound.Canceled, failure(t, err).Kind)

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	_, err = d.Dial(t.Context(), closed.Addr().String(), time.Hour)
	require.Equal(t, outbound.Connect, failure(t, err).Kind)
	require.False(t, failure(t, err).Sent)

	require.Equal(t, "mail.example.com", d.TLS("mail.example.com").ServerName)
}

func TestDialTenantIsGuarded(t *testing.T) {
	t.Parallel()
	strict := outbound.New(outbound.Config{Deny: []netip.Prefix{netip.MustParsePrefix("93.184.216.0/24")}})
	for _, address := range []string{"smtp.example.com:587", "SMTP.Example.com.:465", "8.8.8.8:2525", "[2606:4700:4700::1111]:587"} {
		require.NoError(t, strict.CheckDial(address), address)
	}
	for address, kind := range map[string]outbound.Kind{
		"": outbound.BadURL, "smtp.example.com": outbound.BadURL, ":587": outbound.BadURL, "smtp.example.com:0": outbound.BadURL,
		"smtp.example.com:smtp": outbound.BadURL, "smtp:587": outbound.BadURL, "2130706433:587": outbound.BadURL, "0x7f.1:587": outbound.BadURL,
		"a b.example:587": outbound.BadURL, "u@smtp.example.com:587": outbound.BadURL, "[fe80::1%25eth0]:587": outbound.BadURL,
		"smtp.example.com:25": outbound.Blocked, "smtp.example.com:443": outbound.Blocked, "smtp.example.com:22": outbound.Blocked,
		"localhost:587": outbound.Blocked, "mail.localhost:587": outbound.Blocked, "127.0.0.1:587": outbound.Blocked, "[::1]:465": outbound.Blocked,
		"[::ffff:127.0.0.1]:587": outbound.Blocked, "169.254.169.254:587": outbound.Blocked, "10.0.0.1:587": outbound.Blocked, "93.184.216.34:587": outbound.Blocked,
	} {
		require.Equal(t, kind, failure(t, strict.CheckDial(address)).Kind, address)
		_, err := strict.DialTenant(t.Context(), address)
		require.Equal(t, kind, failure(t, err).Kind, address)
		require.False(t, failure(t, err).Sent)
	}
	for reason, list := range blockedAddresses {
		for _, addr := range list {
			require.Equal(t, outbound.Blocked, failure(t, strict.CheckDial(literal(addr)+":587")).Kind, "%s: %s", reason, addr)
		}
	}
}

// The way that counts: a harmless name, and the address that the resolver has for it, which may be another at each dial.
func TestDialTenantLooksAtTheAddressThatIsDialled(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	_, open, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	dns := names(t, map[string][]string{
		"private.example.": {"10.0.0.1"}, "own.example.": {"127.0.0.1"}, "rebind.localhost.": {"127.0.0.1", "169.254.169.254"}, "world.localhost.": {"93.184.216.34"},
	})
	strict := outbound.New(outbound.Config{Resolver: dns.Resolver})
	for _, address := range []string{"private.example:587", "own.example:587"} {
		require.NoError(t, strict.CheckDial(address))
		_, err := strict.DialTenant(t.Context(), address)
		require.Equal(t, outbound.Blocked, failure(t, err).Kind, address)
	}

	dev := outbound.New(outbound.Config{AllowLoopback: true, Resolver: dns.Resolver, Timeout: 50 * time.Millisecond})
	conn, err := dev.DialTenant(t.Context(), "rebind.localhost:"+open)
	require.NoError(t, err, "in development any port of this machine will do")
	_, err = io.ReadAll(conn)
	require.ErrorContains(t, err, "timeout", "a silent server does not hold us")
	require.NoError(t, conn.Close())
	for _, address := range []string{"rebind.localhost:" + open, "world.localhost:22"} {
		_, err = dev.DialTenant(t.Context(), address)
		require.Equal(t, outbound.Blocked, failure(t, err).Kind, address)
	}
}
