package source_test

import (
	"encoding/json"
	"hash/fnv"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func requireFit(t *testing.T, events []source.Event) {
	t.Helper()
	require.NotEmpty(t, events)
	for _, e := range events {
		require.NotEmpty(t, e.ID)
		for text, limit := range map[string]int{e.ID: 256, e.Entity: 256} {
			require.LessOrEqual(t, utf8.RuneCountInString(text), limit)
		}
		require.LessOrEqual(t, utf8.RuneCountInString(e.Type), 128)
		for _, text := range []string{e.ID, e.Type, e.Entity} {
			require.True(t, utf8.ValidString(text))
			require.False(t, strings.ContainsFunc(text, unicode.IsControl))
		}
		require.True(t, e.OccurredAt.IsZero() || (e.OccurredAt.Year() >= 1970 && e.OccurredAt.Year() <= 9999))
	}
}

// primed is a subject with a delivery that was signed with a key that it is not given.
type primed struct {
	subject
	forged source.Request
}

// primedSubjects primes every sample of every subject, by title. Keys are made once, for that takes longer than a thousand trials.
func primedSubjects(tb testing.TB) (titles []string, all map[string]primed) {
	tb.Helper()
	all = map[string]primed{}
	for _, s := range subjects(tb) {
		for _, sample := range s.Samples {
			r := s.deliver(tb, sample, "id-1", s.keys[2])
			r.Certificate, r.Roots = s.keys[0].Certificate, s.keys[0].Roots
			title := s.title + "/" + sample.Type
			all[title] = primed{s, r}
			titles = append(titles, title)
		}
	}
	slices.Sort(titles)
	return titles, all
}

// choose finds what a title stands for, so that a seed stays with its source when others come; any other text is one of them too.
func choose(titles []string, all map[string]primed, title string) primed {
	if one, found := all[title]; found {
		return one
	}
	h := fnv.New32a()
	_, _ = io.WriteString(h, title)
	return all[titles[h.Sum32()%uint32(len(titles))]]
}

// with gives the delivery another header and body.
func (p primed) with(name, value string, body []byte) source.Request {
	r := p.forged
	r.Header = r.Header.Clone()
	if name != "" {
		r.Header.Set(name, value)
	}
	r.Body = body
	return r
}

// oddBodies are what a stranger could send in place of a document.
var oddBodies = []string{
	``, ` `, `null`, `[]`, `{}`, `[[]]`, `[{}]`, `[null]`, `"text"`, `0`, "\xff", "{\"id\":\"\xff\"}", `{"id":"\ud800"}`, `{"id":1e400}`,
	`payload=%7B%22ref%22%3A%22x%22%7D`, `a=1&a=2&=`, `%zz`, `<a/>`, strings.Repeat("[", 10_001), strings.Repeat(`{"a":`, 10_001),
	`{"id":null,"type":null,"created":-1,"data":{"id":123456789012345678901234567890}}`, `{"data":[],"event":[],"payload":1,"value":[1,{}]}`,
	`{"id":"\u0000","type":"a\u0000b"}`, `{"\u0000":"\u0000"}`, "\xef\xbb\xbf{}", `{"id":"1","id":"2","type":"a","type":"b"}`, `{"id":NaN}`, `{"id":1e999,"created":1e999,"timestamp":-1e999}`,
	`{"id":"\udc00\ud800","type":"\ud800x"}`, "{\"type\":\"\u202e\u200b\"}", "a=%00&a=%FF&\x00=\x00", `<a b="` + "\x00" + `">`, `<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`, strings.Repeat("<a>", 10_001),
	`{"items":[` + strings.Repeat(`{},`, 1000) + `{}]}`, `[` + strings.Repeat(`{"event":"x"},`, 1000) + `{}]`, strings.Repeat("a=1&", 10_000),
}

// What naming a delivery may allocate, in all: a floor, and a factor for every byte of it.
const (
	eventsAllocMax = 1 << 20
	eventsPerByte  = 1 << 10
)

// FuzzVerify: no header and no body makes Verify panic, or hold without the signature of a secret that it was given.
func FuzzVerify(f *testing.F) {
	titles, all := primedSubjects(f)
	for _, title := range titles {
		r := all[title].forged
		f.Add(title, "", "", r.Body, noon.Unix())
		for name, values := range r.Header {
			f.Add(title, name, values[0], r.Body, noon.Unix())
			f.Add(title, name, values[0]+", "+values[0], []byte("{}"), int64(-1))
		}
	}
	for _, v := range vectors {
		for name, value := range v.header {
			f.Add(v.source, name, value, []byte(v.body), v.at.Unix())
		}
	}
	f.Add("stripe", "Stripe-Signature", "t=1,v1=,v1=zz,,=", []byte("{}"), int64(1))
	f.Add("standard", "Webhook-Signature", "v1, v1,, ,v1", []byte{0xff}, int64(-1))
	f.Fuzz(func(t *testing.T, title, name, value string, body []byte, seconds int64) {
		s := choose(titles, all, title)
		r := s.with(name, value, body)
		r.ReceivedAt = time.Unix(seconds, 0)
		if s.proxied != nil && len(body)%2 == 0 {
			r.Proxy = headers(name, value)
		}
		if s.Challenge != nil {
			_ = s.Challenge(r)
		}
		if s.CertificateURL != nil {
			_, err := s.CertificateURL(r)
			requireRefusal(t, err)
		}
		secrets := s.secrets()[:2]
		if slices.ContainsFunc(secrets, func(secret string) bool { return secret != "" && strings.Contains(value+string(body), secret) }) {
			return // a token that was not guessed but given
		}
		matched, err := s.Verify(r, secrets, s.settings)
		require.Equal(t, -1, matched)
		require.Error(t, err, s.title)
		requireRefusal(t, err)
	})
}

// requireRefusal holds for no error and a *Refusal.
func requireRefusal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		var refusal *source.Refusal
		require.ErrorAs(t, err, &refusal)
	}
}

// FuzzEvents: no payload makes Events or Handshake panic, or name an event that cannot be stored; the same request names the same.
func FuzzEvents(f *testing.F) {
	titles, all := primedSubjects(f)
	for _, title := range titles {
		r := all[title].forged
		f.Add(title, "", "", r.Body)
		for name := range r.Header {
			f.Add(title, name, "\xff", r.Body)
		}
	}
	for _, s := range source.All() {
		for _, odd := range oddBodies {
			f.Add(titles[slices.IndexFunc(titles, func(title string) bool { return all[title].Name == s.Name })], "", "", []byte(odd))
		}
	}
	f.Add("github", "X-Github-Event", "dependabot_alert", []byte(`{"id":1e400,"created":-1,"data":{"id":123456789012345678901234567890}}`))
	f.Add("github", "X-Github-Delivery", strings.Repeat("x", 300), []byte(`{}`))
	f.Fuzz(func(t *testing.T, title, name, value string, body []byte) {
		s := choose(titles, all, title)
		r := s.with(name, value, body)
		if s.Handshake != nil && s.Handshake(r, s.keys[0].Verify, s.settings) != nil {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		events, err := s.Events(r, s.settings)
		runtime.ReadMemStats(&after)
		require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(eventsAllocMax+eventsPerByte*len(body)), "bounded by what was sent")
		if err != nil {
			requireRefusal(t, err)
			return
		}
		requireFit(t, events)
		again, err := s.Events(r, s.settings)
		require.NoError(t, err)
		require.Equal(t, events, again)
	})
}

// FuzzDocument: what is read of a document is what encoding/json reads of it, the last of repeated members included.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "type" : "a" , "timestamp" : 1 } `, `{"type":"a","type":"b"}`, `{"t\u0079pe":"a\"b\\"}`, `{"a":[{"}":"]"},[]],"type":"x"}`,
		`{"data":{"id":12345678901234567890},"type":"x.y"}`, `{"data":[],"type":null}`, `{"data":{"id":"\ud800"},"type":"é"}`, "{\"type\":\"\xff\"}",
		`{"type":"a","data":{"id":-0}}`, `{"type":"a","data":{"id":1.0}}`, `[]`, `1`, ``,
	} {
		f.Add([]byte(seed))
	}
	standard, _ := source.Get("standard")
	f.Fuzz(func(t *testing.T, body []byte) {
		events, err := standard.Events(source.Request{Header: headers("Webhook-Id", "id-1"), Body: body}, nil)
		require.Equal(t, json.Valid(body), err == nil)
		var want struct{ doc, data map[string]json.RawMessage }
		if err != nil || json.Unmarshal(body, &want.doc) != nil {
			return
		}
		var kind, text string
		_ = json.Unmarshal(want.doc["type"], &kind)
		if len(kind) > 64 || strings.ContainsFunc(kind, unicode.IsControl) {
			return
		}
		require.Equal(t, kind, events[0].Type)
		_ = json.Unmarshal(want.doc["data"], &want.data)
		noun, _, _ := strings.Cut(kind, ".")
		if json.Unmarshal(want.data["id"], &text) != nil || len(text) > 64 || strings.ContainsFunc(text, unicode.IsControl) {
			return
		}
		if noun == "" || text == "" {
			require.Empty(t, events[0].Entity)
			return
		}
		require.Equal(t, noun+":"+text, events[0].Entity)
	})
}

// FuzzGenericSettings: no settings make ParseSettings panic, and those it takes can sign, verify and name.
func FuzzGenericSettings(f *testing.F) {
	names := slices.Sorted(maps.Keys(namings))
	for _, name := range names {
		for _, raw := range traits[name].tried {
			f.Add(name, []byte(raw))
		}
	}
	f.Add("hmac", []byte(`{"signature_header":"X","signed_string":"{{body}","id":"payload[0"}`))
	f.Add("hmac", []byte(`{"signature_header":"X","signature_key":"v1","timestamp_key":"t","list_separator":" ","signed_string":"{timestamp}{body}"}`))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		if _, found := namings[name]; !found {
			name = names[len(name)%len(names)]
		}
		s, _ := source.Get(name)
		settings, faults := s.ParseSettings(json.RawMessage(raw))
		if len(faults) > 0 {
			require.Nil(t, settings)
			return
		}
		key := source.Trial{Sign: fingerprintSecret(0), Verify: fingerprintSecret(0)}
		if s.NewSecret != nil {
			secret, err := s.NewSecret()
			require.NoError(t, err)
			key = source.Trial{Sign: secret, Verify: secret}
		}
		require.NoError(t, s.CheckSecret(key.Verify, settings))
		r := subject{Source: s, settings: settings}.deliver(t, s.Samples[0], "id-1", key)
		if _, err := s.Verify(r, []string{key.Verify}, settings); name == "mtls_header" {
			require.Error(t, err) // no proxy
		} else {
			require.NoError(t, err)
		}
		events, err := s.Events(r, settings)
		if err != nil {
			requireRefusal(t, err)
			return
		}
		requireFit(t, events)
	})
}
