package llm_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/llm"
	"sluice/scripted"
)

const testKey = "sk-test-abcdefghijkl-WXYZ"

var testSchema = json.RawMessage(`{"type":"object","properties":{"reply":{"type":"string","minLength":3}},"required":["reply"]}`)

func request(model string) llm.Request {
	return llm.Request{Model: model, System: "You triage.", User: "The export is broken", MaxOutputTokens: 200, APIKey: testKey, RequestID: "req-1"}
}

// ended is the error of a call, which has to be one of ours.
func ended(t *testing.T, err error) *llm.Error {
	t.Helper()
	var fault *llm.Error
	require.ErrorAs(t, err, &fault)
	require.NotContains(t, err.Error(), testKey)
	require.NotContains(t, err.Error(), testKey[len(testKey)-4:])
	return fault
}

// setup is a client on a scripted provider, with a call timeout no test waits for.
func setup(t *testing.T) (*llm.Client, *scripted.Provider) {
	t.Helper()
	return setupWith(t, llm.Config{Timeout: time.Minute})
}

// setupWith is setup with a client of config.
func setupWith(t *testing.T, config llm.Config) (*llm.Client, *scripted.Provider) {
	t.Helper()
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, provider.Close()) })
	http := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(http.CloseIdleConnections)
	config.Providers = []llm.Provider{llm.NewScripted(llm.ProviderConfig{HTTP: http, BaseURL: provider.URL(), Now: time.Now})}
	config.Now = time.Now
	return llm.New(config), provider
}

// vendor is a client with both vendors' providers on a server that answers every request with handler.
func vendor(t *testing.T, handler http.HandlerFunc) *llm.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c := llm.ProviderConfig{HTTP: server.Client(), BaseURL: server.URL, Now: func() time.Time { return testTime }}
	return llm.New(llm.Config{Providers: []llm.Provider{llm.NewAnthropic(c), llm.NewOpenAI(c)}, Now: time.Now})
}

var testTime = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestParseModel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, provider, model string }{
		{"anthropic/claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"},
		{"openai/ft:gpt-4o/mine", "openai", "ft:gpt-4o/mine"},
		{"claude-sonnet-4-5", "", ""},
		{"/x", "", ""},
		{"openai/", "", ""},
		{"openai/gpt 5", "", ""},
		{"", "", ""},
	} {
		provider, model, err := llm.ParseModel(c.in)
		require.Equal(t, c.provider == "", err != nil, c.in)
		require.Equal(t, c.provider, provider)
		require.Equal(t, c.model, model)
	}
}

func TestRequestHidesItsKey(t *testing.T) {
	t.Parallel()
	r := request("echo-1")
	for _, s := range []string{r.String(), r.GoString()} {
		require.NotContains(t, s, testKey)
		require.NotContains(t, s, r.User)
	}
}

func TestCompleteOverBothProtocols(t *testing.T) {
	t.Parallel()
	client, provider := setup(t)
	for i, model := range []string{"echo-1", "chat-echo-1", "cached-1", "chat-cached-1"} {
		r := request(model)
		r.Schema = testSchema
		reply, err := client.Complete(t.Context(), "scripted", "operator", r)
		require.NoError(t, err, model)
		require.JSONEq(t, `{"reply":"The export is broken"}`, reply.Text)
		require.Equal(t, llm.FinishStop, reply.Finish)
		require.Equal(t, model, reply.ModelServed)
		require.Empty(t, reply.UsageFault)

		entry := provider.Journal()[i]
		require.True(t, entry.Billed)
		require.Equal(t, llm.Usage(entry.Usage), reply.Usage, "the reply's usage is the journal's, bucket by bucket")
		require.Equal(t, entry.ResponseID, reply.ResponseID)
		require.Equal(t, "WXYZ", entry.KeyLast4)
		require.Equal(t, "req-1", entry.RequestID)
		require.Equal(t, r.User, entry.Prompt)
		require.Equal(t, r.System, entry.System)
		require.True(t, json.Valid(reply.RawUsage))
	}
	require.Equal(t, []string{"scripted"}, client.Providers())
}

func TestCompleteOutcomesByModel(t *testing.T) {
	t.Parallel()
	client, _ := setup(t)
	for _, c := range []struct {
		model  string
		kind   llm.Kind
		status int
		sent   bool
		finish llm.Finish
		fault  string
	}{
		{model: "refuse-1", finish: llm.FinishRefused},
		{model: "truncate-1", finish: llm.FinishTruncated},
		{model: "garbage-1", finish: llm.FinishStop},
		{model: "wrong-schema-1", finish: llm.FinishStop},
		{model: "usage-missing-1", finish: llm.FinishStop, fault: "the reply carries no usage"},
		{model: "rate-limit-1", kind: llm.KindRateLimited, status: 429},
		{model: "quota-1", kind: llm.KindQuotaExhausted, status: 429},
		{model: "overloaded-1", kind: llm.KindOverloaded, status: 529},
		{model: "error-1", kind: llm.KindUnavailable, status: 500},
		{model: "unauthorized-1", kind: llm.KindCredentialRejected, status: 401},
		{model: "no-such-1", kind: llm.KindBadRequest, status: 404},
		{model: "bad-body-1", kind: llm.KindMalformedReply, status: 200, sent: true},
		{model: "drop-1", kind: llm.KindUnavailable, sent: true},
	} {
		for _, prefix := range []string{"", "chat-"} {
			t.Run(prefix+c.model, func(t *testing.T) {
				t.Parallel()
				r := request(prefix + c.model)
				r.Schema = testSchema
				// Each in its own name: a rate limit holds for all models of a key.
				reply, err := client.Complete(t.Context(), "scripted", prefix+c.model, r)
				if c.kind == "" {
					require.NoError(t, err)
					require.Equal(t, c.finish, reply.Finish)
					require.Equal(t, c.fault, reply.UsageFault)
					require.NotEmpty(t, reply.Text)
					return
				}
				fault := ended(t, err)
				require.Equal(t, c.kind, fault.Kind, err)
				require.Equal(t, c.status, fault.Status)
				require.Equal(t, c.sent, fault.Sent)
				require.Equal(t, c.kind == llm.KindRateLimited, fault.RetryAfter > 0)
			})
		}
	}
}

func TestCompleteRefusesWhatCannotBeMeant(t *testing.T) {
	t.Parallel()
	client, provider := setup(t)
	for name, change := range map[string]func(*llm.Request){
		"no model":         func(r *llm.Request) { r.Model = "" },
		"no prompt":        func(r *llm.Request) { r.User = "" },
		"no output":        func(r *llm.Request) { r.MaxOutputTokens = 0 },
		"schema not JSON":  func(r *llm.Request) { r.Schema = json.RawMessage("{") },
		"no key":           func(r *llm.Request) { r.APIKey = " " },
		"key with newline": func(r *llm.Request) { r.APIKey = "sk-1\nX: y" },
		"request id":       func(r *llm.Request) { r.RequestID = "a\r\nb" },
	} {
		r := request("echo-1")
		change(&r)
		r.Sending = func(context.Context) error { t.Error("nothing is sent"); return nil }
		_, err := client.Complete(t.Context(), "scripted", "operator", r)
		var fault *llm.Error
		require.ErrorAs(t, err, &fault, name)
		require.False(t, fault.Sent, name)
	}
	_, err := client.Complete(t.Context(), "nobody", "operator", request("echo-1"))
	require.ErrorContains(t, err, `provider "nobody": expected one of scripted`)
	require.Zero(t, provider.Total())
	require.Empty(t, client.States(), "what is refused here makes no breaker")
}

func TestSending(t *testing.T) {
	t.Parallel()
	client, provider := setup(t)

	r := request("echo-1")
	calls := 0
	r.Sending = func(context.Context) error {
		calls++
		require.Zero(t, provider.Total(), "sending comes before the POST")
		return nil
	}
	_, err := client.Complete(t.Context(), "scripted", "operator", r)
	require.NoError(t, err)
	require.Equal(t, 1, calls)

	fenced := errors.New("the epoch is over")
	for _, model := range []string{"echo-1", "chat-echo-1"} {
		for range 20 {
			r = request(model)
			r.Sending = func(context.Context) error { return fenced }
			_, err = client.Complete(t.Context(), "scripted", "operator", r)
			require.Same(t, fenced, err)
		}
	}
	require.Equal(t, 1, provider.Total(), "an error of sending aborts the call")
	for _, s := range client.States() {
		require.Equal(t, "closed", s.State)
		require.Zero(t, s.Failures)
	}
}

func TestNothingLeavesWhenNobodyListens(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	url := server.URL
	server.Close()
	c := llm.ProviderConfig{HTTP: &http.Client{Transport: &http.Transport{}}, BaseURL: url, Now: time.Now}
	client := llm.New(llm.Config{Providers: []llm.Provider{llm.NewAnthropic(c), llm.NewOpenAI(c)}, Now: time.Now})
	for _, provider := range client.Providers() {
		_, err := client.Complete(t.Context(), provider, "operator", request("m"))
		fault := ended(t, err)
		require.Equal(t, llm.KindUnavailable, fault.Kind)
		require.False(t, fault.Sent)
	}
}

func TestCancelledCall(t *testing.T) {
	t.Parallel()
	client, provider := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := client.Complete(ctx, "scripted", "operator", request("hang-1"))
		result <- err
	}()
	_, err := provider.Wait(t.Context(), 1)
	require.NoError(t, err)
	cancel()
	err = <-result
	fault := ended(t, err)
	require.Equal(t, llm.KindCancelled, fault.Kind)
	require.True(t, fault.Sent)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, client.States()[0].Failures, "our own cancelling says nothing about the provider")

	_, err = client.Complete(ctx, "scripted", "operator", request("hang-1"))
	require.False(t, ended(t, err).Sent, "a context that ended before sends nothing")
	require.Equal(t, 1, provider.Total())
}

func TestRepliesThatAreNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		kind    llm.Kind
		sent    bool
	}{
		"empty object":     {answer(200, `{}`), llm.KindMalformedReply, true},
		"error with 200":   {answer(200, `{"type":"error","error":{"type":"api_error","message":"x"}}`), llm.KindUnavailable, true},
		"not JSON":         {answer(200, `It works`), llm.KindMalformedReply, true},
		"a list":           {answer(200, `[]`), llm.KindMalformedReply, true},
		"null":             {answer(200, `null`), llm.KindMalformedReply, true},
		"nothing":          {answer(204, ``), llm.KindMalformedReply, true},
		"too large":        {answer(200, strings.Repeat(" ", 4<<20)+" {}"), llm.KindMalformedReply, true},
		"redirect":         {answer(302, ``, "Location", "http://127.0.0.1:1/"), llm.KindUnavailable, false},
		"body cut short":   {answer(200, `{"id":`, "Content-Length", "1000"), llm.KindUnavailable, true},
		"gateway page":     {answer(502, `<html>Bad Gateway</html>`), llm.KindUnavailable, true},
		"gateway time out": {answer(504, `upstream request timeout`), llm.KindUnavailable, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := vendor(t, c.handler)
			for _, provider := range client.Providers() {
				_, err := client.Complete(t.Context(), provider, "operator", request("m"))
				fault := ended(t, err)
				require.Equal(t, c.kind, fault.Kind, provider)
				require.Equal(t, c.sent, fault.Sent, provider)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSentIsFalseOnlyOnProof(t *testing.T) {
	t.Parallel()
	guarded := errors.New("address is private")
	for name, c := range map[string]struct {
		transport http.RoundTripper
		sent      bool
	}{
		"refused while dialling":         {&http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, guarded }}, false},
		"a transport that tells nothing": {roundTripper(func(*http.Request) (*http.Response, error) { return nil, guarded }), true},
	} {
		p := llm.NewOpenAI(llm.ProviderConfig{HTTP: &http.Client{Transport: c.transport}, BaseURL: "http://provider.test/v1", Now: time.Now})
		_, err := llm.New(llm.Config{Providers: []llm.Provider{p}, Now: time.Now}).Complete(t.Context(), "openai", "operator", request("m"))
		fault := ended(t, err)
		require.Equal(t, c.sent, fault.Sent, name)
		require.Equal(t, "address is private", fault.Message, name)
	}
}
