package scripted

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

var errNoPrompt = errors.New("a model and a user message are expected")

// anthropicWire is the Messages API.
type anthropicWire struct{}

func (anthropicWire) name() string       { return "anthropic" }
func (anthropicWire) idPrefix() string   { return "msg_" }
func (anthropicWire) splitsWrites() bool { return true }

func (anthropicWire) key(h http.Header) string {
	if key := h.Get("X-Api-Key"); key != "" {
		return key
	}
	return bearer(h)
}

func bearer(h http.Header) string {
	key, _ := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	return strings.TrimSpace(key)
}

// providerContent is the content of a message in both protocols: a string, or a list of blocks of which those of text count.
type providerContent string

func (c *providerContent) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*c = providerContent(text)
		return nil
	}
	var blocks []struct{ Type, Text string }
	if err := json.Unmarshal(b, &blocks); err != nil {
		return fmt.Errorf("content: expected a text or a list of blocks: %w", err)
	}
	var texts []string
	for _, block := range blocks {
		if block.Type == "text" {
			texts = append(texts, block.Text)
		}
	}
	*c = providerContent(strings.Join(texts, "\n"))
	return nil
}

type providerMessage struct {
	Role    string          `json:"role"`
	Content providerContent `json:"content"`
}

func (anthropicWire) read(body []byte) (providerAsk, error) {
	var in struct {
		Model        string            `json:"model"`
		MaxTokens    int64             `json:"max_tokens"`
		Stream       bool              `json:"stream"`
		System       providerContent   `json:"system"`
		Messages     []providerMessage `json:"messages"`
		OutputConfig struct {
			Format struct {
				Type   string          `json:"type"`
				Schema json.RawMessage `json:"schema"`
			} `json:"format"`
		} `json:"output_config"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return providerAsk{}, err
	}
	ask := providerAsk{model: in.Model, system: string(in.System), schema: in.OutputConfig.Format.Schema, maxTokens: in.MaxTokens}
	if in.MaxTokens < 1 {
		return ask, errors.New("max_tokens: 1 or more is expected")
	}
	ask.stream = in.Stream
	return ask.with(in.Messages)
}

// with takes the prompt out of the messages; a system or developer message is OpenAI's way to give a system prompt.
func (a providerAsk) with(messages []providerMessage) (providerAsk, error) {
	for _, m := range messages {
		switch m.Role {
		case "system", "developer":
			a.system += string(m.Content)
		case "user":
			a.prompt = string(m.Content)
		}
	}
	if a.model == "" || a.prompt == "" {
		return a, errNoPrompt
	}
	return a, nil
}

func (anthropicWire) reply(r providerReply) any {
	message := map[string]any{
		"id": r.id, "type": "message", "role": "assistant", "model": r.model,
		"content":     []any{map[string]any{"type": "text", "text": r.text}},
		"stop_reason": anthropicStops[r.stop], "stop_sequence": nil,
	}
	if r.usage != nil {
		message["usage"] = anthropicUsage(*r.usage)
	}
	return message
}

var anthropicStops = [...]string{stopDone: "end_turn", stopTruncated: "max_tokens", stopRefused: "refusal"}

func anthropicUsage(u ProviderUsage) map[string]any {
	return map[string]any{
		"input_tokens": u.InputUncached, "cache_read_input_tokens": u.InputCacheRead,
		"cache_creation_input_tokens": u.InputCacheWrite5m + u.InputCacheWrite1h,
		"cache_creation": map[string]any{
			"ephemeral_5m_input_tokens": u.InputCacheWrite5m, "ephemeral_1h_input_tokens": u.InputCacheWrite1h,
		},
		"output_tokens":         u.OutputVisible + u.OutputReasoning,
		"output_tokens_details": map[string]any{"thinking_tokens": u.OutputReasoning},
		"service_tier":          "standard",
	}
}

func (anthropicWire) fault(f providerFault, id string) any {
	fault := map[string]any{"type": f.anthropicType, "message": f.message}
	if f.anthropicDetail != "" {
		fault["details"] = map[string]any{"error_code": f.anthropicDetail}
	}
	return map[string]any{"type": "error", "error": fault, "request_id": id}
}

// openAIWire is Chat Completions.
type openAIWire struct{}

func (openAIWire) name() string             { return "openai" }
func (openAIWire) idPrefix() string         { return "chatcmpl-" }
func (openAIWire) splitsWrites() bool       { return false }
func (openAIWire) key(h http.Header) string { return bearer(h) }

func (openAIWire) read(body []byte) (providerAsk, error) {
	var in struct {
		Model               string `json:"model"`
		MaxTokens           int64  `json:"max_tokens"`
		MaxCompletionTokens int64  `json:"max_completion_tokens"`
		Stream              bool   `json:"stream"`
		StreamOptions       struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
		Messages       []providerMessage `json:"messages"`
		ResponseFormat struct {
			Type       string `json:"type"`
			JSONSchema struct {
				Schema json.RawMessage `json:"schema"`
			} `json:"json_schema"`
		} `json:"response_format"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return providerAsk{}, err
	}
	ask := providerAsk{model: in.Model, schema: in.ResponseFormat.JSONSchema.Schema, maxTokens: max(in.MaxCompletionTokens, in.MaxTokens)}
	ask.stream, ask.usageWanted = in.Stream, in.StreamOptions.IncludeUsage
	return ask.with(in.Messages)
}

func (openAIWire) reply(r providerReply) any {
	message := map[string]any{"role": "assistant", "content": r.text, "refusal": nil}
	if r.stop == stopRefused {
		message["content"], message["refusal"] = nil, r.text
	}
	completion := map[string]any{
		"id": r.id, "object": "chat.completion", "created": r.created.Unix(), "model": r.model,
		"choices": []any{map[string]any{
			"index": 0, "message": message, "logprobs": nil,
			"finish_reason": openAIStops[r.stop],
		}},
	}
	if r.usage != nil {
		completion["usage"] = openAIUsage(*r.usage)
	}
	return completion
}

var openAIStops = [...]string{stopDone: "stop", stopTruncated: "length", stopRefused: "stop"}

func openAIUsage(u ProviderUsage) map[string]any {
	written := u.InputCacheWrite5m + u.InputCacheWrite1h
	prompt, completed := u.InputUncached+u.InputCacheRead+written, u.OutputVisible+u.OutputReasoning
	return map[string]any{
		"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed,
		"prompt_tokens_details":     map[string]any{"cached_tokens": u.InputCacheRead, "cache_write_tokens": written, "audio_tokens": 0},
		"completion_tokens_details": map[string]any{"reasoning_tokens": u.OutputReasoning, "audio_tokens": 0},
	}
}

func (openAIWire) fault(f providerFault, _ string) any {
	fault := map[string]any{"message": f.message, "type": f.openAIType, "param": nil, "code": nil}
	if f.openAICode != "" {
		fault["code"] = f.openAICode
	}
	return map[string]any{"error": fault}
}
