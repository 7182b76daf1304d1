package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

// Endpoint is an address that takes the events of one source.
type Endpoint struct {
	ID        string           `json:"id" example:"end_01980000000070008000000000000000"`
	Name      string           `json:"name"`
	Source    string           `json:"source" doc:"the name of a source, as GET /v1/sources lists them" example:"github"`
	URL       string           `json:"url" doc:"to be pasted into the source; whoever knows it can send, and only who knows the secret is heard"`
	Settings  map[string]any   `json:"settings"`
	Enabled   bool             `json:"enabled"`
	Secrets   []EndpointSecret `json:"secrets" doc:"the signing secrets that are good, newest first"`
	Missed    *EndpointMissed  `json:"missed,omitempty" doc:"only where the settings say how the source is asked for what did not arrive"`
	Setup     string           `json:"setup" doc:"what to do next, for a person"`
	Version   int              `json:"version"`
	CreatedAt time.Time        `json:"created_at"`
	UpdatedAt time.Time        `json:"updated_at"`
}

func (e Endpoint) version() int { return e.Version }

// NewEndpoint is an endpoint that was just made.
type NewEndpoint struct {
	Endpoint

	Secret string `json:"secret,omitempty" doc:"only if it was made here: shown now, and never again"`
}

// EndpointSecret is a signing secret of an endpoint, without its text.
type EndpointSecret struct {
	ID         string     `json:"id" example:"sec_01980000000070008000000000000000"`
	Last4      string     `json:"last4"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at" doc:"when it stops being good; null if nothing ends it"`
	LastUsedAt *time.Time `json:"last_used_at" doc:"to the minute; null if never"`
}

func toEndpointSecret(s db.EndpointSecret) EndpointSecret {
	return EndpointSecret{
		ID: tenants.FormatID(tenants.SecretPrefix, s.ID), Last4: s.Last4, CreatedAt: s.CreatedAt.UTC(), ExpiresAt: utc(s.ExpiresAt),
		LastUsedAt: utc(s.LastUsedAt),
	}
}

func (a *API) endpointURL(e db.Endpoint) string { return a.deps.PublicURL + intakePrefix + e.Token }

func (a *API) toEndpoint(e db.Endpoint, secrets []db.EndpointSecret, missed db.Missed) (Endpoint, error) {
	out := Endpoint{
		ID: tenants.FormatID(tenants.EndpointPrefix, e.ID), Name: e.Name, Source: e.Source, URL: a.endpointURL(e), Enabled: e.Enabled,
		Secrets: []EndpointSecret{}, Settings: map[string]any{}, Version: e.Version, CreatedAt: e.CreatedAt.UTC(), UpdatedAt: e.UpdatedAt.UTC(),
	}
	for _, s := range secrets {
		out.Secrets = append(out.Secrets, toEndpointSecret(s))
	}
	out.Setup = setupOf(e.Source, out.URL, len(secrets) > 0)
	if err := json.Unmarshal(e.Settings, &out.Settings); err != nil {
		return out, err
	}
	out.Missed = toEndpointMissed(out.Settings, missed)
	return out, nil
}

// setupOf says what to paste where. The secret itself never stands in it.
func setupOf(name, url string, hasSecret bool) string {
	s, ok := source.Get(name)
	if !ok {
		return ""
	}
	text := strings.NewReplacer("{url}", url, "the secret {secret}", "the endpoint's secret", "{secret}", "the endpoint's secret").Replace(s.Setup)
	if !hasSecret && s.SecretFrom != source.SecretNone {
		text += " Then give the signing secret with POST /v1/endpoints/{id}/secrets: until there is one, every delivery is answered 401 secret.missing."
	}
	return text
}

type endpointCreateInput struct {
	Caller
	Creating

	Body struct {
		Name     string         `json:"name" minLength:"1" maxLength:"100" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		Source   string         `json:"source" doc:"the name of a source, as GET /v1/sources lists them" example:"github"`
		Secret   string         `json:"secret,omitempty" maxLength:"512" writeOnly:"true" doc:"the signing secret, if there is one already; else one is made, or, where only the source can make it, it is given later"`
		Settings map[string]any `json:"settings,omitempty" doc:"what GET /v1/sources says of the source; a PATCH replaces all of them"`
	}
}

type endpointListInput struct {
	Caller
	Page
}

type endpointGetInput struct {
	Caller
	Known

	ID string `path:"id" doc:"end_..."`
}

type endpointUpdateInput struct {
	Caller
	Unchanged

	ID   string `path:"id" doc:"end_..."`
	Body struct {
		Name     *string        `json:"name,omitempty" minLength:"1" maxLength:"100" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		Settings map[string]any `json:"settings,omitempty" doc:"replaces all settings"`
		Enabled  *bool          `json:"enabled,omitempty" doc:"a disabled endpoint refuses every delivery"`
	}
}

type endpointDeleteInput struct {
	Caller
	Unchanged

	ID string `path:"id" doc:"end_..."`
}

func (a *API) registerEndpoints() {
	register(a, editorRole, huma.Operation{
		OperationID: "create-endpoint", Method: http.MethodPost, Path: "/v1/endpoints", Tags: []string{"Endpoints"}, DefaultStatus: http.StatusCreated,
		Summary: "Register an address for a source", Description: "Answers the URL to paste into the source. A secret that is made here is shown here and never again.",
	}, a.endpointCreate)
	register(a, viewerRole, huma.Operation{
		OperationID: "list-endpoints", Method: http.MethodGet, Path: "/v1/endpoints", Tags: []string{"Endpoints"}, Summary: "List endpoints",
	}, a.endpointList)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-endpoint", Method: http.MethodGet, Path: "/v1/endpoints/{id}", Tags: []string{"Endpoints"}, Summary: "Read an endpoint",
	}, a.endpointGet)
	register(a, editorRole, huma.Operation{
		OperationID: "update-endpoint", Method: http.MethodPatch, Path: "/v1/endpoints/{id}", Tags: []string{"Endpoints"}, Summary: "Change an endpoint",
	}, a.endpointUpdate)
	register(a, editorRole, huma.Operation{
		OperationID: "delete-endpoint", Method: http.MethodDelete, Path: "/v1/endpoints/{id}", Tags: []string{"Endpoints"},
		Summary: "Delete an endpoint", Description: "Its automations go with it; its events stay.",
	}, a.endpointDelete)
	a.registerEndpointSecrets()
	a.registerEndpointTest()
}

// settingsFaults are the bad fields of an endpoint's settings.
func settingsFaults(found []source.Fault) []Fault {
	var faults []Fault
	for _, f := range found {
		location := "body.settings"
		if f.Place != "" {
			location += "." + f.Place
		}
		faults = append(faults, Fault{Location: location, Message: f.Message})
	}
	return faults
}

func (a *API) endpointCreate(ctx context.Context, in *endpointCreateInput) (*made[NewEndpoint], error) {
	s, ok := source.Get(in.Body.Source)
	if !ok {
		return nil, invalidAt("body.source", "expected one of "+strings.Join(sourceNames(), ", "))
	}
	raw, err := settingsJSON(in.Body.Settings)
	if err != nil {
		return nil, err
	}
	settings, _, found := splitSettings(s, raw)
	faults := settingsFaults(append(found, a.proxyFaults(s, settings, len(found) == 0)...))
	if in.Body.Secret != "" && len(faults) == 0 {
		if err := s.CheckSecret(in.Body.Secret, settings); err != nil {
			faults = append(faults, Fault{Location: "body.secret", Message: err.Error()})
		}
	}
	if err := invalid(faults); err != nil {
		return nil, err
	}
	return create(ctx, a, in.Caller, in.Creating, in.Body, func(tx db.TenantTx) (NewEndpoint, error) {
		if err := a.needsCheck(ctx, tx, in.Caller, needsOf(s, settings), nil); err != nil {
			return NewEndpoint{}, err
		}
		e, err := tx.EndpointInsert(ctx, in.Body.Name, s.Name, raw)
		if err != nil {
			return NewEndpoint{}, err
		}
		secret, shown, err := secretOf(s, in.Body.Secret)
		if err != nil {
			return NewEndpoint{}, err
		}
		var secrets []db.EndpointSecret
		if !secret.Empty() {
			kept, err := tx.EndpointSecretInsert(ctx, e.ID, secret)
			if err != nil {
				return NewEndpoint{}, err
			}
			secrets = append(secrets, kept)
		}
		out, err := a.toEndpoint(e, secrets, db.Missed{})
		return NewEndpoint{Endpoint: out, Secret: shown}, err
	})
}

// secretOf is the secret that was brought, or one that is made here and shown once, or none where only the source can make it.
func secretOf(s source.Source, brought string) (secret tenants.Secret, shown string, err error) {
	switch {
	case brought != "":
		return tenants.NewSecret(brought), "", nil
	case s.SecretFrom == source.SecretFromSource || s.NewSecret == nil:
		return tenants.Secret{}, "", nil
	}
	shown, err = s.NewSecret()
	return tenants.NewSecret(shown), shown, err
}

// proxyFaults: an endpoint that is known by a header of the proxy takes nothing where the operator has not said that the proxy sets it.
func (a *API) proxyFaults(s source.Source, settings source.Settings, usable bool) []source.Fault {
	if s.ProxyHeader == nil || !usable {
		return nil
	}
	name := s.ProxyHeader(settings)
	if name == "" || slices.ContainsFunc(a.deps.ProxyHeaders, func(declared string) bool { return strings.EqualFold(declared, name) }) {
		return nil
	}
	return []source.Fault{{Message: "the header " + name + " is not one that the operator's proxy sets (SLUICE_PROXY_HEADERS), so that anybody could send it"}}
}

func sourceNames() []string {
	var names []string
	for _, s := range source.All() {
		names = append(names, s.Name)
	}
	return names
}

// settingsJSON writes settings as they are kept; none are an empty object.
func settingsJSON(settings map[string]any) (json.RawMessage, error) {
	if settings == nil {
		return json.RawMessage(`{}`), nil
	}
	return json.Marshal(settings)
}

func (a *API) endpointList(ctx context.Context, in *endpointListInput) (*listed[Endpoint], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Endpoint
	secrets := map[uuid.UUID][]db.EndpointSecret{}
	var missed map[uuid.UUID]db.Missed
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		if rows, err = tx.EndpointList(ctx, page); err != nil {
			return err
		}
		ids := make([]uuid.UUID, len(rows))
		for i, e := range rows {
			ids[i] = e.ID
		}
		if missed, err = missedOf(ctx, tx, ids...); err != nil {
			return err
		}
		all, err := tx.EndpointSecretListOf(ctx, ids)
		for _, s := range all {
			secrets[s.EndpointID] = append(secrets[s.EndpointID], s)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var unread error
	out := pageOf(rows, in.Limit, func(e db.Endpoint) Endpoint {
		shown, err := a.toEndpoint(e, secrets[e.ID], missed[e.ID])
		if err != nil {
			unread = err
		}
		return shown
	}, func(e db.Endpoint) string { return byID(e.ID) })
	return out, unread
}

// endpointRead reads an endpoint with its secrets, as it is shown.
func (a *API) endpointRead(ctx context.Context, tx db.TenantTx, e db.Endpoint) (Endpoint, error) {
	secrets, err := tx.EndpointSecretList(ctx, e.ID)
	if err != nil {
		return Endpoint{}, err
	}
	missed, err := missedOf(ctx, tx, e.ID)
	if err != nil {
		return Endpoint{}, err
	}
	return a.toEndpoint(e, secrets, missed[e.ID])
}

func (a *API) endpointGet(ctx context.Context, in *endpointGetInput) (*got[Endpoint], error) {
	id, err := pathID(tenants.EndpointPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var out Endpoint
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		e, err := tx.EndpointGet(ctx, id)
		if err != nil {
			return err
		}
		out, err = a.endpointRead(ctx, tx, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer(in.Known, out), nil
}

func (a *API) endpointUpdate(ctx context.Context, in *endpointUpdateInput) (*got[Endpoint], error) {
	id, err := pathID(tenants.EndpointPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	change := db.EndpointChange{Name: in.Body.Name, Enabled: in.Body.Enabled, Version: in.Version}
	var out Endpoint
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		e, err := tx.EndpointGet(ctx, id)
		if err != nil {
			return err
		}
		if in.Body.Settings != nil {
			if change.Settings, err = settingsJSON(in.Body.Settings); err != nil {
				return err
			}
			if err := a.settingsCheck(ctx, tx, in.Caller, e, change.Settings); err != nil {
				return err
			}
		}
		if e, err = tx.EndpointUpdate(ctx, id, change); err != nil {
			return err
		}
		out, err = a.endpointRead(ctx, tx, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer(Known{}, out), nil
}

// settingsCheck refuses settings that the source does not know, those that name a credential that is not there, and those that an existing secret cannot be used with.
func (a *API) settingsCheck(ctx context.Context, tx db.TenantTx, caller Caller, e db.Endpoint, raw json.RawMessage) error {
	s, ok := source.Get(e.Source)
	if !ok {
		return conflict("source.unknown", "This version does not know the source "+e.Source+".")
	}
	settings, _, found := splitSettings(s, raw)
	if err := invalid(settingsFaults(append(found, a.proxyFaults(s, settings, len(found) == 0)...))); err != nil {
		return err
	}
	before, _, _ := splitSettings(s, e.Settings)
	if err := a.needsCheck(ctx, tx, caller, needsOf(s, settings), needsOf(s, before)); err != nil {
		return err
	}
	secrets, err := tx.EndpointSecrets(ctx, e.ID)
	if err != nil {
		return err
	}
	for _, secret := range secrets {
		if err := s.CheckSecret(secret.Text.Reveal(), settings); err != nil {
			return invalidAt("body.settings", "the endpoint's secret cannot be used with these settings: "+err.Error())
		}
	}
	return nil
}

func (a *API) endpointDelete(ctx context.Context, in *endpointDeleteInput) (*struct{}, error) {
	id, err := pathID(tenants.EndpointPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error { return tx.EndpointDelete(ctx, id, in.Version) })
}
