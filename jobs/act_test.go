package jobs_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/scripted"
)

func TestActionComesAgainUnderTheSameKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.target.Script(scripted.TargetStep{Status: 500, Act: true}, scripted.TargetStep{Status: http.StatusOK})
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	require.Equal(t, db.RunDone, h.ended(id).Status)
	sent := h.target.Journal()
	require.Len(t, sent, 2)
	require.Equal(t, sent[0].Key, sent[1].Key)
	require.Equal(t, sent[0].Body, sent[1].Body)
	require.True(t, sent[0].Acted)
	require.False(t, sent[1].Acted, "one effect")
	require.Len(t, h.provider.Journal(), 1, "a model is never paid again because an action failed")
	h.tx(func(tx db.TenantTx) error {
		attempts, err := tx.ActionAttempts(t.Context(), id)
		require.Len(t, attempts, 2)
		require.Equal(t, 500, attempts[0].Status)
		require.Equal(t, 200, attempts[1].Status)
		return err
	})
}

func TestActionThatIsRefusedEndsTheRun(t *testing.T) {
	t.Parallel()
	for status, reason := range map[int]string{
		http.StatusForbidden: "action.unauthorized", http.StatusConflict: "action.refused", http.StatusGone: "action.gone", http.StatusFound: "action.redirect",
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.target.Script(scripted.TargetStep{Status: status, Location: "http://169.254.169.254/"})
			id := h.event(h.automation(nil), `{"title":"a"}`)
			h.work()
			run := h.ended(id)
			require.Equal(t, db.RunDead, run.Status)
			require.Equal(t, reason, run.Reason)
			require.NotEmpty(t, run.Output, "the outcome is kept")
			require.Len(t, h.target.Journal(), 1)
		})
	}
}

func TestActionSaysWhyAndWhenItIsTriedAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.target.Script(scripted.TargetStep{Status: http.StatusTooManyRequests, RetryAfter: "600"})
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	run := h.until(id, func(r db.Run) bool { return r.Reason == "action.rate_limited" })
	require.Equal(t, db.RunActing, run.Status)
	require.NotNil(t, run.Until)
	require.Greater(t, run.Until.Sub(run.UpdatedAt), 9*time.Minute)
}

func TestActionOfACancelledRunIsNotSent(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.target.Script(scripted.TargetStep{Status: http.StatusServiceUnavailable})
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	h.until(id, func(r db.Run) bool { return r.Reason == "action.status_5xx" })
	h.tx(func(tx db.TenantTx) error {
		if err := tx.RunCancel(t.Context(), id, "cancelled.person", "A person cancelled it."); err != nil {
			return err
		}
		return tx.ActionsCancel(t.Context(), id, "The run was cancelled.")
	})
	sent := len(h.target.Journal())
	// A second run that is done shows that the workers went on meanwhile.
	h.target.Script()
	other := h.event(h.automation(nil), `{"title":"b"}`)
	require.Equal(t, db.RunDone, h.ended(other).Status)
	require.Len(t, h.target.Journal(), sent+1)
	require.Equal(t, db.RunCancelled, h.ended(id).Status)
	// The try that was answered with 503 may have had its effect: nobody can tell, and nobody works on it any more.
	h.tx(func(tx db.TenantTx) error {
		actions, err := tx.ActionList(t.Context(), id)
		require.Equal(t, db.ActionUnknown, actions[0].State)
		require.NotNil(t, actions[0].EndedAt)
		return err
	})
	_, err := h.base.Owner.Exec(t.Context(), `update river.river_job set scheduled_at = now(), state = 'available' where state = 'scheduled'`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var live int
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from river.river_job where state <> 'completed'`).Scan(&live))
		return live == 0
	}, waitMax, 20*time.Millisecond, "a job without work must end")
}

// TestActionOfACancelledRunWhoseWorkerIsLostEnds: the run was cancelled while a worker sent its effect, and that worker was killed.
func TestActionOfACancelledRunWhoseWorkerIsLostEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.target.Script(scripted.TargetStep{Status: http.StatusServiceUnavailable})
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	h.until(id, func(r db.Run) bool { return r.Reason == "action.status_5xx" })
	h.tx(func(tx db.TenantTx) error {
		return tx.RunCancel(t.Context(), id, "cancelled.person", "A person cancelled it.")
	})
	_, err := h.base.Owner.Exec(t.Context(), `
		update sluice.actions set state = 'in_flight', epoch = epoch + 1, lease_until = now() - interval '1 minute', updated_at = now() - interval '1 minute' where run_id = $1`, id)
	require.NoError(t, err)
	_, err = h.base.Owner.Exec(t.Context(), `delete from river.river_job where kind = 'action' and state <> 'running'`)
	require.NoError(t, err)
	require.Eventually(t, func() (ended bool) {
		h.tx(func(tx db.TenantTx) error {
			actions, err := tx.ActionList(t.Context(), id)
			ended = actions[0].State == db.ActionUnknown && actions[0].EndedAt != nil
			return err
		})
		return ended
	}, waitMax, 20*time.Millisecond, "nobody else will end it")
	require.Equal(t, db.RunCancelled, h.ended(id).Status)
}
