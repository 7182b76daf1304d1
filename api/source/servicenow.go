package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// serviceNowTime is how ServiceNow writes times inside, always in UTC.
const serviceNowTime = "2006-01-02 15:04:05"

// The proofs of which a ServiceNow endpoint has one.
const (
	proofBasic  = "basic"
	proofBearer = "bearer"
	proofHMAC   = "hmac_header"
)

// serviceNow is ServiceNow's outbound REST messages. There is no standard webhook: the customer's own business rule or flow
// writes the body and chooses the proof.
var serviceNow = Source{
	Name:       "servicenow",
	Title:      "ServiceNow",
	Docs:       "https://servicenow.github.io/sdk/api/restmessage-api",
	SecretFrom: SecretFromEither,
	Setup: "In ServiceNow, make an outbound REST message with the URL {url}, the method POST and a basic auth profile with the user " +
		"and the password {secret}, which a colon parts (or another proof, as the settings say). Send it from a business rule that " +
		"runs after insert, update or delete, with a JSON body of table, operation, sys_id, sys_updated_on, sys_mod_count and what " +
		"the automation is to read.",
	Signs: "Nothing with auth basic or bearer, where the header Authorization carries the secret; with hmac_header an " +
		"HMAC-SHA256 in hex over the raw body.",
	Window:     untimed,
	BodySigned: serviceNowSigned,
	IDSigned: func(s Settings) bool {
		set, ok := s.(*serviceNowSettings)
		return ok && serviceNowSigned(s) && set.idSigned()
	},
	Retries: "As the customer's business rule or flow is written.",
	Order:   "sys_mod_count, which rises with each update of a record, else sys_updated_on.",
	Settings: slices.Concat([]Setting{
		{"auth", "basic (secret user:password), bearer (secret the token) or hmac_header (secret the key); else basic"},
		{"signature_header", "required with hmac_header: the header with the HMAC-SHA256 of the body in hex"},
		{"table", "the table of all records that come here; else the payload's field table, or sys_class_name"},
	}, namingDocs),
	Notes: []string{
		"The shape of the body is the customer's; without the fields of the setup an event has no entity, time or sequence.",
		"There is no event id: it is the hash of the body, so sys_mod_count must be in it, else two changes that look alike are one event.",
		"sys_mod_count is taken for the number of a record's updates; a script that turns autoSysFields off changes a record without raising it.",
		"sys_updated_on is read as UTC, which getValue gives; getDisplayValue gives the user's own time zone and format.",
	},
	BodyMax: 1 << 20,

	Verify:  serviceNowVerify,
	Events:  serviceNowEvents,
	Samples: serviceNowSamples,
	Sign:    serviceNowSign,
	// A user and a password are a good token, and a good key too.
	NewSecret:     newBasicSecret,
	CheckSecret:   serviceNowCheckSecret,
	ParseSettings: serviceNowParseSettings,
}

// serviceNowSettings are the settings of a ServiceNow endpoint.
type serviceNowSettings struct {
	naming

	proof  string
	header string // the header that the proof stands in
	table  string
}

func (s *serviceNowSettings) proofHeader() string { return s.header }

var errServiceNowSettings = refuse(ReasonSettingsInvalid, "the endpoint has no settings of ServiceNow")

func serviceNowParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set := &serviceNowSettings{}
	return parsed(raw, set, func(in *settingReader) {
		set.proof = choice(in, "auth", proofBasic, map[string]string{proofBasic: proofBasic, proofBearer: proofBearer, proofHMAC: proofHMAC})
		set.header = in.header("signature_header")
		set.table = in.text("table", "", kindRunesMax)
		set.naming = in.naming()
		switch {
		case in.faulty("auth") || in.faulty("signature_header"):
		case set.proof == proofHMAC && set.header == "":
			in.fault("signature_header", "is required with auth hmac_header: the name of the header with the signature")
		case set.proof != proofHMAC && set.header != "":
			in.fault("signature_header", "must be left out with auth "+set.proof+": an endpoint has one proof")
		case set.proof != proofHMAC:
			set.header = authorization
		}
	})
}

func serviceNowSigned(s Settings) bool {
	set, ok := s.(*serviceNowSettings)
	return ok && set.proof == proofHMAC
}

func serviceNowVerify(r Request, secrets []string, s Settings) (int, error) {
	set, ok := s.(*serviceNowSettings)
	if !ok {
		return -1, errServiceNowSettings
	}
	switch set.proof {
	case proofBasic:
		return basicMatch(r.Header, secrets)
	case proofBearer:
		return bearerMatch(r.Header, authorization, secrets)
	}
	value, err := signatureHeader(r.Header, set.header)
	if err != nil {
		return -1, err
	}
	mac, ok := decodeHex(value, sha256.Size)
	if !ok {
		return -1, refuse(ReasonSignatureMalformed, "header "+set.header+" must be 64 hex digits")
	}
	return matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, r.Body)
}

func serviceNowEvents(r Request, s Settings) ([]Event, error) {
	set, ok := s.(*serviceNowSettings)
	if !ok {
		return nil, errServiceNowSettings
	}
	return set.events(r, set.header, func(document []byte) (Event, error) {
		doc, err := parseObject(document)
		if err != nil {
			return Event{}, err
		}
		table := set.table
		for _, name := range []string{"table", "sys_class_name"} {
			if table == "" {
				table = doc.text(name)
			}
		}
		e := Event{ID: digest(r.Body), Type: table, Entity: entity(table, doc.text("sys_id")), Sequence: doc.sequence("sys_mod_count")}
		if operation := doc.text("operation"); table != "" && operation != "" {
			e.Type = table + "." + operation
		}
		e.OccurredAt = doc.timeAs("sys_updated_on", serviceNowTime, time.RFC3339Nano)
		return e, nil
	})
}

func serviceNowSign(in SignInput) (Signed, error) {
	set, ok := in.Settings.(*serviceNowSettings)
	if !ok {
		return Signed{}, errServiceNowSettings
	}
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h, body := set.shape(in)
	switch set.proof {
	case proofBasic:
		h.Set(authorization, basicHeader(in.Secret))
	case proofBearer:
		h.Set(authorization, bearerValue(authorization, in.Secret))
	default:
		h.Set(set.header, hex.EncodeToString(sum(sha256.New, []byte(in.Secret), body)))
	}
	return Signed{h, body}, nil
}

func serviceNowCheckSecret(secret string, s Settings) error {
	set, ok := s.(*serviceNowSettings)
	switch {
	case !ok:
		return errServiceNowSettings
	case set.proof == proofBasic:
		return checkBasicSecret(secret, s)
	default:
		return checkPlainSecret(secret, s)
	}
}

// serviceNowBody makes Sample.Body of a record. Its sys_id is 32 hex digits, as all are.
func serviceNowBody(text string) func(id string, at time.Time) []byte {
	body := sampleBody(text)
	return func(id string, at time.Time) []byte {
		hash := sha256.Sum256([]byte(id))
		made := bytes.ReplaceAll(body(id, at), []byte("$SYSID"), []byte(hex.EncodeToString(hash[:16])))
		return bytes.ReplaceAll(made, []byte("$UPDATED"), []byte(at.UTC().Format(serviceNowTime)))
	}
}

var serviceNowSamples = []Sample{{
	Type: "incident.insert",
	Body: serviceNowBody(strings.ReplaceAll(serviceNowIncident, "$OPERATION", `"insert", "sys_mod_count": "0", "state": "1"`)),
}, {
	Type: "incident.update",
	Body: serviceNowBody(strings.ReplaceAll(serviceNowIncident, "$OPERATION", `"update", "sys_mod_count": "4", "state": "2"`)),
}}

const serviceNowIncident = `
{
  "table": "incident",
  "operation": $OPERATION,
  "sys_id": "$SYSID",
  "sys_created_on": "$UPDATED",
  "sys_updated_on": "$UPDATED",
  "sys_updated_by": "sample.agent",
  "number": "INC0010023",
  "priority": "3",
  "category": "hardware",
  "caller": {"name": "Sample Customer", "email": "sample.customer@example.com"},
  "short_description": "The printer on the second floor is out of paper again",
  "description": "It says PC LOAD LETTER. The spare tray is empty too."
}`
