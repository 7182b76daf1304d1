package jobs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/scripted"
	"sluice/tenants"
)

func TestMissedEventIsFoundAskedForOnceAndArrives(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	m := w.missed(atOnce)
	w.status.Store(http.StatusOK)
	w.github.Deliver(t.Context(), "issues", []byte(`{}`))
	w.status.Store(http.StatusServiceUnavailable)
	w.github.Deliver(t.Context(), "ping", []byte(`{}`))
	lost := w.github.Deliver(t.Context(), "issues", []byte(`{}`))
	w.status.Store(http.StatusOK)

	require.NoError(t, m.Look(t.Context()))
	require.Equal(t, []string{attemptsPath(lost)}, w.requests(http.MethodPost))
	state := w.state()
	require.Equal(t, []int64{1, 1, 0}, []int64{state.Found, state.Asked, state.Arrived})
	require.Empty(t, state.Fault)
	require.WithinDuration(t, lost.DeliveredAt, *state.SeenUntil, time.Millisecond)

	require.NoError(t, m.Look(t.Context()))
	state = w.state()
	require.Equal(t, []int64{1, 1, 1}, []int64{state.Found, state.Asked, state.Arrived})
	require.Len(t, w.requests(http.MethodPost), 1)
	require.Empty(t, w.alerts())
	for _, r := range w.github.Journal() {
		require.True(t, r.Authorized)
		require.Equal(t, "application/vnd.github+json", r.Header.Get("Accept"))
		require.Equal(t, "2022-11-28", r.Header.Get("X-GitHub-Api-Version"))
	}
}

func TestMissedEventIsAskedForThriceWithGrowingPauses(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	m := w.missed(atOnce)
	w.github.Deliver(t.Context(), "issues", []byte(`{}`))
	for i, step := range []struct {
		later string
		asks  int
	}{{"0", 1}, {"14 minutes", 1}, {"1 minute", 2}, {"119 minutes", 2}, {"2 minutes", 3}, {"30 hours", 3}} {
		w.exec(`update sluice.missed_events set asked_at = asked_at - $1::interval`, step.later)
		require.NoError(t, m.Look(t.Context()))
		require.Len(t, w.requests(http.MethodPost), step.asks, "step %d", i)
	}
	// What is asked for is the newest attempt: the one before it may be gone by then.
	attempts := w.github.Deliveries()
	require.Len(t, attempts, 4)
	require.Equal(t, attemptsPath(attempts[2]), w.requests(http.MethodPost)[2])
	require.Equal(t, []int64{1, 1, 0}, []int64{w.state().Found, w.state().Asked, w.state().Arrived})
}

func TestWhatArrivedSomehowIsNotAskedFor(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	m := w.missed(atOnce)
	ago := time.Now().Add(-time.Hour)
	// Made again by hand, with success.
	w.github.Add(scripted.GitHubDelivery{GUID: "again", DeliveredAt: ago, StatusCode: 500, Event: "issues"}, nil)
	w.github.Add(scripted.GitHubDelivery{GUID: "again", DeliveredAt: ago.Add(time.Minute), StatusCode: 200, Event: "issues", Redelivery: true}, nil)
	// Stored, though GitHub waited no longer for the answer.
	w.arrive("stored")
	w.github.Add(scripted.GitHubDelivery{GUID: "stored", DeliveredAt: ago, StatusCode: 0, Event: "issues"}, nil)
	// Nothing that an id of ours could look like, and no id that an address could hold.
	w.github.Add(scripted.GitHubDelivery{GUID: "a/../b\x00", DeliveredAt: ago, StatusCode: 500, Event: "issues"}, nil)
	require.NoError(t, m.Look(t.Context()))
	require.Empty(t, w.requests(http.MethodPost))
	require.Equal(t, db.Missed{}.Found, w.state().Found)

	// Asked for, and taken for a copy of another event: answered 2xx, its own id not kept.
	w.github.Add(scripted.GitHubDelivery{GUID: "copy", DeliveredAt: ago, StatusCode: 500, Event: "issues"}, nil)
	require.NoError(t, m.Look(t.Context()))
	require.Len(t, w.requests(http.MethodPost), 1)
	w.github.Add(scripted.GitHubDelivery{GUID: "copy", DeliveredAt: time.Now(), StatusCode: 200, Event: "issues", Redelivery: true}, nil)
	require.NoError(t, m.Look(t.Context()))
	require.Equal(t, []int64{1, 1, 1}, []int64{w.state().Found, w.state().Asked, w.state().Arrived})
}

func TestOnlyThreeDaysAreLookedThrough(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	m := w.missed(atOnce)
	now := time.Now()
	for range 250 {
		w.github.Add(scripted.GitHubDelivery{DeliveredAt: now.Add(-73 * time.Hour), StatusCode: 500, Event: "issues"}, nil)
	}
	young := w.github.Add(scripted.GitHubDelivery{DeliveredAt: now.Add(-71 * time.Hour), StatusCode: 500, Event: "issues"}, nil)
	for range 120 {
		w.github.Add(scripted.GitHubDelivery{DeliveredAt: now.Add(-time.Hour), StatusCode: 200, Event: "issues"}, nil)
	}
	require.NoError(t, m.Look(t.Context()))
	require.Len(t, w.requests(http.MethodGet), 2, "the third page is older than three days")
	require.Equal(t, []string{attemptsPath(young)}, w.requests(http.MethodPost))
	require.Equal(t, int64(1), w.state().Found)

	// The next look ends where the last one began.
	require.NoError(t, m.Look(t.Context()))
	require.Len(t, w.requests(http.MethodGet), 4)
	w.github.Add(scripted.GitHubDelivery{DeliveredAt: now, StatusCode: 200, Event: "issues"}, nil)
	require.NoError(t, m.Look(t.Context()))
	require.NoError(t, m.Look(t.Context()))
	gets := len(w.requests(http.MethodGet))
	require.NoError(t, m.Look(t.Context()))
	require.Len(t, w.requests(http.MethodGet), gets+1)

	// What was asked for in vain is not asked for once it is too old.
	w.exec(`update sluice.missed_events set asked_at = null, asks = 0, sent_at = now() - interval '73 hours'`)
	require.NoError(t, m.Look(t.Context()))
	require.Len(t, w.requests(http.MethodPost), 1)
}

func TestRateLimitsAreHonoured(t *testing.T) {
	t.Parallel()
	resets := func(status int, in time.Duration) func() scripted.GitHubStep {
		return func() scripted.GitHubStep {
			return scripted.GitHubStep{Status: status, Header: map[string]string{
				"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": strconv.FormatInt(time.Now().Add(in).Unix(), 10),
			}}
		}
	}
	after := func(status int, header map[string]string) func() scripted.GitHubStep {
		return func() scripted.GitHubStep { return scripted.GitHubStep{Status: status, Header: header} }
	}
	for name, c := range map[string]struct {
		step func() scripted.GitHubStep
		rest time.Duration
	}{
		"primary":        {resets(403, 30*time.Minute), 30 * time.Minute},
		"primary as 429": {resets(429, 30*time.Minute), 30 * time.Minute},
		"secondary":      {after(403, map[string]string{"Retry-After": "600"}), 10 * time.Minute},
		"without a word": {after(429, nil), time.Minute},
		"for no time":    {after(429, map[string]string{"Retry-After": "-5"}), time.Minute},
		"reset far away": {resets(429, 1000*time.Hour), 2 * time.Hour},
		"retry far away": {after(429, map[string]string{"Retry-After": "99999999"}), 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			m := w.missed(atOnce)
			w.status.Store(http.StatusOK)
			w.github.Add(scripted.GitHubDelivery{DeliveredAt: time.Now(), StatusCode: 500, Event: "issues"}, []byte(`{}`))
			w.github.Script(c.step())
			require.NoError(t, m.Look(t.Context()))
			require.Contains(t, w.state().Fault, "rate limit")
			require.Empty(t, w.alerts(), "a limit ends by itself")
			w.ahead.Store(int64(c.rest - 30*time.Second))
			require.NoError(t, m.Look(t.Context()))
			require.Len(t, w.github.Journal(), 1)
			w.ahead.Store(int64(c.rest + 30*time.Second))
			require.NoError(t, m.Look(t.Context()))
			require.Empty(t, w.state().Fault)
			require.Len(t, w.requests(http.MethodPost), 1)
		})
	}
}

func TestAskThatIsRefusedIsTakenBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		step  scripted.GitHubStep
		posts int // of three events
		asked int64
		alert bool
		fault string
	}{
		"limit":      {scripted.GitHubStep{Status: 429}, 1, 0, false, "rate limit"},
		"no right":   {scripted.GitHubStep{Status: 403}, 1, 0, true, "may not ask"},
		"no key":     {scripted.GitHubStep{Status: 401}, 1, 0, true, "401"},
		"moved":      {scripted.GitHubStep{Status: 307, Header: map[string]string{"Location": "https://127.0.0.1:1/x"}}, 1, 0, true, "307"},
		"gone":       {scripted.GitHubStep{Status: 404}, 3, 3, false, "404"},
		"too old":    {scripted.GitHubStep{Status: 422}, 3, 3, false, "422"},
		"its fault":  {scripted.GitHubStep{Status: 502}, 1, 1, true, "502"},
		"taken well": {scripted.GitHubStep{Status: 202}, 3, 3, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			for range 3 {
				w.github.Add(scripted.GitHubDelivery{DeliveredAt: time.Now(), StatusCode: 500, Event: "issues"}, nil)
			}
			rows, err := json.Marshal(w.github.Deliveries())
			require.NoError(t, err)
			w.github.Script(scripted.GitHubStep{Status: 200, Body: string(rows)}, c.step, c.step, c.step)
			require.NoError(t, w.missed(atOnce).Look(t.Context()))
			require.Len(t, w.requests(http.MethodPost), c.posts)
			require.Equal(t, c.asked, w.state().Asked)
			require.Equal(t, int64(3), w.state().Found)
			require.Equal(t, c.alert, len(w.alerts()) == 1)
			require.Contains(t, w.state().Fault, c.fault)
			require.Equal(t, c.fault == "", w.state().Fault == "")
		})
	}
}

func TestListsThatLie(t *testing.T) {
	t.Parallel()
	var visits atomic.Int32
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	t.Cleanup(elsewhere.Close)
	row := func(more string) string {
		return fmt.Sprintf(`[{"id":1,"guid":"a","delivered_at":%q,"status_code":500,"event":"issues"%s}]`, time.Now().UTC().Format(time.RFC3339), more)
	}
	for name, c := range map[string]struct {
		steps []scripted.GitHubStep
		lie   scripted.GitHubLie
		gets  int
		posts int
		fault string
	}{
		"endless":      {lie: scripted.GitHubLie{Endless: true}, gets: 100, posts: 1, fault: "more than 10000 deliveries"},
		"another host": {lie: scripted.GitHubLie{Endless: true, NextHost: elsewhere.URL}, gets: 1, posts: 1, fault: "another host"},
		"user in host": {lie: scripted.GitHubLie{Endless: true, NextHost: "https://127.0.0.1@evil.example"}, gets: 1, posts: 1, fault: "another host"},
		"itself": {
			steps: []scripted.GitHubStep{
				{Status: 200, Body: row(""), Header: map[string]string{"Link": `<?cursor=1>; rel="next"`}},
				{Status: 200, Body: row(""), Header: map[string]string{"Link": `<?cursor=1>; rel="next"`}},
			}, gets: 2, posts: 1, fault: "its own next",
		},
		"no cursor": {
			steps: []scripted.GitHubStep{{Status: 200, Body: row(""), Header: map[string]string{"Link": `<?page=2>; rel="next"`}}},
			gets:  1, posts: 1, fault: "without a cursor",
		},
		"too long":    {steps: []scripted.GitHubStep{{Status: 200, BodyBytes: 1<<20 + 1}}, gets: 1, fault: "did not end"},
		"no JSON":     {steps: []scripted.GitHubStep{{Status: 200, Body: "<html>"}}, gets: 1, fault: "cannot be read"},
		"an object":   {steps: []scripted.GitHubStep{{Status: 200, Body: `{"message":"canary"}`}}, gets: 1, fault: "cannot be read"},
		"no number":   {steps: []scripted.GitHubStep{{Status: 200, Body: `[{"id":"../../x"}]`}}, gets: 1, fault: "cannot be read"},
		"negative id": {steps: []scripted.GitHubStep{{Status: 200, Body: strings.Replace(row(""), `"id":1`, `"id":-1`, 1)}}, gets: 1},
		"from 98xx":   {steps: []scripted.GitHubStep{{Status: 200, Body: strings.Replace(row(""), `"20`, `"98`, 1)}}, gets: 1, posts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			w.github.Add(scripted.GitHubDelivery{DeliveredAt: time.Now(), StatusCode: 500, Event: "issues"}, nil)
			w.github.Script(c.steps...)
			w.github.Lie(c.lie)
			require.NoError(t, w.missed(atOnce).Look(t.Context()))
			require.Len(t, w.requests(http.MethodGet), c.gets)
			require.Len(t, w.requests(http.MethodPost), c.posts)
			state := w.state()
			require.Contains(t, state.Fault, c.fault)
			require.NotContains(t, state.Fault, "canary")
			if c.posts > 0 && c.fault == "" {
				require.WithinDuration(t, time.Now(), *state.SeenUntil, time.Minute, "no time of theirs is later than now")
			}
			require.Zero(t, visits.Load(), "the credential goes to no other host")
		})
	}
}

func TestTwoWorkersLookOnceAndAskOnce(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"one look": time.Minute, "two looks, one ask": atOnce} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			for range 20 {
				w.github.Add(scripted.GitHubDelivery{DeliveredAt: time.Now(), StatusCode: 500, Event: "issues"}, nil)
			}
			var both sync.WaitGroup
			for range 2 {
				m := w.missed(every)
				both.Go(func() {
					if err := m.Look(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
			asked := map[string]int{}
			for _, path := range w.requests(http.MethodPost) {
				asked[path]++
			}
			require.Len(t, asked, 20)
			require.Len(t, w.requests(http.MethodPost), 20)
			if every != atOnce {
				require.Len(t, w.requests(http.MethodGet), 1)
			}
		})
	}
}

func TestOneLookAsksForFiftyAtMost(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	for range 60 {
		w.github.Add(scripted.GitHubDelivery{DeliveredAt: time.Now(), StatusCode: 500, Event: "issues"}, nil)
	}
	m := w.missed(atOnce)
	require.NoError(t, m.Look(t.Context()))
	require.Len(t, w.requests(http.MethodPost), 50)
	require.NoError(t, m.Look(t.Context()))
	require.Len(t, w.requests(http.MethodPost), 60)
}

func TestHookThatCannotBeReadIsToldOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks func(w *watch)
		fault  string
		mends  func(w *watch)
	}{
		"wrong key":    {func(w *watch) { w.github.Expect("another") }, "401", func(w *watch) { w.github.Expect(hookToken) }},
		"no such hook": {func(w *watch) { w.github.Script(scripted.GitHubStep{Status: 404}, scripted.GitHubStep{Status: 404}) }, "404", nil},
		"no right":     {func(w *watch) { w.github.Script(scripted.GitHubStep{Status: 403}, scripted.GitHubStep{Status: 403}) }, "403", nil},
		"its fault":    {func(w *watch) { w.github.Script(scripted.GitHubStep{Status: 500}, scripted.GitHubStep{Status: 500}) }, "500", nil},
		"moved": {func(w *watch) {
			step := scripted.GitHubStep{Status: 301, Header: map[string]string{"Location": "https://127.0.0.1:1/"}}
			w.github.Script(step, step)
		}, "301", nil},
		"nobody there": {func(w *watch) {
			w.exec(`update sluice.endpoints set settings = settings || '{"redeliver_hook":"https://127.0.0.1:1/app/hook"}'`)
		}, "could not be asked", func(w *watch) {
			w.exec(`update sluice.endpoints set settings = settings || jsonb_build_object('redeliver_hook', $1::text)`, w.server.URL+hookPath)
		}},
		"forbidden address": {func(w *watch) {
			w.exec(`update sluice.endpoints set settings = settings || '{"redeliver_hook":"https://10.0.0.1/app/hook"}'`)
		}, "not allowed", func(w *watch) {
			w.exec(`update sluice.endpoints set settings = settings || jsonb_build_object('redeliver_hook', $1::text)`, w.server.URL+hookPath)
		}},
		"credential of another kind": {
			func(w *watch) { w.exec(`update sluice.credentials set kind = 'openai'`) }, "cannot be used",
			func(w *watch) { w.exec(`update sluice.credentials set kind = 'github'`) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			m := w.missed(atOnce)
			c.breaks(w)
			for range 2 {
				require.NoError(t, m.Look(t.Context()))
				require.Contains(t, w.state().Fault, c.fault)
				require.NotContains(t, w.state().Fault+w.log.String(), hookToken)
			}
			alerts := w.alerts()
			require.Len(t, alerts, 1)
			require.Equal(t, "missed.unreadable", alerts[0].Kind)
			require.Equal(t, tenants.FormatID(tenants.EndpointPrefix, w.endpoint), alerts[0].Subject)
			require.Equal(t, w.state().Fault, alerts[0].Detail)
			require.Nil(t, alerts[0].EndedAt)
			require.Nil(t, w.state().SeenUntil, "nothing was seen")

			if c.mends != nil {
				c.mends(w)
			}
			require.NoError(t, m.Look(t.Context()))
			require.Empty(t, w.state().Fault)
			require.Len(t, w.alerts(), 1)
			require.NotNil(t, w.alerts()[0].EndedAt)
		})
	}
}

// An app's hook answers to a JWT of the app's own key.
func TestAppAsksWithItsKey(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	old := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	converted := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, text := range map[string][]byte{"as GitHub gives it": old, "converted": converted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, jobs.CheckGitHubSecret(jobs.GitHubAppKind, "4711:"+string(text)))
			w := newWatch(t, func(c *scripted.GitHubConfig, kind, secret *string) {
				*c = scripted.GitHubConfig{Hook: "/app/hook", AppID: "4711", AppKey: &key.PublicKey, Target: c.Target, Now: time.Now}
				*kind, *secret = "github_app", "4711:"+string(text)
			})
			w.github.Deliver(t.Context(), "installation", []byte(`{}`))
			w.status.Store(http.StatusOK)
			m := w.missed(atOnce)
			require.NoError(t, m.Look(t.Context()))
			require.NoError(t, m.Look(t.Context()))
			require.Empty(t, w.state().Fault)
			require.Equal(t, int64(1), w.state().Arrived)
		})
	}
}

func TestGitHubSecretsAreChecked(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	weak := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(small)}))
	require.NoError(t, jobs.CheckGitHubSecret(jobs.GitHubTokenKind, "github_pat_0123456789"))
	for _, bad := range []string{"", "short", "with blank in it", "with\nline", strings.Repeat("x", 513)} {
		require.Error(t, jobs.CheckGitHubSecret(jobs.GitHubTokenKind, bad))
	}
	for _, bad := range []string{
		"", "4711", "4711:", ":" + weak, "47 11:" + weak, "4711:" + weak, weak, "4711:" + strings.Replace(weak, "MI", "canary", 1),
		"4711:-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
	} {
		err := jobs.CheckGitHubSecret(jobs.GitHubAppKind, bad)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "canary")
	}
}

func TestWhoIsNotServedIsNotLookedAt(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"disabled":   `update sluice.endpoints set enabled = false`,
		"deleted":    `update sluice.endpoints set deleted_at = now()`,
		"suspended":  `update sluice.tenants set status = 'suspended'`,
		"not set up": `update sluice.endpoints set settings = '{}'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			w.exec(change)
			require.NoError(t, w.missed(atOnce).Look(t.Context()))
			require.Empty(t, w.github.Journal())
		})
	}
}

// A worker looks by itself, and its sweep ends what nobody sees any more.
func TestWorkerLooksAndEndsAlerts(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := newWatch(t)
	w.github.Add(scripted.GitHubDelivery{DeliveredAt: time.Now(), StatusCode: 500, Event: "issues"}, nil)
	w.tx(func(tx db.TenantTx) error {
		for subject, kind := range map[string]string{"loud": db.AlertRejections, "quiet": db.AlertRejections, "seen": db.AlertMissedUnreadable, "unseen": db.AlertMissedUnreadable} {
			if err := tx.AlertBegin(t.Context(), kind, subject, "x"); err != nil {
				return err
			}
		}
		return nil
	})
	w.exec(`update sluice.alerts set last_at = now() - case subject when 'loud' then interval '9 minutes' when 'quiet' then interval '11 minutes'
		when 'seen' then interval '23 hours' else interval '25 hours' end`)
	h.base, h.tenant = w.base, w.tenant
	h.work(func(s *settings) { s.missed = w.missed(10 * time.Second) })
	require.Eventually(t, func() bool {
		ended := map[string]bool{}
		for _, a := range w.alerts() {
			ended[a.Subject] = a.EndedAt != nil
		}
		return ended["quiet"] && ended["unseen"] && !ended["loud"] && !ended["seen"]
	}, waitMax, 20*time.Millisecond)
	require.Eventually(t, func() bool { return len(w.requests(http.MethodPost)) == 1 }, waitMax, 20*time.Millisecond)
}
