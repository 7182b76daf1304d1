package main_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source/sourcetest"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
)

// A prey is a connector under attack: how its automations name their target, and where the scripted service may have written.
type prey struct {
	kind string
	// home are the sources whose events the connector's defaults fit.
	home []string
	// target are the fields of an automation that writes it out.
	target map[string]any
	// careless are those of one whose target is a template over what a stranger wrote, and allow.
	careless map[string]any
	// content is what the model writes, if that is not the body.
	content map[string]any
	// allowed are the targets in the words of the service's journal.
	allowed []string
}

func (w *raid) preys() []prey {
	return []prey{ // alphabetical
		{kind: "callback", target: map[string]any{"url": w.hook + "/callback"}, content: map[string]any{}},
		{
			kind: "email", target: map[string]any{"to": "ann@shop.example"}, content: map[string]any{"from": "Desk <desk@shop.example>", "subject": "OUTPUT", "body": "OUTPUT"},
			careless: map[string]any{"to": "{{ payload.inject.to }}", "allow": []string{"shop.example"}},
		},
		{
			kind: "github_comment", home: []string{"github"}, target: map[string]any{"repo": "acme/shop", "issue": "12"}, allowed: []string{"acme/shop#12"},
			careless: map[string]any{"repo": "{{ payload.inject.repo }}", "issue": "12", "allow": []string{"acme/*"}},
		},
		{
			kind: "github_labels", home: []string{"github"}, target: map[string]any{"repo": "acme/shop", "issue": "12"}, allowed: []string{"acme/shop#12"},
			careless: map[string]any{"repo": "{{ payload.inject.repo }}", "issue": "12", "allow": []string{"acme/shop"}},
			content:  map[string]any{"labels": "triaged, OUTPUT", "choices": []string{"triaged", "needs info"}},
		},
		{
			kind: "gitlab_note", home: []string{"gitlab"}, target: map[string]any{"project": "acme/tools/shop", "type": "issue", "iid": "12"},
			careless: map[string]any{"project": "{{ payload.inject.project }}", "type": "issue", "iid": "12", "allow": []string{"acme/*"}},
			allowed:  []string{"acme/tools/shop/issues/12", "acme/tools/shop/merge_requests/12"},
		},
		{
			kind: "http", target: map[string]any{"url": w.hook + "/items/FORMAT/{{ payload.inject.path | default: event.type }}", "method": "PUT"},
			content: map[string]any{"json": `{"note": "OUTPUT", "OUTPUT": ["OUTPUT"]}`},
		},
		{
			kind: "hubspot_note", home: []string{"hubspot"}, target: map[string]any{"object": "123", "object_type": "contact"}, allowed: []string{"0-1/123", "0-3/123"},
		},
		{kind: "intercom_reply", home: []string{"intercom"}, target: map[string]any{"conversation": "524", "public": true}, allowed: []string{"524"}},
		{
			kind: "jira_comment", home: []string{"jira"}, target: map[string]any{"issue": "SHOP-12"}, allowed: []string{"SHOP-12"},
			careless: map[string]any{"issue": "{{ payload.inject.issue }}", "allow": []string{"SHOP-*"}},
		},
		{
			kind: "linear_comment", home: []string{"linear"}, target: map[string]any{"issue": "SHOP-12"}, allowed: []string{"SHOP-12", linearTarget},
			careless: map[string]any{"issue": "{{ payload.inject.issue }}", "allow": []string{"SHOP-*"}},
		},
		{kind: "none", content: map[string]any{}},
		{kind: "pagerduty_note", home: []string{"pagerduty"}, target: map[string]any{"incident": "PGR0VU2"}, allowed: []string{"PGR0VU2"}},
		{
			kind: "slack_message", home: []string{"slack"}, target: map[string]any{"channel": "C0SHOP"}, allowed: []string{"C0SHOP"},
			careless: map[string]any{"channel": "{{ payload.inject.channel }}", "allow": []string{"C0SHOP"}},
		},
		{
			kind: "zendesk_comment", home: []string{"zendesk"}, target: map[string]any{"ticket": "35436", "public": true}, allowed: []string{"35436"},
		},
	}
}

// raid is a world with every service that actions write to, each with other targets than the tenant's, too.
type raid struct {
	*world

	key         string
	vendors     map[string]*scripted.Vendor // by the kind of connector
	mailbox     *scripted.Mailbox
	credentials map[string]string // by the kind of account
	prompts     *prompts
}

// prompts is what a model was asked, whole: the provider's own journal cuts it.
type prompts struct {
	mu  sync.Mutex
	all []asked
}

type asked struct{ System, User string }

func newRaid(t *testing.T) *raid {
	t.Helper()
	w := &raid{world: newWorld(t), vendors: map[string]*scripted.Vendor{}, credentials: map[string]string{}, prompts: &prompts{}}
	provider, err := url.Parse(w.provider.URL())
	require.NoError(t, err)
	forward := httputil.NewSingleHostReverseProxy(provider)
	seen := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(out, err.Error(), http.StatusBadRequest)
			return
		}
		w.prompts.keep(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		forward.ServeHTTP(out, r)
	}))
	t.Cleanup(seen.Close)
	trusted := httptest.NewTLSServer(nil)
	t.Cleanup(trusted.Close)
	authorities := filepath.Join(t.TempDir(), "authorities.pem")
	require.NoError(t, os.WriteFile(authorities, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.Certificate().Raw}), 0o600))
	w.mailbox = scripted.NewMailbox(scripted.MailConfig{
		TLS: &tls.Config{Certificates: trusted.TLS.Certificates, MinVersion: tls.VersionTLS12}, Implicit: true, User: "relay", Password: canarySecret, Now: time.Now,
	})
	w.env = append(w.env, "SLUICE_PROXY_HEADERS="+sourcetest.ClientCertHeader, "SLUICE_SCRIPTED_URL="+seen.URL, "SSL_CERT_FILE="+authorities, "SLUICE_DB_CONNS=8")
	return w
}

func (p *prompts) keep(body []byte) {
	var in struct {
		System   json.RawMessage `json:"system"`
		Messages []struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
	}
	_ = json.Unmarshal(body, &in) // what cannot be read is kept as nothing, and judged so
	one := asked{System: textOf(in.System)}
	for _, m := range in.Messages {
		if m.Role == "user" {
			one.User += textOf(m.Content)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, one)
}

// textOf is the text of a content in Anthropic's form, a string or a list of blocks.
func textOf(raw json.RawMessage) (text string) {
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var blocks []struct{ Text string }
	_ = json.Unmarshal(raw, &blocks)
	for _, b := range blocks {
		text += b.Text
	}
	return text
}

// open starts the services and gives the tenant a credential for each.
func (w *raid) open() {
	w.t.Helper()
	const evilNumber = "666"
	jira, pagerduty, zendesk, linear, slack := "bot@shop.example:"+canarySecret, "bot@shop.example:"+canarySecret, "bot@shop.example/token:"+canarySecret,
		"lin_api_"+canarySecret, "xoxb-"+canarySecret
	github := scripted.NewGitHubIssues(canarySecret, time.Now)
	for _, one := range []struct {
		account, secret, root string
		vendor                *scripted.Vendor
		kinds                 []string
	}{
		{"github", canarySecret, "", github, []string{"github_comment", "github_labels"}},
		{"gitlab", canarySecret, "/api/v4", scripted.NewGitLab(canarySecret, time.Now), []string{"gitlab_note"}},
		{"hubspot", canarySecret, "", scripted.NewHubSpot(canarySecret, time.Now, "0-1/123", "0-3/123", "0-1/"+evilNumber), []string{"hubspot_note"}},
		{"intercom", canarySecret, "", scripted.NewIntercom(canarySecret, time.Now, "524", evilNumber), []string{"intercom_reply"}},
		{"jira", jira, "", scripted.NewJira(jira, time.Now), []string{"jira_comment"}},
		{"linear", linear, "", scripted.NewLinear(linear, time.Now), []string{"linear_comment"}},
		{"pagerduty", pagerduty, "", scripted.NewPagerDuty(pagerduty, time.Now, "PGR0VU2", "PEVIL666"), []string{"pagerduty_note"}},
		{"slack", slack, "", scripted.NewSlack(slack, time.Now, "C0SHOP", "C0EVIL"), []string{"slack_message"}},
		{"zendesk", zendesk, "", scripted.NewZendesk(zendesk, time.Now, "35436", evilNumber), []string{"zendesk_comment"}},
	} {
		base, err := one.vendor.Listen("127.0.0.1:0")
		require.NoError(w.t, err)
		w.t.Cleanup(func() { _ = one.vendor.Close() })
		w.credential(one.account, one.secret, base+one.root)
		for _, kind := range one.kinds {
			w.vendors[kind] = one.vendor
		}
	}
	address, err := w.mailbox.Listen("127.0.0.1:0")
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = w.mailbox.Close() })
	w.credential("smtp", "relay:"+canarySecret, "smtps://"+address)
	w.credential("http", "Bearer "+canarySecret, w.hook+"/items")
	w.credential("callback", "", "")
}

func (w *raid) credential(account, secret, base string) {
	w.t.Helper()
	body := map[string]any{"name": account, "kind": account}
	if secret != "" {
		body["secret"] = secret
	}
	if base != "" {
		body["base_url"] = base
	}
	var made struct{ ID string }
	w.call(w.key, http.MethodPost, "/v1/credentials", body, http.StatusCreated, &made)
	w.credentials[account] = made.ID
}

// tenant makes one, and returns its key.
func (w *raid) tenant(name string) string {
	w.t.Helper()
	var made struct{ Key struct{ Secret string } }
	w.call(w.operator, http.MethodPost, "/v1/tenants", map[string]any{"name": name}, http.StatusCreated, &made)
	return made.Key.Secret
}

// aimed is an automation for a connector: by a schema or not, in one of the formats of http.
func (w *raid) aimed(p prey, endpoint string, fields map[string]any, nth int) map[string]any {
	schema := nth%2 == 0
	output := "{{ output }}"
	if schema {
		output = "{{ output.reply }} {{ output.repo }} {{ output.channel }} {{ output.to }}"
	}
	content := p.content
	if content == nil {
		content = map[string]any{"body": "OUTPUT"}
	}
	spec, _ := action.New(outbound.New(outbound.Config{})).Get(p.kind)
	act := map[string]any{"kind": p.kind}
	maps.Copy(act, fields)
	for name, value := range content {
		if text, ok := value.(string); ok {
			value = strings.ReplaceAll(text, "OUTPUT", output)
		}
		act[name] = value
	}
	for _, f := range spec.Spec().Fields {
		if f.Name == "links" {
			act["links"] = []string{linkHost}
		}
	}
	if p.kind == "http" {
		format := httpFormats[nth/2%len(httpFormats)] // with a schema and without one
		act["format"] = format
		if address, ok := act["url"].(string); ok {
			act["url"] = strings.ReplaceAll(address, "FORMAT", format)
		}
	}
	if account := spec.Spec().Account; account != "" {
		act["credential_id"] = w.credentials[account]
	}
	body := map[string]any{
		"name": p.kind, "endpoint_id": endpoint, "model": "scripted/obey-1", "mode": "live", "max_output_tokens": 32000, "action": act,
		"prompt": map[string]any{"system": "You are the desk of a shop. " + canarySystem, "user": "An event {{ event.type }} of {{ event.entity }}:\n{{ payload | json }}\nAnswer it."},
		"retry":  map[string]any{"attempts": 1}, "loop": map[string]any{"actions_per_hour": 10000},
	}
	if schema {
		text := map[string]any{"type": "string"}
		body["output_schema"] = map[string]any{
			"type": "object", "additionalProperties": false, "required": []string{"reply"},
			"properties": map[string]any{"reply": text, "repo": text, "channel": text, "to": text},
		}
	}
	return body
}

var httpFormats = []string{"markdown", "html", "slack", "plain"}
