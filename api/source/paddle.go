package source

import (
	"errors"
	"strings"
	"time"
)

const paddleSignature = "Paddle-Signature"

var paddleScheme = timedScheme{header: paddleSignature, separator: ";", timeKey: "ts", macKey: "h1", joint: ":"}

// paddle is Paddle Billing's notifications. Paddle Classic signs otherwise and is not read.
var paddle = Source{
	Name:       "paddle",
	Title:      "Paddle",
	Docs:       "https://developer.paddle.com/webhooks/overview",
	SecretFrom: SecretFromSource,
	Setup: "In Paddle, Developer tools, Notifications, add a destination of the type webhook with the URL {url} and the events you want. " +
		"Then show its secret key (pdl_ntfset_...) and paste it here.",
	Signs: "HMAC-SHA256 in hex over the timestamp, a colon and the raw body, in Paddle-Signature (h1, one for each secret while it is " +
		"rotated); the key is the whole secret including pdl_ntfset_.",
	Order: "occurred_at, in microseconds, as Paddle advises; deliveries may come out of sequence.",
	Notes: []string{
		"That the signed time is new with every retry is not published; a retry signed with an old time would be refused as stale.",
		"A time further than five minutes from the arrival is refused, though some of Paddle's libraries allow five seconds only and others any.",
	},
	Window:       fiveMinutes,
	BodySigned:   always,
	IDSigned:     always, // the id stands in the body
	AnswerWithin: 5 * time.Second,
	Retries:      "Live accounts retry up to 60 times over 3 days, a sandbox less often; at least once.",
	BodyMax:      1 << 20,

	Verify:      paddleVerify,
	Events:      paddleEvents,
	Samples:     paddleSamples,
	Sign:        paddleSign,
	CheckSecret: paddleCheckSecret,
}

func paddleVerify(r Request, secrets []string, _ Settings) (int, error) {
	return paddleScheme.verify(r, secrets, fiveMinutes(nil))
}

// paddleEvents reads the event; the entity's kind is the noun of its type ("transaction.completed" is about a transaction).
func paddleEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("event_type")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected a Paddle notification with an event_type")
	}
	noun, _, _ := strings.Cut(kind, ".")
	return []Event{{
		ID: doc.text("event_id"), Type: kind, OccurredAt: doc.time("occurred_at"), Entity: entity(noun, doc.in("data").id("id")),
	}}, nil
}

func paddleSign(in SignInput) (Signed, error) { return paddleScheme.sign(in) }

func paddleCheckSecret(secret string, s Settings) error {
	if !strings.HasPrefix(secret, "pdl_ntfset_") {
		return errors.New("expected the secret key of the notification destination, which begins with pdl_ntfset_ (not an API key)")
	}
	return checkPlainSecret(secret, s)
}

const paddleSampleItem = `{"status": "active", "quantity": 3, "recurring": true,
      "price": {"id": "pri_sample", "product_id": "pro_sample", "name": "Team", "description": "Team, monthly", "tax_mode": "account_setting",
        "status": "active", "billing_cycle": {"interval": "month", "frequency": 1}, "quantity": {"minimum": 1, "maximum": 100},
        "unit_price": {"amount": "1900", "currency_code": "EUR"}, "unit_price_overrides": []}}`

var paddleSamples = []Sample{
	{Type: "subscription.canceled", Body: sampleBody(`
{
  "event_id": "$ID",
  "event_type": "subscription.canceled",
  "occurred_at": "$AT",
  "notification_id": "ntf_$NUMBER",
  "data": {
    "id": "sub_$NUMBER",
    "status": "canceled",
    "customer_id": "ctm_sample",
    "address_id": "add_sample",
    "business_id": null,
    "currency_code": "EUR",
    "collection_mode": "automatic",
    "billing_cycle": {"interval": "month", "frequency": 1},
    "current_billing_period": null,
    "started_at": "2025-01-15T09:30:00.000000Z",
    "created_at": "2025-01-15T09:30:00.000000Z",
    "updated_at": "$AT",
    "canceled_at": "$AT",
    "scheduled_change": null,
    "items": [` + paddleSampleItem + `],
    "custom_data": null
  }
}`)},
	{Type: "transaction.payment_failed", Body: sampleBody(`
{
  "event_id": "$ID",
  "event_type": "transaction.payment_failed",
  "occurred_at": "$AT",
  "notification_id": "ntf_$NUMBER",
  "data": {
    "id": "txn_$NUMBER",
    "status": "past_due",
    "origin": "subscription_recurring",
    "customer_id": "ctm_sample",
    "subscription_id": "sub_sample",
    "currency_code": "EUR",
    "collection_mode": "automatic",
    "created_at": "$AT",
    "updated_at": "$AT",
    "items": [` + paddleSampleItem + `],
    "payments": [{"payment_attempt_id": "00000000-0000-4000-8000-000000000001", "amount": "5700", "status": "error", "error_code": "declined",
      "method_details": {"type": "card", "card": {"type": "visa", "last4": "0002", "expiry_month": 11, "expiry_year": 2029}}, "created_at": "$AT"}],
    "details": {"totals": {"subtotal": "5700", "discount": "0", "tax": "0", "total": "5700", "grand_total": "5700", "currency_code": "EUR"},
      "tax_rates_used": [], "line_items": []}
  }
}`)},
}
