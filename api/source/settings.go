package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// settingFields opens a settings object. Empty input is an empty object.
func settingFields(raw json.RawMessage) (object, []Fault) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return object{}, nil
	}
	var fields object
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, []Fault{{Message: "must be a JSON object"}}
	}
	return fields, nil
}

// parsed reads a settings object into set. Its first result is nil if there are faults.
func parsed[T any](raw json.RawMessage, set *T, read func(*settingReader)) (Settings, []Fault) {
	fields, faults := settingFields(raw)
	if faults != nil {
		return nil, faults
	}
	in := &settingReader{fields: fields}
	read(in)
	in.unknown()
	if faults = in.sorted(); len(faults) > 0 {
		return nil, faults
	}
	return set, nil
}

// settingReader reads the fields of a settings object one by one and gathers every fault.
type settingReader struct {
	fields object
	known  []string
	faults []Fault
}

func (r *settingReader) fault(place, message string) {
	r.faults = append(r.faults, Fault{Place: place, Message: message})
}

func (r *settingReader) faulty(place string) bool {
	return slices.ContainsFunc(r.faults, func(f Fault) bool { return f.Place == place })
}

// sorted gives the faults in the order of their places.
func (r *settingReader) sorted() []Fault {
	slices.SortStableFunc(r.faults, func(a, b Fault) int { return strings.Compare(a.Place, b.Place) })
	return r.faults
}

// text reads a string of printable characters, or the value that stands for an absent one.
func (r *settingReader) text(name, absent string, bytesMax int) string {
	r.known = append(r.known, name)
	raw, found := r.fields[name]
	if !found || string(raw) == "null" {
		return absent
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		r.fault(name, "must be a string")
		return absent
	}
	if len(s) > bytesMax {
		r.fault(name, fmt.Sprintf("must have at most %d bytes", bytesMax))
		return absent
	}
	if strings.ContainsFunc(s, func(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }) {
		r.fault(name, "must not have control characters")
		return absent
	}
	return s
}

// header reads the name of a header, "" where it is absent.
func (r *settingReader) header(name string) string {
	s := r.text(name, "", headerNameMax)
	if strings.ContainsFunc(s, func(c rune) bool { return !isToken(c) }) {
		r.fault(name, "must be the name of a header: letters, digits and hyphens")
		return ""
	}
	return s
}

// isToken reports whether a header's name may have the character, by RFC 9110.
func isToken(c rune) bool {
	return c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("!#$%&'*+-.^_`|~", c))
}

// signedString reads a signed string; the body alone where it is absent.
func (r *settingReader) signedString(name string) []string {
	parts, err := splitSigned(r.text(name, slotBody, signedStringMax))
	if err != nil {
		r.fault(name, err.Error())
	}
	return parts
}

// expression reads and compiles an expression, nil where it is absent or empty.
func (r *settingReader) expression(name string, types resultTypes) *expression {
	text := r.text(name, "", expressionMax)
	if strings.TrimSpace(text) == "" {
		return nil
	}
	e, err := compile(text, types)
	if err != nil {
		r.fault(name, err.Error())
		return nil
	}
	return e
}

// seconds reads a whole number of seconds of at least one, or gives what stands for an absent one.
func (r *settingReader) seconds(name string, absent, longest time.Duration) time.Duration {
	r.known = append(r.known, name)
	raw, found := r.fields[name]
	if !found || string(raw) == "null" {
		return absent
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if most := int64(longest / time.Second); err != nil || n < 1 || n > most {
		r.fault(name, fmt.Sprintf("must be a whole number of seconds from 1 to %d", most))
		return absent
	}
	return time.Duration(n) * time.Second
}

// choice reads one of the keys of a table, or the one that stands for an absent one.
func choice[T any](r *settingReader, name, absent string, table map[string]T) T {
	s := r.text(name, absent, headerNameMax)
	value, found := table[s]
	if !found {
		r.fault(name, "must be one of "+strings.Join(slices.Sorted(maps.Keys(table)), ", "))
	}
	return value
}

// together faults two things of which only one is given, unless one of them is faulty already.
func (r *settingReader) together(name string, here, there bool, message string) {
	if here != there && !r.faulty(name) && !r.faulty("signed_string") {
		r.fault(name, message)
	}
}

// distinct faults every header that an earlier field names already.
func (r *settingReader) distinct(names ...string) {
	seen := map[string]string{}
	for _, name := range names {
		key := strings.ToLower(r.fields.text(name))
		if first, found := seen[key]; found && key != "" {
			r.fault(name, "must be another header than "+first)
			continue
		}
		seen[key] = name
	}
}

// unknown faults every field that was not read.
func (r *settingReader) unknown() {
	for _, name := range sortedKeys(r.fields) {
		if !slices.Contains(r.known, name) {
			r.fault(name, "is not a setting of this source; it has "+strings.Join(r.known, ", "))
		}
	}
}
