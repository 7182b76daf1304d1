package action

import (
	"context"
	"net/http"
	"strconv"
)

// intercomReply writes into a conversation as an admin: a comment, which the customer reads, or a note
// (developers.intercom.com/docs/references/rest-api/api.intercom.io/conversations/replyconversation). Intercom drops no repeats, and a part of a
// conversation has no field that its writer could leave a mark in, so a reply whose fate is not known is not sent again. A part cannot be changed.
//
// Its body is HTML: an answer shows what was written as paragraphs, and notes are documented to take tags.
type intercomReply struct{ intercom }

var _ Connector = intercomReply{}

const (
	fieldAdmin        = "admin"
	fieldConversation = "conversation"
	// intercomReplyMax is ours: Intercom's pages name no limit.
	intercomReplyMax = 7000
	// What a reply may be.
	intercomComment = "comment"
	intercomNote    = "note"
	intercomAdmin   = "admin" // by whom it is
)

func (intercomReply) Spec() Spec {
	return Spec{Kind: "intercom_reply", Account: "intercom", Fields: []Field{
		{
			Name: fieldConversation, Form: FormTarget, Default: `{% if payload.data.item.type == "conversation" %}{{ payload.data.item.id }}{% endif %}`,
			Doc: "the id of the conversation; that of the event if left out",
		},
		{Name: fieldAdmin, Form: FormLiteral, Doc: "the id of the admin to reply as; the one whose token it is if left out"},
		publicField(),
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the reply, as plain text"},
		linksField(),
	}}
}

func (intercomReply) Check(p Params) (faults []Fault) {
	if id, ok := p.Literal(fieldConversation); ok && !digits(id) {
		faults = append(faults, Fault{Place: "action.conversation", Message: "expected the id of a conversation, a number"})
	}
	if id, ok := p.Literal(fieldAdmin); ok && !digits(id) {
		faults = append(faults, Fault{Place: "action.admin", Message: "expected the id of an admin, a number"})
	}
	return faults
}

func (intercomReply) Prepare(p Params, in Input) (Effect, error) {
	conversation, admin := p.Texts[fieldConversation], p.Texts[fieldAdmin]
	if !digits(conversation) {
		return Effect{}, refused(CodeTarget, "action.conversation: expected the id of a conversation, a number")
	}
	if admin != "" && !digits(admin) {
		return Effect{}, refused(CodeTarget, "action.admin: expected the id of an admin, a number")
	}
	text, err := htmlBody(p, intercomReplyMax)
	if err != nil {
		return Effect{}, err
	}
	return Effect{
		Kind: "intercom_reply", Target: "conversation " + conversation, ContentType: htmlType, Signed: true, Body: []byte(text), Once: OnceNever,
		Args:  map[string]string{fieldConversation: conversation, fieldAdmin: admin, fieldPublic: strconv.FormatBool(p.Flags[fieldPublic])},
		RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// An intercomAnswer is what is read of a conversation.
type intercomAnswer struct {
	ID    anID `json:"id"`
	Parts struct {
		List []struct {
			ID     anID `json:"id"`
			Author struct {
				ID   anID   `json:"id"`
				Type string `json:"type"`
			} `json:"author"`
		} `json:"conversation_parts"`
	} `json:"conversation_parts"`
}

// last is the id of the last part that an admin wrote, "" if there is none.
func (c intercomAnswer) last(admin string) (id string) {
	for _, part := range c.Parts.List {
		if part.Author.Type == intercomAdmin && string(part.Author.ID) == admin {
			id = string(part.ID)
		}
	}
	return id
}

func (i intercomReply) Do(ctx context.Context, s Send) (Receipt, error) {
	conversation, admin := s.Effect.Args[fieldConversation], s.Effect.Args[fieldAdmin]
	if admin == "" {
		own, err := i.me(ctx, s)
		if err != nil {
			return Receipt{}, err
		}
		admin = own
	}
	in := map[string]string{"type": intercomAdmin, "admin_id": admin, "message_type": intercomNote, fieldBody: string(s.Effect.Body)}
	if s.Effect.Args[fieldPublic] == "true" {
		in["message_type"] = intercomComment
	}
	var made intercomAnswer
	res, err := i.ask(ctx, s, question{method: http.MethodPost, path: "/conversations/" + conversation + "/reply", in: in, out: &made, large: true})
	if err != nil {
		return Receipt{}, err
	}
	if string(made.ID) != conversation {
		return Receipt{}, unread(res.Status)
	}
	return Receipt{Status: res.Status, ID: made.last(admin)}, nil
}
