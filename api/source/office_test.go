package source_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// read is a payload and what a source makes of it.
type read struct {
	title  string
	header http.Header
	body   string
	want   source.Event
	reason string // of the refusal, where there is no event
}

// requireRead holds what a source reads of some payloads against what is wanted, second keys and payloads left out.
func requireRead(t *testing.T, name string, all []read) {
	t.Helper()
	s, found := source.Get(name)
	require.True(t, found)
	for _, c := range all {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			events, err := s.Events(source.Request{Header: c.header, Body: []byte(c.body), ReceivedAt: noon}, nil)
			if c.reason != "" {
				requireReason(t, err, c.reason)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []source.Event{c.want}, named(events))
		})
	}
}

// deliveryOf signs a body of one's own as the source would, and has it arrive at once.
func deliveryOf(t *testing.T, name, secret, id, body string) source.Request {
	t.Helper()
	s, found := source.Get(name)
	require.True(t, found)
	signed, err := s.Sign(source.SignInput{Method: http.MethodPost, URL: publicURL, Body: []byte(body), Secret: secret, ID: id, At: noon})
	require.NoError(t, err)
	return source.Request{Method: http.MethodPost, URL: publicURL, Header: signed.Header, Body: signed.Body, ReceivedAt: noon}
}

// idOf is the id of the only event of a body.
func idOf(t *testing.T, name, body string) string {
	t.Helper()
	s, _ := source.Get(name)
	events, err := s.Events(source.Request{Body: []byte(body), ReceivedAt: noon}, nil)
	require.NoError(t, err)
	require.Len(t, events, 1)
	return events[0].ID
}

// forgery is a header that was changed, and the reason for which it is refused.
type forgery struct{ header, value, reason string }

// requireRefused changes one header of a signed delivery after the other.
func requireRefused(t *testing.T, name, secret string, all []forgery) {
	t.Helper()
	s, _ := source.Get(name)
	for _, c := range all {
		t.Run(c.header+"/"+c.value, func(t *testing.T) {
			t.Parallel()
			r := deliveryOf(t, name, secret, "id-1", `[{"eventId":1}]`)
			_, err := s.Verify(r, []string{secret}, nil)
			require.NoError(t, err)
			r.Header.Set(c.header, c.value)
			_, err = s.Verify(r, []string{secret}, nil)
			requireReason(t, err, c.reason)
		})
	}
}

// get finds a source that is there.
func get(t *testing.T, name string) source.Source {
	t.Helper()
	s, found := source.Get(name)
	require.True(t, found, name)
	return s
}
