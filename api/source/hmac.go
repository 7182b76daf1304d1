package source

import (
	"fmt"
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
	Order:      "time and sequence, if the settings have expressions for them.",
	Settings:   hmacSettingDocs,
	Notes: []string{
		"Without {timestamp} in signed_string a delivery can be replayed at any later time; its event is known by then, and not taken twice.",
	},
	BodyMax: 1 << 20,

	Verify:        hmacVerify,
	Events:        hmacEvents,
	Samples:       genericSamples,
	Sign:          hmacSign,
	NewSecret:     newHexSecret,
	CheckSecret:   hmacCheckSecret,
	ParseSettings: hmacParseSettings,
}

var errHMACSettings = refuse(ReasonSettingsInvalid, "the endpoint has no settings of a generic HMAC")

func hmacWindow(s Settings) Window {
	if set, ok := s.(*hmacSettings); ok {
		return set.window
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
	timestamp, macs, err := set.signatures(value)
	if err != nil {
		return -1, err
	}
	var id string
	var signed time.Time
	if set.signs(slotID) {
		if id, err = idHeader(r.Header, set.idHeader); err != nil {
			return -1, err
		}
	}
	if set.timestampHeader != "" {
		if timestamp, err = timestampHeader(r.Header, set.timestampHeader); err != nil {
			return -1, err
		}
	}
	if set.window.Signed() {
		if signed, err = set.timestamp.parse(timestamp); err != nil {
			return -1, err
		}
	}
	keys := make([][]byte, len(secrets))
	for i, secret := range secrets {
		keys[i], _ = set.key(secret) // a key that cannot be read stays nil, and never matches
	}
	content := set.content(r.Method, r.URL, id, timestamp, r.Body)
	matched, err := matchMAC(set.algorithm, keys, macs, content...)
	if err != nil {
		return -1, err
	}
	if set.window.Signed() {
		return matched, checkWindow(signed, r.ReceivedAt, set.window)
	}
	return matched, nil
}

// hmacEvents names the events by the settings. The id is the expression's, else the header's, else the hash of the body; a
// header that gives none is a refusal, since falling back would name a retry anew.
func hmacEvents(r Request, s Settings) ([]Event, error) {
	set, ok := s.(*hmacSettings)
	if !ok {
		return nil, errHMACSettings
	}
	return set.events(r, set.signatureHeader, func([]byte) (Event, error) {
		switch {
		case set.id != nil:
			return Event{}, nil
		case set.idHeader != "":
			id, err := idHeader(r.Header, set.idHeader)
			return Event{ID: id}, err
		default:
			return Event{ID: digest(r.Body)}, nil
		}
	})
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
	h, body := set.shape(in)
	timestamp := ""
	if set.window.Signed() {
		timestamp = set.timestamp.format(in.At)
	}
	if set.timestampHeader != "" {
		h.Set(set.timestampHeader, timestamp)
	}
	if set.idHeader != "" {
		h.Set(set.idHeader, in.ID)
	}
	mac := sum(set.algorithm, key, set.content(in.Method, in.URL, in.ID, timestamp, body)...)
	h.Set(set.signatureHeader, set.signature(timestamp, mac))
	return Signed{h, body}, nil
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

// genericSamples are those of every source whose settings say what an event is called.
var genericSamples = []Sample{{
	Type: "sample.created",
	Body: sampleBody(`
{
  "id": "$ID",
  "type": "sample.created",
  "created_at": "$AT",
  "version": 1,
  "data": {
    "id": $NUMBER,
    "name": "Sample",
    "text": "The printer on the second floor is out of paper again."
  }
}`),
}}
