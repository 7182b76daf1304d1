package llm_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"sluice/jobs/llm"
	"sluice/scripted"
)

// observed is a client on a scripted provider, whose spans and metrics can be looked at.
func observed(t *testing.T) (*llm.Client, *tracetest.SpanRecorder, func() map[string]metricdata.Aggregation) {
	t.Helper()
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, provider.Close()) })
	door := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(door.CloseIdleConnections)
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	client := llm.New(llm.Config{
		Providers:      []llm.Provider{llm.NewScripted(llm.ProviderConfig{HTTP: door, BaseURL: provider.URL(), Now: time.Now})},
		Timeout:        time.Minute,
		Now:            time.Now,
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	})
	return client, spans, func() map[string]metricdata.Aggregation {
		var got metricdata.ResourceMetrics
		require.NoError(t, reader.Collect(t.Context(), &got))
		all := map[string]metricdata.Aggregation{}
		for _, scope := range got.ScopeMetrics {
			for _, m := range scope.Metrics {
				all[m.Name] = m.Data
			}
		}
		return all
	}
}

// lastSpan is the span that ended last.
func lastSpan(t *testing.T, spans *tracetest.SpanRecorder) (sdktrace.ReadOnlySpan, map[string]any) {
	t.Helper()
	ended := spans.Ended()
	require.NotEmpty(t, ended)
	last := ended[len(ended)-1]
	attributes := map[string]any{}
	for _, a := range last.Attributes() {
		attributes[string(a.Key)] = a.Value.AsInterface()
	}
	return last, attributes
}

func TestSpanOfACall(t *testing.T) {
	t.Parallel()
	client, spans, metrics := observed(t)
	r := request("cached-1")
	r.Schema = testSchema
	reply, err := client.Complete(t.Context(), "scripted", "operator", r)
	require.NoError(t, err)

	span, attributes := lastSpan(t, spans)
	require.Equal(t, "chat cached-1", span.Name())
	require.Equal(t, trace.SpanKindClient, span.SpanKind())
	u := reply.Usage
	require.Positive(t, u.InputCacheRead+u.InputCacheWrite5m, "the model was chosen for its use of a cache")
	want := map[string]any{
		"gen_ai.operation.name": "chat", "gen_ai.provider.name": "scripted", "gen_ai.output.type": "json",
		"gen_ai.request.model": "cached-1", "gen_ai.request.max_tokens": int64(200), "gen_ai.request.stream": true,
		"gen_ai.response.time_to_first_chunk": reply.FirstToken.Seconds(),
		"gen_ai.response.model":               "cached-1", "gen_ai.response.id": reply.ResponseID, "gen_ai.response.finish_reasons": []string{"stop"},
		"gen_ai.usage.input_tokens": u.InputTotal(), "gen_ai.usage.output_tokens": u.OutputTotal(),
	}
	for key, n := range map[string]int64{
		"gen_ai.usage.cache_read.input_tokens":  u.InputCacheRead,
		"gen_ai.usage.cache_write.input_tokens": u.InputCacheWrite5m + u.InputCacheWrite1h,
		"gen_ai.usage.reasoning.output_tokens":  u.OutputReasoning,
	} {
		if n > 0 {
			want[key] = n
		}
	}
	require.Equal(t, want, attributes)

	got := metrics()
	labels := attribute.NewSet(
		attribute.String("gen_ai.operation.name", "chat"), attribute.String("gen_ai.provider.name", "scripted"),
		attribute.String("gen_ai.request.model", "cached-1"), attribute.String("gen_ai.response.model", "cached-1"))
	duration, ok := got["gen_ai.client.operation.duration"].(metricdata.Histogram[float64])
	require.True(t, ok)
	require.Len(t, duration.DataPoints, 1)
	require.Equal(t, labels, duration.DataPoints[0].Attributes, "no tenant, no id")
	require.Len(t, duration.DataPoints[0].Bounds, 14)
	first, ok := got["gen_ai.client.operation.time_to_first_chunk"].(metricdata.Histogram[float64])
	require.True(t, ok)
	require.Len(t, first.DataPoints, 1)
	require.Equal(t, labels, first.DataPoints[0].Attributes)
	for name, n := range map[string]int64{
		"gen_ai.client.inference.usage.input_tokens":  u.InputTotal(),
		"gen_ai.client.inference.usage.output_tokens": u.OutputTotal(),
	} {
		sum, ok := got[name].(metricdata.Sum[int64])
		require.True(t, ok, name)
		require.Len(t, sum.DataPoints, 1)
		require.Equal(t, n, sum.DataPoints[0].Value)
		modality, _ := sum.DataPoints[0].Attributes.Value("gen_ai.token.modality")
		require.Equal(t, "text", modality.AsString())
	}
}

func TestSpanHoldsTheHTTPSpan(t *testing.T) {
	t.Parallel()
	client, spans, _ := observed(t)
	var inside trace.SpanContext
	r := request("echo-1")
	r.Sending = func(ctx context.Context) error {
		inside = trace.SpanContextFromContext(ctx)
		return nil
	}
	_, err := client.Complete(t.Context(), "scripted", "operator", r)
	require.NoError(t, err)
	span, _ := lastSpan(t, spans)
	require.Equal(t, span.SpanContext().SpanID(), inside.SpanID())
}

func TestSpanOfAFailure(t *testing.T) {
	t.Parallel()
	client, spans, metrics := observed(t)
	_, err := client.Complete(t.Context(), "scripted", "operator", request("overloaded-1"))
	require.Equal(t, llm.KindOverloaded, ended(t, err).Kind)
	span, attributes := lastSpan(t, spans)
	require.Equal(t, codes.Error, span.Status().Code)
	require.Equal(t, "overloaded", span.Status().Description)
	require.Equal(t, "overloaded", attributes["error.type"])
	require.EqualValues(t, 529, attributes["http.response.status_code"])
	require.Empty(t, span.Events(), "an event would hold the provider's words")

	abort := errors.New("the lease is lost")
	r := request("echo-1")
	r.Sending = func(context.Context) error { return abort }
	_, err = client.Complete(t.Context(), "scripted", "operator", r)
	require.ErrorIs(t, err, abort)
	_, attributes = lastSpan(t, spans)
	require.Equal(t, "_OTHER", attributes["error.type"])

	duration, ok := metrics()["gen_ai.client.operation.duration"].(metricdata.Histogram[float64])
	require.True(t, ok)
	require.Len(t, duration.DataPoints, 1, "what was not sent was not measured")
	kind, _ := duration.DataPoints[0].Attributes.Value("error.type")
	require.Equal(t, "overloaded", kind.AsString())
}

func TestSpansHoldNoContent(t *testing.T) {
	t.Parallel()
	client, spans, metrics := observed(t)
	const canary = "c4n4ry"
	for _, model := range []string{"echo-1", "chat-echo-1", "error-1", "unauthorized-1", "garbage-1"} {
		r := request(model)
		r.System, r.User, r.RequestID = "system "+canary, "user "+canary, "req-"+canary
		_, _ = client.Complete(t.Context(), "scripted", "owner-"+canary, r)
	}
	require.Len(t, spans.Ended(), 5)
	for _, span := range spans.Ended() {
		shown := fmt.Sprint(span.Name(), span.Attributes(), span.Events(), span.Status())
		require.NotContains(t, shown, canary)
		require.NotContains(t, shown, testKey)
	}
	require.NotContains(t, fmt.Sprintf("%+v", metrics()), canary)
}
