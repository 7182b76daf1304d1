package db_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// planted is one tenant with a row in every table.
type planted struct {
	tenant, endpoint, automation, event, run, call, action, credential uuid.UUID
}

func plant(tb testing.TB, b *dbtest.Bundle, name string) planted {
	tb.Helper()
	ctx := tb.Context()
	var p planted
	require.NoError(tb, b.DB.System(ctx, func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(ctx, name, "UTC")
		if err != nil {
			return err
		}
		p.tenant = tenant.TenantID
		key, err := tenants.NewKey(false)
		if err != nil {
			return err
		}
		_, err = tx.KeyInsert(ctx, p.tenant, "first", tenants.Admin, key)
		return err
	}))
	require.NoError(tb, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(ctx, name, "standard", json.RawMessage(`{}`))
		if err != nil {
			return err
		}
		p.endpoint = e.ID
		if _, err := tx.EndpointSecretInsert(ctx, e.ID, tenants.NewSecret("canary-endpoint-secret")); err != nil {
			return err
		}
		c, err := tx.CredentialInsert(ctx, name, "callback", tenants.NewSecret("canary-credential-secret"))
		if err != nil {
			return err
		}
		p.credential = c.ID
		a, err := tx.AutomationInsert(ctx, e.ID, name, json.RawMessage(`{"name":"x"}`), uuid.Nil)
		if err != nil {
			return err
		}
		p.automation = a.ID
		return nil
	}))
	p.event, p.run = tenants.NewID(), tenants.NewID()
	admit(tb, b.DB, delivered(p, `{}`, db.EventNew{
		ID: p.event, SourceEventID: "one", Once: "body-of-one", Type: "x", Verdicts: json.RawMessage(`[]`),
		Runs: []db.RunNew{{ID: p.run, AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}},
	}))
	require.NoError(tb, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		run, err := tx.RunClaim(ctx, p.run, 60e9)
		if err != nil {
			return err
		}
		p.call, p.action = tenants.NewID(), tenants.NewID()
		if _, err := tx.CallsSend(ctx, []db.Call{{
			ID: p.call, RunID: p.run, Epoch: run.Epoch, Provider: "scripted", ModelAsked: "echo-1", PriceID: 9001, RequestSHA256: []byte("x"), MaxOutputTokens: 1,
			Part: db.CallAsk,
		}}); err != nil {
			return err
		}
		if err := tx.CallOrphan(ctx, db.Call{ID: p.call, CostPico: 5}); err != nil {
			return err
		}
		if err := tx.EntryInsert(ctx, p.call, db.EntryOrphan); err != nil {
			return err
		}
		if err := tx.ActionInsert(ctx, db.Action{
			ID: p.action, RunID: p.run, Kind: "callback", Key: "k", Target: "t", Effect: json.RawMessage(`{}`), State: db.ActionIntended,
		}); err != nil {
			return err
		}
		if err := tx.RunStep(ctx, p.run, run.Epoch, db.RunStep{Status: db.RunActing, Reason: "action.pending"}); err != nil {
			return err
		}
		if _, err := tx.ActionsClaim(ctx, []uuid.UUID{p.action}, 60e9); err != nil {
			return err
		}
		if err := tx.ReviewInsert(ctx, db.Review{RunID: p.run, Verdict: db.VerdictApprove}); err != nil {
			return err
		}
		if err := tx.ReplayInsert(ctx, db.Replay{
			ID: tenants.NewID(), Kind: db.KindReplay, Mode: db.ReplayRun, Asked: json.RawMessage(`{}`), PerSecond: 1,
		}, []db.ReplayItem{{EventID: run.EventID, AutomationID: run.AutomationID}}); err != nil {
			return err
		}
		_, err = tx.Once(ctx, "key-1", []byte("hash"), func() ([]byte, error) { return []byte(`{"secret":"canary-answer"}`), nil })
		if err != nil {
			return err
		}
		channel := db.AlertChannel{Name: name, Kind: db.ChannelEmail, Target: "x@example.com"}
		if _, err := tx.AlertChannelInsert(ctx, channel, db.AlertAddress{Email: tenants.NewSecret("x@example.com")}); err != nil {
			return err
		}
		// The channel is told of it: a row of alert_notices.
		if err := tx.AlertBegin(ctx, "rejections", "end_of_"+name, "many"); err != nil {
			return err
		}
		if err := tx.MissedCheckPut(ctx, p.endpoint, time.Now(), ""); err != nil {
			return err
		}
		if _, err := tx.MissedEventsAdd(ctx, p.endpoint, []db.MissedEvent{{SourceEventID: "missed", Delivery: "1", SentAt: time.Now()}}); err != nil {
			return err
		}
		return tx.RejectionAdd(ctx, db.Rejection{EndpointID: p.endpoint, Reason: "signature.mismatch", Count: 1, Sample: json.RawMessage(`{}`)})
	}))
	_, err := b.Owner.Exec(ctx, `insert into sluice.rates (tenant_id, subject, measure, day, level, hours)
		values ($1, $1, 'events', '2026-01-01', 'tenant', array_fill(1, array[24]))`, p.tenant)
	require.NoError(tb, err)
	for _, statement := range []string{
		`insert into sluice.limit_raises (tenant_id, id, name, value, until) values ($1, $1, 'tokens_per_day', 1, now() + interval '1 hour')`,
		`insert into sluice.usage_rolled (tenant_id) values ($1)`, `insert into sluice.usage_late (tenant_id, at) values ($1, 'epoch')`,
		`insert into sluice.usage_rollups (tenant_id, at, endpoint_id, automation_id, provider, model_asked, model_served, kind, entries, input_uncached,
			input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning, amount_pico)
			values ($1, 'epoch', $1, $1, 'x', 'x', 'x', 'charge', 1, 1, 1, 1, 1, 1, 1, 1)`,
	} {
		_, err := b.Owner.Exec(ctx, statement, p.tenant)
		require.NoError(tb, err)
	}
	return p
}

// TestApplicationCannotRewriteThePast: what is append-only has no grant to change it, and the owner meets a trigger.
func TestApplicationCannotRewriteThePast(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	for _, statement := range []string{
		`update sluice.ledger_entries set amount_pico = 0`, `delete from sluice.ledger_entries`, `truncate sluice.ledger_entries`,
		`update sluice.events set type = 'y'`, `delete from sluice.events`, `delete from sluice.event_keys`, `update sluice.event_keys set event_id = null`,
		`update sluice.run_history set status = 'done'`, `delete from sluice.runs`, `update sluice.prices set input_pico = 0`,
		`select * from river.river_job`, `delete from river.river_job`, `select * from sluice.operator_keys`, `select sluice.tenant_erase('` + p.tenant.String() + `')`,
	} {
		tx, err := b.App.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `select set_config('sluice.tenant_id', $1, true)`, p.tenant.String())
		require.NoError(t, err)
		_, err = tx.Exec(ctx, statement)
		require.ErrorContains(t, err, "permission denied", statement)
		require.NoError(t, tx.Rollback(ctx))
	}
	_, err := b.Owner.Exec(ctx, `update sluice.ledger_entries set amount_pico = 0`)
	require.ErrorContains(t, err, "append-only")
}
