package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ofLatest are the runs that a run of OrderLatest is held against: those of the SAME automation and entity, and so of events that its when took
// too. Another automation's runs do not count: else an issues.labeled that comes a second after it would silence the triage of an
// issues.opened. A cancelled run does not count either: nobody sees to its event.
const ofLatest = `r.tenant_id = @tenant_id and r.automation_id = @automation_id and r.entity = @entity and r.ordering = 'latest'
    and r.status <> 'cancelled'`

// afterLatest and beforeLatest compare by the time of the event, then by the source's own number, then by receipt.
const (
	afterLatest  = ` and (r.ordered_at, r.order_sequence, r.event_id) > (@ordered_at, @order_sequence, @event_id)`
	beforeLatest = ` and (r.ordered_at, r.order_sequence, r.event_id) < (@ordered_at, @order_sequence, @event_id)`
)

// wentOn says of a run of OrderLatest that it was taken up, and not skipped for a newer one.
const wentOn = ` and r.started_at is not null and not (r.status = 'skipped' and r.reason in ('order.folded', 'order.stale'))`

const runNewerSQL = `
select n.event_id, n.created_at,
    (select r.created_at from sluice.runs r where ` + ofLatest + afterLatest + `
     order by r.ordered_at, r.order_sequence, r.event_id limit 1) as next_created_at
from (select r.event_id, r.created_at from sluice.runs r where ` + ofLatest + afterLatest + `
      order by r.ordered_at desc, r.order_sequence desc, r.event_id desc limit 1) n`

// Newer is the newest run that makes an older one superfluous.
type Newer struct {
	EventID   uuid.UUID
	CreatedAt time.Time
	// NextCreatedAt is when the run came that stands right after the older one.
	NextCreatedAt time.Time
}

// RunNewer finds the newest run of the automation and entity of r that is newer than r. ErrNotFound: r is the newest.
func (tx TenantTx) RunNewer(ctx context.Context, r Run) (Newer, error) {
	return one[Newer](ctx, tx.tx, runNewerSQL, tx.place(r, args{"automation_id": r.AutomationID}))
}

const runLatestLockSQL = `
select pg_advisory_xact_lock(hashtextextended('latest ' || @tenant_id::uuid || ' ' || @automation_id::uuid || ' ' || @entity::text, 0))`

// runBurstSQL finds the first run that was folded since the last one that was not. How long ago it was folded counts, not how old it was:
// after an outage everything is old, and must fold all the more.
const runBurstSQL = `
with last as materialized (
    select r.ordered_at, r.order_sequence, r.event_id from sluice.runs r where ` + ofLatest + beforeLatest + wentOn + `
    order by r.ordered_at desc, r.order_sequence desc, r.event_id desc limit 1
), since as materialized (
    select coalesce(l.ordered_at, '-infinity') as ordered_at, coalesce(l.order_sequence, 0) as order_sequence,
        coalesce(l.event_id, '00000000-0000-0000-0000-000000000000') as event_id
    from (values (1)) one left join last l on true)
select coalesce(extract(epoch from now() - min(r.finished_at)), 0)::float8 as folding_seconds,
    exists (select from sluice.runs r where ` + ofLatest + afterLatest + wentOn + `) as overtaken,
    (select e.settings from sluice.endpoints e where e.tenant_id = @tenant_id and e.id = @endpoint_id) as settings
from sluice.runs r
where ` + ofLatest + beforeLatest + ` and r.status = 'skipped' and r.reason = 'order.folded'
  and (r.ordered_at, r.order_sequence, r.event_id)
      > ((select ordered_at from since), (select order_sequence from since), (select event_id from since))`

// Burst is what was folded of an entity since one of its runs went on.
type Burst struct {
	FoldingSeconds float64
	// Overtaken says that a newer run has been taken up already.
	Overtaken bool
	Settings  json.RawMessage
}

// A steady stream is let through once in so many windows, and no more often than this.
const (
	burstWindows = 10
	burstMin     = 30 * time.Second
)

// TooLong says whether a burst has been folded for so long that a run of it is to go on.
func (b Burst) TooLong() bool {
	fields := map[string]json.RawMessage{}
	_ = json.Unmarshal(b.Settings, &fields) // checked when they were kept; without them the least holds
	order, _ := ParseOrder(fields)
	limit := max(burstWindows*order.Window, burstMin)
	return !b.Overtaken && b.FoldingSeconds >= limit.Seconds()
}

// RunBurst reads the burst that r stands in. Until the end of the transaction no other run of the automation and entity is asked so: of many
// that are claimed at once, one goes on.
func (tx TenantTx) RunBurst(ctx context.Context, r Run) (Burst, error) {
	var batch pgx.Batch
	batch.Queue(runLatestLockSQL, tx.with(args{"automation_id": r.AutomationID, "entity": r.Entity}))
	batch.Queue(runBurstSQL, tx.place(r, args{"automation_id": r.AutomationID, "endpoint_id": r.EndpointID}))
	results := tx.tx.SendBatch(ctx, &batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return Burst{}, translate(err)
	}
	rows, err := next[Burst](results)
	if err != nil {
		return Burst{}, err
	}
	if len(rows) == 0 {
		return Burst{}, ErrNotFound
	}
	return rows[0], nil
}
