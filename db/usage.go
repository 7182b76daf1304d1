package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// UsageFilter narrows the ledger; zero fields do not.
type UsageFilter struct {
	EndpointID   *uuid.UUID
	AutomationID *uuid.UUID
	Model        string
	Since, Until *time.Time
}

// UsageBy says by what the ledger is grouped.
type UsageBy struct{ Day, Endpoint, Automation, Model, ModelServed, Kind bool }

// Usage is the sum of one group; the columns that are not grouped by are nil.
type Usage struct {
	Day            *time.Time
	EndpointID     *uuid.UUID
	EndpointName   *string
	AutomationID   *uuid.UUID
	AutomationName *string
	Model          *string
	ModelServed    *string
	Kind           *string
	// Calls counts each call where it was first booked; a correction is no call.
	Calls int64
	Tokens
	// CostPico is a sum, which may be past a bigint: text of an integer in pico-USD.
	CostPico string
}

// usageOf are the columns by which the ledger and its rollups are narrowed and grouped.
const usageOf = `at, endpoint_id, automation_id, provider, model_asked, model_served, kind, `

// usageMatches narrows the ledger and its rollups alike.
const usageMatches = `tenant_id = @tenant_id
        and (@endpoint_id::uuid is null or endpoint_id = @endpoint_id)
        and (@automation_id::uuid is null or automation_id = @automation_id)
        and (@model::text is null or provider || '/' || model_asked = @model)`

// usageSQL reads the rollups for the whole quarters of an hour from a to z, and the ledger for what lies before, after, and in quarters that have got
// an entry since. It is one statement, so that all of it is of one moment. A day is one of the tenant's time zone.
const usageSQL = `
with asked as (
    select coalesce(@since::timestamptz, '-infinity') as since, coalesce(@until::timestamptz, 'infinity') as until
), whole as materialized (
    select since, until, sluice.usage_slot(since + interval '15 minutes' - interval '1 microsecond') as a,
        least(sluice.usage_slot(until), coalesce((select w.until from sluice.usage_rolled w where w.tenant_id = @tenant_id), '-infinity')) as z
    from asked
), late as materialized (
    select at from sluice.usage_late where tenant_id = @tenant_id
), spans (since, until) as materialized (
    select since, until from whole where a >= z
    union all select since, a from whole where a < z
    union all select z, until from whole where a < z
    union all select l.at, l.at + interval '15 minutes' from whole w join late l on l.at >= w.a and l.at < w.z where w.a < w.z
), slots as (
    select ` + usageOf + `entries, ` + tokenColumns + `, amount_pico
    from sluice.usage_rollups
    where ` + usageMatches + `
        and at >= (select a from whole) and at < (select z from whole) and at not in (select at from late)
    union all
    select ` + usageOf + `1, ` + tokenColumns + `, amount_pico
    from spans s join sluice.ledger_entries on at >= s.since and at < s.until
    where ` + usageMatches + `
), grouped as (
    select case when @by_day::boolean then date_trunc('day', timezone(@time_zone, at)) end as day,
        case when @by_endpoint::boolean then endpoint_id end as endpoint_id,
        case when @by_automation::boolean then automation_id end as automation_id,
        case when @by_model::boolean then provider || '/' || model_asked end as model,
        case when @by_model_served::boolean then provider || '/' || model_served end as model_served,
        case when @by_kind::boolean then kind end as kind,
        coalesce(sum(entries) filter (where kind <> 'adjust'), 0)::bigint as calls,
        sum(input_uncached)::bigint as input_uncached, sum(input_cache_read)::bigint as input_cache_read,
        sum(input_cache_write_5m)::bigint as input_cache_write_5m, sum(input_cache_write_1h)::bigint as input_cache_write_1h,
        sum(output_visible)::bigint as output_visible, sum(output_reasoning)::bigint as output_reasoning, sum(amount_pico)::text as cost_pico
    from slots group by 1, 2, 3, 4, 5, 6
    order by 1 desc nulls last, 2, 3, 4, 5, 6
    limit @limit)
select g.day, g.endpoint_id, n.name as endpoint_name, g.automation_id, a.name as automation_name, g.model, g.model_served, g.kind, g.calls,
    g.input_uncached, g.input_cache_read, g.input_cache_write_5m, g.input_cache_write_1h, g.output_visible, g.output_reasoning, g.cost_pico
from grouped g
left join sluice.endpoints n on n.tenant_id = @tenant_id and n.id = g.endpoint_id
left join sluice.automations a on a.tenant_id = @tenant_id and a.id = g.automation_id
order by g.day desc nulls last, g.endpoint_id, g.automation_id, g.model, g.model_served, g.kind`

// UsageRowsMax bounds the groups of one answer.
const UsageRowsMax = 10_000

// UsageList sums the ledger by groups.
func (tx TenantTx) UsageList(ctx context.Context, by UsageBy, f UsageFilter, timeZone string) ([]Usage, error) {
	return many[Usage](ctx, tx.tx, usageSQL, tx.with(args{
		"by_day": by.Day, "by_endpoint": by.Endpoint, "by_automation": by.Automation, "by_model": by.Model, "by_model_served": by.ModelServed,
		"by_kind": by.Kind, "time_zone": timeZone,
		"endpoint_id": f.EndpointID, "automation_id": f.AutomationID, "model": orNil(f.Model), "since": f.Since, "until": f.Until,
		"limit": UsageRowsMax,
	}))
}
