package main_test

import (
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs/action/actiontest"
	"sluice/scripted"
	"sluice/tenants"
)

// dooms are the worlds: each has a few steps of an event's life, and what it takes to come to them.
var dooms = []*doom{
	{name: "stored", steps: []string{"intake.store", "run.claim", "run.send"}, prepare: answered(nil), fire: deliverOne},
	{name: "asked", steps: []string{"ask", "run.end"}, prepare: answered(nil), fire: deliverOne},
	{name: "acted", steps: []string{"action.claim", "action.send", "action.confirm"}, prepare: answered(nil), fire: deliverOne},
	{name: "marked", steps: []string{"action.send", "action.confirm"}, prepare: marked, fire: deliverOne},
	{name: "found again", steps: []string{"action.find"}, first: []string{"action.send/after"}, prepare: marked, fire: deliverOne},
	{name: "lost", steps: []string{"run.lost"}, first: []string{"ask/after"}, prepare: answered(nil), fire: deliverOne},
	{
		name: "refused by the target", steps: []string{"action.end"}, prepare: answered(nil),
		before: func(d *doomed) {
			d.target.Script(scripted.TargetStep{Status: http.StatusInternalServerError}, scripted.TargetStep{})
		}, fire: deliverOne,
	},
	{
		name: "repaired", steps: []string{"run.keep"}, fire: deliverOne,
		prepare: answered(map[string]any{"output_schema": map[string]any{
			"type": "object", "properties": map[string]any{"reply": map[string]any{"type": "string"}}, "required": []string{"reply"},
		}}),
		before: func(d *doomed) { d.provide(scripted.ProviderControl{Mode: scripted.ModeWrongSchema, Times: 1}) },
	},
	{
		name: "in order", steps: []string{"run.alone"}, fire: deliverOne, prepare: func(d *doomed) {
			answered(nil)(d)
			d.endpoint(map[string]any{"order": "serial"})
		},
	},
	{
		name: "fetched", steps: []string{"fetch"}, fire: deliverOne, prepare: func(d *doomed) {
			d.target.Script(scripted.TargetStep{Body: `{"state": "open"}`})
			answered(map[string]any{"fetch": map[string]any{"url": d.hook + "/state"}})(d)
		},
	},
	{
		name: "slow", steps: []string{"run.renew"}, prepare: answered(nil), fire: deliverOne,
		before: func(d *doomed) { d.provide(scripted.ProviderControl{Mode: scripted.ModeSlow, DelayMS: 2500, Times: 1}) },
	},
	{
		// Two runs that hang take all that a tenant may have of a small worker; the third is parked.
		name: "parked", steps: []string{"run.park"}, prepare: answered(nil),
		before: func(d *doomed) { d.provide(scripted.ProviderControl{Mode: scripted.ModeHang, Times: 2}) },
		fire: func(d *doomed) {
			deliverOne(d)
			deliverOne(d)
			d.hung(2)
			deliverOne(d)
		},
		rouse: func(d *doomed) { d.provider.Release() },
	},
	{
		name: "cancelled in mid-call", steps: []string{"run.settle"}, prepare: answered(nil), ends: []string{"cancelled"}, effects: none,
		before: func(d *doomed) { d.provide(scripted.ProviderControl{Mode: scripted.ModeStall, Times: 1}) },
		fire: func(d *doomed) {
			deliverOne(d)
			d.hung(1)
			d.ask(http.MethodPost, "/v1/runs/"+d.run("running")+"/cancel", nil, http.StatusOK)
			d.provider.Release()
		},
	},
	{
		name: "cancelled after a crash", steps: []string{"gate.settle"}, first: []string{"ask/after"}, prepare: answered(nil), ends: []string{"cancelled"}, effects: none, fire: deliverOne,
		between: func(d *doomed) { d.ask(http.MethodPost, "/v1/runs/"+d.run("running")+"/cancel", nil, http.StatusOK) },
	},
	{name: "swept", steps: []string{"sweep", "gate"}, prepare: answered(nil), fire: deliverOne},
	{
		name: "too old", steps: []string{"sweep.age"}, prepare: answered(map[string]any{"mode": "review"}), ends: []string{"dead"}, effects: none,
		before: func(d *doomed) {
			deliverOne(d)
			d.until(1, `select count(*) from sluice.runs where status = 'in_review'`)
			d.harm(`update sluice.runs set created_at = now() - interval '46 days' where finished_at is null`)
		},
	},
	{
		name: "released", steps: []string{"gate.release"}, prepare: answered(nil),
		before: func(d *doomed) { d.limit(map[string]any{"events_per_hour": map[string]any{"hard": 0}}) },
		fire: func(d *doomed) {
			deliverOne(d)
			d.until(1, `select count(*) from sluice.runs where status = 'held'`)
			d.limit(map[string]any{})
		},
	},
	{
		name: "repaced", steps: []string{"gate.repace"}, prepare: answered(nil),
		fire: func(d *doomed) { d.limit(map[string]any{"runs_per_second": 50}); deliverOne(d) },
	},
	{
		name: "woken", steps: []string{"sweep.wake"}, ends: []string{"dead", "done"}, effects: func(d *doomed) int { return len(d.acked) / 2 },
		prepare: func(d *doomed) {
			answered(nil)(d)
			d.of.about = "an issue"
		},
		before: func(d *doomed) {
			d.endpoint(map[string]any{"order": "serial", "order_dead": "block"})
			d.target.Script(scripted.TargetStep{Status: http.StatusUnauthorized}, scripted.TargetStep{})
			deliverOne(d)
			d.until(0, `select count(*) from sluice.runs where finished_at is null`)
			deliverOne(d)
			d.until(1, `select count(*) from sluice.runs where reason = 'order.behind' and status = 'waiting'`)
		},
		fire:  func(d *doomed) { d.endpoint(map[string]any{"order": "serial", "order_dead": "pass"}) },
		rouse: func(d *doomed) { d.harm(`update sluice.runs set ordering = 'none' where status = 'dead'`) },
	},
	{
		name: "reviewed", steps: []string{"api.review-run"}, prepare: answered(map[string]any{"mode": "review"}), before: inReview,
		fire: func(d *doomed) {
			d.ask(http.MethodPost, "/v1/runs/"+d.run("in_review")+"/review", map[string]any{"verdict": "approve"}, http.StatusOK, http.StatusConflict)
		},
	},
	{
		name: "review expired", steps: []string{"review.expiry"}, before: inReview,
		prepare: answered(map[string]any{"mode": "review", "review": map[string]any{"expires_minutes": 30, "on_expiry": "approve"}}),
		fire: func(d *doomed) {
			d.harm(`update sluice.runs set until = now() - interval '1 second' where status = 'in_review'`)
		},
	},
	{
		name: "cancelled", steps: []string{"api.cancel-run"}, prepare: answered(map[string]any{"mode": "review"}), before: inReview, ends: []string{"cancelled"}, effects: none,
		fire: func(d *doomed) {
			d.ask(http.MethodPost, "/v1/runs/"+d.run("in_review")+"/cancel", nil, http.StatusOK, http.StatusConflict)
		},
	},
	{
		name: "retried by hand", steps: []string{"api.retry-run"}, prepare: answered(nil), before: died,
		fire: func(d *doomed) {
			d.ask(http.MethodPost, "/v1/runs/"+d.run("dead")+"/retry", nil, http.StatusOK, http.StatusConflict)
		},
	},
	{
		name: "resolved by hand", steps: []string{"api.resolve-run"}, prepare: answered(nil), before: died, effects: none,
		fire: func(d *doomed) {
			d.ask(http.MethodPost, "/v1/runs/"+d.run("dead")+"/resolve", map[string]any{"arrived": true}, http.StatusOK, http.StatusConflict)
		},
	},
	{
		name: "replayed", steps: []string{"api.create-replay", "replay"}, prepare: answered(nil),
		before: func(d *doomed) {
			deliverOne(d)
			d.until(0, `select count(*) from sluice.runs where finished_at is null`)
		},
		fire: func(d *doomed) {
			d.ask(http.MethodPost, "/v1/replays", map[string]any{
				"id": tenants.FormatID(tenants.ReplayPrefix, tenants.NewID()), "runs": []string{d.run("done")}, "mode": "shadow",
			}, http.StatusCreated)
		},
		rouse: func(d *doomed) { d.until(0, `select count(*) from sluice.replays where finished_at is null`) },
	},
	{
		name: "key refused", steps: []string{"key.pause"}, fire: deliverOne,
		prepare: func(d *doomed) {
			d.of = d.shop()
			require.NoError(d.t, d.base.DB.Tenant(d.t.Context(), d.of.tenant, func(tx db.TenantTx) error {
				c, err := tx.CredentialInsert(d.t.Context(), "model", "scripted", tenants.NewSecret("scripted-key-0001"))
				d.kept["key"] = tenants.FormatID(tenants.CredentialPrefix, c.ID)
				return err
			}))
		},
		before: func(d *doomed) { d.provide(scripted.ProviderControl{Mode: scripted.ModeUnauthorized, Times: 1}) },
		rouse: func(d *doomed) {
			// A person gives another key, whether or not it was written down that the first one was refused.
			d.call(d.of.key, http.MethodPatch, "/v1/credentials/"+d.kept["key"], map[string]any{"secret": fmt.Sprintf("scripted-key-%04d", d.kills)}, http.StatusOK, nil)
		},
	},
	{
		name: "told", steps: []string{"notice.post", "notice.claim", "notice.send", "notice.confirm"}, prepare: channel, fire: alert, rouse: due,
		effects: func(d *doomed) int { return d.kills },
	},
	{
		name: "not told", steps: []string{"notice.fail"}, prepare: channel, fire: alert, rouse: due, effects: func(d *doomed) int { return d.kills },
		before: func(d *doomed) {
			d.target.Script(scripted.TargetStep{Status: http.StatusInternalServerError}, scripted.TargetStep{})
		},
	},
}

func none(*doomed) int { return 0 }

// deliverOne sends one event, and keeps at it.
func deliverOne(d *doomed) {
	d.sent++
	d.send(fmt.Sprintf("delivery-%d", d.sent))
}

// answered makes the shop of the other tests, whose automation is changed.
func answered(changes map[string]any) func(d *doomed) {
	return func(d *doomed) {
		d.of = d.shop()
		if changes != nil {
			d.automation(changes)
		}
	}
}

// automation changes the shop's one automation.
func (d *doomed) automation(changes map[string]any) {
	d.call(d.of.key, http.MethodPatch, "/v1/automations/"+d.newest("/v1/automations"), changes, http.StatusOK, nil)
}

// endpoint changes the shop's one endpoint.
func (d *doomed) endpoint(settings map[string]any) {
	d.call(d.of.key, http.MethodPatch, "/v1/endpoints/"+d.newest("/v1/endpoints"), map[string]any{"settings": settings}, http.StatusOK, nil)
}

// newest is the id of the newest of a list.
func (d *doomed) newest(path string) string {
	d.t.Helper()
	var list struct{ Data []struct{ ID string } }
	d.call(d.of.key, http.MethodGet, path, nil, http.StatusOK, &list)
	require.NotEmpty(d.t, list.Data, path)
	return list.Data[0].ID
}

// run is the newest run of a status.
func (d *doomed) run(status string) string {
	d.t.Helper()
	return d.newest("/v1/runs?status=" + status)
}

func (d *doomed) made(path string, body any) string {
	d.t.Helper()
	var made struct{ ID string }
	d.call(d.of.key, http.MethodPost, path, body, http.StatusCreated, &made)
	return made.ID
}

// marked lets the automation comment on an issue: an effect without a key, that is found by its mark.
func marked(d *doomed) {
	d.of = d.shop()
	d.vendor = scripted.NewGitHubIssues(actiontest.Token, time.Now)
	address, err := d.vendor.Listen("127.0.0.1:0")
	require.NoError(d.t, err)
	d.t.Cleanup(func() { _ = d.vendor.Close() })
	credential := d.made("/v1/credentials", map[string]any{"name": "github", "kind": "github", "secret": actiontest.Token, "base_url": address})
	d.automation(map[string]any{"action": map[string]any{
		"kind": "github_comment", "credential_id": credential, "repo": "acme/shop", "issue": "12", "body": "{{ event.source_event_id }}: {{ output }}",
	}})
}

func (d *doomed) provide(c scripted.ProviderControl) { require.NoError(d.t, d.provider.Control(c)) }

// hung waits until so many calls of this kill wait for the provider.
func (d *doomed) hung(n int) {
	d.t.Helper()
	require.Eventually(d.t, func() bool {
		waiting := 0
		for _, e := range d.provider.Journal() {
			if e.Mode == scripted.ModeHang || e.Mode == scripted.ModeStall {
				waiting++
			}
		}
		return waiting >= d.hangs+n
	}, e2eWait, 10*time.Millisecond)
	d.hangs += n
}

// harm changes rows past every rule, to bring about what would take weeks.
func (d *doomed) harm(sql string) {
	d.t.Helper()
	_, err := d.base.Owner.Exec(d.t.Context(), `set session_replication_role = replica; `+sql+`; reset session_replication_role`)
	require.NoError(d.t, err)
}

func (d *doomed) limit(limits map[string]any) {
	d.t.Helper()
	given := map[string]any{"burst": 10}
	maps.Copy(given, limits)
	d.call(d.operator, http.MethodPut, "/v1/tenants/"+tenants.FormatID(tenants.TenantPrefix, d.of.tenant)+"/limits", given, http.StatusOK, nil)
}

func inReview(d *doomed) {
	deliverOne(d)
	d.until(1, `select count(*) from sluice.runs where status = 'in_review'`)
}

// died lets a run die of its target, which is well afterwards.
func died(d *doomed) {
	d.target.Script(scripted.TargetStep{Status: http.StatusUnauthorized}, scripted.TargetStep{})
	deliverOne(d)
	d.until(1, `select count(*) from sluice.runs where status = 'dead'`)
}

// channel makes a place where alerts are told.
func channel(d *doomed) {
	d.of = d.shop()
	d.made("/v1/alert-channels", map[string]any{"name": "on call", "kind": "webhook", "url": d.hook + "/alerts"})
}

// alert begins an alert.
func alert(d *doomed) {
	d.t.Helper()
	_, err := d.base.Owner.Exec(d.t.Context(), `insert into sluice.alerts (tenant_id, id, kind, subject, detail) values ($1, $2, 'rejections', $3, 'many')`,
		d.of.tenant, tenants.NewID(), fmt.Sprint("end_", d.kills))
	require.NoError(d.t, err)
}

// due lets what waits for its next try be tried now.
func due(d *doomed) {
	d.harm(`update sluice.alert_notices set due_at = now() where delivered_at is null and given_up_at is null`)
}
