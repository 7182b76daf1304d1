package scripted_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// TestVendorSaysHowItIsDriven: a reader who knows nothing but the address finds what to do there, and it does that.
func TestVendorSaysHowItIsDriven(t *testing.T) {
	t.Parallel()
	v := scripted.NewGitHubIssues("the-first-token", time.Now)
	t.Cleanup(func() { _ = v.Close() })
	address, err := v.Listen("127.0.0.1:0")
	require.NoError(t, err)
	ask := func(method, path, body string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), method, address+path, strings.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer the-first-token")
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(answer)
	}
	status, page := ask(http.MethodGet, "/", "")
	require.Equal(t, http.StatusOK, status)
	for _, told := range []string{"scripted github", "/_control", "/_journal", "token"} {
		require.Contains(t, page, told)
	}
	status, _ = ask(http.MethodGet, "/nothing", "")
	require.Equal(t, http.StatusNotFound, status)
	status, _ = ask(http.MethodGet, "/user", "")
	require.Equal(t, http.StatusOK, status)
	status, _ = ask(http.MethodPost, "/_control", `{"token": "another"}`)
	require.Equal(t, http.StatusNoContent, status)
	status, _ = ask(http.MethodGet, "/user", "")
	require.Equal(t, http.StatusUnauthorized, status, "the credential before is refused")
}
