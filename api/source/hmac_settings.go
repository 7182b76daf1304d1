package source

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"slices"
	"strings"
	"time"
)

const (
	// headerNameMax, prefixMax and signedStringMax bound the texts of the settings, in bytes.
	headerNameMax   = 64
	prefixMax       = 32
	signedStringMax = 256
	// toleranceMax is the longest that the time of signing may be away from that of arrival: a sender that signs once may
	// retry for days.
	toleranceMax = 7 * 24 * time.Hour
)

// The slots of a signed string.
const (
	slotBody      = "{body}"
	slotTimestamp = "{timestamp}"
	slotID        = "{id}"
	slotMethod    = "{method}"
	slotURL       = "{url}"
)

var slots = []string{slotBody, slotTimestamp, slotID, slotMethod, slotURL}

// hmacSettingDocs says what hmacParseSettings reads, for a person.
var hmacSettingDocs = slices.Concat([]Setting{
	{"signature_header", "required: the header with the signature"},
	{"prefix", "what stands before the signature, such as sha256=; else nothing"},
	{"signature_key", "if the header is a list such as t=...,v1=...: the name of the signatures in it, such as v1; other names are passed over"},
	{"timestamp_key", "the name of the signed time in such a list, such as t; goes with {timestamp} in signed_string"},
	{"list_separator", "what stands between the members of such a list: , ; | & or a space; else a comma"},
	{"algorithm", "sha1, sha256 or sha512; else sha256"},
	{"encoding", "of the signature: hex, base64 or base64url; else hex"},
	{"secret_encoding", "how the key stands in the secret: raw, hex, base64, base64url or whsec; else raw"},
	{"secret_prefix", "what may stand before the key in the secret and is no part of it; else nothing"},
	{"timestamp_header", "the header with the signed time; goes with {timestamp} in signed_string"},
	{"timestamp_unit", "s, ms or rfc3339; else s"},
	{"tolerance_past_seconds", "how long before its arrival a delivery may be signed, 1 to 604800; else 300"},
	{"tolerance_future_seconds", "how long after its arrival, by the clocks, it may be signed, 1 to 604800; else 300"},
	{"signed_string", "what is signed: text and {body}, {timestamp}, {id}, {method}, {url}; else {body}"},
	{"id_header", "the header with the event's id, which an expression id goes before"},
}, namingDocs)

// hmacSettings are the settings of a generic HMAC, checked and compiled. They do not change.
type hmacSettings struct {
	naming

	signatureHeader string
	prefix          string
	list            signatureList
	algorithm       func() hash.Hash
	encoding        macEncoding
	key             func(secret string) ([]byte, error) // never an empty key without an error
	timestampHeader string                              // set only if the signed string has {timestamp}, and the list has none
	timestamp       timestampForm
	window          Window   // zero unless the signed string has {timestamp}
	signed          []string // the signed string: slots and the text between them
	idHeader        string
}

// macEncoding is how a MAC is written in a header.
type macEncoding struct {
	encode func([]byte) string
	decode func(string) ([]byte, error)
}

var macEncodings = map[string]macEncoding{
	"hex":    {hex.EncodeToString, hex.DecodeString},
	"base64": {base64.StdEncoding.EncodeToString, base64.StdEncoding.Strict().DecodeString},
	"base64url": {base64.RawURLEncoding.EncodeToString, func(s string) ([]byte, error) {
		return base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(s, "=")) // padding is optional
	}},
}

var macAlgorithms = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

var keyEncodings = map[string]func(string) ([]byte, error){
	"raw": func(s string) ([]byte, error) { return nonEmpty([]byte(s), nil, "text") },
	"hex": func(s string) ([]byte, error) { b, err := hex.DecodeString(s); return nonEmpty(b, err, "hex") },
	"base64": func(s string) ([]byte, error) {
		b, err := base64.StdEncoding.DecodeString(s)
		return nonEmpty(b, err, "base64")
	},
	"base64url": func(s string) ([]byte, error) {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		return nonEmpty(b, err, "base64url")
	},
	"whsec": prefixedKey,
}

// nonEmpty passes a key on. The decoder's error is left away, since it may quote a byte of the secret.
func nonEmpty(key []byte, err error, encoding string) ([]byte, error) {
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret must be " + encoding + ", as secret_encoding says")
	}
	return key, nil
}

// hmacParseSettings reads the settings object.
func hmacParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set := &hmacSettings{}
	return parsed(raw, set, set.read)
}

func (s *hmacSettings) read(in *settingReader) {
	*s = hmacSettings{
		signatureHeader: in.header("signature_header"),
		prefix:          in.text("prefix", "", prefixMax),
		list:            in.signatureList(),
		algorithm:       choice(in, "algorithm", "sha256", macAlgorithms),
		encoding:        choice(in, "encoding", "hex", macEncodings),
		key:             choice(in, "secret_encoding", "raw", keyEncodings),
		timestampHeader: in.header("timestamp_header"),
		timestamp:       choice(in, "timestamp_unit", "s", timestampForms),
		signed:          in.signedString("signed_string"),
		idHeader:        in.header("id_header"),
		naming:          in.naming(),
	}
	s.key = afterPrefix(in.text("secret_prefix", "", prefixMax), s.key)
	window := Window{
		Past:   in.seconds("tolerance_past_seconds", replayWindow, toleranceMax),
		Future: in.seconds("tolerance_future_seconds", replayWindow, toleranceMax),
	}
	if s.signs(slotTimestamp) {
		s.window = window
	}
	s.check(in)
}

// check faults settings that are each right and do not go together.
func (s *hmacSettings) check(in *settingReader) {
	if s.signatureHeader == "" && !in.faulty("signature_header") {
		in.fault("signature_header", "is required: the name of the header with the signature")
	}
	if s.list.signature != "" && s.prefix != "" {
		in.fault("prefix", "must be left out with signature_key: in a list the name stands before the signature")
	}
	place := "timestamp_header"
	if s.list.timestamp != "" {
		place = "timestamp_key"
		if s.timestampHeader != "" {
			in.fault("timestamp_header", "must be left out with timestamp_key: the signed time stands in one place")
		}
	}
	in.together(place, s.timestampHeader != "" || s.list.timestamp != "", s.signs(slotTimestamp),
		"and {timestamp} in signed_string go together: a timestamp that is not signed proves nothing")
	for _, name := range []string{"tolerance_past_seconds", "tolerance_future_seconds"} {
		if _, given := in.fields[name]; given && !s.signs(slotTimestamp) && !in.faulty(name) && !in.faulty("signed_string") {
			in.fault(name, "must be left out unless signed_string has {timestamp}")
		}
	}
	in.distinct("signature_header", "timestamp_header", "id_header")
	if s.signs(slotID) && s.idHeader == "" && !in.faulty("id_header") {
		in.fault("id_header", "is required, since signed_string has {id}")
	}
}

// afterPrefix takes a prefix off a secret before its key is read. It may be missing, as a secret that is made here has none.
func afterPrefix(prefix string, key func(string) ([]byte, error)) func(string) ([]byte, error) {
	return func(secret string) ([]byte, error) { return key(strings.TrimPrefix(secret, prefix)) }
}

func (s *hmacSettings) proofHeader() string { return s.signatureHeader }

// signs reports whether a slot is in the signed string.
func (s *hmacSettings) signs(slot string) bool { return slices.Contains(s.signed, slot) }

// idSigned reports whether the id that hmacEvents gives is under the signature.
func (s *hmacSettings) idSigned() bool {
	if s.id == nil && s.idHeader != "" {
		return s.signs(slotID)
	}
	return s.naming.idSigned() // by expression, or as the hash of the signed body
}

// content is the signed string of a delivery, in parts, so that the body is not copied.
func (s *hmacSettings) content(method, url, id, timestamp string, body []byte) [][]byte {
	parts := make([][]byte, 0, len(s.signed))
	for _, segment := range s.signed {
		switch segment {
		case slotBody:
			parts = append(parts, body)
		case slotTimestamp:
			parts = append(parts, []byte(timestamp))
		case slotID:
			parts = append(parts, []byte(id))
		case slotMethod:
			parts = append(parts, []byte(method))
		case slotURL:
			parts = append(parts, []byte(url))
		default:
			parts = append(parts, []byte(segment))
		}
	}
	return parts
}

// splitSigned cuts a signed string into slots and the text between them. Every brace must belong to a slot, each slot
// stands once at most, and {body} must stand, since what is not signed can be changed by anyone.
func splitSigned(text string) ([]string, error) {
	var parts []string
	for rest := text; rest != ""; {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			parts = append(parts, rest)
			break
		}
		if open > 0 {
			parts = append(parts, rest[:open])
			rest = rest[open:]
		}
		i := slices.IndexFunc(slots, func(slot string) bool { return strings.HasPrefix(rest, slot) })
		if i < 0 {
			return nil, errors.New("may have braces only around " + strings.Join(slots, ", "))
		}
		if slices.Contains(parts, slots[i]) {
			return nil, errors.New("may have " + slots[i] + " once")
		}
		parts = append(parts, slots[i])
		rest = rest[len(slots[i]):]
	}
	if !slices.Contains(parts, slotBody) {
		return nil, errors.New("must have {body}: what is not signed can be changed by anyone")
	}
	return parts, nil
}
