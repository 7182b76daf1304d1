package api_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// everyBound is what an automation can say about retries, limits, ceilings and loops, none of it a default.
func everyBound() map[string]any {
	return map[string]any{
		"retry":      map[string]any{"attempts": 7.0, "backoff_seconds": 10.0, "backoff_max_seconds": 600.0},
		"over_limit": "cheaper", "cheaper_model": "scripted/cached-1", "max_call_usd": "0.0512",
		"loop": map[string]any{"depth": 0.0, "actions_per_hour": 5.0},
	}
}

func TestAutomationBoundsAreKeptAndChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	body := draft(b.endpoint(of).text("id"))
	maps.Copy(body, everyBound())
	made := b.call(of.editor, "POST", "/v1/automations", body).is(201)
	path := "/v1/automations/" + made.text("id")
	for name, want := range everyBound() {
		require.Equal(t, want, made.get(name), name)
		require.Equal(t, want, b.call(of.viewer, "GET", path, nil).is(200).get(name), name)
	}

	renamed := b.call(of.editor, "PATCH", path, map[string]any{"name": "other"}).is(200)
	require.Equal(t, "other", renamed.text("name"))
	for name, want := range everyBound() {
		require.Equal(t, want, renamed.get(name), "%s is not named, and stays", name)
	}

	retry := b.call(of.editor, "PATCH", path, map[string]any{"retry": map[string]any{"attempts": 2}}).is(200)
	require.Equal(t, map[string]any{"attempts": 2.0, "backoff_seconds": 2.0, "backoff_max_seconds": 300.0}, retry.get("retry"), "an object is replaced whole")
	require.Equal(t, everyBound()["loop"], retry.get("loop"))

	faults := b.call(of.editor, "PATCH", path, map[string]any{"over_limit": "drop"}).refused(422, "input.invalid").faults()
	require.Contains(t, faults["body.cheaper_model"], "only where over_limit is cheaper", "what stays is checked together with what changes")
	none := b.call(of.editor, "PATCH", path, map[string]any{"over_limit": nil, "cheaper_model": nil, "retry": nil, "loop": nil, "max_call_usd": nil}).is(200)
	require.Equal(t, "hold", none.text("over_limit"))
	for _, name := range []string{"cheaper_model", "retry", "loop", "max_call_usd"} {
		require.Nil(t, none.get(name), name)
	}
	versions := b.call(of.viewer, "GET", path+"/versions", nil).is(200).rows()
	require.Len(t, versions, 4)
	require.Equal(t, everyBound()["loop"], versions[3]["loop"])
}

func TestAutomationBoundsAreChecked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	cheaper := func(model any) map[string]any { return map[string]any{"over_limit": "cheaper", "cheaper_model": model} }
	within := func(name, field string, value any) map[string]any {
		return map[string]any{name: map[string]any{field: value}}
	}
	for name, c := range map[string]struct {
		change     map[string]any
		at, reason string
	}{
		"too many attempts":            {within("retry", "attempts", 21), "body.retry.attempts", "<= 20"},
		"no attempt":                   {within("retry", "attempts", 0), "body.retry.attempts", ">= 1"},
		"half an attempt":              {within("retry", "attempts", 1.5), "body.retry.attempts", "integer"},
		"backoff is a word":            {within("retry", "backoff_seconds", "2s"), "body.retry.backoff_seconds", "integer"},
		"backoff above its most":       {within("retry", "backoff_seconds", 301), "body.retry.backoff_max_seconds", "at least backoff_seconds"},
		"unknown key of retry":         {within("retry", "jitter", true), "body.retry.jitter", "unexpected"},
		"retry is a number":            {map[string]any{"retry": 3}, "body.retry", "object"},
		"unknown over_limit":           {map[string]any{"over_limit": "wait"}, "body.over_limit", "one of"},
		"cheaper without a model":      {map[string]any{"over_limit": "cheaper"}, "body.cheaper_model", "is required"},
		"a model without cheaper":      {map[string]any{"cheaper_model": "scripted/cached-1"}, "body.cheaper_model", "only where"},
		"cheaper is the model itself":  {cheaper("scripted/echo-1"), "body.cheaper_model", "the model itself"},
		"cheaper of no provider here":  {cheaper("nobody/x"), "body.cheaper_model", "there is no provider"},
		"cheaper has no price":         {cheaper("scripted/unheard-of"), "body.cheaper_model", "there is no price"},
		"cheaper has no provider":      {cheaper("echo-1"), "body.cheaper_model", "expected provider/model"},
		"ceiling is a number":          {map[string]any{"max_call_usd": 0.05}, "body.max_call_usd", "string"},
		"ceiling is empty":             {map[string]any{"max_call_usd": ""}, "body.max_call_usd", "length"},
		"ceiling is nothing":           {map[string]any{"max_call_usd": "0.00"}, "body.max_call_usd", "more than 0"},
		"ceiling below a pico-USD":     {map[string]any{"max_call_usd": "0.0000000000001"}, "body.max_call_usd", "at most 12 decimals"},
		"ceiling with an exponent":     {map[string]any{"max_call_usd": "1e-3"}, "body.max_call_usd", "decimal"},
		"ceiling below every call":     {map[string]any{"max_call_usd": "0.005119999999"}, "body.max_call_usd", "1024 tokens that scripted/echo-1 may write"},
		"ceiling of a dated name":      {map[string]any{"max_call_usd": "0.005", "model": "scripted/echo-1-20260102"}, "body.max_call_usd", "cost 0.00512"},
		"ceiling below what is wanted": {map[string]any{"max_call_usd": "0.04", "max_output_tokens": 10_000}, "body.max_call_usd", "cost 0.05 USD"},
		"depth is negative":            {within("loop", "depth", -1), "body.loop.depth", ">= 0"},
		"depth is large":               {within("loop", "depth", 11), "body.loop.depth", "<= 10"},
		"no actions":                   {within("loop", "actions_per_hour", 0), "body.loop.actions_per_hour", ">= 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := draft(endpoint)
			maps.Copy(body, c.change)
			got := b.call(of.editor, "POST", "/v1/automations", body).refused(422, "input.invalid").faults()
			require.Equal(t, []string{c.at}, slices.Collect(maps.Keys(got)), "%v", got)
			require.Contains(t, got[c.at], c.reason)
		})
	}
	for name, change := range map[string]map[string]any{
		"ceiling of what is written at most": {"max_call_usd": "0.00512"},
		"ceiling of a few tokens":            {"max_call_usd": "0.000005", "max_output_tokens": 1},
		"cheaper is a fallback too":          {"over_limit": "cheaper", "cheaper_model": "scripted/cached-1", "fallbacks": []string{"scripted/cached-1"}},
		"no own action in the chain":         {"loop": map[string]any{"depth": 0}},
		"drop":                               {"over_limit": "drop"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := draft(endpoint)
			maps.Copy(body, change)
			b.call(of.editor, "POST", "/v1/automations", body).is(201)
		})
	}
	t.Run("together with all other faults", func(t *testing.T) {
		t.Parallel()
		body := draft(endpoint)
		maps.Copy(body, map[string]any{"name": "", "retry": map[string]any{"attempts": 0}, "max_call_usd": "0.001", "loop": map[string]any{"depth": 99}})
		maps.Copy(body, cheaper("nobody/x"))
		got := b.call(of.editor, "POST", "/v1/automations", body).refused(422, "input.invalid").faults()
		require.ElementsMatch(t, []string{"body.name", "body.retry.attempts", "body.cheaper_model", "body.max_call_usd", "body.loop.depth"},
			slices.Collect(maps.Keys(got)), "%v", got)
	})
}

// A number that a schema takes and an int does not must not become a default.
func TestAutomationNumbersAreNeverReplaced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	begin := `{"name": "n", "endpoint_id": "` + b.endpoint(of).text("id") + `", "model": "scripted/echo-1", "prompt": {"user": "x"}, "action": {"kind": "none"}, `
	for text, want := range map[string]string{
		`"max_output_tokens": 600.0`:       "body.max_output_tokens",
		`"max_output_tokens": 6e2`:         "body.max_output_tokens",
		`"retry": {"attempts": 3e0}`:       "body.retry.attempts",
		`"loop": {"depth": 2.0}`:           "body.loop.depth",
		`"loop": {"actions_per_hour":1e2}`: "body.loop.actions_per_hour",
	} {
		got := b.call(of.editor, "POST", "/v1/automations", begin+text+"}").refused(422, "input.invalid").faults()
		require.Equal(t, []string{want}, slices.Collect(maps.Keys(got)), "%v", got)
		require.Contains(t, got[want], "in digits alone")
	}
}

func TestAutomationsOfBeforeThereWereBoundsGoOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	made := b.automation(of, b.endpoint(of).text("id"))
	path := "/v1/automations/" + made.text("id")
	_, err := b.Owner.Exec(t.Context(), `update sluice.automation_versions set spec = '{"name": "old", "when": "", "model": "scripted/echo-1", "fallbacks": null,
		"prompt": {"system": "", "user": "x"}, "max_output_tokens": 1024, "action": {"kind": "none"}, "mode": "shadow", "priority": "routine"}'`)
	require.NoError(t, err)

	id, ok := tenants.ParseID(tenants.AutomationPrefix, made.text("id"))
	require.True(t, ok)
	require.NoError(t, b.DB.Tenant(t.Context(), of.uuid(), func(tx db.TenantTx) error {
		version, err := tx.AutomationVersionGet(t.Context(), id, 1)
		require.NoError(t, err)
		compiled, err := jobs.NewCompiled().Of(version)
		require.NoError(t, err)
		require.Equal(t, automations.OverHold, compiled.Spec().OverLimit)
		require.Equal(t, automations.Retry{Attempts: 5, Base: 2 * time.Second, Most: 5 * time.Minute}, compiled.Retry())
		require.Equal(t, automations.Loop{Depth: 2, ActionsPerHour: 30}, compiled.Loop())
		require.Zero(t, compiled.MaxCallPico())
		return nil
	}))
	require.Equal(t, "old", b.call(of.viewer, "GET", path, nil).is(200).text("name"))
	next := b.call(of.editor, "PATCH", path, map[string]any{"max_call_usd": "1"}).is(200)
	require.Equal(t, "1", next.text("max_call_usd"))
	require.Equal(t, "hold", next.text("over_limit"))
	require.Nil(t, next.get("retry"))
}
