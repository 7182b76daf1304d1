package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestConnectionsBeyondTheBoundAreToldToComeAgain: who comes too many is answered, those who are in are served, and room that is given back is used.
func TestConnectionsBeyondTheBoundAreToldToComeAgain(t *testing.T) {
	t.Parallel()
	const most, crowded, long = 8, 6, 10 * time.Second
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	go func() { _ = server.Serve(newConnections(listener, server, most, crowded)) }()
	t.Cleanup(func() { _ = server.Close() })
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(long)))
		return conn
	}
	ask := func(conn net.Conn) *http.Response {
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.EqualValues(t, answer.ContentLength, len(text))
		return answer
	}
	first := dial()
	require.Equal(t, http.StatusNoContent, ask(first).StatusCode)
	held := []net.Conn{first}
	for len(held) < most { // these say nothing yet
		held = append(held, dial())
	}
	// The crowd closes who only idles, which makes room for one.
	_, err = first.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	held = append(held, dial())
	for range 3 {
		refused := ask(dial())
		require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
		require.Equal(t, "5", refused.Header.Get("Retry-After"))
		require.Equal(t, "application/problem+json", refused.Header.Get("Content-Type"))
	}
	require.Equal(t, http.StatusNoContent, ask(held[1]).StatusCode, "who is in is served")
	_, err = held[1].Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "and makes room")
	for _, conn := range held[2:] {
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool {
		conn := dial()
		answer := ask(conn)
		return answer.StatusCode == http.StatusNoContent && !answer.Close
	}, long, 10*time.Millisecond, "few again: kept alive")
}
