package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sluice/db"
	"sluice/jobs/llm"
)

// ModelFault makes the check of a model's name when an automation is saved: that the provider is one of providers, and that there is a price
// for the model today. The check returns "" or a sentence that says what is wrong.
func ModelFault(providers []string) func(ctx context.Context, tx db.TenantTx, model string) (string, error) {
	return func(ctx context.Context, tx db.TenantTx, model string) (string, error) {
		provider, name, err := llm.ParseModel(model)
		if err != nil {
			return fmt.Sprintf("expected provider/model, for example %s/...", strings.Join(providers, "/... or ")), nil //nolint:nilerr // the sentence is the answer
		}
		if !slices.Contains(providers, provider) {
			return fmt.Sprintf("there is no provider %q here; there are: %s", provider, strings.Join(providers, ", ")), nil
		}
		if _, err := pricesOf(ctx, tx, provider, name); errors.Is(err, db.ErrNotFound) {
			return fmt.Sprintf("there is no price for model %q of %s, and what has no price is not called", name, provider), nil
		} else if err != nil {
			return "", err
		}
		return "", nil
	}
}

// pricesOf reads today's prices of a model, one for each tier.
func pricesOf(ctx context.Context, tx db.TenantTx, provider, model string) ([]llm.Price, error) {
	rows, err := tx.PriceList(ctx, provider, llm.PriceNames(model))
	if err != nil {
		return nil, fmt.Errorf("price of %s/%s: %w", provider, model, err)
	}
	out := make([]llm.Price, len(rows))
	for i, r := range rows {
		out[i] = priceRow(r)
	}
	return out, nil
}

// priceRow is a row of the table of prices, for arithmetic.
func priceRow(r db.Price) llm.Price {
	return llm.Price{
		ID: r.ID, Provider: r.Provider, Model: r.Model, TierAbove: r.TierAbove, Input: r.InputPico, Output: r.OutputPico,
		CacheRead: orNoPrice(r.CacheReadPico), CacheWrite5m: orNoPrice(r.CacheWrite5mPico), CacheWrite1h: orNoPrice(r.CacheWrite1hPico),
	}
}

func orNoPrice(p *int64) int64 {
	if p == nil {
		return llm.NoPrice
	}
	return *p
}

// tokensOf are the columns of a usage.
func tokensOf(u llm.Usage) db.Tokens {
	return db.Tokens{
		InputUncached: u.InputUncached, InputCacheRead: u.InputCacheRead, InputCacheWrite5m: u.InputCacheWrite5m,
		InputCacheWrite1h: u.InputCacheWrite1h, OutputVisible: u.OutputVisible, OutputReasoning: u.OutputReasoning,
	}
}
