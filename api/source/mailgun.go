package source

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const (
	// mailgunTokenMax bounds a token, which has 50 characters.
	mailgunTokenMax = 128
	// mailgunPast is the 8 hours over which Mailgun retries, and a margin, for a retry may have the first one's signature.
	mailgunPast = 9 * time.Hour
	// mailgunPastMax bounds the setting.
	mailgunPastMax = 7 * 24 * time.Hour
)

// mailgun is Mailgun's JSON webhooks. The older ones, forms with the signature among their fields, are not read.
var mailgun = Source{
	Name:       "mailgun",
	Title:      "Mailgun",
	Docs:       "https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks",
	SecretFrom: SecretFromSource,
	Setup: "In Mailgun, under Sending, Webhooks, add {url} for the events you want. Then copy the HTTP webhook signing key (under API " +
		"security) and paste it here; it is not an API key.",
	Signs: "HMAC-SHA256 in hex over timestamp and token, in signature of the body; the key is the HTTP webhook signing key. The " +
		"event itself is not signed.",
	Settings: []Setting{
		{"window_seconds", "how old the signed timestamp may be; else 32400, which is 9 hours"},
	},
	Notes: []string{
		"The event itself is not signed: whoever has seen a delivery could send another event under its signature, so each token, which is signed, is taken once.",
		"Mailgun does not say whether a retry is signed anew, so the window covers the 8 hours of retries unless window_seconds narrows it; then retried events may be lost.",
		"What can never be read is answered with 406, at which Mailgun stops retrying; a signature that does not hold is answered with 401, for it may be a key pasted wrong.",
		"A parent-signature of a parent account is not read; give the signing key of the account that sends.",
		"The older webhooks that come as forms are refused.",
	},
	Window:     mailgunWindow,
	BodySigned: never,
	IDSigned:   never,
	Retries:    "After 5, 10 and 15 minutes, 1, 2 and 4 hours, until it hears 200, or 406 to stop. Order is not promised.",
	Order:      "timestamp of the event, in fractions of a second.",
	BodyMax:    1 << 20,
	Codes:      Codes{Malformed: http.StatusNotAcceptable, TooLarge: http.StatusNotAcceptable}, // no retry would be another

	Verify:        mailgunVerify,
	Events:        mailgunEvents,
	Samples:       mailgunSamples,
	Sign:          mailgunSign,
	CheckSecret:   checkPlainSecret,
	ParseSettings: mailgunParseSettings,
}

// mailgunSettings do not change.
type mailgunSettings struct{ past time.Duration }

func mailgunParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set := &mailgunSettings{}
	return parsed(raw, set, func(in *settingReader) { set.past = in.seconds("window_seconds", mailgunPast, mailgunPastMax) })
}

func mailgunWindow(s Settings) Window {
	if set, ok := s.(*mailgunSettings); ok {
		return Window{Past: set.past, Future: replayWindow}
	}
	return Window{Past: mailgunPast, Future: replayWindow}
}

// mailgunProof reads what stands in signature of the body.
func mailgunProof(body []byte) (timestamp, token string, mac []byte, err error) {
	doc, err := parseObject(body)
	if err != nil {
		return "", "", nil, refuse(ReasonSignatureMissing, "expected JSON with a signature: the older webhooks that come as forms are not read")
	}
	proof := doc.in("signature")
	if proof.text("signature") == "" || proof.text("token") == "" || len(proof.text("token")) > mailgunTokenMax {
		return "", "", nil, refuse(ReasonSignatureMissing, "expected signature with timestamp, token and signature")
	}
	mac, ok := decodeHex(proof.text("signature"), sha256.Size)
	if !ok {
		return "", "", nil, refuse(ReasonSignatureMalformed, "signature.signature must be 64 hex digits")
	}
	return proof.id("timestamp"), proof.text("token"), mac, nil
}

// mailgunVerify needs the window for more than replays: timestamp and token are signed with nothing between them, and a digit
// moved from one to the other, which would make a token that was not taken yet, makes another century.
func mailgunVerify(r Request, secrets []string, s Settings) (int, error) {
	timestamp, token, mac, err := mailgunProof(r.Body)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(timestamp, time.Second)
	if err != nil {
		return -1, err
	}
	matched, err := matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, []byte(timestamp), []byte(token))
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, mailgunWindow(s))
}

func mailgunEvents(r Request, _ Settings) ([]Event, error) {
	_, token, _, err := mailgunProof(r.Body)
	if err != nil {
		return nil, err
	}
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	data := doc.in("event-data")
	kind := data.text("event")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected event-data with an event")
	}
	if severity := data.text("severity"); severity != "" {
		kind += "." + severity
	}
	return []Event{{
		ID: data.id("id"), Type: kind, OccurredAt: data.seconds("timestamp"), Once: "mailgun:" + token, Payload: doc["event-data"],
		Entity: entity("message", data.within("message", "headers").text("message-id")),
	}}, nil
}

// mailgunSign puts the signature beside the event of a sample.
func mailgunSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	doc, err := parseObject(in.Body)
	if err != nil {
		return Signed{}, err
	}
	timestamp := strconv.FormatInt(in.At.Unix(), 10)
	const tokenDigits = 50
	seed := sha256.Sum256([]byte(in.ID + timestamp))
	token := hex.EncodeToString(seed[:])[:tokenDigits]
	doc["signature"], err = json.Marshal(map[string]string{
		"timestamp": timestamp, "token": token,
		"signature": hex.EncodeToString(sum(sha256.New, []byte(in.Secret), []byte(timestamp), []byte(token))),
	})
	if err != nil {
		return Signed{}, fmt.Errorf("write the signature of a sample: %w", err)
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return Signed{}, fmt.Errorf("write a signed sample: %w", err)
	}
	return Signed{signedHeader(in), body}, nil
}

var mailgunSamples = []Sample{
	{Type: "complained", Body: sampleBody(`
{
  "event-data": {
    "event": "complained",
    "id": "$ID",
    "timestamp": $UNIX.0,
    "log-level": "warn",
    "recipient": "sample.customer@example.com",
    "tags": ["newsletter"],
    "user-variables": {"account": "acme"},
    "flags": {"is-test-mode": false},
    "message": {
      "headers": {"message-id": "$NUMBER@mail.example.com", "from": "Shop <news@mail.example.com>", "to": "sample.customer@example.com", "subject": "New blankets"},
      "size": 18021
    }
  }
}`)},
	{Type: "failed.permanent", Body: sampleBody(`
{
  "event-data": {
    "event": "failed",
    "severity": "permanent",
    "reason": "suppress-bounce",
    "id": "$ID",
    "timestamp": $UNIX.0,
    "log-level": "error",
    "recipient": "sample.customer@example.com",
    "delivery-status": {"code": 550, "attempt-no": 1, "message": "No such mailbox", "description": "", "session-seconds": 0.43},
    "tags": ["receipt"],
    "user-variables": {"order": "1001"},
    "flags": {"is-authenticated": true, "is-routed": false, "is-system-test": false, "is-test-mode": false},
    "message": {
      "headers": {"message-id": "$NUMBER@mail.example.com", "from": "Shop <orders@mail.example.com>", "to": "sample.customer@example.com", "subject": "Your order 1001"},
      "attachments": [],
      "size": 5120
    }
  }
}`)},
}
