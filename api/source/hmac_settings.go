package source

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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

// hmacSettingDocs says what parseHMACSettings reads, for a person.
var hmacSettingDocs = []Setting{
	{"signature_header", "required: the header with the signature"},
	{"prefix", "what stands before the signature, such as sha256=; else nothing"},
	{"algorithm", "sha1, sha256 or sha512; else sha256"},
	{"encoding", "of the signature: hex, base64 or base64url; else hex"},
	{"secret_encoding", "how the key stands in the secret: raw, hex, base64 or whsec; else raw"},
	{"timestamp_header", "the header with the signed time; goes with {timestamp} in signed_string"},
	{"timestamp_unit", "s or ms; else s"},
	{"signed_string", "what is signed: text and {body}, {timestamp}, {id}, {method}, {url}; else {body}"},
	{"id_header", "the header with the event's id"},
	{"id", "CEL over payload and header that gives the event's id; else the header's, else the hash of the body"},
	{"type", "CEL that gives the event's type"},
	{"time", "CEL that gives when it happened"},
	{"entity", "CEL that gives what it is about"},
}

// hmacSettings are the settings of a generic HMAC, checked and compiled. They do not change.
type hmacSettings struct {
	signatureHeader string
	prefix          string
	algorithm       func() hash.Hash
	encoding        macEncoding
	key             func(secret string) ([]byte, error) // never an empty key without an error
	timestampHeader string                              // set if and only if the signed string has {timestamp}
	timestampUnit   time.Duration                       // a second or a millisecond
	signed          []string                            // the signed string: slots and the text between them
	idHeader        string
	id, kind        *expression // nil where not given
	at, entity      *expression
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
	"whsec": prefixedKey,
}

// nonEmpty passes a key on. The decoder's error is left away, since it may quote a byte of the secret.
func nonEmpty(key []byte, err error, encoding string) ([]byte, error) {
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret must be " + encoding + ", as secret_encoding says")
	}
	return key, nil
}

var timestampUnits = map[string]time.Duration{"s": time.Second, "ms": time.Millisecond}

// parseHMACSettings reads the settings object. With faults its first result is not to be used.
func parseHMACSettings(raw json.RawMessage) (*hmacSettings, []Fault) {
	fields, faults := settingFields(raw)
	if faults != nil {
		return nil, faults
	}
	in := &settingReader{fields: fields}
	set := &hmacSettings{
		signatureHeader: in.header("signature_header"),
		prefix:          in.text("prefix", "", prefixMax),
		algorithm:       choice(in, "algorithm", "sha256", macAlgorithms),
		encoding:        choice(in, "encoding", "hex", macEncodings),
		key:             choice(in, "secret_encoding", "raw", keyEncodings),
		timestampHeader: in.header("timestamp_header"),
		timestampUnit:   choice(in, "timestamp_unit", "s", timestampUnits),
		signed:          in.signedString("signed_string"),
		idHeader:        in.header("id_header"),
		id:              in.expression("id", nameTypes),
		kind:            in.expression("type", nameTypes),
		at:              in.expression("time", timeTypes),
		entity:          in.expression("entity", nameTypes),
	}
	in.unknown()
	if set.signatureHeader == "" && !in.faulty("signature_header") {
		in.fault("signature_header", "is required: the name of the header with the signature")
	}
	in.together("timestamp_header", set.timestampHeader != "", set.signs(slotTimestamp),
		"and {timestamp} in signed_string go together: a timestamp that is not signed proves nothing")
	in.distinct("signature_header", "timestamp_header", "id_header")
	if set.signs(slotID) && set.idHeader == "" && !in.faulty("id_header") {
		in.fault("id_header", "is required, since signed_string has {id}")
	}
	return set, in.sorted()
}

// signs reports whether a slot is in the signed string.
func (s *hmacSettings) signs(slot string) bool { return slices.Contains(s.signed, slot) }

// idSigned reports whether the id that hmacEvents gives is under the signature. An expression over headers is not, even
// where it reads a signed one.
func (s *hmacSettings) idSigned() bool {
	switch {
	case s.id != nil:
		return !s.id.usesHeader
	case s.idHeader != "":
		return s.signs(slotID)
	default:
		return true // the hash of the signed body
	}
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

// parseSignature decodes a signature of exactly the algorithm's length.
func (s *hmacSettings) parseSignature(value string) ([]byte, error) {
	encoded, found := strings.CutPrefix(value, s.prefix)
	mac, err := s.encoding.decode(encoded)
	if size := s.algorithm().Size(); !found || err != nil || len(mac) != size {
		return nil, refuse(ReasonSignatureMalformed,
			fmt.Sprintf("header %s must be the prefix of the settings and %d bytes in their encoding", s.signatureHeader, size))
	}
	return mac, nil
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
