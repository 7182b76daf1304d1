package action

import (
	"context"
	"encoding/json"
	"errors"
)

// none keeps a run's outcome and makes no effect, for tenants that fetch outcomes over the API.
type none struct{}

var _ Connector = none{}

var errNoCredential = errors.New("the action none takes no credential")

func (none) Kind() string { return "none" }

func (none) Check(params json.RawMessage) []Fault {
	_, faults := fields(params, "none", "kind")
	return faults
}

func (none) Prepare(json.RawMessage, Input) (Effect, error) { return Effect{Kind: "none"}, nil }

func (none) Do(context.Context, Send) (Receipt, error) {
	return Receipt{Note: "the outcome is kept, nothing was sent"}, nil
}

func (none) CredentialKind() string     { return "" }
func (none) NewSecret() (string, error) { return "", errNoCredential }
func (none) CheckSecret(string) error   { return errNoCredential }
