package api_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAutomationFaultsComeAllAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	callback := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201).text("id")
	openai := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "openai", "secret": "sk-0123456789"}).is(201).text("id")
	endpoint := b.endpoint(of).text("id")
	everything := b.call(of.editor, "POST", "/v1/automations", map[string]any{
		"name": "", "endpoint_id": "end_none", "when": "event.typ ==", "model": "scripted/unheard-of", "fallbacks": []any{"nobody/x", 7},
		"prompt": map[string]any{"system": "{{ payload.x | nofilter }}", "user": "{% if %}", "usr": "x"}, "output_schema": map[string]any{"type": "array"},
		"max_output_tokens": 99999, "action": map[string]any{"kind": "callback", "url": "ftp://x", "odd": 1}, "mode": "on", "priority": "sometimes",
		"credential_id": callback, "colour": "red",
	}).refused(422, "input.invalid").faults()
	require.ElementsMatch(t, []string{
		"body.name", "body.endpoint_id", "body.when", "body.model", "body.fallbacks/1", "body.fallbacks/0", "body.prompt.system", "body.prompt.user",
		"body.prompt.usr", "body.output_schema/type", "body.max_output_tokens", "body.action.url", "body.action.odd", "body.action.credential_id",
		"body.mode", "body.priority", "body.credential_id", "body.colour",
	}, slices.Collect(maps.Keys(everything)), "%v", everything)
	require.Contains(t, everything["body.action.credential_id"], "POST /v1/credentials")
	require.Contains(t, everything["body.mode"], "shadow")

	missing := b.call(of.editor, "POST", "/v1/automations", map[string]any{}).refused(422, "input.invalid").faults()
	require.Subset(t, slices.Collect(maps.Keys(missing)), []string{"body.name", "body.endpoint_id", "body.model", "body.prompt", "body.action"})

	for name, c := range map[string]struct {
		change map[string]any
		want   string
	}{
		"no connector":        {map[string]any{"action": map[string]any{"kind": "fax"}}, "body.action.kind"},
		"wrong credential":    {map[string]any{"action": map[string]any{"kind": "callback", "url": "https://example.com/", "credential_id": openai}}, "body.action.credential_id"},
		"unpriced fallback":   {map[string]any{"fallbacks": []string{"openai/unheard-of"}}, "body.fallbacks/0"},
		"other provider pays": {map[string]any{"model": "anthropic/claude-sonnet-4-5", "credential_id": openai}, "body.credential_id"},
		"nul in a prompt":     {map[string]any{"prompt": map[string]any{"user": "a\x00b"}}, "body.prompt.user"},
		"enabled is a word":   {map[string]any{"enabled": "yes"}, "body.enabled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := draft(endpoint)
			maps.Copy(body, c.change)
			got := b.call(of.editor, "POST", "/v1/automations", body).refused(422, "input.invalid").faults()
			require.Equal(t, []string{c.want}, slices.Collect(maps.Keys(got)), "%v", got)
		})
	}
	t.Run("half a surrogate pair", func(t *testing.T) {
		t.Parallel()
		b.call(of.editor, "POST", "/v1/automations", `{"name":"n","endpoint_id":"`+endpoint+`","model":"scripted/echo-1","prompt":{"user":"\ud800"},
			"output_schema":{"type":"object","description":"\ud800","properties":{}},"action":{"kind":"none"}}`).is(201)
	})
}

func TestAutomationVersions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint, second := b.endpoint(of).text("id"), b.endpoint(of).text("id")
	credential := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201).text("id")
	body := draft(endpoint)
	body["when"], body["enabled"] = "event.type == 'a'", false
	body["output_schema"] = map[string]any{"type": "object", "properties": map[string]any{"reply": map[string]any{"type": "string"}}, "required": []string{"reply"}}
	body["action"] = map[string]any{"kind": "callback", "url": "https://example.com/x?token=1", "credential_id": credential}
	made := b.call(of.editor, "POST", "/v1/automations", body).is(201)
	require.Equal(t, false, made.get("enabled"))
	require.InDelta(t, 1, made.get("version"), 0)
	require.Equal(t, "shadow", made.text("mode"))
	require.Equal(t, "string", made.text("output_schema.properties.reply.type"))
	path := "/v1/automations/" + made.text("id")
	require.Equal(t, made.object(), b.call(of.viewer, "GET", path, nil).is(200).object())

	on := b.call(of.editor, "PATCH", path, map[string]any{"enabled": true}).is(200)
	require.InDelta(t, 1, on.get("version"), 0, "enabling alone makes no version")
	require.Equal(t, true, on.get("enabled"))
	next := b.call(of.editor, "PATCH", path, map[string]any{"name": "second", "when": nil, "output_schema": nil}).is(200)
	require.InDelta(t, 2, next.get("version"), 0)
	require.Equal(t, "second", next.text("name"))
	require.Nil(t, next.get("when"))
	require.Nil(t, next.get("output_schema"))
	require.Equal(t, "{{ payload.type }}", next.text("prompt.user"), "what is not given stays")
	require.Equal(t, true, next.get("enabled"))
	moved := b.call(of.editor, "PATCH", path, map[string]any{"endpoint_id": second}).is(200)
	require.Equal(t, second, moved.text("endpoint_id"))
	require.InDelta(t, 3, b.call(of.editor, "PATCH", path, map[string]any{}).is(200).get("version"), 0)

	require.Contains(t, b.call(of.editor, "PATCH", path, map[string]any{"when": "nonsense("}).refused(422, "input.invalid").faults(), "body.when")
	require.Contains(t, b.call(of.editor, "PATCH", path, map[string]any{"enabled": nil}).refused(422, "input.invalid").faults(), "body.enabled")
	require.Contains(t, b.call(of.editor, "PATCH", path, map[string]any{"name": nil}).refused(422, "input.invalid").faults(), "body.name")
	require.Contains(t, b.call(of.editor, "PATCH", path, map[string]any{"version": 9}).refused(422, "input.invalid").faults(), "body.version")

	versions := b.call(of.viewer, "GET", path+"/versions?limit=2", nil).is(200)
	require.Len(t, versions.rows(), 2)
	require.InDelta(t, 3, versions.rows()[0]["version"], 0)
	rest := b.call(of.viewer, "GET", path+"/versions?limit=2&cursor="+versions.text("next_cursor"), nil).is(200)
	require.Len(t, rest.rows(), 1)
	require.Equal(t, "event.type == 'a'", rest.rows()[0]["when"])
	require.Regexp(t, `^key_`, rest.rows()[0]["created_by"])

	b.call(of.admin, "DELETE", "/v1/credentials/"+credential, nil).refused(409, "credential.in_use")
	b.call(of.editor, "DELETE", path, nil).is(204)
	b.call(of.viewer, "GET", path, nil).refused(404, "not_found")
	b.call(of.admin, "DELETE", "/v1/credentials/"+credential, nil).is(204)
}

func TestAutomationsOfOneEndpointHaveALimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	first := b.automation(of, endpoint).text("id")
	_, err := b.Owner.Exec(t.Context(), `
		with made as (
			insert into sluice.automations (tenant_id, id, endpoint_id, name)
			select tenant_id, gen_random_uuid(), endpoint_id, 'more' from sluice.automations, generate_series(1, 49) returning tenant_id, id)
		insert into sluice.automation_versions (tenant_id, automation_id, version, spec)
		select m.tenant_id, m.id, 1, v.spec from made m, sluice.automation_versions v where v.version = 1`)
	require.NoError(t, err)
	b.call(of.editor, "POST", "/v1/automations", draft(endpoint)).refused(409, "automation.too_many")
	b.call(of.editor, "PATCH", "/v1/automations/"+first, map[string]any{"name": "other"}).is(200)
	b.call(of.editor, "DELETE", "/v1/automations/"+first, nil).is(204)
	b.call(of.editor, "POST", "/v1/automations", draft(endpoint)).is(201)
}
