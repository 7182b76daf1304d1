package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
	"sluice/api/source/sourcetest"
	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// besieged is an API without a socket, a tenant with one of each thing, and an endpoint for every source.
type besieged struct {
	*dbtest.Bundle

	handler    http.Handler
	operator   string
	key        string
	tenant     string
	ids        map[string]string // by the resource in the path
	places     []place
	doors      map[string]besiegedDoor
	doorTitles []string
}

// besiegedDoor is an endpoint whose secret is known.
type besiegedDoor struct {
	source   source.Source
	settings source.Settings
	secret   string // what signs
	proxied  string // what the operator's proxy says
	path, id string
}

// place is one field of a request to one route: a leaf of the body, a parameter, or the body as a whole.
type place struct {
	method, path string
	operator     bool
	body         any // the example that the contract gives
	in           string
	name         string   // of a parameter
	steps        []string // to a leaf of the body
}

func (p place) title() string {
	return p.method + " " + p.path + " " + p.in + " " + p.name + strings.Join(p.steps, ".")
}

func besiege(tb testing.TB) *besieged {
	tb.Helper()
	b := &besieged{Bundle: dbtest.New(tb), ids: map[string]string{}, doors: map[string]besiegedDoor{}}
	a := newAPI(tb, b.DB, io.Discard)
	b.handler = a.Handler()
	tb.Cleanup(func() { a.Close(context.Background()) })
	key, err := tenants.NewKey(true)
	require.NoError(tb, err)
	b.operator = key.Reveal()
	require.NoError(tb, b.DB.System(context.Background(), func(tx db.SystemTx) error {
		_, err := tx.OperatorKeyInsert(context.Background(), "test", key)
		return err
	}))
	made := b.make(tb, b.operator, "/v1/tenants", map[string]any{"name": "besieged"})
	b.tenant, b.key = made["tenant"].(map[string]any)["id"].(string), made["key"].(map[string]any)["secret"].(string)
	b.ids["tenants"] = b.tenant
	for _, s := range source.All() {
		b.open(tb, s)
	}
	b.ids["endpoints"] = b.doors["standard"].id
	b.ids["automations"] = b.make(tb, b.key, "/v1/automations", draft(b.ids["endpoints"]))["id"].(string)
	b.ids["credentials"] = b.make(tb, b.key, "/v1/credentials", map[string]any{"name": "c", "kind": "callback"})["id"].(string)
	b.ids["keys"] = b.make(tb, b.key, "/v1/keys", map[string]any{"name": "k", "role": "viewer"})["id"].(string)
	b.ids["alert-channels"] = b.make(tb, b.key, "/v1/alert-channels", webhookChannel("https://hooks.example.com"))["id"].(string)
	b.ids["events"] = b.make(tb, b.key, "/v1/endpoints/"+b.ids["endpoints"]+"/test", nil)["event_id"].(string)
	b.ids["runs"] = b.first(tb, "/v1/runs")
	b.make(tb, b.key, "/v1/replays", map[string]any{"runs": []string{b.ids["runs"]}, "mode": "shadow"})
	b.ids["replays"] = b.first(tb, "/v1/replays")
	b.read(tb)
	return b
}

// open makes an endpoint of a source, with an automation whose condition looks into the payload.
func (b *besieged) open(tb testing.TB, s source.Source) {
	tb.Helper()
	connection := sourcetest.Connect(tb, s)
	in := map[string]any{"name": s.Name, "source": s.Name}
	if connection.Secret != "" {
		in["secret"] = connection.Secret
	}
	if connection.Settings != nil {
		in["settings"] = connection.Settings
	}
	made := b.make(tb, b.key, "/v1/endpoints", in)
	d := besiegedDoor{source: s, secret: connection.Sign, path: strings.TrimPrefix(made["url"].(string), publicURL), id: made["id"].(string)}
	if s.ProxyHeader != nil {
		d.proxied = connection.Secret
	}
	raw, err := json.Marshal(connection.Settings)
	require.NoError(tb, err)
	var faults []source.Fault
	d.settings, faults = s.ParseSettings(raw)
	require.Empty(tb, faults)
	b.doors[s.Name] = d
	b.doorTitles = append(b.doorTitles, s.Name)
	asking := draft(d.id)
	asking["when"] = `payload.?a.orValue('') != 'no' && string(payload.?a.orValue('')) != event.id`
	b.make(tb, b.key, "/v1/automations", asking)
}

// make creates something, or fails.
func (b *besieged) make(tb testing.TB, key, path string, in any) map[string]any {
	tb.Helper()
	var body []byte
	if in != nil {
		var err error
		body, err = json.Marshal(in)
		require.NoError(tb, err)
	}
	got := b.ask(tb, key, http.MethodPost, path, "", nil, body)
	require.Less(tb, got.Code, http.StatusMultipleChoices, "%s: %s", path, got.Body)
	var out map[string]any
	require.NoError(tb, json.Unmarshal(got.Body.Bytes(), &out))
	return out
}

// first is the id of the first thing of a list.
func (b *besieged) first(tb testing.TB, path string) string {
	tb.Helper()
	var listed struct{ Data []struct{ ID string } }
	require.NoError(tb, json.Unmarshal(b.ask(tb, b.key, http.MethodGet, path, "", nil, nil).Body.Bytes(), &listed))
	require.NotEmpty(tb, listed.Data, path)
	return listed.Data[0].ID
}

// ask asks without a socket; path is as it is after percent-decoding.
func (b *besieged) ask(tb testing.TB, key, method, path, query string, header http.Header, body []byte) *httptest.ResponseRecorder {
	tb.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, publicURL, bytes.NewReader(body))
	require.NoError(tb, err)
	r.URL = &url.URL{Path: path, RawQuery: query}
	r.RequestURI = r.URL.RequestURI()
	maps.Copy(r.Header, header)
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
		if body != nil {
			r.Header.Set("Content-Type", "application/json")
		}
	}
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	return w
}

// sound requires that an answer is one of a program that knows what it does: no 5xx, and whatever is said in JSON is JSON in UTF-8.
func sound(tb testing.TB, got *httptest.ResponseRecorder, about string) {
	tb.Helper()
	require.Less(tb, got.Code, http.StatusInternalServerError, "%s: %s", about, got.Body)
	if got.Code == http.StatusNotModified {
		require.Empty(tb, got.Body.Bytes())
		return
	}
	kind := got.Header().Get("Content-Type")
	if !strings.Contains(kind, "json") {
		require.Less(tb, got.Code, http.StatusBadRequest, "%s: a problem is a document: %s", about, got.Body)
		return
	}
	require.True(tb, json.Valid(got.Body.Bytes()), "%s: %s", about, got.Body)
	require.True(tb, utf8.Valid(got.Body.Bytes()), "%s: %q", about, got.Body)
	if got.Code >= http.StatusBadRequest {
		var p struct{ Code, Detail string }
		require.NoError(tb, json.Unmarshal(got.Body.Bytes(), &p))
		require.NotEmpty(tb, p.Code, "%s: %s", about, got.Body)
	}
}

// read finds every place of every request in the contract itself, so that a field that comes later is found too.
func (b *besieged) read(tb testing.TB) {
	tb.Helper()
	document := contract{}
	require.NoError(tb, json.Unmarshal(b.ask(tb, "", http.MethodGet, "/openapi.json", "", nil, nil).Body.Bytes(), &document))
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		if strings.HasSuffix(path, "/test") && !strings.HasPrefix(path, "/v1/endpoints") {
			continue // asks the world
		}
		for _, method := range slices.Sorted(maps.Keys(document.Paths[path])) {
			op := document.Paths[path][method]
			p := place{method: strings.ToUpper(method), path: path, operator: op.Role == "operator"}
			for _, parameter := range op.Parameters {
				q := p
				q.in, q.name = parameter.In, parameter.Name
				b.places = append(b.places, q)
			}
			for _, content := range op.RequestBody.Content {
				p.body = document.example(content.Schema, 0)
				p.in = "body"
				b.places = append(b.places, p)
				for _, steps := range leaves(p.body, nil) {
					q := p
					q.steps = steps
					b.places = append(b.places, q)
				}
			}
		}
	}
	require.Greater(tb, len(b.places), 200, "the contract was read")
}

// contract is what is needed of an OpenAPI document.
type contract struct {
	Paths map[string]map[string]struct {
		Role        string `json:"x-sluice-role"`
		Parameters  []struct{ Name, In string }
		RequestBody struct {
			Content map[string]struct{ Schema map[string]any }
		}
	}
	Components struct{ Schemas map[string]map[string]any }
}

// exampleDepthMax ends schemas that hold themselves.
const exampleDepthMax = 5

// example makes a value with every property that a schema names.
func (c contract) example(schema map[string]any, depth int) any {
	if reference, ok := schema["$ref"].(string); ok {
		schema = c.Components.Schemas[strings.TrimPrefix(reference, "#/components/schemas/")]
	}
	if all, ok := schema["examples"].([]any); ok && len(all) > 0 {
		return all[0]
	}
	if all, ok := schema["enum"].([]any); ok {
		return all[0]
	}
	kind, _ := schema["type"].(string)
	if all, ok := schema["type"].([]any); ok {
		kind, _ = all[0].(string)
	}
	switch kind {
	case "object":
		out := map[string]any{}
		properties, _ := schema["properties"].(map[string]any)
		for name, of := range properties {
			if of, ok := of.(map[string]any); ok && depth < exampleDepthMax && of["readOnly"] != true {
				out[name] = c.example(of, depth+1)
			}
		}
		if len(properties) == 0 {
			out["a"] = "b"
		}
		return out
	case "array":
		if items, ok := schema["items"].(map[string]any); ok && depth < exampleDepthMax {
			return []any{c.example(items, depth+1)}
		}
		return []any{}
	case "integer", "number":
		return 1
	case "boolean":
		return true
	default:
		return "x"
	}
}

// leaves lists the ways to everything below v.
func leaves(v any, above []string) (all [][]string) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			way := append(slices.Clone(above), name)
			all = append(append(all, way), leaves(v[name], way)...)
		}
	case []any:
		for i := range v {
			way := append(slices.Clone(above), strconv.Itoa(i))
			all = append(append(all, way), leaves(v[i], way)...)
		}
	}
	return all
}

// hole marks where in an example the hostile value goes, which need not be JSON.
const hole = "the-hole-for-what-a-stranger-says"

// filled is a good body with a raw text at the place; what lies on the way to it is made.
func filled(good, example any, steps []string, raw string) []byte {
	text, _ := json.Marshal(with(good, example, steps)) // made of a JSON document
	return bytes.Replace(text, []byte(`"`+hole+`"`), []byte(raw), 1)
}

func with(good, example any, steps []string) any {
	if len(steps) == 0 {
		return hole
	}
	switch example := example.(type) {
	case map[string]any:
		out, ok := good.(map[string]any)
		if out = maps.Clone(out); !ok {
			out = map[string]any{} // what else the contract's example holds may be refused, and hide what is tried
		}
		out[steps[0]] = with(out[steps[0]], example[steps[0]], steps[1:])
		return out
	case []any:
		out := slices.Clone(example)
		i, _ := strconv.Atoi(steps[0])
		out[i] = with(nil, example[i], steps[1:])
		return out
	default:
		return good
	}
}

// good is a body that a route takes, so that the one field that is spoiled is what decides.
func (b *besieged) good(p place) any {
	switch p.method + " " + p.path {
	case "POST /v1/automations":
		return draft(b.ids["endpoints"])
	case "POST /v1/credentials":
		return map[string]any{"name": "c", "kind": "callback"}
	case "POST /v1/endpoints":
		return map[string]any{"name": "e", "source": "hmac", "secret": strings.Repeat("s", 32), "settings": map[string]any{"signature_header": "X-Sig"}}
	case "POST /v1/alert-channels":
		return webhookChannel("https://hooks.example.com")
	case "POST /v1/replays":
		if len(p.steps) > 0 && slices.Contains([]string{"filter", "events", "event_filter"}, p.steps[0]) {
			return map[string]any{"mode": "shadow"} // one of them
		}
		return map[string]any{"runs": []any{b.ids["runs"]}, "mode": "shadow"}
	case "POST /v1/runs/retry", "POST /v1/runs/cancel":
		return map[string]any{"filter": map[string]any{"automation_id": b.ids["automations"]}}
	case "POST /v1/keys":
		return map[string]any{"name": "k", "role": "viewer"}
	case "POST /v1/tenants":
		return map[string]any{"name": "t"}
	}
	if of, ok := bodies[p.method+" "+p.path].(map[string]any); ok {
		return of
	}
	return map[string]any{}
}

// spoil asks with one field as a stranger would have it, and judges the answer.
func (b *besieged) spoil(tb testing.TB, p place, raw string) {
	tb.Helper()
	key, header, query, text := b.key, http.Header{}, "", raw
	_ = json.Unmarshal([]byte(raw), &text) // what is a JSON string is tried as its text outside a body
	resource := strings.Split(p.path+"//", "/")[2]
	id := b.ids[resource]
	if p.method == http.MethodDelete {
		id = unknownID[resource]
	}
	if p.operator {
		key = b.operator
	}
	switch p.in {
	case "path":
		id = text
	case "query":
		query = url.Values{p.name: {text}}.Encode()
	case "header":
		if !headerFit(text) {
			return
		}
		header.Set(p.name, text)
	}
	var body []byte
	if p.body != nil {
		body, _ = json.Marshal(b.good(p)) // made of a JSON document
		if p.in == "body" {
			body = filled(b.good(p), p.body, p.steps, raw)
		}
	}
	got := b.ask(tb, key, p.method, strings.ReplaceAll(p.path, "{id}", id), query, header, body)
	sound(tb, got, p.title()+" = "+raw)
}

// headerFit says whether net/http lets a value through to a handler.
func headerFit(value string) bool {
	return !strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// hostileValues are what one field is given, as raw JSON or what is none.
func hostileValues() []string {
	return []string{
		`"\u0000"`, `"a\u0000b"`, `null`, `""`, `[]`, `{}`, `-1`, `0`, `1e999`, `9223372036854775808`, `1.5`, `true`, `"\ud800"`, "\"\xff\"", `"\u202e\u200b"`, `[null]`, `{"a":1,"a":2}`,
		`{"\u0000":"\u0000"}`, `NaN`, `"{{"`, `"{% if"`, `"` + strings.Repeat("a", 70_000) + `"`, strings.Repeat(`[`, 10_000) + strings.Repeat(`]`, 10_000), strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 200),
		`"%"`, `"' or 1=1 --"`, `"../../etc/passwd"`, `"9999-99-99T99:99:99Z"`, `"0000-01-01T00:00:00Z"`, `"294277-01-01T00:00:00Z"`, `"10000000h"`, `"crd_01980000000070008000000000000000"`,
		`"1e999"`, `"-0.0000000000001"`, `"999999999999999999999999"`, `"https://[::1%25lo]:99999/"`, "\x00", "\xef\xbb\xbf{}", ``,
	}
}

// TestNoFieldIsTooMuch gives every field of every route what a stranger would. SLUICE_TEST_HOSTILE=all tries each value at each; else each field has
// a NUL, which the database takes nowhere, and one other than its neighbour's.
func TestNoFieldIsTooMuch(t *testing.T) {
	t.Parallel()
	b := besiege(t)
	values := hostileValues()
	tried := 0
	for i, p := range b.places {
		chosen := []string{`"a\u0000b"`, values[i%len(values)]}
		if os.Getenv("SLUICE_TEST_HOSTILE") == "all" {
			chosen = values
		}
		for _, raw := range chosen {
			b.spoil(t, p, raw)
			tried++
		}
	}
	t.Logf("%d places of the contract, %d requests", len(b.places), tried)
}

// deliver signs a body as the source would, where the source can, sends it, and holds what was made of it against what stands in the database.
func (b *besieged) deliver(tb testing.TB, name, id, headerName, headerValue string, body []byte) (stored bool) {
	tb.Helper()
	d, found := b.doors[name]
	if !found {
		d = b.doors[b.doorTitles[len(name)%len(b.doorTitles)]]
	}
	sample := d.source.Samples[0]
	signed, err := d.source.Sign(source.SignInput{
		Method: http.MethodPost, URL: publicURL + d.path, Header: sample.Header, Body: body, Secret: d.secret, ID: id, At: time.Now(), Settings: d.settings,
	})
	if err != nil {
		signed = source.Signed{Header: sample.Header.Clone(), Body: body}
	}
	if signed.Header == nil {
		signed.Header = http.Header{}
	}
	if d.proxied != "" {
		signed.Header.Set(sourcetest.ClientCertHeader, d.proxied)
	}
	if headerName != "" && !strings.ContainsFunc(headerName, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c) }) {
		signed.Header.Set(headerName, headerValue)
	}
	for _, values := range signed.Header {
		if slices.ContainsFunc(values, func(v string) bool { return !headerFit(v) }) {
			return false // never reaches a handler
		}
	}
	before := b.newest(tb)
	got := b.ask(tb, "", http.MethodPost, d.path, "", signed.Header, signed.Body)
	if got.Code == http.StatusServiceUnavailable {
		if name == "aws_sns" {
			return false // its certificate is out of reach
		}
		got = b.ask(tb, "", http.MethodPost, d.path, "", signed.Header, signed.Body) // a machine under load may have been too slow once
	}
	require.Contains(tb, documented(d.source), got.Code, "%s: %s", d.source.Name, got.Body)
	after := b.newest(tb)
	if after == before {
		return false
	}
	b.kept(tb, d, after, signed.Body)
	return true
}

// documented are the statuses that a source may hear.
func documented(s source.Source) []int {
	all := []int{
		http.StatusOK, http.StatusNoContent, http.StatusBadRequest, http.StatusUnauthorized, http.StatusRequestEntityTooLarge,
		s.Codes.Refused, s.Codes.Malformed, s.Codes.TooLarge,
	}
	if s.Accepted != nil {
		all = append(all, s.Accepted.Status)
	}
	return all
}

func (b *besieged) newest(tb testing.TB) (id string) {
	tb.Helper()
	require.NoError(tb, b.Owner.QueryRow(context.Background(), `select coalesce((select 'evt_' || replace(id::text, '-', '') from sluice.events order by id desc limit 1), '')`).Scan(&id))
	return id
}

// kept reads an event back by every way that shows it.
func (b *besieged) kept(tb testing.TB, d besiegedDoor, event string, body []byte) {
	tb.Helper()
	for _, way := range []string{"", "/explain"} {
		got := b.ask(tb, b.key, http.MethodGet, "/v1/events/"+event+way, "", nil, nil)
		require.Equal(tb, http.StatusOK, got.Code, "%s: %s", d.source.Name, got.Body)
		sound(tb, got, d.source.Name+way)
	}
	got := b.ask(tb, b.key, http.MethodGet, "/v1/events/"+event+"/payload", "", nil, nil)
	require.Equal(tb, http.StatusOK, got.Code)
	if d.source.Kept == nil {
		require.True(tb, bytes.Equal(body, got.Body.Bytes()), "byte for byte: %q, %q", body, got.Body)
	}
}

// sharedSiege is made once for the seeds and inputs of a fuzz test.
func sharedSiege(f *testing.F) func() *besieged {
	f.Helper()
	return sync.OnceValue(func() *besieged { return besiege(f) })
}

// FuzzDoor: whatever is rightly signed is stored and can be read back byte for byte, or is refused for good: never a 503, after which it would come
// again for days, and never a panic.
func FuzzDoor(f *testing.F) {
	b := sharedSiege(f)()
	bodies := []string{
		``, `{}`, `[]`, `null`, `"x"`, `0`, `{"id":"\u0000","type":"a\u0000b","a":"\u0000"}`, `{"id":"\ud800","type":"\udfff"}`, "{\"id\":\"\xff\",\"type\":\"\xfe\"}", "\xef\xbb\xbf{\"id\":\"1\"}",
		`{"id":1e999,"type":1e400,"a":1e999}`, `{"id":"1","id":"2","a":1,"a":2}`, `{"id":NaN}`, `{"id":{"a":[]},"type":["x"],"data":7}`, strings.Repeat(`{"a":`, 65) + `1` + strings.Repeat(`}`, 65),
		strings.Repeat(`[`, 100_000), `{"id":"1","a":"` + strings.Repeat("x", 300_000) + `"}`, "{\"id\":\"1\",\"type\":\"\u202e\u200b\"}", `{"a":9223372036854775808,"id":-0}`, "id=1&id=2&\x00=\x00", `<x a="1">`,
		`{"id":"` + strings.Repeat("i", 5000) + `","type":"` + strings.Repeat("t", 5000) + `"}`,
	}
	for i, name := range b.doorTitles {
		sample := b.doors[name].source.Samples[0]
		f.Add(name, "id-"+name, "", "", sample.Body("id-"+name, time.Unix(1_700_000_000, 0).UTC()))
		f.Add(name, "\xff", "User-Agent", "\xff\xfe", sample.Body("id-2"+name, time.Unix(1_700_000_000, 0).UTC()))
		for j, body := range bodies {
			if name == "standard" || name == "github" || name == "hmac" || (i+j)%4 == 0 {
				f.Add(name, "id"+strconv.Itoa(j), "", "", []byte(body))
			}
		}
	}
	f.Fuzz(func(t *testing.T, name, id, headerName, headerValue string, body []byte) {
		b.deliver(t, name, id, headerName, headerValue, body)
	})
}

// FuzzFields: no field of a request to the API makes an internal error.
func FuzzFields(f *testing.F) {
	b := sharedSiege(f)()
	values := hostileValues()
	const stride = 40
	for i := 0; i < len(b.places); i += stride {
		f.Add(uint16(i), values[i/stride%len(values)])
	}
	f.Fuzz(func(t *testing.T, i uint16, raw string) { b.spoil(t, b.places[int(i)%len(b.places)], raw) })
}
