package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"sluice/db/dbtest"
	"sluice/scripted"
)

// told is one span as a collector got it.
type told struct {
	name, trace, id, parent string
	link                    string // the id of the span that it follows in another trace
	attributes              string
}

// collector takes traces as an OTLP collector does, and keeps their spans.
type collector struct {
	mu    sync.Mutex
	spans []told
	raw   strings.Builder // all that came, metrics too
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-protobuf")
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(body)
	if r.URL.Path != "/v1/traces" {
		return
	}
	var sent collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &sent); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, of := range sent.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				one := told{
					name: s.GetName(), trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()),
					parent: hex.EncodeToString(s.GetParentSpanId()), attributes: shownOf(s.GetAttributes()),
				}
				for _, link := range s.GetLinks() {
					one.link = hex.EncodeToString(link.GetSpanId())
				}
				c.spans = append(c.spans, one)
			}
		}
	}
}

func shownOf(attributes []*commonpb.KeyValue) string {
	var b strings.Builder
	for _, a := range attributes {
		fmt.Fprintf(&b, "%s=%v ", a.GetKey(), a.GetValue())
	}
	return b.String()
}

// follow goes from one span to the next: to a child called name, or to one that is linked to it.
func (c *collector) follow(from told, name string) (told, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.name == name && (from.id == "" || s.parent == from.id || s.link == from.id) {
			return s, true
		}
	}
	return told{}, false
}

func (c *collector) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, s := range c.spans {
		fmt.Fprintf(&b, "%s %s %q parent %s link %s\n", s.trace[:8], s.id, s.name, s.parent, s.link)
	}
	return b.String()
}

// TestTraceFromIntakeToAction sends one event through two processes, and asks the collector for its way. A job's span is linked to the one that
// added it, and no child of it: a job may wait for hours.
func TestTraceFromIntakeToAction(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, provider.Close()) })
	target, err := scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, target.Close()) })
	callbackURL, err := target.Listen("127.0.0.1:0")
	require.NoError(t, err)
	traces := &collector{}
	otlp := httptest.NewServer(traces)
	t.Cleanup(otlp.Close)

	e := onLoopback(b.URL)
	e["SLUICE_SCRIPTED_URL"], e["OTEL_EXPORTER_OTLP_ENDPOINT"] = provider.URL(), otlp.URL
	serve, work := begin(t, e, "serve"), begin(t, e, "work")
	api := "http://" + serve.said(t, servingLine)
	_, operator, _ := sluice(t, env{"DATABASE_URL": b.URL}, "operator-key")
	made := func(path, key string, body map[string]any) map[string]any {
		t.Helper()
		status, text := ask(t, http.MethodPost, api+path, key, body)
		require.Equal(t, http.StatusCreated, status, text)
		var got map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &got))
		return got
	}
	const canary = "c4n4ryc4n4ry"
	key := made("/v1/tenants", strings.TrimSpace(operator), map[string]any{"name": "acme"})["key"].(map[string]any)["secret"].(string)
	credential := made("/v1/credentials", key, map[string]any{"name": "callback", "kind": "callback"})
	endpoint := made("/v1/endpoints", key, map[string]any{"name": "hub", "source": "github", "secret": canary})
	made("/v1/automations", key, map[string]any{
		"name": "triage", "endpoint_id": endpoint["id"], "model": "scripted/echo-1", "mode": "live", "max_output_tokens": 200,
		"prompt": map[string]any{"system": "You triage. " + canary, "user": "{{ payload.issue.title }} " + canary},
		"action": map[string]any{"kind": "callback", "url": callbackURL + "/hook?" + canary, "credential_id": credential["id"]},
	})
	hook := strings.Replace(endpoint["url"].(string), "http://hooks.example.com", api, 1)
	code, out, problem := sluice(t, env{}, "send", "github", "issues.opened", "--url", hook, "--secret", canary)
	require.Zero(t, code, out+problem)

	way := func(names ...string) told {
		t.Helper()
		var at told
		require.Eventually(t, func() bool {
			at = told{}
			for _, name := range names {
				next, there := traces.follow(at, name)
				if !there {
					return false
				}
				at = next
			}
			return true
		}, within, 50*time.Millisecond, "%s\n%s", traces, work.log)
		return at
	}
	asked := way("POST /in/{token}", "river.insert_many", "river.work/run", "chat echo-1")
	require.Contains(t, asked.attributes, "gen_ai.usage.input_tokens")
	way("POST /in/{token}", "river.insert_many", "river.work/run", "chat echo-1", "POST")
	way("POST /in/{token}", "river.insert_many", "river.work/run", "river.insert_many", "river.work/action", "POST")

	require.NoError(t, serve.end(t), serve.log)
	require.NoError(t, work.end(t), work.log)
	token := strings.TrimPrefix(endpoint["url"].(string), "http://hooks.example.com/in/")
	for _, hidden := range []string{canary, token, key, strings.TrimSpace(operator), callbackURL + "/hook"} {
		traces.mu.Lock()
		require.NotContains(t, traces.raw.String(), hidden, "no payload and no secret in traces and metrics")
		traces.mu.Unlock()
		require.NotContains(t, serve.log.String(), hidden)
		require.NotContains(t, work.log.String(), hidden)
	}
}
