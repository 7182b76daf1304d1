package action_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

const zendeskSecret = "bot@acme.example/token:tok_" + canary

func TestZendeskComment_Target(t *testing.T) {
	t.Parallel()
	targets(t, `{"kind": "zendesk_comment", "credential_id": "crd_1", "body": "{{ output.reply }}"}`, map[string]string{
		`{"type": "zen:event-type:ticket.created", "subject": "zen:ticket:35436", "detail": {"id": "35436"}}`:    "ticket 35436",
		`{"type": "zen:event-type:ticket.created", "subject": "zen:ticket:35436", "detail": {"id": 35436}}`:      "ticket 35436",
		`{"type": "zen:event-type:user.created", "subject": "zen:user:8447388090494", "detail": {"id": "8447"}}`: "",
		`{"subject": "zen:ticket:1", "detail": {"id": "1/../../users/me"}}`:                                      "",
		`{"subject": "zen:ticket:1", "detail": {"id": "1?x"}}`:                                                   "",
		`{"ticket": {"id": 7}}`: "",
		`[]`:                    "",
	})
	targets(t, `{"kind": "zendesk_comment", "credential_id": "crd_1", "ticket": "{{ payload.ticket.id }}", "body": "{{ output.reply }}"}`, map[string]string{
		`{"ticket": {"id": 7}}`: "ticket 7", // the webhook of a trigger is the tenant's own
	})
	faulty(t, "zendesk_comment", "ticket", "0", "-1", "01", "12a", "1 ", "12345678901234567890", "../1")
}

func TestZendeskComment_IsInternalUnlessItIsPublic(t *testing.T) {
	t.Parallel()
	s := patient(t, "zendesk_comment")
	for flag, public := range map[string]string{``: "false", `"public": false, `: "false", `"public": true, `: "true"} {
		sample := `{"kind": "zendesk_comment", "credential_id": "crd_1", ` + flag + `"ticket": "35436", "body": "BODY"}`
		receipt, err := s.c.Do(t.Context(), s.send(t, sample, keyOne, plain))
		require.NoError(t, err)
		effects := s.Effects()
		require.Equal(t, public, effects[len(effects)-1].More["public"])
		require.Equal(t, s.base+"/agent/tickets/35436", receipt.URL)
		require.JSONEq(t, `{"sluice": "`+keyOne+`", "sluice_run": "run_1"}`, effects[len(effects)-1].More["custom"])
	}
}

func TestZendeskComment_IsLookedForOnEveryPage(t *testing.T) {
	t.Parallel()
	s := patient(t, "zendesk_comment")
	const others = 250
	for i := range others {
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, fmt.Sprintf("msg_%d", i), plain))
		require.NoError(t, err)
	}
	send := s.send(t, s.Case.Sample, keyOne, plain)
	finder, _ := s.c.(action.Finder)
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Nil(t, found)
	receipt, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	found, err = finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.NotNil(t, found)
	require.Equal(t, receipt, *found)
}

// What hides a part of the audits never says that the comment is not there.
func TestZendeskComment_LookupThatIsCutOff(t *testing.T) {
	t.Parallel()
	audit := `{"id": 1, "metadata": {"custom": {}}, "events": []}`
	for name, body := range map[string]string{
		"no audits":          `{"audits": [], "meta": {"has_more": false}}`,
		"something else":     `{"ok": true}`,
		"other pages":        `{"audits": [` + audit + `], "next_page": "https://acme.zendesk.com/x", "count": 200}`,
		"a page too many":    `{"audits": [` + audit + `], "meta": {"has_more": true, "after_cursor": ""}}`,
		"pages without end":  `{"audits": [` + audit + `], "meta": {"has_more": true, "after_cursor": "x"}}`,
		"ours, no comment":   `{"audits": [{"metadata": {"custom": {"sluice": "` + keyOne + `"}}, "events": [{"id": 1, "type": "Change"}]}], "meta": {}}`,
		"metadata of a list": `{"audits": [{"metadata": [], "events": []}]}`,
	} {
		s := patient(t, "zendesk_comment")
		send := s.send(t, s.Case.Sample, keyOne, plain)
		send.Base = answering(t, 200, nil, body)
		finder, _ := s.c.(action.Finder)
		found, err := finder.Find(t.Context(), send)
		require.Nil(t, found, name)
		require.True(t, failure(t, err).Doubt, name)
	}
	// An archived ticket's come in one piece.
	s := patient(t, "zendesk_comment")
	send := s.send(t, s.Case.Sample, keyOne, plain)
	send.Base = answering(t, 200, nil, `{"audits": [`+audit+`], "next_page": null, "count": 1}`)
	finder, _ := s.c.(action.Finder)
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Nil(t, found)
}

func TestZendeskAccount(t *testing.T) {
	t.Parallel()
	set := action.New(devDoor())
	account, _ := set.Account("zendesk")
	require.Error(t, set.CheckBase(account, ""), "every customer has an address")
	require.NoError(t, account.Check("oauth-token-"+strings.Repeat("a", 40)))
	for _, bad := range []string{"bot@acme.example:password1", "bot@acme.example/token:", "/token:abcdefgh", "bot/token:abcdefgh"} {
		require.Error(t, account.Check(bad), bad)
	}
	v := scripted.NewZendesk(zendeskSecret, time.Now)
	base, err := v.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	id, err := account.Test(t.Context(), action.Access{Secret: zendeskSecret, Base: base}, time.Now())
	require.NoError(t, err)
	require.Equal(t, action.Identity{Actor: "8447388090495"}, id)
	_, err = account.Test(t.Context(), action.Access{Secret: zendeskSecret}, time.Now())
	require.Equal(t, action.CodeCredential, failure(t, err).Code, "without an address nothing is asked")

	nobody := answering(t, 200, nil, `{"user": {"id": null, "name": "Anonymous user", "role": "end-user"}}`)
	_, err = account.Test(t.Context(), action.Access{Secret: zendeskSecret, Base: nobody}, time.Now())
	require.Equal(t, action.CodeUnauthorized, failure(t, err).Code)
}
