package automations_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

const nonce = "k3J9xQ2mV7bT5wZ8"

// triage is a Spec without fault, which tests change in one place.
func triage() automations.Spec {
	return automations.Spec{
		Name: "triage", When: "event.type == 'issues.opened'", Model: "anthropic/claude-sonnet-4-5",
		Fallbacks: []string{"openai/gpt-5-mini"},
		Prompt: automations.Prompt{
			System: "You triage bug reports.",
			User:   "{{ payload.issue.title }}\n{{ payload.issue.body }}",
		},
		OutputSchema: json.RawMessage(`{"type": "object", "properties": {"reply": {"type": "string"}}, "required": ["reply"]}`),
		Action:       json.RawMessage(`{"kind": "github_comment", "credential_id": "crd_1", "body": "{{ output.reply }}"}`),
		Mode:         "shadow", Priority: "routine", MaxOutputTokens: 600,
	}
}

func opened() automations.Event {
	return automations.Event{
		ID: "evt_1", Source: "github", Type: "issues.opened", Entity: "issue:7", EndpointID: "end_1", SourceEventID: "d-1",
		OccurredAt: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), ReceivedAt: time.Date(2026, 3, 4, 5, 6, 8, 0, time.UTC),
	}
}

func compiled(t *testing.T, s automations.Spec) *automations.Compiled {
	t.Helper()
	c, faults := automations.Compile(s)
	require.Empty(t, faults)
	return c
}

func payload(t *testing.T, body string) any {
	t.Helper()
	v, err := automations.DecodePayload([]byte(body))
	require.NoError(t, err)
	return v
}

func TestCompile_TakesTheContractsExample(t *testing.T) {
	t.Parallel()
	var s automations.Spec
	require.NoError(t, json.Unmarshal([]byte(`{"name": "triage", "endpoint_id": "end_1", "when": "event.type == 'issues.opened'",
		"model": "anthropic/claude-sonnet-4-5", "fallbacks": ["openai/gpt-5-mini"],
		"prompt": {"system": "You triage bug reports.", "user": "{{ payload.issue.title }}\n{{ payload.issue.body }}"},
		"output_schema": {"type": "object", "properties": {"reply": {"type": "string"}}, "required": ["reply"]},
		"max_output_tokens": 600, "action": {"kind": "github_comment", "credential_id": "crd_1", "body": "{{ output.reply }}"},
		"mode": "shadow", "priority": "routine"}`), &s))
	c := compiled(t, s)
	s.OverLimit = automations.OverHold // the one thing of it that is left out and filled in
	require.Equal(t, s, c.Spec())
}

func TestCompile_FillsInDefaults(t *testing.T) {
	t.Parallel()
	s := triage()
	s.MaxOutputTokens, s.Mode, s.Priority, s.When, s.OutputSchema = 0, "", "", " ", nil
	s.Action = json.RawMessage(`{"kind": "none"}`)
	c := compiled(t, s)
	require.Equal(t, 1024, c.Spec().MaxOutputTokens)
	require.Equal(t, "shadow", c.Spec().Mode)
	require.Equal(t, "routine", c.Spec().Priority)
	matched, err := c.Matches(opened(), nil)
	require.NoError(t, err)
	require.True(t, matched, "no condition takes every event")
	fields, err := c.ActionFields(opened(), nil, nil)
	require.NoError(t, err)
	require.Empty(t, fields)
}

func TestCompile_NamesThePlaceOfEachFault(t *testing.T) {
	t.Parallel()
	type spec = automations.Spec
	long := strings.Repeat("x", 70<<10)
	cases := map[string]struct {
		change         func(*spec)
		place, message string
	}{
		"NameEmpty":         {func(s *spec) { s.Name = " " }, "name", "1 to 100"},
		"NameLong":          {func(s *spec) { s.Name = strings.Repeat("é", 101) }, "name", "got 101"},
		"NameControl":       {func(s *spec) { s.Name = "a\nb" }, "name", "control"},
		"ModelShape":        {func(s *spec) { s.Model = "gpt-5" }, "model", "provider/model"},
		"ModelEmpty":        {func(s *spec) { s.Model = "" }, "model", "provider/model"},
		"FallbackShape":     {func(s *spec) { s.Fallbacks = []string{"openai/a", "x"} }, "fallbacks/1", `"x"`},
		"FallbackIsModel":   {func(s *spec) { s.Fallbacks = []string{s.Model} }, "fallbacks/0", "already"},
		"FallbacksMany":     {func(s *spec) { s.Fallbacks = make([]string, 6) }, "fallbacks", "at most 5"},
		"PromptEmpty":       {func(s *spec) { s.Prompt.User, s.Prompt.System = " ", "" }, "prompt.user", "must not both be empty"},
		"PromptLong":        {func(s *spec) { s.Prompt.System = long }, "prompt.system", "at most 32768"},
		"TokensNegative":    {func(s *spec) { s.MaxOutputTokens = -1 }, "max_output_tokens", "1 to 32000"},
		"TokensMany":        {func(s *spec) { s.MaxOutputTokens = 32001 }, "max_output_tokens", "got 32001"},
		"ModeUnknown":       {func(s *spec) { s.Mode = "on" }, "mode", "shadow, review or live"},
		"ActionMissing":     {func(s *spec) { s.Action = nil }, "action", "object"},
		"ActionNull":        {func(s *spec) { s.Action = json.RawMessage("null") }, "action", "object"},
		"ActionArray":       {func(s *spec) { s.Action = json.RawMessage("[]") }, "action", "object"},
		"ActionKind":        {func(s *spec) { s.Action = json.RawMessage(`{"kind": 1}`) }, "action.kind", "connector"},
		"ActionBodyType":    {func(s *spec) { s.Action = json.RawMessage(`{"kind": "a", "body": 1}`) }, "action.body", "string"},
		"ActionBodySyntax":  {func(s *spec) { s.Action = json.RawMessage(`{"kind": "a", "body": "x\n {{ a b }}"}`) }, "action.body", "2:2: syntax error"},
		"ActionLong":        {func(s *spec) { s.Action = json.RawMessage(`{"kind": "` + long + `"}`) }, "action", "at most 65536"},
		"WhenLong":          {func(s *spec) { s.When = "'" + long + "' == ''" }, "when", "at most 4096"},
		"WhenSyntax":        {func(s *spec) { s.When = "true &&" }, "when", "1:8: Syntax error"},
		"WhenUnknownName":   {func(s *spec) { s.When = "true &&\n  evnt.id == ''" }, "when", "2:3: undeclared reference to 'evnt'"},
		"WhenUnknownField":  {func(s *spec) { s.When = "event.nope == 1" }, "when", "1:6: undefined field 'nope'"},
		"WhenNoBool":        {func(s *spec) { s.When = "event.id" }, "when", "answers bool, this one answers string"},
		"WhenDyn":           {func(s *spec) { s.When = "payload.flag" }, "when", "payload.flag == true"},
		"WhenTypes":         {func(s *spec) { s.When = "event.id == 1" }, "when", "1:10: found no matching overload"},
		"WhenRegex":         {func(s *spec) { s.When = "event.id.matches('(')" }, "when", "invalid matches argument"},
		"WhenRegexOfOthers": {func(s *spec) { s.When = "event.id.matches(payload.re)" }, "when", "literal pattern"},
		"WhenRegexLarge":    {func(s *spec) { s.When = "event.id.matches('a{600}')" }, "when", "size"},
		"WhenReplace":       {func(s *spec) { s.When = "event.id.replace('', event.type) == ''" }, "when", "1:17: replace is not available"},
		"WhenSearchOfOther": {func(s *spec) { s.When = "event.id.indexOf(payload.a) == 1" }, "when", "literal of at most"},
		"WhenDeep":          {func(s *spec) { s.When = strings.Repeat("(", 90) + "true" + strings.Repeat(")", 90) }, "when", "1:1: expression recursion"},
		"WhenNestedLoops": {
			func(s *spec) { s.When = "payload.a.exists(x, payload.b.exists(y, payload.c.exists(z, x == z)))" },
			"when", "nesting limit",
		},
		"PriorityWord": {func(s *spec) { s.Priority = "high" }, "priority", "urgent, routine, or a CEL"},
		"PriorityType": {func(s *spec) { s.Priority = "event.test" }, "priority", "answers string, this one answers bool"},
		"PriorityDyn":  {func(s *spec) { s.Priority = "payload.p" }, "priority", "string(payload.level)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := triage()
			tc.change(&s)
			c, faults := automations.Compile(s)
			require.Nil(t, c)
			require.Equal(t, tc.place, faults[0].Place)
			require.Contains(t, faults[0].Message, tc.message)
		})
	}
}

func TestCompile_AnswersEveryFaultAtOnce(t *testing.T) {
	t.Parallel()
	_, faults := automations.Compile(automations.Spec{
		When: "nope || nada", Model: "x", Prompt: automations.Prompt{System: "{{ a }} {{ b }}", User: "{% if %}"},
		OutputSchema: json.RawMessage(`{"type": "array", "$id": "x"}`), MaxOutputTokens: -1, Mode: "on", Priority: "p",
		Action: json.RawMessage(`{"body": "{{"}`),
		Retry:  &automations.RetrySpec{Attempts: new(int)}, OverLimit: "x", CheaperModel: "y", MaxCallUSD: "z", Loop: &automations.LoopSpec{ActionsPerHour: new(int)},
	})
	var places []string
	for _, f := range faults {
		places = append(places, f.Place)
	}
	require.Equal(t, []string{
		"name", "when", "when", "model", "prompt.system", "prompt.system", "prompt.user", "output_schema/type",
		"output_schema/$id", "max_output_tokens", "action.kind", "action.body", "mode", "priority",
		"retry.attempts", "over_limit", "cheaper_model", "max_call_usd", "loop.actions_per_hour",
	}, places)
}

func TestCompiled_IsUsedByManyGoroutinesAtOnce(t *testing.T) {
	t.Parallel()
	s := triage()
	s.When = "payload.labels.exists(l, l.name.matches('^b'))"
	s.Priority = "payload.id > 3 ? 'urgent' : 'routine'"
	s.Prompt.User = "{% for l in payload.labels reversed %}{% assign n = l.name | upcase %}{{ n }}{% endfor %}{{ payload | json }}"
	c := compiled(t, s)
	p := payload(t, `{"id": 9007199254740993, "labels": [{"name": "bug"}, {"name": "ui"}]}`)
	_, want, err := c.Prompt(opened(), p, nil, nonce)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				matched, err := c.Matches(opened(), p)
				require.NoError(t, err)
				require.True(t, matched)
				priority, err := c.Priority(opened(), p)
				require.NoError(t, err)
				require.Equal(t, "urgent", priority)
				_, user, err := c.Prompt(opened(), p, nil, nonce)
				require.NoError(t, err)
				require.Equal(t, want, user)
				out, err := c.Output(`{"reply": "hi"}`)
				require.NoError(t, err)
				fields, err := c.ActionFields(opened(), p, out)
				require.NoError(t, err)
				require.Equal(t, "hi", fields["body"])
			}
		})
	}
	wg.Wait()
}

func BenchmarkMatches(b *testing.B) {
	s := triage()
	s.When = "event.type == 'issues.opened' && payload.issue.labels.exists(l, l.name == 'bug')"
	c, faults := automations.Compile(s)
	require.Empty(b, faults)
	p, err := automations.DecodePayload([]byte(`{"issue": {"labels": [{"name": "ui"}, {"name": "bug"}]}}`))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := c.Matches(opened(), p); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkPrompt(b *testing.B) {
	c, faults := automations.Compile(triage())
	require.Empty(b, faults)
	p := map[string]any{"issue": map[string]any{"title": "It breaks", "body": strings.Repeat("A line of text.\n", 500)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := c.Prompt(opened(), p, nil, nonce); err != nil {
			b.Fatal(err)
		}
	}
}
