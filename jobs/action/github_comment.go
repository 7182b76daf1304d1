package action

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/action/harmless"
)

// githubComment comments on an issue or a pull request (docs.github.com/en/rest/issues/comments). GitHub drops no repeats, so a comment ends with our
// mark, which it does not show, and by which it is found again. Markdown, at most 65,536 characters.
type githubComment struct{ github }

var (
	_ Connector = githubComment{}
	_ Finder    = githubComment{}
)

const (
	fieldIssue = "issue"
	fieldRepo  = "repo"
	// githubCommentMax leaves room for the mark within what GitHub takes.
	githubCommentMax = 65000
)

func (githubComment) Spec() Spec {
	return Spec{Kind: "github_comment", Account: "github", Fields: []Field{
		githubRepoField(), githubAllowField(), githubIssueField(),
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the comment, as Markdown"},
		linksField(), updateField(),
	}}
}

// The fields of what is written to a repository, and their checks, are the same for all connectors of GitHub.

func githubRepoField() Field {
	return Field{Name: fieldRepo, Form: FormTarget, Default: "{{ payload.repository.full_name }}", Doc: "owner/name; that of the event if left out"}
}

func githubAllowField() Field {
	return Field{Name: fieldAllow, Form: FormTexts, Doc: "the repositories that may be written to, such as acme/shop or acme/*; left out, the one of the event, or the one that repo writes out"}
}

func githubIssueField() Field {
	return Field{
		Name: fieldIssue, Form: FormTarget, Default: "{{ payload.issue.number | default: payload.pull_request.number }}",
		Doc: "the number of the issue or pull request; that of the event if left out",
	}
}

const fieldAllow = "allow"

// githubCheck finds what is wrong with a repository and an issue that are written out. A template of the tenant's own for the repository wants the
// list of those that are meant: what stands in a payload may be a stranger's choice, such as the repository that a pull request comes from.
func githubCheck(p Params) (faults []Fault) {
	if repo, ok := p.Literal(fieldRepo); ok {
		if bad := badRepo(repo); bad != "" {
			faults = append(faults, Fault{Place: "action.repo", Message: bad})
		}
	} else if repo != "" && repo != githubRepoField().Default && len(p.Lists[fieldAllow]) == 0 {
		faults = append(faults, Fault{Place: "action.allow", Message: "is required where repo is a template of your own: the repositories that may be written to, such as acme/*"})
	}
	if issue, ok := p.Literal(fieldIssue); ok && !digits(issue) {
		faults = append(faults, Fault{Place: "action.issue", Message: "expected the number of an issue"})
	}
	return faults
}

// githubTarget reads the repository and the issue of rendered params.
func githubTarget(p Params) (repo, issue string, err error) {
	repo, issue = p.Texts[fieldRepo], p.Texts[fieldIssue]
	if bad := badRepo(repo); bad != "" {
		return "", "", refused(CodeTarget, "action.repo: "+bad)
	}
	if !digits(issue) {
		return "", "", refused(CodeTarget, "action.issue: expected the number of an issue")
	}
	if allow := p.Lists[fieldAllow]; len(allow) > 0 && !allowed(allow, repo) {
		return "", "", refused(CodeTarget, "action.repo: the repository is not among those that action.allow names")
	}
	return repo, issue, nil
}

func (githubComment) Check(p Params) []Fault { return githubCheck(p) }

func (githubComment) Prepare(p Params, in Input) (Effect, error) {
	repo, issue, err := githubTarget(p)
	if err != nil {
		return Effect{}, err
	}
	text := harmless.Markdown(p.Texts[fieldBody], p.Rules(githubCommentMax))
	if strings.TrimSpace(text) == "" {
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	}
	return Effect{
		Kind: "github_comment", Target: repo + "#" + issue, ContentType: markdownType, Signed: true, Body: []byte(text), Once: OnceMark,
		Args: map[string]string{fieldRepo: repo, fieldIssue: issue}, Update: p.Flags[fieldUpdate], RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// githubCommentAnswer is what is read of a comment.
type githubCommentAnswer struct {
	ID   int64  `json:"id"`
	URL  string `json:"html_url"`
	Body string `json:"body"`
}

func (c githubCommentAnswer) receipt(status int) Receipt {
	return Receipt{Status: status, ID: strconv.FormatInt(c.ID, 10), URL: webURL(c.URL)}
}

func (c githubComment) Do(ctx context.Context, s Send) (Receipt, error) {
	issues := "/repos/" + s.Effect.Args[fieldRepo] + "/issues/"
	in := map[string]string{fieldBody: string(s.Effect.Body) + htmlMark(s.Key)}
	if s.Previous != nil && digits(s.Previous.ID) {
		var changed githubCommentAnswer
		res, err := c.ask(ctx, s, question{method: http.MethodPatch, path: issues + "comments/" + s.Previous.ID, in: in, out: &changed})
		if !gone(err) {
			return changed.receipt(res.Status), err
		}
		// Somebody has deleted it: another one takes its place.
	}
	var made githubCommentAnswer
	res, err := c.ask(ctx, s, question{method: http.MethodPost, path: issues + s.Effect.Args[fieldIssue] + "/comments", in: in, out: &made})
	if err != nil {
		return Receipt{}, err
	}
	return made.receipt(res.Status), nil
}

func (c githubComment) Find(ctx context.Context, s Send) (*Receipt, error) {
	for page := 1; page <= githubPagesMax; page++ {
		var comments []githubCommentAnswer
		res, err := c.ask(ctx, s, question{
			method: http.MethodGet, path: "/repos/" + s.Effect.Args[fieldRepo] + "/issues/" + s.Effect.Args[fieldIssue] + "/comments",
			query: url.Values{"since": {s.from().Format(time.RFC3339)}, "per_page": {strconv.Itoa(githubPage)}, "page": {strconv.Itoa(page)}},
			out:   &comments, large: true,
		})
		if err != nil {
			return nil, err
		}
		for _, comment := range comments {
			if hasHTMLMark(comment.Body, s.Key) {
				found := comment.receipt(res.Status)
				return &found, nil
			}
		}
		if len(comments) < githubPage {
			return nil, nil //nolint:nilnil // it is surely not there
		}
	}
	return nil, tooMany()
}

const markdownType = "text/markdown; charset=utf-8"

// htmlMark is our mark at the end of a text in Markdown or HTML: a comment, which is not shown.
func htmlMark(key string) string { return "\n\n<!-- sluice:" + key + " -->" }

// hasHTMLMark says whether a text ends with our mark: one that stands elsewhere in it was quoted by somebody. Some targets write the end of a line
// anew, and take blanks off the end.
func hasHTMLMark(text, key string) bool {
	return strings.HasSuffix(strings.TrimSpace(text), "\n"+strings.TrimSpace(htmlMark(key)))
}

// tooMany says that the target has more than is looked at.
func tooMany() *Error {
	return &Error{Kind: Refused, Code: CodeLookup, Message: "there is more at the target than can be looked at", Doubt: true}
}

// gone says that what was to be changed is not there any more.
func gone(err error) bool {
	e, ok := asError(err)
	return ok && (e.Code == CodeNotFound || e.Code == CodeGone)
}

// webURL is an address that a target gave for people, if it is one, without the values of its query.
func webURL(address string) string {
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
		return ""
	}
	shown, err := masked(address)
	if err != nil {
		return ""
	}
	return shown
}
