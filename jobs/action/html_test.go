package action_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/automations"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

// patient is a scripted service, and a connector that waits for it however busy the machine is.
func patient(t *testing.T, kind string) *served {
	t.Helper()
	s := serve(t, kind)
	s.c, _ = action.New(outbound.New(outbound.Config{AllowLoopback: true, Timeout: time.Minute})).Get(kind)
	return s
}

// fromEvent prepares an action object, with the defaults of its connector, for an event with a payload and a model that has answered "hello".
func fromEvent(t *testing.T, object, payload string) (action.Effect, error) {
	t.Helper()
	var kind struct {
		Kind string `json:"kind"`
	}
	require.NoError(t, json.Unmarshal([]byte(object), &kind))
	connector, ok := action.New(devDoor()).Get(kind.Kind)
	require.True(t, ok)
	filled := action.Filled(connector.Spec(), json.RawMessage(object))
	require.Empty(t, action.New(devDoor()).Check(connector, filled), "the defaults have no fault")
	compiled, flaws := automations.Compile(automations.Spec{
		Name: "x", Model: "anthropic/claude-sonnet-4-5", Prompt: automations.Prompt{User: "{{ payload }}"}, OutputSchema: json.RawMessage(`{"type": "object"}`),
		Action: filled,
	})
	require.Empty(t, flaws)
	decoded, err := automations.DecodePayload([]byte(payload))
	require.NoError(t, err)
	fields, err := compiled.ActionFields(automations.Event{ID: "evt_1", Type: "x"}, decoded, map[string]any{"reply": "hello"})
	require.NoError(t, err)
	p := params(t, connector, filled)
	maps.Copy(p.Texts, fields)
	return connector.Prepare(p, input())
}

// targets requires of the events of a table that they lead to a target, or to none.
func targets(t *testing.T, object string, want map[string]string) {
	t.Helper()
	for payload, target := range want {
		effect, err := fromEvent(t, object, payload)
		if target == "" {
			require.Equal(t, action.CodeTarget, failure(t, err).Code, payload)
			continue
		}
		require.NoError(t, err, payload)
		require.Equal(t, target, effect.Target, payload)
		require.Contains(t, string(effect.Body), "hello")
	}
}

// faulty requires that none of the values of a field can be saved, nor, where an event makes them, be sent to.
func faulty(t *testing.T, kind, field string, values ...string) {
	t.Helper()
	set := action.New(devDoor())
	connector, _ := set.Get(kind)
	for _, value := range values {
		object := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(vendors[kind].Sample), &object))
		object[field] = value
		faults := set.Check(connector, written(t, object))
		require.NotEmpty(t, faults, value)
		require.Equal(t, "action."+field, faults[0].Place, value)
		_, err := connector.Prepare(params(t, connector, written(t, object)), input())
		require.Equal(t, action.CodeTarget, failure(t, err).Code, value)
	}
}

// answering serves one answer for every request, and returns its address.
func answering(t *testing.T, status int, header map[string]string, body string) string {
	t.Helper()
	v := scripted.NewIntercom("nobody", time.Now)
	steps := make([]scripted.VendorStep, 0, answersMax)
	for range answersMax {
		steps = append(steps, scripted.VendorStep{Reads: true, Status: status, Header: header, Body: body})
	}
	v.Script(steps...)
	base, err := v.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return base
}

const answersMax = 100

func TestHelpDesksFillInNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"hubspot_note", "intercom_reply", "zendesk_comment"} {
		s := patient(t, kind)
		send := s.send(t, s.Case.Sample, keyOne, "Your {{ticket.requester.email}} {{{{a}} {%if x%} {{{b}}} [a](b) ![c] a < b & c")
		_, err := s.c.Do(t.Context(), send)
		require.NoError(t, err)
		text := s.Effects()[0].Text
		for _, live := range []string{"{{", "{%", "](", "![", "< b"} {
			require.NotContains(t, text, live, kind)
		}
		require.Contains(t, text, "requester", "the words are left")
		require.Contains(t, text, "a &lt; b &amp; c")

		body, _ := json.Marshal(" \n\u200b ")
		_, err = s.c.Prepare(params(t, s.c, json.RawMessage(strings.Replace(s.Case.Sample, `"BODY"`, string(body), 1))), input())
		require.Equal(t, action.CodeEmptyBody, failure(t, err).Code)
	}
}

func TestLongTextsAreCutToWhatTheTargetTakes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"hubspot_note", "intercom_reply", "pagerduty_note", "zendesk_comment"} {
		s := patient(t, kind)
		for _, piece := range []string{"<", "{", "日", "😀", "a b\n\n"} {
			long := strings.Repeat(piece, 100_000)
			_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, "x"+long))
			require.NoError(t, err, "%s %s", kind, piece)
		}
	}
}

func TestLimitsOfTheServicesAreWaitedFor(t *testing.T) {
	t.Parallel()
	hubspotInterval := map[string]string{"X-HubSpot-RateLimit-Interval-Milliseconds": "10000"}
	// On the service's own clock, which it shows.
	intercomReset := map[string]string{"Date": at.Format(http.TimeFormat), "X-RateLimit-Reset": strconv.FormatInt(at.Add(time.Minute).Unix(), 10)}
	for name, c := range map[string]struct {
		kind   string
		status int
		header map[string]string
		body   string
		code   string
		wait   time.Duration
		doubt  bool
	}{
		"hubspot, a day":       {"hubspot_note", 429, nil, `{"status": "error", "policyName": "DAILY"}`, action.CodeRateLimited, time.Hour, false},
		"hubspot, an interval": {"hubspot_note", 429, hubspotInterval, `{}`, action.CodeRateLimited, 10 * time.Second, false},
		"hubspot, locked":      {"hubspot_note", 423, nil, ``, action.CodeStatus4xx, 0, false},
		"hubspot, moving":      {"hubspot_note", 477, map[string]string{"Retry-After": "99999"}, ``, action.CodeStatus4xx, time.Hour, false},
		"intercom":             {"intercom_reply", 429, intercomReset, `{}`, action.CodeRateLimited, time.Minute, false},
		"pagerduty":            {"pagerduty_note", 429, map[string]string{"ratelimit-reset": "17"}, `{}`, action.CodeRateLimited, 17 * time.Second, false},
		"zendesk, at once":     {"zendesk_comment", 409, nil, `{"error": "Conflict"}`, action.CodeStatus4xx, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := patient(t, c.kind)
			s.Script(scripted.VendorStep{Status: c.status, Header: c.header, Body: c.body})
			_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
			got := failure(t, err)
			require.Equal(t, []any{action.Retry, c.code, c.doubt}, []any{got.Kind, got.Code, got.Doubt})
			require.InDelta(t, c.wait, got.RetryAfter, float64(3*time.Second))
			require.Empty(t, s.Effects())
		})
	}
}

// An answer with success that does not name what was made leaves it in doubt.
func TestAnswersThatNameNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"hubspot_note", "intercom_reply", "pagerduty_note", "zendesk_comment"} {
		s := patient(t, kind)
		for _, body := range []string{`{}`, `{"id": null}`, `{"id": "../../x y"}`, `{"note": {}}`, `{"audit": {"events": [{"id": 1, "type": "Change"}]}}`} {
			s.Script(scripted.VendorStep{Status: http.StatusOK, Body: body, Act: true})
			receipt, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
			require.Zero(t, receipt)
			got := failure(t, err)
			require.Equal(t, action.CodeBroken, got.Code, "%s %s", kind, body)
			require.True(t, got.Doubt)
		}
	}
}

// What others have made of our mark is no answer, and neither is it taken for the effect.
func TestAShownMarkCountsAtTheEndOnly(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"hubspot_note", "pagerduty_note"} {
		s := patient(t, kind)
		send := s.send(t, s.Case.Sample, keyOne, plain)
		finder, _ := s.c.(action.Finder)
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyTwo, "Ann wrote: [sluice:"+keyOne+"] and more"))
		require.NoError(t, err)
		found, err := finder.Find(t.Context(), send)
		require.Nil(t, found)
		require.Equal(t, action.CodeLookup, failure(t, err).Code, kind)
		require.Equal(t, action.Refused, failure(t, err).Kind)

		receipt, err := s.c.Do(t.Context(), send)
		require.NoError(t, err)
		found, err = finder.Find(t.Context(), send)
		require.NoError(t, err)
		require.NotNil(t, found)
		require.Equal(t, receipt.ID, found.ID, "the one that ends with it is ours")
	}
}
