package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/llm"
)

// ending is what a run ends its hold with: the reply, its usage and cost, the ledger entry, the outcome, the action and its job.
type ending struct {
	run    db.Run
	call   *db.Call // a reply that was just received, and is still to be paid for; nil where there is none
	step   db.RunStep
	intent *db.Action
	// with, if not nil, writes what else belongs to it, such as what became of a call without a reply.
	with func(ctx context.Context, tx db.TenantTx) error
}

// conclude keeps what the model answered, in one transaction with other runs of the tenant. fresh says that the reply was just received. The job
// itself is ended by River, many at once: should it be worked again, its run says that there is nothing left to do.
func (w *runWorker) conclude(ctx context.Context, c *claimed, call db.Call, reply llm.Reply, fresh bool) error {
	// The reply is here and is paid for: it is kept even where this process is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	step, intent, err := w.judge(c, reply)
	if err != nil {
		return err
	}
	step.Detail = c.noted(step.Detail)
	end := ending{run: c.run, step: step, intent: intent}
	if fresh {
		if call, err = w.received(ctx, c.run.TenantID, call, reply); err != nil {
			return err
		}
		end.call = &call
	}
	_, err = w.lanes.write(ctx, c.run.TenantID, wish{end: &end})
	if intent != nil && errors.Is(err, db.ErrConflict) {
		// Another run of the same automation on the same event has made this very effect, or may have.
		step.Status, step.Reason, end.intent = db.RunDone, reasonMade, nil
		step.Detail = "The outcome stands; its effect was made before, by another run on the same event, and is not made twice."
		end.step = step
		_, err = w.lanes.write(ctx, c.run.TenantID, wish{end: &end})
	}
	if fresh && errors.Is(err, db.ErrStale) {
		// The run is another worker's, or a person cancelled it. What was paid is booked all the same.
		w.settle(ctx, c, func(ctx context.Context, tx db.TenantTx) error {
			if err := receive(ctx, tx, call); err != nil {
				return err
			}
			return tx.RunCost(ctx, c.run.ID)
		})
	}
	if err != nil {
		return fmt.Errorf("keep the outcome of run %s: %w", c.run.ID, err)
	}
	w.told(ctx, c, step)
	return nil
}

// keep keeps a reply and its cost, while the run goes on.
func (w *runWorker) keep(ctx context.Context, c *claimed, call db.Call, reply llm.Reply) (db.Call, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	call, err := w.received(ctx, c.run.TenantID, call, reply)
	if err != nil {
		return call, err
	}
	_, err = w.lanes.write(ctx, c.run.TenantID, wish{keep: func(ctx context.Context, tx db.TenantTx) error {
		if err := receive(ctx, tx, call); err != nil {
			return err
		}
		return tx.RunCost(ctx, c.run.ID)
	}})
	call.State = db.CallReceived
	return call, err
}

// receive keeps a reply with its cost, and books it. Where its call was taken for lost and booked as an estimate, the difference is booked.
func receive(ctx context.Context, tx db.TenantTx, call db.Call) error {
	err := tx.CallsReceive(ctx, []db.Call{call})
	if !errors.Is(err, db.ErrStale) {
		return err
	}
	_, err = tx.EntryAdjust(ctx, db.Correction{
		CallID: call.ID, Tokens: call.Tokens, CostPico: call.CostPico, PriceID: call.PriceID, ModelServed: call.ModelServed, Note: "The reply came after all.",
	})
	return err
}

// judge says what follows of a reply, and what is to be sent, if anything.
func (w *runWorker) judge(c *claimed, reply llm.Reply) (db.RunStep, *db.Action, error) {
	output, bad := afterOutput(reply, c.automation)
	if bad != nil {
		return *bad, nil, nil
	}
	output = withoutNUL(output)
	kept, err := json.Marshal(output)
	if err != nil {
		return db.RunStep{}, nil, fmt.Errorf("write the output: %w", err)
	}
	intent, err := Effect(w.actions, Concluded{
		Run: c.run, Automation: c.automation, Event: c.event, Payload: c.payload, Output: output, At: w.now(),
	})
	if fault, ok := errors.AsType[*EffectFault](err); ok {
		step := die(fault.Reason, fault.Detail)
		step.Output = kept
		return step, nil, nil
	} else if err != nil {
		return db.RunStep{}, nil, err
	}
	step := db.RunStep{Status: db.RunDone, Output: kept}
	switch {
	case c.run.Mode == automations.ModeReview:
		until := w.now().Add(c.automation.Review().Within)
		step.Status, step.Reason, step.Until = db.RunInReview, reasonReview, &until
		step.Detail = "The outcome stands; a person is to approve it."
	case intent == nil:
	case intent.State == db.ActionWithheld:
		step.Reason, step.Detail = reasonShadow, "The automation is in shadow mode: what would have been sent is kept, and nothing left."
	default:
		step.Status, step.Reason, step.Detail = db.RunActing, reasonPending, "The outcome stands; its effect is to be made."
	}
	return step, intent, nil
}

// received is a call with its reply and usage, priced by the model that served it.
func (w *runWorker) received(ctx context.Context, tenantID uuid.UUID, call db.Call, reply llm.Reply) (db.Call, error) {
	usage := reply.Usage
	if reply.UsageFault != "" {
		// What the provider says of the usage cannot be trusted: what can have been used is booked, never nothing.
		usage = llm.Usage{
			InputUncached: max(usage.InputTotal(), call.InputEstimate),
			OutputVisible: min(max(usage.OutputTotal(), llm.EstimateTokens(reply.Text)), max(call.MaxOutputTokens, usage.OutputTotal())),
		}
	}
	served := reply.ModelServed
	if served == "" {
		served = call.ModelAsked
	}
	prices, err := w.prices.of(ctx, tenantID, call.Provider, served)
	if errors.Is(err, db.ErrNotFound) {
		// A name of the served model that is not known: the model that was asked has a price, or nothing had been sent.
		prices, err = w.prices.of(ctx, tenantID, call.Provider, call.ModelAsked)
	}
	if err != nil {
		return call, err
	}
	price, err := llm.PickTier(prices, usage.InputTotal())
	if err != nil {
		return call, fmt.Errorf("price the call: %w", err)
	}
	cost, err := llm.Cost(price, usage)
	if err != nil {
		return call, fmt.Errorf("price the call: %w", err)
	}
	text := strings.ToValidUTF8(strings.ReplaceAll(reply.Text, "\x00", ""), "\uFFFD")
	call.ModelServed, call.PriceID, call.Tokens, call.CostPico = served, price.ID, tokensOf(usage), cost
	call.UsageRaw, call.UsageFault, call.Finish, call.ResponseID = jsonb(reply.RawUsage), reply.UsageFault, string(reply.Finish), reply.ResponseID
	call.ResponseText = &text
	return call, nil
}

// withoutNUL takes NUL characters, which Postgres cannot keep, out of every text of a JSON value.
func withoutNUL(v any) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "\x00", "")
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = withoutNUL(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[strings.ReplaceAll(k, "\x00", "")] = withoutNUL(e)
		}
		return out
	}
	return v
}
