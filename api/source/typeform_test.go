package source_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestTypeformEvents(t *testing.T) {
	t.Parallel()
	requireRead(t, "typeform", []read{
		{title: "Response", body: `{"event_id":"01E","event_type":"form_response","form_response":{"form_id":"f","token":"tok","landed_at":"2025-01-01T00:00:00Z","submitted_at":"2025-01-01T00:00:02Z"}}`,
			want: source.Event{ID: "01E", Type: "form_response", OccurredAt: at(t, "2025-01-01T00:00:02Z"), Entity: "form_response:tok"}},
		{title: "PartIsAboutTheSameResponse", body: `{"event_id":"01D","event_type":"form_response_partial","form_response":{"form_id":"f","token":"tok","landed_at":"2025-01-01T00:00:00Z"}}`,
			want: source.Event{ID: "01D", Type: "form_response_partial", OccurredAt: at(t, "2025-01-01T00:00:00Z"), Entity: "form_response:tok"}},
		{title: "NoResponse", body: `{"event_id":"01E","event_type":"other"}`, want: source.Event{ID: "01E", Type: "other"}},
		{title: "NoID", body: `{"event_type":"form_response"}`, reason: source.ReasonIDMissing},
		{title: "NoType", body: `{"event_id":"01E"}`, reason: source.ReasonPayloadMalformed},
	})
}

func TestTypeformHeaders(t *testing.T) {
	t.Parallel()
	const mac = "xL5RMIt8NIUE9wUHxKBoyyve1D6FNZKEAGW6FiPbcmk="
	requireRefused(t, "typeform", "tf-secret", []forgery{
		{"Typeform-Signature", "", source.ReasonSignatureMissing},
		{"Typeform-Signature", mac, source.ReasonSignatureMalformed},
		{"Typeform-Signature", "sha1=" + mac, source.ReasonSignatureMalformed},
		{"Typeform-Signature", "sha256=" + mac[:40], source.ReasonSignatureMalformed},
		{"Typeform-Signature", "sha256=c4be51308b7c348504f70507c4a068cb2bded43e853592840065ba1623db7269", source.ReasonSignatureMalformed},
		{"Typeform-Signature", "sha256=" + mac, source.ReasonSignatureMismatch},
	})
}

// 404, the usual answer of an endpoint that is switched off, would switch the webhook off at Typeform too.
func TestTypeformIsNotToldThatAnEndpointIsGone(t *testing.T) {
	t.Parallel()
	require.Equal(t, http.StatusServiceUnavailable, get(t, "typeform").Codes.Disabled)
}
