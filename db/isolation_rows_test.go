package db_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

// Codes of Postgres's refusals.
const (
	codeDenied     = "42501" // a missing grant, or row security
	codeForeignKey = "23503"
	codeKept       = "23514" // a trigger of ours, on what is append-only
)

// unset is no setting at all, as a connection has it that no transaction of ours has used.
const unset = "unset"

// target is a tenant's table: a column that the application may change, those that it may insert, and a row of the other tenant.
type target struct {
	Name    string
	Changes string
	Inserts []string
	Row     json.RawMessage
}

// targets are all tenants' tables, as the catalogue has them, with a row of the other tenant from each.
func targets(t *testing.T, b *dbtest.Bundle, other uuid.UUID) []target {
	t.Helper()
	const allowed = `select coalesce(array_agg(a.attname::text order by a.attname), '{}') from pg_attribute a where a.attrelid = $1::text::regclass and a.attnum > 0
		and not a.attisdropped and a.attgenerated = '' and a.attidentity = '' and has_column_privilege('sluice_app', a.attrelid, a.attnum, $2)`
	var out []target
	for _, name := range tenantTables(t, b) {
		one := target{Name: name, Changes: "tenant_id"}
		var changes []string
		require.NoError(t, b.Owner.QueryRow(t.Context(), allowed, name, "update").Scan(&changes))
		if len(changes) > 0 {
			one.Changes = changes[0]
		}
		require.NoError(t, b.Owner.QueryRow(t.Context(), allowed, name, "insert").Scan(&one.Inserts))
		err := b.Owner.QueryRow(t.Context(), `select to_jsonb(x) from `+name+` x where tenant_id = $1 limit 1`, other).Scan(&one.Row)
		require.NoError(t, err, "%s has no row to hide: plant one", name)
		out = append(out, one)
	}
	return out
}

// attempt does one statement as a role under a setting, takes it back, and says how many rows it reached.
func attempt(ctx context.Context, tx pgx.Tx, role, setting, statement string, args ...any) (int64, error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = inner.Rollback(ctx) }()
	if _, err := inner.Exec(ctx, `set local role `+role); err != nil {
		return 0, err
	}
	if setting != unset {
		if _, err := inner.Exec(ctx, `select set_config('sluice.tenant_id', $1, true)`, setting); err != nil {
			return 0, err
		}
	}
	tag, err := inner.Exec(ctx, statement, args...)
	return tag.RowsAffected(), err
}

// ownerTx is a transaction of the superuser, given back however the test ends: a pool waits for it.
func ownerTx(t *testing.T, b *dbtest.Bundle) pgx.Tx {
	t.Helper()
	tx, err := b.Owner.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return tx
}

func refused(err error, code string) bool {
	var fault *pgconn.PgError
	return errors.As(err, &fault) && fault.Code == code
}

// leaks tries every way by which a role, as one tenant or as none, could reach a row of another in a table. A way is closed where it finds no row,
// or is refused for want of a grant or by row security; whatever else comes back, another error too, is a leak.
func leaks(ctx context.Context, tx pgx.Tx, role string, of target, mine, theirs uuid.UUID) []string {
	var out []string
	closed := func(way, setting, statement string, args ...any) {
		if n, err := attempt(ctx, tx, role, setting, statement, args...); n != 0 || err != nil && !refused(err, codeDenied) && !(role == "sluice_owner" && refused(err, codeKept)) {
			out = append(out, fmt.Sprintf("%s: %s as %s: %d rows, %v", of.Name, way, role, n, err))
		}
	}
	me := mine.String()
	closed("select of others", me, `select from `+of.Name+` where tenant_id <> $1`, mine)
	closed("select under an empty setting", "", `select from `+of.Name)
	closed("delete of another's", me, `delete from `+of.Name+` where tenant_id = $1`, theirs)
	closed("delete under an empty setting", "", `delete from `+of.Name)
	if role == "sluice_owner" { // what it may write is watched by triggers too, which say so in their own words
		return out
	}
	closed("update of another's", me, `update `+of.Name+` set `+of.Changes+` = `+of.Changes+` where tenant_id = $1`, theirs)
	closed("update under an empty setting", "", `update `+of.Name+` set `+of.Changes+` = `+of.Changes)
	closed("giving away", me, `update `+of.Name+` set tenant_id = $2 where tenant_id = $1`, mine, theirs)
	columns := strings.Join(of.Inserts, ", ")
	if columns == "" {
		columns = "tenant_id"
	}
	insert := `insert into ` + of.Name + ` (` + columns + `) select ` + columns + ` from jsonb_populate_record(null::` + of.Name + `, $1)`
	for _, setting := range []string{me, ""} {
		if _, err := attempt(ctx, tx, role, setting, insert, of.Row); !refused(err, codeDenied) {
			out = append(out, fmt.Sprintf("%s: insert for another as %s under %q: %v", of.Name, role, setting, err))
		}
	}
	// What hides everything hides nothing: a tenant's own rows are there.
	if n, err := attempt(ctx, tx, role, me, `select from `+of.Name+` where tenant_id = $1`, mine); err == nil && n == 0 {
		out = append(out, of.Name+": its own rows are gone for "+role)
	}
	return out
}

// leaksUnset tries the same on a connection that never had a setting: once it had one, what is left after it is empty, and not null.
func leaksUnset(ctx context.Context, tx pgx.Tx, role string, of target) []string {
	var out []string
	for _, way := range []string{`select from `, `delete from `} {
		if n, err := attempt(ctx, tx, role, unset, way+of.Name); n != 0 || err != nil && !refused(err, codeDenied) && !refused(err, codeKept) {
			out = append(out, fmt.Sprintf("%s: %s as %s under no setting: %d rows, %v", of.Name, way, role, n, err))
		}
	}
	return out
}

// freshTx is a transaction of a connection of its own, on which nothing was ever set.
func freshTx(t *testing.T, b *dbtest.Bundle) pgx.Tx {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), b.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	return tx
}

func tenantTables(t *testing.T, b *dbtest.Bundle) []string {
	t.Helper()
	names, err := texts(t.Context(), b.Owner, preamble()+`select oid::regclass::text from tenant where not relispartition order by 1`)
	require.NoError(t, err)
	return names
}

// rowsOf are hashes of all rows of a tenant, table by table.
func rowsOf(t *testing.T, b *dbtest.Bundle, tenant uuid.UUID) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range tenantTables(t, b) {
		var hash string
		require.NoError(t, b.Owner.QueryRow(t.Context(),
			`select coalesce(md5(string_agg(x::text, ',' order by x::text)), '') from `+name+` x where tenant_id = $1`, tenant).Scan(&hash))
		out[name] = hash
	}
	return out
}

// TestNoTenantReachesAnothersRows reads and writes every tenant's table that the catalogue knows, without naming a tenant: row security alone must
// keep them apart, for those who serve tenants and for the owner, whose rights some functions have.
func TestNoTenantReachesAnothersRows(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	before := rowsOf(t, b, other.tenant)
	tx, fresh := ownerTx(t, b), freshTx(t, b)
	for _, of := range targets(t, b, other.tenant) {
		for _, role := range []string{"sluice_app", "sluice_worker", "sluice_owner"} {
			require.Empty(t, leaks(t.Context(), tx, role, of, one.tenant, other.tenant))
			require.Empty(t, leaksUnset(t.Context(), fresh, role, of))
		}
		// The intake's login sees nothing and writes nothing but through its function; the billing system writes nothing.
		for role, ways := range map[string][]string{
			"sluice_door":    {"select from ", "delete from ", "update ? set tenant_id = tenant_id", "insert into ? (tenant_id) values (null)"},
			"sluice_billing": {"delete from ", "update ? set tenant_id = tenant_id", "insert into ? (tenant_id) values (null)"},
			"sluice_auditor": {"delete from "},
		} {
			for _, way := range ways {
				if !strings.Contains(way, "?") {
					way += "?"
				}
				_, err := attempt(t.Context(), tx, role, one.tenant.String(), strings.ReplaceAll(way, "?", of.Name))
				require.True(t, refused(err, codeDenied), "%s as %s: %v", way, role, err)
			}
		}
	}
	// Nobody who acts across tenants reads what they received, or made of it.
	for _, content := range []string{
		"select body from sluice.event_payloads", "select headers from sluice.event_payloads", "select output from sluice.runs", "select detail from sluice.runs",
		"select response_text from sluice.calls", "select effect from sluice.actions", "select receipt from sluice.actions", "select sealed from sluice.credentials",
		"select sealed from sluice.alert_channels", "select answer from sluice.idempotency_keys", "select note from sluice.reviews", "select asked from sluice.replays",
		"select before from sluice.audit_changes", "select sample from sluice.rejections",
	} {
		for _, role := range []string{"sluice_system", "sluice_door", "sluice_billing", "sluice_intake"} {
			_, err := attempt(t.Context(), tx, role, unset, content)
			require.True(t, refused(err, codeDenied), "%s as %s: %v", content, role, err)
		}
	}
	require.NoError(t, tx.Rollback(t.Context()))
	var none *string
	require.NoError(t, fresh.QueryRow(t.Context(), `select current_setting('sluice.tenant_id', true)`).Scan(&none))
	require.Nil(t, none)
	// The pools that serve are these roles, and not only by the test's word.
	for role, pool := range map[string]interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	}{"sluice_app": b.App, "sluice_worker": b.WorkerPool, "sluice_system": b.System, "sluice_door": b.Door} {
		var is string
		require.NoError(t, pool.QueryRow(t.Context(), `select current_user`).Scan(&is))
		require.Equal(t, role, is)
	}
	require.Equal(t, before, rowsOf(t, b, other.tenant))
}

// TestNoRowIsLinkedToAnothersRow turns every foreign key of one tenant's rows to the other's, past row security and every trigger of ours: the key
// alone must refuse it.
func TestNoRowIsLinkedToAnothersRow(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	type link struct {
		Child, Parent, Name string
		Here, There         []string
	}
	rows, err := b.Owner.Query(t.Context(), preamble()+`
		select c.conrelid::regclass::text as child, c.confrelid::regclass::text as parent, c.conname as name,
		    array(select a.attname::text from unnest(c.conkey) with ordinality k(n, i) join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.n order by i) as here,
		    array(select a.attname::text from unnest(c.confkey) with ordinality k(n, i) join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.n order by i) as there
		from pg_constraint c where c.contype = 'f' and c.conrelid in (select oid from tenant) and cardinality(c.conkey) > 1`)
	require.NoError(t, err)
	links, err := pgx.CollectRows(rows, pgx.RowToStructByName[link])
	require.NoError(t, err)
	require.Greater(t, len(links), 15)
	for _, l := range links {
		here := slices.DeleteFunc(slices.Clone(l.Here), func(c string) bool { return c == "tenant_id" })
		there := slices.DeleteFunc(slices.Clone(l.There), func(c string) bool { return c == "tenant_id" })
		tx := ownerTx(t, b)
		_, err := tx.Exec(t.Context(), `alter table `+l.Child+` disable trigger user`)
		require.NoError(t, err)
		tag, err := tx.Exec(t.Context(), `update `+l.Child+` set (`+strings.Join(here, ", ")+`) = row (`+strings.Join(quoted("p.", there), ", ")+`)
			from (table `+l.Parent+`) p where p.tenant_id = $2 and `+l.Child+`.tenant_id = $1`, one.tenant, other.tenant)
		require.True(t, refused(err, codeForeignKey), "%s.%s: %d rows, %v", l.Child, l.Name, tag.RowsAffected(), err)
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

func quoted(prefix string, names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = prefix + name
	}
	return out
}

// TestTheIntakeTakesNothingForAnother hands over a batch that names another tenant's endpoint, and one that names its automation.
func TestTheIntakeTakesNothingForAnother(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	before := rowsOf(t, b, other.tenant)
	for name, p := range map[string]planted{
		"endpoint":   {tenant: one.tenant, endpoint: other.endpoint, automation: one.automation},
		"automation": {tenant: one.tenant, endpoint: one.endpoint, automation: other.automation},
	} {
		fault := b.DB.Door(t.Context(), func(tx db.DoorTx) error {
			_, err := tx.Admit(t.Context(), []*db.Delivery{delivered(p, `{}`, db.EventNew{
				ID: uuid.New(), SourceEventID: "of " + name, Type: "x", Verdicts: json.RawMessage(`[]`),
				Runs: []db.RunNew{{ID: uuid.New(), AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}},
			})})
			return err
		})
		require.ErrorIs(t, fault, db.ErrConflict, name)
		require.ErrorContains(t, fault, name+"_", "the foreign key refuses it")
	}
	// The same ids are the other's own still: they were taken by nobody.
	require.Equal(t, before, rowsOf(t, b, other.tenant))
	tx := ownerTx(t, b)
	for _, statement := range []string{
		`select sluice.tenant_erase($1)`, `select sluice.audit_note($1, 'x', $1, 'x', null, null)`, `select sluice.tenant_close($1)`, `select * from sluice.audit_faults($1)`,
	} {
		for _, role := range []string{"sluice_app", "sluice_worker", "sluice_door", "sluice_billing"} {
			_, err := attempt(t.Context(), tx, role, one.tenant.String(), statement, other.tenant)
			require.True(t, refused(err, codeDenied), "%s as %s: %v", statement, role, err)
		}
	}
	require.NoError(t, tx.Rollback(t.Context()))
}
