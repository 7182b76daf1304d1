package llm

import (
	"context"
	"encoding/json"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

// OpenAI speaks Chat Completions (developers.openai.com), which is also what compatible servers speak, with response_format
// json_schema.
type OpenAI struct {
	config ProviderConfig
	chat   openai.ChatCompletionService
}

var _ Provider = (*OpenAI)(nil)

// openAIBaseURL is the vendor's own.
const openAIBaseURL = "https://api.openai.com/v1/"

// NewOpenAI makes a provider that reads nothing from the environment and never retries.
func NewOpenAI(c ProviderConfig) *OpenAI {
	if c.BaseURL == "" {
		c.BaseURL = openAIBaseURL
	}
	// The service alone, since openai.NewClient reads keys, organization and headers from the environment.
	return &OpenAI{config: c, chat: openai.NewChatCompletionService(
		option.WithBaseURL(c.BaseURL),
		option.WithMaxRetries(0),
		option.WithRequestTimeout(sdkTimeout),
	)}
}

// Name is "openai".
func (*OpenAI) Name() string { return "openai" }

// schemaName is required by the protocol and shown to the model.
const schemaName = "output"

// Complete asks once.
func (o *OpenAI) Complete(ctx context.Context, r Request) (Reply, error) {
	params := openai.ChatCompletionNewParams{
		Model:               r.Model,
		MaxCompletionTokens: openai.Int(int64(r.MaxOutputTokens)),
	}
	if r.System != "" {
		params.Messages = append(params.Messages, openai.SystemMessage(r.System))
	}
	params.Messages = append(params.Messages, openai.UserMessage(r.User))
	strict := false
	if len(r.Schema) > 0 {
		format := shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: schemaName, Schema: r.Schema}
		var derived map[string]any
		if derived, strict = dialectOpenAI.derive(r.Schema); strict {
			format.Schema = derived
		}
		format.Strict = openai.Bool(strict)
		params.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{JSONSchema: format}
	}

	x := &exchange{http: o.config.HTTP, sending: r.Sending}
	options := []option.RequestOption{option.WithAPIKey(r.APIKey), option.WithHTTPClient(x)}
	if r.RequestID != "" {
		options = append(options, option.WithHeader(requestIDHeader, r.RequestID))
	}
	c, err := o.chat.New(ctx, params, options...)
	if err := x.failure(ctx, err, r.APIKey, o.config.Now()); err != nil {
		return Reply{}, err
	}
	if c == nil || len(c.Choices) == 0 || !c.Choices[0].JSON.Message.Valid() {
		return Reply{}, x.malformed("the reply holds no choice")
	}

	choice := c.Choices[0]
	reply := Reply{Text: choice.Message.Content, ModelServed: c.Model, ResponseID: c.ID, Finish: openAIFinish(choice.FinishReason)}
	if choice.Message.Refusal != "" {
		reply.Text, reply.Finish = choice.Message.Refusal, FinishRefused
	}
	if strict && reply.Finish == FinishStop {
		reply.Text = withoutAddedNulls(r.Schema, reply.Text)
	}
	if c.JSON.Usage.Valid() {
		reply.RawUsage = json.RawMessage(c.Usage.RawJSON())
	}
	reply.Usage, reply.UsageFault = openAIUsage(reply.RawUsage, reply.Text)
	return reply, nil
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
