package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// The states of an action.
const (
	ActionProposed  = "proposed" // a person is to approve it
	ActionIntended  = "intended"
	ActionInFlight  = "in_flight"
	ActionConfirmed = "confirmed"
	ActionFailed    = "failed"
	ActionUnknown   = "unknown"
	ActionWithheld  = "withheld"
)

// Action is one effect to be made outside.
type Action struct {
	TenantID     uuid.UUID
	ID           uuid.UUID
	RunID        uuid.UUID
	Kind         string
	Key          string
	Target       string
	CredentialID *uuid.UUID
	Effect       json.RawMessage
	State        string
	Reason       string
	Detail       string
	Attempt      int
	AttemptsMax  int
	Epoch        int64
	LeaseUntil   *time.Time
	Until        *time.Time
	Receipt      json.RawMessage
	CreatedAt    time.Time
	UpdatedAt    time.Time
	EndedAt      *time.Time
	// Entity is what its event is about, "" for nothing.
	Entity string
	// Updates says that it changes the last one on its target, where there is one.
	Updates bool
	// FirstSentAt is when it was first on its way, nil before.
	FirstSentAt *time.Time
}

const actionColumns = `a.tenant_id, a.id, a.run_id, a.kind, a.key, a.target, a.credential_id, a.effect, a.state, a.reason, a.detail, a.attempt,
    a.attempts_max, a.epoch, a.lease_until, a.until, a.receipt, a.created_at, a.updated_at, a.ended_at, a.entity,
    a.updates, a.first_sent_at`

const actionInsertSQL = `
insert into sluice.actions (tenant_id, id, run_id, kind, key, target, credential_id, effect, state, entity, updates, ended_at)
values (@tenant_id, @id, @run_id, @kind, @key, @target, @credential_id, @effect, @state, @entity, @updates, case when @state = 'withheld' then now() end)`

// ActionInsert keeps an intent; in state withheld it is kept to be shown, and is never sent. ErrConflict: the same effect was made before, or may have
// been.
func (tx TenantTx) ActionInsert(ctx context.Context, a Action) error {
	_, err := run(ctx, tx.tx, actionInsertSQL, tx.with(a.insertArgs()))
	return err
}

func (a Action) insertArgs() args {
	return args{
		"id": a.ID, "run_id": a.RunID, "kind": a.Kind, "key": a.Key, "target": a.Target, "credential_id": a.CredentialID, "effect": a.Effect,
		"state": a.State, "entity": a.Entity, "updates": a.Updates,
	}
}

const actionGetSQL = `select ` + actionColumns + ` from sluice.actions a where a.tenant_id = @tenant_id and a.id = @id`

// ActionGet reads an action.
func (tx TenantTx) ActionGet(ctx context.Context, id uuid.UUID) (Action, error) {
	return one[Action](ctx, tx.tx, actionGetSQL, tx.with(args{"id": id}))
}

const actionListSQL = `
select ` + actionColumns + ` from sluice.actions a where a.tenant_id = @tenant_id and a.run_id = @run_id order by a.id`

// ActionList reads the actions of a run.
func (tx TenantTx) ActionList(ctx context.Context, runID uuid.UUID) ([]Action, error) {
	return many[Action](ctx, tx.tx, actionListSQL, tx.with(args{"run_id": runID}))
}

// ActionStep is what became of one try at an action.
type ActionStep struct {
	State  string
	Reason string
	Detail string
	// Status is the target's HTTP status, 0 for none.
	Status  int
	Wait    time.Duration
	Receipt json.RawMessage
	// Refund gives the attempt back: it was never made.
	Refund bool
}

const actionStepSQL = `
update sluice.actions set state = @state, reason = @reason, detail = @detail,
    until = case when @wait::interval > interval '0' then now() + @wait::interval end, attempt = attempt - @refund::int,
    lease_until = null, receipt = coalesce(@receipt::jsonb, receipt),
    ended_at = case when @state in ('confirmed', 'failed', 'unknown', 'withheld') then now() end, updated_at = now()
where tenant_id = @tenant_id and id = @id and epoch = @epoch and ended_at is null`

const actionAttemptEndSQL = `
update sluice.action_attempts set ended_at = clock_timestamp(), status = @status, reason = @reason, detail = @detail
where tenant_id = @tenant_id and action_id = @action_id and attempt = @attempt`

// ActionStep ends a worker's hold of an action. ErrStale: it is no longer its own.
func (tx TenantTx) ActionStep(ctx context.Context, a Action, s ActionStep) error {
	refund := 0
	if s.Refund {
		refund = 1
	}
	if err := touched(run(ctx, tx.tx, actionStepSQL, tx.with(args{
		"id": a.ID, "epoch": a.Epoch, "state": s.State, "reason": s.Reason, "detail": s.Detail, "wait": s.Wait, "receipt": s.Receipt, "refund": refund,
	}))); err != nil {
		return err
	}
	_, err := run(ctx, tx.tx, actionAttemptEndSQL, tx.with(args{
		"action_id": a.ID, "attempt": a.Attempt, "status": s.Status, "reason": s.Reason, "detail": s.Detail,
	}))
	return err
}

const actionRetrySQL = `
update sluice.actions set state = @to, reason = '', detail = '', until = null, lease_until = null, ended_at = null, updated_at = now(),
    attempts_max = attempt + @more::int
where tenant_id = @tenant_id and id = @id and state = @from returning id`

// ActionRetry sets a failed action going again, for as many attempts more. ErrNotFound: it has not failed. ErrConflict: another run has made the same
// effect meanwhile, or may have.
func (tx TenantTx) ActionRetry(ctx context.Context, id uuid.UUID, more int) error {
	return tx.actionAgain(ctx, id, ActionFailed, ActionIntended, more)
}

// ActionLook sets an action of unknown fate going again: its target is asked for it before it is sent. ErrNotFound: its fate is known.
func (tx TenantTx) ActionLook(ctx context.Context, id uuid.UUID, more int) error {
	return tx.actionAgain(ctx, id, ActionUnknown, ActionInFlight, more)
}

// ActionNotArrived sets an action of unknown fate going again, as one that surely was not made: a person has looked. ErrNotFound: its fate is known.
func (tx TenantTx) ActionNotArrived(ctx context.Context, id uuid.UUID, more int) error {
	return tx.actionAgain(ctx, id, ActionUnknown, ActionIntended, more)
}

func (tx TenantTx) actionAgain(ctx context.Context, id uuid.UUID, from, to string, more int) error {
	_, err := value[uuid.UUID](ctx, tx.tx, actionRetrySQL, tx.with(args{"id": id, "from": from, "to": to, "more": more}))
	return err
}

const actionArrivedSQL = `
update sluice.actions set state = 'confirmed', reason = 'person.arrived', detail = @detail, receipt = @receipt, updated_at = now()
where tenant_id = @tenant_id and id = @id and state = 'unknown' returning id`

// ActionArrived confirms an action of unknown fate: a person has seen its effect. ErrNotFound: its fate is known.
func (tx TenantTx) ActionArrived(ctx context.Context, id uuid.UUID, detail string, receipt json.RawMessage) error {
	if _, err := value[uuid.UUID](ctx, tx.tx, actionArrivedSQL, tx.with(args{"id": id, "detail": detail, "receipt": receipt})); err != nil {
		return err
	}
	return tx.AuditNote(ctx, "action", id, "resolve", map[string]string{"state": ActionConfirmed})
}

const actionsCancelSQL = `
update sluice.actions set state = case state when 'proposed' then 'withheld' when 'intended' then 'failed' else 'unknown' end, reason = 'run.cancelled', detail = @detail,
    until = null, lease_until = null, epoch = epoch + 1, ended_at = now(), updated_at = now()
where tenant_id = @tenant_id and run_id = @run_id and ended_at is null and (lease_until is null or lease_until < now())`

// ActionsCancel ends the actions of a cancelled run that no worker has in hand. One that was sent and waits for its next try ends as unknown,
// since it may have arrived. One that a worker has in hand is left to it: it alone can tell.
func (tx TenantTx) ActionsCancel(ctx context.Context, runID uuid.UUID, detail string) error {
	_, err := run(ctx, tx.tx, actionsCancelSQL, tx.with(args{"run_id": runID, "detail": detail}))
	return err
}

const actionsHastenSQL = `
update sluice.actions set until = null, updated_at = now()
where tenant_id = @tenant_id and run_id = @run_id and ended_at is null and lease_until is null returning id`

// ActionsHasten lets the actions of a run be tried at once that wait for their next try, and returns their ids.
func (tx TenantTx) ActionsHasten(ctx context.Context, runID uuid.UUID) ([]uuid.UUID, error) {
	return values[uuid.UUID](ctx, tx.tx, actionsHastenSQL, tx.with(args{"run_id": runID}))
}

// ActionAttempt is one try at an action.
type ActionAttempt struct {
	ActionID uuid.UUID
	Attempt  int
	SentAt   time.Time
	EndedAt  *time.Time
	Status   int
	Reason   string
	Detail   string
}

const actionAttemptsSQL = `
select t.action_id, t.attempt, t.sent_at, t.ended_at, t.status, t.reason, t.detail from sluice.action_attempts t
join sluice.actions a on a.tenant_id = t.tenant_id and a.id = t.action_id
where t.tenant_id = @tenant_id and a.run_id = @run_id order by t.action_id, t.attempt`

// ActionAttempts reads every try at the actions of a run.
func (tx TenantTx) ActionAttempts(ctx context.Context, runID uuid.UUID) ([]ActionAttempt, error) {
	return many[ActionAttempt](ctx, tx.tx, actionAttemptsSQL, tx.with(args{"run_id": runID}))
}
