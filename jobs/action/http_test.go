package action_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

// httpEffect prepares an action object of the connector.
func httpEffect(t *testing.T, raw string) (action.Connector, action.Effect, error) {
	t.Helper()
	c, ok := action.New(devDoor()).Get("http")
	require.True(t, ok)
	effect, err := c.Prepare(params(t, c, json.RawMessage(`{"kind": "http", `+raw+`}`)), input())
	return c, effect, err
}

func TestHTTPChecks(t *testing.T) {
	t.Parallel()
	set := action.New(outbound.New(outbound.Config{}))
	c, _ := set.Get("http")
	const good = `"url": "https://api.example.com/x"`
	for raw, places := range map[string][]string{
		good + `, "json": "{}"`: nil,
		good + `, "body": "x"`:  nil,
		`"url": "https://api.example.com/{{ payload.id }}", "body": "x"`: nil,
		good:                                 {"action.json"},
		good + `, "json": "{}", "body": "x"`: {"action.body"},
		good + `, "json": "{}", "method": "DELETE"`:                          {"action.method"},
		good + `, "json": "{}", "method": "{{ payload.method }}"`:            {"action.method"},
		good + `, "json": "{}", "format": "xml"`:                             {"action.format"},
		good + `, "json": "{}", "header": "X-Api-Key"`:                       nil,
		good + `, "json": "{}", "header": "Host"`:                            {"action.header"},
		good + `, "json": "{}", "header": "content-length"`:                  {"action.header"},
		good + `, "json": "{}", "header": "X-A: b\r\nX-B"`:                   {"action.header"},
		good + `, "json": "{}", "header": ""`:                                {"action.header"},
		`"url": "https://{{ payload.host }}/x", "json": "{}"`:                {"action.url"},
		`"url": "https://10.0.0.1/{{ payload.id }}", "json": "{}"`:           {"action.url"},
		`"url": "http://api.example.com/{{ payload.id }}", "json": "{}"`:     {"action.url"},
		`"url": "https://api.example.com:22/x", "json": "{}"`:                {"action.url"},
		`"url": "https://u:p@api.example.com/{{ payload.x }}", "json": "{}"`: {"action.url"},
	} {
		var found []string
		for _, f := range set.Check(c, json.RawMessage(`{"kind": "http", `+raw+`}`)) {
			found = append(found, f.Place)
		}
		require.Equal(t, places, found, raw)
	}
}

func TestHTTPBodies(t *testing.T) {
	t.Parallel()
	const at = `"url": "https://api.example.com/x", `
	for raw, want := range map[string]string{
		at + `"json": "{\"b\": 12345678901234567890.10, \"a\": [true, null, \"x < y & z\"]}"`: `{"a":[true,null,"x < y & z"],"b":12345678901234567890.10}`,
		at + `"json": "{\"n\": \"=1+1 @all\"}", "format": "exact"`:                            `{"n":"=1+1 @all"}`,
		at + `"json": "{\"n\": \"a <b>\"}", "format": "slack"`:                                `{"n":"a &lt;b&gt;"}`,
		at + `"json": " [1] "`: `[1]`,
		at + `"body": "hello"`: `hello`,
	} {
		_, effect, err := httpEffect(t, raw)
		require.NoError(t, err, raw)
		require.Equal(t, want, string(effect.Body))
	}
	for raw, code := range map[string]string{
		at + `"json": "{\"n\": no}"`: action.CodeInvalid,
		at + `"json": "{} {}"`:       action.CodeInvalid,
		at + `"json": " "`:           action.CodeEmptyBody,
		at + `"body": "\n"`:          action.CodeEmptyBody,
		at + `"format": "exact", "body": "` + strings.Repeat("x", 1<<20) + `x"`: action.CodeTooLarge,
		`"url": "nowhere", "body": "x"`:                                         action.CodeTarget,
	} {
		_, _, err := httpEffect(t, raw)
		require.Equal(t, code, failure(t, err).Code)
		require.Equal(t, action.Refused, failure(t, err).Kind)
	}
}

// Whatever the model writes, nothing of it acts at a target that shows texts, be it a value or a name in the document.
func TestHTTPTextsAreHarmlessUnlessTheyAreData(t *testing.T) {
	t.Parallel()
	const hostile = `![x](https://evil.example/p.png) <img src=https://evil.example/q> @channel <!channel> \u202e https://evil.example/z`
	for _, format := range []string{"", "plain", "markdown", "slack", "html"} {
		for _, body := range []string{`"json": "{\"a\": [\"HOSTILE\"], \"HOSTILE\": 1}"`, `"body": "HOSTILE"`} {
			raw := `"url": "https://api.example.com/x", ` + strings.ReplaceAll(body, "HOSTILE", hostile)
			if format != "" {
				raw += `, "format": "` + format + `"`
			}
			_, effect, err := httpEffect(t, raw)
			require.NoError(t, err)
			for _, live := range []string{"<img", "<!channel", "https://evil.example", "\u202e"} {
				require.NotContains(t, string(effect.Body), live, format)
			}
			if format == "" || format == "plain" || format == "markdown" {
				require.NotContains(t, string(effect.Body), "![", format)
			}
		}
	}
}

func TestHTTPRequestIsSentOnceUnlessTheTargetKnowsItsKey(t *testing.T) {
	t.Parallel()
	target, url := listen(t)
	for _, c := range []struct {
		raw  string
		once action.Once
	}{{`"idempotent": true, `, action.OnceKey}, {`"idempotent": false, `, action.OnceNever}, {``, action.OnceNever}} {
		_, effect, err := httpEffect(t, c.raw+`"url": "`+url+`/a?b=c", "method": "PATCH", "json": "{}"`)
		require.NoError(t, err)
		require.Equal(t, c.once, effect.Once)
	}
	connector, effect, err := httpEffect(t, `"idempotent": true, "url": "`+url+`/a?token=`+canary+`", "method": "PATCH", "json": "{}"`)
	require.NoError(t, err)
	send := action.Send{Key: keyOne, Effect: effect, At: at, Attempt: 1}
	for range 2 {
		receipt, err := connector.Do(t.Context(), send)
		require.NoError(t, err)
		require.Equal(t, 200, receipt.Status)
		hides(t, "", receipt)
	}
	journal := target.Journal()
	require.Len(t, journal, 2)
	require.True(t, journal[1].Repeat)
	require.Equal(t, "PATCH", journal[0].Method)
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Idempotency-Key": keyOne, "Sluice-Run": "run_1", "Sluice-Depth": "2", "User-Agent": "Sluice/1", "Authorization": "",
	} {
		require.Equal(t, want, journal[0].Header.Get(name), name)
	}

	// The first one is still being worked on.
	for attempt, want := range map[int]action.Kind{1: action.Refused, 2: action.Retry} {
		target.Script(scripted.TargetStep{Status: 409, RetryAfter: "3"})
		send.Attempt = attempt
		_, err = connector.Do(t.Context(), send)
		require.Equal(t, want, failure(t, err).Kind)
		require.Equal(t, attempt == 2, failure(t, err).Doubt)
	}
	send.Key = "a\r\nb"
	_, err = connector.Do(t.Context(), send)
	require.Equal(t, action.CodeInvalid, failure(t, err).Code)
}

// An automation is an editor's, a credential an administrator's: the secret goes where the administrator said, and nowhere else.
func TestHTTPSecretGoesBelowItsAddressOnly(t *testing.T) {
	t.Parallel()
	target, url := listen(t)
	const secret = "Bearer " + canary
	port := url[strings.LastIndex(url, ":"):]
	for _, c := range []struct {
		base, address string
		sent          bool
	}{
		{url, url + "/x", true},
		{url, url, true},
		{url + "/api", url + "/api", true},
		{url + "/api", url + "/api/items?q=1", true},
		{url + "/api", url + "/api/a..b", true},
		{url + "/api", url + "/apis", false},
		{url + "/api", url + "/", false},
		{url + "/api", url + "/api/../x", false},
		{url + "/api", url + "/api/%2e%2e/x", false},
		{url + "/api", url + "/api/%252e%252e/x", false},
		{url + "/api", url + "/api/..%5cx", false},
		{url + "/api", url + "/api/..;/x", false},
		{url + "/api", url + "/%61pi/x", false},
		{"https" + strings.TrimPrefix(url, "http"), url + "/x", false},
		{"http://localhost" + port, url + "/x", false},
		{"http://127.0.0.1:1", url + "/x", false},
		{"", url + "/x", false},
	} {
		connector, effect, err := httpEffect(t, `"url": "`+c.address+`", "credential_id": "crd_1", "header": "X-Api-Key", "body": "hello"`)
		require.NoError(t, err)
		require.True(t, effect.Signed)
		before := len(target.Journal())
		_, err = connector.Do(t.Context(), action.Send{Key: keyOne, Effect: effect, Access: action.Access{Secret: secret, Base: c.base}, At: at, Attempt: 1})
		if !c.sent {
			require.Equal(t, action.CodeCredential, failure(t, err).Code, c)
			hides(t, secret, err)
			require.Len(t, target.Journal(), before, c)
			continue
		}
		require.NoError(t, err, c)
		last := target.Journal()[before]
		require.Equal(t, secret, last.Header.Get("X-Api-Key"))
		require.Empty(t, last.Header.Get("Authorization"))
		require.Equal(t, "text/plain; charset=utf-8", last.Header.Get("Content-Type"))
		hides(t, secret, effect)
	}
	connector, effect, err := httpEffect(t, `"url": "`+url+`/x", "credential_id": "crd_1", "body": "hello"`)
	require.NoError(t, err)
	_, err = connector.Do(t.Context(), action.Send{Key: keyOne, Effect: effect, Access: action.Access{Base: url}, At: at, Attempt: 1})
	require.Equal(t, action.CodeCredential, failure(t, err).Code)
}

func TestHTTPAccount(t *testing.T) {
	t.Parallel()
	set := action.New(devDoor())
	account, _ := set.Account("http")
	for secret, ok := range map[string]bool{
		"Bearer " + canary: true, "Basic dXNlcjpwYXNz": true, canary: true, "": false, "a b": false, canary + "\r\nX: y": false, " " + canary: false, canary + "é": false,
	} {
		err := account.Check(secret)
		require.Equal(t, ok, err == nil, secret)
		if err != nil {
			hides(t, "", err)
		}
	}
	require.Error(t, set.CheckBase(account, ""), "a secret without an address could be sent anywhere")
	require.NoError(t, set.CheckBase(account, "https://api.example.com/v1"))
	require.Error(t, set.CheckBase(account, "https://api.example.com/"))
}
