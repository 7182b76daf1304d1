package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"sluice/jobs/action"
)

// Connector is a kind of action, and what its object in an automation holds.
type Connector struct {
	Kind       string           `json:"kind" example:"github_comment"`
	Credential string           `json:"credential,omitempty" doc:"the kind of credential that credential_id must name" example:"github"`
	Fields     []ConnectorField `json:"fields" doc:"of the action object, beside kind and credential_id"`
}

// ConnectorField is one field of an action object.
type ConnectorField struct {
	Name     string   `json:"name"`
	Form     string   `json:"form" enum:"text,target,address,content,flag,texts" doc:"text: the same for every event. target and address: Liquid over event and payload, never over the output; of an address scheme and host are written out. content: Liquid over event, payload and output, made harmless for its target. flag: true or false. texts: a list of texts"`
	Required bool     `json:"required"`
	Default  string   `json:"default,omitempty" doc:"written into the automation if left out"`
	Choices  []string `json:"choices,omitempty"`
	Doc      string   `json:"doc"`
}

// CredentialKind is a kind of credential that actions are made with.
type CredentialKind struct {
	Kind    string `json:"kind"`
	Secret  string `json:"secret" doc:"what its secret is"`
	BaseURL string `json:"base_url,omitempty" doc:"where its service is asked, unless the credential says otherwise"`
	BaseDoc string `json:"base_doc,omitempty" doc:"what a credential's base_url is to be"`
	Tested  bool   `json:"tested" doc:"POST /v1/credentials/{id}/test asks its service who it is"`
}

var formNames = map[action.Form]string{
	action.FormLiteral: "text", action.FormTarget: "target", action.FormAddress: "address", action.FormContent: "content",
	action.FormFlag: "flag", action.FormTexts: "texts",
}

func toConnector(s action.Spec) Connector {
	out := Connector{Kind: s.Kind, Credential: s.Account, Fields: []ConnectorField{}}
	for _, f := range s.Fields {
		out.Fields = append(out.Fields, ConnectorField{
			Name: f.Name, Form: formNames[f.Form], Required: f.Required, Default: f.Default, Choices: f.Choices, Doc: f.Doc,
		})
	}
	return out
}

type connectorListInput struct{}

type connectorListOutput struct {
	Body struct {
		Data        []Connector      `json:"data"`
		Credentials []CredentialKind `json:"credentials"`
	}
}

func (a *API) registerConnectors() {
	register(a, anyKey, huma.Operation{
		OperationID: "list-connectors", Method: http.MethodGet, Path: "/v1/connectors", Tags: []string{"Automations"},
		Summary: "List the kinds of actions, and of the credentials that they are made with",
	}, a.connectorList)
}

func (a *API) connectorList(context.Context, *connectorListInput) (*connectorListOutput, error) {
	out := &connectorListOutput{}
	for _, kind := range a.deps.Actions.Kinds() {
		if c, ok := a.deps.Actions.Get(kind); ok {
			out.Body.Data = append(out.Body.Data, toConnector(c.Spec()))
		}
	}
	for _, kind := range a.deps.Actions.Accounts() {
		if account, ok := a.deps.Actions.Account(kind); ok {
			out.Body.Credentials = append(out.Body.Credentials, CredentialKind{
				Kind: kind, Secret: account.SecretDoc, BaseURL: account.Base, BaseDoc: account.BaseDoc, Tested: account.Test != nil,
			})
		}
	}
	return out, nil
}
