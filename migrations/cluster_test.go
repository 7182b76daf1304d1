package migrations_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/migrations"
)

const (
	waitMax  = 30 * time.Second
	waitPoll = 20 * time.Millisecond
)

// What concerns the roles needs a cluster that has none yet, so these tests have a server of their own.
func TestOnAFreshCluster(t *testing.T) {
	t.Parallel()
	server := dbtest.Server(t)
	admin := open(t, server)
	const login, password = "migrator", "migrators-own"
	exec(t, admin, `create role migrator login nosuperuser nobypassrls createrole password 'migrators-own'`)
	exec(t, admin, `create role service login nosuperuser nobypassrls password 'services-own'`)

	t.Run("a login without CREATEROLE is refused, and leaves nothing", func(t *testing.T) {
		exec(t, admin, `create database refused owner service`)
		err := migrations.Up(t.Context(), database(t, server, "service", "services-own", "refused"))
		require.ErrorContains(t, err, "make the roles and schemas")
		require.NotContains(t, err.Error(), "services-own")
		var roles int
		require.NoError(t, admin.QueryRow(t.Context(), `select count(*) from pg_roles where rolname like 'sluice%'`).Scan(&roles))
		require.Zero(t, roles)
	})

	t.Run("databases migrated at once by one login that is no superuser", func(t *testing.T) {
		const databases = 4
		errs := make(chan error, 2*databases)
		for i := range databases {
			exec(t, admin, fmt.Sprintf(`create database d%d owner migrator`, i))
		}
		for i := range databases {
			for range 2 {
				go func() { errs <- migrations.Up(t.Context(), database(t, server, login, password, fmt.Sprint("d", i))) }()
			}
		}
		for range 2 * databases {
			require.NoError(t, <-errs)
		}
		for i := range databases {
			require.NoError(t, status(t, open(t, database(t, server, "", "", fmt.Sprint("d", i)))).Err())
		}
	})

	t.Run("that login goes down and up again", func(t *testing.T) {
		url := database(t, server, login, password, "d0")
		require.NoError(t, migrations.Down(t.Context(), url, 0))
		require.NoError(t, migrations.Up(t.Context(), url))
		require.NoError(t, status(t, open(t, url)).Err())
	})

	t.Run("the roles can do no more than they should", func(t *testing.T) {
		rows, err := admin.Query(t.Context(), `select rolname from pg_roles
			where rolname like 'sluice%' and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolcanlogin or rolreplication)`)
		require.NoError(t, err)
		require.False(t, rows.Next())
		rows.Close()
	})

	t.Run("a login that is given the roles serves with them", func(t *testing.T) {
		// As the one who migrates: who makes a role may grant it.
		exec(t, open(t, database(t, server, login, password, "d0")), `grant sluice_app, sluice_worker, sluice_system to service`)
		url := database(t, server, "service", "services-own", "d0")
		for _, role := range []string{db.AppRole, db.WorkerRole, db.SystemRole} {
			pool, err := db.Open(t.Context(), db.PoolConfig{URL: url, Role: role, ConnsMax: 1})
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			require.NoError(t, status(t, pool).Err(), role)
		}
	})
}
