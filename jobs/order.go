package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/db"
	"sluice/tenants"
)

// behind says whether a run of serial order must wait for another of its entity, and lets it wait: without a job and without a worker, until
// whoever ends hands over to it. It stands right behind the claim, before anything of the run is looked at.
func (w *runWorker) behind(ctx context.Context, tx db.TenantTx, run db.Run) (bool, error) {
	if !run.Ordered(db.OrderSerial) {
		return false, nil
	}
	front, err := tx.RunFront(ctx, run)
	if errors.Is(err, db.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look for what run %s must wait for: %w", run.ID, err)
	}
	detail := fmt.Sprintf("It waits for its turn: %s of %s, about the same entity, is %s.", tenants.FormatID(tenants.RunPrefix, front.ID),
		tenants.FormatID(tenants.EventPrefix, front.EventID), standing[front.Status])
	if err := tx.RunBehind(ctx, run, detail); err != nil {
		return false, fmt.Errorf("let run %s wait for its turn: %w", run.ID, err)
	}
	w.meters.step(ctx, db.RunWaiting, db.ReasonBehind)
	return true, nil
}

// standing says for a person why the run in front has not ended.
var standing = map[db.RunStatus]string{
	db.RunQueued: "to come first", db.RunRunning: "being worked on", db.RunWaiting: "waiting itself", db.RunHeld: "held by a limit",
	db.RunInReview: "with a person", db.RunActing: "making its effect", db.RunDead: "dead, and the endpoint lets nothing pass it: retry or cancel it",
}

// superseded says whether a newer event has made a run of the order latest superfluous, before any token is spent on it.
func (w *runWorker) superseded(ctx context.Context, tx db.TenantTx, c *claimed) (*db.RunStep, error) {
	if !c.run.Ordered(db.OrderLatest) {
		return nil, nil //nolint:nilnil // no step: the run goes on
	}
	newer, err := tx.RunNewer(ctx, c.run)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil //nolint:nilnil // as above
	} else if err != nil {
		return nil, fmt.Errorf("look for what is newer than run %s: %w", c.run.ID, err)
	}
	step := db.RunStep{Status: db.RunSkipped, Reason: db.ReasonFolded, TokensSaved: c.spared()}
	name := tenants.FormatID(tenants.EventPrefix, newer.EventID)
	// Ids are made on receipt and sort by it.
	if bytes.Compare(newer.EventID[:], c.run.EventID[:]) < 0 {
		step.Reason = db.ReasonStale
		step.Detail = fmt.Sprintf("It came too late: %s, about the same entity, is newer, and had come before it.", name)
	} else {
		goesOn, err := w.goesOn(ctx, tx, c.run, newer)
		if err != nil || goesOn {
			return nil, err
		}
		step.Detail = fmt.Sprintf("It is folded into %s, a newer event about the same entity, which came %s after it.", name,
			newer.CreatedAt.Sub(c.run.CreatedAt).Round(time.Millisecond))
	}
	step.Detail += fmt.Sprintf(" About %d tokens were not spent.", step.TokensSaved)
	return &step, nil
}

// goesOn lets one run through of a stream that is folded for too long, so that it is not folded for ever. Only the last run of each second asks:
// in a burst of thousands the others need not look at each other.
func (w *runWorker) goesOn(ctx context.Context, tx db.TenantTx, run db.Run, newer db.Newer) (bool, error) {
	if run.CreatedAt.Truncate(time.Second).Equal(newer.NextCreatedAt.Truncate(time.Second)) {
		return false, nil
	}
	burst, err := tx.RunBurst(ctx, run)
	if err != nil {
		return false, fmt.Errorf("read the burst of run %s: %w", run.ID, err)
	}
	return burst.TooLong(), nil
}

// spared estimates what the model would have been sent: 0 where that cannot be said, or is paid for already.
func (c *claimed) spared() int64 {
	if c.automation == nil {
		return 0
	}
	if _, _, paid := earlier(c); paid {
		return 0
	}
	system, user, nonce, err := c.fenced()
	if err != nil {
		return 0
	}
	return c.estimate(system, user, nonce)
}
