package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/outbound"
	"sluice/proof"
	"sluice/tenants"
)

// fetchBytesMax bounds what is fetched of an entity.
const fetchBytesMax = 1 << 20

// fetch reads the entity as it stands at its source now, where the automation says so, before anything is spent on the model. A step is returned
// where the run must not go on.
func (w *runWorker) fetch(ctx context.Context, c *claimed) (*db.RunStep, error) {
	spec := c.automation.Spec().Fetch
	if spec == nil {
		return nil, nil //nolint:nilnil // no step: the run goes on
	}
	address, err := c.automation.FetchURL(EventOf(c.event), c.payload)
	if err != nil {
		return stepped(die(reasonFetchURL, "The address to fetch cannot be made of this event: "+err.Error()))
	}
	header := http.Header{"Accept": {"application/json"}}
	if spec.CredentialID != "" {
		token, err := w.fetchToken(ctx, c, spec.CredentialID)
		switch {
		case errors.Is(err, db.ErrNotFound):
			return stepped(die(reasonFetchNoKey, "The credential of the fetch was deleted: name another one."))
		case errors.Is(err, db.ErrUnreadable):
			return stepped(w.unopened(ctx, c, err))
		case err != nil:
			return nil, err
		}
		header.Set("Authorization", "Bearer "+token.Reveal())
	}
	begun := w.now()
	res, err := w.door.Do(proof.Step(ctx, stepFetch), outbound.Request{Method: http.MethodGet, URL: address, Header: header, ResponseBytesMax: fetchBytesMax})
	w.fetchTold(ctx, c, res, w.now().Sub(begun), err)
	if errors.Is(context.Cause(ctx), errLost) {
		return nil, errLost
	}
	if err != nil {
		step := afterNoFetch(err, c.tried(w.now()))
		return &step, nil
	}
	return w.fetchedState(c, spec, res), nil
}

func stepped(s db.RunStep) (*db.RunStep, error) { return &s, nil }

// fetchToken opens the credential of a fetch.
func (w *runWorker) fetchToken(ctx context.Context, c *claimed, named string) (token tenants.Secret, err error) {
	id, ok := tenants.ParseID(tenants.CredentialPrefix, named)
	if !ok {
		return token, db.ErrNotFound
	}
	err = w.db.Tenant(ctx, c.run.TenantID, func(tx db.TenantTx) (err error) {
		token, err = tx.CredentialSecret(ctx, id)
		return err
	})
	return token, err
}

// fetchTold leaves the marks of a fetch: a log line, attributes of the job's span, and a sentence for the run's next step. No address is in
// them: it may hold what a tenant keeps to itself.
func (w *runWorker) fetchTold(ctx context.Context, c *claimed, res outbound.Response, took time.Duration, err error) {
	c.fetched = fmt.Sprintf("The entity was fetched before: status %d, %d bytes, %d ms.", res.Status, len(res.Body), took.Milliseconds())
	if err != nil {
		c.fetched = fmt.Sprintf("The fetch took %d ms.", took.Milliseconds())
	}
	trace.SpanFromContext(ctx).SetAttributes(attribute.Int("sluice.fetch.status", res.Status), attribute.Int("sluice.fetch.bytes", len(res.Body)),
		attribute.Int64("sluice.fetch.ms", took.Milliseconds()))
	w.log.InfoContext(ctx, "fetch", "tenant_id", tenants.FormatID(tenants.TenantPrefix, c.run.TenantID),
		"run_id", tenants.FormatID(tenants.RunPrefix, c.run.ID), "status", res.Status, "bytes", len(res.Body), "latency_ms", took.Milliseconds(), "error", err)
}

// noted adds to a step's detail what was fetched for it.
func (c *claimed) noted(detail string) string { return strings.TrimSpace(detail + " " + c.fetched) }

// fetchedState takes the state out of an answer, or says what follows of it.
func (w *runWorker) fetchedState(c *claimed, spec *automations.Fetch, res outbound.Response) *db.RunStep {
	if res.Status == http.StatusNotFound || res.Status == http.StatusGone {
		if spec.NotFound == automations.NotFoundContinue {
			return nil
		}
		step := die(reasonFetchNotFound, fmt.Sprintf("The source answered %d: the entity is not there any more.", res.Status))
		if spec.NotFound != automations.NotFoundFail {
			step.Status = db.RunSkipped
		}
		return &step
	}
	step := afterFetch(res, c.tried(w.now()), w.now())
	if step == nil {
		var err error
		if c.state, err = automations.DecodeState(res.Body); err != nil {
			bad := die(reasonFetchMalformed, "What the source answered is not JSON that can be read.")
			step = &bad
		}
	}
	return step
}
