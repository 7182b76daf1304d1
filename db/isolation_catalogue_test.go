package db_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db/dbtest"
)

var update = flag.Bool("update", false, "write testdata/catalogue.txt anew")

// approvedPolicy is the one form that a tenant's policy may have, as Postgres writes it back.
const approvedPolicy = `(tenant_id = ( SELECT (NULLIF(current_setting('sluice.tenant_id'::text, true), ''::text))::uuid AS "nullif"))`

// withoutTenant are the tables that belong to no tenant, each with its reason.
var withoutTenant = map[string]string{
	"operator_idempotency_keys": "the operator's requests; only sluice_system has a grant",
	"operator_keys":             "the operator's keys; only sluice_system has a grant",
	"provider_pauses":           "what providers asked of a key; only sluice_system has a grant",
	"provider_states":           "what workers know of the providers; only sluice_system has a grant",
	"watch_marks":               "when each look over all tenants was last taken; only sluice_system has a grant",
	"prices":                    "the same for everybody, and public knowledge",
	"run_steps":                 "the state machine itself",
	"schema_migrations":         "golang-migrate's version",
}

// rule is a statement that finds what breaks it, one name in a row. $tenant is a CTE of every table of ours that is a tenant's; the roles that
// serve are in $roles.
type rule struct{ says, sql string }

const rolesThatServe = `('sluice_app', 'sluice_worker', 'sluice_system', 'sluice_billing', 'sluice_door', 'sluice_intake', 'sluice_auditor')`

// rules hold for every database, whatever is in it: none of them names a table that is a tenant's.
var rules = []rule{
	{"row security is enabled and forced", `select oid::regclass::text from tenant where not (relrowsecurity and relforcerowsecurity)`},
	{"tenant_id is a uuid and never null", `select oid::regclass::text from tenant t where not exists (
		select from pg_attribute a where a.attrelid = t.oid and a.attname = 'tenant_id' and a.attnotnull and a.atttypid = 'uuid'::regtype)`},
	{"the tenant's policy has the approved form, for all and everybody", `select oid::regclass::text from tenant t where not exists (
		select from pg_policy p where p.polrelid = t.oid and p.polname = 'tenant' and p.polroles = '{0}' and p.polcmd = '*' and p.polpermissive
		  and pg_get_expr(p.polqual, p.polrelid) = $approved and pg_get_expr(p.polwithcheck, p.polrelid) = $approved)`},
	{"no other policy opens a table to those who serve tenants", `select p.polrelid::regclass || ' ' || p.polname from pg_policy p
		where not (p.polname = 'tenant' and p.polroles = '{0}') and not p.polroles <@ array(select oid from pg_roles where rolname in ('sluice_system', 'sluice_billing', 'sluice_intake', 'sluice_auditor'))`},
	{"every unique index begins with tenant_id", `select i.indexrelid::regclass::text from tenant t join pg_index i on i.indrelid = t.oid
		left join pg_attribute a on a.attrelid = t.oid and a.attnum = i.indkey[0]
		where (i.indisunique or i.indisexclusion) and a.attname is distinct from 'tenant_id'`},
	{"foreign keys pair tenant_id with tenant_id", `select c.conrelid::regclass || ' ' || c.conname from pg_constraint c
		where c.contype = 'f' and (c.conrelid in (select oid from tenant) or c.confrelid in (select oid from tenant)) and not exists (
		    select from unnest(c.conkey, c.confkey) k(here, there)
		    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.here and a.attname = 'tenant_id'
		    join pg_attribute b on b.attrelid = c.confrelid and b.attnum = k.there and b.attname = 'tenant_id')`},
	{"a relation is a table or a view of ours, or River's", `select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
		  and (c.relkind in ('m', 'f') or c.relkind in ('r', 'p', 'v') and n.nspname not in ('sluice', 'river'))`},
	{"a view runs with its reader's rights", `select oid::regclass::text from pg_class where relkind = 'v'
		and relnamespace::regnamespace::text in ('sluice', 'river') and not coalesce(reloptions, '{}') && array['security_invoker=true']`},
	{"a function with its owner's rights is the owner's, the intake's or the auditor's, has a fixed path, and is not everybody's", `
		select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
		where p.prosecdef and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and (
		    p.proowner::regrole::text not in ('sluice_owner', 'sluice_intake', 'sluice_auditor')
		    or not coalesce(p.proconfig, '{}') && array['search_path=pg_catalog, pg_temp']
		    or exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g where g.grantee = 0))`},
	{"no function of ours is everybody's", `select p.oid::regprocedure::text from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
		where p.pronamespace = 'sluice'::regnamespace and g.grantee = 0`},
	{"nobody may empty, refer to, hang a trigger on, or pass on", `
		select c.oid::regclass || ': ' || g.grantee::regrole || ' ' || g.privilege_type from pg_class c, aclexplode(c.relacl) g
		where c.relnamespace::regnamespace::text in ('sluice', 'river') and g.grantee <> c.relowner
		  and (g.is_grantable or g.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN'))
		union all
		select a.attrelid::regclass || '.' || a.attname || ': ' || g.grantee::regrole || ' ' || g.privilege_type
		from pg_attribute a join pg_class c on c.oid = a.attrelid, aclexplode(a.attacl) g
		where c.relnamespace::regnamespace::text in ('sluice', 'river') and g.grantee <> c.relowner and (g.is_grantable or g.privilege_type = 'REFERENCES')`},
	{"a partition is reached through its table alone", `select c.oid::regclass || ' ' || g.grantee::regrole || ' ' || g.privilege_type
		from pg_class c, aclexplode(c.relacl) g where c.relnamespace = 'sluice'::regnamespace and c.relispartition and g.grantee <> c.relowner
		  and not (c.relname = 'event_payloads_default' and g.grantee = 'sluice_system'::regrole)`},
	{"who serves owns nothing", `select c.oid::regclass::text from pg_class c where c.relowner::regrole::text in $roles
		union all select oid::regprocedure::text from pg_proc where proowner::regrole::text in $roles and proowner::regrole::text not in ('sluice_intake', 'sluice_auditor')
		union all select nspname from pg_namespace where nspowner::regrole::text in $roles
		union all select oid::regclass::text from pg_class where relnamespace::regnamespace::text = 'sluice' and relkind in ('r', 'p', 'v', 'S') and relowner <> 'sluice_owner'::regrole`},
	{"who serves creates nothing", `select r.rolname || ' in ' || n.nspname from pg_roles r, pg_namespace n
		where r.rolname in $roles and n.nspname in ('sluice', 'river', 'public') and has_schema_privilege(r.oid, n.oid, 'create')
		union all select rolname || ' in the database' from pg_roles where rolname in $roles and has_database_privilege(oid, current_database(), 'create')`},
	{"no role of ours logs in by itself, or stands above row security", `select rolname::text from pg_roles where rolname in $roles or rolname = 'sluice_owner'
		group by 1 having bool_or(rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication or rolcanlogin)`},
	{"who serves is a member of nothing but the application", `select m.member::regrole || ' of ' || m.roleid::regrole from pg_auth_members m
		where m.member::regrole::text in $roles and not (m.member = 'sluice_worker'::regrole and m.roleid = 'sluice_app'::regrole)`},
	{"no rule rewrites a statement", `select r.ev_class::regclass || ' ' || r.rulename from pg_rewrite r join pg_class c on c.oid = r.ev_class
		where r.rulename <> '_RETURN' and c.relnamespace::regnamespace::text in ('sluice', 'river', 'public')`},
	{"nothing is granted in advance", `select defaclrole::regrole || ' ' || defaclobjtype::text from pg_default_acl`},
	{"no setting of a role or a database stands in for a tenant", `select coalesce(r.rolname, 'all') || ': ' || array_to_string(s.setconfig, ', ')
		from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole
		where (s.setdatabase in (0, (select oid from pg_database where datname = current_database()))) and (r.rolname ~ '^sluice_' or s.setrole = 0)
		  and array_to_string(s.setconfig, ' ') ~ '(sluice\.|row_security|role=|session_replication_role|search_path)'`},
	{"nothing is published to replicas by rows", `select pubname::text from pg_publication`},
	{"columns of a partition are guarded as its table's", `select i.inhrelid::regclass::text from pg_inherits i
		where i.inhparent in (select oid from tenant) and i.inhrelid not in (select oid from tenant)`},
}

// preamble is the CTE of all tables that are a tenant's: whatever is not named as without one.
func preamble() string {
	names := slices.Sorted(maps.Keys(withoutTenant))
	return `with tenant as (select c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relispartition from pg_class c where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p')
		and c.relname not in ('` + strings.Join(names, `', '`) + `')) `
}

var ruleWords = strings.NewReplacer("$roles", rolesThatServe, "$approved", "$policy$"+approvedPolicy+"$policy$")

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// catalogueFaults says what in a database breaks a rule, "rule: name", and how its grants and the like differ from the golden file.
func catalogueFaults(ctx context.Context, q querier, golden []string) ([]string, error) {
	var faults []string
	for _, r := range rules {
		names, err := texts(ctx, q, preamble()+ruleWords.Replace(r.sql))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.says, err)
		}
		for _, name := range names {
			faults = append(faults, r.says+": "+name)
		}
	}
	granted, err := texts(ctx, q, preamble()+cataloguedSQL)
	if err != nil {
		return nil, err
	}
	return append(faults, difference(golden, granted)...), nil
}

// difference is a diff of two sorted lists, a line for each entry that is in one of them only.
func difference(golden, now []string) []string {
	var out []string
	for _, line := range golden {
		if !slices.Contains(now, line) {
			out = append(out, "- "+line)
		}
	}
	for _, line := range now {
		if !slices.Contains(golden, line) {
			out = append(out, "+ "+line)
		}
	}
	return out
}

func texts(ctx context.Context, q querier, sql string) ([]string, error) {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// cataloguedSQL writes down what may differ from table to table and is meant to: who may do what, line by line. What an owner may do with its
// own is not written, nor which day a partition is of.
const cataloguedSQL = `, grants as (
    select c.oid::regclass::text as name, g.grantee, g.privilege_type as what, '' as columns from pg_class c, aclexplode(c.relacl) g
    where g.grantee <> c.relowner and c.relnamespace::regnamespace::text in ('sluice', 'river', 'public')
    union all
    select c.oid::regclass::text, g.grantee, g.privilege_type, ' (' || string_agg(a.attname, ', ' order by a.attname) || ')'
    from pg_class c join pg_attribute a on a.attrelid = c.oid, aclexplode(a.attacl) g
    where g.grantee <> c.relowner and c.relnamespace::regnamespace::text in ('sluice', 'river', 'public') group by 1, 2, 3
), lines as (
    select 'grant on ' || name || ' to ' || case grantee when 0 then 'everybody' else grantee::regrole::text end || ': '
           || string_agg(lower(what) || columns, ', ' order by what, columns) as line
    from grants group by name, grantee
    union all
    select 'relation ' || c.oid::regclass || ' (' || case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view' else c.relkind::text end
           || ')' || case when c.relispartition then ', a partition' else '' end || coalesce(', with ' || array_to_string(case when c.relkind = 'v' then c.reloptions end, ', '), '')
    from pg_class c where c.relnamespace = 'sluice'::regnamespace and c.relkind not in ('i', 'I', 't', 'c')
    union all
    select 'policy ' || p.polname || ' on ' || p.polrelid::regclass || ': ' || case when p.polpermissive then '' else 'restrictive, ' end
           || case p.polcmd when '*' then 'all' when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' else 'delete' end
           || ' to ' || (select string_agg(r::regrole::text, ', ') from unnest(p.polroles) r)
           || coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '') || coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
    from pg_policy p where not (p.polname = 'tenant' and p.polrelid in (select oid from tenant))
    union all
    select 'function ' || p.pronamespace::regnamespace || '.' || p.proname || '/' || p.pronargs || ' of ' || p.proowner::regrole
           || case when p.prosecdef then ', with its rights' else '' end || coalesce(', ' || (select s from unnest(p.proconfig) s where s like 'search_path=%'), '')
           || coalesce(', executed by ' || (select string_agg(case g.grantee when 0 then 'everybody' else g.grantee::regrole::text end, ', ' order by g.grantee::regrole::text)
                from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g where g.grantee <> p.proowner), '')
    from pg_proc p where p.pronamespace::regnamespace::text in ('sluice', 'river')
    union all
    select 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass || ' runs ' || t.tgfoid::regproc || case t.tgenabled when 'O' then '' else ', enabled as ' || t.tgenabled::text end
    from pg_trigger t join pg_class c on c.oid = t.tgrelid where not t.tgisinternal and c.relnamespace::regnamespace::text in ('sluice', 'river')
    union all
    select 'schema ' || n.nspname || ' to ' || case g.grantee when 0 then 'everybody' else g.grantee::regrole::text end || ': ' || string_agg(lower(g.privilege_type), ', ' order by g.privilege_type)
    from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
    where n.nspname in ('sluice', 'river', 'public') and g.grantee <> n.nspowner group by n.nspname, g.grantee
    union all
    select 'member ' || m.member::regrole || ' of ' || m.roleid::regrole from pg_auth_members m where m.member::regrole::text ~ '^sluice_(app|worker|system|billing|door|intake|auditor|owner)$'
    union all
    select 'link without a key ' || t.oid::regclass || '.' || a.attname from tenant t join pg_attribute a on a.attrelid = t.oid
    where a.atttypid = 'uuid'::regtype and a.attname ~ '_(id|by|of|key)$|^subject$' and a.attname <> 'tenant_id' and not a.attisdropped and not exists (
        select from pg_constraint c where c.conrelid = t.oid and c.contype = 'f' and a.attnum = any (c.conkey))
    union all
    select 'extension ' || extname from pg_extension
)
select distinct regexp_replace(line, 'event_payloads_[0-9]{8}', 'event_payloads_<day>') as line from lines where line is not null order by 1`

func goldenCatalogue(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "catalogue.txt"))
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// TestTheCatalogueIsAsDesigned asks the catalogue, never a list: a new table without its policy fails, and whatever else is new stands in the
// diff of testdata/catalogue.txt, for a reviewer's eye.
func TestTheCatalogueIsAsDesigned(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	if *update {
		lines, err := texts(t.Context(), b.Owner, preamble()+cataloguedSQL)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(filepath.Join("testdata", "catalogue.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	}
	faults, err := catalogueFaults(t.Context(), b.Owner, goldenCatalogue(t))
	require.NoError(t, err)
	require.Empty(t, faults, "if all of this is meant: go test ./db -run TestTheCatalogueIsAsDesigned -update")
	require.GreaterOrEqual(t, len(tenantTables(t, b)), 35, "the tables that the rules are held against")
}
