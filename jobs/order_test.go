package jobs_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/scripted"
	"sluice/tenants"
)

// arrival is an event as the intake keeps it.
type arrival struct {
	ordering, entity, title string
	at                      int // seconds of the event's own time
	sequence                *int64
	notBefore               time.Time
	unposted                bool
}

// arrive keeps an event with a run of each automation, and their jobs.
func (h *house) arrive(a arrival, automations ...uuid.UUID) []uuid.UUID {
	h.t.Helper()
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC).Add(time.Duration(a.at) * time.Second)
	e := db.EventNew{ID: tenants.NewID(), Entity: a.entity, Type: "issue.changed", OccurredAt: &at, Sequence: a.sequence, Verdicts: json.RawMessage(`[]`)}
	e.SourceEventID = e.ID.String()
	var ids []uuid.UUID
	var posted []jobs.RunArgs
	for _, automation := range automations {
		r := db.RunNew{ID: tenants.NewID(), AutomationID: automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: a.ordering}
		e.Runs = append(e.Runs, r)
		ids = append(ids, r.ID)
		if !a.unposted {
			posted = append(posted, jobs.RunArgs{TenantID: h.tenant, RunID: r.ID, NotBefore: a.notBefore})
		}
	}
	body, err := json.Marshal(map[string]string{"title": a.title})
	require.NoError(h.t, err)
	require.NoError(h.t, h.base.DB.Door(h.t.Context(), func(tx db.DoorTx) error {
		if _, err := tx.Admit(h.t.Context(), []*db.Delivery{{
			TenantID: h.tenant, EndpointID: h.endpoint, Source: "standard", Headers: json.RawMessage(`{}`), Body: body, BodySHA256: []byte("hash"),
			Events: []db.EventNew{e},
		}}); err != nil {
			return err
		}
		return h.poster.PostRuns(h.t.Context(), tx.Pgx(), posted)
	}))
	return ids
}

// settings sets the endpoint's.
func (h *house) settings(text string) {
	h.t.Helper()
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.EndpointUpdate(h.t.Context(), h.endpoint, db.EndpointChange{Settings: json.RawMessage(text)})
		return err
	})
}

// unswept is for tests of what must go on without the sweeper, which would cover it up after a while.
func unswept(s *settings) { s.sweep = time.Hour }

func (h *house) run(id uuid.UUID) db.Run {
	h.t.Helper()
	return h.until(id, func(db.Run) bool { return true })
}

// cancel ends a run as the API does.
func (h *house) cancel(id uuid.UUID) {
	h.t.Helper()
	run := h.run(id)
	h.tx(func(tx db.TenantTx) error {
		if err := tx.RunCancel(h.t.Context(), id, "cancelled.person", "A person cancelled it."); err != nil {
			return err
		}
		return h.poster.HandOver(h.t.Context(), tx, run)
	})
}

// titleRE finds the title in the prompt that the provider was sent, behind the fence.
var titleRE = regexp.MustCompile(`<data-[0-9a-f]+>([^<]*)</data-`)

// asked are the titles that the provider was asked about, in order.
func (h *house) asked() []string {
	h.t.Helper()
	var titles []string
	for _, entry := range h.provider.Journal() {
		m := titleRE.FindStringSubmatch(entry.Prompt)
		require.NotNil(h.t, m, entry.Prompt)
		titles = append(titles, m[1])
	}
	return titles
}

func TestJobWithATimeIsTakenWhenItIsDue(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	due := time.Now().Add(time.Second)
	id := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "a", notBefore: due}, h.automation(nil))[0]
	var state string
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select state from river.river_job`).Scan(&state))
	require.Equal(t, "available", state, "it must not wait for River's scheduler, which comes every 5 s")
	h.work()
	run := h.ended(id)
	require.Equal(t, db.RunDone, run.Status)
	require.False(t, run.StartedAt.Before(due.Truncate(time.Microsecond)), "started %s, due %s", run.StartedAt, due)
	var jobs int
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from river.river_job where kind = 'run'`).Scan(&jobs))
	require.Equal(t, 1, jobs, "the sweeper finds nothing amiss in a job that is not due")
}

func TestBurstFoldsIntoItsLast(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(nil)
	const burst = 30
	ids := make([]uuid.UUID, burst)
	for _, i := range rand.Perm(burst - 1) {
		ids[i] = h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: fmt.Sprint(i), at: i}, automation)[0]
	}
	ids[burst-1] = h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "last", at: burst}, automation)[0]
	alone := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:2", title: "alone", at: 1}, automation)[0]
	nobody := h.arrive(arrival{ordering: db.OrderLatest, title: "nobody", at: 0}, automation)[0]
	h.work(unswept)
	h.work(unswept)
	last := h.ended(ids[burst-1])
	require.Equal(t, db.RunDone, last.Status)
	require.Zero(t, last.TokensSaved)
	for _, id := range ids[:burst-1] {
		run := h.ended(id)
		require.Equal(t, db.RunSkipped, run.Status)
		require.Equal(t, db.ReasonFolded, run.Reason)
		require.Contains(t, run.Detail, tenants.FormatID(tenants.EventPrefix, last.EventID))
		require.Greater(t, run.TokensSaved, int64(50))
		require.Zero(t, run.CostPico)
	}
	require.Equal(t, db.RunDone, h.ended(alone).Status)
	require.Equal(t, db.RunDone, h.ended(nobody).Status)
	require.ElementsMatch(t, []string{"last", "alone", "nobody"}, h.asked())
	require.Len(t, h.target.Journal(), 3)
}

func TestLateEventIsStale(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(nil)
	h.work()
	newest := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "newest", at: 9}, automation)[0]
	require.Equal(t, db.RunDone, h.ended(newest).Status)
	late := h.ended(h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "late", at: 8}, automation)[0])
	require.Equal(t, db.RunSkipped, late.Status)
	require.Equal(t, db.ReasonStale, late.Reason)
	require.Contains(t, late.Detail, tenants.FormatID(tenants.EventPrefix, h.run(newest).EventID))
	// Of one time, the number decides, and of one number, receipt.
	one, two := int64(1), int64(2)
	second := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:2", title: "second", at: 9, sequence: &two}, automation)[0]
	require.Equal(t, db.RunDone, h.ended(second).Status)
	require.Equal(t, db.ReasonStale, h.ended(h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:2", title: "first", at: 9, sequence: &one}, automation)[0]).Reason)
	tied := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:2", title: "tied", at: 9, sequence: &two}, automation)[0]
	require.Equal(t, db.RunDone, h.ended(tied).Status)
	require.Equal(t, []string{"newest", "second", "tied"}, h.asked())
}

// folded makes an arrival's run one that was folded some seconds ago, as a worker would have.
func (h *house) folded(id uuid.UUID, secondsAgo int) {
	h.t.Helper()
	h.tx(func(tx db.TenantTx) error {
		run, err := tx.RunClaim(h.t.Context(), id, time.Minute)
		if err != nil {
			return err
		}
		return tx.RunStep(h.t.Context(), id, run.Epoch, db.RunStep{Status: db.RunSkipped, Reason: db.ReasonFolded, Detail: "It is folded."})
	})
	_, err := h.base.Owner.Exec(h.t.Context(), `update sluice.runs set finished_at = now() - make_interval(secs => $2) where id = $1`, id, secondsAgo)
	require.NoError(h.t, err)
}

// TestSteadyStreamIsNotStarved: events come faster than the window for ever; one of them goes on every ten windows, and only one.
func TestSteadyStreamIsNotStarved(t *testing.T) {
	t.Parallel()
	for secondsAgo, goOn := range map[int]int{20: 0, 35: 1} {
		t.Run(fmt.Sprint(secondsAgo), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.settings(`{"order":"latest","order_window_seconds":1}`)
			automation := h.automation(nil)
			next := func(at int, a arrival) uuid.UUID {
				a.ordering, a.entity, a.title, a.at = db.OrderLatest, "issue:1", fmt.Sprint(at), at
				id := h.arrive(a, automation)[0]
				// As if each had come a second after the one before.
				_, err := h.base.Owner.Exec(t.Context(), `update sluice.runs set created_at = date_trunc('second', now()) + make_interval(secs => $2 - 100) where id = $1`, id, at)
				require.NoError(t, err)
				return id
			}
			h.folded(next(0, arrival{unposted: true}), secondsAgo)
			const stream = 20
			var ids []uuid.UUID
			for i := range stream {
				ids = append(ids, next(i+1, arrival{}))
			}
			next(stream+1, arrival{notBefore: time.Now().Add(time.Hour)})
			h.work()
			h.work()
			h.work()
			done := 0
			for _, id := range ids {
				if run := h.ended(id); run.Status == db.RunDone {
					done++
				} else {
					require.Equal(t, db.ReasonFolded, run.Reason)
				}
			}
			require.Equal(t, goOn, done)
			require.Len(t, h.provider.Journal(), goOn)
		})
	}
}

func TestSupersededRunFetchesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.target.Script(scripted.TargetStep{Body: `{"a":1}`})
	automation := h.automation(map[string]any{"fetch": map[string]any{"url": h.url + "/state"}, "action": map[string]any{"kind": "none"}})
	first := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "1", at: 1}, automation)[0]
	second := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "2", at: 2}, automation)[0]
	h.work()
	require.Equal(t, db.ReasonFolded, h.ended(first).Reason)
	require.Equal(t, db.RunDone, h.ended(second).Status)
	require.Len(t, h.target.Journal(), 1)
}
