package source_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/slack-go/slack"
	"github.com/slack-go/slack/slackevents"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// callback wraps an event as Slack does.
func callback(event string) string {
	return `{"token":"t","team_id":"T1","api_app_id":"A1","type":"event_callback","event_id":"Ev1","event_time":1735689600,"event":` + event + `}`
}

func TestSlackEvents(t *testing.T) {
	t.Parallel()
	second, finer := at(t, "2025-01-01T00:00:00Z"), at(t, "2025-01-01T00:00:00.0007Z")
	one := func(kind, about string) source.Event {
		return source.Event{ID: "Ev1", Type: kind, OccurredAt: finer, Entity: about}
	}
	const stamp = `"event_ts":"1735689600.000700"`
	requireRead(t, "slack", []read{
		{title: "Message", body: callback(`{"type":"message","channel":"C1","ts":"1735689600.000700",` + stamp + `}`), want: one("message", "message:C1:1735689600.000700")},
		{title: "ReplyIsAboutItsThread", want: one("message", "message:C1:1735680000.000100"),
			body: callback(`{"type":"message","channel":"C1","ts":"1735689600.000700","thread_ts":"1735680000.000100",` + stamp + `}`)},
		{title: "EditIsAboutTheMessage", want: one("message.message_changed", "message:C1:1735680000.000100"),
			body: callback(`{"type":"message","subtype":"message_changed","channel":"C1","ts":"1735689600.000700","message":{"type":"message",
				"ts":"1735680000.000100","text":"b"},"previous_message":{"ts":"1735680000.000100","text":"a"},` + stamp + `}`)},
		{title: "EditOfAReplyIsAboutTheThread", want: one("message.message_changed", "message:C1:1735670000.000001"),
			body: callback(`{"type":"message","subtype":"message_changed","channel":"C1","ts":"1735689600.000700",
				"message":{"ts":"1735680000.000100","thread_ts":"1735670000.000001"},` + stamp + `}`)},
		{title: "DeletionIsAboutWhatWasThere", want: one("message.message_deleted", "message:C1:1735670000.000001"),
			body: callback(`{"type":"message","subtype":"message_deleted","channel":"C1","ts":"1735689600.000700","deleted_ts":"1735680000.000100",
				"previous_message":{"ts":"1735680000.000100","thread_ts":"1735670000.000001"},` + stamp + `}`)},
		{title: "DeletionThatSaysOnlyWhich", want: one("message.message_deleted", "message:C1:1735680000.000100"),
			body: callback(`{"type":"message","subtype":"message_deleted","channel":"C1","deleted_ts":"1735680000.000100",` + stamp + `}`)},
		{title: "Mention", want: one("app_mention", "message:C1:1735680000.000100"),
			body: callback(`{"type":"app_mention","channel":"C1","ts":"1735689600.000700","thread_ts":"1735680000.000100",` + stamp + `}`)},
		{title: "LinkInAThread", want: one("link_shared", "message:C1:1735680000.000100"),
			body: callback(`{"type":"link_shared","channel":"C1","message_ts":"1735689600.000700","thread_ts":"1735680000.000100",` + stamp + `}`)},
		{title: "MetadataOfAMessage", want: one("message_metadata_posted", "message:C1:1735680000.000100"),
			body: callback(`{"type":"message_metadata_posted","channel_id":"C1","message_ts":"1735680000.000100",` + stamp + `}`)},
		{title: "Reaction", want: one("reaction_added", "message:C1:1735680000.000100"),
			body: callback(`{"type":"reaction_added","user":"U1","reaction":"eyes","item":{"type":"message","channel":"C1","ts":"1735680000.000100"},` + stamp + `}`)},
		{title: "ReactionToAFile", want: one("reaction_added", "file:F1"),
			body: callback(`{"type":"reaction_added","user":"U1","item":{"type":"file","file":"F1"},` + stamp + `}`)},
		{title: "Pin", want: one("pin_added", "message:C1:1735680000.000100"),
			body: callback(`{"type":"pin_added","channel_id":"C1","item":{"type":"message","channel":"C1","message":{"ts":"1735680000.000100"}},` + stamp + `}`)},
		{title: "AssistantThread", want: one("assistant_thread_started", "message:D1:1735680000.000100"),
			body: callback(`{"type":"assistant_thread_started","assistant_thread":{"user_id":"U1","channel_id":"D1","thread_ts":"1735680000.000100"},` + stamp + `}`)},
		{title: "ChannelAsAnObject", want: one("channel_rename", "channel:C1"),
			body: callback(`{"type":"channel_rename","channel":{"id":"C1","name":"b"},` + stamp + `}`)},
		{title: "ChannelAsAString", want: one("member_joined_channel", "channel:C1"),
			body: callback(`{"type":"member_joined_channel","user":"U1","channel":"C1",` + stamp + `}`)},
		{title: "HistoryOfAChannel", want: one("channel_history_changed", "channel:C1"),
			body: callback(`{"type":"channel_history_changed","channel":"C1","latest":"1.1","ts":"1735680000.000100",` + stamp + `}`)},
		{title: "File", want: one("file_shared", "file:F1"),
			body: callback(`{"type":"file_shared","file_id":"F1","user_id":"U1","channel_id":"C1","file":{"id":"F1"},` + stamp + `}`)},
		{title: "Function", want: one("function_executed", "function_execution:Fx1"),
			body: callback(`{"type":"function_executed","function":{"id":"Fn1"},"function_execution_id":"Fx1",` + stamp + `}`)},
		{title: "Home", want: one("app_home_opened", "user:U1"), body: callback(`{"type":"app_home_opened","user":"U1","channel":"D1",` + stamp + `}`)},
		{title: "User", want: one("user_change", "user:U1"), body: callback(`{"type":"user_change","user":{"id":"U1"},` + stamp + `}`)},
		{title: "Uninstalled", want: one("app_uninstalled", "team:T1"), body: callback(`{"type":"app_uninstalled",` + stamp + `}`)},
		{title: "TeamRenamed", want: one("team_rename", "team:T1"), body: callback(`{"type":"team_rename","name":"b",` + stamp + `}`)},
		{title: "UnknownEventWithSecondsOnly", want: source.Event{ID: "Ev1", Type: "new_kind", OccurredAt: second}, body: callback(`{"type":"new_kind","event_ts":"0000000000.000000"}`)},
		{title: "NoID", body: strings.Replace(callback(`{"type":"message"}`), "Ev1", "", 1), reason: source.ReasonIDMissing},
		{title: "NoEvent", body: `{"type":"event_callback","event_id":"Ev1"}`, reason: source.ReasonPayloadMalformed},
		{title: "EventOfNoKind", body: callback(`{"user":"U1"}`), reason: source.ReasonPayloadMalformed},
		{title: "ChallengeIsNoEvent", body: `{"type":"url_verification","challenge":""}`, reason: source.ReasonPayloadMalformed},
		{title: "SlashCommand", body: "command=%2Fdeploy&trigger_id=1.2", reason: source.ReasonPayloadMalformed},
		{title: "RateLimitWithoutItsMinute", body: `{"type":"app_rate_limited","team_id":"T1","api_app_id":"A1"}`, reason: source.ReasonIDMissing},
	})
}

func TestSlackRateLimitIsAnEventOfItsMinute(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("slack")
	limited := func(team, app, minute string) string {
		return `{"token":"t","type":"app_rate_limited","team_id":"` + team + `","api_app_id":"` + app + `","minute_rate_limited":` + minute + `}`
	}
	events, err := s.Events(source.Request{Body: []byte(limited("T1", "A1", "1735689600"))}, nil)
	require.NoError(t, err)
	require.Equal(t, "app_rate_limited", events[0].Type)
	require.Equal(t, "team:T1", events[0].Entity)
	require.Equal(t, at(t, "2025-01-01T00:00:00Z"), events[0].OccurredAt)
	first := idOf(t, "slack", limited("T1", "A1", "1735689600"))
	require.Equal(t, first, idOf(t, "slack", strings.Replace(limited("T1", "A1", "1735689600"), `"token":"t",`, "", 1)))
	for _, other := range []string{limited("T2", "A1", "1735689600"), limited("T1", "A2", "1735689600"), limited("T1", "A1", "1735689660")} {
		require.NotEqual(t, first, idOf(t, "slack", other))
	}
}

func TestSlackChallengeIsGivenBackOnceItIsVerified(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("slack")
	require.Nil(t, s.Challenge)
	const secret = "8f742231b10e8888abcd99yyyzzz85a5"
	r := deliveryOf(t, "slack", secret, "", `{"token":"t","challenge":"3eZ\"<b>","type":"url_verification"}`)
	_, err := s.Verify(r, []string{"another secret", secret}, nil)
	require.NoError(t, err)
	answer := s.Handshake(r, secret, nil)
	require.Equal(t, http.StatusOK, answer.Status)
	require.Equal(t, "application/json", answer.Header.Get("Content-Type"))
	var body map[string]string
	require.NoError(t, json.Unmarshal(answer.Body, &body))
	require.Equal(t, map[string]string{"challenge": `3eZ"<b>`}, body)

	for _, other := range []string{
		`{"type":"url_verification"}`, `{"type":"url_verification","challenge":1}`, `{"type":"event_callback","challenge":"x"}`,
		`{"event":{"type":"url_verification","challenge":"x"}}`, `["url_verification"]`, `type=url_verification&challenge=x`, ``,
	} {
		require.Nil(t, s.Handshake(source.Request{Body: []byte(other)}, secret, nil), other)
	}
}

func TestSlackHeaders(t *testing.T) {
	t.Parallel()
	const mac = "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
	requireRefused(t, "slack", "8f742231b10e8888abcd99yyyzzz85a5", []forgery{
		{"X-Slack-Signature", "", source.ReasonSignatureMissing},
		{"X-Slack-Signature", mac, source.ReasonSignatureMalformed},
		{"X-Slack-Signature", "v1=" + mac, source.ReasonSignatureMalformed},
		{"X-Slack-Signature", "v0=" + mac[:62], source.ReasonSignatureMalformed},
		{"X-Slack-Signature", "v0=" + mac + ",v0=" + mac, source.ReasonSignatureMalformed},
		{"X-Slack-Signature", "v0=" + mac, source.ReasonSignatureMismatch},
		{"X-Slack-Request-Timestamp", "", source.ReasonTimestampMissing},
		{"X-Slack-Request-Timestamp", "2026-03-04T12:00:00Z", source.ReasonTimestampMalformed},
		{"X-Slack-Request-Timestamp", "1772625601", source.ReasonSignatureMismatch},
	})
}

// slack-go verifies; it has nothing to sign with.
func TestSlackGoTakesWhatWeSign(t *testing.T) {
	t.Parallel()
	signed(t, "slack", func(r source.Request, secret string) {
		verifier, err := slack.NewSecretsVerifier(r.Header, secret)
		require.NoError(t, err)
		_, err = verifier.Write(r.Body)
		require.NoError(t, err)
		require.NoError(t, verifier.Ensure())
		_, err = verifier.Write([]byte(" "))
		require.NoError(t, err)
		require.Error(t, verifier.Ensure())
		parsed, err := slackevents.ParseEvent(r.Body, slackevents.OptionNoVerifyToken())
		require.NoError(t, err)
		require.Equal(t, slackevents.CallbackEvent, parsed.Type)
		events, err := get(t, "slack").Events(r, nil)
		require.NoError(t, err)
		require.Equal(t, parsed.InnerEvent.Type, events[0].Type)
	})
}
