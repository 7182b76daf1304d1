package source

import (
	"encoding/json"
	"slices"
)

// mtlsHeader is any sender that proves itself with a client certificate, of which the operator's own proxy tells.
var mtlsHeader = Source{
	Name:       "mtls_header",
	Title:      "Any sender with a client certificate",
	Docs:       "https://www.rfc-editor.org/rfc/rfc9440",
	SecretFrom: SecretFromSource,
	Setup: "In the sending system, add a webhook with the URL {url} and a client certificate. Paste the certificate's fingerprint " +
		"here (openssl x509 -noout -fingerprint -sha256), and say in the settings in which header the operator's proxy tells of it.",
	Signs: "Nothing by itself: the operator's proxy ends TLS, checks that the client holds the certificate's key, and writes its " +
		"SHA-256 fingerprint, or the certificate, into the header of the settings.",
	Window:     untimed,
	BodySigned: never,
	IDSigned:   never,
	Retries:    "As the sender chooses.",
	Order:      "time and sequence, if the settings have expressions for them.",
	Settings: slices.Concat([]Setting{
		{"header", "required: the header in which the operator's own proxy tells of the client's certificate"},
	}, namingDocs),
	Notes: []string{
		"The header counts only where the operator has said that his proxy sets it and takes away what a sender wrote there; " +
			"elsewhere every delivery is refused.",
		"A sample can be tried only through the proxy with the client's certificate.",
	},
	BodyMax: 1 << 20,
	ProxyHeader: func(s Settings) string {
		if set, ok := s.(*mtlsSettings); ok {
			return set.header
		}
		return ""
	},

	Verify: func(r Request, secrets []string, s Settings) (int, error) {
		set, ok := s.(*mtlsSettings)
		if !ok {
			return -1, errMTLSSettings
		}
		fingerprint, err := clientFingerprint(r.Proxy, set.header)
		if err != nil {
			return -1, err
		}
		return matchFingerprint(secrets, fingerprint)
	},
	Events: func(r Request, s Settings) ([]Event, error) {
		set, ok := s.(*mtlsSettings)
		if !ok {
			return nil, errMTLSSettings
		}
		return set.events(r, set.header, byHash(r.Body))
	},
	Samples: genericSamples,
	Sign: func(in SignInput) (Signed, error) {
		set, ok := in.Settings.(*mtlsSettings)
		if !ok {
			return Signed{}, errMTLSSettings
		}
		if in.Secret == "" {
			return Signed{}, errNoSecret
		}
		h, body := set.shape(in)
		return Signed{h, body}, nil // the proof is the proxy's to give
	},
	CheckSecret: func(secret string, _ Settings) error { return checkFingerprint(secret) },
	ParseSettings: func(raw json.RawMessage) (Settings, []Fault) {
		set := &mtlsSettings{}
		return parsed(raw, set, func(in *settingReader) {
			if set.header = in.header("header"); set.header == "" && !in.faulty("header") {
				in.fault("header", "is required: the name of the header that the operator's proxy sets")
			}
			set.naming = in.naming()
		})
	},
}

// mtlsSettings are the settings of a sender with a client certificate.
type mtlsSettings struct {
	naming

	header string
}

func (s *mtlsSettings) proofHeader() string { return s.header }

var errMTLSSettings = refuse(ReasonSettingsInvalid, "the endpoint has no settings of a sender with a client certificate")
