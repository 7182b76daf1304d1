package llm

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
)

// Anthropic speaks the Messages API (platform.claude.com) with native structured output: output_config.format of type json_schema.
type Anthropic struct {
	wire    wire
	schemas *schemas
}

var _ Provider = (*Anthropic)(nil)

const (
	anthropicBaseURL = "https://api.anthropic.com"
	anthropicPath    = "/v1/messages"
	anthropicVersion = "2023-06-01"
)

// NewAnthropic makes a provider that reads nothing from the environment and never retries.
func NewAnthropic(c ProviderConfig) *Anthropic {
	words := dialogue{take: takeAnthropic, usage: anthropicUsage}
	return &Anthropic{wire: newWire(c, anthropicBaseURL, anthropicPath, words), schemas: &schemas{dialect: dialectAnthropic}}
}

// Name is "anthropic".
func (*Anthropic) Name() string { return "anthropic" }

// anthropicRequest is the body of a request.
type anthropicRequest struct {
	Model        string                 `json:"model"`
	MaxTokens    int                    `json:"max_tokens"`
	Stream       bool                   `json:"stream"`
	System       string                 `json:"system,omitempty"`
	Messages     []chatMessage          `json:"messages"`
	OutputConfig *anthropicOutputConfig `json:"output_config,omitempty"`
}

type anthropicOutputConfig struct {
	Format anthropicFormat `json:"format"`
}

type anthropicFormat struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"schema"`
}

// A chatMessage is a message in both protocols.
type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// schemaInWords asks for a schema that the provider's own structured output cannot express.
const schemaInWords = "Answer with one JSON value and nothing else, no code fence. It has to be valid under this JSON Schema:\n"

// Complete asks once.
func (a *Anthropic) Complete(ctx context.Context, r Request) (Reply, error) {
	body := anthropicRequest{
		Model: r.Model, MaxTokens: r.MaxOutputTokens, Stream: true, System: r.System, Messages: []chatMessage{{"user", r.User}},
	}
	if len(r.Schema) > 0 {
		if schema, ok := a.schemas.derive(r.Schema); ok {
			body.OutputConfig = &anthropicOutputConfig{anthropicFormat{"json_schema", schema}}
		} else {
			body.System = strings.TrimSpace(r.System + "\n\n" + schemaInWords + string(r.Schema))
		}
	}
	return a.wire.ask(ctx, r, http.Header{"X-Api-Key": {r.APIKey}, "Anthropic-Version": {anthropicVersion}}, body)
}

// An anthropicEvent is any event of a stream, or a message that was not streamed; each uses a part of the fields.
type anthropicEvent struct {
	anthropicMessage

	Message *anthropicMessage `json:"message"`
	Block   anthropicBlock    `json:"content_block"`
	Delta   struct {
		anthropicBlock

		StopReason string `json:"stop_reason"`
	} `json:"delta"`
	Error json.RawMessage `json:"error"`
}

type anthropicMessage struct {
	Type       string           `json:"type"`
	ID         string           `json:"id"`
	Model      string           `json:"model"`
	Content    []anthropicBlock `json:"content"`
	StopReason string           `json:"stop_reason"`
	Usage      json.RawMessage  `json:"usage"`
}

type anthropicBlock struct {
	Type        string `json:"type"`
	Text        string `json:"text"`
	Thinking    string `json:"thinking"`
	PartialJSON string `json:"partial_json"`
}

// anthropicIdle are the beginnings of events that say nothing.
var anthropicIdle = [][]byte{[]byte(`{"type":"ping"`), []byte(`{"type": "ping"`), []byte(`{"type":"content_block_stop"`)}

// takeAnthropic reads one event. Kinds that are not known are passed over, since the vendor adds some without a new version.
func takeAnthropic(d *draft, data []byte) error {
	if text, ok := anthropicText(data); ok {
		d.write(text)
		return nil
	}
	for _, idle := range anthropicIdle {
		if bytes.HasPrefix(data, idle) {
			return nil
		}
	}
	var e anthropicEvent
	if json.Unmarshal(data, &e) != nil {
		return malformed("the reply is not the JSON of this protocol")
	}
	switch e.Type {
	case "message", "":
		if e.ID == "" || e.Content == nil {
			return malformed("the reply is not a message")
		}
		d.open(e.ID, e.Model)
		for _, block := range e.Content {
			d.block(block)
		}
		d.report(e.Usage)
		d.stop(anthropicFinish(e.StopReason))
	case "message_start":
		if e.Message == nil || e.Message.ID == "" {
			return malformed("the stream does not begin with a message")
		}
		d.open(e.Message.ID, e.Message.Model)
		d.report(e.Message.Usage)
	case "content_block_start":
		d.block(e.Block)
	case "content_block_delta":
		d.block(e.Delta.anthropicBlock)
	case "message_delta":
		d.report(e.Usage)
		if e.Delta.StopReason != "" {
			d.stop(anthropicFinish(e.Delta.StopReason))
		}
	case "message_stop":
		d.ended = true
	case "error":
		return faultInStream(e.Error, d.key)
	}
	return nil
}

// block takes a block of content, or a part of one: texts are the reply.
func (d *draft) block(b anthropicBlock) {
	switch b.Type {
	case "text", "text_delta":
		d.write(b.Text)
	default:
		d.think(b.Thinking + b.PartialJSON)
	}
}

func anthropicFinish(reason string) Finish {
	switch reason {
	case "end_turn", "stop_sequence":
		return FinishStop
	case "max_tokens", "model_context_window_exceeded":
		return FinishTruncated
	case "refusal":
		return FinishRefused
	}
	return FinishOther
}
