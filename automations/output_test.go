package automations_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

func TestCompile_NamesFaultsOfSchemas(t *testing.T) {
	t.Parallel()
	chain := func(n int) string {
		defs := make([]string, 0, n)
		for i := range n {
			defs = append(defs, fmt.Sprintf(`"d%d": {"anyOf": [{"$ref": "#/$defs/d%d"}, {"$ref": "#/$defs/d%d"}]}`, i, i+1, i+1))
		}
		return fmt.Sprintf(`{"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {%s, "d%d": {"type": "string"}}}`, strings.Join(defs, ","), n)
	}
	cases := []struct{ schema, place, message string }{
		{`[]`, "output_schema", "JSON object"},
		{`{"type": "object"`, "output_schema", "JSON object"},
		{`true`, "output_schema", "JSON object"},
		{`{}`, "output_schema/type", `expected "object"`},
		{`{"type": "string"}`, "output_schema/type", `expected "object"`},
		{`{"type": ["object", "null"]}`, "output_schema/type", `expected "object"`},
		{`{"type": "object", "properties": {"reply": {"type": "strng"}}}`, "output_schema/properties/reply/type", "value must be one of"},
		{`{"type": "object", "required": "x"}`, "output_schema/required", "got string, want array"},
		{`{"type": "object", "properties": {"a": {"$ref": "https://example.com/s"}}}`, "output_schema/properties/a/$ref", "within the schema"},
		{`{"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}`, "output_schema/properties/a/$ref", "within the schema"},
		{`{"type": "object", "properties": {"a": {"$ref": "other.json"}}}`, "output_schema/properties/a/$ref", "within the schema"},
		{`{"type": "object", "allOf": [{"$ref": "https://example.com/s"}]}`, "output_schema/allOf/0/$ref", "within the schema"},
		{`{"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}}`, "output_schema", "not found"},
		{`{"type": "object", "properties": {"a": {"$ref": "#"}}}`, "output_schema", "without recursion"},
		{`{"type": "object", "properties": {"a": {"$id": "x"}}}`, "output_schema/properties/a/$id", "not available"},
		{`{"type": "object", "$dynamicRef": "#x"}`, "output_schema/$dynamicRef", "not available"},
		{`{"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}`, "output_schema/$schema", "2020-12"},
		{`{"type": "object", "$schema": "https://example.com/meta"}`, "output_schema/$schema", "2020-12"},
		{`{"type": "object", "properties": {"a": {"pattern": "(?=x)"}}}`, "output_schema/properties/a/pattern", "regex"},
		{`{"type": "object", "patternProperties": {"(?!x)": {}}}`, "output_schema", "regex"},
		{`{"type": "object", "properties": {"a": {"maximum": 1e999999999}}}`, "output_schema", "number"},
		{`{"type": "object", "description": "` + strings.Repeat("x", 33<<10) + `"}`, "output_schema", "at most 32768"},
		{`{"type": "object", "properties": ` + strings.Repeat(`{"a": {"properties": `, 40) + "{}" + strings.Repeat("}}", 40) + `}`, "output_schema", "nested deeper"},
		{chain(40), "output_schema", "at most 2000 subschemas"},
	}
	for _, tc := range cases {
		t.Run(tc.schema[:min(len(tc.schema), 60)], func(t *testing.T) {
			t.Parallel()
			s := triage()
			s.OutputSchema = json.RawMessage(tc.schema)
			c, faults := automations.Compile(s)
			require.Nil(t, c)
			require.Equal(t, tc.place, faults[0].Place, faults)
			require.Contains(t, faults[0].Message, tc.message)
		})
	}
}

func TestCompile_TakesSchemas(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{
		`null`,
		`{"type": "object"}`,
		`{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {"$ref": {"type": "string"}, "$id": {}}}`,
		`{"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"enum": ["$ref", {"$ref": "https://x"}]}}}`,
	} {
		s := triage()
		s.OutputSchema = json.RawMessage(schema)
		compiled(t, s)
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	s := triage()
	s.OutputSchema = json.RawMessage(`{"type": "object", "additionalProperties": false, "required": ["reply"], "properties": {
		"reply": {"type": "string", "maxLength": 20, "pattern": "^[^@]*$"}, "kind": {"enum": ["bug", "question"]},
		"n": {"type": "integer"}, "price": {"type": "number", "multipleOf": 0.01}, "at": {"type": "string", "format": "date-time"},
		"list": {"type": "array", "items": {"type": "object", "required": ["a/b"], "properties": {"a/b": {"type": "string"}}}},
		"either": {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"x": {"type": "integer"}}}]}}}`)
	c := compiled(t, s)
	good := map[string]any{
		`{"reply": "hi"}`:                          map[string]any{"reply": "hi"},
		" \n{\"reply\": \"hi\"}\n":                 map[string]any{"reply": "hi"},
		"```json\n{\"reply\": \"hi\"}\n```":        map[string]any{"reply": "hi"},
		"```\n{\"reply\": \"hi\"}```\n":            map[string]any{"reply": "hi"},
		"```JSON\r\n{\"reply\": \"hi\"}\r\n```":    map[string]any{"reply": "hi"},
		`{"reply": "", "n": 9007199254740993}`:     map[string]any{"reply": "", "n": int64(9007199254740993)},
		`{"reply": "", "n": 99999999999999999999}`: map[string]any{"reply": "", "n": "99999999999999999999"},
		`{"reply": "", "price": 0.07, "n": 2.0}`:   map[string]any{"reply": "", "price": 0.07, "n": 2.0},
		"{\"reply\": \"```\"}":                     map[string]any{"reply": "```"},
	}
	for text, want := range good {
		got, err := c.Output(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	bad := []struct{ text, place, message string }{
		{"", "", "empty"},
		{"  \n", "", "empty"},
		{"hi", "", "one JSON object and nothing else: syntax error at byte 1"},
		{`{"reply": "hi"} and more`, "", "nothing else"},
		{`Here it is: {"reply": "hi"}`, "", "nothing else"},
		{"Sure!\n```json\n{\"reply\": \"hi\"}\n```", "", "nothing else"},
		{"```json\n{\"reply\": \"hi\"}\n```\nDone.", "", "nothing else"},
		{"```yaml\n{\"reply\": \"hi\"}\n```", "", "nothing else"},
		{`{"reply": "hi"`, "", "nothing else"},
		{"{\"reply\": \"\xff\"}", "", "UTF-8"},
		{`[]`, "", "got array, want object"},
		{`null`, "", "got null, want object"},
		{`{}`, "", "missing property 'reply'"},
		{`{"reply": 1}`, "/reply", "got number, want string"},
		{`{"reply": "hi", "extra": 1}`, "", "'extra' not allowed"},
		{`{"reply": "hi", "kind": "other"}`, "/kind", "'bug', 'question'"},
		{`{"reply": "hi", "n": 1.5}`, "/n", "want integer"},
		{`{"reply": "hi", "price": 0.001}`, "/price", "range or steps"},
		{`{"reply": "hi", "price": 1e999999999}`, "", "number is too long or too large"},
		{`{"reply": "hunter2@example"}`, "/reply", "does not match pattern"},
		{`{"reply": "", "at": "hunter2"}`, "/at", "is not a valid date-time"},
		{`{"reply": "hi", "list": [{"a/b": "x"}, {"a/b": 1}]}`, "/list/1/a~1b", "want string"},
		{`{"reply": "hi", "either": {"x": "y"}}`, "/either/x", "want integer"},
		{`{"reply": "` + strings.Repeat("x", 600<<10) + `"}`, "", "at most"},
		{`{"reply": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "", "nested deeper than 64"},
	}
	for _, tc := range bad {
		got, err := c.Output(tc.text)
		require.Nil(t, got, tc.text)
		var outputErr *automations.OutputError
		require.ErrorAs(t, err, &outputErr, tc.text[:min(len(tc.text), 80)])
		require.Equal(t, tc.place, outputErr.Place, tc.text)
		require.Contains(t, outputErr.Message, tc.message)
		require.NotContains(t, err.Error(), "hunter2", "no values in errors")
	}
}

func TestOutput_WithoutASchemaIsTheTextUnchanged(t *testing.T) {
	t.Parallel()
	s := withBody(t, "<{{ output }}>")
	s.OutputSchema = nil
	c := compiled(t, s)
	for _, text := range []string{"hi", " hi\n", "```json\n{}\n```", `{"a": 1}`} {
		got, err := c.Output(text)
		require.NoError(t, err)
		require.Equal(t, text, got)
		fields, err := c.ActionFields(opened(), nil, got)
		require.NoError(t, err)
		require.Equal(t, "<"+text+">", fields["body"])
	}
	_, err := c.Output(" ")
	require.Error(t, err)
}
