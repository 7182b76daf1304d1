package api_test

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db"
)

var updateColumns = flag.Bool("update-columns", false, "write testdata/machine_columns.txt anew")

// strange is what differs from one answer to the next by itself: times, and ids that were just made.
var strange = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*"|[a-z]{3}_[0-9a-f]{32}`)

// unknown is an id of the same prefix that exists nowhere.
func unknown(id string) string {
	prefix, _, _ := strings.Cut(id, "_")
	return prefix + "_01980000000070008000000000000000"
}

// TestNoTenantIsToldOfAnother lets two tenants write a word of their own wherever a tenant may write, has all of it worked, and asks every route of the
// router as one of them for what is the other's: an id of the other's answers byte for byte as one that exists nowhere, no row of the other's changes,
// and neither its word nor an id of its comes back. Nor is any word in a log, a span or a metric.
func TestNoTenantIsToldOfAnother(t *testing.T) { //nolint:paralleltest // the tracer and the meters are the process's
	s := newStreet(t, db.AppRole, db.WorkerRole)
	s.columnsAreFilled()
	s.keptApart()
	s.noWordIsTold()
}

// TestPredicatesAloneKeepTenantsApart asks the same of a database whose row security binds nobody: what the statements say keeps the two apart as well.
func TestPredicatesAloneKeepTenantsApart(t *testing.T) { //nolint:paralleltest // the tracer and the meters are the process's
	if os.Getenv("SLUICE_TEST_ISOLATION") == "" {
		t.Skip("make prove/isolation")
	}
	const nobody = "none" // no role is taken on: the login's own is the superuser
	newStreet(t, nobody, nobody).keptApart()
}

// keptApart tries every route with what is the other's, and looks at the other's rows after each kind of trial.
func (s *street) keptApart() {
	s.t.Helper()
	before := s.rows(s.other)
	spec := s.contract()
	for _, step := range []struct {
		name string
		do   func(*operation)
	}{{"ids in paths", s.pathsAlike}, {"queries", s.queriesAlike}, {"answers", s.answersAreOwn}, {"bodies", s.bodiesAlike}, {"headers", s.headersAlike}} {
		for i := range spec {
			step.do(&spec[i])
		}
		require.Equal(s.t, before, s.rows(s.other), "the other's rows, after %s", step.name)
	}
}

// operation is one route of a tenant's, with what its document says that it takes.
type operation struct {
	method, path, who string
	query, header     []string
	ids               []string // fields of its body that name something, with dots between
	body              bool
}

func (o *operation) resource() string { return strings.Split(o.path, "/")[2] }

// idField is the names of fields that name something.
var idField = regexp.MustCompile(`(^|\.)(id|ids|runs|events|after|[a-z_]+_id|action|draft|patch)$`)

// contract is every route of the router that is a tenant's. A route that is neither that, nor public, nor the operator's fails.
func (s *street) contract() []operation {
	s.t.Helper()
	type schema struct {
		Ref        string            `json:"$ref"`
		Type       any               `json:"type"`
		Properties map[string]schema `json:"properties"`
	}
	var document struct {
		Paths map[string]map[string]struct {
			Parameters  []struct{ In, Name string }
			RequestBody *struct {
				Content map[string]struct{ Schema schema }
			} `json:"requestBody"`
		}
		Components struct{ Schemas map[string]schema }
	}
	require.NoError(s.t, json.Unmarshal(s.call("", "GET", "/openapi.json", nil).is(200).body, &document))
	var fields func(in schema, at string) []string
	fields = func(in schema, at string) []string {
		if in.Ref != "" {
			in = document.Components.Schemas[in.Ref[strings.LastIndex(in.Ref, "/")+1:]]
		}
		var out []string
		for _, name := range slices.Sorted(maps.Keys(in.Properties)) {
			if p := in.Properties[name]; idField.MatchString(name) && p.Type != "integer" {
				out = append(out, at+name)
			}
			out = append(out, fields(in.Properties[name], at+name+".")...)
		}
		return out
	}
	var out []operation
	for _, r := range s.api.Routes() {
		method, path, _ := strings.Cut(r.Pattern, " ")
		switch r.Who {
		case "viewer", "editor", "admin":
		case "operator", "any key", "public":
			continue
		default:
			require.Fail(s.t, "a route of no class", r.Pattern)
		}
		op, ok := document.Paths[path][strings.ToLower(method)]
		require.True(s.t, ok, r.Pattern)
		o := operation{method: method, path: path, who: r.Who, body: op.RequestBody != nil}
		for _, p := range op.Parameters {
			switch p.In {
			case "query":
				o.query = append(o.query, p.Name)
			case "header":
				o.header = append(o.header, p.Name)
			case "path":
				require.Equal(s.t, "id", p.Name, "a path's parameter that is not tried: %s", r.Pattern)
			}
		}
		if op.RequestBody != nil {
			for _, content := range op.RequestBody.Content {
				o.ids = append(o.ids, fields(content.Schema, "")...)
			}
		}
		out = append(out, o)
	}
	require.Greater(s.t, len(out), 50)
	return out
}

// rows are hashes of all that a tenant has in the database, but for the time of its keys' last use.
func (s *street) rows(n *neighbour) map[string]string {
	s.t.Helper()
	names := s.tables()
	require.Greater(s.t, len(names), 35)
	out := map[string]string{}
	for _, name := range names {
		var hash string
		require.NoError(s.t, s.Owner.QueryRow(s.t.Context(), `select coalesce(md5(string_agg((to_jsonb(x) - 'last_used_at')::text, ',' order by x::text)), '')
			from `+name+` x where tenant_id = $1`, n.uuid()).Scan(&hash))
		out[name] = hash
	}
	return out
}

func (s *street) tables() []string {
	s.t.Helper()
	rows, err := s.Owner.Query(s.t.Context(), `select c.oid::regclass::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1`)
	require.NoError(s.t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(s.t, err)
	return names
}

// columnsAreFilled holds the columns of texts, documents and bytes that have no word of the tenant's in them against the golden file: what a
// tenant may write and this test does not fill stands in its diff. Sealed secrets and answers are in it, since they are sealed.
func (s *street) columnsAreFilled() {
	s.t.Helper()
	var empty []string
	for _, table := range s.tables() {
		rows, err := s.Owner.Query(s.t.Context(), `select attname::text from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and not attisdropped
			and atttypid in ('text'::regtype, 'jsonb'::regtype, 'bytea'::regtype, 'text[]'::regtype) order by 1`, table)
		require.NoError(s.t, err)
		columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(s.t, err)
		for _, column := range columns {
			for _, n := range []*neighbour{s.one, s.other} {
				var filled bool
				require.NoError(s.t, s.Owner.QueryRow(s.t.Context(), `select coalesce(bool_or(position($2 in x.`+column+`::text) > 0
					or position(encode(convert_to($2, 'UTF8'), 'hex') in x.`+column+`::text) > 0), false) from `+table+` x where tenant_id = $1`, n.uuid(), n.word).Scan(&filled))
				if line := table + "." + column; !filled && !slices.Contains(empty, line) {
					empty = append(empty, line)
				}
			}
		}
	}
	path := filepath.Join("testdata", "machine_columns.txt")
	text := strings.Join(empty, "\n") + "\n"
	if *updateColumns {
		require.NoError(s.t, os.MkdirAll("testdata", 0o755))
		require.NoError(s.t, os.WriteFile(path, []byte(text), 0o644))
	}
	golden, err := os.ReadFile(path)
	require.NoError(s.t, err)
	require.Equal(s.t, string(golden), text, "fill what a tenant may write, or if only the machine does: go test ./api -run TestNoTenantIsToldOfAnother -update-columns")
}

// alike requires that two answers are the same, byte for byte, headers and all.
func (s *street) alike(found, none heard, about string) {
	s.t.Helper()
	require.Equal(s.t, none.status, found.status, "%s: %s", about, found.body)
	require.Equal(s.t, string(none.body), string(found.body), about)
	for _, h := range []http.Header{none.header, found.header} {
		for _, name := range []string{"X-Request-Id", "Date", "Etag", "Content-Length"} {
			h.Del(name)
		}
	}
	require.Equal(s.t, none.header, found.header, about)
	require.False(s.t, said(s.other.word, found.body), "%s: the other's word in %s", about, found.body)
}

// masked is an answer without what was asked for, and without what is strange to every answer.
func masked(h heard, asked ...string) heard {
	text := string(h.body)
	for _, a := range asked {
		text = strings.ReplaceAll(text, a, "ASKED")
	}
	h.body = []byte(strange.ReplaceAllString(text, "NEW"))
	return h
}

func (s *street) pathsAlike(o *operation) {
	s.t.Helper()
	if !strings.Contains(o.path, "{id}") {
		return
	}
	theirs := s.other.ids[o.resource()]
	require.NotEmpty(s.t, theirs, "%s: the other has none", o.path)
	ask := func(id string) heard {
		return s.call(s.one.admin, o.method, strings.ReplaceAll(o.path, "{id}", id), bodies[o.method+" "+o.path]).refused(404, "not_found")
	}
	for _, id := range []string{unknown(theirs), "nonsense", "evt_1", strings.ToUpper(theirs)} {
		s.alike(ask(theirs), ask(id), o.method+" "+o.path+" "+id)
	}
}

// queriesAlike asks with each filter for what is the other's and for what is nobody's, and with the other's cursors.
func (s *street) queriesAlike(o *operation) {
	s.t.Helper()
	w, nobody := s.other.word, "cnryz"+strings.Repeat("0", len(s.other.word)-len("cnryz"))
	values := map[string]string{
		"endpoint_id": s.other.ids["endpoints"], "automation_id": s.other.ids["automations"], "event_id": s.other.ids["events"], "subject": s.other.ids["endpoints"],
		"actor": s.other.ids["keys"], "type": w + ".made", "entity": w, "source_event_id": w + "-1", "model": w, "reason": w, "operation": w,
	}
	path := strings.ReplaceAll(o.path, "{id}", s.one.ids[o.resource()])
	for _, name := range o.query {
		value := values[name]
		switch {
		case name == "cursor":
			s.forgedCursors(o, path)
		case value != "":
			none := unknown(value)
			if strings.Contains(value, w) {
				none = strings.ReplaceAll(value, w, nobody)
			}
			ask := func(v string) heard {
				return masked(s.call(s.one.admin, o.method, path+"?"+name+"="+v, nil), v)
			}
			s.alike(ask(value), ask(none), o.path+"?"+name)
		default:
			require.Contains(s.t, []string{"limit", "since", "until", "open", "group_by", "last", "version", "status"}, name, "%s: a filter that is not tried", o.path)
		}
	}
}

// forgedCursors shows the cursors that the other was given, and one that is made of each of its ids: no row of the other's comes after any.
func (s *street) forgedCursors(o *operation, path string) {
	s.t.Helper()
	theirs := strings.ReplaceAll(o.path, "{id}", s.other.ids[o.resource()])
	cursors := []string{s.call(s.other.admin, o.method, theirs+"?limit=1", nil).text("next_cursor")}
	for _, id := range s.other.ids {
		_, hex, _ := strings.Cut(id, "_")
		raw := make([]byte, 0, len(hex))
		_, err := fmt.Sscanf(hex, "%x", &raw)
		require.NoError(s.t, err)
		cursors = append(cursors, base64.RawURLEncoding.EncodeToString(raw))
	}
	for _, cursor := range cursors {
		got := s.call(s.one.admin, o.method, path+"?limit=200&cursor="+cursor, nil)
		require.Contains(s.t, []int{200, 422}, got.status, "%s", got.body)
		s.own(got, o.path)
	}
}

// own requires that an answer holds neither the other's word nor an id of its.
func (s *street) own(h heard, about string) {
	s.t.Helper()
	all := append(fmt.Append(nil, h.header), h.body...)
	require.False(s.t, said(s.other.word, all), "%s: the other's word in %s", about, all)
	for _, id := range append(slices.Collect(maps.Values(s.other.ids)), s.other.id) {
		_, hex, _ := strings.Cut(id, "_")
		require.NotContains(s.t, string(all), hex, about)
	}
}

// bodiesAlike names in every field that names something what is the other's, and what is nobody's.
func (s *street) bodiesAlike(o *operation) {
	s.t.Helper()
	mine, theirs := s.one.ids, s.other.ids
	type asked struct {
		field, id string
		body      func(id string) map[string]any
	}
	action := func(id string) map[string]any {
		return map[string]any{"kind": "callback", "url": "https://example.com/", "credential_id": id}
	}
	spec := func(change map[string]any) map[string]any {
		out := draft(mine["endpoints"])
		maps.Copy(out, change)
		return out
	}
	runs := []asked{
		{"ids", theirs["runs"], func(id string) map[string]any { return map[string]any{"ids": []string{id}} }},
		{"filter.automation_id", theirs["automations"], func(id string) map[string]any {
			return map[string]any{"filter": map[string]any{"status": "dead", "automation_id": id}}
		}},
		{"filter.endpoint_id", theirs["endpoints"], func(id string) map[string]any {
			return map[string]any{"filter": map[string]any{"status": "dead", "endpoint_id": id}}
		}},
		{"filter.event_id", theirs["events"], func(id string) map[string]any {
			return map[string]any{"filter": map[string]any{"status": "dead", "event_id": id}}
		}},
		{"filter.after", theirs["runs"], func(id string) map[string]any {
			return map[string]any{"filter": map[string]any{"status": "dead", "endpoint_id": unknown(id), "after": id}}
		}},
	}
	automation := []asked{
		{"endpoint_id", theirs["endpoints"], func(id string) map[string]any { return spec(map[string]any{"endpoint_id": id}) }},
		{"action", theirs["credentials"], func(id string) map[string]any { return spec(map[string]any{"action": action(id)}) }},
		{"credential_id", theirs["credentials"], func(id string) map[string]any { return spec(map[string]any{"credential_id": id}) }},
		{"fetch.credential_id", theirs["credentials"], func(id string) map[string]any {
			return spec(map[string]any{"fetch": map[string]any{"url": "https://example.com/", "credential_id": id}})
		}},
	}
	within := func(field string, all []asked) []asked {
		out := []asked{}
		for _, a := range all[1:] {
			out = append(out, asked{field, a.id, func(id string) map[string]any {
				inner := a.body(id)
				delete(inner, "endpoint_id")
				return map[string]any{field: inner}
			}})
		}
		return out
	}
	cases := map[string][]asked{
		"POST /v1/automations": automation, "PATCH /v1/automations/{id}": automation, "POST /v1/runs/cancel": runs, "POST /v1/runs/retry": runs,
		"POST /v1/automations/{id}/trial": within("patch", automation),
		"POST /v1/automations/{id}/backtest": append(within("draft", automation), asked{"events", theirs["events"], func(id string) map[string]any {
			return map[string]any{"draft": map[string]any{}, "events": []string{id}}
		}}),
		"POST /v1/replays": {
			{"runs", theirs["runs"], func(id string) map[string]any { return map[string]any{"runs": []string{id}, "mode": "shadow"} }},
			{"events", theirs["events"], func(id string) map[string]any {
				return map[string]any{"events": []string{id}, "mode": "shadow"}
			}},
			{"automation_id", theirs["automations"], func(id string) map[string]any {
				return map[string]any{"events": []string{mine["events"]}, "automation_id": id, "mode": "shadow"}
			}},
			{"filter.automation_id", theirs["automations"], func(id string) map[string]any {
				return map[string]any{"filter": map[string]any{"automation_id": id}, "mode": "shadow"}
			}},
			{"filter.endpoint_id", theirs["endpoints"], func(id string) map[string]any {
				return map[string]any{"filter": map[string]any{"endpoint_id": id}, "mode": "shadow"}
			}},
			{"event_filter.endpoint_id", theirs["endpoints"], func(id string) map[string]any {
				return map[string]any{"event_filter": map[string]any{"endpoint_id": id}, "mode": "shadow"}
			}},
			{"id", theirs["replays"], func(id string) map[string]any {
				return map[string]any{"id": id, "runs": []string{mine["runs"]}, "mode": "shadow"}
			}},
		},
	}[o.method+" "+o.path]
	path := strings.ReplaceAll(o.path, "{id}", mine[o.resource()])
	for _, field := range o.ids {
		require.True(s.t, slices.ContainsFunc(cases, func(a asked) bool { return a.field == field }), "%s %s: a field that is not tried: %s", o.method, o.path, field)
	}
	for _, c := range cases {
		ask := func(id string) heard { return masked(s.call(s.one.admin, o.method, path, c.body(id)), id) }
		found := ask(c.id)
		s.alike(found, ask(unknown(c.id)), o.method+" "+o.path+" "+c.field)
		if found.status == http.StatusUnprocessableEntity { // for the id, and for nothing else
			last := c.field[strings.LastIndex(c.field, ".")+1:]
			require.Regexp(s.t, `"location":"body\.[a-z_.]*(`+last+`|credential_id)(/0)?"`, string(found.body), "%s %s", o.path, c.field)
			require.Equal(s.t, 1, strings.Count(string(found.body), `"location"`), "%s %s: %s", o.path, c.field, found.body)
		}
	}
}

// headersAlike shows the other's entity tags and idempotency keys.
func (s *street) headersAlike(o *operation) {
	s.t.Helper()
	mine, theirs := strings.ReplaceAll(o.path, "{id}", s.one.ids[o.resource()]), strings.ReplaceAll(o.path, "{id}", s.other.ids[o.resource()])
	for _, name := range o.header {
		switch name {
		case "If-Match", "If-None-Match":
			tag := s.call(s.other.admin, "GET", theirs, nil).header.Get("ETag")
			if o.path == "/v1/automations/{id}/trial/promote" {
				tag = s.call(s.other.admin, "GET", "/v1/automations/"+s.other.ids["automations"], nil).header.Get("ETag")
			}
			require.NotEmpty(s.t, tag, o.path)
			_, hash, _ := strings.Cut(strings.Trim(tag, `"`), "-")
			ask := func(tag string) heard {
				return masked(s.call(s.one.admin, o.method, mine, bodies[o.method+" "+o.path], name, tag))
			}
			if name == "If-Match" { // by the version alone, and of one's own: what the hash is of tells nothing
				s.alike(ask(`"v999-`+hash+`"`), ask(`"v999-00000000"`), o.method+" "+o.path+" "+name)
			} else {
				require.Equal(s.t, 200, ask(tag).status, "%s: the other's tag is not this one's", o.path)
			}
		case "Idempotency-Key":
			// The other used it for POST /v1/keys with another body: were it one key, this would be refused as used again.
			if o.path == "/v1/keys" {
				again := s.call(s.one.admin, o.method, mine, map[string]any{"name": "x", "role": "editor"}, name, s.other.word).is(201)
				require.Empty(s.t, again.header.Get("Idempotency-Replayed"))
				twice := s.call(s.one.admin, o.method, mine, map[string]any{"name": "x", "role": "editor"}, name, s.other.word).is(201)
				require.Equal(s.t, again.text("id"), twice.text("id"), "what is told again is one's own")
				s.call(s.one.admin, "DELETE", "/v1/keys/"+again.text("id"), nil).is(204)
			}
		case "Accept":
		default:
			require.Fail(s.t, "a header that is not tried", "%s %s", o.path, name)
		}
	}
}

// answersAreOwn asks a route for what is one's own, as JSON and as CSV, and looks for the other in the answer.
func (s *street) answersAreOwn(o *operation) {
	s.t.Helper()
	path := strings.ReplaceAll(o.path, "{id}", s.one.ids[o.resource()])
	if o.method == http.MethodDelete {
		return // of what is gone nothing is told; that another's is not deleted was seen
	}
	for _, accept := range []string{"application/json", "text/csv"} {
		got := s.call(s.one.admin, o.method, path, bodies[o.method+" "+o.path], "Accept", accept)
		require.NotContains(s.t, []int{401, 403, 500}, got.status, "%s %s: %s", o.method, path, got.body)
		s.own(got, o.method+" "+o.path)
		if o.method == http.MethodGet && strings.Contains(o.path, "{id}") && accept == "application/json" && !strings.Contains(o.path, "test") {
			require.Equal(s.t, 200, got.status, "%s: %s", path, got.body)
		}
	}
}

// toldOnPurpose is where a tenant's text is told to the operator, and to nobody else: an event's type in the log, whom a span called, and who called.
var toldOnPurpose = regexp.MustCompile(`"type":"cnry[ab][0-9a-f]{24}\.made"|(user_agent\.original|server\.address)[^a-z]{1,12}cnry[ab][0-9a-f]{24}`)

// noWordIsTold looks for both words in all that the process has told of itself.
func (s *street) noWordIsTold() {
	s.t.Helper()
	metrics := httpBody(s.t, s.told.MetricsHandler())
	require.NoError(s.t, s.told.Shutdown(s.t.Context()))
	for name, text := range map[string]string{"log": s.log.String(), "spans and metrics": s.collected.String(), "metrics": metrics} {
		require.Greater(s.t, len(text), 10_000, name)
		text = toldOnPurpose.ReplaceAllString(text, "")
		for _, n := range []*neighbour{s.one, s.other} {
			if at := strings.Index(text, n.word); at >= 0 {
				require.Fail(s.t, "a tenant's text is told", "%s: ...%q", name, text[max(0, at-300):at+100])
			}
			require.False(s.t, said(n.word, []byte(text)), name)
		}
	}
}
