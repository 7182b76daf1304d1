package llm

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Usage is what one call used, in tokens, in buckets that do not overlap: each token is in exactly one, so that the cost is a plain
// sum of products. Vendors report overlapping fields (OpenAI: cached within prompt, reasoning within completion) or exclusive ones
// (Anthropic: input_tokens excludes the cache).
type Usage struct {
	InputUncached     int64 `json:"input_uncached"`
	InputCacheRead    int64 `json:"input_cache_read"`
	InputCacheWrite5m int64 `json:"input_cache_write_5m"`
	InputCacheWrite1h int64 `json:"input_cache_write_1h"`
	OutputVisible     int64 `json:"output_visible"`
	OutputReasoning   int64 `json:"output_reasoning"`
}

// InputTotal is all tokens of the prompt, however they were cached; price tiers go by it.
func (u Usage) InputTotal() int64 {
	return u.InputUncached + u.InputCacheRead + u.InputCacheWrite5m + u.InputCacheWrite1h
}

// OutputTotal is all tokens the model wrote, reasoning included.
func (u Usage) OutputTotal() int64 { return u.OutputVisible + u.OutputReasoning }

// tokensMax bounds a single reported count. No context window comes near it; a larger count is a fault, and every sum of six counts
// fits an int64.
const tokensMax = 1 << 40

// A tally reads counts out of a vendor's usage object and collects what is wrong with them.
type tally struct{ faults []string }

// count returns a reported count, or 0 with a fault.
func (t *tally) count(field string, n *int64, required bool) int64 {
	switch {
	case n == nil && required:
		t.fault("%s is missing", field)
	case n == nil:
	case *n < 0:
		t.fault("%s is %d", field, *n)
	case *n > tokensMax:
		t.fault("%s is %d", field, *n)
	default:
		return *n
	}
	return 0
}

// rest returns whole-part, or 0 with a fault where the part is larger than its whole.
func (t *tally) rest(whole int64, wholeName string, part int64, partName string) int64 {
	if part > whole {
		t.fault("%s %d exceeds %s %d", partName, part, wholeName, whole)
		return 0
	}
	return whole - part
}

func (t *tally) fault(format string, args ...any) {
	t.faults = append(t.faults, fmt.Sprintf(format, args...))
}

func (t *tally) String() string { return strings.Join(t.faults, "; ") }

// noUsage is the fault of a reply without a usage object.
const noUsage = "the reply carries no usage"

// implausible is the fault of counts that are well-formed and cannot be: a prompt is never empty, nor is a text of no tokens.
func implausible(u Usage, text string) string {
	switch {
	case u.InputTotal() == 0:
		return "input tokens are 0 for a prompt that was not empty"
	case u.OutputTotal() == 0 && text != "":
		return "output tokens are 0 for a text that is not empty"
	}
	return ""
}

// anthropicUsage reads the usage object of the Messages API. input_tokens excludes both cache counts, output_tokens includes thinking.
func anthropicUsage(raw json.RawMessage, text string) (Usage, string) {
	if absent(raw) {
		return Usage{}, noUsage
	}
	var r struct {
		Input    *int64 `json:"input_tokens"`
		Read     *int64 `json:"cache_read_input_tokens"`
		Written  *int64 `json:"cache_creation_input_tokens"`
		Creation *struct {
			For5m *int64 `json:"ephemeral_5m_input_tokens"`
			For1h *int64 `json:"ephemeral_1h_input_tokens"`
		} `json:"cache_creation"`
		Output  *int64 `json:"output_tokens"`
		Details *struct {
			Thinking *int64 `json:"thinking_tokens"`
		} `json:"output_tokens_details"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return Usage{}, "usage is not of the expected form"
	}
	var t tally
	u := Usage{
		InputUncached:  t.count("input_tokens", r.Input, true),
		InputCacheRead: t.count("cache_read_input_tokens", r.Read, false),
	}
	// A write that is not split by lifetime is of the default lifetime, 5 minutes.
	u.InputCacheWrite5m = t.count("cache_creation_input_tokens", r.Written, false)
	if r.Creation != nil && (r.Creation.For5m != nil || r.Creation.For1h != nil) {
		written := u.InputCacheWrite5m
		u.InputCacheWrite5m = t.count("ephemeral_5m_input_tokens", r.Creation.For5m, false)
		u.InputCacheWrite1h = t.count("ephemeral_1h_input_tokens", r.Creation.For1h, false)
		if sum := u.InputCacheWrite5m + u.InputCacheWrite1h; r.Written != nil && sum != written {
			t.fault("cache_creation sums to %d, cache_creation_input_tokens is %d", sum, written)
			u.InputCacheWrite5m = max(u.InputCacheWrite5m, written-u.InputCacheWrite1h)
		}
	}
	output := t.count("output_tokens", r.Output, true)
	if r.Details != nil {
		u.OutputReasoning = t.count("thinking_tokens", r.Details.Thinking, false)
	}
	u.OutputVisible = t.rest(output, "output_tokens", u.OutputReasoning, "thinking_tokens")
	if len(t.faults) == 0 {
		return u, implausible(u, text)
	}
	return u, t.String()
}

// openAIUsage reads the usage object of Chat Completions. Cached and written tokens are part of prompt_tokens, reasoning is part of
// completion_tokens. OpenAI has one price for cache writes; they are kept in the 5-minute bucket.
func openAIUsage(raw json.RawMessage, text string) (Usage, string) {
	if absent(raw) {
		return Usage{}, noUsage
	}
	var r struct {
		Prompt        *int64 `json:"prompt_tokens"`
		Completion    *int64 `json:"completion_tokens"`
		Total         *int64 `json:"total_tokens"`
		PromptDetails *struct {
			Cached  *int64 `json:"cached_tokens"`
			Written *int64 `json:"cache_write_tokens"`
			Audio   *int64 `json:"audio_tokens"`
		} `json:"prompt_tokens_details"`
		CompletionDetails *struct {
			Reasoning *int64 `json:"reasoning_tokens"`
			Audio     *int64 `json:"audio_tokens"`
		} `json:"completion_tokens_details"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return Usage{}, "usage is not of the expected form"
	}
	var (
		t     tally
		u     Usage
		audio int64
	)
	prompt := t.count("prompt_tokens", r.Prompt, true)
	completion := t.count("completion_tokens", r.Completion, true)
	if d := r.PromptDetails; d != nil {
		u.InputCacheRead = t.count("cached_tokens", d.Cached, false)
		u.InputCacheWrite5m = t.count("cache_write_tokens", d.Written, false)
		audio += t.count("audio_tokens", d.Audio, false)
	}
	if d := r.CompletionDetails; d != nil {
		u.OutputReasoning = t.count("reasoning_tokens", d.Reasoning, false)
		audio += t.count("audio_tokens", d.Audio, false)
	}
	u.InputUncached = t.rest(prompt, "prompt_tokens", u.InputCacheRead+u.InputCacheWrite5m, "cached_tokens plus cache_write_tokens")
	u.OutputVisible = t.rest(completion, "completion_tokens", u.OutputReasoning, "reasoning_tokens")
	if total := t.count("total_tokens", r.Total, false); r.Total != nil && total != prompt+completion {
		t.fault("total_tokens is %d, prompt_tokens plus completion_tokens is %d", total, prompt+completion)
	}
	if audio > 0 {
		t.fault("%d audio tokens, for which there is no price", audio)
	}
	if len(t.faults) == 0 {
		return u, implausible(u, text)
	}
	return u, t.String()
}

func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }
