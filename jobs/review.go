package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/action"
)

// The reasons of runs that were decided on.
const (
	reasonApproved = "review.approved"
	reasonRejected = "review.rejected"
	reasonExpired  = "review.expired"
)

// A Verdict is what is decided on a run in review: by a person, or where By is nil by the time that is over.
type Verdict struct {
	Verdict string // one of db.VerdictApprove and db.VerdictReject
	By      *uuid.UUID
	// Output is what is to be taken instead of the run's output, as JSON; nil takes that as it is.
	Output json.RawMessage
	Note   string
}

// A ReviewFault says why nothing can be decided: Code is for machines, the text for people.
type ReviewFault struct{ Code, Detail string }

// Error is the sentence for people.
func (f *ReviewFault) Error() string { return f.Detail }

// Reviewer decides on runs that wait for a person.
type Reviewer struct {
	actions  *action.Set
	poster   *Poster
	compiled *Compiled
	now      func() time.Time
}

// NewReviewer makes a Reviewer.
func NewReviewer(actions *action.Set, poster *Poster, now func() time.Time) *Reviewer {
	return &Reviewer{actions: actions, poster: poster, compiled: NewCompiled(), now: now}
}

// Decide takes a run out of review, in the caller's transaction, with all that follows: its effect is on the way, or never is. Where it cannot be decided
// the error is a *ReviewFault; where the output is none that the automation takes, an *automations.OutputError or an *EffectFault.
func (r *Reviewer) Decide(ctx context.Context, tx db.TenantTx, runID uuid.UUID, v Verdict) error {
	// Of two reviewers the second waits here, and finds it decided.
	run, err := tx.RunLock(ctx, runID)
	if err != nil {
		return err
	}
	if err := r.decidable(ctx, tx, run, v); err != nil {
		return err
	}
	proposed, err := proposedOf(ctx, tx, run.ID)
	if err != nil {
		return err
	}
	kept := db.Review{RunID: run.ID, Verdict: v.Verdict, ByKey: v.By, Note: v.Note}
	if v.Verdict == db.VerdictReject {
		return r.reject(ctx, tx, run, kept)
	}
	if v.Output != nil {
		if proposed, err = r.edit(ctx, tx, run, v.Output, proposed, &kept); err != nil {
			return err
		}
	}
	return r.approve(ctx, tx, run, proposed, kept)
}

// decidable says why nothing can be decided on a run; nil where it can.
func (r *Reviewer) decidable(ctx context.Context, tx db.TenantTx, run db.Run, v Verdict) error {
	if run.Mode == automations.ModeShadow {
		return &ReviewFault{"review.shadow", "The run is in shadow mode: nothing of it can be posted, ever. Put the automation into review, and its next runs can be approved."}
	}
	if run.Status == db.RunInReview && run.Mode == automations.ModeReview {
		if v.By != nil && run.Until != nil && !run.Until.After(r.now()) {
			return &ReviewFault{"review.expired", "The time for a review is over, and what the automation says of that (review.on_expiry) is about to be done."}
		}
		return nil
	}
	_, err := tx.ReviewGet(ctx, run.ID)
	switch {
	case err == nil:
		return &ReviewFault{"review.decided", "There is a verdict on this run already, and a verdict is never changed."}
	case errors.Is(err, db.ErrNotFound):
		return &ReviewFault{"run.not_in_review", "Only a run in review can be approved or rejected; this one is " + string(run.Status) + "."}
	}
	return err
}

// proposedOf finds what is to be sent of a run once it is approved; nil where that is nothing.
func proposedOf(ctx context.Context, tx db.TenantTx, runID uuid.UUID) (*db.Action, error) {
	actions, err := tx.ActionList(ctx, runID)
	if err != nil {
		return nil, err
	}
	for i := range actions {
		if actions[i].State == db.ActionProposed {
			return &actions[i], nil
		}
	}
	return nil, nil //nolint:nilnil // the automation keeps the outcome only
}

func (r *Reviewer) reject(ctx context.Context, tx db.TenantTx, run db.Run, kept db.Review) error {
	reason, detail := reasonRejected, "A person rejected the outcome: nothing of it is sent."
	if kept.ByKey == nil {
		reason, detail = reasonExpired, "Nobody approved the outcome in time: nothing of it is sent."
	}
	if err := tx.ActionsWithhold(ctx, run.ID, reason, detail); err != nil {
		return fmt.Errorf("withhold what run %s would have sent: %w", run.ID, err)
	}
	return r.close(ctx, tx, run, kept, db.RunStep{Status: db.RunSkipped, Reason: reason, Detail: detail})
}

// approve lets the effect go, if there is one and it was not made by another run.
func (r *Reviewer) approve(ctx context.Context, tx db.TenantTx, run db.Run, effect *db.Action, kept db.Review) error {
	who := "A person approved the outcome"
	switch {
	case kept.ByKey == nil:
		who = "Nobody decided in time, and the automation approves then"
	case kept.Output != nil:
		who = "A person changed the outcome and approved it"
	}
	if effect == nil {
		return r.close(ctx, tx, run, kept, db.RunStep{Status: db.RunDone, Reason: reasonApproved, Detail: who + "; there is nothing to send."})
	}
	id, err := tx.ActionApprove(ctx, *effect)
	if errors.Is(err, db.ErrConflict) {
		const detail = "The outcome stands; its effect was made before, by another run on the same event, and is not made twice."
		if err := tx.ActionsWithhold(ctx, run.ID, reasonMade, detail); err != nil {
			return fmt.Errorf("withhold what run %s would have sent: %w", run.ID, err)
		}
		return r.close(ctx, tx, run, kept, db.RunStep{Status: db.RunDone, Reason: reasonMade, Detail: detail})
	} else if err != nil {
		return fmt.Errorf("let the effect of run %s go: %w", run.ID, err)
	}
	if err := r.close(ctx, tx, run, kept, db.RunStep{Status: db.RunActing, Reason: reasonPending, Detail: who + "; its effect is to be made."}); err != nil {
		return err
	}
	return r.poster.PostActions(ctx, tx.Pgx(), []ActionArgs{{TenantID: tx.TenantID, ActionID: id}})
}

// close keeps the verdict, and takes the run out of review. What has ended lets the next one of its entity go on.
func (r *Reviewer) close(ctx context.Context, tx db.TenantTx, run db.Run, kept db.Review, step db.RunStep) error {
	if err := tx.ReviewInsert(ctx, kept); err != nil {
		return fmt.Errorf("keep the verdict on run %s: %w", run.ID, err)
	}
	if err := tx.RunReviewed(ctx, run.ID, step.Status, step.Reason, step.Detail); err != nil {
		return fmt.Errorf("take run %s out of review: %w", run.ID, err)
	}
	if !step.Status.Ended() {
		return nil
	}
	return r.poster.HandOver(ctx, tx, run)
}

// edit takes an output in place of the run's, notes in kept how the two differ, and prepares the effect anew. An output that is the same is no edit.
func (r *Reviewer) edit(ctx context.Context, tx db.TenantTx, run db.Run, given json.RawMessage, proposed *db.Action, kept *db.Review) (*db.Action, error) {
	automation, err := r.compiled.get(ctx, tx, run.AutomationID, run.AutomationVersion)
	if err != nil {
		return nil, err
	}
	output, err := outputOf(automation, run.Output, given)
	if err != nil {
		return nil, err
	}
	was, err := outputOf(automation, run.Output, run.Output)
	if err != nil {
		// It is not the person's output that is at fault.
		return nil, fmt.Errorf("read the output of run %s: %s", run.ID, err.Error()) //nolint:err113 // as the comment says
	}
	before, err := readable(was)
	if err != nil {
		return nil, err
	}
	after, err := readable(output)
	if err != nil || before == after {
		return proposed, err
	}
	if kept.Output, err = json.Marshal(output); err != nil {
		return nil, fmt.Errorf("write the output: %w", err)
	}
	kept.Diff, kept.Changed = differ(before, after)
	if proposed == nil {
		return nil, nil //nolint:nilnil // the outcome is kept, and nothing is sent
	}
	c := Concluded{Run: run, Automation: automation, Output: output, At: r.now()}
	if c.Event, c.Payload, err = eventOf(ctx, tx, run.EventID); err != nil {
		return nil, err
	}
	return Effect(r.actions, c)
}

// eventOf reads an event and its payload, as templates see it.
func eventOf(ctx context.Context, tx db.TenantTx, id uuid.UUID) (db.Event, any, error) {
	event, err := tx.EventGet(ctx, id)
	if err != nil {
		return event, nil, fmt.Errorf("read event %s: %w", id, err)
	}
	stored, err := tx.EventPayload(ctx, id)
	if errors.Is(err, db.ErrNotFound) {
		return event, nil, &ReviewFault{
			"review.payload_gone",
			"The payload of its event is no longer kept, so that nothing can be prepared of another output. It can be approved as it is, or rejected.",
		}
	} else if err != nil {
		return event, nil, fmt.Errorf("read the payload of event %s: %w", id, err)
	}
	payload, err := automations.DecodePayload(stored.Seen())
	if err != nil {
		return event, nil, fmt.Errorf("read the payload of event %s: %w", id, err)
	}
	return event, payload, nil
}
