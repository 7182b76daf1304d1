package automations_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

func TestDecodePayload(t *testing.T) {
	t.Parallel()
	raw := func(s string) any { return map[string]any{"raw": s} }
	cases := map[string]any{
		`null`:                   nil,
		`true`:                   true,
		` "x" `:                  "x",
		`9007199254740993`:       int64(9007199254740993),
		`-9223372036854775808`:   int64(-9223372036854775808),
		`9223372036854775808`:    "9223372036854775808",
		`123456789012345678901`:  "123456789012345678901",
		`1.5`:                    1.5,
		`1e3`:                    1000.0,
		`1.0`:                    1.0,
		`-0`:                     int64(0),
		`1e999`:                  "1e999",
		`[1, [2, {"a": 3.5}]]`:   []any{int64(1), []any{int64(2), map[string]any{"a": 3.5}}},
		`{"a": 1, "a": 2}`:       map[string]any{"a": int64(2)},
		`{"a": "[[[[{{{{"}`:      map[string]any{"a": "[[[[{{{{"},
		`{"a\"[": "\\"}`:         map[string]any{`a"[`: `\`},
		"":                       raw(""),
		"payload=%7B%7D&x=1":     raw("payload=%7B%7D&x=1"),
		`{"a": 1} {"b": 2}`:      raw(`{"a": 1} {"b": 2}`),
		`{"a": 1`:                raw(`{"a": 1`),
		`{"a": 1}x`:              raw(`{"a": 1}x`),
		"\xff\xfe":               raw("\uFFFD"),
		strings.Repeat("[", 200): raw(strings.Repeat("[", 200)),
	}
	for body, want := range cases {
		got, err := automations.DecodePayload([]byte(body))
		require.NoError(t, err, body)
		require.Equal(t, want, got, body)
	}
}

func TestDecodePayload_CapsTheDepth(t *testing.T) {
	t.Parallel()
	nested := func(n int) []byte { return []byte(strings.Repeat(`{"a":[`, n/2) + strings.Repeat(`]}`, n/2)) }
	_, err := automations.DecodePayload(nested(64))
	require.NoError(t, err)
	_, err = automations.DecodePayload(nested(66))
	require.ErrorIs(t, err, automations.ErrTooDeep)
	_, err = automations.DecodePayload([]byte(strings.Repeat("[", 5000) + strings.Repeat("]", 5000)))
	require.ErrorIs(t, err, automations.ErrTooDeep)
	got, err := automations.DecodePayload([]byte(strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20)))
	require.NoError(t, err)
	require.Contains(t, got, "raw", "deeper than the JSON reader itself can follow")
}

func FuzzDecodePayload(f *testing.F) {
	for _, seed := range []string{
		`{"a": [1, 2.5, "x", null, true, 18446744073709551615]}`, `[[[[`, `"\ud800"`, `{"a": 1}{`, "\x00", `1e400`, `{"":{"":""}}`,
	} {
		f.Add([]byte(seed))
	}
	c, faults := automations.Compile(triage())
	require.Empty(f, faults)
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := automations.DecodePayload(body)
		if err != nil {
			require.ErrorIs(t, err, automations.ErrTooDeep)
			return
		}
		_, err = json.Marshal(v)
		require.NoError(t, err, "holds JSON types only")
		_, _ = c.Matches(opened(), v)
		_, user, err := c.Prompt(opened(), v, nil, nonce)
		require.NoError(t, err)
		require.Equal(t, 2, strings.Count(user, "<data-"+nonce+">"))
	})
}
