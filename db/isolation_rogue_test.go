package db_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db/dbtest"
)

// TestTheCatalogueTellsEveryRogue makes what must not be in a database, one at a time, and wants the rule that is meant for it to say so. Every rule
// has its rogue: one that nothing can break proves nothing.
func TestTheCatalogueTellsEveryRogue(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	golden := goldenCatalogue(t)
	broken := map[string]bool{}
	const definer = `create function sluice.rogue() returns bigint language sql security definer`
	for _, c := range []struct{ rogue, sql, told string }{
		{"a table without a policy", `create table sluice.rogue (tenant_id uuid not null, id uuid, primary key (tenant_id, id))`, "row security is enabled and forced"},
		{"a table without a tenant", `create table sluice.rogue (id uuid)`, "tenant_id is a uuid and never null"},
		{"a tenant that may be null", `create table sluice.rogue (tenant_id uuid); select sluice.protect('sluice.rogue')`, "tenant_id is a uuid and never null"},
		{"a table that is not forced", `alter table sluice.runs no force row level security`, "row security is enabled and forced"},
		{"a table that is not enabled", `alter table sluice.runs disable row level security`, "row security is enabled and forced"},
		{"a policy that is gone", `drop policy tenant on sluice.runs`, "the tenant's policy has the approved form"},
		{"a policy that sees all", `alter policy tenant on sluice.runs using (true)`, "the tenant's policy has the approved form"},
		{"a policy that takes all", `alter policy tenant on sluice.runs with check (true)`, "the tenant's policy has the approved form"},
		{"a policy for a few", `alter policy tenant on sluice.runs to sluice_app`, "the tenant's policy has the approved form"},
		{"a policy that breaks on an empty setting", `alter policy tenant on sluice.runs using (tenant_id = current_setting('sluice.tenant_id')::uuid)`, "the tenant's policy has the approved form"},
		{"a second policy for everybody", `create policy more on sluice.runs for select using (true)`, "no other policy opens a table"},
		{"a second policy for the application", `create policy more on sluice.runs for select to sluice_app using (true)`, "no other policy opens a table"},
		{"a second policy of the first one's name", `drop policy tenant on sluice.runs; create policy tenant on sluice.runs to sluice_app using (true)`, "no other policy opens a table"},
		{"a second policy for the system", `create policy more on sluice.automation_versions to sluice_system using (true)`, "+ policy more on sluice.automation_versions"},
		{"a wider policy for the system", `alter policy system on sluice.calls to sluice_system, sluice_billing`, "- policy system on sluice.calls"},
		{"a unique index over tenants", `create unique index rogue on sluice.endpoints (token)`, "every unique index begins with tenant_id"},
		{"a unique index on an expression", `create unique index rogue on sluice.endpoints (lower(token))`, "every unique index begins with tenant_id"},
		{"a foreign key without its tenant", `create table sluice.rogue (tenant_id uuid not null, owner uuid references sluice.tenants); select sluice.protect('sluice.rogue')`, "foreign keys pair tenant_id with tenant_id"},
		{"a materialized view", `create materialized view sluice.rogue as select * from sluice.runs`, "a relation is a table or a view of ours"},
		{"a table elsewhere", `create table public.rogue as select * from sluice.runs`, "a relation is a table or a view of ours"},
		{"a schema of its own", `create schema rogue; create view rogue.all_runs as select * from sluice.runs`, "a relation is a table or a view of ours"},
		{"a view of its owner's rights", `create view sluice.rogue as select * from sluice.runs; alter view sluice.rogue owner to sluice_owner`, "a view runs with its reader's rights"},
		{"a view that was one of its reader's", `alter view sluice.billing_tenants reset (security_invoker)`, "a view runs with its reader's rights"},
		{"a function of the superuser's rights", definer + ` set search_path = pg_catalog, pg_temp as 'select 1'; revoke all on function sluice.rogue() from public`, "a function with its owner's rights"},
		{"a function without a path", definer + ` as 'select 1'; revoke all on function sluice.rogue() from public; alter function sluice.rogue() owner to sluice_owner`, "a function with its owner's rights"},
		{"a function with a caller's path", definer + ` set search_path = public, pg_temp as 'select 1'; revoke all on function sluice.rogue() from public; alter function sluice.rogue() owner to sluice_owner`, "a function with its owner's rights"},
		{"a function elsewhere", `create function public.rogue() returns bigint language sql security definer as 'select count(*) from sluice.runs'`, "a function with its owner's rights"},
		{"a function of everybody's", `create function sluice.rogue() returns int language sql as 'select 1'`, "no function of ours is everybody's"},
		{"a function that became its owner's", `alter function sluice.reserve security definer; alter function sluice.reserve owner to sluice_owner`, ", with its rights, search_path=pg_catalog, pg_temp, executed by sluice_app"},
		{"the erasure for the application", `grant execute on function sluice.tenant_erase to sluice_app`, "+ function sluice.tenant_erase"},
		{"truncate", `grant truncate on sluice.runs to sluice_app`, "nobody may empty"},
		{"references", `grant references (id) on sluice.runs to sluice_app`, "nobody may empty"},
		{"trigger", `grant trigger on sluice.runs to sluice_worker`, "nobody may empty"},
		{"a grant that may be passed on", `grant select on sluice.runs to sluice_app with grant option`, "nobody may empty"},
		{"a grant of a table", `grant delete on sluice.ledger_entries to sluice_app`, "+ grant on sluice.ledger_entries to sluice_app"},
		{"a grant of a column", `grant select (output) on sluice.runs to sluice_system`, "+ grant on sluice.runs to sluice_system"},
		{"a grant to everybody", `grant select on sluice.runs to public`, "+ grant on sluice.runs to everybody"},
		{"a grant of River's jobs", `grant select on river.river_job to sluice_app`, "+ grant on river.river_job to sluice_app"},
		{"a grant that is gone", `revoke select on sluice.runs from sluice_app`, "- grant on sluice.runs to sluice_app"},
		{"a grant of a sequence", `grant update on sequence river.river_job_id_seq to sluice_door`, "+ grant on river.river_job_id_seq to sluice_door"},
		{"a grant of a partition", `grant select on sluice.event_payloads_default to sluice_app`, "a partition is reached through its table alone"},
		{"a partition without a policy", `create table sluice.rogue partition of sluice.event_payloads for values from ('ffffffff-ffff-0000-0000-000000000000') to (maxvalue)`, "row security is enabled and forced"},
		{"a child by inheritance", `create schema rogue; create table rogue.runs () inherits (sluice.runs)`, "columns of a partition are guarded"},
		{"an owner who serves", `alter table sluice.runs owner to sluice_app`, "who serves owns nothing"},
		{"a right to create", `grant create on schema sluice to sluice_app`, "who serves creates nothing"},
		{"a right to create for everybody", `grant create on schema public to public`, "who serves creates nothing"},
		{"a role above row security", `alter role sluice_app bypassrls`, "no role of ours logs in"},
		{"an owner above row security", `alter role sluice_owner superuser`, "no role of ours logs in"},
		{"a role that logs in", `alter role sluice_intake login`, "no role of ours logs in"},
		{"a member of the system", `grant sluice_system to sluice_app`, "who serves is a member of nothing"},
		{"a member of the intake", `grant sluice_intake to sluice_door`, "who serves is a member of nothing"},
		{"a reader of all data", `grant pg_read_all_data to sluice_billing`, "who serves is a member of nothing"},
		{"a rule", `create rule rogue as on insert to sluice.runs do also notify rogue`, "no rule rewrites a statement"},
		{"a grant in advance", `alter default privileges in schema sluice grant select on tables to sluice_app`, "nothing is granted in advance"},
		{"a tenant by default", `alter role sluice_app set sluice.tenant_id = '00000000-0000-0000-0000-000000000001'`, "no setting of a role"},
		{"a publication", `create publication rogue for all tables`, "nothing is published"},
		{"a trigger", `create trigger rogue after insert on sluice.runs for each row execute function sluice.price_kept()`, "+ trigger rogue on sluice.runs"},
		{"a trigger that sleeps", `alter table sluice.ledger_entries disable trigger ledger_kept`, "- trigger ledger_kept"},
		{"a link without a key", `alter table sluice.runs add column parent_id uuid`, "+ link without a key sluice.runs.parent_id"},
		{"a foreign key that is gone", `alter table sluice.runs drop constraint runs_tenant_id_event_id_fkey`, "+ link without a key sluice.runs.event_id"},
	} {
		tx := ownerTx(t, b)
		_, err := tx.Exec(t.Context(), c.sql)
		require.NoError(t, err, c.rogue)
		faults, err := catalogueFaults(t.Context(), tx, golden)
		require.NoError(t, err, c.rogue)
		require.NoError(t, tx.Rollback(t.Context()))
		require.True(t, slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, c.told) }), "%s: %q in %q", c.rogue, c.told, faults)
		for _, f := range faults {
			said, _, _ := strings.Cut(f, ": ")
			broken[said] = true
		}
	}
	for _, r := range rules {
		require.True(t, broken[r.says], "no rogue breaks the rule: %s", r.says)
	}
}
