package automations_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	const body = `{"action": "opened", "id": 9007199254740993, "amount": 12.5, "count": 3, "big": 18446744073709551615, "none": null,
		"issue": {"title": "hello", "labels": [{"name": "bug"}]}, "when": "2026-01-02T03:04:05Z"}`
	cases := map[string]struct {
		when, reason string
		want         bool
	}{
		"Type":              {when: "event.type == 'issues.opened'", want: true},
		"EveryField":        {when: "event.id + event.source + event.entity + event.endpoint_id + event.source_event_id != '' && !event.test", want: true},
		"Times":             {when: "event.received_at - event.occurred_at == duration('1s') && event.occurred_at.getHours() == 5", want: true},
		"Int64IsExact":      {when: "payload.id == 9007199254740993 && payload.id != 9007199254740992", want: true},
		"BeyondInt64":       {when: "payload.big == '18446744073709551615'", want: true},
		"MixedNumbers":      {when: "payload.count < 3.5 && payload.amount > 12 && payload.count == 3.0", want: true},
		"Has":               {when: "has(payload.issue.title) && !has(payload.issue.nope)", want: true},
		"Optional":          {when: "payload.?pull.title.orValue('') == ''", want: true},
		"Strings":           {when: "payload.issue.title.upperAscii().startsWith('HELL') && payload.issue.title.matches('l+o$')", want: true},
		"Loop":              {when: "payload.issue.labels.exists(l, l.name in ['bug', 'crash'])", want: true},
		"Null":              {when: "payload.none == null", want: true},
		"Timestamp":         {when: "timestamp(payload.when) < event.occurred_at", want: true},
		"MissingButSaved":   {when: "payload.nope == 1 || event.source == 'github'", want: true},
		"False":             {when: "event.source == 'stripe'"},
		"MissingKey":        {when: "payload.nope == 1", reason: automations.ReasonMissingKey},
		"MissingDeep":       {when: "payload.issue.user.login == 'x'", reason: automations.ReasonMissingKey},
		"MissingIndex":      {when: "payload.issue.labels[4].name == 'x'", reason: automations.ReasonMissingKey},
		"KeyOfText":         {when: "payload.action.x == 1", reason: automations.ReasonMissingKey},
		"WrongType":         {when: "payload.issue > 3", reason: automations.ReasonWrongType},
		"WrongConversion":   {when: "int(payload.issue.title) == 1", reason: automations.ReasonWrongType},
		"KeyFromThePayload": {when: "payload.issue[payload.issue.title] == 1", reason: automations.ReasonMissingKey},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := triage()
			s.When = tc.when
			matched, err := compiled(t, s).Matches(opened(), payload(t, body))
			require.Equal(t, tc.want, matched)
			if tc.reason == "" {
				require.NoError(t, err)
				return
			}
			var evalErr *automations.EvalError
			require.ErrorAs(t, err, &evalErr)
			require.Equal(t, "when", evalErr.Place)
			require.Equal(t, tc.reason, evalErr.Reason, evalErr.Message)
			require.NotContains(t, err.Error(), "hello", "no data in errors")
		})
	}
}

func TestMatches_ReadsTimesInUTC(t *testing.T) {
	t.Parallel()
	e := opened()
	e.OccurredAt = e.OccurredAt.In(time.FixedZone("east", 7*60*60))
	s := withBody(t, "{{ event.occurred_at }}")
	s.When = "event.occurred_at.getHours() == 5 && string(event.occurred_at) == '2026-03-04T05:06:07Z'"
	c := compiled(t, s)
	matched, err := c.Matches(e, nil)
	require.NoError(t, err)
	require.True(t, matched)
	fields, err := c.ActionFields(e, nil, nil)
	require.NoError(t, err)
	require.Equal(t, "2026-03-04T05:06:07Z", fields["body"])
}

func TestMatches_TakesAnyPayload(t *testing.T) {
	t.Parallel()
	s := triage()
	s.When = "payload.a.b == 1"
	c := compiled(t, s)
	for _, body := range []string{``, `null`, `[]`, `"x"`, `1`, `{}`, `{"a": null}`, `{"a": []}`, `not json`} {
		matched, err := c.Matches(opened(), payload(t, body))
		require.False(t, matched, body)
		require.Error(t, err, body)
	}
	matched, err := c.Matches(opened(), nil)
	require.False(t, matched)
	require.Error(t, err)
}

func TestMatches_StopsAtTheLimitOfWork(t *testing.T) {
	t.Parallel()
	array := strings.TrimSuffix(strings.Repeat("1,", 100_000), ",")
	for name, tc := range map[string]struct{ when, body string }{
		"NestedLoops":    {"payload.a.all(x, payload.a.all(y, x == y))", `{"a": [` + array + `]}`},
		"CompareInALoop": {"payload.a.all(x, payload.a == payload.a)", `{"a": [` + array + `]}`},
		"SearchInALoop":  {"payload.a.all(x, !(x in [2, 3]) && !payload.s.contains('b'))", `{"a": [` + array + `], "s": "` + strings.Repeat("a", 200_000) + `"}`},
		"PatternOnLong":  {"payload.s.matches('(a|aa)*$')", `{"s": "` + strings.Repeat("a", 300_000) + `"}`},
		"SplitInALoop":   {"payload.a.all(x, payload.s.split('').size() > 0)", `{"a": [` + array + `], "s": "` + strings.Repeat("a", 200_000) + `"}`},
		"GrowingText":    {"(" + strings.Repeat("payload.s + ", 30) + "'').size() > 0", `{"s": "` + strings.Repeat("a", 200_000) + `"}`},
		"GrowingInALoop": {"payload.a.map(x, payload.s + payload.s).size() > 0", `{"a": [` + array + `], "s": "` + strings.Repeat("a", 200_000) + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := triage()
			s.When = tc.when
			matched, err := compiled(t, s).Matches(opened(), payload(t, tc.body))
			require.False(t, matched)
			var evalErr *automations.EvalError
			require.ErrorAs(t, err, &evalErr)
			require.Equal(t, automations.ReasonTooCostly, evalErr.Reason, evalErr.Message)
			require.NotContains(t, evalErr.Message, "takes too long", "the work is counted, the clock is the backstop only")
		})
	}
}

func TestPriority(t *testing.T) {
	t.Parallel()
	cases := []struct {
		priority, body, want string
		reason               string
	}{
		{"", `{}`, "routine", ""},
		{"routine", `{}`, "routine", ""},
		{"urgent", `{}`, "urgent", ""},
		{"payload.n > 5 ? 'urgent' : 'routine'", `{"n": 6}`, "urgent", ""},
		{"payload.n > 5 ? 'urgent' : 'routine'", `{"n": 5}`, "routine", ""},
		{"payload.n > 5 ? 'urgent' : 'routine'", `{}`, "routine", automations.ReasonMissingKey},
		{"string(payload.n)", `{"n": "urgent"}`, "urgent", ""},
		{"string(payload.n)", `{"n": "immediate"}`, "routine", automations.ReasonWrongAnswer},
	}
	for i, tc := range cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			s := triage()
			s.Priority = tc.priority
			got, err := compiled(t, s).Priority(opened(), payload(t, tc.body))
			require.Equal(t, tc.want, got)
			if tc.reason == "" {
				require.NoError(t, err)
				return
			}
			var evalErr *automations.EvalError
			require.ErrorAs(t, err, &evalErr)
			require.Equal(t, "priority", evalErr.Place)
			require.Equal(t, tc.reason, evalErr.Reason)
		})
	}
}

func FuzzCompileWhen(f *testing.F) {
	for _, seed := range []string{
		"event.type == 'a'", "payload.a.exists(x, x > 1)", "payload.?a.b.orValue('') == ''", "1 +", "'\\u0000'", "has(payload.a)",
		"event.id.matches('a+')", "[1,2].map(x, x*2).size() > 1", "event.occurred_at > timestamp('2026-01-01T00:00:00Z')",
	} {
		f.Add(seed)
	}
	p, err := automations.DecodePayload([]byte(`{"a": [1, 2], "b": {"c": "d"}}`))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, when string) {
		s := triage()
		s.When = when
		c, faults := automations.Compile(s)
		require.NotEqual(t, c == nil, len(faults) == 0, "either an automation or faults")
		if c == nil {
			require.Regexp(t, `^(\d+:\d+: |expected )`, faults[0].Message)
			return
		}
		if matched, err := c.Matches(opened(), p); err != nil {
			require.False(t, matched)
			var evalErr *automations.EvalError
			require.ErrorAs(t, err, &evalErr)
		}
	})
}
