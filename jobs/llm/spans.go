package llm

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// This file is the one mapping of a call to OpenTelemetry's conventions for generative AI, and nothing else here names them. They are in
// development and break often; what is written here is github.com/open-telemetry/semantic-conventions-genai as of September 2026: the
// provider is gen_ai.provider.name (once gen_ai.system), cache writes are cache_write.input_tokens (440; once cache_creation), tokens are
// counters for each direction (374; once the histogram gen_ai.client.token.usage), and the duration is gen_ai.client.operation.duration
// (which 521, of October, renames gen_ai.client.inference.duration). Nobody may bill or alert by them. Texts are never told: no prompt, no
// reply, no schema, no message of an error.
const (
	operationKey       = attribute.Key("gen_ai.operation.name")
	outputTypeKey      = attribute.Key("gen_ai.output.type")
	providerKey        = attribute.Key("gen_ai.provider.name")
	requestMaxKey      = attribute.Key("gen_ai.request.max_tokens")
	requestStreamKey   = attribute.Key("gen_ai.request.stream")
	requestModelKey    = attribute.Key("gen_ai.request.model")
	responseFirstKey   = attribute.Key("gen_ai.response.time_to_first_chunk") // seconds
	responseFinishKey  = attribute.Key("gen_ai.response.finish_reasons")
	responseIDKey      = attribute.Key("gen_ai.response.id")
	responseModelKey   = attribute.Key("gen_ai.response.model")
	usageCacheReadKey  = attribute.Key("gen_ai.usage.cache_read.input_tokens")
	usageCacheWriteKey = attribute.Key("gen_ai.usage.cache_write.input_tokens")
	usageInputKey      = attribute.Key("gen_ai.usage.input_tokens") // cached tokens included
	usageOutputKey     = attribute.Key("gen_ai.usage.output_tokens")
	usageReasoningKey  = attribute.Key("gen_ai.usage.reasoning.output_tokens")

	errorStatusKey = attribute.Key("http.response.status_code")
	errorTypeKey   = attribute.Key("error.type")
	modalityKey    = attribute.Key("gen_ai.token.modality")

	firstTokenName       = "gen_ai.client.operation.time_to_first_chunk"
	durationName         = "gen_ai.client.operation.duration"
	tokensCacheReadName  = "gen_ai.client.inference.usage.cache_read.input_tokens"
	tokensCacheWriteName = "gen_ai.client.inference.usage.cache_write.input_tokens"
	tokensInputName      = "gen_ai.client.inference.usage.input_tokens"
	tokensOutputName     = "gen_ai.client.inference.usage.output_tokens"
	tokensReasoningName  = "gen_ai.client.inference.usage.reasoning.output_tokens"

	chat = "chat"
	// otherError is the convention's error.type where there is no better one.
	otherError = "_OTHER"
	tracerName = "sluice/jobs/llm"
)

// durationBuckets are the convention's, in seconds.
var durationBuckets = []float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}

// finishReasons are the convention's words for ours.
var finishReasons = map[Finish]string{FinishStop: "stop", FinishTruncated: "length", FinishRefused: "content_filter", FinishOther: "other"}

// An observer tells OpenTelemetry of calls.
type observer struct {
	tracer                                          trace.Tracer
	duration, firstToken                            metric.Float64Histogram
	input, output, cacheRead, cacheWrite, reasoning metric.Int64Counter
	changes, pauses, refusals                       metric.Int64Counter
	now                                             func() time.Time
}

// newObserver makes an observer; a nil provider is the global one, which may be set later. OpenTelemetry gives a working instrument with
// every error, so a name that is not valid is a fault of this file that the test of it finds.
func newObserver(traces trace.TracerProvider, meters metric.MeterProvider, now func() time.Time) observer {
	if traces == nil {
		traces = otel.GetTracerProvider()
	}
	if meters == nil {
		meters = otel.GetMeterProvider()
	}
	meter := meters.Meter(tracerName)
	o := observer{tracer: traces.Tracer(tracerName), now: now}
	o.duration, _ = meter.Float64Histogram(durationName, metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(durationBuckets...),
		metric.WithDescription("How long one call to a model took."))
	o.firstToken, _ = meter.Float64Histogram(firstTokenName, metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(durationBuckets...),
		metric.WithDescription("How long the first token of a reply took."))
	o.changes, _ = meter.Int64Counter(changesName, metric.WithDescription("Changes of breakers, by the state they changed to."))
	o.pauses, _ = meter.Int64Counter(pausesName, metric.WithDescription("Rate limits that providers set, each for all calls of one credential."))
	o.refusals, _ = meter.Int64Counter(busyName, metric.WithDescription("Calls that found no place in a bulkhead."))
	tokens := func(name, description string) metric.Int64Counter {
		counter, _ := meter.Int64Counter(name, metric.WithUnit("{token}"), metric.WithDescription(description))
		return counter
	}
	o.input = tokens(tokensInputName, "Tokens of prompts, cached ones included.")
	o.output = tokens(tokensOutputName, "Tokens that models wrote, reasoning included.")
	o.cacheRead = tokens(tokensCacheReadName, "Tokens of prompts that were read from a cache.")
	o.cacheWrite = tokens(tokensCacheWriteName, "Tokens of prompts that were written to a cache.")
	o.reasoning = tokens(tokensReasoningName, "Tokens that models wrote as reasoning.")
	return o
}

// observe makes the span of one call, runs the call, and counts what became of it.
func (o observer) observe(ctx context.Context, provider string, r Request, call func(context.Context) (Reply, error)) (Reply, error) {
	outputType := "text"
	if len(r.Schema) > 0 {
		outputType = "json"
	}
	labels := []attribute.KeyValue{operationKey.String(chat), providerKey.String(provider), requestModelKey.String(r.Model)}
	ctx, span := o.tracer.Start(ctx, chat+" "+r.Model, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(labels...),
		trace.WithAttributes(requestMaxKey.Int(r.MaxOutputTokens), requestStreamKey.Bool(true), outputTypeKey.String(outputType)))
	defer span.End()
	began := o.now()
	reply, err := call(ctx)
	took := o.now().Sub(began).Seconds()

	if err != nil {
		kind, asked := otherError, false
		if fault, ok := errors.AsType[*Error](err); ok {
			// Where the breaker or a rate limit kept the call in the house, nothing was measured.
			kind, asked = string(fault.Kind), fault.Sent || fault.Status != 0
			if fault.Status != 0 {
				span.SetAttributes(errorStatusKey.Int(fault.Status))
			}
		}
		span.SetAttributes(errorTypeKey.String(kind))
		span.SetStatus(codes.Error, kind)
		if asked {
			o.duration.Record(ctx, took, metric.WithAttributes(append(labels, errorTypeKey.String(kind))...))
		}
		return reply, err
	}

	span.SetAttributes(responseFinishKey.StringSlice([]string{finishReasons[reply.Finish]}), responseIDKey.String(reply.ResponseID))
	if reply.ModelServed != "" {
		span.SetAttributes(responseModelKey.String(reply.ModelServed))
		labels = append(labels, responseModelKey.String(reply.ModelServed))
	}
	told := metric.WithAttributeSet(attribute.NewSet(labels...))
	o.duration.Record(ctx, took, told)
	if reply.FirstToken > 0 {
		span.SetAttributes(responseFirstKey.Float64(reply.FirstToken.Seconds()))
		o.firstToken.Record(ctx, reply.FirstToken.Seconds(), told)
	}
	if reply.UsageFault == "" {
		o.count(ctx, span, reply.Usage, labels)
	}
	return reply, nil
}

// count tells the tokens of a reply whose usage can be trusted.
func (o observer) count(ctx context.Context, span trace.Span, u Usage, labels []attribute.KeyValue) {
	told := metric.WithAttributeSet(attribute.NewSet(append(labels, modalityKey.String("text"))...))
	for _, tokens := range []struct {
		key     attribute.Key
		counter metric.Int64Counter
		n       int64
		always  bool // 0 is told too
	}{
		{usageInputKey, o.input, u.InputTotal(), true},
		{usageOutputKey, o.output, u.OutputTotal(), true},
		{usageCacheReadKey, o.cacheRead, u.InputCacheRead, false},
		{usageCacheWriteKey, o.cacheWrite, u.InputCacheWrite5m + u.InputCacheWrite1h, false},
		{usageReasoningKey, o.reasoning, u.OutputReasoning, false},
	} {
		if tokens.n > 0 || tokens.always {
			span.SetAttributes(tokens.key.Int64(tokens.n))
			tokens.counter.Add(ctx, tokens.n, told)
		}
	}
}
