package source

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"
)

const (
	sendgridSignature = "X-Twilio-Email-Event-Webhook-Signature"
	sendgridTimestamp = "X-Twilio-Email-Event-Webhook-Timestamp"
	sendgridScheme    = "header " + sendgridSignature + " must be base64 of an ECDSA signature"
)

// sendgrid is Twilio SendGrid's Event Webhook with the signature switched on. Inbound Parse is another product and not read.
var sendgrid = Source{
	Name:       "sendgrid",
	Title:      "SendGrid",
	Docs:       "https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event",
	SecretFrom: SecretFromSource,
	Setup: "In SendGrid, Settings, Mail Settings, Event Webhooks, create a webhook with the URL {url}, switch on Signed Event Webhook, and paste " +
		"its public verification key here.",
	Signs: "ECDSA on P-256 with SHA-256 over the timestamp and the raw body, in X-Twilio-Email-Event-Webhook-Signature as base64 of ASN.1; the " +
		"secret of the endpoint is the public key.",
	Order: "timestamp, in whole seconds, which several events of a message share; SendGrid promises no order.",
	Notes: []string{
		"That the signed time is new with every retry is not published; a retry signed with an old time would be refused as stale.",
		"An event is about one message to one recipient, the whole sg_message_id: its beginning, the X-Message-Id of the request that sent it, is " +
			"shared by all recipients of that request, who must not wait for each other.",
		"An event without sg_event_id gets an id made of its own text, so that it does not take the others of its batch down with it.",
	},
	Window:     fiveMinutes,
	BodySigned: always,
	IDSigned:   always, // the ids stand in the body
	Retries:    "Until a 2xx, as far as is known for up to 24 hours; the whole batch is sent again.",
	BodyMax:    4 << 20, // no cap is published; a batch of a busy sender passes the usual 1 MiB

	Verify:      sendgridVerify,
	Events:      sendgridEvents,
	Samples:     sendgridSamples,
	Sign:        sendgridSign,
	Trial:       p256Trial,
	CheckSecret: sendgridCheckSecret,
}

func sendgridVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, sendgridSignature)
	if err != nil {
		return -1, err
	}
	timestamp, err := timestampHeader(r.Header, sendgridTimestamp)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(timestamp, time.Second)
	if err != nil {
		return -1, err
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return -1, refuse(ReasonSignatureMalformed, sendgridScheme)
	}
	hash := sendgridHash(timestamp, r.Body)
	matched, err := matchPublic(secrets, p256Public, func(key *ecdsa.PublicKey) bool { return ecdsa.VerifyASN1(key, hash, signature) })
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, fiveMinutes(nil))
}

func sendgridHash(timestamp string, body []byte) []byte {
	h := sha256.New()
	h.Write([]byte(timestamp))
	h.Write(body)
	return h.Sum(nil)
}

// sendgridEvents reads the batch, which is an array even for one event.
func sendgridEvents(r Request, _ Settings) ([]Event, error) {
	items, err := elements(r.Body)
	if err != nil {
		return nil, err
	}
	events := make([]Event, len(items))
	for i, item := range items {
		if !isObject(item) {
			return nil, refuse(ReasonPayloadMalformed, fmt.Sprintf("expected an object as event %d of the array", i))
		}
		doc := members(item)
		id := doc.text("sg_event_id")
		if id == "" {
			id = digest(item)
		}
		events[i] = Event{
			ID: id, Type: doc.text("event"), OccurredAt: doc.seconds("timestamp"),
			Entity: entity("message", doc.text("sg_message_id")), Payload: item,
		}
	}
	return events, nil
}

func sendgridSign(in SignInput) (Signed, error) {
	key, err := p256Private(in.Secret)
	if err != nil {
		return Signed{}, errNoSecret
	}
	timestamp := strconv.FormatInt(in.At.Unix(), 10)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sendgridHash(timestamp, in.Body))
	if err != nil {
		return Signed{}, fmt.Errorf("sign with ECDSA: %w", err)
	}
	h := signedHeader(in)
	h.Set(sendgridTimestamp, timestamp)
	h.Set(sendgridSignature, base64.StdEncoding.EncodeToString(signature))
	return Signed{h, in.Body}, nil
}

func sendgridCheckSecret(secret string, _ Settings) error {
	_, err := p256Public(secret)
	return err
}

var sendgridSamples = []Sample{
	{Type: "bounce", Body: sampleBody(`
[{
  "email": "sample.customer@example.com",
  "timestamp": $UNIX,
  "smtp-id": "<sample.$NUMBER@geopod-ismtpd-0>",
  "event": "bounce",
  "category": ["invoice"],
  "sg_event_id": "$ID",
  "sg_message_id": "s$NUMBER.recvd-sample-0-00000000-1.0",
  "reason": "550 5.1.1 The email account that you tried to reach does not exist.",
  "status": "5.1.1",
  "type": "bounce",
  "bounce_classification": "Invalid Address"
}]`)},
	{Type: "delivered", Body: sampleBody(`
[{
  "email": "sample.customer@example.com",
  "timestamp": $UNIX,
  "smtp-id": "<sample.$NUMBER@geopod-ismtpd-0>",
  "event": "delivered",
  "category": ["invoice"],
  "sg_event_id": "$ID",
  "sg_message_id": "s$NUMBER.recvd-sample-0-00000000-1.0",
  "response": "250 2.0.0 OK",
  "tls": 1
}, {
  "email": "sample.customer@example.com",
  "timestamp": $UNIX,
  "event": "open",
  "sg_event_id": "$ID-open",
  "sg_message_id": "s$NUMBER.recvd-sample-0-00000000-1.0",
  "sg_machine_open": true,
  "useragent": "Mozilla/5.0 (sample)",
  "ip": "192.0.2.10"
}]`)},
}
