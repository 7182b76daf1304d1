package source_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestLinearEvents(t *testing.T) {
	t.Parallel()
	h := headers("Linear-Delivery", "d-1", "Linear-Event", "Whatever")
	const born = `"createdAt":"2026-01-02T03:04:05.678Z"`
	requireNamed(t, "linear", ``, []named1{
		{title: "Issue", header: h, body: `{"action":"update","type":"Issue",` + born + `,"data":{"id":"i-1","updatedAt":"2026-01-02T03:04:05.700Z"},"webhookId":"w"}`,
			id: "d-1", kind: "Issue.update", at: "2026-01-02T03:04:05.678Z", entity: "issue:i-1"},
		{title: "CommentIsAboutItsIssue", header: h, body: `{"action":"create","type":"Comment",` + born + `,"data":{"id":"c-1","issueId":"i-1"}}`,
			id: "d-1", kind: "Comment.create", at: "2026-01-02T03:04:05.678Z", entity: "issue:i-1"},
		{title: "CommentOnAProjectUpdate", header: h, body: `{"action":"create","type":"Comment",` + born + `,"data":{"id":"c-1","issueId":null,"projectUpdateId":"p-1"}}`,
			id: "d-1", kind: "Comment.create", at: "2026-01-02T03:04:05.678Z", entity: "project_update:p-1"},
		{title: "CommentOnNothingKnown", header: h, body: `{"action":"create","type":"Comment","data":{"id":"c-1"}}`, id: "d-1", kind: "Comment.create", entity: "comment:c-1"},
		{title: "ReactionToAComment", header: h, body: `{"action":"remove","type":"Reaction","data":{"id":"r-1","commentId":"c-1"}}`,
			id: "d-1", kind: "Reaction.remove", entity: "comment:c-1"},
		{title: "Attachment", header: h, body: `{"action":"create","type":"Attachment","data":{"id":"a-1","issueId":"i-1"}}`, id: "d-1", kind: "Attachment.create", entity: "issue:i-1"},
		{title: "ProjectUpdate", header: h, body: `{"action":"create","type":"ProjectUpdate","data":{"id":"p-1","updatedAt":"2026-01-02T03:04:05Z"}}`,
			id: "d-1", kind: "ProjectUpdate.create", at: "2026-01-02T03:04:05Z", entity: "project_update:p-1"},
		{title: "SLA", header: h, body: `{"action":"breached","type":"IssueSLA",` + born + `,"issueData":{"id":"i-1"}}`,
			id: "d-1", kind: "IssueSLA.breached", at: "2026-01-02T03:04:05.678Z", entity: "issue:i-1"},
		{title: "Agent", header: h, body: `{"action":"created","type":"AgentSessionEvent","agentSession":{"id":"s-1","issue":{"id":"i-1"}}}`,
			id: "d-1", kind: "AgentSessionEvent.created", entity: "issue:i-1"},
		{title: "AgentWithoutIssue", header: h, body: `{"action":"prompted","type":"AgentSessionEvent","agentSession":{"id":"s-1"}}`,
			id: "d-1", kind: "AgentSessionEvent.prompted", entity: "agent_session:s-1"},
		{title: "Notification", header: h, body: `{"action":"issueMention","type":"AppUserNotification","notification":{"id":"n-1","issueId":"i-1"}}`,
			id: "d-1", kind: "AppUserNotification.issueMention", entity: "issue:i-1"},
		{title: "Revoked", header: h, body: `{"action":"revoked","type":"OAuthApp","oauthClientId":"o-1"}`, id: "d-1", kind: "OAuthApp.revoked"},
	})
	requireUnnamed(t, "linear", ``, []unnamed{
		{title: "NoJSON", header: h, body: ``, reason: source.ReasonPayloadMalformed},
		{title: "NoDelivery", header: headers("Linear-Event", "Issue"), body: `{}`, reason: source.ReasonIDMissing},
		{title: "TwoDeliveries", header: map[string][]string{"Linear-Delivery": {"1", "2"}}, body: `{}`, reason: source.ReasonIDMalformed},
	})
}

func TestLinearSignatureHeader(t *testing.T) {
	t.Parallel()
	const mac = "f24abef30d8816738de7ddd1b160c6aa647b37290bd18cf5bfc596cf0a1aaf2f"
	requireHeaderReasons(t, "Linear", [][3]string{
		{"Linear-Signature", "", source.ReasonSignatureMissing},
		{"Linear-Signature", "sha256=" + mac, source.ReasonSignatureMalformed},
		{"Linear-Signature", mac[:62], source.ReasonSignatureMalformed},
		{"Linear-Signature", mac[:63] + "0", source.ReasonSignatureMismatch},
	})
}

// The time is in the signed body. One that cannot be read is a refusal and not a reason to go without.
func TestLinearTimeIsReadFromTheSignedBody(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("linear")
	for body, reason := range map[string]string{
		`{"webhookTimestamp":1772625600000}`:                      "",
		`{"webhookTimestamp":1,"webhookTimestamp":1772625600000}`: "",
		`{}`:                                 source.ReasonTimestampMissing,
		`{"WebhookTimestamp":1772625600000}`: source.ReasonTimestampMissing,
		`{"data":{"webhookTimestamp":1772625600000}}`: source.ReasonTimestampMissing,
		`{"webhookTimestamp":null}`:                   source.ReasonTimestampMalformed,
		`{"webhookTimestamp":"1772625600000"}`:        source.ReasonTimestampMalformed,
		`{"webhookTimestamp":1.7726256e12}`:           source.ReasonTimestampMalformed,
		`{"webhookTimestamp":-1772625600000}`:         source.ReasonTimestampMalformed,
		`{"webhookTimestamp":1772625539999}`:          source.ReasonTimestampStale,
		`{"webhookTimestamp":1772625660001}`:          source.ReasonTimestampFuture,
		`{"webhookTimestamp":1772625600}`:             source.ReasonTimestampStale, // seconds are not milliseconds
		`[]`:                                          source.ReasonPayloadMalformed,
		`nothing`:                                     source.ReasonPayloadMalformed,
	} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			r := source.Request{Header: headers("Linear-Signature", hexSHA256("lin_wh_secret", body)), Body: []byte(body), ReceivedAt: noon}
			_, err := s.Verify(r, []string{"lin_wh_secret"}, nil)
			if reason == "" {
				require.NoError(t, err)
				return
			}
			requireReason(t, err, reason)
		})
	}
}

func TestLinearWindowIsASetting(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("linear")
	window := func(raw string) source.Window {
		settings, faults := s.ParseSettings(json.RawMessage(raw))
		require.Empty(t, faults, raw)
		return s.Window(settings)
	}
	minute := source.Window{Past: time.Minute, Future: time.Minute}
	require.Equal(t, minute, s.Window(nil))
	require.Equal(t, minute, window(``))
	require.Equal(t, minute, window(`{"window_seconds":null}`))
	require.Equal(t, source.Window{Past: 30 * time.Second, Future: 30 * time.Second}, window(`{"window_seconds":30}`))
	require.Equal(t, source.Window{Past: 24 * time.Hour, Future: time.Minute}, window(`{"window_seconds":86400}`))
	for _, bad := range []string{`{"window_seconds":29}`, `{"window_seconds":86401}`, `{"window_seconds":"60"}`, `{"window_seconds":60.5}`,
		`{"window_seconds":0}`, `{"window_seconds":-60}`, `{"window_seconds":99999999999999999999}`, `{"window":60}`, `[]`} {
		settings, faults := s.ParseSettings(json.RawMessage(bad))
		require.Nil(t, settings, bad)
		require.Len(t, faults, 1, bad)
	}
}

// A body that was kept is signed with the time of signing, or it would be refused as stale.
func TestLinearSignsWithTheTimeOfSigning(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("linear")
	body := `{"type":"Issue","data":{"title":"a \"webhookTimestamp\": 7"}, "webhookTimestamp" : 1676056940508}`
	signed, err := s.Sign(source.SignInput{Body: []byte(body), Secret: "lin_wh_secret", ID: "d-1", At: noon})
	require.NoError(t, err)
	require.Equal(t, `{"type":"Issue","data":{"title":"a \"webhookTimestamp\": 7"}, "webhookTimestamp" : 1772625600000}`, string(signed.Body))
	_, err = s.Verify(source.Request{Header: signed.Header, Body: signed.Body, ReceivedAt: noon}, []string{"lin_wh_secret"}, nil)
	require.NoError(t, err)
}
