package source_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestGraphAnswersItsQuestion(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("microsoft_graph")
	ask := func(method, query string) *source.Answer {
		return s.Challenge(source.Request{Method: method, URL: publicURL + query, ReceivedAt: noon})
	}
	token := "Validation: Testing client application reachability for subscription Request-Id: 6b4a <script>alert(1)</script> +é"
	answer := ask(http.MethodPost, "?validationToken="+url.QueryEscape(token))
	require.NotNil(t, answer)
	require.Equal(t, http.StatusOK, answer.Status)
	require.Equal(t, token, string(answer.Body))
	require.Equal(t, "text/plain; charset=utf-8", answer.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", answer.Header.Get("X-Content-Type-Options"))
	require.Empty(t, answer.Visit)
	for _, query := range []string{
		"", "?", "?x=1", "?validationToken=", "?validationToken=a&validationToken=b", "?validationToken=%zz", "?validationToken=a%0d%0ab", "?validationToken=%ff",
		"?validationToken=" + strings.Repeat("a", 2049), "?ValidationToken=a",
	} {
		require.Nil(t, ask(http.MethodPost, query), query)
	}
	require.Nil(t, ask(http.MethodGet, "?validationToken=a"))
}

func TestGraphEveryNotificationMustHaveTheClientState(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("microsoft_graph")
	item := func(state string) string { return `{"id":"1","changeType":"created","clientState":` + state + `}` }
	for _, c := range []struct{ title, body, reason string }{
		{"One", `{"value":[` + item(`"secret-a"`) + `]}`, ""},
		{"BothSecrets", `{"value":[` + item(`"secret-a"`) + `,` + item(`"secret-b"`) + `]}`, ""},
		{"OneForged", `{"value":[` + item(`"secret-a"`) + `,` + item(`"forged"`) + `]}`, source.ReasonSignatureMismatch},
		{"OneWithout", `{"value":[` + item(`"secret-a"`) + `,{"id":"1"}]}`, source.ReasonSignatureMissing},
		{"Null", `{"value":[` + item(`null`) + `]}`, source.ReasonSignatureMissing},
		{"Prefix", `{"value":[` + item(`"secret"`) + `]}`, source.ReasonSignatureMismatch},
		{"NoItems", `{"value":[]}`, source.ReasonPayloadMalformed},
		{"NoObject", `{"value":["secret-a"]}`, source.ReasonPayloadMalformed},
		{"NoValue", `{"clientState":"secret-a"}`, source.ReasonPayloadMalformed},
		{"NoJSON", `secret-a`, source.ReasonPayloadMalformed},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			matched, err := s.Verify(source.Request{Body: []byte(c.body)}, []string{"secret-a", "secret-b"}, nil)
			if c.reason == "" {
				require.NoError(t, err)
				require.Zero(t, matched)
				return
			}
			requireReason(t, err, c.reason)
		})
	}
}

func TestGraphEvents(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("microsoft_graph")
	body := `{"value":[
		{"id":"n-1","changeType":"created","clientState":"the secret","resource":"Users/u/Messages/m","resourceData":{"@odata.type":"#Microsoft.Graph.Message","id":"m"}},
		{"id":"n-2","changeType":"updated","clientState":"the secret","resource":"drives/d/root"},
		{"subscriptionId":"s-1","lifecycleEvent":"missed","clientState":"the secret","tenantId":"t"}]}`
	r := source.Request{Body: []byte(body), ReceivedAt: noon}
	events, err := s.Events(r, nil)
	require.NoError(t, err)
	require.Equal(t, []source.Event{
		{ID: "n-1", Type: "message.created", Entity: "message:m"},
		{ID: "n-2", Type: "updated", Entity: "resource:drives/d/root"},
		{ID: events[2].ID, Type: "lifecycle.missed", Entity: "subscription:s-1"},
	}, named(events))
	for _, e := range events {
		require.NotContains(t, string(e.Payload), "the secret")
		require.Equal(t, "graph:"+e.ID, e.Once)
	}
	again, err := s.Events(r, nil)
	require.NoError(t, err)
	require.Equal(t, events, again)

	// Without an id of its own, the same text later is another change.
	r.ReceivedAt = noon.Add(time.Second)
	later, err := s.Events(r, nil)
	require.NoError(t, err)
	require.Equal(t, events[0], later[0])
	require.NotEqual(t, events[2].ID, later[2].ID)
	require.NotEqual(t, events[2].Once, later[2].Once)

	for _, rich := range []string{
		`{"value":[{"id":"1","changeType":"created"}],"validationTokens":["eyJ0"]}`, `{"value":[{"id":"1","changeType":"created","encryptedContent":{"data":"x"}}]}`,
		`{"value":[{"id":"1"}]}`,
	} {
		_, err := s.Events(source.Request{Body: []byte(rich), ReceivedAt: noon}, nil)
		requireReason(t, err, source.ReasonPayloadMalformed)
	}
	require.Equal(t, http.StatusAccepted, s.Accepted.Status)
	require.Error(t, s.CheckSecret(strings.Repeat("a", 129), nil))
}
