package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// This file is what the watcher asks over all tenants: where is a limit nearly used up, where are runs held, which credential is paused. Each
// statement reads small tables or an index that holds only what is looked for, and no content of a tenant.

// watchLockSQL names the look in the lock, so that two looks of different kinds do not wait for each other.
const watchLockSQL = `select pg_try_advisory_xact_lock(hashtextextended('watch ' || @name::text, 0))`

const watchDueSQL = `
insert into sluice.watch_marks as m (name, at) values (@name, coalesce(@at::timestamptz, now()))
on conflict (name) do update set at = excluded.at where m.at <= excluded.at - @every::interval returning true`

// WatchDue says whether what bears this name is to be done now, by this transaction: nobody else is at it, and it was last done so long ago. The
// transaction has to commit for it to count as done.
func (tx SystemTx) WatchDue(ctx context.Context, name string, every time.Duration) (bool, error) {
	mine, err := value[bool](ctx, tx.tx, watchLockSQL, args{"name": name})
	if err != nil || !mine {
		return false, err
	}
	due, err := values[bool](ctx, tx.tx, watchDueSQL, args{"name": name, "every": every, "at": tx.at})
	return len(due) > 0, err
}

// AlertSeen is a state that is there now.
type AlertSeen struct {
	TenantID uuid.UUID
	Subject  string
	Detail   string
	// KeepsOnly lets an alert that has begun go on, and begins none.
	KeepsOnly bool
}

// AlertsSettled is how many alerts began and ended.
type AlertsSettled struct{ Began, Ended int64 }

// alertSeenEvery is how often an alert that goes on is written to. Its end is told by that too, so it ends so much earlier than its quiet time at most.
const alertSeenEvery = 30 * time.Second

// alertsSettleSQL sees the open alerts of all tenants by an index that holds no others.
const alertsSettleSQL = `
with t as (select coalesce(@at::timestamptz, now()) as at),
seen as materialized (
    select * from unnest(@tenant_ids::uuid[], @ids::uuid[], @subjects::text[], @details::text[], @begins::boolean[]) as s (tenant_id, id, subject, detail, begins)),
open as materialized (
    select a.tenant_id, a.id, a.subject, a.last_at from sluice.alerts a where a.ended_at is null and a.kind = @kind),
kept as (
    update sluice.alerts a set last_at = t.at, detail = s.detail
    from t, open o join seen s on s.tenant_id = o.tenant_id and s.subject = o.subject
    where a.tenant_id = o.tenant_id and a.id = o.id and o.last_at <= t.at - @seen_every::interval),
ended as (
    update sluice.alerts a set ended_at = t.at
    from t, open o left join seen s on s.tenant_id = o.tenant_id and s.subject = o.subject
    where s.tenant_id is null and a.tenant_id = o.tenant_id and a.id = o.id and a.ended_at is null and o.last_at <= t.at - @quiet::interval
    returning 1),
began as (
    insert into sluice.alerts (tenant_id, id, kind, subject, detail, began_at, last_at)
    select s.tenant_id, s.id, @kind, s.subject, s.detail, t.at, t.at
    from t, seen s left join open o on o.tenant_id = s.tenant_id and o.subject = s.subject
    where s.begins and o.tenant_id is null
    on conflict (tenant_id, kind, subject) where ended_at is null do nothing
    returning 1)
select (select count(*) from began) as began, (select count(*) from ended) as ended`

// AlertsSettle makes the open alerts of a kind what is seen now, over all tenants: new ones begin, those that are seen go on, and those that have
// not been seen for as long as quiet end.
func (tx SystemTx) AlertsSettle(ctx context.Context, kind string, quiet time.Duration, seen []AlertSeen) (AlertsSettled, error) {
	n := len(seen)
	tenantIDs, ids, subjects, details, begins := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]string, n), make([]string, n), make([]bool, n)
	for i, s := range seen {
		tenantIDs[i], ids[i], subjects[i], details[i], begins[i] = s.TenantID, tenants.NewID(), s.Subject, s.Detail, !s.KeepsOnly
	}
	return one[AlertsSettled](ctx, tx.tx, alertsSettleSQL, args{
		"kind": kind, "quiet": quiet, "seen_every": alertSeenEvery, "at": tx.at,
		"tenant_ids": tenantIDs, "ids": ids, "subjects": subjects, "details": details, "begins": begins,
	})
}

// LimitUse is a tenant's use of one limit that has a value.
type LimitUse struct {
	TenantID uuid.UUID
	Name     string // events_per_hour, tokens_per_day, cost_per_day_usd or cost_per_month_usd
	Soft     *int64
	Hard     *int64 // raises included
	Used     int64
	// Holding says that runs are held for it.
	Holding bool
	// Until is when its window turns.
	Until time.Time
}

// limitUseSQL joins tables of one row for each tenant, and the raises that hold now. limits_at would be called once for each.
const limitUseSQL = `
with t as (select coalesce(@at::timestamptz, now()) as at),
raised as (
    select r.tenant_id, max(r.value) filter (where r.name = 'events_per_hour') as events, max(r.value) filter (where r.name = 'tokens_per_day') as tokens,
           max(r.value) filter (where r.name = 'cost_per_day_usd') as day, max(r.value) filter (where r.name = 'cost_per_month_usd') as month
    from sluice.limit_raises r, t where r.until > t.at group by r.tenant_id)
select l.tenant_id, u.name, u.soft, u.hard, u.used, u.holding, u.until
from t, sluice.limits l
join sluice.places p on p.tenant_id = l.tenant_id
join sluice.budgets b on b.tenant_id = l.tenant_id
left join raised r on r.tenant_id = l.tenant_id
cross join lateral (values
    ('events_per_hour', l.events_per_hour_soft, case when l.events_per_hour_hard is not null then greatest(l.events_per_hour_hard, r.events) end,
     case when p.hour_until > t.at then p.hour_events else 0 end, p.holding, p.hour_until),
    ('tokens_per_day', l.tokens_per_day_soft, case when l.tokens_per_day_hard is not null then greatest(l.tokens_per_day_hard, r.tokens) end,
     case when b.day_until > t.at then b.day_tokens else 0 end, b.holding = 'limit.tokens_per_day', b.day_until),
    ('cost_per_day_usd', l.cost_per_day_soft, case when l.cost_per_day_hard is not null then greatest(l.cost_per_day_hard, r.day) end,
     case when b.day_until > t.at then b.day_pico else 0 end, b.holding = 'limit.cost_per_day', b.day_until),
    ('cost_per_month_usd', l.cost_per_month_soft, case when l.cost_per_month_hard is not null then greatest(l.cost_per_month_hard, r.month) end,
     case when b.month_until > t.at then b.month_pico else 0 end, b.holding = 'limit.cost_per_month', b.month_until)
) u (name, soft, hard, used, holding, until)
where coalesce(l.events_per_hour_soft, l.events_per_hour_hard, l.tokens_per_day_soft, l.tokens_per_day_hard, l.cost_per_day_soft, l.cost_per_day_hard,
               l.cost_per_month_soft, l.cost_per_month_hard) is not null
  and coalesce(u.hard, u.soft) is not null and (u.used > 0 or u.holding)
  and (u.used >= least(u.soft, u.hard) * @share::float8 or u.holding)
order by l.tenant_id, u.name`

// LimitsUsed finds limits of which a share or more is used, or for which runs are held, over all tenants.
func (tx SystemTx) LimitsUsed(ctx context.Context, share float64) ([]LimitUse, error) {
	return many[LimitUse](ctx, tx.tx, limitUseSQL, args{"share": share, "at": tx.at})
}

// Stopped is runs of one automation that are held, or that wait for a provider's breaker.
type Stopped struct {
	TenantID uuid.UUID
	// Reason is that of the runs.
	Reason string
	// Model is what the automation asks, as it stands now.
	Model string
	Until *time.Time // of one of them
}

// stoppedWhere is the condition of the index runs_stopped.
const stoppedWhere = `(r.status = 'held' or (r.status = 'waiting' and r.reason = 'provider.breaker_open'))`

// runsStoppedSQL leaps through the index from one reason, tenant and automation to the next: it reads one row of each, however many runs there are.
const runsStoppedSQL = `
with recursive found as (
    (select r.reason, r.tenant_id, r.automation_id, r.until from sluice.runs r where ` + stoppedWhere + ` order by r.reason, r.tenant_id, r.automation_id limit 1)
    union all
    select n.reason, n.tenant_id, n.automation_id, n.until from found f cross join lateral (
        select r.reason, r.tenant_id, r.automation_id, r.until from sluice.runs r
        where ` + stoppedWhere + ` and (r.reason, r.tenant_id, r.automation_id) > (f.reason, f.tenant_id, f.automation_id)
        order by r.reason, r.tenant_id, r.automation_id limit 1) n)
select f.tenant_id, f.reason, coalesce(v.spec ->> 'model', '') as model, max(f.until) as until
from found f
left join sluice.automations a on a.tenant_id = f.tenant_id and a.id = f.automation_id
left join sluice.automation_versions v on v.tenant_id = a.tenant_id and v.automation_id = a.id and v.version = a.version
group by 1, 2, 3 order by 1, 2, 3`

// RunsStopped finds what is held, and what waits for a breaker, by tenant, reason and model.
func (tx SystemTx) RunsStopped(ctx context.Context) ([]Stopped, error) {
	return many[Stopped](ctx, tx.tx, runsStoppedSQL, args{})
}

// Subject is what an alert of one tenant is about, with a text that belongs to it.
type Subject struct {
	TenantID uuid.UUID
	ID       uuid.UUID
	Text     string
}

const credentialsPausedSQL = `
select tenant_id, id, paused_reason as text from sluice.credentials where paused_at is not null order by tenant_id, id`

// CredentialsPaused finds the paused credentials of all tenants; the text is why.
func (tx SystemTx) CredentialsPaused(ctx context.Context) ([]Subject, error) {
	return many[Subject](ctx, tx.tx, credentialsPausedSQL, args{})
}

// deathsAgeMax is how far back deaths are looked for by a watcher that was away.
const deathsAgeMax = 10 * time.Minute

// deathsOverlap is how long a transaction that ends a run may take to commit: a death is told by the time at which its transaction began.
const deathsOverlap = 30 * time.Second

// runsDiedSQL reads the deaths since it was last asked, and the last seconds before that again.
const runsDiedSQL = `
with t as (select coalesce(@at::timestamptz, now()) as at),
since as (select greatest(t.at - @age::interval, (select m.at from sluice.watch_marks m where m.name = 'deaths') - @overlap::interval) as at from t),
mark as (insert into sluice.watch_marks (name, at) select 'deaths', t.at from t on conflict (name) do update set at = excluded.at)
select r.tenant_id, r.automation_id as id, max(r.reason) as text from since s, sluice.runs r
where r.status = 'dead' and r.finished_at > s.at group by 1, 2 order by 1, 2`

// RunsDied finds the automations that had a run die since this was last asked; the text is one of the reasons.
func (tx SystemTx) RunsDied(ctx context.Context) ([]Subject, error) {
	return many[Subject](ctx, tx.tx, runsDiedSQL, args{"age": deathsAgeMax, "overlap": deathsOverlap, "at": tx.at})
}

// runsBlockingSQL probes an index of dead runs once for each endpoint that lets them block.
const runsBlockingSQL = `
select e.tenant_id, e.id, '' as text from sluice.endpoints e
where e.settings ->> 'order_dead' = 'block' and e.deleted_at is null
  and exists (select from sluice.runs r where r.status = 'dead' and r.ordering = 'serial' and r.tenant_id = e.tenant_id and r.endpoint_id = e.id)
order by 1, 2`

// RunsBlocking finds the endpoints with a dead run that nothing of its entity may pass.
func (tx SystemTx) RunsBlocking(ctx context.Context) ([]Subject, error) {
	return many[Subject](ctx, tx.tx, runsBlockingSQL, args{})
}
