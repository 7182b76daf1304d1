package action_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

const canary = "s3cr3t-canary"

var at = time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC)

// input is a run as every connector of the battery sees it.
func input() action.Input {
	return action.Input{
		RunID: "run_1", EventID: "evt_1", AutomationID: "aut_1", AutomationVersion: 3, EventType: "issues.opened",
		Entity: "issue:1234", Depth: 2, Mode: "live", Output: map[string]any{"reply": "a < b & c", "b": 1, "a": []any{true, nil}}, At: at,
	}
}

// samples is a good action object of every kind, for an address where one is needed. A connector without a line here fails
// the battery.
var samples = map[string]string{
	"callback": `{"kind": "callback", "url": "ADDRESS/hook?token=` + canary + `", "credential_id": "crd_1"}`,
	"http":     `{"kind": "http", "url": "ADDRESS/hook?token=` + canary + `", "method": "PUT", "json": "{\"note\": \"hello\"}"}`,
	"none":     `{"kind": "none"}`,
}

func sample(t *testing.T, kind, address string) json.RawMessage {
	t.Helper()
	require.Contains(t, samples, kind)
	return json.RawMessage(strings.ReplaceAll(samples[kind], "ADDRESS", address))
}

// params reads an action object that has no fault.
func params(t *testing.T, c action.Connector, raw json.RawMessage) action.Params {
	t.Helper()
	p, faults := action.Read(c.Spec(), raw)
	require.Empty(t, faults)
	return p
}

func devDoor() *outbound.Door {
	return outbound.New(outbound.Config{AllowLoopback: true, Timeout: 500 * time.Millisecond})
}

// listen serves a scripted target until the end of the test.
func listen(t *testing.T) (*scripted.Target, string) {
	t.Helper()
	target, err := scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	require.NoError(t, err)
	url, err := target.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, target.Close()) })
	return target, url
}

func failure(t *testing.T, err error) *action.Error {
	t.Helper()
	var result *action.Error
	require.ErrorAs(t, err, &result)
	return result
}

// hides requires that neither the secret nor the canary of the address can be read in any text of a value.
func hides(t *testing.T, secret string, values ...any) {
	t.Helper()
	for _, value := range values {
		texts := []string{fmt.Sprintf("%v", value), fmt.Sprintf("%+v", value)}
		if err, ok := value.(error); ok {
			for ; err != nil; err = errors.Unwrap(err) {
				texts = append(texts, err.Error())
			}
		}
		for _, text := range texts {
			require.NotContains(t, text, canary)
			if secret != "" {
				require.NotContains(t, text, secret)
			}
		}
	}
}

// The connectors without an account of a service: their battery is below. That of the others is in vendors_test.go.
func TestOwnConnectors(t *testing.T) {
	t.Parallel()
	_, ok := action.New(devDoor()).Get("carrier_pigeon")
	require.False(t, ok)
	for kind := range samples {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			connector, ok := action.New(devDoor()).Get(kind)
			require.True(t, ok)
			t.Run("Checks", func(t *testing.T) { t.Parallel(); checks(t, connector, sample(t, kind, "http://127.0.0.1:1")) })
			t.Run("PreparesTheSameTwice", func(t *testing.T) { t.Parallel(); prepares(t, connector, sample(t, kind, "https://hook.example")) })
			t.Run("Outcomes", func(t *testing.T) { t.Parallel(); outcomes(t, connector) })
			t.Run("Unreachable", func(t *testing.T) { t.Parallel(); unreachable(t, connector) })
		})
	}
}

// checks is what every connector says of action objects that are not as they must be.
func checks(t *testing.T, c action.Connector, good json.RawMessage) {
	t.Helper()
	set := action.New(devDoor())
	require.Empty(t, set.Check(c, good))
	for _, bad := range []string{``, `null`, `[]`, `"x"`, `{`} {
		require.Equal(t, "action", set.Check(c, json.RawMessage(bad))[0].Place, bad)
	}
	var object map[string]any
	require.NoError(t, json.Unmarshal(good, &object))
	for field, value := range map[string]any{"kind": "carrier_pigeon", "surprise": "x", "Kind": c.Spec().Kind} {
		changed := map[string]any{}
		maps.Copy(changed, object)
		changed[field] = value
		faults := set.Check(c, written(t, changed))
		require.Len(t, faults, 1)
		require.Equal(t, "action."+field, faults[0].Place)
		require.NotEmpty(t, faults[0].Message)
		hides(t, "", faults)
	}
	for _, f := range c.Spec().Fields {
		require.NotEmpty(t, f.Doc, f.Name)
		changed := map[string]any{}
		maps.Copy(changed, object)
		changed[f.Name] = 1
		faults := set.Check(c, written(t, changed))
		require.Len(t, faults, 1, f.Name)
		require.Equal(t, "action."+f.Name, faults[0].Place)
		if delete(changed, f.Name); f.Required {
			faults = set.Check(c, written(t, changed))
			require.NotEmpty(t, faults, f.Name)
			require.Equal(t, "action."+f.Name, faults[0].Place)
		}
	}
}

func written(t *testing.T, value any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(value)
	require.NoError(t, err)
	return b
}

func prepares(t *testing.T, c action.Connector, good json.RawMessage) {
	t.Helper()
	first, err := c.Prepare(params(t, c, good), input())
	require.NoError(t, err)
	second, err := c.Prepare(params(t, c, good), input())
	require.NoError(t, err)
	require.Equal(t, first, second)
	require.Equal(t, c.Spec().Kind, first.Kind)
	require.NotContains(t, first.Target, canary)

	var stored action.Effect
	require.NoError(t, json.Unmarshal(written(t, first), &stored))
	require.Equal(t, first, stored, "an effect is the same after it was kept")
}

// outcomes plays every way in which a target can answer.
func outcomes(t *testing.T, c action.Connector) {
	t.Helper()
	for name, want := range map[string]struct {
		script scripted.TargetStep
		kind   action.Kind // empty if the effect is made
		code   string
		status int
		after  time.Duration
	}{
		"200":              {scripted.TargetStep{}, "", "", 200, 0},
		"204":              {scripted.TargetStep{Status: 204}, "", "", 204, 0},
		"200, endless":     {scripted.TargetStep{BodyBytes: 1 << 30}, "", "", 200, 0},
		"302 to metadata":  {scripted.TargetStep{Status: 302, Location: "http://169.254.169.254/"}, action.Refused, "action.redirect", 302, 0},
		"308 to itself":    {scripted.TargetStep{Status: 308, Location: "/"}, action.Refused, "action.redirect", 308, 0},
		"400":              {scripted.TargetStep{Status: 400, RetryAfter: "5", Body: canary}, action.Refused, "action.refused", 400, 0},
		"401":              {scripted.TargetStep{Status: 401}, action.Refused, "action.unauthorized", 401, 0},
		"404":              {scripted.TargetStep{Status: 404}, action.Refused, "action.not_found", 404, 0},
		"408":              {scripted.TargetStep{Status: 408}, action.Retry, "action.status_4xx", 408, 0},
		"410":              {scripted.TargetStep{Status: 410}, action.Refused, "action.gone", 410, 0},
		"425":              {scripted.TargetStep{Status: 425}, action.Retry, "action.status_4xx", 425, 0},
		"429":              {scripted.TargetStep{Status: 429, RetryAfter: "30"}, action.Retry, "action.rate_limited", 429, 30 * time.Second},
		"429, for ever":    {scripted.TargetStep{Status: 429, RetryAfter: "99999999999999999999"}, action.Retry, "action.rate_limited", 429, time.Hour},
		"429, till 2099":   {scripted.TargetStep{Status: 429, RetryAfter: "Fri, 01 Jan 2099 00:00:00 GMT"}, action.Retry, "action.rate_limited", 429, time.Hour},
		"503, till 1999":   {scripted.TargetStep{Status: 503, RetryAfter: "Fri, 01 Jan 1999 00:00:00 GMT"}, action.Retry, "action.status_5xx", 503, 0},
		"503, negative":    {scripted.TargetStep{Status: 503, RetryAfter: "-5"}, action.Retry, "action.status_5xx", 503, 0},
		"503, nonsense":    {scripted.TargetStep{Status: 503, RetryAfter: "soon"}, action.Retry, "action.status_5xx", 503, 0},
		"500 after acting": {scripted.TargetStep{Status: 500, Act: true, Body: canary}, action.Retry, "action.status_5xx", 500, 0},
		"cut":              {scripted.TargetStep{Cut: true, Act: true}, action.Retry, "action.broken", 0, 0},
		"no answer":        {scripted.TargetStep{Hang: true, Act: true}, action.Retry, "action.timeout", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, url := listen(t)
			target.Script(want.script)
			send, secret := ready(t, c, url)
			receipt, err := c.Do(t.Context(), send)
			hides(t, secret, receipt, err)
			if send.Effect.URL == "" {
				require.NoError(t, err)
				require.Empty(t, target.Journal())
				return
			}
			require.Len(t, target.Journal(), 1, "one Do is one request")
			if want.kind == "" {
				require.NoError(t, err)
				require.Equal(t, want.status, receipt.Status)
				return
			}
			require.Zero(t, receipt)
			got := failure(t, err)
			require.Equal(t, want.kind, got.Kind)
			require.Equal(t, want.code, got.Code)
			require.Equal(t, want.status, got.Status)
			require.Equal(t, want.after, got.RetryAfter)
			require.Equal(t, want.status == 0 || want.status >= 500, got.Doubt)
		})
	}
}

// unreachable plays the ways in which nothing arrives.
func unreachable(t *testing.T, c action.Connector) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	plain, url := listen(t)
	for name, want := range map[string]struct {
		door    *outbound.Door
		address string
		kind    action.Kind
		code    string
	}{
		"nobody listens":  {devDoor(), "http://" + listener.Addr().String(), action.Retry, "action.connect"},
		"no TLS":          {devDoor(), strings.Replace(url, "http:", "https:", 1), action.Retry, "action.tls"},
		"private address": {devDoor(), "https://10.0.0.1", action.Blocked, "action.blocked"},
		"own machine":     {outbound.New(outbound.Config{}), "https://127.0.0.1", action.Blocked, "action.blocked"},
		"no longer valid": {outbound.New(outbound.Config{}), url, action.Refused, "action.invalid"},
	} {
		connector, ok := action.New(want.door).Get(c.Spec().Kind)
		require.True(t, ok)
		send, secret := ready(t, connector, want.address)
		if send.Effect.URL == "" {
			continue
		}
		_, err := connector.Do(t.Context(), send)
		got := failure(t, err)
		require.Equal(t, want.kind, got.Kind, name)
		require.Equal(t, want.code, got.Code, name)
		require.False(t, got.Doubt, name)
		hides(t, secret, err)
		require.NotContains(t, err.Error(), "127.0.0.1")
		require.NotContains(t, err.Error(), "hook")
	}
	require.Empty(t, plain.Journal())
}

// ready prepares a connector's sample for an address, with a secret if it takes one.
func ready(t *testing.T, c action.Connector, address string) (send action.Send, secret string) {
	t.Helper()
	effect, err := c.Prepare(params(t, c, sample(t, c.Spec().Kind, address)), input())
	require.NoError(t, err)
	if c.Spec().Account != "" {
		secret = newSecret(t)
	}
	return action.Send{Key: "act_1", Effect: effect, Access: action.Access{Secret: secret}, At: at, Attempt: 1}, secret
}

// newSecret makes a secret that signs callbacks.
func newSecret(t *testing.T) string {
	t.Helper()
	account, ok := action.New(devDoor()).Account("callback")
	require.True(t, ok)
	secret, err := account.NewSecret()
	require.NoError(t, err)
	return secret
}

func TestCallbackSecrets(t *testing.T) {
	t.Parallel()
	account, ok := action.New(devDoor()).Account("callback")
	require.True(t, ok)
	first := newSecret(t)
	require.NotEqual(t, first, newSecret(t))
	require.NoError(t, account.Check(first))
	for _, bad := range []string{"", canary, first + canary, "\n" + first} {
		err := account.Check(bad)
		require.Error(t, err)
		hides(t, first, err)
	}
}

func TestRetryAfterDateIsMeasuredOnTheTargetsClock(t *testing.T) {
	t.Parallel()
	// The scripted target shows today's date; the attempt's own clock stands in March 2026 and must not count.
	target, url := listen(t)
	connector, _ := action.New(devDoor()).Get("callback")
	target.Script(scripted.TargetStep{
		Status: 503, RetryAfter: time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat),
	})
	send, _ := ready(t, connector, url)
	_, err := connector.Do(t.Context(), send)
	require.InDelta(t, 10*time.Minute, failure(t, err).RetryAfter, float64(5*time.Second))
}
