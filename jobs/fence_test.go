package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/scripted"
)

// TestRunOfALostWorkerIsDoneOnceByAnother takes the run from a worker that hangs, as a lease that ran out does, and lets the first one's answer come too
// late: its reply and its action must leave nothing.
func TestRunOfALostWorkerIsDoneOnceByAnother(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang", Times: 1}))
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	_, err := h.provider.Wait(t.Context(), 1)
	require.NoError(t, err)
	// Another worker's claim, as after the end of the lease.
	_, err = h.base.Owner.Exec(t.Context(), `update sluice.runs set lease_until = now() - interval '1 second', epoch = epoch + 1 where id = $1`, id)
	require.NoError(t, err)
	run := h.ended(id)
	h.provider.Release()
	require.Equal(t, db.RunDone, run.Status, run.Detail)
	require.Len(t, h.target.Journal(), 1)
	calls := h.calls(id)
	require.Len(t, calls, 2)
	require.Equal(t, db.CallOrphaned, calls[0].State, "the late reply is not taken; its cost is an estimate")
	require.Equal(t, db.CallReceived, calls[1].State)
	require.Equal(t, map[string]int64{"orphan": calls[0].CostPico, "charge": calls[1].CostPico}, h.ledger())
}

// TestRunCancelledInMidCallIsPaidForAndSendsNothing: nobody comes after a cancelled run, so what its call has cost must be booked by the one who made it.
func TestRunCancelledInMidCallIsPaidForAndSendsNothing(t *testing.T) {
	t.Parallel()
	billed := true
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang", Times: 1, Bill: &billed}))
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	_, err := h.provider.Wait(t.Context(), 1)
	require.NoError(t, err)
	h.tx(func(tx db.TenantTx) error {
		return tx.RunCancel(t.Context(), id, "cancelled.person", "A person cancelled it.")
	})
	h.provider.Release()
	require.Eventually(t, func() bool { return h.ledger()["charge"]+h.ledger()["orphan"] > 0 }, waitMax, 20*time.Millisecond)
	require.Equal(t, db.RunCancelled, h.ended(id).Status)
	require.Empty(t, h.target.Journal())
}

// TestRunWhoseJobIsGoneIsFound is F13: River discards or loses a job in silence; the reconciler finds the run by our own table.
func TestRunWhoseJobIsGoneIsFound(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(nil), `{"title":"a"}`)
	_, err := h.base.Owner.Exec(t.Context(), `delete from river.river_job`)
	require.NoError(t, err)
	h.work()
	require.Equal(t, db.RunDone, h.ended(id).Status)
}

func TestRunIsDoneOnceHoweverManyJobsItHas(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.tx(func(tx db.TenantTx) error {
		many := make([]jobs.RunArgs, 20)
		for i := range many {
			many[i] = jobs.RunArgs{TenantID: h.tenant, RunID: id}
		}
		return h.poster.PostRuns(t.Context(), tx.Pgx(), many)
	})
	h.work()
	h.work()
	require.Equal(t, db.RunDone, h.ended(id).Status)
	require.Len(t, h.provider.Journal(), 1)
	require.Len(t, h.target.Journal(), 1)
}

func TestStoppedWorkerGivesItsRunBack(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang", Times: 1}))
	id := h.event(h.automation(nil), `{"title":"a"}`)
	w := h.work()
	_, err := h.provider.Wait(t.Context(), 1)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	require.NoError(t, w.Stop(ctx))
	h.tx(func(tx db.TenantTx) error {
		run, err := tx.RunGet(t.Context(), id)
		require.Equal(t, db.RunQueued, run.Status)
		require.Zero(t, run.Attempt, "a stop is no failure of the run")
		return err
	})
	h.work(func(s *settings) { s.lease = 2 * time.Second })
	require.Equal(t, db.RunDone, h.ended(id).Status)
	require.Len(t, h.target.Journal(), 1)
}

// A worker that is killed between River's fetch and its own claim leaves a job that River believes to be worked on, and a run that nobody has.
func TestRunWhoseJobWasFetchedByAKilledWorkerGoesOn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(nil), `{"title":"a"}`)
	tag, err := h.base.Owner.Exec(t.Context(), `update river.river_job set state = 'running', attempt = 1, attempted_at = now() - interval '1 minute', attempted_by = '{killed}'`)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
	_, err = h.base.Owner.Exec(t.Context(), `update sluice.runs set updated_at = now() - interval '1 minute'`)
	require.NoError(t, err)
	h.work()
	require.Equal(t, db.RunDone, h.ended(id).Status)
}

// TestRunWhoseJobWasPutOffByAWrongClockGoesOn: River puts a job off by the clock of its worker, which may be ahead of the database's.
func TestRunWhoseJobWasPutOffByAWrongClockGoesOn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(nil), `{"title":"a"}`)
	waits := h.event(h.automation(nil), `{"title":"b"}`)
	_, err := h.base.Owner.Exec(t.Context(), `update river.river_job set scheduled_at = now() + interval '10 minutes', attempt = 1, attempted_at = now()`)
	require.NoError(t, err)
	_, err = h.base.Owner.Exec(t.Context(), `update sluice.runs set updated_at = now() - interval '1 minute'`)
	require.NoError(t, err)
	_, err = h.base.Owner.Exec(t.Context(), `update sluice.runs set status = 'waiting', reason = 'provider.breaker_open', until = now() - interval '1 minute' where id = $1`, waits)
	require.NoError(t, err)
	h.work()
	require.Equal(t, db.RunDone, h.ended(id).Status)
	require.Equal(t, db.RunDone, h.ended(waits).Status)
}
