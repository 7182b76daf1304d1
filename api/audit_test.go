package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// unchanging are the operations that are no GET and change nothing of anybody's, each with its reason.
var unchanging = map[string]string{
	"POST /v1/alert-channels/{id}/test": "sends a notice; the channel stays as it is",
	"POST /v1/endpoints/{id}/test":      "sends a sample through the door, which is an event",
	"POST /v1/credentials/{id}/test":    "asks the service; all that it may change is the account's name that it learns, and that is an entry",
}

// audit reads a chain's newest entries, oldest first.
func (b *bundle) audit(key, path string) []map[string]any {
	b.t.Helper()
	rows := b.call(key, "GET", path+"?limit=200", nil).is(200).rows()
	slices.Reverse(rows)
	return rows
}

// auditWalk makes every change that the API has, once and with success. Each step is a route and what asks for it.
type auditWalk struct {
	*shop

	run, runBefore string
}

func (w *auditWalk) last(runs []heard) string { return runs[0].text("id") }

// steps are in an order in which each finds what it needs.
func (w *auditWalk) steps() []struct {
	route string
	ask   func() heard
} {
	ids := map[string]string{}
	keep := func(name string, h heard) heard { ids[name] = h.text("id"); return h }
	admin, editor := w.of.admin, w.of.editor
	post := func(by, path string, body any) heard { return w.call(by, "POST", path, body) }
	type step = struct {
		route string
		ask   func() heard
	}
	return []step{
		{"POST /v1/keys", func() heard {
			return keep("key", post(admin, "/v1/keys", map[string]any{"name": "k", "role": "viewer"}))
		}},
		{"DELETE /v1/keys/{id}", func() heard { return w.call(admin, "DELETE", "/v1/keys/"+ids["key"], nil) }},
		{"POST /v1/credentials", func() heard {
			return keep("credential", post(admin, "/v1/credentials", map[string]any{"name": "g", "kind": "github", "secret": "canary-of-github"}))
		}},
		{"PATCH /v1/credentials/{id}", func() heard {
			return w.call(admin, "PATCH", "/v1/credentials/"+ids["credential"], map[string]any{"secret": "canary-of-github-2"})
		}},
		{"DELETE /v1/credentials/{id}", func() heard { return w.call(admin, "DELETE", "/v1/credentials/"+ids["credential"], nil) }},
		{"POST /v1/endpoints", func() heard {
			return keep("endpoint", post(editor, "/v1/endpoints", map[string]any{"name": "e", "source": "standard"}))
		}},
		{"PATCH /v1/endpoints/{id}", func() heard {
			return w.call(editor, "PATCH", "/v1/endpoints/"+ids["endpoint"], map[string]any{"name": "renamed"})
		}},
		{"POST /v1/endpoints/{id}/secrets", func() heard { return post(editor, "/v1/endpoints/"+ids["endpoint"]+"/secrets", map[string]any{}) }},
		{"DELETE /v1/endpoints/{id}", func() heard { return w.call(editor, "DELETE", "/v1/endpoints/"+ids["endpoint"], nil) }},
		{"POST /v1/alert-channels", func() heard {
			return keep("channel", post(admin, "/v1/alert-channels", webhookChannel("https://hooks.example.com/c")))
		}},
		{"DELETE /v1/alert-channels/{id}", func() heard { return w.call(admin, "DELETE", "/v1/alert-channels/"+ids["channel"], nil) }},
		{"POST /v1/automations", func() heard { return keep("automation", post(editor, "/v1/automations", w.spec(nil))) }},
		{"PATCH /v1/automations/{id}", func() heard { return w.patch(ids["automation"], map[string]any{"name": "renamed"}) }},
		{"POST /v1/automations/{id}/trial", func() heard {
			return post(editor, "/v1/automations/"+ids["automation"]+"/trial", map[string]any{"patch": map[string]any{"max_output_tokens": 99}})
		}},
		{"POST /v1/automations/{id}/trial/promote", func() heard {
			return post(editor, "/v1/automations/"+ids["automation"]+"/trial/promote", map[string]any{})
		}},
		{"DELETE /v1/automations/{id}/trial", func() heard {
			post(editor, "/v1/automations/"+ids["automation"]+"/trial", map[string]any{"patch": map[string]any{"max_output_tokens": 98}}).is(201)
			return w.call(editor, "DELETE", "/v1/automations/"+ids["automation"]+"/trial", nil)
		}},
		{"POST /v1/runs/{id}/review", func() heard {
			w.run = w.last(w.runs("in_review"))
			return w.review(w.run, map[string]any{"verdict": "reject", "note": "no"})
		}},
		{"POST /v1/runs/{id}/cancel", func() heard {
			w.run = w.last(w.runs("in_review"))
			return post(editor, "/v1/runs/"+w.run+"/cancel", nil)
		}},
		{"POST /v1/runs/cancel", func() heard {
			w.runBefore, w.run = w.run, w.last(w.runs("in_review"))
			return post(editor, "/v1/runs/cancel", map[string]any{"ids": []string{w.run}})
		}},
		{"POST /v1/replays", func() heard {
			h := post(editor, "/v1/replays", map[string]any{"runs": []string{w.run}, "mode": "shadow"})
			replay, _ := h.is(201).get("replay").(map[string]any)
			id, _ := replay["id"].(string)
			w.replayed(id)
			return h
		}},
		{"POST /v1/automations/{id}/backtest", func() heard {
			h := post(editor, "/v1/automations/"+ids["automation"]+"/backtest", map[string]any{"draft": map[string]any{"max_output_tokens": 50}, "last": 1, "dry_run": false})
			replay, _ := h.is(201).get("replay").(map[string]any)
			id, _ := replay["id"].(string)
			w.replayed(id)
			return h
		}},
		{"POST /v1/replays/{id}/cancel", func() heard {
			h := post(editor, "/v1/replays", map[string]any{"runs": []string{w.run, w.runBefore}, "mode": "shadow", "per_second": 0.01})
			replay, _ := h.is(201).get("replay").(map[string]any)
			id, _ := replay["id"].(string)
			return post(editor, "/v1/replays/"+id+"/cancel", nil)
		}},
		{"DELETE /v1/automations/{id}", func() heard { return w.call(editor, "DELETE", "/v1/automations/"+ids["automation"], nil) }},
	}
}

// TestEveryChangeLeavesItsEntry walks over every operation of the router that changes something, and finds exactly one entry for each, of that
// operation and that key.
func TestEveryChangeLeavesItsEntry(t *testing.T) {
	t.Parallel()
	w := &auditWalk{shop: newShop(t)}
	w.work()
	walked := map[string]bool{}
	for _, s := range w.steps() {
		before := len(w.audit(w.of.admin, "/v1/audit"))
		answer := s.ask()
		require.Less(t, answer.status, 300, "%s: %s", s.route, answer.body)
		w.entryOf(t, s.route, w.audit(w.of.admin, "/v1/audit")[before:])
		walked[s.route] = true
	}
	w.deadRuns(t, walked)
	w.operators(t, walked)
	for _, r := range w.api.Routes() {
		_, unchanged := unchanging[r.Pattern]
		if strings.HasPrefix(r.Pattern, "GET ") || r.Who == "public" || unchanged {
			continue
		}
		require.True(t, walked[r.Pattern], "%s changes something: make it change in this test, or say in unchanging why it does not", r.Pattern)
	}
}

// entryOf finds the one entry of a route among those that were just written; others may be of the rules that work beside it.
func (w *auditWalk) entryOf(t *testing.T, route string, entries []map[string]any) {
	t.Helper()
	operation := w.operation(route)
	var found []map[string]any
	for _, e := range entries {
		actor, _ := e["actor"].(map[string]any)
		require.NotEqual(t, "database", actor["kind"], "%s: %v", route, e)
		if e["operation"] == operation {
			found = append(found, e)
		}
	}
	require.Len(t, found, 1, "%s: %v", route, entries)
	actor, _ := found[0]["actor"].(map[string]any)
	require.Contains(t, []any{"key", "operator"}, actor["kind"])
	require.NotEmpty(t, found[0]["subjects"])
	changes, _ := found[0]["changes"].([]any)
	first, _ := changes[0].(map[string]any)
	require.Equal(t, "127.0.0.1", first["address"])
	require.NotContains(t, fmt.Sprint(found), "canary-of")
}

func (w *auditWalk) operation(route string) string {
	method, path, _ := strings.Cut(route, " ")
	paths, _ := w.call("", "GET", "/openapi.json", nil).is(200).get("paths").(map[string]any)
	item, _ := paths[path].(map[string]any)
	op, _ := item[strings.ToLower(method)].(map[string]any)
	id, _ := op["operationId"].(string)
	return id
}

// deadRuns changes runs that have died: retry, in two ways, and resolve.
func (w *auditWalk) deadRuns(t *testing.T, walked map[string]bool) {
	t.Helper()
	automation := w.make(map[string]any{"mode": "live", "max_output_tokens": 77})
	w.target.Script(scripted.TargetStep{Status: 401})
	id := w.last(w.runs("dead"))
	w.target.Script()
	for route, ask := range map[string]func() heard{
		"POST /v1/runs/{id}/resolve": func() heard {
			return w.call(w.of.editor, "POST", "/v1/runs/"+id+"/resolve", map[string]any{"arrived": true})
		},
	} {
		before := len(w.audit(w.of.admin, "/v1/audit"))
		ask().is(200)
		w.entryOf(t, route, w.audit(w.of.admin, "/v1/audit")[before:])
		walked[route] = true
	}
	for route, ask := range map[string]func(id string) heard{
		"POST /v1/runs/{id}/retry": func(id string) heard { return w.call(w.of.editor, "POST", "/v1/runs/"+id+"/retry", nil) },
		"POST /v1/runs/retry": func(id string) heard {
			return w.call(w.of.editor, "POST", "/v1/runs/retry", map[string]any{"ids": []string{id}})
		},
	} {
		w.target.Script(scripted.TargetStep{Status: 401})
		id := w.last(w.runs("dead"))
		w.target.Script()
		before := len(w.audit(w.of.admin, "/v1/audit"))
		ask(id).is(200)
		w.entryOf(t, route, w.audit(w.of.admin, "/v1/audit")[before:])
		walked[route] = true
	}
	w.call(w.of.editor, "DELETE", "/v1/automations/"+automation, nil).is(204)
}

// operators makes what the operator changes, and reads it as the operator does.
func (w *auditWalk) operators(t *testing.T, walked map[string]bool) {
	t.Helper()
	made := w.call(w.operator, "POST", "/v1/tenants", map[string]any{"name": "canary-name"}).is(201)
	tenant, _ := made.get("tenant").(map[string]any)
	id, _ := tenant["id"].(string)
	path := "/v1/tenants/" + id + "/audit"
	require.Len(t, w.audit(w.operator, path), 1)
	require.Equal(t, w.operation("POST /v1/tenants"), w.audit(w.operator, path)[0]["operation"])
	walked["POST /v1/tenants"] = true
	for i, s := range []struct {
		route string
		ask   func() heard
	}{
		{"PATCH /v1/tenants/{id}", func() heard { return w.call(w.operator, "PATCH", "/v1/tenants/"+id, map[string]any{"name": "renamed"}) }},
		{"PUT /v1/tenants/{id}/limits", func() heard {
			return w.call(w.operator, "PUT", "/v1/tenants/"+id+"/limits", map[string]any{"tokens_per_day": map[string]any{"hard": 1000}})
		}},
		{"DELETE /v1/tenants/{id}", func() heard { return w.call(w.operator, "DELETE", "/v1/tenants/"+id, nil) }},
	} {
		require.Less(t, s.ask().status, 300, s.route)
		entries := w.audit(w.operator, path)
		require.Len(t, entries, i+2)
		w.entryOf(t, s.route, entries[i+1:])
		walked[s.route] = true
	}
	require.NotContains(t, fmt.Sprint(w.audit(w.operator, path)), "canary-name", "an erased tenant's names are gone")
	require.NotEmpty(t, w.audit(w.operator, "/v1/operator/audit"), "the operator's key was made")
}

// TestTheAuditIsReadAndChecked: by filters, by pages, and by its hashes.
func TestTheAuditIsReadAndChecked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of, other := b.tenant(), b.tenant()
	endpoint := b.endpoint(of).text("id")
	b.call(of.editor, "PATCH", "/v1/endpoints/"+endpoint, map[string]any{"name": "renamed"}).is(200)
	b.call(of.viewer, "GET", "/v1/audit", nil).refused(403, "key.role")
	b.call(of.editor, "GET", "/v1/audit", nil).refused(403, "key.role")
	entries := b.audit(of.admin, "/v1/audit")
	require.Len(t, entries, 5) // the tenant, two keys, the endpoint twice
	for i, e := range entries {
		require.InDelta(t, i+1, e["seq"], 0)
		if i > 0 {
			require.Equal(t, entries[i-1]["hash"], e["prev"])
		}
	}
	require.Len(t, b.call(of.admin, "GET", "/v1/audit?subject="+endpoint, nil).is(200).rows(), 2)
	require.Len(t, b.call(of.admin, "GET", "/v1/audit?operation=update-endpoint", nil).is(200).rows(), 1)
	require.Empty(t, b.call(of.admin, "GET", "/v1/audit?subject=nonsense", nil).is(200).rows())
	require.Empty(t, b.call(other.admin, "GET", "/v1/audit?subject="+endpoint, nil).is(200).rows())
	first := b.call(of.admin, "GET", "/v1/audit?limit=3", nil).is(200)
	require.Len(t, first.rows(), 3)
	require.Len(t, b.call(of.admin, "GET", "/v1/audit?limit=3&cursor="+first.text("next_cursor"), nil).is(200).rows(), 2)
	chain := b.call(of.admin, "GET", "/v1/audit/chain", nil).is(200)
	require.InDelta(t, 5, chain.get("entries"), 0)
	require.Equal(t, entries[4]["hash"], chain.text("head"))
	require.Empty(t, chain.get("faults"))
	_, err := b.Owner.Exec(t.Context(), `set session_replication_role = replica; update sluice.audit_entries set actor = 'key_x' where seq = 2; reset session_replication_role`)
	require.NoError(t, err)
	require.NotEmpty(t, b.call(of.admin, "GET", "/v1/audit/chain", nil).is(200).get("faults"))
}
