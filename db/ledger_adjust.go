package db

import (
	"context"

	"github.com/google/uuid"

	"sluice/tenants"
)

// Correction is what a call turned out to have used.
type Correction struct {
	CallID uuid.UUID
	Tokens
	CostPico int64
	// PriceID is the price of CostPico, and ModelServed who answered; 0 and "" leave what was booked.
	PriceID     int64
	ModelServed string
	// Note says why, for whoever reads the ledger: up to 500 characters.
	Note string
}

const adjustLockSQL = `
select c.id from sluice.calls c join sluice.runs r on r.tenant_id = c.tenant_id and r.id = c.run_id
where c.tenant_id = @tenant_id and c.id = @call_id and c.state not in ('intended', 'sent') for update of c, r`

// entryAdjustSQL posts the differences to what is booked, so that the entries of the call add up to the correction whatever they were. An entry names
// one price and one served model: what was booked under others is taken back under those. The triggers bring the budgets up to date.
const entryAdjustSQL = `
with call as (
    update sluice.calls set ` + callTokensSet + `, cost_pico = @cost_pico,
        price_id = case when @price_id::bigint = 0 then price_id else @price_id end,
        model_served = case when @model_served::text = '' then model_served else @model_served end
    where tenant_id = @tenant_id and id = @call_id
    returning id, run_id, provider, model_asked, model_served, price_id, ` + tokenColumns + `, cost_pico
), sides as (
    select model_served, price_id, 1 as sign, ` + tokenColumns + `, cost_pico as amount_pico from call
    union all
    select model_served, price_id, -1, ` + tokenColumns + `, amount_pico from sluice.ledger_entries where tenant_id = @tenant_id and call_id = @call_id
), deltas as (
    select model_served, price_id, sum(sign * input_uncached)::bigint as input_uncached, sum(sign * input_cache_read)::bigint as input_cache_read,
        sum(sign * input_cache_write_5m)::bigint as input_cache_write_5m, sum(sign * input_cache_write_1h)::bigint as input_cache_write_1h,
        sum(sign * output_visible)::bigint as output_visible, sum(sign * output_reasoning)::bigint as output_reasoning,
        sum(sign * amount_pico)::bigint as amount_pico
    from sides group by 1, 2
), posted as (
    insert into sluice.ledger_entries (tenant_id, id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider,
        model_asked, model_served, price_id, ` + tokenColumns + `, amount_pico, note)
    select @tenant_id, (@ids::uuid[])[row_number() over (order by d.amount_pico, d.model_served, d.price_id)], 'adjust', coalesce(@at, now()), c.id, r.id,
        r.event_id, r.endpoint_id, r.automation_id, r.automation_version, c.provider, c.model_asked, d.model_served, d.price_id,
        d.input_uncached, d.input_cache_read, d.input_cache_write_5m, d.input_cache_write_1h, d.output_visible, d.output_reasoning, d.amount_pico, @note
    from call c join sluice.runs r on r.tenant_id = @tenant_id and r.id = c.run_id, deltas d
    where (d.input_uncached, d.input_cache_read, d.input_cache_write_5m, d.input_cache_write_1h, d.output_visible, d.output_reasoning, d.amount_pico)
        is distinct from (0, 0, 0, 0, 0, 0, 0)
    returning 1
), run as (
    update sluice.runs r set cost_pico = (
        select coalesce(sum(o.cost_pico), 0)::bigint from sluice.calls o where o.tenant_id = @tenant_id and o.run_id = r.id and o.id <> @call_id) + c.cost_pico
    from call c where r.tenant_id = @tenant_id and r.id = c.run_id and exists (select from posted))
select count(*)::int from posted`

// adjustPricesMax bounds the entries of one correction: one for each price and served model that the call was ever booked under.
const adjustPricesMax = 16

// EntryAdjust corrects a call that has ended: adjust entries make its entries add up to the correction, and the call and its run are brought up to
// date. It returns how many entries it posted, which is 0 where the books are right already. ErrNotFound: there is no such call, or it is under way.
func (tx TenantTx) EntryAdjust(ctx context.Context, c Correction) (int, error) {
	// Locked first, so that the next statement sees every entry that was posted before.
	if _, err := value[uuid.UUID](ctx, tx.tx, adjustLockSQL, tx.with(args{"call_id": c.CallID})); err != nil {
		return 0, err
	}
	ids := make([]uuid.UUID, adjustPricesMax)
	for i := range ids {
		ids[i] = tenants.NewID()
	}
	return value[int](ctx, tx.tx, entryAdjustSQL, tx.with(args{
		"call_id": c.CallID, "price_id": c.PriceID, "model_served": c.ModelServed, "cost_pico": c.CostPico, "note": c.Note, "ids": ids, "at": tx.at,
		"input_uncached": c.InputUncached, "input_cache_read": c.InputCacheRead, "input_cache_write_5m": c.InputCacheWrite5m,
		"input_cache_write_1h": c.InputCacheWrite1h, "output_visible": c.OutputVisible, "output_reasoning": c.OutputReasoning,
	}))
}
