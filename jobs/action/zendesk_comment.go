package action

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// zendeskComment comments on a ticket, for its requester or for agents only. A comment is made by an update of its ticket
// (developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments); Idempotency-Key is for new tickets only, so our mark goes into the custom
// metadata of the update's audit, at most 1 KiB (developer.zendesk.com/documentation/ticketing/managing-tickets/creating-and-updating-tickets,
// Setting metadata), which no customer sees, and by which it is found again. A comment cannot be changed.
//
// It is sent as html_body, since body is taken for Markdown.
type zendeskComment struct{ zendesk }

var (
	_ Connector = zendeskComment{}
	_ Finder    = zendeskComment{}
)

const (
	fieldTicket = "ticket"
	// zendeskCommentMax keeps a comment below 64 KiB however many bytes its characters have.
	zendeskCommentMax = 16000
	// zendeskPage is the most audits that a page has.
	zendeskPage = 100
	// zendeskPagesMax bounds how far a comment is looked for: audits come in the order in which they were made, so all before it are looked at.
	zendeskPagesMax = 30
	// zendeskMark is the name of our mark in an audit's custom metadata, zendeskRun that of the run, for people.
	zendeskMark = "sluice"
	zendeskRun  = "sluice_run"
)

func (zendeskComment) Spec() Spec {
	return Spec{Kind: "zendesk_comment", Account: "zendesk", Fields: []Field{
		{
			Name: fieldTicket, Form: FormTarget, Default: `{% if payload.subject contains "zen:ticket:" %}{{ payload.detail.id }}{% endif %}`,
			Doc: "the number of the ticket; that of the event if left out, which the webhook of a trigger does not have",
		},
		publicField(),
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the comment, as plain text"},
		linksField(),
	}}
}

func (zendeskComment) Check(p Params) []Fault {
	if ticket, ok := p.Literal(fieldTicket); ok && !digits(ticket) {
		return []Fault{{Place: "action.ticket", Message: "expected the number of a ticket"}}
	}
	return nil
}

func (zendeskComment) Prepare(p Params, in Input) (Effect, error) {
	ticket := p.Texts[fieldTicket]
	if !digits(ticket) {
		return Effect{}, refused(CodeTarget, "action.ticket: expected the number of a ticket")
	}
	text, err := htmlBody(p, zendeskCommentMax)
	if err != nil {
		return Effect{}, err
	}
	return Effect{
		Kind: "zendesk_comment", Target: "ticket " + ticket, ContentType: htmlType, Signed: true, Body: []byte(text), Once: OnceMark,
		Args: map[string]string{fieldTicket: ticket, fieldPublic: strconv.FormatBool(p.Flags[fieldPublic])}, RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// A zendeskUpdate is what an update of a ticket is asked to do.
type zendeskUpdate struct {
	Comment struct {
		HTML   string `json:"html_body"`
		Public bool   `json:"public"`
	} `json:"comment"`
	Metadata map[string]string `json:"metadata"`
}

// A zendeskAudit is what is read of the record of an update (developer.zendesk.com/api-reference/ticketing/tickets/ticket_audits).
type zendeskAudit struct {
	Events []struct {
		ID   anID   `json:"id"`
		Type string `json:"type"`
	} `json:"events"`
	Metadata struct {
		Custom map[string]any `json:"custom"`
	} `json:"metadata"`
}

// comment is the id of the comment that the update made, "" if it made none.
func (a zendeskAudit) comment() string {
	for _, e := range a.Events {
		if e.Type == "Comment" {
			return string(e.ID)
		}
	}
	return ""
}

func (zendeskComment) receipt(s Send, status int, id string) Receipt {
	return Receipt{Status: status, ID: id, URL: webURL(s.Base + "/agent/tickets/" + s.Effect.Args[fieldTicket])}
}

func (z zendeskComment) Do(ctx context.Context, s Send) (Receipt, error) {
	update := zendeskUpdate{Metadata: map[string]string{zendeskMark: s.Key, zendeskRun: s.Effect.RunID}}
	update.Comment.HTML, update.Comment.Public = string(s.Effect.Body), s.Effect.Args[fieldPublic] == "true"
	var made struct {
		Audit zendeskAudit `json:"audit"`
	}
	res, err := z.ask(ctx, s, question{
		method: http.MethodPut, path: "/api/v2/tickets/" + s.Effect.Args[fieldTicket], in: map[string]any{"ticket": update}, out: &made, large: true,
	})
	if err != nil {
		return Receipt{}, err
	}
	id := made.Audit.comment()
	if id == "" {
		return Receipt{}, unread(res.Status)
	}
	return z.receipt(s, res.Status, id), nil
}

// zendeskAudits is a page of audits. Those of archived tickets come in one piece, without Meta.
type zendeskAudits struct {
	Audits []zendeskAudit `json:"audits"`
	Next   *string        `json:"next_page"`
	Meta   *struct {
		More  bool   `json:"has_more"`
		After string `json:"after_cursor"`
	} `json:"meta"`
}

func (z zendeskComment) Find(ctx context.Context, s Send) (*Receipt, error) {
	query := url.Values{"page[size]": {strconv.Itoa(zendeskPage)}}
	for range zendeskPagesMax {
		var page zendeskAudits
		res, err := z.ask(ctx, s, question{
			method: http.MethodGet, path: "/api/v2/tickets/" + s.Effect.Args[fieldTicket] + "/audits", query: query, out: &page, large: true,
		})
		if err != nil {
			return nil, err
		}
		for _, audit := range page.Audits {
			if audit.Metadata.Custom[zendeskMark] != s.Key {
				continue
			}
			id := audit.comment()
			if id == "" {
				return nil, unclear()
			}
			found := z.receipt(s, res.Status, id)
			return &found, nil
		}
		switch {
		case len(page.Audits) == 0, page.Meta == nil && page.Next != nil, page.Meta != nil && page.Meta.More && page.Meta.After == "":
			// Every ticket has the audit of its making, and a page that cannot be turned hides the rest.
			return nil, unclear()
		case page.Meta == nil, !page.Meta.More:
			return nil, nil //nolint:nilnil // it is surely not there
		}
		query.Set("page[after]", page.Meta.After)
	}
	return nil, tooMany()
}
