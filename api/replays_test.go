package api_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// replay asks for a replay and waits for its end.
func (s *shop) replay(asked map[string]any) heard {
	s.t.Helper()
	id := s.call(s.of.editor, "POST", "/v1/replays", asked).is(201).get("replay").(map[string]any)["id"].(string)
	return s.replayed(id)
}

// replayed waits for the end of a replay.
func (s *shop) replayed(id string) heard {
	s.t.Helper()
	var out heard
	require.Eventually(s.t, func() bool {
		out = s.call(s.of.viewer, "GET", "/v1/replays/"+id, nil).is(200)
		return out.text("status") != "running"
	}, workedMax, 50*time.Millisecond, "%s", &out.body)
	return out
}

func (s *shop) items(id string) []map[string]any {
	s.t.Helper()
	return s.call(s.of.viewer, "GET", "/v1/replays/"+id+"/items?limit=200", nil).is(200).rows()
}

func progress(t *testing.T, h heard) map[string]any {
	t.Helper()
	p, ok := h.get("progress").(map[string]any)
	require.True(t, ok, "%s", h.body)
	return p
}

// made counts the effects that the target has seen.
func (s *shop) made() (n int) {
	for _, e := range s.target.Journal() {
		if e.Acted {
			n++
		}
	}
	return n
}

// TestReplayFromActionPaysNoModel breaks a target, finds the dead letters, mends it, and makes the effects of what was paid for.
func TestReplayFromActionPaysNoModel(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	automation := s.make(map[string]any{"mode": "live"})
	s.target.Script(scripted.TargetStep{Status: 401})
	var dead []string
	for range 5 {
		dead = append(dead, s.runs("dead")[0].text("id"))
	}
	asked := len(s.provider.Journal())
	s.target.Script()

	filter := map[string]any{"status": "dead", "reason": "action.*", "automation_id": automation}
	dry := s.call(s.of.editor, "POST", "/v1/replays", map[string]any{"filter": filter, "mode": "from_action", "dry_run": true}).is(201)
	require.InDelta(t, 5, dry.get("count"), 0)
	require.Equal(t, "0", dry.text("worst_usd"))
	require.Empty(t, s.call(s.of.viewer, "GET", "/v1/replays", nil).is(200).rows(), "a dry run leaves nothing")

	const id = "rpl_0123456789abcdef0123456789abcdef"
	ask := map[string]any{"id": id, "filter": filter, "mode": "from_action", "per_second": 50}
	s.call(s.of.editor, "POST", "/v1/replays", ask).is(201)
	s.call(s.of.editor, "POST", "/v1/replays", ask).is(201)
	require.Len(t, s.call(s.of.viewer, "GET", "/v1/replays", nil).is(200).rows(), 1, "twice the same id is one replay")
	ask["mode"] = "run"
	s.call(s.of.editor, "POST", "/v1/replays", ask).refused(409, "replay.different")

	done := s.replayed(id)
	require.Equal(t, "done", done.text("status"))
	require.InDelta(t, 5, progress(t, done)["started"], 0)
	require.Equal(t, map[string]any{"done": 5.0}, progress(t, done)["runs"])
	for _, run := range dead {
		require.Equal(t, "done", s.read(run).text("status"))
	}
	require.Equal(t, 5, s.made())
	require.Len(t, s.provider.Journal(), asked, "no model is paid twice")

	again := s.replay(map[string]any{"runs": dead, "mode": "from_action"})
	require.Equal(t, map[string]any{"replay.effect_made": 5.0}, progress(t, again)["skipped"])
	require.Equal(t, 5, s.made())
	forced := s.replay(map[string]any{"runs": dead[:1], "mode": "from_action", "force": true})
	require.Equal(t, map[string]any{"done": 1.0}, progress(t, forced)["runs"])
	require.Equal(t, 6, s.made(), "a person wanted it again")
	require.Len(t, s.provider.Journal(), asked)
}

// TestReplayRunsAgainWithoutASecondEffect replays events that were worked on: in shadow nothing leaves, and without force no effect is repeated.
func TestReplayRunsAgainWithoutASecondEffect(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	automation := s.make(map[string]any{"mode": "live"})
	var events, runs []string
	for range 3 {
		run := s.runs("done")[0]
		events, runs = append(events, run.text("event_id")), append(runs, run.text("id"))
	}
	require.Equal(t, 3, s.made())

	dry := s.call(s.of.editor, "POST", "/v1/replays", map[string]any{"events": events, "mode": "run", "dry_run": true}).is(201)
	require.InDelta(t, 3, dry.get("count"), 0)
	require.NotEqual(t, "0", dry.text("worst_usd"))
	require.NotEqual(t, "0", dry.text("estimate_usd"))

	plain := s.replay(map[string]any{"runs": runs, "mode": "run", "per_second": 50})
	require.Equal(t, map[string]any{"replay.effect_made": 3.0}, progress(t, plain)["skipped"])
	shadow := s.replay(map[string]any{"events": events, "mode": "shadow", "per_second": 50})
	require.Equal(t, map[string]any{"done": 3.0}, progress(t, shadow)["runs"])
	require.NotEqual(t, "0", progress(t, shadow)["cost_usd"])
	require.Equal(t, 3, s.made(), "nothing of it leaves")
	for _, item := range s.items(shadow.text("id")) {
		made := s.read(item["new"].(map[string]any)["run_id"].(string))
		require.Equal(t, "shadow", made.text("mode"))
		s.review(made.text("id"), map[string]any{"verdict": "approve"}).refused(409, "review.shadow")
	}
	refused := s.replay(map[string]any{"runs": []string{s.items(shadow.text("id"))[0]["new"].(map[string]any)["run_id"].(string)}, "mode": "from_action", "force": true})
	require.Equal(t, map[string]any{"replay.shadow": 1.0}, progress(t, refused)["skipped"], "not even by force")

	forced := s.replay(map[string]any{"runs": runs[:1], "mode": "run", "force": true})
	require.Equal(t, map[string]any{"done": 1.0}, progress(t, forced)["runs"])
	require.Equal(t, 4, s.made())

	// An event that no automation has seen.
	s.call(s.of.editor, "DELETE", "/v1/automations/"+automation, nil)
	gone := s.replay(map[string]any{"runs": runs, "mode": "run", "force": true})
	require.Equal(t, map[string]any{"replay.automation_gone": 3.0}, progress(t, gone)["skipped"])
	s.make(map[string]any{"mode": "live", "name": "later", "when": "event.type == 'nothing'"})
	s.make(map[string]any{"mode": "live", "name": "now"})
	fresh := s.replay(map[string]any{"events": events, "mode": "run", "per_second": 50})
	require.Equal(t, map[string]any{"when.false": 3.0}, progress(t, fresh)["skipped"])
	require.Equal(t, map[string]any{"done": 3.0}, progress(t, fresh)["runs"])
	require.Equal(t, 7, s.made())
}

func TestReplayIsPacedCappedAndCancelled(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	s.make(map[string]any{"mode": "shadow"})
	var runs []string
	for range 6 {
		runs = append(runs, s.runs("done")[0].text("id"))
	}
	slow := s.call(s.of.editor, "POST", "/v1/replays", map[string]any{"runs": runs, "mode": "shadow", "per_second": 0.01}).is(201).get("replay").(map[string]any)["id"].(string)
	require.Eventually(t, func() bool {
		return progress(t, s.call(s.of.viewer, "GET", "/v1/replays/"+slow, nil).is(200))["started"].(float64) == 1
	}, workedMax, 20*time.Millisecond)
	cancelled := s.call(s.of.editor, "POST", "/v1/replays/"+slow+"/cancel", nil).is(200)
	require.Equal(t, "cancelled", cancelled.text("status"))
	require.InDelta(t, 1, progress(t, cancelled)["started"], 0, "one began at once, the next would have in 100 s")
	require.Equal(t, map[string]any{"cancelled.person": 5.0}, progress(t, cancelled)["skipped"])
	s.call(s.of.editor, "POST", "/v1/replays/"+slow+"/cancel", nil).refused(409, "replay.ended")

	capped := s.replay(map[string]any{"runs": runs, "mode": "shadow", "per_second": 50, "max_cost_usd": "0.000000000001"})
	require.Equal(t, "stopped", capped.text("status"))
	require.Equal(t, "replay.max_cost", capped.text("reason"))
	require.InDelta(t, 1, progress(t, capped)["started"], 0, "what one costs is known when it has ended")
	require.Equal(t, map[string]any{"replay.max_cost": 5.0}, progress(t, capped)["skipped"])
}

func TestReplayRefusesWhatItCannotMean(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for name, asked := range map[string]map[string]any{
		"body":               {"mode": "run"},
		"body.filter":        {"mode": "run", "filter": map[string]any{}},
		"body.event_filter":  {"mode": "run", "event_filter": map[string]any{}},
		"body.runs/0":        {"mode": "run", "runs": []string{"run_1"}},
		"body.events/0":      {"mode": "run", "events": []string{"evt_01980000000070008000000000000000"}},
		"body.id":            {"mode": "run", "events": []string{"evt_1"}, "id": "mine"},
		"body.max_cost_usd":  {"mode": "run", "filter": map[string]any{"status": "dead"}, "max_cost_usd": "much"},
		"body.mode":          {"mode": "all", "filter": map[string]any{"status": "dead"}},
		"body.automation_id": {"mode": "run", "filter": map[string]any{"status": "dead"}, "automation_id": "aut_1"},
	} {
		faults := s.call(s.of.editor, "POST", "/v1/replays", asked).refused(422, "input.invalid").faults()
		require.Contains(t, faults, name)
	}
	s.call(s.of.viewer, "POST", "/v1/replays", map[string]any{"mode": "run", "filter": map[string]any{"status": "dead"}}).refused(403, "key.role")
	empty := s.replayedNow(map[string]any{"mode": "run", "filter": map[string]any{"status": "dead"}})
	require.InDelta(t, 0, empty["items"], 0)
}

func (s *shop) replayedNow(asked map[string]any) map[string]any {
	s.t.Helper()
	out, ok := s.call(s.of.editor, "POST", "/v1/replays", asked).is(201).get("replay").(map[string]any)
	require.True(s.t, ok)
	return out
}

// TestBacktestShowsBothOutputs tries a dearer draft with another schema on what was stored.
func TestBacktestShowsBothOutputs(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	automation := s.make(map[string]any{"mode": "live"})
	for range 4 {
		s.runs("done")
	}
	effects, asked := s.made(), len(s.provider.Journal())
	path := "/v1/automations/" + automation + "/backtest"
	draft := map[string]any{"prompt": map[string]any{"system": "You triage at length.", "user": "Again: {{ payload | json }}"}}
	dry := s.call(s.of.editor, "POST", path, map[string]any{"draft": draft, "last": 3}).is(201)
	require.InDelta(t, 3, dry.get("count"), 0)
	require.NotEqual(t, "0", dry.text("worst_usd"))
	require.Len(t, s.provider.Journal(), asked, "the price is shown first")
	for name, body := range map[string]map[string]any{
		"body.draft.model":  {"draft": map[string]any{"model": "scripted/unheard-of"}},
		"body.draft.mode":   {"draft": map[string]any{"mode": "live"}},
		"body.draft.colour": {"draft": map[string]any{"colour": "red"}},
	} {
		require.Contains(t, s.call(s.of.editor, "POST", path, body).refused(422, "input.invalid").faults(), name)
	}

	made := s.call(s.of.editor, "POST", path, map[string]any{"draft": draft, "last": 3, "dry_run": false, "per_second": 50}).is(201)
	id := made.get("replay").(map[string]any)["id"].(string)
	done := s.replayed(id)
	require.Equal(t, "done", done.text("status"))
	require.Equal(t, "backtest", done.text("kind"))
	items := s.items(id)
	require.Len(t, items, 3)
	for i, item := range items {
		require.Equal(t, true, item["changed"], fmt.Sprint(i))
		for _, side := range []string{"old", "new"} {
			require.NotEmpty(t, item[side].(map[string]any)["output"])
			require.NotEqual(t, "0", item[side].(map[string]any)["cost_usd"])
		}
	}
	compared := progress(t, done)["compared"].(map[string]any)
	require.NotEqual(t, compared["old_cost_usd"], compared["new_cost_usd"])
	require.Len(t, s.provider.Journal(), asked+3)
	require.Equal(t, effects, s.made(), "nothing leaves")
	require.InDelta(t, 1, s.call(s.of.viewer, "GET", "/v1/automations/"+automation, nil).is(200).get("version"), 0, "what is in service stays")

	// A draft whose answers do not fit is seen as such.
	bad := map[string]any{"output_schema": map[string]any{"type": "object", "properties": map[string]any{"n": map[string]any{"type": "integer", "minimum": 5, "maximum": 4}}, "required": []string{"n"}}}
	failed := s.call(s.of.editor, "POST", path, map[string]any{"draft": bad, "last": 1, "dry_run": false}).is(201).get("replay").(map[string]any)["id"].(string)
	require.InDelta(t, 1, progress(t, s.replayed(failed))["compared"].(map[string]any)["new_schema_failures"], 0)
}

// TestReplayTakesAnEventOnceAndNothingOfADeletedAutomation: what is named twice is paid once, and a backtest ends with its automation.
func TestReplayTakesAnEventOnceAndNothingOfADeletedAutomation(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	automation := s.make(map[string]any{"mode": "shadow"})
	event := s.runs("done")[0].text("event_id")
	other := s.runs("done")[0].text("event_id")
	twice := []string{event, event, other}
	require.InDelta(t, 2, s.call(s.of.editor, "POST", "/v1/replays", map[string]any{"events": twice, "mode": "shadow", "dry_run": true}).is(201).get("count"), 0)
	path := "/v1/automations/" + automation + "/backtest"
	draft := map[string]any{"prompt": map[string]any{"user": "{{ payload | json }}"}}
	dry := s.call(s.of.editor, "POST", path, map[string]any{"draft": draft, "events": twice}).is(201)
	require.InDelta(t, 2, dry.get("count"), 0)

	slow := s.call(s.of.editor, "POST", path, map[string]any{"draft": draft, "events": twice, "dry_run": false, "per_second": 0.5}).is(201).get("replay").(map[string]any)
	require.Equal(t, dry.text("estimate_usd"), slow["estimate_usd"], "the price that was shown")
	s.call(s.of.editor, "DELETE", "/v1/automations/"+automation, nil)
	skipped := progress(t, s.replayed(slow["id"].(string)))["skipped"].(map[string]any)
	require.NotEmpty(t, skipped["replay.automation_gone"], "what has not begun is not paid for")
}
