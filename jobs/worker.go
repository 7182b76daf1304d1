package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"sluice/db"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/tenants"
)

// Settings of River. A fetch takes what is free and waits fetchCooldown before the next, so workers/cooldown bounds the jobs of a second: 64
// workers at 20 ms are 3,200.
const (
	fetchCooldown = 20 * time.Millisecond
	// fetchPollInterval bounds how long a job waits whose notification was saved, or lost.
	fetchPollInterval = 200 * time.Millisecond
	// completedRetention is short: the outcome is in our tables.
	completedRetention = time.Hour
	// tenantSlotsOf and urgentWorkersOf are the parts of the workers that one tenant may have at once, and that urgent runs have to themselves.
	tenantSlotsOf   = 2
	urgentWorkersOf = 4
	// jobMargin is what a job may take beyond its call to the outside.
	jobMargin = time.Minute
)

// Deps is what a Worker works with.
type Deps struct {
	// DB works as sluice_worker.
	DB *db.DB
	// River is River's own pool: its fetch wants other plans than our statements.
	River *pgxpool.Pool
	// Models asks the providers.
	Models *llm.Client
	// ProviderKeys are the operator's own API keys, by provider, for tenants that brought none.
	ProviderKeys map[string]tenants.Secret
	// Door is the way to what automations fetch.
	Door *outbound.Door
	// Actions are the connectors.
	Actions *action.Set
	// Mail hands alerts to a mail server; nil where none is configured.
	Mail *Mailer
	// Missed asks sources for what never arrived; nil asks none.
	Missed *Missed
	Log    *slog.Logger
	Now    func() time.Time
	// Lease is how long a run belongs to a worker that does not report back; it reports at a third of it.
	Lease time.Duration
	// SweepEvery is how often runs that nobody works on are looked for.
	SweepEvery time.Duration
	// PayloadRetention is how long raw bodies are kept.
	PayloadRetention time.Duration
	// ModelTimeout bounds one call to a model, ActionTimeout one try at an effect.
	ModelTimeout, ActionTimeout time.Duration
	// ActionSettle is how long an effect whose fate is not known is left alone before its target is asked for it; 0 is 5 s.
	ActionSettle time.Duration
	// RunWorkers and ActionWorkers are how many of each this process works on at once.
	RunWorkers, ActionWorkers int
	// ShutdownTimeout is how long Stop lets what runs come to its end before it is cut off.
	ShutdownTimeout time.Duration
}

// Worker works runs and actions until it is stopped. Any number may work on one database.
type Worker struct {
	client  *river.Client[pgx.Tx]
	sweeper *sweeper
	// loops are what else goes on by itself, each until its context ends.
	loops []func(ctx context.Context)
	deps  Deps
	stop  context.CancelFunc
	swept chan struct{}
}

// NewWorker makes a Worker that does not work yet.
func NewWorker(d Deps) (*Worker, error) {
	if d.Lease <= 0 || d.SweepEvery <= 0 || d.PayloadRetention <= 0 || d.ModelTimeout <= 0 || d.ActionTimeout <= 0 || d.RunWorkers <= 0 || d.ActionWorkers <= 0 {
		return nil, errors.New("make a worker: lease, sweep, retention, timeouts and worker counts must be above 0")
	}
	if d.Door == nil {
		return nil, errors.New("make a worker: there is no door to fetch through")
	}
	poster, err := NewPoster(d.Log)
	if err != nil {
		return nil, err
	}
	m, err := newMeters()
	if err != nil {
		return nil, err
	}
	kinds := river.NewWorkers()
	runs := &runWorker{
		db: d.DB, models: d.Models, actions: d.Actions, poster: poster, log: d.Log, now: d.Now, meters: m,
		lease: d.Lease, timeout: d.ModelTimeout + jobMargin, compiled: NewCompiled(), door: d.Door,
		slots: newSlots[uuid.UUID](d.RunWorkers/tenantSlotsOf, slotPatience), prices: newPriceList(d.DB, d.Now), keyring: newKeyring(d.DB, d.ProviderKeys, d.Now),
	}
	runs.lanes.commit = runs.commit
	river.AddWorker(kinds, runs)
	acts := &actionWorker{
		db: d.DB, actions: d.Actions, poster: poster, log: d.Log, now: d.Now, meters: m, timeout: d.ActionTimeout, lease: d.ActionTimeout + d.Lease,
		secrets: newSecretCache(d.DB, d.Now), hosts: newHosts(d.ActionWorkers, d.Now),
		settle: orDefault(d.ActionSettle, actionSettle),
	}
	acts.lanes.commit = acts.commit
	river.AddWorker(kinds, acts)
	told, err := newNoticeWorker(d.DB, d.Actions, d.Mail, d.Log, d.Now)
	if err != nil {
		return nil, err
	}
	river.AddWorker(kinds, told)
	// Urgent runs have workers of their own, and leave the others theirs.
	urgent := max(d.RunWorkers/urgentWorkersOf, 1)
	jobTimeout := max(d.ModelTimeout, d.ActionTimeout) + jobMargin
	client, err := river.NewClient(riverpgxv5.New(d.River), &river.Config{
		Schema: db.RiverSchema, Logger: d.Log, Workers: kinds, Plugins: tracing(),
		Queues: map[string]river.QueueConfig{
			runQueue: {MaxWorkers: max(d.RunWorkers-urgent, 1)}, urgentQueue: {MaxWorkers: urgent}, actionQueue: {MaxWorkers: d.ActionWorkers},
			noticeQueue: {MaxWorkers: noticeWorkers},
		},
		FetchCooldown: fetchCooldown, FetchPollInterval: fetchPollInterval,
		// Migration 0003 dropped the two GIN indexes of River's list.
		ReindexerIndexNames: []string{"river_job_prioritized_fetching_index", "river_job_run", "river_job_action"},
		// Our leases and the sweeper bring a dead worker's runs back; River's rescue only tidies its own table, so it can wait.
		JobTimeout: jobTimeout, RescueStuckJobsAfter: 2*jobTimeout + jobMargin,
		CompletedJobRetentionPeriod: completedRetention, SoftStopTimeout: d.ShutdownTimeout, Test: riverTest(d.Now),
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	w := &Worker{
		client: client, deps: d, swept: make(chan struct{}),
		sweeper: &sweeper{db: d.DB, poster: poster, log: d.Log, grace: d.SweepEvery, meters: m, now: d.Now},
	}
	w.loops = w.others(poster)
	return w, nil
}

// others are the loops beside River's and the sweeper's.
func (w *Worker) others(poster *Poster) []func(context.Context) {
	d := w.deps
	gate := &gate{db: d.DB, poster: poster, log: d.Log, grace: d.SweepEvery, now: d.Now}
	keeper := &retention{db: d.DB, log: d.Log, age: d.PayloadRetention}
	told := &notices{db: d.DB, poster: poster, log: d.Log}
	shared := &providerSync{db: d.DB, models: d.Models, process: w.client.ID(), log: d.Log, now: d.Now}
	all := []func(context.Context){
		gate.loop, keeper.loop, told.loop, newWatcher(d.DB, d.Log, d.Now, watchEvery).loop,
		(&expiry{db: d.DB, reviewer: NewReviewer(d.Actions, poster, d.Now), log: d.Log}).loop, (&demoter{db: d.DB, log: d.Log}).loop,
		(&replayer{db: d.DB, poster: poster, compiled: NewCompiled(), log: d.Log, now: d.Now}).loop,
		func(ctx context.Context) { every(ctx, pausesEvery, shared.tick) },
		func(ctx context.Context) {
			every(ctx, usageEvery, func(ctx context.Context) {
				if _, err := d.DB.UsageRoll(ctx); err != nil && ctx.Err() == nil {
					d.Log.WarnContext(ctx, "the ledger is not summed up to now: it is tried again", "error", err)
				}
			})
		},
	}
	if d.Missed != nil {
		all = append(all, d.Missed.loop)
	}
	return all
}

// How often the loops look that do not say so themselves.
const (
	watchEvery  = 5 * time.Second
	pausesEvery = time.Second
	usageEvery  = time.Minute
)

// every does something again and again until ctx ends.
func every(ctx context.Context, pause time.Duration, do func(ctx context.Context)) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do(ctx)
		}
	}
}

// Start begins to work. ctx is for starting only; Stop ends the work.
func (w *Worker) Start(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	if err := w.client.Start(running); err != nil {
		stop()
		return fmt.Errorf("start River's client: %w", err)
	}
	go func() {
		defer close(w.swept)
		var loops sync.WaitGroup
		for _, loop := range w.loops {
			loops.Go(func() { loop(running) })
		}
		w.sweeper.loop(running, w.deps.SweepEvery)
		loops.Wait()
	}()
	return nil
}

// Stop takes no new jobs, lets the running ones end within the shutdown timeout, then cuts them off: a run that is cut off goes back to queued
// and spends no attempt.
func (w *Worker) Stop(ctx context.Context) error {
	defer w.stop()
	err := w.client.Stop(ctx)
	w.stop()
	<-w.swept
	if err != nil {
		return fmt.Errorf("stop River's client: %w", err)
	}
	return nil
}
