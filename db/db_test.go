package db_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

func eventNew(id, once string) db.EventNew {
	return db.EventNew{ID: tenants.NewID(), SourceEventID: id, Once: once, Type: "x", Verdicts: json.RawMessage(`[]`)}
}

// delivered is a delivery of some events to a planted endpoint.
func delivered(p planted, body string, events ...db.EventNew) *db.Delivery {
	return &db.Delivery{
		TenantID: p.tenant, EndpointID: p.endpoint, Source: "standard", Headers: json.RawMessage(`{}`), Body: []byte(body), BodySHA256: []byte("x"), Events: events,
	}
}

// admit stores deliveries in one batch.
func admit(tb testing.TB, d *db.DB, deliveries ...*db.Delivery) [][]uuid.UUID {
	tb.Helper()
	held := make([][]uuid.UUID, len(deliveries))
	require.NoError(tb, d.Door(tb.Context(), func(tx db.DoorTx) error {
		admitted, err := tx.Admit(tb.Context(), deliveries)
		for i := range admitted {
			for _, a := range admitted[i] {
				held[i] = append(held[i], a.Holder)
			}
		}
		return err
	}))
	return held
}

func TestRunStepsOnlyAsTheTableSays(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ctx := t.Context()
	statuses := []string{"queued", "running", "waiting", "held", "in_review", "acting", "done", "skipped", "dead", "cancelled"}
	allowed := map[[2]string]bool{}
	rows, err := b.Owner.Query(ctx, `select from_status, to_status from sluice.run_steps`)
	require.NoError(t, err)
	for rows.Next() {
		var from, to string
		require.NoError(t, rows.Scan(&from, &to))
		allowed[[2]string{from, to}] = true
	}
	require.NoError(t, rows.Err())
	require.NotEmpty(t, allowed)
	p := plant(t, b, "one")
	for _, from := range statuses {
		for _, to := range statuses {
			if from == to {
				continue
			}
			tx, err := b.Owner.Begin(ctx)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, `alter table sluice.runs disable trigger runs_stepped`)
			require.NoError(t, err)
			set := `update sluice.runs set status = $1, reason = 'test', lease_until = case when $1 = 'running' then now() end,
			    finished_at = case when $1 in ('done', 'skipped', 'dead', 'cancelled') then now() end where id = $2`
			_, err = tx.Exec(ctx, set, from, p.run)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, `alter table sluice.runs enable trigger runs_stepped`)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, set, to, p.run)
			require.Equal(t, allowed[[2]string{from, to}], err == nil, "%s to %s: %v", from, to, err)
			require.NoError(t, tx.Rollback(ctx))
		}
	}
}

func TestRunIsRefusedToAnOldEpoch(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	var id uuid.UUID
	in := func(fn func(tx db.TenantTx) error) error { return b.Worker.Tenant(ctx, p.tenant, fn) }
	e := eventNew("evt_epoch", "")
	id = tenants.NewID()
	e.Runs = []db.RunNew{{ID: id, AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}}
	admit(t, b.DB, delivered(p, `{}`, e))
	claim := func(lease time.Duration) (run db.Run, err error) {
		err = in(func(tx db.TenantTx) (err error) { run, err = tx.RunClaim(ctx, id, lease); return err })
		return run, err
	}
	zombie, err := claim(time.Microsecond)
	require.NoError(t, err)
	heir, err := claim(time.Minute)
	require.NoError(t, err, "the lease ran out")
	require.Greater(t, heir.Epoch, zombie.Epoch)
	require.Equal(t, "worker.lost", heir.Reason)
	_, err = claim(time.Minute)
	require.ErrorIs(t, err, db.ErrNotFound, "the heir's lease holds")
	call := db.Call{ID: tenants.NewID(), RunID: id, Provider: "scripted", ModelAsked: "echo-1", PriceID: 9001, RequestSHA256: []byte("x"), MaxOutputTokens: 1, Part: db.CallAsk}
	late := call
	late.ID = tenants.NewID()
	late.Epoch = zombie.Epoch
	call.Epoch = heir.Epoch
	require.NoError(t, in(func(tx db.TenantTx) error {
		granted, err := tx.CallsSend(ctx, []db.Call{late, call})
		require.Len(t, granted, 1, "the late one leaves nothing")
		require.Equal(t, db.Granted{ID: call.ID}, granted[0])
		return err
	}))
	require.ErrorIs(t, in(func(tx db.TenantTx) error { return tx.RunRenew(ctx, id, zombie.Epoch, time.Minute) }), db.ErrStale)
	require.ErrorIs(t, in(func(tx db.TenantTx) error { return tx.RunStep(ctx, id, zombie.Epoch, db.RunStep{Status: db.RunDone}) }), db.ErrStale)
	require.NoError(t, in(func(tx db.TenantTx) error { return tx.RunStep(ctx, id, heir.Epoch, db.RunStep{Status: db.RunDone}) }))
}

func TestSecretsAreSealedToTheirPlace(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	ctx := t.Context()
	var kept []byte
	require.NoError(t, b.Owner.QueryRow(ctx, `select sealed from sluice.credentials where tenant_id = $1`, one.tenant).Scan(&kept))
	require.False(t, bytes.Contains(kept, []byte("canary")))
	open := func(p planted) (string, error) {
		var text tenants.Secret
		err := b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) (err error) { text, err = tx.CredentialSecret(ctx, p.credential); return err })
		return text.Reveal(), err
	}
	text, err := open(one)
	require.NoError(t, err)
	require.Equal(t, "canary-credential-secret", text)
	// Another tenant's ciphertext, and another row's, do not open here.
	_, err = b.Owner.Exec(ctx, `update sluice.credentials set sealed = $1 where tenant_id = $2`, kept, other.tenant)
	require.NoError(t, err)
	_, err = open(other)
	require.ErrorContains(t, err, "sealed")
	_, err = b.Owner.Exec(ctx, `update sluice.credentials set sealed = (select sealed from sluice.endpoint_secrets where tenant_id = $1) where tenant_id = $1`, one.tenant)
	require.NoError(t, err)
	_, err = open(one)
	require.ErrorContains(t, err, "sealed")
	// Nor under another master key.
	sealer, err := db.NewSealer([]byte("ffffffffffffffffffffffffffffffff"))
	require.NoError(t, err)
	err = db.New(db.Pools{App: b.App, System: b.System}, sealer).Tenant(ctx, one.tenant, func(tx db.TenantTx) error {
		_, err := tx.CredentialSecret(ctx, one.credential)
		return err
	})
	require.ErrorContains(t, err, "master key")
}

func TestOnceAnswersTheSameToTheSame(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	once := func(hash string, fn func() ([]byte, error)) (answer []byte, err error) {
		err = b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) (err error) { answer, err = tx.Once(ctx, "key-2", []byte(hash), fn); return err })
		return answer, err
	}
	failed := errors.New("no")
	_, err := once("a", func() ([]byte, error) { return nil, failed })
	require.ErrorIs(t, err, failed)
	answer, err := once("a", func() ([]byte, error) { return []byte("first"), nil })
	require.NoError(t, err, "what failed is not kept")
	require.Equal(t, "first", string(answer))
	answer, err = once("a", func() ([]byte, error) { t.Error("ran twice"); return nil, nil })
	require.NoError(t, err)
	require.Equal(t, "first", string(answer))
	_, err = once("b", func() ([]byte, error) { return nil, nil })
	require.ErrorIs(t, err, db.ErrKeyReused)
}

func TestDatabaseAwayIsToldSo(t *testing.T) {
	t.Parallel()
	pool, err := db.Open(t.Context(), db.PoolConfig{URL: "postgres://nobody:pw@127.0.0.1:1/none", Role: db.AppRole, ConnsMax: 1})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	sealer, err := db.NewSealer(make([]byte, db.MasterKeyLen))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = db.New(db.Pools{App: pool, System: pool}, sealer).Tenant(ctx, uuid.New(), func(db.TenantTx) error { return nil })
	require.ErrorIs(t, err, db.ErrUnavailable)
	_, err = db.Open(t.Context(), db.PoolConfig{URL: "postgres://user:hunter2@host:notaport/x"})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}
