package action

import (
	"encoding/json"
	"regexp"
	"strings"

	"sluice/jobs/action/harmless"
)

const htmlType = "text/html; charset=utf-8"

const fieldPublic = "public"

// publicField is the choice between what a customer reads and what only colleagues read. Left out, it is for colleagues.
func publicField() Field {
	return Field{Name: fieldPublic, Form: FormFlag, Doc: "true answers the customer; false, or left out, leaves a note that only your own people see"}
}

// htmlBody is the body of an action object as harmless HTML of at most so many characters.
func htmlBody(p Params, longest int) (string, error) {
	text := parted(harmless.HTML(p.Texts[fieldBody], p.Rules(longest)))
	if strings.TrimSpace(text) == "" {
		return "", refused(CodeEmptyBody, "action.body: the template came out empty")
	}
	return text, nil
}

// parted puts a word joiner into what a help desk may read in HTML beside the tags: it puts the data of the ticket or of the customer where a text has
// "{{ticket.requester.email}}", which what a model wrote must not ask for; and its editor may take an image or a link of Markdown for one. Twice, since
// of three braces the first pass leaves two together.
func parted(text string) string {
	const joiner = "\u2060"
	part := strings.NewReplacer("{{", "{"+joiner+"{", "{%", "{"+joiner+"%", "![", "!"+joiner+"[", "](", "]"+joiner+"(")
	return part.Replace(part.Replace(text))
}

// shownMark is our mark where a target has no place for one that is not shown: a last line for people of the house.
func shownMark(key string) string { return "[sluice:" + key + "]" }

var tagRE = regexp.MustCompile(`<[^>]*>|&nbsp;`)

// A markSearch looks for an effect by a mark that is shown.
type markSearch struct {
	key string
	// quoted tells that the mark was seen where we do not put it: somebody has copied or changed what we wrote.
	quoted bool
}

// in says whether a text, plain or HTML, ends with the mark.
func (m *markSearch) in(text string) bool {
	mark := shownMark(m.key)
	if strings.HasSuffix(strings.TrimSpace(tagRE.ReplaceAllString(text, "")), mark) {
		return true
	}
	m.quoted = m.quoted || strings.Contains(text, mark)
	return false
}

// missing ends a search that has looked at everything and found nothing.
func (m *markSearch) missing() (*Receipt, error) {
	if m.quoted {
		return nil, unclear()
	}
	return nil, nil //nolint:nilnil // it is surely not there
}

// unclear says that what a target shows does not tell whether it has the effect.
func unclear() *Error {
	return &Error{Kind: Refused, Code: CodeLookup, Message: "what the target shows does not tell whether it has the effect", Doubt: true}
}

// unread says that a target has answered a write with success, and not with what it made.
func unread(status int) *Error {
	return &Error{Kind: Retry, Code: CodeBroken, Message: "the target's answer could not be read", Doubt: true, Status: status}
}

// certain takes the doubt from an error of a request that only read: whatever became of it, it has made no effect.
func certain(err error) error {
	if e, ok := asError(err); ok {
		e.Doubt = false
	}
	return err
}

// anID is an id that a service writes as a text or as a number, and nothing else of its words: what is no plain id reads as "".
type anID string

var plainIDRE = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// UnmarshalJSON reads an id.
func (a *anID) UnmarshalJSON(raw []byte) error {
	*a = ""
	var text string
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	if text != "null" && plainIDRE.MatchString(text) {
		*a = anID(text)
	}
	return nil
}
