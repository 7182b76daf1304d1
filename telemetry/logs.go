package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// The formats of the log.
const (
	FormatJSON = "json"
	FormatText = "text"
)

// The attributes that the log adds by itself.
const (
	traceIDKey = "trace_id"
	spanIDKey  = "span_id"
)

var errNoOutput = errors.New("log output: expected a writer")

type withKey struct{}

// With returns a context whose log lines carry attrs too, beside those it already has; a later one of the same key wins.
func With(ctx context.Context, attrs ...slog.Attr) context.Context {
	had, _ := ctx.Value(withKey{}).([]slog.Attr)
	kept := slices.DeleteFunc(slices.Clone(had), func(old slog.Attr) bool {
		return slices.ContainsFunc(attrs, func(a slog.Attr) bool { return a.Key == old.Key })
	})
	return context.WithValue(ctx, withKey{}, append(kept, attrs...))
}

// NewLogger makes a log by the Log fields of c alone. It writes what looks like a secret or a payload masked, and adds trace_id and span_id
// of the context's span and what With put into the context.
func NewLogger(c Config) (*slog.Logger, error) {
	if c.LogOutput == nil {
		return nil, errNoOutput
	}
	options := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: masked}
	switch c.LogFormat {
	case "", FormatJSON:
		return slog.New(&handler{bare: slog.NewJSONHandler(c.LogOutput, options)}), nil
	case FormatText:
		return slog.New(&handler{bare: slog.NewTextHandler(c.LogOutput, options)}), nil
	}
	return nil, fmt.Errorf("log format %q: expected %s or %s", c.LogFormat, FormatJSON, FormatText)
}

// handler adds what the context knows to every line, outside all groups.
type handler struct {
	bare slog.Handler // with the attributes that stand outside all groups
	seen map[string]bool
	// grouped repeats, on another bare, what was opened and added from the first group on.
	grouped []func(slog.Handler) slog.Handler
}

// Enabled says whether a level is written.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.bare.Enabled(ctx, level)
}

// Handle writes a line.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	told := func(key string) bool {
		if h.seen[key] {
			return true
		}
		found := false
		if len(h.grouped) == 0 {
			r.Attrs(func(a slog.Attr) bool {
				found = a.Key == key
				return !found
			})
		}
		return found
	}
	var extra []slog.Attr
	add := func(a slog.Attr) {
		if !told(a.Key) {
			extra = append(extra, a)
		}
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		add(slog.String(traceIDKey, span.TraceID().String()))
		add(slog.String(spanIDKey, span.SpanID().String()))
	}
	if attrs, ok := ctx.Value(withKey{}).([]slog.Attr); ok {
		for _, a := range attrs {
			add(a)
		}
	}
	to := h.bare
	if len(extra) > 0 {
		to = to.WithAttrs(extra)
	}
	for _, again := range h.grouped {
		to = again(to)
	}
	return to.Handle(ctx, r)
}

// WithAttrs returns a handler whose lines carry attrs.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	if len(h.grouped) > 0 {
		return h.repeating(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
	}
	seen := maps.Clone(h.seen)
	if seen == nil {
		seen = map[string]bool{}
	}
	for _, a := range attrs {
		seen[a.Key] = true
	}
	return &handler{bare: h.bare.WithAttrs(attrs), seen: seen}
}

// WithGroup returns a handler whose further attributes stand in a group.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.repeating(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *handler) repeating(step func(slog.Handler) slog.Handler) *handler {
	return &handler{bare: h.bare, seen: h.seen, grouped: append(slices.Clip(h.grouped), step)}
}
