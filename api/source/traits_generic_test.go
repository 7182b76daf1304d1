package source_test

import (
	"net/http"
	"strings"
)

// genericNames are settings that name the events of the generic samples.
const genericNames = `"id": "payload.id", "type": "payload.type", "time": "payload.created_at", "entity": "'thing:' + string(payload.data.id)"`

var traitsGeneric = map[string]trait{
	"hmac": {
		configured: true,
		tried: map[string]string{
			"BodyOnly":  `{"signature_header": "X-Sig"}`,
			"Timestamp": `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "signed_string": "{timestamp}.{body}", "algorithm": "sha512", "encoding": "base64"}`,
			"Millis":    `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "timestamp_unit": "ms", "signed_string": "v0:{timestamp}:{body}", "prefix": "v0="}`,
			"RFC3339": `{"signature_header": "X-Sig", "timestamp_header": "X-Time", "timestamp_unit": "rfc3339", "signed_string": "{timestamp}{body}",
				"tolerance_past_seconds": 604800, "tolerance_future_seconds": 1, "secret_encoding": "base64url"}`,
			"ID":       `{"signature_header": "X-Sig", "id_header": "X-Id", "signed_string": "{id}.{body}", "encoding": "base64url", "secret_encoding": "base64"}`,
			"URL":      `{"signature_header": "X-Sig", "signed_string": "{method}\n{url}\n{body}", "algorithm": "sha1", "secret_encoding": "hex", "id": "payload.id", "type": "payload.type"}`,
			"Prefixed": `{"signature_header": "X-Sig", "secret_encoding": "whsec", ` + genericNames + `}`,
			"List": `{"signature_header": "X-Sig", "signature_key": "v1", "timestamp_key": "t", "signed_string": "{timestamp}.{body}",
				"sequence": "payload.version", ` + genericNames + `}`,
			"ListWithHeader": `{"signature_header": "X-Sig", "signature_key": "s", "list_separator": ";", "encoding": "base64", "timestamp_header": "X-Time",
				"signed_string": "{timestamp}{body}", "secret_prefix": "key-"}`,
			"Form":        `{"signature_header": "X-Sig", "body": "form", "id": "payload.id", "type": "payload.type", "time": "payload.created_at"}`,
			"Items":       `{"signature_header": "X-Sig", "items": "[payload, payload.data]", "id": "payload.id"}`,
			"UnsignedID":  `{"signature_header": "X-Sig", "id_header": "X-Id"}`,
			"HeaderNames": `{"signature_header": "X-Sig", "id_header": "X-Id", "id": "header['x-id']"}`,
		},
	},
	"basic": {
		configured: true,
		secret:     pairSecret,
		tried:      map[string]string{"Plain": ``, "Named": `{` + genericNames + `}`, "Form": `{"body": "form", "id": "payload.id"}`},
	},
	"bearer": {
		configured: true,
		tried:      map[string]string{"Plain": ``, "OtherHeader": `{"header": "X-Sig", ` + genericNames + `}`, "Items": `{"items": "[payload]", "id": "payload.id"}`},
	},
	"mtls_header": {
		configured: true,
		secret:     fingerprintSecret,
		tried:      map[string]string{"Plain": `{"header": "X-Client-Cert"}`, "Named": `{"header": "X-Client-Cert", ` + genericNames + `}`},
		proxied:    func(verify string) http.Header { return http.Header{"X-Client-Cert": {verify}} },
	},
	"servicenow": {
		derived: true,
		tried: map[string]string{
			"Basic": ``, "Bearer": `{"auth": "bearer"}`, "HMAC": `{"auth": "hmac_header", "signature_header": "X-Sig"}`, "Form": `{"body": "form", "table": "incident"}`,
		},
	},
	"stripe":  {secret: plainSecret},
	"github":  {unsigned: []string{"X-Github-Event", "X-Github-Delivery"}},
	"shopify": {secret: plainSecret, unsigned: []string{"X-Shopify-Topic", "X-Shopify-Event-Id", "X-Shopify-Webhook-Id", "X-Shopify-Triggered-At", "X-Shopify-Shop-Domain", "X-Shopify-Api-Version"}},
}

func pairSecret(n int) string { return "user:" + strings.Repeat(string(rune('a'+n)), 32) }

func fingerprintSecret(n int) string { return strings.Repeat(string(rune('a'+n))+"0", 32) }
