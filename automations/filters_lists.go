package automations

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

var listFilters = map[string]filter{
	"compact": {0, 1, compactFilter},
	"concat":  {1, 1, concatFilter},
	"first": {0, 0, func(r *run, in any, _ []any) (any, error) {
		items, err := r.items(in)
		if err != nil || len(items) == 0 {
			return nil, err
		}
		return items[0], nil
	}},
	"join": {0, 1, joinFilter},
	"last": {0, 0, func(r *run, in any, _ []any) (any, error) {
		items, err := r.items(in)
		if err != nil || len(items) == 0 {
			return nil, err
		}
		return items[len(items)-1], nil
	}},
	"map": {1, 1, func(r *run, in any, args []any) (any, error) {
		return r.each(in, func(item any) (any, bool) { return property(item, args[0]), true })
	}},
	"reverse": {0, 0, func(r *run, in any, _ []any) (any, error) {
		items, err := r.copied(in)
		slices.Reverse(items)
		return items, err
	}},
	"size": {0, 0, sizeFilter},
	"sort": {0, 1, func(r *run, in any, args []any) (any, error) {
		return r.sorted(in, args, compareValues)
	}},
	"sort_natural": {0, 1, func(r *run, in any, args []any) (any, error) {
		return r.sorted(in, args, func(a, b any) int {
			x, _ := a.(string)
			y, _ := b.(string)
			return cmp.Compare(strings.ToLower(x), strings.ToLower(y))
		})
	}},
	"uniq":  {0, 0, uniqFilter},
	"where": {1, 2, whereFilter},
}

// list charges for a list that a filter has made.
func (r *run) list(items []any) (any, error) {
	r.size += len(items)
	return items, r.charge(len(items))
}

// each makes a list of what keep answers for every element.
func (r *run) each(in any, keep func(any) (any, bool)) (any, error) {
	items, err := r.items(in)
	if err == nil {
		err = r.charge(len(items))
	}
	if err != nil {
		return nil, err
	}
	kept := make([]any, 0, len(items))
	for _, item := range items {
		if v, ok := keep(item); ok {
			kept = append(kept, v)
		}
	}
	return r.list(kept)
}

// copied answers the elements in a list of its own.
func (r *run) copied(in any) ([]any, error) {
	items, err := r.items(in)
	if err == nil {
		err = r.charge(len(items))
	}
	if err != nil {
		return nil, err
	}
	_, err = r.list(items)
	return append(make([]any, 0, len(items)), items...), err
}

func property(item, key any) any {
	m, _ := item.(map[string]any)
	name, _ := key.(string)
	return m[name]
}

func compactFilter(r *run, in any, args []any) (any, error) {
	return r.each(in, func(item any) (any, bool) {
		if len(args) > 0 {
			return item, property(item, args[0]) != nil
		}
		return item, item != nil
	})
}

func concatFilter(r *run, in any, args []any) (any, error) {
	first, err := r.copied(in)
	if err != nil {
		return nil, err
	}
	second, err := r.copied(args[0])
	return append(first, second...), err
}

func joinFilter(r *run, in any, args []any) (any, error) {
	items, err := r.items(in)
	if err != nil {
		return nil, err
	}
	sep := " "
	if len(args) > 0 {
		sep = r.str(args[0])
	}
	var b strings.Builder
	for i, item := range items {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(r.str(item))
		if err := r.charge(1 + len(sep)/bytesPerWork); err != nil {
			return nil, err
		}
		if b.Len() > filterTextBytesMax {
			break
		}
	}
	return r.made(b.String())
}

// sizeFilter counts the characters of a text, or the elements of an array or an object.
func sizeFilter(r *run, in any, _ []any) (any, error) {
	switch in := in.(type) {
	case string:
		return utf8.RuneCountInString(in), r.charge(len(in) / bytesPerWork)
	case []any:
		return len(in), nil
	case map[string]any:
		return len(in), nil
	case sequence:
		return max(in.Len(), 0), nil
	}
	return 0, nil
}

// sortWorkPerItem is about the comparisons that sorting needs for one element.
const sortWorkPerItem = 16

// sorted answers the elements in order, those without a value last. Equal ones keep their order.
func (r *run) sorted(in any, args []any, compare func(a, b any) int) (any, error) {
	items, err := r.copied(in)
	if err == nil {
		err = r.charge(sortWorkPerItem * (len(items) + units(items)))
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(items, func(a, b any) int {
		if len(args) > 0 {
			a, b = property(a, args[0]), property(b, args[0])
		}
		switch {
		case a == nil && b == nil:
			return 0
		case a == nil:
			return 1
		case b == nil:
			return -1
		}
		return compare(a, b)
	})
	return items, nil
}

// compareValues orders numbers before texts, and those before all else.
func compareValues(a, b any) int {
	if x, y := rank(a), rank(b); x != y || x == 2 {
		return cmp.Compare(x, y)
	}
	if x, ok := a.(string); ok {
		y, _ := b.(string)
		return cmp.Compare(x, y)
	}
	return cmp.Compare(floatOf(a), floatOf(b))
}

func rank(v any) int {
	switch v.(type) {
	case int, int64, float64:
		return 0
	case string:
		return 1
	}
	return 2
}

// uniqFilter keeps the first of equal elements. Containers are equal when their JSON is.
func uniqFilter(r *run, in any, _ []any) (any, error) {
	seen := map[string]bool{}
	return r.each(in, func(item any) (any, bool) {
		if r.failed != nil {
			return nil, false
		}
		w := jsonWriter{run: r, left: filterTextBytesMax}
		w.value(item)
		key := w.out.String()
		if seen[key] {
			return nil, false
		}
		seen[key] = true
		return item, true
	})
}

// whereFilter keeps the objects whose property is the given value, or is set at all.
func whereFilter(r *run, in any, args []any) (any, error) {
	return r.each(in, func(item any) (any, bool) {
		v := property(item, args[0])
		if len(args) == 1 {
			return item, v != nil && v != false
		}
		return item, sameScalar(v, args[1])
	})
}
