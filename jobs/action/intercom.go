package action

import (
	"context"
	"net/http"
	"time"

	"sluice/jobs/outbound"
)

// intercom is the REST API of Intercom (developers.intercom.com/docs/references/rest-api). The facts are those of its OpenAPI description
// (github.com/intercom/Intercom-OpenAPI, descriptions/2.14).
type intercom struct{ door *outbound.Door }

const (
	intercomBase    = "https://api.intercom.io"
	intercomVersion = "2.14"
)

// intercomAccount is an access token of an Intercom app.
func intercomAccount(door *outbound.Door) Account {
	return Account{
		Kind: "intercom", Base: intercomBase, BaseDoc: "the address of the API: https://api.eu.intercom.io or https://api.au.intercom.io for workspaces hosted there",
		SecretDoc: "the access token of an Intercom app that may read admins and write conversations", Check: checkToken,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			admin, err := intercom{door: door}.me(ctx, Send{Access: a, At: at})
			if err != nil {
				return Identity{}, err
			}
			return Identity{Actor: admin}, nil
		},
	}
}

// me asks for the id of the admin that the token is of (GET /me).
func (i intercom) me(ctx context.Context, s Send) (string, error) {
	var admin struct {
		ID anID `json:"id"`
	}
	if _, err := i.ask(ctx, s, question{method: http.MethodGet, path: "/me", out: &admin}); err != nil {
		return "", certain(err)
	}
	if !digits(string(admin.ID)) {
		return "", refused(CodeUnauthorized, "the target does not say which admin the credential is of")
	}
	return string(admin.ID), nil
}

// ask puts a question in the version of the API that this file was written for. 429 says when the limit begins anew
// (developers.intercom.com/docs/references/rest-api/errors/rate-limiting).
func (i intercom) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	q.base, q.at, q.header = s.baseOf(intercomBase), s.At, bearer(s.Secret)
	q.header.Set("Intercom-Version", intercomVersion)
	q.judge = func(res outbound.Response) *Error {
		if res.Status != http.StatusTooManyRequests {
			return nil
		}
		wait := RetryAfter(res.Header, s.At)
		if wait == 0 {
			wait = untilUnix(res.Header.Get("X-Ratelimit-Reset"), res.Header, s.At)
		}
		return limited(res.Status, wait)
	}
	return ask(ctx, i.door, q)
}
