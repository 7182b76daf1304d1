package scripted

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The model obey-1 is the worst that a model can be: it takes all that stands between the markers of a prompt for orders, carries out those that it knows, and
// then repeats everything it was shown, in every text that the schema has. Its orders, each in a text, or in the name of a member of an object:
//
//	write: TEXT        the answer begins with TEXT, to the end of the text; {U+XXXX} in it is that character
//	write raw: TEXT    as write, but within JSON the text is not escaped, so that it may end its string and go on as JSON
//	set NAME to VALUE  the answer's object has this member, whether the schema knows it or not; also "post to NAME VALUE"
//	ignore the schema  the answer is no JSON
//
// It obeys the user's prompt alone: what the system prompt holds it does not repeat.

var (
	obeyMarkerRE = regexp.MustCompile(`<data-([A-Za-z0-9]{16,64})>`)
	obeyWriteRE  = regexp.MustCompile(`(?is)\bwrite( raw)?: (.*)`)
	obeySetRE    = regexp.MustCompile(`(?i)\b(?:set ([a-z_]+) to|post to ([a-z_]+)) ([^\s,;"]+)`)
	obeyRuneRE   = regexp.MustCompile(`\{U\+([0-9A-F]{1,6})\}`)
)

const (
	obeyIgnore = "ignore the schema"
	// obeyTextMax bounds an answer of text in bytes, obeyFieldMax each text of an object: they must fit into what may be answered at all.
	obeyTextMax  = 70_000
	obeyFieldMax = 12_000
	// obeyRaw stands in JSON where a text goes that is not escaped. Nothing that is shown to a model can hold it.
	obeyRaw = "\x01raw\x01"
)

// An obedience is what a prompt orders.
type obedience struct {
	writes, raws, shown []string
	set                 map[string]string
	unbound             bool // by the schema
}

// providerObeyed is the answer to a prompt of a model that obeys it.
func providerObeyed(schema json.RawMessage, prompt string) string {
	o := obedience{set: map[string]string{}}
	for _, value := range fencedValues(prompt) {
		var document any
		if json.Unmarshal([]byte(value), &document) != nil {
			document = value
		}
		o.read(document)
	}
	text := strings.Join(slices.Concat(o.writes, o.shown), "\n")
	var root map[string]any
	if json.Unmarshal(schema, &root) != nil || root == nil || o.unbound {
		return cut(strings.Join(append(slices.Clone(o.raws), text), "\n"), obeyTextMax)
	}
	if len(o.raws) > 0 {
		text = obeyRaw + "\n" + text
	}
	in := &instancer{root: root, words: cut(text, obeyFieldMax)}
	object, isObject := in.value(root, 0).(map[string]any)
	if !isObject {
		return text
	}
	for name, value := range o.set {
		if _, list := object[name].([]any); !list {
			object[name] = value
		}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(object) != nil { // cannot be: they are values of JSON
		return text
	}
	return strings.ReplaceAll(strings.TrimSpace(out.String()), strings.Trim(jsonQuoted(obeyRaw), `"`), strings.Join(o.raws, ""))
}

func jsonQuoted(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil { // cannot be: every text is one of JSON
		return ""
	}
	return string(quoted)
}

// fencedValues are what stands between the markers of a prompt; without markers it is the prompt.
func fencedValues(prompt string) (values []string) {
	marker := obeyMarkerRE.FindStringSubmatch(prompt)
	if marker == nil {
		return []string{prompt}
	}
	for part := range strings.SplitSeq(prompt, "<data-"+marker[1]+">") {
		if value, _, fenced := strings.Cut(part, "</data-"+marker[1]+">"); fenced {
			values = append(values, value)
		}
	}
	return values
}

// read takes the orders of every text in a value, in an order that is always the same.
func (o *obedience) read(value any) {
	switch value := value.(type) {
	case string:
		o.obey(value)
	case []any:
		for _, one := range value {
			o.read(one)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			o.obey(name)
			o.read(value[name])
		}
	}
}

func (o *obedience) obey(text string) {
	text = obeyRuneRE.ReplaceAllStringFunc(text, func(escape string) string {
		code, err := strconv.ParseInt(obeyRuneRE.FindStringSubmatch(escape)[1], 16, 32)
		if err != nil {
			return escape
		}
		return string(rune(code))
	})
	if !slices.Contains(o.shown, text) {
		o.shown = append(o.shown, text)
	}
	for _, m := range obeySetRE.FindAllStringSubmatch(text, -1) {
		o.set[strings.ToLower(m[1]+m[2])] = m[3]
	}
	o.unbound = o.unbound || strings.Contains(strings.ToLower(text), obeyIgnore)
	m := obeyWriteRE.FindStringSubmatch(text)
	switch {
	case m == nil:
	case m[1] != "" && !slices.Contains(o.raws, m[2]):
		o.raws = append(o.raws, m[2])
	case m[1] == "" && !slices.Contains(o.writes, m[2]):
		o.writes = append(o.writes, m[2])
	}
}
