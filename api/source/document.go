package source

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// object is a JSON object whose values are read one by one, and only those that are needed: numbers keep every digit, names
// match by case (which encoding/json's structs do not do), and the rest of a large payload is passed over once. The values
// are slices of the document.
type object map[string]json.RawMessage

// parseObject reads a whole document that must be an object.
func parseObject(body []byte) (object, error) {
	o, err := parseDocument(body)
	if err == nil && !isObject(body) {
		return nil, refuse(ReasonPayloadMalformed, "expected a JSON object")
	}
	return o, err
}

// parseDocument reads a whole document of any kind; one that is no object has no members.
func parseDocument(body []byte) (object, error) {
	if !json.Valid(body) {
		return nil, refuse(ReasonPayloadMalformed, "expected a JSON document")
	}
	if !isObject(body) {
		return object{}, nil
	}
	return members(bytes.TrimSpace(body)), nil
}

func isObject(doc []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(doc), []byte("{")) }

// in gives the object under a name, and nil where there is none.
func (o object) in(name string) object {
	if raw := o[name]; len(raw) > 0 && raw[0] == '{' {
		return members(raw)
	}
	return nil
}

// members lays out an object of a document that json.Valid has held, which is why it ends. Of two members with one name
// the last stands, as in encoding/json.
func members(doc []byte) object {
	o := object{}
	i := skipSpace(doc, 1)
	for doc[i] != '}' {
		end := skipValue(doc, i)
		name := unquote(doc[i:end])
		i = skipSpace(doc, skipSpace(doc, end)+1) // over the colon
		end = skipValue(doc, i)
		o[name] = doc[i:end]
		if i = skipSpace(doc, end); doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
	}
	return o
}

func skipSpace(doc []byte, i int) int {
	for doc[i] == ' ' || doc[i] == '\n' || doc[i] == '\r' || doc[i] == '\t' {
		i++
	}
	return i
}

// skipValue gives the end of the value that begins at i, inside an object.
func skipValue(doc []byte, i int) int {
	depth := 0
	for {
		switch doc[i] {
		case '"':
			i = skipString(doc, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		default:
			i++
			if depth == 0 { // a number, true, false or null; the object around it ends it at the latest
				for strings.IndexByte(",} \n\r\t", doc[i]) < 0 {
					i++
				}
			}
		}
		if depth == 0 {
			return i
		}
	}
}

func skipString(doc []byte, i int) int {
	for i++; doc[i] != '"'; i++ {
		if doc[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// unquote reads a JSON string, and is empty for any other value.
func unquote(raw []byte) string {
	if len(raw) == 0 || raw[0] != '"' {
		return ""
	}
	if inside := raw[1 : len(raw)-1]; utf8.Valid(inside) && bytes.IndexByte(inside, '\\') < 0 {
		return string(inside)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// text gives the string under a name, and "" where there is none.
func (o object) text(name string) string { return unquote(o[name]) }

// id gives the string or whole number under a name, digit for digit, and "" where there is neither.
func (o object) id(name string) string {
	if s := o.text(name); s != "" {
		return s
	}
	if raw := string(o[name]); isInteger(raw) {
		return raw
	}
	return ""
}

// time gives the RFC 3339 time or unix seconds under a name, and zero where there is neither.
func (o object) time(name string) time.Time {
	if s := o.text(name); s != "" {
		return parseTime(s)
	}
	if seconds, err := strconv.ParseInt(string(o[name]), 10, 64); err == nil {
		return unixTime(seconds, time.Second)
	}
	return time.Time{}
}

// isInteger reports whether a JSON value is a number without fraction and exponent.
func isInteger(raw string) bool {
	digits := strings.TrimPrefix(raw, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return storable(t)
}

// unixTime reads a count of units since 1970, and gives zero for one that is not a time of our age.
func unixTime(n int64, unit time.Duration) time.Time {
	switch unit {
	case time.Millisecond:
		return storable(time.UnixMilli(n))
	default:
		return storable(time.Unix(n, 0))
	}
}

// storable gives zero for a time outside the years 1970 to 9999, which JSON and the store do not all hold.
func storable(t time.Time) time.Time {
	t = t.UTC()
	if t.Unix() <= 0 || t.Year() > 9999 || t.Year() < 1970 {
		return time.Time{}
	}
	return t
}

// latest gives the latest of some times; unknown ones are zero and never win.
func latest(times ...time.Time) time.Time {
	var last time.Time
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func sortedKeys(m map[string]json.RawMessage) []string { return slices.Sorted(maps.Keys(m)) }

// elements gives the members of an array; anything else, and an empty one, is a *Refusal.
func elements(doc []byte) ([]json.RawMessage, error) {
	var all []json.RawMessage
	if json.Unmarshal(doc, &all) != nil || len(all) == 0 {
		return nil, refuse(ReasonPayloadMalformed, "expected a JSON array with at least one event")
	}
	return all, nil
}

// within gives the object that stands under a path of names, and nil where there is none.
func (o object) within(names ...string) object {
	for _, name := range names {
		o = o.in(name)
	}
	return o
}

// millis gives the unix milliseconds under a name as a time, and zero where there are none.
func (o object) millis(name string) time.Time {
	n, err := strconv.ParseInt(o.id(name), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return unixTime(n, time.Millisecond)
}

// seconds gives the unix seconds under a name, with or without a fraction, as a number or a string; and zero where there are none.
func (o object) seconds(name string) time.Time {
	text := o.text(name)
	if text == "" {
		text = string(o[name])
	}
	whole, fraction, _ := strings.Cut(text, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}
	}
	const nanoDigits = 9
	fraction = (fraction + "000000000")[:nanoDigits]
	nanos, err := strconv.ParseInt(fraction, 10, 64)
	if err != nil || nanos < 0 {
		return time.Time{}
	}
	return storable(time.Unix(n, nanos))
}

// timeAs gives the time under a name that is written in one of the layouts, in UTC where the layout has no zone, and zero
// where there is none.
func (o object) timeAs(name string, layouts ...string) time.Time {
	text := o.text(name)
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return storable(t)
		}
	}
	return time.Time{}
}

// sequence gives the whole number under a name, and nil where there is none.
func (o object) sequence(name string) *int64 {
	n, err := strconv.ParseInt(o.id(name), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}
