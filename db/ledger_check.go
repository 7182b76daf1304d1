package db

import (
	"context"

	"github.com/google/uuid"
)

// The kinds of differences that a check of the ledger can find.
const (
	// DifferenceCall: the entries of a call do not add up to what the call says.
	DifferenceCall = "call"
	// DifferenceCallPrice: a call costs what its tokens and its price do not give.
	DifferenceCallPrice = "call.price"
	// DifferenceEntryCall: there is no such call.
	DifferenceEntryCall = "entry.call"
	// DifferenceEntryPrice: an entry's amount is not what its tokens and its price give.
	DifferenceEntryPrice = "entry.price"
	// DifferenceRun: a run's cost is not that of its calls.
	DifferenceRun = "run"
	// DifferenceBudgetDay, DifferenceBudgetMonth, DifferenceBudgetReserved: a counter of the tenant's limits is not the sum it stands for.
	DifferenceBudgetDay      = "budget.day"
	DifferenceBudgetMonth    = "budget.month"
	DifferenceBudgetReserved = "budget.reserved"
	// DifferenceRollup: the sum of a quarter of an hour is not the ledger's.
	DifferenceRollup = "rollup"
	// DifferenceTenant: entries belong to a tenant that never was.
	DifferenceTenant = "tenant"
)

// Difference is one place where the books do not agree.
type Difference struct {
	Kind string
	// Subject is the row that is wrong: the id of a call, an entry, a run or a tenant; of a rollup, the tenant's.
	Subject uuid.UUID
	// Expected is what follows from the books, Found what stands there, in words.
	Expected, Found string
}

// differencesMax bounds what one check of one tenant lists of each kind.
const differencesMax = 100

// bucketsText writes the buckets and the amount of a row that has them under their names.
const bucketsText = `concat_ws('/', input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning) || ' tokens, '
    || `

// bucketSums sums the buckets.
const bucketSums = `sum(input_uncached)::bigint as input_uncached, sum(input_cache_read)::bigint as input_cache_read,
    sum(input_cache_write_5m)::bigint as input_cache_write_5m, sum(input_cache_write_1h)::bigint as input_cache_write_1h,
    sum(output_visible)::bigint as output_visible, sum(output_reasoning)::bigint as output_reasoning`

// checkCallsSQL wants every call that has ended with a reply, or without one, booked first by exactly one entry, and all its entries to add up to it.
// A call that failed or has not ended costs nothing, unless it was corrected.
const checkCallsSQL = `
with booked as (
    select call_id, ` + bucketSums + `, sum(amount_pico) as amount_pico, count(*) filter (where kind <> 'adjust') as firsts
    from sluice.ledger_entries where tenant_id = @tenant_id group by call_id
), compared as (
    select c.id, c.state, coalesce(b.firsts, 0) as firsts, case when c.state in ('received', 'orphaned') then 1 else 0 end as firsts_wanted,
        (select ` + bucketsText + `c.cost_pico || ' pico' from (select c.input_uncached, c.input_cache_read, c.input_cache_write_5m, c.input_cache_write_1h,
            c.output_visible, c.output_reasoning) x) as said,
        (select ` + bucketsText + `coalesce(b.amount_pico, 0) || ' pico' from (select coalesce(b.input_uncached, 0) as input_uncached,
            coalesce(b.input_cache_read, 0) as input_cache_read, coalesce(b.input_cache_write_5m, 0) as input_cache_write_5m,
            coalesce(b.input_cache_write_1h, 0) as input_cache_write_1h, coalesce(b.output_visible, 0) as output_visible,
            coalesce(b.output_reasoning, 0) as output_reasoning) x) as sums
    from sluice.calls c left join booked b on b.call_id = c.id where c.tenant_id = @tenant_id)
select 'call' as kind, id as subject, said || ', ' || firsts_wanted || ' first entries (' || state || ')' as expected, sums || ', ' || firsts || ' first entries' as found
from compared where said <> sums or firsts <> firsts_wanted
order by id limit @limit`

// priceLeast is what a row's tokens cost at price p, and priceMost the same with all input at the dearest rate that can befall it unasked, as an
// estimate is booked (llm.WorstCase). A price that is not listed is that of the bucket it stands in for, as in llm.Cost.
const (
	priceLeast = `(input_uncached::numeric * p.input_pico + input_cache_read::numeric * coalesce(p.cache_read_pico, p.input_pico)
        + input_cache_write_5m::numeric * coalesce(p.cache_write_5m_pico, p.input_pico)
        + input_cache_write_1h::numeric * coalesce(p.cache_write_1h_pico, p.cache_write_5m_pico, p.input_pico)
        + (output_visible + output_reasoning)::numeric * p.output_pico)`
	priceMost = `((input_uncached + input_cache_read + input_cache_write_5m)::numeric * greatest(p.input_pico, p.cache_read_pico, p.cache_write_5m_pico)
        + input_cache_write_1h::numeric * greatest(p.input_pico, p.cache_read_pico, p.cache_write_5m_pico, p.cache_write_1h_pico)
        + (output_visible + output_reasoning)::numeric * p.output_pico)`
)

const checkCallPricesSQL = `
with priced as (
    select c.id, c.state, c.cost_pico, c.price_id, ` + priceLeast + ` as least, ` + priceMost + ` as most
    from sluice.calls c left join sluice.prices p on p.id = c.price_id
    where c.tenant_id = @tenant_id and (c.state in ('received', 'orphaned') or c.cost_pico <> 0))
select 'call.price' as kind, id as subject, coalesce(case when state = 'orphaned' then least || ' to ' || most else least::text end || ' pico', 'a price')
    || ' by price ' || price_id as expected, cost_pico || ' pico' as found
from priced where least is null or cost_pico < least or cost_pico > case when state = 'orphaned' then most else least end
order by id limit @limit`

const checkEntryPricesSQL = `
with priced as (
    select e.id, e.kind, e.amount_pico, e.price_id, ` + priceLeast + ` as least, ` + priceMost + ` as most
    from sluice.ledger_entries e left join sluice.prices p on p.id = e.price_id where e.tenant_id = @tenant_id and e.kind <> 'adjust')
select 'entry.price' as kind, id as subject, coalesce(case when kind = 'orphan' then least || ' to ' || most else least::text end || ' pico', 'a price')
    || ' by price ' || price_id as expected, amount_pico || ' pico' as found
from priced where least is null or amount_pico < least or amount_pico > case when kind = 'orphan' then most else least end
order by id limit @limit`

// checkEntryCallsSQL leaves out an erased tenant, whose calls are gone and whose ledger stays.
const checkEntryCallsSQL = `
select 'entry.call' as kind, e.id as subject, 'a call ' || e.call_id as expected, 'none' as found
from sluice.ledger_entries e
where e.tenant_id = @tenant_id and not exists (select from sluice.calls c where c.tenant_id = @tenant_id and c.id = e.call_id)
  and exists (select from sluice.tenants t where t.tenant_id = @tenant_id and t.status <> 'erased')
order by e.id limit @limit`

const checkRunsSQL = `
select 'run' as kind, r.id as subject, coalesce(c.cost_pico, 0) || ' pico' as expected, r.cost_pico || ' pico' as found
from sluice.runs r
left join (select run_id, sum(cost_pico) as cost_pico from sluice.calls where tenant_id = @tenant_id group by run_id) c on c.run_id = r.id
where r.tenant_id = @tenant_id and r.cost_pico <> coalesce(c.cost_pico, 0)
order by r.id limit @limit`

// checkBudgetSQL takes the windows as the budget has them: one that is over stands until the next call, and its sums stand with it.
const checkBudgetSQL = `
with used as (
    select b.tenant_id, b.day_from, b.day_tokens, b.day_pico, b.month_from, b.month_pico, b.reserved_tokens, b.reserved_pico,
        (select coalesce(sum(e.amount_pico), 0) from sluice.ledger_entries e where e.tenant_id = @tenant_id and e.at >= b.month_from) as month_sum,
        d.pico as day_sum, d.tokens as day_sum_tokens, o.pico as open_sum, o.tokens as open_sum_tokens
    from sluice.budgets b,
        lateral (select coalesce(sum(e.amount_pico), 0) as pico, coalesce(sum(input_uncached + input_cache_read + input_cache_write_5m + input_cache_write_1h
                     + output_visible + output_reasoning), 0) as tokens
                 from sluice.ledger_entries e where e.tenant_id = @tenant_id and e.at >= b.day_from) d,
        lateral (select coalesce(sum(c.reserved_pico), 0) as pico, coalesce(sum(c.reserved_tokens), 0) as tokens
                 from sluice.calls c where c.tenant_id = @tenant_id and c.state in ('intended', 'sent')) o
    where b.tenant_id = @tenant_id)
select k.kind, tenant_id as subject, k.expected, k.found
from used, lateral (values
    ('budget.day', day_sum_tokens || ' tokens, ' || day_sum || ' pico since ' || day_from, day_tokens || ' tokens, ' || day_pico || ' pico since ' || day_from, isfinite(day_from)),
    ('budget.month', month_sum || ' pico since ' || month_from, month_pico || ' pico since ' || month_from, isfinite(month_from)),
    ('budget.reserved', open_sum_tokens || ' tokens, ' || open_sum || ' pico', reserved_tokens || ' tokens, ' || reserved_pico || ' pico', true)
    ) as k (kind, expected, found, counts)
where k.counts and k.expected <> k.found
order by k.kind limit @limit`

const checkRollupsSQL = `
with rolled as (
    select coalesce((select until from sluice.usage_rolled where tenant_id = @tenant_id), '-infinity') as until
), late as materialized (
    select at from sluice.usage_late where tenant_id = @tenant_id
), kept as (
    select at, endpoint_id, automation_id, provider, model_asked, model_served, kind,
        entries || ' entries, ' || ` + bucketsText + `amount_pico || ' pico' as text
    from sluice.usage_rollups, rolled where tenant_id = @tenant_id and (at >= rolled.until or at not in (select at from late))
), summed as (
    select sluice.usage_slot(at) as at, endpoint_id, automation_id, provider, model_asked, model_served, kind, count(*) as entries, ` + bucketSums + `,
        sum(amount_pico) as amount_pico
    from sluice.ledger_entries, rolled
    where tenant_id = @tenant_id and at < rolled.until and sluice.usage_slot(at) not in (select at from late)
    group by 1, 2, 3, 4, 5, 6, 7
), wanted as (
    select at, endpoint_id, automation_id, provider, model_asked, model_served, kind, entries || ' entries, ' || ` + bucketsText + `amount_pico || ' pico' as text
    from summed)
select 'rollup' as kind, @tenant_id::uuid as subject, concat_ws(' ', coalesce(w.text, 'nothing'), at, kind, provider || '/' || model_served) as expected,
    coalesce(k.text, 'nothing') as found
from wanted w full join kept k using (at, endpoint_id, automation_id, provider, model_asked, model_served, kind)
where w.text is distinct from k.text
order by at limit @limit`

// LedgerCheck compares the tenant's ledger with its calls, runs, prices, counters of limits, and rollups. Each comparison is one statement, and so
// exact while the tenant goes on working. It lists up to 100 differences of each.
func (tx TenantTx) LedgerCheck(ctx context.Context) ([]Difference, error) {
	var all []Difference
	for _, sql := range []string{
		checkCallsSQL, checkCallPricesSQL, checkEntryPricesSQL, checkEntryCallsSQL, checkRunsSQL, checkBudgetSQL, checkRollupsSQL,
	} {
		found, err := many[Difference](ctx, tx.tx, sql, tx.with(args{"limit": differencesMax}))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// checkTenantsSQL steps from one tenant of the ledger to the next by its index, however long the ledger is.
const checkTenantsSQL = `
with recursive named as (
    (select tenant_id from sluice.ledger_entries order by tenant_id limit 1)
    union all
    select (select e.tenant_id from sluice.ledger_entries e where e.tenant_id > n.tenant_id order by e.tenant_id limit 1) from named n where n.tenant_id is not null)
select 'tenant' as kind, tenant_id as subject, 'a tenant' as expected, 'entries of none' as found
from named n where tenant_id is not null and not exists (select from sluice.tenants t where t.tenant_id = n.tenant_id)
limit @limit`

// LedgerTenantsCheck finds entries of tenants that never were.
func (tx SystemTx) LedgerTenantsCheck(ctx context.Context) ([]Difference, error) {
	return many[Difference](ctx, tx.tx, checkTenantsSQL, args{"limit": differencesMax})
}
