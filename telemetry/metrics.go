package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
)

const (
	// seriesMax bounds the label combinations of one instrument; what is over is counted under otel_metric_overflow.
	seriesMax = 2000
	// scrapesMax bounds the scrapes that are answered at once.
	scrapesMax = 4
)

// secondsBuckets are for histograms in seconds whose maker named no buckets: the SDK's own are meant for milliseconds.
var secondsBuckets = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120}

// withoutBuckets are instruments of libraries that name no buckets of their own.
var withoutBuckets = []string{
	"messaging.client.operation.duration", "messaging.process.duration",
	"river.insert_many_duration_histogram", "river.job_get_available_duration", "river.work_duration_histogram",
}

// unbounded are attributes that are never labels: there is a value for each tenant, event or request, or a stranger chooses it, as
// server.address, which otelhttp takes from the Host header.
var unbounded = []attribute.Key{
	"client.address", "event_id", "job_id", "run_id", "server.address", "server.port", "tenant.id", "tenant_id", "url.full", "url.path",
	"url.query", "user_agent.original",
}

func metersTo(ctx context.Context, c Config, about *resource.Resource, registry *prometheus.Registry) (*sdkmetric.MeterProvider, error) {
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("make the exporter for Prometheus: %w", err)
	}
	options := []sdkmetric.Option{
		sdkmetric.WithResource(about), sdkmetric.WithReader(scraped), sdkmetric.WithView(view), sdkmetric.WithCardinalityLimit(seriesMax),
	}
	if c.OTLPEndpoint != "" {
		address, err := signalURL(c.OTLPEndpoint, "v1/metrics")
		if err != nil {
			return nil, err
		}
		exporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(address), otlpmetrichttp.WithTimeout(exportTimeout))
		if err != nil {
			return nil, fmt.Errorf("make the exporter of metrics: %w", err)
		}
		options = append(options, sdkmetric.WithReader(
			sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(metricsInterval), sdkmetric.WithTimeout(exportTimeout))))
	}
	return sdkmetric.NewMeterProvider(options...), nil
}

// view is one view for all instruments, since two that match one instrument would make two streams of it.
func view(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	s := sdkmetric.Stream{
		Name: i.Name, Description: i.Description, Unit: i.Unit, AttributeFilter: attribute.NewDenyKeysFilter(unbounded...),
	}
	if i.Kind == sdkmetric.InstrumentKindHistogram && slices.Contains(withoutBuckets, i.Name) {
		s.Aggregation = sdkmetric.AggregationExplicitBucketHistogram{Boundaries: secondsBuckets}
	}
	return s, true
}

func metricsHandler(registry *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapesMax,
		// A metric that cannot be gathered must not take the others with it.
		ErrorHandling: promhttp.ContinueOnError,
		Registry:      registry,
	})
}
