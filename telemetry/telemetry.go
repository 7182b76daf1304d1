// Package telemetry tells what a process does: traces, metrics and logs, set up once at its start and flushed at its end. The other rooms
// speak to OpenTelemetry's own API and to slog, and know nothing of this package.
//
// What must not enter: what is measured (each room names its own), payloads and secrets (what looks like one is masked on the way out),
// any other room of the house, and reading the environment. OpenTelemetry's own libraries do read their OTEL_EXPORTER_OTLP_* and
// OTEL_RESOURCE_ATTRIBUTES.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// The limits of what telemetry may cost. A collector that is slow or gone costs spans, never time: a full queue drops.
const (
	batchMax        = 512
	batchWait       = 2 * time.Second
	exportTimeout   = 10 * time.Second
	metricsInterval = 30 * time.Second
	queueMax        = 4096
	shutdownTimeout = 5 * time.Second
	spanAttrBytes   = 1024 // of one attribute of a span
	faultsEvery     = time.Minute
)

// Config says what is told, and to whom.
type Config struct {
	// Service and Version name the process in traces and metrics.
	Service, Version string
	// OTLPEndpoint is the base URL of a collector that speaks OTLP over HTTP, such as http://collector:4318; "" sends nothing.
	OTLPEndpoint string
	// LogLevel is the lowest level that is written.
	LogLevel slog.Level
	// LogFormat is FormatJSON or FormatText; "" is FormatJSON.
	LogFormat string
	// LogOutput receives the log; required.
	LogOutput io.Writer
	// SampleRatio is the part of the traces begun here that is sent, 0 to 1. A trace begun elsewhere is sent if its caller says so.
	SampleRatio float64
}

// Telemetry is what a process tells of itself. It is safe for concurrent use.
type Telemetry struct {
	log      *slog.Logger
	lines    *sink
	registry *prometheus.Registry
	traces   *sdktrace.TracerProvider
	meters   *sdkmetric.MeterProvider
}

// Start sets OpenTelemetry's global providers and its propagator (W3C trace context), and makes the log. It connects to nothing before it
// returns.
func Start(ctx context.Context, c Config) (*Telemetry, error) {
	if c.LogOutput == nil {
		return nil, errNoOutput
	}
	// What was dropped is told past the queue, by the one who writes.
	past, err := NewLogger(c)
	if err != nil {
		return nil, err
	}
	lines := newSink(c.LogOutput)
	c.LogOutput = lines
	log, err := NewLogger(c)
	if err != nil {
		return nil, err
	}
	lines.told = func(n int64) { past.Warn("lines of the log were dropped: nobody took them in time", "lines", n) }
	go lines.write()
	if !(c.SampleRatio >= 0 && c.SampleRatio <= 1) {
		return nil, fmt.Errorf("sample ratio %v: expected 0 to 1", c.SampleRatio)
	}
	t := &Telemetry{log: log, lines: lines, registry: prometheus.NewRegistry()}
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", c.Service),
		attribute.String("service.version", c.Version),
		attribute.String("service.instance.id", uuid.NewString()),
	))
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("describe the process: %w", err)
	}
	if t.traces, err = tracesTo(ctx, c, about); err != nil {
		return nil, err
	}
	if t.meters, err = metersTo(ctx, c, about, t.registry); err != nil {
		return nil, err
	}
	otel.SetErrorHandler(&faults{log: t.log})
	otel.SetTracerProvider(t.traces)
	otel.SetMeterProvider(t.meters)
	// Baggage is left out: a source could put anything into it, and it would travel on to others.
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return t, nil
}

// Logger is the log, as NewLogger makes it.
func (t *Telemetry) Logger() *slog.Logger { return t.log }

// MetricsHandler answers with the metrics in Prometheus's format.
func (t *Telemetry) MetricsHandler() http.Handler { return metricsHandler(t.registry) }

// Shutdown sends what is still in the queues, for 5 s at most. It is called last.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	var traces, meters error
	var both sync.WaitGroup
	both.Go(func() { traces = t.traces.Shutdown(ctx) })
	both.Go(func() { meters = t.meters.Shutdown(ctx) })
	both.Wait()
	t.lines.close(ctx)
	if err := errors.Join(traces, meters); err != nil {
		return fmt.Errorf("send the last traces and metrics: %w", err)
	}
	return nil
}

// tracesTo makes the spans. Without a collector none is recorded, but every request still has a trace id, for the log.
func tracesTo(ctx context.Context, c Config, about *resource.Resource) (*sdktrace.TracerProvider, error) {
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = spanAttrBytes
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(about), sdktrace.WithRawSpanLimits(limits)}
	if c.OTLPEndpoint == "" {
		return sdktrace.NewTracerProvider(append(options, sdktrace.WithSampler(sdktrace.NeverSample()))...), nil
	}
	address, err := signalURL(c.OTLPEndpoint, "v1/traces")
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(address), otlptracehttp.WithTimeout(exportTimeout))
	if err != nil {
		return nil, fmt.Errorf("make the exporter of traces: %w", err)
	}
	return sdktrace.NewTracerProvider(append(options,
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.SampleRatio))),
		sdktrace.WithBatcher(exporter,
			sdktrace.WithBatchTimeout(batchWait), sdktrace.WithExportTimeout(exportTimeout),
			sdktrace.WithMaxExportBatchSize(batchMax), sdktrace.WithMaxQueueSize(queueMax)),
	)...), nil
}

// signalURL appends a signal's path to the base, as the specification of OTEL_EXPORTER_OTLP_ENDPOINT has it.
func signalURL(base, signal string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", errors.New("OTLP endpoint: expected an http or https URL, such as http://collector:4318")
	}
	return u.JoinPath(signal).String(), nil
}

// faults logs what goes wrong in OpenTelemetry itself, once a minute at most: a dead collector must not fill the log.
type faults struct {
	log *slog.Logger

	mu     sync.Mutex
	last   time.Time
	missed int
}

// Handle is called by OpenTelemetry.
func (f *faults) Handle(err error) {
	f.mu.Lock()
	now := time.Now() //nolint:forbidigo // Its own pace, no time that is told to anybody.
	if now.Sub(f.last) < faultsEvery {
		f.missed++
		f.mu.Unlock()
		return
	}
	missed := f.missed
	f.last, f.missed = now, 0
	f.mu.Unlock()
	f.log.Warn("telemetry is not delivered", "error", err, "not_logged", missed)
}
