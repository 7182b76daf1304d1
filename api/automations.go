package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// AutomationSpec is what an automation says at one version.
type AutomationSpec struct {
	Name            string           `json:"name" doc:"1 to 100 characters"`
	When            string           `json:"when,omitempty" doc:"CEL over event and payload that answers true or false; left out, every event" example:"event.type == 'issues.opened'"`
	Model           string           `json:"model" doc:"provider/model" example:"anthropic/claude-sonnet-4-5"`
	Fallbacks       []string         `json:"fallbacks,omitempty" doc:"asked in this order when the model is away; at most 5"`
	Prompt          AutomationPrompt `json:"prompt"`
	OutputSchema    map[string]any   `json:"output_schema,omitempty" doc:"JSON Schema of type object that the model's answer must hold to; left out, the answer is plain text"`
	MaxOutputTokens int              `json:"max_output_tokens,omitempty" doc:"1 to 32000; 1024 if left out"`
	Action          map[string]any   `json:"action" doc:"what to do with the output: kind, credential_id, and what the connector of that kind takes; body is Liquid over event, payload and output"`
	Mode            string           `json:"mode,omitempty" enum:"shadow,review,live" doc:"shadow (nothing leaves; the default), review (a person approves each effect first) or live"`
	Priority        string           `json:"priority,omitempty" doc:"urgent, routine (the default), or CEL that answers one of the two"`
	CredentialID    string           `json:"credential_id,omitempty" doc:"the credential to pay the model with, of the provider's kind"`
	Fetch           *AutomationFetch `json:"fetch,omitempty" doc:"what to read from the source before the model is asked"`
	AutomationBounds
	AutomationTrust
}

// AutomationBounds are how often, how dearly and how deep an automation may act.
type AutomationBounds struct {
	Retry        *AutomationRetry `json:"retry,omitempty" doc:"how a run that failed is tried again; left out, with every default"`
	OverLimit    string           `json:"over_limit,omitempty" enum:"hold,drop,cheaper" doc:"at a limit of the tenant: the run is held until it may go on (hold; the default), ends as skipped (drop), or asks cheaper_model (cheaper)"`
	CheaperModel string           `json:"cheaper_model,omitempty" doc:"provider/model, another than model: required where over_limit is cheaper, and refused elsewhere" example:"openai/gpt-5-mini"`
	MaxCallUSD   string           `json:"max_call_usd,omitempty" minLength:"1" doc:"USD above 0, with at most 12 decimals: no call is made, whichever model it asks, whose worst case is above it; left out, no such ceiling" example:"0.05"`
	Loop         *AutomationLoop  `json:"loop,omitempty" doc:"where a loop is cut, in which actions cause the events that cause them; left out, with every default"`
}

// AutomationTrust is how far an automation is trusted.
type AutomationTrust struct {
	Review  *AutomationReview  `json:"review,omitempty" doc:"how long a person has in the mode review, and what is done then; left out, with every default"`
	Promote *AutomationPromote `json:"promote,omitempty" doc:"the bar under which the mode live is refused (409 automation.bar_not_met); left out, none"`
	Demote  *AutomationDemote  `json:"demote,omitempty" doc:"when a live automation is put back into review by itself; left out, never"`
}

// AutomationReview is how runs are reviewed.
type AutomationReview struct {
	ExpiresMinutes int    `json:"expires_minutes,omitempty" minimum:"1" maximum:"43200" doc:"1440 (a day) if left out"`
	OnExpiry       string `json:"on_expiry,omitempty" enum:"reject,approve" doc:"what is done with a run on which nobody has decided then; reject if left out"`
}

// AutomationPromote is the bar for going live: of the last reviews verdicts on what behaves alike, pass_rate must approve the output as it was.
type AutomationPromote struct {
	Reviews  int     `json:"reviews" minimum:"1" maximum:"1000"`
	PassRate float64 `json:"pass_rate" minimum:"0" maximum:"1"`
}

// AutomationDemote puts a live automation back into review: when more than failure_rate of its last runs live runs died.
type AutomationDemote struct {
	Runs        int     `json:"runs" minimum:"5" maximum:"1000"`
	FailureRate float64 `json:"failure_rate" minimum:"0" exclusiveMaximum:"1"`
}

// AutomationRetry is how a run that failed is tried again.
type AutomationRetry struct {
	Attempts          int `json:"attempts,omitempty" minimum:"1" maximum:"20" doc:"5 if left out"`
	BackoffSeconds    int `json:"backoff_seconds,omitempty" minimum:"1" maximum:"3600" doc:"the wait after the first failure, which grows with every further one; 2 if left out"`
	BackoffMaxSeconds int `json:"backoff_max_seconds,omitempty" minimum:"1" maximum:"86400" doc:"the longest wait, at least backoff_seconds; 300 if left out"`
}

// AutomationLoop is where a loop is cut.
type AutomationLoop struct {
	Depth          *int `json:"depth,omitempty" minimum:"0" maximum:"10" doc:"how many actions of Sluice may stand in the chain that led to an event; 0 skips every event that one of them caused; 2 if left out"`
	ActionsPerHour int  `json:"actions_per_hour,omitempty" minimum:"1" maximum:"10000" doc:"30 if left out"`
}

// AutomationPrompt is the pair of templates that make the request to the model.
type AutomationPrompt struct {
	System string `json:"system,omitempty" doc:"Liquid over event and payload, and state where the automation fetches"`
	User   string `json:"user,omitempty" doc:"Liquid over event and payload, and state where the automation fetches"`
}

// AutomationFetch reads the entity as it stands at its source, as JSON; the prompts see it as state.
type AutomationFetch struct {
	URL          string `json:"url" doc:"Liquid over event and payload; scheme and host are written out, and every value is one percent-encoded piece behind them" example:"https://api.example.com/tickets/{{ payload.ticket.id }}"`
	CredentialID string `json:"credential_id,omitempty" doc:"a credential of the kind bearer, sent as Authorization: Bearer"`
	NotFound     string `json:"not_found,omitempty" enum:"skip,continue,fail" doc:"what a 404 or 410 means: skip the run (the default), ask the model without a state, or end the run as dead"`
}

// Automation is what to do with the events of an endpoint, at its newest version.
type Automation struct {
	ID         string `json:"id" example:"aut_01980000000070008000000000000000"`
	EndpointID string `json:"endpoint_id"`
	Version    int    `json:"version"`
	Enabled    bool   `json:"enabled"`
	// TrialVersion is left out where there is no trial.
	TrialVersion int `json:"trial_version,omitempty" doc:"the version that runs beside it in shadow mode, on the same events"`
	AutomationSpec

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func (a Automation) version() int { return a.Version }

// AutomationVersion is what an automation said at one version.
type AutomationVersion struct {
	Version int    `json:"version"`
	Draft   string `json:"draft,omitempty" enum:"trial,backtest" doc:"what it was made for, if not to be in service"`
	AutomationSpec

	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty" doc:"the key that made it"`
}

func toAutomation(a db.Automation) (Automation, error) {
	out := Automation{
		ID: tenants.FormatID(tenants.AutomationPrefix, a.ID), EndpointID: tenants.FormatID(tenants.EndpointPrefix, a.EndpointID), Version: a.Version,
		Enabled: a.Enabled, CreatedAt: a.CreatedAt.UTC(), UpdatedAt: a.UpdatedAt.UTC(),
	}
	if a.TrialVersion != nil {
		out.TrialVersion = *a.TrialVersion
	}
	if err := json.Unmarshal(a.Spec, &out.AutomationSpec); err != nil {
		return Automation{}, fmt.Errorf("read automation %s: %w", out.ID, err)
	}
	return out, nil
}

func toAutomationVersion(v db.AutomationVersion) AutomationVersion {
	out := AutomationVersion{Version: v.Version, Draft: v.Draft, CreatedAt: v.CreatedAt.UTC()}
	// What does not read is shown without what it said: the list must not end at one row.
	_ = json.Unmarshal(v.Spec, &out.AutomationSpec)
	if v.CreatedBy != nil {
		out.CreatedBy = tenants.FormatID(tenants.KeyPrefix, *v.CreatedBy)
	}
	return out
}

// AutomationDraft is an automation to be made.
type AutomationDraft struct {
	EndpointID string `json:"endpoint_id" doc:"end_..."`
	Enabled    bool   `json:"enabled,omitempty" doc:"true if left out"`
	AutomationSpec
}

// AutomationPatch is a change of an automation: keys that are given replace what was, null takes away, and other keys stay.
type AutomationPatch struct {
	EndpointID      string            `json:"endpoint_id,omitempty"`
	Enabled         bool              `json:"enabled,omitempty" doc:"alone, it makes no version"`
	Name            string            `json:"name,omitempty"`
	When            string            `json:"when,omitempty"`
	Model           string            `json:"model,omitempty"`
	Fallbacks       []string          `json:"fallbacks,omitempty"`
	Prompt          *AutomationPrompt `json:"prompt,omitempty"`
	OutputSchema    map[string]any    `json:"output_schema,omitempty"`
	MaxOutputTokens int               `json:"max_output_tokens,omitempty"`
	Action          map[string]any    `json:"action,omitempty"`
	Mode            string            `json:"mode,omitempty" enum:"shadow,review,live"`
	Priority        string            `json:"priority,omitempty"`
	CredentialID    string            `json:"credential_id,omitempty"`
	Fetch           *AutomationFetch  `json:"fetch,omitempty"`
	AutomationBounds
	AutomationTrust
}

type automationCreateInput struct {
	Caller
	Creating

	Body draft
}

type automationListInput struct {
	Caller
	Page

	EndpointID string `query:"endpoint_id" doc:"end_..."`
}

type automationGetInput struct {
	Caller
	Known

	ID string `path:"id" doc:"aut_..."`
}

type automationUpdateInput struct {
	Caller
	Unchanged

	ID   string `path:"id" doc:"aut_..."`
	Body draft
}

type automationDeleteInput struct {
	Caller
	Unchanged

	ID string `path:"id" doc:"aut_..."`
}

type automationVersionsInput struct {
	Caller
	Page

	ID string `path:"id" doc:"aut_..."`
}

func (a *API) registerAutomations() {
	register(a, editorRole, huma.Operation{
		OperationID: "create-automation", Method: http.MethodPost, Path: "/v1/automations", Tags: []string{"Automations"},
		DefaultStatus: http.StatusCreated, Summary: "Make an automation",
		Description: "Everything that is wrong with it is answered at once: expressions, templates, schema, models without a price, credentials.",
	}, a.automationCreate)
	documentBody[AutomationDraft](a, a.huma.OpenAPI().Paths["/v1/automations"].Post)
	register(a, viewerRole, huma.Operation{
		OperationID: "list-automations", Method: http.MethodGet, Path: "/v1/automations", Tags: []string{"Automations"}, Summary: "List automations",
	}, a.automationList)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-automation", Method: http.MethodGet, Path: "/v1/automations/{id}", Tags: []string{"Automations"}, Summary: "Read an automation",
	}, a.automationGet)
	register(a, editorRole, huma.Operation{
		OperationID: "update-automation", Method: http.MethodPatch, Path: "/v1/automations/{id}", Tags: []string{"Automations"},
		Summary: "Change an automation", Description: "Makes a version; runs that have begun go on with the version they name. Enabling and disabling alone makes none.",
	}, a.automationUpdate)
	documentBody[AutomationPatch](a, a.huma.OpenAPI().Paths["/v1/automations/{id}"].Patch)
	register(a, editorRole, huma.Operation{
		OperationID: "delete-automation", Method: http.MethodDelete, Path: "/v1/automations/{id}", Tags: []string{"Automations"},
		Summary: "Delete an automation", Description: "Its runs and versions stay.",
	}, a.automationDelete)
	register(a, viewerRole, huma.Operation{
		OperationID: "list-automation-versions", Method: http.MethodGet, Path: "/v1/automations/{id}/versions", Tags: []string{"Automations"},
		Summary: "List what an automation said, newest first",
	}, a.automationVersions)
}

func (a *API) automationCreate(ctx context.Context, in *automationCreateInput) (*made[Automation], error) {
	return create(ctx, a, in.Caller, in.Creating, in.Body.raw, func(tx db.TenantTx) (Automation, error) {
		fields := in.Body.fields()
		v, err := a.automationCheck(ctx, tx, fields, shapeFaults[AutomationDraft](a, in.Body.raw))
		if err != nil {
			return Automation{}, err
		}
		if err := mayGoLive(ctx, tx, uuid.Nil, v, nil); err != nil {
			return Automation{}, err
		}
		count, err := tx.AutomationCount(ctx, v.endpointID)
		if err != nil {
			return Automation{}, err
		}
		if count >= db.AutomationsMax {
			return Automation{}, errTooManyAutomations()
		}
		made, err := tx.AutomationInsert(ctx, v.endpointID, v.spec.Name, v.stored, in.KeyID)
		if err != nil {
			return Automation{}, err
		}
		if !v.enabled {
			off := false
			if made, err = tx.AutomationUpdate(ctx, made.ID, db.AutomationChange{Enabled: &off, By: in.KeyID}); err != nil {
				return Automation{}, err
			}
		}
		return toAutomation(made)
	})
}

func errTooManyAutomations() error {
	return conflict("automation.too_many", fmt.Sprintf("An endpoint has at most %d automations. Delete one, or take another endpoint.", db.AutomationsMax))
}

func (a *API) automationList(ctx context.Context, in *automationListInput) (*listed[Automation], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Automation
	if endpointID, ok := filterID(tenants.EndpointPrefix, in.EndpointID); ok {
		err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
			rows, err = tx.AutomationList(ctx, endpointID, page)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	var unread error
	out := pageOf(rows, in.Limit, func(r db.Automation) Automation {
		shown, err := toAutomation(r)
		if err != nil {
			unread = err
		}
		return shown
	}, func(r db.Automation) string { return byID(r.ID) })
	return out, unread
}

func (a *API) automationGet(ctx context.Context, in *automationGetInput) (*got[Automation], error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var row db.Automation
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		row, err = tx.AutomationGet(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	out, err := toAutomation(row)
	return answer(in.Known, out), err
}

func (a *API) automationUpdate(ctx context.Context, in *automationUpdateInput) (*got[Automation], error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var row db.Automation
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		if row, err = tx.AutomationGet(ctx, id); err != nil {
			return err
		}
		if in.Version != 0 && in.Version != row.Version {
			return db.ErrStale
		}
		change, err := a.automationChange(ctx, tx, row, in)
		if err != nil {
			return err
		}
		row, err = tx.AutomationUpdate(ctx, id, change)
		return err
	})
	if err != nil {
		return nil, err
	}
	out, err := toAutomation(row)
	return answer(Known{}, out), err
}

// automationChange merges a patch into what stands, checks the whole, and says what is to be written.
func (a *API) automationChange(ctx context.Context, tx db.TenantTx, row db.Automation, in *automationUpdateInput) (db.AutomationChange, error) {
	patch := in.Body.fields()
	// The version that was merged with: one that came in between is a 412, and never lost.
	change := db.AutomationChange{By: in.KeyID, Version: row.Version}
	shape := shapeFaults[AutomationPatch](a, in.Body.withoutNulls())
	if raw, ok := patch["enabled"]; ok {
		var enabled *bool
		if json.Unmarshal(raw, &enabled) != nil || enabled == nil {
			shape = append(shape, Fault{Location: "body.enabled", Message: "expected true or false"})
		}
		change.Enabled = enabled
	}
	alone := len(patch) == 0 || len(patch) == 1 && patch["enabled"] != nil
	if alone {
		return change, invalid(distinct(shape))
	}
	v, err := a.automationMerge(ctx, tx, row, row.Spec, patch, shape)
	if err != nil {
		return change, err
	}
	if err := mayGoLive(ctx, tx, row.ID, v, row.Spec); err != nil {
		return change, err
	}
	if v.endpointID != row.EndpointID {
		count, err := tx.AutomationCount(ctx, v.endpointID)
		if err != nil {
			return change, err
		}
		if count >= db.AutomationsMax {
			return change, errTooManyAutomations()
		}
		change.EndpointID = &v.endpointID
	}
	change.Name, change.Spec = &v.spec.Name, v.stored
	return change, nil
}

// automationMerge lays a patch over what a version of an automation says, and checks the whole.
func (a *API) automationMerge(ctx context.Context, tx db.TenantTx, row db.Automation, spec json.RawMessage, patch map[string]json.RawMessage, shape []Fault,
) (automationValue, error) {
	merged := map[string]json.RawMessage{}
	if err := json.Unmarshal(spec, &merged); err != nil {
		return automationValue{}, fmt.Errorf("read automation %s: %w", row.ID, err)
	}
	// An id is hex digits and an underscore: nothing in it is escaped.
	merged["endpoint_id"] = json.RawMessage(`"` + tenants.FormatID(tenants.EndpointPrefix, row.EndpointID) + `"`)
	for name, value := range patch {
		if string(value) == "null" {
			delete(merged, name)
		} else {
			merged[name] = value
		}
	}
	return a.automationCheck(ctx, tx, merged, shape)
}

func (a *API) automationDelete(ctx context.Context, in *automationDeleteInput) (*struct{}, error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error { return tx.AutomationDelete(ctx, id, in.Version) })
}

func (a *API) automationVersions(ctx context.Context, in *automationVersionsInput) (*listed[AutomationVersion], error) {
	id, err := pathID(tenants.AutomationPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	before := 0
	if text, err := in.text(); err != nil {
		return nil, err
	} else if text != "" {
		if before, err = strconv.Atoi(text); err != nil || before < 1 || before > 1<<30 {
			return nil, invalidAt("query.cursor", errCursor)
		}
	}
	var rows []db.AutomationVersion
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		if _, err = tx.AutomationGet(ctx, id); err != nil {
			return err
		}
		rows, err = tx.AutomationVersionList(ctx, id, before, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	return pageOf(rows, in.Limit, toAutomationVersion, func(v db.AutomationVersion) string { return strconv.Itoa(v.Version) }), nil
}
