package source

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

const (
	shopifySignature = "X-Shopify-Hmac-Sha256"
	shopifyTopic     = "X-Shopify-Topic"
	shopifyEventID   = "X-Shopify-Event-Id"
	shopifyWebhookID = "X-Shopify-Webhook-Id"
	shopifyTriggered = "X-Shopify-Triggered-At"
)

// shopify is Shopify's HTTPS webhooks. The preview of "Events", whose headers lack the X-, is another scheme and not read.
var shopify = Source{
	Name:       "shopify",
	Title:      "Shopify",
	Docs:       "https://shopify.dev/docs/apps/build/webhooks",
	SecretFrom: SecretFromSource,
	Setup: "Subscribe your app to the topics you want with the delivery URL {url} (shopify.app.toml, or the Admin API), and " +
		"paste the app's client secret here. For webhooks made in the shop's settings, under Notifications, it is the key " +
		"shown on that page.",
	Signs:        "HMAC-SHA256 in base64 over the raw body, in X-Shopify-Hmac-Sha256; the key is the app's client secret.",
	Window:       untimed,
	BodySigned:   always,
	IDSigned:     never, // ids and topic are headers
	AnswerWithin: 5 * time.Second,
	Retries:      "8 times over 4 hours; after 8 failures in a row a subscription made by API is deleted. Order is not promised.",
	Order:        "updated_at of the resource.",
	BodyMax:      4 << 20, // no cap is published; an order with many lines passes the usual 1 MiB

	Verify:      shopifyVerify,
	Events:      shopifyEvents,
	Samples:     shopifySamples,
	Sign:        shopifySign,
	CheckSecret: checkPlainSecret,
}

func shopifyVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, shopifySignature)
	if err != nil {
		return -1, err
	}
	mac, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(mac) != sha256.Size {
		return -1, refuse(ReasonSignatureMalformed, "header "+shopifySignature+" must be base64 of 32 bytes")
	}
	return matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, r.Body)
}

// shopifyEvents reads the topic and ids from the headers; the body is the bare resource. The id is that of the event, which
// several deliveries share, else that of the delivery. The time is the resource's own updated_at, which is signed and is
// what orders its versions, else the header's.
func shopifyEvents(r Request, _ Settings) ([]Event, error) {
	topic, err := header(r.Header, shopifyTopic, ReasonTypeMissing, ReasonTypeMissing)
	if err != nil {
		return nil, err
	}
	name := shopifyEventID
	if len(r.Header.Values(shopifyEventID)) == 0 {
		name = shopifyWebhookID
	}
	id, err := idHeader(r.Header, name)
	if err != nil {
		return nil, err
	}
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	at := doc.time("updated_at")
	if at.IsZero() {
		at = parseTime(r.Header.Get(shopifyTriggered))
	}
	if at.IsZero() {
		at = doc.time("created_at")
	}
	resource, _, _ := strings.Cut(topic, "/")
	return []Event{{ID: id, Type: topic, OccurredAt: at, Entity: entity(resource, doc.id("id"))}}, nil
}

func shopifySign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set(shopifyEventID, in.ID)
	h.Set(shopifyWebhookID, in.ID)
	h.Set(shopifyTriggered, in.At.UTC().Format(time.RFC3339Nano))
	h.Set(shopifySignature, base64.StdEncoding.EncodeToString(sum(sha256.New, []byte(in.Secret), in.Body)))
	return Signed{h, in.Body}, nil
}

var shopifySamples = []Sample{{
	Type: "orders/create",
	Header: http.Header{
		shopifyTopic:            {"orders/create"},
		"X-Shopify-Shop-Domain": {"sample-shop.myshopify.com"},
		"X-Shopify-Api-Version": {"2026-07"},
	},
	Body: sampleBody(`
{
  "id": $NUMBER,
  "admin_graphql_api_id": "gid://shopify/Order/$NUMBER",
  "name": "#1001",
  "order_number": 1001,
  "email": "sample.customer@example.com",
  "created_at": "$AT",
  "updated_at": "$AT",
  "currency": "USD",
  "financial_status": "paid",
  "fulfillment_status": null,
  "total_price": "74.90",
  "note": "Please leave it at the back door.",
  "customer": {"id": 115310627314723954, "email": "sample.customer@example.com", "first_name": "Sample", "last_name": "Customer"},
  "line_items": [
    {"id": 866550311766439020, "title": "Wool blanket", "variant_title": "Grey", "sku": "BLANKET-GREY", "quantity": 1, "price": "59.90"},
    {"id": 141249953214522974, "title": "Candle", "variant_title": null, "sku": "CANDLE-1", "quantity": 3, "price": "5.00"}
  ],
  "shipping_address": {"city": "Ottawa", "country_code": "CA", "zip": "K1P 1A1"}
}`),
}}
