package action

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// gitlab is the API of GitLab (docs.gitlab.com/api/rest), or of a GitLab of one's own, whose address ends with /api/v4.
type gitlab struct{ door *outbound.Door }

const (
	gitlabBase = "https://gitlab.com/api/v4"
	gitlabRoot = "/api/v4"
	gitlabPage = 100 // the most that GitLab gives at once (docs.gitlab.com/api/rest, "Offset-based pagination")
	// gitlabPagesMax bounds how far a note is looked for: 1,000 notes that were written or changed within the minutes since the first attempt.
	gitlabPagesMax = 10
)

// gitlabAccount is a token of GitLab: personal, of a project or a group, or of OAuth. All of them are good as bearer tokens
// (docs.gitlab.com/api/rest/authentication).
func gitlabAccount(door *outbound.Door) Account {
	return Account{
		Kind: "gitlab", Base: gitlabBase, BaseDoc: "the address of the API: of a GitLab of your own https://HOST/api/v4",
		SecretDoc: "an access token, personal, of a project or of a group, with the scope api and a role that may comment", Check: checkToken,
		Test: func(ctx context.Context, a Access, at time.Time) (Identity, error) {
			var user struct {
				Username string `json:"username"`
				Bot      bool   `json:"bot"`
			}
			_, err := gitlab{door: door}.ask(ctx, Send{Access: a, At: at}, question{method: http.MethodGet, path: "/user", out: &user})
			if err != nil {
				return Identity{}, err
			}
			id := Identity{Actor: user.Username}
			if user.Bot {
				id.Note = "the bot user of a project's or a group's token"
			}
			return id, nil
		},
	}
}

// ask puts a question as the credential, and reads what GitLab says of its limits.
func (g gitlab) ask(ctx context.Context, s Send, q question) (outbound.Response, error) {
	if err := s.need(); err != nil {
		return outbound.Response{}, err
	}
	q.base, q.at, q.header = s.baseOf(gitlabBase), s.At, bearer(s.Secret)
	q.judge = func(res outbound.Response) *Error { return gitlabJudge(res, s.At) }
	return ask(ctx, g.door, q)
}

// gitlabJudge reads when a limit ends: Retry-After, or RateLimit-Reset in unix seconds; the limits of single features say neither
// (docs.gitlab.com/administration/settings/user_and_ip_rate_limits). It tells a note from commands, too: a 202 means that the text was
// read as quick actions and that no note was made (gitlab-org/gitlab, lib/api/helpers/notes_helpers.rb, process_note_creation_result).
func gitlabJudge(res outbound.Response, at time.Time) *Error {
	switch res.Status {
	case http.StatusAccepted:
		e := refused(CodeRefused, "the target read the text as commands, and made no note of it")
		e.Status = res.Status
		return e
	case http.StatusTooManyRequests:
		wait := RetryAfter(res.Header, at)
		if wait == 0 {
			wait = untilUnix(res.Header.Get("RateLimit-Reset"), res.Header, at)
		}
		return limited(res.Status, wait)
	}
	return nil
}

// projectPartRE is one part of the path of a project: letters, digits, "_", "-" and "." (docs.gitlab.com/user/reserved_names).
var projectPartRE = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}$`)

// projectPartsMax is the deepest path of a project: groups stand in each other up to twenty deep (docs.gitlab.com/user/group/subgroups).
const projectPartsMax = 21

// badProject says what is wrong with the name of a project, "" for nothing.
func badProject(name string) string {
	parts := strings.Split(name, "/")
	wrong := func(part string) bool { return !projectPartRE.MatchString(part) || part == "." || part == ".." }
	if digits(name) || len(parts) > 1 && len(parts) <= projectPartsMax && !slices.ContainsFunc(parts, wrong) {
		return ""
	}
	return "expected group/project, or a project's number"
}

// gitlabProject is the path of a project in the API, where its name is one piece (docs.gitlab.com/api/rest, "Namespaced paths").
func gitlabProject(name string) string { return "/projects/" + url.PathEscape(name) }
