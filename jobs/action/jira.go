package action

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// jira is version 3 of the API of Jira Cloud (developer.atlassian.com/cloud/jira/platform/rest/v3). A Jira Data Center has another one.
type jira struct{ door *outbound.Door }

const (
	jiraRoot = "/rest/api/3"
	jiraPage = 100
	// jiraPagesMax bounds how far a comment is looked for: 1,000 comments within the minutes since the first attempt.
	jiraPagesMax = 10
)

// jiraAccount is an API token of an Atlassian account, which is given with the account's e-mail address
// (developer.atlassian.com/cloud/jira/platform/basic-auth-for-rest-apis).
func jiraAccount(door *outbound.Door) Account {
	return Account{
		Kind: "jira", BaseDoc: "the address of the site, https://ACME.atlassian.net; of a token with scopes https://api.atlassian.com/ex/jira/CLOUD_ID",
		SecretDoc: "EMAIL:API_TOKEN, the address of the account and a token of it", Check: checkJiraSecret,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			var user struct {
				AccountID string `json:"accountId"`
				Type      string `json:"accountType"`
			}
			_, err := jira{door: door}.ask(ctx, Send{Access: a, At: at}, question{method: http.MethodGet, path: "/myself", out: &user})
			if err != nil {
				return Identity{}, err
			}
			id := Identity{Actor: user.AccountID}
			if user.Type == "atlassian" {
				id.Note = "a person's account: what the person does by hand is taken for ours, too"
			}
			return id, nil
		},
	}
}

// checkJiraSecret tells whether a secret is an e-mail address and a token.
func checkJiraSecret(secret string) error {
	email, token, both := strings.Cut(secret, ":")
	if !both || !strings.Contains(email, "@") || checkToken(secret) != nil || checkToken(token) != nil {
		return errors.New("expected EMAIL:API_TOKEN, printable characters without blanks")
	}
	return nil
}

// ask puts a question as the account. A limit is a 429 with Retry-After, of all requests, of one path, or of writing to one issue
// (developer.atlassian.com/cloud/jira/platform/rate-limiting).
func (j jira) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	if s.Base == "" { // every site has its own address
		return outbound.Response{}, refused(CodeCredential, "the credential does not say the address of its site")
	}
	q.base, q.at, q.path = s.Base, s.At, jiraRoot+q.path
	q.header = http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(s.Secret))}}
	return ask(ctx, j.door, q)
}

// issueKeyRE is the key of an issue: its project's, upper-case letters, digits and "_" after a letter, and a number
// (confluence.atlassian.com/adminjiraserver/changing-the-project-key-format-938847081.html).
var issueKeyRE = regexp.MustCompile(`^[A-Z][A-Z0-9_]{1,254}-[1-9][0-9]{0,18}$`)

// badIssueKey says what is wrong with the key of an issue, "" for nothing.
func badIssueKey(key string) string {
	if !issueKeyRE.MatchString(key) {
		return "expected the key of an issue, such as SHOP-12"
	}
	return ""
}
