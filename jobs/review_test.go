package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/tenants"
)

func (h *house) reviewer() *jobs.Reviewer {
	return jobs.NewReviewer(action.New(outbound.New(outbound.Config{AllowLoopback: true})), h.poster, time.Now)
}

// decide gives a verdict as the API does, as sluice_app.
func (h *house) decide(r *jobs.Reviewer, id uuid.UUID, v jobs.Verdict) error {
	h.t.Helper()
	return h.base.DB.Tenant(h.t.Context(), h.tenant, func(tx db.TenantTx) error { return r.Decide(h.t.Context(), tx, id, v) })
}

// inReview waits until a run waits for a person.
func (h *house) inReview(id uuid.UUID) db.Run {
	h.t.Helper()
	return h.until(id, func(r db.Run) bool { return r.Status == db.RunInReview })
}

// overdue lets the time for a run's review be over.
func (h *house) overdue(ids ...uuid.UUID) {
	h.t.Helper()
	_, err := h.base.Owner.Exec(h.t.Context(), `update sluice.runs set until = now() - interval '1 second' where id = any ($1) and status = 'in_review'`, ids)
	require.NoError(h.t, err)
}

func (h *house) verdict(id uuid.UUID) db.Review {
	h.t.Helper()
	var v db.Review
	h.tx(func(tx db.TenantTx) (err error) {
		v, err = tx.ReviewGet(h.t.Context(), id)
		return err
	})
	return v
}

func (h *house) actionState(id uuid.UUID) (state, reason string) {
	h.t.Helper()
	h.tx(func(tx db.TenantTx) error {
		actions, err := tx.ActionList(h.t.Context(), id)
		require.Len(h.t, actions, 1)
		state, reason = actions[0].State, actions[0].Reason
		return err
	})
	return state, reason
}

// approval is one of a person.
func approval() jobs.Verdict {
	by := tenants.NewID()
	return jobs.Verdict{Verdict: db.VerdictApprove, By: &by}
}

func rejection() jobs.Verdict {
	v := approval()
	v.Verdict = db.VerdictReject
	return v
}

func requireFault(t *testing.T, err error, code string) {
	t.Helper()
	fault, ok := errors.AsType[*jobs.ReviewFault](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, code, fault.Code)
	require.NotEmpty(t, fault.Detail)
}

func TestReviewExpiresAsTheAutomationSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, onExpiry  string
		verdict, reason string
		effects         int
	}{
		{"rejected if nothing is said", "", db.VerdictReject, "review.expired", 0},
		{"rejected", "reject", db.VerdictReject, "review.expired", 0},
		{"approved", "approve", db.VerdictApprove, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			id := h.event(h.automation(map[string]any{"mode": "review", "review": map[string]any{"expires_minutes": 5, "on_expiry": c.onExpiry}}), `{"title":"a"}`)
			h.work()
			run := h.inReview(id)
			require.WithinDuration(t, time.Now().Add(5*time.Minute), *run.Until, time.Minute)
			h.overdue(id)
			// The loop of the worker, and two more at the same moment, as other processes have them.
			done := make(chan error)
			for range 2 {
				go func() { done <- jobs.ExpireReviews(t.Context(), h.base.Worker, h.reviewer()) }()
			}
			require.NoError(t, <-done)
			require.NoError(t, <-done)
			run = h.ended(id)
			require.Equal(t, c.reason, run.Reason)
			require.Len(t, h.target.Journal(), c.effects)
			require.Len(t, h.provider.Journal(), 1)
			v := h.verdict(id)
			require.Equal(t, c.verdict, v.Verdict)
			require.Nil(t, v.ByKey)
			require.NotEmpty(t, v.Note)
			if c.effects == 0 {
				state, reason := h.actionState(id)
				require.Equal(t, db.ActionWithheld, state)
				require.Equal(t, "review.expired", reason)
			}
			requireFault(t, h.decide(h.reviewer(), id, approval()), "review.decided")
			h.tx(func(tx db.TenantTx) error {
				scores, err := tx.ScoreList(t.Context(), db.Automation{ID: run.AutomationID, EndpointID: h.endpoint}, 1)
				require.Equal(t, []db.Score{{Version: 1, Mode: "review", SameBehaviour: true, Expired: 1}}, scores, "it counts in no score")
				return err
			})
		})
	}
}

func TestReviewThatIsOverdueIsNoLongerAPersons(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(map[string]any{"mode": "review"}), `{"title":"a"}`)
	h.work()
	run := h.inReview(id)
	late := jobs.NewReviewer(action.New(outbound.New(outbound.Config{AllowLoopback: true})), h.poster, func() time.Time { return run.Until.Add(time.Second) })
	requireFault(t, h.decide(late, id, approval()), "review.expired")
	require.NoError(t, h.decide(h.reviewer(), id, approval()))
}

func TestReviewIsAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]func() jobs.Verdict{
		"approve": approval, "reject": rejection,
		"edit": func() jobs.Verdict { v := approval(); v.Output = json.RawMessage(`{"reply":"edited"}`); return v },
	} {
		for _, table := range []string{"sluice.reviews", "sluice.runs", "river.river_job"} {
			if name == "reject" && table == "river.river_job" {
				continue // it posts none
			}
			t.Run(name+" "+table, func(t *testing.T) {
				t.Parallel()
				h := newHouse(t)
				id := h.event(h.automation(map[string]any{"mode": "review"}), `{"title":"a"}`)
				worker := h.work()
				before := h.inReview(id)
				require.NoError(t, worker.Stop(t.Context()))
				// The database goes away at the last moment of the transaction, after everything was written.
				h.breakCommit(table)
				require.Error(t, h.decide(h.reviewer(), id, v()))
				after := h.run(id)
				require.Equal(t, before.Status, after.Status)
				require.Equal(t, before.Until, after.Until)
				state, _ := h.actionState(id)
				require.Equal(t, db.ActionProposed, state)
				h.mendCommit(table)
				require.NoError(t, h.decide(h.reviewer(), id, v()))
				// Between the verdict and the effect there was no worker at all.
				require.Empty(t, h.target.Journal())
				h.work()
				h.ended(id)
				effects := h.target.Journal()
				switch name {
				case "reject":
					require.Empty(t, effects)
				case "edit":
					require.Len(t, effects, 1)
					require.JSONEq(t, `{"reply":"edited"}`, string(effectOutput(t, effects[0].Body)))
				default:
					require.Len(t, effects, 1)
					require.JSONEq(t, string(before.Output), string(effectOutput(t, effects[0].Body)))
				}
				require.Len(t, h.provider.Journal(), 1)
			})
		}
	}
}

// breakCommit lets every transaction that writes to a table fail when it commits.
func (h *house) breakCommit(table string) {
	h.t.Helper()
	for _, statement := range []string{
		`create or replace function public.broken() returns trigger language plpgsql as $$ begin raise exception 'broken'; end $$`,
		`create constraint trigger broken after insert or update on ` + table + ` deferrable initially deferred for each row execute function public.broken()`,
	} {
		_, err := h.base.Owner.Exec(h.t.Context(), statement)
		require.NoError(h.t, err)
	}
}

func (h *house) mendCommit(table string) {
	h.t.Helper()
	_, err := h.base.Owner.Exec(h.t.Context(), `drop trigger broken on `+table)
	require.NoError(h.t, err)
}

func TestReviewLetsTheNextOfItsEntityGoOn(t *testing.T) {
	t.Parallel()
	for name, decide := range map[string]func(*house, uuid.UUID){
		"approved":  func(h *house, id uuid.UUID) { require.NoError(h.t, h.decide(h.reviewer(), id, approval())) },
		"rejected":  func(h *house, id uuid.UUID) { require.NoError(h.t, h.decide(h.reviewer(), id, rejection())) },
		"expired":   func(h *house, id uuid.UUID) { h.overdue(id) },
		"cancelled": func(h *house, id uuid.UUID) { h.cancel(id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			automation := h.automation(map[string]any{"mode": "review"})
			serial := func(e *db.EventNew) { e.Entity, e.Runs[0].Ordering = "issue:1", db.OrderSerial }
			first := h.event(automation, `{"title":"a"}`, serial)
			second := h.event(automation, `{"title":"b"}`, serial)
			h.work(unswept)
			h.inReview(first)
			require.Contains(t, []db.RunStatus{db.RunQueued, db.RunWaiting}, h.run(second).Status)
			decide(h, first)
			h.ended(first)
			h.inReview(second)
		})
	}
}

func TestReviewOfAnEffectThatWasMadeBefore(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(map[string]any{"mode": "review"}), `{"title":"a"}`)
	h.work()
	run := h.inReview(id)
	// Another run on the same event has made the very effect.
	_, err := h.base.Owner.Exec(t.Context(), `
		with other as (
		    insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, generation, mode, priority, status, finished_at, purpose)
		    select tenant_id, gen_random_uuid(), event_id, endpoint_id, automation_id, automation_version, 1, 'live', 'routine', 'done', now(), 'replay'
		    from sluice.runs where id = $1 returning id)
		insert into sluice.actions (tenant_id, id, run_id, kind, key, target, effect, state, ended_at)
		select a.tenant_id, gen_random_uuid(), other.id, a.kind, a.key, a.target, a.effect, 'confirmed', now() from sluice.actions a, other where a.run_id = $1`, id)
	require.NoError(t, err)
	require.NoError(t, h.decide(h.reviewer(), id, approval()))
	run = h.run(run.ID)
	require.Equal(t, db.RunDone, run.Status)
	require.Equal(t, "action.made", run.Reason)
	state, reason := h.actionState(id)
	require.Equal(t, db.ActionWithheld, state)
	require.Equal(t, "action.made", reason)
	require.Equal(t, db.VerdictApprove, h.verdict(id).Verdict)
	require.Empty(t, h.target.Journal())
}

// TestShadowStays tries what no code of ours does: to move a shadow run to where effects are made, by SQL as the role that serves tenants.
func TestShadowStays(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	automation := h.automation(map[string]any{"mode": "shadow"})
	id := h.event(automation, `{"title":"a"}`)
	worker := h.work()
	h.ended(id)
	require.NoError(t, worker.Stop(t.Context()))
	queued := h.event(automation, `{"title":"b"}`)
	requireFault(t, h.decide(h.reviewer(), id, approval()), "review.shadow")
	for _, role := range []string{"sluice_app", "sluice_worker"} {
		for _, run := range []uuid.UUID{id, queued} {
			for _, status := range []string{"acting", "in_review"} {
				err := h.as(role, `update sluice.runs set status = '`+status+`', reason = 'x', lease_until = null, finished_at = null where id = $1`, run)
				require.ErrorContains(t, err, "shadow_stays", "%s %s", role, status)
			}
			require.ErrorContains(t, h.as(role, `update sluice.runs set mode = 'live' where id = $1`, run), "permission denied")
		}
		err := h.as(role, `update sluice.actions set effect = '{}' where run_id = $1`, id)
		require.ErrorContains(t, err, "stays as it is")
	}
	for _, statement := range []string{`update sluice.actions set state = 'intended', ended_at = null where run_id = $1`, `delete from sluice.actions where run_id = $1`} {
		require.Error(t, h.as("sluice_worker", statement, id))
	}
	// Even an action that is set going again, past every rule, is claimed by nobody: its run does not act.
	h.replica(`update sluice.actions set state = 'intended', ended_at = null where run_id = $1`, id)
	require.NoError(t, h.base.Worker.Tenant(t.Context(), h.tenant, func(tx db.TenantTx) error {
		actions, err := tx.ActionList(t.Context(), id)
		require.NoError(t, err)
		return h.poster.PostActions(t.Context(), tx.Pgx(), []jobs.ActionArgs{{TenantID: h.tenant, ActionID: actions[0].ID}})
	}))
	h.work()
	h.ended(queued)
	require.Eventually(t, func() bool {
		var open int
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from river.river_job where kind = 'action' and state <> 'completed'`).Scan(&open))
		return open == 0
	}, waitMax, waitMax/1000)
	require.Empty(t, h.target.Journal())
}

// replica runs a statement without any trigger.
func (h *house) replica(sql string, args ...any) {
	h.t.Helper()
	tx, err := h.base.Owner.Begin(h.t.Context())
	require.NoError(h.t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(h.t.Context())) }()
	_, err = tx.Exec(h.t.Context(), `set local session_replication_role = replica`)
	require.NoError(h.t, err)
	_, err = tx.Exec(h.t.Context(), sql, args...)
	require.NoError(h.t, err)
	require.NoError(h.t, tx.Commit(h.t.Context()))
}

// as runs a statement as a role, under the tenant's row security.
func (h *house) as(role, sql string, args ...any) error {
	h.t.Helper()
	tx, err := h.base.Owner.Begin(h.t.Context())
	require.NoError(h.t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(h.t.Context())) }()
	_, err = tx.Exec(h.t.Context(), `set local role `+role)
	require.NoError(h.t, err)
	_, err = tx.Exec(h.t.Context(), `select set_config('sluice.tenant_id', '`+h.tenant.String()+`', true)`)
	require.NoError(h.t, err)
	_, err = tx.Exec(h.t.Context(), sql, args...)
	return err
}

func TestHowMuchAnEditChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		before, after string
		changed       float64
	}{
		{"abcd", "abcx", 2.0 / 8},
		{"abcd", "abcde", 1.0 / 9},
		{"aaaa", "bbbb", 1},
		{"ab", "ab\n", 1.0 / 5},
		{"日本", "日米", 2.0 / 4},
	} {
		diff, changed := jobs.Differ(c.before, c.after)
		require.InDelta(t, c.changed, changed, 1e-9, "%q to %q", c.before, c.after)
		require.Contains(t, diff, "--- model\n+++ person\n")
	}
	for _, text := range []string{strings.Repeat("one line of a long answer\n", 20_000), strings.Repeat("x", 500_000)} {
		diff, changed := jobs.Differ(text, strings.ToUpper(text))
		require.LessOrEqual(t, len(diff), 65<<10, "a diff has a bound")
		require.Greater(t, changed, 0.5)
		require.LessOrEqual(t, changed, 1.0)
	}
}

// TestReviewersAtTheSameMoment lets all of them begin before one can end.
func TestReviewersAtTheSameMoment(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(map[string]any{"mode": "review"}), `{"title":"a"}`)
	worker := h.work()
	h.inReview(id)
	require.NoError(t, worker.Stop(t.Context()))
	verdicts := []jobs.Verdict{approval(), rejection(), approval()}
	won := 0
	for _, err := range h.together(`select from sluice.runs where id = $1 for update`, id, len(verdicts), func(i int) error {
		return h.base.DB.Tenant(t.Context(), h.tenant, func(tx db.TenantTx) error { return h.reviewer().Decide(t.Context(), tx, id, verdicts[i]) })
	}) {
		if err != nil {
			requireFault(t, err, "review.decided")
		} else {
			won++
		}
	}
	require.Equal(t, 1, won)
}

// together does something n times at once, while the test holds a lock that each of them needs, and lets go when all of them wait for it.
func (h *house) together(lock string, id uuid.UUID, n int, do func(i int) error) []error {
	h.t.Helper()
	holding, err := h.base.Owner.Begin(h.t.Context())
	require.NoError(h.t, err)
	defer func() { _ = holding.Rollback(context.WithoutCancel(h.t.Context())) }()
	_, err = holding.Exec(h.t.Context(), lock, id)
	require.NoError(h.t, err)
	answers := make(chan error, n)
	for i := range n {
		go func() { answers <- do(i) }()
	}
	require.Eventually(h.t, func() bool {
		var waiting int
		require.NoError(h.t, h.base.Owner.QueryRow(h.t.Context(),
			`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting))
		return waiting == n
	}, waitMax, waitMax/1000)
	require.NoError(h.t, holding.Rollback(h.t.Context()))
	out := make([]error, n)
	for i := range n {
		out[i] = <-answers
	}
	return out
}
