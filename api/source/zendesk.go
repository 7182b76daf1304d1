package source

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"
)

const (
	zendeskSignature  = "X-Zendesk-Webhook-Signature"
	zendeskTimestamp  = "X-Zendesk-Webhook-Signature-Timestamp"
	zendeskInvocation = "X-Zendesk-Webhook-Invocation-Id"
	zendeskEventType  = "zen:event-type:"
	zendeskSubject    = "zen:"
	// zendeskTestSecret is published: Zendesk signs with it what is sent to try out a webhook that was not yet made.
	zendeskTestSecret = "dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ=="
)

// zendesk is Zendesk's webhooks: those subscribed to events, whose body is Zendesk's, and those of a trigger or an automation,
// whose body is a template of the customer's own.
var zendesk = Source{
	Name:       "zendesk",
	Title:      "Zendesk",
	Docs:       "https://developer.zendesk.com/documentation/webhooks/",
	SecretFrom: SecretFromSource,
	Setup: "In the Admin Center, Apps and integrations, Webhooks, create a webhook with the endpoint URL {url}, method POST and " +
		"format JSON, subscribed to events or for a trigger. Then open it, reveal its signing secret and paste it here.",
	Signs: "HMAC-SHA256 in base64 over the timestamp header and the raw body, one after the other, in " +
		"X-Zendesk-Webhook-Signature; the key is the webhook's signing secret as it is shown.",
	Window:     fiveMinutes,
	BodySigned: always,
	IDSigned:   never, // the invocation id of a trigger's webhook is a header
	Retries: "After some statuses only (as is generally said 409, and 429 and 503 with Retry-After below a minute) and after " +
		"timeouts; a circuit breaker pauses an endpoint that fails often.",
	Order: "time of the event; the position that Zendesk counts within one action is not promised to be the order.",
	Notes: []string{
		"The id of an event stands in the signed body, but that of a trigger's or automation's delivery is a header that is not " +
			"signed; such a delivery is taken once for each signature.",
		"The body of a trigger or automation is your own template: it must be JSON, its type is what the template says under type, " +
			"and no time or entity is read from it.",
		"Zendesk names no tolerance for the signed time; five minutes are held.",
		"A test of a webhook that is not saved yet is signed with a key that is public, and refused.",
	},
	BodyMax: 1 << 20,

	Verify:      zendeskVerify,
	Events:      zendeskEvents,
	Samples:     zendeskSamples,
	Sign:        zendeskSign,
	CheckSecret: zendeskCheckSecret,
}

func zendeskVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, zendeskSignature)
	if err != nil {
		return -1, err
	}
	timestamp, err := timestampHeader(r.Header, zendeskTimestamp)
	if err != nil {
		return -1, err
	}
	// What is signed has nothing between timestamp and body; that the timestamp must be one to the last byte keeps the two apart.
	signed, err := time.Parse(time.RFC3339, timestamp)
	if err != nil {
		return -1, refuse(ReasonTimestampMalformed, "header "+zendeskTimestamp+" must be a time such as 2026-03-04T12:00:00Z")
	}
	mac, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(mac) != sha256.Size {
		return -1, refuse(ReasonSignatureMalformed, "header "+zendeskSignature+" must be base64 of 32 bytes")
	}
	matched, err := matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, []byte(timestamp), r.Body)
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, fiveMinutes(nil))
}

// zendeskEvents tells the two kinds of webhooks apart by the type, which Zendesk writes with a prefix of its own.
func zendeskEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseDocument(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("type")
	name, subscribed := strings.CutPrefix(kind, zendeskEventType)
	if id := doc.text("id"); subscribed && id != "" {
		about := strings.TrimPrefix(doc.text("subject"), zendeskSubject)
		if noun, which, _ := strings.Cut(about, ":"); noun == "" || which == "" {
			noun, _, _ = strings.Cut(name, ".")
			about = entity(noun, doc.in("detail").id("id"))
		}
		return []Event{{ID: id, Type: kind, OccurredAt: doc.time("time"), Entity: about}}, nil
	}
	id, err := idHeader(r.Header, zendeskInvocation)
	if err != nil {
		return nil, err
	}
	// A trigger may well make the same body twice, so a replay is told by the signature, which has the time in it.
	return []Event{{ID: id, Type: kind, Once: digest([]byte(r.Header.Get(zendeskSignature)))}}, nil
}

func zendeskSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	timestamp := in.At.UTC().Format(time.RFC3339)
	h := signedHeader(in)
	h.Set(zendeskInvocation, in.ID)
	h.Set(zendeskTimestamp, timestamp)
	h.Set(zendeskSignature, base64.StdEncoding.EncodeToString(sum(sha256.New, []byte(in.Secret), []byte(timestamp), in.Body)))
	return Signed{h, in.Body}, nil
}

func zendeskCheckSecret(secret string, s Settings) error {
	if secret == zendeskTestSecret {
		return errors.New("that is Zendesk's public key for tests; expected the signing secret of the saved webhook")
	}
	return checkPlainSecret(secret, s)
}

var zendeskSamples = []Sample{
	{Type: "zen:event-type:ticket.comment_added", Body: sampleBody(`
{
  "account_id": 21825834,
  "id": "$ID",
  "subject": "zen:ticket:$NUMBER",
  "time": "$AT",
  "type": "zen:event-type:ticket.comment_added",
  "zendesk_event_version": "2022-11-06",
  "detail": {
    "id": "$NUMBER",
    "subject": "Export is empty",
    "status": "OPEN",
    "priority": "HIGH",
    "type": "INCIDENT",
    "is_public": true,
    "requester_id": "8447388090494",
    "assignee_id": "8447388090495",
    "tags": ["export"],
    "via": {"channel": "web"},
    "created_at": "2026-02-27T09:12:44Z",
    "updated_at": "$AT"
  },
  "event": {
    "comment": {
      "id": "17291102093",
      "body": "It is still empty, and our books close tomorrow.",
      "is_public": true,
      "author": {"id": "8447388090494", "is_staff": false, "name": "Sample Customer"}
    },
    "meta": {"sequence": {"id": "SAMPLE698AF24F35B3208649C6951E00", "position": 1}}
  }
}`)},
	{Type: "zen:event-type:ticket.created", Body: sampleBody(`
{
  "account_id": 21825834,
  "id": "$ID",
  "subject": "zen:ticket:$NUMBER",
  "time": "$AT",
  "type": "zen:event-type:ticket.created",
  "zendesk_event_version": "2022-11-06",
  "detail": {
    "id": "$NUMBER",
    "subject": "Export is empty",
    "description": "Since this morning the export of our invoices has no rows.",
    "status": "NEW",
    "priority": "NORMAL",
    "type": "INCIDENT",
    "is_public": true,
    "requester_id": "8447388090494",
    "submitter_id": "8447388090494",
    "tags": ["export"],
    "via": {"channel": "web"},
    "created_at": "$AT",
    "updated_at": "$AT"
  },
  "event": {"meta": {"sequence": {"id": "SAMPLE698AF24F35B3208649C6951E01", "position": 1}}}
}`)},
}
