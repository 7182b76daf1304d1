package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

const (
	// runsManyMax bounds how many runs one call changes; the tag of RunsAsked.IDs says the same.
	runsManyMax = 1000
	// runsManyTimeout is for how long one call begins with another run: well within the time of a request.
	runsManyTimeout = 20 * time.Second
)

// RunsAsked is which runs are to be changed: by their ids, or by a filter.
type RunsAsked struct {
	IDs    []string    `json:"ids,omitempty" maxItems:"1000" doc:"run_...; goes without filter"`
	Filter *RunsFilter `json:"filter,omitempty" doc:"at least one field; goes without ids. The oldest come first"`
}

// RunsFilter is which runs are meant: those that all of it holds for.
type RunsFilter struct {
	EventID      string     `json:"event_id,omitempty" doc:"evt_..."`
	AutomationID string     `json:"automation_id,omitempty" doc:"aut_..."`
	EndpointID   string     `json:"endpoint_id,omitempty" doc:"end_..."`
	Status       string     `json:"status,omitempty" enum:"queued,running,waiting,held,in_review,acting,done,skipped,dead,cancelled" doc:"left out: for a retry dead, for a cancel all that have not ended"`
	Reason       string     `json:"reason,omitempty" maxLength:"100" doc:"a whole reason, or how it begins with a star behind it" example:"action.*"`
	Type         string     `json:"type,omitempty" maxLength:"512" doc:"that of the event"`
	Entity       string     `json:"entity,omitempty" maxLength:"1024" doc:"that of the event"`
	Since        *time.Time `json:"since,omitempty" doc:"made from this time on"`
	Until        *time.Time `json:"until,omitempty" doc:"made before this time"`
	After        string     `json:"after,omitempty" doc:"run_...: made after this run. Send last_id of the answer before, where there are more"`
}

// narrows says whether anything but after is said: an empty filter would be everything.
func (f RunsFilter) narrows() bool {
	f.After = ""
	return f != RunsFilter{}
}

// RunsChanged is what came of it.
type RunsChanged struct {
	Matched int          `json:"matched" doc:"how many runs were looked at"`
	Changed int          `json:"changed"`
	Refused []RunRefused `json:"refused" doc:"the others, each with the answer that it would have had alone"`
	More    bool         `json:"more" doc:"there are more behind last_id: send it as filter.after, or the rest of the ids"`
	LastID  string       `json:"last_id,omitempty" doc:"the last run that was looked at"`
}

// RunRefused is a run that was not changed.
type RunRefused struct {
	ID     string `json:"id"`
	Code   string `json:"code" example:"run.not_retryable"`
	Detail string `json:"detail"`
}

type runsManyInput struct {
	Caller

	Body RunsAsked
}

type runsManyOutput struct{ Body RunsChanged }

func (a *API) registerRunsMany() {
	const each = " Each run is changed by itself, under the rules of the single operation: one that is refused keeps no other from it. At most 1,000 in a call."
	register(a, editorRole, huma.Operation{
		OperationID: "retry-runs", Method: http.MethodPost, Path: "/v1/runs/retry", Tags: []string{"Runs"}, Summary: "Set many runs going again",
		Description: "By ids or by a filter, which is about dead runs unless it names a status." + each,
	}, func(ctx context.Context, in *runsManyInput) (*runsManyOutput, error) {
		return a.runsMany(ctx, in, db.RunFilter{Status: string(db.RunDead)}, a.retry)
	})
	register(a, editorRole, huma.Operation{
		OperationID: "cancel-runs", Method: http.MethodPost, Path: "/v1/runs/cancel", Tags: []string{"Runs"}, Summary: "End many runs that have not ended",
		Description: "By ids or by a filter, which is about runs that have not ended unless it names a status." + each,
	}, func(ctx context.Context, in *runsManyInput) (*runsManyOutput, error) {
		return a.runsMany(ctx, in, db.RunFilter{Open: true}, a.cancel)
	})
}

// runsMany changes runs one by one, each in a transaction of its own. usual is what a filter is about that names no status.
func (a *API) runsMany(ctx context.Context, in *runsManyInput, usual db.RunFilter, change changing) (*runsManyOutput, error) {
	ids, more, err := a.runsFind(ctx, in, usual)
	if err != nil {
		return nil, err
	}
	out := &runsManyOutput{Body: RunsChanged{Refused: []RunRefused{}, More: more}}
	enough := a.deps.Now().Add(runsManyTimeout)
	for _, text := range ids {
		if a.deps.Now().After(enough) {
			out.Body.More = true
			break
		}
		err := a.runsOne(ctx, in.TenantID, text, change)
		if errors.Is(err, db.ErrUnavailable) || errors.Is(err, db.ErrCommitUnknown) || ctx.Err() != nil {
			return nil, err // whoever asks again finds those that were changed as they are now
		}
		out.Body.Matched++
		out.Body.LastID = text
		if err == nil {
			out.Body.Changed++
			continue
		}
		refused := RunRefused{ID: text}
		if p, ok := errors.AsType[*Problem](a.fault(ctx, err)); ok {
			refused.Code, refused.Detail = p.Code, p.Detail
		}
		out.Body.Refused = append(out.Body.Refused, refused)
	}
	return out, nil
}

func (a *API) runsOne(ctx context.Context, tenantID uuid.UUID, text string, change changing) error {
	id, err := pathID(tenants.RunPrefix, text)
	if err != nil {
		return err
	}
	return a.deps.DB.Tenant(ctx, tenantID, func(tx db.TenantTx) error { return changeOne(ctx, tx, id, change) })
}

// runsFind finds the runs that are meant, oldest first, and says whether there are more.
func (a *API) runsFind(ctx context.Context, in *runsManyInput, usual db.RunFilter) (ids []string, more bool, err error) {
	asked := in.Body
	switch {
	case (len(asked.IDs) > 0) == (asked.Filter != nil):
		return nil, false, invalidAt("body", "expected either ids, at least one, or a filter")
	case asked.Filter == nil:
		return distinctTexts(asked.IDs), false, nil
	case !asked.Filter.narrows():
		return nil, false, invalidAt("body.filter", "expected at least one field that narrows it: an empty filter would be everything")
	}
	f := asked.Filter
	wanted := RunWanted{
		EventID: f.EventID, AutomationID: f.AutomationID, EndpointID: f.EndpointID, Status: f.Status, Reason: f.Reason, Type: f.Type, Entity: f.Entity,
	}
	filter, possible := wanted.filter()
	if filter.Since, filter.Until = f.Since, f.Until; f.Status == "" {
		filter.Status, filter.Open = usual.Status, usual.Open
	}
	after, ok := filterID(tenants.RunPrefix, f.After)
	if !ok {
		return nil, false, invalidAt("body.filter.after", "expected the id of a run, run_...")
	}
	if after == nil {
		after = &uuid.Nil
	}
	if !possible {
		return nil, false, nil
	}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		found, err := tx.RunIDs(ctx, filter, *after, runsManyMax+1)
		for _, id := range found {
			ids = append(ids, tenants.FormatID(tenants.RunPrefix, id))
		}
		return err
	})
	if len(ids) > runsManyMax {
		return ids[:runsManyMax], true, err
	}
	return ids, false, err
}

// distinctTexts keeps the first of equal texts.
func distinctTexts(all []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, one := range all {
		if !seen[one] {
			seen[one] = true
			out = append(out, one)
		}
	}
	return out
}
