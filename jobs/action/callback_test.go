package action_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

func callback(t *testing.T) action.Connector {
	t.Helper()
	c, ok := action.New(devDoor()).Get("callback")
	require.True(t, ok)
	return c
}

func TestCallbackIsSignedAsTheStandardSays(t *testing.T) {
	t.Parallel()
	target, url := listen(t)
	send, secret := ready(t, callback(t), url)
	other := newSecret(t)

	target.Script(scripted.TargetStep{Status: 500, Act: true}, scripted.TargetStep{Hang: true}, scripted.TargetStep{})
	var last error
	for attempt, secret := range []string{secret, secret, secret + " " + other} { // the secret is rotated between attempts
		send.Attempt, send.At, send.Secret = attempt+1, time.Now().Add(time.Duration(attempt)*time.Second), secret
		_, last = callback(t).Do(t.Context(), send)
	}
	require.NoError(t, last)

	entries := target.Journal()
	require.Len(t, entries, 3)
	for i, entry := range entries {
		require.Equal(t, "POST /hook token="+canary, entry.Method+" "+entry.Path+" "+entry.Query)
		require.Equal(t, entries[0].Body, entry.Body, "attempt %d", i+1)
		require.Equal(t, "act_1", entry.Header.Get("webhook-id"))
		require.Equal(t, "act_1", entry.Header.Get("Idempotency-Key"))
		require.Equal(t, "run_1 2", entry.Header.Get("Sluice-Run")+" "+entry.Header.Get("Sluice-Depth"))
		require.Equal(t, "Sluice/1", entry.Header.Get("User-Agent"))
		require.Equal(t, "application/json", entry.Header.Get("Content-Type"))
		verify(t, secret, entry)
	}
	verify(t, other, entries[2])
	require.NotEqual(t, entries[0].Header.Get("webhook-timestamp"), entries[2].Header.Get("webhook-timestamp"))
	require.True(t, entries[0].Acted && !entries[1].Acted && !entries[2].Acted, "the effect is made once")
	require.JSONEq(t, `{"type": "run.completed", "timestamp": "2026-03-04T05:06:07.89Z", "data": {
		"run_id": "run_1", "event_id": "evt_1", "automation_id": "aut_1", "automation_version": 3,
		"event_type": "issues.opened", "entity": "issue:1234", "depth": 2,
		"output": {"reply": "a < b & c", "b": 1, "a": [true, null]}}}`, string(entries[0].Body))

	require.Contains(t, string(entries[0].Body), "a < b & c", "as people would write it")

	tampered := entries[2]
	tampered.Body = append(bytes.Clone(tampered.Body), ' ')
	wh, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.Error(t, wh.Verify(tampered.Body, tampered.Header))
}

// verify checks a recorded request with the library of the specification's authors.
func verify(t *testing.T, secret string, entry scripted.TargetEntry) {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, wh.Verify(entry.Body, entry.Header))
}

// The example of the specification's libraries.
func TestCallbackSignsTheKnownMessage(t *testing.T) {
	t.Parallel()
	target, url := listen(t)
	_, err := callback(t).Do(t.Context(), action.Send{
		Key: "msg_p5jXN8AQM9LWM0D4loKWxJek", At: time.Unix(1614265330, 0), Access: action.Access{Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		Effect: action.Effect{
			Kind: "callback", URL: url, ContentType: "application/json", Signed: true, Body: []byte(`{"test": 2432232314}`),
		},
	})
	require.NoError(t, err)
	header := target.Journal()[0].Header
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", header.Get("webhook-signature"))
	require.Equal(t, strconv.Itoa(1614265330), header.Get("webhook-timestamp"))
}

func TestCallbackWithoutCredentialIsNotSigned(t *testing.T) {
	t.Parallel()
	target, url := listen(t)
	effect, err := callback(t).Prepare(params(t, callback(t), json.RawMessage(`{"kind": "callback", "url": "`+url+`"}`)), input())
	require.NoError(t, err)
	_, err = callback(t).Do(t.Context(), action.Send{Key: "act_1", Effect: effect, At: at})
	require.NoError(t, err)
	header := target.Journal()[0].Header
	require.NotContains(t, header, "Webhook-Signature")
	require.Equal(t, "act_1", header.Get("webhook-id"))
}

func TestCallbackThatCannotBeSentIsNotSent(t *testing.T) {
	t.Parallel()
	target, url := listen(t)
	for name, change := range map[string]struct {
		code   string
		change func(*action.Send)
	}{
		"secret is missing":    {"action.credential", func(s *action.Send) { s.Secret = "" }},
		"secret is no secret":  {"action.credential", func(s *action.Send) { s.Secret = canary }},
		"key is missing":       {"action.invalid", func(s *action.Send) { s.Key = "" }},
		"key has a full stop":  {"action.invalid", func(s *action.Send) { s.Key = "act_1.1614265330" }},
		"key is two headers":   {"action.invalid", func(s *action.Send) { s.Key = "act_1\r\nX-Other: y" }},
		"key is not ASCII":     {"action.invalid", func(s *action.Send) { s.Key = "äct" }},
		"key is too long":      {"action.invalid", func(s *action.Send) { s.Key = strings.Repeat("k", 257) }},
		"address is no longer": {"action.invalid", func(s *action.Send) { s.Effect.URL = "" }},
	} {
		send, secret := ready(t, callback(t), url)
		change.change(&send)
		_, err := callback(t).Do(t.Context(), send)
		got := failure(t, err)
		require.Equal(t, change.code, got.Code, name)
		require.Equal(t, action.Refused, got.Kind, name)
		require.False(t, got.Doubt, name)
		hides(t, secret, err)
	}
	require.Empty(t, target.Journal())
}

func TestCallbackCanceled(t *testing.T) {
	t.Parallel()
	target, url := listen(t)
	target.Script(scripted.TargetStep{Hang: true})
	send, _ := ready(t, callback(t), url)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = target.Wait(t.Context(), 1)
		cancel()
	}()
	_, err := callback(t).Do(ctx, send)
	got := failure(t, err)
	require.Equal(t, "action.canceled", got.Code)
	require.Equal(t, action.Retry, got.Kind)
	require.True(t, got.Doubt)
	require.ErrorIs(t, err, context.Canceled)
}

func TestCallbackBody(t *testing.T) {
	t.Parallel()
	with := func(body string) action.Params {
		p := params(t, callback(t), json.RawMessage(`{"kind": "callback", "url": "https://hook.example/", "body": "{{ output.reply }}"}`))
		p.Texts["body"] = body
		return p
	}
	for rendered, want := range map[string]struct{ contentType, body string }{
		`{"text": "hi"}`: {"application/json", `{"text": "hi"}`},
		` [1] `:          {"application/json", ` [1] `},
		`hello`:          {"text/plain; charset=utf-8", "hello"},
		`{"text": `:      {"text/plain; charset=utf-8", `{"text": `},
		"bad \xff byte":  {"text/plain; charset=utf-8", "bad \uFFFD byte"},
	} {
		effect, err := callback(t).Prepare(with(rendered), input())
		require.NoError(t, err)
		require.Equal(t, want.contentType, effect.ContentType, rendered)
		require.Equal(t, want.body, string(effect.Body), rendered)
	}

	_, err := callback(t).Prepare(with(""), input())
	require.Equal(t, "action.empty_body", failure(t, err).Code, "an empty template does not become the whole output")
	_, err = callback(t).Prepare(with(strings.Repeat("x", 1<<20+1)), input())
	require.Equal(t, "action.too_large", failure(t, err).Code)
	in := input()
	in.Output = func() {}
	_, err = callback(t).Prepare(params(t, callback(t), json.RawMessage(`{"kind": "callback", "url": "https://hook.example/"}`)), in)
	require.Equal(t, "action.invalid", failure(t, err).Code)
}

func TestCallbackTargetShowsNoToken(t *testing.T) {
	t.Parallel()
	for url, shown := range map[string]string{
		"https://hook.example":                        "https://hook.example",
		"https://hook.example:8443/a%2Fb":             "https://hook.example:8443/a%2Fb",
		"https://hook.example/a?token=1&b=&c=2=3&key": "https://hook.example/a?token=***&b=***&c=***&***",
		"https://hook.example/?token":                 "https://hook.example/?***",
		"https://hook.example/?a=1;b=2":               "https://hook.example/?a=***",
	} {
		effect, err := callback(t).Prepare(params(t, callback(t), written(t, map[string]string{"kind": "callback", "url": url})), input())
		require.NoError(t, err)
		require.Equal(t, shown, effect.Target)
		require.Equal(t, url, effect.URL)
	}
}

func TestCallbackFaults(t *testing.T) {
	t.Parallel()
	set := action.New(outbound.New(outbound.Config{}))
	strict, ok := set.Get("callback")
	require.True(t, ok)
	for params, places := range map[string][]string{
		`{"kind": "callback", "url": "https://hook.example/x"}`:                                       nil,
		`{"kind": "callback", "url": "https://hook.example/x", "body": "", "credential_id": "crd_1"}`: nil,
		`{"kind": "callback"}`:                                                                              {"action.url"},
		`{"kind": "callback", "url": ""}`:                                                                   {"action.url"},
		`{"kind": "callback", "url": null}`:                                                                 {"action.url"},
		`{"kind": "callback", "url": 1}`:                                                                    {"action.url"},
		`{"kind": "callback", "url": "http://hook.example/x"}`:                                              {"action.url"},
		`{"kind": "callback", "url": "https://169.254.169.254/"}`:                                           {"action.url"},
		`{"kind": "callback", "url": "http://127.0.0.1:8080/"}`:                                             {"action.url"},
		`{"kind": "callback", "url": "https://hook.example/", "credential_id": "key_1"}`:                    {"action.credential_id"},
		`{"kind": "callback", "url": "https://hook.example/", "credential_id": ""}`:                         {"action.credential_id"},
		`{"url": "https://hook.example/"}`:                                                                  {"action.kind"},
		`{"kind": 1, "url": "ftp://x", "credential_id": "", "body": {}, "headers": {}, "URL": "https://x"}`: {"action.URL", "action.body", "action.credential_id", "action.headers", "action.kind", "action.url"},
	} {
		var got []string
		for _, fault := range set.Check(strict, json.RawMessage(params)) {
			got = append(got, fault.Place)
			require.NotEmpty(t, fault.Message)
		}
		require.Equal(t, places, got, params)
	}
}

func TestCallbackSecretsAreOfTheStandard(t *testing.T) {
	t.Parallel()
	account, _ := action.New(devDoor()).Account("callback")
	of := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for secret, good := range map[string]bool{
		of(24): true, of(32): true, of(64): true, of(32) + " " + of(24): true,
		of(23): false, of(65): false, of(0): false, "whsec_": false, "whsec": false,
		of(32) + " ": false, of(32) + "  " + of(32): false, of(24) + " " + of(24) + " " + of(24): false,
		strings.TrimPrefix(of(32), "whsec_"): false, "whsk_" + of(32): false, of(32)[:30] + "\n" + of(32)[30:]: false,
		"whsec_" + strings.Repeat("!", 32): false, "WHSEC_" + of(32)[6:]: false,
	} {
		require.Equal(t, good, account.Check(secret) == nil, secret)
	}
}

func FuzzCallbackCheck(f *testing.F) {
	for _, seed := range []string{`{"kind": "callback", "url": "https://hook.example/"}`, `{"kind": null}`, `[]`} {
		f.Add([]byte(seed))
	}
	set := action.New(outbound.New(outbound.Config{}))
	c, _ := set.Get("callback")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(set.Check(c, raw)) > 0 {
			return
		}
		p := params(t, c, raw)
		p.Texts["body"] = "x"
		effect, err := c.Prepare(p, action.Input{})
		require.NoError(t, err, "what was saved can be prepared")
		require.True(t, strings.HasPrefix(strings.ToLower(effect.Target), "https://"))
		_, err = http.NewRequest(http.MethodPost, effect.URL, nil)
		require.NoError(t, err)
	})
}
