package action_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

func TestJiraComment_Targets(t *testing.T) {
	t.Parallel()
	c, _ := action.New(devDoor()).Get("jira_comment")
	object := func(issue, more string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"kind": "jira_comment", "credential_id": "crd_1", "issue": %s, "body": "hello"%s}`, written(t, issue), more))
	}
	for _, one := range []struct {
		issue, more string
		ok          bool
	}{
		{"SHOP-12", "", true}, {"A2_B-1", "", true}, {"SHOP-12", `, "allow": ["SHOP-*"]`, true}, {"ADMIN-1", `, "allow": ["SHOP-*"]`, false},
		{"", "", false}, {"shop-12", "", false}, {"S-1", "", false}, {"SHOP-0", "", false}, {"SHOP", "", false}, {"SHOP-1/comment", "", false},
		{"SHOP-1?x", "", false}, {"../SHOP-1", "", false}, {"10010", "", false}, {"SHOP-1\n", "", false},
	} {
		effect, err := c.Prepare(params(t, c, object(one.issue, one.more)), input())
		if !one.ok {
			require.Equal(t, action.CodeTarget, failure(t, err).Code, one)
			continue
		}
		require.NoError(t, err, one)
		require.Equal(t, one.issue, effect.Target)
	}
	set := action.New(devDoor())
	require.Equal(t, []string{"action.allow"}, places(set.Check(c, object("{{ payload.x }}", ""))))
	require.Equal(t, []string{"action.issue"}, places(set.Check(c, object("x", ""))))
	require.Empty(t, set.Check(c, action.Filled(c.Spec(), json.RawMessage(`{"kind": "jira_comment", "credential_id": "crd_1", "body": "x"}`))))
}

func TestJiraComment_IsADocumentOfTextAlone(t *testing.T) {
	t.Parallel()
	s := serve(t, "jira_comment")
	for i, c := range []struct{ body, document string }{
		{"one", `{"type":"doc","version":1,"content":[{"type":"paragraph","content":[{"type":"text","text":"one"}]}]}`},
		{
			"\n\none\ntwo\n \n\nthree\n\n",
			`{"type":"doc","version":1,"content":[{"type":"paragraph","content":[{"type":"text","text":"one"},{"type":"hardBreak"},{"type":"text","text":"two"}]},` +
				`{"type":"paragraph","content":[{"type":"text","text":"three"}]}]}`,
		},
		{`*b* h1. x "}]}`, `{"type":"doc","version":1,"content":[{"type":"paragraph","content":[{"type":"text","text":"*b* h1. x \"}]}"}]}]}`},
	} {
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, fmt.Sprintf("%s%d", keyOne, i), c.body))
		require.NoError(t, err)
		var sent struct{ Body json.RawMessage }
		journal := s.Journal()
		require.NoError(t, json.Unmarshal([]byte(journal[len(journal)-1].Body), &sent))
		require.JSONEq(t, c.document, string(sent.Body))
	}
	send := s.send(t, s.Case.Sample, keyTwo, strings.Repeat("\U0001f600", 40000))
	_, err := s.c.Do(t.Context(), send)
	require.NoError(t, err, "what is too long is cut to what Jira takes, of which such a character is two")
}

func TestJiraComment_CustomersSeeItIfToldSo(t *testing.T) {
	t.Parallel()
	s := serve(t, "jira_comment")
	for public, want := range map[string]bool{`{`: true, `{"public": false, `: true, `{"public": true, `: false} {
		_, err := s.c.Do(t.Context(), s.send(t, strings.Replace(s.Case.Sample, `{`, public, 1), keyOne, plain))
		require.NoError(t, err)
		effects := s.Effects()
		require.Equal(t, want, strings.Contains(effects[len(effects)-1].More["properties"], `{"key":"sd.public.comment","value":{"internal":true}}`), public)
	}
}

func TestJiraComment_SaysWhereItIs(t *testing.T) {
	t.Parallel()
	s := serve(t, "jira_comment")
	receipt, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
	require.NoError(t, err)
	require.Equal(t, s.base+"/browse/SHOP-12", receipt.URL)

	send := s.send(t, s.Case.Sample, keyTwo, plain)
	send.Base = ""
	_, err = s.c.Do(t.Context(), send)
	require.Equal(t, action.CodeCredential, failure(t, err).Code, "there is no address that all sites share")
	_, err = s.c.Do(t.Context(), s.send(t, strings.Replace(s.Case.Sample, "SHOP-12", "GONE-1", 1), keyTwo, plain))
	require.Equal(t, action.CodeNotFound, failure(t, err).Code)
	s.Script(scripted.VendorStep{Status: 201, Body: `{"id": "` + canary + `"}`})
	_, err = s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyTwo, plain))
	require.True(t, failure(t, err).Doubt)
}

func TestJiraComment_LooksUntilItKnows(t *testing.T) {
	t.Parallel()
	s := serve(t, "jira_comment")
	finder, _ := s.c.(action.Finder)
	send := s.send(t, s.Case.Sample, keyOne, plain)
	made, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	last := ""
	for i := range 110 {
		other, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, fmt.Sprintf("%s%d", keyTwo, i), plain))
		require.NoError(t, err)
		last = other.ID
	}
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, made.ID, found.ID, "it is on the second page")

	unknown := s.send(t, s.Case.Sample, "msg_unknown", plain)
	found, err = finder.Find(t.Context(), unknown)
	require.NoError(t, err)
	require.Nil(t, found)
	s.Hide(last)
	_, err = finder.Find(t.Context(), unknown)
	require.Equal(t, action.CodeLookup, failure(t, err).Code, "it may be the one that is not shown")

	unknown.Since = time.Now().Add(time.Hour)
	found, err = finder.Find(t.Context(), unknown)
	require.NoError(t, err)
	require.Nil(t, found, "what was written before the first attempt is not looked at")

	unknown.Since = time.Now()
	older, newer := time.Now().Add(-time.Hour).Format("2006-01-02T15:04:05.000-0700"), time.Now().Format("2006-01-02T15:04:05.000-0700")
	for name, body := range map[string]string{
		"not in order": `{"comments": [{"id": "1", "created": "` + older + `"}, {"id": "2", "created": "` + newer + `"}], "total": 2}`,
		"no time":      `{"comments": [{"id": "1"}], "total": 1}`,
		"no total":     `{"comments": []}`,
		"a gap":        `{"comments": [], "total": 7}`,
	} {
		s.Script(slices.Repeat([]scripted.VendorStep{{Reads: true, Status: 200, Body: body}}, 10)...)
		found, err = finder.Find(t.Context(), unknown)
		require.Nil(t, found, name)
		require.Equal(t, []any{action.CodeLookup, action.Retry}, []any{failure(t, err).Code, failure(t, err).Kind}, name)
	}
}

func TestJiraComment_FindsWhatItChanged(t *testing.T) {
	t.Parallel()
	s := serve(t, "jira_comment")
	finder, _ := s.c.(action.Finder)
	sample := strings.Replace(s.Case.Sample, `{`, `{"update": true, `, 1)
	receipt, err := s.c.Do(t.Context(), s.send(t, sample, keyOne, "first"))
	require.NoError(t, err)
	send := s.send(t, sample, keyTwo, "second")
	send.Previous, send.Since = &receipt, time.Now().Add(time.Hour) // it is older than the attempt
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Nil(t, found)
	s.Script(scripted.VendorStep{Act: true, Cut: true})
	_, err = s.c.Do(t.Context(), send)
	require.True(t, failure(t, err).Doubt)
	found, err = finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, receipt.ID, found.ID)
	s.Remove(receipt.ID)
	found, err = finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Nil(t, found, "it was deleted since")
}

func TestJiraAccount(t *testing.T) {
	t.Parallel()
	account, _ := action.New(devDoor()).Account("jira")
	for secret, ok := range map[string]bool{
		"bot@acme.example:0123456789": true, "bot@acme.example:01:23456789": true, "bot@acme.example": false, "bot:0123456789": false,
		"bot@acme.example:short": false, "bot@acme.example:0123 456789": false, "0123456789": false, ":bot@acme.example": false,
	} {
		require.Equal(t, ok, account.Check(secret) == nil, secret)
	}
	s := serve(t, "jira_comment")
	id, err := account.Test(t.Context(), action.Access{Secret: s.Case.Secret, Base: s.base}, time.Now())
	require.NoError(t, err)
	require.Equal(t, "5b10ac8d82e05b22cc7d4ef5", id.Actor, "as events name their user")
	require.Error(t, action.New(devDoor()).CheckBase(account, ""))
}
