package outbound_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/outbound"
)

func TestOperator(t *testing.T) {
	t.Parallel()
	strict := outbound.New(outbound.Config{OperatorBytesMax: 1000})
	ask := func(t *testing.T, url string) ([]byte, int, error) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
		require.NoError(t, err)
		res, err := strict.Operator(300 * time.Millisecond).Do(req)
		if err != nil {
			return nil, 0, err
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		return body, res.StatusCode, err
	}

	t.Run("ReachesAnyAddress", func(t *testing.T) {
		t.Parallel()
		server := target(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answer") })
		body, status, err := ask(t, server.URL)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "answer", string(body))
	})
	t.Run("FollowsNoRedirect", func(t *testing.T) {
		t.Parallel()
		var hits atomic.Int32
		server := target(t, func(w http.ResponseWriter, r *http.Request) {
			hits.Add(1)
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		})
		_, status, err := ask(t, server.URL)
		require.NoError(t, err)
		require.Equal(t, http.StatusTemporaryRedirect, status)
		require.EqualValues(t, 1, hits.Load())
	})
	t.Run("CapsTheAnswer", func(t *testing.T) {
		t.Parallel()
		server := target(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1001)) })
		body, _, err := ask(t, server.URL)
		require.Len(t, body, 1000)
		require.Equal(t, outbound.TooLarge, failure(t, err).Kind)
		require.True(t, failure(t, err).Sent)
	})
	t.Run("EndsASlowBody", func(t *testing.T) {
		t.Parallel()
		_, _, err := ask(t, rawTarget(t, func(conn net.Conn) {
			drain(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
		}))
		require.Equal(t, outbound.Timeout, failure(t, err).Kind)
		require.True(t, failure(t, err).Sent)
	})
	t.Run("TellsWhatWasNotSent", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		_, _, err = ask(t, "http://"+listener.Addr().String())
		require.Equal(t, outbound.Connect, failure(t, err).Kind)
		require.False(t, failure(t, err).Sent)
	})
	t.Run("TellsWhatMayHaveBeenSent", func(t *testing.T) {
		t.Parallel()
		_, _, err := ask(t, rawTarget(t, drain))
		require.Equal(t, outbound.Timeout, failure(t, err).Kind)
		require.True(t, failure(t, err).Sent)
	})
}
