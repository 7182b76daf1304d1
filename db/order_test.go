package db_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

func TestParseOrderReadsSettings(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]db.Order{
		`{}`:                               {Mode: "none"},
		`{"order":null,"order_dead":null}`: {Mode: "none"},
		`{"order":"none","signing":1}`:     {Mode: "none"},
		`{"order":"latest"}`:               {Mode: "latest", Window: 2 * time.Second},
		`{"order":"latest","order_window_seconds":null}`: {Mode: "latest", Window: 2 * time.Second},
		`{"order":"latest","order_window_seconds":0}`:    {Mode: "latest"},
		`{"order":"latest","order_window_seconds":300}`:  {Mode: "latest", Window: 5 * time.Minute},
		`{"order":"serial"}`:                             {Mode: "serial"},
		`{"order":"serial","order_dead":"pass"}`:         {Mode: "serial"},
		`{"order":"serial","order_dead":"block"}`:        {Mode: "serial", DeadBlocks: true},
	} {
		fields := map[string]json.RawMessage{}
		require.NoError(t, json.Unmarshal([]byte(settings), &fields))
		order, faults := db.ParseOrder(fields)
		require.Empty(t, faults, settings)
		require.Equal(t, want, order, settings)
		for name := range fields {
			require.Equal(t, "signing", name, "what is left is the source's")
		}
	}
}

func TestParseOrderNamesEachFault(t *testing.T) {
	t.Parallel()
	for settings, places := range map[string][]string{
		`{"order":"newest"}`:                                                  {"order"},
		`{"order":7}`:                                                         {"order"},
		`{"order_window_seconds":5}`:                                          {"order_window_seconds"},
		`{"order":"serial","order_window_seconds":5}`:                         {"order_window_seconds"},
		`{"order":"latest","order_window_seconds":301}`:                       {"order_window_seconds"},
		`{"order":"latest","order_window_seconds":-1}`:                        {"order_window_seconds"},
		`{"order":"latest","order_window_seconds":1.5}`:                       {"order_window_seconds"},
		`{"order":"latest","order_window_seconds":"2"}`:                       {"order_window_seconds"},
		`{"order":"latest","order_dead":"pass"}`:                              {"order_dead"},
		`{"order":"serial","order_dead":"stop"}`:                              {"order_dead"},
		`{"order":true,"order_window_seconds":"x","order_dead":{"a":"pass"}}`: {"order", "order_window_seconds", "order_dead"},
	} {
		fields := map[string]json.RawMessage{}
		require.NoError(t, json.Unmarshal([]byte(settings), &fields))
		_, faults := db.ParseOrder(fields)
		found := make([]string, len(faults))
		for i, f := range faults {
			found[i] = f.Place
			require.NotEmpty(t, f.Message)
		}
		require.Equal(t, places, found, settings)
	}
}

// drawnRun is a run as a property test drew it.
type drawnRun struct {
	id, event  uuid.UUID
	occurredAt time.Time
	sequence   int64
}

// inOrder compares as the promise says: by the time of the event, then by the source's number, then by receipt.
func inOrder(a, b drawnRun) int {
	return cmp.Or(a.occurredAt.Compare(b.occurredAt), cmp.Compare(a.sequence, b.sequence), bytes.Compare(a.event[:], b.event[:]))
}

// drawRuns keeps some events of one entity with a run each, many of them tied.
func drawRuns(t *testing.T, r *rapid.T, b *dbtest.Bundle, p planted, ordering, entity string) []drawnRun {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	runs := make([]drawnRun, rapid.IntRange(1, 7).Draw(r, "runs"))
	for i := range runs {
		runs[i] = drawnRun{
			id: tenants.NewID(), event: tenants.NewID(), occurredAt: start.Add(time.Duration(rapid.IntRange(0, 2).Draw(r, "second")) * time.Second),
			sequence: rapid.Int64Range(-1, 1).Draw(r, "sequence"),
		}
		admit(t, b.DB, delivered(p, `{}`, db.EventNew{
			ID: runs[i].event, SourceEventID: runs[i].event.String(), Entity: entity, Sequence: &runs[i].sequence, OccurredAt: &runs[i].occurredAt,
			Verdicts: json.RawMessage(`[]`),
			Runs: []db.RunNew{{
				ID: runs[i].id, AutomationID: p.automation, AutomationVersion: 1, Mode: "shadow", Priority: "routine", Ordering: ordering,
			}},
		}))
	}
	return runs
}

// TestNewerIsWhatThePromiseSays draws tied and untied runs, and holds what the database says is newest against the promise in plain Go.
func TestNewerIsWhatThePromiseSays(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	drawn := 0
	rapid.Check(t, func(r *rapid.T) {
		drawn++
		runs := drawRuns(t, r, b, p, db.OrderLatest, fmt.Sprintf("entity:%d", drawn))
		sorted := slices.SortedFunc(slices.Values(runs), inOrder)
		require.NoError(r, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
			for i, one := range sorted {
				run, err := tx.RunGet(ctx, one.id)
				require.NoError(r, err)
				newer, err := tx.RunNewer(ctx, run)
				if i == len(sorted)-1 {
					require.ErrorIs(r, err, db.ErrNotFound)
					continue
				}
				require.NoError(r, err)
				require.Equal(r, sorted[len(sorted)-1].event, newer.EventID)
			}
			return nil
		}))
	})
}

// TestNewerIsOfTheSameAutomationAndAlive: neither another automation's run nor a cancelled one makes a run superfluous.
func TestNewerIsOfTheSameAutomationAndAlive(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	other := p
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		a, err := tx.AutomationInsert(ctx, p.endpoint, "other", json.RawMessage(`{"name":"x"}`), uuid.Nil)
		other.automation = a.ID
		return err
	}))
	keep := func(of planted, entity string) uuid.UUID {
		e := eventNew(tenants.NewID().String(), "")
		id := tenants.NewID()
		e.Entity = entity
		e.Runs = []db.RunNew{{ID: id, AutomationID: of.automation, AutomationVersion: 1, Mode: "shadow", Priority: "routine", Ordering: db.OrderLatest}}
		admit(t, b.DB, delivered(p, `{}`, e))
		return id
	}
	first := keep(p, "issue:1")
	keep(other, "issue:1")
	keep(p, "issue:2")
	newer := func() (newer db.Newer, err error) {
		err = b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
			run, err := tx.RunGet(ctx, first)
			if err == nil {
				newer, err = tx.RunNewer(ctx, run)
			}
			return err
		})
		return newer, err
	}
	_, err := newer()
	require.ErrorIs(t, err, db.ErrNotFound)
	last := keep(p, "issue:1")
	_, err = newer()
	require.NoError(t, err)
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error { return tx.RunCancel(ctx, last, "cancelled.person", "No.") }))
	_, err = newer()
	require.ErrorIs(t, err, db.ErrNotFound)
}

// TestLineOfAnEntityMovesInOrder plays claims, ends, deaths, retries and cancellations of one entity's runs in any order, as jobs and people make
// them, and holds after each: one at most is begun, it began with nothing in front of it, and whoever waits for its turn has something to wait for.
func TestLineOfAnEntityMovesInOrder(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	blocking, passing := plant(t, b, "blocking"), plant(t, b, "passing")
	for _, p := range []planted{blocking, passing} {
		settings := map[bool]string{true: `{"order":"serial","order_dead":"block"}`, false: `{"order":"serial"}`}[p == blocking]
		require.NoError(t, b.DB.Tenant(t.Context(), p.tenant, func(tx db.TenantTx) error {
			_, err := tx.EndpointUpdate(t.Context(), p.endpoint, db.EndpointChange{Settings: json.RawMessage(settings)})
			return err
		}))
	}
	drawn := 0
	rapid.Check(t, func(r *rapid.T) {
		drawn++
		l := &line{r: r, b: b, blocks: rapid.Bool().Draw(r, "blocks"), t: t}
		l.p = map[bool]planted{true: blocking, false: passing}[l.blocks]
		l.runs = slices.SortedFunc(slices.Values(drawRuns(t, r, b, l.p, db.OrderSerial, fmt.Sprintf("entity:%d", drawn))), inOrder)
		r.Repeat(map[string]func(*rapid.T){
			"claim": func(r *rapid.T) { l.claim(rapid.SampledFrom(l.runs).Draw(r, "run")) },
			"end": func(r *rapid.T) {
				l.end(rapid.SampledFrom([]db.RunStatus{db.RunDone, db.RunSkipped, db.RunDead}).Draw(r, "status"))
			},
			"cancel": func(r *rapid.T) { l.cancel(rapid.SampledFrom(l.runs).Draw(r, "run")) },
			"retry":  func(r *rapid.T) { l.retry(rapid.SampledFrom(l.runs).Draw(r, "run")) },
			"":       func(*rapid.T) { l.check() },
		})
	})
}

// line is one entity's runs in order.
type line struct {
	r      *rapid.T
	b      *dbtest.Bundle
	t      *testing.T
	p      planted
	blocks bool
	runs   []drawnRun
}

func (l *line) tx(fn func(tx db.TenantTx) error) {
	require.NoError(l.r, l.b.Worker.Tenant(l.t.Context(), l.p.tenant, fn))
}

func (l *line) now() []db.Run {
	out := make([]db.Run, len(l.runs))
	l.tx(func(tx db.TenantTx) (err error) {
		for i, one := range l.runs {
			if out[i], err = tx.RunGet(l.t.Context(), one.id); err != nil {
				return err
			}
		}
		return nil
	})
	return out
}

// inTheWay says whether a run keeps those behind it waiting.
func (l *line) inTheWay(run db.Run) bool {
	return !run.Status.Ended() || run.Status == db.RunDead && l.blocks
}

func begun(run db.Run) bool { return run.StartedAt != nil && !run.Status.Ended() }

func (l *line) claim(one drawnRun) {
	before := l.now()
	l.tx(func(tx db.TenantTx) error {
		run, err := tx.RunClaim(l.t.Context(), one.id, time.Hour)
		if errors.Is(err, db.ErrNotFound) {
			return nil
		}
		require.NoError(l.r, err)
		front, err := tx.RunFront(l.t.Context(), run)
		if err == nil {
			return tx.RunBehind(l.t.Context(), run, "It waits for "+front.ID.String())
		}
		require.ErrorIs(l.r, err, db.ErrNotFound)
		for _, other := range before {
			if other.ID == run.ID {
				break
			}
			require.False(l.r, l.inTheWay(other), "it began with an earlier one in front of it")
		}
		return nil
	})
}

func (l *line) handOver(tx db.TenantTx, run db.Run) error {
	if _, err := tx.RunHandOver(l.t.Context(), run); !errors.Is(err, db.ErrNotFound) {
		return err
	}
	return nil
}

func (l *line) end(status db.RunStatus) {
	for _, run := range l.now() {
		if run.Status != db.RunRunning {
			continue
		}
		l.tx(func(tx db.TenantTx) error {
			if err := tx.RunStep(l.t.Context(), run.ID, run.Epoch, db.RunStep{Status: status, Reason: "test"}); err != nil {
				return err
			}
			return l.handOver(tx, run)
		})
	}
}

func (l *line) cancel(one drawnRun) {
	l.tx(func(tx db.TenantTx) error {
		run, err := tx.RunGet(l.t.Context(), one.id)
		if err != nil {
			return err
		}
		if err := tx.RunCancel(l.t.Context(), one.id, "cancelled.person", "No."); errors.Is(err, db.ErrConflict) {
			return nil
		} else if err != nil {
			return err
		}
		return l.handOver(tx, run)
	})
}

func (l *line) retry(one drawnRun) {
	l.tx(func(tx db.TenantTx) error {
		err := tx.RunRetry(l.t.Context(), one.id, db.RunQueued, []db.RunStatus{db.RunDead}, "retried", "Again.")
		if errors.Is(err, db.ErrConflict) {
			return nil
		}
		return err
	})
}

func (l *line) check() {
	runs := l.now()
	count := 0
	for _, run := range runs {
		if begun(run) {
			count++
		}
	}
	require.LessOrEqual(l.r, count, 1, "two at once")
	if count == 1 {
		return
	}
	if front := slices.IndexFunc(runs, l.inTheWay); front >= 0 {
		require.NotEqual(l.r, db.RunWaiting, runs[front].Status, "it waits for nobody")
	}
	l.tx(func(tx db.TenantTx) error {
		forgotten, err := tx.RunForgotten(l.t.Context(), 0, len(runs))
		for _, run := range forgotten {
			require.NotEqual(l.r, runs[0].Entity, run.Entity)
		}
		return err
	})
}
