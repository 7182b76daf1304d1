package source

import (
	"crypto/sha1"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

const (
	intercomSignature = "X-Hub-Signature"
	intercomPrefix    = "sha1="
	intercomPing      = "ping"
)

// intercom is the webhooks of an Intercom app.
var intercom = Source{
	Name:       "intercom",
	Title:      "Intercom",
	Docs:       "https://developers.intercom.com/docs/webhooks",
	SecretFrom: SecretFromSource,
	Setup: "In the Intercom Developer Hub, open your app, paste its client secret (Basic information) here, and under Webhooks " +
		"give the endpoint URL {url} and the topics you want.",
	Signs:        "HMAC-SHA1 in hex over the raw body, in X-Hub-Signature after sha1=; the key is the app's client secret.",
	Window:       untimed,
	BodySigned:   always,
	IDSigned:     always, // the id stands in the body
	AnswerWithin: 5 * time.Second,
	Retries: "Once, after 1 minute; after more than 1000 errors in a row within 15 minutes it pauses for 15, and after 7 days of " +
		"errors it stops. 410 switches the subscription off.",
	Order: "created_at of the notification, in whole seconds; updated_at of the item.",
	Notes: []string{
		"HMAC-SHA1 is what Intercom offers; as a MAC it is still sound.",
		"No time is signed: a delivery that was seen can be sent again at any time, and only its id tells that it was here before.",
		"A ping has no id; one is made of the workspace and its time, so that a test shows as an event.",
	},
	BodyMax: 1 << 20,

	Verify:      intercomVerify,
	Events:      intercomEvents,
	Samples:     intercomSamples,
	Sign:        intercomSign,
	CheckSecret: checkPlainSecret,
}

func intercomVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, intercomSignature)
	if err != nil {
		return -1, err
	}
	digits, found := strings.CutPrefix(value, intercomPrefix)
	mac, ok := decodeHex(digits, sha1.Size)
	if !found || !ok {
		return -1, refuse(ReasonSignatureMalformed, "header "+intercomSignature+" must be "+intercomPrefix+" and 40 hex digits")
	}
	return matchMAC(sha1.New, plainKeys(secrets), [][]byte{mac}, r.Body)
}

func intercomEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	topic := doc.text("topic")
	if topic == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected an Intercom notification with a topic")
	}
	id := doc.text("id")
	if id == "" && topic == intercomPing {
		id = derivedID(topic, doc.text("app_id"), doc.id("created_at"))
	}
	return []Event{{ID: id, Type: topic, OccurredAt: doc.time("created_at"), Entity: intercomAbout(doc.within("data", "item"))}}, nil
}

// intercomAbout names the item, or the whole that it is a part of: a tag of a contact is about the contact, a note of a ticket
// about the ticket.
func intercomAbout(item object) string {
	wholes := []string{"conversation", "ticket", "contact", "user", "lead", "visitor", "company"}
	kind := item.text("type")
	if slices.Contains(wholes, kind) {
		return entity(kind, item.id("id"))
	}
	for _, whole := range wholes {
		if id := item.in(whole).id("id"); id != "" {
			return entity(whole, id)
		}
	}
	return entity(kind, item.id("id"))
}

func intercomSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set(intercomSignature, intercomPrefix+hex.EncodeToString(sum(sha1.New, []byte(in.Secret), in.Body)))
	return Signed{h, in.Body}, nil
}

var intercomSamples = []Sample{
	{Type: "contact.user.created", Body: sampleBody(`
{
  "type": "notification_event",
  "app_id": "sample01",
  "id": "$ID",
  "topic": "contact.user.created",
  "data": {
    "type": "notification_event_data",
    "item": {
      "type": "contact",
      "id": "sample-contact-$NUMBER",
      "workspace_id": "sample01",
      "external_id": "customer-1",
      "role": "user",
      "email": "sample.customer@example.com",
      "name": "Sample Customer",
      "created_at": "$AT",
      "updated_at": "$AT",
      "custom_attributes": {"plan": "team"}
    }
  },
  "links": {},
  "delivery_status": "pending",
  "delivery_attempts": 1,
  "delivered_at": 0,
  "first_sent_at": $UNIX,
  "created_at": $UNIX,
  "self": null
}`)},
	{Type: "conversation.user.replied", Body: sampleBody(`
{
  "type": "notification_event",
  "app_id": "sample01",
  "id": "$ID",
  "topic": "conversation.user.replied",
  "data": {
    "type": "notification_event_data",
    "item": {
      "type": "conversation",
      "id": "$NUMBER",
      "created_at": $UNIX,
      "updated_at": $UNIX,
      "open": true,
      "state": "open",
      "read": false,
      "priority": "not_priority",
      "source": {
        "type": "conversation",
        "id": "1",
        "subject": "",
        "body": "<p>My export is empty since this morning.</p>",
        "author": {"type": "user", "id": "sample-contact-1", "name": "Sample Customer", "email": "sample.customer@example.com"}
      },
      "contacts": {"type": "contact.list", "contacts": [{"type": "contact", "id": "sample-contact-1", "external_id": "customer-1"}]}
    }
  },
  "links": {},
  "delivery_status": "pending",
  "delivery_attempts": 1,
  "delivered_at": 0,
  "first_sent_at": $UNIX,
  "created_at": $UNIX,
  "self": null
}`)},
}
