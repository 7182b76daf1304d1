package automations_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

func acting(t *testing.T, action string) *automations.Compiled {
	t.Helper()
	s := triage()
	s.Action = json.RawMessage(action)
	return compiled(t, s)
}

func TestActionFields_TargetsKnowTheEventAndContentTheOutput(t *testing.T) {
	t.Parallel()
	c := acting(t, `{"kind": "{{ x }}", "credential_id": "crd_{{", "repo": "{{ payload.repo }}", "issue": "7", "update": true, "links": ["{{ a }}"],
		"body": "{{ output.reply }}", "subject": "re {{ payload.repo }}"}`)
	fields, err := c.ActionFields(opened(), map[string]any{"repo": "acme/shop"}, map[string]any{"reply": "hello"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"repo": "acme/shop", "body": "hello", "subject": "re acme/shop"}, fields)

	for field, place := range map[string]string{
		`"repo": "{{ output.repo }}"`: "action.repo", `"channel": "x{% if output.a %}y{% endif %}"`: "action.channel", `"to": "{{ state.x }}"`: "action.to",
		`"url": "https://a.example/{{ output.x }}"`: "action.url", `"url": "https://{{ payload.host }}/"`: "action.url", `"body": 1`: "action.body",
		`"json": "{\"a\": {{ output | json }} }"`: "action.json",
	} {
		s := triage()
		s.Action = json.RawMessage(`{"kind": "http", ` + field + `}`)
		_, faults := automations.Compile(s)
		require.Len(t, faults, 1, field)
		require.Equal(t, place, faults[0].Place)
	}
}

func TestActionFields_NoValueLeavesItsPlace(t *testing.T) {
	t.Parallel()
	c := acting(t, `{"kind": "http", "url": "https://crm.example/v1/{{ payload.id }}/notes?q={{ payload.q }}",
		"json": "{\"text\": \"{{ output.reply }}\", \"n\": {{ output.n }}, \"tags\": {{ output.tags }}, \"none\": {{ payload.gone }}}"}`)
	hostile := "\"}, \"admin\": true, \"x\": \"\\ \n\u2028"
	fields, err := c.ActionFields(opened(), map[string]any{"id": "a/b?c#d", "q": "x&y=z"},
		map[string]any{"reply": hostile, "n": 3, "tags": []any{"a\"b", "c"}})
	require.NoError(t, err)
	require.Equal(t, "https://crm.example/v1/a%2Fb%3Fc%23d/notes?q=x%26y%3Dz", fields["url"])
	var document map[string]any
	require.NoError(t, json.Unmarshal([]byte(fields["json"]), &document), fields["json"])
	require.Equal(t, map[string]any{"text": hostile, "n": 3.0, "tags": []any{"a\"b", "c"}, "none": nil}, document)

	for _, id := range []string{"", "..", ".", "a/../b"} {
		_, err = c.ActionFields(opened(), map[string]any{"id": id, "q": "x"}, map[string]any{})
		var failed *automations.RenderError
		require.ErrorAs(t, err, &failed, id)
		require.Equal(t, "action.url", failed.Place)
	}
}
