package source

import (
	"crypto/subtle"
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"
)

const (
	salesforceSpace = "http://soap.sforce.com/2005/09/outbound"
	// salesforceNotificationsMax is what Salesforce puts into one message at most.
	salesforceNotificationsMax = 100
	// salesforceExact are the characters of an id that tell it from another; three more only repeat their case.
	salesforceExact = 15

	salesforceMTLS    = "mtls"
	salesforceAddress = "address"
)

// salesforce is Salesforce's outbound messages, in SOAP.
var salesforce = Source{
	Name:       "salesforce",
	Title:      "Salesforce",
	Docs:       "https://developer.salesforce.com/docs/platform/api/guide/sforce-api-om-outboundmessaging.html",
	SecretFrom: SecretFromSource,
	Setup: "In Salesforce Setup, under Outbound Messages, make one with the endpoint URL {url} and the fields you want (SystemModstamp " +
		"among them, for the time), without Send Session ID. Give its organization's id in organization_id. Let your proxy ask for a client " +
		"certificate, put its SHA-256 fingerprint into a header, and name that header here; the secret is the fingerprint of the API client certificate.",
	Signs: "nothing: with auth mtls the client certificate proves the sender, which the operator's proxy has checked; with auth address " +
		"only the address itself and the organization's id do.",
	Settings: []Setting{
		{"auth", "mtls, or address: the unguessable URL and the organization's id alone, where there is no proxy for certificates; else mtls"},
		{"client_certificate_header", "required with mtls: the header into which the operator's proxy puts the certificate's SHA-256 fingerprint, " +
			"Envoy's X-Forwarded-Client-Cert, or the certificate as URL-encoded PEM"},
		{"organization_id", "required with mtls: the id of the organization, of 15 or 18 characters beginning with 00D; with address it is the secret"},
	},
	Notes: []string{
		"Nothing is signed. With auth mtls the secret is the fingerprint of the client certificate, and the message must be of the organization besides, since organizations " +
			"without a certificate of their own share Salesforce's.",
		"With auth address, which has to be chosen, whoever knows the URL and the organization's id, which is no secret to its users, can send any message.",
		"The SessionId, with which anybody could act as its user, is never put into the payload, and blotted out in the raw body; do not send it.",
		"A message has the fields' values at the time of sending, not of the event, and a retry may have others; the Notification's Id stays.",
		"All values of a record are text, as they stand in the XML; xsi:nil is null.",
	},
	Window:       untimed,
	BodySigned:   never,
	IDSigned:     never,
	AnswerWithin: time.Minute,
	Retries:      "For up to 24 hours, with pauses up to 2 hours, until it hears an Ack of true. Order is not promised.",
	Order:        "SystemModstamp or LastModifiedDate, if they are among the message's fields.",
	BodyMax:      4 << 20, // a hundred records
	Accepted: &Answer{
		Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/xml; charset=utf-8"}},
		Body: []byte(xml.Header + `<soapenv:Envelope xmlns:soapenv="` + soapEnvelope + `"><soapenv:Body><notificationsResponse xmlns="` + salesforceSpace +
			`"><Ack>true</Ack></notificationsResponse></soapenv:Body></soapenv:Envelope>`),
	},

	ProxyHeader: func(s Settings) string {
		if set, ok := s.(*salesforceSettings); ok && set.auth == salesforceMTLS {
			return set.header
		}
		return ""
	},
	Kept: func(body []byte) []byte {
		return salesforceSession.ReplaceAll(body, []byte("${1}[secret]${2}"))
	},
	Verify:        salesforceVerify,
	Events:        salesforceEvents,
	Samples:       salesforceSamples,
	Sign:          salesforceSign,
	CheckSecret:   salesforceCheckSecret,
	ParseSettings: salesforceParseSettings,
}

// salesforceSettings do not change.
type salesforceSettings struct{ auth, header, organization string }

// salesforceSession is the session where it stands in a body.
var salesforceSession = regexp.MustCompile(`(<(?:[\w.-]+:)?SessionId\b[^>]*>)[^<]*(</)`)

// salesforceOrganization is the id of an organization.
var salesforceOrganization = regexp.MustCompile(`^00D[A-Za-z0-9]{12}([A-Za-z0-9]{3})?$`)

func salesforceParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set := &salesforceSettings{}
	return parsed(raw, set, func(in *settingReader) {
		set.auth = choice(in, "auth", salesforceMTLS, map[string]string{salesforceMTLS: salesforceMTLS, salesforceAddress: salesforceAddress})
		set.header = in.header("client_certificate_header")
		set.organization = in.text("organization_id", "", headerNameMax)
		if set.auth == salesforceAddress {
			if set.header != "" {
				in.fault("client_certificate_header", "goes with auth mtls")
			}
			if set.organization != "" {
				in.fault("organization_id", "is the endpoint's secret with auth address, and stands there alone")
			}
			return
		}
		if set.header == "" && !in.faulty("client_certificate_header") {
			in.fault("client_certificate_header", "is required with auth mtls: the header in which the operator's proxy names the client's certificate")
		}
		if !salesforceOrganization.MatchString(set.organization) && !in.faulty("organization_id") {
			in.fault("organization_id", "is required with auth mtls: 15 or 18 letters and digits that begin with 00D")
		}
	})
}

func salesforceCheckSecret(secret string, s Settings) error {
	if set, ok := s.(*salesforceSettings); !ok || set.auth == salesforceMTLS {
		return checkFingerprint(secret)
	}
	if !salesforceOrganization.MatchString(secret) {
		return errors.New("expected the id of the organization, of 15 or 18 letters and digits that begin with 00D")
	}
	return nil
}

// sameSalesforceID compares ids of 15 or 18 characters, in constant time, by the 15 that count.
func sameSalesforceID(a, b string) bool {
	if !salesforceOrganization.MatchString(a) || !salesforceOrganization.MatchString(b) {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(a[:salesforceExact]), []byte(b[:salesforceExact])) == 1
}

// salesforceMessage finds the message in the envelope. What is not one is a *Refusal.
func salesforceMessage(body []byte) (*xmlNode, error) {
	root, err := parseXML(body)
	if err == nil && root.name == "Envelope" && root.space == soapEnvelope {
		message := root.child("Body").child("notifications")
		if message != nil && message.space == salesforceSpace {
			return message, nil
		}
	}
	return nil, refuse(ReasonPayloadMalformed, "expected an outbound message of Salesforce in SOAP")
}

func salesforceVerify(r Request, secrets []string, s Settings) (int, error) {
	set, ok := s.(*salesforceSettings)
	if !ok {
		return -1, refuse(ReasonSettingsInvalid, "the endpoint's settings are not those of salesforce")
	}
	matched := -1
	if set.auth == salesforceMTLS {
		fingerprint, err := clientFingerprint(r.Proxy, set.header)
		if err != nil {
			return -1, err
		}
		if matched, err = matchFingerprint(secrets, fingerprint); err != nil {
			return -1, err
		}
	}
	message, err := salesforceMessage(r.Body)
	if err != nil {
		return -1, err
	}
	organization := message.child("OrganizationId").value()
	if set.auth == salesforceMTLS {
		if !sameSalesforceID(organization, set.organization) {
			return -1, refuse(ReasonSenderUnknown, "the message is of another organization than organization_id")
		}
		return matched, nil
	}
	for i, secret := range secrets {
		if sameSalesforceID(organization, secret) && matched < 0 {
			matched = i
		}
	}
	if matched < 0 {
		return -1, refuse(ReasonSignatureMismatch, "the message is of another organization than the endpoint's secret says")
	}
	return matched, nil
}

func salesforceEvents(r Request, _ Settings) ([]Event, error) {
	message, err := salesforceMessage(r.Body)
	if err != nil {
		return nil, err
	}
	notifications := message.all("Notification")
	if len(notifications) == 0 || len(notifications) > salesforceNotificationsMax {
		return nil, refuse(ReasonPayloadMalformed, "expected 1 to 100 notifications in a message")
	}
	events := make([]Event, len(notifications))
	for i, notification := range notifications {
		if events[i], err = salesforceEvent(message, notification); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// salesforceEvent names one notification. Its payload has the record, and of the message what is common to all; never the
// session.
func salesforceEvent(message, notification *xmlNode) (Event, error) {
	record := notification.child("sObject")
	if record == nil || record.kind == "" {
		return Event{}, refuse(ReasonPayloadMalformed, "expected each notification to have one sObject with an xsi:type")
	}
	fields, err := record.json()
	if err != nil {
		return Event{}, refuse(ReasonPayloadMalformed, "expected each field of an sObject once")
	}
	id := notification.child("Id").value()
	payload, err := json.Marshal(map[string]any{
		"OrganizationId": message.child("OrganizationId").value(), "ActionId": message.child("ActionId").value(),
		"EnterpriseUrl": message.child("EnterpriseUrl").value(), "PartnerUrl": message.child("PartnerUrl").value(),
		"Id": id, "type": record.kind, "sObject": fields,
	})
	if err != nil {
		return Event{}, refuse(ReasonPayloadMalformed, "the notification cannot be written as JSON")
	}
	at := parseTime(record.child("SystemModstamp").value())
	if at.IsZero() {
		at = parseTime(record.child("LastModifiedDate").value())
	}
	return Event{ID: id, Type: record.kind, OccurredAt: at, Entity: entity(record.kind, record.child("Id").value()), Payload: payload}, nil
}

// salesforceSign puts the organization into a sample; the certificate is the proxy's to name.
func salesforceSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	set, ok := in.Settings.(*salesforceSettings)
	if !ok {
		return Signed{}, refuse(ReasonSettingsInvalid, "the endpoint's settings are not those of salesforce")
	}
	organization := set.organization
	if set.auth == salesforceAddress {
		organization = in.Secret
	}
	h := in.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Content-Type", "text/xml; charset=utf-8")
	return Signed{h, []byte(strings.Replace(string(in.Body), salesforceSampleOrganization, xmlText(organization), 1))}, nil
}
