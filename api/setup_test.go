package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/api"
	"sluice/api/source/sourcetest"
	"sluice/db"
	"sluice/db/dbtest"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/tenants"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// bundle is an API on a real port and a database of its own.
type bundle struct {
	*dbtest.Bundle

	t        *testing.T
	api      *api.API
	url      string
	log      *lockedBuffer
	operator string
}

// lockedBuffer is a log that the server writes and a test reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

const publicURL = "https://sluice.example"

func setup(t *testing.T, changes ...func(*api.Deps)) *bundle {
	t.Helper()
	b := &bundle{Bundle: dbtest.New(t), t: t, log: &lockedBuffer{}}
	b.api = newAPI(t, b.DB, b.log, changes...)
	server := httptest.NewServer(b.api.Handler())
	b.url = server.URL
	t.Cleanup(func() { server.Close(); b.api.Close(context.Background()) })
	key, err := tenants.NewKey(true)
	require.NoError(t, err)
	b.operator = key.Reveal()
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		_, err := tx.OperatorKeyInsert(t.Context(), "test", key)
		return err
	}))
	return b
}

func newLogger(log io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(log, nil)) }

func newAPI(tb testing.TB, d *db.DB, log io.Writer, changes ...func(*api.Deps)) *api.API {
	tb.Helper()
	logger := newLogger(log)
	poster, err := jobs.NewPoster(logger)
	require.NoError(tb, err)
	deps := api.Deps{
		DB: d, Poster: poster, Actions: action.New(outbound.New(outbound.Config{AllowLoopback: true})),
		ModelFault: jobs.ModelFault([]string{"anthropic", "openai", "scripted"}), PriceNames: llm.PriceNames,
		PublicURL: publicURL, Log: logger, Now: time.Now, Version: "0.0.0-test",
		ProxyHeaders: []string{sourcetest.ClientCertHeader}, IntakeBatch: 256,
	}
	for _, change := range changes {
		change(&deps)
	}
	return api.New(deps)
}

// heard is an answer.
type heard struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

// call asks the API. body is a text that is sent as it is, nil for none, or anything that becomes JSON. pairs are headers.
func (b *bundle) call(key, method, path string, body any, pairs ...string) heard {
	b.t.Helper()
	var reader io.Reader
	switch v := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(v)
	default:
		text, err := json.Marshal(v)
		require.NoError(b.t, err)
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, reader)
	require.NoError(b.t, err)
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	if reader != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		r.Header.Set(pairs[i], pairs[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(b.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b.t, err)
	return heard{b.t, response.StatusCode, response.Header, text}
}

// is requires a status.
func (h heard) is(status int) heard {
	h.t.Helper()
	require.Equal(h.t, status, h.status, "%s", h.body)
	return h
}

// refused requires a problem of a status and a code.
func (h heard) refused(status int, code string) heard {
	h.t.Helper()
	h.is(status)
	require.Equal(h.t, "application/problem+json", h.header.Get("Content-Type"))
	require.Equal(h.t, code, h.text("code"), "%s", h.body)
	return h
}

// object is the body.
func (h heard) object() map[string]any {
	h.t.Helper()
	var v map[string]any
	require.NoError(h.t, json.Unmarshal(h.body, &v), "%s", h.body)
	return v
}

// get walks into the body by keys with dots between.
func (h heard) get(path string) any {
	h.t.Helper()
	var v any = h.object()
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		require.True(h.t, ok, "%s in %s", path, h.body)
		v = m[name]
	}
	return v
}

func (h heard) text(path string) string {
	h.t.Helper()
	s, _ := h.get(path).(string)
	return s
}

func (h heard) rows() []map[string]any {
	h.t.Helper()
	var v struct{ Data []map[string]any }
	require.NoError(h.t, json.Unmarshal(h.body, &v), "%s", h.body)
	return v.Data
}

// faults are the bad fields of a 422, by location.
func (h heard) faults() map[string]string {
	h.t.Helper()
	var v struct{ Errors []api.Fault }
	require.NoError(h.t, json.Unmarshal(h.body, &v), "%s", h.body)
	out := map[string]string{}
	for _, f := range v.Errors {
		out[f.Location] = f.Message
	}
	return out
}

// tenant is a tenant with a key of each role.
type tenant struct {
	id                    string
	admin, editor, viewer string
}

func (t tenant) uuid() uuid.UUID {
	id, _ := tenants.ParseID(tenants.TenantPrefix, t.id)
	return id
}

func (b *bundle) tenant() tenant {
	b.t.Helper()
	made := b.call(b.operator, "POST", "/v1/tenants", map[string]any{"name": "Acme"}).is(201)
	out := tenant{id: made.text("tenant.id"), admin: made.text("key.secret")}
	out.editor = b.call(out.admin, "POST", "/v1/keys", map[string]any{"name": "e", "role": "editor"}).is(201).text("secret")
	out.viewer = b.call(out.admin, "POST", "/v1/keys", map[string]any{"name": "v", "role": "viewer"}).is(201).text("secret")
	return out
}

// endpoint makes an endpoint of the source standard.
func (b *bundle) endpoint(of tenant) heard {
	b.t.Helper()
	return b.call(of.editor, "POST", "/v1/endpoints", map[string]any{"name": "in", "source": "standard"}).is(201)
}

// draft is an automation that has no fault.
func draft(endpointID string) map[string]any {
	return map[string]any{
		"name": "triage", "endpoint_id": endpointID, "model": "scripted/echo-1", "prompt": map[string]any{"user": "{{ payload.type }}"},
		"action": map[string]any{"kind": "none"},
	}
}

func (b *bundle) automation(of tenant, endpointID string) heard {
	b.t.Helper()
	return b.call(of.editor, "POST", "/v1/automations", draft(endpointID)).is(201)
}

// event sends a sample through the door, and returns the event's id.
func (b *bundle) event(of tenant, endpointID string) string {
	b.t.Helper()
	tried := b.call(of.editor, "POST", "/v1/endpoints/"+endpointID+"/test", nil).is(200)
	require.InDelta(b.t, 200, tried.get("status"), 0, "%s", tried.body)
	return tried.text("event_id")
}
