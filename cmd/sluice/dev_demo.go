package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

// The demo goes through the contract, as any tenant's engineer would: what works here works there.

// demoWait bounds the wait for the demo's runs.
const demoWait = 15 * time.Second

// apiClient speaks to the API with one key.
type apiClient struct {
	base, key string
	http      *http.Client
}

// apiFault is an answer that is no success.
type apiFault struct {
	status int
	body   string
}

func (f *apiFault) Error() string { return fmt.Sprintf("answered %d: %s", f.status, f.body) }

// call makes one request; in and out may be nil.
func (c apiClient) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.Header.Set("Authorization", "Bearer "+c.key)
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	const answerMax = 4 << 20
	answer, err := io.ReadAll(io.LimitReader(response.Body, answerMax))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %w", method, path, &apiFault{response.StatusCode, strings.TrimSpace(string(answer))})
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}

func (d *dev) client(key string) apiClient {
	return apiClient{base: d.env.URL, key: key, http: &http.Client{Timeout: demoWait}}
}

// startDemo finds the demo tenant of an earlier start, or makes it.
func (d *dev) startDemo(ctx context.Context) error {
	earlier := d.earlier
	if earlier.Key != "" && d.client(earlier.Key).call(ctx, http.MethodGet, "/v1/tenant", nil, nil) == nil {
		return d.goOn(ctx, earlier)
	}
	if err := d.operatorKey(ctx); err != nil {
		return err
	}
	return d.makeDemo(ctx)
}

// goOn takes up the tenant of an earlier start; what moved since is told to it.
func (d *dev) goOn(ctx context.Context, earlier devEnv) error {
	now := d.env
	d.env = earlier
	d.env.URL, d.env.MetricsURL, d.env.Model, d.env.OwnerDatabaseURL = now.URL, now.MetricsURL, now.Model, now.OwnerDatabaseURL
	d.env.TargetURL, d.env.ProviderURL = now.TargetURL, now.ProviderURL
	d.env.GitHubAPIURL, d.env.GitHubToken = now.GitHubAPIURL, now.GitHubToken
	d.env.StripeURL, d.env.GitHubURL = moved(earlier.StripeURL, now.URL), moved(earlier.GitHubURL, now.URL)
	d.say("The demo tenant of the last start goes on: %s", d.env.TenantID)
	return errors.Join(d.moveGitHub(ctx, earlier.GitHubAPIURL), d.moveTarget(ctx, earlier.TargetURL))
}

// moveGitHub tells the credentials where the scripted GitHub is now.
func (d *dev) moveGitHub(ctx context.Context, from string) error {
	if from == "" || from == d.env.GitHubAPIURL {
		return nil
	}
	c := d.client(d.env.Key)
	var list struct {
		Data []struct {
			ID      string `json:"id"`
			BaseURL string `json:"base_url"`
		} `json:"data"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/credentials?limit=200", nil, &list); err != nil {
		return err
	}
	for _, credential := range list.Data {
		if credential.BaseURL != from {
			continue
		}
		if err := c.call(ctx, http.MethodPatch, "/v1/credentials/"+credential.ID, map[string]any{"base_url": d.env.GitHubAPIURL}, nil); err != nil {
			return err
		}
	}
	return nil
}

// moveTarget tells the automations where the target of callbacks is now.
func (d *dev) moveTarget(ctx context.Context, from string) error {
	if from == "" || from == d.env.TargetURL {
		return nil
	}
	c := d.client(d.env.Key)
	var list struct {
		Data []struct {
			ID     string         `json:"id"`
			Action map[string]any `json:"action"`
		} `json:"data"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/automations?limit=200", nil, &list); err != nil {
		return err
	}
	for _, a := range list.Data {
		url, _ := a.Action["url"].(string)
		rest, ok := strings.CutPrefix(url, from)
		if !ok {
			continue
		}
		a.Action["url"] = d.env.TargetURL + rest
		if err := c.call(ctx, http.MethodPatch, "/v1/automations/"+a.ID, map[string]any{"action": a.Action}, nil); err != nil {
			return err
		}
	}
	return nil
}

// moved is a URL of an endpoint under another base.
func moved(url, base string) string {
	if _, token, ok := strings.Cut(url, "/in/"); ok {
		return base + "/in/" + token
	}
	return url
}

// operatorKey makes a key of the operator, as `sluice operator-key` does.
func (d *dev) operatorKey(ctx context.Context) error {
	key, err := tenants.NewKey(true)
	if err != nil {
		return err
	}
	d.env.OperatorKey = key.Reveal()
	return asSystem(ctx, &d.config, func(tx db.SystemTx) error {
		_, err := tx.OperatorKeyInsert(ctx, "dev", key)
		return err
	})
}

// makeDemo makes the tenant, its credential, two endpoints and two automations.
func (d *dev) makeDemo(ctx context.Context) error {
	var made struct {
		Tenant struct{ ID string }
		Key    struct{ Secret string }
	}
	if err := d.client(d.env.OperatorKey).call(ctx, http.MethodPost, "/v1/tenants", map[string]any{"name": "Demo"}, &made); err != nil {
		return err
	}
	d.env.TenantID, d.env.Key = made.Tenant.ID, made.Key.Secret
	c := d.client(d.env.Key)
	var credential struct{ ID string }
	if err := c.call(ctx, http.MethodPost, "/v1/credentials", map[string]any{"name": "demo callback", "kind": "callback"}, &credential); err != nil {
		return err
	}
	action := func(path string) map[string]any {
		return map[string]any{"kind": "callback", "url": d.env.TargetURL + path, "credential_id": credential.ID}
	}
	endpoint := func(name, source, secret string, id, url *string) error {
		var e struct{ ID, URL string }
		err := c.call(ctx, http.MethodPost, "/v1/endpoints", map[string]any{"name": name, "source": source, "secret": secret}, &e)
		*id, *url = e.ID, moved(e.URL, d.env.URL)
		return err
	}
	d.env.StripeSecret, d.env.GitHubSecret = "whsec_"+randomHex(), randomHex()
	if err := errors.Join(
		endpoint("billing", "stripe", d.env.StripeSecret, &d.env.StripeEndpoint, &d.env.StripeURL),
		endpoint("issues", "github", d.env.GitHubSecret, &d.env.GitHubEndpoint, &d.env.GitHubURL),
	); err != nil {
		return err
	}
	reply := map[string]any{
		"type": "object", "properties": map[string]any{"reply": map[string]any{"type": "string"}}, "required": []string{"reply"},
	}
	return errors.Join(
		c.call(ctx, http.MethodPost, "/v1/automations", map[string]any{
			"name": "failed payment", "endpoint_id": d.env.StripeEndpoint, "when": "event.type == 'charge.failed'", "model": devModel, "mode": "live",
			"prompt": map[string]any{
				"system": "You write to customers whose payment failed: short, kind, and without blame.",
				"user":   "Amount: {{ payload.data.object.amount }} {{ payload.data.object.currency }}. Reason: {{ payload.data.object.failure_message }}",
			},
			"output_schema": reply, "max_output_tokens": 300, "action": action("/failed-payment"),
		}, nil),
		c.call(ctx, http.MethodPost, "/v1/automations", map[string]any{
			"name": "triage", "endpoint_id": d.env.GitHubEndpoint, "when": "event.type == 'issues.opened'", "model": devModel, "mode": "live",
			"prompt": map[string]any{
				"system": "You triage bug reports.", "user": "{{ payload.issue.title }}\n{{ payload.issue.body }}",
			},
			"output_schema": reply, "max_output_tokens": 600, "action": action("/triage"),
		}, nil),
	)
}

func randomHex() string {
	b := make([]byte, 24)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// showDemo sends each endpoint a signed sample through the real door and prints what became of it.
func (d *dev) showDemo(ctx context.Context) {
	for _, sample := range []struct{ source, event, url, secret string }{
		{"stripe", "charge.failed", d.env.StripeURL, d.env.StripeSecret},
		{"github", "issues.opened", d.env.GitHubURL, d.env.GitHubSecret},
	} {
		if err := d.showSample(ctx, sample.source, sample.event, sample.url, sample.secret); err != nil {
			d.say("\n%s %s: %v", sample.source, sample.event, err)
		}
	}
}

func (d *dev) showSample(ctx context.Context, name, event, url, secret string) error {
	sent, err := sendSample(ctx, name, event, url, secret)
	if err != nil {
		return err
	}
	var answer struct {
		EventID string `json:"event_id"`
	}
	if err := json.Unmarshal(sent.body, &answer); err != nil || answer.EventID == "" {
		return fmt.Errorf("the door answered %d: %s", sent.status, sent.body)
	}
	d.say("\n%s %s → %d %s", name, event, sent.status, strings.TrimSpace(string(sent.body)))
	story, err := d.story(ctx, answer.EventID)
	if err != nil {
		return err
	}
	for _, m := range story.Timeline {
		parts := []string{m.What}
		if m.Status != 0 {
			parts[0] += fmt.Sprintf(" %d", m.Status)
		}
		for _, more := range []string{m.Reason, m.Detail} {
			if more != "" {
				parts = append(parts, more)
			}
		}
		if m.CostUSD != "" {
			parts = append(parts, "$"+m.CostUSD)
		}
		d.say("  %s  %s", m.At.Local().Format("15:04:05.000"), strings.Join(parts, " · "))
	}
	d.say("  → %s It cost $%s.", story.Summary, story.CostUSD)
	return nil
}

// sendSample signs a sample as its source would and posts it.
func sendSample(ctx context.Context, name, event, url, secret string) (doorAnswer, error) {
	s, sample, err := findSample(name, event)
	if err != nil {
		return doorAnswer{}, err
	}
	id, at := newSampleID(), time.Now().UTC()
	return postSigned(ctx, &http.Client{Timeout: sendTimeout}, s, source.SignInput{
		Method: http.MethodPost, URL: url, Header: sample.Header, Body: sample.Body(id, at), Secret: secret, ID: id, At: at,
	}, false)
}

type demoStory struct {
	Summary  string `json:"summary"`
	CostUSD  string `json:"cost_usd"`
	Timeline []struct {
		At      time.Time `json:"at"`
		What    string    `json:"what"`
		Status  int       `json:"status"`
		Reason  string    `json:"reason"`
		Detail  string    `json:"detail"`
		CostUSD string    `json:"cost_usd"`
	} `json:"timeline"`
	Runs []struct {
		Status string `json:"status"`
	} `json:"runs"`
}

// story waits until the event's runs have ended, and has it explained.
func (d *dev) story(ctx context.Context, eventID string) (demoStory, error) {
	ctx, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	var story demoStory
	for {
		if err := d.client(d.env.Key).call(ctx, http.MethodGet, "/v1/events/"+eventID+"/explain", nil, &story); err != nil {
			return story, err
		}
		open := 0
		for _, r := range story.Runs {
			if !db.RunStatus(r.Status).Ended() {
				open++
			}
		}
		if open == 0 {
			return story, nil
		}
		const pollEvery = 50 * time.Millisecond
		select {
		case <-ctx.Done():
			return story, nil // the story so far is worth more than that it is not over
		case <-time.After(pollEvery):
		}
	}
}

// hints say what to try.
func (d *dev) hints() {
	envPath := filepath.Join(d.command.Dir, devEnvFile)
	if here, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(here, envPath); err == nil && len(relative) < len(envPath) {
			envPath = relative
		}
	}
	d.say(`
Callbacks may reach loopback addresses here; "sluice serve" and "sluice work" refuse them.
The model is scripted, so nothing is spent; set ANTHROPIC_API_KEY or OPENAI_API_KEY for real ones.
What to try, in another shell:

  . %[1]s
  sluice=bin/sluice
  $sluice send github issues.opened --url "$SLUICE_GITHUB_URL" --secret "$SLUICE_GITHUB_SECRET"
  curl -s -H "Authorization: Bearer $SLUICE_KEY" "$SLUICE_URL/v1/events?limit=5"
  curl -s -H "Authorization: Bearer $SLUICE_KEY" "$SLUICE_URL/v1/usage?group_by=model"
  curl -s "$SLUICE_TARGET_URL/_journal"                 # what the callbacks' target was sent
  curl -s "$SLUICE_SCRIPTED_URL/"                       # how to make the model slow, refuse, answer garbage ...
  curl -s "$SLUICE_GITHUB_API_URL/"                     # a scripted GitHub to comment at; docs/tutorial.md walks through it
  psql "$SLUICE_OWNER_DATABASE_URL"

The logs are %[2]s and postgres.log beside it. Ctrl-C stops; the data stays; "make clean" forgets it.`, envPath, filepath.Join(filepath.Dir(envPath), devLogFile))
}
