package telemetry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
)

// What stands in the log in place of what must not be there. This is a net under the rule that nobody logs such a thing, not a licence.
const (
	maskedSecret  = "[secret]"
	maskedPayload = "[payload]"
)

// secretKeys are names of attributes whose values are secrets; so are names that end in one of them, such as github_token.
var secretKeys = []string{
	"api_key", "apikey", "authorization", "cookie", "credential", "credentials", "database_url", "dsn", "master_key", "passwd", "password",
	"private_key", "secret", "secret_key", "signature", "signing_key", "token",
}

// payloadKeys are names of attributes whose texts are a tenant's data.
var payloadKeys = []string{"body", "completion", "output", "payload", "prompt", "raw_body"}

// A shape is what a secret looks like inside a text. It is looked for only where one of its marks stands in the text's lower case: most
// texts have none, and a search for a few letters costs nothing beside a regular expression.
type shape struct {
	marks []string
	of    *regexp.Regexp
	as    string
}

// secretWords mark names of secrets in key=value and in "key":"value".
var secretWords = []string{"password", "passwd", "secret", "token", "apikey", "api_key", "api-key", "authorization", "cookie", "signature"}

var shapes = []shape{
	// Our keys, the token in the address of an endpoint, and the secrets of Standard Webhooks.
	{[]string{"slc_", "slo_"}, regexp.MustCompile(`\bsl[co]_[0-9A-Za-z]{8,}`), maskedSecret},
	{[]string{"/in/"}, regexp.MustCompile(`/in/[0-9A-Za-z]{16,}`), "/in/" + maskedSecret},
	{[]string{"whsec_"}, regexp.MustCompile(`\bwhsec_[0-9A-Za-z+/=_-]{6,}`), maskedSecret},
	// Keys of Anthropic, OpenAI, Stripe, GitHub, Slack, Shopify.
	{[]string{"sk-", "sk_", "pk-", "pk_", "rk-", "rk_"}, regexp.MustCompile(`\b[spr]k[-_][0-9A-Za-z_-]{8,}`), maskedSecret},
	{[]string{"gh", "xox", "xapp", "shp"}, regexp.MustCompile(`\b(gh[opsur]|github_pat|xox[a-z]|xapp|shp[a-z]{2})[-_][0-9A-Za-z_-]{8,}`), maskedSecret},
	{[]string{"bearer", "basic"}, regexp.MustCompile(`(?i)\b(bearer|basic)\s+[0-9A-Za-z+/=._~-]{8,}`), "$1 " + maskedSecret},
	// The password of a URL. That of a database may itself hold an @ or a slash, so it reaches to the last @.
	{[]string{"postgres"}, regexp.MustCompile(`(?i)\b(postgres(?:ql)?://[^\s:/@]*):\S*@`), "$1:" + maskedSecret + "@"},
	{[]string{"://"}, regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@`), "$1:" + maskedSecret + "@"},
	// key=value, as in a connection string or a query, and "key":"value", also inside a quoted text.
	{secretWords, regexp.MustCompile(`(?i)\b([a-z0-9_-]*(?:password|passwd|secret|token|api[_-]?key|authorization|signature))=('[^']*'|[^\s&"',;]+)`), "$1=" + maskedSecret},
	{secretWords, regexp.MustCompile(`(?i)(\\?"[a-z0-9_-]*(?:password|passwd|secret|token|api[_-]?key|authorization|cookie|signature)\\?"\s*:\s*)(?:\[[^\]]*\]|"(?:[^"\\]|\\.)*"|\\"(?:[^"\\])*\\")`), `${1}"` + maskedSecret + `"`},
}

// maskText masks what looks like a secret inside a text.
func maskText(s string) string {
	lower := strings.ToLower(s)
	for _, shape := range shapes {
		if slices.ContainsFunc(shape.marks, func(mark string) bool { return strings.Contains(lower, mark) }) {
			s = shape.of.ReplaceAllString(s, shape.as)
		}
	}
	return s
}

// named says whether a name is one of keys, or ends in one.
func named(name string, keys []string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	return slices.ContainsFunc(keys, func(key string) bool { return name == key || strings.HasSuffix(name, "_"+key) })
}

// masked is slog's ReplaceAttr: it sees every attribute that is not a group, the message among them.
func masked(groups []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindBool, slog.KindDuration, slog.KindFloat64, slog.KindInt64, slog.KindTime, slog.KindUint64:
		return a
	}
	switch {
	case len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.SourceKey):
		return a
	case named(a.Key, secretKeys), slices.ContainsFunc(groups, func(g string) bool { return named(g, secretKeys) }):
		if a.Value.Kind() == slog.KindString && a.Value.String() == "" {
			return a
		}
		return slog.String(a.Key, maskedSecret)
	case slices.Contains(payloadKeys, strings.ToLower(a.Key)):
		return slog.String(a.Key, maskedPayload)
	case a.Value.Kind() == slog.KindString:
		return slog.String(a.Key, maskText(a.Value.String()))
	}
	return slog.Attr{Key: a.Key, Value: maskAny(a.Value.Any())}
}

// maskAny masks what is not a plain value. What holds nothing that looks like a secret is kept as it is.
func maskAny(value any) slog.Value {
	switch v := value.(type) {
	case nil:
		return slog.AnyValue(nil)
	case error:
		return slog.StringValue(maskText(v.Error()))
	case []byte:
		return slog.StringValue(fmt.Sprintf("[%d bytes]", len(v)))
	}
	// The JSON is what slog would write; a type that hides itself by MarshalJSON or String does so here too.
	text, err := json.Marshal(value)
	if err != nil {
		return slog.StringValue(maskText(fmt.Sprintf("%+v", value)))
	}
	plain := fmt.Sprintf("%+v", value)
	if clean := maskText(string(text)); clean != string(text) || maskText(plain) != plain {
		return slog.StringValue(clean)
	}
	return slog.AnyValue(value)
}
