package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// The kinds, modes and statuses of a replay.
const (
	KindReplay   = "replay"
	KindBacktest = "backtest"

	ReplayRun        = "run"         // a new run, with all that follows
	ReplayFromAction = "from_action" // the effect alone: no model is asked
	ReplayShadow     = "shadow"      // a new run of which nothing leaves

	ReplayRunning   = "running"
	ReplayDone      = "done"
	ReplayCancelled = "cancelled"
	ReplayStopped   = "stopped" // at its ceiling of money

	ItemPending = "pending"
	ItemStarted = "started"
	ItemSkipped = "skipped"
)

// Replay is work that a person asked for on events that were stored before.
type Replay struct {
	TenantID uuid.UUID
	ID       uuid.UUID
	Kind     string
	Mode     string
	Status   string
	Reason   string
	Detail   string
	// Asked is what was asked for, as JSON.
	Asked json.RawMessage
	// AutomationID and AutomationVersion are the draft of a backtest.
	AutomationID      *uuid.UUID
	AutomationVersion *int
	// Forced makes effects again that were made before.
	Forced      bool
	PerSecond   float64
	MaxCostPico *int64
	// Items is how many there are; those up to Position have begun, the last at PacedAt.
	Items        int
	EstimatePico int64
	WorstPico    int64
	Position     int
	PacedAt      *time.Time
	CreatedBy    *uuid.UUID
	CreatedAt    time.Time
	UpdatedAt    time.Time
	FinishedAt   *time.Time
}

const replayColumns = `p.tenant_id, p.id, p.kind, p.mode, p.status, p.reason, p.detail, p.asked, p.automation_id, p.automation_version, p.forced, p.per_second,
    p.max_cost_pico, p.items, p.estimate_pico, p.worst_pico, p.position, p.paced_at, p.created_by, p.created_at, p.updated_at, p.finished_at`

// ReplayItem is one automation on one event, to be done again.
type ReplayItem struct {
	Position     int
	EventID      uuid.UUID
	AutomationID uuid.UUID
	// RunID is the run that it repeats or is compared with, NewRunID the one that it became.
	RunID    *uuid.UUID
	NewRunID *uuid.UUID
	State    string
	Reason   string
	Detail   string
}

const replayItemColumns = `i.position, i.event_id, i.automation_id, i.run_id, i.new_run_id, i.state, i.reason, i.detail`

const replayInsertSQL = `
insert into sluice.replays (tenant_id, id, kind, mode, asked, automation_id, automation_version, forced, per_second, max_cost_pico, items, estimate_pico, worst_pico, created_by)
values (@tenant_id, @id, @kind, @mode, @asked, @automation_id, @automation_version, @forced, @per_second, @max_cost_pico, @items, @estimate_pico, @worst_pico, @created_by)
on conflict do nothing`

const replayItemsInsertSQL = `
insert into sluice.replay_items (tenant_id, replay_id, position, event_id, automation_id, run_id)
select @tenant_id, @replay_id, i.position, i.event_id, i.automation_id, i.run_id
from unnest(@events::uuid[], @automations::uuid[], @runs::uuid[]) with ordinality as i (event_id, automation_id, run_id, position)`

// ReplayInsert keeps a replay with its items, in their order. ErrConflict: there is one of this id, which can be read now; the transaction goes on.
func (tx TenantTx) ReplayInsert(ctx context.Context, r Replay, items []ReplayItem) error {
	if n, err := run(ctx, tx.tx, replayInsertSQL, tx.with(args{
		"id": r.ID, "kind": r.Kind, "mode": r.Mode, "asked": r.Asked, "automation_id": r.AutomationID, "automation_version": r.AutomationVersion,
		"forced": r.Forced, "per_second": r.PerSecond, "max_cost_pico": r.MaxCostPico, "items": len(items), "estimate_pico": r.EstimatePico,
		"worst_pico": r.WorstPico, "created_by": r.CreatedBy,
	})); err != nil {
		return err
	} else if n == 0 {
		return ErrConflict
	}
	var events, automations, runs pgtype.FlatArray[pgtype.UUID]
	for _, i := range items {
		events, automations, runs = append(events, bits(i.EventID)), append(automations, bits(i.AutomationID)), append(runs, bitsOrNull(i.RunID))
	}
	_, err := run(ctx, tx.tx, replayItemsInsertSQL, tx.with(args{"replay_id": r.ID, "events": events, "automations": automations, "runs": runs}))
	return err
}

const replayGetSQL = `select ` + replayColumns + ` from sluice.replays p where p.tenant_id = @tenant_id and p.id = @id`

// ReplayGet reads a replay.
func (tx TenantTx) ReplayGet(ctx context.Context, id uuid.UUID) (Replay, error) {
	return one[Replay](ctx, tx.tx, replayGetSQL, tx.with(args{"id": id}))
}

const replayListSQL = `
select ` + replayColumns + ` from sluice.replays p
where p.tenant_id = @tenant_id and (@before::uuid is null
    or (p.created_at, p.id) < (select b.created_at, b.id from sluice.replays b where b.tenant_id = @tenant_id and b.id = @before))
order by p.created_at desc, p.id desc limit @limit`

// ReplayList lists replays, newest first. Their ids do not say when they were made: a caller may choose them.
func (tx TenantTx) ReplayList(ctx context.Context, p Page) ([]Replay, error) {
	a := args{"before": nil, "limit": p.Limit}
	if p.Before != uuid.Nil {
		a["before"] = p.Before
	}
	return many[Replay](ctx, tx.tx, replayListSQL, tx.with(a))
}

// Try runs fn within a savepoint: where it fails, what it wrote is undone, and the transaction goes on.
func (tx TenantTx) Try(ctx context.Context, fn func(TenantTx) error) error {
	inner, err := tx.tx.Begin(ctx)
	if err != nil {
		return translate(err)
	}
	within := tx
	within.tx = inner
	if err := fn(within); err != nil {
		if fault := inner.Rollback(ctx); fault != nil {
			return translate(fault)
		}
		return translate(err)
	}
	return translate(inner.Commit(ctx))
}

// ReplayItemSeen is an item with the run that it repeats and the one that it became.
type ReplayItemSeen struct {
	ReplayItem
	OldStatus, OldReason string
	OldOutput            json.RawMessage
	OldCostPico          int64
	NewStatus, NewReason string
	NewOutput            json.RawMessage
	NewCostPico          int64
}

const replayItemListSQL = `
select ` + replayItemColumns + `, coalesce(o.status, '') as old_status, coalesce(o.reason, '') as old_reason, o.output as old_output, coalesce(o.cost_pico, 0) as old_cost_pico,
    coalesce(n.status, '') as new_status, coalesce(n.reason, '') as new_reason, n.output as new_output, coalesce(n.cost_pico, 0) as new_cost_pico
from sluice.replay_items i
left join sluice.runs o on o.tenant_id = i.tenant_id and o.id = i.run_id
left join sluice.runs n on n.tenant_id = i.tenant_id and n.id = i.new_run_id
where i.tenant_id = @tenant_id and i.replay_id = @replay_id and i.position > @after order by i.position limit @limit`

// ReplayItemList lists the items of a replay behind a position, in order.
func (tx TenantTx) ReplayItemList(ctx context.Context, replayID uuid.UUID, after, limit int) ([]ReplayItemSeen, error) {
	return many[ReplayItemSeen](ctx, tx.tx, replayItemListSQL, tx.with(args{"replay_id": replayID, "after": after, "limit": limit}))
}

// ReplayCount is how many items of a replay stand alike, and what their runs have cost.
type ReplayCount struct {
	State string
	// Reason is why items were skipped; Status is that of the new runs, and StatusReason of those that are dead.
	Reason       string
	Status       string
	StatusReason string
	Items        int
	NewCost      int64
	OldCost      int64
	// OldSchema counts those whose old run died of its answer's shape; Same those whose outputs are the same.
	OldSchema int
	Same      int
}

const replayCountsSQL = `
select i.state, i.reason, coalesce(n.status, '') as status, case when n.status = 'dead' then n.reason else '' end as status_reason, count(*)::int as items,
    coalesce(sum(n.cost_pico) filter (where n.id is distinct from i.run_id), 0)::bigint as new_cost, coalesce(sum(o.cost_pico), 0)::bigint as old_cost,
    (count(*) filter (where o.reason = 'output.schema'))::int as old_schema,
    (count(*) filter (where n.id is distinct from o.id and n.output = o.output))::int as same
from sluice.replay_items i
left join sluice.runs n on n.tenant_id = i.tenant_id and n.id = i.new_run_id
left join sluice.runs o on o.tenant_id = i.tenant_id and o.id = i.run_id
where i.tenant_id = @tenant_id and i.replay_id = @replay_id group by 1, 2, 3, 4 order by 1, 2, 3, 4`

// ReplayCounts counts the items of a replay.
func (tx TenantTx) ReplayCounts(ctx context.Context, replayID uuid.UUID) ([]ReplayCount, error) {
	return many[ReplayCount](ctx, tx.tx, replayCountsSQL, tx.with(args{"replay_id": replayID}))
}

const replaysDueSQL = `
select p.tenant_id, p.id from sluice.replays p join sluice.tenants t on t.tenant_id = p.tenant_id
where p.finished_at is null and t.status = 'active' order by p.updated_at limit @limit`

// ReplaysDue finds replays of all tenants that have not ended, those first that nobody has looked at for longest.
func (tx SystemTx) ReplaysDue(ctx context.Context, limit int) ([]Stranded, error) {
	return many[Stranded](ctx, tx.tx, replaysDueSQL, args{"limit": limit})
}

const replayLockSQL = `
select ` + replayColumns + ` from sluice.replays p where p.tenant_id = @tenant_id and p.id = @id and p.finished_at is null for update skip locked`

// ReplayLock takes a replay that has not ended, for this transaction. ErrNotFound: it has, or another worker has it.
func (tx TenantTx) ReplayLock(ctx context.Context, id uuid.UUID) (Replay, error) {
	return one[Replay](ctx, tx.tx, replayLockSQL, tx.with(args{"id": id}))
}

const replayNextSQL = `
select ` + replayItemColumns + ` from sluice.replay_items i
where i.tenant_id = @tenant_id and i.replay_id = @replay_id and i.position > @after and i.state = 'pending' order by i.position limit @limit`

// ReplayNext reads the items that have not begun, in order.
func (tx TenantTx) ReplayNext(ctx context.Context, r Replay, limit int) ([]ReplayItem, error) {
	return many[ReplayItem](ctx, tx.tx, replayNextSQL, tx.with(args{"replay_id": r.ID, "after": r.Position, "limit": limit}))
}

const replayItemStepSQL = `
update sluice.replay_items set state = @state, reason = @reason, detail = @detail, run_id = coalesce(@run_id, run_id), new_run_id = @new_run_id
where tenant_id = @tenant_id and replay_id = @replay_id and position = @position and state = 'pending'`

// ReplayItemStep keeps what became of an item. ErrStale: it has begun already.
func (tx TenantTx) ReplayItemStep(ctx context.Context, replayID uuid.UUID, i ReplayItem) error {
	return touched(run(ctx, tx.tx, replayItemStepSQL, tx.with(args{
		"replay_id": replayID, "position": i.Position, "state": i.State, "reason": i.Reason, "detail": i.Detail, "run_id": i.RunID, "new_run_id": i.NewRunID,
	})))
}

const replayAdvanceSQL = `
update sluice.replays set position = @position, paced_at = coalesce(@paced_at, paced_at), updated_at = now()
where tenant_id = @tenant_id and id = @id and finished_at is null`

// ReplayAdvance keeps how far a replay is, and when it last began something; nil leaves that as it is.
func (tx TenantTx) ReplayAdvance(ctx context.Context, id uuid.UUID, position int, pacedAt *time.Time) error {
	return touched(run(ctx, tx.tx, replayAdvanceSQL, tx.with(args{"id": id, "position": position, "paced_at": pacedAt})))
}

const replayTouchSQL = `update sluice.replays set updated_at = now() where tenant_id = @tenant_id and id = @id and finished_at is null`

// ReplayTouch says that a replay was looked at, so that others come before it.
func (tx TenantTx) ReplayTouch(ctx context.Context, id uuid.UUID) error {
	_, err := run(ctx, tx.tx, replayTouchSQL, tx.with(args{"id": id}))
	return err
}

const replayEndSQL = `
update sluice.replays set status = @status, reason = @reason, detail = @detail, finished_at = now(), updated_at = now()
where tenant_id = @tenant_id and id = @id and finished_at is null`

const replayRestSQL = `
update sluice.replay_items set state = 'skipped', reason = @reason, detail = @detail
where tenant_id = @tenant_id and replay_id = @id and state = 'pending'`

// ReplayEnd ends a replay, and skips what has not begun. ErrStale: it has ended.
func (tx TenantTx) ReplayEnd(ctx context.Context, id uuid.UUID, status, reason, detail string) error {
	a := tx.with(args{"id": id, "status": status, "reason": reason, "detail": detail})
	if err := touched(run(ctx, tx.tx, replayEndSQL, a)); err != nil {
		return err
	}
	_, err := run(ctx, tx.tx, replayRestSQL, tx.with(args{"id": id, "reason": reason, "detail": detail}))
	return err
}

const replayRunsOpenSQL = `
select ` + runColumns + ` from sluice.runs r
where r.tenant_id = @tenant_id and r.replay_id = @replay_id and r.status in ('queued', 'waiting', 'held') order by r.id`

// ReplayRunsOpen reads the runs that a replay has made and that nobody works on yet.
func (tx TenantTx) ReplayRunsOpen(ctx context.Context, replayID uuid.UUID) ([]Run, error) {
	return many[Run](ctx, tx.tx, replayRunsOpenSQL, tx.with(args{"replay_id": replayID}))
}

// RunAgain is a run to be made once more.
type RunAgain struct {
	EventID           uuid.UUID
	AutomationID      uuid.UUID
	AutomationVersion int
	Mode              string
	Purpose           string
	ReplayID          uuid.UUID
	Forced            bool
	AttemptsMax       int
	OverLimit         string
	// Order, if not nil, is the run whose place among those of its entity it takes.
	Order *Run
}

const runAgainSQL = `
insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, generation, mode, priority, ordering, entity, ordered_at,
    order_sequence, attempts_max, over_limit, purpose, replay_id, forced)
select @tenant_id, @id, e.id, e.endpoint_id, @automation_id, @version, (
        select coalesce(max(r.generation), 0) + 1 from sluice.runs r where r.tenant_id = @tenant_id and r.event_id = e.id and r.automation_id = @automation_id),
    @mode, 'routine', coalesce(@ordering, 'none'), e.entity, coalesce(@ordered_at, e.occurred_at, e.received_at), coalesce(@order_sequence, e.sequence, 0),
    @attempts_max, @over_limit, @purpose, @replay_id, @forced
from sluice.events e where e.tenant_id = @tenant_id and e.id = @event_id`

// RunInsertAgain makes another run of an automation on an event. The caller adds its job in the same transaction. ErrNotFound: there is no such event.
// ErrConflict: another replay makes one at this moment.
func (tx TenantTx) RunInsertAgain(ctx context.Context, id uuid.UUID, a RunAgain) error {
	in := args{
		"id": id, "event_id": a.EventID, "automation_id": a.AutomationID, "version": a.AutomationVersion, "mode": a.Mode, "purpose": a.Purpose,
		"replay_id": a.ReplayID, "forced": a.Forced, "attempts_max": a.AttemptsMax, "over_limit": a.OverLimit,
		"ordering": nil, "ordered_at": nil, "order_sequence": nil,
	}
	if a.Order != nil {
		in["ordering"], in["ordered_at"], in["order_sequence"] = a.Order.Ordering, a.Order.OrderedAt, a.Order.OrderSequence
	}
	return found(run(ctx, tx.tx, runAgainSQL, tx.with(in)))
}

const runsOfEventSQL = `
select ` + runColumns + ` from sluice.runs r
where r.tenant_id = @tenant_id and r.event_id = @event_id and r.automation_id = @automation_id order by r.generation desc`

// RunsOfEvent reads the runs of an automation on an event, newest first.
func (tx TenantTx) RunsOfEvent(ctx context.Context, eventID, automationID uuid.UUID) ([]Run, error) {
	return many[Run](ctx, tx.tx, runsOfEventSQL, tx.with(args{"event_id": eventID, "automation_id": automationID}))
}

const effectMadeSQL = `
select exists (select from sluice.actions a join sluice.runs r on r.tenant_id = @tenant_id and r.id = a.run_id
    where a.tenant_id = @tenant_id and r.event_id = @event_id and r.automation_id = @automation_id and a.state in ('intended', 'in_flight', 'confirmed', 'unknown'))`

// EffectMade says whether an effect of an automation on an event was made, may have been, or is on its way.
func (tx TenantTx) EffectMade(ctx context.Context, eventID, automationID uuid.UUID) (bool, error) {
	return value[bool](ctx, tx.tx, effectMadeSQL, tx.with(args{"event_id": eventID, "automation_id": automationID}))
}

const runCostMeanSQL = `
select coalesce(avg(cost_pico), -1)::bigint from (
    select r.cost_pico from sluice.runs r
    where r.tenant_id = @tenant_id and r.automation_id = @automation_id and r.status = 'done' and r.cost_pico > 0 and r.purpose in ('event', 'replay') order by r.id desc limit 200) last`

// RunCostMean is what the last runs of an automation have cost on average, in pico-USD; -1 where none has cost anything.
func (tx TenantTx) RunCostMean(ctx context.Context, automationID uuid.UUID) (int64, error) {
	return value[int64](ctx, tx.tx, runCostMeanSQL, tx.with(args{"automation_id": automationID}))
}

const actionRepeatSQL = `
insert into sluice.actions (tenant_id, id, run_id, kind, key, target, credential_id, effect, state, entity, updates)
select tenant_id, @new_id, run_id, kind, @key, target, credential_id, effect, 'intended', entity, updates
from sluice.actions where tenant_id = @tenant_id and id = @id and state = 'confirmed'`

// ActionRepeat keeps a confirmed action once more, under a key of its own, to be made again. ErrNotFound: it is not confirmed.
func (tx TenantTx) ActionRepeat(ctx context.Context, id, newID uuid.UUID, key string) error {
	return found(run(ctx, tx.tx, actionRepeatSQL, tx.with(args{"id": id, "new_id": newID, "key": key})))
}

const runRepeatSQL = `
update sluice.runs set status = 'acting', reason = @reason, detail = @detail, finished_at = null, updated_at = now()
where tenant_id = @tenant_id and id = @id and status = 'done' and mode <> 'shadow' returning id`

// RunRepeat lets a run that is done act once more. ErrNotFound: it is not done, or is in shadow mode.
func (tx TenantTx) RunRepeat(ctx context.Context, id uuid.UUID, reason, detail string) error {
	_, err := value[uuid.UUID](ctx, tx.tx, runRepeatSQL, tx.with(args{"id": id, "reason": reason, "detail": detail}))
	return err
}

const runsLastSQL = `
select ` + runColumns + ` from sluice.runs r
where r.tenant_id = @tenant_id and r.id in (
    select distinct on (l.event_id) l.id from (
        select s.event_id, s.id from sluice.runs s
        where s.tenant_id = @tenant_id and s.automation_id = @automation_id and s.purpose in ('event', 'replay') and s.finished_at is not null
        order by s.id desc limit 2 * @limit::int) l
    order by l.event_id, l.id desc)
order by r.id desc limit @limit`

// RunsLast reads the last runs of an automation in service that have ended, one of an event, newest first.
func (tx TenantTx) RunsLast(ctx context.Context, automationID uuid.UUID, limit int) ([]Run, error) {
	return many[Run](ctx, tx.tx, runsLastSQL, tx.with(args{"automation_id": automationID, "limit": limit}))
}
