package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"sluice/automations"
	"sluice/db"
	"sluice/tenants"
)

// backtestLast is how many events a backtest takes where nothing is said.
const backtestLast = 20

type backtestInput struct {
	Caller
	Creating

	ID   string `path:"id" doc:"aut_..."`
	Body struct {
		Draft      draft    `json:"draft" doc:"what the automation would say otherwise, as PATCH /v1/automations/{id} takes it, but for mode, enabled and endpoint_id"`
		Last       int      `json:"last,omitempty" minimum:"1" maximum:"200" doc:"the newest events that the automation has run on; 20 if left out"`
		Events     []string `json:"events,omitempty" maxItems:"200" doc:"these events, in place of the last"`
		DryRun     *bool    `json:"dry_run,omitempty" doc:"true, or left out: only the count and the price"`
		PerSecond  float64  `json:"per_second,omitempty" minimum:"0.01" maximum:"100" doc:"5 if left out"`
		MaxCostUSD string   `json:"max_cost_usd,omitempty" doc:"it stops where its runs have cost that much"`
	}
}

func (a *API) registerBacktest() {
	register(a, editorRole, huma.Operation{
		OperationID: "backtest-automation", Method: http.MethodPost, Path: "/v1/automations/{id}/backtest", Tags: []string{"Automations"}, DefaultStatus: http.StatusCreated,
		Summary: "Try a draft on events that were stored before",
		Description: "Without \"dry_run\": false it answers the count and the price. Else it makes a replay of the kind backtest, whose items hold the old and the new output of each event. " +
			"Nothing leaves; its calls count against the tenant's limits.",
	}, a.backtest)
}

func (a *API) backtest(ctx context.Context, in *backtestInput) (*made[ReplayAnswer], error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	dry := in.Body.DryRun == nil || *in.Body.DryRun
	asked, err := json.Marshal(struct {
		Draft  json.RawMessage `json:"draft"`
		Last   int             `json:"last,omitempty"`
		Events []string        `json:"events,omitempty"`
	}{in.Body.Draft.raw, in.Body.Last, in.Body.Events})
	if err != nil {
		return nil, invalidAt("body.draft", "expected an object")
	}
	// All of the request, so that a price that was asked for before is no answer to the backtest itself.
	request := fmt.Sprint(string(asked), dry, in.Body.PerSecond, in.Body.MaxCostUSD)
	return create(ctx, a, in.Caller, in.Creating, request, func(tx db.TenantTx) (ReplayAnswer, error) {
		row, err := tx.AutomationGet(ctx, id)
		if err != nil {
			return ReplayAnswer{}, err
		}
		v, err := a.trialCheck(ctx, tx, row, in.Body.Draft)
		if err != nil {
			return ReplayAnswer{}, beneath("draft", err)
		}
		var plan replayPlan
		if in.Body.MaxCostUSD != "" {
			most, err := automations.ParseUSD(in.Body.MaxCostUSD)
			if err != nil {
				return ReplayAnswer{}, invalidAt("body.max_cost_usd", err.Error())
			}
			plan.most = &most
		}
		if plan.items, err = a.backtestItems(ctx, tx, row, in); err != nil {
			return ReplayAnswer{}, err
		}
		compiled, faults := automations.Compile(v.spec)
		if len(faults) > 0 {
			return ReplayAnswer{}, faults[0] // cannot be: it was checked
		}
		if err := a.replayCost(ctx, tx, &plan, ReplayPrice{DryRun: dry, Count: len(plan.items), By: map[string]int{}}, compiled, sameModel(row, v)); err != nil || dry {
			return ReplayAnswer{ReplayPrice: &plan.price}, err
		}
		version, err := tx.AutomationDraft(ctx, id, v.stored, db.DraftBacktest, in.KeyID)
		if err != nil {
			return ReplayAnswer{}, err
		}
		replayID := tenants.NewID()
		if err := tx.ReplayInsert(ctx, db.Replay{
			ID: replayID, Kind: db.KindBacktest, Mode: db.ReplayShadow, Asked: asked, AutomationID: &id, AutomationVersion: &version,
			PerSecond: cmp.Or(in.Body.PerSecond, replayPerSecond), MaxCostPico: plan.most, EstimatePico: plan.mean, WorstPico: plan.worst, CreatedBy: &in.KeyID,
		}, plan.items); err != nil {
			return ReplayAnswer{}, err
		}
		return a.replayAnswer(ctx, tx, replayID)
	})
}

// backtestItems are the events to try the draft on, each with the newest run that stands of it.
func (a *API) backtestItems(ctx context.Context, tx db.TenantTx, row db.Automation, in *backtestInput) ([]db.ReplayItem, error) {
	if len(in.Body.Events) > 0 {
		events, err := a.replayEvents(ctx, tx, ReplayAsked{Events: in.Body.Events})
		if err != nil {
			return nil, err
		}
		var items []db.ReplayItem
		for _, e := range events {
			runs, err := tx.RunsOfEvent(ctx, e.ID, row.ID)
			if err != nil {
				return nil, err
			}
			item := db.ReplayItem{EventID: e.ID, AutomationID: row.ID}
			if at := slices.IndexFunc(runs, ofService); at >= 0 {
				item.RunID = &runs[at].ID
			}
			items = append(items, item)
		}
		return items, nil
	}
	last := in.Body.Last
	if last == 0 {
		last = backtestLast
	}
	runs, err := tx.RunsLast(ctx, row.ID, last)
	if err != nil {
		return nil, err
	}
	items := make([]db.ReplayItem, len(runs))
	for i, r := range runs {
		items[i] = db.ReplayItem{EventID: r.EventID, AutomationID: row.ID, RunID: &runs[i].ID}
	}
	return items, nil
}

// ofService says whether a run was made by a version in service, and not by one that was tried.
func ofService(r db.Run) bool { return r.Purpose == db.PurposeEvent || r.Purpose == db.PurposeReplay }

// sameModel says whether a draft asks the model that is in service.
func sameModel(row db.Automation, v automationValue) bool {
	var service struct {
		Model string `json:"model"`
	}
	return json.Unmarshal(row.Spec, &service) == nil && service.Model == v.spec.Model
}
