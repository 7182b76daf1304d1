package migrations_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/migrations"
)

// open makes a pool that the test closes.
func open(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// empty is a database with nothing in it, and its superuser's pool.
func empty(t *testing.T) (string, *pgxpool.Pool) {
	t.Helper()
	url := dbtest.Empty(t)
	return url, open(t, url)
}

// exec runs a statement as the superuser.
func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func status(t *testing.T, pool *pgxpool.Pool) migrations.Status {
	t.Helper()
	s, err := migrations.Read(t.Context(), pool)
	require.NoError(t, err)
	return s
}

const schemasSQL = `select count(*) from pg_namespace where nspname in ('sluice', 'river')`

// outlineSQL is every column, constraint, index, policy, trigger, function and grant of our two schemas.
const outlineSQL = `
select kind || ' ' || what from (
    select 'column', format('%s.%s.%s %s %s %s', table_schema, table_name, column_name, data_type, is_nullable, column_default)
    from information_schema.columns where table_schema in ('sluice', 'river')
    union all
    select 'constraint', format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    from pg_constraint where connamespace in (select oid from pg_namespace where nspname in ('sluice', 'river'))
    union all
    select 'index', indexdef from pg_indexes where schemaname in ('sluice', 'river')
    union all
    select 'policy', format('%s.%s %s %s %s %s', tablename, policyname, roles, cmd, qual, with_check) from pg_policies where schemaname = 'sluice'
    union all
    select 'trigger', pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where not t.tgisinternal and c.relnamespace in (select oid from pg_namespace where nspname in ('sluice', 'river'))
    union all
    select 'function', format('%s %s', p.oid::regprocedure, p.proacl) from pg_proc p
    where p.pronamespace in (select oid from pg_namespace where nspname in ('sluice', 'river'))
    union all
    select 'relation', format('%s %s %s %s %s %s', c.oid::regclass, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relacl, c.reloptions) from pg_class c
    where c.relnamespace in (select oid from pg_namespace where nspname in ('sluice', 'river')) and c.relkind in ('r', 'p', 'v', 'S')
    union all
    select 'column grant', format('%s.%s %s', a.attrelid::regclass, a.attname, a.attacl) from pg_attribute a join pg_class c on c.oid = a.attrelid
    where a.attacl is not null and not a.attisdropped and c.relnamespace in (select oid from pg_namespace where nspname in ('sluice', 'river'))
    union all
    select 'schema', format('%s %s', nspname, nspacl) from pg_namespace where nspname in ('sluice', 'river')
    union all
    select 'price', p::text from sluice.prices p) as o (kind, what)
order by 1`

func outline(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), outlineSQL)
	require.NoError(t, err)
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		lines = append(lines, line)
	}
	require.NoError(t, rows.Err())
	return lines
}

// requireSame tells the first line that differs, not two outlines of a thousand lines.
func requireSame(t *testing.T, before, after []string) {
	t.Helper()
	for _, line := range before {
		require.True(t, slices.Contains(after, line), "gone: %s", line)
	}
	for _, line := range after {
		require.True(t, slices.Contains(before, line), "come: %s", line)
	}
	require.Len(t, after, len(before))
}

func TestFilesAreNumberedWithoutGapsAndGoBothWays(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("*.sql")
	require.NoError(t, err)
	name := regexp.MustCompile(`^(\d{4})_([a-z0-9_]+)\.(up|down)\.sql$`)
	ways := map[int]map[string]string{}
	for _, path := range paths {
		if path == "roles.sql" {
			continue
		}
		parts := name.FindStringSubmatch(path)
		require.NotNil(t, parts, "%s: want NNNN_what.up.sql or NNNN_what.down.sql", path)
		number, err := strconv.Atoi(parts[1])
		require.NoError(t, err)
		if ways[number] == nil {
			ways[number] = map[string]string{}
		}
		require.NotContains(t, ways[number], parts[3], "%s: its number is taken", path)
		ways[number][parts[3]] = parts[2]
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		// A file is one transaction because it is one simple query: it may not end that one itself.
		require.NotRegexp(t, `(?im)^\s*(begin|commit|rollback|start transaction)\s*;`, string(text), path)
	}
	require.NotEmpty(t, ways)
	for number := 1; number <= len(ways); number++ {
		require.Contains(t, ways, number, "the numbers have a gap")
		require.Len(t, ways[number], 2, "migration %04d: want one file up and one down", number)
		require.Equal(t, ways[number]["up"], ways[number]["down"], "migration %04d", number)
	}
	_, pool := empty(t)
	require.Equal(t, len(ways), status(t, pool).Wanted)
}

func TestUpDownUpComesBackToTheSame(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.NoError(t, migrations.Up(t.Context(), url))
	first := outline(t, pool)
	require.NoError(t, status(t, pool).Err())
	require.NoError(t, migrations.Up(t.Context(), url), "again, which does nothing")
	requireSame(t, first, outline(t, pool))

	for range status(t, pool).Wanted {
		require.NoError(t, migrations.Down(t.Context(), url, 1))
	}
	require.Equal(t, 0, max(status(t, pool).Version, 0))
	require.True(t, status(t, pool).RiverReady, "steps are ours, and leave River's tables")
	require.NoError(t, migrations.Up(t.Context(), url))
	requireSame(t, first, outline(t, pool))

	require.NoError(t, migrations.Down(t.Context(), url, 0))
	var left []string
	require.NoError(t, pool.QueryRow(t.Context(), `
		select coalesce(array_agg(format('%s %s', c.oid::regclass, c.relkind)), '{}') from pg_class c
		where c.relnamespace in (select oid from pg_namespace where nspname in ('sluice', 'river')) and c.relkind in ('r', 'p', 'v', 'S')`).Scan(&left))
	require.Equal(t, []string{"sluice.schema_migrations r"}, left)
	s := status(t, pool)
	require.Equal(t, 0, s.Version)
	require.False(t, s.RiverReady)
	require.ErrorContains(t, s.Err(), "the schema is at version 0")
	require.NoError(t, migrations.Up(t.Context(), url))
	requireSame(t, first, outline(t, pool))
	require.NoError(t, status(t, pool).Err())
}

func TestDownStopsAtNothing(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.NoError(t, migrations.Up(t.Context(), url))
	require.NoError(t, migrations.Down(t.Context(), url, 1000))
	require.Equal(t, 0, status(t, pool).Version)
	require.NoError(t, migrations.Down(t.Context(), url, 1), "there is nothing to take back")
	require.NoError(t, migrations.Up(t.Context(), url))
	require.NoError(t, status(t, pool).Err())
}

func TestDownOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.NoError(t, migrations.Down(t.Context(), url, 1))
	require.NoError(t, migrations.Down(t.Context(), url, 0))
	var schemas int
	require.NoError(t, pool.QueryRow(t.Context(), schemasSQL).Scan(&schemas))
	require.Zero(t, schemas, "there is nothing to take back, and nothing is made")
}

// TestUpEndsWhereTheVersionCannotBeKept: golang-migrate fails on its start, and must not hold up the end.
func TestUpEndsWhereTheVersionCannotBeKept(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	exec(t, pool, `create schema sluice`) // another's, where sluice_owner may make nothing
	require.ErrorContains(t, migrations.Up(t.Context(), url), "permission denied for schema sluice")
}

func TestUpTwiceAtOnce(t *testing.T) {
	t.Parallel()
	const times = 3
	url, pool := empty(t)
	errs := make(chan error, times)
	for range times {
		go func() { errs <- migrations.Up(t.Context(), url) }()
	}
	for range times {
		require.NoError(t, <-errs)
	}
	require.NoError(t, status(t, pool).Err())
}

func TestUpWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	address, pool := empty(t)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `select pg_advisory_lock(7238651)`)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { errs <- migrations.Up(ctx, address) }()
	// It has asked for the lock when its own session is there and says so.
	require.Eventually(t, func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity
			where datname = current_database() and query like 'select pg_try_advisory_lock%' and pid <> pg_backend_pid()`).Scan(&n)
		return err == nil && n > 0
	}, waitMax, waitPoll)
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled)
	require.Equal(t, 0, status(t, pool).Version)
}

func TestStatusOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	_, pool := empty(t)
	s := status(t, pool)
	require.Equal(t, 0, s.Version)
	require.Positive(t, s.Wanted)
	require.False(t, s.Dirty)
	require.False(t, s.RiverReady)
	require.Empty(t, s.InvalidIndexes)
	require.ErrorContains(t, s.Err(), "the schema is at version 0")
	require.ErrorContains(t, s.Err(), "tables of River")
	require.ErrorContains(t, s.Err(), "sluice migrate up")
	var schemas int
	require.NoError(t, pool.QueryRow(t.Context(), schemasSQL).Scan(&schemas))
	require.Zero(t, schemas, "asking writes nothing")
}

func TestStatusOfAnOldDatabase(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.NoError(t, migrations.Up(t.Context(), url))
	wanted := status(t, pool).Wanted
	require.NoError(t, migrations.Down(t.Context(), url, 1))
	s := status(t, pool)
	require.Equal(t, wanted-1, s.Version)
	require.True(t, s.RiverReady)
	require.EqualError(t, s.Err(), "the schema is at version "+strconv.Itoa(wanted-1)+", this binary needs "+strconv.Itoa(wanted)+": run `sluice migrate up`")

	exec(t, pool, `update sluice.schema_migrations set version = version + 10`)
	require.NoError(t, status(t, pool).Err(), "a database newer than the binary is served")
}

func TestStatusNamesAnInvalidIndex(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	exec(t, b.Owner, `update pg_index set indisvalid = false where indexrelid = 'sluice.runs_open'::regclass`)
	s := status(t, b.Owner)
	require.Equal(t, []string{"sluice.runs_open"}, s.InvalidIndexes)
	require.ErrorContains(t, s.Err(), "sluice.runs_open")
}

// TestStatusLeavesOutAnIndexThatIsBuiltAnew: beside one that REINDEX CONCURRENTLY replaces, a database is as fit as ever.
func TestStatusLeavesOutAnIndexThatIsBuiltAnew(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	exec(t, b.Owner, `create index river_job_run_ccnew on river.river_job (kind)`)
	exec(t, b.Owner, `update pg_index set indisvalid = false where indexrelid = 'river.river_job_run_ccnew'::regclass`)
	require.NoError(t, status(t, b.Owner).Err())
}

func TestStatusIsReadByEveryRoleThatServes(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	want := status(t, b.Owner)
	require.NoError(t, want.Err())
	for role, pool := range map[string]*pgxpool.Pool{db.AppRole: b.App, db.WorkerRole: b.WorkerPool, db.SystemRole: b.System} {
		got, err := migrations.Read(t.Context(), pool)
		require.NoError(t, err, role)
		require.Equal(t, want, got, role)
	}
}

func TestUpGoesOnFromAFileThatFailed(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.NoError(t, migrations.Up(t.Context(), url))
	first := outline(t, pool)
	for version := status(t, pool).Wanted; version >= 1; version-- {
		// What a process leaves that is killed in the file of this number.
		require.NoError(t, migrations.Down(t.Context(), url, 1))
		exec(t, pool, `truncate sluice.schema_migrations`)
		exec(t, pool, `insert into sluice.schema_migrations (version, dirty) values ($1, true)`, version)
		s := status(t, pool)
		require.True(t, s.Dirty)
		require.ErrorContains(t, s.Err(), "did not end")
		require.ErrorContains(t, migrations.Down(t.Context(), url, 1), "did not end")

		require.NoError(t, migrations.Up(t.Context(), url))
		require.NoError(t, status(t, pool).Err())
		requireSame(t, first, outline(t, pool))
		require.NoError(t, migrations.Down(t.Context(), url, status(t, pool).Wanted-version+1))
	}
}

func TestDownThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.NoError(t, migrations.Up(t.Context(), url))
	before := status(t, pool)
	// A view of somebody else's stands on a table that is to go.
	exec(t, pool, `create view public.others as select id from sluice.prices`)
	exec(t, pool, `create view public.verdicts as select note from sluice.reviews`)
	exec(t, pool, `create view public.changers as select actor from sluice.audit_entries`)
	exec(t, pool, `create table public.books (price bigint references sluice.prices)`)
	exec(t, pool, `insert into public.books select id from sluice.prices`)
	require.Error(t, migrations.Down(t.Context(), url, 1))
	require.Equal(t, before, status(t, pool))
	require.Error(t, migrations.Down(t.Context(), url, 0))
	require.Equal(t, before, status(t, pool))
	require.NoError(t, migrations.Up(t.Context(), url))
	require.NoError(t, status(t, pool).Err())
}

func TestErrorsShowNoPassword(t *testing.T) {
	t.Parallel()
	const password = "hunter2-of-the-owner"
	for _, url := range []string{
		"postgres://owner:" + password + "@127.0.0.1:1/sluice?sslmode=disable",
		"postgres://owner:" + password + "@127.0.0.1:port/sluice",
		"postgres://owner:" + password + "@[::1/sluice",
		"host=127.0.0.1 port=x user=owner password='" + password,
		password,
	} {
		for _, err := range []error{migrations.Up(t.Context(), url), migrations.Down(t.Context(), url, 1)} {
			require.Error(t, err)
			require.NotContains(t, err.Error(), password)
		}
	}
}

// database makes the url of another database, or of another user, of the same server.
func database(t *testing.T, server, user, password, name string) string {
	t.Helper()
	u, err := url.Parse(server)
	require.NoError(t, err)
	if user != "" {
		u.User = url.UserPassword(user, password)
	}
	u.Path = "/" + strings.TrimPrefix(name, "/")
	return u.String()
}

// TestTenantsOfBeforeAreTakenAlong: a database with tenants comes to the version that hangs all on living tenants, and begins a chain of the audit for each.
func TestTenantsOfBeforeAreTakenAlong(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.NoError(t, migrations.Up(t.Context(), url))
	require.NoError(t, migrations.Down(t.Context(), url, status(t, pool).Wanted-5))
	require.Equal(t, 5, status(t, pool).Version)
	const alive, erased = "01980000-0000-7000-8000-000000000001", "01980000-0000-7000-8000-000000000002"
	exec(t, pool, `insert into sluice.tenants (tenant_id, name, status) values ($1, 'acme', 'active'), ($2, 'erased', 'erased')`, alive, erased)
	exec(t, pool, `insert into sluice.keys (tenant_id, id, name, role, hash, last4) values ($1, $1, 'k', 'admin', sha256('k'), 'aaaa')`, alive)
	// What came back of a tenant that had been erased.
	exec(t, pool, `insert into sluice.idempotency_keys (tenant_id, key, request_hash) values ($1, 'k', 'x')`, erased)
	require.NoError(t, migrations.Up(t.Context(), url))
	require.NoError(t, status(t, pool).Err())
	for sql, want := range map[string]int{
		`select count(*) from sluice.living`:                                      1,
		`select count(*) from sluice.living where tenant_id = '` + alive + `'`:    1,
		`select count(*) from sluice.keys`:                                        1,
		`select count(*) from sluice.idempotency_keys`:                            0,
		`select count(*) from sluice.audit_heads`:                                 3, // and the operator's
		`select count(*) from sluice.audit_faults(null)`:                          0,
		`select count(*) from sluice.audit_entries where actor_kind = 'database'`: 3,
	} {
		var got int
		require.NoError(t, pool.QueryRow(t.Context(), sql).Scan(&got))
		require.Equal(t, want, got, sql)
	}
	require.NoError(t, migrations.Down(t.Context(), url, status(t, pool).Wanted-5))
	require.NoError(t, migrations.Up(t.Context(), url))
}
