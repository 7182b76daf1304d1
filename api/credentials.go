package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/tenants"
)

// Credential is a sealed secret for going out, without the secret.
type Credential struct {
	ID        string    `json:"id" example:"crd_01980000000070008000000000000000"`
	Name      string    `json:"name"`
	Kind      string    `json:"kind" doc:"whom it is for: a provider of models (anthropic, openai), a fetch (bearer), a connector (callback, ...), or deliveries that did not arrive (github, github_app)"`
	BaseURL   string    `json:"base_url,omitempty" doc:"where its service is asked, if not where everybody's is"`
	Last4     string    `json:"last4" doc:"the last characters of the secret"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	Actor        string     `json:"actor,omitempty" doc:"who the credential is at its service: what comes from there as an event was caused by an automation" example:"acme-bot[bot]"`
	PausedAt     *time.Time `json:"paused_at,omitempty" doc:"since when it is not used: its service refuses it, or there is no money left"`
	PausedReason string     `json:"paused_reason,omitempty" doc:"why, for a person"`
}

func (c Credential) version() int { return c.Version }

// NewCredential is a credential that was just made.
type NewCredential struct {
	Credential

	Secret string `json:"secret,omitempty" doc:"only if it was made here: shown now, and never again"`
}

func toCredential(c db.Credential) Credential {
	return Credential{
		ID: tenants.FormatID(tenants.CredentialPrefix, c.ID), Name: c.Name, Kind: c.Kind, BaseURL: c.BaseURL, Last4: c.Last4, Version: c.Version,
		CreatedAt: c.CreatedAt.UTC(), UpdatedAt: c.UpdatedAt.UTC(), Actor: c.Actor, PausedAt: utc(c.PausedAt), PausedReason: c.PausedReason,
	}
}

type credentialCreateInput struct {
	Caller
	Creating

	Body struct {
		Name   string `json:"name" minLength:"1" maxLength:"100" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		Kind   string `json:"kind" doc:"anthropic, openai, bearer (for a fetch), github_app (for deliveries that did not arrive), or the kind of credential that an action needs, such as callback, github, slack" example:"anthropic"`
		Secret string `json:"secret,omitempty" maxLength:"8192" doc:"may be left out for callback: one is made, and shown once" writeOnly:"true"`

		BaseURL string `json:"base_url,omitempty" maxLength:"2048" doc:"where its service is asked, without a final slash: required for services that give each customer an address, and for one's own installations" example:"https://acme.zendesk.com"`
	}
}

type credentialListInput struct {
	Caller
	Page
}

type credentialGetInput struct {
	Caller
	Known

	ID string `path:"id" doc:"crd_..."`
}

type credentialUpdateInput struct {
	Caller
	Unchanged

	ID   string `path:"id" doc:"crd_..."`
	Body struct {
		Name    *string `json:"name,omitempty" minLength:"1" maxLength:"100" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		Secret  *string `json:"secret,omitempty" maxLength:"8192" doc:"ends its pause, too" writeOnly:"true"`
		Actor   *string `json:"actor,omitempty" maxLength:"200" pattern:"^([^\\x00-\\x20\\x7f]([^\\x00-\\x1f\\x7f]*[^\\x00-\\x20\\x7f])?)?$" patternDescription:"text without control characters and without blanks around it" doc:"who the credential is at its service: a login or an id, as its events name whoever caused them; with the name of the source and a colon before it, of that source only; empty says nothing" example:"acme-bot[bot]"`
		BaseURL *string `json:"base_url,omitempty" maxLength:"2048" doc:"where its service is asked; empty is where everybody's is"`
		Paused  *bool   `json:"paused,omitempty" enum:"false" doc:"false ends its pause"`
	}
}

type credentialDeleteInput struct {
	Caller

	ID string `path:"id" doc:"crd_..."`
}

func (a *API) registerCredentials() {
	register(a, adminRole, huma.Operation{
		OperationID: "create-credential", Method: http.MethodPost, Path: "/v1/credentials", Tags: []string{"Credentials"},
		DefaultStatus: http.StatusCreated, Summary: "Keep a secret for a provider or a connector",
		Description: "The secret is sealed, and is never shown again; answers show its last characters.",
	}, a.credentialCreate)
	register(a, adminRole, huma.Operation{
		OperationID: "list-credentials", Method: http.MethodGet, Path: "/v1/credentials", Tags: []string{"Credentials"}, Summary: "List credentials",
	}, a.credentialList)
	register(a, adminRole, huma.Operation{
		OperationID: "get-credential", Method: http.MethodGet, Path: "/v1/credentials/{id}", Tags: []string{"Credentials"}, Summary: "Read a credential",
	}, a.credentialGet)
	register(a, adminRole, huma.Operation{
		OperationID: "update-credential", Method: http.MethodPatch, Path: "/v1/credentials/{id}", Tags: []string{"Credentials"},
		Summary:     "Rename a credential, replace its secret, end its pause, or say who it is",
		Description: "A credential that its service refused, or that has no money left, is paused: a new secret or \"paused\": false lets it be used again.",
	}, a.credentialUpdate)
	register(a, adminRole, huma.Operation{
		OperationID: "delete-credential", Method: http.MethodDelete, Path: "/v1/credentials/{id}", Tags: []string{"Credentials"},
		Summary: "Delete a credential", Description: "While an automation or an endpoint uses it: 409 credential.in_use.",
	}, a.credentialDelete)
}

// bearerKind is of the tokens that a fetch shows to the system it asks. It is a kind of its own, since whoever may write an automation chooses
// where such a token goes.
const bearerKind = "bearer"

// providerKinds are the providers of models that take a key.
var providerKinds = []string{"anthropic", "openai"}

// providerSecretMin and providerSecretMax bound the key of a provider, in bytes.
const (
	providerSecretMin = 8
	providerSecretMax = 512
)

// credentialKinds are all kinds that a credential can be of.
func (a *API) credentialKinds() []string {
	kinds := slices.Concat(providerKinds, []string{bearerKind}, jobs.GitHubKinds(), a.deps.Actions.Accounts())
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// secretFault says what is wrong with a secret of a kind, without repeating it; "" is nothing.
func (a *API) secretFault(kind, secret string) string {
	var err error
	switch account, ok := a.deps.Actions.Account(kind); {
	case slices.Contains(jobs.GitHubKinds(), kind):
		err = jobs.CheckGitHubSecret(kind, secret)
	case ok:
		err = account.Check(secret)
	case len(secret) < providerSecretMin || len(secret) > providerSecretMax || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		// A key goes into a header, where a blank or a line's end would be a mistake of copying.
		err = fmt.Errorf("expected %d to %d printable characters without blanks", providerSecretMin, providerSecretMax)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// baseFault says what is wrong with the address of a credential's service; "" is nothing.
func (a *API) baseFault(kind, base string) string {
	account, ok := a.deps.Actions.Account(kind)
	if !ok {
		account = action.Account{NoBase: true}
	}
	if err := a.deps.Actions.CheckBase(account, base); err != nil {
		return err.Error()
	}
	return ""
}

func (a *API) credentialCreate(ctx context.Context, in *credentialCreateInput) (*made[NewCredential], error) {
	if kinds := a.credentialKinds(); !slices.Contains(kinds, in.Body.Kind) {
		return nil, invalidAt("body.kind", "expected one of "+strings.Join(kinds, ", "))
	}
	account, _ := a.deps.Actions.Account(in.Body.Kind)
	var faults []Fault
	if in.Body.Secret != "" || account.NewSecret == nil {
		if fault := a.secretFault(in.Body.Kind, in.Body.Secret); fault != "" {
			faults = append(faults, Fault{Location: "body.secret", Message: fault})
		}
	}
	if fault := a.baseFault(in.Body.Kind, in.Body.BaseURL); fault != "" {
		faults = append(faults, Fault{Location: "body.base_url", Message: fault})
	}
	if err := invalid(faults); err != nil {
		return nil, err
	}
	return create(ctx, a, in.Caller, in.Creating, in.Body, func(tx db.TenantTx) (NewCredential, error) {
		secret, shown := in.Body.Secret, ""
		if secret == "" {
			var err error
			if secret, err = account.NewSecret(); err != nil {
				return NewCredential{}, err
			}
			shown = secret
		}
		c, err := tx.CredentialInsertAt(ctx, in.Body.Name, in.Body.Kind, in.Body.BaseURL, tenants.NewSecret(secret))
		return NewCredential{Credential: toCredential(c), Secret: shown}, err
	})
}

func (a *API) credentialList(ctx context.Context, in *credentialListInput) (*listed[Credential], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Credential
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		rows, err = tx.CredentialList(ctx, page)
		return err
	})
	return pageOf(rows, in.Limit, toCredential, func(c db.Credential) string { return byID(c.ID) }), err
}

func (a *API) credentialGet(ctx context.Context, in *credentialGetInput) (*got[Credential], error) {
	id, err := pathID(tenants.CredentialPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var c db.Credential
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		c, err = tx.CredentialGet(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer(in.Known, toCredential(c)), nil
}

func (a *API) credentialUpdate(ctx context.Context, in *credentialUpdateInput) (*got[Credential], error) {
	id, err := pathID(tenants.CredentialPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var c db.Credential
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		if c, err = tx.CredentialGet(ctx, id); err != nil {
			return err
		}
		change := db.CredentialChange{Name: in.Body.Name, Actor: in.Body.Actor, BaseURL: in.Body.BaseURL, Resume: in.Body.Paused != nil}
		if in.Body.BaseURL != nil {
			if fault := a.baseFault(c.Kind, *in.Body.BaseURL); fault != "" {
				return invalidAt("body.base_url", fault)
			}
		}
		if in.Body.Secret != nil {
			if fault := a.secretFault(c.Kind, *in.Body.Secret); fault != "" {
				return invalidAt("body.secret", fault)
			}
			change.Secret = tenants.NewSecret(*in.Body.Secret)
		}
		paused := c.PausedAt != nil
		if c, err = tx.CredentialUpdate(ctx, id, change, in.Version); err != nil || !paused || c.PausedAt != nil {
			return err
		}
		return a.deps.Poster.WakeCredential(ctx, tx, a.deps.Now())
	})
	if err != nil {
		return nil, err
	}
	return answer(Known{}, toCredential(c)), nil
}

func (a *API) credentialDelete(ctx context.Context, in *credentialDeleteInput) (*struct{}, error) {
	id, err := pathID(tenants.CredentialPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		usedBy, err := tx.CredentialDelete(ctx, id)
		if err == nil && len(usedBy) > 0 {
			return conflict("credential.in_use", "It is used by "+strings.Join(usedBy, ", ")+". Change or delete them first.")
		}
		return err
	})
}
