package source_test

var traitsGeneric = map[string]trait{
	"hmac": {
		derived: true, timeless: true, entityless: true,
		tried: map[string]string{
			"BodyOnly":  `{"signature_header": "X-Sig"}`,
			"Timestamp": `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "signed_string": "{timestamp}.{body}", "algorithm": "sha512", "encoding": "base64"}`,
			"Millis":    `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "timestamp_unit": "ms", "signed_string": "v0:{timestamp}:{body}", "prefix": "v0="}`,
			"ID":        `{"signature_header": "X-Sig", "id_header": "X-Id", "signed_string": "{id}.{body}", "encoding": "base64url", "secret_encoding": "base64"}`,
			"URL":       `{"signature_header": "X-Sig", "signed_string": "{method}\n{url}\n{body}", "algorithm": "sha1", "secret_encoding": "hex", "id": "payload.id", "type": "payload.type"}`,
			"Prefixed":  `{"signature_header": "X-Sig", "secret_encoding": "whsec", "id": "payload.id", "type": "payload.type", "time": "payload.created_at", "entity": "'thing:' + string(payload.data.id)"}`,
		},
	},
	"stripe":  {secret: plainSecret},
	"github":  {unsigned: []string{"X-Github-Event", "X-Github-Delivery"}},
	"shopify": {secret: plainSecret, unsigned: []string{"X-Shopify-Topic", "X-Shopify-Event-Id", "X-Shopify-Webhook-Id", "X-Shopify-Triggered-At", "X-Shopify-Shop-Domain", "X-Shopify-Api-Version"}},
}
