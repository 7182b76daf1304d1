package automations

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// How the texts of an action object are read. Those of contentFields may hold what the model wrote. All others say who is written to, and know the
// verified event alone: no word of a model can reach them, whatever a connector makes of them. See jobs/action for what each connector takes.
var (
	contentFields = []string{"body", "labels", "subject", fieldDocument}
	literalFields = []string{"credential_id", "kind"}
)

const (
	// fieldAddress is rendered as the address of a fetch is: scheme and host are literal, and each value is one percent-encoded piece behind them.
	fieldAddress = "url"
	// fieldDocument is rendered as a JSON document: a text is escaped for the quotes that it stands in, and anything else is written as JSON.
	fieldDocument = "json"
)

// ContentFields are the names of the fields of an action object that may hold what the model wrote.
func ContentFields() []string { return slices.Clone(contentFields) }

// compileAction checks what every action has in common and compiles its templates, by the names of their fields. The connector that the kind names
// checks the rest.
func compileAction(raw json.RawMessage, fault faulter) map[string]*template {
	if len(raw) > actionBytesMax {
		fault("action", "expected at most %d bytes, got %d", actionBytesMax, len(raw))
		return nil
	}
	var action map[string]json.RawMessage
	if err := json.Unmarshal(raw, &action); err != nil || action == nil {
		fault("action", "expected an object with a string kind")
		return nil
	}
	var kind string
	if err := json.Unmarshal(action["kind"], &kind); err != nil || kind == "" {
		fault("action.kind", "expected the name of a connector, such as callback")
	}
	templates := map[string]*template{}
	for _, name := range slices.Sorted(maps.Keys(action)) {
		content := slices.Contains(contentFields, name)
		var text *string
		if err := json.Unmarshal(action[name], &text); err != nil || text == nil {
			if content && err != nil {
				fault("action."+name, "expected a string that holds a template")
			}
			continue // the connector says what it must be
		}
		if !content && (slices.Contains(literalFields, name) || !templated(*text)) {
			continue
		}
		if t := compileField(name, *text, content, fault); t != nil {
			templates[name] = t
		}
	}
	return templates
}

// templated says whether a text is a template.
func templated(text string) bool { return strings.Contains(text, "{{") || strings.Contains(text, "{%") }

func compileField(name, text string, content bool, fault faulter) *template {
	place, roots := "action."+name, promptRoots
	if content {
		roots = actionRoots
	}
	t := compileTemplate(place, text, roots, fault)
	switch {
	case t == nil:
	case name == fieldAddress:
		t = checkOrigin(t, place, text, fault)
	case name == fieldDocument && slices.Contains(t.filters, "json"):
		fault(place, "expected no json filter: every value is written as JSON already, a text without the quotes around it")
		return nil
	}
	return t
}

// ActionFields renders the templates of the action object with what Output answered, by the names of their fields; the texts that are no templates
// are not among them. Values stand in them plain, without a fence: the connector makes them harmless for its target. Each has at most 256 KiB; every
// error is a *RenderError.
func (c *Compiled) ActionFields(e Event, payload, output any) (map[string]string, error) {
	if len(c.action) == 0 {
		return map[string]string{}, nil
	}
	fields, event := make(map[string]string, len(c.action)), eventValues(e)
	work := workMax
	for _, name := range slices.Sorted(maps.Keys(c.action)) {
		vars := map[string]any{"event": event, "payload": payload}
		if slices.Contains(contentFields, name) {
			vars["output"] = output
		}
		r := newRun(c.action[name], vars, max(work, 0))
		r.left, r.address, r.document = actionFieldBytesMax, name == fieldAddress, name == fieldDocument
		text, err := r.text()
		if err != nil {
			return nil, err
		}
		work = r.work
		if name == fieldAddress {
			if err := checkAddress(text, FetchOrigin(text)); err != nil {
				return nil, &RenderError{Place: c.action[name].place, Err: err}
			}
		}
		fields[name] = text
	}
	return fields, nil
}

// documentPiece is a value as it stands in a JSON document: a text without its quotes, since the template has them.
func documentPiece(r *run, value any) (string, error) {
	text, err := r.json(value)
	if err != nil {
		return "", err
	}
	written, _ := text.(string)
	if _, quoted := value.(string); quoted {
		written = strings.TrimSuffix(strings.TrimPrefix(written, `"`), `"`)
	}
	return written, nil
}
