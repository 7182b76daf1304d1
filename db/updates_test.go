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

// TestChangesOfATargetGoOneAfterAnotherWhateverTheirIDs: ids of two processes are not made in the order of their commits, so that a change with a
// smaller id may come after one with a greater is on its way; both at once would each make a comment of its own.
func TestChangesOfATargetGoOneAfterAnotherWhateverTheirIDs(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	smaller, greater := tenants.NewID(), tenants.NewID()
	require.Negative(t, compare(smaller, greater))
	change := func(id uuid.UUID) db.Action {
		return db.Action{
			ID: id, RunID: p.run, Kind: "github_comment", Key: id.String(), Target: "acme/shop#12", Effect: json.RawMessage(`{}`), State: db.ActionIntended, Updates: true,
		}
	}
	insert := func(id uuid.UUID) {
		require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error { return tx.ActionInsert(ctx, change(id)) }))
	}
	claim := func(tx db.TenantTx, id uuid.UUID) []db.ActionHeld {
		held, err := tx.ActionsClaim(ctx, []uuid.UUID{id}, time.Minute)
		require.NoError(t, err)
		return held
	}
	insert(greater)
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		require.Len(t, claim(tx, greater), 1)
		return nil
	}))
	insert(smaller)
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		require.Empty(t, claim(tx, smaller), "the greater is on its way")
		return nil
	}))

	// The same, while the greater's claim is not committed: whoever comes second waits for it, sees it, and puts its own back without an attempt.
	_, err := b.Owner.Exec(ctx, `update sluice.actions set state = 'intended', lease_until = null, attempt = 0, first_sent_at = null where id = any($1)`, []uuid.UUID{smaller, greater})
	require.NoError(t, err)
	_, err = b.Owner.Exec(ctx, `update sluice.actions set target = 'elsewhere' where id = $1`, smaller)
	require.NoError(t, err)
	done := make(chan []db.ActionHeld, 1)
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		require.Len(t, claim(tx, greater), 1)
		_, err := b.Owner.Exec(ctx, `update sluice.actions set target = 'acme/shop#12' where id = $1`, smaller)
		require.NoError(t, err)
		go func() {
			var held []db.ActionHeld
			_ = b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
				held, _ = tx.ActionsClaim(ctx, []uuid.UUID{smaller}, time.Minute)
				return nil
			})
			done <- held
		}()
		require.Eventually(t, func() bool {
			var waiting bool
			require.NoError(t, b.Owner.QueryRow(ctx, `select exists (select from pg_locks where locktype = 'advisory' and not granted
				and database = (select oid from pg_database where datname = current_database()))`).Scan(&waiting))
			return waiting
		}, 20*time.Second, 5*time.Millisecond)
		return nil
	}))
	require.Empty(t, <-done)
	require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		a, err := tx.ActionGet(ctx, smaller)
		require.Equal(t, db.ActionIntended, a.State)
		require.Zero(t, a.Attempt)
		require.Nil(t, a.FirstSentAt)
		return err
	}))
}

func compare(a, b uuid.UUID) int {
	if a.String() < b.String() {
		return -1
	}
	return 1
}
