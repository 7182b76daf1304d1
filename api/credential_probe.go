package api

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/jobs/action"
	"sluice/tenants"
)

// credentialTestTimeout bounds the question to a credential's service.
const credentialTestTimeout = 15 * time.Second

// CredentialTest is what a service said of a credential.
type CredentialTest struct {
	OK     bool   `json:"ok" doc:"its service takes it"`
	Tested bool   `json:"tested" doc:"false where nobody can be asked for a credential of this kind: then ok says that its secret can be used"`
	Code   string `json:"code,omitempty" doc:"why not, as the reason of an action that fails with it" example:"action.unauthorized"`
	Detail string `json:"detail" doc:"a sentence for people"`
	Actor  string `json:"actor,omitempty" doc:"who it is at its service; kept as the credential's actor, where that said nothing, so that events that we cause are known"`
}

type credentialTestInput struct {
	Caller

	ID string `path:"id" doc:"crd_..."`
}

type credentialTestOutput struct{ Body CredentialTest }

func (a *API) registerCredentialTest() {
	register(a, adminRole, huma.Operation{
		OperationID: "test-credential", Method: http.MethodPost, Path: "/v1/credentials/{id}/test", Tags: []string{"Credentials"},
		Summary: "Ask a credential's service who it is", Description: "One request that changes nothing, with the credential, to its service. A refusal is an answer, not an error: 200 with ok false.",
	}, a.credentialTest)
}

func (a *API) credentialTest(ctx context.Context, in *credentialTestInput) (*credentialTestOutput, error) {
	id, err := pathID(tenants.CredentialPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var c db.Credential
	var opened db.CredentialOpened
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		if c, err = tx.CredentialGet(ctx, id); err == nil {
			opened, err = tx.CredentialOpen(ctx, id)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	account, ok := a.deps.Actions.Account(c.Kind)
	if !ok || account.Test == nil {
		return &credentialTestOutput{CredentialTest{OK: true, Detail: "Its secret is as it must be. Nobody can be asked about a credential of this kind before it is used."}}, nil
	}
	// The world is asked outside of any transaction.
	asked, cancel := context.WithTimeout(ctx, credentialTestTimeout)
	defer cancel()
	who, err := account.Test(asked, action.Access{Secret: opened.Secret.Reveal(), Base: opened.BaseURL}, a.deps.Now())
	if err != nil {
		failed, ok := errors.AsType[*action.Error](err)
		if !ok {
			return nil, err
		}
		return &credentialTestOutput{CredentialTest{Tested: true, Code: failed.Code, Detail: "Its service does not take it: " + failed.Message + "."}}, nil
	}
	if !isActor(who.Actor, opened.Secret.Reveal()) {
		who.Actor = ""
	}
	out := CredentialTest{OK: true, Tested: true, Actor: who.Actor, Detail: "Its service takes it."}
	if who.Note != "" {
		out.Detail += " " + who.Note + "."
	}
	if who.Actor == "" || c.Actor != "" {
		return &credentialTestOutput{out}, nil
	}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		_, err := tx.CredentialUpdate(ctx, id, db.CredentialChange{Actor: &who.Actor}, c.Version)
		return err
	})
	if errors.Is(err, db.ErrStale) || errors.Is(err, db.ErrNotFound) {
		err = nil // a person changed it meanwhile
	}
	return &credentialTestOutput{out}, err
}

// actorLenMax bounds what a service may call an actor, in characters.
const actorLenMax = 200

// isActor says whether what a service calls somebody can be kept and shown: some services throw back what they were sent, the secret with it.
func isActor(name, secret string) bool {
	if utf8.RuneCountInString(name) > actorLenMax || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) || strings.TrimSpace(name) != name {
		return false
	}
	told := func(part string) bool {
		return len(part) >= secretPartMin && (strings.Contains(name, part) || strings.Contains(name, base64.RawStdEncoding.EncodeToString([]byte(part))))
	}
	return !told(secret) && !slices.ContainsFunc(strings.FieldsFunc(secret, func(c rune) bool { return c == ':' || c == ' ' || c == '/' }), told)
}

// secretPartMin is how long a part of a secret is that may be one by itself, in bytes.
const secretPartMin = 12
