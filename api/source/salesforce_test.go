package source_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

const salesforceRecord = `<Notification><Id>04l5e00000Gx7QzAAJ</Id><sObject xsi:type="sf:Opportunity" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">` +
	`<sf:Id>0065e00000ZkM3hAAF</sf:Id><sf:Amount>12345678901234567890.10</sf:Amount><sf:Name>A &amp; B &lt;é&gt; <![CDATA[<c>]]></sf:Name><sf:NextStep xsi:nil="true"/>` +
	`<sf:LastModifiedDate>2026-03-04T11:00:00.500Z</sf:LastModifiedDate></sObject></Notification>`

// salesforceBody is a message of an organization with what stands inside.
func salesforceBody(organization, inside string) []byte {
	return []byte(`<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <soapenv:Body><notifications xmlns="http://soap.sforce.com/2005/09/outbound"><OrganizationId>` + organization + `</OrganizationId><ActionId>04k5e000000CaRkAAK</ActionId>` +
		`<SessionId>00D!session-of-a-user</SessionId><EnterpriseUrl>https://e</EnterpriseUrl><PartnerUrl>https://p</PartnerUrl>` + inside + `</notifications></soapenv:Body>
</soapenv:Envelope>`)
}

func salesforceSource(t *testing.T, settings string) (source.Source, source.Settings) {
	t.Helper()
	s, _ := source.Get("salesforce")
	set, faults := s.ParseSettings(json.RawMessage(settings))
	require.Empty(t, faults)
	return s, set
}

func TestSalesforceEvents(t *testing.T) {
	t.Parallel()
	s, set := salesforceSource(t, salesforceSettings)
	second := strings.NewReplacer("04l5e00000Gx7QzAAJ", "04l5e00000Gx7QzAAK", "0065e00000ZkM3hAAF", "0065e00000ZkM3hAAG").Replace(salesforceRecord)
	events, err := s.Events(source.Request{Body: salesforceBody(salesforceOrg, salesforceRecord+second)}, set)
	require.NoError(t, err)
	happened := time.Date(2026, 3, 4, 11, 0, 0, 5e8, time.UTC)
	require.Equal(t, []source.Event{
		{ID: "04l5e00000Gx7QzAAJ", Type: "Opportunity", OccurredAt: happened, Entity: "Opportunity:0065e00000ZkM3hAAF"},
		{ID: "04l5e00000Gx7QzAAK", Type: "Opportunity", OccurredAt: happened, Entity: "Opportunity:0065e00000ZkM3hAAG"},
	}, named(events))
	require.JSONEq(t, `{"OrganizationId":"`+salesforceOrg+`","ActionId":"04k5e000000CaRkAAK","EnterpriseUrl":"https://e","PartnerUrl":"https://p","Id":"04l5e00000Gx7QzAAJ",
		"type":"Opportunity","sObject":{"Id":"0065e00000ZkM3hAAF","Amount":"12345678901234567890.10","Name":"A & B <é> <c>","NextStep":null,"LastModifiedDate":"2026-03-04T11:00:00.500Z"}}`,
		string(events[0].Payload))
	for _, e := range events {
		require.NotContains(t, string(e.Payload), "session-of-a-user")
	}
	_, err = s.Events(source.Request{Body: salesforceBody(salesforceOrg, strings.Repeat(salesforceRecord, 100))}, set)
	require.NoError(t, err)
}

func TestSalesforceOddMessagesAreRefused(t *testing.T) {
	t.Parallel()
	s, set := salesforceSource(t, salesforceSettings)
	good := string(salesforceBody(salesforceOrg, salesforceRecord))
	for title, body := range map[string]string{
		"Empty":            "",
		"JSON":             `{"OrganizationId":"x"}`,
		"Nothing":          string(salesforceBody(salesforceOrg, "")),
		"TooMany":          string(salesforceBody(salesforceOrg, strings.Repeat(salesforceRecord, 101))),
		"Cut":              good[:len(good)-5],
		"After":            good + "<more/>",
		"TextAfter":        good + "more",
		"DTD":              strings.Replace(good, "?>", `?><!DOCTYPE x [<!ENTITY a "b">]>`, 1),
		"Entity":           strings.Replace(good, "https://e", "&a;", 1),
		"ExternalEntity":   strings.Replace(good, "?>", `?><!DOCTYPE x SYSTEM "file:///etc/passwd">`, 1),
		"OtherCharset":     strings.Replace(good, "UTF-8", "UTF-16", 1),
		"OtherEnvelope":    strings.Replace(good, "http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope", 1),
		"OtherMessage":     strings.Replace(good, "http://soap.sforce.com/2005/09/outbound", "urn:other", 1),
		"TwoMessages":      strings.Replace(good, "</notifications>", `</notifications><notifications xmlns="http://soap.sforce.com/2005/09/outbound"/>`, 1),
		"Deep":             string(salesforceBody(salesforceOrg, strings.Repeat("<a>", 20)+strings.Repeat("</a>", 20))),
		"Wide":             string(salesforceBody(salesforceOrg, strings.Repeat("<a/>", 100_001))),
		"RepeatedField":    strings.Replace(good, "<sf:NextStep xsi:nil=\"true\"/>", "<sf:Amount>1</sf:Amount>", 1),
		"RepeatedRecord":   strings.Replace(good, "</sObject>", `</sObject><sObject xsi:type="sf:Case"/>`, 1),
		"RecordOfNoType":   strings.Replace(good, `xsi:type="sf:Opportunity"`, "", 1),
		"TypeOfOtherSpace": strings.Replace(good, `xsi:type=`, "type=", 1),
	} {
		_, err := s.Events(source.Request{Body: []byte(body)}, set)
		requireReason(t, err, source.ReasonPayloadMalformed)
		require.NotEmpty(t, title)
	}
	for _, noID := range []string{"<Id>04l5e00000Gx7QzAAJ</Id>", "<Id/>"} {
		body := strings.Replace(good, "<Id>04l5e00000Gx7QzAAJ</Id>", strings.Replace(noID, "04l5e00000Gx7QzAAJ", " ", 1), 1)
		_, err := s.Events(source.Request{Body: []byte(body)}, set)
		requireReason(t, err, source.ReasonIDMissing)
	}
}

func TestSalesforceMTLSNeedsCertificateAndOrganization(t *testing.T) {
	t.Parallel()
	s, set := salesforceSource(t, salesforceSettings)
	fingerprint := strings.Repeat("a1", 32)
	for _, c := range []struct {
		title, organization string
		proxy               http.Header
		reason              string
	}{
		{"Both", salesforceOrg, headers("X-Client-Cert", fingerprint), ""},
		{"ShortID", salesforceOrg[:15], headers("X-Client-Cert", fingerprint), ""},
		{"NoProxy", salesforceOrg, nil, source.ReasonSignatureMissing},
		{"OtherHeader", salesforceOrg, headers("X-Other", fingerprint), source.ReasonSignatureMissing},
		{"OtherCertificate", salesforceOrg, headers("X-Client-Cert", strings.Repeat("a2", 32)), source.ReasonSignatureMismatch},
		{"OtherOrganization", "00D5e000000KQ2fEAG", headers("X-Client-Cert", fingerprint), source.ReasonSenderUnknown},
		{"OtherCase", "00D5E000000KQ2eEAG", headers("X-Client-Cert", fingerprint), source.ReasonSenderUnknown},
		{"NoOrganization", "", headers("X-Client-Cert", fingerprint), source.ReasonSenderUnknown},
		{"TwoHeaders", salesforceOrg, http.Header{"X-Client-Cert": {fingerprint, fingerprint}}, source.ReasonSignatureMalformed},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			r := source.Request{Proxy: c.proxy, Body: salesforceBody(c.organization, salesforceRecord), Header: headers("X-Client-Cert", fingerprint)}
			_, err := s.Verify(r, []string{fingerprint}, set)
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			requireReason(t, err, c.reason)
		})
	}
	_, err := s.Verify(source.Request{Proxy: headers("X-Client-Cert", fingerprint), Body: []byte("x")}, []string{fingerprint}, set)
	requireReason(t, err, source.ReasonPayloadMalformed)
	_, err = s.Verify(source.Request{Proxy: headers("X-Client-Cert", fingerprint)}, []string{fingerprint}, nil)
	requireReason(t, err, source.ReasonSettingsInvalid)
}

func TestSalesforceAddressModeHasToBeChosen(t *testing.T) {
	t.Parallel()
	s, set := salesforceSource(t, `{"auth": "address"}`)
	r := source.Request{Body: salesforceBody(salesforceOrg, salesforceRecord)}
	matched, err := s.Verify(r, []string{"00D5e000000KQ2fEAG", salesforceOrg[:15]}, set)
	require.NoError(t, err)
	require.Equal(t, 1, matched)
	for _, other := range []string{"00D5e000000KQ2fEAG", strings.ToLower(salesforceOrg), "00D"} {
		_, err = s.Verify(r, []string{other}, set)
		requireReason(t, err, source.ReasonSignatureMismatch)
	}
	require.NoError(t, s.CheckSecret(salesforceOrg, set))
	require.Error(t, s.CheckSecret(strings.Repeat("a1", 32), set))
	signed, err := s.Sign(source.SignInput{Body: s.Samples[0].Body("04l", noon), Secret: salesforceOrg, At: noon, Settings: set})
	require.NoError(t, err)
	_, err = s.Verify(source.Request{Body: signed.Body}, []string{salesforceOrg}, set)
	require.NoError(t, err)

	for raw, place := range map[string]string{
		`{"organization_id": "` + salesforceOrg + `"}`:                   "client_certificate_header",
		`{"client_certificate_header": "X-C"}`:                           "organization_id",
		`{"client_certificate_header": "X-C", "organization_id": "005"}`: "organization_id",
		`{"auth": "none"}`: "auth",
		`{"auth": "address", "organization_id": "` + salesforceOrg + `"}`: "organization_id",
		`{"auth": "address", "client_certificate_header": "X-C"}`:         "client_certificate_header",
	} {
		_, faults := s.ParseSettings(json.RawMessage(raw))
		var places []string
		for _, fault := range faults {
			places = append(places, fault.Place)
		}
		require.Contains(t, places, place, raw)
	}
}

func TestSalesforceAcknowledges(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("salesforce")
	var envelope struct {
		Ack string `xml:"Body>notificationsResponse>Ack"`
	}
	require.NoError(t, xml.Unmarshal(s.Accepted.Body, &envelope))
	require.Equal(t, "true", envelope.Ack)
	require.Contains(t, s.Accepted.Header.Get("Content-Type"), "text/xml")
}

// The ways in which a proxy tells of a client's certificate, and what is none of them.
func TestClientCertificateHeader(t *testing.T) {
	t.Parallel()
	s, set := salesforceSource(t, salesforceSettings)
	certificate := []byte("any bytes will do")
	sum := sha256.Sum256(certificate)
	plain := hex.EncodeToString(sum[:])
	var pairs []string
	for _, b := range sum {
		pairs = append(pairs, strings.ToUpper(hex.EncodeToString([]byte{b})))
	}
	block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	for _, c := range []struct {
		title, value, reason string
	}{
		{"Hex", plain, ""},
		{"UpperCase", strings.ToUpper(plain), ""},
		{"Colons", strings.Join(pairs, ":"), ""},
		{"Envoy", `By=spiffe://a;Hash=` + plain + `;Subject="CN=x,O=\"y;Hash=z\"";URI=`, ""},
		{"EnvoyHashAlone", "Hash=" + plain, ""},
		{"Nginx", strings.ReplaceAll(url.QueryEscape(block), "+", "%20"), ""},
		{"Short", plain[:62], source.ReasonSignatureMalformed},
		{"SHA1", plain[:40], source.ReasonSignatureMalformed},
		{"ColonsAstray", strings.Join(pairs[:16], ":") + "::" + strings.Join(pairs[16:], ":"), source.ReasonSignatureMalformed},
		{"ColonsUneven", pairs[0] + pairs[1] + ":" + strings.Join(pairs[2:], ":"), source.ReasonSignatureMalformed},
		{"TwoHashes", "Hash=" + plain + ";Hash=" + plain, source.ReasonSignatureMalformed},
		{"TwoProxies", "Hash=" + plain + ",Hash=" + plain, source.ReasonSignatureMalformed},
		{"ForgedBefore", "Hash=" + plain + ",By=x;Hash=" + strings.Repeat("00", 32), source.ReasonSignatureMalformed},
		{"AppendedAfter", "Hash=" + plain + ";By=x,Hash=" + strings.Repeat("00", 32), source.ReasonSignatureMalformed},
		{"HashInAQuote", `Subject="a;Hash=` + plain + `"`, source.ReasonSignatureMalformed},
		{"OpenQuote", `Hash=` + plain + `;Subject="a`, source.ReasonSignatureMalformed},
		{"TwoCertificates", url.PathEscape(block + block), source.ReasonSignatureMalformed},
		{"TextBeforePEM", url.PathEscape("x" + block), source.ReasonSignatureMalformed},
		{"Key", url.PathEscape(strings.ReplaceAll(block, "CERTIFICATE", "PUBLIC KEY")), source.ReasonSignatureMalformed},
		{"Empty", "", source.ReasonSignatureMissing},
		{"Other", strings.Repeat("00", 32), source.ReasonSignatureMismatch},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			r := source.Request{Proxy: headers("X-Client-Cert", c.value), Body: salesforceBody(salesforceOrg, salesforceRecord)}
			_, err := s.Verify(r, []string{strings.Join(pairs, ":")}, set)
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			requireReason(t, err, c.reason)
		})
	}
}

// FuzzSalesforce: no message makes the parser panic, no payload has the session, and what encoding/xml refuses is refused.
func FuzzSalesforce(f *testing.F) {
	f.Add([]byte(salesforceRecord), "a")
	f.Add([]byte(`<Notification><Id>1</Id><sObject xsi:type="x"><a><b/></a></sObject></Notification>`), "a")
	f.Add([]byte(`<!DOCTYPE a>&b;<!-- --><?x?>]]>`), `"`)
	s, _ := source.Get("salesforce")
	f.Fuzz(func(t *testing.T, inside []byte, organization string) {
		for _, body := range [][]byte{inside, salesforceBody(organization, string(inside))} {
			r := source.Request{Body: body, ReceivedAt: noon}
			events, err := s.Events(r, nil)
			if err != nil {
				var refusal *source.Refusal
				require.ErrorAs(t, err, &refusal)
				continue
			}
			requireFit(t, events)
			require.NoError(t, xml.Unmarshal(body, new(struct{})))
			for _, e := range events {
				require.True(t, json.Valid(e.Payload))
				require.NotContains(t, string(e.Payload), `"SessionId":"00D!session-of-a-user"`)
			}
		}
	})
}

// FuzzClientCertificate: only a header that has the fingerprint in it can prove it.
func FuzzClientCertificate(f *testing.F) {
	fingerprint := strings.Repeat("a1", 32)
	for _, seed := range []string{fingerprint, "Hash=" + fingerprint, `Subject="\";Hash=` + fingerprint, "-----BEGIN%20CERTIFICATE-----"} {
		f.Add(seed)
	}
	s, _ := source.Get("mtls_header")
	set, _ := s.ParseSettings(json.RawMessage(`{"header": "X-Client-Cert"}`))
	f.Fuzz(func(t *testing.T, value string) {
		_, err := s.Verify(source.Request{Proxy: http.Header{"X-Client-Cert": {value}}}, []string{fingerprint}, set)
		if err != nil {
			var refusal *source.Refusal
			require.ErrorAs(t, err, &refusal)
			return
		}
		require.Contains(t, strings.ToLower(strings.ReplaceAll(value, ":", "")), fingerprint)
	})
}
