package source_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestZendeskEvents(t *testing.T) {
	t.Parallel()
	moment := at(t, "2025-02-11T14:32:05.254571515Z")
	invoked := headers("X-Zendesk-Webhook-Invocation-Id", "01INVOCATION", "X-Zendesk-Webhook-Signature", "x")
	requireRead(t, "zendesk", []read{
		{title: "Ticket", header: invoked, body: `{"type":"zen:event-type:ticket.created","id":"ev-1","time":"2025-02-11T14:32:05.254571515Z","subject":"zen:ticket:141","detail":{"id":"141"}}`,
			want: source.Event{ID: "ev-1", Type: "zen:event-type:ticket.created", OccurredAt: moment, Entity: "ticket:141"}},
		{title: "MessageIsAboutItsTicket", header: invoked, body: `{"type":"zen:event-type:messaging_ticket.message_added","id":"ev-1","time":"2025-02-11T14:32:05.254571515Z",
			"subject":"zen:ticket:141","detail":{"id":"141"},"event":{"message":{"id":"67ab"}}}`,
			want: source.Event{ID: "ev-1", Type: "zen:event-type:messaging_ticket.message_added", OccurredAt: moment, Entity: "ticket:141"}},
		{title: "WithoutSubject", header: invoked, body: `{"type":"zen:event-type:user.active_changed","id":"ev-1","time":"2025-02-11T14:32:05.254571515Z","detail":{"id":9007199254740993}}`,
			want: source.Event{ID: "ev-1", Type: "zen:event-type:user.active_changed", OccurredAt: moment, Entity: "user:9007199254740993"}},
		{title: "SubjectOfNoShape", header: invoked, body: `{"type":"zen:event-type:user.created","id":"ev-1","subject":"zen:user:","detail":{"id":"7"}}`,
			want: source.Event{ID: "ev-1", Type: "zen:event-type:user.created", Entity: "user:7"}},
		{title: "TemplateOfATrigger", header: invoked, body: `{"ticket":141,"id":"141","type":"urgent"}`, want: source.Event{ID: "01INVOCATION", Type: "urgent"}},
		{title: "TemplateWithoutType", header: invoked, body: `["a"]`, want: source.Event{ID: "01INVOCATION"}},
		{title: "EventWithoutID", header: invoked, body: `{"type":"zen:event-type:ticket.created"}`, want: source.Event{ID: "01INVOCATION", Type: "zen:event-type:ticket.created"}},
		{title: "TemplateWithoutInvocation", body: `{"ticket":141}`, reason: source.ReasonIDMissing},
		{title: "TemplateInXML", header: invoked, body: `<ticket>141</ticket>`, reason: source.ReasonPayloadMalformed},
		{title: "Empty", header: invoked, reason: source.ReasonPayloadMalformed},
	})
}

// The invocation id is not signed: a replay under another one is caught by the signature. The same body made once more is
// another event, and has another signature.
func TestZendeskReplayOfATriggerIsCaught(t *testing.T) {
	t.Parallel()
	s := get(t, "zendesk")
	const secret = "zd-secret-1"
	deliver := func(id string, signed time.Time) source.Event {
		made, err := s.Sign(source.SignInput{Body: []byte(`{"ticket":141}`), Secret: secret, ID: id, At: signed})
		require.NoError(t, err)
		r := source.Request{Header: made.Header, Body: made.Body, ReceivedAt: noon}
		_, err = s.Verify(r, []string{secret}, nil)
		require.NoError(t, err)
		events, err := s.Events(r, nil)
		require.NoError(t, err)
		return events[0]
	}
	first, replay, again := deliver("one", noon), deliver("two", noon), deliver("three", noon.Add(time.Second))
	require.NotEqual(t, first.ID, replay.ID)
	require.Equal(t, first.Once, replay.Once)
	require.NotEqual(t, first.Once, again.Once)
}

func TestZendeskHeaders(t *testing.T) {
	t.Parallel()
	const mac = "kmHwr6JYZAGLwpD1MNskjG6mqc4gCY9/JP/edeAZJJs="
	requireRefused(t, "zendesk", "zd-secret-1", []forgery{
		{"X-Zendesk-Webhook-Signature", "", source.ReasonSignatureMissing},
		{"X-Zendesk-Webhook-Signature", mac[:40], source.ReasonSignatureMalformed},
		{"X-Zendesk-Webhook-Signature", "sha256=" + mac, source.ReasonSignatureMalformed},
		{"X-Zendesk-Webhook-Signature", mac, source.ReasonSignatureMismatch},
		{"X-Zendesk-Webhook-Signature-Timestamp", "", source.ReasonTimestampMissing},
		{"X-Zendesk-Webhook-Signature-Timestamp", "1772625600", source.ReasonTimestampMalformed},
		{"X-Zendesk-Webhook-Signature-Timestamp", "2026-03-04T12:00:00", source.ReasonTimestampMalformed},
		{"X-Zendesk-Webhook-Signature-Timestamp", "2026-03-04T12:00:00Z[", source.ReasonTimestampMalformed},
		{"X-Zendesk-Webhook-Signature-Timestamp", "2026-03-04T12:00:01Z", source.ReasonSignatureMismatch},
		{"X-Zendesk-Webhook-Signature-Timestamp", "2026-03-04T13:00:00+01:00", source.ReasonSignatureMismatch},
	})
}

// An older page of Zendesk's has the body before the timestamp; there is one order only.
func TestZendeskBodyBeforeTimestampIsRefused(t *testing.T) {
	t.Parallel()
	mac := hmac.New(sha256.New, []byte("zd-secret-1"))
	mac.Write([]byte(`{"say":"hello"}2026-03-04T12:00:00Z`))
	r := source.Request{
		Header: headers("X-Zendesk-Webhook-Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)), "X-Zendesk-Webhook-Signature-Timestamp", "2026-03-04T12:00:00Z"),
		Body:   []byte(`{"say":"hello"}`), ReceivedAt: noon,
	}
	_, err := get(t, "zendesk").Verify(r, []string{"zd-secret-1"}, nil)
	requireReason(t, err, source.ReasonSignatureMismatch)
}

func TestZendeskPublicTestSecretIsRefused(t *testing.T) {
	t.Parallel()
	s := get(t, "zendesk")
	require.Error(t, s.CheckSecret("dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ==", nil))
	require.NoError(t, s.CheckSecret("dGhpc19zZWNyZXRfaXNfbm90X3B1YmxpYw==", nil))
}
