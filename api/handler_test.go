package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"sluice/api"
	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
)

// TestSpansNameTheRouteAndHideTheToken sets the process's tracer, so it runs by itself, before the parallel tests go on.
func TestSpansNameTheRouteAndHideTheToken(t *testing.T) { //nolint:paralleltest // the tracer is the process's
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(provider)
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	b := setup(t)
	of := b.tenant()
	made := b.endpoint(of)
	token := strings.TrimPrefix(made.text("url"), publicURL+"/in/")
	for _, path := range []string{"/in/" + token, "/in/" + token + "/", "/in/" + token + "?key=" + token, "/in//" + token} {
		b.call("", "POST", path, "x")
	}
	b.call(of.viewer, "GET", "/v1/events?entity=private-value", nil).is(200)
	event := b.call(of.viewer, "GET", "/v1/events/"+b.event(of, made.text("id")), nil).is(200)
	require.Len(t, event.text("trace_id"), 32, "an event knows its trace")
	var names []string
	for _, s := range spans.GetSpans() {
		names = append(names, s.Name)
		text := s.Name + fmt.Sprint(s.Attributes, s.Events, s.Status)
		require.NotContains(t, text, token)
		require.NotContains(t, text, "private-value")
	}
	require.Contains(t, names, "POST /in/{token}")
	require.Contains(t, names, "GET /v1/events/{id}")
	require.Contains(t, names, "POST unmatched")
}

// brokenAPI is an API whose check of models does as it is told.
func brokenAPI(t *testing.T, b *bundle, fault func() (string, error)) *bundle {
	t.Helper()
	poster, err := jobs.NewPoster(newLogger(b.log))
	require.NoError(t, err)
	a := api.New(api.Deps{
		DB: b.DB, Poster: poster, Actions: action.New(outbound.New(outbound.Config{})), PublicURL: publicURL, Log: newLogger(b.log), Now: time.Now,
		ModelFault: func(context.Context, db.TenantTx, string) (string, error) { return fault() },
		Ready:      func(context.Context) error { return errors.New("dial postgres://sluice:hunter2@db.internal:5432") },
	})
	server := httptest.NewServer(a.Handler())
	t.Cleanup(func() { server.Close(); a.Close(context.Background()) })
	return &bundle{Bundle: b.Bundle, t: t, api: a, url: server.URL, log: b.log, operator: b.operator}
}

func TestWhatGoesWrongInsideStaysInside(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	for name, fault := range map[string]func() (string, error){
		"an error": func() (string, error) { return "", errors.New("a detail of the inside") },
		"a panic":  func() (string, error) { panic("a detail of the inside") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := brokenAPI(t, b, fault)
			got := broken.call(of.editor, "POST", "/v1/automations", draft(endpoint)).refused(500, "internal")
			require.NotContains(t, string(got.body), "inside")
			require.Equal(t, "urn:uuid:"+got.header.Get("X-Request-Id"), got.text("instance"))
			require.Contains(t, b.log.String(), "a detail of the inside")
			require.Contains(t, b.log.String(), got.header.Get("X-Request-Id"))
			// The connection went back clean: nothing of the request stands, and the next one is served.
			require.Empty(t, broken.call(of.viewer, "GET", "/v1/automations", nil).is(200).rows())
		})
	}
	t.Run("not ready", func(t *testing.T) {
		t.Parallel()
		got := brokenAPI(t, b, nil).call("", "GET", "/readyz", nil).refused(503, "not_ready")
		require.NotContains(t, string(got.body), "hunter2")
	})
}

func TestAccessLogHasNoValuesOfTheQuery(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	b.call(of.viewer, "GET", "/v1/events?entity=private-value", nil).is(200)
	b.call(of.viewer, "GET", "/v1/private-path", nil).is(404)
	require.NotContains(t, b.log.String(), "private-")
	lines := strings.Split(strings.TrimSpace(b.log.String()), "\n")
	var last struct {
		Method, Route, RequestID string
		Status                   int
	}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	require.Equal(t, http.MethodGet, last.Method)
	require.Equal(t, "unmatched", last.Route)
	require.Equal(t, 404, last.Status)
}
