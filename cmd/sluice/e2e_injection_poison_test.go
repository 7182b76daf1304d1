package main_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
	"sluice/api/source/sourcetest"
)

// An injection is a text that a stranger writes where a payload takes one.
type injection struct {
	Name, Tries, Text string
	Repeat            *struct {
		Text  string
		Times int
	}
}

func injections(t *testing.T) []injection {
	t.Helper()
	raw, err := os.ReadFile("testdata/injections.json")
	require.NoError(t, err)
	var corpus []injection
	require.NoError(t, json.Unmarshal(raw, &corpus))
	names := map[string]bool{}
	for i := range corpus {
		if r := corpus[i].Repeat; r != nil {
			corpus[i].Text += strings.Repeat(r.Text, r.Times)
		}
		names[corpus[i].Name] = true
	}
	const entriesMin = 60
	require.GreaterOrEqual(t, len(names), entriesMin)
	require.Len(t, names, len(corpus))
	return corpus
}

// poisonedMax bounds a poisoned body, in bytes.
const poisonedMax = 150_000

// namedRE are the members that people give names in: what is poisoned where the names are, beside the keys.
var namedRE = regexp.MustCompile(`(?i)(title|name|subject|summary|branch|ref|label|tag|description)$`)

// strangers is what a stranger puts beside the rest for automations whose target is a template of the tenant's own.
var strangers = map[string]any{
	"repo": "evil/x", "project": "evil/x", "channel": "C0EVIL", "issue": "EVIL-1", "to": "thief@evil.example", "path": "admin/x?y=1#z@evil.example",
}

// named is what a delivery says happened: false if the door would not take it.
func (c connected) named(t *testing.T, sample source.Sample, id string, at time.Time, body []byte) (signed source.Signed, what []string, ok bool) {
	t.Helper()
	settings := c.settings(t)
	signed, err := c.Sign(source.SignInput{
		Method: http.MethodPost, URL: c.url, Header: sample.Header, Body: body, Secret: c.with.Sign, ID: id, At: at, Settings: settings,
	})
	if err != nil {
		return signed, nil, false
	}
	if c.ProxyHeader != nil && c.ProxyHeader(settings) != "" {
		signed.Header.Set(c.ProxyHeader(settings), c.with.Sign)
	}
	request := source.Request{Method: http.MethodPost, URL: c.url, Header: signed.Header, Body: signed.Body, ReceivedAt: at, Proxy: http.Header{
		sourcetest.ClientCertHeader: {c.with.Sign},
	}}
	if _, err := c.Verify(request, []string{c.with.Secret}, settings); err != nil {
		return signed, nil, false
	}
	events, err := c.Events(request, settings)
	if err != nil {
		return signed, nil, false
	}
	for _, e := range events {
		what = append(what, e.Type, e.Entity)
	}
	return signed, what, true
}

func (c connected) settings(t *testing.T) source.Settings {
	t.Helper()
	raw, err := json.Marshal(c.with.Settings)
	require.NoError(t, err)
	settings, faults := c.ParseSettings(raw)
	require.Empty(t, faults)
	return settings
}

// poisoned is a delivery of a sample with a text in every string, or, of names, in every title and name and as a key. What the event is called and is
// about stays, and so does what stands at the addresses that the connectors' defaults read: the source writes those, and no stranger.
func (c connected) poisoned(t *testing.T, sample source.Sample, id, text string, names bool) (signed source.Signed, places int) {
	t.Helper()
	at := time.Now().UTC()
	document := parsed(t, sample, sample.Body(id, at))
	document.aim()
	signed, want, ok := c.named(t, sample, id, at, document.body(t))
	require.True(t, ok, "%s %s", c.Name, sample.Type)
	for _, change := range document.changes(text, names) {
		undo := change()
		document.aim()
		body := document.body(t)
		one, what, ok := c.named(t, sample, id, at, body)
		if !ok || !slices.Equal(what, want) || len(body) > poisonedMax {
			undo()
			continue
		}
		signed, places = one, places+1
	}
	return signed, places
}

// A poisonable is a document whose texts can be changed: JSON, a form, or XML.
type poisonable struct {
	value any        // of JSON
	form  url.Values // of a form
	xml   []string   // of XML: tags at even places, texts between them
}

func parsed(t *testing.T, sample source.Sample, body []byte) *poisonable {
	t.Helper()
	p := &poisonable{}
	trimmed := bytes.TrimSpace(body)
	var err error
	switch {
	case bytes.HasPrefix(trimmed, []byte("{")), bytes.HasPrefix(trimmed, []byte("[")):
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		require.NoError(t, decoder.Decode(&p.value))
	case bytes.HasPrefix(trimmed, []byte("<")):
		tags := regexp.MustCompile(`(?s)<[^>]*>`)
		last := 0
		for _, at := range tags.FindAllIndex(trimmed, -1) {
			p.xml = append(p.xml, string(trimmed[last:at[0]]), string(trimmed[at[0]:at[1]]))
			last = at[1]
		}
	default:
		p.form, err = url.ParseQuery(string(body))
		require.NoError(t, err, sample.Type)
	}
	return p
}

func (p *poisonable) body(t *testing.T) []byte {
	t.Helper()
	switch {
	case p.form != nil:
		return []byte(p.form.Encode())
	case p.xml != nil:
		return []byte(strings.Join(p.xml, ""))
	}
	raw, err := json.Marshal(p.value)
	require.NoError(t, err)
	return raw
}

// changes are all that can be done to a document, one at a time; each returns how it is undone.
func (p *poisonable) changes(text string, names bool) (all []func() func()) {
	for at := 2; at+1 < len(p.xml); at += 2 {
		if strings.TrimSpace(p.xml[at]) == "" || names && !namedRE.MatchString(strings.Trim(p.xml[at-1], "<>")) {
			continue
		}
		all = append(all, func() func() {
			before := p.xml[at]
			var escaped strings.Builder
			_ = xml.EscapeText(&escaped, []byte(text))
			p.xml[at] = escaped.String()
			return func() { p.xml[at] = before }
		})
	}
	for _, name := range slices.Sorted(maps.Keys(p.form)) {
		if !names || namedRE.MatchString(name) {
			all = append(all, func() func() {
				before := p.form.Get(name)
				p.form.Set(name, text)
				return func() { p.form.Set(name, before) }
			})
		}
	}
	if p.form != nil && names {
		all = append(all, func() func() { p.form.Set(text, text); return func() { p.form.Del(text) } })
	}
	return append(all, changesIn(p.value, "", text, names, 0)...)
}

// changesIn are those of a value of JSON and of what is in it.
func changesIn(value any, under, text string, names bool, depth int) (all []func() func()) {
	replace := func(get func() any, set func(any), name string) {
		if _, isText := get().(string); isText && (!names || namedRE.MatchString(name)) {
			all = append(all, func() func() {
				before := get()
				set(text)
				return func() { set(before) }
			})
		}
		all = append(all, changesIn(get(), name, text, names, depth+1)...)
	}
	switch value := value.(type) {
	case []any:
		for i := range value {
			replace(func() any { return value[i] }, func(v any) { value[i] = v }, under)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			replace(func() any { return value[name] }, func(v any) { value[name] = v }, name)
		}
		if depth <= 1 {
			all = append(all, func() func() { value["inject"] = strangers; return func() { delete(value, "inject") } })
		}
		if names {
			all = append(all, func() func() { value[text] = text; return func() { delete(value, text) } })
		}
	}
	return all
}

// at is the object at a path, nil if there is none.
func at(value any, path ...string) map[string]any {
	object, _ := value.(map[string]any)
	for _, name := range path {
		object, _ = object[name].(map[string]any)
	}
	return object
}

// aim makes the places that the connectors' defaults read name the targets that the tenant's automations may write to.
func (p *poisonable) aim() {
	put := func(object map[string]any, name string, v any) {
		if object != nil {
			if _, there := object[name]; there {
				object[name] = v
			}
		}
	}
	documents, isList := p.value.([]any)
	if !isList {
		documents = []any{p.value}
	}
	for _, d := range documents {
		put(at(d, "repository"), "full_name", "acme/shop")
		put(at(d, "issue"), "number", 12)
		put(at(d, "pull_request"), "number", 12)
		put(at(d, "project"), "path_with_namespace", "acme/tools/shop")
		put(at(d, "object_attributes"), "iid", 12)
		put(at(d, "issue"), "iid", 12)
		put(at(d, "merge_request"), "iid", 12)
		put(at(d, "issue"), "key", "SHOP-12")
		put(at(d, "event"), "channel", "C0SHOP")
		put(at(d), "objectId", 123)
		if at(d, "detail") != nil && at(d)["subject"] != nil {
			put(at(d, "detail"), "id", "35436")
			if subject, _ := at(d)["subject"].(string); strings.HasPrefix(subject, "zen:ticket:") {
				put(at(d), "subject", "zen:ticket:35436")
			}
		}
		if at(d)["webhookTimestamp"] != nil {
			put(at(d, "data"), "issueId", linearTarget)
			if at(d, "data")["issueId"] == nil {
				put(at(d, "data"), "id", linearTarget)
			}
		}
		if item := at(d, "data", "item"); item["type"] == "conversation" {
			put(item, "id", "524")
		}
		if data := at(d, "event", "data"); data != nil && at(d, "event")["resource_type"] == "incident" {
			put(at(data, "incident"), "id", "PGR0VU2")
			if data["incident"] == nil {
				put(data, "id", "PGR0VU2")
				put(data, "type", "incident")
			}
		}
	}
}

// linearTarget is the issue of Linear that its events are about.
const linearTarget = "11111111-1111-4111-8111-111111111111"
