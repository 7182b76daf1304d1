package jobs_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/scripted"
	"sluice/tenants"
)

// TestSerialIsOneAtATimeInOrder lets three workers race over five entities. The provider's journal is the judge: each entity's requests stand in
// order, and none begins before the one before it was answered, while entities overlap.
func TestSerialIsOneAtATimeInOrder(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const entities, events, delay = 5, 20, 20 * time.Millisecond
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "ok", DelayMS: int(delay.Milliseconds())}))
	h.target.Script(scripted.TargetStep{DelayMS: 10})
	automation := h.automation(nil)
	var ids []uuid.UUID
	for n, i := range rand.Perm(entities * events) {
		if n == entities*events/2 {
			break
		}
		ids = append(ids, h.arrive(arrival{
			ordering: db.OrderSerial, entity: fmt.Sprintf("issue:%d", i%entities), title: fmt.Sprintf("%d:%02d", i%entities, i/entities), at: i / entities,
		}, automation)[0])
	}
	for range 3 {
		h.work(unswept)
	}
	// The other half comes while they work, each later than all before it.
	for i := range entities * events / 2 {
		ids = append(ids, h.arrive(arrival{
			ordering: db.OrderSerial, entity: fmt.Sprintf("issue:%d", i%entities), title: fmt.Sprintf("%d:%02d", i%entities, events+i/entities),
			at: events + i/entities,
		}, automation)[0])
	}
	for _, id := range ids {
		run := h.ended(id)
		require.Equal(t, db.RunDone, run.Status, run.Detail)
		require.Equal(t, 1, run.Attempt)
	}
	journal, titles := h.provider.Journal(), h.asked()
	require.Len(t, journal, len(ids), "each once")
	last := map[string]int{}
	overlaps := 0
	for i, entry := range journal {
		entity := titles[i][:1]
		if before, ok := last[entity]; ok {
			require.Less(t, titles[before], titles[i])
			require.GreaterOrEqual(t, entry.At.Sub(journal[before].At), delay, "%s began before %s was answered", titles[i], titles[before])
		}
		if i > 0 && titles[i-1][:1] != entity && entry.At.Sub(journal[i-1].At) < delay {
			overlaps++
		}
		last[entity] = i
	}
	require.Positive(t, overlaps, "entities do not wait for each other")
	// The effects stand in the same order: a run ends when its effect is confirmed, and the next begins then.
	effects := map[string]string{}
	for _, sent := range h.target.Journal() {
		var body struct {
			Data struct{ Entity string }
		}
		require.NoError(t, json.Unmarshal(sent.Body, &body))
		effects[body.Data.Entity] += "."
	}
	require.Len(t, effects, entities)
	// No job is left that nobody needs, and none was lost on the way.
	var waiting int
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.runs where finished_at is null`).Scan(&waiting))
	require.Zero(t, waiting)
}

func TestSerialHoldsOverAutomations(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "ok", DelayMS: 30}))
	first := h.automation(map[string]any{"prompt": map[string]any{"user": "{{ payload.title }} one"}})
	second := h.automation(map[string]any{"prompt": map[string]any{"user": "{{ payload.title }} two"}})
	var ids []uuid.UUID
	for i := range 4 {
		ids = append(ids, h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: fmt.Sprint(i), at: i}, first, second)...)
	}
	h.work(unswept)
	h.work(unswept)
	for _, id := range ids {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
	require.Equal(t, []string{"0", "0", "1", "1", "2", "2", "3", "3"}, h.asked())
	journal := h.provider.Journal()
	for i := range journal[1:] {
		require.GreaterOrEqual(t, journal[i+1].At.Sub(journal[i].At), 30*time.Millisecond)
	}
}

// TestRunThatWaitsForItsTurnHoldsNothing: no job, no lease, no attempt; and the entity behind it goes on.
func TestRunThatWaitsForItsTurnHoldsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang", Times: 1}))
	automation := h.automation(nil)
	h.work(unswept)
	front := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "1", at: 1}, automation)[0]
	_, err := h.provider.Wait(t.Context(), 1)
	require.NoError(t, err)
	behind := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "2", at: 2}, automation)[0]
	run := h.until(behind, func(r db.Run) bool { return r.Status == db.RunWaiting })
	require.Equal(t, db.ReasonBehind, run.Reason)
	require.Contains(t, run.Detail, tenants.FormatID(tenants.RunPrefix, front))
	require.Nil(t, run.Until)
	require.Nil(t, run.StartedAt)
	require.Zero(t, run.Attempt)
	require.Eventually(t, func() bool {
		var live int
		require.NoError(t, h.base.Owner.QueryRow(t.Context(),
			`select count(*) from river.river_job where args ->> 'run_id' = $1 and state <> 'completed'`, behind.String()).Scan(&live))
		return live == 0
	}, waitMax, 20*time.Millisecond)
	// A late event, older than what has begun, waits for it all the same, and goes before what waits.
	late := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "0", at: 0}, automation)[0]
	h.until(late, func(r db.Run) bool { return r.Reason == db.ReasonBehind })
	other := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:2", title: "other", at: 2}, automation)[0]
	require.Equal(t, db.RunDone, h.ended(other).Status)
	h.provider.Release()
	require.Equal(t, db.RunDone, h.ended(behind).Status)
	require.Equal(t, db.RunDone, h.ended(late).Status)
	require.Equal(t, []string{"1", "other", "0", "2"}, h.asked())
	// One that is older than all that is done just runs.
	require.Equal(t, db.RunDone, h.ended(h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "oldest", at: -1}, automation)[0]).Status)
}

func TestDeadRunBlocksOrPasses(t *testing.T) {
	t.Parallel()
	setUp := func(t *testing.T, endpoint string, change ...func(*settings)) (h *house, ids []uuid.UUID) {
		t.Helper()
		h = newHouse(t)
		h.settings(endpoint)
		require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "refuse", Times: 1}))
		automation := h.automation(nil)
		for i := range 3 {
			ids = append(ids, h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: fmt.Sprint(i), at: i}, automation)[0])
		}
		h.work(change...)
		require.Equal(t, db.RunDead, h.ended(ids[0]).Status)
		return h, ids
	}
	done := func(t *testing.T, h *house, ids []uuid.UUID, titles ...string) {
		t.Helper()
		for _, id := range ids {
			require.Equal(t, db.RunDone, h.ended(id).Status)
		}
		require.Equal(t, titles, h.asked())
	}
	// stuck waits until the runs behind the dead one wait, while another entity goes on.
	stuck := func(t *testing.T, h *house, ids []uuid.UUID) {
		t.Helper()
		for _, id := range ids[1:] {
			run := h.until(id, func(r db.Run) bool { return r.Reason == db.ReasonBehind })
			require.Equal(t, db.RunWaiting, run.Status)
		}
		other := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:2", title: "other", at: 0}, h.automation(nil))[0]
		require.Equal(t, db.RunDone, h.ended(other).Status)
		require.Equal(t, []string{"0", "other"}, h.asked())
	}
	const block = `{"order":"serial","order_dead":"block"}`
	t.Run("Pass", func(t *testing.T) {
		t.Parallel()
		h, ids := setUp(t, `{"order":"serial"}`, unswept)
		done(t, h, ids[1:], "0", "1", "2")
	})
	t.Run("BlockUntilCancelled", func(t *testing.T) {
		t.Parallel()
		h, ids := setUp(t, block, unswept)
		stuck(t, h, ids)
		h.cancel(ids[0])
		done(t, h, ids[1:], "0", "other", "1", "2")
		require.Equal(t, db.RunCancelled, h.run(ids[0]).Status)
	})
	t.Run("BlockUntilRetriedAndDone", func(t *testing.T) {
		t.Parallel()
		h, ids := setUp(t, block, unswept)
		stuck(t, h, ids)
		h.tx(func(tx db.TenantTx) error {
			if err := tx.RunRetry(t.Context(), ids[0], db.RunQueued, []db.RunStatus{db.RunDead}, "retried", "Again."); err != nil {
				return err
			}
			return h.poster.PostRuns(t.Context(), tx.Pgx(), []jobs.RunArgs{{TenantID: h.tenant, RunID: ids[0]}})
		})
		done(t, h, ids, "0", "other", "0", "1", "2")
	})
	t.Run("BlockUntilTheEndpointLetsItPass", func(t *testing.T) {
		t.Parallel()
		h, ids := setUp(t, block)
		stuck(t, h, ids)
		h.settings(`{"order":"serial","order_dead":"pass"}`)
		done(t, h, ids[1:], "0", "other", "1", "2")
	})
	t.Run("DeadEffectBlocksToo", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t)
		h.settings(block)
		h.target.Script(scripted.TargetStep{Status: 403}, scripted.TargetStep{})
		automation := h.automation(nil)
		first := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "1", at: 1}, automation)[0]
		second := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "2", at: 2}, automation)[0]
		h.work(unswept)
		require.Equal(t, "action.unauthorized", h.ended(first).Reason)
		h.until(second, func(r db.Run) bool { return r.Reason == db.ReasonBehind })
		h.cancel(first)
		require.Equal(t, db.RunDone, h.ended(second).Status)
	})
}

func TestCancelledRunHandsOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang", Times: 1}))
	automation := h.automation(nil)
	h.work(unswept)
	var ids []uuid.UUID
	for i := range 3 {
		ids = append(ids, h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: fmt.Sprint(i), at: i}, automation)[0])
		if i == 0 {
			_, err := h.provider.Wait(t.Context(), 1)
			require.NoError(t, err)
		}
	}
	for _, id := range ids[1:] {
		h.until(id, func(r db.Run) bool { return r.Reason == db.ReasonBehind })
	}
	h.cancel(ids[1]) // in the middle of the line
	require.Equal(t, db.ReasonBehind, h.run(ids[2]).Reason)
	h.cancel(ids[0]) // at its head, in the middle of a call
	require.Equal(t, db.RunDone, h.ended(ids[2]).Status)
	require.Equal(t, []string{"0", "2"}, h.asked())
	h.provider.Release()
	require.Len(t, h.target.Journal(), 1)
}

// TestOrderHoldsWhenAWorkerIsLost: another takes the run up, and those behind it still wait for its end.
func TestOrderHoldsWhenAWorkerIsLost(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang", Times: 1}))
	automation := h.automation(nil)
	var ids []uuid.UUID
	for i := range 4 {
		ids = append(ids, h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: fmt.Sprint(i), at: i}, automation)[0])
	}
	h.work()
	h.work()
	_, err := h.provider.Wait(t.Context(), 1)
	require.NoError(t, err)
	for _, id := range ids[1:] {
		h.until(id, func(r db.Run) bool { return r.Reason == db.ReasonBehind })
	}
	_, err = h.base.Owner.Exec(t.Context(), `update sluice.runs set lease_until = now() - interval '1 second', epoch = epoch + 1 where id = $1`, ids[0])
	require.NoError(t, err)
	for _, id := range ids {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
	h.provider.Release()
	require.Equal(t, []string{"0", "0", "1", "2", "3"}, h.asked())
	require.Len(t, h.target.Journal(), 4)
}

// TestHandOverThatWasLostIsMadeUpFor plants a line whose front vanished without handing over.
func TestHandOverThatWasLostIsMadeUpFor(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(nil)
	first := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "1", at: 1, unposted: true}, automation)[0]
	second := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "2", at: 2, unposted: true}, automation)[0]
	h.tx(func(tx db.TenantTx) error {
		run, err := tx.RunClaim(t.Context(), second, time.Minute)
		if err != nil {
			return err
		}
		front, err := tx.RunFront(t.Context(), run)
		require.NoError(t, err)
		require.Equal(t, first, front.ID)
		return tx.RunBehind(t.Context(), run, "It waits.")
	})
	h.tx(func(tx db.TenantTx) error { return tx.RunCancel(t.Context(), first, "cancelled.person", "No.") })
	h.work()
	require.Equal(t, db.RunDone, h.ended(second).Status)
}
