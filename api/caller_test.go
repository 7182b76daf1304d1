package api_test

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/tenants"
)

// publicRoutes are all that need no key. Whatever else is served needs one.
var publicRoutes = []string{"GET /docs", "GET /healthz", "GET /openapi.json", "GET /openapi.yaml", "GET /readyz", "HEAD /in/{token}", "POST /in/{token}"}

// unknownID is an id of every prefix that exists nowhere.
var unknownID = map[string]string{
	"alert-channels": "chn_01980000000070008000000000000000",
	"automations":    "aut_01980000000070008000000000000000", "credentials": "crd_01980000000070008000000000000000",
	"endpoints": "end_01980000000070008000000000000000", "events": "evt_01980000000070008000000000000000",
	"keys": "key_01980000000070008000000000000000", "replays": "rpl_01980000000070008000000000000000", "runs": "run_01980000000070008000000000000000",
	"tenants": "tnt_01980000000070008000000000000000",
}

// bodies are what a route needs to get past the check of its input.
var bodies = map[string]any{
	"POST /v1/endpoints/{id}/secrets":    map[string]any{},
	"PATCH /v1/automations/{id}":         map[string]any{"name": "x"},
	"PATCH /v1/credentials/{id}":         map[string]any{"name": "x"},
	"PATCH /v1/endpoints/{id}":           map[string]any{"name": "x"},
	"PATCH /v1/tenants/{id}":             map[string]any{"name": "x"},
	"PUT /v1/tenants/{id}/limits":        map[string]any{},
	"POST /v1/automations/{id}/backtest": map[string]any{"draft": map[string]any{}},
	"POST /v1/runs/{id}/resolve":         map[string]any{"arrived": true},
	"POST /v1/runs/{id}/review":          map[string]any{"verdict": "approve"},

	"POST /v1/automations/{id}/trial":         map[string]any{"patch": map[string]any{"name": "x"}},
	"POST /v1/automations/{id}/trial/promote": map[string]any{},
}

func TestEveryRouteNamesWhoMayCallIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	b.call(of.admin, "POST", "/v1/credentials", map[string]any{}) // a route that is served
	keys := map[string]string{"viewer": of.viewer, "editor": of.editor, "admin": of.admin, "operator": b.operator}
	var public []string
	for _, r := range b.api.Routes() {
		if r.Who == "public" {
			public = append(public, r.Pattern)
			continue
		}
		method, path, _ := strings.Cut(r.Pattern, " ")
		resource := strings.Split(path, "/")[2]
		path = strings.ReplaceAll(path, "{id}", unknownID[resource])
		for _, wrong := range []string{"", "slc_short", "slc_" + strings.Repeat("x", 36), of.admin + "x", of.admin[:39] + "!"} {
			b.call(wrong, method, path, bodies[r.Pattern]).refused(401, "key.invalid")
		}
		for role, key := range keys {
			got := b.call(key, method, path, bodies[r.Pattern])
			switch {
			case r.Who == "any key" || r.Who == "operator" && role == "operator",
				role != "operator" && r.Who != "operator" && tenants.Role(role).May(tenants.Role(r.Who)):
				require.NotContains(t, []int{401, 403, 405, 500}, got.status, "%s as %s: %s", r.Pattern, role, got.body)
			case role == "operator" || r.Who == "operator":
				got.refused(403, "key.kind")
			default:
				got.refused(403, "key.role")
			}
		}
	}
	require.ElementsMatch(t, publicRoutes, public)
}

func TestTheDocumentAndTheRoutesAgree(t *testing.T) {
	t.Parallel()
	b := setup(t)
	paths, _ := b.call("", "GET", "/openapi.json", nil).is(200).get("paths").(map[string]any)
	for _, r := range b.api.Routes() {
		method, path, _ := strings.Cut(r.Pattern, " ")
		item, _ := paths[path].(map[string]any)
		op, ok := item[strings.ToLower(method)].(map[string]any)
		if !strings.HasPrefix(path, "/v1/") {
			continue
		}
		require.True(t, ok, r.Pattern)
		require.Equal(t, r.Who, op["x-sluice-role"], r.Pattern)
		require.NotEmpty(t, op["security"], r.Pattern)
	}
}

func TestSuspendedAndErasedTenants(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	b.call(b.operator, "PATCH", "/v1/tenants/"+of.id, map[string]any{"status": "suspended"}).is(200)
	b.call(of.admin, "GET", "/v1/tenant", nil).refused(403, "tenant.suspended")
	b.call(b.operator, "PATCH", "/v1/tenants/"+of.id, map[string]any{"status": "active"}).is(200)
	require.Equal(t, of.id, b.call(of.viewer, "GET", "/v1/tenant", nil).is(200).text("id"))
	b.call(b.operator, "DELETE", "/v1/tenants/"+of.id, nil).is(204)
	b.call(of.admin, "GET", "/v1/tenant", nil).refused(401, "key.invalid")
	require.Equal(t, "erased", b.call(b.operator, "GET", "/v1/tenants/"+of.id, nil).is(200).text("status"))
	b.call(b.operator, "PATCH", "/v1/tenants/"+of.id, map[string]any{"name": "back"}).refused(409, "tenant.erased")
	b.call(b.operator, "DELETE", "/v1/tenants/"+of.id, nil).is(204)
	b.call(b.operator, "DELETE", "/v1/tenants/"+unknownID["tenants"], nil).refused(404, "not_found")
}

func TestRevokedKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	second := b.call(of.admin, "POST", "/v1/keys", map[string]any{"name": "second", "role": "admin"}).is(201)
	b.call(of.admin, "DELETE", "/v1/keys/"+second.text("id"), nil).is(204)
	b.call(second.text("secret"), "GET", "/v1/tenant", nil).refused(401, "key.invalid")
	for _, k := range b.call(of.admin, "GET", "/v1/keys", nil).is(200).rows() {
		require.NotContains(t, k, "secret")
		if k["role"] == "admin" {
			b.call(of.admin, "DELETE", "/v1/keys/"+k["id"].(string), nil).refused(409, "key.last_admin")
		}
	}
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(context.Background(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	sealer, err := db.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	a := newAPI(t, db.New(db.Pools{App: pool, System: pool, Door: pool}, sealer), io.Discard)
	t.Cleanup(func() { a.Close(context.Background()) })
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	key, err := tenants.NewKey(false)
	require.NoError(t, err)
	b := &bundle{t: t, url: server.URL}
	got := b.call(key.Reveal(), "GET", "/v1/tenant", nil).refused(503, "database.unavailable")
	require.NotEmpty(t, got.header.Get("Retry-After"))
	require.NotContains(t, string(got.body), "127.0.0.1")
}
