package action_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

// gitlabNote is an action object for a target.
func gitlabNote(t *testing.T, project, kind, iid, more string) json.RawMessage {
	t.Helper()
	return json.RawMessage(fmt.Sprintf(`{"kind": "gitlab_note", "credential_id": "crd_1", "project": %s, "type": %s, "iid": %s, "body": "hello"%s}`,
		written(t, project), written(t, kind), written(t, iid), more))
}

func TestGitLabNote_Targets(t *testing.T) {
	t.Parallel()
	c, _ := action.New(devDoor()).Get("gitlab_note")
	for _, one := range []struct{ project, kind, iid, more, want string }{
		{"acme/shop", "issue", "1", "", "acme/shop#1"},
		{"acme/shop", "Issue", "1", "", "acme/shop#1"},
		{"acme/a/b/shop.js", "MergeRequest", "12", "", "acme/a/b/shop.js!12"},
		{"4711", "merge_request", "12", "", "4711!12"},
		{"acme/shop", "issue", "1", `, "allow": ["acme/*"]`, "acme/shop#1"},
		{"evil/shop", "issue", "1", `, "allow": ["acme/*"]`, ""},
		{"", "issue", "1", "", ""}, {"acme", "issue", "1", "", ""}, {"acme/", "issue", "1", "", ""}, {"acme/..", "issue", "1", "", ""},
		{"acme/../admin", "issue", "1", "", ""}, {"acme/shop?x", "issue", "1", "", ""}, {"acme%2Fshop", "issue", "1", "", ""}, {"acme/sh op", "issue", "1", "", ""},
		{"acme/shop", "Commit", "1", "", ""}, {"acme/shop", "issues/1/../../x", "1", "", ""}, {"acme/shop", "", "1", "", ""},
		{"acme/shop", "issue", "", "", ""}, {"acme/shop", "issue", "0", "", ""}, {"acme/shop", "issue", "1/notes/2", "", ""}, {"acme/shop", "issue", "-1", "", ""},
	} {
		effect, err := c.Prepare(params(t, c, gitlabNote(t, one.project, one.kind, one.iid, one.more)), input())
		if one.want == "" {
			require.Equal(t, action.CodeTarget, failure(t, err).Code, one)
			continue
		}
		require.NoError(t, err, one)
		require.Equal(t, one.want, effect.Target)
	}
	set := action.New(devDoor())
	require.Equal(t, []string{"action.allow"}, places(set.Check(c, gitlabNote(t, "{{ payload.x }}", "issue", "1", ""))))
	require.Empty(t, set.Check(c, gitlabNote(t, "{{ payload.x }}", "issue", "1", `, "allow": ["acme/shop"]`)))
	require.Equal(t, []string{"action.iid", "action.project", "action.type"}, places(set.Check(c, gitlabNote(t, "x", "y", "z", ""))))
	require.Empty(t, set.Check(c, action.Filled(c.Spec(), json.RawMessage(`{"kind": "gitlab_note", "credential_id": "crd_1", "body": "x"}`))))
}

func TestGitLabNote_NoCommandIsGiven(t *testing.T) {
	t.Parallel()
	s := serve(t, "gitlab_note")
	for i, body := range []string{"/close", "  /close", "hello\n/close\n/merge", "x\r/close", "```\n/close", "/CLOSE now", "> q\n\n/assign @root\n/label ~bug"} {
		_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, fmt.Sprintf("%s%d", keyOne, i), body))
		require.NoError(t, err)
	}
	for _, effect := range s.Effects() {
		require.Equal(t, "note", effect.Kind, effect.Text)
	}
	s.Script(scripted.VendorStep{Status: 202, Body: `{"commands_changes": {}, "summary": ["Closed."]}`})
	_, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyTwo, plain))
	require.Equal(t, action.CodeRefused, failure(t, err).Code, "no note was made")
}

func TestGitLabNote_ReceiptAndLimits(t *testing.T) {
	t.Parallel()
	s := serve(t, "gitlab_note")
	receipt, err := s.c.Do(t.Context(), s.send(t, s.Case.Other, keyOne, plain))
	require.NoError(t, err)
	require.Equal(t, strings.TrimSuffix(s.base, "/api/v4")+"/acme/tools/shop/-/merge_requests/12#note_"+receipt.ID, receipt.URL)
	require.Equal(t, "/api/v4/projects/acme%2Ftools%2Fshop/merge_requests/12/notes", s.Journal()[0].Path)

	now := time.Now().UTC()
	s.Script(scripted.VendorStep{Status: 429, Header: map[string]string{
		"RateLimit-Reset": fmt.Sprint(now.Add(40 * time.Second).Unix()), "Date": now.Format(http.TimeFormat),
	}})
	_, err = s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyTwo, plain))
	require.Equal(t, 40*time.Second, failure(t, err).RetryAfter)

	for _, gone := range []string{strings.Replace(s.Case.Sample, `"12"`, `"404"`, 1), strings.Replace(s.Case.Sample, "tools/shop", "missing", 1)} {
		_, err = s.c.Do(t.Context(), s.send(t, gone, keyTwo, plain))
		require.Equal(t, action.CodeNotFound, failure(t, err).Code)
	}
	s.Script(scripted.VendorStep{Status: 201, Body: `{}`})
	_, err = s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyTwo, plain))
	require.Equal(t, action.CodeBroken, failure(t, err).Code, "what is not named was not made for sure")
}

func TestGitLabNote_LooksUntilItKnows(t *testing.T) {
	t.Parallel()
	s := serve(t, "gitlab_note")
	finder, _ := s.c.(action.Finder)
	send := s.send(t, s.Case.Sample, keyOne, plain)
	made, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	for i := range 120 { // more than a page, and some of the first are not shown
		other, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, fmt.Sprintf("%s%d", keyTwo, i), plain))
		require.NoError(t, err)
		if i%10 == 0 {
			s.Hide(other.ID)
		}
	}
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, &made, nearly(found, made.Status), "it is on the second page, behind one that is not full")

	send.Since = time.Now().Add(time.Hour)
	found, err = finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Nil(t, found, "what was written before the first attempt is not looked at")

	send.Since, send.Key = time.Now().Add(-time.Hour), keyTwo
	for name, step := range map[string]scripted.VendorStep{
		"no word of the next page": {Reads: true, Status: 200, Body: `[]`},
		"too many":                 {Reads: true, Status: 200, Body: `[]`, Header: map[string]string{"X-Next-Page": "2"}},
	} {
		s.Script(step, step, step, step, step, step, step, step, step, step)
		found, err = finder.Find(t.Context(), send)
		require.Nil(t, found, name)
		got := failure(t, err)
		require.Equal(t, action.CodeLookup, got.Code, name)
		require.True(t, got.Doubt, name)
	}
}

// nearly is a receipt with the status that another answer had: a lookup's is 200 where the writing's was 201.
func nearly(found *action.Receipt, status int) *action.Receipt {
	if found == nil {
		return nil
	}
	changed := *found
	changed.Status = status
	return &changed
}

func TestGitLabNote_AQuotedMarkIsNotOurs(t *testing.T) {
	t.Parallel()
	s := serve(t, "gitlab_note")
	finder, _ := s.c.(action.Finder)
	send := s.send(t, s.Case.Sample, keyTwo, plain)
	send.Effect.Body = []byte("somebody quotes\n\n<!-- sluice:" + keyOne + " -->\n\nand goes on")
	_, err := s.c.Do(t.Context(), send)
	require.NoError(t, err)
	found, err := finder.Find(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
	require.NoError(t, err)
	require.Nil(t, found)
}

func TestGitLabNote_FindsAnOldOneThatItChanged(t *testing.T) {
	t.Parallel()
	var behind atomic.Int64 // how much the target's clock is
	behind.Store(int64(time.Hour))
	vendor := scripted.NewGitLab(token, func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) })
	base, err := vendor.Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vendor.Close()) })
	s := serve(t, "gitlab_note")
	s.base = base + "/api/v4"
	finder, _ := s.c.(action.Finder)
	sample := strings.Replace(s.Case.Sample, `{`, `{"update": true, `, 1)
	receipt, err := s.c.Do(t.Context(), s.send(t, sample, keyOne, "first"))
	require.NoError(t, err)
	_, err = s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne+"0", "of another automation, later"))
	require.NoError(t, err)
	behind.Store(0)
	send := s.send(t, sample, keyTwo, "second")
	send.Previous = &receipt
	_, err = s.c.Do(t.Context(), send)
	require.NoError(t, err)
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, receipt.ID, found.ID)
}

func TestGitLabNote_FindsWhatItChanged(t *testing.T) {
	t.Parallel()
	s := serve(t, "gitlab_note")
	finder, _ := s.c.(action.Finder)
	sample := strings.Replace(s.Case.Sample, `{`, `{"update": true, `, 1)
	receipt, err := s.c.Do(t.Context(), s.send(t, sample, keyOne, "first"))
	require.NoError(t, err)
	send := s.send(t, sample, keyTwo, "second")
	send.Previous = &receipt
	found, err := finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Nil(t, found)
	s.Script(scripted.VendorStep{Act: true, Cut: true})
	_, err = s.c.Do(t.Context(), send)
	require.True(t, failure(t, err).Doubt)
	found, err = finder.Find(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, receipt.ID, found.ID)
}

func TestGitLabAccount_SaysWhoItIs(t *testing.T) {
	t.Parallel()
	s := serve(t, "gitlab_note")
	account, _ := action.New(devDoor()).Account("gitlab")
	id, err := account.Test(t.Context(), action.Access{Secret: token, Base: s.base}, time.Now())
	require.NoError(t, err)
	require.Equal(t, "project_5_bot_1", id.Actor)
	require.Contains(t, id.Note, "bot")
}
