package jobs_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// live keeps runs of an automation's version in service that have ended one after another: 'y' done, 'n' dead, 's' skipped.
func (h *house) live(automation uuid.UUID, ends string) {
	h.t.Helper()
	for _, end := range ends {
		id := h.event(automation, `{"title":"a"}`)
		status := map[rune]string{'y': "done", 'n': "dead", 's': "skipped"}[end]
		h.replica(`update sluice.runs set status = $2, reason = 'x', finished_at = clock_timestamp() where id = $1`, id, status) // the way there is not tested
	}
}

func (h *house) serving(id uuid.UUID) (mode string, version int) {
	h.t.Helper()
	var said struct{ Mode string }
	h.tx(func(tx db.TenantTx) error {
		a, err := tx.AutomationGet(h.t.Context(), id)
		version = a.Version
		require.NoError(h.t, json.Unmarshal(a.Spec, &said))
		return err
	})
	return said.Mode, version
}

// say makes a version of an automation.
func (h *house) say(id uuid.UUID, changes map[string]any) {
	h.t.Helper()
	raw, err := json.Marshal(h.spec(changes))
	require.NoError(h.t, err)
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.AutomationUpdate(h.t.Context(), id, db.AutomationChange{Spec: raw})
		return err
	})
}

func (h *house) demotions(open bool) []db.Alert {
	h.t.Helper()
	var out []db.Alert
	h.tx(func(tx db.TenantTx) error {
		alerts, err := tx.AlertList(h.t.Context(), open, db.Page{Limit: 100})
		for _, a := range alerts {
			if a.Kind == db.AlertDemoted {
				out = append(out, a)
			}
		}
		return err
	})
	return out
}

func TestDemotionCountsTheLastLiveRuns(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, c := range []struct {
		name    string
		changes map[string]any
		ends    string // the last one ended last
		mode    string
	}{
		{"no failure", nil, "yyyyyyyyyy", "live"},
		{"at the rate", nil, "yyynyyynyy", "live"},
		{"above it", nil, "yyynyynynyy", "review"},
		{"failures that are long over", nil, "nnn" + "yyyyyyyyyy", "live"},
		{"as soon as no further runs could mend it", nil, "nnn", "review"},
		{"what was skipped counts in nothing", nil, "nsnsssssssssssn", "review"},
		{"no rule", map[string]any{"demote": nil}, "nnnnnnnnnn", "live"},
		{"in review already", map[string]any{"mode": "review"}, "nnnnnnnnnn", "review"},
		{"in shadow mode", map[string]any{"mode": "shadow"}, "nnnnnnnnnn", "shadow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := map[string]any{"demote": map[string]any{"runs": 10, "failure_rate": 0.2}}
			maps.Copy(changes, c.changes)
			id := h.automation(changes)
			h.live(id, c.ends)
			require.NoError(t, jobs.DemoteOnce(t.Context(), h.base.Worker))
			mode, version := h.serving(id)
			require.Equal(t, c.mode, mode)
			demoted := c.mode == "review" && c.changes == nil
			require.Equal(t, map[bool]int{true: 2, false: 1}[demoted], version)
		})
	}
}

func TestDemotionHappensOnceAndIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	rule := map[string]any{"demote": map[string]any{"runs": 5, "failure_rate": 0.2}}
	id := h.automation(rule)
	h.live(id, "yynn")
	const workers = 3
	for _, err := range h.together(`select from sluice.automations where id = $1 for update`, id, workers, func(int) error {
		return jobs.DemoteOnce(t.Context(), h.base.Worker)
	}) {
		require.NoError(t, err)
	}
	mode, version := h.serving(id)
	require.Equal(t, "review", mode)
	require.Equal(t, 2, version)
	h.tx(func(tx db.TenantTx) error {
		v, err := tx.AutomationVersionGet(t.Context(), id, 2)
		require.Nil(t, v.CreatedBy, "no person made it")
		before, _ := tx.AutomationVersionGet(t.Context(), id, 1)
		require.Equal(t, before.Behaviour, v.Behaviour)
		return err
	})
	told := h.demotions(true)
	require.Len(t, told, 1)
	require.Equal(t, tenants.FormatID(tenants.AutomationPrefix, id), told[0].Subject)
	require.Contains(t, told[0].Detail, "of its last 4 live runs 2 died")

	// It ends when the automation is live again, and what failed before is not held against it.
	require.NoError(t, jobs.DemoteOnce(t.Context(), h.base.Worker))
	require.Len(t, h.demotions(true), 1)
	h.say(id, rule)
	require.NoError(t, jobs.DemoteOnce(t.Context(), h.base.Worker))
	require.Empty(t, h.demotions(true))
	mode, _ = h.serving(id)
	require.Equal(t, "live", mode)
	// A change of what it writes is judged anew, too; one of its name is not.
	h.live(id, "n")
	h.say(id, map[string]any{"demote": rule["demote"], "prompt": map[string]any{"user": "Another."}})
	h.live(id, "n")
	require.NoError(t, jobs.DemoteOnce(t.Context(), h.base.Worker))
	mode, _ = h.serving(id)
	require.Equal(t, "live", mode)
	h.say(id, map[string]any{"demote": rule["demote"], "prompt": map[string]any{"user": "Another."}, "name": "renamed"})
	h.live(id, "n")
	require.NoError(t, jobs.DemoteOnce(t.Context(), h.base.Worker))
	mode, _ = h.serving(id)
	require.Equal(t, "review", mode)
	require.Len(t, h.demotions(false), 2)
	// The alert of one that is gone ends.
	h.tx(func(tx db.TenantTx) error { return tx.AutomationDelete(t.Context(), id, 0) })
	require.NoError(t, jobs.DemoteOnce(t.Context(), h.base.Worker))
	require.Empty(t, h.demotions(true))
}

// TestDemotionByAWorker lets real runs die, and waits for the worker's own loop.
func TestDemotionByAWorker(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.automation(map[string]any{"model": "scripted/garbage-1", "demote": map[string]any{"runs": 5, "failure_rate": 0}})
	first := h.event(id, `{"title":"a"}`)
	h.work()
	h.work()
	require.Equal(t, db.RunDead, h.ended(first).Status)
	require.Eventually(t, func() bool { mode, _ := h.serving(id); return mode == "review" }, waitMax, waitMax/300)
	_, version := h.serving(id)
	require.Equal(t, 2, version)
	require.Len(t, h.demotions(true), 1)
}
