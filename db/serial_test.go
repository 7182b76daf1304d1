package db_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

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
			"claim":  func(r *rapid.T) { l.claim(rapid.SampledFrom(l.runs).Draw(r, "run")) },
			"claim2": func(r *rapid.T) { l.claim(rapid.SampledFrom(l.runs).Draw(r, "run")) },
			"back":   func(*rapid.T) { l.giveBack() },
			"end": func(r *rapid.T) {
				l.end(rapid.SampledFrom([]db.RunStatus{db.RunDone, db.RunDead, db.RunDead}).Draw(r, "status"))
			},
			"cancel": func(r *rapid.T) {
				if rapid.IntRange(0, 4).Draw(r, "seldom") == 0 {
					l.cancel(rapid.SampledFrom(l.runs).Draw(r, "run"))
				}
			},
			"retry": func(*rapid.T) {
				for _, one := range l.runs {
					l.retry(one)
				}
			},
			"": func(*rapid.T) { l.check() },
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
		held := slices.ContainsFunc(before, func(r db.Run) bool { return r.ID == run.ID && begun(r) })
		if err == nil {
			require.False(l.r, held, "it holds the entity, and waits for nobody")
			return tx.RunBehind(l.t.Context(), run, "It waits for "+front.ID.String())
		}
		require.ErrorIs(l.r, err, db.ErrNotFound)
		if held {
			return nil // whatever came in front of it since
		}
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

// giveBack is a worker that is stopped in the middle of its run.
func (l *line) giveBack() {
	for _, run := range l.now() {
		if run.Status != db.RunRunning {
			continue
		}
		l.tx(func(tx db.TenantTx) error {
			return tx.RunStep(l.t.Context(), run.ID, run.Epoch, db.RunStep{Status: db.RunQueued, Reason: "worker.stopped", Refund: true})
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

// lined keeps some runs of one entity, in order.
func lined(t *testing.T, b *dbtest.Bundle, p planted, n int) []uuid.UUID {
	t.Helper()
	ids := make([]uuid.UUID, n)
	for i := range ids {
		at := time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC)
		e := eventNew(tenants.NewID().String(), "")
		ids[i], e.Entity, e.OccurredAt = tenants.NewID(), "issue:1", &at
		e.Runs = []db.RunNew{{ID: ids[i], AutomationID: p.automation, AutomationVersion: 1, Mode: "shadow", Priority: "routine", Ordering: db.OrderSerial}}
		admit(t, b.DB, delivered(p, `{}`, e))
	}
	return ids
}

// begin claims a run, and lets it wait where it must.
func begin(ctx context.Context, tx db.TenantTx, id uuid.UUID) (run db.Run, ok bool, err error) {
	if run, err = tx.RunClaim(ctx, id, time.Hour); err != nil {
		return run, false, err
	}
	front, err := tx.RunFront(ctx, run)
	if errors.Is(err, db.ErrNotFound) {
		return run, true, nil
	} else if err != nil {
		return run, false, err
	}
	return run, false, tx.RunBehind(ctx, run, "It waits for "+front.ID.String())
}

// finish ends a run, and hands over.
func finish(ctx context.Context, tx db.TenantTx, run db.Run) error {
	if err := tx.RunStep(ctx, run.ID, run.Epoch, db.RunStep{Status: db.RunDone}); err != nil {
		return err
	}
	if _, err := tx.RunHandOver(ctx, run); !errors.Is(err, db.ErrNotFound) {
		return err
	}
	return nil
}

// TestClaimWaitsForTheEndThatIsOnItsWay: the claim of the second comes while the end of the first is not committed. It must wait for it: else
// the first sees nobody to hand over to, the second sees the first, and nobody wakes it.
func TestClaimWaitsForTheEndThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	ids := lined(t, b, p, 2)
	var first db.Run
	require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) (err error) { first, _, err = begin(ctx, tx, ids[0]); return err }))
	var claimed sync.WaitGroup
	require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		if err := finish(ctx, tx, first); err != nil {
			return err
		}
		gone := make(chan struct{})
		claimed.Go(func() {
			defer close(gone)
			err := b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
				_, ok, err := begin(ctx, tx, ids[1])
				if !ok && err == nil {
					err = errors.New("it waits behind a run that has ended")
				}
				return err
			})
			if err != nil {
				t.Errorf("claim the second: %v", err)
			}
		})
		require.Eventually(t, func() bool {
			var waiting int
			require.NoError(t, b.Owner.QueryRow(ctx, `select count(*) from pg_locks where locktype = 'advisory' and not granted
				and database = (select oid from pg_database where datname = current_database())`).Scan(&waiting))
			select {
			case <-gone:
				return true
			default:
				return waiting == 1
			}
		}, 10*time.Second, 5*time.Millisecond)
		return nil
	}))
	claimed.Wait()
}

// TestRunThatHasBegunHoldsItsEntity: an earlier one that comes to life again waits for it, also where a stopped worker gave it back meanwhile.
// If it went behind the earlier one then, each would wait for the other.
func TestRunThatHasBegunHoldsItsEntity(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	ids := lined(t, b, p, 2)
	begun := func(id uuid.UUID) (run db.Run, ok bool) {
		require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) (err error) { run, ok, err = begin(ctx, tx, id); return err }))
		return run, ok
	}
	step := func(run db.Run, s db.RunStep) {
		require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error { return tx.RunStep(ctx, run.ID, run.Epoch, s) }))
	}
	earlier, ok := begun(ids[0])
	require.True(t, ok)
	step(earlier, db.RunStep{Status: db.RunDead, Reason: "output.schema"})
	later, ok := begun(ids[1])
	require.True(t, ok, "a dead one lets pass")
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		return tx.RunRetry(ctx, ids[0], db.RunQueued, []db.RunStatus{db.RunDead}, "retried", "Again.")
	}))
	_, ok = begun(ids[0])
	require.False(t, ok)
	step(later, db.RunStep{Status: db.RunQueued, Reason: "worker.stopped", Refund: true})
	later, ok = begun(ids[1])
	require.True(t, ok)
	require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		require.NoError(t, tx.RunStep(ctx, later.ID, later.Epoch, db.RunStep{Status: db.RunDone}))
		next, err := tx.RunHandOver(ctx, later)
		require.Equal(t, ids[0], next)
		return err
	}))
}

// TestCancelAndEndDoNotWaitForEachOther: a person cancels the one whose turn it is while the one in front ends. Each holds what the other wants.
func TestCancelAndEndDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ids := lined(t, b, p, 3)
	var first, second db.Run
	require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) (err error) { first, _, err = begin(ctx, tx, ids[0]); return err }))
	for _, id := range ids[1:] {
		require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error { _, _, err := begin(ctx, tx, id); return err }))
	}
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) (err error) {
		if second, err = tx.RunGet(ctx, ids[1]); err != nil {
			return err
		}
		if err := tx.RunCancel(ctx, ids[1], "cancelled.person", "No."); err != nil {
			return err
		}
		require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error { return finish(ctx, tx, first) }))
		next, err := tx.RunHandOver(ctx, second)
		require.Equal(t, ids[2], next)
		return err
	}))
}

// TestLineIsWorkedByManyAtOnce lets workers claim and end, and a person cancel, all over one entity: no two are begun at once, nobody waits for
// another in a circle, and all is ended at last without a sweeper.
func TestLineIsWorkedByManyAtOnce(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	const runs, workers, turns = 40, 6, 60
	ids := lined(t, b, p, runs)
	work := func(id uuid.UUID, cancel bool) error {
		in := func(fn func(tx db.TenantTx) error) error { return b.Worker.Tenant(ctx, p.tenant, fn) }
		var run db.Run
		var ok bool
		if cancel {
			return in(func(tx db.TenantTx) (err error) {
				if run, err = tx.RunGet(ctx, id); err == nil {
					err = tx.RunCancel(ctx, id, "cancelled.person", "No.")
				}
				if err == nil {
					_, err = tx.RunHandOver(ctx, run)
				}
				if errors.Is(err, db.ErrNotFound) || errors.Is(err, db.ErrConflict) {
					return nil
				}
				return err
			})
		}
		err := in(func(tx db.TenantTx) (err error) { run, ok, err = begin(ctx, tx, id); return err })
		if errors.Is(err, db.ErrNotFound) || err == nil && !ok {
			return nil
		} else if err != nil {
			return fmt.Errorf("claim: %w", err)
		}
		var begun int
		err = b.Owner.QueryRow(ctx, `select count(*) from sluice.runs where ordering = 'serial' and started_at is not null and finished_at is null`).Scan(&begun)
		if err != nil || begun > 1 {
			return fmt.Errorf("%d are begun: %w", begun, err)
		}
		if err = in(func(tx db.TenantTx) error { return finish(ctx, tx, run) }); errors.Is(err, db.ErrStale) {
			return nil // cancelled meanwhile
		}
		return err
	}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range turns {
				if err := work(ids[rand.IntN(runs)], rand.IntN(10) == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for range 2 * runs { // each is claimed again when it is handed the turn
		for _, id := range ids {
			require.NoError(t, work(id, false))
		}
		var open int
		require.NoError(t, b.Owner.QueryRow(ctx, `select count(*) from sluice.runs where ordering = 'serial' and finished_at is null`).Scan(&open))
		if open == 0 {
			return
		}
	}
	require.Fail(t, "somebody waits for nobody")
}
