package source_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

const hubspotItem = `{"eventId":3816279340,"subscriptionId":25,"portalId":33,"appId":1160452,"occurredAt":1735689600123,
	"subscriptionType":"contact.propertyChange","attemptNumber":0,"objectId":9007199254740993,"propertyName":"email","propertyValue":"a@example.com"}`

func TestHubSpotItemsAreEventsOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := get(t, "hubspot")
	moment := at(t, "2025-01-01T00:00:00.123Z")
	items := []struct{ item, kind, entity string }{
		{hubspotItem, "contact.propertyChange", "contact:33:9007199254740993"},
		{`{"eventId":2,"portalId":33,"occurredAt":1735689600123,"eventType":"deal.deletion","objectId":5}`, "deal.deletion", "deal:33:5"},
		{`{"eventId":3,"portalId":33,"occurredAt":1735689600123,"subscriptionType":"object.creation","objectTypeId":"0-1","objectId":5}`, "object.creation", "0-1:33:5"},
		{`{"eventId":4,"portalId":33,"occurredAt":1735689600123,"subscriptionType":"contact.associationChange","fromObjectId":5,"toObjectId":6}`,
			"contact.associationChange", "contact:33:5"},
		{`{"eventId":5,"portalId":33,"occurredAt":1735689600123,"subscriptionType":"company.merge","primaryObjectId":5,"mergedObjectIds":[6]}`, "company.merge", "company:33:5"},
		{`{"eventId":6,"portalId":33,"occurredAt":1735689600123}`, "", ""},
	}
	var body []string
	for _, c := range items {
		body = append(body, c.item)
	}
	events, err := s.Events(source.Request{Body: []byte("[" + strings.Join(body, " , ") + "]")}, nil)
	require.NoError(t, err)
	require.Len(t, events, len(items))
	ids := map[string]bool{}
	for i, c := range items {
		require.Equal(t, c.item, string(events[i].Payload))
		require.Equal(t, c.kind, events[i].Type)
		require.Equal(t, c.entity, events[i].Entity)
		require.Equal(t, moment, events[i].OccurredAt)
		require.Empty(t, events[i].Once)
		ids[events[i].ID] = true
	}
	require.Len(t, ids, len(items))
}

func TestHubSpotIDIsTheSameOnARetryAndOnNothingElse(t *testing.T) {
	t.Parallel()
	id := func(old, changed string) string {
		return idOf(t, "hubspot", "["+strings.Replace(hubspotItem, old, changed, 1)+"]")
	}
	first := id("", "")
	require.Equal(t, first, id(`"attemptNumber":0`, `"attemptNumber":7`))
	for _, change := range [][2]string{
		{`"eventId":3816279340`, `"eventId":3816279341`}, {`"subscriptionId":25`, `"subscriptionId":26`}, {`"portalId":33`, `"portalId":34`},
		{"740993", "740994"}, {"600123", "600124"}, {`"email"`, `"phone"`},
	} {
		require.NotEqual(t, first, id(change[0], change[1]), change[1])
	}
}

func TestHubSpotOddBodyIsRefused(t *testing.T) {
	t.Parallel()
	requireRead(t, "hubspot", []read{
		{title: "Object", body: hubspotItem, reason: source.ReasonPayloadMalformed},
		{title: "EmptyArray", body: `[]`, reason: source.ReasonPayloadMalformed},
		{title: "ItemThatIsNone", body: `[` + hubspotItem + `,1]`, reason: source.ReasonPayloadMalformed},
		{title: "ItemWithoutID", body: `[` + hubspotItem + `,{"objectId":1}]`, reason: source.ReasonIDMissing},
		{title: "Empty", reason: source.ReasonPayloadMalformed},
	})
}

// HubSpot turns some encodings of the URL back before it signs; others stay.
func TestHubSpotURLIsSignedDecoded(t *testing.T) {
	t.Parallel()
	s := get(t, "hubspot")
	verify := func(signed, received string) error {
		made, err := s.Sign(source.SignInput{URL: signed, Body: []byte("[]"), Secret: "client-secret", At: noon})
		require.NoError(t, err)
		_, err = s.Verify(source.Request{Method: http.MethodPost, URL: received, Header: made.Header, Body: []byte("[]"), ReceivedAt: noon}, []string{"client-secret"}, nil)
		return err
	}
	const plain = "https://sluice.example.test/in/t?a=b:/?@!$'()*,;"
	require.NoError(t, verify(plain, plain))
	require.NoError(t, verify(plain, "https://sluice.example.test/in/t?a=b%3A%2F%3F%40%21%24%27%28%29%2A%2C%3B"))
	require.NoError(t, verify(plain, "https://sluice.example.test/in/t?a=b%3a%2f%3f%40%21%24%27%28%29%2a%2c%3b"))
	requireReason(t, verify(plain+"&", plain+"%26"), source.ReasonSignatureMismatch)
	requireReason(t, verify(plain+" ", plain+"%20"), source.ReasonSignatureMismatch)
	requireReason(t, verify(plain, plain+"x"), source.ReasonSignatureMismatch)
}

func TestHubSpotMethodIsSigned(t *testing.T) {
	t.Parallel()
	r := deliveryOf(t, "hubspot", "client-secret", "", "[]")
	r.Method = http.MethodPut
	_, err := get(t, "hubspot").Verify(r, []string{"client-secret"}, nil)
	requireReason(t, err, source.ReasonSignatureMismatch)
}

// The vectors of HubSpot's pages on v1 and v2, whose hashes are right: they are not accepted.
func TestHubSpotOlderSignaturesAreRefused(t *testing.T) {
	t.Parallel()
	s := get(t, "hubspot")
	for version, hash := range map[string]string{
		"v1": "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de",
		"v2": "eee2dddcc73c94d699f5e395f4b9d454a069a6855fbfa152e91e88823087200e",
	} {
		r := source.Request{
			Method: http.MethodGet, URL: "https://www.example.com/webhook_uri", ReceivedAt: noon,
			Header: headers("X-HubSpot-Signature-Version", version, "X-HubSpot-Signature", hash, "X-HubSpot-Request-Timestamp", "1772625600000"),
		}
		_, err := s.Verify(r, []string{"yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"}, nil)
		requireReason(t, err, source.ReasonSignatureMissing)
	}
}

func TestHubSpotHeaders(t *testing.T) {
	t.Parallel()
	const mac = "mj5Y5avLyrv7VZtRGeADPFfaX3JNQqOTpjLjHAPEBX0="
	requireRefused(t, "hubspot", "client-secret", []forgery{
		{"X-HubSpot-Signature-v3", "", source.ReasonSignatureMissing},
		{"X-HubSpot-Signature-v3", mac[:42], source.ReasonSignatureMalformed},
		{"X-HubSpot-Signature-v3", "9a3e58e5abcbcabbfb559b5119e0033c57da5f724d42a393a632e31c03c4057d", source.ReasonSignatureMalformed},
		{"X-HubSpot-Signature-v3", mac, source.ReasonSignatureMismatch},
		{"X-HubSpot-Request-Timestamp", "", source.ReasonTimestampMissing},
		{"X-HubSpot-Request-Timestamp", "2026-03-04T12:00:00Z", source.ReasonTimestampMalformed},
		{"X-HubSpot-Request-Timestamp", "1772625600001", source.ReasonSignatureMismatch},
		{"X-HubSpot-Request-Timestamp", "1772625600", source.ReasonSignatureMismatch},
	})
}
