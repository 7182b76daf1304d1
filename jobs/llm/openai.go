package llm

import (
	"context"
	"encoding/json"
	"net/http"
)

// OpenAI speaks Chat Completions (developers.openai.com), which is also what compatible servers speak, with response_format
// json_schema.
type OpenAI struct {
	wire    wire
	schemas *schemas
}

var _ Provider = (*OpenAI)(nil)

const (
	openAIBaseURL = "https://api.openai.com/v1"
	openAIPath    = "/chat/completions"
	// schemaName is required by the protocol and shown to the model.
	schemaName = "output"
)

// NewOpenAI makes a provider that reads nothing from the environment and never retries.
func NewOpenAI(c ProviderConfig) *OpenAI {
	words := dialogue{take: takeOpenAI, usage: openAIUsage}
	return &OpenAI{wire: newWire(c, openAIBaseURL, openAIPath, words), schemas: &schemas{dialect: dialectOpenAI}}
}

// Name is "openai".
func (*OpenAI) Name() string { return "openai" }

// openAIRequest is the body of a request.
type openAIRequest struct {
	Model               string              `json:"model"`
	Messages            []chatMessage       `json:"messages"`
	MaxCompletionTokens int                 `json:"max_completion_tokens"`
	Stream              bool                `json:"stream"`
	StreamOptions       openAIStreamOptions `json:"stream_options"`
	ResponseFormat      *openAIFormat       `json:"response_format,omitempty"`
}

type openAIStreamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type openAIFormat struct {
	Type       string       `json:"type"`
	JSONSchema openAISchema `json:"json_schema"`
}

type openAISchema struct {
	Name   string          `json:"name"`
	Strict bool            `json:"strict"`
	Schema json.RawMessage `json:"schema"`
}

// Complete asks once.
func (o *OpenAI) Complete(ctx context.Context, r Request) (Reply, error) {
	body := openAIRequest{
		Model: r.Model, MaxCompletionTokens: r.MaxOutputTokens, Stream: true, StreamOptions: openAIStreamOptions{IncludeUsage: true},
	}
	if r.System != "" {
		body.Messages = append(body.Messages, chatMessage{"system", r.System})
	}
	body.Messages = append(body.Messages, chatMessage{"user", r.User})
	strict := false
	if len(r.Schema) > 0 {
		schema := r.Schema
		var derived json.RawMessage
		if derived, strict = o.schemas.derive(r.Schema); strict {
			schema = derived
		}
		body.ResponseFormat = &openAIFormat{"json_schema", openAISchema{Name: schemaName, Strict: strict, Schema: schema}}
	}
	reply, err := o.wire.ask(ctx, r, http.Header{"Authorization": {"Bearer " + r.APIKey}}, body)
	if err == nil && strict && reply.Finish == FinishStop {
		reply.Text = withoutAddedNulls(r.Schema, reply.Text)
	}
	return reply, err
}

// An openAIChunk is one event of a stream, which has deltas, or a completion that was not streamed, which has messages.
type openAIChunk struct {
	ID      string `json:"id"`
	Model   string `json:"model"`
	Choices []struct {
		Index        int         `json:"index"`
		Delta        *openAIText `json:"delta"`
		Message      *openAIText `json:"message"`
		FinishReason string      `json:"finish_reason"`
	} `json:"choices"`
	Usage json.RawMessage `json:"usage"`
	Error json.RawMessage `json:"error"`
}

type openAIText struct {
	Content string `json:"content"`
	Refusal string `json:"refusal"`
	// What compatible servers tell of a model's thoughts, and the tools that it would call; of any form.
	Reasoning        json.RawMessage `json:"reasoning"`
	ReasoningContent json.RawMessage `json:"reasoning_content"`
	ToolCalls        json.RawMessage `json:"tool_calls"`
}

// takeOpenAI reads one event.
func takeOpenAI(d *draft, data []byte) error {
	if string(data) == "[DONE]" {
		d.ended = true
		return nil
	}
	if text, ok := openAIDelta(data); ok && d.opened && !d.refused {
		d.write(text)
		return nil
	}
	var c openAIChunk
	if json.Unmarshal(data, &c) != nil {
		return malformed("the reply is not the JSON of this protocol")
	}
	d.report(c.Usage)
	for _, choice := range c.Choices {
		if choice.Index != 0 {
			continue
		}
		said := choice.Delta
		if choice.Message != nil {
			said = choice.Message
		}
		if said == nil && !d.opened {
			return malformed("the reply holds no message")
		}
		d.open(c.ID, c.Model)
		if said != nil {
			d.said(*said)
		}
		if choice.FinishReason != "" || choice.Message != nil {
			d.stop(openAIFinish(choice.FinishReason))
		}
	}
	switch {
	case !absent(c.Error):
		return faultInStream(c.Error, d.key)
	case c.Choices == nil && absent(c.Usage):
		return malformed("the reply holds no choice")
	}
	return nil
}

// said takes what one choice says. The text of a refusal takes the place of an answer.
func (d *draft) said(t openAIText) {
	if t.Refusal != "" && !d.refused {
		d.think(string(d.text))
		d.text, d.refused = nil, true
	}
	if d.refused {
		d.write(t.Refusal)
	} else {
		d.write(t.Content)
	}
	for _, raw := range []json.RawMessage{t.Reasoning, t.ReasoningContent, t.ToolCalls} {
		if !absent(raw) {
			d.think(string(raw))
		}
	}
}

func openAIFinish(reason string) Finish {
	switch reason {
	case "stop":
		return FinishStop
	case "length":
		return FinishTruncated
	case "content_filter":
		return FinishRefused
	}
	return FinishOther
}
