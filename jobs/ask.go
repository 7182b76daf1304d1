package jobs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/llm"
	"sluice/tenants"
)

// operatorOwner is the owner of the operator's own keys: all tenants without a key of theirs share its breaker.
const operatorOwner = "operator"

// emptyUser stands in for a user prompt that came out empty: providers refuse one.
const emptyUser = "Answer as instructed."

// ask makes the call to the model, pays for it once, and concludes. intended, sent and received are committed rows.
func (w *runWorker) ask(ctx context.Context, job *river.Job[RunArgs], c *claimed) error {
	if reply, call, ok := earlier(c); ok {
		return w.conclude(ctx, job, c, call, reply, false)
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
	plan, step, err := w.plan(ctx, c)
	if err != nil {
		return err
	} else if step != nil {
		return w.finish(ctx, c, *step, nil)
	}
	call := plan.call
	request := plan.request
	request.Sending = func(ctx context.Context) error {
		return w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) error { return tx.CallSend(ctx, call.ID, c.run.Epoch) })
	}
	reply, err := w.models.Complete(ctx, plan.provider, plan.owner, request)
	if err != nil {
		return w.callFailed(ctx, c, plan, err)
	}
	return w.conclude(ctx, job, c, call, reply, true)
}

// earlier finds a reply that was received and paid for, and that can be used: a run that comes back asks no second time.
func earlier(c *claimed) (llm.Reply, db.Call, bool) {
	for _, call := range slices.Backward(c.calls) {
		if call.State != db.CallReceived || call.ResponseText == nil {
			continue
		}
		reply := llm.Reply{Text: *call.ResponseText, ModelServed: call.ModelServed, ResponseID: call.ResponseID, Finish: llm.Finish(call.Finish)}
		// One that could not be used then cannot be used now: whoever retries such a run wants another answer.
		if _, bad := afterOutput(reply, c.automation); bad == nil {
			return reply, call, true
		}
	}
	return llm.Reply{}, db.Call{}, false
}

// settleLost ends the calls that an earlier hold left open. One that was sent is booked as an estimate: nobody knows whether it was billed.
func (w *runWorker) settleLost(ctx context.Context, c *claimed) (*db.RunStep, error) {
	orphans := 0
	for _, call := range c.calls {
		switch call.State {
		case db.CallOrphaned:
			orphans++
		case db.CallIntended:
			if err := w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) error { return tx.CallFail(ctx, call.ID, "not_sent", 0) }); err != nil {
				return nil, fmt.Errorf("end a call that was never sent: %w", err)
			}
		case db.CallSent:
			orphans++
			err := w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) error { return orphan(ctx, tx, call, "worker_lost", 0) })
			if errors.Is(err, db.ErrStale) {
				continue // the worker that lost the run has settled it meanwhile
			} else if err != nil {
				return nil, fmt.Errorf("book a call whose reply was lost: %w", err)
			}
		}
	}
	if orphans > orphansMax {
		step := die(reasonReplyLost, fmt.Sprintf("The replies of %d calls were lost, each of which may have been billed; it is not called again by itself.", orphans))
		return &step, nil
	}
	return nil, nil //nolint:nilnil // no step: the run goes on
}

// orphan books a sent call without a reply as what it can have cost at most.
func orphan(ctx context.Context, tx db.TenantTx, call db.Call, kind string, status int) error {
	prices, err := pricesOf(ctx, tx, call.Provider, call.ModelAsked)
	if err != nil {
		return err
	}
	price, err := llm.PickTier(prices, call.InputEstimate)
	if err != nil {
		return fmt.Errorf("price an orphaned call: %w", err)
	}
	call.ErrorKind, call.ErrorStatus = kind, status
	call.InputUncached, call.OutputVisible = call.InputEstimate, call.MaxOutputTokens
	call.CostPico = llm.WorstCase(price, call.InputEstimate, call.MaxOutputTokens)
	if err := tx.CallOrphan(ctx, call); err != nil {
		return err
	}
	return tx.EntryInsert(ctx, call.ID, db.EntryOrphan)
}

// plan is a call that is ready to be made.
type plan struct {
	provider, owner string
	request         llm.Request
	call            db.Call
}

// nonceBytes of randomness make a fence that a payload cannot guess.
const nonceBytes = 16

// prompt renders what the model is asked, under a fence that is made for this one call.
func (c *claimed) prompt() (system, user string, err error) {
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce)
	if system, user, err = c.automation.Prompt(EventOf(c.event), c.payload, c.state, hex.EncodeToString(nonce)); err == nil && user == "" {
		user = emptyUser
	}
	return system, user, err
}

// estimate is how many tokens a prompt is, with what is sent beside it.
func (c *claimed) estimate(system, user string) int64 {
	return llm.EstimateTokens(system + user + string(c.automation.Spec().OutputSchema))
}

// plan renders the prompt, finds the key and the price, and keeps the call as intended. A step is returned where the run must not go on.
func (w *runWorker) plan(ctx context.Context, c *claimed) (plan, *db.RunStep, error) {
	spec := c.automation.Spec()
	stop := func(s db.RunStep) (plan, *db.RunStep, error) { return plan{}, &s, nil }
	provider, model, err := llm.ParseModel(spec.Model)
	if err != nil {
		return stop(die(reasonAutomation, "The model is not of the form provider/model."))
	}
	system, user, err := c.prompt()
	if err != nil {
		return stop(die(reasonPrompt, "The prompt cannot be rendered: "+err.Error()))
	}
	p := plan{provider: provider}
	var key tenants.Secret
	sum := sha256.Sum256([]byte(model + "\x00" + system + "\x00" + user + "\x00" + string(spec.OutputSchema)))
	p.call = db.Call{
		ID: tenants.NewID(), RunID: c.run.ID, Epoch: c.run.Epoch, Provider: provider, ModelAsked: model, RequestSHA256: sum[:],
		InputEstimate: c.estimate(system, user), MaxOutputTokens: int64(spec.MaxOutputTokens),
	}
	err = w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) error {
		key, p.call.CredentialID, p.owner, err = w.keyOf(ctx, tx, provider, spec.CredentialID)
		if err != nil {
			return err
		}
		prices, err := pricesOf(ctx, tx, provider, model)
		if err != nil {
			return err
		}
		price, err := llm.PickTier(prices, p.call.InputEstimate)
		if err != nil {
			return err
		}
		p.call.PriceID = price.ID
		return tx.CallIntend(ctx, p.call)
	})
	switch {
	case errors.Is(err, errNoKey):
		return stop(die(reasonNoKey, "There is no API key for "+provider+": make a credential of that kind, then retry the run."))
	case errors.Is(err, db.ErrNotFound), errors.Is(err, llm.ErrUnpriced):
		return stop(die(reasonPrice, "There is no price for "+spec.Model+", and what has no price is not called."))
	case err != nil:
		return plan{}, nil, err
	}
	p.request = llm.Request{
		Model: model, System: system, User: user, Schema: spec.OutputSchema, MaxOutputTokens: spec.MaxOutputTokens,
		APIKey: key.Reveal(), RequestID: tenants.FormatID(tenants.CallPrefix, p.call.ID),
	}
	return p, nil, nil
}

var errNoKey = errors.New("no api key")

// keyOf finds the key to call a provider with: the credential that the automation names, else the tenant's newest of that kind, else the
// operator's. A named one that was deleted is not replaced by another: somebody else would pay.
func (w *runWorker) keyOf(ctx context.Context, tx db.TenantTx, provider, named string) (tenants.Secret, *uuid.UUID, string, error) {
	var credential db.Credential
	var err error
	if id, ok := tenants.ParseID(tenants.CredentialPrefix, named); ok {
		if credential, err = tx.CredentialGet(ctx, id); errors.Is(err, db.ErrNotFound) {
			return tenants.Secret{}, nil, "", errNoKey
		}
	} else {
		credential, err = tx.CredentialOfKind(ctx, provider)
	}
	if err == nil {
		secret, err := tx.CredentialSecret(ctx, credential.ID)
		return secret, &credential.ID, credential.ID.String(), err
	}
	if !errors.Is(err, db.ErrNotFound) {
		return tenants.Secret{}, nil, "", err
	}
	if key, ok := w.keys[provider]; ok && !key.Empty() {
		return key, nil, operatorOwner, nil
	}
	return tenants.Secret{}, nil, "", errNoKey
}

// callFailed writes what became of a call without a reply, and what follows for the run.
func (w *runWorker) callFailed(ctx context.Context, c *claimed, p plan, err error) error {
	var e *llm.Error
	known := errors.As(err, &e)
	if errors.Is(err, db.ErrStale) || errors.Is(context.Cause(ctx), errLost) {
		// The run is another worker's, or a person cancelled it: then nobody else would book the call.
		if known && e.Sent {
			w.settle(ctx, c, func(ctx context.Context, tx db.TenantTx) error {
				return orphan(ctx, tx, p.call, string(e.Kind), e.Status)
			})
		}
		return errLost
	}
	if !known {
		w.log.ErrorContext(ctx, "call to a model", "error", err, "run_id", tenants.FormatID(tenants.RunPrefix, c.run.ID))
		e = &llm.Error{Kind: llm.KindUnavailable}
	}
	step := afterModel(err, c.tried(w.now()))
	return w.finish(ctx, c, step, func(ctx context.Context, tx db.TenantTx) error {
		if e.Sent {
			return orphan(ctx, tx, p.call, string(e.Kind), e.Status)
		}
		return tx.CallFail(ctx, p.call.ID, string(e.Kind), e.Status)
	})
}

// tried is how far the run has come.
func (c *claimed) tried(now time.Time) tried {
	return tried{
		attempt: c.run.Attempt, attemptsMax: c.run.AttemptsMax, waits: failures(c.calls), claims: int(c.run.Epoch), age: now.Sub(c.run.CreatedAt),
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
	err := w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) error { return book(ctx, tx) })
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
