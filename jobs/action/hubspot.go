package action

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"sluice/jobs/outbound"
)

// hubspot is the CRM API of HubSpot (developers.hubspot.com/docs/api-reference). The facts are those of its OpenAPI descriptions
// (github.com/HubSpot/HubSpot-public-api-spec-collection: CRM/Notes v3, CRM/Associations v4, Account Info v3).
type hubspot struct{ door *outbound.Door }

const hubspotBase = "https://api.hubapi.com"

// hubspotAccount is the access token of a private app.
func hubspotAccount(door *outbound.Door) Account {
	return Account{
		Kind: "hubspot", Base: hubspotBase, BaseDoc: "the address of the API, if not " + hubspotBase,
		SecretDoc: "the access token of a private app that may read and write contacts (crm.objects.contacts.read and .write), and the other records you write to",
		Check:     checkToken,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			h, s := hubspot{door: door}, Send{Access: a, At: at}
			if _, err := h.ask(ctx, s, question{method: http.MethodGet, path: "/account-info/v3/details"}); err != nil {
				return Identity{}, err
			}
			// A private app learns its own id by its token, as it is in sourceId of the events that it causes. Another kind of token is refused there.
			var app struct {
				ID anID `json:"appId"`
			}
			_, err := h.ask(ctx, s, question{
				method: http.MethodPost, path: "/oauth/v2/private-apps/get/access-token-info", in: map[string]string{"tokenKey": a.Secret}, out: &app,
			})
			if err != nil || app.ID == "" {
				return Identity{Note: "HubSpot does not say which app the token is of"}, nil //nolint:nilerr // the token itself is good
			}
			return Identity{Actor: string(app.ID)}, nil
		},
	}
}

// ask puts a question and reads what HubSpot says of its limits.
func (h hubspot) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	q.base, q.at, q.header = s.baseOf(hubspotBase), s.At, bearer(s.Secret)
	q.judge = func(res outbound.Response) *Error { return hubspotLimit(res, s.At) }
	return ask(ctx, h.door, q)
}

// What HubSpot answers while it cannot take a request, beside 429 (developers.hubspot.com/docs/api-reference/error-handling).
const hubspotMigrating = 477 // the account is being moved to another region

// hubspotLimit reads a limit: the body names its policy, DAILY ends at midnight, and the others within the interval that a header tells
// (developers.hubspot.com/docs/guides/apps/api-usage/usage-details).
func hubspotLimit(res outbound.Response, at time.Time) *Error {
	wait := RetryAfter(res.Header, at)
	switch res.Status {
	case http.StatusLocked, hubspotMigrating:
		return &Error{
			Kind: Retry, Code: CodeStatus4xx, Message: "the target answered " + strconv.Itoa(res.Status) + ": it is busy with the account",
			Status: res.Status, RetryAfter: wait,
		}
	case http.StatusTooManyRequests:
		var said struct {
			Policy string `json:"policyName"`
		}
		_ = json.Unmarshal(res.Body, &said) // what cannot be read names no policy
		if wait == 0 && said.Policy == "DAILY" {
			wait = retryAfterMax
		}
		if ms, err := strconv.ParseInt(res.Header.Get("X-Hubspot-Ratelimit-Interval-Milliseconds"), 10, 32); wait == 0 && err == nil {
			wait = time.Duration(ms) * time.Millisecond
		}
		return limited(res.Status, wait)
	}
	return nil
}
