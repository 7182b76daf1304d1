package source

import (
	"cmp"
	"crypto"
	"encoding/json"
	"errors"
	"hash/crc32"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	paypalID        = "Paypal-Transmission-Id"
	paypalTime      = "Paypal-Transmission-Time"
	paypalSignature = "Paypal-Transmission-Sig"
	paypalCertURL   = "Paypal-Cert-Url"
	paypalAlgorithm = "Paypal-Auth-Algo"

	paypalScheme = "SHA256withRSA"
	// paypalPast is the 3 days over which PayPal retries, each time with the time of the first transmission, and a margin.
	paypalPast = 4 * 24 * time.Hour
	// paypalPastMax bounds the setting.
	paypalPastMax = 30 * 24 * time.Hour
	// paypalSimulated is the id of the webhook with which PayPal's simulator signs for everybody.
	paypalSimulated = "WEBHOOK_ID"
)

// paypal is PayPal's REST webhooks, verified offline with the certificate that a delivery names.
var paypal = Source{
	Name:       "paypal",
	Title:      "PayPal",
	Docs:       "https://developer.paypal.com/api/rest/webhooks/",
	SecretFrom: SecretFromSource,
	Setup: "In the PayPal Developer Dashboard, open your app, and under Webhooks add one with the URL {url} and the events you want. " +
		"Then paste the Webhook ID that the list shows here.",
	Signs: "RSA with SHA-256 over transmission id, time, webhook id and the CRC-32 of the raw body, joined by |, in " +
		"PAYPAL-TRANSMISSION-SIG; the certificate at PAYPAL-CERT-URL must be PayPal's own.",
	Settings: []Setting{
		{"window_seconds", "how old the time of the transmission may be; else 345600, which is 4 days"},
	},
	Notes: []string{
		"Only a CRC-32 of the body is signed, and another body can be made to match it: so each transmission id, which is signed, is taken once, and the id, type " +
			"and content of the event are not taken to be signed.",
		"PayPal does not say whether a retry has a new time; a recorded retry had the first one's, so the window covers the 3 days of retries unless " +
			"window_seconds narrows it, and then retried events are lost.",
		"PayPal publishes the certificate it signs with without its chain: the intermediates of its authority are built in, and under another one deliveries are refused " +
			"until the operator gives its certificate as a root.",
		"Deliveries of PayPal's webhook simulator are signed for everybody, and are refused.",
	},
	Window:     paypalWindow,
	BodySigned: never,
	IDSigned:   never,
	Retries:    "Up to 25 times over 3 days until it hears a 2xx. Order is not promised.",
	Order:      "create_time of the event.",
	BodyMax:    1 << 20,

	CertificateURL: paypalCertificateURL,
	Verify:         paypalVerify,
	Events:         paypalEvents,
	Samples:        paypalSamples,
	Sign:           paypalSign,
	Trial:          paypalTrial,
	CheckSecret:    paypalCheckSecret,
	ParseSettings:  paypalParseSettings,
}

// paypalNames are those to which the certificates of the live system and of the sandbox are issued.
var paypalNames = []string{"messageverificationcerts.paypal.com", "messageverificationcerts.sandbox.paypal.com"}

// paypalSettings do not change.
type paypalSettings struct{ past time.Duration }

func paypalParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set := &paypalSettings{}
	return parsed(raw, set, func(in *settingReader) { set.past = in.seconds("window_seconds", paypalPast, paypalPastMax) })
}

func paypalWindow(s Settings) Window {
	if set, ok := s.(*paypalSettings); ok {
		return Window{Past: set.past, Future: replayWindow}
	}
	return Window{Past: paypalPast, Future: replayWindow}
}

func paypalCertificateURL(r Request) (string, error) {
	text, err := signatureHeader(r.Header, paypalCertURL)
	if err != nil {
		return "", err
	}
	u, ok := vendorURL(text)
	if !ok || !strings.HasSuffix(u.Host, ".paypal.com") || !strings.HasPrefix(u.EscapedPath(), "/v1/notifications/certs/") ||
		strings.Contains(u.Path, "..") || u.RawQuery != "" || u.ForceQuery {
		return "", refuse(ReasonSignatureMalformed, "header "+paypalCertURL+" must be https, of a host of paypal.com, under /v1/notifications/certs/")
	}
	return text, nil
}

// paypalSigned reads the headers that the signature covers, and the signature.
func paypalSigned(h http.Header) (id, timestamp string, signature []byte, err error) {
	text, err := signatureHeader(h, paypalSignature)
	if err != nil {
		return "", "", nil, err
	}
	if signature, err = decodeRSASignature(text, "header "+paypalSignature); err != nil {
		return "", "", nil, err
	}
	algorithm, err := signatureHeader(h, paypalAlgorithm)
	if err != nil {
		return "", "", nil, err
	}
	if algorithm != paypalScheme {
		return "", "", nil, refuse(ReasonSignatureMalformed, "header "+paypalAlgorithm+" must be "+paypalScheme)
	}
	if id, err = idHeader(h, paypalID); err != nil {
		return "", "", nil, err
	}
	if timestamp, err = timestampHeader(h, paypalTime); err != nil {
		return "", "", nil, err
	}
	if strings.Contains(id+timestamp, "|") { // else the signed string could be cut in another way
		return "", "", nil, refuse(ReasonSignatureMalformed, "headers "+paypalID+" and "+paypalTime+" must have no |")
	}
	return id, timestamp, signature, nil
}

func paypalContent(id, timestamp, webhook string, body []byte) []byte {
	return []byte(id + "|" + timestamp + "|" + webhook + "|" + strconv.FormatUint(uint64(crc32.ChecksumIEEE(body)), 10))
}

func paypalVerify(r Request, secrets []string, s Settings) (int, error) {
	id, timestamp, signature, err := paypalSigned(r.Header)
	if err != nil {
		return -1, err
	}
	signed := parseTime(timestamp)
	if signed.IsZero() {
		return -1, refuse(ReasonTimestampMalformed, "header "+paypalTime+" must be a time of RFC 3339")
	}
	key, err := signerKey(r, paypalNames...)
	if err != nil {
		return -1, err
	}
	for i, webhook := range secrets {
		if webhook != "" && webhook != paypalSimulated && verifyRSA(key, crypto.SHA256, paypalContent(id, timestamp, webhook, r.Body), signature) {
			return i, checkWindow(signed, r.ReceivedAt, paypalWindow(s))
		}
	}
	return -1, refuse(ReasonSignatureMismatch, "PayPal did not make this signature over these bytes for a webhook id of the endpoint")
}

func paypalEvents(r Request, _ Settings) ([]Event, error) {
	transmission, err := idHeader(r.Header, paypalID)
	if err != nil {
		return nil, err
	}
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("event_type")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected an event of PayPal with an event_type")
	}
	return []Event{{
		ID: doc.id("id"), Type: kind, OccurredAt: doc.time("create_time"), Entity: paypalEntity(doc), Once: "paypal:" + transmission,
	}}, nil
}

// paypalEntity names the resource, whose id has another name in some of them.
func paypalEntity(doc object) string {
	resource := doc.in("resource")
	id := cmp.Or(resource.id("id"), resource.id("dispute_id"), resource.in("invoice").id("id"), resource.id("payout_item_id"),
		resource.in("batch_header").id("payout_batch_id"), resource.id("merchant_id"))
	return entity(doc.text("resource_type"), id)
}

func paypalSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	timestamp := in.At.UTC().Format(time.RFC3339)
	signature, err := signRSA(in.Secret, crypto.SHA256, func(webhook string) []byte { return paypalContent(in.ID, timestamp, webhook, in.Body) })
	if err != nil {
		return Signed{}, err
	}
	h := signedHeader(in)
	h.Set(paypalID, in.ID)
	h.Set(paypalTime, timestamp)
	h.Set(paypalSignature, signature)
	h.Set(paypalAlgorithm, paypalScheme)
	h.Set(paypalCertURL, "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-sample")
	return Signed{h, in.Body}, nil
}

func paypalTrial() (Trial, error) {
	trial, err := newRSATrial(paypalNames[1])
	if err != nil {
		return Trial{}, err
	}
	webhook, err := newHexSecret()
	if err != nil {
		return Trial{}, err
	}
	const digits = 17 // as PayPal's own have
	return trial.trial(strings.ToUpper(webhook[:digits])), nil
}

// paypalWebhook is the shape of the id of a webhook. That of an event begins with WH-.
var paypalWebhook = regexp.MustCompile(`^[A-Za-z0-9]{10,50}$`)

func paypalCheckSecret(secret string, _ Settings) error {
	if !paypalWebhook.MatchString(secret) {
		return errors.New("expected the id of the webhook, of 10 to 50 letters and digits (not that of an event, and not WEBHOOK_ID)")
	}
	return nil
}

var paypalSamples = []Sample{
	{Type: "CUSTOMER.DISPUTE.CREATED", Body: sampleBody(`
{
  "id": "$ID",
  "event_version": "1.0",
  "create_time": "$AT",
  "resource_type": "dispute",
  "event_type": "CUSTOMER.DISPUTE.CREATED",
  "summary": "A new dispute opened with Case # PP-D-$NUMBER",
  "resource": {
    "dispute_id": "PP-D-$NUMBER",
    "create_time": "$AT",
    "update_time": "$AT",
    "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
    "status": "OPEN",
    "dispute_state": "REQUIRED_ACTION",
    "dispute_amount": {"currency_code": "USD", "value": "96.00"},
    "messages": [{"posted_by": "BUYER", "time_posted": "$AT", "content": "The blanket never arrived."}]
  }
}`)},
	{Type: "PAYMENT.CAPTURE.DENIED", Body: sampleBody(`
{
  "id": "$ID",
  "event_version": "1.0",
  "create_time": "$AT",
  "resource_type": "capture",
  "resource_version": "2.0",
  "event_type": "PAYMENT.CAPTURE.DENIED",
  "summary": "Payment denied for $ 74.90 USD",
  "resource": {
    "id": "SAMPLE$NUMBER",
    "amount": {"currency_code": "USD", "value": "74.90"},
    "final_capture": true,
    "status": "DECLINED",
    "custom_id": "order-1001",
    "create_time": "$AT",
    "update_time": "$AT"
  }
}`)},
}
