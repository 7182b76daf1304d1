package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
)

type runResolveInput struct {
	Caller

	ID   string `path:"id" doc:"run_..."`
	Body struct {
		Arrived bool   `json:"arrived" doc:"true: the effect is there, and the run is done. false: it is not, and is sent again"`
		Note    string `json:"note,omitempty" maxLength:"1000"`
	}
}

func (a *API) registerResolve() {
	register(a, editorRole, huma.Operation{
		OperationID: "resolve-run", Method: http.MethodPost, Path: "/v1/runs/{id}/resolve", Tags: []string{"Runs"},
		Summary: "Say whether an effect of unknown fate has arrived",
		Description: "An effect ends as unknown where it may have been made and its target cannot be asked. A person who has looked there says which it is: " +
			"no effect is made twice by a guess, and no model is asked again. A dead run whose effect failed can be settled so, too, where it was made otherwise. Else: 409 run.not_unknown.",
	}, a.runResolve)
}

const reasonArrived = "person.arrived"

func (a *API) runResolve(ctx context.Context, in *runResolveInput) (*runOutput, error) {
	return a.runChange(ctx, &runInput{Caller: in.Caller, ID: in.ID}, func(ctx context.Context, tx db.TenantTx, r db.Run) error {
		actions, err := tx.ActionList(ctx, r.ID)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(actions, func(one db.Action) bool { return one.State == db.ActionUnknown })
		if at < 0 && in.Body.Arrived && r.Status == db.RunDead && slices.ContainsFunc(actions, func(one db.Action) bool { return one.State == db.ActionFailed }) {
			// Its own effect was not made, and a person has seen one all the same: made by hand, or by another run on the same event.
			return a.settled(ctx, tx, r, in.Body.Note)
		}
		if at < 0 {
			return conflict("run.not_unknown", "The fate of its effect is known: read the run's actions.")
		}
		if !in.Body.Arrived {
			const detail = "A person has looked: the effect is not there, and is sent again."
			return a.effectAgain(ctx, tx, r, actions[at], detail, tx.ActionNotArrived)
		}
		detail := seen(in.Body.Note)
		receipt, err := json.Marshal(action.Receipt{Note: detail})
		if err != nil {
			return err
		}
		if err := tx.ActionArrived(ctx, actions[at].ID, detail, receipt); err != nil {
			return err
		}
		if r.Status != db.RunDead {
			return nil // it was cancelled, and stays so
		}
		return a.settled(ctx, tx, r, in.Body.Note)
	})
}

// seen is what is said of an effect that a person has seen.
func seen(note string) string {
	const detail = "A person has seen the effect at its target."
	if note == "" {
		return detail
	}
	return detail + " Note: " + note
}

// settled ends a dead run as done, since its effect is there.
func (a *API) settled(ctx context.Context, tx db.TenantTx, r db.Run, note string) error {
	if err := tx.RunArrived(ctx, r.ID, reasonArrived, seen(note)); err != nil {
		return err
	}
	return a.deps.Poster.HandOver(ctx, tx, r)
}

// again sets an action going again.
type again func(ctx context.Context, id uuid.UUID, more int) error

// effectAgain sets a dead run going again at its effect, in the way of again.
func (a *API) effectAgain(ctx context.Context, tx db.TenantTx, r db.Run, one db.Action, detail string, again again) error {
	if err := tx.RunRetry(ctx, r.ID, db.RunActing, []db.RunStatus{db.RunDead}, reasonRetried, detail); err != nil {
		return err
	}
	if err := again(ctx, one.ID, jobs.ActionAttemptsMore); err != nil {
		return err
	}
	return a.deps.Poster.PostActions(ctx, tx.Pgx(), []jobs.ActionArgs{{TenantID: tx.TenantID, ActionID: one.ID}})
}
