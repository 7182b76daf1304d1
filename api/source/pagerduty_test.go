package source_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/PagerDuty/go-pagerduty/webhookv3"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestPagerDutyEvents(t *testing.T) {
	t.Parallel()
	requireNamed(t, "pagerduty", ``, []named1{
		{title: "Incident",
			body: `{"event":{"id":"01EV","event_type":"incident.resolved","resource_type":"incident","occurred_at":"2026-01-02T03:04:05.678Z",
				"data":{"id":"Q1","type":"incident","service":{"id":"P1","type":"service_reference"}}}}`,
			id: "01EV", kind: "incident.resolved", at: "2026-01-02T03:04:05.678Z", entity: "incident:Q1"},
		{title: "NoteIsAboutItsIncident",
			body: `{"event":{"id":"01EV","event_type":"incident.annotated","occurred_at":"2026-01-02T03:04:05Z",
				"data":{"incident":{"id":"Q1","type":"incident_reference"},"id":"PN","type":"incident_note","content":"x"}}}`,
			id: "01EV", kind: "incident.annotated", at: "2026-01-02T03:04:05Z", entity: "incident:Q1"},
		{title: "FieldsHaveNoIDOfTheirOwn",
			body: `{"event":{"id":"01EV","event_type":"incident.custom_field_values.updated","data":{"incident":{"id":"Q1"},"type":"incident_field_values"}}}`,
			id:   "01EV", kind: "incident.custom_field_values.updated", entity: "incident:Q1"},
		{title: "Service",
			body: `{"event":{"id":"01EV","event_type":"service.updated","occurred_at":"2026-01-02T03:04:05Z","data":{"id":"P1","type":"service"}}}`,
			id:   "01EV", kind: "service.updated", at: "2026-01-02T03:04:05Z", entity: "service:P1"},
		{title: "PingIsAboutNothing",
			body: `{"event":{"id":"01EV","event_type":"pagey.ping","resource_type":"pagey","occurred_at":"2026-01-02T03:04:05Z","data":{"message":"Hello","type":"ping"}}}`,
			id:   "01EV", kind: "pagey.ping", at: "2026-01-02T03:04:05Z"},
	})
	requireUnnamed(t, "pagerduty", ``, []unnamed{
		{title: "NoJSON", body: `x`, reason: source.ReasonPayloadMalformed},
		{title: "OlderWebhook", body: `{"messages":[{"id":"1","event":"incident.trigger"}]}`, reason: source.ReasonPayloadMalformed},
		{title: "NoID", body: `{"event":{"event_type":"incident.resolved"}}`, reason: source.ReasonIDMissing},
	})
}

func TestPagerDutySignatureHeader(t *testing.T) {
	t.Parallel()
	requireHeaderReasons(t, "PagerDuty", [][3]string{
		{"X-PagerDuty-Signature", "", source.ReasonSignatureMissing},
		{"X-PagerDuty-Signature", "v2=" + strings.Repeat("0", 64), source.ReasonSignatureMissing},
		{"X-PagerDuty-Signature", "v1=", source.ReasonSignatureMalformed},
		{"X-PagerDuty-Signature", "v1=" + strings.Repeat("0", 62), source.ReasonSignatureMalformed},
		{"X-PagerDuty-Signature", "v1=" + strings.Repeat("0", 64), source.ReasonSignatureMismatch},
		{"X-PagerDuty-Signature", strings.Repeat("v1="+strings.Repeat("0", 64)+",", 17), source.ReasonSignatureMalformed},
	})
}

// The library has no signer; its verifier is asked with one of our signatures, and with two as while a secret is rotated.
func TestPagerDutysLibraryAcceptsOurSignature(t *testing.T) {
	t.Parallel()
	signed(t, "pagerduty", func(r source.Request, secret string) {
		verify := func(secret string, body []byte) error {
			request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
			request.Header = r.Header
			return webhookv3.VerifySignature(request, secret)
		}
		require.NoError(t, verify(secret, r.Body))
		require.Error(t, verify(secret+"x", r.Body))
		require.Error(t, verify(secret, r.Body[1:]))
		other := "v1=" + strings.Repeat("0", 64)
		r.Header.Set("X-PagerDuty-Signature", other+","+r.Header.Get("X-PagerDuty-Signature"))
		require.NoError(t, verify(secret, r.Body))
		s, _ := source.Get("pagerduty")
		_, err := s.Verify(r, []string{secret}, nil)
		require.NoError(t, err)
	})
}
