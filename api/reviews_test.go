package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// actionBody is what a run shows of its only effect.
func actionBody(h heard) (state, body string) {
	h.t.Helper()
	actions, _ := h.get("actions").([]any)
	require.Len(h.t, actions, 1, "%s", h.body)
	one, _ := actions[0].(map[string]any)
	state, _ = one["state"].(string)
	body, _ = one["body"].(string)
	return state, body
}

func TestReviewOfARun(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.make(nil)
	s.work()

	t.Run("an approval posts what was shown", func(t *testing.T) {
		run := s.waiting()
		state, shown := actionBody(run)
		require.Equal(t, "proposed", state)
		require.NotEmpty(t, run.text("until"))
		require.Contains(t, string(s.call(s.of.viewer, "GET", "/v1/runs?status=in_review", nil).is(200).body), run.text("id"), "the queue")
		before := len(s.target.Journal())
		asked := len(s.provider.Journal())

		decided := s.review(run.text("id"), map[string]any{"verdict": "approve", "note": "fine"}).is(200)
		require.Equal(t, "acting", decided.text("status"))
		require.Equal(t, "approve", decided.text("review.verdict"))
		require.Regexp(t, "^key_", decided.text("review.by"))
		require.Equal(t, "fine", decided.text("review.note"))
		require.InDelta(t, 0, decided.get("review.changed"), 0)
		require.Nil(t, decided.object()["review"].(map[string]any)["output"])
		require.Equal(t, "done", s.ended(run.text("id")).text("status"))
		journal := s.target.Journal()
		require.Len(t, journal, before+1)
		require.Equal(t, shown, string(journal[before].Body))
		require.Len(t, s.provider.Journal(), asked, "the model is not asked again")

		s.review(run.text("id"), map[string]any{"verdict": "reject"}).refused(409, "review.decided")
		told := s.call(s.of.viewer, "GET", "/v1/events/"+run.text("event_id")+"/explain", nil).is(200)
		require.Contains(t, string(told.body), `"review.approved"`)
	})

	t.Run("an edit is posted, and what the model wrote never is", func(t *testing.T) {
		run := s.waiting()
		before, asked := len(s.target.Journal()), len(s.provider.Journal())
		_, unedited := actionBody(run)
		decided := s.review(run.text("id"), map[string]any{"verdict": "approve", "output": map[string]any{"reply": "Edited <by> a person & shown"}}).is(200)
		_, shown := actionBody(decided)
		require.NotEqual(t, unedited, shown)
		require.Equal(t, "Edited <by> a person & shown", decided.text("review.output.reply"))
		require.NotEqual(t, decided.text("output.reply"), decided.text("review.output.reply"), "the run keeps what the model wrote")
		diff := decided.text("review.diff")
		require.Contains(t, diff, "+  \"reply\": \"Edited <by> a person & shown\"")
		require.Contains(t, diff, "--- model\n+++ person\n")
		changed, _ := decided.get("review.changed").(float64)
		require.Greater(t, changed, 0.0)
		require.LessOrEqual(t, changed, 1.0)
		require.Equal(t, "done", s.ended(run.text("id")).text("status"))
		journal := s.target.Journal()
		require.Len(t, journal, before+1)
		require.Equal(t, shown, string(journal[before].Body), "byte for byte as shown")
		for _, sent := range journal {
			require.NotEqual(t, unedited, string(sent.Body))
		}
		require.Len(t, s.provider.Journal(), asked)
		require.Contains(t, string(s.call(s.of.viewer, "GET", "/v1/events/"+run.text("event_id")+"/explain", nil).is(200).body), `"review.edited"`)
	})

	t.Run("an output that is the same is no edit", func(t *testing.T) {
		run := s.waiting()
		_, shown := actionBody(run)
		decided := s.review(run.text("id"), map[string]any{"verdict": "approve", "output": run.get("output")}).is(200)
		require.InDelta(t, 0, decided.get("review.changed"), 0)
		_, sent := actionBody(decided)
		require.Equal(t, shown, sent)
		s.ended(run.text("id"))
	})

	t.Run("a rejection sends nothing, ever", func(t *testing.T) {
		run := s.waiting()
		before := len(s.target.Journal())
		decided := s.review(run.text("id"), map[string]any{"verdict": "reject", "note": "wrong tone"}).is(200)
		require.Equal(t, "skipped", decided.text("status"))
		require.Equal(t, "review.rejected", decided.text("reason"))
		state, _ := actionBody(decided)
		require.Equal(t, "withheld", state)
		s.call(s.of.editor, "POST", "/v1/runs/"+run.text("id")+"/retry", nil).refused(409, "run.not_retryable")
		s.review(run.text("id"), map[string]any{"verdict": "approve"}).refused(409, "review.decided")
		require.Len(t, s.target.Journal(), before)
	})

	t.Run("a run in review can be cancelled, and not retried", func(t *testing.T) {
		run := s.waiting()
		s.call(s.of.editor, "POST", "/v1/runs/"+run.text("id")+"/retry", nil).refused(409, "run.not_retryable")
		s.call(s.of.editor, "POST", "/v1/runs/"+run.text("id")+"/cancel", nil).is(200)
		state, _ := actionBody(s.read(run.text("id")))
		require.Equal(t, "withheld", state)
		s.review(run.text("id"), map[string]any{"verdict": "approve"}).refused(409, "run.not_in_review")
	})

	t.Run("what cannot be taken is refused, and the run waits on", func(t *testing.T) {
		run := s.waiting()
		for _, c := range []struct {
			body     string
			location string
		}{
			{`{"verdict": "approve", "output": {"reply": 7}}`, "body.output/reply"},
			{`{"verdict": "approve", "output": {}}`, "body.output"},
			{`{"verdict": "approve", "output": "text"}`, "body.output"},
			{`{"verdict": "approve", "output": {"reply": "a\u0000b"}}`, "body.output.reply"},
			{`{"verdict": "reject", "output": {"reply": "x"}}`, "body.output"},
			{`{"verdict": "perhaps"}`, "body.verdict"},
			{`{}`, "body.verdict"},
		} {
			faults := s.call(s.of.editor, "POST", "/v1/runs/"+run.text("id")+"/review", c.body).refused(422, "input.invalid").faults()
			require.Contains(t, faults, c.location, "%s", c.body)
		}
		require.Equal(t, "in_review", s.read(run.text("id")).text("status"))
		s.call(s.of.viewer, "POST", "/v1/runs/"+run.text("id")+"/review", map[string]any{"verdict": "approve"}).refused(403, "key.role")
	})

	t.Run("of many verdicts at once one stands", func(t *testing.T) {
		run := s.waiting()
		before := len(s.target.Journal())
		const reviewers = 6
		answers := make(chan heard, reviewers)
		for i := range reviewers {
			verdict := []map[string]any{
				{"verdict": "approve"}, {"verdict": "reject"}, {"verdict": "approve", "output": map[string]any{"reply": strings.Repeat("x", i+1)}},
			}[i%3]
			go func() { answers <- s.review(run.text("id"), verdict) }()
		}
		won := 0
		for range reviewers {
			if got := <-answers; got.status == http.StatusOK {
				won++
			} else {
				got.refused(409, "review.decided")
			}
		}
		require.Equal(t, 1, won)
		ended := s.ended(run.text("id"))
		sent := s.target.Journal()[before:]
		if ended.text("status") == "skipped" {
			require.Empty(t, sent)
			return
		}
		require.Len(t, sent, 1)
		_, shown := actionBody(ended)
		require.Equal(t, shown, string(sent[0].Body))
	})

	t.Run("numbers of an edit are not rounded", func(t *testing.T) {
		id := s.make(map[string]any{"name": "exact", "output_schema": map[string]any{"type": "object", "properties": map[string]any{"n": map[string]any{"type": "integer"}}}})
		found := false
		for _, run := range s.runs("in_review") {
			if run.text("automation_id") != id {
				continue
			}
			found = true
			s.call(s.of.editor, "POST", "/v1/runs/"+run.text("id")+"/review", `{"verdict": "approve", "output": {"n": 9007199254740993}}`).is(200)
			_, shown := actionBody(s.ended(run.text("id")))
			require.Contains(t, shown, "9007199254740993")
		}
		require.True(t, found)
		s.call(s.of.editor, "DELETE", "/v1/automations/"+id, nil).is(204)
	})
}

func TestReviewOfPlainTextWithoutAnEffect(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.make(map[string]any{"output_schema": nil, "action": map[string]any{"kind": "none"}})
	s.work()
	run := s.waiting()
	s.review(run.text("id"), map[string]any{"verdict": "approve", "output": map[string]any{"reply": "x"}}).refused(422, "input.invalid")
	s.review(run.text("id"), map[string]any{"verdict": "approve", "output": "  "}).refused(422, "input.invalid")
	decided := s.review(run.text("id"), map[string]any{"verdict": "approve", "output": "Better."}).is(200)
	require.Equal(t, "done", decided.text("status"))
	require.Equal(t, "review.approved", decided.text("reason"))
	require.Equal(t, "Better.", decided.text("review.output"))
	require.Empty(t, decided.get("actions"))
	require.Equal(t, "done", s.waitingDecided(map[string]any{"verdict": "approve"}).text("status"))
}

// waitingDecided sends an event, and gives a verdict on its run.
func (s *shop) waitingDecided(verdict map[string]any) heard {
	s.t.Helper()
	return s.review(s.waiting().text("id"), verdict).is(200)
}

func TestReviewWithoutThePayload(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.make(nil)
	s.work()
	run := s.waiting()
	_, err := s.Owner.Exec(t.Context(), `delete from sluice.event_payloads`)
	require.NoError(t, err)
	s.review(run.text("id"), map[string]any{"verdict": "approve", "output": map[string]any{"reply": "x"}}).refused(409, "review.payload_gone")
	_, shown := actionBody(run)
	s.review(run.text("id"), map[string]any{"verdict": "approve"}).is(200)
	require.Equal(t, "done", s.ended(run.text("id")).text("status"), "what was prepared needs no payload")
	require.Equal(t, shown, string(s.target.Journal()[0].Body))
}

func TestReviewOfAShadowRunIsImpossible(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.make(map[string]any{"mode": "shadow"})
	s.work()
	run := s.runs("done")[0]
	for _, verdict := range []map[string]any{
		{"verdict": "approve"}, {"verdict": "reject"}, {"verdict": "approve", "output": map[string]any{"reply": "x"}},
	} {
		refused := s.review(run.text("id"), verdict).refused(409, "review.shadow")
		require.Contains(t, refused.text("detail"), "nothing of it can be posted")
	}
	s.call(s.of.editor, "POST", "/v1/runs/"+run.text("id")+"/retry", nil).refused(409, "run.not_retryable")
	require.Empty(t, s.target.Journal())
	state, _ := actionBody(s.read(run.text("id")))
	require.Equal(t, "withheld", state)
}
