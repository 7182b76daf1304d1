package api_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/scripted"
	"sluice/tenants"
)

// deadLetters makes runs of one automation that die at the effect, and then of another that die of their answer.
func (s *shop) deadLetters(refused, unread int) (atEffect, atAnswer []string, automations [2]string) {
	s.t.Helper()
	automations[0] = s.make(map[string]any{"mode": "live"})
	s.target.Script(scripted.TargetStep{Status: 403})
	for range refused {
		atEffect = append(atEffect, s.runs("dead")[0].text("id"))
	}
	s.target.Script()
	s.call(s.of.editor, "PATCH", "/v1/automations/"+automations[0], map[string]any{"enabled": false}).is(200)
	automations[1] = s.make(map[string]any{"mode": "live", "name": "second"})
	require.NoError(s.t, s.provider.Control(scripted.ProviderControl{Mode: "refuse"}))
	for range unread {
		atAnswer = append(atAnswer, s.runs("dead")[0].text("id"))
	}
	require.NoError(s.t, s.provider.Control(scripted.ProviderControl{Mode: "ok"}))
	return atEffect, atAnswer, automations
}

func (s *shop) many(act string, body map[string]any) heard {
	s.t.Helper()
	return s.call(s.of.editor, "POST", "/v1/runs/"+act, body)
}

func ids(rows []map[string]any) (out []string) {
	for _, row := range rows {
		id, _ := row["id"].(string)
		out = append(out, id)
	}
	return out
}

func TestDeadLettersAreFoundAndCounted(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	began := time.Now().UTC().Add(-time.Minute).Format(time.RFC3339)
	later := time.Now().UTC().Add(time.Hour).Format(time.RFC3339)
	atEffect, atAnswer, automations := s.deadLetters(2, 3)
	reason := s.read(atEffect[0]).text("reason")
	require.Regexp(t, `^action\.`, reason)
	event := s.call(s.of.viewer, "GET", "/v1/events/"+s.read(atEffect[0]).text("event_id"), nil).is(200)
	for query, want := range map[string][]string{
		"status=dead":                     append(append([]string{}, atEffect...), atAnswer...),
		"status=dead&reason=" + reason:    atEffect,
		"status=dead&reason=action.*":     atEffect,
		"status=dead&reason=output.*":     atAnswer,
		"status=dead&reason=act*":         atEffect,
		"status=dead&reason=action":       nil,
		"reason=%25":                      nil,
		"automation_id=" + automations[1]: atAnswer,
		"status=done":                     nil,
		"status=dead&reason=action.*&endpoint_id=" + s.endpoint: atEffect,
		"endpoint_id=end_01980000000070008000000000000000":      nil,
		"endpoint_id=nonsense":                                  nil,
		"status=dead&reason=action.*&since=" + began:            atEffect,
		"since=" + later: nil,
		"until=" + began: nil,
		"reason=action.*&type=" + url.QueryEscape(event.text("type")): atEffect,
		"type=nothing":   nil,
		"entity=nothing": nil,
		"status=dead&automation_id=" + automations[0] + "&until=" + later: atEffect,
	} {
		require.ElementsMatch(t, want, ids(s.call(s.of.viewer, "GET", "/v1/runs?"+query, nil).is(200).rows()), query)
		total := 0.0
		for _, row := range s.call(s.of.viewer, "GET", "/v1/runs/counts?"+query, nil).is(200).rows() {
			count, _ := row["count"].(float64)
			total += count
		}
		require.InDelta(t, len(want), total, 0, query)
	}
	rows := s.call(s.of.viewer, "GET", "/v1/runs/counts?status=dead", nil).is(200).rows()
	require.Len(t, rows, 2)
	require.Equal(t, "output.refused", rows[0]["reason"], "the most first")
	require.Equal(t, automations[1], rows[0]["automation_id"])
	require.InDelta(t, 3, rows[0]["count"], 0)
	require.Equal(t, s.read(atAnswer[0]).text("created_at"), rows[0]["oldest_at"])
	require.Equal(t, s.read(atAnswer[2]).text("created_at"), rows[0]["newest_at"])
	require.Empty(t, s.call(s.bundle.tenant().viewer, "GET", "/v1/runs/counts", nil).is(200).rows(), "another tenant has none")
}

func TestManyAreRetriedEachByItsOwnRules(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	atEffect, atAnswer, _ := s.deadLetters(2, 2)
	asked := len(s.provider.Journal())
	const unknown = "run_01980000000070008000000000000000"
	other := s.bundle.tenant()
	got := s.call(other.editor, "POST", "/v1/runs/retry", map[string]any{"ids": atEffect}).is(200)
	require.InDelta(t, 0, got.get("changed"), 0, "another tenant's")

	// One that is wrong keeps no other from it; one that is named twice is one.
	got = s.many("retry", map[string]any{"ids": []string{unknown, atEffect[0], "nonsense", atEffect[0]}}).is(200)
	require.InDelta(t, 3, got.get("matched"), 0)
	require.InDelta(t, 1, got.get("changed"), 0)
	refused, _ := got.get("refused").([]any)
	require.Len(t, refused, 2)
	for i, id := range []string{unknown, "nonsense"} {
		one, _ := refused[i].(map[string]any)
		require.Equal(t, id, one["id"])
		require.Equal(t, "not_found", one["code"])
		require.NotEmpty(t, one["detail"])
	}
	require.Equal(t, "done", s.ended(atEffect[0]).text("status"))
	got = s.many("retry", map[string]any{"ids": atEffect[:1]}).is(200)
	require.Contains(t, string(got.body), "run.not_retryable", "it is done")
	require.Len(t, s.provider.Journal(), asked, "no model is paid for an effect")

	// A filter is about dead runs, unless it says otherwise.
	got = s.many("retry", map[string]any{"filter": map[string]any{"reason": "output.*"}}).is(200)
	require.InDelta(t, 2, got.get("changed"), 0)
	require.Equal(t, false, got.get("more"))
	require.Equal(t, atAnswer[1], got.text("last_id"))
	for _, id := range atAnswer {
		require.Equal(t, "done", s.ended(id).text("status"))
	}
	got = s.many("retry", map[string]any{"filter": map[string]any{"endpoint_id": s.endpoint, "after": atEffect[0]}}).is(200)
	require.InDelta(t, 1, got.get("matched"), 0, "those behind it")
	require.Equal(t, "done", s.ended(atEffect[1]).text("status"))
	require.Equal(t, 4, s.made())
}

func TestManyAreCancelled(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	automation := s.make(map[string]any{"mode": "live"}) // nobody works
	for range 3 {
		s.event(s.of, s.endpoint)
	}
	got := s.many("cancel", map[string]any{"filter": map[string]any{"automation_id": automation}}).is(200)
	require.InDelta(t, 3, got.get("changed"), 0)
	require.Len(t, s.call(s.of.viewer, "GET", "/v1/runs?status=cancelled", nil).is(200).rows(), 3)
	got = s.many("cancel", map[string]any{"filter": map[string]any{"automation_id": automation}}).is(200)
	require.InDelta(t, 0, got.get("matched"), 0, "a filter is about what has not ended")
	got = s.many("cancel", map[string]any{"filter": map[string]any{"automation_id": automation, "status": "cancelled"}}).is(200)
	require.InDelta(t, 3, got.get("matched"), 0)
	require.Contains(t, string(got.body), "run.ended")
}

func TestManyRefusesWhatItCannotMean(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var toomany []string
	for range 1001 {
		toomany = append(toomany, tenants.FormatID(tenants.RunPrefix, uuid.New()))
	}
	for name, c := range map[string]struct {
		body map[string]any
		want string
	}{
		"neither":       {map[string]any{}, "body"},
		"no ids":        {map[string]any{"ids": []string{}}, "body"},
		"both":          {map[string]any{"ids": toomany[:1], "filter": map[string]any{"status": "dead"}}, "body"},
		"empty filter":  {map[string]any{"filter": map[string]any{}}, "body.filter"},
		"after alone":   {map[string]any{"filter": map[string]any{"after": toomany[0]}}, "body.filter"},
		"after nothing": {map[string]any{"filter": map[string]any{"status": "dead", "after": "x"}}, "body.filter.after"},
		"too many":      {map[string]any{"ids": toomany}, "body.ids"},
		"odd status":    {map[string]any{"filter": map[string]any{"status": "odd"}}, "body.filter.status"},
	} {
		for _, act := range []string{"retry", "cancel"} {
			require.Contains(t, s.many(act, c.body).refused(422, "input.invalid").faults(), c.want, name)
		}
	}
	s.call(s.of.viewer, "POST", "/v1/runs/retry", map[string]any{"ids": toomany[:1]}).refused(403, "key.role")
}

// TestTheSameReplayAskedForAtOnceIsOne: whoever comes second waits for the first, and is answered alike.
func TestTheSameReplayAskedForAtOnceIsOne(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.make(map[string]any{"mode": "shadow"})
	event := s.event(s.of, s.endpoint)
	made := map[string]bool{}
	for round := range 5 {
		ask := map[string]any{"id": fmt.Sprintf("rpl_%032x", 0xf0-round), "events": []string{event}, "mode": "shadow"}
		answers := make(chan heard, 4)
		for range cap(answers) {
			go func() { answers <- s.call(s.of.editor, "POST", "/v1/replays", ask) }()
		}
		for range cap(answers) {
			got := <-answers
			require.Less(t, got.status, 300, "%s", got.body)
			made[got.text("replay.id")] = true
		}
	}
	require.Len(t, made, 5)
	// The newest comes first, whatever ids they were given, on every page.
	var listed []string
	cursor := ""
	for {
		page := s.call(s.of.viewer, "GET", "/v1/replays?limit=2&cursor="+cursor, nil).is(200)
		listed = append(listed, ids(page.rows())...)
		if cursor = page.text("next_cursor"); cursor == "" {
			break
		}
	}
	require.Len(t, listed, 5)
	for i, id := range listed {
		require.Equal(t, fmt.Sprintf("rpl_%032x", 0xf0-4+i), id)
	}
}

// TestAPriceIsNoAnswerToTheBacktest: one Idempotency-Key for both is a mistake, and is told.
func TestAPriceIsNoAnswerToTheBacktest(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	path := "/v1/automations/" + s.make(nil) + "/backtest"
	body := map[string]any{"draft": map[string]any{"prompt": map[string]any{"user": "Other."}}}
	s.call(s.of.editor, "POST", path, body, "Idempotency-Key", "k").is(201)
	body["dry_run"] = false
	s.call(s.of.editor, "POST", path, body, "Idempotency-Key", "k").refused(422, "idempotency.key_reused")
	s.call(s.of.editor, "POST", path, body, "Idempotency-Key", "k2").is(201)
}
