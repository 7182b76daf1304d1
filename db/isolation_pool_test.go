package db_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

// TestAConnectionForgetsWhoseItWas sends the transactions of two tenants through one connection, ended in every way there is, and looks at it after each.
func TestAConnectionForgetsWhoseItWas(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	pool, err := db.Open(t.Context(), db.PoolConfig{URL: b.URL, Role: db.AppRole, ConnsMax: 1})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	sealer, err := db.NewSealer(b.MasterKey)
	require.NoError(t, err)
	d := db.New(db.Pools{App: pool, System: b.System}, sealer)
	errStop := errors.New("stop")
	ends := map[string]func(ctx context.Context, cancel context.CancelFunc, tx db.TenantTx) error{
		"commit": func(context.Context, context.CancelFunc, db.TenantTx) error { return nil },
		"error":  func(context.Context, context.CancelFunc, db.TenantTx) error { return errStop },
		"panic":  func(context.Context, context.CancelFunc, db.TenantTx) error { panic(errStop) },
		"cancelled before its commit": func(_ context.Context, cancel context.CancelFunc, _ db.TenantTx) error {
			cancel()
			return nil
		},
		"cancelled in a statement": func(ctx context.Context, cancel context.CancelFunc, tx db.TenantTx) error {
			go cancel()
			_, err := tx.Pgx().Exec(ctx, `select pg_sleep(60)`)
			return err
		},
		"failed statement": func(ctx context.Context, _ context.CancelFunc, tx db.TenantTx) error {
			_, err := tx.Pgx().Exec(ctx, `select 1 / 0`)
			return err
		},
		"failed statement that is not told": func(ctx context.Context, _ context.CancelFunc, tx db.TenantTx) error {
			_, _ = tx.Pgx().Exec(ctx, `select 1 / 0`)
			return nil
		},
		"a savepoint that is left": func(ctx context.Context, _ context.CancelFunc, tx db.TenantTx) error {
			_, err := tx.Pgx().Exec(ctx, `savepoint left_open`)
			return err
		},
		"a connection that is cut": func(_ context.Context, _ context.CancelFunc, tx db.TenantTx) error {
			return tx.Pgx().Conn().PgConn().Conn().Close()
		},
	}
	for name, end := range ends {
		for _, who := range []planted{one, other, one} {
			ctx, cancel := context.WithCancel(t.Context())
			func() {
				defer func() { _ = recover() }()
				_ = d.Tenant(ctx, who.tenant, func(tx db.TenantTx) error {
					require.Equal(t, []uuid.UUID{who.tenant}, tenantsSeen(t, tx), name)
					return end(ctx, cancel, tx)
				})
			}()
			cancel()
			require.Empty(t, settingLeft(t, pool), name)
		}
	}
}

// tenantsSeen are the tenants whose rows a transaction sees without naming one.
func tenantsSeen(t *testing.T, tx db.TenantTx) []uuid.UUID {
	t.Helper()
	var seen []uuid.UUID
	require.NoError(t, tx.Pgx().QueryRow(t.Context(), `select array_agg(distinct tenant_id) from sluice.runs`).Scan(&seen))
	return seen
}

// settingLeft is the setting that the pool's one connection has outside of transactions, and how many rows it shows.
func settingLeft(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	var left string
	var rows int
	require.NoError(t, pool.QueryRow(t.Context(), `select coalesce(current_setting('sluice.tenant_id', true), '') || coalesce(current_setting('sluice.actor', true), ''),
		(select count(*) from sluice.runs)`).Scan(&left, &rows))
	require.Zero(t, rows)
	return left
}
