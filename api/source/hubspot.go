package source

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	hubspotSignature = "X-HubSpot-Signature-v3"
	hubspotTimestamp = "X-HubSpot-Request-Timestamp"
)

// hubspotURL turns those encodings of the URL back that HubSpot turns back before it signs.
var hubspotURL = strings.NewReplacer(
	"%3A", ":", "%2F", "/", "%3F", "?", "%40", "@", "%21", "!", "%24", "$", "%27", "'", "%28", "(", "%29", ")", "%2A", "*", "%2C", ",", "%3B", ";",
	"%3a", ":", "%2f", "/", "%3f", "?", "%2a", "*", "%2c", ",", "%3b", ";",
)

// hubspot is the webhooks of a HubSpot app. The signatures v1 and v2, which are plain hashes, are not accepted, nor are the
// webhooks of workflows, which are another product.
var hubspot = Source{
	Name:       "hubspot",
	Title:      "HubSpot",
	Docs:       "https://developers.hubspot.com/docs/api/webhooks",
	SecretFrom: SecretFromSource,
	Setup: "In your HubSpot app, under Webhooks, set the target URL {url} and create the subscriptions you want. Then paste the " +
		"app's client secret (under Auth) here.",
	Signs: "HMAC-SHA256 in base64 over method, URL, raw body and timestamp, one after the other, in X-HubSpot-Signature-v3; the " +
		"key is the app's client secret.",
	Window:       fiveMinutes,
	BodySigned:   always,
	IDSigned:     always, // the ids are made of what stands in the body
	AnswerWithin: 5 * time.Second,
	Retries: "Up to 10 times, spread over 24 hours, after any status but 2xx. Order is not promised, and the same notification may " +
		"come twice.",
	Order: "occurredAt, in milliseconds.",
	Notes: []string{
		"HubSpot says that eventId alone may repeat, so the id of an event is made of portal, subscription, eventId, object, time and " +
			"property.",
		"The URL is under the signature: it has to be registered at HubSpot letter for letter as it is shown here.",
		"Only signature v3 is accepted; the older ones are plain hashes without a time.",
		"Objects are named with their portal, since an app can be installed in several and their numbers may be the same.",
	},
	BodyMax: 8 << 20, // no cap is published; 100 changes of properties of 64 KiB pass the usual 1 MiB

	Verify:      hubspotVerify,
	Events:      hubspotEvents,
	Samples:     hubspotSamples,
	Sign:        hubspotSign,
	CheckSecret: checkPlainSecret,
}

func hubspotVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, hubspotSignature)
	if err != nil {
		return -1, err
	}
	timestamp, err := timestampHeader(r.Header, hubspotTimestamp)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(timestamp, time.Millisecond)
	if err != nil {
		return -1, err
	}
	mac, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(mac) != sha256.Size {
		return -1, refuse(ReasonSignatureMalformed, "header "+hubspotSignature+" must be base64 of 32 bytes")
	}
	matched, err := matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, hubspotSigned(r.Method, r.URL, r.Body, timestamp)...)
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, fiveMinutes(nil))
}

// hubspotSigned are the parts that are signed.
func hubspotSigned(method, url string, body []byte, timestamp string) [][]byte {
	return [][]byte{[]byte(method), []byte(hubspotURL.Replace(url)), body, []byte(timestamp)}
}

// hubspotEvents reads the array of notifications; each is an event of its own.
func hubspotEvents(r Request, _ Settings) ([]Event, error) {
	items, err := elements(r.Body)
	if err != nil {
		return nil, err
	}
	events := make([]Event, len(items))
	for i, item := range items {
		doc, err := parseObject(item)
		if err != nil {
			return nil, err
		}
		if doc.id("eventId") == "" {
			return nil, refuse(ReasonIDMissing, "expected notifications with an eventId")
		}
		events[i] = Event{
			ID:         hubspotID(doc),
			Type:       firstOf(doc.text("subscriptionType"), doc.text("eventType")),
			OccurredAt: doc.millis("occurredAt"),
			Entity:     hubspotAbout(doc),
			Payload:    item,
		}
	}
	return events, nil
}

// hubspotID leaves out what changes with a retry (attemptNumber).
func hubspotID(doc object) string {
	return derivedID(doc.id("portalId"), doc.id("subscriptionId"), doc.id("eventId"), hubspotObject(doc), doc.id("occurredAt"),
		doc.text("propertyName"))
}

// hubspotObject is the object's number; an association names the object it goes from, a merge the one that stays.
func hubspotObject(doc object) string {
	return firstOf(doc.id("objectId"), doc.id("fromObjectId"), doc.id("primaryObjectId"))
}

// hubspotAbout names the object by its kind, which is the first part of the type. Of subscriptions to objects of any kind that
// is "object", and the kind is a number of its own.
func hubspotAbout(doc object) string {
	kind, _, _ := strings.Cut(firstOf(doc.text("subscriptionType"), doc.text("eventType")), ".")
	if number := doc.text("objectTypeId"); kind == "object" && number != "" {
		kind = number
	}
	return entity(kind, doc.id("portalId"), hubspotObject(doc))
}

func hubspotSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	timestamp := strconv.FormatInt(in.At.UnixMilli(), 10)
	parts := hubspotSigned(cmp.Or(in.Method, http.MethodPost), in.URL, in.Body, timestamp)
	h := signedHeader(in)
	h.Set(hubspotTimestamp, timestamp)
	h.Set(hubspotSignature, base64.StdEncoding.EncodeToString(sum(sha256.New, []byte(in.Secret), parts...)))
	return Signed{h, in.Body}, nil
}

var hubspotSamples = []Sample{
	{Type: "contact.creation", Body: sampleBody(`
[
  {
    "eventId": $NUMBER,
    "subscriptionId": 2214507,
    "portalId": 62515,
    "appId": 54321,
    "occurredAt": $UNIX000,
    "subscriptionType": "contact.creation",
    "attemptNumber": 0,
    "objectId": 149502117801,
    "changeFlag": "NEW",
    "changeSource": "FORMS"
  }
]`)},
	{Type: "deal.propertyChange", Body: sampleBody(`
[
  {
    "eventId": $NUMBER,
    "subscriptionId": 2214508,
    "portalId": 62515,
    "appId": 54321,
    "occurredAt": $UNIX000,
    "subscriptionType": "deal.propertyChange",
    "attemptNumber": 0,
    "objectId": 33814209117,
    "propertyName": "dealstage",
    "propertyValue": "closedwon",
    "changeSource": "CRM_UI",
    "sourceId": "userId:9586504"
  },
  {
    "eventId": $NUMBER,
    "subscriptionId": 2214509,
    "portalId": 62515,
    "appId": 54321,
    "occurredAt": $UNIX000,
    "subscriptionType": "deal.propertyChange",
    "attemptNumber": 0,
    "objectId": 33814209117,
    "propertyName": "amount",
    "propertyValue": "4900",
    "changeSource": "CRM_UI",
    "sourceId": "userId:9586504"
  }
]`)},
}
