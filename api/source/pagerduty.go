package source

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

const (
	pagerdutySignature = "X-PagerDuty-Signature"
	pagerdutyPrefix    = "v1="
)

// pagerduty is PagerDuty's V3 webhook subscriptions. The older V1 and V2 extensions are not signed and not read.
var pagerduty = Source{
	Name:       "pagerduty",
	Title:      "PagerDuty",
	Docs:       "https://developer.pagerduty.com/docs/webhooks-overview",
	SecretFrom: SecretFromSource,
	Setup: "In PagerDuty, Integrations, Generic Webhooks (v3), add a webhook with the URL {url}, the scope and the events you " +
		"want. Its signing secret is shown once, after saving; paste it here.",
	Signs: "HMAC-SHA256 in hex over the raw body, in X-PagerDuty-Signature (v1, one for each secret while it is rotated).",
	Order: "The order of arrival, which PagerDuty promises per subscription and incident, and occurred_at in milliseconds.",
	Notes: []string{
		"No time is signed, so an old delivery verifies for ever; the id is in the signed body, so it is taken once.",
		"The vendor advises the header X-Webhook-Id for telling repeats; event.id is used instead, since the header is not signed.",
		"A refused signature and a disabled endpoint are answered with 503: PagerDuty keeps such deliveries for up to 48 hours, while it drops " +
			"those answered with 4xx at once and disables the webhook for a day after three; meanwhile later events of the same incident wait.",
	},
	Window:       untimed,
	BodySigned:   always,
	IDSigned:     always, // the id stands in the body
	AnswerWithin: 5 * time.Second,
	Retries: "Timeouts, 5xx and 429 are retried for up to 48 hours, and later events of the same incident wait behind; any other 4xx drops the " +
		"delivery at once, and three dropped in a row disable the webhook for 24 hours.",
	BodyMax: 1 << 20, // PagerDuty drops what is larger than 256 KB
	// A wrong secret or an endpoint that is switched off can be mended within the 48 hours of the retries, whereas a 4xx loses
	// the event and, three times, the queue. A payload that cannot be read will not be readable later, and would hold up the
	// incident's queue, so it keeps its 400.
	Codes:    Codes{Refused: http.StatusServiceUnavailable, Disabled: http.StatusServiceUnavailable},
	Accepted: &Answer{Status: http.StatusAccepted}, // what PagerDuty advises

	Verify:      pagerdutyVerify,
	Events:      pagerdutyEvents,
	Samples:     pagerdutySamples,
	Sign:        pagerdutySign,
	CheckSecret: checkPlainSecret,
}

func pagerdutyVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, pagerdutySignature)
	if err != nil {
		return -1, err
	}
	candidates, err := pagerdutyParse(value)
	if err != nil {
		return -1, err
	}
	return matchMAC(sha256.New, plainKeys(secrets), candidates, r.Body)
}

// pagerdutyParse reads "v1=<hex>[,v1=<hex>]...". Other versions and unreadable v1 values are skipped, as PagerDuty says.
func pagerdutyParse(value string) ([][]byte, error) {
	var candidates [][]byte
	seen, ours := 0, 0
	for element := range strings.SplitSeq(value, ",") {
		if seen++; seen > signaturesMax {
			return nil, refuse(ReasonSignatureMalformed, "header "+pagerdutySignature+" has too many signatures")
		}
		digits, found := strings.CutPrefix(strings.TrimSpace(element), pagerdutyPrefix)
		if !found {
			continue
		}
		ours++
		if mac, ok := decodeHex(digits, sha256.Size); ok {
			candidates = append(candidates, mac)
		}
	}
	switch {
	case ours == 0:
		return nil, refuse(ReasonSignatureMissing, "header "+pagerdutySignature+" has no v1")
	case len(candidates) == 0:
		return nil, refuse(ReasonSignatureMalformed, "header "+pagerdutySignature+" has no v1 of 64 hex digits")
	}
	return candidates, nil
}

// pagerdutyEvents reads the one event of a delivery. A note, a responder, a task or a workflow of an incident is about the
// incident; anything else is about itself.
func pagerdutyEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	event := doc.in("event")
	if event == nil {
		return nil, refuse(ReasonPayloadMalformed, "expected a PagerDuty V3 webhook with an event")
	}
	data := event.in("data")
	about := entity("incident", data.in("incident").id("id"))
	if about == "" {
		about = entity(strings.TrimSuffix(data.text("type"), "_reference"), data.id("id"))
	}
	return []Event{{ID: event.text("id"), Type: event.text("event_type"), OccurredAt: event.time("occurred_at"), Entity: about}}, nil
}

func pagerdutySign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set(pagerdutySignature, pagerdutyPrefix+hex.EncodeToString(sum(sha256.New, []byte(in.Secret), in.Body)))
	return Signed{h, in.Body}, nil
}

const pagerdutySampleService = `{"html_url": "https://acme-sample.pagerduty.com/services/PSAMPLE", "id": "PSAMPLE", ` +
	`"self": "https://api.pagerduty.com/services/PSAMPLE", "summary": "Checkout API", "type": "service_reference"}`

var pagerdutySamples = []Sample{
	{Type: "incident.annotated", Body: sampleBody(`
{
  "event": {
    "id": "$ID",
    "event_type": "incident.annotated",
    "resource_type": "incident",
    "occurred_at": "$AT",
    "agent": {"html_url": "https://acme-sample.pagerduty.com/users/PUSER01", "id": "PUSER01", "summary": "Sample Engineer", "type": "user_reference"},
    "client": null,
    "data": {
      "incident": {"html_url": "https://acme-sample.pagerduty.com/incidents/Q$NUMBER", "id": "Q$NUMBER",
        "self": "https://api.pagerduty.com/incidents/Q$NUMBER", "summary": "Error rate of the checkout is above 5 %", "type": "incident_reference"},
      "id": "PNOTE01",
      "content": "Rolled back to the release of this morning.",
      "trimmed": false,
      "type": "incident_note"
    }
  }
}`)},
	{Type: "incident.triggered", Body: sampleBody(`
{
  "event": {
    "id": "$ID",
    "event_type": "incident.triggered",
    "resource_type": "incident",
    "occurred_at": "$AT",
    "agent": null,
    "client": null,
    "data": {
      "id": "Q$NUMBER",
      "type": "incident",
      "self": "https://api.pagerduty.com/incidents/Q$NUMBER",
      "html_url": "https://acme-sample.pagerduty.com/incidents/Q$NUMBER",
      "number": 1207,
      "status": "triggered",
      "incident_key": "checkout-error-rate",
      "created_at": "$AT",
      "title": "Error rate of the checkout is above 5 %",
      "service": ` + pagerdutySampleService + `,
      "assignees": [{"html_url": "https://acme-sample.pagerduty.com/users/PUSER01", "id": "PUSER01", "summary": "Sample Engineer", "type": "user_reference"}],
      "priority": null,
      "urgency": "high",
      "conference_bridge": null,
      "resolve_reason": null
    }
  }
}`)},
}
