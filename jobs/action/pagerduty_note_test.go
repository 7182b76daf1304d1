package action_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

const pagerdutySecret = "bot@acme.example:tok_" + canary

func TestPagerDutyNote_Target(t *testing.T) {
	t.Parallel()
	targets(t, `{"kind": "pagerduty_note", "credential_id": "crd_1", "body": "{{ output.reply }}"}`, map[string]string{
		`{"event": {"data": {"id": "PGR0VU2", "type": "incident"}}}`:                                            "incident PGR0VU2",
		`{"event": {"data": {"id": "P2LA89X", "type": "incident_note", "incident": {"id": "Q0SDD3HB6SGFTI"}}}}`: "incident Q0SDD3HB6SGFTI",
		`{"event": {"data": {"id": "PF9KMXH", "type": "service"}}}`:                                             "",
		`{"event": {"data": {"id": "PGR0VU2/notes", "type": "incident"}}}`:                                      "",
		`{"event": {"data": {"id": "pgr0vu2", "type": "incident"}}}`:                                            "",
		`{"event": {"data": {"message": "x", "type": "ping"}}}`:                                                 "",
	})
	faulty(t, "pagerduty_note", "incident", "12", "PGR0VU2/..", "pgr0vu2", "P")
}

func TestPagerDutyNote_SaysWhoWrites(t *testing.T) {
	t.Parallel()
	s := patient(t, "pagerduty_note")
	send := s.send(t, s.Case.Sample, keyOne, plain)
	_, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, "bot@acme.example", s.Journal()[0].Header.Get("From"))
	require.NotContains(t, string(send.Effect.Body), keyOne, "people are shown the note without the mark")

	send.Secret = "stranger@acme.example:tok_" + canary
	_, err = s.c.Do(t.Context(), send)
	require.Equal(t, action.CodeRefused, failure(t, err).Code)
	send.Secret = "tok_" + canary
	_, err = s.c.Do(t.Context(), send)
	require.Equal(t, action.CodeCredential, failure(t, err).Code)
	require.Len(t, s.Effects(), 1)
}

func TestPagerDutyNote_LookupThatIsCutOff(t *testing.T) {
	t.Parallel()
	s := patient(t, "pagerduty_note")
	finder, _ := s.c.(action.Finder)
	send := s.send(t, s.Case.Sample, keyOne, plain)
	for _, body := range []string{`{}`, `{"notes": null}`, `{"notes": [], "more": true}`} {
		s.Script(scripted.VendorStep{Reads: true, Status: 200, Body: body})
		found, err := finder.Find(t.Context(), send)
		require.Nil(t, found, body)
		require.Equal(t, action.CodeLookup, failure(t, err).Code, body)
	}
}

func TestPagerDutyAccount(t *testing.T) {
	t.Parallel()
	s := patient(t, "pagerduty_note")
	account, _ := action.New(devDoor()).Account("pagerduty")
	for _, bad := range []string{"just-a-key-without-mail", "bot@acme:abcdefgh", "bot@acme.example:short", "a@b@acme.example:abcdefgh"} {
		require.Error(t, account.Check(bad), bad)
	}
	id, err := account.Test(t.Context(), action.Access{Secret: pagerdutySecret, Base: s.base}, time.Now())
	require.NoError(t, err)
	require.Equal(t, "PXPGF42", id.Actor, "a key of the account writes as the user of From")
	s.Script(scripted.VendorStep{Reads: true, Status: 200, Body: `{"user": {"id": "PTUXL6G", "email": "bot@acme.example"}}`})
	id, err = account.Test(t.Context(), action.Access{Secret: pagerdutySecret, Base: s.base}, time.Now())
	require.NoError(t, err)
	require.Equal(t, "PTUXL6G", id.Actor)
	_, err = account.Test(t.Context(), action.Access{Secret: "bo@acme.exampl:tok_" + canary, Base: s.base}, time.Now())
	require.Equal(t, action.CodeCredential, failure(t, err).Code, "a part of an address is nobody")
}
