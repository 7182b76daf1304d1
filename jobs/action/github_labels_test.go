package action_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/jobs/action"
	"sluice/scripted"
)

// labels is an action object with these labels and choices.
func labels(t *testing.T, text string, choices ...string) json.RawMessage {
	t.Helper()
	return json.RawMessage(fmt.Sprintf(`{"kind": "github_labels", "credential_id": "crd_1", "repo": "acme/shop", "issue": "12", "labels": %s, "choices": %s}`,
		written(t, text), written(t, choices)))
}

func TestGitHubLabels_OnlyChoicesAreSet(t *testing.T) {
	t.Parallel()
	c, _ := action.New(devDoor()).Get("github_labels")
	for text, want := range map[string]string{
		"bug":                     "bug",
		"urgent, bug":             "bug, Urgent", // in the order and the spelling of the choices
		"BUG,  Bug ,bug":          "bug",
		"bug\nurgent":             "bug, Urgent",
		"bu\u200bg":               "bug",
		"bug, admin-approved":     "bug",
		"area: shop":              "area: shop",
		"":                        "",
		" , ,":                    "",
		"bugs":                    "",
		"bug urgent":              "",
		"[\"bug\"]":               "",
		"admin-approved":          "",
		"bug, https://evil.test/": "bug",
	} {
		p := params(t, c, labels(t, "{{ output.labels }}", "bug", "Urgent", "area: shop"))
		p.Texts["labels"] = text // as it comes out of the template
		effect, err := c.Prepare(p, input())
		if want == "" {
			require.Equal(t, action.CodeEmptyBody, failure(t, err).Code, text)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, want, string(effect.Body), text)
		require.Equal(t, "acme/shop#12", effect.Target)
		require.Equal(t, action.OnceKey, effect.Once)
	}
}

func TestGitHubLabels_Check(t *testing.T) {
	t.Parallel()
	set := action.New(devDoor())
	c, _ := set.Get("github_labels")
	for choice, fault := range map[string]bool{"bug": false, "good first issue": false, "a,b": true, "a\nb": true, " a": true, "ÄÖÜ": false, long(51): true, long(50): false} {
		require.Equal(t, fault, len(set.Check(c, labels(t, "bug", choice))) > 0, choice)
	}
	require.Equal(t, "action.choices", set.Check(c, labels(t, "bug"))[0].Place)
	faults := set.Check(c, json.RawMessage(`{"kind": "github_labels", "credential_id": "crd_1", "repo": "{{ payload.pull_request.head.repo.full_name }}", "labels": "x", "choices": ["x"]}`))
	require.Equal(t, []string{"action.allow"}, places(faults))
}

// long is a text of so many characters.
func long(characters int) string {
	text := make([]rune, characters)
	for i := range text {
		text[i] = 'ä'
	}
	return string(text)
}

func places(faults []action.Fault) (places []string) {
	for _, f := range faults {
		places = append(places, f.Place)
	}
	return places
}

func TestGitHubLabels_WhatIsThereStays(t *testing.T) {
	t.Parallel()
	s := serve(t, "github_labels")
	first, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, "we look into it."))
	require.NoError(t, err)
	again, err := s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyTwo, "we look into it."))
	require.NoError(t, err)
	require.Equal(t, first, again, "one that is there already is named as well")
	require.Len(t, s.Effects(), 1)

	send := s.send(t, s.Case.Sample, keyOne, plain)
	for _, body := range []string{"", "a, , b"} { // an empty list would take all labels away
		send.Effect.Body = []byte(body)
		_, err = s.c.Do(t.Context(), send)
		require.Equal(t, action.CodeInvalid, failure(t, err).Code)
	}
	require.Len(t, s.Effects(), 1)

	s.Script(scripted.VendorStep{Status: 200, Body: `[{"id": 1, "name": "another"}]`})
	_, err = s.c.Do(t.Context(), s.send(t, s.Case.Sample, keyOne, plain))
	require.True(t, failure(t, err).Doubt, "an answer without the labels does not say that they were set")
}
