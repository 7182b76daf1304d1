package action

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"sluice/jobs/action/harmless"
)

// linearComment comments on an issue, with the mutation commentCreate. Its input takes the id of the comment to be, "in UUID v4 format"
// (github.com/linear/linear, packages/sdk/src/schema.graphql, CommentCreateInput): it is made of the effect's key, so that a second attempt is refused for
// its id, and the first one's comment is the receipt of both.
//
// An address of Linear itself in a comment is a mention of the person or the issue that it leads to (linear.app/developers/graphql, "Adding mentions in
// markdown"); so linear.app cannot be among the hosts that links may lead to.
type linearComment struct{ linear }

var _ Connector = linearComment{}

const (
	// linearCommentMax is ours: Linear documents no limit.
	linearCommentMax = 65000
	linearHost       = "linear.app"

	linearCreate = `mutation Create($input: CommentCreateInput!) { commentCreate(input: $input) { success comment { id url } } }`
	linearUpdate = `mutation Update($id: String!, $input: CommentUpdateInput!) { commentUpdate(id: $id, input: $input) { success comment { id url } } }`
	linearLookup = `query Lookup($id: ID!) { comments(filter: { id: { eq: $id } }, first: 1, includeArchived: true) { nodes { id url } } }`
)

func linearIssueField() Field {
	return Field{
		Name: fieldIssue, Form: FormTarget, Default: "{{ payload.data.issueId | default: payload.data.id }}",
		Doc: "the id of the issue, or its name, such as SHOP-12; that of the event, or of the comment in it, if left out",
	}
}

func (linearComment) Spec() Spec {
	return Spec{Kind: "linear_comment", Account: "linear", Fields: []Field{
		linearIssueField(),
		{Name: fieldAllow, Form: FormTexts, Doc: "the issues that may be written to, as the field issue names them, such as SHOP-*; left out, the one of the event, or the one that issue writes out"},
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the comment, as Markdown"},
		linksField(), updateField(),
	}}
}

func (linearComment) Check(p Params) (faults []Fault) {
	if issue, ok := p.Literal(fieldIssue); ok {
		if bad := badLinearIssue(issue); bad != "" {
			faults = append(faults, Fault{Place: "action.issue", Message: bad})
		}
	} else if issue != "" && issue != linearIssueField().Default && len(p.Lists[fieldAllow]) == 0 {
		faults = append(faults, Fault{Place: "action.allow", Message: "is required where issue is a template of your own: the issues that may be written to, such as SHOP-*"})
	}
	for _, host := range p.Lists[fieldLinks] {
		if strings.EqualFold(host, linearHost) {
			faults = append(faults, Fault{Place: "action.links", Message: "expected hosts other than linear.app: Linear makes mentions of links to itself"})
		}
	}
	return faults
}

func (linearComment) Prepare(p Params, in Input) (Effect, error) {
	issue := p.Texts[fieldIssue]
	if bad := badLinearIssue(issue); bad != "" {
		return Effect{}, refused(CodeTarget, "action.issue: "+bad)
	}
	if allow := p.Lists[fieldAllow]; len(allow) > 0 && !allowed(allow, issue) {
		return Effect{}, refused(CodeTarget, "action.issue: the issue is not among those that action.allow names")
	}
	text := harmless.Markdown(p.Texts[fieldBody], p.Rules(linearCommentMax))
	if strings.TrimSpace(text) == "" {
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	}
	return Effect{
		Kind: "linear_comment", Target: issue, ContentType: markdownType, Signed: true, Body: []byte(text), Once: OnceKey,
		Args: map[string]string{fieldIssue: issue}, Update: p.Flags[fieldUpdate], RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// linearID is the id of the comment that an effect makes.
func linearID(key string) string {
	const version = 4 // which Linear wants; the bits are of a hash in place of chance
	return uuid.NewHash(sha256.New(), uuid.Nil, []byte("linear_comment "+key), version).String()
}

// linearCommentAnswer is what is read of a comment.
type linearCommentAnswer struct {
	ID  string `json:"id"`
	URL string `json:"url"`
}

func (c linearCommentAnswer) receipt() Receipt {
	return Receipt{Status: http.StatusOK, ID: c.ID, URL: webURL(c.URL)}
}

func (c linearComment) Do(ctx context.Context, s Send) (Receipt, error) {
	body := map[string]any{fieldBody: string(s.Effect.Body)}
	if s.Previous != nil && linearIDRE.MatchString(s.Previous.ID) {
		receipt, err := c.write(ctx, s, linearQuestion{Query: linearUpdate, Variables: map[string]any{"id": s.Previous.ID, "input": body}})
		if !declined(err) {
			return receipt, err
		}
		if there, lost := c.look(ctx, s, s.Previous.ID); there != nil || lost != nil {
			return Receipt{}, err // it is there, or nobody can tell: it was refused for another reason
		}
		// Somebody has deleted it: another one takes its place.
	}
	id := linearID(s.Key)
	receipt, err := c.write(ctx, s, linearQuestion{Query: linearCreate, Variables: map[string]any{
		"input": map[string]any{"id": id, "issueId": s.Effect.Args[fieldIssue], fieldBody: string(s.Effect.Body)},
	}})
	if !declined(err) {
		return receipt, err
	}
	// Only this effect has this id: if it is in use, an earlier attempt has made the comment.
	found, lost := c.look(ctx, s, id)
	switch {
	case found != nil:
		return found.receipt(), nil
	case errors.Is(err, linearTaken{}):
		return Receipt{Status: http.StatusOK, ID: id, Note: "the comment was made, but is not shown: it may have been deleted since"}, nil
	case lost != nil:
		return Receipt{}, &Error{Kind: Retry, Code: CodeLookup, Message: "the target refused the comment, and could not be asked whether it has it", Doubt: true, cause: lost}
	}
	return Receipt{}, err
}

// declined says that a request was refused for what was in it, for which there may be more than one reason.
func declined(err error) bool {
	e, ok := asError(err)
	return ok && e.Code == CodeRefused && !e.Doubt
}

func (c linearComment) write(ctx context.Context, s Send, in linearQuestion) (Receipt, error) {
	type payload struct {
		Success bool                `json:"success"`
		Comment linearCommentAnswer `json:"comment"`
	}
	var data struct {
		Create payload `json:"commentCreate"`
		Update payload `json:"commentUpdate"`
	}
	res, err := c.ask(ctx, s, in, &data)
	if err != nil {
		return Receipt{}, err
	}
	for _, done := range []payload{data.Create, data.Update} {
		if done.Success && done.Comment.ID != "" {
			return done.Comment.receipt(), nil
		}
	}
	return Receipt{}, unread(res.Status)
}

// look asks for a comment by its id, nil where there is none now.
func (c linearComment) look(ctx context.Context, s Send, id string) (*linearCommentAnswer, error) {
	var data struct {
		Comments *struct {
			Nodes []linearCommentAnswer `json:"nodes"`
		} `json:"comments"`
	}
	res, err := c.ask(ctx, s, linearQuestion{Query: linearLookup, Variables: map[string]any{"id": id}}, &data)
	switch {
	case err != nil:
		return nil, err
	case data.Comments == nil:
		return nil, unsettled(res, "the target's answer to a lookup is empty")
	}
	for _, node := range data.Comments.Nodes {
		if node.ID == id {
			return &node, nil
		}
	}
	return nil, nil //nolint:nilnil // there is none
}
