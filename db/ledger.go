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
	EntryAdjust = "adjust"
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
	// Note says why a correction was made.
	Note string
}

const entryColumns = `tenant_id, id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider, model_asked,
    model_served, price_id, ` + tokenColumns + `, amount_pico, note`

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
