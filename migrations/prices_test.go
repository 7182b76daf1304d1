package migrations_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

func TestPricesAreKept(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	const price = 9020 // a model of the scripted provider
	count := func() (n int) {
		require.NoError(t, b.Owner.QueryRow(t.Context(), `select count(*) from sluice.prices`).Scan(&n))
		return n
	}
	all := count()
	require.Positive(t, all)

	refused := func(sql string, args ...any) {
		t.Helper()
		_, err := b.Owner.Exec(t.Context(), sql, args...)
		var pgErr *pgconn.PgError
		require.ErrorAs(t, err, &pgErr, sql)
		require.Equal(t, "23514", pgErr.Code, sql)
	}
	refused(`delete from sluice.prices where id = $1`, price)
	refused(`delete from sluice.prices`)
	for _, change := range []string{
		"id = 1", "provider = 'other'", "model = 'other'", "tier_above = 1", "effective_from = effective_from - interval '1 day'",
		"input_pico = input_pico + 1", "output_pico = 0", "cache_read_pico = null", "cache_write_5m_pico = 0", "cache_write_1h_pico = 0",
		"source = 'other'", "effective_to = now(), output_pico = 0", "effective_to = effective_from",
	} {
		refused(`update sluice.prices set `+change+` where id = $1`, price)
	}

	end := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	exec(t, b.Owner, `update sluice.prices set effective_to = $2 where id = $1`, price, end)
	refused(`update sluice.prices set effective_to = $2 where id = $1`, price, end.AddDate(1, 0, 0))
	refused(`update sluice.prices set effective_to = null where id = $1`, price)
	var got time.Time
	require.NoError(t, b.Owner.QueryRow(t.Context(), `select effective_to from sluice.prices where id = $1`, price).Scan(&got))
	require.WithinDuration(t, end, got, 0)
	exec(t, b.Owner, `insert into sluice.prices (id, provider, model, effective_from, input_pico, output_pico, source)
		select 1, provider, model, effective_to, 1, 1, 'test' from sluice.prices where id = $1`, price)
	require.Equal(t, all+1, count())
}

func TestNoRoleThatServesWritesPrices(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	for _, sql := range []string{
		`update sluice.prices set effective_to = now()`, `delete from sluice.prices`, `truncate sluice.prices cascade`,
		`insert into sluice.prices (id, provider, model, effective_from, input_pico, output_pico, source) values (1, 'p', 'm', now(), 0, 0, 's')`,
	} {
		for role, pool := range map[string]*pgxpool.Pool{db.AppRole: b.App, db.WorkerRole: b.WorkerPool, db.SystemRole: b.System} {
			_, err := pool.Exec(t.Context(), sql)
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr, role)
			require.Equal(t, "42501", pgErr.Code, "%s: %s", role, sql)
		}
	}
}
