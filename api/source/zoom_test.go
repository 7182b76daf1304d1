package source_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

func TestZoomEvents(t *testing.T) {
	t.Parallel()
	s := get(t, "zoom")
	moment := at(t, "2025-01-01T00:00:00.123Z")
	for title, c := range map[string]struct{ body, kind, entity string }{
		"MeetingByItsNumber": {`{"event":"meeting.started","event_ts":1735689600123,"payload":{"account_id":"A","object":{"id":"9007199254740993","uuid":"u=="}}}`,
			"meeting.started", "meeting:9007199254740993"},
		"NumberAsANumber": {`{"event":"meeting.updated","event_ts":1735689600123,"payload":{"object":{"id":9007199254740993}}}`,
			"meeting.updated", "meeting:9007199254740993"},
		"OnlyTheSitting": {`{"event":"webinar.ended","event_ts":1735689600123,"payload":{"object":{"uuid":"u=="}}}`, "webinar.ended", "webinar:u=="},
		"Call":           {`{"event":"phone.callee_answered","event_ts":1735689600123,"payload":{"object":{"call_id":"7"}}}`, "phone.callee_answered", "phone:7"},
		"ChatMessage":    {`{"event":"chat_message.sent","event_ts":1735689600123,"payload":{"object":{"message_id":"m"}}}`, "chat_message.sent", "chat_message:m"},
		"NoObject":       {`{"event":"app_deauthorized","event_ts":1735689600123,"payload":{"account_id":"A"}}`, "app_deauthorized", ""},
	} {
		events, err := s.Events(source.Request{Body: []byte(c.body)}, nil)
		require.NoError(t, err, title)
		require.Len(t, events, 1, title)
		require.Regexp(t, "^sha256:[0-9a-f]{64}$", events[0].ID, title)
		events[0].ID = ""
		require.Equal(t, []source.Event{{Type: c.kind, OccurredAt: moment, Entity: c.entity}}, events, title)
	}
	requireRead(t, "zoom", []read{
		{title: "NoEvent", body: `{"payload":{}}`, reason: source.ReasonPayloadMalformed},
		{title: "NoObject", body: `[]`, reason: source.ReasonPayloadMalformed},
		{title: "QuestionThatWasNotAnswered", body: `{"event":"endpoint.url_validation","payload":{"plainToken":"a:b"}}`, reason: source.ReasonPayloadMalformed},
	})
}

func TestZoomEventsDifferByWhatTheySay(t *testing.T) {
	t.Parallel()
	joined := `{"event":"meeting.participant_joined","event_ts":1735689600123,"payload":{"object":{"id":"1","participant":{"user_id":"7"}}}}`
	first := idOf(t, "zoom", joined)
	require.Equal(t, first, idOf(t, "zoom", joined))
	for _, change := range [][2]string{{"joined", "left"}, {"600123", "600124"}, {`"user_id":"7"`, `"user_id":"8"`}} {
		require.NotEqual(t, first, idOf(t, "zoom", strings.Replace(joined, change[0], change[1], 1)))
	}
}

// The expected token was computed with openssl by the documented rule.
func TestZoomValidationIsAnsweredWithTheMatchedSecret(t *testing.T) {
	t.Parallel()
	s := get(t, "zoom")
	require.Nil(t, s.Challenge)
	r := deliveryOf(t, "zoom", "zm-secret", "", `{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1772625600000}`)
	matched, err := s.Verify(r, []string{"another", "zm-secret"}, nil)
	require.NoError(t, err)
	require.Equal(t, 1, matched)
	answer := s.Handshake(r, "zm-secret", nil)
	require.Equal(t, 200, answer.Status)
	require.Equal(t, "application/json", answer.Header.Get("Content-Type"))
	require.JSONEq(t, `{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"7ca045dc9e5b2f33694ae2a98fa71e8e900e3a94b8721fb2040a8c86b96113d6"}`, string(answer.Body))

	r.Header.Del("X-Zm-Signature")
	_, err = s.Verify(r, []string{"zm-secret"}, nil)
	requireReason(t, err, source.ReasonSignatureMissing)
}

// What is answered must never be what signs a delivery.
func TestZoomValidationSignsNothingElse(t *testing.T) {
	t.Parallel()
	s := get(t, "zoom")
	ask := func(token string) *source.Answer {
		return s.Handshake(source.Request{Body: []byte(`{"event":"endpoint.url_validation","payload":{"plainToken":"` + token + `"}}`)}, "zm-secret", nil)
	}
	require.NotNil(t, ask("a"))
	require.NotNil(t, ask(strings.Repeat("a", 128)))
	for _, token := range []string{"", "v0:1735689600:{}", "a b", "a.b", `a\n`, "a=", "é", strings.Repeat("a", 129)} {
		require.Nil(t, ask(token), token)
	}
	for _, body := range []string{
		`{"event":"meeting.started","payload":{"plainToken":"a"}}`, `{"event":"endpoint.url_validation"}`, `{"event":"endpoint.url_validation","plainToken":"a"}`,
		`{"event":"endpoint.url_validation","payload":{"plainToken":1}}`, `[]`, ``,
	} {
		require.Nil(t, s.Handshake(source.Request{Body: []byte(body)}, "zm-secret", nil), body)
	}
	require.Nil(t, s.Handshake(source.Request{Body: []byte(`{"event":"endpoint.url_validation","payload":{"plainToken":"a"}}`)}, "", nil))
}

func TestZoomHeaders(t *testing.T) {
	t.Parallel()
	const mac = "19981b84ac70e87bd597b80d84b8799d61df3b9073386d5a24b9efc740427bad"
	requireRefused(t, "zoom", "zm-secret", []forgery{
		{"X-Zm-Signature", "", source.ReasonSignatureMissing},
		{"X-Zm-Signature", mac, source.ReasonSignatureMalformed},
		{"X-Zm-Signature", "v0:" + mac, source.ReasonSignatureMalformed},
		{"X-Zm-Signature", "v0=" + mac + "00", source.ReasonSignatureMalformed},
		{"X-Zm-Signature", "v0=" + mac, source.ReasonSignatureMismatch},
		{"X-Zm-Request-Timestamp", "", source.ReasonTimestampMissing},
		{"X-Zm-Request-Timestamp", "1772625600.5", source.ReasonTimestampMalformed},
		{"X-Zm-Request-Timestamp", "1772625599", source.ReasonSignatureMismatch},
	})
}
