package scripted_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// listen serves a target until the end of the test.
func listenTarget(t *testing.T, journal string) (*scripted.Target, string) {
	t.Helper()
	target, err := scripted.NewTarget(scripted.TargetConfig{Journal: journal, Now: time.Now})
	require.NoError(t, err)
	url, err := target.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, target.Close()) })
	return target, url
}

// send posts a body under a key, and returns the status, 0 where there was no answer.
func sendTarget(ctx context.Context, url, key, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("webhook-id", key)
	}
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: true},
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	res.Body = io.NopCloser(bytes.NewReader(b))
	return res, err
}

func controlTarget(t *testing.T, url, script string) int {
	t.Helper()
	res, err := sendTarget(t.Context(), url+"/_control", "", script)
	require.NoError(t, err)
	return res.StatusCode
}

func TestTargetRecords(t *testing.T) {
	t.Parallel()
	target, url := listenTarget(t, "")
	for _, body := range []string{`{"a": "<ü>"}`, "\xff\x00"} {
		res, err := sendTarget(t.Context(), url+"/a%2Fb?c=d", "msg_1", body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	res, err := http.Get(url + "/_journal?after=0")
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	var listed struct{ Data []scripted.TargetEntry }
	require.NoError(t, json.NewDecoder(res.Body).Decode(&listed))

	entries := target.Journal()
	require.Equal(t, entries, listed.Data)
	require.Len(t, entries, 2)
	require.Equal(t, `{"a": "<ü>"}`, string(entries[0].Body))
	require.Equal(t, "\xff\x00", string(entries[1].Body))
	require.Equal(t, "POST /a%2Fb c=d", entries[1].Method+" "+entries[1].Path+" "+entries[1].Query)
	require.Equal(t, "msg_1", entries[0].Header.Get("Webhook-Id"))
	require.Equal(t, []int{1, 2}, []int{entries[0].Ordinal, entries[1].Ordinal})
	require.True(t, entries[0].Acted && !entries[0].Repeat && !entries[1].Acted && entries[1].Repeat)
}

func TestTargetFollowsItsScript(t *testing.T) {
	t.Parallel()
	target, url := listenTarget(t, "")
	require.Equal(t, http.StatusNoContent, controlTarget(t, url, `{"status": [500, 429, 302, 200], "retry_after": 7, "location": "http://x.example/"}`))
	for _, status := range []int{500, 429, 302, 200, 200} {
		res, err := sendTarget(t.Context(), url, "", "")
		require.NoError(t, err)
		require.Equal(t, status, res.StatusCode)
		require.Equal(t, "7", res.Header.Get("Retry-After"))
		require.Equal(t, "http://x.example/", res.Header.Get("Location"))
	}
	target.Script(scripted.TargetStep{BodyBytes: 100_000, DelayMS: 1}, scripted.TargetStep{Body: "hello"})
	for _, length := range []int{100_000, 5} {
		res, err := sendTarget(t.Context(), url, "", "")
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Len(t, body, length)
	}
	require.Equal(t, http.StatusNoContent, controlTarget(t, url, `{}`))
	require.Len(t, target.Journal(), 7, "control requests are not recorded")
}

func TestTargetRefusesAScriptItCannotPlay(t *testing.T) {
	t.Parallel()
	_, url := listenTarget(t, "")
	for _, script := range []string{`{"status": [99]}`, `{"status": "500"}`, `{"statuses": [500]}`, `{"retry_after": []}`, ``} {
		require.Equal(t, http.StatusBadRequest, controlTarget(t, url, script), script)
	}
}

// An effect counts once per key, whatever its callers were told.
func TestTargetCountsEffects(t *testing.T) {
	t.Parallel()
	target, url := listenTarget(t, "")
	require.Equal(t, http.StatusNoContent, controlTarget(t, url,
		`{"steps": [{"status": 500}, {"status": 500, "act": true}, {"cut": true, "act": true}, {"cut": true}, {"status": 200}]}`))
	for i, key := range []string{"a", "a", "b", "c", "a", "b", "c", "", ""} {
		_, err := sendTarget(t.Context(), url, key, "")
		require.Equal(t, i == 2 || i == 3, err != nil)
	}
	var acted, repeats []int
	for _, entry := range target.Journal() {
		if entry.Acted {
			acted = append(acted, entry.Ordinal)
		}
		if entry.Repeat {
			repeats = append(repeats, entry.Ordinal)
		}
	}
	require.Equal(t, []int{2, 3, 7, 8, 9}, acted)
	require.Equal(t, []int{5, 6}, repeats)
}

func TestTargetHangs(t *testing.T) {
	t.Parallel()
	target, url := listenTarget(t, "")
	require.Equal(t, http.StatusNoContent, controlTarget(t, url, `{"hang": true}`))
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for _, ctx := range []context.Context{ctx, t.Context()} {
		waiting.Go(func() {
			_, err := sendTarget(ctx, url, "a", "")
			if err == nil {
				t.Error("a hanging target has answered")
			}
		})
	}
	entries, err := target.Wait(t.Context(), 2)
	require.NoError(t, err)
	require.Zero(t, entries[0].Status)
	require.False(t, entries[0].Acted)
	cancel()                           // lets go of the first
	require.NoError(t, target.Close()) // lets go of the second
	waiting.Wait()
}

func TestTargetWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	target, _ := listenTarget(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := target.Wait(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
}

func TestTargetJournalOutlivesTheTarget(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	first, url := listenTarget(t, path)
	_, err := sendTarget(t.Context(), url, "a", "one")
	require.NoError(t, err)
	before, err := scripted.ReadTargetJournal(path)
	require.NoError(t, err)
	require.Equal(t, first.Journal(), before, "the line is there as soon as the answer is")
	require.NoError(t, first.Close())

	// A process killed as it wrote leaves half a line.
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.WriteString(`{"ordinal": 2, "me`)
	require.NoError(t, err)
	require.NoError(t, file.Close())

	second, url := listenTarget(t, path)
	require.Equal(t, before, second.Journal())
	_, err = sendTarget(t.Context(), url, "a", "two")
	require.NoError(t, err)
	after, err := scripted.ReadTargetJournal(path)
	require.NoError(t, err)
	require.Len(t, after, 2)
	require.Equal(t, "two", string(after[1].Body))
	require.True(t, after[1].Repeat)
}

func TestTargetRefuses(t *testing.T) {
	t.Parallel()
	target, url := listenTarget(t, "")
	res, err := sendTarget(t.Context(), url, "", strings.Repeat("x", 1<<20+1))
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.Empty(t, target.Journal())
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:80", "localhost:0", ""} {
		_, err := target.Listen(address)
		require.Error(t, err, address)
	}
	_, err = scripted.NewTarget(scripted.TargetConfig{Journal: t.TempDir(), Now: time.Now})
	require.Error(t, err)
}
