package action

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// hubspotNote leaves a note on a record of the CRM (developers.hubspot.com/docs/api-reference/crm-notes-v3/guide). HubSpot drops no repeats: its
// property hs_unique_creation_key cannot be written by apps, and a note has no other that is kept for us. So a note ends with our mark, which people
// see, and is looked for among the notes of its record; not by HubSpot's search, which learns of a note some time after it was made.
type hubspotNote struct{ hubspot }

var (
	_ Connector = hubspotNote{}
	_ Finder    = hubspotNote{}
)

const (
	fieldObject     = "object"
	fieldObjectType = "object_type"
	// hubspotNoteMax leaves room for word joiners and the mark within the 65,536 characters of hs_note_body.
	hubspotNoteMax = 32000
	// hubspotPage is the most notes that a page of associations names, hubspotRead the most that are read at once.
	hubspotPage = 500
	hubspotRead = 100
	// hubspotPagesMax bounds how many notes of a record are looked through: they are not listed by their time.
	hubspotPagesMax = 4
	// What is written and read of a note.
	hubspotBody = "hs_note_body"
	hubspotTime = "hs_timestamp"
)

// A hubspotObject is a kind of record that has notes.
type hubspotObject struct {
	name string
	kind string // its number, which stands in paths
	// association is the number of the association from a note to it (developers.hubspot.com/docs/api-reference/crm-associations-v4/guide).
	association int
}

var hubspotObjects = []hubspotObject{
	{"company", "0-2", 190}, {"contact", "0-1", 202}, {"deal", "0-3", 214}, {"ticket", "0-5", 228},
}

// hubspotObjectOf is the kind of record of a name or a number.
func hubspotObjectOf(text string) (hubspotObject, bool) {
	for _, o := range hubspotObjects {
		if o.name == text || o.kind == text {
			return o, true
		}
	}
	return hubspotObject{}, false
}

const hubspotKinds = "expected contact, company, deal or ticket"

func (hubspotNote) Spec() Spec {
	return Spec{Kind: "hubspot_note", Account: "hubspot", Fields: []Field{
		{Name: fieldObject, Form: FormTarget, Default: "{{ payload.objectId }}", Doc: "the id of the record; that of the event if left out"},
		{
			Name: fieldObjectType, Form: FormTarget,
			Default: `{% assign kind = payload.subscriptionType | split: "." | first %}{{ payload.objectTypeId | default: kind }}`,
			Doc:     "contact, company, deal or ticket, or the number of one, such as 0-1; that of the event if left out",
		},
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the note, as plain text"},
		linksField(), updateField(),
	}}
}

func (hubspotNote) Check(p Params) (faults []Fault) {
	if id, ok := p.Literal(fieldObject); ok && !digits(id) {
		faults = append(faults, Fault{Place: "action.object", Message: "expected the id of a record, a number"})
	}
	if kind, ok := p.Literal(fieldObjectType); ok {
		if _, known := hubspotObjectOf(kind); !known {
			faults = append(faults, Fault{Place: "action.object_type", Message: hubspotKinds})
		}
	}
	return faults
}

func (hubspotNote) Prepare(p Params, in Input) (Effect, error) {
	id := p.Texts[fieldObject]
	if !digits(id) {
		return Effect{}, refused(CodeTarget, "action.object: expected the id of a record, a number")
	}
	object, ok := hubspotObjectOf(p.Texts[fieldObjectType])
	if !ok {
		return Effect{}, refused(CodeTarget, "action.object_type: "+hubspotKinds)
	}
	text, err := htmlBody(p, hubspotNoteMax)
	if err != nil {
		return Effect{}, err
	}
	return Effect{
		Kind: "hubspot_note", Target: object.name + " " + id, ContentType: htmlType, Signed: true, Body: []byte(text), Once: OnceMark,
		Args: map[string]string{fieldObject: id, fieldObjectType: object.name}, Update: p.Flags[fieldUpdate], RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// A hubspotRecord is what is read of a note.
type hubspotRecord struct {
	ID         anID              `json:"id"`
	URL        string            `json:"url"`
	Properties map[string]string `json:"properties"`
}

func (n hubspotRecord) receipt(status int) Receipt {
	return Receipt{Status: status, ID: string(n.ID), URL: webURL(n.URL)}
}

func (h hubspotNote) Do(ctx context.Context, s Send) (Receipt, error) {
	object, ok := hubspotObjectOf(s.Effect.Args[fieldObjectType])
	if !ok {
		return Receipt{}, refused(CodeInvalid, hubspotKinds)
	}
	body := string(s.Effect.Body) + "\n<p>" + shownMark(s.Key) + "</p>"
	if s.Previous != nil && digits(s.Previous.ID) {
		in := map[string]any{"properties": map[string]string{hubspotBody: body}}
		receipt, err := h.write(ctx, s, question{method: http.MethodPatch, path: "/crm/v3/objects/notes/" + s.Previous.ID, in: in})
		if !gone(err) {
			return receipt, err
		}
		// Somebody has deleted it: another one takes its place.
	}
	return h.write(ctx, s, question{method: http.MethodPost, path: "/crm/v3/objects/notes", in: map[string]any{
		"properties": map[string]string{hubspotBody: body, hubspotTime: s.At.UTC().Format("2006-01-02T15:04:05.000Z")},
		"associations": []any{map[string]any{
			"to":    map[string]string{"id": s.Effect.Args[fieldObject]},
			"types": []any{map[string]any{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": object.association}},
		}},
	}})
}

func (h hubspotNote) write(ctx context.Context, s Send, q question) (Receipt, error) {
	var made hubspotRecord
	q.out, q.large = &made, true
	res, err := h.ask(ctx, s, q)
	if err != nil {
		return Receipt{}, err
	}
	if made.ID == "" {
		return Receipt{}, unread(res.Status)
	}
	return made.receipt(res.Status), nil
}

// hubspotAssociated is a page of the notes that belong to a record.
type hubspotAssociated struct {
	Results []struct {
		ID anID `json:"toObjectId"`
	} `json:"results"`
	Paging struct {
		Next struct {
			After string `json:"after"`
		} `json:"next"`
	} `json:"paging"`
}

func (h hubspotNote) Find(ctx context.Context, s Send) (*Receipt, error) {
	object, ok := hubspotObjectOf(s.Effect.Args[fieldObjectType])
	if !ok {
		return nil, refused(CodeInvalid, hubspotKinds)
	}
	search := &markSearch{key: s.Key}
	query := url.Values{"limit": {strconv.Itoa(hubspotPage)}}
	for range hubspotPagesMax {
		var page hubspotAssociated
		_, err := h.ask(ctx, s, question{
			method: http.MethodGet, path: "/crm/v4/objects/" + object.kind + "/" + s.Effect.Args[fieldObject] + "/associations/notes",
			query: query, out: &page, large: true,
		})
		if err != nil {
			return nil, err
		}
		ids := make([]any, 0, len(page.Results))
		for _, one := range page.Results {
			ids = append(ids, map[string]string{"id": string(one.ID)})
		}
		for len(ids) > 0 {
			some := ids[:min(hubspotRead, len(ids))]
			ids = ids[len(some):]
			if found, err := h.among(ctx, s, search, some); found != nil || err != nil {
				return found, err
			}
		}
		if page.Paging.Next.After == "" {
			return search.missing()
		}
		query.Set("after", page.Paging.Next.After)
	}
	return nil, tooMany()
}

// among reads notes and looks for ours; nil if it is not among them.
func (h hubspotNote) among(ctx context.Context, s Send, search *markSearch, ids []any) (*Receipt, error) {
	var read struct {
		Results []hubspotRecord `json:"results"`
	}
	res, err := h.ask(ctx, s, question{
		method: http.MethodPost, path: "/crm/v3/objects/notes/batch/read", out: &read, large: true,
		in: map[string]any{"inputs": ids, "properties": []string{hubspotBody}, "propertiesWithHistory": []string{}},
	})
	if err != nil {
		return nil, err
	}
	for _, note := range read.Results {
		if search.in(note.Properties[hubspotBody]) {
			found := note.receipt(res.Status)
			return &found, nil
		}
	}
	if len(read.Results) < len(ids) {
		// 207: some could not be read, and ours may be one of them. What was deleted meanwhile is not listed the next time.
		return nil, &Error{Kind: Retry, Code: CodeLookup, Message: "the target did not show all notes", Doubt: true, Status: res.Status}
	}
	return nil, nil //nolint:nilnil // it is not among these
}
