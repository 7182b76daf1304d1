package action

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"sluice/jobs/action/harmless"
)

// A Form says what a field of an action object holds.
type Form int

// The forms of a field.
const (
	// FormLiteral is a text that is the same for every event.
	FormLiteral Form = iota
	// FormTarget is a text, or a template over event and payload: it may say who is written to, so that no word of the model can enter it.
	FormTarget
	// FormAddress is an address, or a template of one over event and payload: scheme and host are written out, and every value is one
	// percent-encoded piece behind them.
	FormAddress
	// FormContent is a template over event, payload and output. Its name must be one of automations.ContentFields.
	FormContent
	// FormFlag is true or false.
	FormFlag
	// FormTexts is a list of texts that are the same for every event.
	FormTexts
)

// A Field is one of an action object.
type Field struct {
	Name     string
	Form     Form
	Required bool
	// Default is written into an action object that lacks the field when it is saved, so that people see it. Required goes without one.
	Default string
	// Choices are the texts that it may be, of FormLiteral; empty means any.
	Choices []string
	Doc     string // a phrase for people
}

// textsMax bounds a list of texts.
const textsMax = 100

// Params is an action object: its fields by their names. What was left out is not there.
type Params struct {
	Texts map[string]string // those of FormContent and FormTarget as templates, or in Prepare rendered
	Flags map[string]bool
	Lists map[string][]string
}

// Literal returns a text, and whether it is there and holds no template.
func (p Params) Literal(name string) (string, bool) {
	text, ok := p.Texts[name]
	return text, ok && !Template(text)
}

// Template says whether a text is a template, and not what it says already.
func Template(text string) bool { return strings.Contains(text, "{{") || strings.Contains(text, "{%") }

// Rules are how a text of a model is made harmless: the "links" of an action object are the hosts that it may lead to, and longest is the length of
// what its target takes, in characters.
func (p Params) Rules(longest int) harmless.Rules {
	return harmless.Rules{Links: p.Lists[fieldLinks], Max: longest}
}

// The fields that connectors share.
const (
	fieldBody       = "body"
	fieldCredential = "credential_id"
	fieldKind       = "kind"
	fieldLinks      = "links"
	fieldUpdate     = "update"
)

// linksField is the field of the hosts that a text may lead to.
func linksField() Field {
	return Field{Name: fieldLinks, Form: FormTexts, Doc: "hosts that links in the text may lead to, such as docs.example.com or *.example.com; other links are made plain text"}
}

// updateField is the choice to change the last comment in place of adding one.
func updateField() Field {
	return Field{Name: fieldUpdate, Form: FormFlag, Doc: "true changes this automation's last one on the same target in place of adding another"}
}

// Read reads an action object of a connector and returns every fault of its shape: no object, another kind, a field that is not known, is missing or
// is of another form.
func Read(s Spec, raw json.RawMessage) (Params, []Fault) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return Params{}, []Fault{{Place: "action", Message: "expected an object"}}
	}
	p := Params{Texts: map[string]string{}, Flags: map[string]bool{}, Lists: map[string][]string{}}
	var faults []Fault
	fault := func(name, message string) { faults = append(faults, Fault{Place: "action." + name, Message: message}) }
	for name, value := range object {
		at := slices.IndexFunc(s.Fields, func(f Field) bool { return f.Name == name })
		switch {
		case name == fieldKind, name == fieldCredential && s.Account != "":
			var text *string
			if json.Unmarshal(value, &text) != nil || text == nil {
				fault(name, "expected a text")
			} else {
				p.Texts[name] = *text
			}
		case at < 0:
			fault(name, "expected one of "+strings.Join(s.names(), ", "))
		default:
			if message := p.read(s.Fields[at], value); message != "" {
				fault(name, message)
			}
		}
	}
	if got, ok := p.Texts[fieldKind]; ok && got != s.Kind || !ok && object[fieldKind] == nil {
		fault(fieldKind, fmt.Sprintf("expected %q", s.Kind))
	}
	if id, ok := p.Texts[fieldCredential]; ok && !strings.HasPrefix(id, credentialPrefix) {
		fault(fieldCredential, "expected the id of a credential, crd_...")
	}
	for _, f := range s.Fields {
		if _, given := object[f.Name]; !given && f.Required {
			fault(f.Name, "is required: "+f.Doc)
		}
	}
	slices.SortFunc(faults, func(a, b Fault) int { return strings.Compare(a.Place, b.Place) })
	return p, faults
}

const credentialPrefix = "crd_"

// names are those of all fields.
func (s Spec) names() []string {
	names := []string{fieldKind}
	if s.Account != "" {
		names = append(names, fieldCredential)
	}
	for _, f := range s.Fields {
		names = append(names, f.Name)
	}
	return names
}

// read keeps one field, or says what was expected.
func (p Params) read(f Field, value json.RawMessage) string {
	switch f.Form {
	case FormFlag:
		var flag *bool
		if json.Unmarshal(value, &flag) != nil || flag == nil {
			return "expected true or false"
		}
		p.Flags[f.Name] = *flag
	case FormTexts:
		var texts []string
		if json.Unmarshal(value, &texts) != nil || texts == nil || len(texts) > textsMax || slices.Contains(texts, "") {
			return fmt.Sprintf("expected a list of at most %d texts", textsMax)
		}
		if f.Name == fieldLinks {
			for _, host := range texts {
				if err := harmless.CheckHost(host); err != nil {
					return err.Error()
				}
			}
		}
		p.Lists[f.Name] = texts
	default:
		var text *string
		if json.Unmarshal(value, &text) != nil || text == nil {
			return "expected a text"
		}
		switch {
		case f.Required && strings.TrimSpace(*text) == "":
			return "is required: " + f.Doc
		case f.Form == FormLiteral && Template(*text):
			return "expected a text without a template: it is the same for every event"
		case len(f.Choices) > 0 && !slices.Contains(f.Choices, *text):
			return "expected one of " + strings.Join(f.Choices, ", ")
		}
		p.Texts[f.Name] = *text
	}
	return ""
}

// Filled is an action object with the defaults of the fields that it lacks. What is no object stays as it is.
func Filled(s Spec, raw json.RawMessage) json.RawMessage {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil || object == nil {
		return raw
	}
	changed := false
	for _, f := range s.Fields {
		if _, given := object[f.Name]; given || f.Default == "" {
			continue
		}
		text, err := json.Marshal(f.Default)
		if err != nil { // cannot be: it is a text
			continue
		}
		object[f.Name], changed = text, true
	}
	if !changed {
		return raw
	}
	filled, err := json.Marshal(object)
	if err != nil { // cannot be: these are texts that were read as JSON
		return raw
	}
	return filled
}
