package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// What is counted of a subject in each hour.
const (
	RateEvents = "events"
	RateCost   = "cost" // in pico-USD
)

// What a subject of a rate is.
const (
	RateTenant     = "tenant"
	RateEndpoint   = "endpoint"
	RateAutomation = "automation"
)

// RatesKept is how long rates are kept: what is usual at an hour of the week is told from four weeks before it, and from the day before it.
const RatesKept = 36 * 24 * time.Hour

const (
	// ratesLag is how old an event or an entry must be to be counted: until then its transaction may not have been committed.
	ratesLag = 30 * time.Second
	// ratesStep is how much time is counted at once.
	ratesStep = 2 * time.Minute
	// ratesExpireMax bounds how many old rows one count deletes.
	ratesExpireMax = 5000
)

// RatesSpan is a piece of time, of one hour, that was counted.
type RatesSpan struct {
	Since, Until time.Time
	// Behind says that there is more to count already.
	Behind bool
}

// ratesSpanSQL goes on where the last count ended; the first begins now, since what was before would be a scan of everything.
const ratesSpanSQL = `
with t as (select coalesce(@at::timestamptz, now()) - @lag::interval as at),
m as (select coalesce((select at from sluice.watch_marks where name = 'rates'), t.at) as at from t),
u as (select m.at, least(m.at + @step::interval, date_trunc('hour', m.at, 'UTC') + interval '1 hour', t.at) as until from m, t),
mark as (insert into sluice.watch_marks (name, at) select 'rates', u.until from u on conflict (name) do update set at = excluded.at)
select u.at as since, u.until, u.until < t.at as behind from u, t`

// ratesFold adds amounts of one hour to their rows; counted is a relation of tenant_id, level, subject and amount.
const ratesFold = `
insert into sluice.rates as r (tenant_id, subject, measure, day, level, hours)
select c.tenant_id, c.subject, @measure, timezone('UTC', @since::timestamptz)::date, c.level,
       array_fill(0::bigint, array[extract(hour from timezone('UTC', @since::timestamptz))::int]) || c.amount
       || array_fill(0::bigint, array[23 - extract(hour from timezone('UTC', @since::timestamptz))::int])
from counted c where c.amount <> 0
on conflict (tenant_id, subject, measure, day) do update
set hours[extract(hour from timezone('UTC', @since::timestamptz))::int + 1] =
    r.hours[extract(hour from timezone('UTC', @since::timestamptz))::int + 1]
    + excluded.hours[extract(hour from timezone('UTC', @since::timestamptz))::int + 1]`

// ratesEventsSQL looks at the tenants whose last hour with events is not over, and finds the events of each by the time that is in their ids.
const ratesEventsSQL = `
with active as materialized (select p.tenant_id from sluice.places p where p.hour_until > @since),
counted as (
    select a.tenant_id, case when c.endpoint_id is null then 'tenant' else 'endpoint' end as level, coalesce(c.endpoint_id, a.tenant_id) as subject, c.amount
    from active a cross join lateral (
        select e.endpoint_id, count(*) as amount from sluice.events e
        where e.tenant_id = a.tenant_id and e.id >= sluice.uuid_from(@since) and e.id < sluice.uuid_from(@until)
        group by grouping sets ((e.endpoint_id), ())) c
    union all
    select a.tenant_id, 'automation', c.automation_id, c.amount
    from active a cross join lateral (
        select r.automation_id, count(*) as amount from sluice.runs r
        where r.tenant_id = a.tenant_id and r.id >= sluice.uuid_from(@since) and r.id < sluice.uuid_from(@until)
        group by r.automation_id) c)` + ratesFold

// ratesCostSQL looks at the tenants whose day with cost is not over.
const ratesCostSQL = `
with active as materialized (select b.tenant_id from sluice.budgets b where b.day_until > @since),
counted as (
    select a.tenant_id, case when c.endpoint_id is not null then 'endpoint' when c.automation_id is not null then 'automation' else 'tenant' end as level,
           coalesce(c.endpoint_id, c.automation_id, a.tenant_id) as subject, c.amount
    from active a cross join lateral (
        select e.endpoint_id, e.automation_id, sum(e.amount_pico)::bigint as amount from sluice.ledger_entries e
        where e.tenant_id = a.tenant_id and e.at >= @since and e.at < @until
        group by grouping sets ((e.endpoint_id), (e.automation_id), ())) c)` + ratesFold

const ratesExpireSQL = `
delete from sluice.rates where ctid = any (array(
    select ctid from sluice.rates where day < (coalesce(@at::timestamptz, now()) - @kept::interval)::date limit @limit))`

// RatesFold counts the next piece of time into the rates, and deletes rates that are older than they are kept. Each event, run and entry is read
// once; a tenant without any costs a look into an index.
func (tx SystemTx) RatesFold(ctx context.Context) (RatesSpan, error) {
	span, err := one[RatesSpan](ctx, tx.tx, ratesSpanSQL, args{"lag": ratesLag, "step": ratesStep, "at": tx.at})
	if err != nil || !span.Until.After(span.Since) {
		return span, err
	}
	if _, err := run(ctx, tx.tx, ratesEventsSQL, args{"measure": RateEvents, "since": span.Since, "until": span.Until}); err != nil {
		return span, err
	}
	if _, err := run(ctx, tx.tx, ratesCostSQL, args{"measure": RateCost, "since": span.Since, "until": span.Until}); err != nil {
		return span, err
	}
	_, err = run(ctx, tx.tx, ratesExpireSQL, args{"kept": RatesKept, "limit": ratesExpireMax, "at": tx.at})
	return span, err
}

// ratesFreshMax is how far behind the count may be.
const ratesFreshMax = 10 * time.Minute

const ratesFreshSQL = `
select exists (select from sluice.watch_marks where name = 'rates' and at > coalesce(@at::timestamptz, now()) - @fresh::interval)`

// RatesFresh says that the rates are of today, and not of a time before everybody was away.
func (tx SystemTx) RatesFresh(ctx context.Context) (bool, error) {
	return value[bool](ctx, tx.tx, ratesFreshSQL, args{"fresh": ratesFreshMax, "at": tx.at})
}

// Rate is what went through a subject in each hour of a day of UTC.
type Rate struct {
	TenantID uuid.UUID
	Subject  uuid.UUID
	Level    string // one of the levels above
	Measure  string // RateEvents or RateCost
	Day      time.Time
	Hours    []int64
}

// RateNow is what went through a subject of late.
type RateNow struct {
	TenantID uuid.UUID
	Subject  uuid.UUID
	Measure  string
	// At is until when it was counted.
	At time.Time
}

// ratesBusySQL adds to the hour that is under way so much of the hour before as is missing of a full hour.
const ratesBusySQL = `
with m as (select m.at, timezone('UTC', m.at) as utc, extract(epoch from m.at - date_trunc('hour', m.at, 'UTC')) / 3600 as part
           from sluice.watch_marks m where m.name = 'rates')
select r.tenant_id, r.subject, r.measure, m.at
from m join sluice.rates r on r.day between (m.utc - interval '1 hour')::date and m.utc::date
group by r.tenant_id, r.subject, r.measure, m.at
having sum(case when r.day = m.utc::date then r.hours[extract(hour from m.utc)::int + 1] else 0 end
           + (1 - m.part) * case when r.day = (m.utc - interval '1 hour')::date then r.hours[extract(hour from m.utc - interval '1 hour')::int + 1] else 0 end)
       >= case r.measure when 'cost' then @cost::bigint else @events::bigint end
order by 1, 2, 3`

// RatesBusy finds the subjects through which so many events, or so much cost, went within the last hour that was counted.
func (tx SystemTx) RatesBusy(ctx context.Context, events, costPico int64) ([]RateNow, error) {
	return many[RateNow](ctx, tx.tx, ratesBusySQL, args{"events": events, "cost": costPico})
}

const ratesListSQL = `
select r.tenant_id, r.subject, r.level, r.measure, r.day, r.hours
from unnest(@tenant_ids::uuid[], @subjects::uuid[], @measures::text[]) as s (tenant_id, subject, measure)
join sluice.rates r on r.tenant_id = s.tenant_id and r.subject = s.subject and r.measure = s.measure
order by 1, 2, 4, 5`

// RatesList reads all that is kept of some subjects, by subject and measure, the oldest day first.
func (tx SystemTx) RatesList(ctx context.Context, of []RateNow) ([]Rate, error) {
	tenantIDs, subjects, measures := make([]uuid.UUID, len(of)), make([]uuid.UUID, len(of)), make([]string, len(of))
	for i, r := range of {
		tenantIDs[i], subjects[i], measures[i] = r.TenantID, r.Subject, r.Measure
	}
	return many[Rate](ctx, tx.tx, ratesListSQL, args{"tenant_ids": tenantIDs, "subjects": subjects, "measures": measures})
}
