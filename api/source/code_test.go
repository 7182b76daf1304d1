package source_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// named1 is what the one event of a delivery must be named; the time in RFC 3339, "" for none, and 0 for no sequence.
type named1 struct {
	title      string
	header     http.Header
	body       string
	id, kind   string
	at, entity string
	sequence   int64
}

// requireNamed holds the events of deliveries against their names, under the settings.
func requireNamed(t *testing.T, name, settings string, cases []named1) {
	t.Helper()
	s, found := source.Get(name)
	require.True(t, found)
	set, faults := s.ParseSettings(json.RawMessage(settings))
	require.Empty(t, faults)
	for _, c := range cases {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			events, err := s.Events(source.Request{Header: c.header, Body: []byte(c.body), ReceivedAt: noon}, set)
			require.NoError(t, err)
			require.Len(t, events, 1)
			got := named(events)[0]
			if c.sequence == 0 {
				require.Nil(t, got.Sequence)
			} else {
				require.NotNil(t, got.Sequence)
				require.Equal(t, c.sequence, *got.Sequence)
				got.Sequence = nil
			}
			require.Equal(t, source.Event{ID: c.id, Type: c.kind, OccurredAt: at(t, c.at), Entity: c.entity}, got)
		})
	}
}

// unnamed is a delivery that rightly verified, and is refused nevertheless.
type unnamed struct {
	title        string
	header       http.Header
	body, reason string
}

func requireUnnamed(t *testing.T, name, settings string, cases []unnamed) {
	t.Helper()
	s, found := source.Get(name)
	require.True(t, found)
	set, faults := s.ParseSettings(json.RawMessage(settings))
	require.Empty(t, faults)
	for _, c := range cases {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			_, err := s.Events(source.Request{Header: c.header, Body: []byte(c.body), ReceivedAt: noon}, set)
			requireReason(t, err, c.reason)
		})
	}
}

// requireHeaderReasons changes one header of a vector at a time, and holds the refusals against their reasons.
func requireHeaderReasons(t *testing.T, title string, cases [][3]string) {
	t.Helper()
	for _, v := range vectors {
		if v.title != title {
			continue
		}
		s, _ := source.Get(v.source)
		settings, faults := s.ParseSettings(json.RawMessage(v.settings))
		require.Empty(t, faults)
		_, err := s.Verify(v.request(), []string{v.secret}, settings)
		require.NoError(t, err)
		for _, c := range cases {
			t.Run(c[0]+"/"+c[1][:min(len(c[1]), 24)], func(t *testing.T) {
				t.Parallel()
				r := v.request()
				r.Header.Set(c[0], c[1])
				_, err := s.Verify(r, []string{v.secret}, settings)
				requireReason(t, err, c[2])
			})
		}
		return
	}
	t.Fatal("no such vector")
}

// A status that drops events or switches a webhook off must not be sent by default.
func TestCodesOfSourcesWhoseRefusalsHaveSideEffects(t *testing.T) {
	t.Parallel()
	const (
		unauthorized, malformed, missing, large = http.StatusUnauthorized, http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge
		busy                                    = http.StatusServiceUnavailable
	)
	for name, want := range map[string]source.Codes{
		"gitlab":    {Refused: busy, Malformed: busy, TooLarge: busy, Disabled: busy, Busy: busy},
		"pagerduty": {Refused: busy, Malformed: malformed, TooLarge: large, Disabled: busy, Busy: busy},
		"discord":   {Refused: unauthorized, Malformed: malformed, TooLarge: large, Disabled: missing, Busy: busy},
	} {
		s, _ := source.Get(name)
		require.Equal(t, want, s.Codes, name)
	}
	pagerduty, _ := source.Get("pagerduty")
	require.Equal(t, &source.Answer{Status: http.StatusAccepted}, pagerduty.Accepted)
}

// hexSHA256 is the HMAC-SHA256 of a text, in hex.
func hexSHA256(key, text string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}
