package source

import (
	"strings"
	"time"
)

const (
	calendlySignature = "Calendly-Webhook-Signature"
	calendlyWindow    = 3 * time.Minute
)

// calendly is the webhook subscriptions of Calendly's API v2. The scheme is Stripe's.
var calendly = Source{
	Name:       "calendly",
	Title:      "Calendly",
	Docs:       "https://developer.calendly.com/receive-data-from-scheduled-events-in-real-time-with-webhook-subscriptions",
	SecretFrom: SecretFromEither,
	Setup: "Create a webhook subscription with Calendly's API (POST https://api.calendly.com/webhook_subscriptions): the url {url}, " +
		"the signing_key {secret}, and the events you want. For an OAuth app, paste the app's webhook signing key here instead.",
	Signs: "HMAC-SHA256 in hex over the timestamp, a dot and the raw body, in Calendly-Webhook-Signature (v1); the key is the " +
		"signing key.",
	Window:     func(Settings) Window { return Window{Past: calendlyWindow, Future: calendlyWindow} },
	BodySigned: always,
	IDSigned:   always, // the id is made of what stands in the body
	Retries:    "As is generally said, for up to 24 hours with growing pauses; then the subscription is switched off.",
	Order:      "created_at, in microseconds.",
	Notes: []string{
		"Events have no id; one is made of the event, its created_at and what it is about, which are taken to be the same on every retry.",
		"The signed time may be three minutes off, which is what is suggested for Calendly.",
		"A subscription made without a signing key is not signed, and refused.",
		"Rescheduling is two events: invitee.canceled of the old invitee and invitee.created of the new one.",
	},
	BodyMax: 1 << 20,

	Verify:      calendlyVerify,
	Events:      calendlyEvents,
	Samples:     calendlySamples,
	Sign:        calendlySign,
	NewSecret:   newHexSecret,
	CheckSecret: checkPlainSecret,
}

var calendlyScheme = timedScheme{header: calendlySignature, separator: ",", timeKey: "t", macKey: "v1", joint: "."}

func calendlyVerify(r Request, secrets []string, _ Settings) (int, error) {
	return calendlyScheme.verify(r, secrets, Window{Past: calendlyWindow, Future: calendlyWindow})
}

func calendlySign(in SignInput) (Signed, error) { return calendlyScheme.sign(in) }

// calendlyEvents reads the event and the URI of what it is about: an invitee of a scheduled event, or a submission of a
// routing form.
func calendlyEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind, uri := doc.text("event"), doc.in("payload").text("uri")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected a Calendly event")
	}
	id := derivedID(kind, doc.text("created_at"), uri)
	if uri == "" || doc.text("created_at") == "" {
		id = digest(r.Body)
	}
	return []Event{{ID: id, Type: kind, OccurredAt: doc.time("created_at"), Entity: calendlyAbout(uri)}}, nil
}

// calendlyAbout makes "invitee:BBB" of https://api.calendly.com/scheduled_events/AAA/invitees/BBB.
func calendlyAbout(uri string) string {
	rest, id := cutLast(uri, "/")
	_, kind := cutLast(rest, "/")
	return entity(strings.TrimSuffix(kind, "s"), id)
}

// cutLast cuts around the last separator; without any, all is before it.
func cutLast(s, separator string) (before, after string) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):]
	}
	return s, ""
}

var calendlySamples = []Sample{
	{Type: "invitee.canceled", Body: sampleBody(`
{
  "event": "invitee.canceled",
  "created_at": "$AT",
  "created_by": "https://api.calendly.com/users/SAMPLEUSER1",
  "payload": {
    "uri": "https://api.calendly.com/scheduled_events/SAMPLEEVENT1/invitees/$NUMBER",
    "event": "https://api.calendly.com/scheduled_events/SAMPLEEVENT1",
    "name": "Sample Customer",
    "email": "sample.customer@example.com",
    "status": "canceled",
    "rescheduled": false,
    "timezone": "Europe/Berlin",
    "created_at": "2026-02-27T09:12:44.000000Z",
    "updated_at": "$AT",
    "cancellation": {"canceled_by": "Sample Customer", "canceler_type": "invitee", "reason": "We found the answer in your docs.", "created_at": "$AT"},
    "scheduled_event": {
      "uri": "https://api.calendly.com/scheduled_events/SAMPLEEVENT1",
      "name": "Onboarding call",
      "status": "canceled",
      "start_time": "2026-03-09T14:00:00.000000Z",
      "end_time": "2026-03-09T14:30:00.000000Z"
    }
  }
}`)},
	{Type: "invitee.created", Body: sampleBody(`
{
  "event": "invitee.created",
  "created_at": "$AT",
  "created_by": "https://api.calendly.com/users/SAMPLEUSER1",
  "payload": {
    "uri": "https://api.calendly.com/scheduled_events/SAMPLEEVENT1/invitees/$NUMBER",
    "event": "https://api.calendly.com/scheduled_events/SAMPLEEVENT1",
    "name": "Sample Customer",
    "email": "sample.customer@example.com",
    "status": "active",
    "rescheduled": false,
    "timezone": "Europe/Berlin",
    "created_at": "$AT",
    "updated_at": "$AT",
    "questions_and_answers": [{"position": 0, "question": "What should we look at?", "answer": "Moving our alerts over."}],
    "tracking": {"utm_source": "newsletter"},
    "scheduled_event": {
      "uri": "https://api.calendly.com/scheduled_events/SAMPLEEVENT1",
      "name": "Onboarding call",
      "status": "active",
      "start_time": "2026-03-09T14:00:00.000000Z",
      "end_time": "2026-03-09T14:30:00.000000Z",
      "location": {"type": "custom", "location": "by telephone"}
    }
  }
}`)},
}
