package llm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/llm"
)

func TestProvidersErrors(t *testing.T) {
	t.Parallel()
	const rateLimit = `{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}`
	for name, c := range map[string]struct {
		status  int
		body    string
		headers []string
		want    llm.Error
	}{
		"seconds": {429, rateLimit, []string{"Retry-After", "7"},
			llm.Error{Kind: llm.KindRateLimited, RetryAfter: 7 * time.Second, Code: "rate_limit_error", Message: "slow down"}},
		"milliseconds first": {429, rateLimit, []string{"Retry-After-Ms", "250", "Retry-After", "9"},
			llm.Error{Kind: llm.KindRateLimited, RetryAfter: 250 * time.Millisecond, Code: "rate_limit_error", Message: "slow down"}},
		"date": {429, rateLimit, []string{"Retry-After", "Sun, 01 Nov 2026 12:00:30 GMT"},
			llm.Error{Kind: llm.KindRateLimited, RetryAfter: 30 * time.Second, Code: "rate_limit_error", Message: "slow down"}},
		"past date": {429, rateLimit, []string{"Retry-After", "Sun, 01 Nov 2026 11:00:30 GMT"},
			llm.Error{Kind: llm.KindRateLimited, Code: "rate_limit_error", Message: "slow down"}},
		"absurd": {429, rateLimit, []string{"Retry-After", "1e300"},
			llm.Error{Kind: llm.KindRateLimited, RetryAfter: time.Hour, Code: "rate_limit_error", Message: "slow down"}},
		"not a number": {429, rateLimit, []string{"Retry-After", "NaN"},
			llm.Error{Kind: llm.KindRateLimited, Code: "rate_limit_error", Message: "slow down"}},
		"openai resets, the exhausted one": {429, `{"error":{"type":"requests","code":"rate_limit_exceeded","message":"x"}}`,
			[]string{
				"X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "1m6s",
				"X-Ratelimit-Remaining-Tokens", "9", "X-Ratelimit-Reset-Tokens", "6m0s",
			},
			llm.Error{Kind: llm.KindRateLimited, RetryAfter: 66 * time.Second, Code: "rate_limit_exceeded", Message: "x"}},
		"anthropic reset": {429, rateLimit, []string{"Anthropic-Ratelimit-Input-Tokens-Reset", "2026-11-01T12:00:05Z"},
			llm.Error{Kind: llm.KindRateLimited, RetryAfter: 5 * time.Second, Code: "rate_limit_error", Message: "slow down"}},
		"unix reset": {429, rateLimit, []string{"X-Ratelimit-Reset", "1793534410"},
			llm.Error{Kind: llm.KindRateLimited, RetryAfter: 10 * time.Second, Code: "rate_limit_error", Message: "slow down"}},
		"openai quota": {429, `{"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"no money"}}`, []string{"Retry-After", "7"},
			llm.Error{Kind: llm.KindQuotaExhausted, Code: "insufficient_quota", Message: "no money"}},
		"openai project cap": {429, `{"error":{"type":"x","code":"project_spend_limit_exceeded","message":"cap"}}`, nil,
			llm.Error{Kind: llm.KindQuotaExhausted, Code: "project_spend_limit_exceeded", Message: "cap"}},
		"anthropic tier cap": {429, `{"error":{"type":"rate_limit_error","message":"cap","details":{"error_code":"enforced_spend_limit_reached"}}}`, nil,
			llm.Error{Kind: llm.KindQuotaExhausted, Code: "enforced_spend_limit_reached", Message: "cap"}},
		"anthropic own cap": {400, `{"error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits."}}`, nil,
			llm.Error{Kind: llm.KindQuotaExhausted, Code: "invalid_request_error", Message: "You have reached your specified API usage limits."}},
		"anthropic no credit": {400, `{"error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}`, nil,
			llm.Error{Kind: llm.KindQuotaExhausted, Code: "invalid_request_error", Message: "Your credit balance is too low"}},
		"billing": {402, `{"error":{"type":"billing_error","message":"pay"}}`, nil,
			llm.Error{Kind: llm.KindQuotaExhausted, Code: "billing_error", Message: "pay"}},
		"key quoted": {401, `{"error":{"code":"invalid_api_key","message":"Incorrect API key provided: ` + testKey + `"}}`, nil,
			llm.Error{Kind: llm.KindCredentialRejected, Code: "invalid_api_key", Message: "the provider rejected the credential"}},
		"forbidden": {403, `{"error":{"type":"permission_error","message":"no"}}`, nil,
			llm.Error{Kind: llm.KindCredentialRejected, Code: "permission_error", Message: "the provider rejected the credential"}},
		"key quoted elsewhere": {400, `{"error":{"message":"bad header ` + testKey + ` and sk-proj-****WXYZ\nsecond line"}}`, nil,
			llm.Error{Kind: llm.KindBadRequest, Message: "bad header [key] and [key] second line"}},
		"too long": {413, `{"error":{"type":"request_too_large","message":"big"}}`, nil,
			llm.Error{Kind: llm.KindBadRequest, Code: "request_too_large", Message: "big"}},
		"no such model": {404, `{"error":{"type":"not_found_error","message":"model: x"}}`, nil,
			llm.Error{Kind: llm.KindBadRequest, Code: "not_found_error", Message: "model: x"}},
		"bare string": {422, `{"error":"nope"}`, nil, llm.Error{Kind: llm.KindBadRequest, Message: "nope"}},
		"overloaded": {529, `{"error":{"type":"overloaded_error","message":"Overloaded"}}`, []string{"Retry-After", "3"},
			llm.Error{Kind: llm.KindOverloaded, RetryAfter: 3 * time.Second, Code: "overloaded_error", Message: "Overloaded"}},
		"service page": {503, `<html>`, nil, llm.Error{Kind: llm.KindOverloaded, Message: "Service Unavailable"}},
		"own 500":      {500, `{"error":{"type":"api_error","message":"oops"}}`, nil, llm.Error{Kind: llm.KindUnavailable, Code: "api_error", Message: "oops"}},
		"strange 500":  {500, `oops`, nil, llm.Error{Kind: llm.KindUnavailable, Message: "Internal Server Error", Sent: true}},
		"conflict":     {409, `{}`, nil, llm.Error{Kind: llm.KindUnavailable, Message: "Conflict"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := vendor(t, answer(c.status, c.body, c.headers...))
			for _, provider := range client.Providers() {
				_, err := client.Complete(t.Context(), provider, "operator", request("m"))
				fault := ended(t, err)
				want := c.want
				want.Status = c.status
				if want.Kind == llm.KindRateLimited && want.RetryAfter == 0 {
					require.Greater(t, fault.RetryAfter, time.Duration(0), "a pause of our own")
					require.LessOrEqual(t, fault.RetryAfter, time.Second)
					want.RetryAfter = fault.RetryAfter
				}
				require.Equal(t, want, *fault, provider)
			}
		})
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	t.Parallel()
	client := vendor(t, answer(400, `{"error":{"message":"`+strings.Repeat("é\\u0000", 100_000)+`"}}`))
	_, err := client.Complete(t.Context(), "openai", "operator", request("m"))
	require.Less(t, len(ended(t, err).Message), 320)
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	e := llm.Error{Kind: llm.KindRateLimited, Status: 429, Code: "c", Message: "slow down"}
	require.EqualError(t, &e, "rate limited (429) [c]: slow down")
}
