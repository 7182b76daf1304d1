package api_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/tenants"
)

func TestCredentialSaysWhoItIs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	id := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201).text("id")
	change := func(body map[string]any) heard { return b.call(of.admin, "PATCH", "/v1/credentials/"+id, body) }
	require.NotContains(t, b.call(of.admin, "GET", "/v1/credentials/"+id, nil).is(200).object(), "actor")

	require.Equal(t, "acme-bot[bot]", change(map[string]any{"actor": "acme-bot[bot]"}).is(200).text("actor"))
	require.Equal(t, "acme-bot[bot]", change(map[string]any{"name": "renamed"}).is(200).text("actor"), "what is left out stays")
	require.Equal(t, "Ann B", change(map[string]any{"actor": "Ann B"}).is(200).text("actor"))
	for _, bad := range []any{" a", "a ", "a\nb", "a\x00", string(make([]byte, 201)), 7} {
		require.Contains(t, change(map[string]any{"actor": bad}).refused(422, "input.invalid").faults(), "body.actor")
	}
	require.NotContains(t, change(map[string]any{"actor": ""}).is(200).object(), "actor")
	b.call(of.editor, "PATCH", "/v1/credentials/"+id, map[string]any{"actor": "x"}).is(403)
}

func TestCredentialThatIsPaused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	made := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "openai", "secret": "sk-0123456789"}).is(201)
	path := "/v1/credentials/" + made.text("id")
	require.NotContains(t, made.object(), "paused_at")
	id, ok := tenants.ParseID(tenants.CredentialPrefix, made.text("id"))
	require.True(t, ok)
	change := func(body map[string]any) heard { return b.call(of.admin, "PATCH", path, body) }
	pause := func() heard {
		require.NoError(t, b.DB.Tenant(t.Context(), of.uuid(), func(tx db.TenantTx) error {
			return tx.CredentialPause(t.Context(), id, "The provider refuses the key.")
		}))
		paused := b.call(of.admin, "GET", path, nil).is(200)
		require.Equal(t, "The provider refuses the key.", paused.text("paused_reason"))
		require.NotEmpty(t, paused.text("paused_at"))
		return paused
	}
	before := b.call(of.admin, "GET", path, nil).is(200).header.Get("ETag")
	paused := pause()
	require.NotEqual(t, before, paused.header.Get("ETag"))
	require.Equal(t, paused.text("paused_at"), change(map[string]any{"name": "renamed"}).is(200).text("paused_at"), "a name changes nothing")
	for _, body := range []map[string]any{{"paused": false}, {"secret": "sk-9876543210"}} {
		pause()
		resumed := change(body).is(200)
		require.NotContains(t, resumed.object(), "paused_at", "%v", body)
		require.NotContains(t, resumed.object(), "paused_reason", "%v", body)
	}
	// Nobody pauses one by hand: an automation without it can be disabled.
	require.Contains(t, change(map[string]any{"paused": true}).refused(422, "input.invalid").faults(), "body.paused")
}

// TestRunSaysWhichOfOurActionsCausedIt reads what a worker kept.
func TestRunSaysWhichOfOurActionsCausedIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	b.automation(of, endpoint)
	var runs, events []string
	for range 2 {
		events = append(events, b.event(of, endpoint))
		runs = append(runs, b.call(of.viewer, "GET", "/v1/runs?event_id="+events[len(events)-1], nil).is(200).rows()[0]["id"].(string))
	}
	first, _ := tenants.ParseID(tenants.RunPrefix, runs[0])
	second, _ := tenants.ParseID(tenants.RunPrefix, runs[1])
	act := tenants.NewID()
	keep := func(cause *uuid.UUID) {
		require.NoError(t, b.DB.Tenant(t.Context(), of.uuid(), func(tx db.TenantTx) error {
			return tx.LoopDepths(t.Context(), []db.LoopDepth{{RunID: second, Depth: 1, CausedBy: cause}})
		}))
	}
	keep(nil)
	unnamed := b.call(of.viewer, "GET", "/v1/runs/"+runs[1], nil).is(200)
	require.InDelta(t, 1, unnamed.get("depth"), 0)
	require.NotContains(t, unnamed.object(), "caused_by")
	require.NoError(t, b.DB.Tenant(t.Context(), of.uuid(), func(tx db.TenantTx) error {
		return tx.ActionInsert(t.Context(), db.Action{ID: act, RunID: first, Kind: "callback", Key: "msg_1", Effect: []byte(`{}`), State: db.ActionConfirmed})
	}))
	keep(&act)
	want := map[string]any{"action_id": tenants.FormatID(tenants.ActionPrefix, act), "run_id": runs[0]}
	require.Equal(t, want, b.call(of.viewer, "GET", "/v1/runs/"+runs[1], nil).is(200).get("caused_by"))
	explained, _ := b.call(of.viewer, "GET", "/v1/events/"+events[1]+"/explain", nil).is(200).get("runs").([]any)
	require.Len(t, explained, 1)
	require.Equal(t, want, explained[0].(map[string]any)["caused_by"])
	require.NotContains(t, b.call(of.viewer, "GET", "/v1/runs/"+runs[0], nil).is(200).object(), "depth")
}
