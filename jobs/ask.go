package jobs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/llm"
	"sluice/proof"
	"sluice/tenants"
)

// emptyUser stands in for a user prompt that came out empty: providers refuse one.
const emptyUser = "Answer as instructed."

// ask makes the call to the model, pays for it once, and concludes. A call is a row, committed as sent with its worst case reserved, before its
// first byte leaves; received is the next.
func (w *runWorker) ask(ctx context.Context, c *claimed) error {
	if reply, call, ok := earlier(c); ok {
		return w.conclude(ctx, c, call, reply, false)
	}
	if step, err := w.settleLost(ctx, c); err != nil {
		return err
	} else if step != nil {
		return w.finish(ctx, c, *step, nil)
	}
	if step, err := w.fetch(ctx, c); err != nil {
		return err
	} else if step != nil {
		return w.finish(ctx, c, *step, nil)
	}
	if bad := unrepaired(c); bad != nil {
		return w.repair(ctx, c, *bad)
	}
	return w.askFirst(ctx, c)
}

// askFirst asks the automation's model, or who stands in for it, and has an answer that does not fit mended once.
func (w *runWorker) askFirst(ctx context.Context, c *claimed) error {
	question, step := w.question(c)
	if step != nil {
		return w.finish(ctx, c, *step, nil)
	}
	p, step, err := w.choose(ctx, c, question)
	if err != nil {
		return err
	} else if step != nil {
		return w.finish(ctx, c, *step, nil)
	}
	call, reply, err := w.send(ctx, c, p)
	var over *overLimit
	if errors.As(err, &over) && c.run.OverLimit == db.OverCheaper && over.money() {
		if p, step, err := w.cheaper(ctx, c, question); err != nil {
			return err
		} else if step == nil {
			call, reply, err = w.send(ctx, c, p)
			return w.answered(ctx, c, p, call, reply, err)
		}
	}
	return w.answered(ctx, c, p, call, reply, err)
}

// answered concludes with a reply, has it mended first where it cannot be used, or writes down what went wrong.
func (w *runWorker) answered(ctx context.Context, c *claimed, p plan, call db.Call, reply llm.Reply, err error) error {
	var over *overLimit
	switch {
	case errors.As(err, &over):
		return w.finish(ctx, c, over.step(c.run, call), nil)
	case err != nil:
		return w.callFailed(ctx, c, p, err)
	}
	_, bad := afterOutput(reply, c.automation)
	if bad == nil || !repairable(bad.Reason) {
		return w.conclude(ctx, c, call, reply, true)
	}
	// What was paid for is kept before more is spent: after a crash the next worker goes on with the repair.
	kept, err := w.keep(ctx, c, call, reply)
	if err != nil {
		return err
	}
	return w.repair(ctx, c, kept)
}

// send makes one call: the provider is asked for, the worst case reserved, and only then a byte leaves.
func (w *runWorker) send(ctx context.Context, c *claimed, p plan) (db.Call, llm.Reply, error) {
	request := p.request
	request.Sending = func(ctx context.Context) error {
		answer, err := w.lanes.write(ctx, c.run.TenantID, wish{send: &p.call})
		switch {
		case err != nil:
			return err
		case answer.send.ID != p.call.ID:
			return db.ErrStale
		case answer.send.Reason != "":
			return &overLimit{reason: answer.send.Reason, until: answer.send.Until}
		}
		return nil
	}
	reply, err := w.models.Complete(proof.Step(ctx, stepAsk), p.provider, p.owner, request)
	return p.call, reply, err
}

// overLimit says that a call would pass a limit of its tenant: nothing was reserved, nothing left.
type overLimit struct {
	reason string
	until  *time.Time
}

func (e *overLimit) Error() string { return "over the tenant's " + e.reason }

// money says whether a cheaper model may help.
func (e *overLimit) money() bool { return strings.HasPrefix(e.reason, "limit.cost") }

// step holds the run, or drops it where its automation wants that.
func (e *overLimit) step(run db.Run, call db.Call) db.RunStep {
	limit := strings.TrimPrefix(e.reason, "limit.")
	detail := fmt.Sprintf("A call of up to %d tokens and %s USD would pass the tenant's limit %s.", call.ReservedTokens, usd(call.ReservedPico), limit)
	if run.OverLimit == db.OverDrop {
		return db.RunStep{Status: db.RunSkipped, Reason: e.reason, Detail: detail + " Its automation drops what is over a limit."}
	}
	return db.RunStep{
		Status: db.RunHeld, Reason: e.reason, Detail: detail + " It goes on when the window turns or the limit is raised.", Until: e.until, Refund: true,
		HeldTokens: call.ReservedTokens, HeldPico: call.ReservedPico,
	}
}

// earlier finds a reply that was received and paid for, and that can be used: a run that comes back asks no second time.
func earlier(c *claimed) (llm.Reply, db.Call, bool) {
	for _, call := range slices.Backward(c.calls) {
		reply, ok := replyOf(call)
		if !ok {
			continue
		}
		// One that could not be used then cannot be used now: whoever retries such a run wants another answer.
		if _, bad := afterOutput(reply, c.automation); bad == nil {
			return reply, call, true
		}
	}
	return llm.Reply{}, db.Call{}, false
}

// replyOf is what was kept of a reply.
func replyOf(call db.Call) (llm.Reply, bool) {
	if call.State != db.CallReceived || call.ResponseText == nil {
		return llm.Reply{}, false
	}
	return llm.Reply{Text: *call.ResponseText, ModelServed: call.ModelServed, ResponseID: call.ResponseID, Finish: llm.Finish(call.Finish)}, true
}

// settleLost ends the calls that an earlier hold left open. One that was sent is booked as an estimate: nobody knows whether it was billed.
func (w *runWorker) settleLost(ctx context.Context, c *claimed) (*db.RunStep, error) {
	orphans := 0
	for _, call := range c.calls {
		if call.State == db.CallSent || call.State == db.CallOrphaned {
			orphans++
		}
		if call.State != db.CallSent && call.State != db.CallIntended {
			continue
		}
		err := w.db.Tenant(proof.Step(ctx, stepRunLost), c.run.TenantID, func(tx db.TenantTx) error { return settleCall(ctx, tx, call) })
		if errors.Is(err, db.ErrStale) {
			continue // the worker that lost the run has settled it meanwhile
		} else if err != nil {
			return nil, fmt.Errorf("end a call that an earlier hold left open: %w", err)
		}
	}
	if orphans > orphansMax {
		step := die(reasonReplyLost, fmt.Sprintf("The replies of %d calls were lost, each of which may have been billed; it is not called again by itself.", orphans))
		return &step, nil
	}
	return nil, nil //nolint:nilnil // no step: the run goes on
}

// settleCall ends a call without a worker. intended is a state of rows from before calls were kept as sent at once.
func settleCall(ctx context.Context, tx db.TenantTx, call db.Call) error {
	if call.State == db.CallIntended {
		return tx.CallFail(ctx, call.ID, "not_sent", 0)
	}
	return orphan(ctx, tx, call, &llm.Error{Kind: kindWorkerLost})
}

// kindWorkerLost is the kind of error of a call whose worker was killed while it was under way.
const kindWorkerLost llm.Kind = "worker_lost"

// orphan books a sent call without a reply: at what the provider told of it before it broke off, if anything, and else at its worst case.
func orphan(ctx context.Context, tx db.TenantTx, call db.Call, e *llm.Error) error {
	prices, err := pricesOf(ctx, tx, call.Provider, call.ModelAsked)
	if err != nil {
		return err
	}
	price, err := llm.PickTier(prices, call.InputEstimate)
	if err != nil {
		return fmt.Errorf("price an orphaned call: %w", err)
	}
	call.ErrorKind, call.ErrorStatus = string(e.Kind), e.Status
	if usage, seen := seenOf(e, call); seen {
		call.Tokens = tokensOf(usage)
		if call.CostPico, err = llm.Cost(price, usage); err != nil {
			return fmt.Errorf("price an orphaned call: %w", err)
		}
	} else {
		call.InputUncached, call.OutputVisible = call.InputEstimate, call.MaxOutputTokens
		call.CostPico = llm.WorstCase(price, call.InputEstimate, call.MaxOutputTokens)
	}
	if err := tx.CallOrphan(ctx, call); err != nil {
		return err
	}
	return tx.EntryInsert(ctx, call.ID, db.EntryOrphan)
}

// seenOf is what can be said of the usage of a stream that broke off after it had begun. The input is what was reported; of the output, what was seen is
// only the least: the model may have gone on for nobody, and that is billed too, so it is booked at the most that was asked for.
func seenOf(e *llm.Error, call db.Call) (llm.Usage, bool) {
	if e.OutputSeen == 0 && e.Usage.InputTotal() == 0 {
		return llm.Usage{}, false
	}
	usage := e.Usage
	if usage.InputTotal() == 0 {
		usage.InputUncached = call.InputEstimate
	}
	if usage.OutputTotal() < call.MaxOutputTokens {
		usage.OutputVisible, usage.OutputReasoning = call.MaxOutputTokens, 0
	}
	return usage, true
}

// nonceBytes of randomness make a fence that a payload cannot guess.
const nonceBytes = 16

// fenced renders what the model is asked, under a fence that is made for this one call: nonce is what its markers hold.
func (c *claimed) fenced() (system, user, nonce string, err error) {
	random := make([]byte, nonceBytes)
	_, _ = rand.Read(random)
	nonce = hex.EncodeToString(random)
	if system, user, err = c.automation.Prompt(EventOf(c.event), c.payload, c.state, nonce); err == nil && user == "" {
		user = emptyUser
	}
	return system, user, nonce, err
}

// estimate is how many tokens a prompt is, with what is sent beside it. Every fence counts as the dearest one: what a run wants of a limit must not
// differ from one try to the next by what its random digits are.
func (c *claimed) estimate(system, user, nonce string) int64 {
	text := strings.ReplaceAll(system+user, nonce, strings.Repeat("0", len(nonce)))
	return llm.EstimateTokens(text + string(c.automation.Spec().OutputSchema))
}

// callFailed writes what became of a call without a reply, and what follows for the run.
func (w *runWorker) callFailed(ctx context.Context, c *claimed, p plan, err error) error {
	var e *llm.Error
	known := errors.As(err, &e)
	if errors.Is(err, db.ErrStale) || errors.Is(context.Cause(ctx), errLost) {
		// The run is another worker's, or a person cancelled it: then nobody else would book the call.
		if known && e.Sent {
			w.settle(ctx, c, func(ctx context.Context, tx db.TenantTx) error {
				return orphan(ctx, tx, p.call, e)
			})
		}
		return errLost
	}
	if !known {
		w.log.ErrorContext(ctx, "call to a model", "error", err, "run_id", tenants.FormatID(tenants.RunPrefix, c.run.ID))
		e = &llm.Error{Kind: llm.KindUnavailable}
	}
	step := afterModel(err, c.tried(w.now()))
	c.calls = append(c.calls, db.Call{Provider: p.provider, ModelAsked: p.call.ModelAsked, State: db.CallFailed, ErrorKind: string(e.Kind)})
	refused := e.Kind == llm.KindCredentialRejected || e.Kind == llm.KindQuotaExhausted
	if refused {
		if err := w.pause(ctx, c, p, e); err != nil {
			return err
		}
	}
	if step.Status == db.RunWaiting && (!step.Refund || refused) && w.standIn(c) {
		step.Wait = snoozeMin // somebody else is asked: there is nothing to wait for
	}
	return w.finish(ctx, c, step, func(ctx context.Context, tx db.TenantTx) error {
		var err error
		if e.Sent {
			err = orphan(ctx, tx, p.call, e)
		} else {
			err = tx.CallFail(ctx, p.call.ID, string(e.Kind), e.Status)
		}
		if !reserved(e) && errors.Is(err, db.ErrStale) {
			return nil // it was refused before anything was kept of it
		}
		return err
	})
}

// reserved says whether the call was kept as sent before it failed: what the breaker, the bulkhead or a pause refuses is not, nor what cannot be meant.
func reserved(e *llm.Error) bool { return e.Sent || e.Status != 0 }

// tried is how far the run has come.
func (c *claimed) tried(now time.Time) tried {
	return tried{
		attempt: c.run.Attempt, attemptsMax: c.run.AttemptsMax, waits: failures(c.calls), claims: int(c.run.Epoch), age: now.Sub(c.run.CreatedAt),
		retry: c.automation.Retry(),
	}
}

// failures counts the calls before that ended without a reply.
func failures(calls []db.Call) int {
	n := 0
	for _, call := range calls {
		if call.State == db.CallFailed {
			n++
		}
	}
	return n
}

// settle books a call of a run that this worker has lost. The call's own state decides who comes first: the second finds it settled.
func (w *runWorker) settle(ctx context.Context, c *claimed, book func(ctx context.Context, tx db.TenantTx) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	err := w.db.Tenant(proof.Step(ctx, stepRunSettle), c.run.TenantID, func(tx db.TenantTx) error { return book(ctx, tx) })
	if err != nil && !errors.Is(err, db.ErrStale) {
		w.log.WarnContext(ctx, "a call of a lost run is not booked", "error", err, "run_id", tenants.FormatID(tenants.RunPrefix, c.run.ID))
	}
}

// EventOf is what an automation sees of an event, at the door and at work alike.
func EventOf(e db.Event) automations.Event {
	out := automations.Event{
		ID: tenants.FormatID(tenants.EventPrefix, e.ID), Source: e.Source, Type: e.Type, Entity: e.Entity,
		EndpointID: tenants.FormatID(tenants.EndpointPrefix, e.EndpointID), SourceEventID: e.SourceEventID, ReceivedAt: e.ReceivedAt,
		OccurredAt: e.ReceivedAt, Test: e.Test,
	}
	if e.OccurredAt != nil {
		out.OccurredAt = *e.OccurredAt
	}
	return out
}

// usable JSON for a jsonb column, or nil: Postgres refuses an escaped NUL.
func jsonb(raw json.RawMessage) json.RawMessage {
	if !json.Valid(raw) {
		return nil
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil
	}
	clean, err := json.Marshal(withoutNUL(v))
	if err != nil {
		return nil
	}
	return clean
}
