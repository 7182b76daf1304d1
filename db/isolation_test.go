package db_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

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

// TestEveryTableIsUnderRowSecurity asks the catalogue, never a list: a new table without its policy fails.
func TestEveryTableIsUnderRowSecurity(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ctx := t.Context()
	for _, role := range []string{"sluice_app", "sluice_worker", "sluice_system", "sluice_billing", "sluice_owner", "sluice_door", "sluice_intake"} {
		var super, bypass bool
		require.NoError(t, b.Owner.QueryRow(ctx, `select rolsuper, rolbypassrls from pg_roles where rolname = $1`, role).Scan(&super, &bypass))
		require.False(t, super || bypass, role)
	}
	type table struct {
		Name                  string
		Enabled, Forced, Here bool
		LeadsKey              bool
		Policy, Check         *string
	}
	rows, err := b.Owner.Query(ctx, `
		select c.relname as name, c.relrowsecurity as enabled, c.relforcerowsecurity as forced,
		    exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and a.attnotnull) as here,
		    not exists (select from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
		        where i.indrelid = c.oid and i.indisunique and a.attname <> 'tenant_id') as leads_key,
		    pg_get_expr(p.polqual, p.polrelid) as policy, pg_get_expr(p.polwithcheck, p.polrelid) as check
		from pg_class c left join pg_policy p on p.polrelid = c.oid and p.polname = 'tenant' and p.polroles = '{0}' and p.polcmd = '*'
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p', 'm', 'f')`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByName[table])
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(tables), 20)
	for _, c := range tables {
		if _, ok := withoutTenant[c.Name]; ok {
			continue
		}
		require.True(t, c.Enabled && c.Forced && c.Here, "%s: row security enabled and forced, tenant_id not null", c.Name)
		require.True(t, c.LeadsKey, "%s: every unique index begins with tenant_id", c.Name)
		require.NotNil(t, c.Policy, c.Name)
		require.Equal(t, approvedPolicy, *c.Policy, c.Name)
		require.Equal(t, approvedPolicy, *c.Check, c.Name)
	}
	// No other policy opens a table to the roles that serve tenants.
	var loose []string
	require.NoError(t, b.Owner.QueryRow(ctx, `
		select coalesce(array_agg(polrelid::regclass || ' ' || polname), '{}') from pg_policy
		where polname <> 'tenant' and not polroles <@ array(select oid from pg_roles where rolname in ('sluice_system', 'sluice_billing', 'sluice_intake'))`).Scan(&loose))
	require.Empty(t, loose)
	// Nobody can log in as the intake, nor become it but through the functions it owns.
	var intakes []string
	require.NoError(t, b.Owner.QueryRow(ctx, `
		select coalesce(array_agg(r.rolname::text), '{}') from pg_roles r
		where not r.rolsuper and r.rolname in ('sluice_app', 'sluice_worker', 'sluice_system', 'sluice_billing', 'sluice_door')
		  and pg_has_role(r.oid, 'sluice_intake', 'member')`).Scan(&intakes))
	require.Empty(t, intakes)
	// A partition is reached through its table alone: its own policy stands, and nobody has a right to it.
	var opened []string
	require.NoError(t, b.Owner.QueryRow(ctx, `
		select coalesce(array_agg(c.relname || ' ' || g.grantee::regrole), '{}') from pg_class c, aclexplode(c.relacl) g
		where c.relnamespace = 'sluice'::regnamespace and c.relispartition and g.grantee <> c.relowner and c.relname <> 'event_payloads_default'`).Scan(&opened))
	require.Empty(t, opened)
	// A view runs with the reader's rights, or it would be a hole.
	var views []string
	require.NoError(t, b.Owner.QueryRow(ctx, `
		select coalesce(array_agg(relname::text), '{}') from pg_class where relnamespace = 'sluice'::regnamespace and relkind = 'v'
		  and not coalesce(reloptions, '{}') && array['security_invoker=true']`).Scan(&views))
	require.Empty(t, views)
	// Functions with their owner's rights are the listed ones.
	var definers []string
	require.NoError(t, b.Owner.QueryRow(ctx, `
		select coalesce(array_agg(proname::text order by proname), '{}') from pg_proc where pronamespace = 'sluice'::regnamespace and prosecdef`).Scan(&definers))
	require.Equal(t, []string{"admit", "admit_runs", "alert_told", "analyze_young", "payload_partitions", "tenant_erase"}, definers)
}

// TestForeignKeysNameTheTenant: a foreign key check is not under row security, so that each has to carry the tenant itself.
func TestForeignKeysNameTheTenant(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	var bare []string
	require.NoError(t, b.Owner.QueryRow(t.Context(), `
		select coalesce(array_agg(c.conrelid::regclass || ' ' || c.conname), '{}') from pg_constraint c
		where c.contype = 'f' and c.connamespace = 'sluice'::regnamespace and c.confrelid <> 'sluice.prices'::regclass
		  and not exists (select from pg_attribute a where a.attrelid = c.conrelid and a.attnum = any (c.conkey) and a.attname = 'tenant_id')`).Scan(&bare))
	require.Empty(t, bare)
}

// planted is one tenant with a row in every table.
type planted struct {
	tenant, endpoint, automation, event, run, call, action, credential uuid.UUID
}

func plant(tb testing.TB, b *dbtest.Bundle, name string) planted {
	tb.Helper()
	ctx := tb.Context()
	var p planted
	require.NoError(tb, b.DB.System(ctx, func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(ctx, name, "UTC")
		if err != nil {
			return err
		}
		p.tenant = tenant.TenantID
		key, err := tenants.NewKey(false)
		if err != nil {
			return err
		}
		_, err = tx.KeyInsert(ctx, p.tenant, "first", tenants.Admin, key)
		return err
	}))
	require.NoError(tb, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(ctx, name, "standard", json.RawMessage(`{}`))
		if err != nil {
			return err
		}
		p.endpoint = e.ID
		if _, err := tx.EndpointSecretInsert(ctx, e.ID, tenants.NewSecret("canary-endpoint-secret")); err != nil {
			return err
		}
		c, err := tx.CredentialInsert(ctx, name, "callback", tenants.NewSecret("canary-credential-secret"))
		if err != nil {
			return err
		}
		p.credential = c.ID
		a, err := tx.AutomationInsert(ctx, e.ID, name, json.RawMessage(`{"name":"x"}`), uuid.Nil)
		if err != nil {
			return err
		}
		p.automation = a.ID
		return nil
	}))
	p.event, p.run = tenants.NewID(), tenants.NewID()
	admit(tb, b.DB, delivered(p, `{}`, db.EventNew{
		ID: p.event, SourceEventID: "one", Once: "body-of-one", Type: "x", Verdicts: json.RawMessage(`[]`),
		Runs: []db.RunNew{{ID: p.run, AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}},
	}))
	require.NoError(tb, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		run, err := tx.RunClaim(ctx, p.run, 60e9)
		if err != nil {
			return err
		}
		p.call, p.action = tenants.NewID(), tenants.NewID()
		if _, err := tx.CallsSend(ctx, []db.Call{{
			ID: p.call, RunID: p.run, Epoch: run.Epoch, Provider: "scripted", ModelAsked: "echo-1", PriceID: 9001, RequestSHA256: []byte("x"), MaxOutputTokens: 1,
			Part: db.CallAsk,
		}}); err != nil {
			return err
		}
		if err := tx.CallOrphan(ctx, db.Call{ID: p.call, CostPico: 5}); err != nil {
			return err
		}
		if err := tx.EntryInsert(ctx, p.call, db.EntryOrphan); err != nil {
			return err
		}
		if err := tx.ActionInsert(ctx, db.Action{
			ID: p.action, RunID: p.run, Kind: "callback", Key: "k", Target: "t", Effect: json.RawMessage(`{}`), State: db.ActionIntended,
		}); err != nil {
			return err
		}
		if err := tx.RunStep(ctx, p.run, run.Epoch, db.RunStep{Status: db.RunActing, Reason: "action.pending"}); err != nil {
			return err
		}
		if _, err := tx.ActionsClaim(ctx, []uuid.UUID{p.action}, 60e9); err != nil {
			return err
		}
		if err := tx.ReviewInsert(ctx, db.Review{RunID: p.run, Verdict: db.VerdictApprove}); err != nil {
			return err
		}
		if err := tx.ReplayInsert(ctx, db.Replay{
			ID: tenants.NewID(), Kind: db.KindReplay, Mode: db.ReplayRun, Asked: json.RawMessage(`{}`), PerSecond: 1,
		}, []db.ReplayItem{{EventID: run.EventID, AutomationID: run.AutomationID}}); err != nil {
			return err
		}
		_, err = tx.Once(ctx, "key-1", []byte("hash"), func() ([]byte, error) { return []byte(`{"secret":"canary-answer"}`), nil })
		if err != nil {
			return err
		}
		channel := db.AlertChannel{Name: name, Kind: db.ChannelEmail, Target: "x@example.com"}
		if _, err := tx.AlertChannelInsert(ctx, channel, db.AlertAddress{Email: tenants.NewSecret("x@example.com")}); err != nil {
			return err
		}
		// The channel is told of it: a row of alert_notices.
		if err := tx.AlertBegin(ctx, "rejections", "end_of_"+name, "many"); err != nil {
			return err
		}
		if err := tx.MissedCheckPut(ctx, p.endpoint, time.Now(), ""); err != nil {
			return err
		}
		if _, err := tx.MissedEventsAdd(ctx, p.endpoint, []db.MissedEvent{{SourceEventID: "missed", Delivery: "1", SentAt: time.Now()}}); err != nil {
			return err
		}
		return tx.RejectionAdd(ctx, db.Rejection{EndpointID: p.endpoint, Reason: "signature.mismatch", Count: 1, Sample: json.RawMessage(`{}`)})
	}))
	_, err := b.Owner.Exec(ctx, `insert into sluice.rates (tenant_id, subject, measure, day, level, hours)
		values ($1, $1, 'events', '2026-01-01', 'tenant', array_fill(1, array[24]))`, p.tenant)
	require.NoError(tb, err)
	for _, statement := range []string{
		`insert into sluice.limit_raises (tenant_id, id, name, value, until) values ($1, $1, 'tokens_per_day', 1, now() + interval '1 hour')`,
		`insert into sluice.usage_rolled (tenant_id) values ($1)`, `insert into sluice.usage_late (tenant_id, at) values ($1, 'epoch')`,
		`insert into sluice.usage_rollups (tenant_id, at, endpoint_id, automation_id, provider, model_asked, model_served, kind, entries, input_uncached,
			input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning, amount_pico)
			values ($1, 'epoch', $1, $1, 'x', 'x', 'x', 'charge', 1, 1, 1, 1, 1, 1, 1, 1)`,
	} {
		_, err := b.Owner.Exec(ctx, statement, p.tenant)
		require.NoError(tb, err)
	}
	return p
}

// TestNoTenantReachesAnothersRows reads and writes every tenant table that the catalogue knows, without naming a tenant: row security alone
// must keep them apart.
func TestNoTenantReachesAnothersRows(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	ctx := t.Context()
	tables := tenantTables(t, b)
	for _, table := range tables {
		var rows int
		require.NoError(t, b.Owner.QueryRow(ctx, `select count(*) from `+table+` where tenant_id = $1`, other.tenant).Scan(&rows))
		require.Positive(t, rows, "%s has no row to hide: plant one", table)
	}
	for _, setting := range []string{one.tenant.String(), "", "unset"} {
		for _, table := range tables {
			reached, err := reach(ctx, b, setting, table, other.tenant)
			require.NoError(t, err, table)
			require.Zero(t, reached, "%s as %q", table, setting)
		}
	}
}

// TestMutationOfPolicies drops each policy in turn and wants the test above to see it: a suite that cannot fail proves nothing.
func TestEveryPolicyThatIsDroppedIsMissed(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := plant(t, b, "one"), plant(t, b, "other")
	ctx := t.Context()
	killed := 0
	tables := tenantTables(t, b)
	for _, table := range tables {
		_, err := b.Owner.Exec(ctx, `alter table `+table+` disable row level security`)
		require.NoError(t, err)
		reached, err := reach(ctx, b, one.tenant.String(), table, other.tenant)
		require.NoError(t, err)
		require.Positive(t, reached, "%s without its policy hides nothing", table)
		killed++
		_, err = b.Owner.Exec(ctx, `alter table `+table+` enable row level security`)
		require.NoError(t, err)
	}
	require.Equal(t, len(tables), killed)
}

func tenantTables(t *testing.T, b *dbtest.Bundle) []string {
	t.Helper()
	rows, err := b.Owner.Query(t.Context(), `
		select 'sluice.' || c.relname from pg_class c
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
		  and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id') order by 1`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	kept := all[:0]
	for _, name := range all {
		if _, ok := withoutTenant[strings.TrimPrefix(name, "sluice.")]; !ok {
			kept = append(kept, name)
		}
	}
	return kept
}

// reach counts the rows of another tenant that the application's role sees in a table.
func reach(ctx context.Context, b *dbtest.Bundle, setting, table string, other uuid.UUID) (int, error) {
	tx, err := b.App.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if setting != "unset" {
		if _, err := tx.Exec(ctx, `select set_config('sluice.tenant_id', $1, true)`, setting); err != nil {
			return 0, err
		}
	}
	var rows int
	err = tx.QueryRow(ctx, `select count(*) from `+table+` where tenant_id = $1`, other).Scan(&rows)
	return rows, err
}

// TestApplicationCannotRewriteThePast: what is append-only has no grant to change it, and the owner meets a trigger.
func TestApplicationCannotRewriteThePast(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	for _, statement := range []string{
		`update sluice.ledger_entries set amount_pico = 0`, `delete from sluice.ledger_entries`, `truncate sluice.ledger_entries`,
		`update sluice.events set type = 'y'`, `delete from sluice.events`, `delete from sluice.event_keys`, `update sluice.event_keys set event_id = null`,
		`update sluice.run_history set status = 'done'`, `delete from sluice.runs`, `update sluice.prices set input_pico = 0`,
		`select * from river.river_job`, `delete from river.river_job`, `select * from sluice.operator_keys`, `select sluice.tenant_erase('` + p.tenant.String() + `')`,
	} {
		tx, err := b.App.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `select set_config('sluice.tenant_id', $1, true)`, p.tenant.String())
		require.NoError(t, err)
		_, err = tx.Exec(ctx, statement)
		require.ErrorContains(t, err, "permission denied", statement)
		require.NoError(t, tx.Rollback(ctx))
	}
	_, err := b.Owner.Exec(ctx, `update sluice.ledger_entries set amount_pico = 0`)
	require.ErrorContains(t, err, "append-only")
}
