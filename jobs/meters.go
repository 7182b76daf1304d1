package jobs

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sluice/db"
)

// meters are the numbers of the work. No tenant is a label: there may be any number of them.
type meters struct {
	ended    metric.Int64Counter
	latency  metric.Float64Histogram
	actions  metric.Int64Counter
	stranded metric.Int64Counter
	backlog  atomic.Pointer[[]db.Backlog]
}

func newMeters() (*meters, error) {
	m := &meters{}
	meter := otel.Meter("sluice/jobs")
	var faults [6]error
	m.ended, faults[0] = meter.Int64Counter("sluice.runs", metric.WithDescription("Steps of runs by status and reason."))
	m.latency, faults[1] = meter.Float64Histogram("sluice.run.latency", metric.WithUnit("s"),
		metric.WithDescription("From the receipt of an event to the end of its run."),
		metric.WithExplicitBucketBoundaries(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600))
	m.actions, faults[2] = meter.Int64Counter("sluice.actions", metric.WithDescription("Tries at effects by kind, state and reason."))
	m.stranded, faults[3] = meter.Int64Counter("sluice.stranded", metric.WithDescription("Runs and actions that nobody worked on, given another job."))
	var runs, oldest metric.Observable
	gauge, err := meter.Int64ObservableGauge("sluice.backlog", metric.WithDescription("Runs that have not ended, by status."))
	faults[4], runs = err, gauge
	age, err := meter.Float64ObservableGauge("sluice.backlog.age", metric.WithUnit("s"), metric.WithDescription("How long the oldest of them has not moved."))
	faults[5], oldest = err, age
	if err := errors.Join(faults[:]...); err != nil {
		return nil, err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		if rows := m.backlog.Load(); rows != nil {
			for _, r := range *rows {
				status := metric.WithAttributes(attribute.String("status", string(r.Status)))
				o.ObserveInt64(gauge, r.Runs, status)
				o.ObserveFloat64(age, r.OldestSeconds, status)
			}
		}
		return nil
	}, runs, oldest)
	return m, err
}

func (m *meters) setBacklog(rows []db.Backlog) { m.backlog.Store(&rows) }

func (m *meters) step(ctx context.Context, status db.RunStatus, reason string) {
	m.ended.Add(ctx, 1, metric.WithAttributes(attribute.String("status", string(status)), attribute.String("reason", reason)))
}

func (m *meters) action(ctx context.Context, kind, state, reason string) {
	m.actions.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", kind), attribute.String("state", state), attribute.String("reason", reason)))
}
