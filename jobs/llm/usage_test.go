package llm_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs/llm"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		provider, usage string
		want            llm.Usage
		fault           string
	}{
		// The shape of the report that LiteLLM priced wrong (issue 9812).
		"anthropic cache write": {"anthropic",
			`{"input_tokens":3,"cache_creation_input_tokens":12304,"cache_read_input_tokens":0,"output_tokens":550}`,
			llm.Usage{InputUncached: 3, InputCacheWrite5m: 12304, OutputVisible: 550}, ""},
		"anthropic split": {"anthropic",
			`{"input_tokens":2048,"cache_read_input_tokens":1800,"cache_creation_input_tokens":248,
			  "cache_creation":{"ephemeral_5m_input_tokens":148,"ephemeral_1h_input_tokens":100},"output_tokens":503,
			  "output_tokens_details":{"thinking_tokens":3}}`,
			llm.Usage{InputUncached: 2048, InputCacheRead: 1800, InputCacheWrite5m: 148, InputCacheWrite1h: 100, OutputVisible: 500, OutputReasoning: 3}, ""},
		"anthropic nulls": {"anthropic",
			`{"input_tokens":9,"cache_read_input_tokens":null,"cache_creation_input_tokens":null,"cache_creation":null,"output_tokens":1}`,
			llm.Usage{InputUncached: 9, OutputVisible: 1}, ""},
		"anthropic split does not sum": {"anthropic",
			`{"input_tokens":1,"cache_creation_input_tokens":50,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":1}`,
			llm.Usage{InputUncached: 1, InputCacheWrite5m: 30, InputCacheWrite1h: 20, OutputVisible: 1},
			"cache_creation sums to 30, cache_creation_input_tokens is 50"},
		"anthropic no output": {"anthropic", `{"input_tokens":5}`, llm.Usage{InputUncached: 5}, "output_tokens is missing"},
		"anthropic negative":  {"anthropic", `{"input_tokens":-5,"output_tokens":1}`, llm.Usage{OutputVisible: 1}, "input_tokens is -5"},
		"anthropic thinking": {"anthropic", `{"input_tokens":5,"output_tokens":1,"output_tokens_details":{"thinking_tokens":2}}`,
			llm.Usage{InputUncached: 5, OutputReasoning: 2}, "thinking_tokens 2 exceeds output_tokens 1"},
		"anthropic fractions": {"anthropic", `{"input_tokens":5.5,"output_tokens":1}`, llm.Usage{}, "usage is not of the expected form"},
		"anthropic text":      {"anthropic", `{"input_tokens":"5","output_tokens":1}`, llm.Usage{}, "usage is not of the expected form"},
		"anthropic zero":      {"anthropic", `{"input_tokens":0,"output_tokens":0}`, llm.Usage{}, "input tokens are 0 for a prompt that was not empty"},
		"anthropic none":      {"anthropic", `null`, llm.Usage{}, "the reply carries no usage"},
		"anthropic huge": {"anthropic", `{"input_tokens":9223372036854775807,"output_tokens":1}`, llm.Usage{OutputVisible: 1},
			"input_tokens is 9223372036854775807"},

		// The shape of the example in OpenAI's API reference.
		"openai": {"openai",
			`{"prompt_tokens":2006,"completion_tokens":300,"total_tokens":2306,"prompt_tokens_details":{"cached_tokens":1920,"audio_tokens":0},
			  "completion_tokens_details":{"reasoning_tokens":120,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
			llm.Usage{InputUncached: 86, InputCacheRead: 1920, OutputVisible: 180, OutputReasoning: 120}, ""},
		"openai cache write": {"openai",
			`{"prompt_tokens":100,"completion_tokens":1,"total_tokens":101,"prompt_tokens_details":{"cached_tokens":20,"cache_write_tokens":50}}`,
			llm.Usage{InputUncached: 30, InputCacheRead: 20, InputCacheWrite5m: 50, OutputVisible: 1}, ""},
		"openai bare":       {"openai", `{"prompt_tokens":19,"completion_tokens":10}`, llm.Usage{InputUncached: 19, OutputVisible: 10}, ""},
		"openai wrong sum":  {"openai", `{"prompt_tokens":19,"completion_tokens":10,"total_tokens":30}`, llm.Usage{InputUncached: 19, OutputVisible: 10}, "total_tokens is 30, prompt_tokens plus completion_tokens is 29"},
		"openai cached":     {"openai", `{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":10}}`, llm.Usage{InputCacheRead: 10, OutputVisible: 1}, "cached_tokens plus cache_write_tokens 10 exceeds prompt_tokens 9"},
		"openai reasoning":  {"openai", `{"prompt_tokens":9,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}`, llm.Usage{InputUncached: 9, OutputReasoning: 2}, "reasoning_tokens 2 exceeds completion_tokens 1"},
		"openai audio":      {"openai", `{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"audio_tokens":4}}`, llm.Usage{InputUncached: 9, OutputVisible: 1}, "4 audio tokens, for which there is no price"},
		"openai no answer":  {"openai", `{"prompt_tokens":9,"completion_tokens":0,"total_tokens":9}`, llm.Usage{InputUncached: 9}, "output tokens are 0 for a text that is not empty"},
		"openai other form": {"openai", `[1]`, llm.Usage{}, "usage is not of the expected form"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := fmt.Sprintf(`{"id":"msg_1","type":"message","role":"assistant","model":"m-2026","content":[{"type":"text","text":"hello"}],
				"stop_reason":"end_turn","usage":%s}`, c.usage)
			if c.provider == "openai" {
				body = fmt.Sprintf(`{"id":"c_1","object":"chat.completion","created":1,"model":"m-2026",
					"choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":%s}`, c.usage)
			}
			reply, err := vendor(t, answer(200, body)).Complete(t.Context(), c.provider, "operator", request("m"))
			require.NoError(t, err, "a reply without a usable usage is still a reply")
			require.Equal(t, c.want, reply.Usage)
			require.Equal(t, c.fault, reply.UsageFault)
			require.Equal(t, "hello", reply.Text)
			require.Equal(t, "m-2026", reply.ModelServed)
			if c.fault == "" {
				require.JSONEq(t, c.usage, string(reply.RawUsage))
			}
		})
	}
}
