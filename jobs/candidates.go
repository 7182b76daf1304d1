package jobs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/llm"
	"sluice/proof"
	"sluice/tenants"
)

// This file chooses whom to ask: the automation's model, who stands in for it, or the cheaper one.

// failuresBeforeStandIn is how often a model may fail a run before the next is asked.
const failuresBeforeStandIn = 2

// question is what is asked, whoever is asked.
type question struct {
	system, user string
	nonce        string // of the markers around what is data
	estimate     int64
	maxOutput    int64
	part         string
}

// question renders the prompt.
func (w *runWorker) question(c *claimed) (question, *db.RunStep) {
	system, user, nonce, err := c.fenced()
	if err != nil {
		step := die(reasonPrompt, "The prompt cannot be rendered: "+err.Error())
		return question{}, &step
	}
	return question{
		system: system, user: user, nonce: nonce, estimate: c.estimate(system, user, nonce), maxOutput: int64(c.automation.Spec().MaxOutputTokens), part: db.CallAsk,
	}, nil
}

// plan is a call that is ready to be made.
type plan struct {
	provider, owner string
	request         llm.Request
	call            db.Call
}

// unusable says why a candidate cannot be asked; the run ends, or waits, for that where no other can.
type unusable struct{ step db.RunStep }

func (u *unusable) Error() string { return u.step.Detail }

// choose takes the first candidate that can be asked now: one that has not failed this run too often, whose provider is not known to be away, that
// has a key and a price, and whose worst case keeps to the automation's ceiling. A step is returned where none can.
func (w *runWorker) choose(ctx context.Context, c *claimed, q question) (plan, *db.RunStep, error) {
	var first *db.RunStep
	for _, model := range w.candidates(c) {
		p, err := w.plan(ctx, c, q, model)
		var no *unusable
		switch {
		case err == nil:
			return p, nil, nil
		case !errors.As(err, &no):
			return plan{}, nil, err
		case first == nil:
			first = &no.step
		case first.Status == db.RunDead && no.step.Status == db.RunWaiting:
			first = &no.step // as long as one of them may come back there is hope
		}
	}
	return plan{}, first, nil
}

// cheaper is the automation's cheaper model.
func (w *runWorker) cheaper(ctx context.Context, c *claimed, q question) (plan, *db.RunStep, error) {
	p, err := w.plan(ctx, c, q, c.automation.Spec().CheaperModel)
	if no, ok := errors.AsType[*unusable](err); ok {
		return plan{}, &no.step, nil
	}
	return p, nil, err
}

// candidates are the models in the order in which to ask them: those that failed this run less often first, then as the automation names them.
func (w *runWorker) candidates(c *claimed) []string {
	spec := c.automation.Spec()
	models := append([]string{spec.Model}, spec.Fallbacks...)
	rounds := func(model string) int { return c.failed(model) / failuresBeforeStandIn }
	slices.SortStableFunc(models, func(a, b string) int { return rounds(a) - rounds(b) })
	return models
}

// failed counts how often a model failed this run for a reason of its provider's.
func (c *claimed) failed(model string) int {
	n := 0
	for _, call := range c.calls {
		if call.Provider+"/"+call.ModelAsked != model {
			continue
		}
		switch llm.Kind(call.ErrorKind) { //nolint:exhaustive // the others say nothing against the provider
		case llm.KindOverloaded, llm.KindUnavailable, llm.KindTimeout, llm.KindMalformedReply, kindWorkerLost:
			n++
		}
	}
	return n
}

// standIn says whether the next call of the run goes to another model than the last.
func (w *runWorker) standIn(c *claimed) bool {
	last := c.calls[len(c.calls)-1]
	switch llm.Kind(last.ErrorKind) { //nolint:exhaustive // the others are tried again first
	case llm.KindCredentialRejected, llm.KindQuotaExhausted:
		// The key is paused now: whoever has another answers at once.
		for _, model := range c.automation.Spec().Fallbacks {
			if provider, _, _ := llm.ParseModel(model); provider != last.Provider {
				return true
			}
		}
		return false
	}
	return w.candidates(c)[0] != last.Provider+"/"+last.ModelAsked
}

// plan finds the key and the price of a model, and says what the call may cost.
func (w *runWorker) plan(ctx context.Context, c *claimed, q question, name string) (plan, error) {
	no := func(step db.RunStep) (plan, error) { return plan{}, &unusable{step} }
	spec := c.automation.Spec()
	provider, model, err := llm.ParseModel(name)
	if err != nil {
		return no(die(reasonAutomation, "The model is not of the form provider/model."))
	}
	key, err := w.keyring.find(ctx, c.run.TenantID, provider, spec.CredentialID)
	if errors.Is(err, db.ErrUnreadable) {
		return no(w.unopened(ctx, c, err))
	}
	if err != nil {
		return plan{}, err
	}
	switch {
	case key.secret.Empty():
		return no(die(reasonNoKey, "There is no API key for "+provider+": make a credential of that kind, then retry the run."))
	case key.paused != "":
		return no(waitOrDie(reasonPaused, "The credential for "+provider+" is paused: "+key.paused, quotaWait, c.tried(w.now())))
	}
	prices, err := w.prices.of(ctx, c.run.TenantID, provider, model)
	if err == nil {
		var price llm.Price
		if price, err = llm.PickTier(prices, q.estimate); err == nil {
			return w.priced(c, q, key, price, provider, model)
		}
	}
	if errors.Is(err, db.ErrNotFound) || errors.Is(err, llm.ErrUnpriced) {
		return no(die(reasonPrice, "There is no price for "+name+", and what has no price is not called."))
	}
	return plan{}, err
}

// unopened is the step of a run one of whose credentials does not open.
func (w *runWorker) unopened(ctx context.Context, c *claimed, err error) db.RunStep {
	w.log.ErrorContext(ctx, "a credential does not open with this process's master keys", "tenant_id", tenants.FormatID(tenants.TenantPrefix, c.run.TenantID),
		"run_id", tenants.FormatID(tenants.RunPrefix, c.run.ID), "error", err)
	return waitOrDie(reasonUnreadable, detailUnreadable, unopenedWait, c.tried(w.now()))
}

// priced is a plan whose key and price are known.
func (w *runWorker) priced(c *claimed, q question, key heldKey, price llm.Price, provider, model string) (plan, error) {
	spec := c.automation.Spec()
	worst := llm.WorstCase(price, q.estimate, q.maxOutput)
	if most := c.automation.MaxCallPico(); most > 0 && worst > most {
		return plan{}, &unusable{die(reasonCeiling, fmt.Sprintf("A call to %s/%s may cost up to %s USD, more than the automation's max_call_usd of %s.",
			provider, model, usd(worst), usd(most)))}
	}
	if e := w.models.Ready(provider, model, key.owner); e != nil {
		if e.Kind == llm.KindBusy {
			e.RetryAfter = w.models.Slot(provider, model, key.owner)
		}
		return plan{}, &unusable{afterModel(e, c.tried(w.now()))}
	}
	sum := sha256.Sum256([]byte(model + "\x00" + q.system + "\x00" + q.user + "\x00" + string(spec.OutputSchema)))
	p := plan{provider: provider, owner: key.owner}
	p.call = db.Call{
		ID: tenants.NewID(), RunID: c.run.ID, Epoch: c.run.Epoch, Part: q.part, Provider: provider, ModelAsked: model, CredentialID: key.credentialID,
		PriceID: price.ID, RequestSHA256: sum[:], InputEstimate: q.estimate, MaxOutputTokens: q.maxOutput,
		ReservedTokens: q.estimate + q.maxOutput, ReservedPico: worst,
	}
	p.request = llm.Request{
		Model: model, System: q.system, User: q.user, Schema: spec.OutputSchema, MaxOutputTokens: int(q.maxOutput),
		APIKey: key.secret.Reveal(), RequestID: tenants.FormatID(tenants.CallPrefix, p.call.ID),
	}
	return p, nil
}

// pause stops the use of a key that its provider refuses, or that has no money left: of the tenant's own until a person has seen to it, of the
// operator's for a while.
func (w *runWorker) pause(ctx context.Context, c *claimed, p plan, e *llm.Error) error {
	if p.call.CredentialID == nil {
		w.log.ErrorContext(ctx, "the operator's key is refused", "provider", p.provider, "error", e.Error())
		until := w.now().Add(quotaWait)
		w.models.Pause(p.provider, p.owner, until)
		err := w.db.System(proof.Step(ctx, stepKeyPause), func(tx db.SystemTx) error {
			return tx.ProviderPausePut(ctx, p.provider, p.owner, until, providerReasonDot+string(e.Kind))
		})
		if err != nil {
			return fmt.Errorf("tell the other workers of a paused key: %w", err)
		}
		return nil
	}
	w.keyring.forget()
	return w.db.Tenant(proof.Step(db.AsRule(ctx, "credential-pause"), stepKeyPause), c.run.TenantID, func(tx db.TenantTx) error {
		if err := tx.CredentialPause(ctx, *p.call.CredentialID, e.Error()); err != nil && !errors.Is(err, db.ErrNotFound) {
			return fmt.Errorf("pause a credential: %w", err)
		}
		return nil
	})
}

// unrepaired is the last reply that did not fit and was not mended: a worker was killed in between.
func unrepaired(c *claimed) *db.Call {
	var last *db.Call
	for i, call := range c.calls {
		reply, ok := replyOf(call)
		switch {
		case !ok:
		case call.Part == db.CallRepair:
			last = nil
		default:
			if _, bad := afterOutput(reply, c.automation); bad != nil && repairable(bad.Reason) {
				last = &c.calls[i]
			}
		}
	}
	return last
}

// repairable says whether a second call may mend an answer.
func repairable(reason string) bool { return reason == reasonSchema || reason == reasonTruncated }

// repairOutputMax bounds what a cut off answer may grow to.
const repairOutputMax = 32_000

// repair asks once more, with the answer that did not fit and what was wrong with it.
func (w *runWorker) repair(ctx context.Context, c *claimed, bad db.Call) error {
	reply, _ := replyOf(bad)
	_, fault := afterOutput(reply, c.automation)
	q, step := w.question(c)
	if step != nil {
		return w.finish(ctx, c, *step, nil)
	}
	q.part = db.CallRepair
	switch fault.Reason {
	case reasonTruncated:
		q.maxOutput = min(2*q.maxOutput, repairOutputMax) //nolint:mnd // twice the room
		q.user += "\n\nAn earlier answer to this was cut off because it was too long. Answer in full, and more briefly."
	default:
		// Both stand between the markers: what the payload orders a model to write, even as the name of a property, would stand outside of them here.
		q.user += "\n\nAn earlier answer to this could not be used. It was:\n" + automations.Fenced(reply.Text, q.nonce, repairShownMax) +
			"\n\nWhat was wrong with it: " + automations.Fenced(fault.Detail, q.nonce, repairShownMax) + "\nAnswer again, so that it fits."
	}
	q.estimate = c.estimate(q.system, q.user, q.nonce)
	p, err := w.plan(ctx, c, q, bad.Provider+"/"+bad.ModelAsked)
	if no, ok := errors.AsType[*unusable](err); ok {
		if no.step.Status == db.RunDead {
			no.step = *fault // it cannot be mended: what was wrong with the answer is the reason
		}
		return w.finish(ctx, c, no.step, nil)
	} else if err != nil {
		return err
	}
	call, mended, err := w.send(ctx, c, p)
	var over *overLimit
	switch {
	case errors.As(err, &over):
		return w.finish(ctx, c, over.step(c.run, call), nil)
	case err != nil:
		return w.callFailed(ctx, c, p, err)
	}
	return w.conclude(ctx, c, call, mended, true)
}

// repairShownMax is how much of an answer is shown to the model that is to mend it, in bytes.
const repairShownMax = 8 << 10

// usd writes pico-USD for people.
func usd(pico int64) string {
	const picoPerUSD, picoPerMicro = 1_000_000_000_000, 1_000_000
	return fmt.Sprintf("%d.%06d", pico/picoPerUSD, pico%picoPerUSD/picoPerMicro)
}
