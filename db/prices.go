package db

import "context"

// Price is what one token of a model costs, in pico-USD; nil is a bucket that the provider lists no price for.
type Price struct {
	ID               int64
	Provider         string
	Model            string
	TierAbove        int64
	InputPico        int64
	CacheReadPico    *int64
	CacheWrite5mPico *int64 `db:"cache_write_5m_pico"`
	CacheWrite1hPico *int64 `db:"cache_write_1h_pico"`
	OutputPico       int64
}

const priceColumns = `id, provider, model, tier_above, input_pico, cache_read_pico, cache_write_5m_pico, cache_write_1h_pico, output_pico`

// priceListSQL takes the first of the names that has prices today: names come in the order of trial.
const priceListSQL = `
with named as (
    select ` + priceColumns + `, n.position from sluice.prices p join unnest(@names::text[]) with ordinality as n (name, position) on p.model = n.name
    where p.provider = @provider and p.effective_from <= now() and (p.effective_to is null or p.effective_to > now()))
select ` + priceColumns + ` from named where position = (select min(position) from named) order by tier_above`

// PriceList reads the prices, one for each tier, that hold for the first of a model's names that has any. None at all is ErrNotFound.
func (tx TenantTx) PriceList(ctx context.Context, provider string, names []string) ([]Price, error) {
	prices, err := many[Price](ctx, tx.tx, priceListSQL, args{"provider": provider, "names": names})
	if err == nil && len(prices) == 0 {
		return nil, ErrNotFound
	}
	return prices, err
}
