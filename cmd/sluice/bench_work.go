package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

type benchWork struct {
	Runs    int `default:"10000" help:"How many runs are worked for each figure."`
	Jobs    int `default:"20000" help:"How many bare River jobs are the yardstick."`
	Workers int `default:"200" help:"Workers of each."`
}

// bareArgs is River's job that does nothing.
type bareArgs struct{}

// Kind is River's name of the job.
func (bareArgs) Kind() string { return "bare_noop" }

type bareWorker struct{ river.WorkerDefaults[bareArgs] }

// Work does nothing.
func (bareWorker) Work(context.Context, *river.Job[bareArgs]) error { return nil }

const bareCooldown = 20 * time.Millisecond

// Run measures and prints.
func (b benchWork) Run(ctx context.Context, std streams, lookup environment) error {
	out := std.out
	h, err := newBenchHouse(ctx, lookup)
	if err != nil {
		return err
	}
	defer h.close()
	h.machine(out, "work")
	bare, err := b.bareRiver(ctx, h)
	if err != nil {
		return fmt.Errorf("%w: bare River: %w", errBench, err)
	}
	fmt.Fprintf(out, "%-30s %7s %8s %6s | %8s %8s %9s | %9s %9s\n", "", "", "per s", "ratio", "WAL B", "rows", "commits", "Postgres", "Go")
	bare.line(out, "bare River, no-op jobs", bare)
	for _, posts := range []bool{false, true} {
		name := "runs that keep their outcome"
		if posts {
			name = "runs that post a callback too"
		}
		ours, err := b.runs(ctx, h, posts)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", errBench, name, err)
		}
		ours.line(out, name, bare)
	}
	return nil
}

// workFigure is how fast something was worked, and what that took.
type workFigure struct {
	rate

	spent spent
}

// line prints a figure beside the yardstick. Go is this process: the worker, the model and the target that it asks.
func (f workFigure) line(out io.Writer, name string, bare workFigure) {
	n := int64(f.done)
	fmt.Fprintf(out, "%-30s %7d %8.0f %6.2f | %8d %8.1f %9.3f | %9s %9s\n", name, f.done, f.perSecond(), f.perSecond()/bare.perSecond(), f.spent.wal/n,
		float64(f.spent.versions)/float64(n), float64(f.spent.commits)/float64(n), f.spent.perEvent(f.spent.postgres, f.done), f.spent.perEvent(f.spent.door, f.done))
}

// metered reads what work took, and by the database's clock how long: from its start to the end of the last.
func metered(ctx context.Context, h *benchHouse, pool *pgxpool.Pool, n int, start func() error, open, last string) (f workFigure, err error) {
	meter, err := newBenchMeter(ctx, h)
	if err != nil {
		return f, err
	}
	defer meter.close()
	before, err := meter.read(ctx, nil)
	if err != nil {
		return f, err
	}
	var began time.Time
	if err := pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&began); err != nil {
		return f, err
	}
	if err := start(); err != nil {
		return f, err
	}
	if err := untilNone(ctx, pool, open); err != nil {
		return f, err
	}
	var ended time.Time
	if err := pool.QueryRow(ctx, last).Scan(&ended); err != nil {
		return f, err
	}
	after, err := meter.read(ctx, nil)
	return workFigure{rate: rate{done: n, elapsed: ended.Sub(began)}, spent: after.since(before)}, err
}

// bareRiver works no-op jobs with the settings that our workers have.
func (b benchWork) bareRiver(ctx context.Context, h *benchHouse) (workFigure, error) {
	pool, err := db.Open(ctx, db.PoolConfig{URL: h.url, Role: db.WorkerRole, ConnsMax: 16, PlanCacheMode: "force_custom_plan"})
	if err != nil {
		return workFigure{}, err
	}
	defer pool.Close()
	workers := river.NewWorkers()
	river.AddWorker(workers, &bareWorker{})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: db.RiverSchema, Workers: workers, Logger: quiet(), FetchCooldown: bareCooldown, FetchPollInterval: bareCooldown,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: b.Workers}},
	})
	if err != nil {
		return workFigure{}, err
	}
	params := make([]river.InsertManyParams, b.Jobs)
	for i := range params {
		params[i].Args = bareArgs{}
	}
	if _, err := client.InsertManyFast(ctx, params); err != nil {
		return workFigure{}, err
	}
	defer func() { _ = client.Stop(ctx) }()
	return metered(ctx, h, pool, b.Jobs, func() error { return client.Start(ctx) },
		`select count(*) from (select from river.river_job where kind = 'bare_noop' and state <> 'completed' limit 1) open`,
		`select max(finalized_at) from river.river_job where kind = 'bare_noop'`)
}

// untilNone waits until a count is 0.
func untilNone(ctx context.Context, pool *pgxpool.Pool, sql string) error {
	const every, most = 500 * time.Millisecond, 8 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		var left int
		if err := pool.QueryRow(ctx, sql).Scan(&left); err != nil || left == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d were left: %w", left, ctx.Err())
		case <-time.After(every):
		}
	}
}

// runs works runs of one tenant against a model that answers at once.
func (b benchWork) runs(ctx context.Context, h *benchHouse, posts bool) (workFigure, error) {
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	if err != nil {
		return workFigure{}, err
	}
	defer func() { _ = provider.Close() }()
	target, err := scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	if err != nil {
		return workFigure{}, err
	}
	defer func() { _ = target.Close() }()
	targetURL, err := target.Listen("127.0.0.1:0")
	if err != nil {
		return workFigure{}, err
	}
	database, closeDB, err := h.open(ctx, db.WorkerRole, 32, "force_generic_plan")
	if err != nil {
		return workFigure{}, err
	}
	defer closeDB()
	act := func(callback string) map[string]any {
		if posts {
			return map[string]any{"kind": "callback", "url": targetURL, "credential_id": callback}
		}
		return map[string]any{"kind": "none"}
	}
	automation, err := h.furnish(ctx, database, act, "live")
	if err != nil {
		return workFigure{}, err
	}
	if err := h.plant(ctx, database, automation, b.Runs); err != nil {
		return workFigure{}, err
	}
	worker, closeWorker, err := b.worker(ctx, h, database, provider)
	if err != nil {
		return workFigure{}, err
	}
	defer closeWorker()
	owner, err := pgxpool.New(ctx, h.url)
	if err != nil {
		return workFigure{}, err
	}
	defer owner.Close()
	// What a worker does every few seconds: the tables were filled in one go a moment ago.
	if _, err := owner.Exec(ctx, `select sluice.analyze_young()`); err != nil {
		return workFigure{}, err
	}
	defer func() { _ = worker.Stop(ctx) }()
	r, err := metered(ctx, h, owner, b.Runs, func() error { return worker.Start(ctx) },
		`select count(*) from (select from sluice.runs where finished_at is null limit 1) open`, `select max(finished_at) from sluice.runs`)
	if err != nil {
		return r, err
	}
	var dead int
	if err := owner.QueryRow(ctx, `select count(*) from sluice.runs where status <> 'done'`).Scan(&dead); err != nil || dead > 0 {
		return r, fmt.Errorf("%d runs did not end as done: %w", dead, err)
	}
	return r, nil
}

func (b benchWork) worker(ctx context.Context, h *benchHouse, database *db.DB, provider *scripted.Provider) (*jobs.Worker, func(), error) {
	pool, err := db.Open(ctx, db.PoolConfig{URL: h.url, Role: db.WorkerRole, ConnsMax: 16, PlanCacheMode: "force_custom_plan"})
	if err != nil {
		return nil, nil, err
	}
	door := outbound.New(outbound.Config{AllowLoopback: true})
	const lease, sweep, timeout = 30 * time.Second, 5 * time.Second, time.Minute
	worker, err := jobs.NewWorker(jobs.Deps{
		DB: database, River: pool, Door: door, Actions: action.New(door), Log: quiet(), Now: time.Now,
		ProviderKeys: map[string]tenants.Secret{"scripted": tenants.NewSecret("scripted-bench-key")},
		Models: llm.New(llm.Config{
			Providers: []llm.Provider{llm.NewScripted(llm.ProviderConfig{HTTP: door.Operator(timeout), BaseURL: provider.URL(), Now: time.Now})},
			Timeout:   timeout, Now: time.Now,
		}),
		Lease: lease, SweepEvery: sweep, PayloadRetention: benchRetention, ModelTimeout: timeout, ActionTimeout: timeout, RunWorkers: b.Workers, ActionWorkers: b.Workers,
		ShutdownTimeout: lease,
	})
	return worker, pool.Close, err
}

// benchRetention outlasts every bench.
const benchRetention = 30 * 24 * time.Hour

// guest is a tenant of the bench, with an endpoint and an automation.
type guest struct{ tenant, endpoint, automation uuid.UUID }

// plant keeps events of a tenant with a run and a job each, as the intake does, many to a transaction.
func (h *benchHouse) plant(ctx context.Context, d *db.DB, automation uuid.UUID, n int) error {
	return plantFor(ctx, d, guest{h.tenant, h.endpoint, automation}, n, false)
}

// plantBatch is how many events one commit of a flood holds.
const plantBatch = 200

// plantFor keeps events of g. fifo gives every job the first place, as if nobody had a share: first come, first served.
func plantFor(ctx context.Context, d *db.DB, g guest, n int, fifo bool) error {
	poster, err := jobs.NewPoster(quiet())
	if err != nil {
		return err
	}
	for begin := 0; begin < n; begin += plantBatch {
		err := d.Door(ctx, func(tx db.DoorTx) error {
			var deliveries []*db.Delivery
			for range min(plantBatch, n-begin) {
				id := tenants.NewID()
				deliveries = append(deliveries, &db.Delivery{
					TenantID: g.tenant, EndpointID: g.endpoint, Source: "standard", Headers: json.RawMessage(`{}`), Body: payload(id.String()), BodySHA256: id[:],
					Events: []db.EventNew{{
						ID: id, SourceEventID: id.String(), Type: "contact.created", Verdicts: json.RawMessage(`[]`),
						Runs: []db.RunNew{{
							ID: tenants.NewID(), AutomationID: g.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone,
						}},
					}},
				})
			}
			admitted, err := tx.Admit(ctx, deliveries)
			if err != nil {
				return err
			}
			var posted []jobs.RunArgs
			for i, delivery := range deliveries {
				job := jobs.RunArgs{TenantID: g.tenant, RunID: delivery.Events[0].Runs[0].ID, Posted: time.Now()}
				if !fifo {
					job.Lag = admitted[i][0].Places[0].Lag
				}
				posted = append(posted, job)
			}
			return poster.PostRuns(ctx, tx.Pgx(), posted)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
