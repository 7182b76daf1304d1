package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// The names of limits that hold in a window, and of the one on what runs at once.
const (
	LimitEventsPerHour  = "events_per_hour"
	LimitTokensPerDay   = "tokens_per_day"
	LimitCostPerDay     = "cost_per_day_usd"
	LimitCostPerMonth   = "cost_per_month_usd"
	LimitConcurrentRuns = "concurrent_runs"
)

// Limits are what a tenant may use; nil is no limit. A soft one is told and holds nothing. Money is in pico-USD.
type Limits struct {
	EventsPerHourSoft, EventsPerHourHard *int64
	TokensPerDaySoft, TokensPerDayHard   *int64
	CostPerDaySoft, CostPerDayHard       *int64
	CostPerMonthSoft, CostPerMonthHard   *int64
	// RunsPerSecond is how many runs may begin in a second, Burst how many at once after a quiet time.
	RunsPerSecond  *float64
	Burst          int
	ConcurrentRuns *int
	// Share is at how many runs a second the tenant is still at the front of the queue.
	Share float64
	// StoredPerHour is how many events are kept in an hour; what comes then is refused.
	StoredPerHour int64
	Version       int
	UpdatedAt     time.Time
}

const limitsColumns = `events_per_hour_soft, events_per_hour_hard, tokens_per_day_soft, tokens_per_day_hard, cost_per_day_soft, cost_per_day_hard,
    cost_per_month_soft, cost_per_month_hard, runs_per_second, burst, concurrent_runs, share, stored_per_hour, version, updated_at`

const limitsGetSQL = `select ` + limitsColumns + ` from sluice.limits where tenant_id = @tenant_id`

// LimitsGet reads the tenant's limits, without raises. ErrNotFound: there is no such tenant, or it was erased.
func (tx TenantTx) LimitsGet(ctx context.Context) (Limits, error) {
	return one[Limits](ctx, tx.tx, limitsGetSQL, tx.with(nil))
}

const limitsPutSQL = `
update sluice.limits set events_per_hour_soft = @events_per_hour_soft, events_per_hour_hard = @events_per_hour_hard,
    tokens_per_day_soft = @tokens_per_day_soft, tokens_per_day_hard = @tokens_per_day_hard,
    cost_per_day_soft = @cost_per_day_soft, cost_per_day_hard = @cost_per_day_hard,
    cost_per_month_soft = @cost_per_month_soft, cost_per_month_hard = @cost_per_month_hard,
    runs_per_second = @runs_per_second, burst = @burst, concurrent_runs = @concurrent_runs, share = @share, stored_per_hour = @stored_per_hour,
    version = version + 1, updated_at = now()
where tenant_id = @tenant_id and (@version::int = 0 or version = @version)
returning ` + limitsColumns

const limitRaisesClearSQL = `delete from sluice.limit_raises where tenant_id = @tenant_id`

const limitRaisesInsertSQL = `
insert into sluice.limit_raises (tenant_id, id, name, value, note, until)
select @tenant_id, gen_random_uuid(), r.name, r.value, r.note, r.until
from unnest(@names::text[], @values::bigint[], @notes::text[], @untils::timestamptz[]) as r (name, value, note, until)`

// LimitsPut replaces a tenant's limits and raises; they hold from the next reservation on. l.Version, if not 0, is the version that the caller
// has read. ErrStale: it is another one by now.
func (tx SystemTx) LimitsPut(ctx context.Context, tenantID uuid.UUID, l Limits, raises []LimitRaise) (Limits, error) {
	put, err := one[Limits](ctx, tx.tx, limitsPutSQL, args{
		"tenant_id": tenantID, "version": l.Version,
		"events_per_hour_soft": l.EventsPerHourSoft, "events_per_hour_hard": l.EventsPerHourHard,
		"tokens_per_day_soft": l.TokensPerDaySoft, "tokens_per_day_hard": l.TokensPerDayHard,
		"cost_per_day_soft": l.CostPerDaySoft, "cost_per_day_hard": l.CostPerDayHard,
		"cost_per_month_soft": l.CostPerMonthSoft, "cost_per_month_hard": l.CostPerMonthHard,
		"runs_per_second": l.RunsPerSecond, "burst": l.Burst, "concurrent_runs": l.ConcurrentRuns, "share": l.Share, "stored_per_hour": l.StoredPerHour,
	})
	if err != nil {
		return Limits{}, missOrStale(err, func() error {
			_, err := one[Limits](ctx, tx.tx, limitsGetSQL, args{"tenant_id": tenantID})
			return err
		})
	}
	if _, err := run(ctx, tx.tx, limitRaisesClearSQL, args{"tenant_id": tenantID}); err != nil || len(raises) == 0 {
		return put, err
	}
	var names, notes []string
	var amounts []int64
	var untils []time.Time
	for _, r := range raises {
		names, amounts, notes, untils = append(names, r.Name), append(amounts, r.Value), append(notes, r.Note), append(untils, r.Until)
	}
	_, err = run(ctx, tx.tx, limitRaisesInsertSQL, args{"tenant_id": tenantID, "names": names, "values": amounts, "notes": notes, "untils": untils})
	return put, err
}

// LimitRaise lifts a hard limit until a time, and ends by itself.
type LimitRaise struct {
	Name  string
	Value int64
	Note  string
	Until time.Time
}

const limitRaiseListSQL = `
select name, value, note, until from sluice.limit_raises
where tenant_id = @tenant_id and until > coalesce(@at::timestamptz, now()) order by name, until, value`

// LimitRaiseList lists the tenant's raises that have not ended.
func (tx TenantTx) LimitRaiseList(ctx context.Context) ([]LimitRaise, error) {
	return many[LimitRaise](ctx, tx.tx, limitRaiseListSQL, tx.with(args{"at": tx.at}))
}

// LimitStanding is how one limit stands at this moment.
type LimitStanding struct {
	Name       string
	Soft, Hard *int64
	// Effective is the hard limit with its raises; RaisedUntil is when the raise that it comes from ends.
	Effective   *int64
	RaisedUntil *time.Time
	// Used is what was used in the window, Reserved the worst case of what is under way.
	Used, Reserved int64
	// WindowFrom and ResetsAt are the window's bounds; nil for a limit on what is under way at once.
	WindowFrom, ResetsAt *time.Time
	// Held is how many runs the limit holds, counted up to LimitHeldMax.
	Held int64
}

// LimitHeldMax is how far held runs are counted.
const LimitHeldMax = 100_000

// limitStandingsSQL locks nothing and writes nothing: a window whose row is out of date is shown as the next reservation will find it.
const limitStandingsSQL = `
select v.name, v.soft, v.hard, v.effective, v.used, v.reserved, v.window_from, v.resets_at, v.held,
    (select max(r.until) from sluice.limit_raises r
     where r.tenant_id = @tenant_id and r.name = v.name and r.until > n.at and r.value = v.effective and r.value > v.hard) as raised_until
from (select coalesce(@at::timestamptz, now()) as at) n
join sluice.tenants t on t.tenant_id = @tenant_id
join sluice.limits l on l.tenant_id = t.tenant_id
join sluice.places p on p.tenant_id = t.tenant_id
join sluice.budgets b on b.tenant_id = t.tenant_id
cross join lateral sluice.limits_at(t.tenant_id, n.at) m
cross join lateral (
    select p.hour_until > n.at as hour_stands, b.day_until > n.at and b.month_until > n.at as budget_stands,
        sluice.window_from(n.at, 'day', t.time_zone) as day_from, sluice.window_from(n.at, 'month', t.time_zone) as month_from,
        date_trunc('hour', n.at, t.time_zone) as hour_from) w
left join lateral (
    select coalesce(sum(` + tokensSum + `) filter (where e.at >= w.day_from), 0)::bigint as day_tokens,
        coalesce(sum(e.amount_pico) filter (where e.at >= w.day_from), 0)::bigint as day_pico, coalesce(sum(e.amount_pico), 0)::bigint as month_pico
    from sluice.ledger_entries e
    where not w.budget_stands and e.tenant_id = @tenant_id and e.at >= least(w.day_from, w.month_from)) s on true
cross join lateral (
    select case when w.hour_stands then p.hour_events else 0 end as hour_events,
        case when w.hour_stands then p.hour_from else w.hour_from end as hour_from,
        case when w.hour_stands then p.hour_until else w.hour_from + interval '1 hour' end as hour_until,
        case when w.budget_stands then b.day_tokens else s.day_tokens end as day_tokens,
        case when w.budget_stands then b.day_pico else s.day_pico end as day_pico,
        case when w.budget_stands then b.month_pico else s.month_pico end as month_pico,
        case when w.budget_stands then b.day_from else w.day_from end as day_from,
        case when w.budget_stands then b.day_until else sluice.window_until(w.day_from, 'day', t.time_zone) end as day_until,
        case when w.budget_stands then b.month_from else w.month_from end as month_from,
        case when w.budget_stands then b.month_until else sluice.window_until(w.month_from, 'month', t.time_zone) end as month_until) u
cross join lateral (
    select count(*) filter (where h.reason = 'limit.events_per_hour') as events, count(*) filter (where h.reason = 'limit.tokens_per_day') as tokens,
        count(*) filter (where h.reason = 'limit.cost_per_day') as day, count(*) filter (where h.reason = 'limit.cost_per_month') as month
    from (select r.reason from sluice.runs r where r.tenant_id = @tenant_id and r.status = 'held' limit @held_max) h) held
cross join lateral (
    select count(*) as runs from sluice.runs r where r.tenant_id = @tenant_id and r.status = 'running' and r.lease_until > now()) running
cross join lateral (values
    (1, 'events_per_hour', l.events_per_hour_soft, l.events_per_hour_hard, m.events_per_hour, u.hour_events, 0,
        u.hour_from, u.hour_until, held.events),
    (2, 'tokens_per_day', l.tokens_per_day_soft, l.tokens_per_day_hard, m.tokens_per_day, u.day_tokens, b.reserved_tokens,
        u.day_from, u.day_until, held.tokens),
    (3, 'cost_per_day_usd', l.cost_per_day_soft, l.cost_per_day_hard, m.cost_per_day, u.day_pico, b.reserved_pico,
        u.day_from, u.day_until, held.day),
    (4, 'cost_per_month_usd', l.cost_per_month_soft, l.cost_per_month_hard, m.cost_per_month, u.month_pico, b.reserved_pico,
        u.month_from, u.month_until, held.month),
    (5, 'concurrent_runs', null, l.concurrent_runs, (l.concurrent_runs), running.runs, 0, null::timestamptz, null, b.parked)
) as v (place, name, soft, hard, effective, used, reserved, window_from, resets_at, held)
order by v.place`

// tokensSum is all tokens of an entry.
const tokensSum = `input_uncached + input_cache_read + input_cache_write_5m + input_cache_write_1h + output_visible + output_reasoning`

// LimitStandings says how each of the tenant's limits stands, with used and reserved as of one moment. ErrNotFound: there is no such tenant.
func (tx TenantTx) LimitStandings(ctx context.Context) ([]LimitStanding, error) {
	rows, err := many[LimitStanding](ctx, tx.tx, limitStandingsSQL, tx.with(args{"at": tx.at, "held_max": LimitHeldMax}))
	if err == nil && len(rows) == 0 {
		return nil, ErrNotFound
	}
	return rows, err
}
