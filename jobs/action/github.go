package action

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// github is the API of GitHub (docs.github.com/en/rest), or of a GitHub Enterprise Server, whose address ends with /api/v3.
type github struct{ door *outbound.Door }

const (
	githubBase = "https://api.github.com"
	// githubVersion is a dated version of the API, which is kept for two years at least after the next one
	// (docs.github.com/en/rest/about-the-rest-api/api-versions).
	githubVersion = "2022-11-28"
	githubPage    = 100
	// githubPagesMax bounds how far a comment is looked for: 1,000 comments within the minutes since the first attempt.
	githubPagesMax = 10
)

// githubAccount is a token of GitHub: personal, fine-grained, or an installation's.
func githubAccount(door *outbound.Door) Account {
	return Account{
		Kind: "github", Base: githubBase, BaseDoc: "the address of the API: of a GitHub Enterprise Server https://HOST/api/v3",
		SecretDoc: "a personal access token, classic or fine-grained, that may write issues", Check: checkToken,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			var user struct {
				Login string `json:"login"`
			}
			res, err := github{door: door}.ask(ctx, Send{Access: a, At: at}, question{method: http.MethodGet, path: "/user", out: &user})
			if err != nil {
				return Identity{}, err
			}
			id := Identity{Actor: user.Login}
			if scopes := res.Header.Get("X-Oauth-Scopes"); scopes != "" {
				id.Note = "a classic token with the scopes " + strings.Join(strings.Fields(scopes), " ")
			}
			return id, nil
		},
	}
}

// ask puts a question with the headers that GitHub wants, and reads what it says of its limits.
func (g github) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	q.base, q.at, q.header = s.baseOf(githubBase), s.At, bearer(s.Secret)
	q.header.Set("Accept", "application/vnd.github+json")
	q.header.Set("X-Github-Api-Version", githubVersion)
	q.judge = func(res outbound.Response) *Error { return githubLimit(res, s.At) }
	return ask(ctx, g.door, q)
}

// githubLimit tells a limit from a lack of rights: both are 403, and a limit says when to come again
// (docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api).
func githubLimit(res outbound.Response, at time.Time) *Error {
	if res.Status != http.StatusForbidden && res.Status != http.StatusTooManyRequests {
		return nil
	}
	wait := RetryAfter(res.Header, at)
	if wait == 0 && res.Header.Get("X-Ratelimit-Remaining") == "0" {
		wait = untilUnix(res.Header.Get("X-Ratelimit-Reset"), res.Header, at)
	}
	if wait == 0 && !strings.Contains(strings.ToLower(string(res.Body)), "rate limit") {
		return nil
	}
	return limited(res.Status, wait)
}

// repoRE is the full name of a repository: an owner of letters, digits and hyphens, and a name.
var repoRE = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/[A-Za-z0-9._-]{1,100}$`)

// badRepo says what is wrong with the full name of a repository, "" for nothing.
func badRepo(name string) string {
	_, repo, _ := strings.Cut(name, "/")
	if !repoRE.MatchString(name) || repo == "." || repo == ".." {
		return "expected owner/name"
	}
	return ""
}
