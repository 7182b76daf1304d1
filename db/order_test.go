package db_test

import (
	"bytes"
	"cmp"
	"encoding/json"
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

// TestBurstIsTooLongWhenNothingOfItWentOn: what was folded counts from the last run that went on, and nothing goes on behind a newer one.
func TestBurstIsTooLongWhenNothingOfItWentOn(t *testing.T) {
	t.Parallel()
	const long, short = 31, 29 // seconds, on both sides of the least that a burst is folded
	for name, c := range map[string]struct {
		before  []string // what became of the runs before this one, oldest first
		folded  int      // seconds since the first of them was folded
		after   string   // what became of the run after it
		tooLong bool
	}{
		"Young":            {[]string{"folded", "folded"}, short, "queued", false},
		"Old":              {[]string{"folded", "folded"}, long, "queued", true},
		"OldAndNextFolded": {[]string{"folded"}, long, "folded", true},
		"Overtaken":        {[]string{"folded"}, long, "running", false},
		"OvertakenAndDone": {[]string{"folded"}, long, "done", false},
		"OneWentOnSince":   {[]string{"folded", "done"}, long, "queued", false},
		"OneIsGoingOn":     {[]string{"folded", "running"}, long, "queued", false},
		"OneWentOnBefore":  {[]string{"done", "folded"}, long, "queued", true},
		"StaleIsNoFold":    {[]string{"stale"}, long, "queued", false},
		"Nothing":          {nil, long, "queued", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := dbtest.New(t)
			p := plant(t, b, "one")
			ctx := t.Context()
			become := func(what string) (id uuid.UUID) {
				e := eventNew(tenants.NewID().String(), "")
				id, e.Entity = tenants.NewID(), "issue:1"
				e.Runs = []db.RunNew{{ID: id, AutomationID: p.automation, AutomationVersion: 1, Mode: "shadow", Priority: "routine", Ordering: db.OrderLatest}}
				admit(t, b.DB, delivered(p, `{}`, e))
				if what == "queued" {
					return id
				}
				require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
					run, err := tx.RunClaim(ctx, id, time.Hour)
					if err != nil || what == "running" {
						return err
					}
					step := db.RunStep{Status: db.RunSkipped, Reason: "order." + what}
					if what == "done" {
						step = db.RunStep{Status: db.RunDone}
					}
					return tx.RunStep(ctx, id, run.Epoch, step)
				}))
				_, err := b.Owner.Exec(ctx, `update sluice.runs set finished_at = finished_at - make_interval(secs => $2) where id = $1`, id, c.folded)
				require.NoError(t, err)
				return id
			}
			for _, what := range c.before {
				become(what)
			}
			id := become("queued")
			become(c.after)
			require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
				run, err := tx.RunGet(ctx, id)
				require.NoError(t, err)
				burst, err := tx.RunBurst(ctx, run)
				require.Equal(t, c.tooLong, burst.TooLong(), "%+v", burst)
				return err
			}))
		})
	}
	wide := db.Burst{FoldingSeconds: 99, Settings: json.RawMessage(`{"order":"latest","order_window_seconds":10}`)}
	require.False(t, wide.TooLong(), "ten windows of ten seconds")
	wide.FoldingSeconds = 100
	require.True(t, wide.TooLong())
}
