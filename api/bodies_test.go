package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoBodyMayHoldANUL: the database neither keeps one nor looks for it, and says so in a way that would be a 500.
func TestNoBodyMayHoldANUL(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	const bad = "a\x00b"
	for _, c := range []struct {
		path, place string
		body        map[string]any
	}{
		{"/v1/replays", "body.filter.reason", map[string]any{"mode": "run", "filter": map[string]any{"reason": bad}}},
		{"/v1/replays", "body.event_filter.type", map[string]any{"mode": "run", "event_filter": map[string]any{"type": bad}}},
		{"/v1/runs/retry", "body.filter.entity", map[string]any{"filter": map[string]any{"entity": bad}}},
		{"/v1/runs/cancel", "body.filter.type", map[string]any{"filter": map[string]any{"type": bad}}},
		{"/v1/runs/" + unknownID["runs"] + "/resolve", "body.note", map[string]any{"arrived": true, "note": bad}},
		{"/v1/runs/" + unknownID["runs"] + "/review", "body.note", map[string]any{"verdict": "approve", "note": bad}},
	} {
		faults := b.call(of.editor, "POST", c.path, c.body).refused(422, "input.invalid").faults()
		require.Contains(t, faults, c.place, c.path)
	}
}

// TestReviewersSeeAllThatIsSent: the subject of a mail and whether customers see a comment are what a person approves, too.
func TestReviewersSeeAllThatIsSent(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.work()
	mail := s.call(s.of.admin, "POST", "/v1/credentials", map[string]any{"name": "m", "kind": "smtp", "secret": "user:password", "base_url": "smtp://127.0.0.1:1"}).is(201).text("id")
	s.make(map[string]any{"action": map[string]any{
		"kind": "email", "credential_id": mail, "from": "support@acme.example", "to": "ann@example.com", "subject": "Re: {{ output.reply }}", "body": "{{ output.reply }}",
	}})
	run := s.runs("in_review")[0]
	fields := run.get("actions").([]any)[0].(map[string]any)["fields"].(map[string]any)
	require.Contains(t, fields["subject"], "Re: ")
	require.Contains(t, fields["from"], "support@acme.example")
	faults := s.review(run.text("id"), map[string]any{"verdict": "approve", "output": nil}).refused(422, "input.invalid").faults()
	require.Contains(t, faults["body.output"], "leave it out")
}
