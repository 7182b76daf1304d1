package api_test

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/api"
	"sluice/db"
	"sluice/jobs/action"
	"sluice/tenants"
)

// worked is a run, and the acts of a worker on it, written as a worker writes them.
type worked struct {
	b     *bundle
	of    tenant
	event string
	id    string
	uuid  uuid.UUID
	once  action.Once // of its effects
}

// worked sends an event to an endpoint of one automation, and takes its run.
func (b *bundle) worked(of tenant) worked {
	b.t.Helper()
	endpoint := b.endpoint(of).text("id")
	body := draft(endpoint)
	body["mode"] = "live" // the database lets no run of shadow mode have an effect
	b.call(of.editor, "POST", "/v1/automations", body).is(201)
	w := worked{b: b, of: of, event: b.event(of, endpoint)}
	rows := b.call(of.viewer, "GET", "/v1/runs?event_id="+w.event, nil).is(200).rows()
	require.Len(b.t, rows, 1)
	w.id, _ = rows[0]["id"].(string)
	w.uuid, _ = tenants.ParseID(tenants.RunPrefix, w.id)
	return w
}

func (w worked) tx(fn func(context.Context, db.TenantTx) error) {
	w.b.t.Helper()
	ctx := w.b.t.Context()
	require.NoError(w.b.t, w.b.Worker.Tenant(ctx, w.of.uuid(), func(tx db.TenantTx) error { return fn(ctx, tx) }))
}

// answered makes a call of 12 tokens and its entry, and leaves the run at a status.
func (w worked) answered(step db.RunStep) {
	w.b.t.Helper()
	w.tx(func(ctx context.Context, tx db.TenantTx) error {
		r, err := tx.RunClaim(ctx, w.uuid, time.Minute)
		require.NoError(w.b.t, err)
		call := db.Call{ID: tenants.NewID(), RunID: r.ID, Epoch: r.Epoch, Provider: "scripted", ModelAsked: "echo-1", PriceID: 9020, RequestSHA256: []byte("x"), Part: db.CallAsk}
		granted, err := tx.CallsSend(ctx, []db.Call{call})
		require.NoError(w.b.t, err)
		require.Equal(w.b.t, []db.Granted{{ID: call.ID}}, granted)
		call.ModelServed, call.Finish, call.CostPico = "echo-1", "stop", 412_000_000
		call.Tokens = db.Tokens{InputUncached: 7, InputCacheRead: 1, OutputVisible: 3, OutputReasoning: 1}
		require.NoError(w.b.t, tx.CallsReceive(ctx, []db.Call{call}))
		require.NoError(w.b.t, tx.RunCost(ctx, r.ID))
		step.Output = json.RawMessage(`{"reply":"yes"}`)
		return tx.RunStep(ctx, r.ID, r.Epoch, step)
	})
}

// effect keeps an action in a state; the run is acting.
func (w worked) effect(state string) uuid.UUID {
	w.b.t.Helper()
	id := tenants.NewID()
	kept, err := json.Marshal(action.Effect{Kind: "callback", Target: "https://example.com/hook", ContentType: "text/plain", Once: w.once, Body: []byte(strings.Repeat("é", 10_000))})
	require.NoError(w.b.t, err)
	w.tx(func(ctx context.Context, tx db.TenantTx) error {
		require.NoError(w.b.t, tx.ActionInsert(ctx, db.Action{
			ID: id, RunID: w.uuid, Kind: "callback", Key: "k" + id.String(), Target: "https://example.com/hook", Effect: kept, State: db.ActionIntended,
		}))
		if state == db.ActionIntended {
			return nil
		}
		held, err := tx.ActionsClaim(ctx, []uuid.UUID{id}, time.Minute)
		require.NoError(w.b.t, err)
		receipt := json.RawMessage(nil)
		if state == db.ActionConfirmed {
			receipt = json.RawMessage(`{"status":204,"note":"the callback was accepted"}`)
		}
		return tx.ActionStep(ctx, held[0].Action, db.ActionStep{State: state, Reason: map[bool]string{true: "", false: "action.refused"}[state == db.ActionConfirmed], Detail: "the target answered", Status: 204, Receipt: receipt})
	})
	return id
}

func (w worked) acted(status db.RunStatus, reason string) {
	w.tx(func(ctx context.Context, tx db.TenantTx) error {
		return tx.RunActed(ctx, w.uuid, status, reason, "The target did not take it.")
	})
}

func (w worked) explain() api.Explanation {
	w.b.t.Helper()
	var out api.Explanation
	require.NoError(w.b.t, json.Unmarshal(w.b.call(w.of.viewer, "GET", "/v1/events/"+w.event+"/explain", nil).is(200).body, &out))
	for i := 1; i < len(out.Timeline); i++ {
		require.False(w.b.t, out.Timeline[i].At.Before(out.Timeline[i-1].At), "in the order of time")
	}
	return out
}

func (w worked) jobs(kind string) (n int) {
	w.b.t.Helper()
	require.NoError(w.b.t, w.b.Owner.QueryRow(w.b.t.Context(), `select count(*) from river.river_job where kind = $1`, kind).Scan(&n))
	return n
}

func whats(e api.Explanation) []string {
	var out []string
	for _, m := range e.Timeline {
		out = append(out, m.What)
	}
	return out
}

func TestExplainTellsEverything(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	w := b.worked(of)
	require.Equal(t, "working", w.explain().Status)
	w.answered(db.RunStep{Status: db.RunActing, Reason: "action.pending", Detail: "The outcome stands."})
	w.effect(db.ActionConfirmed)
	w.acted(db.RunDone, "")
	e := w.explain()
	require.Equal(t, []string{
		"event.received", "run.queued", "run.running", "call.sent", "call.received", "run.acting", "action.intended", "action.sent",
		"action.confirmed", "run.done",
	}, sorted(whats(e)))
	require.Equal(t, "done", e.Status)
	require.Contains(t, e.Summary, "https://example.com/hook")
	require.Equal(t, "0.000412", e.CostUSD)
	require.Len(t, e.Verdicts, 1)
	require.True(t, e.Verdicts[0].Matched)
	require.Len(t, e.Runs, 1)
	require.Equal(t, map[string]any{"reply": "yes"}, e.Runs[0].Output)
	require.Equal(t, "stop", e.Runs[0].Calls[0].Finish)
	shown := e.Runs[0].Actions[0]
	require.Equal(t, 204, shown.Receipt.Status)
	require.True(t, shown.BodyCut)
	require.Equal(t, strings.Repeat("é", 8<<10), shown.Body)
	require.Equal(t, e.Runs[0].ID, b.call(of.viewer, "GET", "/v1/runs/"+w.id, nil).is(200).text("id"))
}

// sorted puts what happened in one transaction, and so has times that differ by less than a statement, in the order of the story.
func sorted(all []string) []string {
	order := []string{
		"event.received", "run.queued", "run.running", "call.sent", "call.received", "run.acting", "action.intended", "action.sent",
		"action.confirmed", "run.done",
	}
	var out []string
	for _, o := range order {
		for _, w := range all {
			if w == o {
				out = append(out, w)
			}
		}
	}
	return out
}

func TestExplainSaysWhyNothingWasDone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	none := worked{b: b, of: of}
	endpoint := b.endpoint(of).text("id")
	none.event = b.event(of, endpoint)
	require.Equal(t, "no_automation", none.explain().Status)
	body := draft(endpoint)
	body["when"] = "event.type == 'other'"
	b.call(of.editor, "POST", "/v1/automations", body).is(201)
	body["when"] = "payload.missing.key == 1"
	b.call(of.editor, "POST", "/v1/automations", body).is(201)
	none.event = b.event(of, endpoint)
	e := none.explain()
	require.Equal(t, "no_match", e.Status)
	require.Len(t, e.Verdicts, 2)
	require.Equal(t, "when.false", e.Verdicts[0].Reason)
	require.Equal(t, "when.error", e.Verdicts[1].Reason)
	require.Contains(t, e.Summary, e.Verdicts[0].AutomationID)
	require.Empty(t, e.Runs)
	require.Equal(t, "0", e.CostUSD)

	waits := b.worked(of)
	waits.answered(db.RunStep{Status: db.RunWaiting, Reason: "provider.breaker_open", Detail: "The provider is away.", Wait: time.Hour})
	e = waits.explain()
	require.Equal(t, "waiting", e.Status)
	require.Contains(t, e.Summary, "provider.breaker_open")
	require.NotNil(t, e.Timeline[len(e.Timeline)-1].Until)
}

func TestEventsAreFilteredAndPaged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint, other := b.endpoint(of).text("id"), b.endpoint(of).text("id")
	b.automation(of, endpoint)
	var ids []string
	for range 5 {
		ids = append(ids, b.event(of, endpoint))
	}
	b.event(of, other)
	one := b.call(of.viewer, "GET", "/v1/events/"+ids[0], nil).is(200)
	require.Len(t, one.get("runs"), 1)
	count := func(query string) int { return len(b.call(of.viewer, "GET", "/v1/events?"+query, nil).is(200).rows()) }
	require.Equal(t, 6, count(""))
	require.Equal(t, 5, count("endpoint_id="+endpoint))
	require.Equal(t, 0, count("endpoint_id=nonsense"))
	require.Equal(t, 5, count("status=queued"))
	require.Equal(t, 0, count("status=dead"))
	require.Equal(t, 1, count("source_event_id="+url.QueryEscape(one.text("source_event_id"))))
	require.Equal(t, 6, count("type="+url.QueryEscape(one.text("type"))))
	require.Equal(t, 0, count("type=none"))
	require.Equal(t, 0, count("since="+url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339))))
	require.Equal(t, 6, count("until="+url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339))))
	page := b.call(of.viewer, "GET", "/v1/events?limit=4", nil).is(200)
	require.Len(t, page.rows(), 4)
	require.Equal(t, 2, count("limit=4&cursor="+page.text("next_cursor")))
}

func TestPayloadIsServedAsAStrangersBytes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	event := b.event(of, b.endpoint(of).text("id"))
	path := "/v1/events/" + event + "/payload"
	got := b.call(of.viewer, "GET", path, nil).is(200)
	require.True(t, json.Valid(got.body))
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	require.Equal(t, "nosniff", got.header.Get("X-Content-Type-Options"))
	require.Contains(t, got.header.Get("Content-Disposition"), "attachment")
	require.Contains(t, got.header.Get("Content-Security-Policy"), "sandbox")
	for _, kind := range []string{"text/html", "image/svg+xml", "application/json<script>", ""} {
		_, err := b.Owner.Exec(t.Context(), `update sluice.event_payloads set headers = jsonb_build_object('content-type', $1::text)`, kind)
		require.NoError(t, err)
		require.Equal(t, "application/octet-stream", b.call(of.viewer, "GET", path, nil).is(200).header.Get("Content-Type"))
	}
}

func TestRunsAreRetriedAndCancelled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	post := func(w worked, what string) heard { return b.call(of.editor, "POST", "/v1/runs/"+w.id+"/"+what, nil) }

	queued := b.worked(of)
	post(queued, "retry").refused(409, "run.not_retryable")
	require.Equal(t, "cancelled.person", post(queued, "cancel").is(200).text("reason"))
	post(queued, "cancel").refused(409, "run.ended")
	require.Equal(t, "cancelled", queued.explain().Status)

	waiting := b.worked(of)
	waiting.answered(db.RunStep{Status: db.RunWaiting, Reason: "provider.rate_limited", Detail: "Wait.", Wait: time.Hour})
	before := waiting.jobs("run")
	require.Equal(t, "queued", post(waiting, "retry").is(200).text("status"))
	require.Equal(t, before+1, waiting.jobs("run"), "the job is there if and only if the run is queued")

	dead := b.worked(of)
	dead.answered(db.RunStep{Status: db.RunDead, Reason: "output.schema", Detail: "The answer is not what was asked for."})
	require.Len(t, b.call(of.viewer, "GET", "/v1/runs?status=dead&reason=output.schema", nil).is(200).rows(), 1)
	before = dead.jobs("run")
	got := post(dead, "retry").is(200)
	require.Equal(t, "queued", got.text("status"))
	require.Equal(t, "retried", got.text("reason"))
	require.Equal(t, before+1, dead.jobs("run"))

	refused := b.worked(of)
	refused.answered(db.RunStep{Status: db.RunActing, Reason: "action.pending", Detail: "The outcome stands."})
	effect := refused.effect(db.ActionFailed)
	refused.acted(db.RunDead, "action.refused")
	before = refused.jobs("run")
	require.Equal(t, "acting", post(refused, "retry").is(200).text("status"))
	require.Equal(t, before, refused.jobs("run"), "no model is paid again")
	require.Equal(t, 1, refused.jobs("action"))
	refused.tx(func(ctx context.Context, tx db.TenantTx) error {
		a, err := tx.ActionGet(ctx, effect)
		require.Equal(t, db.ActionIntended, a.State)
		require.Equal(t, 9, a.AttemptsMax)
		return err
	})
	post(refused, "cancel").is(200)
	refused.tx(func(ctx context.Context, tx db.TenantTx) error {
		a, err := tx.ActionGet(ctx, effect)
		require.Equal(t, "run.cancelled", a.Reason)
		return err
	})

	unknown := b.worked(of)
	unknown.answered(db.RunStep{Status: db.RunActing, Reason: "action.pending", Detail: "The outcome stands."})
	unknown.effect(db.ActionUnknown)
	unknown.acted(db.RunDead, "action.unknown")
	require.Equal(t, "acting", post(unknown, "retry").is(200).text("status"), "the target drops what it has seen, so it may be sent again")

	blind := b.worked(of)
	blind.once = action.OnceNever
	blind.answered(db.RunStep{Status: db.RunActing, Reason: "action.pending", Detail: "The outcome stands."})
	effect = blind.effect(db.ActionUnknown)
	blind.acted(db.RunDead, "action.unknown")
	require.Contains(t, post(blind, "retry").refused(409, "run.not_retryable").text("detail"), "nobody can tell")
	resolve := func(w worked, arrived bool) heard {
		return b.call(of.editor, "POST", "/v1/runs/"+w.id+"/resolve", map[string]any{"arrived": arrived, "note": "seen by Ada"})
	}
	resolve(dead, true).refused(409, "run.not_unknown")
	byHand := b.worked(of)
	byHand.answered(db.RunStep{Status: db.RunActing, Reason: "action.pending", Detail: "The outcome stands."})
	byHand.effect(db.ActionFailed)
	byHand.acted(db.RunDead, "action.refused")
	resolve(byHand, false).refused(409, "run.not_unknown")
	require.Equal(t, "done", resolve(byHand, true).is(200).text("status"), "a person has made it by hand")
	require.Equal(t, "acting", resolve(blind, false).is(200).text("status"))
	resolve(blind, true).refused(409, "run.not_unknown")
	blind.tx(func(ctx context.Context, tx db.TenantTx) error {
		a, err := tx.ActionGet(ctx, effect)
		require.Equal(t, db.ActionIntended, a.State)
		return err
	})

	seen := b.worked(of)
	seen.once = action.OnceNever
	seen.answered(db.RunStep{Status: db.RunActing, Reason: "action.pending", Detail: "The outcome stands."})
	effect = seen.effect(db.ActionUnknown)
	seen.acted(db.RunDead, "action.unknown")
	before = seen.jobs("action")
	got = resolve(seen, true).is(200)
	require.Equal(t, "done person.arrived", got.text("status")+" "+got.text("reason"))
	require.Contains(t, got.text("detail"), "seen by Ada")
	require.Equal(t, before, seen.jobs("action"), "nothing is sent")
	seen.tx(func(ctx context.Context, tx db.TenantTx) error {
		a, err := tx.ActionGet(ctx, effect)
		require.Equal(t, db.ActionConfirmed, a.State)
		return err
	})
}
