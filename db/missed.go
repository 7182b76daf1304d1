package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// MissedHook is an endpoint whose source lists its deliveries, and how it is asked for the list.
type MissedHook struct {
	TenantID   uuid.UUID
	EndpointID uuid.UUID
	Hook       string // the address of the hook in the source's API
	Credential string // the id of the tenant's credential, as people see it
}

const missedHooksSQL = `
select e.tenant_id, e.id as endpoint_id, e.settings ->> 'redeliver_hook' as hook, coalesce(e.settings ->> 'redeliver_credential_id', '') as credential
from sluice.endpoints e join sluice.tenants t on t.tenant_id = e.tenant_id
where e.source = 'github' and e.deleted_at is null and e.enabled and e.settings ->> 'redeliver_hook' <> '' and t.status = 'active'
  and (e.tenant_id, e.id) > (@tenant_after::uuid, @after::uuid)
order by e.tenant_id, e.id limit @limit`

// MissedHooks lists the endpoints of all tenants whose source can be asked for what never arrived, those of one tenant together, from the one after on.
func (tx SystemTx) MissedHooks(ctx context.Context, after MissedHook, limit int) ([]MissedHook, error) {
	return many[MissedHook](ctx, tx.tx, missedHooksSQL, args{"tenant_after": after.TenantID, "after": after.EndpointID, "limit": limit})
}

// MissedCheck is how far the deliveries of an endpoint have been looked through, and what was wrong the last time.
type MissedCheck struct {
	SeenUntil *time.Time
	Fault     string
}

const missedClaimSQL = `
insert into sluice.missed_checks (tenant_id, endpoint_id) values (@tenant_id, @endpoint_id)
on conflict (tenant_id, endpoint_id) do update set checked_at = now() where sluice.missed_checks.checked_at <= now() - @every::interval
returning seen_until, fault`

// MissedClaim takes the next look at an endpoint's deliveries, if the last one is so long ago; else ErrNotFound. Of workers that try at once one
// gets it, and no lock is held while the source is asked.
func (tx TenantTx) MissedClaim(ctx context.Context, endpointID uuid.UUID, every time.Duration) (MissedCheck, error) {
	return one[MissedCheck](ctx, tx.tx, missedClaimSQL, tx.with(args{"endpoint_id": endpointID, "every": every}))
}

const missedCheckPutSQL = `
insert into sluice.missed_checks (tenant_id, endpoint_id, seen_until, fault) values (@tenant_id, @endpoint_id, @seen_until, @fault)
on conflict (tenant_id, endpoint_id) do update set checked_at = now(), seen_until = coalesce(excluded.seen_until, sluice.missed_checks.seen_until), fault = excluded.fault`

// MissedCheckPut notes how far an endpoint's deliveries have been looked through; a zero seenUntil leaves it where it was.
func (tx TenantTx) MissedCheckPut(ctx context.Context, endpointID uuid.UUID, seenUntil time.Time, fault string) error {
	var seen *time.Time
	if !seenUntil.IsZero() {
		seen = &seenUntil
	}
	_, err := run(ctx, tx.tx, missedCheckPutSQL, tx.with(args{"endpoint_id": endpointID, "seen_until": seen, "fault": fault}))
	return err
}

// MissedEvent is an event that a source sent and that never arrived here.
type MissedEvent struct {
	TenantID      uuid.UUID
	EndpointID    uuid.UUID
	SourceEventID string
	Delivery      string // the source's own name of the delivery, by which it is asked for again
	SentAt        time.Time
	FoundAt       time.Time
	AskedAt       *time.Time
	Asks          int
	ArrivedAt     *time.Time
}

const missedEventColumns = `tenant_id, endpoint_id, source_event_id, delivery, sent_at, found_at, asked_at, asks, arrived_at`

// A row that was inserted has no older version of itself: its xmax is 0.
const missedEventsAddSQL = `
with added as (
    insert into sluice.missed_events (tenant_id, endpoint_id, source_event_id, delivery, sent_at)
    select @tenant_id, @endpoint_id, m.id, m.delivery, m.sent_at
    from unnest(@ids::text[], @deliveries::text[], @sent::timestamptz[]) as m (id, delivery, sent_at)
    where not exists (select from sluice.event_keys k
        where k.tenant_id = @tenant_id and k.endpoint_id = @endpoint_id and k.kind = 'id' and k.key = m.id)
    order by m.id
    on conflict (tenant_id, endpoint_id, source_event_id) do update set delivery = excluded.delivery
        where sluice.missed_events.arrived_at is null and sluice.missed_events.delivery <> excluded.delivery
    returning xmax = 0 as fresh
)
select count(*) filter (where fresh) from added`

// MissedEventsAdd keeps events that the source sent, but for those that have arrived, and says how many were not known yet. Of those that were, the
// newer delivery is kept. No two of them may have the same id.
func (tx TenantTx) MissedEventsAdd(ctx context.Context, endpointID uuid.UUID, missed []MissedEvent) (int64, error) {
	if len(missed) == 0 {
		return 0, nil
	}
	ids, deliveries, sent := make([]string, len(missed)), make([]string, len(missed)), make([]time.Time, len(missed))
	for i, m := range missed {
		ids[i], deliveries[i], sent[i] = m.SourceEventID, m.Delivery, m.SentAt
	}
	return value[int64](ctx, tx.tx, missedEventsAddSQL, tx.with(args{
		"endpoint_id": endpointID, "ids": ids, "deliveries": deliveries, "sent": sent,
	}))
}

const missedEventsArrivedSQL = `
update sluice.missed_events m set arrived_at = now()
where m.tenant_id = @tenant_id and m.endpoint_id = @endpoint_id and m.arrived_at is null
  and (m.source_event_id = any (@accepted::text[]) or exists (select from sluice.event_keys k
      where k.tenant_id = @tenant_id and k.endpoint_id = m.endpoint_id and k.kind = 'id' and k.key = m.source_event_id))`

// MissedEventsArrived marks what has arrived since, and says how many. accepted are ids for which the source was answered 2xx: what it sent was taken
// for a copy of another event, so that its own id was not kept, and to ask for it again would end the same way.
func (tx TenantTx) MissedEventsArrived(ctx context.Context, endpointID uuid.UUID, accepted []string) (int64, error) {
	return run(ctx, tx.tx, missedEventsArrivedSQL, tx.with(args{"endpoint_id": endpointID, "accepted": accepted}))
}

// MissedAsking says what may be asked for again.
type MissedAsking struct {
	Within time.Duration // how long after it was sent the source still has a delivery
	Max    int           // how often an event is asked for
	Pause  time.Duration // after the first ask
	Factor float64       // by which the pause grows with each ask
}

const missedEventClaimSQL = `
update sluice.missed_events set asks = asks + 1, asked_at = now()
where (tenant_id, endpoint_id, source_event_id) in (
    select m.tenant_id, m.endpoint_id, m.source_event_id from sluice.missed_events m
    where m.tenant_id = @tenant_id and m.endpoint_id = @endpoint_id and m.arrived_at is null and m.asks < @max
      and m.sent_at > now() - @within::interval
      and (m.asks = 0 or m.asked_at <= now() - @pause::interval * power(@factor::float8, m.asks - 1))
      and not exists (select from sluice.event_keys k
          where k.tenant_id = m.tenant_id and k.endpoint_id = m.endpoint_id and k.kind = 'id' and k.key = m.source_event_id)
    order by m.sent_at, m.source_event_id limit 1 for update skip locked)
returning ` + missedEventColumns

// MissedEventClaim takes the next event that is to be asked for again, and counts the ask before it is made; ErrNotFound if there is none.
func (tx TenantTx) MissedEventClaim(ctx context.Context, endpointID uuid.UUID, a MissedAsking) (MissedEvent, error) {
	return one[MissedEvent](ctx, tx.tx, missedEventClaimSQL, tx.with(args{
		"endpoint_id": endpointID, "within": a.Within, "max": a.Max, "pause": a.Pause, "factor": a.Factor,
	}))
}

const missedEventUnaskSQL = `
update sluice.missed_events set asks = asks - 1
where tenant_id = @tenant_id and endpoint_id = @endpoint_id and source_event_id = @source_event_id and asks > 0`

// MissedEventUnask takes an ask back that the source did not take.
func (tx TenantTx) MissedEventUnask(ctx context.Context, endpointID uuid.UUID, sourceEventID string) error {
	_, err := run(ctx, tx.tx, missedEventUnaskSQL, tx.with(args{"endpoint_id": endpointID, "source_event_id": sourceEventID}))
	return err
}

// Missed is how the deliveries of an endpoint stand that its source lists.
type Missed struct {
	EndpointID uuid.UUID
	CheckedAt  time.Time
	SeenUntil  *time.Time
	Fault      string
	Found      int64 // events that had not arrived when they were looked for
	Asked      int64 // those that the source was asked to send again
	Arrived    int64 // those that arrived then
}

const missedListOfSQL = `
select c.endpoint_id, c.checked_at, c.seen_until, c.fault,
    count(m.source_event_id) as found, count(m.source_event_id) filter (where m.asks > 0) as asked, count(m.arrived_at) as arrived
from sluice.missed_checks c
left join sluice.missed_events m on m.tenant_id = c.tenant_id and m.endpoint_id = c.endpoint_id
where c.tenant_id = @tenant_id and c.endpoint_id = any (@endpoint_ids)
group by c.tenant_id, c.endpoint_id`

// MissedListOf says how the deliveries of a page of endpoints stand; those that were never looked at are not in it.
func (tx TenantTx) MissedListOf(ctx context.Context, endpointIDs []uuid.UUID) ([]Missed, error) {
	return many[Missed](ctx, tx.tx, missedListOfSQL, tx.with(args{"endpoint_ids": endpointIDs}))
}
