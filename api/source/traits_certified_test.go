package source_test

import (
	"net/http"
	"strings"
)

const (
	snsTopic           = "arn:aws:sns:us-east-1:123456789012:sample-topic"
	salesforceOrg      = "00D5e000000KQ2eEAG"
	salesforceSettings = `{"organization_id": "` + salesforceOrg + `", "client_certificate_header": "X-Client-Cert"}`
)

var traitsCertified = map[string]trait{
	"aws_sns": {
		inBody: true, published: true,
		tried: map[string]string{
			"SHA256": `{"topic_arns": ["` + snsTopic + `"]}`,
			"SHA1":   `{"topic_arns": ["` + snsTopic + `"], "signature_version": "1"}`,
		},
	},
	"mailgun":         {inBody: true, secret: plainSecret, tried: map[string]string{"": ``, "Narrow": `{"window_seconds": 300}`}},
	"microsoft_graph": {inBody: true, timeless: true},
	"paypal": {
		unsigned: []string{"Paypal-Cert-Url"},
		tried:    map[string]string{"": ``, "Narrow": `{"window_seconds": 300}`},
	},
	"salesforce": {
		opaque:  true,
		secret:  func(n int) string { return strings.Repeat(string(rune('a'+n))+"1", 32) },
		tried:   map[string]string{"": salesforceSettings},
		proxied: func(verify string) http.Header { return http.Header{"X-Client-Cert": {strings.ToUpper(verify)}} },
	},
	"twilio": {opaque: true, timeless: true, secret: plainSecret, unsigned: []string{"I-Twilio-Idempotency-Token"}},
}
