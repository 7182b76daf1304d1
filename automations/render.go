package automations

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/osteele/liquid/expressions"
)

// Limits of one rendering. A unit of work is an element looked at or 64 bytes of text read or made; the whole of workMax
// takes some hundred milliseconds.
const (
	actionFieldBytesMax = 256 << 10
	promptBytesMax      = 512 << 10 // system and user together, with the fences
	workMax             = 2_000_000

	workPerTurn  = 8  // of a loop, besides what its body does
	bytesPerWork = 64 // of text
)

// The errors of a rendering that went over a limit; a RenderError wraps them.
var (
	ErrTooLarge = errors.New("the text grows over its limit")
	ErrTooMuch  = errors.New("the template needs too much work with this data")
)

// A RenderError says why a template could not be rendered with an event. Its text repeats nothing of the payload.
type RenderError struct {
	Place string // "prompt.system", "prompt.user", "action.body" or another field of the action, or "fetch.url"
	Line  int    // of the template, from 1; 0 where no line is to blame
	Err   error
}

// Error names the place, the line and the cause.
func (e *RenderError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("render %s: %v", e.Place, e.Err)
	}
	return fmt.Sprintf("render %s, line %d: %v", e.Place, e.Line, e.Err)
}

// Unwrap answers the cause.
func (e *RenderError) Unwrap() error { return e.Err }

// eventValues is an event as templates see it; times are RFC 3339 in UTC.
func eventValues(e Event) map[string]any {
	stamp := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return t.UTC().Format(time.RFC3339)
	}
	return map[string]any{
		"id": e.ID, "source": e.Source, "type": e.Type, "entity": e.Entity, "endpoint_id": e.EndpointID,
		"source_event_id": e.SourceEventID, "occurred_at": stamp(e.OccurredAt), "received_at": stamp(e.ReceivedAt),
		"test": e.Test,
	}
}

// A run is one rendering of one template. It is used by one goroutine, once.
type run struct {
	template *template
	vars     map[string]any
	context  expressions.Context
	out      *strings.Builder
	left     int    // bytes that may still be put out
	fence    *fence // nil: values are put out plain
	address  bool   // values are put out as pieces of an address
	document bool   // values are put out as pieces of a JSON document
	captures int    // how many captures are open; what they hold is fenced when it is put out
	work     int    // units that may still be spent
	size     int    // units of all data there is, once it has been counted; it grows with what filters make
	counted  bool
	misuse   string // what a filter said about its arguments
	failed   error  // the first limit that was hit; nothing goes on after it
}

// newRun binds the template's filters to the run, so that each can charge for its work.
func newRun(t *template, vars map[string]any, work int) *run {
	r := &run{template: t, vars: map[string]any{}, out: &strings.Builder{}, work: work}
	maps.Copy(r.vars, vars)
	config := expressions.NewConfig()
	for _, name := range t.filters {
		f := filters[name]
		config.AddFilter(name, func(args ...any) (any, error) { return r.filter(name, f, args) })
	}
	r.context = expressions.NewContext(r.vars, config)
	return r
}

// text renders the whole template.
func (r *run) text() (string, error) {
	if err := r.nodes(r.template.nodes); err != nil {
		if located, ok := errors.AsType[*RenderError](err); ok {
			return "", located
		}
		return "", &RenderError{Place: r.template.place, Err: err}
	}
	return r.out.String(), nil
}

func (r *run) nodes(nodes []node) error {
	for _, n := range nodes {
		if err := n.render(r); err != nil {
			return err
		}
	}
	return nil
}

// charge spends work. It answers an error once there is none left.
func (r *run) charge(units int) error {
	if r.failed == nil {
		if r.work -= units; r.work < 0 {
			r.failed = ErrTooMuch
		}
	}
	return r.failed
}

// write puts text out.
func (r *run) write(s string) error {
	if r.failed != nil {
		return r.failed
	}
	if r.left -= len(s); r.left < 0 {
		r.failed = ErrTooLarge
		return r.failed
	}
	r.out.WriteString(s)
	return nil
}

// eval evaluates an expression. The library panics on some data (two objects compared, for one) and quotes data in its
// errors, so both become an error that names the expression only.
func (r *run) eval(v value) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, r.blame(v, errors.New("cannot be evaluated with this data"))
		}
	}()
	cost := 1
	if v.scans {
		cost += r.dataSize()
	}
	if err := r.charge(cost); err != nil {
		return nil, r.blame(v, err)
	}
	out, err = v.expr.Evaluate(r.context)
	if r.failed != nil {
		return nil, r.blame(v, r.failed)
	}
	if err != nil {
		var usage usageError
		if failed := (expressions.FilterError{}); errors.As(err, &failed) && errors.As(failed.Err, &usage) {
			return nil, r.blame(v, usage)
		}
		return nil, r.blame(v, errors.New("cannot be evaluated with this data"))
	}
	return out, nil
}

func (r *run) blame(v value, err error) error {
	if errors.Is(err, ErrTooMuch) || errors.Is(err, ErrTooLarge) {
		return &RenderError{Place: r.template.place, Line: v.line, Err: err}
	}
	return &RenderError{Place: r.template.place, Line: v.line, Err: fmt.Errorf("%s: %w", quoted(v.source), err)}
}

// dataSize answers the units of all data a comparison could have to look at.
func (r *run) dataSize() int {
	if !r.counted {
		r.counted = true
		for _, v := range r.vars {
			r.size += units(v)
		}
	}
	return r.size
}

// units counts the work of looking at all of v.
func units(v any) int {
	switch v := v.(type) {
	case string:
		return len(v) / bytesPerWork
	case []any:
		n := len(v)
		for _, item := range v {
			n += units(item)
		}
		return n
	case map[string]any:
		n := len(v)
		for _, item := range v {
			n += units(item)
		}
		return n
	}
	return 0
}

func (n textNode) render(r *run) error { return r.write(string(n)) }

func (n outputNode) render(r *run) error {
	v, err := r.eval(n.value)
	if err != nil {
		return err
	}
	textMax := actionFieldBytesMax + 1
	if r.fence != nil {
		textMax = rawBytesMax
	}
	s := ""
	if r.document && r.captures == 0 {
		s, err = documentPiece(r, v)
	} else {
		s = textOf(r, v, textMax)
	}
	if err != nil {
		return r.blame(n.value, err)
	}
	if r.failed != nil || r.charge(1+len(s)/bytesPerWork) != nil {
		return r.blame(n.value, r.failed)
	}
	switch {
	case r.captures > 0:
	case r.fence != nil:
		s = r.fence.wrap(s)
	case r.address && s == "":
		return r.blame(n.value, ErrEmptyPiece)
	case r.address:
		s = addressPiece(s)
	}
	if err := r.write(s); err != nil {
		return r.blame(n.value, err)
	}
	return nil
}

func (n assignNode) render(r *run) error {
	v, err := r.eval(n.value)
	if err != nil {
		return err
	}
	r.vars[n.name] = v
	return nil
}

// render takes what the body puts out as one plain value: the fence comes around it when it is put out itself.
func (n captureNode) render(r *run) error {
	kept, left := r.out, r.left
	r.out, r.left = &strings.Builder{}, actionFieldBytesMax
	r.captures++
	err := r.nodes(n.body)
	r.captures--
	captured := r.out.String()
	r.out, r.left = kept, left
	if err == nil || errors.Is(err, errBreak) || errors.Is(err, errContinue) {
		r.vars[n.name] = captured
		r.size += len(captured) / bytesPerWork
	}
	return err
}

func (n ifNode) render(r *run) error {
	for _, b := range n.branches {
		if b.test == nil {
			return r.nodes(b.body)
		}
		v, err := r.eval(*b.test)
		if err != nil {
			return err
		}
		if v != nil && v != false {
			return r.nodes(b.body)
		}
	}
	return nil
}

func (n caseNode) render(r *run) error {
	on, err := r.eval(n.on)
	if err != nil {
		return err
	}
	for _, w := range n.whens {
		if w.values == nil {
			return r.nodes(w.body)
		}
		for _, v := range w.values {
			want, err := r.eval(v)
			if err != nil {
				return err
			}
			if sameScalar(on, want) {
				return r.nodes(w.body)
			}
		}
	}
	return nil
}

func (n leaveNode) render(*run) error { return n.err }

func (n forNode) render(r *run) error {
	v, err := r.eval(n.over)
	if err != nil {
		return err
	}
	items, err := r.items(v)
	if err != nil {
		return r.blame(n.over, err)
	}
	if items, err = n.part(r, items); err != nil {
		return err
	}
	if len(items) == 0 {
		return r.nodes(n.orElse)
	}
	outer, outerLoop := r.vars[n.name], r.vars["forloop"]
	defer func() { r.vars[n.name], r.vars["forloop"] = outer, outerLoop }()
	for i, item := range items {
		if err := r.charge(workPerTurn); err != nil {
			return r.blame(n.over, err)
		}
		r.vars[n.name] = item
		r.vars["forloop"] = map[string]any{
			"first": i == 0, "last": i == len(items)-1, "length": len(items),
			"index": i + 1, "index0": i, "rindex": len(items) - i, "rindex0": len(items) - i - 1,
		}
		switch err := r.nodes(n.body); {
		case err == nil || errors.Is(err, errContinue):
		case errors.Is(err, errBreak):
			return nil
		default:
			return err
		}
	}
	return nil
}

// part applies offset, limit and reversed, in Liquid's order. It never changes items, which belong to the payload.
func (n forNode) part(r *run, items []any) ([]any, error) {
	for _, mod := range []struct {
		value *value
		apply func(int)
	}{
		{n.offset, func(k int) { items = items[min(max(k, 0), len(items)):] }},
		{n.limit, func(k int) { items = items[:min(max(k, 0), len(items))] }},
	} {
		if mod.value == nil {
			continue
		}
		v, err := r.eval(*mod.value)
		if err != nil {
			return nil, err
		}
		k, whole := numberOf(v).(int64)
		if !whole {
			return nil, r.blame(*mod.value, errors.New("limit and offset take whole numbers"))
		}
		mod.apply(int(k))
	}
	if n.reversed {
		items = slices.Clone(items)
		slices.Reverse(items)
	}
	return items, nil
}
