// Package sourcetest knows how an endpoint of each source is set up, for the tests that range over all of them: settings where a source cannot do
// without, and a secret in the shape of its own. No test and no fixture of one source may enter it.
package sourcetest

import (
	"strings"
	"testing"

	"sluice/api/source"
)

// ClientCertHeader is the header that tests let a proxy of the operator's set.
const ClientCertHeader = "X-Client-Cert"

// Connection is one endpoint's setup.
type Connection struct {
	Settings map[string]any
	Secret   string // the endpoint's, "" where it has none
	Sign     string // what signs a delivery, "" where only the source itself can
}

var settings = map[string]map[string]any{
	"aws_sns":     {"topic_arns": []string{"arn:aws:sns:us-east-1:123456789012:sample-topic"}},
	"hmac":        {"signature_header": "X-Sig", "id": "payload.id", "type": "payload.type"},
	"mtls_header": {"header": ClientCertHeader, "id": "payload.id", "type": "payload.type"},
	"salesforce":  {"organization_id": "00D5e000000KQ2eEAG", "client_certificate_header": ClientCertHeader},
}

// Connect makes the setup of an endpoint of a source.
func Connect(tb testing.TB, s source.Source) Connection {
	tb.Helper()
	c := Connection{Settings: settings[s.Name]}
	switch {
	case s.Trial != nil:
		key, err := s.Trial()
		if err != nil {
			tb.Fatalf("make a key for %s: %v", s.Name, err)
		}
		c.Secret, c.Sign = key.Verify, key.Sign
		if s.CertificateURL != nil {
			c.Sign = ""
		}
		if s.SecretFrom == source.SecretNone {
			c.Secret = ""
		}
		return c
	case s.NewSecret != nil:
		secret, err := s.NewSecret()
		if err != nil {
			tb.Fatalf("make a secret for %s: %v", s.Name, err)
		}
		c.Secret = secret
	case s.ProxyHeader != nil:
		c.Secret = strings.Repeat("a1", 32) // a SHA-256 fingerprint
	case s.Name == "paddle":
		c.Secret = "pdl_ntfset_01sample_" + strings.Repeat("a", 32)
	default:
		c.Secret = "whsec_" + strings.Repeat("a", 32)
	}
	c.Sign = c.Secret
	return c
}
