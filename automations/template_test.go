package automations_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

// withBody is triage with body as the action's template.
func withBody(t *testing.T, body string) automations.Spec {
	t.Helper()
	action, err := json.Marshal(map[string]string{"kind": "callback", "body": body})
	require.NoError(t, err)
	s := triage()
	s.Action = action
	return s
}

func TestCompile_NamesFaultsOfTemplates(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"{{ payload.x":                                "1:1: {{ does not begin a complete output",
		"a\n b {% if x":                               "2:4: {% does not begin",
		"{% if %}{% endif %}":                         "1:1: expected an expression",
		"{{ }}":                                       "1:1: expected an expression",
		"{{ a b }}":                                   `1:1: syntax error in "a b"`,
		"{{ payload.a or }}":                          "syntax error",
		"{{ 99999999999999999999 }}":                  "syntax error",
		"é{{ foo }}":                                  `1:2: unknown variable "foo"; given are event, payload`,
		"{{ output.reply }}":                          `unknown variable "output"`,
		"{{ event.nope }}":                            `event has no field "nope"`,
		"{{ forloop.nope }}":                          `forloop has no field "nope"`,
		"x\n  {{ payload.a | nope: 1 }}":              `2:3: unknown filter "nope"`,
		"{{ payload.a | safe }}":                      `unknown filter "safe"; nothing can take a value out of its fence`,
		"{{ payload.a | upcase | raw }}":              `unknown filter "raw"`,
		"{{ payload.a | append }}":                    "filter append takes 1 arguments, got 0",
		"{{ payload.a | upcase: 1, 2 }}":              "filter upcase takes 0 arguments, got 2",
		"{% include 'x' %}":                           "include is not available",
		"{% render 'x' %}":                            "render is not available",
		"{% layout 'x' %}":                            `unknown tag "layout"`,
		"{% tablerow x in payload.a %}":               `unknown tag "tablerow"`,
		"{% if payload.a %}":                          `unterminated "if" block`,
		"{% endif %}":                                 "endif not inside if",
		"{% for x in payload.a %}{% endif %}":         "endif not inside if; immediate parent is for",
		"{% else %}":                                  "else not inside",
		"{% when 1 %}":                                "when not inside case",
		"{% break %}":                                 "break stands outside of a for",
		"{% for x in %}{% endfor %}":                  "syntax error in {% for x in %}",
		"{% for x in payload.a cols:3 %}{% endfor %}": "limit, offset and reversed",
		"{% for payload in event %}{% endfor %}":      "payload is given and cannot be set",
		"{% assign event = 1 %}":                      "event is given and cannot be set",
		"{% assign x %}":                              "syntax error",
		"{% capture a b %}{% endcapture %}":           "expected {% capture name %}",
		"{% raw %}{{":                                 "expected {% endraw %} further down",
		"{% comment %}{% if":                          "expected {% endcomment %} further down",
		"\xff":                                        "valid UTF-8",
	}
	for source, message := range cases {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			s := triage()
			s.Prompt.User = source
			c, faults := automations.Compile(s)
			require.Nil(t, c)
			require.Len(t, faults, 1)
			require.Equal(t, "prompt.user", faults[0].Place)
			require.Contains(t, faults[0].Message, message)
		})
	}
}

func TestActionFields_Renders(t *testing.T) {
	t.Parallel()
	const body = `{"id": 9007199254740993, "big": 18446744073709551615, "price": 0.1, "whole": 5.0, "yes": true, "none": null,
		"title": "Crash <b>", "tags": ["b", "a", "b"], "people": [{"n": "Zoe", "a": 2}, {"n": "Al", "a": 1}, {"n": "mia"}],
		"map": {"z": 1, "a": [1, "x\"y", null]}, "at": "2026-03-04T05:06:07Z", "unix": 1700000000, "empty": "", "s": "a,b,c"}`
	cases := []struct{ source, want string }{
		{"plain } text % {", "plain } text % {"},
		{"{{ payload.title }}", "Crash <b>"},
		{"{{ payload.id }} {{ payload.big }} {{ payload.price }} {{ payload.whole }} {{ payload.yes }}", "9007199254740993 18446744073709551615 0.1 5 true"},
		{"[{{ payload.none }}{{ payload.nope }}{{ payload.nope.deeper }}{{ payload.tags.nope }}{{ payload.title.x.y }}]", "[]"},
		{"{{ payload.map }}", `{"a":[1,"x\"y",null],"z":1}`},
		{"{{ payload.tags }}", `["b","a","b"]`},
		{"{{ payload.tags[0] }}{{ payload.tags[-1] }}{{ payload.tags.size }}{{ payload.tags.first }}{{ payload['title'] }}", "bb3bCrash <b>"},
		{"{{ event.id }} {{ event.type }} {{ event.occurred_at }} {{ event.test }}", "evt_1 issues.opened 2026-03-04T05:06:07Z false"},
		{"{{ output.reply }}", "done"},
		{"{{ (1..3) }}{{ 'x' }}{{ 1 }}{{ 1.5 }}{{ true }}{{ nil }}", "1..3x11.5true"},
		{"{% if payload.id > 5 and payload.title contains 'Crash' %}A{% elsif true %}B{% else %}C{% endif %}", "A"},
		{"{% if payload.nope %}A{% elsif payload.none %}B{% else %}C{% endif %}", "C"},
		{"{% if payload.id == 9007199254740992 %}A{% endif %}", ""},
		{"{% unless payload.nope %}A{% else %}B{% endunless %}", "A"},
		{"{% case payload.whole %} {% when 4, 5 %}A{% else %}B{% endcase %}", "A"},
		{"{% case payload.map %}{% when payload.map %}A{% else %}B{% endcase %}", "B"},
		{"{% for t in payload.tags %}{{ forloop.index }}{{ t }}{% unless forloop.last %},{% endunless %}{% endfor %}", "1b,2a,3b"},
		{"{% for t in payload.tags limit:1 offset:1 %}{{ t }}{% endfor %}{% for t in payload.tags reversed limit:2 %}{{ t }}{% endfor %}", "aab"},
		{"{% for p in payload.map %}{{ p[0] }}={{ p[1] }};{% endfor %}", `a=[1,"x\"y",null];z=1;`},
		{"{% for t in payload.nope %}x{% else %}none{% endfor %}{% for t in payload.title %}x{% endfor %}", "none"},
		{"{% for i in (1..4) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "13"},
		{"{% for a in payload.tags %}{% for b in payload.tags %}{% break %}{% endfor %}{{ forloop.index }}{% endfor %}{{ a }}", "123"},
		{"{% assign x = payload.title | upcase %}{{ x }}", "CRASH <B>"},
		{"{% capture x %}<{{ payload.title }}>{% endcapture %}{{ x | size }}{{ x }}", "11<Crash <b>>"},
		{"a {%- if true -%} b {%- endif -%} c {{- 'd' -}} e", "abcde"},
		{"{% raw %}{{ x }}{% y %}{% endraw %}{% comment %}{{ x {% if %}{% endcomment %}!", "{{ x }}{% y %}!"},
		{"{{ payload.empty | default: 'd' }}{{ payload.title | default: 'd' }}", "dCrash <b>"},
		{"{{ payload.map | json }}{{ payload.title | json }}", `{"a":[1,"x\"y",null],"z":1}"Crash <b>"`},
		{"{{ payload.tags | uniq | sort | join: '-' }}|{{ payload.tags | reverse | first }}|{{ payload.tags | last }}", "a-b|b|b"},
		{"{{ payload.people | sort: 'a' | map: 'n' | join }}", "Al Zoe mia"},
		{"{{ payload.people | map: 'n' | sort_natural | join }}", "Al mia Zoe"},
		{"{{ payload.people | where: 'a', 1 | map: 'n' | join }}{{ payload.people | where: 'a' | size }}", "Al2"},
		{"{{ payload.people | map: 'a' | compact | join: '+' }}", "2+1"},
		{"{{ payload.tags | concat: payload.tags | size }}", "6"},
		{"{{ payload.s | split: ',' | join: ' ' }}{{ payload.empty | split: ',' | size }}", "a b c0"},
		{"{{ 'é1' | upcase }}{{ 'éa' | capitalize }}{{ 'AB' | downcase }}", "É1Éaab"},
		{"{{ 'abc' | slice: 1 }}{{ 'abc' | slice: -2, 9 }}{{ 'abc' | slice: 7, 2 }}{{ payload.tags | slice: 0, 2 | join }}", "bbcb a"},
		{"{{ 'abcdef' | truncate: 5 }}{{ 'ab' | truncate: 5 }}{{ 'abc' | truncate: 1 }}{{ 'é é é' | truncatewords: 2, '!' }}", "ab...ab...é é!"},
		{"{{ 'aXbX' | replace: 'X', '-' }}{{ 'aXbX' | replace_first: 'X', '' }}{{ 'aXbX' | remove: 'X' }}", "a-b-abXab"},
		{"{{ '<a href>x</a>' | strip_html }}{{ '<&' | escape }}{{ ' x ' | strip }}{{ 'a b&' | url_encode }}{{ 'a+b' | url_decode }}", "x&lt;&amp;xa+b%26a b"},
		{"{{ 7 | divided_by: 2 }} {{ -7 | divided_by: 2 }} {{ 7 | divided_by: 2.0 }} {{ -7 | modulo: 3 }} {{ 7 | times: 3 | plus: 1 | minus: 2 }}", "3 -4 3.5 2 20"},
		{"{{ payload.id | plus: 1 }} {{ 9223372036854775807 | plus: 1 }}", "9007199254740994 9223372036854776000"},
		{"{{ 1.5 | round }} {{ 1.255 | round: 1 }} {{ 1.2 | ceil }} {{ 1.8 | floor }} {{ -3 | abs }} {{ 'x' | plus: 1 }} {{ 3 | at_most: 2 }}", "2 1.3 2 1 3 1 2"},
		{"{{ payload.at | date: '%Y/%-m/%-d %H:%M %b %%' }} {{ payload.unix | date: '%F' }} {{ 'now' | date: '%F' }}", "2026/3/4 05:06 Mar % 2023-11-14 now"},
	}
	for _, tc := range cases {
		t.Run(tc.source, func(t *testing.T) {
			t.Parallel()
			c := compiled(t, withBody(t, tc.source))
			got, err := c.ActionFields(opened(), payload(t, body), map[string]any{"reply": "done"})
			require.NoError(t, err)
			require.Equal(t, tc.want, got["body"])
		})
	}
}

func TestActionFields_NamesWhatCannotBeRendered(t *testing.T) {
	t.Parallel()
	for source, message := range map[string]string{
		"x\n{{ payload.n | divided_by: 0 }}":                  `render action.body, line 2: "payload.n | divided_by: 0": divided_by 0`,
		"{% if payload.secret == payload.other %}{% endif %}": "cannot be evaluated with this data",
		"{% for i in (1..payload.secret) %}{% endfor %}":      "cannot be evaluated with this data",
	} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			c := compiled(t, withBody(t, source))
			_, err := c.ActionFields(opened(), payload(t, `{"n": 1, "secret": {"k": "hunter2"}, "other": {"k": "hunter2"}}`), nil)
			var renderErr *automations.RenderError
			require.ErrorAs(t, err, &renderErr)
			require.Equal(t, "action.body", renderErr.Place)
			require.ErrorContains(t, err, message)
			require.NotContains(t, err.Error(), "hunter2", "no data in errors")
		})
	}
}

func TestActionFields_StopsAtItsLimits(t *testing.T) {
	t.Parallel()
	array := "[" + strings.TrimSuffix(strings.Repeat(`{"a":1},`, 100_000), ",") + "]"
	data := payload(t, `{"a": `+array+`, "s": "`+strings.Repeat("a", 200_000)+`"}`)
	loop := func(body string) string { return "{% for x in payload.a %}" + body + "{% endfor %}" }
	for name, tc := range map[string]struct {
		source string
		want   error
	}{
		"NestedLoops":      {loop(loop(loop(""))), automations.ErrTooMuch},
		"NestedRanges":     {"{% for i in (1..1000000000) %}{% endfor %}", automations.ErrTooMuch},
		"RangeInAFilter":   {"{{ (1..1000000000) | join }}", automations.ErrTooMuch},
		"LargeOutput":      {loop("{{ x }},"), automations.ErrTooLarge},
		"LargeText":        {loop("{{ payload.s }}"), automations.ErrTooLarge},
		"LiteralText":      {loop("0123456789"), automations.ErrTooLarge},
		"SearchInALoop":    {loop("{% if payload.s contains 'b' %}{% endif %}"), automations.ErrTooMuch},
		"CompareInALoop":   {loop("{% if payload.a == payload.s %}{% endif %}"), automations.ErrTooMuch},
		"DoublingText":     {"{% assign s = payload.s %}" + strings.Repeat("{% assign s = s | append: s %}", 40), automations.ErrTooLarge},
		"DoublingList":     {"{% assign s = payload.a %}" + strings.Repeat("{% assign s = s | concat: s %}", 40), automations.ErrTooMuch},
		"DoublingCapture":  {strings.Repeat("{% capture s %}{{ s }}{{ s }}{{ payload.s }}{% endcapture %}", 9), automations.ErrTooLarge},
		"MultipliedText":   {"{{ payload.s | replace: '', payload.s }}", automations.ErrTooLarge},
		"JoinedByLongText": {"{{ payload.a | join: payload.s }}", automations.ErrTooLarge},
		"EscapedOften":     {"{{ payload.s | replace: 'a', '<' | escape | escape | escape }}", automations.ErrTooLarge},
		"SortedInALoop":    {loop("{% assign y = payload.a | sort: 'a' %}"), automations.ErrTooMuch},
		"UniqueInALoop":    {loop("{% assign y = payload.a | uniq %}"), automations.ErrTooMuch},
		"SplitInALoop":     {loop("{% assign y = payload.s | split: '' %}"), automations.ErrTooMuch},
		"JSONInALoop":      {loop("{% assign y = payload.a | json | size %}"), automations.ErrTooLarge},
		"CapturedInALoop":  {loop("{% capture y %}{{ payload.s }}{% endcapture %}"), automations.ErrTooMuch},
		"UpcaseInALoop":    {loop("{% assign y = payload.s | upcase %}"), automations.ErrTooMuch},
		"StripHTMLInALoop": {loop("{% assign y = payload.s | strip_html %}"), automations.ErrTooMuch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := withBody(t, tc.source)
			_, err := compiled(t, s).ActionFields(opened(), data, nil)
			require.ErrorIs(t, err, tc.want)
			var renderErr *automations.RenderError
			require.ErrorAs(t, err, &renderErr)
		})
	}
}

func TestActionFields_LeavesThePayloadAsItIs(t *testing.T) {
	t.Parallel()
	const body = `{"a": [3, 1, 2], "o": {"k": [2, 1]}}`
	p := payload(t, body)
	c := compiled(t, withBody(t, "{{ payload.a | sort | reverse | concat: payload.o.k | uniq }}{% for x in payload.a reversed %}{% endfor %}"+
		"{% assign y = payload.a | slice: 0, 1 | concat: payload.a %}{% for x in payload.a limit:1 %}{% endfor %}"))
	_, err := c.ActionFields(opened(), p, nil)
	require.NoError(t, err)
	require.Equal(t, payload(t, body), p)
}
