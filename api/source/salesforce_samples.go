package source

import (
	"encoding/xml"
	"strings"
	"time"
)

// salesforceSampleOrganization stands in a sample where the endpoint's organization goes.
const salesforceSampleOrganization = "00D000000000000AAA"

// salesforceSample makes a message with one notification of a record.
func salesforceSample(kind, fields string) Sample {
	text := xml.Header + `<soapenv:Envelope xmlns:soapenv="` + soapEnvelope + `" xmlns:xsi="` + xmlInstance + `">
 <soapenv:Body>
  <notifications xmlns="` + salesforceSpace + `">
   <OrganizationId>` + salesforceSampleOrganization + `</OrganizationId>
   <ActionId>04k000000000001AAA</ActionId>
   <SessionId xsi:nil="true"/>
   <EnterpriseUrl>https://sample.my.salesforce.com/services/Soap/c/64.0/00D000000000000</EnterpriseUrl>
   <PartnerUrl>https://sample.my.salesforce.com/services/Soap/u/64.0/00D000000000000</PartnerUrl>
   <Notification>
    <Id>$ID</Id>
    <sObject xsi:type="sf:` + kind + `" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">
     <sf:Id>$RECORD</sf:Id>
` + fields + `
     <sf:SystemModstamp>$AT</sf:SystemModstamp>
    </sObject>
   </Notification>
  </notifications>
 </soapenv:Body>
</soapenv:Envelope>`
	return Sample{Type: kind, Body: func(id string, at time.Time) []byte {
		const recordDigits = 15
		record := strings.TrimPrefix(digest([]byte(id)), "sha256:")[:recordDigits]
		return []byte(strings.NewReplacer("$ID", xmlText(id), "$RECORD", "500"+record, "$AT", at.UTC().Format("2006-01-02T15:04:05.000Z")).Replace(text))
	}}
}

// xmlText escapes a text for an element.
func xmlText(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}

var salesforceSamples = []Sample{
	salesforceSample("Case", `     <sf:CaseNumber>00001026</sf:CaseNumber>
     <sf:Description>The parcel came, but the blanket is torn &amp; wet.</sf:Description>
     <sf:Priority>High</sf:Priority>
     <sf:Status>New</sf:Status>
     <sf:Subject>Torn blanket</sf:Subject>`),
	salesforceSample("Opportunity", `     <sf:Amount>12000.0</sf:Amount>
     <sf:CloseDate>2026-12-31</sf:CloseDate>
     <sf:Name>Acme, 40 blankets</sf:Name>
     <sf:NextStep xsi:nil="true"/>
     <sf:StageName>Closed Won</sf:StageName>`),
}
