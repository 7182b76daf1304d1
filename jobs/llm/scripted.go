package llm

import (
	"context"
	"strings"
)

// Scripted asks a scripted provider (package scripted), which speaks both protocols on one address: models whose names begin with
// "chat-" over OpenAI's, all others over Anthropic's. It is for `sluice dev` and for tests, through the same code as the real ones.
type Scripted struct {
	anthropic *Anthropic
	openai    *OpenAI
}

var _ Provider = (*Scripted)(nil)

// chatModelPrefix marks the models to ask over OpenAI's protocol.
const chatModelPrefix = "chat-"

// NewScripted makes a provider; c.BaseURL is the root of the scripted server and required.
func NewScripted(c ProviderConfig) *Scripted {
	chat := c
	chat.BaseURL = strings.TrimSuffix(c.BaseURL, "/") + "/v1"
	return &Scripted{anthropic: NewAnthropic(c), openai: NewOpenAI(chat)}
}

// Name is "scripted".
func (*Scripted) Name() string { return "scripted" }

// Complete asks once, over the protocol that the model's name tells.
func (s *Scripted) Complete(ctx context.Context, r Request) (Reply, error) {
	if strings.HasPrefix(r.Model, chatModelPrefix) {
		return s.openai.Complete(ctx, r)
	}
	return s.anthropic.Complete(ctx, r)
}
