package jobs_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/scripted"
	"sluice/tenants"
)

// replay keeps a replay of runs, and returns its id.
func (h *house) replay(mode string, runs []uuid.UUID, changes ...func(*db.Replay)) uuid.UUID {
	h.t.Helper()
	r := db.Replay{ID: tenants.NewID(), Kind: db.KindReplay, Mode: mode, Asked: json.RawMessage(`{}`), PerSecond: 100}
	for _, change := range changes {
		change(&r)
	}
	h.tx(func(tx db.TenantTx) error {
		items := make([]db.ReplayItem, len(runs))
		for i, id := range runs {
			run, err := tx.RunGet(h.t.Context(), id)
			if err != nil {
				return err
			}
			items[i] = db.ReplayItem{EventID: run.EventID, AutomationID: run.AutomationID, RunID: &run.ID}
		}
		return tx.ReplayInsert(h.t.Context(), r, items)
	})
	return r.ID
}

func forced(r *db.Replay) { r.Forced = true }

// replayed waits for the end of a replay, and reads its items.
func (h *house) replayed(id uuid.UUID) (db.Replay, []db.ReplayItemSeen) {
	h.t.Helper()
	var r db.Replay
	require.Eventually(h.t, func() bool {
		h.tx(func(tx db.TenantTx) (err error) {
			r, err = tx.ReplayGet(h.t.Context(), id)
			return err
		})
		return r.FinishedAt != nil
	}, waitMax, 20*time.Millisecond, "replay: %+v", &r)
	return r, h.items(id)
}

func (h *house) items(id uuid.UUID) (items []db.ReplayItemSeen) {
	h.t.Helper()
	h.tx(func(tx db.TenantTx) (err error) {
		items, err = tx.ReplayItemList(h.t.Context(), id, 0, 10_000)
		return err
	})
	return items
}

func reasons(items []db.ReplayItemSeen) (out []string) {
	for _, i := range items {
		out = append(out, i.Reason)
	}
	return out
}

// dead makes runs whose effect was refused.
func (h *house) dead(automation uuid.UUID, n int) (runs []uuid.UUID) {
	h.t.Helper()
	h.target.Script(scripted.TargetStep{Status: 403})
	for i := range n {
		id := h.event(automation, fmt.Sprintf(`{"title":"%d"}`, i))
		require.Equal(h.t, db.RunDead, h.ended(id).Status)
		runs = append(runs, id)
	}
	h.target.Script()
	return runs
}

func (h *house) acted() (n int) {
	for _, e := range h.target.Journal() {
		if e.Acted {
			n++
		}
	}
	return n
}

// TestReplayKeepsItsPaceWhateverItIs: a pace that is no round number is kept, and never comes to a stop.
func TestReplayKeepsItsPaceWhateverItIs(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []float64{0.7, 1.9, 3} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.work()
			automation := h.automation(map[string]any{"mode": "shadow"})
			var runs []uuid.UUID
			const items = 4
			for i := range items {
				runs = append(runs, h.event(automation, fmt.Sprintf(`{"title":"%d"}`, i)))
			}
			for _, id := range runs {
				h.ended(id)
			}
			began := time.Now()
			_, done := h.replayed(h.replay(db.ReplayShadow, runs, func(r *db.Replay) { r.PerSecond = perSecond }))
			took := time.Since(began).Seconds()
			require.Equal(t, make([]string, items), reasons(done))
			least := (items - 1) / perSecond
			require.GreaterOrEqual(t, took, least-0.1, "not faster")
			require.Less(t, took, least+4, "nor much slower")
		})
	}
}

// TestReplayIsHeldUpByNoItem: an effect that another run has made meanwhile cannot be made by the dead one, and what stands behind it goes on.
func TestReplayIsHeldUpByNoItem(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	runs := h.dead(h.automation(nil), 2)
	_, items := h.replayed(h.replay(db.ReplayRun, runs[:1]))
	require.Equal(t, db.RunDone, h.ended(*items[0].NewRunID).Status)
	require.Equal(t, 1, h.acted())

	_, items = h.replayed(h.replay(db.ReplayFromAction, runs))
	require.Equal(t, []string{"replay.effect_made", ""}, reasons(items))
	require.Equal(t, 2, h.acted(), "one effect of each event")
	require.Len(t, h.provider.Journal(), 3)
}

// TestReplayOfManyWorkersBeginsEachItemOnce lets three workers race, and stops one in the middle.
func TestReplayOfManyWorkersBeginsEachItemOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	first := h.work()
	const items = 60
	automation := h.automation(nil)
	var runs []uuid.UUID
	for i := range items {
		runs = append(runs, h.event(automation, fmt.Sprintf(`{"title":"%02d"}`, i)))
	}
	for _, id := range runs {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
	h.work()
	id := h.replay(db.ReplayRun, runs, forced, func(r *db.Replay) { r.PerSecond = 30 })
	require.Eventually(t, func() bool { return h.acted() > items+5 }, waitMax, 10*time.Millisecond)
	require.NoError(t, first.Stop(t.Context()))
	h.work()
	_, done := h.replayed(id)
	made := map[uuid.UUID]bool{}
	for _, i := range done {
		require.Equal(t, "done", i.NewStatus, i.NewReason)
		made[*i.NewRunID] = true
	}
	require.Len(t, made, items)
	require.Len(t, h.provider.Journal(), 2*items)
	require.Equal(t, 2*items, h.acted())
	var count int
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.runs where replay_id = $1`, id).Scan(&count))
	require.Equal(t, items, count)
}

// TestReplayIsInOneHandAtATime lets many look at one replay at the very same moment, again and again: each item begins once.
func TestReplayIsInOneHandAtATime(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const items, hands = 40, 6
	automation := h.automation(map[string]any{"mode": "shadow"})
	var runs []uuid.UUID
	for i := range items {
		runs = append(runs, h.event(automation, fmt.Sprintf(`{"title":"%02d"}`, i)))
	}
	_, err := h.base.Owner.Exec(t.Context(), `delete from river.river_job`)
	require.NoError(t, err)
	id := h.replay(db.ReplayShadow, runs)
	for _, run := range runs {
		h.cancel(run)
	}
	require.Eventually(t, func() bool {
		faults := make(chan error, hands)
		for range hands {
			go func() { faults <- jobs.ReplayOnce(t.Context(), h.base.Worker, h.poster) }()
		}
		for range hands {
			require.NoError(t, <-faults)
		}
		for _, i := range h.items(id) {
			if i.State == db.ItemPending {
				return false
			}
		}
		return true
	}, waitMax, time.Millisecond)
	var made, posted int
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.runs where replay_id = $1`, id).Scan(&made))
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from river.river_job`).Scan(&posted))
	require.Equal(t, items, made)
	require.Equal(t, items, posted, "a job for each")
	for _, i := range h.items(id) {
		require.Equal(t, db.ItemStarted, i.State, i.Reason)
	}
}

// TestReplayUsesAReplyThatWasPaidFor: an outcome that stands, and whose effect could not be prepared, is taken up without a model.
func TestReplayUsesAReplyThatWasPaidFor(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	automation := h.automation(nil)
	id := h.event(automation, `{"title":"a"}`)
	require.Equal(t, db.RunDone, h.ended(id).Status)
	// As if the effect could not have been prepared: the outcome and the reply are kept, and there is no action.
	for _, statement := range []string{
		`delete from sluice.action_attempts`, `delete from sluice.actions`, `alter table sluice.runs disable trigger user`,
		`update sluice.runs set status = 'dead', reason = 'action.body', detail = 'x'`, `alter table sluice.runs enable trigger user`,
	} {
		_, err := h.base.Owner.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	// And one that died without an outcome.
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "refuse"}))
	without := h.event(automation, `{"title":"b"}`)
	require.Equal(t, db.RunDead, h.ended(without).Status)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "ok"}))
	asked := len(h.provider.Journal())

	_, items := h.replayed(h.replay(db.ReplayFromAction, []uuid.UUID{id, without}))
	require.Equal(t, []string{"", "replay.no_outcome"}, reasons(items))
	require.Equal(t, db.RunDone, h.ended(id).Status)
	require.Len(t, h.target.Journal(), 2, "sent once more, since we have forgotten the first")
	require.Len(t, h.provider.Journal(), asked, "no model is asked")
}

func TestReplaySkipsWhatCannotBeDoneAndSaysWhy(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	automation := h.automation(nil)
	runs := h.dead(automation, 1)
	// One that is under way.
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang"}))
	open := h.event(automation, `{"title":"open"}`)
	_, err := h.provider.Wait(t.Context(), 2)
	require.NoError(t, err)
	for _, mode := range []string{db.ReplayRun, db.ReplayFromAction} {
		_, items := h.replayed(h.replay(mode, []uuid.UUID{open}, forced))
		require.Equal(t, []string{"replay.not_ended"}, reasons(items), mode)
	}
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "ok"}))
	h.provider.Release()
	h.ended(open)
	// An automation that was switched off acts for nobody; in shadow mode it may be looked at.
	off := false
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.AutomationUpdate(t.Context(), automation, db.AutomationChange{Enabled: &off})
		return err
	})
	_, items := h.replayed(h.replay(db.ReplayRun, runs))
	require.Equal(t, []string{"replay.automation_disabled"}, reasons(items))
	_, items = h.replayed(h.replay(db.ReplayShadow, runs))
	require.Equal(t, []string{""}, reasons(items))
	on := true
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.AutomationUpdate(t.Context(), automation, db.AutomationChange{Enabled: &on})
		return err
	})
	// A payload that is no longer kept.
	_, err = h.base.Owner.Exec(t.Context(), `delete from sluice.event_payloads`)
	require.NoError(t, err)
	_, items = h.replayed(h.replay(db.ReplayRun, runs))
	require.Equal(t, []string{"replay.payload_gone"}, reasons(items))
	// Its effect needs no payload.
	_, items = h.replayed(h.replay(db.ReplayFromAction, runs))
	require.Equal(t, []string{""}, reasons(items))
	require.Equal(t, db.RunDone, h.ended(runs[0]).Status)
}

// TestReplayTakesThePlaceOfADeadRun: where a dead run blocks its entity, the run that repeats it must not wait for it.
func TestReplayTakesThePlaceOfADeadRun(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.settings(`{"order":"serial","order_dead":"block"}`)
	h.work()
	automation := h.automation(nil)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "refuse"}))
	dead := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "1", at: 1}, automation)[0]
	require.Equal(t, db.RunDead, h.ended(dead).Status)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "ok"}))
	next := h.arrive(arrival{ordering: db.OrderSerial, entity: "issue:1", title: "2", at: 2}, automation)[0]
	h.until(next, func(r db.Run) bool { return r.Reason == db.ReasonBehind })

	// What is looked at in shadow mode stands in no order, and says nothing of it to who comes later.
	_, items := h.replayed(h.replay(db.ReplayShadow, []uuid.UUID{dead}))
	require.Equal(t, "done", items[0].NewStatus)
	_, items = h.replayed(h.replay(db.ReplayRun, []uuid.UUID{dead}))
	require.Equal(t, "done", items[0].NewStatus, items[0].NewReason)
	made := h.ended(*items[0].NewRunID)
	require.Equal(t, db.OrderSerial, made.Ordering)
	require.Equal(t, db.RunDone, h.ended(next).Status, "and what stood behind it goes on")
	require.Equal(t, "replay.superseded", h.ended(dead).Reason)
	titles := h.asked()
	require.Equal(t, []string{"1", "1", "1", "2"}, titles)
}

// TestReplayOfAnEventWithoutARunStandsInOrder: an event that no automation took when it came, and that is stale by now, is not acted on.
func TestReplayOfAnEventWithoutARunStandsInOrder(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.settings(`{"order":"latest","order_window_seconds":0}`)
	h.work()
	automation := h.automation(nil)
	h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "old", at: 1})
	newer := h.arrive(arrival{ordering: db.OrderLatest, entity: "issue:1", title: "new", at: 2}, automation)[0]
	require.Equal(t, db.RunDone, h.ended(newer).Status)
	id := tenants.NewID()
	h.tx(func(tx db.TenantTx) error {
		events, err := tx.EventList(t.Context(), db.EventFilter{}, db.Page{Limit: 2})
		require.Len(t, events, 2)
		if err != nil {
			return err
		}
		return tx.ReplayInsert(t.Context(), db.Replay{ID: id, Kind: db.KindReplay, Mode: db.ReplayRun, Asked: json.RawMessage(`{}`), PerSecond: 100},
			[]db.ReplayItem{{EventID: events[1].ID, AutomationID: automation}})
	})
	_, items := h.replayed(id)
	require.Equal(t, "skipped", items[0].NewStatus)
	require.Contains(t, items[0].NewReason, "order.")
	require.Len(t, h.provider.Journal(), 1)
}

// TestBacktestAsksTheDraftWhetherItWantsTheEvent: also where the version in service has run on it.
func TestBacktestAsksTheDraftWhetherItWantsTheEvent(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	automation := h.automation(nil)
	wanted, other := h.event(automation, `{"title":"wanted"}`), h.event(automation, `{"title":"other"}`)
	h.ended(wanted)
	h.ended(other)
	acted := h.acted()
	raw, err := json.Marshal(h.spec(map[string]any{"when": `payload.title == "wanted"`, "mode": "shadow"}))
	require.NoError(t, err)
	var version int
	h.tx(func(tx db.TenantTx) (err error) {
		version, err = tx.AutomationDraft(t.Context(), automation, raw, db.DraftBacktest, uuid.Nil)
		return err
	})
	_, items := h.replayed(h.replay(db.ReplayShadow, []uuid.UUID{wanted, other}, func(r *db.Replay) {
		r.Kind, r.AutomationID, r.AutomationVersion = db.KindBacktest, &automation, &version
	}))
	require.Equal(t, []string{"", "when.false"}, reasons(items))
	require.Equal(t, acted, h.acted(), "nothing leaves")
	require.Equal(t, db.PurposeBacktest, h.ended(*items[0].NewRunID).Purpose)
}

// TestReplayInShadowHoldsUpNobody: what is only looked at, and does not fit a limit, makes no live run stand behind it.
func TestReplayInShadowHoldsUpNobody(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.work()
	large := h.automation(map[string]any{"mode": "shadow", "max_output_tokens": 30_000})
	small := h.automation(nil)
	id := h.event(large, `{"title":"a"}`)
	require.Equal(t, db.RunDone, h.ended(id).Status)
	// Room for a small call, and for half of a large one beside what was used.
	tokens := int64(31_000)
	require.NoError(t, h.base.DB.System(t.Context(), func(tx db.SystemTx) error {
		_, err := tx.LimitsPut(t.Context(), h.tenant, db.Limits{Burst: 10, Share: 50, StoredPerHour: 1_000_000, TokensPerDayHard: &tokens}, nil)
		return err
	}))
	_, err := h.base.Owner.Exec(t.Context(), `update sluice.budgets set day_tokens = 20000`)
	require.NoError(t, err)
	replay := h.replay(db.ReplayShadow, []uuid.UUID{id})
	_, items := h.replayed(replay)
	require.Equal(t, "limit.tokens_per_day", items[0].NewReason)
	live := h.event(small, `{"title":"b"}`)
	require.Equal(t, db.RunDone, h.ended(live).Status)
}
