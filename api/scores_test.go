package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/tenants"
)

func (s *shop) score(id, query string) heard {
	s.t.Helper()
	return s.call(s.of.viewer, "GET", "/v1/automations/"+id+"/score"+query, nil).is(200)
}

func TestScoreCountsWhatPeopleSaid(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	id := s.make(map[string]any{"promote": map[string]any{"reviews": 4, "pass_rate": 0.75}})
	none := s.score(id, "")
	require.InDelta(t, 0, none.get("reviews"), 0)
	require.Nil(t, none.get("pass_rate"))
	require.InDelta(t, 0, none.get("pass_rate_lower"), 0)
	require.InDelta(t, 1, none.get("pass_rate_upper"), 0)
	require.InDelta(t, 4, none.get("bar.missing"), 0)
	require.Equal(t, false, none.get("bar.met"))

	s.reviewed(id, 1, "approve", "reject", "edit", "expire", "approve", "edit", "approve", "expire")
	all := s.score(id, "?last=100")
	for name, want := range map[string]float64{
		"version": 1, "reviews": 6, "approved_unchanged": 3, "edited": 2, "mean_changed": 0.25, "rejected": 1, "expired": 2,
		"last": 100, "counted": 6, "pass_rate": 0.5,
	} {
		require.InDelta(t, want, all.get(name), 1e-9, name)
	}
	require.InDelta(t, 0.187617, all.get("pass_rate_lower"), 1e-5)
	require.InDelta(t, 0.812383, all.get("pass_rate_upper"), 1e-5)
	last := s.score(id, "")
	require.InDelta(t, 4, last.get("counted"), 0, "of the last as many as the bar asks for")
	require.InDelta(t, 0.5, last.get("pass_rate"), 0, "edit, approve, edit, approve")
	require.InDelta(t, 1, last.get("bar.missing"), 0, "one more, and of four only one is an edit")
	require.InDelta(t, 2, s.score(id, "?last=2").get("counted"), 0)
	s.reviewed(id, 1, "approve", "approve")
	require.Equal(t, true, s.score(id, "").get("bar.met"))

	// What does not change what it writes does not begin anew; what does, does.
	s.patch(id, map[string]any{"name": "renamed", "mode": "shadow", "priority": "urgent", "promote": map[string]any{"reviews": 2, "pass_rate": 1}}).is(200)
	renamed := s.score(id, "")
	require.InDelta(t, 8, renamed.get("reviews"), 0)
	require.Equal(t, true, renamed.get("bar.met"))
	s.patch(id, map[string]any{"prompt": map[string]any{"user": "Another."}}).is(200)
	s.reviewed(id, 3, "reject")
	another := s.score(id, "")
	require.InDelta(t, 1, another.get("reviews"), 0)
	rows, _ := another.get("by_version").([]any)
	require.Len(t, rows, 2)
	newest, _ := rows[0].(map[string]any)
	oldest, _ := rows[1].(map[string]any)
	require.InDelta(t, 3, newest["version"], 0)
	require.Equal(t, true, newest["same_behaviour"])
	require.Equal(t, false, oldest["same_behaviour"])
	require.InDelta(t, 8, oldest["reviews"], 0)
	old := s.score(id, "?version=1")
	require.InDelta(t, 8, old.get("reviews"), 0)
	require.InDelta(t, 4, old.get("bar.reviews"), 0, "the bar of that version")
	s.call(s.of.viewer, "GET", "/v1/automations/"+id+"/score?version=99", nil).refused(404, "not_found")
}

func TestBarForGoingLive(t *testing.T) {
	t.Parallel()
	bar := map[string]any{"reviews": 3, "pass_rate": 1}
	const refused = "automation.bar_not_met"
	live := map[string]any{"mode": "live"}
	t.Run("nothing is made live under a bar", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		got := s.call(s.of.editor, "POST", "/v1/automations", s.spec(map[string]any{"mode": "live", "promote": bar})).refused(409, refused)
		require.Contains(t, got.text("detail"), "3 more approvals")
		s.make(map[string]any{"mode": "live"})
	})
	t.Run("verdicts open it, and too few or bad ones do not", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		id := s.make(map[string]any{"promote": bar})
		s.patch(id, live).refused(409, refused)
		s.reviewed(id, 1, "approve", "approve", "expire")
		s.patch(id, live).refused(409, refused)
		s.reviewed(id, 1, "edit")
		s.patch(id, live).refused(409, refused)
		s.reviewed(id, 1, "approve", "approve", "approve")
		require.Equal(t, "live", s.patch(id, live).is(200).text("mode"))
	})
	t.Run("there is no way around it", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		id := s.make(map[string]any{"promote": bar})
		for name, change := range map[string]map[string]any{
			"renamed":        {"name": "another"},
			"without a bar":  {"promote": nil},
			"a lower bar":    {"promote": map[string]any{"reviews": 1, "pass_rate": 0}},
			"another prompt": {"prompt": map[string]any{"user": "x"}},
		} {
			change["mode"] = "live"
			s.patch(id, change).refused(409, refused)
			require.InDelta(t, 1, s.call(s.of.viewer, "GET", "/v1/automations/"+id, nil).get("version"), 0, name)
		}
		// Flips of the mode, and another name, make versions, and none of them counts twice or opens it.
		s.reviewed(id, 1, "approve", "approve")
		s.patch(id, map[string]any{"mode": "shadow"}).is(200)
		s.patch(id, map[string]any{"mode": "review", "name": "renamed"}).is(200)
		s.patch(id, live).refused(409, refused)
		// Verdicts on a version with another prompt are not on this one.
		s.patch(id, map[string]any{"prompt": map[string]any{"user": "Another."}}).is(200)
		s.reviewed(id, 4, "approve", "approve", "approve")
		s.patch(id, map[string]any{"prompt": s.spec(nil)["prompt"], "mode": "live"}).refused(409, refused)
		require.Equal(t, "live", s.patch(id, live).is(200).text("mode"), "what was approved may")
	})
	t.Run("a live one that would write something else is refused, too", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		id := s.make(map[string]any{"promote": bar})
		s.reviewed(id, 1, "approve", "approve", "approve")
		s.patch(id, live).is(200)
		for _, change := range []map[string]any{
			{"prompt": map[string]any{"user": "x"}}, {"model": "scripted/chat-echo-1"}, {"max_output_tokens": 7}, {"when": "event.test"},
			{"prompt": map[string]any{"user": "x"}, "promote": nil},
		} {
			got := s.patch(id, change).refused(409, refused)
			require.Contains(t, got.text("detail"), "trial")
		}
		s.patch(id, map[string]any{"name": "renamed"}).is(200)
		s.patch(id, map[string]any{"enabled": false}).is(200)
		s.patch(id, map[string]any{"enabled": true}).is(200)
		s.patch(id, map[string]any{"prompt": map[string]any{"user": "x"}, "mode": "review"}).is(200)
		s.patch(id, live).refused(409, refused)
	})
	t.Run("numbers that are written in another way are the same", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		body, err := json.Marshal(s.spec(map[string]any{"promote": bar, "output_schema": "SCHEMA"}))
		require.NoError(t, err)
		schema := `{"type": "object", "properties": {"reply": {"type": "string", "maxLength": 1e2}}}`
		id := s.call(s.of.editor, "POST", "/v1/automations", strings.Replace(string(body), `"SCHEMA"`, schema, 1)).is(201).text("id")
		s.reviewed(id, 1, "approve", "approve", "approve")
		s.patch(id, map[string]any{"name": "renamed"}).is(200) // merged with what the database made of 1e2
		require.InDelta(t, 3, s.score(id, "").get("reviews"), 0)
		s.patch(id, live).is(200)
	})
	t.Run("verdicts are of events of the endpoint", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		id := s.make(map[string]any{"promote": bar})
		s.reviewed(id, 1, "approve", "approve", "approve")
		other := s.bundle.endpoint(s.of).text("id")
		s.patch(id, map[string]any{"endpoint_id": other, "mode": "live"}).refused(409, refused)
		s.patch(id, map[string]any{"endpoint_id": other}).is(200)
		require.InDelta(t, 0, s.score(id, "").get("reviews"), 0)
		s.patch(id, live).refused(409, refused)
		s.patch(id, map[string]any{"endpoint_id": s.endpoint, "mode": "live"}).is(200)
	})
	t.Run("taking the bar away is a change of its own", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		id := s.make(map[string]any{"promote": bar})
		s.patch(id, map[string]any{"promote": nil}).is(200)
		s.patch(id, live).is(200)
	})
}

// TestDemotionIsTakenUpByTheDoor makes a version as the rule does, and sees that the door, which holds endpoints in memory, is told of it.
func TestDemotionIsTakenUpByTheDoor(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	shown := s.make(map[string]any{"mode": "live"})
	mode := func() string {
		event := s.event(s.of, s.endpoint)
		mode, _ := s.call(s.of.viewer, "GET", "/v1/runs?event_id="+event, nil).is(200).rows()[0]["mode"].(string)
		return mode
	}
	require.Equal(t, "live", mode())
	id, _ := tenants.ParseID(tenants.AutomationPrefix, shown)
	require.NoError(t, s.Worker.Tenant(t.Context(), s.of.uuid(), func(tx db.TenantTx) error {
		row, err := tx.AutomationGet(t.Context(), id)
		require.NoError(t, err)
		spec := []byte(`{"mode": "review", "model": "scripted/echo-1", "name": "triage", "prompt": {"user": "x"}, "action": {"kind": "none"}}`)
		_, err = tx.AutomationUpdate(t.Context(), id, db.AutomationChange{Spec: spec, Version: row.Version})
		return err
	}))
	require.Eventually(t, func() bool { return mode() == "review" }, workedMax, workedMax/1000)
}

func TestTrustOfAnAutomationIsCheckedAndShown(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	trust := map[string]any{
		"review":  map[string]any{"expires_minutes": 30, "on_expiry": "approve"},
		"promote": map[string]any{"reviews": 20, "pass_rate": 0.9},
		"demote":  map[string]any{"runs": 20, "failure_rate": 0.1},
	}
	id := s.make(trust)
	read := s.patch(id, map[string]any{"name": "renamed"}).is(200)
	require.InDelta(t, 30, read.get("review.expires_minutes"), 0)
	require.Equal(t, "approve", read.get("review.on_expiry"))
	require.InDelta(t, 20, read.get("promote.reviews"), 0)
	require.InDelta(t, 0.9, read.get("promote.pass_rate"), 0)
	require.InDelta(t, 20, read.get("demote.runs"), 0)
	require.InDelta(t, 0.1, read.get("demote.failure_rate"), 0)
	faults := s.patch(id, map[string]any{
		"review":  map[string]any{"expires_minutes": 43201, "on_expiry": "wait"},
		"promote": map[string]any{"reviews": 0, "pass_rate": 1.1},
		"demote":  map[string]any{"runs": 4, "failure_rate": 1},
	}).refused(422, "input.invalid").faults()
	for _, place := range []string{
		"body.review.expires_minutes", "body.review.on_expiry", "body.promote.reviews", "body.promote.pass_rate", "body.demote.runs", "body.demote.failure_rate",
	} {
		require.Contains(t, faults, place)
	}
	none := s.patch(id, map[string]any{"review": nil, "promote": nil, "demote": nil}).is(200)
	require.Nil(t, none.get("review"))
	require.Nil(t, none.get("promote"))
	require.Nil(t, none.get("demote"))
}
