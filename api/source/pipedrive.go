package source

import (
	"strconv"
	"time"
)

// pipedriveMillisDigits is how many digits unix milliseconds have in our age, and unix seconds do not.
const pipedriveMillisDigits = 12

// pipedrive is Pipedrive's general webhooks, version 2. They are not signed; HTTP Basic says who sends.
var pipedrive = Source{
	Name:       "pipedrive",
	Title:      "Pipedrive",
	Docs:       "https://pipedrive.readme.io/docs/guide-for-webhooks-v2",
	SecretFrom: SecretFromEither,
	Setup: "In Pipedrive, Tools and apps, Webhooks, create a webhook of version 2 with the endpoint URL {url}. Of {secret}, the part " +
		"before the colon is the HTTP Auth username, the part after it the HTTP Auth password.",
	Signs:        "Nothing is signed: user and password come with each delivery, by HTTP Basic. The secret is both, with a colon between.",
	Window:       untimed,
	BodySigned:   never,
	IDSigned:     never,
	AnswerWithin: 10 * time.Second,
	Retries: "After 3, 30 and 150 seconds. 10 first tries that fail ban the URL for 30 minutes, and what happens in that time is " +
		"lost; 3 days without a success delete the webhook.",
	Order: "timestamp of the event, in milliseconds.",
	Notes: []string{
		"Whoever learns the password can send any event, since neither body nor id is signed; give it to Pipedrive alone.",
		"Only version 2 is read: in version 1 meta.id is the number of the object and not of the event.",
	},
	BodyMax: 1 << 20,

	Verify:      pipedriveVerify,
	Events:      pipedriveEvents,
	Samples:     pipedriveSamples,
	Sign:        pipedriveSign,
	NewSecret:   newBasicSecret,
	CheckSecret: checkBasicSecret,
}

func pipedriveVerify(r Request, secrets []string, _ Settings) (int, error) {
	return basicMatch(r.Header, secrets)
}

// pipedriveEvents reads meta, which says all, also of a deletion, whose data is null.
func pipedriveEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	meta := doc.in("meta")
	action, noun := meta.text("action"), meta.text("entity")
	if action == "" || noun == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected a Pipedrive webhook of version 2, with meta.action and meta.entity")
	}
	return []Event{{
		ID: meta.id("id"), Type: action + "." + noun, OccurredAt: pipedriveTime(meta), Entity: entity(noun, meta.id("entity_id")),
	}}, nil
}

// pipedriveTime reads ISO time, which the guide's example shows, or unix time in seconds, as its table says, or milliseconds.
func pipedriveTime(meta object) time.Time {
	digits := meta.id("timestamp")
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil:
		return parseTime(digits)
	case len(digits) >= pipedriveMillisDigits:
		return unixTime(n, time.Millisecond)
	default:
		return unixTime(n, time.Second)
	}
}

func pipedriveSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set(authorization, basicHeader(in.Secret))
	return Signed{h, in.Body}, nil
}

var pipedriveSamples = []Sample{
	{Type: "change.deal", Body: sampleBody(`
{
  "meta": {
    "action": "change",
    "entity": "deal",
    "entity_id": "$NUMBER",
    "id": "$ID",
    "company_id": "12345",
    "user_id": "67890",
    "correlation_id": "sample-correlation-1",
    "webhook_id": "321",
    "webhook_owner_id": "67890",
    "change_source": "app",
    "host": "sample.pipedrive.com",
    "is_bulk_edit": false,
    "permitted_user_ids": ["67890"],
    "timestamp": "$AT",
    "type": "general",
    "version": "2.0",
    "attempt": 1
  },
  "data": {
    "id": $NUMBER,
    "title": "Acme, team plan",
    "value": 4900,
    "currency": "EUR",
    "status": "won",
    "stage_id": 4,
    "person_id": 71,
    "org_id": 12,
    "update_time": "$AT"
  },
  "previous": {"status": "open", "stage_id": 3}
}`)},
	{Type: "create.person", Body: sampleBody(`
{
  "meta": {
    "action": "create",
    "entity": "person",
    "entity_id": "$NUMBER",
    "id": "$ID",
    "company_id": "12345",
    "user_id": "67890",
    "correlation_id": "sample-correlation-2",
    "webhook_id": "322",
    "webhook_owner_id": "67890",
    "change_source": "app",
    "host": "sample.pipedrive.com",
    "is_bulk_edit": false,
    "permitted_user_ids": ["67890"],
    "timestamp": "$AT",
    "type": "general",
    "version": "2.0",
    "attempt": 1
  },
  "data": {
    "id": $NUMBER,
    "name": "Sample Customer",
    "emails": [{"label": "work", "primary": true, "value": "sample.customer@example.com"}],
    "owner_id": 67890,
    "add_time": "$AT",
    "update_time": "$AT"
  },
  "previous": null
}`)},
}
