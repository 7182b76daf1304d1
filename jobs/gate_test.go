package jobs_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
	"sluice/scripted"
	"sluice/tenants"
)

// limited sets columns of the tenant's limits, as the operator does.
func (h *house) limited(set string) {
	h.t.Helper()
	_, err := h.base.Owner.Exec(h.t.Context(), `update sluice.limits set `+set+`, version = version + 1, updated_at = now() where tenant_id = $1`, h.tenant)
	require.NoError(h.t, err)
}

// delivered keeps events as the intake does, jobs and places included, and returns their runs.
func (h *house) delivered(automation uuid.UUID, n int, changes ...func(*db.RunNew)) []uuid.UUID {
	h.t.Helper()
	var ids []uuid.UUID
	for range n {
		e := db.EventNew{ID: tenants.NewID(), Type: "issue.opened", Verdicts: json.RawMessage(`[]`)}
		e.SourceEventID = e.ID.String()
		run := db.RunNew{ID: tenants.NewID(), AutomationID: automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}
		for _, change := range changes {
			change(&run)
		}
		e.Runs = []db.RunNew{run}
		require.NoError(h.t, h.base.DB.Door(h.t.Context(), func(tx db.DoorTx) error {
			admitted, err := tx.Admit(h.t.Context(), []*db.Delivery{{
				TenantID: h.tenant, EndpointID: h.endpoint, Source: "standard", Headers: json.RawMessage(`{}`), Body: []byte(`{"title":"a"}`), BodySHA256: []byte("h"),
				Events: []db.EventNew{e},
			}})
			if err != nil || admitted[0][0].Places[0].Held {
				return err
			}
			place := admitted[0][0].Places[0]
			return h.poster.PostRuns(h.t.Context(), tx.Pgx(), []jobs.RunArgs{{
				TenantID: h.tenant, RunID: run.ID, Lag: place.Lag, NotBefore: place.NotBefore, Urgent: run.Priority == automations.PriorityUrgent, Posted: time.Now(),
			}})
		}))
		ids = append(ids, run.ID)
	}
	return ids
}

// count counts the tenant's runs of a status and reason.
func (h *house) count(status db.RunStatus, reason string) int {
	h.t.Helper()
	var n int
	require.NoError(h.t, h.base.Owner.QueryRow(h.t.Context(), `select count(*) from sluice.runs where tenant_id = $1 and status = $2 and reason = $3`,
		h.tenant, status, reason).Scan(&n))
	return n
}

func (h *house) eventually(what string, is func() bool) {
	h.t.Helper()
	require.Eventually(h.t, is, waitMax, 20*time.Millisecond, what)
}

// worst is what a run of the house's automation reserves at most, learned from one that a budget of nothing holds.
func (h *house) worst(automation uuid.UUID) (first uuid.UUID, pico int64) {
	h.t.Helper()
	h.limited(`cost_per_day_hard = 0`)
	first = h.delivered(automation, 1)[0]
	held := h.until(first, func(r db.Run) bool { return r.Status == db.RunHeld })
	require.Equal(h.t, "limit.cost_per_day", held.Reason)
	require.NotNil(h.t, held.Until)
	require.Positive(h.t, held.HeldPico)
	require.Zero(h.t, held.Attempt, "waiting is not failing")
	require.Empty(h.t, h.calls(first), "what is not granted leaves nothing")
	return first, held.HeldPico
}

func TestBudgetHoldsRunsAndLetsThemGoOnInOrder(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
	h.work()
	first, worst := h.worst(automation)
	ids := append([]uuid.UUID{first}, h.delivered(automation, 7)...)
	h.eventually("all are held", func() bool { return h.count(db.RunHeld, "limit.cost_per_day") == len(ids) })

	// Room for three in the worst case. Each costs less than that, so more than three may pass, oldest first, and never one past another.
	h.limited(fmt.Sprintf(`cost_per_day_hard = %d`, 3*worst))
	h.until(ids[2], func(r db.Run) bool { return r.Status == db.RunDone })
	h.eventually("nothing is reserved, and the rest is held", func() bool {
		return h.count(db.RunDone, "")+h.count(db.RunHeld, "limit.cost_per_day") == len(ids)
	})
	done := h.count(db.RunDone, "")
	for i, id := range ids {
		run := h.until(id, func(db.Run) bool { return true })
		require.Equal(t, i < done, run.Status == db.RunDone, "run %d of %d done", i, done)
	}
	var spent, reserved int64
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select day_pico, reserved_pico from sluice.budgets where tenant_id = $1`, h.tenant).Scan(&spent, &reserved))
	require.Zero(t, reserved)
	require.Equal(t, h.ledger()["charge"], spent)
	require.LessOrEqual(t, spent, 3*worst)

	h.limited(`cost_per_day_hard = null`)
	for _, id := range ids {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
	require.Len(t, h.provider.Journal(), len(ids), "each was asked once")
}

// What alone is more than the limit blocks nobody, and goes on when the limit is raised to it.
func TestRunThatNeverFittedGoesOnWhenTheLimitIsRaised(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
	h.work()
	first, worst := h.worst(automation)
	h.eventually("nobody stands behind it", func() bool {
		var holding string
		var held bool
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select holding, held from sluice.budgets where tenant_id = $1`, h.tenant).Scan(&holding, &held))
		return holding == "" && held
	})
	h.limited(fmt.Sprintf(`cost_per_day_hard = %d`, 2*worst))
	require.Equal(t, db.RunDone, h.ended(first).Status)
}

func TestRaiseOfALimitEndsByItself(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
	h.work()
	first, worst := h.worst(automation)
	_, err := h.base.Owner.Exec(t.Context(), `insert into sluice.limit_raises (tenant_id, id, name, value, until) values ($1, gen_random_uuid(), 'cost_per_day_usd', $2, now() + interval '3 seconds')`,
		h.tenant, 100*worst)
	require.NoError(t, err)
	require.Equal(t, db.RunDone, h.ended(first).Status)
	h.eventually("the raise is over", func() bool {
		var over bool
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select bool_and(until < now()) from sluice.limit_raises`).Scan(&over))
		return over
	})
	h.until(h.delivered(automation, 1)[0], func(r db.Run) bool { return r.Status == db.RunHeld })
}

func TestAutomationDropsOrGoesCheaperWhereALimitIsMet(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	cheaper := h.automation(map[string]any{"action": map[string]any{"kind": "none"}, "over_limit": "cheaper", "cheaper_model": "scripted/cached-1"})
	_, err := h.base.Owner.Exec(t.Context(), `update sluice.prices set effective_to = '2021-01-01' where provider = 'scripted' and model = 'echo-1'`)
	require.NoError(t, err)
	_, err = h.base.Owner.Exec(t.Context(), `insert into sluice.prices (id, provider, model, effective_from, input_pico, output_pico, source)
		values (900001, 'scripted', 'echo-1', '2021-01-01', 900000000, 900000000, 'test')`)
	require.NoError(t, err)
	h.limited(`cost_per_day_hard = 10000000000`)
	h.work()
	run := h.ended(h.delivered(cheaper, 1, func(r *db.RunNew) { r.OverLimit = db.OverCheaper })[0])
	require.Equal(t, db.RunDone, run.Status, run.Detail)
	calls := h.calls(run.ID)
	require.Len(t, calls, 1)
	require.Equal(t, "cached-1", calls[0].ModelAsked, "booked to the model that answered")

	dropped := h.ended(h.delivered(h.automation(map[string]any{"action": map[string]any{"kind": "none"}}), 1, func(r *db.RunNew) { r.OverLimit = db.OverDrop })[0])
	require.Equal(t, db.RunSkipped, dropped.Status)
	require.Equal(t, "limit.cost_per_day", dropped.Reason)
}

func TestEventsOverTheHourlyLimitAreHeldNotRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
	h.limited(`events_per_hour_hard = 3`)
	ids := h.delivered(automation, 5)
	for i, id := range ids {
		run := h.until(id, func(db.Run) bool { return true })
		require.Equal(t, i >= 3, run.Status == db.RunHeld, run.Status)
	}
	dropped := h.ended(h.delivered(automation, 1, func(r *db.RunNew) { r.OverLimit = db.OverDrop })[0])
	require.Equal(t, "limit.events_per_hour", dropped.Reason)
	h.work()
	for _, id := range ids[:3] {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
	require.Equal(t, 2, h.count(db.RunHeld, "limit.events_per_hour"))
	// The window turns.
	_, err := h.base.Owner.Exec(t.Context(), `update sluice.places set hour_until = now()`)
	require.NoError(t, err)
	for _, id := range ids[3:] {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
}

func TestConcurrentRunsAreBoundedOverWorkers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
	h.limited(`concurrent_runs = 2`)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: scripted.ModeSlow, DelayMS: 200}))
	_, err := h.base.Owner.Exec(t.Context(), `
		create table public.most (n int);
		create function public.most() returns trigger language plpgsql security definer as $$
		begin insert into public.most select count(*) from sluice.runs where status = 'running' and lease_until > now(); return null; end $$;
		create trigger most after update on sluice.runs for each row when (new.status = 'running') execute function public.most()`)
	require.NoError(t, err)
	ids := h.delivered(automation, 10)
	h.work()
	h.work()
	for _, id := range ids {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
	var most, parked int
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select max(n) from public.most`).Scan(&most))
	require.Equal(t, 2, most)
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.run_history where reason = 'limit.concurrent_runs'`).Scan(&parked))
	require.Positive(t, parked)
}

func TestRunsKeepTheirTenantsPace(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
	h.limited(`runs_per_second = 5, burst = 2`)
	ids := h.delivered(automation, 8)
	h.work()
	h.work()
	for _, id := range ids {
		require.Equal(t, db.RunDone, h.ended(id).Status)
	}
	rows, err := h.base.Owner.Query(t.Context(), `select started_at from sluice.runs order by 1`)
	require.NoError(t, err)
	var began []time.Time
	for rows.Next() {
		var at time.Time
		require.NoError(t, rows.Scan(&at))
		began = append(began, at)
	}
	require.NoError(t, rows.Err())
	for i := 2; i < len(began); i++ {
		// Of any three that follow each other, the burst of two lets the first two come at once.
		require.GreaterOrEqual(t, began[i].Sub(began[i-2]), 190*time.Millisecond, "run %d began too early", i)
	}
}

func TestFallbackAnswersWhereTheModelIsAway(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{
		"model": "scripted/error-1", "fallbacks": []string{"scripted/overloaded-1", "scripted/cached-1"}, "action": map[string]any{"kind": "none"},
		"retry": map[string]any{"attempts": 10, "backoff_seconds": 1, "backoff_max_seconds": 1},
	})
	h.work()
	id := h.delivered(automation, 1, func(r *db.RunNew) { r.AttemptsMax = 10 })[0]
	run := h.ended(id)
	require.Equal(t, db.RunDone, run.Status, run.Detail)
	var asked []string
	for _, c := range h.calls(id) {
		asked = append(asked, c.ModelAsked)
	}
	require.Equal(t, []string{"error-1", "error-1", "overloaded-1", "overloaded-1", "cached-1"}, asked)
	var model string
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select model_asked from sluice.ledger_entries`).Scan(&model))
	require.Equal(t, "cached-1", model, "the cost is booked to the model that answered")
}

func TestAnswerThatDoesNotFitIsRepairedOnce(t *testing.T) {
	t.Parallel()
	for mode, reason := range map[scripted.ProviderMode]string{scripted.ModeWrongSchema: "output.schema", scripted.ModeTruncate: "output.truncated"} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
			h.work()
			require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: mode, Times: 1}))
			mended := h.ended(h.delivered(automation, 1)[0])
			require.Equal(t, db.RunDone, mended.Status, mended.Detail)
			calls := h.calls(mended.ID)
			require.Equal(t, []string{db.CallAsk, db.CallRepair}, []string{calls[0].Part, calls[1].Part})
			require.Equal(t, calls[0].CostPico+calls[1].CostPico, mended.CostPico)

			require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: mode}))
			dead := h.ended(h.delivered(automation, 1)[0])
			require.Equal(t, db.RunDead, dead.Status)
			require.Equal(t, reason, dead.Reason)
			require.Len(t, h.calls(dead.ID), 2, "one repair, and no more")
		})
	}
}

func TestRejectedKeyIsPausedUntilAnotherIsGiven(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"action": map[string]any{"kind": "none"}})
	var credential db.Credential
	h.tx(func(tx db.TenantTx) (err error) {
		credential, err = tx.CredentialInsert(t.Context(), "mine", "scripted", tenants.NewSecret("sk-bad-0000000001"))
		return err
	})
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: scripted.ModeUnauthorized, Times: 1}))
	h.work()
	first := h.delivered(automation, 1)[0]
	h.until(first, func(r db.Run) bool { return r.Status == db.RunWaiting && r.Reason == "provider.credential_rejected" })
	second := h.delivered(automation, 1)[0]
	h.until(second, func(r db.Run) bool { return r.Status == db.RunWaiting && r.Reason == "provider.credential_paused" })
	require.Len(t, h.provider.Journal(), 1, "nobody asks with a key that is paused")
	h.eventually("an alert is raised", func() bool {
		var open bool
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select exists (select from sluice.alerts where kind like '%credential%' and ended_at is null)`).Scan(&open))
		return open
	})
	h.tx(func(tx db.TenantTx) error {
		c, err := tx.CredentialUpdate(t.Context(), credential.ID, db.CredentialChange{Secret: tenants.NewSecret("sk-good-000000001")}, 0)
		require.NoError(t, err)
		require.Nil(t, c.PausedAt)
		return h.poster.WakeCredential(t.Context(), tx, time.Now())
	})
	require.Equal(t, db.RunDone, h.ended(first).Status, "what waited for the key goes on at once")
	require.Equal(t, db.RunDone, h.ended(second).Status)
}

// A worker is killed while a call is under way, and a person cancels the run: nobody takes it up again, and what it reserved must not stay reserved.
func TestReservationOfACallThatNobodyWaitsForIsSettled(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(nil)
	id := h.delivered(automation, 1)[0]
	call := db.Call{
		ID: tenants.NewID(), RunID: id, Part: db.CallAsk, Provider: "scripted", ModelAsked: "echo-1", PriceID: 9020, RequestSHA256: []byte("x"),
		InputEstimate: 100, MaxOutputTokens: 10, ReservedTokens: 110, ReservedPico: 150_000_000,
	}
	require.NoError(t, h.base.Worker.Tenant(t.Context(), h.tenant, func(tx db.TenantTx) error {
		run, err := tx.RunClaim(t.Context(), id, time.Minute)
		require.NoError(t, err)
		call.Epoch = run.Epoch
		granted, err := tx.CallsSend(t.Context(), []db.Call{call})
		require.Len(t, granted, 1)
		return err
	}))
	h.tx(func(tx db.TenantTx) error { return tx.RunCancel(t.Context(), id, "cancelled.person", "No.") })
	h.work()
	h.eventually("nothing is reserved", func() bool {
		var reserved int64
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select reserved_pico + reserved_tokens from sluice.budgets where tenant_id = $1`, h.tenant).Scan(&reserved))
		return reserved == 0
	})
	require.Equal(t, db.CallOrphaned, h.calls(id)[0].State)
	require.Positive(t, h.ledger()["orphan"])
}

// Flood and quiet: a tenant's thousandth run stands behind the first of another.
func TestFloodStandsBehindOthersSingleEvents(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(nil)
	h.limited(`share = 1`)
	h.delivered(automation, 75)
	h.delivered(automation, 1, func(r *db.RunNew) { r.Priority = automations.PriorityUrgent })
	rows, err := h.base.Owner.Query(t.Context(), `select queue, priority, state, scheduled_at < now() - interval '20 hours', count(*) from river.river_job group by 1, 2, 3, 4 order by 1, 2`)
	require.NoError(t, err)
	var got []string
	for rows.Next() {
		var queue, state string
		var class, n int
		var tail bool
		require.NoError(t, rows.Scan(&queue, &class, &state, &tail, &n))
		got = append(got, fmt.Sprintf("%s %d %s %v %d", queue, class, state, tail, n))
	}
	require.NoError(t, rows.Err())
	// The first is at the front, a second of its share further on the next class begins; times pass while they are delivered, so some may move up.
	require.Len(t, got, 5, got)
	require.Contains(t, got[3], "runs 4 available true")
	require.Equal(t, "runs_urgent 1 available false 1", got[4])
}
