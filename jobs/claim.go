package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/llm"
	"sluice/proof"
	"sluice/tenants"
)

// claimed is a run that this worker holds, with all that its work needs.
type claimed struct {
	run        db.Run
	event      db.Event
	stored     *db.Payload // nil where it is no longer kept
	payload    any
	automation *automations.Compiled
	calls      []db.Call
	// state is what was fetched, and fetched a sentence about it; nil and "" where the automation fetches nothing.
	state   any
	fetched string
}

// claiming is what came of the wish to claim a run in its tenant's next commit.
type claiming struct {
	// held is the run, nil where it was not claimed; then stop says what becomes of its job, and nil that it must be looked at alone.
	held *claimed
	stop error
	// fault is a step that ends the hold at once.
	fault *db.RunStep
}

// claim takes the run and reads what its work needs. What cannot even begin is ended here.
func (w *runWorker) claim(ctx context.Context, args RunArgs) (*claimed, error) {
	if !args.Ordered {
		answer, err := w.lanes.write(ctx, args.TenantID, wish{claim: args.RunID})
		told := answer.claim
		switch {
		case err != nil:
			return nil, fmt.Errorf("claim run %s: %w", args.RunID, err)
		case told.held != nil:
			return w.begin(ctx, told.held, told.fault)
		case told.stop != nil:
			return nil, told.stop
		}
	}
	return w.claimAlone(ctx, args)
}

// claimTogether claims runs of a tenant that have no order among them, as many as its gate lets in.
func (w *runWorker) claimTogether(ctx context.Context, tx db.TenantTx, ids []uuid.UUID) ([]claiming, error) {
	out := make([]claiming, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	entering, err := w.enter(ctx, tx, ids, out)
	if err != nil || len(entering) == 0 {
		return out, err
	}
	runs, err := tx.RunsClaim(ctx, entering, w.lease)
	if err != nil || len(runs) == 0 {
		return out, err
	}
	loaded, err := tx.RunsLoad(ctx, runs)
	if err != nil {
		return out, fmt.Errorf("read what %d runs need: %w", len(runs), err)
	}
	var looking []*claimed
	for i, run := range runs {
		c := &claimed{run: run}
		fault, err := w.load(ctx, tx, loaded[i], c)
		if err != nil {
			return out, err
		}
		if fault == nil {
			looking = append(looking, c)
		}
		out[slices.Index(ids, run.ID)] = claiming{held: c, fault: fault}
	}
	steps, err := w.loopedTogether(ctx, tx, looking)
	if err != nil {
		return out, fmt.Errorf("look for loops: %w", err)
	}
	for i, c := range looking {
		out[slices.Index(ids, c.run.ID)].fault = steps[i]
	}
	return out, nil
}

// enter asks the tenant's gate for runs: which may be claimed now, and what becomes of the others.
func (w *runWorker) enter(ctx context.Context, tx db.TenantTx, ids []uuid.UUID, out []claiming) ([]uuid.UUID, error) {
	gate, err := tx.GateGet(ctx)
	if errors.Is(err, db.ErrNotFound) || err == nil && gate.Status != tenants.Active {
		return nil, nil // erased or suspended: each is looked at alone
	} else if err != nil {
		return nil, fmt.Errorf("read the gate: %w", err)
	}
	stop := func(of []uuid.UUID, why func(i int) error) {
		for i, id := range of {
			out[slices.Index(ids, id)].stop = why(i)
		}
	}
	entering := slices.Clone(ids)
	if gate.Holding != "" {
		held, err := tx.RunsHold(ctx, ids)
		if err != nil {
			return nil, fmt.Errorf("hold runs: %w", err)
		}
		stop(held, func(int) error { return errNothing })
		for range held {
			w.meters.step(ctx, db.RunHeld, gate.Holding)
		}
		entering = slices.DeleteFunc(entering, func(id uuid.UUID) bool { return slices.Contains(held, id) })
	}
	if gate.RunsPerSecond == nil && gate.ConcurrentRuns == nil || len(entering) == 0 {
		return entering, nil
	}
	free, pace, err := tx.GateEnter(ctx, gate, len(entering))
	if err != nil {
		return nil, fmt.Errorf("ask for places: %w", err)
	}
	if parked, err := tx.RunsPark(ctx, entering[free:]); err != nil {
		return nil, fmt.Errorf("park runs: %w", err)
	} else if len(parked) > 0 {
		stop(parked, func(int) error { return errNothing })
	}
	// Those that are too early come again at the moment of their slot.
	now := w.now()
	stop(entering[pace.Now:free], func(i int) error { return snooze{max(pace.Next.Sub(now)+time.Duration(i)*pace.Step, snoozeMin)} })
	return entering[:pace.Now], nil
}

// begin ends the hold at once where the run cannot go on; else its work begins.
func (w *runWorker) begin(ctx context.Context, c *claimed, fault *db.RunStep) (*claimed, error) {
	if fault == nil && c.run.Attempt > c.run.AttemptsMax {
		step := die(reasonAttempts, "Its attempts ended without an outcome: "+c.run.Detail)
		fault = &step
	}
	if fault == nil {
		return c, nil
	}
	if err := w.finish(ctx, c, *fault, nil); err != nil {
		return nil, err
	}
	return nil, errNothing
}

// claimAlone claims one run by itself: one that has an order among others, or of which the tenant's commit said nothing.
func (w *runWorker) claimAlone(ctx context.Context, args RunArgs) (*claimed, error) {
	var c claimed
	var stop error
	var fault, skipped *db.RunStep
	err := w.db.Tenant(proof.Step(ctx, stepRunAlone), args.TenantID, func(tx db.TenantTx) error {
		var err error
		asked := make([]claiming, 1)
		if args.Ordered {
			entering, err := w.enter(ctx, tx, []uuid.UUID{args.RunID}, asked)
			if err != nil {
				return err
			}
			if stop = asked[0].stop; len(entering) == 0 && stop != nil {
				return nil //nolint:nilerr // why it stops is no fault of the transaction's
			}
		}
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
		tenant, err := tx.TenantGet(ctx)
		if err != nil {
			return fmt.Errorf("read the tenant of run %s: %w", args.RunID, err)
		}
		if tenant.Status != tenants.Active {
			step := wait(reasonSuspended, "The tenant is suspended.", suspendedWait)
			stop = snooze{step.Wait}
			return w.step(ctx, tx, c.run, step)
		}
		loaded, err := tx.RunsLoad(ctx, []db.Run{c.run})
		if err != nil {
			return fmt.Errorf("read what run %s needs: %w", args.RunID, err)
		}
		if fault, err = w.load(ctx, tx, loaded[0], &c); err != nil || fault != nil {
			return err
		}
		if skipped, err = w.superseded(ctx, tx, &c); err != nil {
			return err
		}
		if skipped == nil {
			fault, err = w.looped(ctx, tx, &c)
			return err
		}
		stop = errNothing
		return w.step(ctx, tx, c.run, *skipped)
	})
	if err != nil {
		return nil, err
	}
	if skipped != nil {
		w.told(ctx, &c, *skipped)
	}
	if stop != nil {
		return nil, stop
	}
	return w.begin(ctx, &c, fault)
}

// unpark wakes as many parked runs as places are free now, in the caller's transaction.
func (p *Poster) unpark(ctx context.Context, tx db.TenantTx, places int) error {
	woken, err := tx.RunsUnpark(ctx, places)
	if err != nil {
		return fmt.Errorf("wake parked runs: %w", err)
	}
	return p.PostRuns(ctx, tx.Pgx(), jobsOf(tx.TenantID, woken))
}

// wokenMax bounds how many runs one change of a credential wakes; the others come by themselves, within a quarter of an hour.
const wokenMax = 10_000

// WakeCredential lets runs go on that waited since a key was paused, in the transaction that resumes it. They begin when no worker holds the paused
// key in memory any more.
func (p *Poster) WakeCredential(ctx context.Context, tx db.TenantTx, now time.Time) error {
	reasons := []string{reasonPaused, reasonUnreadable, providerReasonDot + string(llm.KindCredentialRejected), providerReasonDot + string(llm.KindQuotaExhausted)}
	woken, err := tx.RunsWake(ctx, reasons, wokenMax)
	if err != nil {
		return fmt.Errorf("wake what waited for a credential: %w", err)
	}
	args := jobsOf(tx.TenantID, woken)
	for i := range args {
		args[i].NotBefore = now.Add(keyringAge + time.Second)
	}
	return p.PostRuns(ctx, tx.Pgx(), args)
}

func jobsOf(tenantID uuid.UUID, woken []db.Woken) []RunArgs {
	args := make([]RunArgs, len(woken))
	for i, r := range woken {
		args[i] = RunArgs{TenantID: tenantID, RunID: r.ID, Urgent: r.Priority == automations.PriorityUrgent}
	}
	return args
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
	c.event, c.calls, c.stored = loaded.Event, loaded.Calls, loaded.Payload
	if loaded.Payload == nil {
		step := die(reasonPayload, "The payload is no longer kept.")
		return &step, nil
	}
	var err error
	if c.payload, err = automations.DecodePayload(loaded.Payload.Seen()); err != nil {
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
