package llm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says what went wrong, as far as it decides what to do next.
type Kind string

// The kinds of failure.
const (
	// KindRateLimited: too much for the moment; wait RetryAfter and ask again. No attempt is spent.
	KindRateLimited Kind = "rate_limited"
	// KindQuotaExhausted: the account has no money or reached a limit of spending; a retry does not help, a person does.
	KindQuotaExhausted Kind = "quota_exhausted"
	// KindCredentialRejected: the key is wrong, revoked, or may not do this.
	KindCredentialRejected Kind = "credential_rejected"
	// KindOverloaded: the provider is up and full (503, 529).
	KindOverloaded Kind = "overloaded"
	// KindUnavailable: any other failure of the provider or of the way to it.
	KindUnavailable Kind = "unavailable"
	// KindTimeout: no full reply in time, no first token in time, or a stream that stopped; Message says which.
	KindTimeout Kind = "timeout"
	// KindCancelled: the caller's context ended first.
	KindCancelled Kind = "cancelled"
	// KindBadRequest: this request will never be taken: unknown model, too long, a schema the provider refuses.
	KindBadRequest Kind = "bad_request"
	// KindMalformedReply: a reply came, was most likely billed, and cannot be read.
	KindMalformedReply Kind = "malformed_reply"
	// KindBreakerOpen: nothing was sent; the provider failed too often of late. Wait RetryAfter.
	KindBreakerOpen Kind = "breaker_open"
	// KindBusy: nothing was sent; as many calls as may be are under way. Wait RetryAfter, which is a time of this call's own.
	KindBusy Kind = "busy"
)

// An Error is a failed call. It never holds the API key.
type Error struct {
	Kind Kind
	// Status is the HTTP status, 0 if there was none.
	Status int
	// RetryAfter is how long the provider, or the breaker, asks to wait; 0 if it does not say.
	RetryAfter time.Duration
	// Code is the provider's own code or type of the error, may be empty.
	Code string
	// Message is for people: one line, bounded, without secrets.
	Message string
	// Sent says that the request may have reached the provider and may have been billed, so that an estimate has to be booked. It is
	// false where nothing left, and where the provider itself answered with an error, since errors are not billed.
	Sent bool
	// Usage is what the provider reported of a reply that broke off, and OutputSeen an estimate of the output that came before, in tokens.
	// The larger of the two, and the estimate of the prompt, is what to book: providers bill what they wrote, whoever stopped listening.
	Usage      Usage
	OutputSeen int64

	cause error
}

// Error is one line: the kind, the status, the code, the message.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(string(e.Kind), "_", " "))
	if e.Status != 0 {
		fmt.Fprintf(&b, " (%d)", e.Status)
	}
	if e.Code != "" {
		fmt.Fprintf(&b, " [%s]", e.Code)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	return b.String()
}

// Unwrap gives context.Canceled or context.DeadlineExceeded where that was the reason, else nil.
func (e *Error) Unwrap() error { return e.cause }

// counts says whether the failure speaks against the provider. What the caller or the tenant did wrong does not, and neither does a
// rate limit: else one tenant's bad prompts would stop all who share the credential.
func (e *Error) counts() bool {
	switch e.Kind {
	case KindOverloaded, KindUnavailable, KindTimeout, KindMalformedReply:
		return true
	}
	return false
}

func badRequest(message string) *Error { return &Error{Kind: KindBadRequest, Message: message} }

// contextError is the error of a call whose context ended.
func contextError(err error, sent bool) *Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{Kind: KindTimeout, Message: "no full reply in time", Sent: sent, cause: err}
	}
	return &Error{Kind: KindCancelled, Message: "the call was cancelled", Sent: sent, cause: err}
}
