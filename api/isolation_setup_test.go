package api_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/api"
	"sluice/db"
	"sluice/db/dbtest"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/telemetry"
	"sluice/tenants"
)

// neighbour is a tenant that has one of everything, and has written its word wherever it may write.
type neighbour struct {
	tenant

	word string
	// ids are its things, by the resource of their path.
	ids map[string]string
	// hook is where its effects go.
	hook     string
	endpoint string
	secret   string
	door     string
}

// street is two neighbours on one API and one worker, with all that is told of them: logs at level debug, and what a collector got.
type street struct {
	*bundle

	one, other *neighbour
	told       *telemetry.Telemetry
	collected  *lockedBuffer
	provider   *scripted.Provider
	target     *httptest.Server
}

// newStreet builds it, lets the worker end all that the two have begun, and stops the worker. It sets OpenTelemetry's global providers. app and worker
// are the roles by which the two reach the rows of tenants.
func newStreet(t *testing.T, app, worker string) *street {
	t.Helper()
	s := &street{bundle: &bundle{Bundle: dbtest.New(t), t: t, log: &lockedBuffer{}}, collected: &lockedBuffer{}}
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(s.collected, r.Body) }))
	t.Cleanup(collector.Close)
	var err error
	s.told, err = telemetry.Start(t.Context(), telemetry.Config{
		Service: "sluice-test", Version: "v1", OTLPEndpoint: collector.URL, LogLevel: slog.LevelDebug, LogOutput: s.log, SampleRatio: 1,
	})
	require.NoError(t, err)
	s.provider, err = scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.provider.Close() })
	// A target that throws back what it was sent, and refuses it where its address says so.
	s.target = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(r.URL.Path, "refuse") {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write([]byte(r.URL.String() + " " + string(body)))
	}))
	t.Cleanup(s.target.Close)

	s.api = newAPI(t, s.reach(app), s.log, func(d *api.Deps) { d.Log = s.told.Logger() })
	server := httptest.NewServer(s.api.Handler())
	s.url = server.URL
	t.Cleanup(func() { server.Close(); s.api.Close(context.Background()) })
	key, err := tenants.NewKey(true)
	require.NoError(t, err)
	s.operator = key.Reveal()
	require.NoError(t, s.DB.System(t.Context(), func(tx db.SystemTx) error {
		_, err := tx.OperatorKeyInsert(t.Context(), "test", key)
		return err
	}))
	stop := s.work(s.reach(worker))
	s.one, s.other = s.moveIn("a"), s.moveIn("b")
	for _, n := range []*neighbour{s.one, s.other} {
		s.live(n)
	}
	stop()
	return s
}

// reach is the database as a process has it: its pools trace every statement.
func (s *street) reach(role string) *db.DB {
	s.t.Helper()
	open := func(role string) *pgxpool.Pool {
		pool, err := db.Open(context.Background(), db.PoolConfig{
			URL: s.URL, Role: role, ConnsMax: 8, Tracer: otelpgx.NewTracer(otelpgx.WithDisableConnectionDetailsInAttributes()),
		})
		require.NoError(s.t, err)
		s.t.Cleanup(pool.Close)
		return pool
	}
	sealer, err := db.NewSealer(s.MasterKey)
	require.NoError(s.t, err)
	return db.New(db.Pools{App: open(role), System: open(db.SystemRole), Door: open(db.DoorRole)}, sealer)
}

// work starts a worker; what it returns stops it.
func (s *street) work(d *db.DB) func() {
	s.t.Helper()
	door := outbound.New(outbound.Config{AllowLoopback: true, Timeout: 2 * time.Second})
	pool, err := db.Open(context.Background(), db.PoolConfig{URL: s.URL, Role: db.WorkerRole, ConnsMax: 8, PlanCacheMode: "force_custom_plan"})
	require.NoError(s.t, err)
	s.t.Cleanup(pool.Close)
	w, err := jobs.NewWorker(jobs.Deps{
		DB: d, River: pool, ProviderKeys: map[string]tenants.Secret{"scripted": tenants.NewSecret("scripted-key-0001")}, Door: door,
		Actions: action.New(door), Log: s.told.Logger(), Now: time.Now,
		Models: llm.New(llm.Config{
			Providers: []llm.Provider{llm.NewScripted(llm.ProviderConfig{HTTP: door.Operator(workedMax), BaseURL: s.provider.URL(), Now: time.Now})},
			Timeout:   workedMax, Now: time.Now,
		}),
		Lease: 5 * time.Second, SweepEvery: 200 * time.Millisecond, PayloadRetention: 24 * time.Hour, ModelTimeout: 5 * time.Second,
		ActionTimeout: 3 * time.Second, RunWorkers: 8, ActionWorkers: 8, ShutdownTimeout: time.Second,
	})
	require.NoError(s.t, err)
	require.NoError(s.t, w.Start(s.t.Context()))
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), workedMax)
		defer cancel()
		_ = w.Stop(ctx)
	}
	s.t.Cleanup(stop)
	return stop
}

// moveIn makes a tenant whose word is in all that it sets up.
func (s *street) moveIn(name string) *neighbour {
	s.t.Helper()
	random := make([]byte, 12)
	_, _ = rand.Read(random)
	n := &neighbour{word: "cnry" + name + hex.EncodeToString(random), ids: map[string]string{}}
	w := n.word
	note := map[string]any{"soft": 1e9, "hard": 2e9, "raises": []any{map[string]any{"value": 3e9, "until": time.Now().Add(time.Hour), "note": w}}}
	made := s.call(s.operator, "POST", "/v1/tenants", map[string]any{"name": w, "limits": map[string]any{"events_per_hour": note}},
		"Idempotency-Key", "operator "+w).is(201)
	n.id, n.admin = made.text("tenant.id"), made.text("key.secret")
	n.editor = s.call(n.admin, "POST", "/v1/keys", map[string]any{"name": w, "role": "editor"}, "Idempotency-Key", w).is(201).text("secret")
	viewer := s.call(n.admin, "POST", "/v1/keys", map[string]any{"name": w + " v", "role": "viewer"}).is(201)
	n.viewer, n.ids["keys"] = viewer.text("secret"), viewer.text("id")
	n.hook = s.target.URL + "/" + w
	n.secret = "signing " + w
	endpoint := s.call(n.editor, "POST", "/v1/endpoints", map[string]any{
		"name": w, "source": "hmac", "secret": n.secret, "settings": map[string]any{
			"signature_header": "X-Sig-" + w, "id_header": "X-Id", "type": "payload.type", "entity": "payload.entity",
		},
	}).is(201)
	n.endpoint, n.door = endpoint.text("id"), strings.TrimPrefix(endpoint.text("url"), publicURL)
	n.ids["endpoints"] = n.endpoint
	credential := s.call(n.admin, "POST", "/v1/credentials", map[string]any{"name": w, "kind": "zendesk", "secret": w + "@example.com/token:" + w, "base_url": "https://" + w + ".example.com"}).is(201)
	n.ids["credentials"] = credential.text("id")
	s.call(n.admin, "PATCH", "/v1/credentials/"+credential.text("id"), map[string]any{"actor": w}).is(200)
	callback := s.call(n.admin, "POST", "/v1/credentials", map[string]any{"name": w, "kind": "callback"}).is(201).text("id")
	s.call(n.admin, "POST", "/v1/alert-channels", map[string]any{"name": w, "kind": "email", "address": w + "@example.com"}).is(201)
	n.ids["alert-channels"] = s.call(n.admin, "POST", "/v1/alert-channels", webhookChannel("https://"+w+".example.com/"+w)).is(201).text("id")
	spec := func(changes map[string]any) map[string]any {
		out := map[string]any{
			"name": w, "endpoint_id": n.endpoint, "model": "scripted/echo-1", "mode": "review", "when": "payload.word == '" + w + "'", "retry": map[string]any{"attempts": 1},
			"prompt":        map[string]any{"system": "You triage " + w, "user": "{{ payload | json }}"},
			"output_schema": map[string]any{"type": "object", "description": w, "properties": map[string]any{"reply": map[string]any{"type": "string"}}, "required": []string{"reply"}},
			"action":        map[string]any{"kind": "callback", "url": n.hook, "credential_id": callback},
		}
		maps.Copy(out, changes)
		return out
	}
	for _, changes := range []map[string]any{
		{"mode": "live"}, {"mode": "live", "action": map[string]any{"kind": "callback", "url": n.hook + "/refuse", "credential_id": callback}},
		{"model": "scripted/error-1"}, {"model": "scripted/wrong-schema-1"}, {"model": "scripted/refuse-1"}, {"model": "scripted/garbage-1", "mode": "shadow"},
		{"fetch": map[string]any{"url": n.hook + "/refuse"}}, {},
	} {
		n.ids["automations"] = s.call(n.editor, "POST", "/v1/automations", spec(changes)).is(201).text("id")
	}
	s.call(n.editor, "POST", "/v1/automations/"+n.ids["automations"]+"/trial", map[string]any{"patch": map[string]any{"prompt": map[string]any{"user": w + " {{ payload | json }}"}}}).is(201)
	return n
}

// deliver sends an event that is the neighbour's word all over; forged spoils its signature.
func (s *street) deliver(n *neighbour, id string, forged bool) heard {
	s.t.Helper()
	w := n.word
	body, err := json.Marshal(map[string]any{"n": id, "word": w, "type": w + ".made", "entity": w, "email": w + "@example.com", w: []any{w, map[string]any{"text": w}}})
	require.NoError(s.t, err)
	mac := hmac.New(sha256.New, []byte(n.secret))
	mac.Write(body)
	if forged {
		mac.Write([]byte("forged"))
	}
	return s.call("", "POST", n.door, string(body), "X-Sig-"+w, hex.EncodeToString(mac.Sum(nil)), "X-Id", w+id, "User-Agent", w, "X-Request-Id", w)
}

// live lets a neighbour's events come, be worked and decided on.
func (s *street) live(n *neighbour) {
	s.t.Helper()
	s.deliver(n, "-forged", true).is(401)
	s.deliver(n, "-1", false).is(200)
	s.deliver(n, "-2", false).is(200)
	s.deliver(n, "-2", false).is(200)
	quiet := func() {
		s.t.Helper()
		var rows []map[string]any
		require.Eventually(s.t, func() bool {
			rows = s.call(n.viewer, "GET", "/v1/runs?limit=200", nil).is(200).rows()
			return len(rows) >= 16 && !slices.ContainsFunc(rows, func(r map[string]any) bool {
				// A breaker that is open keeps what asks that model for a while, and is of no interest here.
				return slices.Contains([]any{"queued", "running", "acting", "waiting"}, r["status"]) && r["reason"] != "provider.breaker_open"
			})
		}, workedMax, 50*time.Millisecond, "%v", &rows)
	}
	quiet()
	n.ids["events"], _ = s.call(n.viewer, "GET", "/v1/events", nil).is(200).rows()[0]["id"].(string)
	for i, row := range s.call(n.viewer, "GET", "/v1/runs?limit=200&status=in_review", nil).is(200).rows() {
		id, _ := row["id"].(string)
		n.ids["runs"] = id
		switch i {
		case 0:
			s.call(n.editor, "POST", "/v1/runs/"+id+"/review", map[string]any{"verdict": "approve", "note": n.word, "output": map[string]any{"reply": "edited " + n.word}}).is(200)
		case 1:
			s.call(n.editor, "POST", "/v1/runs/"+id+"/review", map[string]any{"verdict": "reject", "note": n.word}).is(200)
		}
	}
	s.call(n.editor, "POST", "/v1/replays", map[string]any{"event_filter": map[string]any{"type": n.word + ".made"}, "mode": "shadow", "per_second": 100}).is(201)
	n.ids["replays"], _ = s.call(n.viewer, "GET", "/v1/replays", nil).is(200).rows()[0]["id"].(string)
	var replay heard
	require.Eventually(s.t, func() bool {
		replay = s.call(n.viewer, "GET", "/v1/replays/"+n.ids["replays"], nil).is(200)
		pending, _ := replay.get("progress.pending").(float64)
		return pending == 0
	}, workedMax, 50*time.Millisecond, "%s", &replay.body)
	quiet()
	// What only a worker that asks a source would find.
	endpoint, ok := tenants.ParseID(tenants.EndpointPrefix, n.endpoint)
	require.True(s.t, ok)
	require.NoError(s.t, s.DB.Tenant(s.t.Context(), n.uuid(), func(tx db.TenantTx) error {
		if err := tx.MissedCheckPut(s.t.Context(), endpoint, time.Now(), n.word); err != nil {
			return err
		}
		if _, err := tx.MissedEventsAdd(s.t.Context(), endpoint, []db.MissedEvent{{SourceEventID: n.word, Delivery: n.word, SentAt: time.Now()}}); err != nil {
			return err
		}
		return tx.AlertBegin(s.t.Context(), "rejections", n.endpoint, n.word)
	}))
}

// said is every way in which a word may be written in bytes.
func said(word string, in []byte) bool {
	if bytes.Contains(bytes.ToLower(in), []byte(word)) || bytes.Contains(bytes.ToLower(in), []byte(hex.EncodeToString([]byte(word)))) {
		return true
	}
	for shift := range 3 {
		// What stands before and behind it changes the characters at both ends.
		padded := append(make([]byte, shift), word...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString(padded)
			if bytes.Contains(in, []byte(encoded[shift+1:len(encoded)-2])) {
				return true
			}
		}
	}
	return false
}

func httpBody(t *testing.T, h http.Handler) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return recorder.Body.String()
}
