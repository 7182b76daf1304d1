package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/automations"
	"sluice/db"
	"sluice/tenants"
)

// Trial is a version that runs beside the one in service, in shadow mode, on the same events.
type Trial struct {
	AutomationID string         `json:"automation_id"`
	Version      int            `json:"version" doc:"the version on trial"`
	Says         AutomationSpec `json:"says"`
	CreatedAt    time.Time      `json:"created_at"`
	CreatedBy    string         `json:"created_by,omitempty" doc:"the key that made it"`
}

func (t Trial) version() int { return t.Version }

// TrialSeen is a trial with what came of it.
type TrialSeen struct {
	Trial

	Running    bool        `json:"running" doc:"it has not been ended or promoted"`
	Totals     TrialTotals `json:"totals"`
	Data       []TrialPair `json:"data" doc:"event by event, newest first"`
	NextCursor string      `json:"next_cursor,omitempty" doc:"the cursor of the next page; absent on the last one"`
}

// TrialTotals are the sums over all events of a trial.
type TrialTotals struct {
	Events   int64     `json:"events"`
	Compared int64     `json:"compared" doc:"events of which both have an output"`
	Same     int64     `json:"same" doc:"those of them of which it is the same"`
	Live     TrialSums `json:"live" doc:"of the runs in service"`
	Trial    TrialSums `json:"trial" doc:"of the runs on trial"`
}

// TrialSums are those of one side.
type TrialSums struct {
	CostUSD        string `json:"cost_usd" example:"0.0412"`
	Dead           int64  `json:"dead"`
	SchemaFailures int64  `json:"schema_failures" doc:"those of the dead whose answer did not hold to the output schema"`
}

// TrialPair is what both made of one event.
type TrialPair struct {
	EventID string    `json:"event_id"`
	Live    *TrialRun `json:"live,omitempty" doc:"the run in service; left out where there is none, since its when did not match"`
	Trial   TrialRun  `json:"trial"`
	Same    bool      `json:"same" doc:"both have an output, and it is the same"`
}

// TrialRun is one side of a TrialPair.
type TrialRun struct {
	RunID   string `json:"run_id"`
	Version int    `json:"version"`
	Status  string `json:"status" enum:"queued,running,waiting,held,in_review,acting,done,skipped,dead,cancelled"`
	Reason  string `json:"reason,omitempty"`
	Output  any    `json:"output,omitempty"`
	CostUSD string `json:"cost_usd"`
}

func toTrial(row db.Automation, v db.AutomationVersion) Trial {
	said := toAutomationVersion(v)
	return Trial{
		AutomationID: tenants.FormatID(tenants.AutomationPrefix, row.ID), Version: v.Version, Says: said.AutomationSpec, CreatedAt: said.CreatedAt,
		CreatedBy: said.CreatedBy,
	}
}

func toTrialPair(p db.TrialPair, version int) TrialPair {
	out := TrialPair{
		EventID: tenants.FormatID(tenants.EventPrefix, p.EventID), Same: p.Same,
		Trial: TrialRun{
			RunID: tenants.FormatID(tenants.RunPrefix, p.TrialRunID), Version: version, Status: string(p.TrialStatus), Reason: p.TrialReason,
			Output: anyOf(p.TrialOutput), CostUSD: usdOf(p.TrialCostPico),
		},
	}
	if p.LiveRunID != nil {
		out.Live = &TrialRun{
			RunID: tenants.FormatID(tenants.RunPrefix, *p.LiveRunID), Version: *p.LiveVersion, Status: string(*p.LiveStatus), Reason: *p.LiveReason,
			Output: anyOf(p.LiveOutput), CostUSD: usdOf(*p.LiveCostPico),
		}
	}
	return out
}

// anyOf is JSON of the database as a value; nil for none.
func anyOf(raw json.RawMessage) any {
	var v any
	_ = json.Unmarshal(raw, &v) // the database keeps nothing else than JSON
	return v
}

func toTrialTotals(t db.TrialTotals) TrialTotals {
	return TrialTotals{
		Events: t.Events, Compared: t.Compared, Same: t.Same,
		Live:  TrialSums{CostUSD: usd(picoOf(t.LiveCost)), Dead: t.LiveDead, SchemaFailures: t.LiveSchema},
		Trial: TrialSums{CostUSD: usd(picoOf(t.TrialCost)), Dead: t.TrialDead, SchemaFailures: t.TrialSchema},
	}
}

type trialCreateInput struct {
	Caller
	Creating

	ID   string `path:"id" doc:"aut_..."`
	Body struct {
		Patch draft `json:"patch" doc:"what the version on trial says otherwise, as PATCH /v1/automations/{id} takes it, but for mode, enabled and endpoint_id"`
	}
}

type trialGetInput struct {
	Caller
	Page

	ID      string `path:"id" doc:"aut_..."`
	Version int    `query:"version" minimum:"0" maximum:"1000000000" doc:"a trial that has ended, by its version; the one that is running if left out"`
}

type trialGetOutput struct{ Body TrialSeen }

type trialEndInput struct {
	Caller

	ID string `path:"id" doc:"aut_..."`
}

type trialPromoteInput struct {
	Caller
	Unchanged

	ID   string `path:"id" doc:"aut_..."`
	Body struct {
		Mode string `json:"mode,omitempty" enum:"shadow,review,live" doc:"that of the version in service if left out"`
	}
}

func (a *API) registerTrials() {
	const path = "/v1/automations/{id}/trial"
	register(a, editorRole, huma.Operation{
		OperationID: "start-trial", Method: http.MethodPost, Path: path, Tags: []string{"Automations"}, DefaultStatus: http.StatusCreated,
		Summary: "Let another version run beside the one in service",
		Description: "It runs in shadow mode on the same events: nothing of it leaves. Its calls count against the tenant's limits, and it is dropped where one is reached. " +
			"There is one at a time: 409 trial.running.",
	}, a.trialCreate)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-trial", Method: http.MethodGet, Path: path, Tags: []string{"Automations"}, Summary: "Read both outputs of each event side by side",
	}, a.trialGet)
	register(a, editorRole, huma.Operation{
		OperationID: "end-trial", Method: http.MethodDelete, Path: path, Tags: []string{"Automations"}, Summary: "End the trial", Description: "Its runs stay.",
	}, a.trialEnd)
	register(a, editorRole, huma.Operation{
		OperationID: "promote-trial", Method: http.MethodPost, Path: path + "/promote", Tags: []string{"Automations"},
		Summary: "Put what is on trial into service",
		Description: "Makes a version of it, and ends the trial. What was changed meanwhile of the version in service, such as its name or its limits, stays changed; " +
			"if what it writes was changed, the trial was of something else: 409 trial.outdated. A bar that is not met: 409 automation.bar_not_met.",
	}, a.trialPromote)
}

// notOfTrial are the keys that a trial has of the version in service, or of its being a trial.
var notOfTrial = []string{"enabled", "endpoint_id", "mode"}

func (a *API) trialCreate(ctx context.Context, in *trialCreateInput) (*made[Trial], error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return create(ctx, a, in.Caller, in.Creating, in.Body.Patch.raw, func(tx db.TenantTx) (Trial, error) {
		row, err := tx.AutomationLock(ctx, id)
		if err != nil {
			return Trial{}, err
		}
		if row.TrialVersion != nil {
			return Trial{}, conflict("trial.running", fmt.Sprintf("Version %d is on trial already. End that trial first, or promote it.", *row.TrialVersion))
		}
		v, err := a.trialCheck(ctx, tx, row, in.Body.Patch)
		if err != nil {
			return Trial{}, beneath("patch", err)
		}
		version, err := tx.AutomationDraft(ctx, id, v.stored, db.DraftTrial, in.KeyID)
		if err != nil {
			return Trial{}, err
		}
		if err := tx.AutomationTrial(ctx, id, &version); err != nil {
			return Trial{}, err
		}
		made, err := tx.AutomationVersionGet(ctx, id, version)
		return toTrial(row, made), err
	})
}

// trialCheck lays a patch over the version in service, as a PATCH does, in shadow mode.
func (a *API) trialCheck(ctx context.Context, tx db.TenantTx, row db.Automation, patch draft) (automationValue, error) {
	fields, shape := patch.fields(), shapeFaults[AutomationPatch](a, patch.withoutNulls())
	for _, name := range notOfTrial {
		if _, given := fields[name]; given {
			shape = append(shape, Fault{Location: "body." + name, Message: "a trial is in shadow mode, and beside the version in service in all else: leave it out"})
		}
	}
	fields["mode"] = json.RawMessage(`"` + automations.ModeShadow + `"`)
	delete(fields, "endpoint_id")
	delete(fields, "enabled")
	return a.automationMerge(ctx, tx, row, row.Spec, fields, shape)
}

// beneath places the faults of a body that stands under a name in another one.
func beneath(name string, err error) error {
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		return err
	}
	for i := range p.Errors {
		if rest, ok := strings.CutPrefix(p.Errors[i].Location, "body"); ok {
			p.Errors[i].Location = "body." + name + rest
		}
	}
	return p
}

// errNoTrial answers where there is none.
func errNoTrial() error {
	return problem(http.StatusNotFound, "trial.none", "The automation has no version on trial.")
}

func (a *API) trialGet(ctx context.Context, in *trialGetInput) (*trialGetOutput, error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	out := &trialGetOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		row, err := tx.AutomationGet(ctx, id)
		if err != nil {
			return err
		}
		version := in.Version
		if version == 0 && row.TrialVersion != nil {
			version = *row.TrialVersion
		}
		v, err := tx.AutomationVersionGet(ctx, id, version)
		if errors.Is(err, db.ErrNotFound) || err == nil && v.Draft != db.DraftTrial {
			return errNoTrial()
		} else if err != nil {
			return err
		}
		totals, err := tx.TrialTotals(ctx, id, version)
		if err != nil {
			return err
		}
		rows, err := tx.TrialList(ctx, id, version, page)
		if err != nil {
			return err
		}
		pairs := pageOf(rows, in.Limit, func(p db.TrialPair) TrialPair { return toTrialPair(p, version) }, func(p db.TrialPair) string { return byID(p.TrialRunID) })
		out.Body = TrialSeen{
			Trial: toTrial(row, v), Running: row.TrialVersion != nil && *row.TrialVersion == version, Totals: toTrialTotals(totals),
			Data: pairs.Body.Data, NextCursor: pairs.Body.NextCursor,
		}
		return nil
	})
	return out, err
}

func (a *API) trialEnd(ctx context.Context, in *trialEndInput) (*struct{}, error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		row, err := tx.AutomationLock(ctx, id)
		if err != nil {
			return err
		}
		if row.TrialVersion == nil {
			return errNoTrial()
		}
		return tx.AutomationTrial(ctx, id, nil)
	})
}

func (a *API) trialPromote(ctx context.Context, in *trialPromoteInput) (*got[Automation], error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var row db.Automation
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		if row, err = tx.AutomationLock(ctx, id); err != nil {
			return err
		}
		if in.Version != 0 && in.Version != row.Version {
			return db.ErrStale
		}
		if row.TrialVersion == nil {
			return errNoTrial()
		}
		v, err := a.trialMerged(ctx, tx, row, in.Body.Mode)
		if err != nil {
			return err
		}
		if err := mayGoLive(ctx, tx, id, v, row.Spec); err != nil {
			return err
		}
		change := db.AutomationChange{Name: &v.spec.Name, Spec: v.stored, By: in.KeyID, Version: row.Version}
		if _, err := tx.AutomationUpdate(ctx, id, change); err != nil {
			return err
		}
		if err := tx.AutomationTrial(ctx, id, nil); err != nil {
			return err
		}
		row, err = tx.AutomationGet(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	out, err := toAutomation(row)
	return answer(Known{}, out), err
}

// trialMerged is the version in service with what the trial says otherwise than the version that it was made of, in a mode.
func (a *API) trialMerged(ctx context.Context, tx db.TenantTx, row db.Automation, mode string) (automationValue, error) {
	onTrial, err := tx.AutomationVersionGet(ctx, row.ID, *row.TrialVersion)
	if err != nil {
		return automationValue{}, err
	}
	base, err := tx.AutomationVersionBefore(ctx, row.ID, onTrial.Version)
	if err != nil {
		return automationValue{}, err
	}
	patch, err := specDifference(base.Spec, onTrial.Spec)
	if err != nil {
		return automationValue{}, fmt.Errorf("read the trial of automation %s: %w", row.ID, err)
	}
	delete(patch, "mode")
	if mode != "" {
		patch["mode"] = json.RawMessage(`"` + mode + `"`)
	}
	v, err := a.automationMerge(ctx, tx, row, row.Spec, patch, nil)
	if err != nil {
		return v, err
	}
	if behaviour, err := tx.Behaviour(ctx, v.stored); err != nil {
		return v, err
	} else if !bytes.Equal(behaviour, onTrial.Behaviour) {
		return v, conflict("trial.outdated", "The version in service writes something else than when the trial began, so that the trial was not of what would be put into "+
			"service. End it, and start another one.")
	}
	return v, nil
}

// specDifference is the patch that makes one stored automation of another; both come of the database, which writes what is equal alike.
func specDifference(from, to json.RawMessage) (map[string]json.RawMessage, error) {
	before, after := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(from, &before), json.Unmarshal(to, &after)); err != nil {
		return nil, err
	}
	patch := map[string]json.RawMessage{}
	for name, value := range after {
		if !slices.Equal(before[name], value) {
			patch[name] = value
		}
	}
	for name := range before {
		if _, stays := after[name]; !stays {
			patch[name] = json.RawMessage("null")
		}
	}
	return patch, nil
}
