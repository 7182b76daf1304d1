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

// gitlabNote comments on an issue or a merge request (docs.gitlab.com/api/notes). GitLab drops no repeats, so a note ends with our mark, in a comment of
// HTML that is not shown, and by which it is found again.
//
// A line of a note that begins with "/" is a quick action, which closes issues, moves them and more (docs.gitlab.com/user/project/quick_actions);
// harmless.Markdown makes text of it.
type gitlabNote struct{ gitlab }

var (
	_ Connector = gitlabNote{}
	_ Finder    = gitlabNote{}
)

const (
	fieldIID     = "iid"
	fieldProject = "project"
	fieldType    = "type"

	gitlabIssues        = "issues"
	gitlabMergeRequests = "merge_requests"
	// gitlabNoteMax is less than the 1,000,000 characters that GitLab takes: a page of a hundred notes must be readable by a lookup.
	gitlabNoteMax = 65000
)

// gitlabTypes are the words of GitLab's webhooks for what a note can be about (docs.gitlab.com/user/project/integrations/webhook_events), and their
// places in the API. "issue" is what an event of an issue says of itself, "Issue" what one of a note says.
var gitlabTypes = map[string]string{
	"issue": gitlabIssues, "Issue": gitlabIssues, "merge_request": gitlabMergeRequests, "MergeRequest": gitlabMergeRequests,
}

func gitlabProjectField() Field {
	return Field{Name: fieldProject, Form: FormTarget, Default: "{{ payload.project.path_with_namespace }}", Doc: "group/project; that of the event if left out"}
}

func (gitlabNote) Spec() Spec {
	return Spec{Kind: "gitlab_note", Account: "gitlab", Fields: []Field{
		gitlabProjectField(),
		{Name: fieldAllow, Form: FormTexts, Doc: "the projects that may be written to, such as acme/shop or acme/*; left out, the one of the event, or the one that project writes out"},
		{
			Name: fieldType, Form: FormTarget, Default: "{{ payload.object_attributes.noteable_type | default: payload.object_kind }}",
			Doc: "issue or merge_request; that of the event if left out",
		},
		{
			Name: fieldIID, Form: FormTarget, Default: "{{ payload.issue.iid | default: payload.merge_request.iid | default: payload.object_attributes.iid }}",
			Doc: "the number of the issue or merge request within its project; that of the event if left out",
		},
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the comment, as Markdown"},
		linksField(), updateField(),
	}}
}

func (gitlabNote) Check(p Params) (faults []Fault) {
	if project, ok := p.Literal(fieldProject); ok {
		if bad := badProject(project); bad != "" {
			faults = append(faults, Fault{Place: "action.project", Message: bad})
		}
	} else if project != "" && project != gitlabProjectField().Default && len(p.Lists[fieldAllow]) == 0 {
		faults = append(faults, Fault{Place: "action.allow", Message: "is required where project is a template of your own: the projects that may be written to, such as acme/*"})
	}
	if kind, ok := p.Literal(fieldType); ok && gitlabTypes[kind] == "" {
		faults = append(faults, Fault{Place: "action.type", Message: "expected issue or merge_request"})
	}
	if iid, ok := p.Literal(fieldIID); ok && !digits(iid) {
		faults = append(faults, Fault{Place: "action.iid", Message: "expected the number of an issue or a merge request"})
	}
	return faults
}

func (gitlabNote) Prepare(p Params, in Input) (Effect, error) {
	project, place, iid := p.Texts[fieldProject], gitlabTypes[p.Texts[fieldType]], p.Texts[fieldIID]
	allow := p.Lists[fieldAllow]
	switch bad := badProject(project); {
	case bad != "":
		return Effect{}, refused(CodeTarget, "action.project: "+bad)
	case place == "":
		return Effect{}, refused(CodeTarget, "action.type: expected issue or merge_request")
	case !digits(iid):
		return Effect{}, refused(CodeTarget, "action.iid: expected the number of an issue or a merge request")
	case len(allow) > 0 && !allowed(allow, project):
		return Effect{}, refused(CodeTarget, "action.project: the project is not among those that action.allow names")
	}
	text := harmless.Markdown(p.Texts[fieldBody], p.Rules(gitlabNoteMax))
	if strings.TrimSpace(text) == "" {
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	}
	sign := "#" // as GitLab writes them itself
	if place == gitlabMergeRequests {
		sign = "!"
	}
	return Effect{
		Kind: "gitlab_note", Target: project + sign + iid, ContentType: markdownType, Signed: true, Body: []byte(text), Once: OnceMark,
		Args: map[string]string{fieldProject: project, fieldType: place, fieldIID: iid}, Update: p.Flags[fieldUpdate], RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// gitlabNotes is the path of the notes of what an effect is about.
func gitlabNotes(e Effect) string {
	return gitlabProject(e.Args[fieldProject]) + "/" + e.Args[fieldType] + "/" + e.Args[fieldIID] + "/notes"
}

// gitlabNoteAnswer is what is read of a note.
type gitlabNoteAnswer struct {
	ID      int64     `json:"id"`
	Body    string    `json:"body"`
	Updated time.Time `json:"updated_at"`
}

// receipt names a note. Where people see it is not said in the answer; it is beside the API.
func (n gitlabNoteAnswer) receipt(s Send, status int) (Receipt, error) {
	if n.ID == 0 {
		return Receipt{}, unread(status)
	}
	id := strconv.FormatInt(n.ID, 10)
	receipt := Receipt{Status: status, ID: id}
	web, rooted := strings.CutSuffix(s.baseOf(gitlabBase), gitlabRoot)
	if project := s.Effect.Args[fieldProject]; rooted && !digits(project) {
		receipt.URL = web + "/" + project + "/-/" + s.Effect.Args[fieldType] + "/" + s.Effect.Args[fieldIID] + "#note_" + id
	}
	return receipt, nil
}

func (c gitlabNote) Do(ctx context.Context, s Send) (Receipt, error) {
	in := map[string]string{fieldBody: string(s.Effect.Body) + htmlMark(s.Key)}
	q := question{method: http.MethodPost, path: gitlabNotes(s.Effect), in: in}
	if s.Previous != nil && digits(s.Previous.ID) {
		receipt, err := c.write(ctx, s, question{method: http.MethodPut, path: q.path + "/" + s.Previous.ID, in: in})
		if !gone(err) {
			return receipt, err
		}
		// Somebody has deleted it: another one takes its place.
	}
	return c.write(ctx, s, q)
}

func (c gitlabNote) write(ctx context.Context, s Send, q question) (Receipt, error) {
	var note gitlabNoteAnswer
	q.out = &note
	res, err := c.ask(ctx, s, q)
	if err != nil {
		return Receipt{}, err
	}
	return note.receipt(s, res.Status)
}

func (c gitlabNote) Find(ctx context.Context, s Send) (*Receipt, error) {
	for page := 1; page <= gitlabPagesMax; page++ {
		var notes []gitlabNoteAnswer
		res, err := c.ask(ctx, s, question{
			method: http.MethodGet, path: gitlabNotes(s.Effect), out: &notes, large: true, query: url.Values{
				"order_by": {"updated_at"}, "sort": {"desc"}, "per_page": {strconv.Itoa(gitlabPage)}, "page": {strconv.Itoa(page)},
			},
		})
		if err != nil {
			return nil, err
		}
		for _, note := range notes {
			if note.Updated.Before(s.from()) {
				return nil, nil //nolint:nilnil // it is surely not there: the others are older still
			}
			if hasHTMLMark(note.Body, s.Key) {
				found, err := note.receipt(s, res.Status)
				return &found, err
			}
		}
		// A page may hold less than was asked for, since what the credential may not see is left out of it: only the header knows the last one
		// (docs.gitlab.com/api/rest, "Other pagination headers"; gitlab-org/gitlab, lib/api/notes.rb).
		next, told := res.Header["X-Next-Page"]
		switch {
		case !told:
			return nil, unsettled(res, "the target does not say whether there is more to look at")
		case len(next) == 0 || next[0] == "":
			return nil, nil //nolint:nilnil // it is surely not there
		}
	}
	return nil, tooMany()
}
