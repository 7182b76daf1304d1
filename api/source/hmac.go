package source

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// generic is any sender that signs with an HMAC in a header, as the settings of the endpoint describe it.
var generic = Source{
	Name:       "hmac",
	Title:      "Any sender with an HMAC",
	Docs:       "https://www.rfc-editor.org/rfc/rfc2104",
	SecretFrom: SecretFromEither,
	Setup: "In the sending system, add a webhook with the URL {url}. Share the secret {secret} with it, or paste its own here, " +
		"and say in the settings where it puts the signature and over what it computes it.",
	Signs:      "An HMAC over the signed string of the settings, in the header that they name.",
	Window:     hmacWindow,
	BodySigned: always,
	IDSigned:   func(s Settings) bool { set, ok := s.(*hmacSettings); return ok && set.idSigned() },
	Retries:    "As the sender chooses.",
	Order:      "time, if the settings have an expression for it.",
	Settings:   hmacSettingDocs,
	BodyMax:    1 << 20,

	Verify:        hmacVerify,
	Events:        hmacEvents,
	Samples:       hmacSamples,
	Sign:          hmacSign,
	NewSecret:     newHexSecret,
	CheckSecret:   hmacCheckSecret,
	ParseSettings: hmacParseSettings,
}

var errHMACSettings = refuse(ReasonSettingsInvalid, "the endpoint has no settings of a generic HMAC")

func hmacWindow(s Settings) Window {
	if set, ok := s.(*hmacSettings); ok && set.signs(slotTimestamp) {
		return fiveMinutes(nil)
	}
	return Window{}
}

func hmacVerify(r Request, secrets []string, s Settings) (int, error) {
	set, ok := s.(*hmacSettings)
	if !ok {
		return -1, errHMACSettings
	}
	value, err := signatureHeader(r.Header, set.signatureHeader)
	if err != nil {
		return -1, err
	}
	mac, err := set.parseSignature(value)
	if err != nil {
		return -1, err
	}
	var id, timestamp string
	var signed time.Time
	if set.signs(slotID) {
		if id, err = idHeader(r.Header, set.idHeader); err != nil {
			return -1, err
		}
	}
	if set.signs(slotTimestamp) {
		if timestamp, err = timestampHeader(r.Header, set.timestampHeader); err != nil {
			return -1, err
		}
		if signed, err = parseTimestamp(timestamp, set.timestampUnit); err != nil {
			return -1, err
		}
	}
	keys := make([][]byte, len(secrets))
	for i, secret := range secrets {
		keys[i], _ = set.key(secret) // a key that cannot be read stays nil, and never matches
	}
	content := set.content(r.Method, r.URL, id, timestamp, r.Body)
	matched, err := matchMAC(set.algorithm, keys, [][]byte{mac}, content...)
	if err != nil {
		return -1, err
	}
	if set.signs(slotTimestamp) {
		return matched, checkWindow(signed, r.ReceivedAt, hmacWindow(set))
	}
	return matched, nil
}

// hmacEvents names the event by the expressions of the settings. The id is the expression's, else the header's, else the
// hash of the body; an expression or header that gives none is a refusal, since falling back would name a retry anew.
func hmacEvents(r Request, s Settings) ([]Event, error) {
	set, ok := s.(*hmacSettings)
	if !ok {
		return nil, errHMACSettings
	}
	about, err := set.view(r)
	if err != nil {
		return nil, err
	}
	event := Event{
		Type:       about.text(set.kind),
		OccurredAt: about.time(set.at),
		Entity:     about.text(set.entity),
	}
	switch {
	case set.id != nil:
		if event.ID = about.text(set.id); event.ID == "" {
			return nil, refuse(ReasonIDMissing, "the expression id gave no string or whole number")
		}
	case set.idHeader != "":
		if event.ID, err = idHeader(r.Header, set.idHeader); err != nil {
			return nil, err
		}
	default:
		event.ID = digest(r.Body)
	}
	return []Event{event}, nil
}

func hmacSign(in SignInput) (Signed, error) {
	set, ok := in.Settings.(*hmacSettings)
	if !ok {
		return Signed{}, errHMACSettings
	}
	key, err := set.key(in.Secret)
	if err != nil {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	var timestamp string
	if set.timestampHeader != "" {
		timestamp = strconv.FormatInt(in.At.UnixNano()/int64(set.timestampUnit), 10)
		h.Set(set.timestampHeader, timestamp)
	}
	if set.idHeader != "" {
		h.Set(set.idHeader, in.ID)
	}
	mac := sum(set.algorithm, key, set.content(in.Method, in.URL, in.ID, timestamp, in.Body)...)
	h.Set(set.signatureHeader, set.prefix+set.encoding.encode(mac))
	return Signed{h, in.Body}, nil
}

func hmacCheckSecret(secret string, s Settings) error {
	if err := checkPlainSecret(secret, nil); err != nil {
		return err
	}
	set, ok := s.(*hmacSettings)
	if !ok {
		return errHMACSettings
	}
	key, err := set.key(secret)
	if err == nil && len(key) < secretBytesMin {
		return fmt.Errorf("a secret has at least %d bytes after decoding", secretBytesMin)
	}
	return err
}

func hmacParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set, faults := parseHMACSettings(raw)
	if len(faults) > 0 {
		return nil, faults
	}
	return set, nil
}

var hmacSamples = []Sample{{
	Type: "sample.created",
	Body: sampleBody(`
{
  "id": "$ID",
  "type": "sample.created",
  "created_at": "$AT",
  "data": {
    "id": $NUMBER,
    "name": "Sample",
    "text": "The printer on the second floor is out of paper again."
  }
}`),
}}
