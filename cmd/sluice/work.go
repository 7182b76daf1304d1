package main

import (
	"context"
	"fmt"
	"time"

	"sluice/db"
	"sluice/jobs"
	"sluice/proof"
	"sluice/telemetry"
	"sluice/tenants"
)

// The plans that Postgres should make, as db.PoolConfig says.
const (
	workPlans  = "force_generic_plan"
	riverPlans = "force_custom_plan"
)

// scriptedKey is what the scripted provider is shown; it takes any key.
const scriptedKey = "scripted-provider-key"

// missedPause is the time between two requests that change something, as GitHub wants it (docs.github.com/en/rest/using-the-rest-api/
// best-practices-for-using-the-rest-api).
const missedPause = time.Second

// workCommand is the work on what was taken in.
type workCommand struct{}

// Run works until it is told to end.
func (workCommand) Run(ctx context.Context, c *Config, std streams) error {
	return untilSignal(ctx, *c, std, func(ctx context.Context, told *telemetry.Telemetry) (part, error) {
		return startWork(ctx, *c, told)
	})
}

// working is a running worker.
type working struct {
	*stack
	worker *jobs.Worker
	failed chan error
}

// startWork opens the pools and begins to work. An error leaves nothing behind.
func startWork(ctx context.Context, c Config, told *telemetry.Telemetry) (_ *working, err error) {
	log := told.Logger()
	base, err := newStack(ctx, c, db.WorkerRole, workPlans)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			base.close()
		}
	}()
	river, err := base.open(ctx, c, db.WorkerRole, riverPlans)
	if err != nil {
		return nil, err
	}
	keys := map[string]tenants.Secret{}
	for provider, key := range map[string]tenants.Secret{"anthropic": c.AnthropicAPIKey, "openai": c.OpenAIAPIKey} {
		if !key.Empty() {
			keys[provider] = key
		}
	}
	if c.ScriptedURL != "" {
		keys["scripted"] = tenants.NewSecret(scriptedKey)
	}
	missed, err := jobs.NewMissed(jobs.MissedConfig{DB: base.db, Door: base.door, Log: log, Now: proof.Now, Every: c.MissedEvery, Pause: missedPause})
	if err != nil {
		return nil, err
	}
	mail, err := mailerOf(c, base.door)
	if err != nil {
		return nil, err
	}
	worker, err := jobs.NewWorker(jobs.Deps{
		DB: base.db, River: river, Models: modelsOf(c, base.door, jobs.PauseTeller(base.db, log)), ProviderKeys: keys, Mail: mail, Door: base.door, Actions: base.actions, Missed: missed, Log: log, Now: proof.Now,
		Lease: c.Lease, SweepEvery: c.SweepEvery, PayloadRetention: c.PayloadRetention, ModelTimeout: c.ModelTimeout, ActionTimeout: c.ActionTimeout,
		RunWorkers: c.RunWorkers, ActionWorkers: c.ActionWorkers, ShutdownTimeout: c.ShutdownTimeout,
	})
	if err != nil {
		return nil, err
	}
	if err := worker.Start(ctx); err != nil {
		return nil, fmt.Errorf("start to work: %w", err)
	}
	log.InfoContext(ctx, "working", "run_workers", c.RunWorkers, "action_workers", c.ActionWorkers)
	return &working{stack: base, worker: worker, failed: make(chan error)}, nil
}

// Addr is empty: a worker listens on nothing of its own.
func (*working) Addr() string { return "" }

// Failed never tells: a worker whose database is away waits for it.
func (w *working) Failed() <-chan error { return w.failed }

// Ready is whether the worker can work.
func (w *working) Ready() *readiness { return w.stack.ready }

// Stop takes no more jobs, and lets those at hand end before ctx does; what does not end is given back by its lease.
func (w *working) Stop(ctx context.Context) error {
	w.ready.drain()
	err := w.worker.Stop(ctx)
	w.close()
	if err != nil {
		return fmt.Errorf("some jobs were cut off: %w", err)
	}
	return nil
}
