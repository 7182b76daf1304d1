package source

import (
	"errors"
	"strings"
)

const stripeSignature = "Stripe-Signature"

var stripeScheme = timedScheme{header: stripeSignature, separator: ",", timeKey: "t", macKey: "v1", joint: "."}

// stripe is Stripe: snapshot events and the thin events of API v2. The scheme is that of stripe-go's webhook package.
var stripe = Source{
	Name:       "stripe",
	Title:      "Stripe",
	Docs:       "https://docs.stripe.com/webhooks",
	SecretFrom: SecretFromSource,
	Setup: "In the Stripe Dashboard, Workbench, Webhooks, add an event destination with the endpoint URL {url} and the events " +
		"you want. Then reveal its signing secret (whsec_...) and paste it here.",
	Signs: "HMAC-SHA256 in hex over the timestamp, a dot and the raw body, in Stripe-Signature (v1); the key is the whole " +
		"secret including whsec_.",
	Window:     fiveMinutes,
	BodySigned: always,
	IDSigned:   always, // the id stands in the body
	Retries:    "Live mode retries for up to 3 days with growing pauses, a sandbox 3 times over a few hours; order is not promised.",
	Order:      "created, in whole seconds, which Stripe advises not to order by: several events share one.",
	BodyMax:    1 << 20,

	Verify:      stripeVerify,
	Events:      stripeEvents,
	Samples:     stripeSamples,
	Sign:        stripeSign,
	CheckSecret: stripeCheckSecret,
}

func stripeVerify(r Request, secrets []string, _ Settings) (int, error) {
	return stripeScheme.verify(r, secrets, fiveMinutes(nil))
}

func stripeSign(in SignInput) (Signed, error) { return stripeScheme.sign(in) }

// stripeEvents reads a snapshot event (object "event", created in unix seconds, the object itself in data.object) or a thin
// one (created in ISO time, the object named in related_object).
func stripeEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("type")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected a Stripe event with a type")
	}
	about := entity(doc.in("related_object").text("type"), doc.in("related_object").id("id"))
	if snapshot := doc.in("data").in("object"); snapshot != nil {
		about = entity(snapshot.text("object"), snapshot.id("id"))
	}
	return []Event{{ID: doc.text("id"), Type: kind, OccurredAt: doc.time("created"), Entity: about}}, nil
}

func stripeCheckSecret(secret string, s Settings) error {
	if !strings.HasPrefix(secret, "whsec_") {
		return errors.New("expected the signing secret of the event destination, which begins with whsec_ (not an API key)")
	}
	return checkPlainSecret(secret, s)
}
