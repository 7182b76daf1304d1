package api_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

const githubTestToken = "ghp_canary0123456789canary0123456789"

// What GitHub could not deliver is found, asked for, and comes in through the real door.
func TestMissedEventComesInThroughTheDoor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	github := scripted.NewGitHub(scripted.GitHubConfig{
		Hook: "/orgs/octo/hooks/7", Token: githubTestToken, Target: "http://127.0.0.1:1/in/nobody", Secret: "0123456789abcdef", Now: time.Now,
	})
	server := httptest.NewTLSServer(github)
	t.Cleanup(server.Close)
	credential := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "hooks", "kind": "github", "secret": githubTestToken}).is(201).text("id")
	made := b.call(of.admin, "POST", "/v1/endpoints", map[string]any{
		"name": "inbox", "source": "github", "secret": "0123456789abcdef",
		"settings": map[string]any{"redeliver_hook": server.URL + "/orgs/octo/hooks/7", "redeliver_credential_id": credential},
	}).is(201)
	path := "/v1/endpoints/" + made.text("id")
	require.Nil(t, made.get("missed.checked_at"))
	payload := []byte(`{"action":"opened","issue":{"number":1,"updated_at":"2026-01-02T03:04:05Z"},"repository":{"full_name":"octo/demo"}}`)
	lost := github.Deliver(t.Context(), "issues", payload)
	require.Equal(t, http.StatusBadGateway, lost.StatusCode)
	github.Aim(b.url + strings.TrimPrefix(made.text("url"), publicURL))

	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	missed, err := jobs.NewMissed(jobs.MissedConfig{
		DB: b.Worker, Door: outbound.New(outbound.Config{AllowLoopback: true, RootCAs: roots}), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Every: time.Nanosecond,
	})
	require.NoError(t, err)
	require.NoError(t, missed.Look(t.Context()))
	require.NoError(t, missed.Look(t.Context()))

	events := b.call(of.viewer, "GET", "/v1/events?source_event_id="+lost.GUID, nil).is(200).rows()
	require.Len(t, events, 1)
	require.Equal(t, "issues.opened", events[0]["type"])
	for _, shown := range []any{b.call(of.viewer, "GET", path, nil).is(200).get("missed"), b.call(of.viewer, "GET", "/v1/endpoints", nil).is(200).rows()[0]["missed"]} {
		m, ok := shown.(map[string]any)
		require.True(t, ok)
		at, err := time.Parse(time.RFC3339, m["checked_at"].(string))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), at, time.Minute)
		delete(m, "checked_at")
		require.Equal(t, map[string]any{"fault": "", "found": 1.0, "asked": 1.0, "arrived": 1.0}, m)
	}
	posts := 0
	for _, r := range github.Journal() {
		if r.Method == http.MethodPost {
			posts++
		}
	}
	require.Equal(t, 1, posts)
	require.Empty(t, b.call(of.viewer, "GET", "/v1/alerts", nil).is(200).rows())
	_, told := b.endpoint(of).object()["missed"]
	require.False(t, told, "an endpoint that asks for nothing says nothing of it")
}

func TestSettingsOfMissedEventsAreChecked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of, other := b.tenant(), b.tenant()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	keep := func(key, kind, secret string) string {
		return b.call(key, "POST", "/v1/credentials", map[string]any{"name": kind, "kind": kind, "secret": secret}).is(201).text("id")
	}
	token, app := keep(of.admin, "github", githubTestToken), keep(of.admin, "github_app", "4711:"+text)
	openai, foreign := keep(of.admin, "openai", "sk-0123456789abcdef"), keep(other.admin, "github", githubTestToken)
	const repo, org, ofApp = "https://api.github.com/repos/o/r.x/hooks/1", "https://api.github.com/orgs/o_1/hooks/1", "https://api.github.com/app/hook"
	const server = "https://github.example.com/api/v3/repos/o/r/hooks/1"
	const hook, credential = "body.settings.redeliver_hook", "body.settings.redeliver_credential_id"
	for name, c := range map[string]struct {
		key, hook, credential string
		faults                []string
	}{
		"repository":            {of.editor, repo, token, nil},
		"organisation":          {of.editor, org, token, nil},
		"app":                   {of.editor, ofApp, app, nil},
		"GHE.com":               {of.editor, "https://api.octo-corp.ghe.com/orgs/o/hooks/1", token, nil},
		"server, by an admin":   {of.admin, server, token, nil},
		"server, by an editor":  {of.editor, server, token, []string{hook}},
		"almost GitHub":         {of.editor, "https://api.github.com.evil.example/orgs/o/hooks/1", token, []string{hook}},
		"private address":       {of.admin, "https://10.1.2.3/orgs/o/hooks/1", token, []string{hook}},
		"app with a token":      {of.editor, ofApp, token, []string{credential}},
		"repository with a key": {of.editor, repo, app, []string{credential}},
		"another kind":          {of.editor, repo, openai, []string{credential}},
		"another tenant's":      {of.editor, repo, foreign, []string{credential}},
		"nobody's":              {of.editor, repo, "crd_01980000000070008000000000000000", []string{credential}},
		"no id":                 {of.editor, repo, "ghp_token", []string{credential}},
		"no credential":         {of.editor, repo, "", []string{credential}},
		"no hook":               {of.editor, "", token, []string{hook}},
		"both wrong":            {of.admin, "https://192.168.0.1/app/hook", openai, []string{hook, credential}},
		"plain":                 {of.editor, "http://api.github.com/app/hook", app, []string{hook}},
		"query":                 {of.editor, ofApp + "?x=1", app, []string{hook}},
		"empty query":           {of.editor, ofApp + "?", app, []string{hook}},
		"fragment":              {of.editor, ofApp + "#x", app, []string{hook}},
		"user":                  {of.editor, "https://u:p@api.github.com/app/hook", app, []string{hook}},
		"slash at the end":      {of.editor, ofApp + "/", app, []string{hook}},
		"climbs":                {of.editor, "https://api.github.com/repos/o/../hooks/1", token, []string{hook}},
		"escaped":               {of.editor, "https://api.github.com/repos/o/%2e%2e/hooks/1", token, []string{hook}},
		"no number":             {of.editor, "https://api.github.com/orgs/o/hooks/x", token, []string{hook}},
		"another thing":         {of.editor, "https://api.github.com/users/o", token, []string{hook}},
		"web page":              {of.editor, "https://github.com/o/r/settings/hooks/1", token, []string{hook}},
		"control":               {of.editor, ofApp + "\n", app, []string{hook}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := map[string]any{}
			if c.hook != "" {
				settings["redeliver_hook"] = c.hook
			}
			if c.credential != "" {
				settings["redeliver_credential_id"] = c.credential
			}
			got := b.call(c.key, "POST", "/v1/endpoints", map[string]any{"name": "in", "source": "github", "settings": settings})
			if c.faults == nil {
				got.is(201)
				return
			}
			var places []string
			for place := range got.refused(422, "input.invalid").faults() {
				places = append(places, place)
			}
			require.ElementsMatch(t, c.faults, places, "%s", got.body)
			require.NotContains(t, string(got.body), "u:p")
		})
	}
}

func TestCredentialOfMissedEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	keep := func(name string) string {
		return b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": name, "kind": "github", "secret": githubTestToken}).is(201).text("id")
	}
	one, two := keep("one"), keep("two")
	on := func(credential, order string) map[string]any {
		return map[string]any{
			"redeliver_hook": "https://github.example.com/api/v3/orgs/o/hooks/1", "redeliver_credential_id": credential, "order": order,
		}
	}
	made := b.call(of.admin, "POST", "/v1/endpoints", map[string]any{"name": "inbox", "source": "github", "settings": on(one, "none")}).is(201)
	path := "/v1/endpoints/" + made.text("id")
	// An editor changes the rest; where the credential goes, and which, is an admin's.
	b.call(of.editor, "PATCH", path, map[string]any{"settings": on(one, "latest")}).is(200)
	require.Contains(t, b.call(of.editor, "PATCH", path, map[string]any{"settings": on(two, "latest")}).refused(422, "input.invalid").faults(), "body.settings.redeliver_hook")
	b.call(of.admin, "PATCH", path, map[string]any{"settings": on(two, "latest")}).is(200)

	refused := b.call(of.admin, "DELETE", "/v1/credentials/"+two, nil).refused(409, "credential.in_use")
	require.Contains(t, refused.text("detail"), "the endpoint inbox")
	b.call(of.admin, "DELETE", "/v1/credentials/"+one, nil).is(204)
	b.call(of.editor, "PATCH", path, map[string]any{"settings": map[string]any{}}).is(200)
	b.call(of.admin, "DELETE", "/v1/credentials/"+two, nil).is(204)
	for kind, secret := range map[string]string{"github": "with blank", "github_app": "4711:no key"} {
		got := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "a", "kind": kind, "secret": secret}).refused(422, "input.invalid")
		require.Contains(t, got.faults(), "body.secret")
		require.NotContains(t, string(got.body), secret)
	}
}
