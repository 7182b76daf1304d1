package action

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// pagerduty is the REST API of PagerDuty (developer.pagerduty.com/api-reference). The facts are those of its OpenAPI description
// (github.com/PagerDuty/api-schema, reference/REST).
type pagerduty struct{ door *outbound.Door }

const (
	pagerdutyBase = "https://api.pagerduty.com"
	// pagerdutyAccept names the version of the API.
	pagerdutyAccept = "application/vnd.pagerduty+json;version=2"
)

// pagerdutyAccount is a key of the REST API, of an account or of a user, and the user who writes: whoever writes a note is named in the header From.
func pagerdutyAccount(door *outbound.Door) Account {
	return Account{
		Kind: "pagerduty", Base: pagerdutyBase, BaseDoc: "the address of the API: https://api.eu.pagerduty.com for accounts hosted there",
		SecretDoc: "EMAIL:KEY: the e-mail address of the user who is to write, a colon, and a REST API key that may write", Check: checkPagerduty,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			return pagerduty{door: door}.identity(ctx, Send{Access: a, At: at})
		},
	}
}

var emailRE = regexp.MustCompile(`^[^@:\s<>,;"]+@[^@:\s<>,;"]+\.[^@:\s<>,;"]+$`)

func checkPagerduty(secret string) error {
	if err := checkToken(secret); err != nil {
		return err
	}
	if email, key, _ := strings.Cut(secret, ":"); !emailRE.MatchString(email) || len(key) < tokenBytesMin {
		return errors.New("expected EMAIL:KEY")
	}
	return nil
}

// A pagerdutyUser is what is read of a user.
type pagerdutyUser struct {
	ID    anID   `json:"id"`
	Email string `json:"email"`
}

// identity asks whose key it is (GET /users/me). A key of the account belongs to nobody, and then the user is looked up who is named in From.
func (d pagerduty) identity(ctx context.Context, s Send) (Identity, error) {
	var me struct {
		User pagerdutyUser `json:"user"`
	}
	_, err := d.ask(ctx, s, question{method: http.MethodGet, path: "/users/me", out: &me})
	if err == nil && me.User.ID != "" {
		return Identity{Actor: string(me.User.ID)}, nil
	}
	if e, ok := asError(err); ok && e.Status != http.StatusBadRequest {
		return Identity{}, err
	}
	email, _, _ := strings.Cut(s.Secret, ":")
	var list struct {
		Users []pagerdutyUser `json:"users"`
	}
	if _, err = d.ask(ctx, s, question{method: http.MethodGet, path: "/users", query: url.Values{"query": {email}}, out: &list, large: true}); err != nil {
		return Identity{}, err
	}
	for _, user := range list.Users {
		if strings.EqualFold(user.Email, email) && user.ID != "" {
			return Identity{Actor: string(user.ID), Note: "a key of the whole account"}, nil
		}
	}
	return Identity{}, refused(CodeCredential, "the target has no user with the e-mail address of the credential")
}

// ask puts a question as the user of the credential. 429 says in how many seconds the limit begins anew (support.pagerduty.com/docs/rest-api-rate-limits).
func (d pagerduty) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	email, key, both := strings.Cut(s.Secret, ":")
	if !both {
		return outbound.Response{}, refused(CodeCredential, "the credential's secret is not EMAIL:KEY")
	}
	q.base, q.at, q.header = s.baseOf(pagerdutyBase), s.At, http.Header{"Authorization": {"Token token=" + key}, "Accept": {pagerdutyAccept}}
	if q.in != nil {
		q.header.Set("From", email)
	}
	q.judge = func(res outbound.Response) *Error {
		if res.Status != http.StatusTooManyRequests {
			return nil
		}
		wait := RetryAfter(res.Header, s.At)
		if seconds, err := strconv.ParseInt(res.Header.Get("Ratelimit-Reset"), 10, 32); wait == 0 && err == nil {
			wait = time.Duration(seconds) * time.Second
		}
		return limited(res.Status, wait)
	}
	return ask(ctx, d.door, q)
}
