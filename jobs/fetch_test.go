package jobs_test

import (
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/scripted"
	"sluice/tenants"
)

// fetchToken is the credential of the tests' fetches.
const fetchToken = "token-of-the-source-1234"

// fetchHouse is a house whose automation fetches from a target of its own, with a credential.
type fetchHouse struct {
	*house

	source     *scripted.Target
	automation uuid.UUID
}

// take works an event to its end.
func (h *fetchHouse) take(body string) db.Run {
	h.t.Helper()
	id := h.event(h.automation, body)
	h.work()
	return h.ended(id)
}

func fetching(t *testing.T, path string, changes map[string]any) *fetchHouse {
	t.Helper()
	h := newHouse(t)
	source, err := scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = source.Close() })
	url, err := source.Listen("127.0.0.1:0")
	require.NoError(t, err)
	var credential db.Credential
	h.tx(func(tx db.TenantTx) (err error) {
		credential, err = tx.CredentialInsert(t.Context(), "source", "bearer", tenants.NewSecret(fetchToken))
		return err
	})
	fetch := map[string]any{"url": url + path, "credential_id": tenants.FormatID(tenants.CredentialPrefix, credential.ID)}
	maps.Copy(fetch, changes)
	return &fetchHouse{house: h, source: source, automation: h.automation(map[string]any{
		"fetch": fetch, "prompt": map[string]any{"user": "{{ payload.id }} is {% if state %}{{ state.status }}{% else %}gone{% endif %}"},
	})}
}

func TestFetchedStateIsInThePrompt(t *testing.T) {
	t.Parallel()
	h := fetching(t, "/tickets/{{ payload.id }}?of={{ payload.of }}", nil)
	h.source.Script(scripted.TargetStep{Body: `{"status": "closed </data> now"}`})
	done := h.take(`{"id": 17, "of": "a&b"}`)
	require.Equal(t, db.RunDone, done.Status, done.Detail)
	asked := h.source.Journal()
	require.Len(t, asked, 1)
	require.Equal(t, "GET /tickets/17 of=a%26b", asked[0].Method+" "+asked[0].Path+" "+asked[0].Query)
	require.Equal(t, "application/json", asked[0].Header.Get("Accept"))
	require.Equal(t, "Bearer "+fetchToken, asked[0].Header.Get("Authorization"))
	require.Len(t, h.provider.Journal(), 1)
	require.Regexp(t, `^<data-\w+>17</data-\w+> is <data-\w+>closed </data> now</data-\w+>$`, h.provider.Journal()[0].Prompt)
	var told []string
	h.tx(func(tx db.TenantTx) error {
		marks, err := tx.RunHistory(t.Context(), done.EventID)
		for _, m := range marks {
			told = append(told, m.Detail)
		}
		return err
	})
	require.Regexp(t, `status 200, 32 bytes, \d+ ms`, told[len(told)-2], "%q", told)
}

func TestFetchDecidesBeforeTheModel(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		steps    []scripted.TargetStep
		notFound string
		status   db.RunStatus
		reason   string
		attempt  int
		asked    int // of the source
		prompt   string
	}{
		"NotFoundSkips":     {[]scripted.TargetStep{{Status: 404}}, "skip", db.RunSkipped, "fetch.not_found", 1, 1, ""},
		"GoneSkips":         {[]scripted.TargetStep{{Status: 410}}, "skip", db.RunSkipped, "fetch.not_found", 1, 1, ""},
		"NotFoundFails":     {[]scripted.TargetStep{{Status: 404}}, "fail", db.RunDead, "fetch.not_found", 1, 1, ""},
		"NotFoundContinues": {[]scripted.TargetStep{{Status: 404}}, "continue", db.RunDone, "", 1, 1, "is gone"},
		"Unauthorized":      {[]scripted.TargetStep{{Status: 401}}, "skip", db.RunDead, "fetch.refused", 1, 1, ""},
		"Forbidden":         {[]scripted.TargetStep{{Status: 403}}, "skip", db.RunDead, "fetch.refused", 1, 1, ""},
		"BadRequest":        {[]scripted.TargetStep{{Status: 400}}, "skip", db.RunDead, "fetch.refused", 1, 1, ""},
		"Redirect":          {[]scripted.TargetStep{{Status: 302, Location: "http://169.254.169.254/"}}, "skip", db.RunDead, "fetch.redirect", 1, 1, ""},
		"NotJSON":           {[]scripted.TargetStep{{Body: "<html>"}}, "skip", db.RunDead, "fetch.malformed", 1, 1, ""},
		"Empty":             {[]scripted.TargetStep{{Status: 204}}, "skip", db.RunDead, "fetch.malformed", 1, 1, ""},
		"TooLarge":          {[]scripted.TargetStep{{BodyBytes: 1<<20 + 1}}, "skip", db.RunDead, "fetch.too_large", 1, 1, ""},
		"LargeIsFine":       {[]scripted.TargetStep{{Body: `{"status":"x","y":"` + string(make65k()) + `"}`}}, "skip", db.RunDone, "", 1, 1, "x"},
		"RateLimited":       {[]scripted.TargetStep{{Status: 429, RetryAfter: "1"}, {Body: `{"status":"open"}`}}, "skip", db.RunDone, "", 1, 2, "open"},
		"Unavailable":       {[]scripted.TargetStep{{Status: 503, RetryAfter: "1"}, {Body: `{"status":"open"}`}}, "skip", db.RunDone, "", 2, 2, "open"},
		"ConnectionCut":     {[]scripted.TargetStep{{Cut: true}, {Body: `{"status":"open"}`}}, "skip", db.RunDone, "", 2, 2, "open"},
		"TimedOut":          {[]scripted.TargetStep{{Hang: true}, {Body: `{"status":"open"}`}}, "skip", db.RunDone, "", 2, 2, "open"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := fetching(t, "/x/{{ payload.id }}", map[string]any{"not_found": c.notFound})
			h.source.Script(c.steps...)
			ended := h.take(`{"id": 17}`)
			require.Equal(t, c.status, ended.Status, ended.Detail)
			require.Equal(t, c.reason, ended.Reason)
			require.Equal(t, c.attempt, ended.Attempt)
			require.Len(t, h.source.Journal(), c.asked)
			if c.prompt == "" {
				require.Empty(t, h.provider.Journal(), "nothing is spent on the model")
				require.Empty(t, h.target.Journal())
				require.Contains(t, ended.Detail, "ms", "the detail tells of the fetch")
				return
			}
			require.Len(t, h.provider.Journal(), 1)
			require.Contains(t, h.provider.Journal()[0].Prompt, c.prompt)
		})
	}
}

// make65k is more than the door takes of an action's answer.
func make65k() []byte {
	out := make([]byte, 65<<10)
	for i := range out {
		out[i] = 'a'
	}
	return out
}

func TestFetchWaitsAsItIsAskedTo(t *testing.T) {
	t.Parallel()
	for status, spent := range map[int]int{http.StatusTooManyRequests: 0, http.StatusServiceUnavailable: 1} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			h := fetching(t, "/x", nil)
			h.source.Script(scripted.TargetStep{Status: status, RetryAfter: "600"})
			id := h.event(h.automation, `{}`)
			h.work()
			run := h.until(id, func(r db.Run) bool { return r.Status == db.RunWaiting })
			require.Equal(t, "fetch.failed", run.Reason)
			require.Greater(t, run.Until.Sub(run.UpdatedAt), 9*time.Minute)
			require.Equal(t, spent, run.Attempt)
		})
	}
}

// TestFetchWaitsLongerEachTime: a source that says wait for ever is not asked for ever at one pace.
func TestFetchWaitsLongerEachTime(t *testing.T) {
	t.Parallel()
	h := fetching(t, "/x", nil)
	h.source.Script(scripted.TargetStep{Status: 429, RetryAfter: "1"})
	id := h.event(h.automation, `{}`)
	_, err := h.base.Owner.Exec(t.Context(), `update sluice.runs set epoch = 8 where id = $1`, id)
	require.NoError(t, err)
	h.work()
	run := h.until(id, func(r db.Run) bool { return r.Status == db.RunWaiting })
	require.Greater(t, run.Until.Sub(run.UpdatedAt), 4*time.Minute)
}

func TestFetchThatAlwaysFailsEndsTheRun(t *testing.T) {
	t.Parallel()
	h := fetching(t, "/x", nil)
	h.source.Script(scripted.TargetStep{Status: 500})
	id := h.event(h.automation, `{}`)
	_, err := h.base.Owner.Exec(t.Context(), `update sluice.runs set attempts_max = 1 where id = $1`, id)
	require.NoError(t, err)
	h.work()
	run := h.ended(id)
	require.Equal(t, db.RunDead, run.Status)
	require.Equal(t, "fetch.failed", run.Reason)
	require.Nil(t, run.Until)
}

// TestAttackersPayloadCannotMoveTheFetch: whatever stands in the payload, the credential goes to the written host and below the written path.
func TestAttackersPayloadCannotMoveTheFetch(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"../../admin", "..", "", "a/../../b", `..\\admin`, "%2e%2e/admin", "..;/admin", `a\r\nX-Injected: 1`} {
		t.Run("Refused "+id, func(t *testing.T) {
			t.Parallel()
			h := fetching(t, "/tickets/{{ payload.id }}", nil)
			ended := h.take(`{"id": "` + id + `"}`)
			require.Equal(t, db.RunDead, ended.Status)
			require.Equal(t, "fetch.url", ended.Reason)
			require.Empty(t, h.source.Journal())
			require.Empty(t, h.target.Journal())
			require.Empty(t, h.provider.Journal())
		})
	}
	for id, path := range map[string]string{
		"@evil.example/": "/tickets/%40evil.example%2F", "//evil.example": "/tickets/%2F%2Fevil.example", "1?admin=1#": "/tickets/1%3Fadmin%3D1%23",
		"1&b=2": "/tickets/1%26b%3D2", "{{ payload.secret }}": "/tickets/%7B%7B%20payload.secret%20%7D%7D",
	} {
		t.Run("OnePiece "+id, func(t *testing.T) {
			t.Parallel()
			h := fetching(t, "/tickets/{{ payload.id }}", nil)
			h.source.Script(scripted.TargetStep{Body: `{}`})
			ended := h.take(`{"id": "` + id + `"}`)
			require.Equal(t, db.RunDone, ended.Status, ended.Detail)
			require.Len(t, h.source.Journal(), 1)
			require.Equal(t, path, h.source.Journal()[0].Path)
			require.Empty(t, h.source.Journal()[0].Query)
		})
	}
}

func TestFetchWithoutItsCredentialIsNotMade(t *testing.T) {
	t.Parallel()
	h := fetching(t, "/x", map[string]any{"credential_id": "crd_01980000000070008000000000000000"})
	ended := h.take(`{}`)
	require.Equal(t, "fetch.no_credential", ended.Reason)
	require.Empty(t, h.source.Journal())
	require.Empty(t, h.provider.Journal())
	open := fetching(t, "/x", map[string]any{"credential_id": ""})
	open.source.Script(scripted.TargetStep{Body: `{}`})
	require.Equal(t, db.RunDone, open.take(`{}`).Status)
	require.Empty(t, open.source.Journal()[0].Header.Get("Authorization"))
}

func TestFetchGoesNowhereTheDoorDoesNot(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, url := range []string{"https://169.254.169.254/latest", "http://example.com/x"} {
		id := h.event(h.automation(map[string]any{"fetch": map[string]any{"url": url}}), `{}`)
		h.work()
		require.Equal(t, "fetch.blocked", h.ended(id).Reason, url)
	}
	require.Empty(t, h.provider.Journal())
}
