// Package llm asks language models: one request, one reply, with the usage the provider billed. A file per provider, behind
// one interface; a breaker and a bulkhead per provider, model and owner of the credential; the provider's rate limits per owner; prices
// and the arithmetic of cost. Replies are streamed inside, so that a call that makes no progress ends early, and come out whole.
//
// What must not enter: retries (the one retry loop is the queue's), SQL, tenants, budgets, prompts and their templates, the
// validation of a reply against the tenant's schema, and reading the environment.
package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// A Request is one question to one model.
type Request struct {
	// Model is the provider's own name of the model, without our "provider/" prefix.
	Model string
	// System may be empty, User may not.
	System, User string
	// Schema is a JSON Schema that the reply should follow; nil asks for free text. The provider is held to as much of it as its
	// dialect can say; the caller validates the reply against all of it.
	Schema json.RawMessage
	// MaxOutputTokens bounds what the model may write, reasoning included; 1 or more, since the worst-case cost hangs on it.
	MaxOutputTokens int
	// APIKey goes into the provider's header and nowhere else.
	APIKey string
	// RequestID is sent as X-Client-Request-Id, so that a bill can be traced; printable ASCII, may be empty.
	RequestID string
	// Sending, if set, is called once, after the breaker admitted the call and right before the POST leaves. Its error aborts the
	// call, is returned as it is, and does not count on the breaker.
	Sending func(ctx context.Context) error

	// patience is the client's; a provider that is asked without one waits for as long as its context does.
	patience patience
}

// String names the request without its texts and without its key.
func (r Request) String() string { return fmt.Sprintf("request %q to %q", r.RequestID, r.Model) }

// GoString is String: %#v shows no key either.
func (r Request) GoString() string { return r.String() }

// A Reply is what the model answered, and what it cost in tokens.
type Reply struct {
	// Text is the model's answer, its text blocks joined; for FinishRefused it is the refusal, if the model gave one.
	Text string
	// ModelServed is the model that the provider says it used; it is the one to price. Empty if the provider did not say.
	ModelServed string
	ResponseID  string
	Finish      Finish
	Usage       Usage
	// UsageFault is empty where Usage can be trusted. Else it says what was missing or contradictory, Usage holds the best known
	// numbers, and the caller should book an estimate instead.
	UsageFault string
	// RawUsage is the provider's usage object as received; nil if there was none.
	RawUsage json.RawMessage
	// FirstToken is how long the first token took from the POST; 0 where the server did not stream.
	FirstToken time.Duration
}

// Finish says why the model stopped.
type Finish string

// The reasons to stop.
const (
	// FinishStop: the model was done.
	FinishStop Finish = "stop"
	// FinishTruncated: MaxOutputTokens or the context window was reached; a JSON reply is most likely cut.
	FinishTruncated Finish = "truncated"
	// FinishRefused: the model or a filter of the provider declined; it is billed all the same.
	FinishRefused Finish = "refused"
	// FinishOther: anything else, a tool call for example, which we never offer.
	FinishOther Finish = "other"
)

// A Provider speaks one vendor's protocol. Complete makes at most one POST, calls r.Sending right before it, keeps to the deadline
// of ctx, and returns a *Error for every failure but an error of Sending, which it returns as it is.
type Provider interface {
	Name() string
	Complete(ctx context.Context, r Request) (Reply, error)
}

// ParseModel splits "anthropic/claude-sonnet-4-5" into the provider and the provider's own name of the model, which may itself
// contain slashes.
func ParseModel(s string) (provider, model string, err error) {
	provider, model, found := strings.Cut(s, "/")
	if !found || provider == "" || model == "" || strings.ContainsAny(s, " \t\r\n") {
		return "", "", fmt.Errorf("model %q: expected provider/model, for example anthropic/claude-sonnet-4-5", s)
	}
	return provider, model, nil
}

// requestIDBytesMax is OpenAI's limit for X-Client-Request-Id.
const requestIDBytesMax = 512

// check refuses what no provider would take, before anything is counted or sent.
func (r Request) check() *Error {
	switch {
	case r.Model == "":
		return badRequest("model: expected a name")
	case r.User == "":
		return badRequest("user prompt: expected some text")
	case r.MaxOutputTokens < 1:
		return badRequest(fmt.Sprintf("max_output_tokens: expected 1 or more, got %d", r.MaxOutputTokens))
	case len(r.Schema) > 0 && !json.Valid(r.Schema):
		return badRequest("output schema: expected a JSON Schema")
	case len(r.RequestID) > requestIDBytesMax || strings.ContainsFunc(r.RequestID, notPrintableASCII):
		return badRequest("request id: expected at most 512 printable ASCII characters")
	case strings.TrimSpace(r.APIKey) == "" || strings.ContainsFunc(r.APIKey, notPrintableASCII):
		return &Error{Kind: KindCredentialRejected, Code: "no_key", Message: "the credential holds no usable API key"}
	}
	return nil
}

func notPrintableASCII(c rune) bool { return c < ' ' || c > '~' }
