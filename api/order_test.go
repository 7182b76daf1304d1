package api_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/tenants"
)

func TestSettingsOfAnOrderAreChecked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	create := func(settings map[string]any) heard {
		return b.call(of.editor, "POST", "/v1/endpoints", map[string]any{"name": "x", "source": "standard", "settings": settings})
	}
	got := create(map[string]any{"order": "sometimes", "order_window_seconds": 1, "order_dead": "pass"}).refused(422, "input.invalid").faults()
	require.ElementsMatch(t, []string{"body.settings.order", "body.settings.order_window_seconds", "body.settings.order_dead"}, slices.Collect(maps.Keys(got)))
	made := create(map[string]any{"order": "serial", "order_dead": "block"}).is(201)
	path := "/v1/endpoints/" + made.text("id")
	b.call(of.editor, "PATCH", path, map[string]any{"settings": map[string]any{"order": "latest", "order_window_seconds": 301}}).refused(422, "input.invalid")
	require.Equal(t, "block", b.call(of.viewer, "GET", path, nil).text("settings.order_dead"))
	for _, s := range b.call(of.viewer, "GET", "/v1/sources", nil).is(200).rows() {
		names := map[string]bool{}
		settings, _ := s["settings"].([]any)
		for _, setting := range settings {
			fields, _ := setting.(map[string]any)
			name, _ := fields["name"].(string)
			names[name] = true
		}
		require.True(t, names["order"] && names["order_window_seconds"] && names["order_dead"], "%v", s["name"])
	}
}

// ordered keeps an event with a run of an automation, as the intake does.
func (b *bundle) ordered(of tenant, endpoint, automation string, ordering string) (run uuid.UUID, event string) {
	b.t.Helper()
	endpointID, _ := tenants.ParseID(tenants.EndpointPrefix, endpoint)
	automationID, _ := tenants.ParseID(tenants.AutomationPrefix, automation)
	e := db.EventNew{ID: tenants.NewID(), Entity: "issue:1", Type: "x", Verdicts: json.RawMessage(`[]`)}
	e.SourceEventID = e.ID.String()
	e.Runs = []db.RunNew{{ID: tenants.NewID(), AutomationID: automationID, AutomationVersion: 1, Mode: "shadow", Priority: "routine", Ordering: ordering}}
	require.NoError(b.t, b.DB.Door(b.t.Context(), func(tx db.DoorTx) error {
		_, err := tx.Admit(b.t.Context(), []*db.Delivery{{
			TenantID: of.uuid(), EndpointID: endpointID, Source: "standard", Headers: json.RawMessage(`{}`), Body: []byte(`{}`), BodySHA256: []byte("x"),
			Events: []db.EventNew{e},
		}})
		return err
	}))
	return e.Runs[0].ID, tenants.FormatID(tenants.EventPrefix, e.ID)
}

func TestOrderedRunsShowWhyTheyStandWhereTheyStand(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	automation := b.automation(of, endpoint).text("id")
	folded, event := b.ordered(of, endpoint, automation, db.OrderLatest)
	w := worked{b: b, of: of, uuid: folded, event: event}
	w.tx(func(ctx context.Context, tx db.TenantTx) error {
		r, err := tx.RunClaim(ctx, folded, time.Minute)
		require.NoError(t, err)
		return tx.RunStep(ctx, r.ID, r.Epoch, db.RunStep{Status: db.RunSkipped, Reason: db.ReasonFolded, Detail: "It is folded into evt_x.", TokensSaved: 321})
	})
	row := b.call(of.viewer, "GET", "/v1/runs?reason=order.folded", nil).is(200).rows()[0]
	require.InDelta(t, 321, row["tokens_saved"], 0)
	e := w.explain()
	require.Equal(t, "skipped", e.Status)
	require.Contains(t, e.Summary, "folded into evt_x")
	require.EqualValues(t, 321, e.Runs[0].TokensSaved)
}

func TestOrderedRunIsCancelledAndHandsOver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	require.Equal(t, 200, b.call(of.editor, "PATCH", "/v1/endpoints/"+endpoint, map[string]any{"settings": map[string]any{"order": "serial", "order_dead": "block"}}).status)
	automation := b.automation(of, endpoint).text("id")
	first, _ := b.ordered(of, endpoint, automation, db.OrderSerial)
	second, _ := b.ordered(of, endpoint, automation, db.OrderSerial)
	alone, _ := b.ordered(of, endpoint, automation, db.OrderNone)
	w := worked{b: b, of: of, uuid: first}
	w.tx(func(ctx context.Context, tx db.TenantTx) error {
		for _, id := range []uuid.UUID{first, alone} {
			r, err := tx.RunClaim(ctx, id, time.Minute)
			require.NoError(t, err)
			require.NoError(t, tx.RunStep(ctx, r.ID, r.Epoch, db.RunStep{Status: db.RunDead, Reason: "output.schema", Detail: "No."}))
		}
		r, err := tx.RunClaim(ctx, second, time.Minute)
		require.NoError(t, err)
		front, err := tx.RunFront(ctx, r)
		require.NoError(t, err)
		require.Equal(t, first, front.ID)
		return tx.RunBehind(ctx, r, "It waits for its turn.")
	})
	path := func(id uuid.UUID, act string) string {
		return "/v1/runs/" + tenants.FormatID(tenants.RunPrefix, id) + act
	}
	b.call(of.editor, "POST", path(alone, "/cancel"), nil).refused(409, "run.ended")
	b.call(of.editor, "POST", path(second, "/retry"), nil).refused(409, "run.not_retryable")
	require.Zero(t, w.jobs("run"))
	require.Equal(t, "cancelled", b.call(of.editor, "POST", path(first, "/cancel"), nil).is(200).text("status"))
	next := b.call(of.viewer, "GET", path(second, ""), nil).is(200)
	require.Equal(t, "queued", next.text("status"))
	require.Equal(t, db.ReasonTurn, next.text("reason"))
	require.Equal(t, 1, w.jobs("run"))
	b.call(of.editor, "POST", path(first, "/cancel"), nil).refused(409, "run.ended")
}

func TestAutomationsFetchIsChecked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	bearer := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "bearer", "secret": "token-0123456789"}).is(201).text("id")
	callback := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201).text("id")
	b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "bearer", "secret": "two words here"}).refused(422, "input.invalid")
	create := func(fetch any) heard {
		body := draft(endpoint)
		body["prompt"], body["fetch"] = map[string]any{"user": "{{ state.title }}"}, fetch
		return b.call(of.editor, "POST", "/v1/automations", body)
	}
	for name, c := range map[string]struct {
		fetch map[string]any
		want  string
	}{
		"host of a value":    {map[string]any{"url": "https://{{ payload.host }}/x"}, "body.fetch.url"},
		"plain http":         {map[string]any{"url": "http://example.com/x"}, "body.fetch.url"},
		"private address":    {map[string]any{"url": "https://10.0.0.1/x"}, "body.fetch.url"},
		"user in it":         {map[string]any{"url": "https://u:p@example.com/x"}, "body.fetch.url"},
		"unknown variable":   {map[string]any{"url": "https://example.com/{{ output.x }}"}, "body.fetch.url"},
		"no url":             {map[string]any{"not_found": "fail"}, "body.fetch.url"},
		"not_found":          {map[string]any{"url": "https://example.com/x", "not_found": "retry"}, "body.fetch.not_found"},
		"unknown credential": {map[string]any{"url": "https://example.com/x", "credential_id": "crd_01980000000070008000000000000000"}, "body.fetch.credential_id"},
		"wrong credential":   {map[string]any{"url": "https://example.com/x", "credential_id": callback}, "body.fetch.credential_id"},
		"unknown key":        {map[string]any{"url": "https://example.com/x", "method": "POST"}, "body.fetch.method"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := create(c.fetch).refused(422, "input.invalid").faults()
			require.Equal(t, []string{c.want}, slices.Collect(maps.Keys(got)), "%v", got)
		})
	}
	t.Run("state without a fetch", func(t *testing.T) {
		t.Parallel()
		got := create(nil).refused(422, "input.invalid").faults()
		require.Contains(t, got, "body.prompt.user")
	})
	t.Run("kept with its version", func(t *testing.T) {
		t.Parallel()
		made := create(map[string]any{"url": "https://example.com/{{ payload.id }}", "credential_id": bearer}).is(201)
		require.Equal(t, "skip", made.text("fetch.not_found"))
		path := "/v1/automations/" + made.text("id")
		b.call(of.admin, "DELETE", "/v1/credentials/"+bearer, nil).refused(409, "credential.in_use")
		b.call(of.editor, "PATCH", path, map[string]any{"fetch": nil}).refused(422, "input.invalid")
		changed := b.call(of.editor, "PATCH", path, map[string]any{"fetch": nil, "prompt": map[string]any{"user": "{{ payload.id }}"}}).is(200)
		require.Nil(t, changed.object()["fetch"])
		versions := b.call(of.viewer, "GET", path+"/versions", nil).is(200).rows()
		require.Len(t, versions, 2)
		require.NotNil(t, versions[1]["fetch"])
		b.call(of.admin, "DELETE", "/v1/credentials/"+bearer, nil).is(204)
	})
}
