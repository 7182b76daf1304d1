package action_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

const slackSample = `{"kind": "slack_message", "credential_id": "crd_1", "channel": "C0SHOP", "body": "BODY"}`

// inThread is the sample for a thread.
func inThread(ts string) string {
	return strings.Replace(slackSample, `"body"`, `"thread": "`+ts+`", "body"`, 1)
}

func TestSlackTargets(t *testing.T) {
	t.Parallel()
	set := action.New(devDoor())
	c, _ := set.Get("slack_message")
	for extra, place := range map[string]string{
		`"channel": "C0123456789"`: "", `"channel": "D0123"`: "", `"channel": "{{ payload.event.channel | default: payload.channel_id }}"`: "",
		`"channel": "#general"`: "action.channel", `"channel": "general"`: "action.channel", `"channel": "U0123456"`: "action.channel", `"channel": ""`: "action.channel",
		`"channel": "c0123456789"`: "action.channel", `"channel": "{{ payload.x }}"`: "action.allow", `"channel": "{{ payload.x }}", "allow": []`: "action.allow",
		`"channel": "{{ payload.x }}", "allow": ["C01"]`: "", `"channel": "C01", "thread": "1712345678.000100"`: "", `"channel": "C01", "thread": ""`: "",
		`"channel": "C01", "thread": "yesterday"`: "action.thread", `"channel": "C01", "thread": "{{ payload.event.ts }}"`: "",
	} {
		faults := set.Check(c, json.RawMessage(`{"kind": "slack_message", "body": "x", `+extra+`}`))
		if place == "" {
			require.Empty(t, faults, extra)
			continue
		}
		require.Len(t, faults, 1, extra)
		require.Equal(t, place, faults[0].Place, extra)
	}
	for extra, code := range map[string]string{
		`"channel": "C01"`: "", `"channel": ""`: action.CodeTarget, `"channel": "C01 "`: action.CodeTarget, `"channel": "C01\n"`: action.CodeTarget,
		`"channel": "@here"`: action.CodeTarget, `"channel": "U0123456"`: action.CodeTarget, `"channel": "C01", "allow": ["C02"]`: action.CodeTarget,
		`"channel": "C01", "allow": ["C02", "C01"]`: "", `"channel": "C01", "thread": " "`: "", `"channel": "C01", "thread": "1712345678.0001"`: action.CodeTarget,
		`"channel": "C01", "thread": "1712345678.000100&x=1"`: action.CodeTarget,
	} {
		_, err := c.Prepare(params(t, c, json.RawMessage(`{"kind": "slack_message", "body": "x", `+extra+`}`)), input())
		if code == "" {
			require.NoError(t, err, extra)
			continue
		}
		require.Equal(t, code, failure(t, err).Code, extra)
		require.Equal(t, action.Refused, failure(t, err).Kind)
	}
	_, err := c.Prepare(params(t, c, json.RawMessage(`{"kind": "slack_message", "channel": "C01", "body": " \n\u200b"}`)), input())
	require.Equal(t, action.CodeEmptyBody, failure(t, err).Code)
}

// Slack says 200 and means no.
func TestSlackErrors(t *testing.T) {
	t.Parallel()
	s := serve(t, "slack_message")
	for word, want := range map[string]action.Error{
		"account_inactive":          {Kind: action.Refused, Code: action.CodeUnauthorized},
		"channel_not_found":         {Kind: action.Refused, Code: action.CodeNotFound},
		"fatal_error":               {Kind: action.Retry, Code: action.CodeStatus5xx, Doubt: true, RetryAfter: 9 * time.Second},
		"internal_error":            {Kind: action.Retry, Code: action.CodeStatus5xx, Doubt: true, RetryAfter: 9 * time.Second},
		"invalid_auth":              {Kind: action.Refused, Code: action.CodeUnauthorized},
		"is_archived":               {Kind: action.Refused, Code: action.CodeRefused},
		"missing_scope":             {Kind: action.Refused, Code: action.CodeUnauthorized},
		"msg_too_long":              {Kind: action.Refused, Code: action.CodeTooLarge},
		"not_in_channel":            {Kind: action.Refused, Code: action.CodeUnauthorized},
		"ratelimited":               {Kind: action.Retry, Code: action.CodeRateLimited, RetryAfter: 9 * time.Second},
		"restricted_action_threads": {Kind: action.Refused, Code: action.CodeUnauthorized},
		"some_new_" + canary:        {Kind: action.Refused, Code: action.CodeRefused, Doubt: true},
	} {
		s.Script(scripted.VendorStep{Status: 200, RetryAfter: "9", Body: `{"ok": false, "error": "` + word + `", "needed": "` + canary + `"}`})
		receipt, err := s.c.Do(t.Context(), s.send(t, slackSample, keyOne, plain))
		require.Zero(t, receipt)
		got := failure(t, err)
		require.Equal(t, []any{want.Kind, want.Code, want.RetryAfter, want.Doubt}, []any{got.Kind, got.Code, got.RetryAfter, got.Doubt}, word)
		hides(t, s.Case.Secret, err)
	}
	for _, answer := range []string{`{}`, `{"ok": "yes"}`, `{"ok": true}`, `{"ok": true, "ts": "` + canary + `"}`, `[]`, ``} {
		s.Script(scripted.VendorStep{Status: 200, Body: answer})
		_, err := s.c.Do(t.Context(), s.send(t, slackSample, keyOne, plain))
		require.Equal(t, action.CodeBroken, failure(t, err).Code, answer)
		require.True(t, failure(t, err).Doubt, answer)
		hides(t, s.Case.Secret, err)
	}
	require.Empty(t, s.Effects())
}

// Nothing that Slack could make of a text by itself is left on, neither when it is posted nor when it is changed.
func TestSlackMakesNothingOfText(t *testing.T) {
	t.Parallel()
	s := serve(t, "slack_message")
	off := map[string]string{"parse": "none", "link_names": "false", "unfurl_links": "false", "unfurl_media": "false"}
	receipt, err := s.c.Do(t.Context(), s.send(t, slackSample, keyOne, plain))
	require.NoError(t, err)
	require.Subset(t, s.Effects()[0].More, off)
	change := s.send(t, slackSample, keyTwo, "<!channel> second")
	change.Previous = &receipt
	_, err = s.c.Do(t.Context(), change)
	require.NoError(t, err)
	require.Subset(t, s.Effects()[0].More, off)
	require.NotContains(t, s.Effects()[0].Text, "<!")

	_, err = s.c.Do(t.Context(), s.send(t, slackSample, keyOne, strings.Repeat("long & <longer> ", 4000)))
	require.NoError(t, err)
	require.Len(t, s.Effects(), 2, "Slack breaks a longer message into several")
}

func TestSlackThreads(t *testing.T) {
	t.Parallel()
	s := serve(t, "slack_message")
	root, err := s.c.Do(t.Context(), s.send(t, slackSample, keyOne, "root"))
	require.NoError(t, err)
	reply := s.send(t, inThread(root.ID), keyTwo, "reply")
	require.Equal(t, "C0SHOP/"+root.ID, reply.Effect.Target)
	finder, _ := s.c.(action.Finder)
	found, err := finder.Find(t.Context(), reply)
	require.NoError(t, err)
	require.Nil(t, found)
	made, err := s.c.Do(t.Context(), reply)
	require.NoError(t, err)
	require.Empty(t, made.Note)
	require.Equal(t, root.ID, s.Effects()[1].More["thread_ts"])
	found, err = finder.Find(t.Context(), reply)
	require.NoError(t, err)
	require.Equal(t, made.ID, found.ID, "an answer stands in its thread, and not in the channel")

	nested := s.send(t, inThread(made.ID), "msg_nested", "answer to an answer")
	_, err = s.c.Do(t.Context(), nested)
	require.NoError(t, err)
	_, err = finder.Find(t.Context(), nested)
	require.Equal(t, action.CodeLookup, failure(t, err).Code, "what cannot be seen there is not surely not there")
	require.True(t, failure(t, err).Doubt)

	gone := s.send(t, inThread("1000000000.000001"), "msg_gone", "whose thread is deleted")
	made, err = s.c.Do(t.Context(), gone)
	require.NoError(t, err)
	require.Contains(t, made.Note, "not there any more")
	found, err = finder.Find(t.Context(), gone)
	require.NoError(t, err)
	require.Equal(t, made, *found, "Slack has posted it to the channel")
}

// A message that is changed is older than the change, and found all the same.
func TestSlackChangeOfUnknownFateIsFound(t *testing.T) {
	t.Parallel()
	s := serve(t, "slack_message")
	finder, _ := s.c.(action.Finder)
	for _, threaded := range []bool{false, true} {
		sample := slackSample
		if threaded {
			root, err := s.c.Do(t.Context(), s.send(t, slackSample, "msg_root", "root"))
			require.NoError(t, err)
			sample = inThread(root.ID)
		}
		first, err := s.c.Do(t.Context(), s.send(t, sample, keyOne, "first"))
		require.NoError(t, err)
		change := s.send(t, sample, keyTwo, "second")
		change.Previous, change.Since = &first, time.Now().Add(time.Hour)
		found, err := finder.Find(t.Context(), change)
		require.NoError(t, err)
		require.Nil(t, found, "it is there, and not changed")
		s.Script(scripted.VendorStep{Act: true, Cut: true})
		_, err = s.c.Do(t.Context(), change)
		require.True(t, failure(t, err).Doubt)
		found, err = finder.Find(t.Context(), change)
		require.NoError(t, err)
		require.Equal(t, first.ID, found.ID)
		s.Remove(first.ID)
		found, err = finder.Find(t.Context(), change)
		require.NoError(t, err)
		require.Nil(t, found)
	}
}

func TestSlackLookupIsNeverSureOfWhatItCannotSee(t *testing.T) {
	t.Parallel()
	s := serve(t, "slack_message")
	finder, _ := s.c.(action.Finder)
	send := s.send(t, slackSample, keyOne, plain)
	for name, c := range map[string]struct{ answer, code string }{
		"a mark without its key":   {`{"ok": true, "messages": [{"ts": "1712345678.000100", "metadata": {"event_type": "sluice_message"}}]}`, action.CodeLookup},
		"more, and no way there":   {`{"ok": true, "messages": [], "has_more": true}`, action.CodeLookup},
		"a scope that is missing":  {`{"ok": false, "error": "missing_scope"}`, action.CodeUnauthorized},
		"a channel that is gone":   {`{"ok": false, "error": "channel_not_found"}`, action.CodeNotFound},
		"an answer without a word": {`{"messages": []}`, action.CodeBroken},
	} {
		s.Script(scripted.VendorStep{Reads: true, Status: 200, Body: c.answer})
		found, err := finder.Find(t.Context(), send)
		require.Nil(t, found, name)
		require.Equal(t, c.code, failure(t, err).Code, name)
	}
	s.Script(scripted.VendorStep{Reads: true, Status: 200, Body: `{"ok": true, "messages": [{"ts": "1712345678.000200"}]}`})
	_, err := finder.Find(t.Context(), s.send(t, inThread("1712345678.000100"), keyOne, plain))
	require.Equal(t, action.CodeLookup, failure(t, err).Code, "a thread without the message that began it")

	endless := make([]scripted.VendorStep, 50)
	for i := range endless {
		endless[i] = scripted.VendorStep{Reads: true, Status: 200, Body: `{"ok": true, "messages": [], "has_more": true, "response_metadata": {"next_cursor": "x"}}`}
	}
	s.Script(endless...)
	_, err = finder.Find(t.Context(), send)
	require.Equal(t, action.CodeLookup, failure(t, err).Code)
	s.Script()

	// The page is shorter than was asked for, and is not the last one.
	_, err = s.c.Do(t.Context(), send)
	require.NoError(t, err)
	s.Script(scripted.VendorStep{Reads: true, Status: 200, Body: `{"ok": true, "messages": [], "has_more": true, "response_metadata": {"next_cursor": "0"}}`})
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.NotNil(t, found)
}

func TestSlackAccount(t *testing.T) {
	t.Parallel()
	account, _ := action.New(devDoor()).Account("slack")
	for _, bad := range []string{"xapp-1-A0-" + canary, "https://hooks.slack.com/services/" + canary, "Bearer xoxb-" + canary} {
		err := account.Check(bad)
		require.Error(t, err)
		hides(t, bad, err)
	}
	s := serve(t, "slack_message")
	access := action.Access{Secret: s.Case.Secret, Base: s.base}
	id, err := account.Test(t.Context(), access, time.Now())
	require.NoError(t, err)
	require.Equal(t, action.Identity{Actor: "U0SLUICE", Note: "the workspace Acme"}, id)
	s.Script(scripted.VendorStep{Act: true, Status: 200, Header: map[string]string{"X-OAuth-Scopes": "chat:write.public"}, Body: `{"ok": true, "user_id": "U1"}`})
	id, err = account.Test(t.Context(), access, time.Now())
	require.NoError(t, err)
	require.Contains(t, id.Note, "chat:write is missing")
	require.Contains(t, id.Note, "channels:history is missing")
}
