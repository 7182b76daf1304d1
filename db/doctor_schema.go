package db

import (
	"context"
	_ "embed" // the inventory
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What the promises are kept by: row security, constraints, unique indexes, triggers, functions, rights and roles. All of it stands in
// doctor_schema.txt, as a database has it that was just migrated; a test writes the file and holds it against the migrations.

//go:embed doctor_schema.txt
var schemaKept string

// schemaRoles are our roles; an operator's logins may have names like theirs.
const schemaRoles = `('sluice_owner', 'sluice_app', 'sluice_worker', 'sluice_system', 'sluice_billing', 'sluice_door', 'sluice_intake', 'sluice_auditor')`

// schemaInventorySQL lists what the design relies on, one line each: its kind, its name, and what it is. Not null constraints are left out, since
// Postgres 18 names them and 17 does not, and so are partitions, which are made by the day and looked at by lookSchema.
const schemaInventorySQL = `
with ours as (
    select c.oid, c.relname, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.relpersistence, c.reloptions, c.relacl from pg_class c
    where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f'))
select 'table' as kind, relname::text as name, concat_ws(' ', 'of ' || relowner::regrole, case when relkind in ('v', 'm') then 'view' end,
    case when relrowsecurity then 'secured' end, case when relforcerowsecurity then 'forced' end, case when relpersistence <> 'p' then 'unlogged' end,
    (select string_agg(o, ' ' order by o) from unnest(reloptions) o where o like 'security%'),
    case when exists (select from pg_trigger t where t.tgrelid = ours.oid and t.tgisinternal and t.tgenabled <> 'O') then 'foreign keys off' end) as says
from ours
union all
select 'policy', o.relname || '.' || p.polname, concat_ws(' ', case when p.polpermissive then 'allows' else 'restricts' end, p.polcmd, 'to',
    coalesce((select string_agg(r.rolname, ',' order by r.rolname) from pg_roles r where r.oid = any (p.polroles)), 'all'),
    'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))
from pg_policy p join ours o on o.oid = p.polrelid
union all
select 'constraint', o.relname || '.' || c.conname, concat_ws(' ', pg_get_constraintdef(c.oid), case when not c.convalidated then 'NOT VALIDATED' end)
from pg_constraint c join ours o on o.oid = c.conrelid where c.contype <> 'n' and c.contype <> 't'
union all
select 'index', i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid), case when not (i.indisvalid and i.indisready and i.indislive) then 'INVALID' end)
from pg_index i join pg_class c on c.oid = i.indrelid
where (c.oid in (select oid from ours) or c.oid = to_regclass('river.river_job')) and i.indexrelid::regclass::text !~ '_cc(new|old)[0-9]*$'
union all
select 'trigger', o.relname || '.' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid), case t.tgenabled when 'D' then 'DISABLED' when 'R' then 'REPLICA' end)
from pg_trigger t join ours o on o.oid = t.tgrelid where not t.tgisinternal
union all
select 'function', p.oid::regprocedure::text, concat_ws(' ', 'of ' || p.proowner::regrole, case when p.prosecdef then 'definer' end,
    array_to_string(p.proconfig, ' '), md5(p.prosrc))
from pg_proc p where p.pronamespace = 'sluice'::regnamespace
union all
select 'grant', o.relname || ' to ' || case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, string_agg(lower(a.privilege_type), ', ' order by a.privilege_type)
from ours o, aclexplode(o.relacl) a where a.grantee <> o.relowner group by o.relname, a.grantee
union all
select 'grant', o.relname || ' columns to ' || case when a.grantee = 0 then 'public' else a.grantee::regrole::text end,
    string_agg(lower(a.privilege_type) || ' ' || c.attname, ', ' order by a.privilege_type, c.attname)
from ours o join pg_attribute c on c.attrelid = o.oid, aclexplode(c.attacl) a where a.grantee <> o.relowner group by o.relname, a.grantee
union all
select 'grant', p.oid::regprocedure::text || ' to ' || case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, 'execute'
from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where p.pronamespace = 'sluice'::regnamespace and a.grantee <> p.proowner
union all
select 'role', r.rolname::text, concat_ws(' ', 'ours', case when r.rolsuper then 'superuser' end, case when r.rolbypassrls then 'bypassrls' end,
    case when r.rolcreaterole then 'createrole' end, case when r.rolreplication then 'replication' end)
from pg_roles r where r.rolname in ` + schemaRoles + `
union all
select 'member', m.member::regrole || ' of ' || m.roleid::regrole, 'may act as it'
from pg_auth_members m join pg_roles r on r.oid = m.member where r.rolname in ` + schemaRoles + `
order by 1, 2, 3`

// SchemaLine is one thing that the design relies on.
type SchemaLine struct{ Kind, Name, Says string }

func (l SchemaLine) String() string { return l.Kind + "\t" + l.Name + "\t" + l.Says }

func (l SchemaLine) what() string { return l.Kind + " " + l.Name }

// The checks that depend on how far the schema is.
const (
	checkVersion = "schema.version"
	checkObjects = "schema.object"
)

// lookVersion tells a database that this binary cannot serve.
func lookVersion(_ context.Context, x *examination) (seen, error) {
	var items []Item
	if s := x.Schema; s.behind() {
		switch {
		case s.Dirty:
			items = append(items, Item{What: fmt.Sprintf("migration %04d did not end", s.Version)})
		case s.Version < s.Wanted:
			items = append(items, Item{What: fmt.Sprintf("the schema is at version %d, this binary needs %d", s.Version, s.Wanted)})
		default:
			items = append(items, Item{What: "the tables of River are older than this binary needs"})
		}
	}
	return x.sawOf(items), nil
}

// lookNewer tells a database that knows more than this binary.
func lookNewer(_ context.Context, x *examination) (seen, error) {
	var items []Item
	if s := x.Schema; s.newer() {
		items = append(items, Item{What: fmt.Sprintf("the schema is at version %d, this binary knows %d", s.Version, s.Wanted)})
	}
	return x.sawOf(items), nil
}

// dayName are the names of partitions, of all that belongs to them.
var dayName = regexp.MustCompile(`event_payloads_[0-9]{8}`)

// lookSchema compares the database with the inventory. What is missing, or is not as it was made, is found; so is what is there beyond it, if it lets
// somebody in.
func lookSchema(ctx context.Context, x *examination) (seen, error) {
	there, err := schemaInventory(ctx, x.tx)
	if err != nil {
		return seen{}, err
	}
	wanted := map[string]SchemaLine{}
	for line := range strings.Lines(schemaKept) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		name, says, _ := strings.Cut(rest, "\t")
		l := SchemaLine{kind, name, says}
		wanted[l.what()] = l
	}
	var items []Item
	found := func(l SchemaLine, is string) { items = append(items, Item{What: l.what() + " " + is}) }
	days := map[string][]SchemaLine{}
	for _, l := range there {
		if day := dayName.FindString(l.Name); day != "" {
			days[day] = append(days[day], l)
			continue
		}
		was, ok := wanted[l.what()]
		delete(wanted, l.what())
		switch {
		case !ok && opens(l):
			found(l, "is none of ours: "+l.Says)
		case ok && was.Says != l.Says:
			found(l, "is not as it was made: "+l.Says)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		found(wanted[name], "is missing")
	}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		items = append(items, dayFaults(day, days[day], there)...)
	}
	return x.sawOf(items), nil
}

// opens says whether a thing beyond the inventory lets somebody in, or stands in the way: a table, a policy, a right, a function, a role, a trigger.
// An index or a constraint of an operator's own does neither.
func opens(l SchemaLine) bool { return l.Kind != "index" && l.Kind != "constraint" }

// dayFaults is what is wrong with a day's partition: it is as the default one, and nobody has a right to it.
func dayFaults(day string, of, all []SchemaLine) (items []Item) {
	like := map[string]string{}
	for _, l := range all {
		if strings.HasPrefix(l.Name, defaultPartition) && (l.Kind == "table" || l.Kind == "policy" && l.Name == defaultPartition+".tenant") {
			like[l.Kind] = l.Says
		}
	}
	for _, l := range of {
		switch {
		case l.Kind == "grant", l.Kind == "policy" && l.Name != day+".tenant":
			items = append(items, Item{What: l.what() + " is none of ours: " + l.Says})
		case like[l.Kind] != "" && l.Says != like[l.Kind]:
			items = append(items, Item{What: l.what() + " is not as it was made: " + l.Says})
		}
		if l.Kind == "policy" {
			delete(like, "policy")
		}
	}
	if _, missing := like["policy"]; missing {
		items = append(items, Item{What: "policy " + day + ".tenant is missing"})
	}
	return items
}

const defaultPartition = "event_payloads_default"

// SchemaInventory lists all that the design relies on, as this database has it, but for what comes and goes by the day.
func (tx SystemTx) SchemaInventory(ctx context.Context) ([]SchemaLine, error) {
	all, err := schemaInventory(ctx, tx.tx)
	return slices.DeleteFunc(all, func(l SchemaLine) bool { return dayName.MatchString(l.Name) }), err
}

func schemaInventory(ctx context.Context, tx pgx.Tx) ([]SchemaLine, error) {
	all, err := many[SchemaLine](ctx, tx, schemaInventorySQL, args{})
	for i := range all {
		// Postgres breaks long expressions into lines.
		all[i].Says = strings.Join(strings.Fields(all[i].Says), " ")
	}
	return all, err
}
