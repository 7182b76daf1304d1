package source

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

const squareSignature = "X-Square-Hmacsha256-Signature"

// square is Square's webhook subscriptions. The older header with SHA-1 is not accepted.
var square = Source{
	Name:       "square",
	Title:      "Square",
	Docs:       "https://developer.squareup.com/docs/webhooks/overview",
	SecretFrom: SecretFromSource,
	Setup: "In the Square Developer Console, open your application, Webhooks, Subscriptions, and add one with exactly this notification URL: " +
		"{url}. Choose the events you want. Then show its signature key and paste it here.",
	Signs: "HMAC-SHA256 in base64 over the notification URL as registered and the raw body, in X-Square-Hmacsha256-Signature; the key is the " +
		"signature key.",
	Order: "created_at, in nanoseconds; the version of an order too.",
	Notes: []string{
		"No time is signed, so an old delivery verifies for ever; the id is in the signed body, so it is taken once.",
		"The URL is under the signature: one registered at Square with another spelling (a slash, a port, a query) does not verify.",
		"Versions number the states of orders; that those of other objects grow in the same way is not published, so they are not used.",
	},
	Window:     untimed,
	BodySigned: always,
	IDSigned:   always, // the id stands in the body
	Retries:    "For up to 24 hours with growing pauses (an older page says 72); events may come more than once.",
	BodyMax:    1 << 20,

	Verify:      squareVerify,
	Events:      squareEvents,
	Samples:     squareSamples,
	Sign:        squareSign,
	CheckSecret: checkPlainSecret,
}

func squareVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, squareSignature)
	if err != nil {
		return -1, err
	}
	mac, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(mac) != sha256.Size {
		return -1, refuse(ReasonSignatureMalformed, "header "+squareSignature+" must be base64 of 32 bytes")
	}
	return matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, []byte(r.URL), r.Body)
}

// squareEvents reads the event. Whatever happens to an order, its fulfillment too, is about the order, whose number of
// version stands in the one object under data.object.
func squareEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("type")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected a Square event with a type")
	}
	data := doc.in("data")
	event := Event{
		ID: doc.text("event_id"), Type: kind, OccurredAt: doc.time("created_at"), Entity: entity(data.text("type"), data.id("id")),
	}
	if strings.HasPrefix(kind, "order.") {
		for _, name := range sortedKeys(data.in("object")) {
			order := data.within("object", name)
			if id := order.id("order_id"); id != "" {
				event.Entity, event.Sequence = entity("order", id), order.sequence("version")
				break
			}
		}
	}
	return []Event{event}, nil
}

func squareSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	mac := sum(sha256.New, []byte(in.Secret), []byte(in.URL), in.Body)
	h := signedHeader(in)
	h.Set(squareSignature, base64.StdEncoding.EncodeToString(mac))
	return Signed{h, in.Body}, nil
}

var squareSamples = []Sample{
	{Type: "order.updated", Body: sampleBody(`
{
  "merchant_id": "MLSAMPLE00001",
  "location_id": "LSAMPLE000001",
  "type": "order.updated",
  "event_id": "$ID",
  "created_at": "$AT",
  "data": {
    "type": "order",
    "id": "ord$NUMBER",
    "object": {
      "order_updated": {
        "created_at": "2026-01-15T09:30:00.000Z",
        "location_id": "LSAMPLE000001",
        "order_id": "ord$NUMBER",
        "state": "COMPLETED",
        "updated_at": "$AT",
        "version": 4
      }
    }
  }
}`)},
	{Type: "payment.updated", Body: sampleBody(`
{
  "merchant_id": "MLSAMPLE00001",
  "location_id": "LSAMPLE000001",
  "type": "payment.updated",
  "event_id": "$ID",
  "created_at": "$AT",
  "data": {
    "type": "payment",
    "id": "pay$NUMBER",
    "object": {
      "payment": {
        "id": "pay$NUMBER",
        "created_at": "$AT",
        "updated_at": "$AT",
        "amount_money": {"amount": 2450, "currency": "USD"},
        "total_money": {"amount": 2450, "currency": "USD"},
        "status": "COMPLETED",
        "source_type": "CARD",
        "card_details": {"status": "CAPTURED", "entry_method": "EMV", "card": {"card_brand": "VISA", "last_4": "1111", "exp_month": 11, "exp_year": 2029}},
        "location_id": "LSAMPLE000001",
        "order_id": "ordsample",
        "note": "Two bags of coffee",
        "version_token": "sampletoken"
      }
    }
  }
}`)},
}
