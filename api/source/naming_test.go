package source_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// namings are the sources that share the settings that name events, with what else each needs.
var namings = map[string]string{
	"basic": ``, "bearer": ``, "hmac": `"signature_header": "X-Sig"`, "mtls_header": `"header": "X-Client-Cert"`, "servicenow": ``,
}

// eachNaming runs a test for each of them, with some settings added.
func eachNaming(t *testing.T, settings string, test func(t *testing.T, s source.Source, set source.Settings)) {
	t.Helper()
	for name, needed := range namings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := source.Get(name)
			if needed != "" && settings != "" {
				needed += ", "
			}
			set, faults := s.ParseSettings(json.RawMessage("{" + needed + settings + "}"))
			require.Empty(t, faults)
			test(t, s, set)
		})
	}
}

func TestItemsAreEventsOfTheirOwn(t *testing.T) {
	t.Parallel()
	const body = `{"batch": "b-1", "events": [
		{"id": "e1", "kind": "a", "n": 3, "price": 10.10, "big": 184467440737095516150, "at": 1772625600},
		{"id": 9007199254740993, "kind": "b", "deep": [{"price": 0.10}]}
	]}`
	eachNaming(t, `"items": "payload.events", "id": "payload.id", "type": "payload.kind", "entity": "'thing:' + string(payload.id)", "time": "payload.at", "sequence": "payload.n"`,
		func(t *testing.T, s source.Source, set source.Settings) {
			events, err := s.Events(source.Request{Body: []byte(body)}, set)
			require.NoError(t, err)
			require.Equal(t, []source.Event{
				{ID: "e1", Type: "a", Entity: "thing:e1", OccurredAt: at(t, "2026-03-04T12:00:00Z"), Sequence: new(int64(3))},
				{ID: "9007199254740993", Type: "b", Entity: "thing:9007199254740993"},
			}, named(events))
			require.Equal(t, `{"at":1772625600,"big":184467440737095516150,"id":"e1","kind":"a","n":3,"price":10.10}`, string(events[0].Payload))
			require.Equal(t, `{"deep":[{"price":0.10}],"id":9007199254740993,"kind":"b"}`, string(events[1].Payload))
			if !s.IDSigned(set) {
				require.NotEqual(t, events[0].Once, events[1].Once)
			}
		})
}

func TestItemsCanBeMade(t *testing.T) {
	t.Parallel()
	for items, want := range map[string][]string{
		`payload.a`:                                              {`{"id":1}`, `{"id":2}`},
		`payload.a.filter(x, x.id == 2)`:                         {`{"id":2}`},
		`payload.a + payload.b`:                                  {`{"id":1}`, `{"id":2}`, `{"id":3.50}`},
		`payload.b.map(x, {'id': 'b', 'of': x})`:                 {`{"id":"b","of":{"id":3.50}}`},
		`[{'id': 'x', 'all': [1, 2u, 2.5, true, null]}]`:         {`{"all":[1,2,2.5,true,null],"id":"x"}`},
		`[{'id': 'x', 'at': timestamp('2026-03-04T12:00:00Z')}]`: {`{"at":"2026-03-04T12:00:00Z","id":"x"}`},
	} {
		t.Run(items, func(t *testing.T) {
			t.Parallel()
			s, set := hmacSource(t, `{"signature_header": "X-Sig", "items": `+strconv.Quote(items)+`, "id": "string(payload.id)"}`)
			events, err := s.Events(source.Request{Body: []byte(`{"a": [{"id": 1}, {"id": 2}], "b": [{"id": 3.50}]}`)}, set)
			require.NoError(t, err)
			got := make([]string, len(events))
			for i, e := range events {
				got[i] = string(e.Payload)
			}
			require.Equal(t, want, got)
		})
	}
}

func TestItemsAreRefusedWithTheirReason(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ title, items, body, reason string }{
		{"Absent", `payload.events`, `{}`, source.ReasonPayloadMalformed},
		{"Null", `payload.events`, `{"events": null}`, source.ReasonPayloadMalformed},
		{"NoList", `payload.events`, `{"events": {"id": 1}}`, source.ReasonPayloadMalformed},
		{"Empty", `payload.events`, `{"events": []}`, source.ReasonPayloadMalformed},
		{"TooMany", `payload`, "[" + strings.Repeat(`{"id":1},`, 5000) + `{"id":1}]`, source.ReasonPayloadMalformed},
		{"NoJSON", `payload`, `[`, source.ReasonPayloadMalformed},
		{"OneWithoutID", `payload`, `[{"id": 1}, {"ID": 2}]`, source.ReasonIDMissing},
		{"NoObjects", `payload`, `[1, 2]`, source.ReasonIDMissing},
		{"NumberedNames", `[{1: 'x'}]`, `[]`, source.ReasonPayloadMalformed},
		{"NoNumber", `[{'id': 'a', 'n': double('NaN')}]`, `[]`, source.ReasonPayloadMalformed},
		{"NoJSONValue", `[{'id': 'a', 'n': duration('1s')}]`, `[]`, source.ReasonPayloadMalformed},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			s, set := hmacSource(t, `{"signature_header": "X-Sig", "items": "`+c.items+`", "id": "payload.id"}`)
			_, err := s.Events(source.Request{Body: []byte(c.body)}, set)
			requireReason(t, err, c.reason)
		})
	}
}

// Expressions that are dear for each of many events are stopped for all of them, rather than naming some.
func TestItemsHaveOneBudget(t *testing.T) {
	t.Parallel()
	s, set := hmacSource(t, `{"signature_header": "X-Sig", "items": "payload.events", "id": "payload.id",
		"type": "string(size(payload.list.filter(a, payload.list.exists(b, a + b < 0))))"}`)
	list := `[1` + strings.Repeat(",1", 99) + `]`
	body := func(events int) []byte {
		return []byte(`{"events": [` + strings.TrimSuffix(strings.Repeat(`{"id": "x", "list": `+list+`},`, events), ",") + `]}`)
	}
	events, err := s.Events(source.Request{Body: body(3)}, set)
	require.NoError(t, err)
	require.Equal(t, "0", events[0].Type)
	_, err = s.Events(source.Request{Body: body(500)}, set)
	requireReason(t, err, source.ReasonPayloadMalformed)

	s, set = hmacSource(t, `{"signature_header": "X-Sig", "items": "payload", `+genericNames+`, "sequence": "payload.version"}`)
	many := "[" + strings.TrimSuffix(strings.Repeat(string(s.Samples[0].Body("id", noon))+",", 5000), ",") + "]"
	events, err = s.Events(source.Request{Body: []byte(many)}, set)
	require.NoError(t, err)
	require.Len(t, events, 5000)
}

func TestFormBecomesADocument(t *testing.T) {
	t.Parallel()
	const body = `id=o-1&kind=order.paid&at=1772625600&n=12&note=a+%C3%A9%26&tag=x&tag=y&empty=&bare`
	eachNaming(t, `"body": "form", "id": "payload.id", "type": "payload.kind", "time": "payload.at", "entity": "'order:' + payload.id", "sequence": "payload.n"`,
		func(t *testing.T, s source.Source, set source.Settings) {
			events, err := s.Events(source.Request{Body: []byte(body)}, set)
			require.NoError(t, err)
			require.Equal(t, []source.Event{{
				ID: "o-1", Type: "order.paid", OccurredAt: at(t, "2026-03-04T12:00:00Z"), Entity: "order:o-1", Sequence: new(int64(12)),
			}}, named(events))
			require.JSONEq(t, `{"id": "o-1", "kind": "order.paid", "at": "1772625600", "n": "12", "note": "a é&", "tag": ["x", "y"], "empty": "", "bare": ""}`,
				string(events[0].Payload))
			for _, odd := range []string{"a=%zz", "a=1;b=2"} {
				_, err = s.Events(source.Request{Body: []byte(odd)}, set)
				requireReason(t, err, source.ReasonPayloadMalformed)
			}
		})
}

func TestFormWithoutExpressionsIsADocumentToo(t *testing.T) {
	t.Parallel()
	s, set := hmacSource(t, `{"signature_header": "X-Sig", "body": "form"}`)
	events, err := s.Events(source.Request{Body: []byte("b=2&a=1")}, set)
	require.NoError(t, err)
	require.JSONEq(t, `{"a":"1","b":"2"}`, string(events[0].Payload))
	require.Regexp(t, "^sha256:", events[0].ID)
}

func TestSampleOfAFormIsAForm(t *testing.T) {
	t.Parallel()
	s, set := hmacSource(t, `{"signature_header": "X-Sig", "body": "form", "id": "payload.id", "type": "payload.type", "time": "payload.created_at"}`)
	r := subject{Source: s, settings: set}.deliver(t, s.Samples[0], `a&b="é"`, source.Trial{Sign: "a plain secret"})
	require.Equal(t, "application/x-www-form-urlencoded", r.Header.Get("Content-Type"))
	events, err := s.Events(r, set)
	require.NoError(t, err)
	require.Equal(t, []source.Event{{ID: `a&b="é"`, Type: s.Samples[0].Type, OccurredAt: noon}}, named(events))
}

// A secret must not become the name of an event, which is stored and shown.
func TestExpressionsDoNotSeeTheProof(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{
		"basic": `{"id": "header['authorization']"}`, "bearer": `{"header": "X-Token", "id": "header['x-token']"}`,
		"hmac": `{"signature_header": "X-Sig", "id": "header['x-sig']"}`, "servicenow": `{"auth": "bearer", "id": "header['authorization']"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := source.Get(name)
			set, faults := s.ParseSettings(json.RawMessage(settings))
			require.Empty(t, faults)
			_, err := s.Events(source.Request{Header: headers("Authorization", "proof", "X-Token", "proof", "X-Sig", "proof"), Body: []byte(`{}`)}, set)
			requireReason(t, err, source.ReasonIDMissing)
		})
	}
}

// What is said of the settings to a person is what is read.
func TestEverySettingIsDescribed(t *testing.T) {
	t.Parallel()
	for _, s := range source.All() {
		_, faults := s.ParseSettings(json.RawMessage(`{"no_such_setting": true}`))
		var message string
		for _, fault := range faults {
			if fault.Place == "no_such_setting" {
				message = fault.Message
			}
		}
		require.NotEmpty(t, message, s.Name)
		_, list, _ := strings.Cut(message, "; it has ")
		var described []string
		for _, setting := range s.Settings {
			require.NotEmpty(t, setting.Help)
			described = append(described, setting.Name)
		}
		if list == "" {
			require.Empty(t, described, s.Name)
			continue
		}
		require.ElementsMatch(t, strings.Split(list, ", "), described, s.Name)
	}
}
