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

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/tenants"
)

// runWorker takes a run from its claim to its outcome: claim (a transaction), ask the model (none), conclude (a transaction).
type runWorker struct {
	river.WorkerDefaults[RunArgs]

	db       *db.DB
	models   *llm.Client
	keys     map[string]tenants.Secret
	actions  *action.Set
	poster   *Poster
	log      *slog.Logger
	now      func() time.Time
	meters   *meters
	lease    time.Duration
	timeout  time.Duration
	compiled *Compiled
	door     *outbound.Door
}

// Timeout bounds the whole job.
func (w *runWorker) Timeout(*river.Job[RunArgs]) time.Duration { return w.timeout }

// claimed is a run that this worker holds, with all that its work needs.
type claimed struct {
	run        db.Run
	event      db.Event
	payload    any
	automation *automations.Compiled
	calls      []db.Call
	// state is what was fetched, and fetched a sentence about it; nil and "" where the automation fetches nothing.
	state   any
	fetched string
}

// Work takes one run as far as it goes.
func (w *runWorker) Work(ctx context.Context, job *river.Job[RunArgs]) error {
	c, err := w.claim(ctx, job.Args)
	if err == nil {
		err = w.hold(ctx, job, c)
	}
	return forRiver(err)
}

// claim takes the run and reads what its work needs. What cannot even begin is ended here.
func (w *runWorker) claim(ctx context.Context, args RunArgs) (*claimed, error) {
	var c claimed
	var stop error
	var skipped *db.RunStep
	err := w.db.Tenant(ctx, args.TenantID, func(tx db.TenantTx) error {
		var err error
		if c.run, err = tx.RunClaim(ctx, args.RunID, w.lease); errors.Is(err, db.ErrNotFound) {
			stop = w.whyNot(ctx, tx, args.RunID)
			return nil
		} else if err != nil {
			return fmt.Errorf("claim run %s: %w", args.RunID, err)
		}
		if behind, err := w.behind(ctx, tx, c.run); err != nil || behind {
			stop = errNothing
			return err
		}
		loaded, err := tx.RunLoad(ctx, c.run)
		if err != nil {
			return fmt.Errorf("read what run %s needs: %w", args.RunID, err)
		}
		if loaded.Tenant.Status != tenants.Active {
			step := wait(reasonSuspended, "The tenant is suspended.", suspendedWait)
			stop = snooze{step.Wait}
			return w.step(ctx, tx, c.run, step)
		}
		if c.run.Attempt > c.run.AttemptsMax {
			stop = errNothing
			return w.step(ctx, tx, c.run, die(reasonAttempts, "Its attempts ended without an outcome: "+c.run.Detail))
		}
		fault, err := w.load(ctx, tx, loaded, &c)
		if err != nil {
			return err
		}
		if skipped, err = w.superseded(ctx, tx, &c); err != nil {
			return err
		}
		if skipped != nil {
			fault = skipped
		}
		if fault == nil {
			return nil
		}
		stop = errNothing
		return w.step(ctx, tx, c.run, *fault)
	})
	if err != nil {
		return nil, err
	}
	if skipped != nil {
		w.told(ctx, &c, *skipped)
	}
	return &c, stop
}

// whyNot tells what to do with a job whose run cannot be claimed.
func (w *runWorker) whyNot(ctx context.Context, tx db.TenantTx, id uuid.UUID) error {
	run, err := tx.RunGet(ctx, id)
	if errors.Is(err, db.ErrNotFound) {
		return errNothing
	} else if err != nil {
		return err
	}
	switch {
	case run.Status == db.RunWaiting && run.Until != nil:
		return snooze{run.Until.Sub(w.now())}
	case run.Status == db.RunRunning && run.LeaseUntil != nil:
		// Another worker holds it, or held it when it died: look again when its lease would be over.
		return snooze{run.LeaseUntil.Sub(w.now()) + snoozeMin}
	}
	return errNothing
}

// load takes what was read, and compiles the automation's version. A step is returned where the run cannot go on.
func (w *runWorker) load(ctx context.Context, tx db.TenantTx, loaded db.RunLoaded, c *claimed) (*db.RunStep, error) {
	c.event, c.calls = loaded.Event, loaded.Calls
	if loaded.Payload == nil {
		step := die(reasonPayload, "The payload is no longer kept.")
		return &step, nil
	}
	document := loaded.Payload.Document
	if document == nil {
		document = loaded.Payload.Body
	}
	var err error
	if c.payload, err = automations.DecodePayload(document); err != nil {
		step := die(reasonPayload, "The payload cannot be read: "+err.Error())
		return &step, nil //nolint:nilerr // the fault is the step
	}
	if c.automation, err = w.compiled.get(ctx, tx, c.run.AutomationID, c.run.AutomationVersion); err != nil {
		if fault, ok := errors.AsType[automations.Fault](err); ok {
			step := die(reasonAutomation, "The automation no longer compiles: "+fault.Error())
			return &step, nil
		}
		return nil, err
	}
	return nil, nil //nolint:nilnil // no step: the run goes on
}

// hold keeps the lease while the run is worked on; when it is lost, the work's context ends.
func (w *runWorker) hold(ctx context.Context, job *river.Job[RunArgs], c *claimed) error {
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
				err := w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) error {
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
	err := w.ask(ctx, job, c)
	if errors.Is(context.Cause(ctx), errLost) {
		err = errLost
	}
	lose(nil)
	<-renewed
	return err
}

// step ends the hold of a run in the caller's transaction; where the run ends with it, the next one of its entity goes on.
func (w *runWorker) step(ctx context.Context, tx db.TenantTx, run db.Run, s db.RunStep) error {
	if err := tx.RunStep(ctx, run.ID, run.Epoch, s); err != nil {
		return fmt.Errorf("end the hold of run %s as %s: %w", run.ID, s.Status, err)
	}
	if !s.Status.Ended() {
		return nil
	}
	return w.poster.HandOver(ctx, tx, run)
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
	err := w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) error {
		if with != nil {
			if err := with(ctx, tx); err != nil {
				return err
			}
		}
		return w.step(ctx, tx, c.run, s)
	})
	if err != nil {
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
