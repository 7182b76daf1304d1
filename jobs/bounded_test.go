package jobs_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/tenants"
)

// TestEveryRunEnds leaves a run in every status that is no end, as if for 46 days: whatever it waits for, it is ended, and what it had is not sent.
func TestEveryRunEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	live, review := h.automation(nil), h.automation(map[string]any{"mode": "review"})
	far := time.Now().Add(24 * time.Hour)
	runs := map[db.RunStatus]uuid.UUID{}
	for _, step := range []db.RunStep{
		{Status: db.RunQueued, Reason: "worker.stopped"}, {Status: db.RunWaiting, Reason: "provider.rate_limited", Wait: 24 * time.Hour},
		{Status: db.RunHeld, Reason: "limit.cost_per_day", Until: &far}, {Status: db.RunInReview, Reason: "review.pending", Until: &far},
		{Status: db.RunActing, Reason: "action.pending"},
	} {
		automation := live
		if step.Status == db.RunInReview {
			automation = review
		}
		id := h.event(automation, `{"title":"a"}`)
		runs[step.Status] = id
		h.tx(func(tx db.TenantTx) error {
			run, err := tx.RunClaim(t.Context(), id, time.Hour)
			require.NoError(t, err)
			require.NoError(t, tx.RunStep(t.Context(), id, run.Epoch, step))
			state := map[db.RunStatus]string{db.RunInReview: db.ActionProposed, db.RunActing: db.ActionIntended}[step.Status]
			if state == "" {
				return nil
			}
			return tx.ActionInsert(t.Context(), db.Action{ID: tenants.NewID(), RunID: id, Kind: "callback", Key: id.String(), Effect: []byte(`{}`), State: state})
		})
	}
	// One that a worker holds that is gone.
	id := h.event(live, `{"title":"a"}`)
	runs[db.RunRunning] = id
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.RunClaim(t.Context(), id, 100*24*time.Hour)
		return err
	})
	for _, statement := range []string{
		`update sluice.runs set created_at = now() - interval '46 days'`, `delete from river.river_job`,
	} {
		_, err := h.base.Owner.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	h.work()
	for status, id := range runs {
		run := h.ended(id)
		require.Equal(t, []any{db.RunDead, "run.too_old"}, []any{run.Status, run.Reason}, status)
	}
	require.Empty(t, h.target.Journal())
	h.tx(func(tx db.TenantTx) error {
		for status, state := range map[db.RunStatus]string{db.RunInReview: db.ActionWithheld, db.RunActing: db.ActionFailed} {
			actions, err := tx.ActionList(t.Context(), runs[status])
			require.NoError(t, err)
			require.Equal(t, state, actions[0].State)
		}
		return nil
	})
}
