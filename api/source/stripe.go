package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

const stripeSignature = "Stripe-Signature"

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
	return verifyTimed(r, stripeSignature, secrets, fiveMinutes(nil))
}

func stripeSign(in SignInput) (Signed, error) { return signTimed(in, stripeSignature) }

// verifyTimed checks the scheme that Stripe and Calendly share: a header of timestamp and signatures, which are the HMAC-SHA256
// in hex over the timestamp, a dot and the raw body.
func verifyTimed(r Request, name string, secrets []string, window Window) (int, error) {
	value, err := signatureHeader(r.Header, name)
	if err != nil {
		return -1, err
	}
	timestamp, candidates, err := parseTimed(name, value)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(timestamp, time.Second)
	if err != nil {
		return -1, err
	}
	matched, err := matchMAC(sha256.New, plainKeys(secrets), candidates, []byte(timestamp), []byte("."), r.Body)
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, window)
}

// signTimed signs as verifyTimed checks.
func signTimed(in SignInput, name string) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	timestamp := strconv.FormatInt(in.At.Unix(), 10)
	mac := sum(sha256.New, []byte(in.Secret), []byte(timestamp), []byte("."), in.Body)
	h := signedHeader(in)
	h.Set(name, "t="+timestamp+",v1="+hex.EncodeToString(mac))
	return Signed{h, in.Body}, nil
}

// parseTimed reads "t=<unix s>,v1=<hex>[,v1=<hex>]...". Other schemes and unreadable v1 values are skipped, as Stripe's
// library does; an element without exactly one "=" is malformed, and so is a second timestamp.
func parseTimed(name, value string) (timestamp string, candidates [][]byte, err error) {
	seen, timed := 0, false
	for element := range strings.SplitSeq(value, ",") {
		key, val, found := strings.Cut(element, "=")
		if !found || strings.Contains(val, "=") {
			return "", nil, refuse(ReasonSignatureMalformed, "header "+name+" must be key=value pairs")
		}
		switch key {
		case "t":
			if timed {
				return "", nil, refuse(ReasonTimestampMalformed, "header "+name+" must have one t")
			}
			timestamp, timed = val, true
		case "v1":
			if seen++; seen > signaturesMax {
				return "", nil, refuse(ReasonSignatureMalformed, "header "+name+" has too many signatures")
			}
			if mac, ok := decodeHex(val, sha256.Size); ok {
				candidates = append(candidates, mac)
			}
		}
	}
	switch {
	case seen == 0:
		return "", nil, refuse(ReasonSignatureMissing, "header "+name+" has no v1")
	case len(candidates) == 0:
		return "", nil, refuse(ReasonSignatureMalformed, "header "+name+" has no v1 of 64 hex digits")
	case !timed:
		return "", nil, refuse(ReasonTimestampMissing, "header "+name+" has no t")
	}
	return timestamp, candidates, nil
}

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
