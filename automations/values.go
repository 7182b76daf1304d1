package automations

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

func itoa(i int) string { return strconv.Itoa(i) }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// A sequence is what the library makes of (1..9).
type sequence interface {
	Len() int
	Index(i int) any
}

// items answers what a loop or a list filter goes over: the elements of an array, the [key, value] pairs of an object in
// the order of its keys, the numbers of a range. Nothing else has any. The answer may be the payload's own array.
func (r *run) items(v any) ([]any, error) {
	switch v := v.(type) {
	case []any:
		return v, nil
	case map[string]any:
		if err := r.charge(2 * len(v)); err != nil {
			return nil, err
		}
		pairs := make([]any, 0, len(v))
		for _, key := range sortedKeys(v) {
			pairs = append(pairs, []any{key, v[key]})
		}
		return pairs, nil
	case sequence:
		n := max(v.Len(), 0)
		if err := r.charge(n); err != nil {
			return nil, err
		}
		numbers := make([]any, n)
		for i := range numbers {
			numbers[i] = v.Index(i)
		}
		return numbers, nil
	}
	return nil, nil
}

// textOf answers v as text of at most about bytesMax bytes: nothing for nil, compact JSON for arrays and objects.
func textOf(r *run, v any, bytesMax int) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []any, map[string]any:
		w := jsonWriter{run: r, left: bytesMax}
		w.value(v)
		return w.out.String()
	case sequence:
		return fmt.Sprintf("%v..%v", v.Index(0), v.Index(v.Len()-1))
	}
	return scalar(v)
}

// scalar writes a number or a bool as JSON does.
func scalar(v any) string {
	switch v := v.(type) {
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	case float64:
		if b, err := json.Marshal(v); err == nil {
			return string(b)
		}
	}
	return ""
}

// A jsonWriter writes compact JSON with sorted keys and stops when it has written enough. It leaves every character that
// JSON allows as it is, so that what cleans texts sees them.
type jsonWriter struct {
	run  *run
	out  strings.Builder
	left int
}

// put writes s and answers whether there is room for more.
func (w *jsonWriter) put(s string) bool {
	w.out.WriteString(s)
	w.left -= len(s)
	return w.left > 0
}

func (w *jsonWriter) value(v any) bool {
	if w.run.charge(1) != nil {
		return false
	}
	switch v := v.(type) {
	case nil:
		return w.put("null")
	case string:
		return w.text(v)
	case []any:
		return w.put("[") && w.array(v) && w.put("]")
	case map[string]any:
		return w.put("{") && w.object(v) && w.put("}")
	case sequence:
		return w.text(textOf(w.run, v, w.left))
	}
	return w.put(scalar(v))
}

func (w *jsonWriter) array(items []any) bool {
	for i, item := range items {
		if i > 0 && !w.put(",") || !w.value(item) {
			return false
		}
	}
	return true
}

func (w *jsonWriter) object(m map[string]any) bool {
	if w.run.charge(len(m)) != nil {
		return false
	}
	for i, key := range sortedKeys(m) {
		if i > 0 && !w.put(",") || !w.text(key) || !w.put(":") || !w.value(m[key]) {
			return false
		}
	}
	return true
}

// text writes a JSON string of as much of s as there is room for.
func (w *jsonWriter) text(s string) bool {
	const hex = "0123456789abcdef"
	if w.run.charge(len(s)/bytesPerWork) != nil || !w.put(`"`) {
		return false
	}
	for _, c := range cutBytes(s, w.left) {
		switch {
		case c == '"' || c == '\\':
			w.put(`\` + string(c))
		case c == '\n':
			w.put(`\n`)
		case c == '\r':
			w.put(`\r`)
		case c == '\t':
			w.put(`\t`)
		case c < ' ':
			w.put(`\u00` + string(hex[c>>4]) + string(hex[c&15]))
		default:
			w.out.WriteRune(c)
			w.left -= utf8.RuneLen(c)
		}
	}
	return w.put(`"`)
}

// cutBytes answers at most bytesMax bytes of s, whole characters only.
func cutBytes(s string, bytesMax int) string {
	if len(s) <= bytesMax {
		return s
	}
	for bytesMax > 0 && !utf8.RuneStart(s[bytesMax]) {
		bytesMax--
	}
	return s[:max(bytesMax, 0)]
}

// numberOf answers v as an int64 or a float64, and 0 for what is no number, as Liquid does.
func numberOf(v any) any {
	switch v := v.(type) {
	case int:
		return int64(v)
	case int64, float64:
		return v
	case string:
		s := strings.TrimSpace(v)
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && f-f == 0 {
			return f
		}
	}
	return int64(0)
}

func floatOf(v any) float64 {
	switch n := numberOf(v).(type) {
	case int64:
		return float64(n)
	case float64:
		return n
	}
	return 0
}

// sameScalar compares two values that are no containers; a container is the same as nothing.
func sameScalar(a, b any) bool {
	switch a.(type) {
	case int, int64, float64:
		switch b.(type) {
		case int, int64, float64:
			if x, ok := numberOf(a).(int64); ok {
				if y, ok := numberOf(b).(int64); ok {
					return x == y
				}
			}
			return floatOf(a) == floatOf(b)
		}
		return false
	case string, bool, nil:
		switch b.(type) {
		case string, bool, nil:
			return a == b
		}
	}
	return false
}
