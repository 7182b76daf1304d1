package db

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// One run of an entity at a time, in order. A run holds its entity from the claim that finds nothing in front of it (started_at) to its end
// (finished_at); one that finds something in front waits as ReasonBehind, without a job and without started_at, until whoever is in front ends
// and hands over. Both decide under one lock of the entity (serialLockSQL), so that no hand-over is lost between them.
//
// Locks are taken in one order, so that nobody waits in a circle: one's own run, then the entity, then another run, and that one only if it
// is free (skip locked: whoever holds it is about to end it, and hands over itself).

const serialLockSQL = `
select pg_advisory_xact_lock(hashtextextended('serial ' || @tenant_id::uuid || ' ' || @endpoint_id::uuid || ' ' || @entity::text, 0))`

// ofSerial are the runs of an entity that may stand in the way, over all automations of the endpoint; the last condition is the index's.
const ofSerial = `r.tenant_id = @tenant_id and r.endpoint_id = @endpoint_id and r.entity = @entity and r.ordering = 'serial'
    and (r.finished_at is null or r.status = 'dead')`

// inTheWay leaves out dead runs where the endpoint lets them pass, as it says today. Another order of the endpoint has no order_dead.
const inTheWay = ` and (r.finished_at is null
    or (select e.settings ->> 'order_dead' = 'block' from sluice.endpoints e where e.tenant_id = @tenant_id and e.id = @endpoint_id))`

// started holds the entity.
const started = ` and r.finished_at is null and r.started_at is not null`

// serialKey is the index's, and serialPlace the order of it; two runs of one event and automation stand by their ids.
const (
	serialKey   = `r.ordered_at, r.order_sequence, r.event_id, r.automation_id`
	serialPlace = serialKey + `, r.id`
)

// runFrontSQL looks for an earlier run first, which is at the beginning of the index wherever there is one; then for one that has begun
// although it is later: it was alone when it began. A run that was handed the turn need not look so far: whoever began since stands before it.
const runFrontSQL = `
select f.id, f.event_id, f.status from (
    (select r.id, r.event_id, r.status from sluice.runs r
     where ` + ofSerial + inTheWay + `
       and (` + serialPlace + `) < (@ordered_at, @order_sequence, @event_id, @automation_id, @id)
     order by ` + serialKey + ` limit 1)
    union all
    (select r.id, r.event_id, r.status from sluice.runs r where not @turn::bool and ` + ofSerial + started + ` and r.id <> @id limit 1)) f
limit 1`

// Front is the run that another waits for.
type Front struct {
	ID      uuid.UUID
	EventID uuid.UUID
	Status  RunStatus
}

// RunFront says what a run of OrderSerial that was just claimed must wait for: an earlier run of its entity that has not ended, or one that is
// being worked on. ErrNotFound: nothing. A run that has begun holds its entity, and waits for nobody.
func (tx TenantTx) RunFront(ctx context.Context, r Run) (Front, error) {
	if r.StartedAt != nil && !r.StartedAt.Equal(r.UpdatedAt) { // both are the time of the claim where it is the first
		return Front{}, ErrNotFound
	}
	var batch pgx.Batch
	batch.Queue(serialLockSQL, tx.with(args{"endpoint_id": r.EndpointID, "entity": r.Entity}))
	batch.Queue(runFrontSQL, tx.place(r, args{"endpoint_id": r.EndpointID, "automation_id": r.AutomationID, "id": r.ID, "turn": r.Reason == ReasonTurn}))
	results := tx.tx.SendBatch(ctx, &batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return Front{}, translate(err)
	}
	rows, err := next[Front](results)
	if err != nil {
		return Front{}, err
	}
	if len(rows) == 0 {
		return Front{}, ErrNotFound
	}
	return rows[0], nil
}

const runBehindSQL = `
update sluice.runs set status = 'waiting', reason = 'order.behind', detail = @detail, until = null, attempt = attempt - 1, lease_until = null,
    started_at = null, updated_at = now()
where tenant_id = @tenant_id and id = @id and epoch = @epoch and status = 'running'`

// RunBehind lets a claimed run wait for its turn, without a time. It has not begun, and has spent no attempt.
func (tx TenantTx) RunBehind(ctx context.Context, r Run, detail string) error {
	return touched(run(ctx, tx.tx, runBehindSQL, tx.with(args{"id": r.ID, "epoch": r.Epoch, "detail": detail})))
}

// runHandOverSQL wakes the first run of an entity if it waits for its turn and nobody is at work. Where the one that ended held the entity,
// nobody can be.
const runHandOverSQL = `
update sluice.runs set status = 'queued', reason = 'order.turn', detail = 'What it waited for is over: it is its turn.', until = null,
    updated_at = now()
where tenant_id = @tenant_id and id = (
    select w.id from sluice.runs w
    where w.tenant_id = @tenant_id and w.status = 'waiting' and w.reason = 'order.behind' and w.id = (
        select r.id from sluice.runs r where ` + ofSerial + inTheWay + ` order by ` + serialPlace + ` limit 1)
      and (@held::bool or not exists (select from sluice.runs r where ` + ofSerial + started + `))
    for update skip locked)
returning id`

// RunHandOver lets the next run of the entity of r go on, where r, as it was before, is of OrderSerial and has ended in this transaction. The
// caller adds a job for the run that is returned. ErrNotFound: there is none that waits for its turn, or something else is in front of it.
func (tx TenantTx) RunHandOver(ctx context.Context, r Run) (uuid.UUID, error) {
	var batch pgx.Batch
	batch.Queue(serialLockSQL, tx.with(args{"endpoint_id": r.EndpointID, "entity": r.Entity}))
	batch.Queue(runHandOverSQL, tx.with(args{
		"endpoint_id": r.EndpointID, "entity": r.Entity, "held": r.StartedAt != nil && !r.Status.Ended(),
	}))
	results := tx.tx.SendBatch(ctx, &batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return uuid.Nil, translate(err)
	}
	rows, err := results.Query()
	if err != nil {
		return uuid.Nil, translate(err)
	}
	id, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[uuid.UUID])
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, ErrNotFound
	}
	return id, translate(err)
}

// runLinesSQL draws tenants with runs that wait for their turn, which alone wait without a time; none is left out for ever.
const runLinesSQL = `
select tenant_id from (
    select distinct tenant_id from sluice.runs
    where finished_at is null and status = 'waiting' and until is null and updated_at < now() - @grace::interval) waiting
order by random() limit @limit`

// RunLines finds tenants whose runs have waited for their turn for a while.
func (tx SystemTx) RunLines(ctx context.Context, grace time.Duration, limit int) ([]uuid.UUID, error) {
	return values[uuid.UUID](ctx, tx.tx, runLinesSQL, args{"grace": grace, "limit": limit})
}

// runForgottenSQL goes over the lines of a tenant, and looks at the beginning of each.
const runForgottenSQL = `
select ` + runColumns + `
from (select distinct w.endpoint_id, w.entity from sluice.runs w
      where w.tenant_id = @tenant_id and w.status = 'waiting' and w.ordering = 'serial' and w.reason = 'order.behind') line
join sluice.runs r on r.tenant_id = @tenant_id and r.id = (
    select o.id from sluice.runs o
    where o.tenant_id = @tenant_id and o.endpoint_id = line.endpoint_id and o.entity = line.entity and o.ordering = 'serial'
      and (o.finished_at is null or o.status = 'dead')
      and (o.finished_at is null
           or (select e.settings ->> 'order_dead' = 'block' from sluice.endpoints e where e.tenant_id = @tenant_id and e.id = line.endpoint_id))
    order by o.ordered_at, o.order_sequence, o.event_id, o.automation_id, o.id limit 1)
where r.status = 'waiting' and r.reason = 'order.behind' and r.updated_at < now() - @grace::interval
  and not exists (select from sluice.runs s where s.tenant_id = @tenant_id and s.endpoint_id = r.endpoint_id and s.entity = r.entity
                  and s.ordering = 'serial' and (s.finished_at is null or s.status = 'dead') and s.finished_at is null and s.started_at is not null)
limit @limit`

// RunForgotten finds runs that wait for their turn although nothing is in front of them any more: the endpoint's settings were changed, or
// what was in front vanished without a word.
func (tx TenantTx) RunForgotten(ctx context.Context, grace time.Duration, limit int) ([]Run, error) {
	return many[Run](ctx, tx.tx, runForgottenSQL, tx.with(args{"grace": grace, "limit": limit}))
}
