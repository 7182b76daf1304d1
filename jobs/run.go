package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"sluice/db"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/proof"
	"sluice/tenants"
)

// runWorker takes a run from its claim to its outcome: claim (a transaction), ask the model (none), conclude (a transaction).
type runWorker struct {
	river.WorkerDefaults[RunArgs]

	db       *db.DB
	models   *llm.Client
	actions  *action.Set
	poster   *Poster
	log      *slog.Logger
	now      func() time.Time
	meters   *meters
	lease    time.Duration
	timeout  time.Duration
	compiled *Compiled
	door     *outbound.Door
	slots    *slots[uuid.UUID]
	prices   *priceList
	keyring  *keyring

	// lanes are the tenants' commits: claims, reservations and ends of their runs share them.
	lanes lanes[wish, granted]
}

// Timeout bounds the whole job.
func (w *runWorker) Timeout(*river.Job[RunArgs]) time.Duration { return w.timeout }

// Work takes one run as far as it goes.
func (w *runWorker) Work(ctx context.Context, job *river.Job[RunArgs]) error {
	tenantID := job.Args.TenantID
	if !w.slots.take(ctx, tenantID) {
		if ctx.Err() != nil {
			return ctx.Err() // River gives the job to another
		}
		// Whoever of its tenant ends first wakes it.
		_, err := w.lanes.write(ctx, tenantID, wish{park: job.Args.RunID})
		return forRiver(err)
	}
	defer w.slots.give(tenantID)
	c, err := w.claim(ctx, job.Args)
	if err == nil {
		err = w.hold(ctx, c)
	}
	return forRiver(err)
}

// hold keeps the lease while the run is worked on; when it is lost, the work's context ends.
func (w *runWorker) hold(ctx context.Context, c *claimed) error {
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		ticker := time.NewTicker(w.lease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				// One that does not answer is no reason to stop: the next may, and after the lease another worker's claim raises the epoch.
				err := w.db.Tenant(proof.Step(ctx, stepRunRenew), c.run.TenantID, func(tx db.TenantTx) error {
					return tx.RunRenew(ctx, c.run.ID, c.run.Epoch, w.lease)
				})
				if errors.Is(err, db.ErrStale) {
					lose(errLost)
					return
				}
			}
		}
	}()
	trace.SpanFromContext(ctx).SetAttributes(
		attribute.String("sluice.tenant_id", tenants.FormatID(tenants.TenantPrefix, c.run.TenantID)),
		attribute.String("sluice.event_id", tenants.FormatID(tenants.EventPrefix, c.event.ID)),
		attribute.String("sluice.run_id", tenants.FormatID(tenants.RunPrefix, c.run.ID)),
		attribute.Int("sluice.attempt", c.run.Attempt),
	)
	err := w.ask(ctx, c)
	if errors.Is(context.Cause(ctx), errLost) {
		err = errLost
	}
	lose(nil)
	<-renewed
	return err
}

// step ends the hold of a run in the caller's transaction; where the run ends with it, the next one of its entity goes on.
func (w *runWorker) step(ctx context.Context, tx db.TenantTx, run db.Run, s db.RunStep) error {
	_, err := w.endTogether(ctx, tx, []ending{{run: run, step: s}})
	return err
}

// told logs and counts a step after its transaction.
func (w *runWorker) told(ctx context.Context, c *claimed, s db.RunStep) {
	w.meters.step(ctx, s.Status, s.Reason)
	took := w.now().Sub(c.event.ReceivedAt)
	if s.Status.Ended() {
		w.meters.latency.Record(ctx, took.Seconds())
	}
	level := slog.LevelInfo
	if s.Status == db.RunDead {
		level = slog.LevelWarn
	}
	w.log.Log(ctx, level, "run "+string(s.Status),
		"tenant_id", tenants.FormatID(tenants.TenantPrefix, c.run.TenantID), "event_id", tenants.FormatID(tenants.EventPrefix, c.event.ID),
		"run_id", tenants.FormatID(tenants.RunPrefix, c.run.ID), "source", c.event.Source, "type", c.event.Type,
		"received_at", c.event.ReceivedAt, "latency_ms", took.Milliseconds(), "reason", s.Reason, "attempt", c.run.Attempt)
}

// finish is a step that may be the job's last act: where the run goes on by itself, the job snoozes until then.
func (w *runWorker) finish(ctx context.Context, c *claimed, s db.RunStep, with func(ctx context.Context, tx db.TenantTx) error) error {
	// Also when this process is being stopped: what happened must be written, and the lease would be lost time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	s.Detail = c.noted(s.Detail)
	// In the tenant's commit: when all calls of a tenant time out at once, their ends must not take all of the pool to wait for one row.
	if _, err := w.lanes.write(ctx, c.run.TenantID, wish{end: &ending{run: c.run, step: s, with: with}}); err != nil {
		return err
	}
	w.told(ctx, c, s)
	switch s.Status {
	case db.RunWaiting:
		return snooze{s.Wait}
	case db.RunQueued:
		return snooze{snoozeMin}
	}
	return nil
}

// finishTimeout bounds the writing of what happened.
const finishTimeout = 10 * time.Second

// actionOf is what an automation's action object says of its connector.
type actionOf struct {
	Kind         string `json:"kind"`
	CredentialID string `json:"credential_id"`
	Body         string `json:"body"`
}

func actionParams(raw json.RawMessage) (actionOf, error) {
	if len(raw) == 0 {
		return actionOf{Kind: "none"}, nil
	}
	var a actionOf
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("read the automation's action: %w", err)
	}
	return a, nil
}
