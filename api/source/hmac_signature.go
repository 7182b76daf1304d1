package source

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// listKeyMax bounds the name of a member of a signature list, in bytes.
const listKeyMax = 32

// listSeparators are what may stand between the members of a signature list: nothing that an encoded signature can hold.
const listSeparators = ",;|& "

// signatureList says how a signature header is written that is a list of members, "t=...,v1=...".
type signatureList struct {
	signature string // the name of the signatures; "" where the header is one signature
	timestamp string // the name of the signed time; "" where it is not in the list
	separator string
}

// signatureList reads the settings of a list.
func (r *settingReader) signatureList() signatureList {
	l := signatureList{
		signature: r.listKey("signature_key"),
		timestamp: r.listKey("timestamp_key"),
		separator: r.text("list_separator", "", listKeyMax),
	}
	if l.separator != "" && (len(l.separator) > 1 || !strings.Contains(listSeparators, l.separator)) {
		r.fault("list_separator", "must be one of , ; | & or a space")
	}
	for name, given := range map[string]bool{"timestamp_key": l.timestamp != "", "list_separator": l.separator != ""} {
		if given && l.signature == "" && !r.faulty(name) && !r.faulty("signature_key") {
			r.fault(name, "goes with signature_key: only a list has it")
		}
	}
	if l.timestamp != "" && l.timestamp == l.signature {
		r.fault("timestamp_key", "must be another name than signature_key")
	}
	if l.separator == "" {
		l.separator = ","
	}
	return l
}

// listKey reads the name of a member of a list, "" where it is absent.
func (r *settingReader) listKey(name string) string {
	key := r.text(name, "", listKeyMax)
	if strings.ContainsFunc(key, func(c rune) bool {
		return c >= unicode.MaxASCII || (!unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("_-.", c))
	}) {
		r.fault(name, "must be letters, digits, and _ - .")
		return ""
	}
	return key
}

// timestampForm is how a signed time is written.
type timestampForm struct {
	parse  func(string) (time.Time, error) // its error is a *Refusal
	format func(time.Time) string
}

var timestampForms = map[string]timestampForm{
	"s":       unixForm(time.Second),
	"ms":      unixForm(time.Millisecond),
	"rfc3339": {parseSignedTime, func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }},
}

func unixForm(unit time.Duration) timestampForm {
	return timestampForm{
		parse:  func(s string) (time.Time, error) { return parseTimestamp(s, unit) },
		format: func(t time.Time) string { return strconv.FormatInt(t.UnixNano()/int64(unit), 10) },
	}
}

func parseSignedTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, refuse(ReasonTimestampMalformed, "the signed timestamp must be a time in RFC 3339")
	}
	return t, nil
}

// signatures reads the signature header: the signatures in it, and the signed time if it is there too.
func (s *hmacSettings) signatures(value string) (timestamp string, macs [][]byte, err error) {
	if s.list.signature == "" {
		encoded, found := strings.CutPrefix(value, s.prefix)
		mac, ok := s.decode(encoded)
		if !found || !ok {
			return "", nil, refuse(ReasonSignatureMalformed, fmt.Sprintf(
				"header %s must be the prefix of the settings and %d bytes in their encoding", s.signatureHeader, s.algorithm().Size()))
		}
		return "", [][]byte{mac}, nil
	}
	return s.members(value)
}

// members reads a list. Members of other names and signatures that cannot be read are passed over; a member without a
// name, and a second time, are malformed.
func (s *hmacSettings) members(value string) (timestamp string, macs [][]byte, err error) {
	seen, timed := 0, false
	for member := range strings.SplitSeq(value, s.list.separator) {
		key, val, found := strings.Cut(strings.TrimSpace(member), "=")
		switch {
		case !found || key == "":
			return "", nil, refuse(ReasonSignatureMalformed, "header "+s.signatureHeader+" must be a list of name=value")
		case key == s.list.timestamp:
			if timed {
				return "", nil, refuse(ReasonTimestampMalformed, "header "+s.signatureHeader+" must have one "+s.list.timestamp)
			}
			timestamp, timed = val, true
		case key == s.list.signature:
			if seen++; seen > signaturesMax {
				return "", nil, refuse(ReasonSignatureMalformed, "header "+s.signatureHeader+" has too many signatures")
			}
			if mac, ok := s.decode(val); ok {
				macs = append(macs, mac)
			}
		}
	}
	switch {
	case seen == 0:
		return "", nil, refuse(ReasonSignatureMissing, "header "+s.signatureHeader+" has no "+s.list.signature)
	case len(macs) == 0:
		return "", nil, refuse(ReasonSignatureMalformed, fmt.Sprintf(
			"header %s has no %s of %d bytes in the encoding of the settings", s.signatureHeader, s.list.signature, s.algorithm().Size()))
	case s.list.timestamp != "" && timestamp == "":
		return "", nil, refuse(ReasonTimestampMissing, "header "+s.signatureHeader+" has no "+s.list.timestamp)
	}
	return timestamp, macs, nil
}

// decode reads a signature of exactly the algorithm's length.
func (s *hmacSettings) decode(encoded string) ([]byte, bool) {
	mac, err := s.encoding.decode(encoded)
	return mac, err == nil && len(mac) == s.algorithm().Size()
}

// signature writes the signature header.
func (s *hmacSettings) signature(timestamp string, mac []byte) string {
	encoded := s.encoding.encode(mac)
	if s.list.signature == "" {
		return s.prefix + encoded
	}
	value := s.list.signature + "=" + encoded
	if s.list.timestamp != "" {
		value = s.list.timestamp + "=" + timestamp + s.list.separator + value
	}
	return value
}
