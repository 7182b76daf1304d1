package action_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

func TestIntercomReply_Target(t *testing.T) {
	t.Parallel()
	targets(t, `{"kind": "intercom_reply", "credential_id": "crd_1", "body": "{{ output.reply }}"}`, map[string]string{
		`{"topic": "conversation.user.replied", "data": {"item": {"type": "conversation", "id": "524"}}}`:  "conversation 524",
		`{"topic": "ticket.attribute.updated", "data": {"item": {"type": "ticket", "id": "2"}}}`:           "",
		`{"topic": "contact.user.created", "data": {"item": {"type": "contact", "id": "67a9b9dfcc14"}}}`:   "",
		`{"topic": "conversation.user.replied", "data": {"item": {"type": "conversation", "id": "last"}}}`: "",
		`{"topic": "conversation.user.replied", "data": {"item": {"type": "conversation", "id": "5/x"}}}`:  "",
		`{"topic": "ping", "data": {"item": {"type": "ping"}}}`:                                            "",
	})
	faulty(t, "intercom_reply", "conversation", "last", "0", "1/2", "5 ")
	faulty(t, "intercom_reply", "admin", "me", "-1")
}

func TestIntercomReply_IsANoteUnlessItIsPublic(t *testing.T) {
	t.Parallel()
	s := patient(t, "intercom_reply")
	for flag, kind := range map[string]string{``: "note", `"public": false, `: "note", `"public": true, `: "comment"} {
		_, err := s.c.Do(t.Context(), s.send(t, `{"kind": "intercom_reply", "credential_id": "crd_1", `+flag+`"conversation": "524", "body": "BODY"}`, keyOne, plain))
		require.NoError(t, err)
		effects := s.Effects()
		require.Equal(t, kind, effects[len(effects)-1].Kind)
		require.Equal(t, "991267459", effects[len(effects)-1].More["admin_id"], "the one whose token it is")
	}
}

// What goes wrong before the reply is sent leaves nothing in doubt, since nobody could look a reply up.
func TestIntercomReply_NoDoubtBeforeItIsSent(t *testing.T) {
	t.Parallel()
	s := serve(t, "intercom_reply")
	for _, step := range []scripted.VendorStep{
		{Reads: true, Status: 500}, {Reads: true, Status: 200, Body: "<html>"}, {Reads: true, Status: 200, Body: "{}"},
		{Reads: true, Cut: true}, {Reads: true, Hang: true},
	} {
		s.Script(step)
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
		require.False(t, failure(t, err).Doubt, step)
	}
	require.Empty(t, s.Effects())
	s = patient(t, "intercom_reply")
	send := s.send(t, s.Case.Other, keyOne, plain)
	before := len(s.Journal())
	_, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	require.Len(t, s.Journal(), before+1, "an admin that is named is not asked for")
}

func TestIntercomReply_OnlyWhatTheAnswerSaysIsTheReceipt(t *testing.T) {
	t.Parallel()
	s := patient(t, "intercom_reply")
	s.Script(scripted.VendorStep{Status: 200, Act: true, Body: `{"id": "524",
		"conversation_parts": {"conversation_parts": [{"id": "7", "author": {"type": "user", "id": "991267459"}}]}}`})
	receipt, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
	require.NoError(t, err)
	require.Equal(t, action.Receipt{Status: 200}, receipt, "the part of another is not ours")
}
