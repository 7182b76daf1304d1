package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"sluice/db"
	"sluice/tenants"
)

// chaosDesk is one endpoint with one automation: who sends what to it, and what comes of it where.
type chaosDesk struct {
	chaosPlan

	tenant, endpoint, automation string // their ids
	path                         string // of the intake
}

// chaosPlan is what a desk is to be.
type chaosPlan struct {
	name   string
	house  string // its tenant
	order  string
	model  string
	mode   string
	target string // where its effects are
	// weight is its part of the events; 0 is sent to by the senders in order alone.
	weight int
}

// The targets. What becomes of a doubt there: a key is sent again with the same key, a mark is looked for, and nothing can be done about the third.
const (
	targetCallback = "callback"
	targetGitHub   = "github_comment"
	targetIntercom = "intercom_reply"
)

// The tenants.
const (
	houseBusy    = "busy"    // no limits
	houseOrdered = "ordered" // whose events have an order
	houseTight   = "tight"   // with a budget for a part of what comes, and few runs at once
	housePeople  = "people"  // where people decide, and click
)

var chaosPlans = []chaosPlan{
	{"callbacks", houseBusy, "none", "echo-1", "live", targetCallback, 30},
	{"comments", houseBusy, "none", "chat-echo-1", "live", targetGitHub, 20},
	{"serial", houseOrdered, "serial", "chat-echo-1", "live", targetCallback, 0},
	{"latest", houseOrdered, "latest", "echo-1", "live", targetGitHub, 10},
	{"budget", houseTight, "none", "echo-1", "live", targetCallback, 15},
	{"replies", housePeople, "none", "echo-1", "live", targetIntercom, 15},
	{"reviews", housePeople, "none", "chat-echo-1", "review", targetGitHub, 10},
}

// chaosActions is the most actions about one entity in an hour that an automation may make: senders in order make many.
const chaosActions = 10_000

// chaosOutput is enough for what the provider says.
const chaosOutput = 600

// chaosBudget is the tight tenant's budget of a day at the beginning, and by how much people raise it, in USD.
const chaosBudget = 0.02

// furnish makes the tenants and what is theirs through the contract, as people would.
func (w *chaosWorld) furnish(ctx context.Context) error {
	key, err := tenants.NewKey(true)
	if err != nil {
		return err
	}
	d, closeDB, err := w.house.open(ctx, db.AppRole, 2, "")
	if err != nil {
		return err
	}
	defer closeDB()
	err = d.System(ctx, func(tx db.SystemTx) error {
		_, err := tx.OperatorKeyInsert(ctx, "chaos", key)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the operator's key: %w", err)
	}
	w.people.operator = key.Reveal()
	for _, plan := range chaosPlans {
		if err := w.furnishDesk(ctx, plan); err != nil {
			return fmt.Errorf("%s: %w", plan.name, err)
		}
	}
	if _, err := w.owner.Exec(ctx, budgetWatchSQL); err != nil {
		return fmt.Errorf("watch the budgets: %w", err)
	}
	return w.people.raise(ctx)
}

func (w *chaosWorld) furnishDesk(ctx context.Context, plan chaosPlan) error {
	home, ok := w.people.houses[plan.house]
	if !ok {
		var err error
		if home, err = w.furnishHouse(ctx, plan.house); err != nil {
			return err
		}
		w.people.houses[plan.house] = home
	}
	c := w.people.client(home.key, 0)
	var endpoint struct{ ID, URL string }
	settings := map[string]any{"order": plan.order}
	err := c.call(ctx, http.MethodPost, "/v1/endpoints", map[string]any{"name": plan.name, "source": "standard", "secret": benchSecret, "settings": settings}, &endpoint)
	if err != nil {
		return err
	}
	in, err := url.Parse(endpoint.URL)
	if err != nil {
		return fmt.Errorf("read the endpoint's URL: %w", err)
	}
	var automation struct{ ID string }
	err = c.call(ctx, http.MethodPost, "/v1/automations", map[string]any{
		"name": plan.name, "endpoint_id": endpoint.ID, "model": "scripted/" + plan.model, "mode": plan.mode, "max_output_tokens": chaosOutput,
		"prompt": map[string]any{"user": "{{ payload.data.event }} {{ payload.data.note }}"}, "action": w.action(plan, home),
		"loop": map[string]any{"actions_per_hour": chaosActions},
	}, &automation)
	w.desks = append(w.desks, &chaosDesk{chaosPlan: plan, tenant: home.tenant, endpoint: endpoint.ID, automation: automation.ID, path: in.Path})
	return err
}

// action is what a desk does outside. Each effect names the source's own id of its event, so that the targets' journals speak for themselves.
func (w *chaosWorld) action(plan chaosPlan, home chaosHouse) map[string]any {
	const names = "{{ payload.data.event }}"
	switch plan.target {
	case targetCallback:
		return map[string]any{
			"kind": plan.target, "credential_id": home.credentials[plan.target], "url": "http://" + w.callbackNet.Addr() + "/" + plan.name,
			"body": `{"event": "` + names + `", "entity": "{{ payload.data.id }}", "seq": {{ payload.data.seq }}}`,
		}
	case targetGitHub:
		return map[string]any{
			"kind": plan.target, "credential_id": home.credentials[plan.target], "repo": "chaos/" + plan.name, "issue": "{{ payload.data.issue }}",
			"body": "event " + names + " is done",
		}
	default:
		return map[string]any{
			"kind": plan.target, "credential_id": home.credentials[plan.target], "conversation": chaosConversation, "admin": "991267459",
			"body": "event " + names + " is done",
		}
	}
}

// chaosHouse is a tenant.
type chaosHouse struct {
	tenant, key string
	credentials map[string]string
}

func (w *chaosWorld) furnishHouse(ctx context.Context, name string) (chaosHouse, error) {
	var made struct {
		Tenant struct{ ID string }
		Key    struct{ Secret string }
	}
	if err := w.people.client(w.people.operator, 0).call(ctx, http.MethodPost, "/v1/tenants", map[string]any{"name": name}, &made); err != nil {
		return chaosHouse{}, err
	}
	h := chaosHouse{tenant: made.Tenant.ID, key: made.Key.Secret, credentials: map[string]string{}}
	for kind, credential := range map[string]map[string]any{
		targetCallback: {"name": "callback", "kind": "callback", "secret": benchSecret},
		targetGitHub:   {"name": "github", "kind": "github", "secret": chaosToken, "base_url": "http://" + w.githubNet.Addr()},
		targetIntercom: {"name": "intercom", "kind": "intercom", "secret": chaosToken, "base_url": "http://" + w.intercomNet.Addr()},
	} {
		var c struct{ ID string }
		if err := w.people.client(h.key, 0).call(ctx, http.MethodPost, "/v1/credentials", credential, &c); err != nil {
			return h, err
		}
		h.credentials[kind] = c.ID
	}
	return h, nil
}

// eventOf finds the id that an effect names in the words around it.
func eventOf(text string) string {
	_, rest, _ := strings.Cut(text, chaosEventPrefix)
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	if end == 0 {
		return ""
	}
	return chaosEventPrefix + rest[:end]
}

// chaosEventPrefix begins the ids of the events, a number follows.
const chaosEventPrefix = "chaosevent"
