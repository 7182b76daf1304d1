package scripted_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// hooked is a GitHub on a socket, and the client that trusts it.
type hooked struct {
	*scripted.GitHub

	t      *testing.T
	server *httptest.Server
}

func newHooked(t *testing.T, target string) hooked {
	t.Helper()
	github := scripted.NewGitHub(scripted.GitHubConfig{
		Hook: "/repos/octo/demo/hooks/1", Token: "token", Target: target, Secret: "It's a Secret to Everybody", Now: time.Now,
	})
	server := httptest.NewTLSServer(github)
	t.Cleanup(server.Close)
	return hooked{github, t, server}
}

// ask asks the API, and returns status, body and the address of the next page.
func (h hooked) ask(method, address, bearer string) (status int, body, next string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, address, nil)
	require.NoError(h.t, err)
	req.Header.Set("Authorization", "Bearer "+bearer)
	res, err := h.server.Client().Do(req)
	require.NoError(h.t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(h.t, err)
	for link := range strings.SplitSeq(res.Header.Get("Link"), ", ") {
		if address, ok := strings.CutSuffix(link, `>; rel="next"`); ok {
			next = strings.TrimPrefix(address, "<")
		}
	}
	return res.StatusCode, string(text), next
}

func TestGitHubListsNewestFirstByCursor(t *testing.T) {
	t.Parallel()
	h := newHooked(t, "")
	for range 65 {
		h.Add(scripted.GitHubDelivery{DeliveredAt: time.Now(), StatusCode: 200, Event: "push"}, nil)
	}
	hook := h.server.URL + "/repos/octo/demo/hooks/1/deliveries"
	var ids []int64
	pages := 0
	for address := hook; address != ""; pages++ {
		status, body, next := h.ask(http.MethodGet, address, "token")
		require.Equal(t, http.StatusOK, status)
		var rows []scripted.GitHubDelivery
		require.NoError(t, json.Unmarshal([]byte(body), &rows))
		for _, row := range rows {
			ids = append(ids, row.ID)
		}
		address = strings.Replace(next, "/repositories/1/hooks/1", "/repos/octo/demo/hooks/1", 1)
	}
	require.Equal(t, 3, pages, "30 to a page")
	require.Len(t, ids, 65)
	for i := range ids[1:] {
		require.Greater(t, ids[i], ids[i+1])
	}
	status, body, next := h.ask(http.MethodGet, hook+"?per_page=1000", "token")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, 65, strings.Count(body, `"guid"`))
	require.Empty(t, next)
}

func TestGitHubRedelivers(t *testing.T) {
	t.Parallel()
	var heard []http.Header
	status := http.StatusInternalServerError
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard = append(heard, r.Header)
		w.WriteHeader(status)
	}))
	t.Cleanup(target.Close)
	h := newHooked(t, target.URL)
	lost := h.Deliver(t.Context(), "push", []byte("Hello, World!"))
	require.Equal(t, http.StatusInternalServerError, lost.StatusCode)
	// The vector of docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries.
	require.Equal(t, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17", heard[0].Get("X-Hub-Signature-256"))
	status = http.StatusOK
	attempts := h.server.URL + "/repos/octo/demo/hooks/1/deliveries/" + strconv.FormatInt(lost.ID, 10) + "/attempts"
	answered, _, _ := h.ask(http.MethodPost, attempts, "token")
	require.Equal(t, http.StatusAccepted, answered)
	require.Len(t, heard, 2)
	require.Equal(t, heard[0].Get("X-GitHub-Delivery"), heard[1].Get("X-GitHub-Delivery"))
	all := h.Deliveries()
	require.Len(t, all, 2)
	require.True(t, all[1].Redelivery)
	require.Equal(t, http.StatusOK, all[1].StatusCode)
}

func TestGitHubRefuses(t *testing.T) {
	t.Parallel()
	h := newHooked(t, "")
	old := h.Add(scripted.GitHubDelivery{DeliveredAt: time.Now().Add(-73 * time.Hour), StatusCode: 500, Event: "push"}, nil)
	hook := h.server.URL + "/repos/octo/demo/hooks/1/deliveries"
	for _, c := range []struct {
		method, address, bearer string
		status                  int
	}{
		{http.MethodGet, hook, "another", 401},
		{http.MethodGet, hook, "", 401},
		{http.MethodGet, hook, "a.b.c", 401},
		{http.MethodGet, hook + "?cursor=v1_x", "token", 422},
		{http.MethodGet, h.server.URL + "/repos/octo/demo/hooks/2/deliveries", "token", 404},
		{http.MethodPost, hook + "/1/attempts", "token", 404},
		{http.MethodPost, hook + "/" + strconv.FormatInt(old.ID, 10) + "/attempts", "token", 422},
	} {
		status, _, _ := h.ask(c.method, c.address, c.bearer)
		require.Equal(t, c.status, status, "%s %s", c.method, c.address)
	}
	require.Len(t, h.Journal(), 7)
	require.False(t, h.Journal()[0].Authorized)
	require.Empty(t, h.Journal()[0].Header.Get("Authorization"), "a journal keeps no token")
	h.Script(scripted.GitHubStep{Status: 429, Header: map[string]string{"Retry-After": "1"}, Body: "slow"})
	status, body, _ := h.ask(http.MethodGet, hook, "token")
	require.Equal(t, "429 slow", strconv.Itoa(status)+" "+body)
}
