package action

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/action/harmless"
	"sluice/jobs/outbound"
)

// jiraComment comments on an issue (developer.atlassian.com/cloud/jira/platform/rest/v3/api-group-issue-comments). Jira drops no repeats, so a comment
// has a property of ours, which is not shown, and by which it is found again: it is given with the comment, in the same request, and read back with
// "Get comments by IDs", which is documented to expand properties where "Get comments" is not.
//
// A comment is a document of text alone, without marks, mentions and links: nothing in a text node is read as markup
// (developer.atlassian.com/cloud/jira/platform/apis/document/structure).
//
// In a project of Jira Service Management a comment is shown to the customer unless a property says that it is internal; without "public" it does.
type jiraComment struct{ jira }

var (
	_ Connector = jiraComment{}
	_ Finder    = jiraComment{}
)

const (
	// jiraCommentMax is half of the 32,767 characters that Jira takes (jira.atlassian.com/browse/JRACLOUD-68949): it counts some as two, and whether it
	// counts what is around the text is not said.
	jiraCommentMax = 16000
	jiraProperty   = "sluice"
	// jiraInternal is what Jira Service Management goes by. Many clients set it with a comment; the reference of the API does not list it.
	jiraInternal = "sd.public.comment"
	// jiraTime is how Jira writes times, such as 2021-01-17T12:34:00.000+0000.
	jiraTime = "2006-01-02T15:04:05.999-0700"
)

func jiraIssueField() Field {
	return Field{Name: fieldIssue, Form: FormTarget, Default: "{{ payload.issue.key }}", Doc: "the key of the issue, such as SHOP-12; that of the event if left out"}
}

func (jiraComment) Spec() Spec {
	return Spec{Kind: "jira_comment", Account: "jira", Fields: []Field{
		jiraIssueField(),
		{Name: fieldAllow, Form: FormTexts, Doc: "the issues that may be written to, such as SHOP-*; left out, the one of the event, or the one that issue writes out"},
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the comment, as plain text; blank lines part its paragraphs"},
		{Name: fieldPublic, Form: FormFlag, Doc: "true shows the comment to the customers of a service project; left out, its agents alone see it"},
		linksField(), updateField(),
	}}
}

func (jiraComment) Check(p Params) (faults []Fault) {
	if issue, ok := p.Literal(fieldIssue); ok {
		if bad := badIssueKey(issue); bad != "" {
			faults = append(faults, Fault{Place: "action.issue", Message: bad})
		}
	} else if issue != "" && issue != jiraIssueField().Default && len(p.Lists[fieldAllow]) == 0 {
		faults = append(faults, Fault{Place: "action.allow", Message: "is required where issue is a template of your own: the issues that may be written to, such as SHOP-*"})
	}
	return faults
}

func (jiraComment) Prepare(p Params, in Input) (Effect, error) {
	issue := p.Texts[fieldIssue]
	if bad := badIssueKey(issue); bad != "" {
		return Effect{}, refused(CodeTarget, "action.issue: "+bad)
	}
	if allow := p.Lists[fieldAllow]; len(allow) > 0 && !allowed(allow, issue) {
		return Effect{}, refused(CodeTarget, "action.issue: the issue is not among those that action.allow names")
	}
	text := strings.TrimSpace(harmless.Plain(p.Texts[fieldBody], p.Rules(jiraCommentMax)))
	if text == "" {
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	}
	return Effect{
		Kind: "jira_comment", Target: issue, ContentType: textType, Signed: true, Body: []byte(text), Once: OnceMark, RunID: in.RunID, Depth: in.Depth,
		Args: map[string]string{fieldIssue: issue, fieldPublic: strconv.FormatBool(p.Flags[fieldPublic])}, Update: p.Flags[fieldUpdate],
	}, nil
}

// A jiraNode is a part of a document (developer.atlassian.com/cloud/jira/platform/apis/document/structure).
type jiraNode struct {
	Type    string     `json:"type"`
	Version int        `json:"version,omitempty"` // of the outermost alone
	Text    string     `json:"text,omitempty"`
	Content []jiraNode `json:"content,omitempty"`
}

// jiraDocument is text as a document of paragraphs, whose lines are broken as the text's. An empty text node is not allowed.
func jiraDocument(text string) jiraNode {
	document := jiraNode{Type: "doc", Version: 1}
	var lines []jiraNode
	for line := range strings.SplitSeq(text+"\n\n", "\n") {
		switch blank := strings.TrimSpace(line) == ""; {
		case blank && len(lines) > 0:
			document.Content = append(document.Content, jiraNode{Type: "paragraph", Content: lines})
			lines = nil
		case blank:
		default:
			if len(lines) > 0 {
				lines = append(lines, jiraNode{Type: "hardBreak"})
			}
			lines = append(lines, jiraNode{Type: "text", Text: line})
		}
	}
	return document
}

// A jiraEntry is a property of a comment. Its value may be of anybody's.
type jiraEntry struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// jiraMark is the value of our property.
type jiraMark struct {
	Key string `json:"key"`
}

// jiraProperties are what goes with a comment.
func jiraProperties(s Send) (entries []jiraEntry, err error) {
	mark, err := json.Marshal(jiraMark{Key: s.Key})
	if err != nil {
		return nil, refused(CodeInvalid, "the key of the effect cannot be written as JSON")
	}
	entries = []jiraEntry{{Key: jiraProperty, Value: mark}}
	if s.Effect.Args[fieldPublic] != strconv.FormatBool(true) {
		entries = append(entries, jiraEntry{Key: jiraInternal, Value: json.RawMessage(`{"internal":true}`)})
	}
	return entries, nil
}

// jiraCommentAnswer is what is read of a comment.
type jiraCommentAnswer struct {
	ID         string      `json:"id"`
	Created    string      `json:"created"`
	Properties []jiraEntry `json:"properties"`
}

// receipt names a comment. Where people see it is not said in the answer; it is beside the API, unless that stands at an address for all sites.
func (c jiraCommentAnswer) receipt(s Send, status int) (Receipt, error) {
	if !digits(c.ID) {
		return Receipt{}, unread(status)
	}
	receipt := Receipt{Status: status, ID: c.ID}
	if site, err := url.Parse(s.Base); err == nil && site.Path == "" {
		receipt.URL = s.Base + "/browse/" + s.Effect.Args[fieldIssue]
	}
	return receipt, nil
}

// marked says whether a comment has our property for an effect.
func (c jiraCommentAnswer) marked(key string) bool {
	return slices.ContainsFunc(c.Properties, func(e jiraEntry) bool {
		var mark jiraMark
		return e.Key == jiraProperty && json.Unmarshal(e.Value, &mark) == nil && mark.Key == key
	})
}

func jiraComments(e Effect) string { return "/issue/" + e.Args[fieldIssue] + "/comment" }

func (c jiraComment) Do(ctx context.Context, s Send) (Receipt, error) {
	properties, err := jiraProperties(s)
	if err != nil {
		return Receipt{}, err
	}
	in := struct {
		Body       jiraNode    `json:"body"`
		Properties []jiraEntry `json:"properties"`
	}{jiraDocument(string(s.Effect.Body)), properties}
	if s.Previous != nil && digits(s.Previous.ID) {
		receipt, err := c.write(ctx, s, question{method: http.MethodPut, path: jiraComments(s.Effect) + "/" + s.Previous.ID, in: in})
		if !gone(err) {
			return receipt, err
		}
		// Somebody has deleted it: another one takes its place.
	}
	return c.write(ctx, s, question{method: http.MethodPost, path: jiraComments(s.Effect), in: in})
}

func (c jiraComment) write(ctx context.Context, s Send, q question) (Receipt, error) {
	var comment jiraCommentAnswer
	q.out = &comment
	res, err := c.ask(ctx, s, q)
	if err != nil {
		return Receipt{}, err
	}
	return comment.receipt(s, res.Status)
}

func (c jiraComment) Find(ctx context.Context, s Send) (*Receipt, error) {
	if s.Previous != nil && digits(s.Previous.ID) { // it was made long ago, and is not among the latest
		if found, err := c.among(ctx, s, nil, s.Previous.ID); found != nil || err != nil {
			return found, err
		}
	}
	var last time.Time
	seen := 0
	for range jiraPagesMax {
		var list struct {
			Comments []jiraCommentAnswer `json:"comments"`
			Total    *int                `json:"total"`
		}
		res, err := c.ask(ctx, s, question{
			method: http.MethodGet, path: jiraComments(s.Effect), out: &list, large: true,
			query: url.Values{"orderBy": {"-created"}, "startAt": {strconv.Itoa(seen)}, "maxResults": {strconv.Itoa(jiraPage)}},
		})
		if err != nil {
			return nil, err
		}
		var recent []string
		over := false
		for _, comment := range list.Comments {
			created, err := time.Parse(jiraTime, comment.Created)
			if err != nil || !last.IsZero() && created.After(last) {
				return nil, unsettled(res, "the target's comments are not in the order of their times")
			}
			last = created
			if over = over || created.Before(s.from()); !over { // the order of the rest is looked at all the same
				recent = append(recent, comment.ID)
			}
		}
		if found, err := c.among(ctx, s, recent, ""); found != nil || err != nil {
			return found, err
		}
		seen += len(list.Comments)
		switch {
		case over, list.Total != nil && seen >= *list.Total:
			return nil, nil //nolint:nilnil // it is surely not there
		case len(list.Comments) == 0 || list.Total == nil:
			return nil, unsettled(res, "the target does not say whether there is more to look at")
		}
	}
	return nil, tooMany()
}

// among looks for our property at comments that must be there and at one that need not.
func (c jiraComment) among(ctx context.Context, s Send, ids []string, maybe string) (*Receipt, error) {
	var asked []json.Number
	for _, id := range append(slices.Clone(ids), maybe) {
		if digits(id) {
			asked = append(asked, json.Number(id))
		}
	}
	if len(asked) == 0 {
		return nil, nil //nolint:nilnil // there is nothing to look at
	}
	var page struct {
		Values []jiraCommentAnswer `json:"values"`
	}
	res, err := c.ask(ctx, s, question{
		method: http.MethodPost, path: "/comment/list", query: url.Values{"expand": {"properties"}}, in: map[string]any{"ids": asked}, out: &page, large: true,
	})
	if err != nil {
		return nil, err
	}
	shown := map[string]bool{}
	for _, comment := range page.Values {
		if comment.marked(s.Key) {
			found, err := comment.receipt(s, res.Status)
			return &found, err
		}
		shown[comment.ID] = true
	}
	if slices.ContainsFunc(ids, func(id string) bool { return !shown[id] }) {
		return nil, unsettled(res, "the target does not show all of its comments")
	}
	return nil, nil //nolint:nilnil // none of them is ours
}

// unsettled says that an answer to a lookup leaves open whether the effect is there.
func unsettled(res outbound.Response, message string) *Error {
	return &Error{Kind: Retry, Code: CodeLookup, Message: message, Doubt: true, Status: res.Status}
}
