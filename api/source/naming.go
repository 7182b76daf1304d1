package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const formMedia = "application/x-www-form-urlencoded"

// naming is how the settings of a generic kind read the body of a delivery and name the events in it. It does not change.
type naming struct {
	form                           bool        // the body is a form, not JSON
	items                          *expression // nil where a delivery is one event
	id, kind, at, entity, sequence *expression // nil where not given
}

// namingDocs says what settingReader.naming reads, for a person.
var namingDocs = []Setting{
	{"body", "json or form (" + formMedia + ", read as an object of strings; a repeated name is an array); else json"},
	{"items", "CEL that gives the list of events in a delivery; the expressions below then see each as payload, and id is required"},
	{"id", "CEL over payload and header that gives the event's id, the same on every retry; else the hash of the body"},
	{"type", "CEL that gives the event's type"},
	{"time", "CEL that gives when it happened: RFC 3339 or unix time"},
	{"entity", "CEL that gives what it is about"},
	{"sequence", "CEL that gives a whole number that grows with each event of one entity"},
}

// naming reads the settings that name events.
func (r *settingReader) naming() naming {
	n := naming{
		form:     choice(r, "body", "json", map[string]bool{"json": false, "form": true}),
		items:    r.expression("items", listTypes),
		id:       r.expression("id", nameTypes),
		kind:     r.expression("type", nameTypes),
		at:       r.expression("time", timeTypes),
		entity:   r.expression("entity", nameTypes),
		sequence: r.expression("sequence", sequenceTypes),
	}
	if n.items != nil && !r.faulty("id") && (n.id == nil || !n.id.usesPayload) {
		r.fault("id", "is required, and must read payload, since items gives several events with ids of their own")
	}
	return n
}

// idSigned reports whether the id that the expressions give is under a signature that covers the body. One over headers is
// not, even where it reads a signed one.
func (n naming) idSigned() bool {
	return (n.id == nil || !n.id.usesHeader) && (n.items == nil || !n.items.usesHeader)
}

func (n naming) usesPayload() bool {
	return slices.ContainsFunc([]*expression{n.items, n.id, n.kind, n.at, n.entity, n.sequence},
		func(e *expression) bool { return e != nil && e.usesPayload })
}

// events names the events of a delivery. usual says what an event is called where no expression says it, from the document
// of that event; proof is the header that no expression may see. An expression for the id that gives none is a refusal,
// since falling back would name a retry anew.
func (n naming) events(r Request, proof string, usual func(document []byte) (Event, error)) ([]Event, error) {
	document := r.Body
	if n.form {
		var err error
		if document, err = formDocument(r.Body); err != nil {
			return nil, err
		}
	}
	v := newView(r.Header, proof)
	var opened opener
	if n.items != nil {
		opened = opener{}
	}
	if n.usesPayload() {
		payload, err := opened.open(document)
		if err != nil {
			return nil, err
		}
		v.variables[payloadVariable] = payload
	}
	if n.items == nil {
		e, err := n.event(v, document, usual)
		return []Event{e}, err
	}
	items, err := v.list(n.items)
	if err != nil {
		return nil, err
	}
	events := make([]Event, len(items))
	for i, item := range items {
		if document, err = opened.document(item); err != nil {
			return nil, err
		}
		v.variables[payloadVariable] = item
		if events[i], err = n.event(v, document, usual); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// event names one event.
func (n naming) event(v *view, document []byte, usual func([]byte) (Event, error)) (Event, error) {
	e := Event{ID: v.text(n.id)}
	if n.id != nil && strings.TrimSpace(e.ID) == "" {
		return Event{}, refuse(ReasonIDMissing, "the expression id gave no string or whole number")
	}
	plain, err := usual(document)
	if err != nil {
		return Event{}, err
	}
	if n.id == nil {
		e.ID = plain.ID
	}
	e.Type, e.Entity, e.OccurredAt, e.Sequence = plain.Type, plain.Entity, plain.OccurredAt, plain.Sequence
	if n.kind != nil {
		e.Type = v.text(n.kind)
	}
	if n.entity != nil {
		e.Entity = v.text(n.entity)
	}
	if n.at != nil {
		e.OccurredAt = v.time(n.at)
	}
	if n.sequence != nil {
		e.Sequence = v.sequence(n.sequence)
	}
	if v.spent > deliveryCostMax {
		return Event{}, refuse(ReasonPayloadMalformed, "the expressions of the settings cost too much over the events of this delivery")
	}
	e.Payload = document
	return e, nil
}

// byHash is what an event is called of which only the bytes are known.
func byHash(body []byte) func([]byte) (Event, error) {
	return func([]byte) (Event, error) { return Event{ID: digest(body)}, nil }
}

// formDocument makes a form a JSON object of strings. A name that stands repeatedly has an array of them.
func formDocument(body []byte) ([]byte, error) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, refuse(ReasonPayloadMalformed, "expected a body of "+formMedia)
	}
	document := make(map[string]any, len(values))
	for name, all := range values {
		document[name] = all
		if len(all) == 1 {
			document[name] = all[0]
		}
	}
	return json.Marshal(document)
}

// shape gives a sample the form in which the settings expect the body, and the headers to start from.
func (n naming) shape(in SignInput) (http.Header, []byte) {
	h := signedHeader(in)
	doc, err := parseObject(in.Body)
	if !n.form || err != nil {
		return h, in.Body
	}
	form := url.Values{}
	for name, raw := range doc {
		form.Set(name, string(raw))
		if len(raw) > 0 && raw[0] == '"' {
			form.Set(name, doc.text(name))
		}
	}
	h.Set("Content-Type", formMedia)
	return h, []byte(form.Encode())
}

// opener parses documents for expressions. Unless it is nil it remembers of each object how it was written, since what an
// expression sees has lost digits: CEL has only floats beyond whole numbers of 64 bits.
type opener map[uintptr]writing

// writing is an object as an expression sees it, and as it was written. It keeps both alive, so that an address stays theirs.
type writing struct{ seen, written map[string]any }

// open parses one JSON document.
func (o opener) open(document []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var payload any
	if err := decoder.Decode(&payload); err != nil {
		return nil, refuse(ReasonPayloadMalformed, "expected a JSON document, which the expressions of the settings read")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(ReasonPayloadMalformed, "expected one JSON document")
	}
	return o.exact(payload), nil
}

// exact gives a decoded document numbers that CEL can hold. A whole number too large for 64 bits becomes a string, since as
// a float it would be equal to its neighbours, and an id is made of it.
func (o opener) exact(value any) any {
	switch v := value.(type) {
	case map[string]any:
		seen := make(map[string]any, len(v))
		for key, inner := range v {
			seen[key] = o.exact(inner)
		}
		if o != nil {
			o[identity(seen)] = writing{seen, v}
		}
		return seen
	case []any:
		seen := make([]any, len(v))
		for i, inner := range v {
			seen[i] = o.exact(inner)
		}
		return seen
	case json.Number:
		return exactNumber(v)
	default:
		return value
	}
}

func exactNumber(v json.Number) any {
	if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
		return n
	}
	if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
		return n
	}
	if f, err := v.Float64(); err == nil && !isInteger(v.String()) {
		return f
	}
	return v.String()
}
