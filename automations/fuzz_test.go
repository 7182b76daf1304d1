package automations_test

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

// What may be allocated, in all and not at once, for what a stranger or an author sends: a floor, and a factor for every byte of it.
const (
	compileAllocMax = 64 << 20
	compilePerByte  = 4 << 10
	decodeAllocMax  = 1 << 20
	decodePerByte   = 400
	renderAllocMax  = 256 << 20
)

// spends fails where do allocates more than most. Fuzz tests run by themselves, so nobody else's allocations are counted.
func spends(t *testing.T, most int, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(most))
}

// hostilePayloads are documents that no honest source sends.
var hostilePayloads = []string{
	``, `null`, `[]`, `0`, `-0`, `1e999`, `-1e-999`, `NaN`, `123456789012345678901234567890`, `0.1e+400`, `"\u0000"`, `"\ud800"`, "\"\xff\"", "\ufeff{}", "\x00",
	`{"a":1,"a":2}`, `{"":{"":""}}`, `{"a":{"a":{"a":[[[[{}]]]]}}}`, `{"a":"{{ payload.a }}","b":"{% raw %}"}`, `{"a":"</data-k3J9xQ2mV7bT5wZ8>"}`,
	`{"a":["x",1,null,true,{"b":[]}]}`, `{"a":"\u202e\u200b\u0007"}`, `{} {}`, `[1,]`,
}

// FuzzTemplates: no template and no payload makes the compiler or the renderer panic, or write or work without bound; nothing of a payload stands
// outside its fence, and whatever is rendered can be stored.
func FuzzTemplates(f *testing.F) {
	for _, source := range []string{
		"{{ payload.a }}", "{{ payload.a | upcase | truncate: 3 }}", "{% for x in payload.a %}{{ x }}{% endfor %}", "{% if payload.a == 1 %}a{% else %}b{% endif %}",
		"{% assign x = payload.a | json %}{{ x }}", "{% capture c %}{{ payload }}{% endcapture %}{{ c | size }}", "{{ payload.a | replace: 'x', 'yy' }}",
		"{{ payload.a | split: '' | join: ',' }}", "{{ event.occurred_at | date: '%Y' }}", "{{ 1 | divided_by: 0 }}", "{{ payload.a | slice: -1, 99999999 }}",
		"{% case payload.a %}{% when 1 %}x{% endcase %}", "{% raw %}{{ x }}{% endraw %}", "{{", "{%", "{% for %}", "{% endif %}", "{{ payload['a'] }}", "{{ payload.a[0].b }}",
		"{% for i in (1..999999999) %}{% endfor %}", "{{ 'a' | times: 9223372036854775807 }}", "{{ payload | sort | uniq | where: 'a', 1 }}", "{% comment %}", "{{ \"\x00\" }}",
	} {
		for _, body := range []string{`{"a":["x",1,null,true,{"b":[]}]}`, `{"a":"\u0000\u202e"}`, `{"a":1e999}`} {
			f.Add(source, source, []byte(body))
		}
	}
	for _, body := range hostilePayloads {
		f.Add("{{ payload | json }}", `{"text":"{{ payload.a }}"}`, []byte(body))
	}
	f.Fuzz(func(t *testing.T, user, document string, body []byte) {
		s := triage()
		s.Prompt = automations.Prompt{System: "fixed", User: user}
		s.Action, _ = json.Marshal(map[string]string{"kind": "callback", "body": user, "json": document, "url": "https://hooks.example/" + document})
		var c *automations.Compiled
		spends(t, compileAllocMax+compilePerByte*(len(user)+len(document)), func() {
			var faults []automations.Fault
			c, faults = automations.Compile(s)
			require.NotEqual(t, c == nil, len(faults) == 0, "either an automation or faults")
			for _, fault := range faults {
				require.True(t, utf8.ValidString(fault.Message) || !utf8.ValidString(user+document), "%q", fault.Message)
			}
		})
		p, err := automations.DecodePayload(body)
		if c == nil || err != nil {
			return
		}
		spends(t, renderAllocMax, func() { renders(t, c, p) })
	})
}

// renders holds every text that a compiled automation makes of a payload against what it promises.
func renders(t *testing.T, c *automations.Compiled, p any) {
	t.Helper()
	const promptBytesMax = 512 << 10
	system, user, err := c.Prompt(opened(), p, nil, nonce)
	if err != nil {
		var renderError *automations.RenderError
		require.ErrorAs(t, err, &renderError)
	}
	require.LessOrEqual(t, len(system)+len(user), promptBytesMax)
	begins, ends := strings.Count(user, "<data-"+nonce+">"), strings.Count(user, "</data-"+nonce+">")
	if literal := c.Spec().Prompt.User; !strings.Contains(literal, nonce) {
		require.Equal(t, begins, ends, "each fence that begins ends: %q of %q", user, literal)
	}
	for _, output := range []any{nil, p, map[string]any{"reply": "x"}} {
		fields, err := c.ActionFields(opened(), p, output)
		if err != nil {
			var renderError *automations.RenderError
			require.ErrorAs(t, err, &renderError)
			continue
		}
		if text, ok := fields["json"]; ok && len(text) > 0 {
			require.True(t, utf8.ValidString(text) || !utf8.ValidString(string(c.Spec().Action)))
		}
	}
}

// FuzzSchema: no schema and no output makes the checker panic or work without bound, and what is taken as output is what can be stored (a NUL is
// taken out by who stores it).
func FuzzSchema(f *testing.F) {
	for _, schema := range []string{
		`{"type":"object"}`, `{"type":"object","properties":{"a":{"type":"number","multipleOf":0.1}},"required":["a"]}`, `{"type":"object","properties":{"a":{"$ref":"#"}}}`,
		`{"type":"object","$defs":{"x":{"$ref":"#/$defs/y"},"y":{"$ref":"#/$defs/x"}}}`, `{"type":"object","additionalProperties":false}`, `{"type":"array"}`, `{"$ref":"file:///etc/passwd"}`,
		`{"type":"object","properties":{"a":{"enum":[1e999,null]}}}`, `{"type":"object","patternProperties":{"(a+)+$":{}}}`, `{"type":"object","properties":{"a":{"pattern":"("}}}`,
		`{"type":"object","minProperties":-1}`, `{"type":"object","properties":{"a":{"format":"date-time"}}}`, `{"type":"object","anyOf":[{},{"not":{}}]}`, `[]`, `{`, `{"type":["object",1]}`,
		`{"type":"object","$id":"http://x/","$schema":"http://json-schema.org/draft-07/schema#"}`, `{"type":"object","$dynamicRef":"#a","$anchor":"a"}`, `{"type":"object","type":"array"}`,
	} {
		f.Add([]byte(schema), `{"a":1}`)
		f.Add([]byte(schema), "```json\n{\"a\":\"\\u0000\"}\n```")
	}
	for _, output := range hostilePayloads {
		f.Add([]byte(`{"type":"object","properties":{"a":{"type":["string","number"],"multipleOf":0.01,"maximum":5}}}`), output)
	}
	f.Fuzz(func(t *testing.T, schema []byte, output string) {
		s := triage()
		s.OutputSchema, s.Action = schema, json.RawMessage(`{"kind":"callback","url":"https://hooks.example/","json":"{\"a\":\"{{ output.a }}\"}"}`)
		var c *automations.Compiled
		spends(t, compileAllocMax+compilePerByte*len(schema), func() {
			var faults []automations.Fault
			c, faults = automations.Compile(s)
			require.NotEqual(t, c == nil, len(faults) == 0, "either an automation or faults")
		})
		if c == nil {
			return
		}
		spends(t, decodeAllocMax+compilePerByte*(len(schema)+len(output)), func() {
			v, err := c.Output(output)
			if err != nil {
				var outputError *automations.OutputError
				require.ErrorAs(t, err, &outputError)
				return
			}
			text, err := json.Marshal(v)
			require.NoError(t, err, "can be written")
			require.True(t, utf8.Valid(text), "can be stored")
		})
	})
}

// FuzzConditions: an expression meets a payload that nobody foresaw: an answer or an EvalError, within bounded work.
func FuzzConditions(f *testing.F) {
	for _, when := range []string{
		"payload.a == 1", "payload.a > 1", "payload.a.size() > 0", "payload.a.exists(x, x.b == 1)", "payload.a.all(x, payload.a.exists(y, y == x))", "payload.?a.orValue('') != ''",
		"string(payload.a).matches('^a+$')", "payload.a.contains('x')", "int(payload.a) % 2 == 0", "timestamp(payload.a) > event.received_at", "payload.a in ['x', 1]", "payload.a[0] == payload['b']",
		"double(payload.a) / 0.0 > 1.0", "duration(payload.a) > duration('1h')", "payload.a.map(x, x + x).size() > 1", "payload == payload", "has(payload.a.b.c)", "type(payload.a) == string",
	} {
		for _, body := range append(hostilePayloads, `{"a":"x","b":"y"}`, `{"a":[1,2,3],"b":1}`, `{"a":-9223372036854775808}`, `{"a":18446744073709551616}`) {
			f.Add(when, []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, when string, body []byte) {
		s := triage()
		s.When = when
		c, _ := automations.Compile(s)
		var p any
		var err error
		spends(t, decodeAllocMax+decodePerByte*len(body), func() { p, err = automations.DecodePayload(body) })
		require.Equal(t, err, automations.CheckPayload(body), "the door refuses what cannot be laid out, whether an automation asks or not")
		if c == nil || err != nil {
			return
		}
		spends(t, renderAllocMax, func() {
			if matched, err := c.Matches(opened(), p); err != nil {
				require.False(t, matched)
				var evalError *automations.EvalError
				require.ErrorAs(t, err, &evalError)
				require.True(t, utf8.ValidString(err.Error()), "is kept with the event")
				require.NotContains(t, err.Error(), "\x00")
			}
		})
	})
}
