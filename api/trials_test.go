package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func (s *shop) trial(id string, patch map[string]any) heard {
	s.t.Helper()
	return s.call(s.of.editor, "POST", "/v1/automations/"+id+"/trial", map[string]any{"patch": patch})
}

func TestTrialRunsBesideWhatIsInService(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	id := s.make(map[string]any{"mode": "live"})
	path := "/v1/automations/" + id + "/trial"
	s.work()
	s.call(s.of.viewer, "GET", path, nil).refused(404, "trial.none")
	s.call(s.of.editor, "DELETE", path, nil).refused(404, "trial.none")
	s.call(s.of.editor, "POST", path+"/promote", map[string]any{}).refused(404, "trial.none")
	s.runs("done")

	started := s.trial(id, map[string]any{"prompt": map[string]any{"user": "Another prompt."}}).is(201)
	require.InDelta(t, 2, started.get("version"), 0)
	require.Equal(t, "shadow", started.text("says.mode"))
	require.Equal(t, "Another prompt.", started.text("says.prompt.user"))
	seen := s.call(s.of.viewer, "GET", "/v1/automations/"+id, nil).is(200)
	require.InDelta(t, 2, seen.get("trial_version"), 0)
	require.InDelta(t, 1, seen.get("version"), 0, "what is in service stays")
	s.trial(id, map[string]any{}).refused(409, "trial.running")

	const events = 3
	before := len(s.target.Journal())
	for range events {
		runs := s.runs("done")
		require.Len(t, runs, 2)
		require.ElementsMatch(t, []string{"live", "shadow"}, []string{runs[0].text("mode"), runs[1].text("mode")})
		for _, run := range runs {
			if run.text("mode") == "shadow" {
				state, _ := actionBody(run)
				require.Equal(t, "withheld", state)
				s.review(run.text("id"), map[string]any{"verdict": "approve"}).refused(409, "review.shadow")
			}
		}
	}
	require.Len(t, s.target.Journal(), before+events, "one effect of each event, and none of the trial")

	got := s.call(s.of.viewer, "GET", path+"?limit=2", nil).is(200)
	require.Equal(t, true, got.get("running"))
	require.InDelta(t, events, got.get("totals.events"), 0)
	require.InDelta(t, events, got.get("totals.compared"), 0)
	require.InDelta(t, 0, got.get("totals.same"), 0, "the model echoes another prompt")
	require.NotEqual(t, "0", got.text("totals.trial.cost_usd"))
	require.NotEqual(t, "0", got.text("totals.live.cost_usd"))
	require.Len(t, got.rows(), 2)
	pair := got.rows()[0]
	require.Equal(t, false, pair["same"])
	live, _ := pair["live"].(map[string]any)
	trial, _ := pair["trial"].(map[string]any)
	require.NotEqual(t, live["output"], trial["output"])
	require.InDelta(t, 1, live["version"], 0)
	require.InDelta(t, 2, trial["version"], 0)
	rest := s.call(s.of.viewer, "GET", path+"?limit=2&cursor="+got.text("next_cursor"), nil).is(200)
	require.Len(t, rest.rows(), 1)
	require.Empty(t, rest.text("next_cursor"))

	// What is changed of the version in service meanwhile neither ends the trial nor is lost by its promotion.
	s.patch(id, map[string]any{"name": "renamed"}).is(200)
	require.Len(t, s.runs("done"), 2)
	tag := s.call(s.of.viewer, "GET", "/v1/automations/"+id, nil).header.Get("ETag")
	s.call(s.of.editor, "POST", path+"/promote", map[string]any{}, "If-Match", `"v1"`).refused(412, "precondition_failed")
	promoted := s.call(s.of.editor, "POST", path+"/promote", map[string]any{}, "If-Match", tag).is(200)
	require.Equal(t, "Another prompt.", promoted.text("prompt.user"))
	require.Equal(t, "renamed", promoted.text("name"))
	require.Equal(t, "live", promoted.text("mode"))
	require.InDelta(t, 4, promoted.get("version"), 0)
	require.Nil(t, promoted.get("trial_version"))
	require.Eventually(t, func() bool { return len(s.runs("done")) == 1 }, workedMax, workedMax/1000, "the trial has ended")
	s.call(s.of.viewer, "GET", path, nil).refused(404, "trial.none")
	ended := s.call(s.of.viewer, "GET", path+"?version=2", nil).is(200)
	require.Equal(t, false, ended.get("running"))
	require.NotEmpty(t, ended.rows())
	s.call(s.of.viewer, "GET", path+"?version=1", nil).refused(404, "trial.none")
	versions := s.call(s.of.viewer, "GET", "/v1/automations/"+id+"/versions", nil).is(200).rows()
	require.Equal(t, []any{nil, nil, "trial", nil}, []any{versions[0]["draft"], versions[1]["draft"], versions[2]["draft"], versions[3]["draft"]})
}

func TestTrialSaysWhatIsTheSame(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	id := s.make(map[string]any{"prompt": map[string]any{"user": "Always the same."}}) // a fence around data would differ from run to run
	s.work()
	s.trial(id, map[string]any{}).is(201)
	require.Len(t, s.runs("in_review", "done"), 2)
	got := s.call(s.of.viewer, "GET", "/v1/automations/"+id+"/trial", nil).is(200)
	require.InDelta(t, 1, got.get("totals.same"), 0)
	require.Equal(t, true, got.rows()[0]["same"])
	require.Empty(t, s.target.Journal())
}

func TestTrialIsCheckedAsAPatchIs(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	id := s.make(nil)
	faults := s.trial(id, map[string]any{
		"mode": "live", "enabled": true, "endpoint_id": s.endpoint, "prompt": map[string]any{"user": "{% if %}"}, "model": "scripted/none", "odd": 1,
	}).refused(422, "input.invalid").faults()
	for _, place := range []string{
		"body.patch.mode", "body.patch.enabled", "body.patch.endpoint_id", "body.patch.prompt.user", "body.patch.model", "body.patch.odd",
	} {
		require.Contains(t, faults, place)
	}
	require.Len(t, faults, 6, "%v", faults)
	s.call(s.of.editor, "POST", "/v1/automations/"+id+"/trial", map[string]any{}).refused(422, "input.invalid")
	require.Nil(t, s.call(s.of.viewer, "GET", "/v1/automations/"+id, nil).get("trial_version"))

	// Once for an Idempotency-Key.
	for range 2 {
		made := s.call(s.of.editor, "POST", "/v1/automations/"+id+"/trial", map[string]any{"patch": map[string]any{"name": "x"}}, "Idempotency-Key", "k").is(201)
		require.InDelta(t, 2, made.get("version"), 0)
	}
	s.call(s.of.editor, "DELETE", "/v1/automations/"+id, nil).is(204)
	s.call(s.of.viewer, "GET", "/v1/automations/"+id+"/trial", nil).refused(404, "not_found")
}

func TestTrialIsPromotedUnderTheBar(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	bar := map[string]any{"reviews": 2, "pass_rate": 1}
	id := s.make(map[string]any{"promote": bar})
	path := "/v1/automations/" + id + "/trial"
	s.reviewed(id, 1, "approve", "approve")
	s.patch(id, map[string]any{"mode": "live"}).is(200)
	s.trial(id, map[string]any{"prompt": map[string]any{"user": "Another."}, "promote": nil}).is(201)
	s.call(s.of.editor, "POST", path+"/promote", map[string]any{}).refused(409, "automation.bar_not_met")
	s.call(s.of.editor, "POST", path+"/promote", map[string]any{"mode": "live"}).refused(409, "automation.bar_not_met")
	require.InDelta(t, 3, s.call(s.of.viewer, "GET", "/v1/automations/"+id, nil).get("trial_version"), 0, "a refusal ends no trial")
	promoted := s.call(s.of.editor, "POST", path+"/promote", map[string]any{"mode": "review"}).is(200)
	require.Equal(t, "review", promoted.text("mode"))
	require.Equal(t, "Another.", promoted.text("prompt.user"))
}

func TestTrialOfSomethingElseIsNotPromoted(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	id := s.make(nil)
	path := "/v1/automations/" + id + "/trial"
	s.trial(id, map[string]any{"model": "scripted/chat-echo-1"}).is(201)
	s.patch(id, map[string]any{"prompt": map[string]any{"user": "Changed meanwhile."}}).is(200)
	s.call(s.of.editor, "POST", path+"/promote", map[string]any{}).refused(409, "trial.outdated")
	s.call(s.of.editor, "DELETE", path, nil).is(204)
	require.Nil(t, s.call(s.of.viewer, "GET", "/v1/automations/"+id, nil).get("trial_version"))
	s.trial(id, map[string]any{"model": "scripted/chat-echo-1"}).is(201)
	s.call(s.of.editor, "POST", path+"/promote", map[string]any{}).is(200)
}

func TestTrialIsInNobodysWay(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.endpoint = s.call(s.of.editor, "POST", "/v1/endpoints", map[string]any{"name": "g", "source": "github", "settings": map[string]any{"order": "serial"}}).
		is(201).text("id")
	id := s.make(map[string]any{"mode": "live"})
	s.trial(id, map[string]any{"over_limit": "hold"}).is(201)
	s.call(s.operator, "PUT", "/v1/tenants/"+s.of.id+"/limits", map[string]any{"events_per_hour": map[string]any{"hard": 1}}).is(200)
	seen := func(event string) (live, trial map[string]any) {
		for _, row := range s.call(s.of.viewer, "GET", "/v1/runs?event_id="+event, nil).is(200).rows() {
			if row["mode"] == "shadow" {
				trial = row
			} else {
				live = row
			}
		}
		return live, trial
	}
	live, trial := seen(s.event(s.of, s.endpoint))
	require.Equal(t, "serial", live["order"])
	require.Nil(t, trial["order"], "the run in service never waits for it")
	live, trial = seen(s.event(s.of, s.endpoint))
	require.Equal(t, "held", live["status"])
	require.Equal(t, "skipped", trial["status"])
	require.Equal(t, "limit.events_per_hour", trial["reason"])
	s.patch(id, map[string]any{"enabled": false}).is(200)
	require.Eventually(t, func() bool {
		live, trial := seen(s.event(s.of, s.endpoint))
		return live == nil && trial == nil
	}, workedMax, workedMax/1000, "a disabled automation has no trial runs either")
}
