package source_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestCalendlyEvents(t *testing.T) {
	t.Parallel()
	s := get(t, "calendly")
	for title, c := range map[string]struct{ body, kind, entity string }{
		"Invitee": {`{"event":"invitee.created","created_at":"2025-01-01T00:00:00.123456Z","payload":{"uri":"https://api.calendly.com/scheduled_events/AAA/invitees/BBB"}}`,
			"invitee.created", "invitee:BBB"},
		"NoShowIsAboutItsInvitee": {`{"event":"invitee_no_show.created","created_at":"2025-01-01T00:00:00.123456Z","payload":{"uri":"https://api.calendly.com/scheduled_events/AAA/invitees/BBB"}}`,
			"invitee_no_show.created", "invitee:BBB"},
		"RoutingForm": {`{"event":"routing_form_submission.created","created_at":"2025-01-01T00:00:00.123456Z","payload":{"uri":"https://api.calendly.com/routing_form_submissions/CCC"}}`,
			"routing_form_submission.created", "routing_form_submission:CCC"},
		"NoURI": {`{"event":"x.y","created_at":"2025-01-01T00:00:00.123456Z","payload":{}}`, "x.y", ""},
	} {
		events, err := s.Events(source.Request{Body: []byte(c.body)}, nil)
		require.NoError(t, err, title)
		require.Len(t, events, 1, title)
		require.Regexp(t, "^sha256:[0-9a-f]{64}$", events[0].ID, title)
		events[0].ID = ""
		require.Equal(t, []source.Event{{Type: c.kind, OccurredAt: at(t, "2025-01-01T00:00:00.123456Z"), Entity: c.entity}}, events, title)
	}
	requireRead(t, "calendly", []read{
		{title: "NoEvent", body: `{"created_at":"2025-01-01T00:00:00Z"}`, reason: source.ReasonPayloadMalformed},
		{title: "Array", body: `[]`, reason: source.ReasonPayloadMalformed},
	})
}

func TestCalendlyIDIsMadeOfWhatHappened(t *testing.T) {
	t.Parallel()
	booked := `{"event":"invitee.created","created_at":"2025-01-01T00:00:00Z","created_by":"u","payload":{"uri":"https://api.calendly.com/scheduled_events/A/invitees/B"}}`
	first := idOf(t, "calendly", booked)
	require.Equal(t, first, idOf(t, "calendly", strings.Replace(booked, `"u"`, `"v"`, 1)), "two subscriptions to one event")
	for _, change := range [][2]string{{"created\"", "canceled\""}, {"00:00:00Z", "00:00:01Z"}, {"invitees/B", "invitees/C"}} {
		require.NotEqual(t, first, idOf(t, "calendly", strings.Replace(booked, change[0], change[1], 1)))
	}
	bare := `{"event":"x.y","payload":{"a":1}}`
	require.Equal(t, idOf(t, "calendly", bare), idOf(t, "calendly", bare))
	require.NotEqual(t, idOf(t, "calendly", bare), idOf(t, "calendly", strings.Replace(bare, "1", "2", 1)))
}

func TestCalendlyTimeMayBeThreeMinutesOff(t *testing.T) {
	t.Parallel()
	s := get(t, "calendly")
	require.Equal(t, source.Window{Past: 3 * time.Minute, Future: 3 * time.Minute}, s.Window(nil))
	r := deliveryOf(t, "calendly", "calendly-key", "", "{}")
	r.ReceivedAt = noon.Add(3*time.Minute + time.Second)
	_, err := s.Verify(r, []string{"calendly-key"}, nil)
	requireReason(t, err, source.ReasonTimestampStale)
}

func TestCalendlyHeaders(t *testing.T) {
	t.Parallel()
	const mac = "443b81fb7fe0bfd963df248fee836a29b05e35d878d0e9f84afb4d77420b6e12"
	requireRefused(t, "calendly", "calendly-key", []forgery{
		{"Calendly-Webhook-Signature", "", source.ReasonSignatureMissing},
		{"Calendly-Webhook-Signature", "t=1772625600", source.ReasonSignatureMissing},
		{"Calendly-Webhook-Signature", "t=1772625600,v0=" + mac, source.ReasonSignatureMissing},
		{"Calendly-Webhook-Signature", "v1=" + mac, source.ReasonTimestampMissing},
		{"Calendly-Webhook-Signature", "t=x,v1=" + mac, source.ReasonTimestampMalformed},
		{"Calendly-Webhook-Signature", "t=1772625600,t=1772625600,v1=" + mac, source.ReasonTimestampMalformed},
		{"Calendly-Webhook-Signature", "t=1772625600,v1=" + mac[:62], source.ReasonSignatureMalformed},
		{"Calendly-Webhook-Signature", mac, source.ReasonSignatureMalformed},
		{"Calendly-Webhook-Signature", "t=1772625600,v1=" + mac, source.ReasonSignatureMismatch},
	})
}
