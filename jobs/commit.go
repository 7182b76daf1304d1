package jobs

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/proof"
)

// wish is what one run wants of its tenant's next commit: one of the five.
type wish struct {
	claim uuid.UUID
	park  uuid.UUID
	keep  func(ctx context.Context, tx db.TenantTx) error // writes a reply, while the run goes on
	send  *db.Call
	end   *ending
}

// granted is what came of a wish.
type granted struct {
	claim claiming
	send  db.Granted
}

// commit grants the wishes of runs of one tenant in one transaction. What locks the tenant's budget comes last, so that other workers wait for it as
// short as can be.
func (w *runWorker) commit(ctx context.Context, tenantID uuid.UUID, wishes []wish) ([]granted, error) {
	out := make([]granted, len(wishes))
	var ends []ending
	var claims, parks []uuid.UUID
	var sends []db.Call
	var writes []func(ctx context.Context, tx db.TenantTx) error
	for _, one := range wishes {
		switch {
		case one.keep != nil:
			writes = append(writes, one.keep)
		case one.park != uuid.Nil:
			parks = append(parks, one.park)
		case one.end != nil:
			ends = append(ends, *one.end)
			if one.end.with != nil {
				writes = append(writes, one.end.with)
			}
		case one.send != nil:
			sends = append(sends, *one.send)
		default:
			claims = append(claims, one.claim)
		}
	}
	var claimed []claiming
	var sent []db.Granted
	err := w.db.Tenant(proof.Step(ctx, stepsOf(wishes)...), tenantID, func(tx db.TenantTx) (err error) {
		replies, err := w.endTogether(ctx, tx, ends)
		if err != nil {
			return err
		}
		if claimed, err = w.claimTogether(ctx, tx, claims); err != nil {
			return err
		}
		if len(parks) > 0 {
			if _, err := tx.RunsPark(ctx, parks); err != nil {
				return fmt.Errorf("park %d runs: %w", len(parks), err)
			}
		}
		if err := tx.CallsReceive(ctx, replies); err != nil {
			return fmt.Errorf("keep %d replies: %w", len(replies), err)
		}
		for _, write := range writes {
			if err := write(ctx, tx); err != nil {
				return err
			}
		}
		if len(sends) == 0 {
			return nil
		}
		if sent, err = tx.CallsSend(ctx, sends); err != nil {
			return fmt.Errorf("reserve for %d calls: %w", len(sends), err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, one := range wishes {
		switch {
		case one.end != nil, one.park != uuid.Nil, one.keep != nil:
		case one.send != nil:
			// One that is missing is no longer its worker's.
			if at := slices.IndexFunc(sent, func(g db.Granted) bool { return g.ID == one.send.ID }); at >= 0 {
				out[i].send = sent[at]
			}
		default:
			out[i].claim = claimed[slices.Index(claims, one.claim)]
		}
	}
	return out, nil
}

// stepsOf names what a commit is, for each kind of wish once.
func stepsOf(wishes []wish) []string {
	if !proof.Enabled {
		return nil
	}
	var names []string
	for _, one := range wishes {
		name := stepRunClaim
		switch {
		case one.keep != nil:
			name = stepRunKeep
		case one.park != uuid.Nil:
			name = stepRunPark
		case one.end != nil:
			name = stepRunEnd
		case one.send != nil:
			name = stepRunSend
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// endTogether writes the ends of runs of a tenant, and returns the replies that are still to be kept. The epoch is checked here: the outcome of a reply
// that comes after the run was lost is not taken.
func (w *runWorker) endTogether(ctx context.Context, tx db.TenantTx, ends []ending) (calls []db.Call, err error) {
	if len(ends) == 0 {
		return nil, nil
	}
	var actions []db.Action
	var posted []ActionArgs
	steps := make([]db.RunEnd, len(ends))
	for i, e := range ends {
		steps[i] = db.RunEnd{ID: e.run.ID, Epoch: e.run.Epoch, RunStep: e.step}
		if e.call != nil {
			calls = append(calls, *e.call)
			steps[i].CostPico = e.call.CostPico
		}
		if e.intent != nil {
			actions = append(actions, *e.intent)
			if e.intent.State == db.ActionIntended {
				posted = append(posted, ActionArgs{TenantID: tx.TenantID, ActionID: e.intent.ID})
			}
		}
	}
	parked, err := tx.RunsStep(ctx, steps)
	if err != nil {
		return nil, fmt.Errorf("end the hold of %d runs: %w", len(steps), err)
	}
	if i := slices.IndexFunc(ends, func(e ending) bool { return e.step.Status == db.RunHeld }); i >= 0 {
		if err := tx.BudgetHold(ctx, ends[i].step.Reason); err != nil {
			return nil, fmt.Errorf("hold what comes after: %w", err)
		}
	}
	if err := tx.ActionsInsert(ctx, actions); err != nil {
		return nil, fmt.Errorf("keep %d actions: %w", len(actions), err)
	}
	if err := w.poster.PostActions(ctx, tx.Pgx(), posted); err != nil {
		return nil, err
	}
	if parked > 0 {
		if err := w.poster.unpark(ctx, tx, len(ends)); err != nil {
			return nil, err
		}
	}
	for _, e := range ends {
		if !e.step.Status.Ended() {
			continue
		}
		if err := w.poster.HandOver(ctx, tx, e.run); err != nil {
			return nil, err
		}
	}
	return calls, nil
}
