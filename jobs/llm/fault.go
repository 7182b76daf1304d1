package llm

import (
	"cmp"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	// messageBytesMax bounds what we keep of a provider's message: enough to act on, too little to fill a log.
	messageBytesMax = 300
	// retryAfterMax bounds what a provider can make us wait in one go; after it we ask again.
	retryAfterMax = time.Hour
	// statusAnthropicOverloaded is Anthropic's own status for overloaded_error.
	statusAnthropicOverloaded = 529
)

// A providerError is the error object that both protocols put in their bodies: {"error": {"type", "code", "message"}}. Anthropic adds
// "details": {"error_code"} (platform.claude.com, errors). Compatible servers send a bare string, or a number as code.
type providerError struct{ Type, Code, Message string }

// parseProviderError reads body; ok is false where it is not a provider's error, a gateway's HTML page for example.
func parseProviderError(body []byte) (e providerError, ok bool) {
	var envelope struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &envelope) != nil {
		return e, false
	}
	return readProviderError(envelope.Error)
}

// readProviderError reads the error object itself.
func readProviderError(raw json.RawMessage) (e providerError, ok bool) {
	if absent(raw) {
		return e, false
	}
	var fields struct {
		Type    string `json:"type"`
		Code    any    `json:"code"`
		Message string `json:"message"`
		Details struct {
			ErrorCode string `json:"error_code"`
		} `json:"details"`
	}
	if json.Unmarshal(raw, &fields) != nil {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return e, false
		}
		return providerError{Message: text}, true
	}
	code, _ := fields.Code.(string)
	return providerError{Type: fields.Type, Code: cmp.Or(fields.Details.ErrorCode, code), Message: fields.Message}, true
}

// is says whether the code or the type is one of words.
func (e providerError) is(words ...string) bool {
	return slices.Contains(words, e.Code) || slices.Contains(words, e.Type)
}

// quotaCodes are the codes and types that mean "no money left", whatever the status (developers.openai.com, spend limits and error
// codes; platform.claude.com, errors).
var quotaCodes = []string{
	"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "billing_not_active",
	"organization_spend_limit_exceeded", "project_spend_limit_exceeded", "enforced_spend_limit_reached", "billing_error",
}

// quotaPhrases are the beginnings of Anthropic's messages for the same, which come as a plain 400 invalid_request_error.
var quotaPhrases = []string{"your credit balance is too low", "you have reached your specified"}

func (e providerError) quota() bool {
	if e.is(quotaCodes...) {
		return true
	}
	return slices.ContainsFunc(quotaPhrases, func(p string) bool { return strings.HasPrefix(strings.ToLower(e.Message), p) })
}

// statusError turns an answer that is not a 2xx into an Error. key is cut out of the provider's message.
func statusError(status int, header http.Header, body []byte, key string, now time.Time) *Error {
	said, known := parseProviderError(body)
	e := &Error{
		Kind:    statusKind(status, said),
		Status:  status,
		Code:    oneLine(cmp.Or(said.Code, said.Type), key),
		Message: oneLine(cmp.Or(said.Message, http.StatusText(status)), key),
		// A provider's own error is not billed. A gateway's page about its upstream says nothing of what the upstream did.
		Sent: status >= 500 && !known && status != http.StatusServiceUnavailable && status != statusAnthropicOverloaded,
	}
	switch e.Kind {
	case KindCredentialRejected:
		// The provider's text quotes a part of the key.
		e.Message = "the provider rejected the credential"
	case KindRateLimited, KindOverloaded, KindUnavailable:
		e.RetryAfter = retryAfter(header, now)
	}
	return e
}

func statusKind(status int, said providerError) Kind {
	switch {
	case status == http.StatusPaymentRequired || said.quota() && status < 500:
		return KindQuotaExhausted
	case status == http.StatusTooManyRequests:
		return KindRateLimited
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return KindCredentialRejected
	case status == http.StatusServiceUnavailable || status == statusAnthropicOverloaded:
		return KindOverloaded
	case status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooEarly:
		// Signs of contention, which both SDKs would retry.
		return KindUnavailable
	case status >= 400 && status < 500:
		return KindBadRequest
	}
	// 5xx, and a redirect: we follow none, since the key would go with it.
	return KindUnavailable
}

// retryAfter reads how long to wait: Retry-After-Ms, Retry-After (seconds or a date), else the latest of the resets of those limits
// that have nothing remaining, or of all. OpenAI writes resets as durations ("6m0s"), Anthropic as RFC 3339 times, others as seconds
// or as a Unix time. 0 if nothing is said.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil {
		return bounded(ms / 1000)
	}
	if v := h.Get("Retry-After"); v != "" {
		if s, err := strconv.ParseFloat(v, 64); err == nil {
			return bounded(s)
		}
		if at, err := http.ParseTime(v); err == nil {
			return bounded(at.Sub(now).Seconds())
		}
	}
	var exhausted, latest time.Duration
	for name, values := range h {
		if len(values) == 0 || !isReset(name) {
			continue
		}
		wait := resetIn(values[0], now)
		latest = max(latest, wait)
		if h.Get(remainingFor(name)) == "0" {
			exhausted = max(exhausted, wait)
		}
	}
	return cmp.Or(exhausted, latest)
}

// isReset knows X-Ratelimit-Reset, X-Ratelimit-Reset-Requests and Anthropic-Ratelimit-Tokens-Reset.
func isReset(header string) bool {
	return strings.HasPrefix(header, "X-Ratelimit-Reset") ||
		strings.HasPrefix(header, "Anthropic-Ratelimit-") && strings.HasSuffix(header, "-Reset")
}

func remainingFor(header string) string { return strings.Replace(header, "-Reset", "-Remaining", 1) }

// unixTimesFrom tells a Unix time from a number of seconds to wait: nobody waits 30 years.
const unixTimesFrom = 1e9

func resetIn(v string, now time.Time) time.Duration {
	if d, err := time.ParseDuration(v); err == nil {
		return bounded(d.Seconds())
	}
	if at, err := time.Parse(time.RFC3339, v); err == nil {
		return bounded(at.Sub(now).Seconds())
	}
	s, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return 0
	}
	if s >= unixTimesFrom {
		s -= float64(now.Unix())
	}
	return bounded(s)
}

// bounded turns seconds, of which a stranger can send any, into a wait between 0 and retryAfterMax. NaN is 0.
func bounded(seconds float64) time.Duration {
	switch {
	case seconds >= retryAfterMax.Seconds():
		return retryAfterMax
	case seconds > 0:
		return time.Duration(seconds * float64(time.Second))
	}
	return 0
}

// keyLike is what a provider's API key looks like, whole or masked with asterisks.
var keyLike = regexp.MustCompile(`\b(?:sk|key|pk|rk)[-_][A-Za-z0-9_*.\-]{6,}`)

// oneLine makes a stranger's text fit for a log: no control characters, no key, bounded.
func oneLine(s, key string) string {
	// The key goes first: a cut through it would leave a part that nothing finds.
	if key != "" {
		s = strings.ReplaceAll(s, key, "[key]")
	}
	// Then a generous cut, so that a huge message costs nothing below.
	if len(s) > 8*messageBytesMax {
		s = s[:8*messageBytesMax]
	}
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == unicode.ReplacementChar {
			return ' '
		}
		return c
	}, s)
	s = keyLike.ReplaceAllString(s, "[key]")
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > messageBytesMax {
		s = strings.ToValidUTF8(s[:messageBytesMax], "") + "..."
	}
	return s
}
