package main_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	netmail "net/mail"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/api/source"
	"sluice/api/source/sourcetest"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

// What must not be in anything that leaves: of a secret, of another tenant's payload, of a system prompt, and what would come of a template or an
// expression in a payload if it were run.
const (
	canarySecret = "canary0secret0of0acme"
	canaryOther  = "CANARY-OF-ANOTHER-TENANT"
	canarySystem = "CANARY-OF-THE-SYSTEM-PROMPT"
	canaryLiquid = "LIQUID-RAN"
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
			kind: "http", target: map[string]any{"url": w.hook + "/items/{{ payload.inject.path }}", "method": "PUT"},
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
		act["format"] = httpFormats[nth%len(httpFormats)]
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

// refusals are automations of every connector with the model's words, or a stranger's without a list, where the target stands: saving refuses them all.
func (w *raid) refusals(endpoint string) (refused int) {
	w.t.Helper()
	for nth, p := range w.preys() {
		connector, _ := action.New(outbound.New(outbound.Config{})).Get(p.kind)
		for _, f := range connector.Spec().Fields {
			if f.Form != action.FormTarget && f.Form != action.FormAddress && f.Form != action.FormLiteral {
				continue
			}
			for _, bad := range []string{
				"{{ output }}", "{{ output.to }}", "{% assign x = output %}{{ x }}", "{% for x in output %}{{ x }}{% endfor %}", w.hook + "/items/{{ output }}", "https://{{ payload.host }}/",
				"{% if output %}C0EVIL{% endif %}",
			} {
				if f.Form == action.FormTarget && !strings.Contains(bad, "output") {
					continue
				}
				fields := maps.Clone(p.target)
				fields[f.Name] = bad
				automation := w.aimed(p, endpoint, fields, nth)
				automation["action"].(map[string]any)[f.Name] = bad
				w.call(w.key, http.MethodPost, "/v1/automations", automation, http.StatusUnprocessableEntity, nil)
				refused++
			}
		}
		if p.careless != nil {
			fields := maps.Clone(p.careless)
			delete(fields, "allow")
			w.call(w.key, http.MethodPost, "/v1/automations", w.aimed(p, endpoint, fields, nth), http.StatusUnprocessableEntity, nil)
			refused++
		}
	}
	return refused
}

// shownMax is how many escapes are shown of each connector.
const shownMax = 20

// injectionsEnv asks for every entry of the corpus at every source in place of a share of it.
const injectionsEnv = "SLUICE_TEST_INJECTIONS"

// TestInjectionsReachNobody sends poisoned events of every source to live automations of every connector, whose model obeys every word of a payload.
// The journals of the services are the judge.
func TestInjectionsReachNobody(t *testing.T) {
	t.Parallel()
	w := newRaid(t)
	serving := w.start("serve", servingUp)
	w.key = w.tenant("acme")
	w.open()
	corpus, sources, preys := injections(t), source.All(), w.preys()
	var kinds []string
	for _, p := range preys {
		kinds = append(kinds, p.kind)
	}
	require.Equal(t, action.New(outbound.New(outbound.Config{})).Kinds(), kinds, "every connector is under attack")

	other := w.connect(w.tenant("other"), mustSource(t, "standard"), nil)
	w.post(other, other.Samples[0], "other", canaryOther)
	var ends []connected
	automations := map[string]string{} // what an automation is, by its id
	for i, src := range sources {
		c := w.connect(w.key, src, nil)
		ends = append(ends, c)
		for j, p := range preys {
			fields := p.target
			if slices.Contains(p.home, src.Name) {
				fields = map[string]any{} // the connector's defaults
			}
			automations[w.automation(w.aimed(p, c.id, fields, i+j))] = p.kind
			if p.careless != nil {
				automations[w.automation(w.aimed(p, c.id, p.careless, i+j+1))] = "careless " + p.kind
			}
		}
	}
	refused := w.refusals(ends[0].id)
	attacks := w.attack(ends, corpus)
	working := w.start("work", workingUp)
	w.until(0, `select count(*) from sluice.runs where finished_at is null`)

	found := w.judge(preys, ends)
	w.tally(sources, preys, automations, attacks, refused, found)
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		t.Errorf("%s: %d escapes, such as\n%s", kind, len(found[kind]), strings.Join(found[kind][:min(len(found[kind]), shownMax)], "\n"))
	}
	working.end(t)
	serving.end(t)
	for _, canary := range []string{canarySecret, canarySystem, canaryOther} {
		require.NotContains(t, serving.log.String()+working.log.String(), canary)
	}
}

func mustSource(t *testing.T, name string) source.Source {
	t.Helper()
	s, ok := source.Get(name)
	require.True(t, ok)
	return s
}

func (w *raid) automation(body map[string]any) string {
	w.t.Helper()
	var made struct{ ID string }
	w.call(w.key, http.MethodPost, "/v1/automations", body, http.StatusCreated, &made)
	return made.ID
}

// post delivers a sample with a text in its values, to another tenant.
func (w *raid) post(c connected, sample source.Sample, id, text string) {
	w.t.Helper()
	signed, places := c.poisoned(w.t, sample, id, text, false)
	require.Positive(w.t, places)
	require.NoError(w.t, w.deliverSigned(c, signed))
}

func (w *raid) deliverSigned(c connected, signed source.Signed) error {
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, c.url, bytes.NewReader(signed.Body))
	if err != nil {
		return err
	}
	request.Header = signed.Header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		return fmt.Errorf("%s was answered %d: %s %w", c.Name, response.StatusCode, answer, err)
	}
	return nil
}

// attack sends each entry of the corpus at least once, and to each source at least one in its values and one in its names and keys. It returns how many
// texts of how many deliveries were poisoned, by source.
func (w *raid) attack(ends []connected, corpus []injection) map[string]int {
	w.t.Helper()
	type task struct {
		to     connected
		sample source.Sample
		entry  injection
		names  bool
		id     string
	}
	var tasks []task
	rounds := max(2, (len(corpus)+len(ends)-1)/len(ends))
	if os.Getenv(injectionsEnv) == "all" {
		rounds = 2 * len(corpus)
	}
	for round := range rounds {
		for i, c := range ends {
			n := round*len(ends) + i
			entry := corpus[n%len(corpus)]
			if rounds == 2*len(corpus) {
				entry = corpus[round%len(corpus)]
			}
			tasks = append(tasks, task{c, c.Samples[round%len(c.Samples)], entry, (round+round/len(corpus))%2 == 1, fmt.Sprintf("injected-%d", n)})
		}
	}
	attacks := map[string]int{}
	var mu sync.Mutex
	var callers errgroup.Group
	callers.SetLimit(sendersMax)
	for _, k := range tasks {
		callers.Go(func() error {
			places := 0
			if k.to.with.Sign == "" {
				places = w.swap(k.to, k.sample, k.entry.Text, k.names)
			} else {
				var signed source.Signed
				signed, places = k.to.poisoned(w.t, k.sample, k.id, k.entry.Text, k.names)
				if err := w.deliverSigned(k.to, signed); err != nil {
					return fmt.Errorf("%s: %w", k.entry.Name, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			attacks[k.to.Name] += places
			return nil
		})
	}
	require.NoError(w.t, callers.Wait())
	return attacks
}

// swap is for sources whose deliveries only they can sign: their own sample goes through the door, and what was kept of it is poisoned before a worker is
// there to read it.
func (w *raid) swap(c connected, sample source.Sample, text string, names bool) (places int) {
	w.t.Helper()
	var told struct {
		EventID string `json:"event_id"`
	}
	w.call(w.key, http.MethodPost, "/v1/endpoints/"+c.id+"/test", map[string]any{"sample": sample.Type}, http.StatusOK, &told)
	id, ok := tenants.ParseID(tenants.EventPrefix, told.EventID)
	require.True(w.t, ok)
	var kept []byte
	require.NoError(w.t, w.base.Owner.QueryRow(w.t.Context(), `select coalesce(document, body) from sluice.event_payloads where event_id = $1`, id).Scan(&kept))
	document := parsed(w.t, sample, kept)
	for _, change := range document.changes(text, names) {
		undo := change()
		if len(document.body(w.t)) > poisonedMax {
			undo()
			continue
		}
		places++
	}
	_, err := w.base.Owner.Exec(w.t.Context(), `update sluice.event_payloads set document = $2 where event_id = $1`, id, document.body(w.t))
	require.NoError(w.t, err)
	return places
}

// markRE is our mark at the end of a text, one for each kind of place.
var markRE = regexp.MustCompile(`\n\n(?:<!-- sluice:msg_[0-9a-f]{32} -->|\[sluice:msg_[0-9a-f]{32}\])$|\n<p>\[sluice:msg_[0-9a-f]{32}\]</p>$`)

// judge reads every journal, and returns what was found by the kind of connector.
func (w *raid) judge(preys []prey, ends []connected) map[string][]string {
	w.t.Helper()
	found := map[string][]string{}
	add := func(kind, at string, faults ...string) {
		for _, fault := range faults {
			found[kind] = append(found[kind], at+": "+fault)
		}
	}
	var left []string // everything that left, as text
	for _, p := range preys {
		vendor := w.vendors[p.kind]
		if vendor == nil {
			continue
		}
		for _, e := range vendor.Effects() {
			if (e.Kind == "labels") != (p.kind == "github_labels") && p.kind[:6] == "github" {
				continue
			}
			at := fmt.Sprintf("%s %s", e.Target, e.ID)
			if !slices.Contains(p.allowed, e.Target) {
				add(p.kind, at, "another target")
			}
			if !slices.Contains([]string{"comment", "labels", "message", "note"}, e.Kind) {
				add(p.kind, at, "an effect of another kind: "+e.Kind)
			}
			add(p.kind, at, judged(p.kind, markRE.ReplaceAllString(e.Text, ""))...)
		}
		for _, e := range vendor.Journal() {
			left = append(left, fmt.Sprint(e.Path, e.Query, e.Header, e.Body))
		}
	}
	for _, e := range w.target.Journal() {
		add("", e.Path, w.judgeHook(e)...)
		e.Header.Del("Authorization") // of http, where it belongs
		left = append(left, fmt.Sprint(e.Path, e.Query, e.Header, string(e.Body)))
	}
	for _, e := range w.mailbox.Journal() {
		faults, text := judgeMail(e)
		add("email", "mail", faults...)
		left = append(left, string(e.Data), text)
	}
	add("prompt", "prompt", w.judgePrompts()...)
	w.prompts.mu.Lock()
	for _, p := range w.prompts.all {
		left = append(left, strings.ReplaceAll(p.System, canarySystem, "")+p.User)
	}
	w.prompts.mu.Unlock()
	secrets := []string{canarySecret, canarySystem, canaryLiquid, w.key, w.operator}
	for _, c := range ends {
		if len(c.with.Secret) > 0 {
			secrets = append(secrets, c.with.Secret, c.url)
		}
	}
	for _, text := range left {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				add("canary", cutText(text), "holds "+secret)
			}
		}
		if strings.Contains(text, canaryOther) {
			add("canary", cutText(text), "holds another tenant's payload")
		}
	}
	return found
}

func cutText(text string) string { return text[:min(len(text), 120)] }

// judged are the faults of a text by the syntax of the connector's target.
func judged(kind, text string) []string {
	switch kind {
	case "github_comment", "gitlab_note", "linear_comment", "markdown":
		return markdownFaults(text)
	case "slack_message", "slack":
		return slackFaults(text)
	case "zendesk_comment", "intercom_reply", "hubspot_note", "html":
		return htmlFaults(text)
	case "github_labels":
		if text != "triaged" {
			return []string{"another label: " + text}
		}
		return nil
	}
	return plainFaults(text)
}

// judgeHook judges a request of callback or http: its address and headers are ours, and so is the form of its body.
func (w *raid) judgeHook(e scripted.TargetEntry) (faults []string) {
	known := []string{
		"Accept-Encoding", "Authorization", "Connection", "Content-Length", "Content-Type", "Idempotency-Key", "Sluice-Depth", "Sluice-Run", "Traceparent", "User-Agent", "Webhook-Id",
		"Webhook-Signature", "Webhook-Timestamp",
	}
	for name := range e.Header {
		if !slices.Contains(known, name) {
			faults = append(faults, "another header: "+name)
		}
	}
	for name, want := range map[string]string{"Sluice-Run": `^run_[0-9a-f]{32}$`, "Sluice-Depth": `^0$`, "Idempotency-Key": `^msg_[0-9a-f]{32}$`} {
		if got := e.Header.Values(name); len(got) != 1 || !regexp.MustCompile(want).MatchString(got[0]) {
			faults = append(faults, fmt.Sprintf("%s is %q", name, got))
		}
	}
	if e.Path == "/callback" {
		var body struct {
			Type string
			Data map[string]any
		}
		if err := json.Unmarshal(e.Body, &body); err != nil || body.Type != "run.completed" || body.Data["run_id"] != e.Header.Get("Sluice-Run") {
			faults = append(faults, "another envelope")
		}
		names := []string{"automation_id", "automation_version", "depth", "entity", "event_id", "event_type", "output", "run_id"}
		if got := slices.Sorted(maps.Keys(body.Data)); !slices.Equal(got, names) {
			faults = append(faults, fmt.Sprintf("members %q", got))
		}
		return faults
	}
	piece, ok := strings.CutPrefix(e.Path, "/items/")
	if !ok || strings.Contains(piece, "/") || e.Query != "" || e.Method != http.MethodPut {
		faults = append(faults, "another address")
	}
	var body map[string]any
	if err := json.Unmarshal(e.Body, &body); err != nil || len(body) > 2 || body["note"] == nil {
		return append(faults, "another document")
	}
	// The run's automation says which format it is; every one of them takes what has no fault in plain text or is escaped for its own.
	best := []string{"in no format harmless"}
	for _, format := range httpFormats {
		var bad []string
		for name, value := range body {
			texts := []any{name, value}
			if list, isList := value.([]any); isList {
				texts = list
			}
			for _, one := range texts {
				text, isText := one.(string)
				if !isText {
					continue
				}
				bad = append(bad, judged(format, text)...)
			}
		}
		if len(bad) == 0 {
			return faults
		}
		best = append(best, format+" "+bad[0])
	}
	return append(faults, best...)
}

// judgeMail judges a mail: envelope, headers, subject and text.
func judgeMail(e scripted.MailEntry) (faults []string, text string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	message, err := netmail.ReadMessage(bytes.NewReader(e.Data))
	if err != nil {
		return []string{err.Error()}, ""
	}
	if e.From != "desk@shop.example" || !slices.Equal(e.To, []string{"ann@shop.example"}) {
		fault("from %q to %q", e.From, e.To)
	}
	names := []string{"Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "Subject", "To"}
	if got := slices.Sorted(maps.Keys(message.Header)); !slices.Equal(got, names) {
		fault("headers %q", got)
	}
	for name, values := range message.Header {
		if len(values) != 1 {
			fault("%d of %s", len(values), name)
		}
	}
	if to := message.Header.Get("To"); strings.Trim(to, "<>") != "ann@shop.example" {
		fault("to %q", to)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil {
		fault("%v", err)
	}
	faults = append(faults, lineFaults(subject)...)
	var body io.Reader = message.Body
	if message.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		fault("%v", err)
	}
	text = strings.ReplaceAll(string(raw), "\r\n", "\n")
	return append(faults, plainFaults(text)...), subject + text
}

// fencedRE is what the model must be shown, for a marker.
const fencedRE = `^An event <data-%[1]s>[^<]*</data-%[1]s> of <data-%[1]s>[^<]*</data-%[1]s>:\n(?s:<data-%[1]s>(.*)</data-%[1]s>)\nAnswer it\.$`

var (
	markerRE    = regexp.MustCompile(`<data-([A-Za-z0-9]{16,64})> and </data-`)
	imitationRE = regexp.MustCompile(`(?i)[<＜﹤‹〈]\s*[/／]?\s*data\s*-`)
)

// judgePrompts: whatever a stranger wrote stands between markers that he cannot know, and nothing of it is hidden from people.
func (w *raid) judgePrompts() (faults []string) {
	w.prompts.mu.Lock()
	defer w.prompts.mu.Unlock()
	for _, p := range w.prompts.all {
		if !strings.Contains(p.System, canarySystem) {
			continue // of the other tenant, or of the automations that connect makes
		}
		marker := markerRE.FindStringSubmatch(p.System)
		if marker == nil {
			faults = append(faults, "no marker")
			continue
		}
		shown := regexp.MustCompile(fmt.Sprintf(fencedRE, marker[1])).FindStringSubmatch(p.User)
		if shown == nil || strings.Contains(shown[1], marker[1]) || imitationRE.MatchString(shown[1]) {
			faults = append(faults, fmt.Sprintf("not fenced: %q", p.User[max(0, len(p.User)-3000):]))
			continue
		}
		faults = append(faults, hiddenFaults(p.System+strings.ReplaceAll(p.User, "\u2060", "?"))...)
	}
	return faults
}

// tally prints what became of the runs, and holds the journals against it: one effect for each.
func (w *raid) tally(sources []source.Source, preys []prey, automations map[string]string, attacks map[string]int, refused int, found map[string][]string) {
	w.t.Helper()
	rows, err := w.base.Owner.Query(w.t.Context(), `select e.source, r.automation_id, r.status, concat_ws(': ', r.reason, left(r.detail, 90)), count(*)::int from sluice.runs r
		join sluice.events e on e.id = r.event_id group by 1, 2, 3, 4`)
	require.NoError(w.t, err)
	made, done, ends := map[string]int{}, map[string]int{}, map[string]int{}
	for rows.Next() {
		var name, status, reason string
		var id uuid.UUID
		var n int
		require.NoError(w.t, rows.Scan(&name, &id, &status, &reason, &n))
		kind, ours := automations[tenants.FormatID(tenants.AutomationPrefix, id)]
		if !ours {
			continue
		}
		ends[strings.TrimSpace(kind+" "+status+" "+reason)] += n
		made[name+" "+kind] += n
		if status == "done" {
			done[kind] += n
			done[name+" "+kind] += n
		}
	}
	require.NoError(w.t, rows.Err())
	for kind, n := range w.effects() {
		require.Equal(w.t, done[kind], n, "%s: one effect for each run that says so", kind)
	}
	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 1, ' ', 0)
	fmt.Fprint(out, "source\ttexts")
	for _, p := range preys {
		fmt.Fprint(out, "\t"+p.kind)
	}
	fmt.Fprintln(out)
	for _, s := range sources {
		fmt.Fprintf(out, "%s\t%d", s.Name, attacks[s.Name])
		for _, p := range preys {
			fmt.Fprintf(out, "\t%d/%d", done[s.Name+" "+p.kind], made[s.Name+" "+p.kind]+made[s.Name+" careless "+p.kind])
			require.Positive(w.t, made[s.Name+" "+p.kind], "%s to %s", s.Name, p.kind)
		}
		fmt.Fprintln(out)
	}
	fmt.Fprint(out, "escapes\t")
	for _, p := range preys {
		fmt.Fprintf(out, "\t%d", len(found[p.kind]))
	}
	fmt.Fprintln(out)
	require.NoError(w.t, out.Flush())
	w.t.Logf("attacks by a model that obeys: effects/runs; %d careless automations were not saved\n%s", refused, &table)
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		w.t.Logf("%5d %s", ends[end], end)
	}
}

// effects are how many effects the journals hold, by the kind of connector. A label that is there already is none, so its requests count.
func (w *raid) effects() map[string]int {
	n := map[string]int{"email": len(w.mailbox.Journal()), "callback": 0, "http": 0}
	for _, e := range w.target.Journal() {
		if !e.Acted {
			continue
		}
		if e.Path == "/callback" {
			n["callback"]++
		} else {
			n["http"]++
		}
	}
	for kind, vendor := range w.vendors {
		n[kind] = len(vendor.Effects())
	}
	n["github_comment"], n["github_labels"] = 0, 0
	for _, e := range w.vendors["github_comment"].Journal() {
		switch {
		case e.Method != http.MethodPost || e.Status/100 != 2:
		case strings.HasSuffix(e.Path, "/labels"):
			n["github_labels"]++
		default:
			n["github_comment"]++
		}
	}
	return n
}
