package telemetry_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"

	"sluice/telemetry"
)

// The tests of this file set OpenTelemetry's global providers, so they are one test and run in order.
func TestGlobals(t *testing.T) { //nolint:paralleltest // See above.
	t.Run("MetricsInPrometheusFormat", metricsInPrometheusFormat)
	t.Run("TracesReachTheCollector", tracesReachTheCollector)
	t.Run("SilentCollectorSlowsNothing", silentCollectorSlowsNothing)
	t.Run("WithoutCollectorEveryRequestHasATraceID", withoutCollector)
}

func start(t *testing.T, c telemetry.Config) *telemetry.Telemetry {
	t.Helper()
	if c.LogOutput == nil {
		c.LogOutput = io.Discard
	}
	c.Service, c.Version = "sluice-test", "v9"
	told, err := telemetry.Start(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = told.Shutdown(context.WithoutCancel(t.Context())) })
	return told
}

func metricsInPrometheusFormat(t *testing.T) {
	told := start(t, telemetry.Config{})
	meter := otel.GetMeterProvider().Meter("test")
	counter, err := meter.Int64Counter("sluice.things")
	require.NoError(t, err)
	counter.Add(t.Context(), 2, metric.WithAttributes(attribute.String("kind", "a"), attribute.String("tenant_id", "tnt_1")))
	counter.Add(t.Context(), 3, metric.WithAttributes(attribute.String("kind", "a"), attribute.String("tenant_id", "tnt_2")))
	own, err := meter.Float64Histogram("own.duration", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(7, 8))
	require.NoError(t, err)
	own.Record(t.Context(), 7.5)
	river, err := meter.Float64Histogram("river.work_duration_histogram", metric.WithUnit("s"))
	require.NoError(t, err)
	river.Record(t.Context(), 0.003)

	recorder := httptest.NewRecorder()
	told.MetricsHandler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body := recorder.Body.String()
	require.Equal(t, http.StatusOK, recorder.Code)
	for _, line := range []string{
		`sluice_things_total{kind="a"} 5`, // tenants are no label
		`own_duration_seconds_bucket{le="8"} 1`,
		`river_work_duration_histogram_seconds_bucket{le="0.005"} 1`,
		`service_version="v9"`,
		"go_goroutines ",
		"process_open_fds ",
	} {
		require.Contains(t, body, line)
	}
	require.NotContains(t, body, "tnt_")
}

// collector answers as an OTLP collector does, and keeps what it got.
type collector struct {
	mu   sync.Mutex
	got  map[string][]byte
	seen chan string
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.got[r.URL.Path] = append(c.got[r.URL.Path], body...)
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
	select {
	case c.seen <- r.URL.Path:
	default:
	}
}

func tracesReachTheCollector(t *testing.T) {
	c := &collector{got: map[string][]byte{}, seen: make(chan string, 8)}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	told := start(t, telemetry.Config{OTLPEndpoint: server.URL + "/base/", SampleRatio: 1})
	_, span := otel.GetTracerProvider().Tracer("test").Start(t.Context(), "the work")
	span.SetAttributes(attribute.String("long", strings.Repeat("x", 5000)))
	span.End()
	require.NoError(t, told.Shutdown(t.Context()))
	c.mu.Lock()
	defer c.mu.Unlock()
	traces := string(c.got["/base/v1/traces"])
	require.Contains(t, traces, "the work")
	require.Contains(t, traces, "sluice-test")
	require.Equal(t, 1024, strings.Count(traces, "x")-strings.Count(strings.ReplaceAll(traces, strings.Repeat("x", 1024), ""), "x"))
	require.NotEmpty(t, c.got["/base/v1/metrics"])
}

// silentCollectorSlowsNothing has a collector that takes connections and never answers.
func silentCollectorSlowsNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	var log bytes.Buffer
	told := start(t, telemetry.Config{OTLPEndpoint: "http://" + listener.Addr().String(), SampleRatio: 1, LogOutput: &log})
	tracer := otel.GetTracerProvider().Tracer("test")
	// Several times the queue, with room for a slow machine, and far below one export's timeout.
	const spans, within = 20_000, 5 * time.Second
	began := time.Now()
	for range spans {
		_, span := tracer.Start(t.Context(), "work")
		span.End()
	}
	require.Less(t, time.Since(began), within)
	began = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Error(t, told.Shutdown(ctx), "what could not be sent is told")
	require.Less(t, time.Since(began), within)
}

func withoutCollector(t *testing.T) {
	start(t, telemetry.Config{SampleRatio: 1})
	ctx, span := otel.GetTracerProvider().Tracer("test").Start(t.Context(), "work")
	defer span.End()
	require.True(t, span.SpanContext().IsValid())
	require.False(t, span.IsRecording())
	header := propagation.MapCarrier{}
	otel.GetTextMapPropagator().Inject(ctx, header)
	require.Contains(t, header["traceparent"], span.SpanContext().TraceID().String())
}
