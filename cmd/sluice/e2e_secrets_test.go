package main_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// proveSecrets is set by `make prove/secrets`: what it makes run is too heavy for `make test`.
const proveSecrets = "SLUICE_PROVE_SECRETS"

// canaries are secrets, each with its name, and where they were looked for.
type canaries struct {
	t   *testing.T
	mu  sync.Mutex
	all map[string]string
}

// make is a new secret of a name.
func (c *canaries) make(name string) string {
	text := "c4n4ry" + strings.ReplaceAll(uuid.NewString(), "-", "")
	c.know(name, text)
	return text
}

func (c *canaries) know(name, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	require.GreaterOrEqual(c.t, len(text), 12, name)
	c.all[name] = text
}

// base64Shift is how many ways there are for a text to lie in a base64.
const base64Shift = 3

// forms are all ways in which a secret may be written.
func forms(text string) []string {
	out := []string{text, url.QueryEscape(text), url.PathEscape(text), hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text)))}
	for shift := range base64Shift {
		// What stands before and behind it changes the characters at both ends.
		padded := append(make([]byte, shift), text...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString(padded)
			out = append(out, encoded[min(shift+1, len(encoded)):len(encoded)-2])
		}
	}
	return out
}

// absent looks for every secret in a text.
func (c *canaries) absent(where, text string, but ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, secret := range c.all {
		if slices.Contains(but, name) {
			continue
		}
		for _, form := range forms(secret) {
			if at := strings.Index(text, form); at >= 0 {
				require.Fail(c.t, "a secret is told", "%s in %s: ...%s...", name, where, strings.ReplaceAll(text[max(0, at-200):min(len(text), at+60)], form, "<HERE>"))
			}
		}
	}
}

// TestCanariesAreFoundInEveryForm is the judge's own test.
func TestCanariesAreFoundInEveryForm(t *testing.T) {
	t.Parallel()
	const secret = "c4n4ry/with+odd=parts and blanks"
	for _, said := range []string{
		"x" + secret + "y", "q=" + url.QueryEscape(secret), hex.EncodeToString([]byte("ab" + secret)), base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte("user:" + secret)), base64.URLEncoding.EncodeToString([]byte("u" + secret + "zz")),
	} {
		require.True(t, slices.ContainsFunc(forms(secret), func(form string) bool { return strings.Contains(said, form) }), said)
	}
}

// echo is a target and a provider that throws back what it was sent, headers and all.
func echo(t *testing.T) *httptest.Server {
	t.Helper()
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump, err := httputil.DumpRequest(r, true)
		if err != nil {
			dump = []byte(err.Error())
		}
		statuses := []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError, http.StatusOK}
		w.Header().Set("X-Echo", url.QueryEscape(string(dump)))
		w.Header().Set("X-Request-Id", r.Header.Get("Authorization")+r.Header.Get("X-Api-Key"))
		w.WriteHeader(statuses[n.Add(1)%int64(len(statuses))])
		said := string(dump)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"id": said, "message": said, "ok": false, "error": map[string]any{"type": said, "code": said, "message": said}, "errors": []any{map[string]any{"message": said}},
			"errorMessages": []string{said}, "login": r.Header.Get("Authorization"), "name": said, "user": said, "url": said, "html_url": said, "detail": said,
		})
	}))
	t.Cleanup(server.Close)
	return server
}

// candidate shapes of a credential's secret; each kind takes one of them.
var secretShapes = []string{"%s", "xoxb-%s", "agent@example.com/token:%s", "agent@example.com:%s", "Bearer %s", "user:%s"}

// TestNoSecretIsEverTold gives every secret that there is a canary, lets everything go wrong that throws secrets back, and looks for them wherever
// something is told: logs at level debug, spans with SQL, metrics, answers, and every row of the database.
func TestNoSecretIsEverTold(t *testing.T) {
	t.Parallel()
	if os.Getenv(proveSecrets) == "" {
		t.Skip("make prove/secrets")
	}
	w := newWorld(t)
	c := &canaries{t: t, all: map[string]string{}}
	thrown := echo(t)
	var told lockedBuffer
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(&told, r.Body) }))
	t.Cleanup(collector.Close)
	database, err := url.Parse(w.base.URL)
	require.NoError(t, err)
	if _, given := database.User.Password(); !given {
		database.User = url.UserPassword(database.User.Username(), c.make("the database's password"))
	} else {
		password, _ := database.User.Password()
		if len(password) > 8 {
			c.all["the database's password"] = password
		}
	}
	c.know("the master key", string(w.base.MasterKey))
	c.know("the operator's key", w.operator)
	metrics := w.second().address
	w.env = append(w.env, "DATABASE_URL="+database.String(), "SLUICE_LOG_LEVEL=debug", "SLUICE_TRACE_SQL=true", "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL,
		"OTEL_EXPORTER_OTLP_HEADERS=authorization="+c.make("the collector's header"), "SLUICE_OPENAI_BASE_URL="+thrown.URL+"/v1", "SLUICE_ANTHROPIC_BASE_URL="+thrown.URL,
		"OPENAI_API_KEY="+c.make("the operator's key at OpenAI"), "ANTHROPIC_API_KEY="+c.make("the operator's key at Anthropic"),
		"SLUICE_SMTP_URL=smtp://alerts:"+c.make("the mail server's password")+"@127.0.0.1:1", "SLUICE_SMTP_FROM=alerts@example.com",
		"SLUICE_MASTER_KEYS_OLD="+hex.EncodeToString([]byte(c.make("an old master key")[:32])))
	w.env = append(w.env, "SLUICE_METRICS_LISTEN="+metrics)
	serving := w.start("serve", servingUp)
	w.env = append(w.env, "SLUICE_METRICS_LISTEN=127.0.0.1:0")
	working := w.start("work", workingUp)

	v := &victim{world: w, c: c, echo: thrown.URL}
	v.build()
	v.events()
	v.walk()
	scraped, err := http.Get("http://" + metrics + "/metrics")
	require.NoError(t, err)
	text, err := io.ReadAll(scraped.Body)
	require.NoError(t, err)
	require.NoError(t, scraped.Body.Close())
	c.absent("the metrics", string(text))
	working.end(t)
	serving.end(t)
	v.commands(database)
	require.Contains(t, told.String(), "insert into", "spans of statements are looked through")
	c.absent("the log of serve", serving.log.String())
	c.absent("the log of work", working.log.String())
	c.absent("spans and metrics", told.String())
	v.rows()
	t.Logf("%d secrets, %d kinds of credentials, %d answers of the API, %d bytes of spans, %d of logs: none told", len(c.all), v.kinds, v.answers,
		len(told.String()), len(serving.log.String())+len(working.log.String()))
}

// victim is a tenant with a canary for each secret.
type victim struct {
	*world

	c                        *canaries
	echo                     string
	key, url                 string
	ids                      map[string]string // by prefix
	answers, kinds, expected int
}

// say makes a request and looks through its answer, but for what it tells by contract.
func (v *victim) say(key, method, path, body string, but ...string) (int, map[string]any) {
	v.t.Helper()
	request, err := http.NewRequestWithContext(v.t.Context(), method, "http://"+v.address+path, strings.NewReader(body))
	require.NoError(v.t, err)
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(v.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(v.t, err)
	v.c.absent(method+" "+path, fmt.Sprint(response.Header)+string(text), but...)
	v.answers++
	out := map[string]any{}
	_ = json.Unmarshal(text, &out)
	if id, ok := out["id"].(string); ok {
		if prefix, _, found := strings.Cut(id, "_"); found && response.StatusCode == http.StatusCreated {
			v.ids[prefix] = id
		}
	}
	return response.StatusCode, out
}

func fieldOf(document map[string]any, path ...string) string {
	var at any = document
	for _, one := range path {
		inside, _ := at.(map[string]any)
		at = inside[one]
	}
	text, _ := at.(string)
	return text
}

// build makes everything that holds a secret. What is shown once is shown by POST /v1/tenants, /v1/keys, and /v1/credentials of the kind callback and
// /v1/alert-channels of the kind webhook, and by no other answer; the address of an endpoint is a capability, and the endpoint's own answers name it.
func (v *victim) build() {
	v.t.Helper()
	v.ids = map[string]string{}
	_, made := v.say(v.operator, http.MethodPost, "/v1/tenants", `{"name": "canary"}`)
	v.key = fieldOf(made, "key", "secret")
	v.c.know("the tenant's key", v.key)
	v.ids["tnt"] = fieldOf(made, "tenant", "id")
	_, made = v.say(v.key, http.MethodPost, "/v1/keys", `{"name": "second", "role": "viewer"}`)
	v.c.know("the second key", cmp.Or(fieldOf(made, "secret"), fieldOf(made, "key", "secret")))
	secret := v.c.make("the endpoint's secret")
	status, made := v.say(v.key, http.MethodPost, "/v1/endpoints", `{"name": "issues", "source": "github", "secret": "`+secret+`"}`)
	require.Equal(v.t, http.StatusCreated, status, "%v", made)
	v.url = fieldOf(made, "url")
	endpoint := v.ids["end"]
	next := v.c.make("the endpoint's next secret")
	status, made = v.say(v.key, http.MethodPost, "/v1/endpoints/"+endpoint+"/secrets", `{"secret": "`+next+`"}`)
	require.Less(v.t, status, 300, "%v", made)
	_, made = v.say(v.key, http.MethodPost, "/v1/alert-channels", `{"name": "a", "kind": "webhook", "url": "`+v.echo+`/`+v.c.make("the path of an alert channel")+`"}`)
	v.c.know("the alert channel's secret", fieldOf(made, "secret"))
	_, _ = v.say(v.key, http.MethodPost, "/v1/alert-channels", `{"name": "m", "kind": "email", "address": "somebody@example.com"}`)
	v.credentials()
	for id := range maps.Values(v.ids) {
		if strings.HasPrefix(id, "ach") || strings.HasPrefix(id, "alc") {
			v.say(v.key, http.MethodPost, "/v1/alert-channels/"+id+"/test", "")
		}
	}
	v.say(v.key, http.MethodPost, "/v1/endpoints/"+endpoint+"/test", `{}`)
}

// credentials makes one of every kind that the API lists, asks its service who it is, and lets automations use them.
func (v *victim) credentials() {
	v.t.Helper()
	_, listed := v.say(v.key, http.MethodGet, "/v1/connectors", "")
	kinds := []string{"anthropic", "openai", "bearer"}
	all, _ := listed["credentials"].([]any)
	for _, one := range all {
		document, _ := one.(map[string]any)
		kinds = append(kinds, fieldOf(document, "kind"))
	}
	require.Greater(v.t, len(kinds), 12)
	for _, kind := range kinds {
		name := "the credential of " + kind
		var id string
		for _, shape := range secretShapes {
			for _, base := range []string{v.echo, "", "smtp://127.0.0.1:1"} {
				body := map[string]any{"name": kind, "kind": kind, "secret": fmt.Sprintf(shape, v.c.make(name))}
				if kind == "callback" {
					body["secret"] = "whsec_" + base64.StdEncoding.EncodeToString([]byte(v.c.make(name)))
				}
				if base != "" {
					body["base_url"] = base
				}
				raw, err := json.Marshal(body)
				require.NoError(v.t, err)
				status, made := v.say(v.key, http.MethodPost, "/v1/credentials", string(raw))
				if status == http.StatusCreated {
					id = fieldOf(made, "id")
					break
				}
			}
			if id != "" {
				break
			}
		}
		require.NotEmpty(v.t, id, "no shape of a secret is taken for a credential of %s", kind)
		v.kinds++
		for range 5 { // each of the echo's answers
			v.say(v.key, http.MethodPost, "/v1/credentials/"+id+"/test", "")
		}
		v.automation(kind, id)
	}
	// A callback without a secret has one made, which is shown once.
	_, made := v.say(v.key, http.MethodPost, "/v1/credentials", `{"name": "made", "kind": "callback"}`)
	v.c.know("the secret made for a callback", fieldOf(made, "secret"))
	v.say(v.key, http.MethodPatch, "/v1/credentials/"+v.ids["crd"], `{"secret": "whsec_`+base64.StdEncoding.EncodeToString([]byte(v.c.make("the credential's next secret")))+`"}`)
}

// automation lets a credential be used by an action, or by a call to its model.
func (v *victim) automation(kind, credential string) {
	v.t.Helper()
	action := map[string]any{"credential_id": credential}
	model := "scripted/echo-1"
	switch kind {
	case "github":
		maps.Copy(action, map[string]any{"kind": "github_comment", "repo": "acme/shop", "issue": "1", "body": "{{ output }}"})
	case "slack":
		maps.Copy(action, map[string]any{"kind": "slack_message", "channel": "C0123456789", "body": "{{ output }}"})
	case "zendesk":
		maps.Copy(action, map[string]any{"kind": "zendesk_comment", "ticket": "1", "body": "{{ output }}"})
	case "jira":
		maps.Copy(action, map[string]any{"kind": "jira_comment", "issue": "SHOP-12", "body": "{{ output }}"})
	case "http":
		maps.Copy(action, map[string]any{"kind": "http", "url": v.echo + "/items", "body": "{{ output }}"})
	case "callback":
		maps.Copy(action, map[string]any{"kind": "callback", "url": v.echo + "/hook"})
	case "openai":
		action, model = map[string]any{"kind": "none"}, "openai/gpt-4o-mini"
	case "anthropic":
		action, model = map[string]any{"kind": "none"}, "anthropic/claude-haiku-4-5"
	default:
		return
	}
	raw, err := json.Marshal(map[string]any{
		"name": kind, "endpoint_id": v.ids["end"], "when": "true", "model": model, "mode": "live", "prompt": map[string]any{"user": "Hello"}, "max_output_tokens": 10,
		"action": action, "retry": map[string]any{"attempts": 2},
	})
	require.NoError(v.t, err)
	status, made := v.say(v.key, http.MethodPost, "/v1/automations", string(raw))
	require.Equal(v.t, http.StatusCreated, status, "an automation of %s: %v", kind, made)
	v.expected++
}

// events delivers one that starts them all, and a few with wrong secrets.
func (v *victim) events() {
	v.t.Helper()
	require.Greater(v.t, v.expected, 4)
	token := v.url[strings.LastIndex(v.url, "/")+1:]
	good := shop{url: v.url, secret: v.c.all["the endpoint's next secret"]}
	status, id, _ := v.deliver(good, "canary-1")
	require.Equal(v.t, http.StatusOK, status)
	v.ids["evt"] = id
	bad := good
	bad.secret = v.c.make("a wrong secret")
	status, _, _ = v.deliver(bad, "canary-2")
	require.NotEqual(v.t, http.StatusOK, status)
	v.until(0, `select count(*) from sluice.runs where attempt = 0 and status in ('queued', 'running')`)
	v.until(0, `select count(*) from sluice.actions where attempt = 0 and ended_at is null`)
	v.c.know("the endpoint's token", token)
}

// walk asks every route, with what there is and with nonsense.
func (v *victim) walk() {
	v.t.Helper()
	path, err := os.ReadFile("../../openapi/openapi.yaml")
	require.NoError(v.t, err)
	var rows [][]byte
	for line := range bytes.Lines(path) {
		if bytes.HasPrefix(line, []byte("  /v1/")) {
			rows = append(rows, bytes.TrimSuffix(bytes.TrimSpace(line), []byte(":")))
		}
	}
	require.Greater(v.t, len(rows), 40)
	const shown = "the endpoint's token" // by contract, to its tenant
	_, runs := v.say(v.key, http.MethodGet, "/v1/runs", "")
	list, _ := runs["data"].([]any)
	require.NotEmpty(v.t, list)
	for _, row := range rows {
		for _, id := range slices.Concat(slices.Collect(maps.Values(v.ids)), runIDs(list)) {
			route := strings.ReplaceAll(string(row), "{id}", id)
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch} {
				if method != http.MethodGet && (strings.Contains(route, "cancel") || strings.Contains(route, "erase")) {
					continue
				}
				v.say(v.key, method, route, `{"unknown": "`+id+`"}`, shown)
				v.say(v.operator, method, route, `{`, shown)
			}
			if route == string(row) {
				break // it takes no id
			}
		}
	}
}

func runIDs(list []any) []string {
	var out []string
	for _, one := range list[:min(len(list), 2)] {
		document, _ := one.(map[string]any)
		out = append(out, fieldOf(document, "id"))
	}
	return out
}

// commands run what else there is, with a database that is there and with one that is not.
func (v *victim) commands(database *url.URL) {
	v.t.Helper()
	path, err := os.Executable()
	require.NoError(v.t, err)
	away := *database
	away.Host = "127.0.0.1:1"
	broken := *database
	broken.Path = "/there_is_no_such_database"
	for _, one := range []*url.URL{database, &away, &broken} {
		for _, args := range [][]string{
			{"migrate", "status"}, {"migrate", "up"}, {"operator-key", "list"}, {"ledger", "check"}, {"master-key", "check"}, {"master-key", "rotate"}, {"serve", "--db-conns=0"},
			{"work", "--run-workers=-1"},
		} {
			ctx, cancel := context.WithTimeout(v.t.Context(), 30*time.Second)
			command := exec.CommandContext(ctx, path, args...)
			command.Env = append(slices.Clone(v.env), "DATABASE_URL="+one.String())
			out, _ := command.CombinedOutput()
			cancel()
			v.c.absent(strings.Join(args, " "), string(out))
		}
	}
}

// rows looks through every row of every table, ours and River's.
func (v *victim) rows() {
	v.t.Helper()
	tables, err := v.base.Owner.Query(v.t.Context(), `
		select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname in ('sluice', 'river') and c.relkind in ('r', 'p') and not c.relispartition`)
	require.NoError(v.t, err)
	var names []string
	for tables.Next() {
		var name string
		require.NoError(v.t, tables.Scan(&name))
		names = append(names, name)
	}
	require.NoError(v.t, tables.Err())
	require.Greater(v.t, len(names), 30)
	for _, name := range names {
		var text string
		require.NoError(v.t, v.base.Owner.QueryRow(v.t.Context(), `select coalesce(string_agg(x::text, e'\n'), '') from `+name+` x`).Scan(&text))
		if name == "sluice.endpoints" {
			v.c.absent(name, text, "the endpoint's token")
			continue
		}
		v.c.absent(name, text)
	}
}
