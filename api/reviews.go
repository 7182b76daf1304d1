package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// Review is the verdict on a run's output.
type Review struct {
	Verdict string    `json:"verdict" enum:"approve,reject"`
	By      string    `json:"by,omitempty" doc:"the key that gave it; left out where the time was over, and the automation decided" example:"key_01980000000070008000000000000000"`
	At      time.Time `json:"at"`
	Note    string    `json:"note,omitempty"`
	Output  any       `json:"output,omitempty" doc:"the output as the person changed it, of which the effect is made; left out where it was not changed"`
	Diff    string    `json:"diff,omitempty" doc:"how the two differ, as a unified diff"`
	Changed float64   `json:"changed" minimum:"0" maximum:"1" doc:"which part of all characters was taken out or put in"`
}

func toReview(v db.Review) (*Review, error) {
	out := &Review{Verdict: v.Verdict, At: v.At.UTC(), Note: v.Note, Diff: v.Diff, Changed: v.Changed}
	if v.ByKey != nil {
		out.By = tenants.FormatID(tenants.KeyPrefix, *v.ByKey)
	}
	if len(v.Output) == 0 {
		return out, nil
	}
	return out, json.Unmarshal(v.Output, &out.Output)
}

// reviewOf reads the verdict on a run; nil for none.
func reviewOf(ctx context.Context, tx db.TenantTx, runID uuid.UUID) (*Review, error) {
	v, err := tx.ReviewGet(ctx, runID)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil //nolint:nilnil // most runs have none
	} else if err != nil {
		return nil, err
	}
	return toReview(v)
}

// reviewMoment is a verdict as explain shows it.
func reviewMoment(runID string, v Review) Moment {
	m := Moment{At: v.At, What: "review.approved", RunID: runID, Detail: "A person (" + v.By + ") approved the outcome as it was."}
	switch {
	case v.By == "":
		m.What, m.Detail = "review.expired", "The time for a review was over, and the automation says to "+v.Verdict+" then."
	case v.Verdict == db.VerdictReject:
		m.What, m.Detail = "review.rejected", "A person ("+v.By+") rejected the outcome."
	case v.Output != nil:
		m.What, m.Detail = "review.edited", "A person ("+v.By+") changed the outcome and approved it."
	}
	if v.Note != "" && v.By != "" {
		m.Detail += " Note: " + v.Note
	}
	return m
}

// exactJSON is any JSON as it came: no number of it is rounded.
type exactJSON struct{ raw json.RawMessage }

// UnmarshalJSON keeps the JSON as it came.
func (e *exactJSON) UnmarshalJSON(text []byte) error {
	e.raw = bytes.Clone(text)
	return nil
}

// Schema allows anything: what the automation takes is checked by its own schema.
func (exactJSON) Schema(huma.Registry) *huma.Schema { return &huma.Schema{} }

type reviewInput struct {
	Caller

	ID   string `path:"id" doc:"run_..."`
	Body struct {
		Verdict string    `json:"verdict" enum:"approve,reject"`
		Output  exactJSON `json:"output" required:"false" doc:"with approve: what is to be posted in place of the run's output, as the automation's output_schema wants it, or a text where it has none"`
		Note    string    `json:"note,omitempty" maxLength:"2000" doc:"why, for others"`
	}
}

func (a *API) registerReviews() {
	register(a, editorRole, huma.Operation{
		OperationID: "review-run", Method: http.MethodPost, Path: "/v1/runs/{id}/review", Tags: []string{"Runs"}, Summary: "Approve, edit or reject a run in review",
		Description: "What is approved is posted as the run shows it under actions; of an edited output the effect is prepared anew, and the run shows that. " +
			"A run that is not in review: 409 run.not_in_review. One in shadow mode: 409 review.shadow, since nothing of it can be posted. " +
			"One that has a verdict: 409 review.decided. One whose time is over: 409 review.expired.",
	}, a.runReview)
}

func (a *API) runReview(ctx context.Context, in *reviewInput) (*runFullOutput, error) {
	id, err := pathID(tenants.RunPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	v := jobs.Verdict{Verdict: in.Body.Verdict, By: &in.KeyID, Note: in.Body.Note}
	if v.Output, err = editedOutput(in); err != nil {
		return nil, err
	}
	out := &runFullOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		if err := a.reviewer.Decide(ctx, tx, id, v); err != nil {
			return reviewProblem(err)
		}
		r, err := tx.RunGet(ctx, id)
		if err != nil {
			return err
		}
		out.Body, err = runRead(ctx, tx, r)
		return err
	})
	return out, err
}

// editedOutput is the output that came with a verdict, nil for none, or what is wrong with it whatever the automation is.
func editedOutput(in *reviewInput) (json.RawMessage, error) {
	raw := in.Body.Output.raw
	if len(raw) == 0 {
		return nil, nil
	}
	if string(raw) == "null" {
		return nil, invalidAt("body.output", "expected the output as it is to be posted; leave it out to approve what the run has")
	}
	if in.Body.Verdict == db.VerdictReject {
		return nil, invalidAt("body.output", "expected with approve only: nothing is sent of a run that is rejected")
	}
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return nil, invalidAt("body.output", "expected JSON")
	}
	return cleanJSON(raw), invalid(nulFaults("body.output", value))
}

// reviewProblem says what stands in a verdict's way.
func reviewProblem(err error) error {
	if fault, ok := errors.AsType[*jobs.ReviewFault](err); ok {
		return conflict(fault.Code, fault.Detail)
	}
	if fault, ok := errors.AsType[*automations.OutputError](err); ok {
		return invalidAt("body.output"+fault.Place, fault.Message)
	}
	if fault, ok := errors.AsType[*jobs.EffectFault](err); ok {
		return invalidAt("body.output", fault.Detail)
	}
	return err
}
