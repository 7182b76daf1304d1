package action

import (
	"context"
	"net/http"
	"regexp"
	"strings"

	"sluice/jobs/action/harmless"
)

// pagerdutyNote leaves a note on an incident (developer.pagerduty.com/api-reference, Create a note on an incident). PagerDuty drops no repeats, and a
// note is nothing but its text, so it ends with our mark, which people see, and by which it is found again.
type pagerdutyNote struct{ pagerduty }

var (
	_ Connector = pagerdutyNote{}
	_ Finder    = pagerdutyNote{}
)

const (
	fieldIncident = "incident"
	fieldNote     = "note"
	// pagerdutyNoteMax is ours: PagerDuty's pages name no limit.
	pagerdutyNoteMax = 5000
)

// incidentRE is the id of an incident, such as PGR0VU2. Its number would do as well at PagerDuty, but is not the same in all places.
var incidentRE = regexp.MustCompile(`^[A-Z][A-Z0-9]{5,31}$`)

const badIncident = "expected the id of an incident, such as PGR0VU2"

func (pagerdutyNote) Spec() Spec {
	return Spec{Kind: "pagerduty_note", Account: "pagerduty", Fields: []Field{
		{
			Name: fieldIncident, Form: FormTarget,
			Default: `{% if payload.event.data.type == "incident" %}{{ payload.event.data.id }}{% else %}{{ payload.event.data.incident.id }}{% endif %}`,
			Doc:     "the id of the incident; that of the event if left out",
		},
		{Name: fieldBody, Form: FormContent, Required: true, Doc: "the note, as plain text"},
		linksField(), updateField(),
	}}
}

func (pagerdutyNote) Check(p Params) []Fault {
	if id, ok := p.Literal(fieldIncident); ok && !incidentRE.MatchString(id) {
		return []Fault{{Place: "action.incident", Message: badIncident}}
	}
	return nil
}

func (pagerdutyNote) Prepare(p Params, in Input) (Effect, error) {
	incident := p.Texts[fieldIncident]
	if !incidentRE.MatchString(incident) {
		return Effect{}, refused(CodeTarget, "action.incident: "+badIncident)
	}
	text := harmless.Plain(p.Texts[fieldBody], p.Rules(pagerdutyNoteMax))
	if strings.TrimSpace(text) == "" {
		return Effect{}, refused(CodeEmptyBody, "action.body: the template came out empty")
	}
	return Effect{
		Kind: "pagerduty_note", Target: "incident " + incident, ContentType: textType, Signed: true, Body: []byte(text), Once: OnceMark,
		Args: map[string]string{fieldIncident: incident}, Update: p.Flags[fieldUpdate], RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// A pagerdutyAnswer is what is read of a note.
type pagerdutyAnswer struct {
	ID      anID   `json:"id"`
	Content string `json:"content"`
}

func (d pagerdutyNote) Do(ctx context.Context, s Send) (Receipt, error) {
	notes := "/incidents/" + s.Effect.Args[fieldIncident] + "/notes"
	in := map[string]any{fieldNote: map[string]string{"content": string(s.Effect.Body) + "\n\n" + shownMark(s.Key)}}
	if s.Previous != nil && plainIDRE.MatchString(s.Previous.ID) {
		receipt, err := d.write(ctx, s, question{method: http.MethodPut, path: notes + "/" + s.Previous.ID, in: in})
		if !gone(err) {
			return receipt, err
		}
		// Somebody has deleted it: another one takes its place.
	}
	return d.write(ctx, s, question{method: http.MethodPost, path: notes, in: in})
}

func (d pagerdutyNote) write(ctx context.Context, s Send, q question) (Receipt, error) {
	var made struct {
		Note pagerdutyAnswer `json:"note"`
	}
	q.out, q.large = &made, true
	res, err := d.ask(ctx, s, q)
	if err != nil {
		return Receipt{}, err
	}
	if made.Note.ID == "" {
		return Receipt{}, unread(res.Status)
	}
	return Receipt{Status: res.Status, ID: string(made.Note.ID)}, nil
}

// Find looks through all notes of the incident, which are listed in one answer; there are at most 2,000.
func (d pagerdutyNote) Find(ctx context.Context, s Send) (*Receipt, error) {
	var list struct {
		Notes *[]pagerdutyAnswer `json:"notes"`
		More  bool               `json:"more"`
	}
	res, err := d.ask(ctx, s, question{method: http.MethodGet, path: "/incidents/" + s.Effect.Args[fieldIncident] + "/notes", out: &list, large: true})
	if err != nil {
		return nil, err
	}
	if list.Notes == nil {
		return nil, unclear()
	}
	search := &markSearch{key: s.Key}
	for _, note := range *list.Notes {
		if search.in(note.Content) {
			return &Receipt{Status: res.Status, ID: string(note.ID)}, nil
		}
	}
	if list.More {
		return nil, tooMany() // the list is not documented to have pages, as other lists have; should it get them, the rest was not seen
	}
	return search.missing()
}
