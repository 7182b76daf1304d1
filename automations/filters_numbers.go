package automations

import (
	"math"
	"strconv"
	"strings"
	"time"
)

var numberFilters = map[string]filter{
	"abs": {0, 0, func(_ *run, in any, _ []any) (any, error) {
		if n, ok := numberOf(in).(int64); ok && n != math.MinInt64 {
			return max(n, -n), nil
		}
		return math.Abs(floatOf(in)), nil
	}},
	"at_least": {1, 1, func(_ *run, in any, args []any) (any, error) {
		if floatOf(in) < floatOf(args[0]) {
			in = args[0]
		}
		return numberOf(in), nil
	}},
	"at_most": {1, 1, func(_ *run, in any, args []any) (any, error) {
		if floatOf(in) > floatOf(args[0]) {
			in = args[0]
		}
		return numberOf(in), nil
	}},
	"ceil":       {0, 0, func(_ *run, in any, _ []any) (any, error) { return rounded(in, math.Ceil), nil }},
	"divided_by": {1, 1, dividedBy},
	"floor":      {0, 0, func(_ *run, in any, _ []any) (any, error) { return rounded(in, math.Floor), nil }},
	"minus":      {1, 1, arithmetic(func(a, b int64) (int64, bool) { return a - b, (a-b < a) == (b > 0) }, func(a, b float64) float64 { return a - b })},
	"modulo":     {1, 1, modulo},
	"plus":       {1, 1, arithmetic(func(a, b int64) (int64, bool) { return a + b, (a+b > a) == (b > 0) }, func(a, b float64) float64 { return a + b })},
	"round":      {0, 1, roundFilter},
	"times":      {1, 1, arithmetic(times, func(a, b float64) float64 { return a * b })},
}

// arithmetic makes a filter that stays with whole numbers as long as they hold the result.
func arithmetic(exact func(a, b int64) (int64, bool), inexact func(a, b float64) float64) func(*run, any, []any) (any, error) {
	return func(_ *run, in any, args []any) (any, error) {
		a, aWhole := numberOf(in).(int64)
		b, bWhole := numberOf(args[0]).(int64)
		if aWhole && bWhole {
			if n, ok := exact(a, b); ok {
				return n, nil
			}
		}
		return finite(inexact(floatOf(in), floatOf(args[0])))
	}
}

func finite(f float64) (any, error) {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return nil, usageError("the result is no number")
	}
	return f, nil
}

func times(a, b int64) (int64, bool) {
	if a == 0 || b == 0 {
		return 0, true
	}
	n := a * b
	return n, n/b == a && !(a == -1 && b == math.MinInt64) && !(b == -1 && a == math.MinInt64)
}

// dividedBy rounds down where both numbers are whole, as Liquid does.
func dividedBy(_ *run, in any, args []any) (any, error) {
	a, aWhole := numberOf(in).(int64)
	b, bWhole := numberOf(args[0]).(int64)
	if floatOf(args[0]) == 0 {
		return nil, usageError("divided_by 0")
	}
	if aWhole && bWhole && !(a == math.MinInt64 && b == -1) {
		q := a / b
		if a%b != 0 && (a < 0) != (b < 0) {
			q--
		}
		return q, nil
	}
	return finite(floatOf(in) / floatOf(args[0]))
}

// modulo has the sign of the divisor, as Liquid does.
func modulo(_ *run, in any, args []any) (any, error) {
	a, aWhole := numberOf(in).(int64)
	b, bWhole := numberOf(args[0]).(int64)
	if floatOf(args[0]) == 0 {
		return nil, usageError("modulo 0")
	}
	if aWhole && bWhole {
		if b == -1 {
			return int64(0), nil
		}
		m := a % b
		if m != 0 && (m < 0) != (b < 0) {
			m += b
		}
		return m, nil
	}
	return finite(math.Mod(floatOf(in), floatOf(args[0])))
}

// rounded answers a whole number where int64 holds it.
func rounded(in any, round func(float64) float64) any {
	if n, ok := numberOf(in).(int64); ok {
		return n
	}
	f := round(floatOf(in))
	if math.Abs(f) < 1<<53 {
		return int64(f)
	}
	return f
}

const roundPlacesMax = 15

func roundFilter(_ *run, in any, args []any) (any, error) {
	places, err := whole(args, 0, 0)
	if err != nil || places > roundPlacesMax || places < 0 {
		return nil, usageError("round takes 0 to 15 places")
	}
	if places == 0 {
		return rounded(in, math.Round), nil
	}
	f, err := strconv.ParseFloat(strconv.FormatFloat(floatOf(in), 'f', places, 64), 64)
	if err != nil {
		return nil, usageError("the result is no number")
	}
	return f, nil
}

// dateLayouts are the shapes of time that sources send.
var dateLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 MST", "2006-01-02 15:04:05",
	time.DateOnly, time.RFC1123Z, time.RFC1123,
}

// dateFilter formats a time by strftime's letters, in the zone the value names. A number, or digits, is Unix seconds. What
// is no time stays as it is. There is no "now": a rendering depends on nothing but its data.
func dateFilter(r *run, in any, args []any) (any, error) {
	t, ok := timeOf(in)
	if !ok {
		return in, nil
	}
	return r.made(strftime(t, cutBytes(r.str(args[0]), dateFormatBytesMax)))
}

const dateFormatBytesMax = 1 << 10

func timeOf(v any) (time.Time, bool) {
	s, isText := v.(string)
	if isText {
		s = strings.TrimSpace(s)
		for _, layout := range dateLayouts {
			if t, err := time.Parse(layout, s); err == nil {
				return t, true
			}
		}
		if _, err := strconv.ParseInt(s, 10, 64); err != nil {
			return time.Time{}, false
		}
	}
	if seconds, ok := numberOf(v).(int64); ok && v != nil && seconds > -1<<40 && seconds < 1<<40 {
		if _, isBool := v.(bool); !isBool {
			return time.Unix(seconds, 0).UTC(), true
		}
	}
	return time.Time{}, false
}

// strftimeLayouts are Go's layouts of strftime's letters.
var strftimeLayouts = map[byte]string{
	'A': "Monday", 'B': "January", 'D': "01/02/06", 'F': "2006-01-02", 'H': "15", 'I': "03", 'M': "04", 'R': "15:04",
	'S': "05", 'T': "15:04:05", 'Y': "2006", 'Z': "MST", 'a': "Mon", 'b': "Jan", 'c': "Mon Jan _2 15:04:05 2006",
	'd': "02", 'e': "_2", 'h': "Jan", 'j': "002", 'm': "01", 'p': "PM", 'x': "01/02/06", 'y': "06", 'z': "-0700",
}

func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		unpadded := format[i] == '-' && i+1 < len(format)
		if unpadded {
			i++
		}
		var piece string
		switch layout, ok := strftimeLayouts[format[i]]; {
		case ok:
			piece = t.Format(layout)
		case format[i] == 's':
			piece = strconv.FormatInt(t.Unix(), 10)
		case format[i] == 'u':
			piece = strconv.Itoa((int(t.Weekday())+6)%7 + 1)
		case format[i] == '%':
			piece = "%"
		default:
			piece = "%" + format[i:i+1]
		}
		if unpadded {
			piece = strings.TrimLeft(piece, "0 ")
			if piece == "" {
				piece = "0"
			}
		}
		b.WriteString(piece)
	}
	return b.String()
}
