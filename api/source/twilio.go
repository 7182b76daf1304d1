package source

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	twilioSignature = "X-Twilio-Signature"
	twilioToken     = "I-Twilio-Idempotency-Token"
	twilioBodyHash  = "bodySHA256"
)

// twilio is Twilio's webhooks: forms (messages, calls and their statuses) and JSON (Event Streams among it).
var twilio = Source{
	Name:       "twilio",
	Title:      "Twilio",
	Docs:       "https://www.twilio.com/docs/usage/webhooks/webhooks-security",
	SecretFrom: SecretFromSource,
	Setup: "Set {url} as the webhook, status callback or Event Streams sink of what you want to hear of, with the method POST, and " +
		"paste the account's primary Auth Token here. The payload is a JSON object of the form's fields.",
	Signs: "HMAC-SHA1 in base64 over the URL and the form's fields, sorted by name, in X-Twilio-Signature; for JSON over the URL, " +
		"which carries the SHA-256 of the body; the key is the Auth Token.",
	Notes: []string{
		"No time is signed, so a delivery may come at any time, and each signature is taken once.",
		"Names and values of a form are signed one after another without anything between them, so whoever has seen a delivery could cut them elsewhere; that the signature " +
			"is taken once catches it.",
		"Of a field that is repeated, all different values are signed, sorted, as by Twilio's newer libraries (its Go library reads the first alone).",
		"The URL is tried with and without its default port, for Twilio's senders differ in it.",
		"Twilio signs with the primary Auth Token only, so after it was rotated the old one ends at once.",
		"The answer is empty TwiML: an inbound message is not replied to and an inbound call is not talked to by it.",
	},
	Window:       untimed,
	BodySigned:   always,
	IDSigned:     never, // the idempotency token is a header
	AnswerWithin: 15 * time.Second,
	Retries:      "By default only if it cannot connect; the #rc fragment of the URL changes that. Event Streams retry for 4 hours. Order is not promised.",
	Order:        "SequenceNumber of a call's events; else nothing, as most have no time.",
	BodyMax:      1 << 20,
	Accepted: &Answer{
		Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/xml; charset=utf-8"}},
		Body: []byte(`<?xml version="1.0" encoding="UTF-8"?><Response/>`),
	},

	Verify:      twilioVerify,
	Events:      twilioEvents,
	Samples:     twilioSamples,
	Sign:        twilioSign,
	CheckSecret: checkPlainSecret,
}

// twilioHashed gives the hash of the body that the URL carries, if it does; a delivery is then no form.
func twilioHashed(requestURL string) (hash string, found bool) {
	_, query, _ := strings.Cut(requestURL, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", strings.Contains(query, twilioBodyHash)
	}
	switch all := values[twilioBodyHash]; len(all) {
	case 0:
		return "", false
	case 1:
		return all[0], true
	default:
		return "", true // which no body has
	}
}

// twilioFields is what of a form is signed: names in order, each with its different values in order.
func twilioFields(form url.Values) []byte {
	var signed []byte
	for _, name := range slices.Sorted(maps.Keys(form)) {
		for _, value := range twilioValues(form[name]) {
			signed = append(append(signed, name...), value...)
		}
	}
	return signed
}

// twilioValues are the different values of a field.
func twilioValues(values []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(values)))
}

// twilioURLs are the forms of a URL that may have been signed: as registered, and with its default port added or taken away.
func twilioURLs(registered string) []string {
	all := []string{registered}
	u, err := url.Parse(registered)
	if err != nil || u.Host == "" {
		return all
	}
	port := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	switch {
	case u.Port() == "":
		return append(all, strings.Replace(registered, u.Host, u.Host+port, 1))
	case ":"+u.Port() == port:
		return append(all, strings.Replace(registered, u.Host, strings.TrimSuffix(u.Host, port), 1))
	default:
		return all
	}
}

func twilioVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, twilioSignature)
	if err != nil {
		return -1, err
	}
	mac, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(mac) != sha1.Size {
		return -1, refuse(ReasonSignatureMalformed, "header "+twilioSignature+" must be base64 of 20 bytes")
	}
	var fields []byte
	if hash, hashed := twilioHashed(r.URL); hashed {
		want := sha256.Sum256(r.Body)
		if got, ok := decodeHex(hash, sha256.Size); !ok || !slices.Equal(got, want[:]) {
			return -1, refuse(ReasonSignatureMismatch, "the body is not the one whose hash the URL carries in "+twilioBodyHash)
		}
	} else {
		form, err := url.ParseQuery(string(r.Body))
		if err != nil {
			return -1, refuse(ReasonSignatureMismatch, "the body is no form, and the URL carries no "+twilioBodyHash)
		}
		fields = twilioFields(form)
	}
	refusal := error(nil)
	for _, signed := range twilioURLs(r.URL) {
		matched, err := matchMAC(sha1.New, plainKeys(secrets), [][]byte{mac}, []byte(signed), fields)
		if err == nil {
			return matched, nil
		}
		refusal = err
	}
	return -1, refusal
}

func twilioEvents(r Request, _ Settings) ([]Event, error) {
	signature, err := signatureHeader(r.Header, twilioSignature)
	if err != nil {
		return nil, err
	}
	var events []Event
	if _, hashed := twilioHashed(r.URL); hashed {
		events, err = twilioDocument(r)
	} else {
		events, err = twilioForm(r)
	}
	for i := range events {
		events[i].Once = "twilio:" + strconv.Itoa(i) + ":" + signature
	}
	return events, err
}

// twilioID is the idempotency token, which stays on a retry, or what stands for it.
func twilioID(h http.Header, signed []byte) string {
	if tokens := h.Values(twilioToken); len(tokens) == 1 && tokens[0] != "" {
		return tokens[0]
	}
	return digest(signed)
}

// twilioAbout says by which field a form is known, and what it is about. The whole goes before its parts: a recording is
// about its call.
var twilioAbout = []struct{ status, prefix, kind, id string }{
	{"StatusCallbackEvent", "conference.", "conference", "ConferenceSid"},
	{"RecordingStatus", "recording.", "call", "CallSid"},
	{"TranscriptionStatus", "transcription.", "call", "CallSid"},
	{"MessageStatus", "message.", "message", "MessageSid"},
	{"SmsStatus", "message.", "message", "MessageSid"},
	{"EventType", "", "conversation", "ConversationSid"},
	{"EventType", "", "task", "TaskSid"},
	{"EventType", "", "worker", "WorkerSid"},
	{"EventType", "", "account", "AccountSid"},
	{"CallStatus", "call.", "call", "CallSid"},
}

// twilioNamed gives the type of a form and what it is about.
func twilioNamed(form url.Values) (kind, about string) {
	for _, row := range twilioAbout {
		if status, id := form.Get(row.status), form.Get(row.id); status != "" && id != "" {
			return row.prefix + status, entity(row.kind, id)
		}
	}
	return "", ""
}

func twilioForm(r Request) ([]Event, error) {
	form, err := url.ParseQuery(string(r.Body))
	if err != nil || len(form) == 0 {
		return nil, refuse(ReasonPayloadMalformed, "expected a form with fields")
	}
	fields := make(map[string]any, len(form))
	for name, values := range form {
		if different := twilioValues(values); len(different) > 1 {
			fields[name] = different
		} else {
			fields[name] = different[0]
		}
	}
	payload, err := json.Marshal(fields)
	if err != nil {
		return nil, refuse(ReasonPayloadMalformed, "the form cannot be written as JSON")
	}
	event := Event{ID: twilioID(r.Header, twilioFields(form)), OccurredAt: twilioTime(form.Get("Timestamp")), Payload: payload}
	event.Type, event.Entity = twilioNamed(form)
	if n, err := strconv.ParseInt(form.Get("SequenceNumber"), 10, 64); err == nil {
		event.Sequence = &n
	}
	return []Event{event}, nil
}

// twilioTime reads a time as calls write it (RFC 2822), as others do (RFC 3339), or in unix seconds.
func twilioTime(text string) time.Time {
	for _, layout := range []string{time.RFC1123Z, time.RFC1123, time.RFC3339Nano} {
		if at, err := time.Parse(layout, text); err == nil {
			return storable(at)
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return unixTime(seconds, time.Second)
}

// twilioIDs are the fields that say what the event of a stream is about, the whole before its parts.
var twilioIDs = []struct{ kind, field string }{
	{"message", "messageSid"},
	{"conference", "conferenceSid"},
	{"call", "callSid"},
	{"call", "call_sid"},
	{"task", "taskSid"},
	{"conversation", "conversationSid"},
}

// twilioDocument reads JSON: the events of a stream, which are an array of CloudEvents, or one document.
func twilioDocument(r Request) ([]Event, error) {
	doc, err := parseDocument(r.Body)
	if err != nil {
		return nil, err
	}
	if isObject(r.Body) {
		event := twilioCloudEvent(doc)
		event.ID = cmp.Or(event.ID, twilioID(r.Header, r.Body))
		return []Event{event}, nil
	}
	items, err := elements(r.Body)
	if err != nil {
		return nil, err
	}
	events := make([]Event, len(items))
	for i, item := range items {
		if !isObject(item) {
			return nil, refuse(ReasonPayloadMalformed, "expected each event to be an object")
		}
		events[i] = twilioCloudEvent(members(item))
		events[i].Payload = item
	}
	return events, nil
}

func twilioCloudEvent(doc object) Event {
	event := Event{
		ID: doc.text("id"), Type: cmp.Or(doc.text("type"), doc.text("EventType")), OccurredAt: doc.time("time"),
		Entity: entity("source", doc.text("source")),
	}
	for _, about := range twilioIDs {
		if id := doc.in("data").text(about.field); id != "" {
			event.Entity = entity(about.kind, id)
			break
		}
	}
	return event
}

func twilioSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	var fields []byte
	h := signedHeader(in)
	if _, hashed := twilioHashed(in.URL); !hashed {
		form, err := url.ParseQuery(string(in.Body))
		if err != nil {
			return Signed{}, refuse(ReasonPayloadMalformed, "a sample must be a form")
		}
		fields = twilioFields(form)
	}
	h.Set(twilioToken, in.ID)
	h.Set(twilioSignature, base64.StdEncoding.EncodeToString(sum(sha1.New, []byte(in.Secret), []byte(in.URL), fields)))
	return Signed{h, in.Body}, nil
}

// twilioSample makes a form; $HEX in a value is made of the id.
func twilioSample(kind string, fields map[string]string) Sample {
	return Sample{
		Type: kind, Header: http.Header{"Content-Type": {formType}},
		Body: func(id string, _ time.Time) []byte {
			hash := sha256.Sum256([]byte(id))
			form := url.Values{"AccountSid": {"AC" + strings.Repeat("0", 32)}, "ApiVersion": {"2010-04-01"}}
			for name, value := range fields {
				form.Set(name, strings.ReplaceAll(value, "$HEX", hex.EncodeToString(hash[:16])))
			}
			return []byte(form.Encode())
		},
	}
}

var twilioSamples = []Sample{
	twilioSample("message.received", map[string]string{
		"MessageSid": "SM$HEX", "SmsSid": "SM$HEX", "SmsMessageSid": "SM$HEX", "SmsStatus": "received", "NumMedia": "0", "NumSegments": "1",
		"From": "+15005550006", "FromCity": "OTTAWA", "FromCountry": "CA", "To": "+15005550001", "ToCountry": "CA",
		"Body": "Where is my order 1001? It should have been here on Monday & nobody answers.",
	}),
	twilioSample("message.undelivered", map[string]string{
		"MessageSid": "SM$HEX", "SmsSid": "SM$HEX", "MessageStatus": "undelivered", "SmsStatus": "undelivered", "ErrorCode": "30003",
		"From": "+15005550001", "To": "+15005550006",
	}),
}
