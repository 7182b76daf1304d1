package llm

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

// Anthropic speaks the Messages API (platform.claude.com) with native structured output: output_config.format of type json_schema.
type Anthropic struct {
	config ProviderConfig
	client anthropic.Client
}

var _ Provider = (*Anthropic)(nil)

// NewAnthropic makes a provider that reads nothing from the environment and never retries.
func NewAnthropic(c ProviderConfig) *Anthropic {
	options := []option.RequestOption{
		option.WithoutEnvironmentDefaults(),
		// Spans are made by our own client; the SDK's would read the environment.
		option.WithoutOpenTelemetry(),
		option.WithMaxRetries(0),
		// Without it the SDK refuses long outputs unless streamed.
		option.WithRequestTimeout(sdkTimeout),
	}
	if c.BaseURL != "" {
		options = append(options, option.WithBaseURL(c.BaseURL))
	}
	return &Anthropic{config: c, client: anthropic.NewClient(options...)}
}

// Name is "anthropic".
func (*Anthropic) Name() string { return "anthropic" }

// Complete asks once.
func (a *Anthropic) Complete(ctx context.Context, r Request) (Reply, error) {
	params := anthropic.MessageNewParams{
		Model:     r.Model,
		MaxTokens: int64(r.MaxOutputTokens),
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(r.User))},
	}
	system := r.System
	if len(r.Schema) > 0 {
		if schema, ok := dialectAnthropic.derive(r.Schema); ok {
			params.OutputConfig.Format = anthropic.JSONOutputFormatParam{Schema: schema}
		} else {
			system = strings.TrimSpace(system + "\n\n" + schemaInWords + string(r.Schema))
		}
	}
	if system != "" {
		params.System = []anthropic.TextBlockParam{{Text: system}}
	}

	x := &exchange{http: a.config.HTTP, sending: r.Sending}
	options := []option.RequestOption{option.WithAPIKey(r.APIKey), option.WithHTTPClient(x)}
	if r.RequestID != "" {
		options = append(options, option.WithHeader(requestIDHeader, r.RequestID))
	}
	m, err := a.client.Messages.New(ctx, params, options...)
	if err := x.failure(ctx, err, r.APIKey, a.config.Now()); err != nil {
		return Reply{}, err
	}
	if m == nil || m.ID == "" || !m.JSON.Content.Valid() {
		return Reply{}, x.malformed("the reply is not a message")
	}

	reply := Reply{ModelServed: m.Model, ResponseID: m.ID, Finish: anthropicFinish(m.StopReason)}
	for _, block := range m.Content {
		if block.Type == "text" {
			reply.Text += block.Text
		}
	}
	if m.JSON.Usage.Valid() {
		reply.RawUsage = json.RawMessage(m.Usage.RawJSON())
	}
	reply.Usage, reply.UsageFault = anthropicUsage(reply.RawUsage, reply.Text)
	return reply, nil
}

func anthropicFinish(s anthropic.StopReason) Finish {
	switch s {
	case anthropic.StopReasonEndTurn, anthropic.StopReasonStopSequence:
		return FinishStop
	case anthropic.StopReasonMaxTokens, anthropic.StopReasonModelContextWindowExceeded:
		return FinishTruncated
	case anthropic.StopReasonRefusal:
		return FinishRefused
	}
	return FinishOther
}

// requestIDHeader is OpenAI's name for a caller's own request id; Anthropic ignores it, proxies log it.
const requestIDHeader = "X-Client-Request-Id"

// schemaInWords asks for a schema that the provider's own structured output cannot express.
const schemaInWords = "Answer with one JSON value and nothing else, no code fence. It has to be valid under this JSON Schema:\n"
