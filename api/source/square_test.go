package source_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestSquareEvents(t *testing.T) {
	t.Parallel()
	requireNamed(t, "square", ``, []named1{
		{title: "Payment",
			body: `{"merchant_id":"M1","type":"payment.updated","event_id":"e-1","created_at":"2026-01-02T03:04:05.123456789Z",
				"data":{"type":"payment","id":"p1","object":{"payment":{"id":"p1","order_id":"o1","version":3,"version_token":"x"}}}}`,
			id: "e-1", kind: "payment.updated", at: "2026-01-02T03:04:05.123456789Z", entity: "payment:p1"},
		{title: "Order",
			body: `{"type":"order.updated","event_id":"e-1","created_at":"2026-01-02T03:04:05Z",
				"data":{"type":"order","id":"o1","object":{"order_updated":{"order_id":"o1","version":7}}}}`,
			id: "e-1", kind: "order.updated", at: "2026-01-02T03:04:05Z", entity: "order:o1", sequence: 7},
		{title: "FulfillmentIsAboutItsOrder",
			body: `{"type":"order.fulfillment.updated","event_id":"e-1","created_at":"2026-01-02T03:04:05Z",
				"data":{"type":"order_fulfillment_updated","id":"o1","object":{"order_fulfillment_updated":{"order_id":"o1","version":8}}}}`,
			id: "e-1", kind: "order.fulfillment.updated", at: "2026-01-02T03:04:05Z", entity: "order:o1", sequence: 8},
		{title: "OrderWithoutVersion",
			body: `{"type":"order.created","event_id":"e-1","data":{"type":"order","id":"o1","object":{"order_created":{"order_id":"o1"}}}}`,
			id:   "e-1", kind: "order.created", entity: "order:o1"},
		{title: "VersionsOfOtherObjectsAreNotUsed",
			body: `{"type":"customer.updated","event_id":"e-1","data":{"type":"customer","id":"c1","object":{"customer":{"id":"c1","version":4}}}}`,
			id:   "e-1", kind: "customer.updated", entity: "customer:c1"},
		{title: "AboutNothing", body: `{"type":"catalog.version.updated","event_id":"e-1","data":{"type":"catalog","object":{}}}`,
			id: "e-1", kind: "catalog.version.updated"},
	})
	requireUnnamed(t, "square", ``, []unnamed{
		{title: "NoJSON", body: ``, reason: source.ReasonPayloadMalformed},
		{title: "NoType", body: `{"event_id":"e-1"}`, reason: source.ReasonPayloadMalformed},
		{title: "NoID", body: `{"type":"payment.updated"}`, reason: source.ReasonIDMissing},
	})
}

func TestSquareSignatureHeader(t *testing.T) {
	t.Parallel()
	const mac = "c4c48ckRHMTN7kjZzYTqx0Ia1xrEiyWCHjoZZPNaMZc="
	requireHeaderReasons(t, "Square", [][3]string{
		{"X-Square-Hmacsha256-Signature", "", source.ReasonSignatureMissing},
		{"X-Square-Hmacsha256-Signature", mac[:40], source.ReasonSignatureMalformed},
		{"X-Square-Hmacsha256-Signature", "sha256=" + mac, source.ReasonSignatureMalformed},
		{"X-Square-Hmacsha256-Signature", strings.Repeat("A", 43) + "=", source.ReasonSignatureMismatch},
	})
}

// The URL is under the signature, and the header with SHA-1 is no way around it.
func TestSquareSignsTheURL(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("square")
	signed, err := s.Sign(source.SignInput{URL: publicURL, Body: []byte(`{}`), Secret: "a signature key", At: noon})
	require.NoError(t, err)
	r := source.Request{URL: publicURL, Header: signed.Header, Body: signed.Body, ReceivedAt: noon}
	_, err = s.Verify(r, []string{"a signature key"}, nil)
	require.NoError(t, err)
	for _, other := range []string{publicURL + "/", publicURL + "?x=1", strings.Replace(publicURL, "https", "http", 1), ""} {
		r.URL = other
		_, err = s.Verify(r, []string{"a signature key"}, nil)
		requireReason(t, err, source.ReasonSignatureMismatch)
	}
	r.Header.Set("X-Square-Signature", r.Header.Get("X-Square-Hmacsha256-Signature"))
	r.Header.Del("X-Square-Hmacsha256-Signature")
	_, err = s.Verify(r, []string{"a signature key"}, nil)
	requireReason(t, err, source.ReasonSignatureMissing)
}
