package source_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestPipedriveEvents(t *testing.T) {
	t.Parallel()
	meta := func(timestamp string) string {
		return `{"meta":{"action":"change","entity":"deal","entity_id":"7","id":"ev-1","timestamp":` + timestamp + `,"version":"2.0","attempt":1},"data":{"id":7},"previous":{}}`
	}
	one := func(when string) source.Event {
		return source.Event{ID: "ev-1", Type: "change.deal", OccurredAt: at(t, when), Entity: "deal:7"}
	}
	requireRead(t, "pipedrive", []read{
		{title: "TimeInISO", body: meta(`"2025-01-01T00:00:00.123Z"`), want: one("2025-01-01T00:00:00.123Z")},
		{title: "TimeInSeconds", body: meta(`1735689600`), want: one("2025-01-01T00:00:00Z")},
		{title: "TimeInSecondsAsText", body: meta(`"1735689600"`), want: one("2025-01-01T00:00:00Z")},
		{title: "TimeInMilliseconds", body: meta(`1735689600123`), want: one("2025-01-01T00:00:00.123Z")},
		{title: "TimeUnreadable", body: meta(`"yesterday"`), want: source.Event{ID: "ev-1", Type: "change.deal", Entity: "deal:7"}},
		{title: "DeletionHasNoData", body: `{"meta":{"action":"delete","entity":"person","entity_id":9007199254740993,"id":"ev-2","timestamp":"2025-01-01T00:00:00Z"},"data":null,"previous":{"id":1}}`,
			want: source.Event{ID: "ev-2", Type: "delete.person", OccurredAt: at(t, "2025-01-01T00:00:00Z"), Entity: "person:9007199254740993"}},
		{title: "VersionOneHasAnotherID", body: `{"v":1,"meta":{"v":1,"action":"updated","object":"deal","id":7,"timestamp":1735689600},"current":{},"previous":{},"event":"updated.deal"}`,
			reason: source.ReasonPayloadMalformed},
		{title: "NoID", body: `{"meta":{"action":"change","entity":"deal"}}`, reason: source.ReasonIDMissing},
		{title: "NoMeta", body: `{"data":{}}`, reason: source.ReasonPayloadMalformed},
	})
}

// A retry has another attempt in its body, and the id that makes it a duplicate.
func TestPipedriveBodyIsCaughtOnce(t *testing.T) {
	t.Parallel()
	s := get(t, "pipedrive")
	require.False(t, s.BodySigned(nil))
	require.False(t, s.IDSigned(nil))
	r := deliveryOf(t, "pipedrive", "sluice:a-long-password", "", `{"meta":{"action":"change","entity":"deal","entity_id":"7","id":"ev-1"}}`)
	_, err := s.Verify(r, []string{"sluice:a-long-password"}, nil)
	require.NoError(t, err)
	events, err := s.Events(r, nil)
	require.NoError(t, err)
	require.NotEmpty(t, events[0].Once)
}
