package db

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// The verdicts of a review.
const (
	VerdictApprove = "approve"
	VerdictReject  = "reject"
)

// Review is a verdict on a run's output.
type Review struct {
	TenantID          uuid.UUID
	RunID             uuid.UUID
	AutomationID      uuid.UUID
	AutomationVersion int
	Verdict           string
	// ByKey is the key that gave it, nil where the time was over.
	ByKey *uuid.UUID
	// Output is the output as the person changed it, nil where it was not changed; Diff is how the two differ, and Changed how much: 0 to 1.
	Output  json.RawMessage
	Diff    string
	Changed float64
	Note    string
	At      time.Time
}

const reviewColumns = `v.tenant_id, v.run_id, v.automation_id, v.automation_version, v.verdict, v.by_key, v.output, v.diff, v.changed, v.note, v.at`

const reviewInsertSQL = `
insert into sluice.reviews (tenant_id, run_id, automation_id, automation_version, verdict, by_key, output, diff, changed, note)
select @tenant_id, r.id, r.automation_id, r.automation_version, @verdict, @by_key, @output, @diff, @changed, @note
from sluice.runs r where r.tenant_id = @tenant_id and r.id = @run_id`

// ReviewInsert keeps a verdict, once for a run: whoever gives it holds the run by RunLock.
func (tx TenantTx) ReviewInsert(ctx context.Context, v Review) error {
	return touched(run(ctx, tx.tx, reviewInsertSQL, tx.with(args{
		"run_id": v.RunID, "verdict": v.Verdict, "by_key": v.ByKey, "output": v.Output, "diff": v.Diff, "changed": v.Changed, "note": v.Note,
	})))
}

const reviewGetSQL = `select ` + reviewColumns + ` from sluice.reviews v where v.tenant_id = @tenant_id and v.run_id = @run_id`

// ReviewGet reads the verdict on a run. ErrNotFound: there is none.
func (tx TenantTx) ReviewGet(ctx context.Context, runID uuid.UUID) (Review, error) {
	return one[Review](ctx, tx.tx, reviewGetSQL, tx.with(args{"run_id": runID}))
}

const runLockSQL = runGetSQL + ` for update`

// RunLock reads a run and keeps everybody else from changing it until the transaction ends.
func (tx TenantTx) RunLock(ctx context.Context, id uuid.UUID) (Run, error) {
	return one[Run](ctx, tx.tx, runLockSQL, tx.with(args{"id": id}))
}

const runReviewedSQL = `
update sluice.runs set status = @status, reason = @reason, detail = @detail, until = null, updated_at = now(),
    finished_at = case when @status in ('done', 'skipped', 'dead', 'cancelled') then now() end
where tenant_id = @tenant_id and id = @id and status = 'in_review' and mode = 'review' returning id`

// RunReviewed takes a run out of review. ErrConflict: it is not in review, or not any more.
func (tx TenantTx) RunReviewed(ctx context.Context, id uuid.UUID, status RunStatus, reason, detail string) error {
	_, err := value[uuid.UUID](ctx, tx.tx, runReviewedSQL, tx.with(args{"id": id, "status": status, "reason": reason, "detail": detail}))
	if errors.Is(err, ErrNotFound) {
		return ErrConflict
	}
	return err
}

const actionApproveSQL = `
update sluice.actions set state = 'intended', key = @key, target = @target, credential_id = @credential_id, effect = @effect, updates = @updates, updated_at = now()
where tenant_id = @tenant_id and run_id = @run_id and state = 'proposed' returning id`

// ActionApprove lets the proposed action of a run go, as a is, and returns its id. ErrConflict: the same effect was made before, or may have been; the
// transaction goes on. ErrNotFound: nothing is proposed.
func (tx TenantTx) ActionApprove(ctx context.Context, a Action) (id uuid.UUID, err error) {
	// Within a savepoint: a unique index that refuses would end the transaction.
	err = tx.Try(ctx, func(tx TenantTx) error {
		id, err = value[uuid.UUID](ctx, tx.tx, actionApproveSQL, tx.with(args{
			"run_id": a.RunID, "key": a.Key, "target": a.Target, "credential_id": a.CredentialID, "effect": a.Effect, "updates": a.Updates,
		}))
		return err
	})
	return id, err
}

const actionsWithholdSQL = `
update sluice.actions set state = 'withheld', reason = @reason, detail = @detail, ended_at = now(), updated_at = now()
where tenant_id = @tenant_id and run_id = @run_id and state = 'proposed'`

// ActionsWithhold ends the proposed actions of a run: they are never sent.
func (tx TenantTx) ActionsWithhold(ctx context.Context, runID uuid.UUID, reason, detail string) error {
	_, err := run(ctx, tx.tx, actionsWithholdSQL, tx.with(args{"run_id": runID, "reason": reason, "detail": detail}))
	return err
}

const reviewsOverdueSQL = `
select r.tenant_id, r.id from sluice.runs r join sluice.tenants t on t.tenant_id = r.tenant_id
where r.status = 'in_review' and r.until < now() and t.status = 'active' order by r.until limit @limit`

// ReviewsOverdue finds runs of all tenants whose time for a review is over.
func (tx SystemTx) ReviewsOverdue(ctx context.Context, limit int) ([]Stranded, error) {
	return many[Stranded](ctx, tx.tx, reviewsOverdueSQL, args{"limit": limit})
}
