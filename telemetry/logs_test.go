package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"sluice/telemetry"
)

// logger writes into the buffer it returns.
func logger(t *testing.T, format string) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	log, err := telemetry.NewLogger(telemetry.Config{LogOutput: &out, LogFormat: format})
	require.NoError(t, err)
	return log, &out
}

// canary is part of every secret below, so that one look finds what escaped.
const canary = "c4n4ryc4n4ryc4n4ry"

type credential struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

type headers struct{ Header http.Header }

func TestLogMasksSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		attr slog.Attr
	}{
		{"ByKey", slog.String("Authorization", canary)},
		{"ByEndOfKey", slog.String("github-token", canary)},
		{"ByGroup", slog.Group("credentials", slog.String("value", canary))},
		{"Payload", slog.String("payload", canary)},
		{"PayloadAsAny", slog.Any("body", map[string]string{"a": canary})},
		{"OurKey", slog.String("note", "the key slc_"+canary+" was used")},
		{"OperatorKey", slog.String("note", "slo_"+canary)},
		{"EndpointToken", slog.String("path", "/in/"+canary+"abcdef")},
		{"StandardSecret", slog.String("note", "whsec_"+canary+"+/=")},
		{"AnthropicKey", slog.String("note", "sk-ant-api03-"+canary)},
		{"StripeKey", slog.String("note", "sk_live_"+canary)},
		{"GitHubToken", slog.String("note", "ghp_"+canary+" github_pat_"+canary)},
		{"SlackToken", slog.String("note", "xoxb-1234-"+canary)},
		{"ShopifyToken", slog.String("note", "shpat_"+canary)},
		{"Bearer", slog.String("note", "Authorization: Bearer "+canary)},
		{"PostgresURL", slog.String("note", "dial postgres://sluice:"+canary+"@db:5432/sluice: refused")},
		{"PostgresURLWithSlashAndAt", slog.String("note", "postgres://sluice:p@/"+canary+"@db/sluice")},
		{"AnyURL", slog.String("note", "http://user:"+canary+"@collector:4318")},
		{"KeyValue", slog.String("note", "host=db password="+canary+" user=sluice")},
		{"QuotedKeyValue", slog.String("note", "password='a "+canary+"' user=sluice")},
		{"Query", slog.String("note", "GET /x?a=1&access_token="+canary+"&b=2")},
		{"JSONText", slog.String("note", `{"a":1,"client_secret":"`+canary+`"}`)},
		{"QuotedJSONText", slog.String("note", `"{\"client_secret\":\"`+canary+`\"}"`)},
		{"Error", slog.Any("error", fmt.Errorf("ask: %w", errors.New("key sk-"+canary)))},
		{"Struct", slog.Any("what", credential{"x", canary})},
		{"Header", slog.Any("what", headers{http.Header{"X-Api-Key": {canary}}})},
		{"Map", slog.Any("what", map[string]string{"token": canary})},
		{"List", slog.Any("what", []string{"fine", "slc_" + canary})},
		{"Bytes", slog.Any("what", []byte(canary))},
		{"NotJSON", slog.Any("what", struct {
			F func()
			S string
		}{nil, "slc_" + canary})},
	} {
		for _, format := range []string{telemetry.FormatJSON, telemetry.FormatText} {
			t.Run(c.name+"/"+format, func(t *testing.T) {
				t.Parallel()
				log, out := logger(t, format)
				log.LogAttrs(t.Context(), slog.LevelInfo, "said", c.attr)
				slog.New(log.Handler().WithAttrs([]slog.Attr{c.attr})).Info("said")
				log.WithGroup("in").LogAttrs(t.Context(), slog.LevelInfo, "said", c.attr)
				require.Equal(t, 3, strings.Count(out.String(), "\n"), out.String())
				require.NotContains(t, out.String(), canary)
			})
		}
	}
	t.Run("InTheMessage", func(t *testing.T) {
		t.Parallel()
		log, out := logger(t, "")
		log.Info("the key slc_" + canary + " was used")
		require.Contains(t, out.String(), `"the key [secret] was used"`)
	})
}

func TestLogKeepsWhatIsNoSecret(t *testing.T) {
	t.Parallel()
	log, out := logger(t, "")
	log.Info("GET /v1/events", "input_tokens", 12, "key_id", "key_0190", "token", 5, "route", "/in/{token}", "secret", "",
		"url", "https://example.com:8443/a?b=c", "list", []string{"a", "b"}, "body", 17, "task", "risk-assessment-of-everything")
	require.Contains(t, out.String(), `"msg":"GET /v1/events","input_tokens":12,"key_id":"key_0190","token":5,"route":"/in/{token}","secret":"",`+
		`"url":"https://example.com:8443/a?b=c","list":["a","b"],"body":17,"task":"risk-assessment-of-everything"}`)
}

func TestLogTellsOfItsContext(t *testing.T) {
	t.Parallel()
	trace1 := trace.TraceID{1}
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace1, SpanID: trace.SpanID{2}})
	ctx := trace.ContextWithSpanContext(t.Context(), span)
	ctx = telemetry.With(ctx, slog.String("tenant_id", "tnt_old"), slog.String("event_id", "evt_1"))
	ctx = telemetry.With(ctx, slog.String("tenant_id", "tnt_1"))

	line := func(t *testing.T, ctx context.Context, how func(*slog.Logger) *slog.Logger, args ...any) map[string]any {
		t.Helper()
		log, out := logger(t, "")
		how(log).InfoContext(ctx, "said", args...)
		var got map[string]any
		require.NoError(t, json.Unmarshal(out.Bytes(), &got), out.String())
		delete(got, "time")
		delete(got, "level")
		delete(got, "msg")
		return got
	}
	told := map[string]any{"trace_id": trace1.String(), "span_id": "0200000000000000", "tenant_id": "tnt_1", "event_id": "evt_1"}
	with := func(more map[string]any) map[string]any {
		all := maps.Clone(told)
		maps.Copy(all, more)
		return all
	}

	plain := func(l *slog.Logger) *slog.Logger { return l }
	require.Equal(t, told, line(t, ctx, plain))
	require.Empty(t, line(t, t.Context(), plain))
	require.Equal(t, with(map[string]any{"a": "b"}), line(t, ctx, plain, "a", "b"))
	require.Equal(t, with(map[string]any{"a": "b"}), line(t, ctx, func(l *slog.Logger) *slog.Logger { return l.With("a", "b") }))
	require.Equal(t, with(map[string]any{"g": map[string]any{"a": "b", "c": "d"}}),
		line(t, ctx, func(l *slog.Logger) *slog.Logger { return l.WithGroup("g").With("a", "b") }, "c", "d"), "the context stands outside all groups")
	require.Equal(t, with(map[string]any{"tenant_id": "tnt_2"}), line(t, ctx, plain, "tenant_id", "tnt_2"), "what the line says itself wins")
	require.Equal(t, with(map[string]any{"tenant_id": "tnt_3"}),
		line(t, ctx, func(l *slog.Logger) *slog.Logger { return l.With("tenant_id", "tnt_3") }))

	log, out := logger(t, "")
	log.InfoContext(ctx, "said", "tenant_id", "tnt_2")
	require.Equal(t, 1, strings.Count(out.String(), "tenant_id"), out.String())
}

func TestLogLevelAndFormat(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := telemetry.NewLogger(telemetry.Config{LogOutput: &out, LogLevel: slog.LevelWarn, LogFormat: telemetry.FormatText})
	require.NoError(t, err)
	log.Info("quiet")
	log.Warn("loud")
	require.NotContains(t, out.String(), "quiet")
	require.Contains(t, out.String(), "level=WARN msg=loud")

	for _, c := range []struct {
		config telemetry.Config
		says   string
	}{
		{telemetry.Config{LogOutput: &out, LogFormat: "xml"}, `log format "xml": expected json or text`},
		{telemetry.Config{}, "log output"},
		{telemetry.Config{LogOutput: &out, OTLPEndpoint: "collector:4318"}, "OTLP endpoint: expected an http or https URL"},
		{telemetry.Config{LogOutput: &out, SampleRatio: 2}, "sample ratio 2: expected 0 to 1"},
	} {
		_, err := telemetry.Start(t.Context(), c.config)
		require.ErrorContains(t, err, c.says)
	}
}

func BenchmarkLog(b *testing.B) {
	log, err := telemetry.NewLogger(telemetry.Config{LogOutput: io.Discard})
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		log.Info("taken in", "source", "stripe", "event_type", "invoice.payment_failed", "tenant_id", "tnt_0190f0f0f0f0f0f0f0f0f0f0f0f0f0f0",
			"event_id", "evt_0190f0f0f0f0f0f0f0f0f0f0f0f0f0f0", "status", 200, "ms", 3.4)
	}
}
