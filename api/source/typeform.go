package source

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
)

const (
	typeformSignature = "Typeform-Signature"
	typeformPrefix    = "sha256="
)

// typeform is the webhooks of a form in Typeform.
var typeform = Source{
	Name:       "typeform",
	Title:      "Typeform",
	Docs:       "https://www.typeform.com/developers/webhooks/",
	SecretFrom: SecretFromEither,
	Setup: "In the form, Connect, Webhooks, add a webhook with the endpoint {url}. Then edit it, give it the secret {secret}, " +
		"and switch it on.",
	Signs:      "HMAC-SHA256 in base64 over the raw body, in Typeform-Signature after sha256=.",
	Window:     untimed,
	BodySigned: always,
	IDSigned:   always, // event_id stands in the body
	Retries: "As is generally said, after 30 seconds without an answer, and after 408, 423, 429 and 503 for some hours; 404 and 410 " +
		"switch the webhook off.",
	Order: "submitted_at of the response, in whole seconds; a response is mostly one event.",
	Notes: []string{
		"No time is signed: a delivery that was seen can be sent again at any time, and only its id tells that it was here before.",
		"404 and 410 are said to switch a webhook off for good, so an endpoint that is switched off here answers 503.",
	},
	BodyMax: 4 << 20,                                        // no cap is published; the whole definition of the form is in each body
	Codes:   Codes{Disabled: http.StatusServiceUnavailable}, // 404 is said to switch the webhook off at Typeform

	Verify:      typeformVerify,
	Events:      typeformEvents,
	Samples:     typeformSamples,
	Sign:        typeformSign,
	NewSecret:   newHexSecret,
	CheckSecret: checkPlainSecret,
}

func typeformVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, typeformSignature)
	if err != nil {
		return -1, err
	}
	encoded, found := strings.CutPrefix(value, typeformPrefix)
	mac, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !found || err != nil || len(mac) != sha256.Size {
		return -1, refuse(ReasonSignatureMalformed, "header "+typeformSignature+" must be "+typeformPrefix+" and base64 of 32 bytes")
	}
	return matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, r.Body)
}

// typeformEvents reads a response. A partial one, which was not submitted yet, has only the time at which the form was opened;
// it is about the same response as the whole one.
func typeformEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("event_type")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected a Typeform event with an event_type")
	}
	response := doc.in("form_response")
	at := response.time("submitted_at")
	if at.IsZero() {
		at = response.time("landed_at")
	}
	return []Event{{ID: doc.text("event_id"), Type: kind, OccurredAt: at, Entity: entity("form_response", response.text("token"))}}, nil
}

func typeformSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set(typeformSignature, typeformPrefix+base64.StdEncoding.EncodeToString(sum(sha256.New, []byte(in.Secret), in.Body)))
	return Signed{h, in.Body}, nil
}

var typeformSamples = []Sample{{
	Type: "form_response",
	Body: sampleBody(`
{
  "event_id": "$ID",
  "event_type": "form_response",
  "form_response": {
    "form_id": "SaMpLe01",
    "token": "sample-response-$NUMBER",
    "landed_at": "$AT",
    "submitted_at": "$AT",
    "hidden": {"plan": "team"},
    "definition": {
      "id": "SaMpLe01",
      "title": "Why did you leave?",
      "fields": [
        {"id": "fieldEmail1", "ref": "email", "type": "email", "title": "What is your email?", "properties": {}},
        {"id": "fieldScore1", "ref": "score", "type": "opinion_scale", "title": "How happy were you with us?", "properties": {}},
        {"id": "fieldText01", "ref": "reason", "type": "long_text", "title": "What was missing?", "properties": {}}
      ]
    },
    "answers": [
      {"type": "email", "email": "sample.customer@example.com", "field": {"id": "fieldEmail1", "ref": "email", "type": "email"}},
      {"type": "number", "number": 4, "field": {"id": "fieldScore1", "ref": "score", "type": "opinion_scale"}},
      {"type": "text", "text": "Too many alerts at night.", "field": {"id": "fieldText01", "ref": "reason", "type": "long_text"}}
    ]
  }
}`),
}}
