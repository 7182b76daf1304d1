package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// The kinds of ledger entries. A charge is what a provider reported; an orphan an estimate for a call whose reply never came; an adjust
// corrects one of the two.
const (
	EntryCharge = "charge"
	EntryOrphan = "orphan"
)

// Entry is one append-only row of cost.
type Entry struct {
	TenantID          uuid.UUID
	ID                uuid.UUID
	Kind              string
	At                time.Time
	CallID            uuid.UUID
	RunID             uuid.UUID
	EventID           uuid.UUID
	EndpointID        uuid.UUID
	AutomationID      uuid.UUID
	AutomationVersion int
	Provider          string
	ModelAsked        string
	ModelServed       string
	PriceID           int64
	Tokens
	// AmountPico is in pico-USD.
	AmountPico int64
}

const entryColumns = `tenant_id, id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider, model_asked,
    model_served, price_id, ` + tokenColumns + `, amount_pico`

// entryInsertSQL copies the call as it stands, so that the two cannot differ, and brings the run's sum up to date.
const entryInsertSQL = `
with entry as (
    insert into sluice.ledger_entries (tenant_id, id, kind, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider,
        model_asked, model_served, price_id, ` + tokenColumns + `, amount_pico)
    select c.tenant_id, @id, @kind, c.id, r.id, r.event_id, r.endpoint_id, r.automation_id, r.automation_version, c.provider, c.model_asked,
        c.model_served, c.price_id, c.input_uncached, c.input_cache_read, c.input_cache_write_5m, c.input_cache_write_1h, c.output_visible,
        c.output_reasoning, c.cost_pico
    from sluice.calls c join sluice.runs r on r.tenant_id = c.tenant_id and r.id = c.run_id
    where c.tenant_id = @tenant_id and c.id = @call_id
    returning run_id)
update sluice.runs r set cost_pico = (
    select coalesce(sum(c.cost_pico), 0)::bigint from sluice.calls c where c.tenant_id = @tenant_id and c.run_id = r.id)
from entry where r.tenant_id = @tenant_id and r.id = entry.run_id`

// EntryInsert books a call's cost. ErrStale: there is no such call.
func (tx TenantTx) EntryInsert(ctx context.Context, callID uuid.UUID, kind string) error {
	return touched(run(ctx, tx.tx, entryInsertSQL, tx.with(args{"id": tenants.NewID(), "kind": kind, "call_id": callID})))
}

// UsageFilter narrows the ledger; zero fields do not.
type UsageFilter struct {
	EndpointID   *uuid.UUID
	AutomationID *uuid.UUID
	Model        string
	Since, Until *time.Time
}

const entryListSQL = `
select ` + entryColumns + ` from sluice.ledger_entries
where tenant_id = @tenant_id and id < @before
  and (@endpoint_id::uuid is null or endpoint_id = @endpoint_id)
  and (@automation_id::uuid is null or automation_id = @automation_id)
  and (@model::text is null or provider || '/' || model_asked = @model)
  and (@since::timestamptz is null or at >= @since)
  and (@until::timestamptz is null or at < @until)
order by id desc limit @limit`

// EntryList lists the ledger, newest first.
func (tx TenantTx) EntryList(ctx context.Context, f UsageFilter, p Page) ([]Entry, error) {
	return many[Entry](ctx, tx.tx, entryListSQL, tx.with(args{
		"before": p.before(), "limit": p.Limit, "endpoint_id": f.EndpointID, "automation_id": f.AutomationID, "model": orNil(f.Model),
		"since": f.Since, "until": f.Until,
	}))
}

// UsageBy says by what the ledger is grouped.
type UsageBy struct{ Day, Endpoint, Automation, Model bool }

// Usage is the sum of one group; the columns that are not grouped by are nil.
type Usage struct {
	Day          *time.Time
	EndpointID   *uuid.UUID
	AutomationID *uuid.UUID
	Model        *string
	Calls        int64
	Tokens
	// CostPico is a sum, which may be past a bigint: text of an integer in pico-USD.
	CostPico string
}

// usageSQL groups by what is asked; a day is one of the tenant's time zone.
const usageSQL = `
select day, endpoint_id, automation_id, model, count(distinct call_id) as calls,
    sum(input_uncached)::bigint as input_uncached, sum(input_cache_read)::bigint as input_cache_read,
    sum(input_cache_write_5m)::bigint as input_cache_write_5m, sum(input_cache_write_1h)::bigint as input_cache_write_1h,
    sum(output_visible)::bigint as output_visible, sum(output_reasoning)::bigint as output_reasoning, sum(amount_pico)::text as cost_pico
from (select case when @by_day then date_trunc('day', timezone(@time_zone, at)) end as day,
             case when @by_endpoint then endpoint_id end as endpoint_id,
             case when @by_automation then automation_id end as automation_id,
             case when @by_model then provider || '/' || model_asked end as model,
             call_id, ` + tokenColumns + `, amount_pico
      from sluice.ledger_entries
      where tenant_id = @tenant_id
        and (@endpoint_id::uuid is null or endpoint_id = @endpoint_id)
        and (@automation_id::uuid is null or automation_id = @automation_id)
        and (@model::text is null or provider || '/' || model_asked = @model)
        and (@since::timestamptz is null or at >= @since)
        and (@until::timestamptz is null or at < @until)) g
group by 1, 2, 3, 4
order by 1 desc nulls last, 2, 3, 4
limit @limit`

// UsageRowsMax bounds the groups of one answer.
const UsageRowsMax = 10_000

// UsageList sums the ledger by groups.
func (tx TenantTx) UsageList(ctx context.Context, by UsageBy, f UsageFilter, timeZone string) ([]Usage, error) {
	return many[Usage](ctx, tx.tx, usageSQL, tx.with(args{
		"by_day": by.Day, "by_endpoint": by.Endpoint, "by_automation": by.Automation, "by_model": by.Model, "time_zone": timeZone,
		"endpoint_id": f.EndpointID, "automation_id": f.AutomationID, "model": orNil(f.Model), "since": f.Since, "until": f.Until,
		"limit": UsageRowsMax,
	}))
}
