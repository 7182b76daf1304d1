package llm_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// asked is what a provider was sent, and answers content.
func asked(body *map[string]any, openAIContent string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		*body = nil
		_ = json.Unmarshal(raw, body)
		reply := `{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",
			"message":{"role":"assistant","content":` + strconv.Quote(openAIContent) + `}}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10},
			"type":"message","role":"assistant","content":[],"stop_reason":"end_turn"}`
		answer(200, reply)(w, r)
	}
}

func TestSchemaInEachDialect(t *testing.T) {
	t.Parallel()
	const unsaid = ""
	for name, c := range map[string]struct{ schema, anthropic, openai string }{
		"bounds move into the description": {
			`{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":5,"description":"Stars."}},"required":["n"]}`,
			`{"type":"object","properties":{"n":{"type":"integer","description":"Stars. maximum: 5. minimum: 1."}},"required":["n"],"additionalProperties":false}`,
			`{"type":"object","properties":{"n":{"type":"integer","description":"Stars. maximum: 5. minimum: 1."}},"required":["n"],"additionalProperties":false}`,
		},
		"optional is nullable for openai": {
			`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"},"c":{"type":["string","null"]}},"required":["a"]}`,
			`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"},"c":{"type":["string","null"]}},"required":["a"],"additionalProperties":false}`,
			`{"type":"object","properties":{"a":{"type":"string"},"b":{"anyOf":[{"type":"string"},{"type":"null"}]},"c":{"type":["string","null"]}},"required":["a","b","c"],"additionalProperties":false}`,
		},
		"nested": {
			`{"type":"object","properties":{"l":{"type":"array","minItems":1,"items":{"type":"object","properties":{"e":{"enum":["x","y"]}},"required":["e"]}}},"required":["l"]}`,
			`{"type":"object","properties":{"l":{"type":"array","description":"minItems: 1.","items":{"type":"object","properties":{"e":{"enum":["x","y"]}},"required":["e"],"additionalProperties":false}}},"required":["l"],"additionalProperties":false}`,
			`{"type":"object","properties":{"l":{"type":"array","description":"minItems: 1.","items":{"type":"object","properties":{"e":{"enum":["x","y"]}},"required":["e"],"additionalProperties":false}}},"required":["l"],"additionalProperties":false}`,
		},
		"references": {
			`{"$schema":"s","type":"object","properties":{"p":{"$ref":"#/$defs/p"}},"required":["p"],"$defs":{"p":{"oneOf":[{"type":"string"},{"type":"null"}]}}}`,
			`{"type":"object","properties":{"p":{"$ref":"#/$defs/p"}},"required":["p"],"additionalProperties":false,"$defs":{"p":{"anyOf":[{"type":"string"},{"type":"null"}]}}}`,
			`{"type":"object","properties":{"p":{"$ref":"#/$defs/p"}},"required":["p"],"additionalProperties":false,"$defs":{"p":{"anyOf":[{"type":"string"},{"type":"null"}]}}}`,
		},
		"optional below anyOf": {
			`{"type":"object","properties":{"p":{"anyOf":[{"type":"object","properties":{"q":{"type":"string"}}}]}},"required":["p"]}`,
			`{"type":"object","properties":{"p":{"anyOf":[{"type":"object","properties":{"q":{"type":"string"}},"required":[],"additionalProperties":false}]}},"required":["p"],"additionalProperties":false}`,
			unsaid,
		},
		"root list":      {`{"type":"array","items":{"type":"string"}}`, `{"type":"array","items":{"type":"string"}}`, unsaid},
		"free keys":      {`{"type":"object","additionalProperties":{"type":"string"}}`, unsaid, unsaid},
		"any object":     {`{"type":"object"}`, unsaid, unsaid},
		"condition":      {`{"type":"object","properties":{},"if":{}}`, unsaid, unsaid},
		"anything":       {`{}`, unsaid, unsaid},
		"true":           {`true`, unsaid, unsaid},
		"unknown needed": {`{"type":"object","properties":{},"required":["x"]}`, unsaid, unsaid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var body map[string]any
			client := vendor(t, asked(&body, "{}"))
			r := request("m")
			r.Schema = json.RawMessage(c.schema)

			_, err := client.Complete(t.Context(), "anthropic", "operator", r)
			require.NoError(t, err)
			system := body["system"]
			if c.anthropic == unsaid {
				require.NotContains(t, body, "output_config")
				require.Contains(t, system, c.schema, "the model is told in words")
			} else {
				format := body["output_config"].(map[string]any)["format"].(map[string]any)
				require.Equal(t, "json_schema", format["type"])
				got, _ := json.Marshal(format["schema"])
				require.JSONEq(t, c.anthropic, string(got))
				require.Equal(t, "You triage.", system)
			}

			_, err = client.Complete(t.Context(), "openai", "operator", r)
			require.NoError(t, err)
			format := body["response_format"].(map[string]any)["json_schema"].(map[string]any)
			got, _ := json.Marshal(format["schema"])
			if c.openai == unsaid {
				require.Equal(t, false, format["strict"])
				require.JSONEq(t, c.schema, string(got))
			} else {
				require.Equal(t, true, format["strict"])
				require.JSONEq(t, c.openai, string(got))
			}
		})
	}
}

func TestNullsThatMeanAbsentAreTakenOut(t *testing.T) {
	t.Parallel()
	const schema = `{"type":"object","required":["a"],"properties":{
		"a":{"type":"string"}, "b":{"type":"string"}, "c":{"type":["string","null"]},
		"l":{"type":"array","items":{"type":"object","properties":{"d":{"type":"number"}}}}}}`
	for answered, want := range map[string]string{
		`{"a":"x","b":null,"c":null,"l":[{"d":null},{"d":1e400}]}`: `{"a":"x","c":null,"l":[{},{"d":1e400}]}`,
		`{"a":"<x>","b":"y","c":"z","l":[]}`:                       `{"a":"<x>","b":"y","c":"z","l":[]}`,
		`{"a":null,"b":null}`:                                      `{"a":null}`,
		`not JSON`:                                                 `not JSON`,
		`{"b":null} trailing`:                                      `{"b":null} trailing`,
		`null`:                                                     `null`,
	} {
		var body map[string]any
		client := vendor(t, asked(&body, answered))
		r := request("m")
		r.Schema = json.RawMessage(schema)
		reply, err := client.Complete(t.Context(), "openai", "operator", r)
		require.NoError(t, err)
		require.Equal(t, want, reply.Text)
	}
}

func TestWhatIsSent(t *testing.T) {
	t.Parallel()
	var body map[string]any
	var headers http.Header
	client := vendor(t, func(w http.ResponseWriter, r *http.Request) {
		headers = r.Header.Clone()
		asked(&body, "hi")(w, r)
	})
	r := request("m")

	_, err := client.Complete(t.Context(), "anthropic", "operator", r)
	require.NoError(t, err)
	require.Equal(t, testKey, headers.Get("X-Api-Key"))
	require.Empty(t, headers.Get("Authorization"))
	require.Equal(t, "req-1", headers.Get("X-Client-Request-Id"))
	require.EqualValues(t, 200, body["max_tokens"])
	require.NotContains(t, body, "output_config")

	// A long output needs no streaming, whatever the SDK thinks.
	r.MaxOutputTokens = 64_000
	_, err = client.Complete(t.Context(), "anthropic", "operator", r)
	require.NoError(t, err)

	_, err = client.Complete(t.Context(), "openai", "operator", r)
	require.NoError(t, err)
	require.Equal(t, "Bearer "+testKey, headers.Get("Authorization"))
	require.Empty(t, headers.Get("Idempotency-Key"), "net/http would send a request with one again on its own")
	require.EqualValues(t, 64_000, body["max_completion_tokens"])
	require.NotContains(t, body, "max_tokens")
	require.NotContains(t, body, "response_format")
}
