package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnknownRoutesAreProblems(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	for _, c := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/", 404, "route.unknown", ""},
		{"GET", "/v1/nothing", 404, "route.unknown", ""},
		{"GET", "/v1/keys/", 404, "route.unknown", ""},
		{"GET", "/v1//keys", 404, "route.unknown", ""},
		{"GET", "/v1/../v1/keys", 404, "route.unknown", ""},
		{"PUT", "/v1/keys", 405, "route.method", "GET, POST"},
		{"DELETE", "/v1/sources", 405, "route.method", "GET"},
		{"GET", "/in/" + strings.Repeat("a", 32), 405, "route.method", "POST"},
	} {
		got := b.call(of.admin, c.method, c.path, nil).refused(c.status, c.code)
		require.Equal(t, c.allow, got.header.Get("Allow"), c.path)
		require.Equal(t, "nosniff", got.header.Get("X-Content-Type-Options"))
	}
}

func TestBadInputNamesEveryField(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	locations := func(h heard) []string {
		var out []string
		for l := range h.refused(422, "input.invalid").faults() {
			out = append(out, l)
		}
		return out
	}
	for name, c := range map[string]struct {
		key, method, path string
		body              any
		want              []string
	}{
		"missing":       {of.admin, "POST", "/v1/keys", map[string]any{}, []string{"body.name", "body.role"}},
		"unknown":       {of.admin, "POST", "/v1/keys", map[string]any{"name": "a", "role": "boss", "rôle": 1}, []string{"body.role", "body.rôle"}},
		"limits":        {b.operator, "POST", "/v1/tenants", map[string]any{"name": "a", "limits": map[string]any{"burst": 0}}, []string{"body.limits.burst"}},
		"zone":          {b.operator, "POST", "/v1/tenants", map[string]any{"name": "a", "time_zone": "Mars/Base"}, []string{"body.time_zone"}},
		"control":       {of.admin, "POST", "/v1/keys", map[string]any{"name": "a\x00b", "role": "viewer"}, []string{"body.name"}},
		"query":         {of.viewer, "GET", "/v1/runs?limit=0&cursor=%21&status=odd", nil, []string{"query.limit", "query.cursor", "query.status"}},
		"unknown query": {of.viewer, "GET", "/v1/runs?limits=1", nil, []string{"query.limits"}},
		"nul in query":  {of.viewer, "GET", "/v1/events?type=%00", nil, []string{"query.type"}},
		"bad utf8":      {of.viewer, "GET", "/v1/events?type=%ff", nil, []string{"query.type"}},
		"over limit":    {of.viewer, "GET", "/v1/events?limit=201", nil, []string{"query.limit"}},
		"time":          {of.viewer, "GET", "/v1/events?since=yesterday", nil, []string{"query.since"}},
		"if-match":      {of.editor, "DELETE", "/v1/endpoints/" + unknownID["endpoints"], nil, []string{"header.If-Match"}},
		"kind":          {of.admin, "POST", "/v1/credentials", map[string]any{"name": "a", "kind": "fax"}, []string{"body.kind"}},
		"secret":        {of.admin, "POST", "/v1/credentials", map[string]any{"name": "a", "kind": "openai", "secret": "short"}, []string{"body.secret"}},
		"no secret":     {of.admin, "POST", "/v1/credentials", map[string]any{"name": "a", "kind": "openai"}, []string{"body.secret"}},
		"callback":      {of.admin, "POST", "/v1/credentials", map[string]any{"name": "a", "kind": "callback", "secret": "not a whsec"}, []string{"body.secret"}},
		"source":        {of.editor, "POST", "/v1/endpoints", map[string]any{"name": "a", "source": "fax"}, []string{"body.source"}},
		"settings": {
			of.editor, "POST", "/v1/endpoints",
			map[string]any{"name": "a", "source": "hmac", "settings": map[string]any{"order": "random", "algorithm": "md5", "odd": 1}},
			[]string{"body.settings.order", "body.settings.algorithm", "body.settings.odd", "body.settings.signature_header"},
		},
		"group": {of.viewer, "GET", "/v1/usage?group_by=colour", nil, []string{"query.group_by"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := b.call(c.key, c.method, c.path, c.body, "If-Match", map[bool]string{true: "v1"}[name == "if-match"])
			require.ElementsMatch(t, c.want, locations(got), "%s", got.body)
		})
	}
}

func TestBodiesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	secret := "sk-very-secret-indeed"
	for _, c := range []struct {
		path, body, contentType string
		status                  int
		code                    string
	}{
		{"/v1/keys", `{"name": "` + secret, "application/json", 400, "input.malformed"},
		{"/v1/automations", `{"name": "` + secret, "application/json", 400, "input.malformed"},
		{"/v1/keys", ``, "application/json", 400, "input.malformed"},
		{"/v1/keys", `[]`, "application/json", 422, "input.invalid"},
		{"/v1/automations", `["` + secret + `"]`, "application/json", 422, "input.invalid"},
		{"/v1/automations", `null`, "application/json", 422, "input.invalid"},
		{"/v1/keys", `name=` + secret, "application/x-www-form-urlencoded", 415, "input.content_type"},
		{"/v1/credentials", `{"name": 1, "kind": "openai", "secret": ["` + secret + `"]}`, "application/json", 422, "input.invalid"},
		{"/v1/keys", `{"name": "` + strings.Repeat("x", 1<<20) + `"}`, "application/json", 413, "input.too_large"},
	} {
		got := b.call(of.admin, "POST", c.path, c.body, "Content-Type", c.contentType).refused(c.status, c.code)
		require.NotContains(t, string(got.body), secret)
	}
	require.NotContains(t, b.log.String(), secret)
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	for name, c := range map[string]struct {
		key, path   string
		body, other any
	}{
		"tenants":     {b.operator, "/v1/tenants", map[string]any{"name": "One"}, map[string]any{"name": "Two"}},
		"keys":        {of.admin, "/v1/keys", map[string]any{"name": "a", "role": "viewer"}, map[string]any{"name": "a", "role": "admin"}},
		"credentials": {of.admin, "/v1/credentials", map[string]any{"name": "a", "kind": "callback"}, map[string]any{"name": "b", "kind": "callback"}},
		"endpoints":   {of.editor, "/v1/endpoints", map[string]any{"name": "a", "source": "github"}, map[string]any{"name": "a", "source": "standard"}},
		"secrets":     {of.editor, "/v1/endpoints/" + endpoint + "/secrets", map[string]any{}, map[string]any{"overlap": "1h"}},
		"automations": {of.editor, "/v1/automations", draft(endpoint), map[string]any{"name": "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answers := make(chan heard, 4)
			for range cap(answers) {
				go func() { answers <- b.call(c.key, "POST", c.path, c.body, "Idempotency-Key", "once "+name) }()
			}
			first, replayed := <-answers, 0
			all := []heard{first}
			for range cap(answers) - 1 {
				all = append(all, <-answers)
			}
			for _, h := range all {
				h.is(201)
				require.Equal(t, string(first.body), string(h.body))
				require.Equal(t, first.header.Get("ETag"), h.header.Get("ETag"))
				if h.header.Get("Idempotency-Replayed") == "true" {
					replayed++
				}
			}
			require.Equal(t, len(all)-1, replayed)
			b.call(c.key, "POST", c.path, c.other, "Idempotency-Key", "once "+name).refused(422, "idempotency.key_reused")
			require.NotEqual(t, string(first.body), string(b.call(c.key, "POST", c.path, c.body, "Idempotency-Key", "twice "+name).is(201).body))
		})
	}
	t.Run("what was refused is not remembered", func(t *testing.T) {
		t.Parallel()
		b.call(of.editor, "POST", "/v1/automations", map[string]any{"name": "x"}, "Idempotency-Key", "k1").refused(422, "input.invalid")
		b.call(of.editor, "POST", "/v1/automations", draft(endpoint), "Idempotency-Key", "k1").is(201)
	})
	t.Run("a key is of one tenant", func(t *testing.T) {
		t.Parallel()
		other := b.tenant()
		body := map[string]any{"name": "a", "role": "viewer"}
		mine := b.call(of.admin, "POST", "/v1/keys", body, "Idempotency-Key", "shared").is(201)
		theirs := b.call(other.admin, "POST", "/v1/keys", body, "Idempotency-Key", "shared").is(201)
		require.NotEqual(t, mine.text("secret"), theirs.text("secret"))
		require.Empty(t, theirs.header.Get("Idempotency-Replayed"))
	})
	t.Run("the same body for another path", func(t *testing.T) {
		t.Parallel()
		second := b.endpoint(of).text("id")
		b.call(of.editor, "POST", "/v1/endpoints/"+endpoint+"/secrets", map[string]any{"overlap": "0s"}, "Idempotency-Key", "paths").is(201)
		b.call(of.editor, "POST", "/v1/endpoints/"+second+"/secrets", map[string]any{"overlap": "0s"}, "Idempotency-Key", "paths").
			refused(422, "idempotency.key_reused")
	})
	t.Run("a key that is none", func(t *testing.T) {
		t.Parallel()
		got := b.call(of.admin, "POST", "/v1/keys", map[string]any{"name": "a", "role": "viewer"}, "Idempotency-Key", strings.Repeat("x", 256))
		require.Contains(t, got.refused(422, "input.invalid").faults(), "header.Idempotency-Key")
	})
}

func TestETags(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of)
	credential := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201)
	for name, c := range map[string]struct{ key, path string }{
		"tenant":     {b.operator, "/v1/tenants/" + of.id},
		"endpoint":   {of.admin, "/v1/endpoints/" + endpoint.text("id")},
		"automation": {of.admin, "/v1/automations/" + b.automation(of, endpoint.text("id")).text("id")},
		"credential": {of.admin, "/v1/credentials/" + credential.text("id")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read := b.call(c.key, "GET", c.path, nil).is(200)
			tag := read.header.Get("ETag")
			require.Regexp(t, `^"v1-[0-9a-f]+"$`, tag)
			require.Empty(t, b.call(c.key, "GET", c.path, nil, "If-None-Match", `"other", `+tag).is(304).body)
			changed := b.call(c.key, "PATCH", c.path, map[string]any{"name": "second"}, "If-Match", tag).is(200)
			require.Regexp(t, `^"v2-`, changed.header.Get("ETag"))
			b.call(c.key, "PATCH", c.path, map[string]any{"name": "third"}, "If-Match", tag).refused(412, "precondition_failed")
			require.Equal(t, "second", b.call(c.key, "GET", c.path, nil, "If-None-Match", tag).is(200).text("name"))
			b.call(c.key, "PATCH", c.path, map[string]any{"name": "third"}, "If-Match", `W/"v2"`).refused(422, "input.invalid")
			b.call(c.key, "PATCH", c.path, map[string]any{"name": "third"}, "If-Match", `"v2"`).is(200)
			b.call(c.key, "PATCH", c.path, map[string]any{"name": "fourth"}, "If-Match", `*`).is(200)
			if name != "credential" {
				b.call(c.key, "DELETE", c.path, nil, "If-Match", tag).refused(412, "precondition_failed")
			}
		})
	}
	t.Run("a secret that was added is told", func(t *testing.T) {
		t.Parallel()
		made := b.endpoint(of)
		path := "/v1/endpoints/" + made.text("id")
		tag := b.call(of.viewer, "GET", path, nil).is(200).header.Get("ETag")
		b.call(of.editor, "POST", path+"/secrets", map[string]any{}).is(201)
		b.call(of.viewer, "GET", path, nil, "If-None-Match", tag).is(200)
	})
}

func TestPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	made := map[string]bool{}
	for range 13 {
		made[b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201).text("id")] = true
	}
	cursor, before := "", "crd_z"
	for page := 1; page <= 5; page++ {
		got := b.call(of.admin, "GET", "/v1/credentials?limit=3&cursor="+cursor, nil).is(200)
		require.Len(t, got.rows(), map[bool]int{true: 1, false: 3}[page == 5])
		for _, row := range got.rows() {
			id, _ := row["id"].(string)
			require.True(t, made[id], "each once")
			require.Less(t, id, before, "newest first")
			delete(made, id)
			before = id
		}
		cursor = got.text("next_cursor")
		require.Equal(t, page == 5, cursor == "")
	}
	require.Empty(t, made)
}

func TestSecretsAreShownOnceAndNeverLogged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of)
	provider := "sk-ant-0123456789abcdef"
	credential := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "anthropic", "secret": provider}).is(201)
	require.NotContains(t, string(credential.body), provider)
	require.Equal(t, "cdef", credential.text("last4"))
	made := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201)
	require.Regexp(t, `^whsec_`, made.text("secret"))
	token := strings.TrimPrefix(endpoint.text("url"), publicURL+"/in/")
	require.Len(t, token, 32)
	event := b.event(of, endpoint.text("id"))
	b.call("", "POST", "/in/"+token, "forged").is(401)
	b.call("", "GET", "/in/"+token, nil).is(405)
	for _, path := range []string{
		"/v1/credentials", "/v1/credentials/" + credential.text("id"), "/v1/endpoints", "/v1/endpoints/" + endpoint.text("id"), "/v1/keys", "/v1/tenant",
		"/v1/events/" + event + "/explain",
	} {
		got := b.call(of.admin, "GET", path, nil).is(200)
		require.Equal(t, "no-store", got.header.Get("Cache-Control"))
		for _, secret := range []string{provider, made.text("secret"), endpoint.text("secret"), of.admin} {
			require.NotContains(t, string(got.body), secret, path)
		}
	}
	for _, secret := range []string{provider, made.text("secret"), endpoint.text("secret"), of.admin, b.operator, token} {
		require.NotContains(t, b.log.String(), secret)
	}
	require.Contains(t, b.log.String(), `"route":"POST /in/{token}"`)
	require.Contains(t, b.log.String(), `"tenant_id":"`+of.id+`"`)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, "ok", b.call("", "GET", "/healthz", nil).is(200).text("status"))
	require.Equal(t, "ready", b.call("", "GET", "/readyz", nil).is(http.StatusOK).text("status"))
}

func TestSources(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	for _, key := range []string{of.viewer, b.operator} {
		rows := b.call(key, "GET", "/v1/sources", nil).is(200).rows()
		require.NotEmpty(t, rows)
		for _, s := range rows {
			for _, field := range []string{"name", "title", "signs", "setup", "secret_from", "settings"} {
				require.NotEmpty(t, s[field], "%v %s", s["name"], field)
			}
		}
	}
}
