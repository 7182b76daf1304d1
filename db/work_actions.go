package db

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// ActionHeld is an action that a worker holds, with what its work needs.
type ActionHeld struct {
	Action
	// Was is the state that it was claimed in: in flight, if an earlier try may have made the effect.
	Was        string
	Run        Run
	ReceivedAt time.Time // of its event
	// Previous is the receipt of the last one on its target, of an action that changes it; nil for none.
	Previous json.RawMessage
}

type actionClaimed struct {
	Action
	Was string
}

// actionsClaimSQL commits in_flight before anything is sent, and only while the runs still want their effects. Those that change what stands on a
// target go one after another: what is in flight first, whatever its id, since ids of two processes are not made in the order of their commits. The state is asked of o: asked of a, the index of the keys would do for a plan, and be read over all of the tenant's actions.
const actionsClaimSQL = `
with claimed as (
    update sluice.actions a set state = 'in_flight', reason = '', detail = '', until = null, epoch = a.epoch + 1, attempt = a.attempt + 1, lease_until = now() + @lease::interval,
        first_sent_at = coalesce(a.first_sent_at, clock_timestamp()), updated_at = now()
    from (select w.id, w.state from sluice.actions w where w.tenant_id = @tenant_id and w.id = any(@ids) order by w.id for update) o
    where a.tenant_id = @tenant_id and a.id = any(@ids) and a.id = o.id and o.state in ('intended', 'in_flight') and a.ended_at is null
      and (a.lease_until is null or a.lease_until < now()) and (a.until is null or a.until <= now())
      and exists (select from sluice.runs r where r.tenant_id = @tenant_id and r.id = a.run_id and r.status = 'acting')
      and not (a.updates and o.state = 'intended' and exists (
          select from sluice.actions b where b.tenant_id = @tenant_id and b.target = a.target and b.kind = a.kind and b.updates and b.id <> a.id
            and (b.state = 'in_flight' or b.state = 'intended' and b.id < a.id)))
      and exists (select from sluice.tenants t where t.tenant_id = @tenant_id and t.status = 'active')
    returning ` + actionColumns + `, o.state as was),
tried as (
    insert into sluice.action_attempts (tenant_id, action_id, attempt) select tenant_id, id, attempt from claimed on conflict do nothing)
select ` + actionColumns + `, a.was from claimed a`

// actionsTargetLockSQL lets those that claim actions on the same targets come one after another, up to their commits. In an order, since two may want the
// same two.
const actionsTargetLockSQL = `
select count(pg_advisory_xact_lock(hashtextextended(@tenant_id::uuid || t.target, 0)))::int
from (select distinct a.kind || ' ' || a.target as target from sluice.actions a where a.tenant_id = @tenant_id and a.id = any(@ids) order by 1) t`

// actionsYieldSQL puts back those that another transaction was quicker than: what it claimed is seen now, and was not when these were claimed.
const actionsYieldSQL = `
update sluice.actions a set state = 'intended', lease_until = null, attempt = a.attempt - 1, until = now() + interval '1 second', updated_at = now(),
    first_sent_at = case when a.attempt > 1 then a.first_sent_at end
where a.tenant_id = @tenant_id and a.id = any(@ids) and exists (
    select from sluice.actions b where b.tenant_id = @tenant_id and b.target = a.target and b.kind = a.kind and b.updates and b.id <> a.id
      and b.state = 'in_flight' and (b.id < a.id or b.id <> all (@ids)))
returning a.id`

// actionsPreviousSQL finds what is to be changed: the last effect of the same automation on the same target.
const actionsPreviousSQL = `
select a.id, p.receipt
from sluice.actions a join sluice.runs r on r.tenant_id = @tenant_id and r.id = a.run_id
cross join lateral (
    select b.receipt from sluice.actions b join sluice.runs s on s.tenant_id = @tenant_id and s.id = b.run_id
    where b.tenant_id = @tenant_id and b.target = a.target and b.kind = a.kind and b.updates and b.state = 'confirmed' and s.automation_id = r.automation_id
    order by b.id desc limit 1) p
where a.tenant_id = @tenant_id and a.id = any(@ids) and a.updates`

type actionPrevious struct {
	ID      uuid.UUID
	Receipt json.RawMessage
}

const runsOfSQL = `select ` + runColumns + ` from sluice.runs r where r.tenant_id = @tenant_id and r.id = any(@ids)`

// eventTime is when an event came.
type eventTime struct {
	ID         uuid.UUID
	ReceivedAt time.Time
}

const eventTimesSQL = `select e.id, e.received_at from sluice.events e where e.tenant_id = @tenant_id and e.id = any(@ids)`

// actionsYield gives back those of the claimed ones that change a target which another transaction's change is on its way to.
func (tx TenantTx) actionsYield(ctx context.Context, claimed []actionClaimed, ids []uuid.UUID) ([]actionClaimed, error) {
	if len(ids) == 0 {
		return claimed, nil
	}
	if _, err := value[int](ctx, tx.tx, actionsTargetLockSQL, tx.with(args{"ids": ids})); err != nil {
		return nil, err
	}
	yielded, err := values[uuid.UUID](ctx, tx.tx, actionsYieldSQL, tx.with(args{"ids": ids}))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(claimed, func(a actionClaimed) bool { return slices.Contains(yielded, a.ID) }), nil
}

// ActionsClaim takes those of the actions that may be taken, marks them as in flight, and reads what their work needs. What is missing in the answer is
// not due, or another worker has it, or it has ended.
func (tx TenantTx) ActionsClaim(ctx context.Context, ids []uuid.UUID, lease time.Duration) ([]ActionHeld, error) {
	claimed, err := many[actionClaimed](ctx, tx.tx, actionsClaimSQL, tx.with(args{"ids": ids, "lease": lease}))
	if err != nil || len(claimed) == 0 {
		return nil, err
	}
	var updates, intended []uuid.UUID
	for _, a := range claimed {
		if a.Updates && a.Was == ActionIntended {
			intended = append(intended, a.ID)
		}
	}
	if claimed, err = tx.actionsYield(ctx, claimed, intended); err != nil || len(claimed) == 0 {
		return nil, err
	}
	runIDs := make([]uuid.UUID, len(claimed))
	for i, a := range claimed {
		runIDs[i] = a.RunID
		if a.Updates {
			updates = append(updates, a.ID)
		}
	}
	runs, err := many[Run](ctx, tx.tx, runsOfSQL, tx.with(args{"ids": runIDs}))
	if err != nil {
		return nil, err
	}
	byID, events := map[uuid.UUID]Run{}, make([]uuid.UUID, len(runs))
	for i, r := range runs {
		byID[r.ID], events[i] = r, r.EventID
	}
	times, err := many[eventTime](ctx, tx.tx, eventTimesSQL, tx.with(args{"ids": events}))
	if err != nil {
		return nil, err
	}
	came := map[uuid.UUID]time.Time{}
	for _, e := range times {
		came[e.ID] = e.ReceivedAt
	}
	before := map[uuid.UUID]json.RawMessage{}
	if len(updates) > 0 {
		found, err := many[actionPrevious](ctx, tx.tx, actionsPreviousSQL, tx.with(args{"ids": updates}))
		if err != nil {
			return nil, err
		}
		for _, one := range found {
			before[one.ID] = one.Receipt
		}
	}
	out := make([]ActionHeld, len(claimed))
	for i, a := range claimed {
		run := byID[a.RunID]
		out[i] = ActionHeld{Action: a.Action, Was: a.Was, Run: run, ReceivedAt: came[run.EventID], Previous: before[a.ID]}
	}
	return out, nil
}

// Confirmation is an effect that its target took.
type Confirmation struct {
	Action  Action
	Status  int // the target's
	Receipt json.RawMessage
}

// actionsConfirmSQL ends the action, its try and its run in one statement.
const actionsConfirmSQL = `
with given as materialized (
    select * from unnest(@ids::uuid[], @epochs::bigint[], @runs::uuid[], @attempts::int[], @statuses::int[], @receipts::text[])
        as g (id, epoch, run_id, attempt, status, receipt)),
confirmed as (
    update sluice.actions a set state = 'confirmed', reason = '', detail = '', until = null, lease_until = null, receipt = g.receipt::jsonb,
        ended_at = now(), updated_at = now()
    from given g where a.tenant_id = @tenant_id and a.id = g.id and a.epoch = g.epoch and a.ended_at is null
    returning a.id),
tried as (
    update sluice.action_attempts t set ended_at = clock_timestamp(), status = g.status, reason = '', detail = ''
    from given g where t.tenant_id = @tenant_id and t.action_id = g.id and t.attempt = g.attempt),
acted as (
    update sluice.runs r set status = 'done', reason = '', detail = '', until = null, finished_at = now(), updated_at = now()
    from given g where r.tenant_id = @tenant_id and r.id = g.run_id and r.status = 'acting'
    returning r.id)
select (select count(*) from confirmed)::int as confirmed, (select count(*) from acted)::int as acted`

type confirmed struct{ Confirmed, Acted int }

// ActionsConfirm keeps that the targets took effects, and ends their runs. ErrStale: one of the actions is no longer its worker's, or one of the runs
// was cancelled meanwhile.
func (tx TenantTx) ActionsConfirm(ctx context.Context, all []Confirmation) error {
	var ids, runs pgtype.FlatArray[pgtype.UUID]
	var epochs []int64
	var attempts, statuses []int32
	var receipts []*string
	for _, c := range all {
		ids, runs, epochs = append(ids, bits(c.Action.ID)), append(runs, bits(c.Action.RunID)), append(epochs, c.Action.Epoch)
		attempts, statuses, receipts = append(attempts, int32(c.Action.Attempt)), append(statuses, int32(c.Status)), append(receipts, textOrNull(c.Receipt))
	}
	row, err := one[confirmed](ctx, tx.tx, actionsConfirmSQL, tx.with(args{
		"ids": ids, "runs": runs, "epochs": epochs, "attempts": attempts, "statuses": statuses, "receipts": receipts,
	}))
	if err == nil && (row.Confirmed != len(all) || row.Acted != len(all)) {
		return ErrStale
	}
	return err
}
