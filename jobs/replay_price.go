package jobs

import (
	"context"
	"errors"
	"fmt"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/llm"
)

// A Price is what work on stored events may cost, in pico-USD.
type Price struct {
	// Estimate goes by what earlier runs of the automation have cost; where there are none, or another model is to be asked, it is Worst.
	Estimate int64
	// Worst is what would be reserved for it.
	Worst int64
	// Sampled is how many items were looked at; the others are taken to be like them.
	Sampled int
}

// priceSample bounds how many items are looked at to find a price.
const priceSample = 100

// PriceItems finds the price of items of one automation, at a version of it. The worst case of a sample is found as it is before a call is reserved.
// alike says that the version asks the model that earlier runs have asked, so that what they have cost tells something.
func PriceItems(ctx context.Context, tx db.TenantTx, automation *automations.Compiled, items []db.ReplayItem, alike bool) (Price, error) {
	var p Price
	var worst int64
	every := max(len(items)/priceSample, 1)
	for i := 0; i < len(items) && p.Sampled < priceSample; i += every {
		most, known, err := worstOf(ctx, tx, automation, items[i])
		if err != nil {
			return Price{}, err
		}
		if known {
			worst += most
			p.Sampled++
		}
	}
	if p.Sampled == 0 {
		return p, nil
	}
	p.Worst = worst / int64(p.Sampled) * int64(len(items))
	p.Estimate = p.Worst
	if len(items) == 0 || !alike {
		return p, nil
	}
	mean, err := tx.RunCostMean(ctx, items[0].AutomationID)
	if err != nil {
		return Price{}, fmt.Errorf("what runs have cost: %w", err)
	}
	if mean >= 0 {
		p.Estimate = min(mean*int64(len(items)), p.Worst)
	}
	return p, nil
}

// worstOf is the worst case of the first call for an item; it is not known where the payload is gone or the prompt cannot be rendered.
func worstOf(ctx context.Context, tx db.TenantTx, automation *automations.Compiled, item db.ReplayItem) (pico int64, known bool, err error) {
	event, err := tx.EventGet(ctx, item.EventID)
	if errors.Is(err, db.ErrNotFound) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, err
	}
	payload, reason, _, err := payloadFor(ctx, tx, item.EventID)
	if err != nil || reason != "" {
		return 0, false, err
	}
	c := claimed{automation: automation, event: event, payload: payload}
	system, user, nonce, err := c.fenced()
	if err != nil {
		return 0, false, nil //nolint:nilerr // the run will say so
	}
	provider, model, err := llm.ParseModel(automation.Spec().Model)
	if err != nil {
		return 0, false, nil //nolint:nilerr // the same
	}
	prices, err := pricesOf(ctx, tx, provider, model)
	if errors.Is(err, db.ErrNotFound) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, err
	}
	estimate := c.estimate(system, user, nonce)
	price, err := llm.PickTier(prices, estimate)
	if err != nil {
		return 0, false, fmt.Errorf("price of %s: %w", automation.Spec().Model, err)
	}
	return llm.WorstCase(price, estimate, int64(automation.Spec().MaxOutputTokens)), true, nil
}
