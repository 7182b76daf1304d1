package source_test

import (
	"encoding/json"
	"net/http"
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

// FuzzVerify: no header and no body makes Verify panic, or hold without the signature of the secret.
func FuzzVerify(f *testing.F) {
	for _, v := range vectors {
		for name, value := range v.header {
			f.Add(name, value, []byte(v.body), v.at.Unix())
		}
	}
	f.Add("Stripe-Signature", "t=1,v1=,v1=zz,,=", []byte("{}"), int64(1))
	f.Add("Webhook-Signature", "v1, v1,, ,v1", []byte{0xff}, int64(-1))
	f.Fuzz(func(t *testing.T, name, value string, body []byte, seconds int64) {
		for _, s := range subjects(t) {
			h := http.Header{}
			for _, one := range []string{"X-Sig", "X-Time", "X-Id", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
				h.Set(one, value)
			}
			h.Set(name, value)
			r := source.Request{Method: http.MethodPost, URL: publicURL, Header: h, Body: body, ReceivedAt: time.Unix(seconds, 0)}
			matched, err := s.Verify(r, s.secrets(), s.settings)
			require.Equal(t, -1, matched)
			var refusal *source.Refusal
			require.ErrorAs(t, err, &refusal)
		}
	})
}

// FuzzEvents: no payload makes Events panic, or name an event that cannot be stored; the same request names the same.
func FuzzEvents(f *testing.F) {
	for _, s := range source.All() {
		for _, sample := range s.Samples {
			f.Add("application/json", "issues", "id-1", sample.Body("id-1", noon))
		}
	}
	f.Add("application/x-www-form-urlencoded", "push", "\xff", []byte("payload=%7B%22ref%22%3A%22x%22%7D"))
	f.Add("", "dependabot_alert", strings.Repeat("x", 300), []byte(`{"id":1e400,"created":-1,"data":{"id":123456789012345678901234567890}}`))
	f.Fuzz(func(t *testing.T, media, kind, id string, body []byte) {
		h := headers("Content-Type", media, "X-GitHub-Event", kind, "X-GitHub-Delivery", id, "X-Shopify-Topic", kind,
			"X-Shopify-Event-Id", id, "Webhook-Id", id, "X-Id", id)
		r := source.Request{Method: http.MethodPost, URL: publicURL, Header: h, Body: body, ReceivedAt: noon}
		for _, s := range subjects(t) {
			events, err := s.Events(r, s.settings)
			if err != nil {
				var refusal *source.Refusal
				require.ErrorAs(t, err, &refusal)
				continue
			}
			requireFit(t, events)
			again, err := s.Events(r, s.settings)
			require.NoError(t, err)
			require.Equal(t, events, again)
		}
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

// FuzzHMACSettings: no settings make ParseSettings panic, and those it takes can sign and verify.
func FuzzHMACSettings(f *testing.F) {
	for _, raw := range traits["hmac"].tried {
		f.Add([]byte(raw))
	}
	f.Add([]byte(`{"signature_header":"X","signed_string":"{{body}","id":"payload[0"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, _ := source.Get("hmac")
		settings, faults := s.ParseSettings(json.RawMessage(raw))
		if len(faults) > 0 {
			require.Nil(t, settings)
			return
		}
		secret, err := s.NewSecret()
		require.NoError(t, err)
		require.NoError(t, s.CheckSecret(secret, settings))
		one := subject{Source: s, settings: settings}
		r := one.deliver(t, s.Samples[0], "id-1", source.Trial{Sign: secret, Verify: secret})
		_, err = s.Verify(r, []string{secret}, settings)
		require.NoError(t, err)
	})
}
