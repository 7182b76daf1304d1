package action

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// zendesk is the Ticketing API of Zendesk (developer.zendesk.com/api-reference/ticketing/introduction).
type zendesk struct{ door *outbound.Door }

// zendeskTokenUser ends the name of a user that a token stands for: EMAIL/token:TOKEN is what goes into Basic authentication
// (developer.zendesk.com/api-reference/introduction/security-and-auth).
const zendeskTokenUser = "/token"

// zendeskAccount is an API token of an agent, or an OAuth access token.
func zendeskAccount(door *outbound.Door) Account {
	return Account{
		Kind: "zendesk", BaseDoc: "the address of your account, https://ACME.zendesk.com",
		SecretDoc: "an API token as EMAIL/token:TOKEN, with the e-mail address of the agent that is to write; or an OAuth access token that may read and write",
		Check:     checkZendesk,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			var me struct {
				User struct {
					ID   anID   `json:"id"`
					Role string `json:"role"`
				} `json:"user"`
			}
			_, err := zendesk{door: door}.ask(ctx, Send{Access: a, At: at}, question{method: http.MethodGet, path: "/api/v2/users/me", out: &me})
			if err != nil {
				return Identity{}, err
			}
			// Whoever is not known is answered with 200 and a user without an id (developer.zendesk.com/api-reference/ticketing/users/users, Show Self).
			if !digits(string(me.User.ID)) {
				return Identity{}, refused(CodeUnauthorized, "the target knows nobody by this credential")
			}
			id := Identity{Actor: string(me.User.ID)}
			if me.User.Role == "end-user" {
				id.Note = "an end user, who cannot leave notes: an agent is needed"
			}
			return id, nil
		},
	}
}

// checkZendesk tells a token with its user from an OAuth token, which has no colon.
func checkZendesk(secret string) error {
	if err := checkToken(secret); err != nil {
		return err
	}
	user, token, both := strings.Cut(secret, ":")
	if email, ok := strings.CutSuffix(user, zendeskTokenUser); both && (!ok || !strings.Contains(email, "@") || token == "") {
		return errors.New("expected EMAIL/token:TOKEN, or an OAuth access token")
	}
	return nil
}

// ask puts a question with the credential in the form that it has. 429 and 503 come with Retry-After
// (developer.zendesk.com/api-reference/introduction/rate-limits).
func (z zendesk) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	if s.Base == "" {
		return outbound.Response{}, refused(CodeCredential, "the credential does not say which account of Zendesk it is for")
	}
	q.base, q.at, q.header = s.Base, s.At, bearer(s.Secret)
	if strings.Contains(s.Secret, ":") {
		q.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(s.Secret)))
	}
	q.judge = zendeskConflict
	return ask(ctx, z.door, q)
}

// zendeskConflict reads a 409: two have changed a ticket at once, and it may be tried again (developer.zendesk.com/api-reference/introduction/requests).
// The page does not say that nothing was done, so it is in doubt.
func zendeskConflict(res outbound.Response) *Error {
	if res.Status != http.StatusConflict {
		return nil
	}
	return &Error{Kind: Retry, Code: CodeStatus4xx, Message: "the target answered 409: somebody else changed it at the same time", Doubt: true, Status: res.Status}
}
