package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Booked is a call as it stands in the books.
type Booked struct {
	ID          uuid.UUID
	State       string
	ModelAsked  string
	ModelServed string
	UsageFault  string
	PriceID     int64
	Tokens
	CostPico  int64
	CreatedAt time.Time
}

// callBetweenSQL goes by the ids, which are in the order of their making.
const callBetweenSQL = `
select id, state, model_asked, model_served, usage_fault, price_id, ` + tokenColumns + `, cost_pico, created_at from sluice.calls
where tenant_id = @tenant_id and id > @after and id <= @last and provider = @provider
order by id limit @limit`

// CallListBetween reads calls to a provider whose ids come after one and not after another, in their order.
func (tx TenantTx) CallListBetween(ctx context.Context, provider string, after, last uuid.UUID, limit int) ([]Booked, error) {
	return many[Booked](ctx, tx.tx, callBetweenSQL, tx.with(args{"provider": provider, "after": after, "last": last, "limit": limit}))
}

// priceListAtSQL is priceListSQL for a day that may be past.
const priceListAtSQL = `
with named as (
    select ` + priceColumns + `, n.position from sluice.prices p join unnest(@names::text[]) with ordinality as n (name, position) on p.model = n.name
    where p.provider = @provider and p.effective_from <= @at and (p.effective_to is null or p.effective_to > @at))
select ` + priceColumns + ` from named where position = (select min(position) from named) order by tier_above`

// PriceListAt reads the prices, one for each tier, that held at a time for the first of a model's names that had any. None at all is ErrNotFound.
func (tx TenantTx) PriceListAt(ctx context.Context, provider string, names []string, at time.Time) ([]Price, error) {
	prices, err := many[Price](ctx, tx.tx, priceListAtSQL, args{"provider": provider, "names": names, "at": at})
	if err == nil && len(prices) == 0 {
		return nil, ErrNotFound
	}
	return prices, err
}
