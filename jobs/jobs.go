// Package jobs is the work on what was taken in: River workers, a file per kind, that claim a run, call a model, keep the outcome, and make its
// effect once. outcome.go turns what went wrong into retry, wait or stop. No HTTP face and no SQL may enter it, and no transaction of it ever
// waits on the world: read, call, write are three steps.
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/riverqueue/rivercontrib/otelriver"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"sluice/db"
)

// The queues: a slow target must not take the places of model calls, and what is urgent and what is routine have workers of their own, so that
// neither starves the other.
const (
	runQueue    = "runs"
	urgentQueue = "runs_urgent"
	actionQueue = "actions"
)

// riverAttemptsMax is only a backstop: what counts as an attempt is decided in our tables, and every wait of ours is a snooze, which River does not
// count. What remains are panics and lost databases; the reconciler brings back what River gives up.
const riverAttemptsMax = 10

// RunArgs name a run. Args hold ids and nothing else: River's tables are not under row security.
type RunArgs struct {
	TenantID uuid.UUID `json:"tenant_id"`
	RunID    uuid.UUID `json:"run_id"`
	// Ordered says that the run has an order among others, and is claimed by itself.
	Ordered bool `json:"ordered,omitempty"`

	// NotBefore, if not zero, is when the job may begin.
	NotBefore time.Time `json:"-"`
	// Urgent puts the job into the queue of urgent runs.
	Urgent bool `json:"-"`
	// Lag is how far its tenant is ahead of its share: what decides who goes first.
	Lag time.Duration `json:"-"`
	// Posted is when the run was admitted; it goes with Lag.
	Posted time.Time `json:"-"`
	// Trace, if valid, is the trace of the run's event, where many are posted at once.
	Trace trace.SpanContext `json:"-"`
}

// Kind is River's name of the job.
func (RunArgs) Kind() string { return "run" }

// InsertOpts are the job's queue, its place in it, and when it may begin.
func (a RunArgs) InsertOpts() river.InsertOpts {
	opts := river.InsertOpts{Queue: runQueue, MaxAttempts: riverAttemptsMax, Priority: classOf(a.Lag), ScheduledAt: a.NotBefore}
	if a.Urgent {
		opts.Queue = urgentQueue
	}
	if opts.Priority == lastClass && a.NotBefore.IsZero() && !a.Posted.IsZero() {
		// Within the last class jobs are fetched in the order of their virtual times: a day is taken off so that none is in the future.
		opts.ScheduledAt = a.Posted.Add(a.Lag - tailBehind)
	}
	return opts
}

// The classes of a tenant's lag are River's priorities, 1 first (queue.md, e3): what is within its share goes first, and a flood sorts behind the
// single events of others. A retry keeps its job and its class.
const (
	lastClass  = 4
	tailBehind = 24 * time.Hour
)

// classBounds are the lags up to which a job is of class 1, 2 and 3.
var classBounds = [lastClass - 1]time.Duration{time.Second, 10 * time.Second, time.Minute}

func classOf(lag time.Duration) int {
	for i, bound := range classBounds {
		if lag <= bound {
			return i + 1
		}
	}
	return lastClass
}

// ActionArgs name an action.
type ActionArgs struct {
	TenantID uuid.UUID `json:"tenant_id"`
	ActionID uuid.UUID `json:"action_id"`
}

// Kind is River's name of the job.
func (ActionArgs) Kind() string { return "action" }

// InsertOpts are the job's queue.
func (ActionArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: actionQueue, MaxAttempts: riverAttemptsMax}
}

// Poster adds jobs, in the transaction that writes the rows they are about. It needs no more than to insert: it reads no job.
type Poster struct{ client *river.Client[pgx.Tx] }

// NewPoster makes a Poster. The trace of a run's event, else that of the caller, travels in the job's metadata.
func NewPoster(log *slog.Logger) (*Poster, error) {
	// Without a pool the driver can do nothing outside the transactions it is given.
	client, err := river.NewClient(riverpgxv5.New((*pgxpool.Pool)(nil)), &river.Config{
		Logger: log, Schema: db.RiverSchema, Plugins: []rivertype.Plugin{&due{}},
		// River notifies once in this time for a queue, however many jobs come: a notification takes a lock of the whole server at commit.
		FetchCooldown: fetchCooldown,
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client for adding jobs: %w", err)
	}
	return &Poster{client: client}, nil
}

// PostRuns adds a job for each run, in the caller's transaction.
func (p *Poster) PostRuns(ctx context.Context, tx pgx.Tx, runs []RunArgs) error {
	return post(ctx, p.client, tx, runs, func(r RunArgs) trace.SpanContext { return r.Trace })
}

// PostActions adds a job for each action, in the caller's transaction.
func (p *Poster) PostActions(ctx context.Context, tx pgx.Tx, actions []ActionArgs) error {
	return post(ctx, p.client, tx, actions, func(ActionArgs) trace.SpanContext { return trace.SpanContext{} })
}

// post uses COPY: it is the fastest, and the only way to add a job without the right to read jobs.
func post[T river.JobArgs](ctx context.Context, client *river.Client[pgx.Tx], tx pgx.Tx, all []T, traceOf func(T) trace.SpanContext) error {
	if len(all) == 0 {
		return nil
	}
	params := make([]river.InsertManyParams, len(all))
	for i, a := range all {
		span := traceOf(a)
		if !span.IsValid() {
			span = trace.SpanContextFromContext(ctx)
		}
		params[i] = river.InsertManyParams{Args: a, InsertOpts: &river.InsertOpts{Metadata: traceMetadata(span)}}
	}
	if _, err := client.InsertManyFastTx(ctx, tx, params); err != nil {
		return fmt.Errorf("add %d jobs of kind %s: %w", len(all), all[0].Kind(), err)
	}
	return nil
}

// due makes a job with a time of its own available at once: a fetch takes none before its time, and so finds it within a poll. River's own
// scheduler would look at it every 5 s only, and write it once more.
type due struct{ river.HookDefaults }

// InsertBegin changes the state that River chose.
func (*due) InsertBegin(_ context.Context, job *rivertype.JobInsertParams) error {
	if job.State == rivertype.JobStateScheduled {
		job.State = rivertype.JobStateAvailable
	}
	return nil
}

// HandOver lets the next run of an entity go on, and posts its job, where run is of serial order and has ended in the caller's transaction.
func (p *Poster) HandOver(ctx context.Context, tx db.TenantTx, run db.Run) error {
	if !run.Ordered(db.OrderSerial) {
		return nil
	}
	next, err := tx.RunHandOver(ctx, run)
	if errors.Is(err, db.ErrNotFound) {
		return nil
	} else if err != nil {
		return fmt.Errorf("hand over from run %s: %w", run.ID, err)
	}
	return p.PostRuns(ctx, tx.Pgx(), []RunArgs{{TenantID: tx.TenantID, RunID: next, Ordered: true}})
}

// traceMetadata is what continued reads; nil without a trace.
func traceMetadata(span trace.SpanContext) []byte {
	if !span.IsValid() {
		return nil
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), span), carrier)
	metadata, err := json.Marshal(carrier)
	if err != nil { // cannot be: texts always marshal
		return nil
	}
	return metadata
}

// tracing carries the trace of whoever added a job to whoever works it. otelriver only links the two; continued makes the work a child, so that
// an event has one trace from the door to the target.
func tracing() []rivertype.Plugin {
	return []rivertype.Plugin{
		&continued{},
		otelriver.NewMiddleware(&otelriver.MiddlewareConfig{EnableWorkSpanJobKindSuffix: true}),
	}
}

// continued puts a job's work into the trace that its metadata names.
type continued struct{ river.MiddlewareDefaults }

// Work continues the trace. Metadata that cannot be read begins a new one.
func (*continued) Work(ctx context.Context, job *rivertype.JobRow, next func(context.Context) error) error {
	var carrier propagation.MapCarrier
	var fields struct {
		Parent string `json:"traceparent"`
		State  string `json:"tracestate"`
	}
	if json.Unmarshal(job.Metadata, &fields) == nil {
		carrier = propagation.MapCarrier{"traceparent": fields.Parent, "tracestate": fields.State}
	}
	return next(propagation.TraceContext{}.Extract(ctx, carrier))
}
