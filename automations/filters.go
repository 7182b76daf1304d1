package automations

import (
	"fmt"
	"html"
	"maps"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filterTextBytesMax bounds the text that one filter may make. It is above what any output shows.
const filterTextBytesMax = 512 << 10

// A filter is one word after a | in a template. It must not change what it is given, which may be the payload itself, and
// must charge the run before it makes anything larger than its input.
type filter struct {
	argsMin, argsMax int
	apply            func(r *run, in any, args []any) (any, error)
}

// A usageError is a fault of the template's author; its text repeats no data.
type usageError string

func (e usageError) Error() string { return string(e) }

// filters are Shopify's, apart from those for shops and images. A value of another type than a filter wants is taken as
// an empty text, 0, or no elements, as Liquid does.
var filters = merged(textFilters, listFilters, numberFilters)

// filterNames are the names of filters, in order.
var filterNames = sortedKeys(filters)

func merged(sets ...map[string]filter) map[string]filter {
	all := map[string]filter{}
	for _, set := range sets {
		maps.Copy(all, set)
	}
	return all
}

var textFilters = map[string]filter{
	"append":         {1, 1, func(r *run, in any, args []any) (any, error) { return r.made(r.str(in) + r.str(args[0])) }},
	"capitalize":     textFilter(capitalize),
	"date":           {1, 1, dateFilter},
	"default":        {1, 1, defaultFilter},
	"downcase":       textFilter(strings.ToLower),
	"escape":         textFilter(html.EscapeString),
	"escape_once":    textFilter(func(s string) string { return html.EscapeString(html.UnescapeString(s)) }),
	"json":           {0, 0, func(r *run, in any, _ []any) (any, error) { return r.json(in) }},
	"lstrip":         textFilter(func(s string) string { return strings.TrimLeftFunc(s, unicode.IsSpace) }),
	"newline_to_br":  textFilter(func(s string) string { return strings.ReplaceAll(s, "\n", "<br />\n") }),
	"prepend":        {1, 1, func(r *run, in any, args []any) (any, error) { return r.made(r.str(args[0]) + r.str(in)) }},
	"remove":         {1, 1, func(r *run, in any, args []any) (any, error) { return r.replaced(in, args[0], "", -1) }},
	"remove_first":   {1, 1, func(r *run, in any, args []any) (any, error) { return r.replaced(in, args[0], "", 1) }},
	"replace":        {2, 2, func(r *run, in any, args []any) (any, error) { return r.replaced(in, args[0], args[1], -1) }},
	"replace_first":  {2, 2, func(r *run, in any, args []any) (any, error) { return r.replaced(in, args[0], args[1], 1) }},
	"rstrip":         textFilter(func(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }),
	"slice":          {1, 2, sliceFilter},
	"split":          {1, 1, splitFilter},
	"strip":          textFilter(strings.TrimSpace),
	"strip_html":     textFilter(func(s string) string { return htmlTagRE.ReplaceAllString(s, "") }),
	"strip_newlines": textFilter(func(s string) string { return newlines.Replace(s) }),
	"truncate":       {0, 2, truncateFilter},
	"truncatewords":  {0, 2, truncateWordsFilter},
	"upcase":         textFilter(strings.ToUpper),
	"url_decode":     textFilter(urlDecode),
	"url_encode":     textFilter(url.QueryEscape),
}

// filter runs one filter for the library.
func (r *run) filter(name string, f filter, args []any) (any, error) {
	if given := len(args) - 1; given < f.argsMin || given > f.argsMax {
		want := fmt.Sprint(f.argsMin)
		if f.argsMax != f.argsMin {
			want = fmt.Sprintf("%d to %d", f.argsMin, f.argsMax)
		}
		r.misuse = fmt.Sprintf("filter %s takes %s arguments, got %d", name, want, given)
		return nil, usageError(r.misuse)
	}
	if err := r.charge(1); err != nil {
		return nil, err
	}
	return f.apply(r, args[0], args[1:])
}

// str reads a value as text and charges for it.
func (r *run) str(v any) string {
	s := textOf(r, v, filterTextBytesMax)
	if r.charge(len(s)/bytesPerWork) != nil {
		return ""
	}
	return s
}

// made charges for a text that a filter has made, and refuses one that is too large.
func (r *run) made(s string) (any, error) {
	if len(s) > filterTextBytesMax && r.failed == nil {
		r.failed = ErrTooLarge
	}
	r.size += len(s) / bytesPerWork
	return s, r.charge(len(s) / bytesPerWork)
}

// textFilter makes a filter of a function whose result is at most a few times as large as its input. An input beyond what
// a filter may make is refused before.
func textFilter(f func(string) string) filter {
	return filter{0, 0, func(r *run, in any, _ []any) (any, error) {
		s := r.str(in)
		if _, err := r.made(s); err != nil {
			return nil, err
		}
		return r.made(f(s))
	}}
}

func (r *run) json(in any) (any, error) {
	w := jsonWriter{run: r, left: filterTextBytesMax + 1}
	w.value(in)
	return r.made(w.out.String())
}

// replaced counts before it makes anything, since an empty needle in a long text can multiply it.
func (r *run) replaced(in, old, with any, n int) (any, error) {
	s, needle, replacement := r.str(in), r.str(old), r.str(with)
	if len(s) > filterTextBytesMax {
		return r.made(s)
	}
	count := strings.Count(s, needle)
	if n >= 0 {
		count = min(count, n)
	}
	if len(s)+count*len(replacement) > filterTextBytesMax+count*len(needle) {
		r.failed = ErrTooLarge
		return nil, r.failed
	}
	return r.made(strings.Replace(s, needle, replacement, n))
}

var (
	htmlTagRE = regexp.MustCompile(`(?s)<script.*?</script>|<!--.*?-->|<style.*?</style>|<[^>]*>`)
	newlines  = strings.NewReplacer("\r", "", "\n", "")
)

func capitalize(s string) string {
	c, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(c)) + s[n:]
}

func urlDecode(s string) string {
	decoded, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return decoded
}

func defaultFilter(_ *run, in any, args []any) (any, error) {
	empty := in == nil || in == false
	switch in := in.(type) {
	case string:
		empty = in == ""
	case []any:
		empty = len(in) == 0
	case map[string]any:
		empty = len(in) == 0
	}
	if empty {
		return args[0], nil
	}
	return in, nil
}

// whole reads an argument as a whole number, or answers the default where it is not given.
func whole(args []any, i, byDefault int) (int, error) {
	if i >= len(args) {
		return byDefault, nil
	}
	n, ok := numberOf(args[i]).(int64)
	if !ok || n > filterTextBytesMax || n < -filterTextBytesMax {
		return 0, usageError("a length is out of range")
	}
	return int(n), nil
}

// sliceFilter answers a part of a text, in characters, or of a list. A negative start counts from the end.
func sliceFilter(r *run, in any, args []any) (any, error) {
	start, err := whole(args, 0, 0)
	if err != nil {
		return nil, err
	}
	length, err := whole(args, 1, 1)
	if err != nil {
		return nil, err
	}
	bounds := func(n int) (int, int) {
		if start < 0 {
			start += n
		}
		if start < 0 || start > n {
			return 0, 0
		}
		return start, min(n, start+max(length, 0))
	}
	if list, ok := in.([]any); ok {
		from, to := bounds(len(list))
		return list[from:to:to], nil
	}
	chars := []rune(cutBytes(r.str(in), filterTextBytesMax))
	from, to := bounds(len(chars))
	return r.made(string(chars[from:to]))
}

func splitFilter(r *run, in any, args []any) (any, error) {
	s, sep := r.str(in), r.str(args[0])
	if len(s) > filterTextBytesMax {
		return r.made(s)
	}
	var parts []string
	switch {
	case s == "":
	case sep == " ":
		parts = strings.Fields(s)
	default:
		if err := r.charge(strings.Count(s, sep)); err != nil {
			return nil, err
		}
		parts = strings.Split(s, sep)
	}
	for len(parts) > 0 && parts[len(parts)-1] == "" {
		parts = parts[:len(parts)-1]
	}
	list := make([]any, len(parts))
	for i, p := range parts {
		list[i] = p
	}
	return r.list(list)
}

// truncateFilter answers at most so many characters, the ellipsis among them.
func truncateFilter(r *run, in any, args []any) (any, error) {
	length, err := whole(args, 0, 50)
	if err != nil {
		return nil, err
	}
	ellipsis := "..."
	if len(args) > 1 {
		ellipsis = r.str(args[1])
	}
	s := r.str(in)
	if utf8.RuneCountInString(s) <= length {
		return s, nil
	}
	keep := max(length-utf8.RuneCountInString(ellipsis), 0)
	for i := range s {
		if keep == 0 {
			return r.made(s[:i] + ellipsis)
		}
		keep--
	}
	return s, nil
}

func truncateWordsFilter(r *run, in any, args []any) (any, error) {
	words, err := whole(args, 0, 15)
	if err != nil {
		return nil, err
	}
	ellipsis := "..."
	if len(args) > 1 {
		ellipsis = r.str(args[1])
	}
	s := r.str(in)
	if len(s) > filterTextBytesMax {
		return r.made(s)
	}
	parts := strings.Fields(s)
	if words = max(words, 1); len(parts) <= words {
		return s, nil
	}
	return r.made(strings.Join(parts[:words], " ") + ellipsis)
}
