package outbound_test

import (
	"context"
	"io"
	"net"
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
