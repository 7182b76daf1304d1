package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// This file lets go on what a limit held.

// gatesDueSQL draws tenants of which something is held or parked; none is left out for ever.
const gatesDueSQL = `
select tenant_id from (
    select tenant_id from sluice.places where holding
    union select tenant_id from sluice.budgets where held or parked > 0) due
order by random() limit @limit`

// GatesDue finds tenants of which something is held or parked.
func (tx SystemTx) GatesDue(ctx context.Context, limit int) ([]uuid.UUID, error) {
	return values[uuid.UUID](ctx, tx.tx, gatesDueSQL, args{"limit": limit})
}

const gatesChangedSQL = `select tenant_id from sluice.limits where updated_at > now() - @within::interval and version > 1`

// GatesChanged finds tenants whose limits were changed a moment ago.
func (tx SystemTx) GatesChanged(ctx context.Context, within time.Duration) ([]uuid.UUID, error) {
	return values[uuid.UUID](ctx, tx.tx, gatesChangedSQL, args{"within": within})
}

const placesAheadSQL = `
select exists (select from sluice.places where greatest(routine_at, urgent_at) > now() + interval '1 second')`

// placesSettleSQL: where spare workers drained a flood, its tenant has nothing in the queue any more, and owes nobody anything.
const placesSettleSQL = `
update sluice.places p set routine_at = least(p.routine_at, now()), urgent_at = least(p.urgent_at, now())
where greatest(p.routine_at, p.urgent_at) > now() + interval '1 second'
  and p.tenant_id::text not in (
      select distinct j.args ->> 'tenant_id' from river.river_job j where j.state = 'available' and j.kind = 'run')`

// PlacesSettle brings back to the present the places of tenants that have nothing in the queue, and says of how many.
func (tx SystemTx) PlacesSettle(ctx context.Context) (int64, error) {
	// Nobody is ahead most of the time, and then the queue need not be looked at.
	ahead, err := value[bool](ctx, tx.tx, placesAheadSQL, args{})
	if err != nil || !ahead {
		return 0, err
	}
	return run(ctx, tx.tx, placesSettleSQL, args{})
}

const placesLockSQL = `select holding from sluice.places where tenant_id = @tenant_id for update`

// runsReleaseEventsSQL takes whole events, oldest first, as many as the hour has room for, and counts them as of this hour.
const runsReleaseEventsSQL = `
with clock as (select coalesce(@at::timestamptz, now()) as at),
stood as (
    select p.tenant_id, m.events_per_hour as cap, clock.at, p.hour_until > clock.at as same,
           case when p.hour_until > clock.at then p.hour_events else 0 end as used, t.time_zone
    from clock, sluice.places p join sluice.tenants t on t.tenant_id = p.tenant_id, sluice.limits_at(p.tenant_id, (select at from clock)) m
    where p.tenant_id = @tenant_id),
held as materialized (
    select r.id, r.event_id from sluice.runs r
    where r.tenant_id = @tenant_id and r.status = 'held' and r.reason = 'limit.events_per_hour' order by r.id limit @most::int + 1),
due as materialized (
    select distinct event_id from held order by event_id limit (select greatest(least(@most::bigint, coalesce(cap - used, @most::bigint)), 0) from stood)),
released as (
    update sluice.runs r set status = 'queued', reason = 'limit.hour_turned', detail = 'The hour has room for its event.', until = null, updated_at = now()
    where r.tenant_id = @tenant_id and r.status = 'held' and r.reason = 'limit.events_per_hour' and r.event_id in (select event_id from due)
    returning r.id, r.priority),
moved as (
    update sluice.places p set hour_events = s.used + (select count(*) from due),
        hour_stored = case when s.same then p.hour_stored else 0 end,
        hour_from = case when s.same then p.hour_from else date_trunc('hour', s.at, s.time_zone) end,
        hour_until = case when s.same then p.hour_until else date_trunc('hour', s.at, s.time_zone) + interval '1 hour' end,
        holding = exists (select from held where event_id not in (select event_id from due))
    from stood s where p.tenant_id = s.tenant_id)
select id, priority from released order by id`

// RunsReleaseEvents lets go on runs that the limit of events per hour held, of up to most events. The caller adds their jobs in the same transaction.
func (tx TenantTx) RunsReleaseEvents(ctx context.Context, most int) ([]Woken, error) {
	holding, err := value[bool](ctx, tx.tx, placesLockSQL, tx.with(nil))
	if err != nil || !holding {
		return nil, err
	}
	return many[Woken](ctx, tx.tx, runsReleaseEventsSQL, tx.with(args{"most": most, "at": tx.at}))
}

// runsReleaseBudgetSQL goes through what is held, oldest first, as far as it fits into what is left of every window together with what was released
// and has not reserved yet. What alone is more than a limit is passed over, and nothing stands behind it. A run that was held unseen, behind others,
// is taken to want as much as the most that is known.
const runsReleaseBudgetSQL = `
with b as materialized (
    select (x).day_tokens, (x).day_pico, (x).month_pico, (x).reserved_tokens, (x).reserved_pico, m.tokens_per_day as cap_tokens, m.cost_per_day as cap_day, m.cost_per_month as cap_month
    from (select sluice.budget_roll(@tenant_id, coalesce(@at::timestamptz, now())) as x) r,
         sluice.limits_at(@tenant_id, coalesce(@at::timestamptz, now())) m),
held as materialized (
    select r.id, r.priority, r.reason, r.held_tokens, r.held_pico from sluice.runs r
    where r.tenant_id = @tenant_id and r.status = 'held' and r.reason <> 'limit.events_per_hour' order by r.id limit @most::int + 1),
known as materialized (
    select h.id, h.priority, coalesce(nullif(h.held_tokens, 0), max(h.held_tokens) over ()) as tokens, coalesce(nullif(h.held_pico, 0), max(h.held_pico) over ()) as pico
    from held h),
fitting as materialized (
    select k.id, k.tokens, k.pico from known k, b
    where k.tokens <= coalesce(b.cap_tokens, k.tokens) and k.pico <= least(coalesce(b.cap_day, k.pico), coalesce(b.cap_month, k.pico))),
out as (
    select coalesce(sum(r.held_tokens), 0) as tokens, coalesce(sum(r.held_pico), 0) as pico from sluice.runs r
    where r.tenant_id = @tenant_id and r.status in ('queued', 'running') and r.reason = 'limit.released'
      and not exists (select from sluice.calls c where c.tenant_id = @tenant_id and c.run_id = r.id and c.epoch = r.epoch and r.status = 'running')),
due as materialized (
    select s.id from (select f.id, sum(f.tokens) over (order by f.id) as tokens, sum(f.pico) over (order by f.id) as pico,
                             row_number() over (order by f.id) as nth from fitting f) s, b, out
    where s.nth <= @most
      and (b.cap_tokens is null or b.day_tokens + b.reserved_tokens + out.tokens + s.tokens <= b.cap_tokens)
      and (b.cap_day is null or b.day_pico + b.reserved_pico + out.pico + s.pico <= b.cap_day)
      and (b.cap_month is null or b.month_pico + b.reserved_pico + out.pico + s.pico <= b.cap_month)),
released as (
    update sluice.runs r set status = 'queued', reason = 'limit.released', detail = 'The limit has room for it.', until = null,
        held_tokens = k.tokens, held_pico = k.pico, updated_at = now()
    from known k where r.tenant_id = @tenant_id and r.id = k.id and r.status = 'held' and k.id in (select id from due)
    returning r.id, r.priority),
cleared as (
    update sluice.budgets u set held = exists (select from held where id not in (select id from due)),
        holding = case when exists (select from fitting where id not in (select id from due))
                       then coalesce(nullif(u.holding, ''), (select h.reason from held h join fitting f on f.id = h.id order by h.id limit 1)) else '' end
    where u.tenant_id = @tenant_id and u.held)
select id, priority from released order by id`

// RunsReleaseBudget lets go on runs that a limit of tokens or of money held, as many as fit, up to most. The caller adds their jobs in the same
// transaction.
func (tx TenantTx) RunsReleaseBudget(ctx context.Context, most int) ([]Woken, error) {
	held, err := value[bool](ctx, tx.tx, gateLockSQL, tx.with(nil))
	if err != nil || !held {
		return nil, err
	}
	return many[Woken](ctx, tx.tx, runsReleaseBudgetSQL, tx.with(args{"most": most, "at": tx.at}))
}

const runsHeldTooLongSQL = `
update sluice.runs set status = 'dead', reason = 'limit.held_too_long', detail = 'It was held by ' || reason || ' for too long.', until = null,
    finished_at = now(), updated_at = now()
where tenant_id = @tenant_id and status = 'held' and created_at < now() - @age::interval`

// RunsHeldTooLong ends runs that were held for longer than age.
func (tx TenantTx) RunsHeldTooLong(ctx context.Context, age time.Duration) (int64, error) {
	return run(ctx, tx.tx, runsHeldTooLongSQL, tx.with(args{"age": age}))
}

// runsRepaceSQL gives the jobs that wait for a slot of the tenant's pace other slots, in the same order.
const runsRepaceSQL = `
with pace as (select l.runs_per_second as rate from sluice.limits l where l.tenant_id = @tenant_id),
late as materialized (
    select j.id, row_number() over (order by j.priority, j.scheduled_at, j.id) - 1 as nth from river.river_job j
    where j.state = 'available' and j.kind = 'run' and j.args ->> 'tenant_id' = @tenant_id::uuid::text and j.scheduled_at > now()),
moved as (
    update river.river_job j set scheduled_at = now() + coalesce(late.nth * (interval '1 second' / pace.rate), interval '0')
    from late, pace where j.id = late.id and j.state = 'available' returning j.id)
update sluice.places p set pace_at = now() + coalesce((select count(*) from moved) * (interval '1 second' / pace.rate), interval '0')
from pace where p.tenant_id = @tenant_id and p.pace_at > now()`

// RunsRepace moves the jobs of the tenant's runs that wait for their slot to the slots of its pace as it is now.
func (tx TenantTx) RunsRepace(ctx context.Context) error {
	_, err := run(ctx, tx.tx, runsRepaceSQL, tx.with(nil))
	return err
}

// callsStrandedSQL: a call is alive while its run is held, in the same hold, by a worker that reports back.
const callsStrandedSQL = `
select c.tenant_id, c.id
from (select tenant_id, id, run_id, epoch from sluice.calls where state in ('intended', 'sent') and created_at < now() - @grace::interval
      order by created_at limit @scanned) c
join sluice.runs r on r.tenant_id = c.tenant_id and r.id = c.run_id
where not (r.status = 'running' and r.epoch = c.epoch and r.lease_until > now() - @grace::interval)
limit @limit`

// CallsStranded finds calls of all tenants that are under way and that nobody waits for: what they reserved must not be reserved for ever.
func (tx SystemTx) CallsStranded(ctx context.Context, grace time.Duration, limit int) ([]Stranded, error) {
	return many[Stranded](ctx, tx.tx, callsStrandedSQL, args{"grace": grace, "limit": limit, "scanned": scannedMax})
}

const callGetSQL = `select ` + callColumns + ` from sluice.calls where tenant_id = @tenant_id and id = @id`

// CallGet reads a call.
func (tx TenantTx) CallGet(ctx context.Context, id uuid.UUID) (Call, error) {
	return one[Call](ctx, tx.tx, callGetSQL, tx.with(args{"id": id}))
}
