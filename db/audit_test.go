package db_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// unaudited are the tables whose rows are no change that somebody makes, each with its reason.
var unaudited = map[string]string{
	"actions": "work; a person's word on one is noted by AuditNote", "action_attempts": "work", "alert_notices": "work", "alerts": "its rows are the record",
	"audit_changes": "the audit itself", "audit_entries": "the audit itself", "audit_heads": "the audit itself",
	"budgets": "sums of the ledger", "calls": "work", "event_keys": "what came in", "event_payloads": "what came in", "events": "what came in",
	"idempotency_keys": "answers to requests", "living": "made and ended with its tenant", "ledger_entries": "append-only itself; a person's correction is noted by AuditNote",
	"missed_checks": "work", "missed_events": "work", "operator_idempotency_keys": "answers to requests", "places": "counters",
	"prices": "kept by migrations, and never changed", "provider_pauses": "what providers asked for", "provider_states": "what workers know",
	"rates": "counters", "rejections": "what came in", "replay_items": "the work of a replay", "run_history": "the record of runs",
	"run_steps": "the state machine", "runs": "work; a person's change is noted by AuditNote", "schema_migrations": "golang-migrate's version",
	"tenant_keysets": "made with its tenant; what changes it is a command of the operator", "usage_late": "sums", "usage_rolled": "sums", "usage_rollups": "sums",
	"watch_marks": "work",
}

// TestEveryTableIsAuditedOrSaysWhyNot asks the catalogue: a table that somebody's changes go to is not forgotten, and what is secret is never told.
func TestEveryTableIsAuditedOrSaysWhyNot(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	type column struct {
		Table, Column, Type string
		Hidden              *string
	}
	rows, err := b.Owner.Query(t.Context(), `
		select c.relname as table, a.attname as column, a.atttypid::regtype::text as type,
		    (select encode(t.tgargs, 'escape') from pg_trigger t where t.tgrelid = c.oid and t.tgname = 'audit' and t.tgenabled = 'O') as hidden
		from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition`)
	require.NoError(t, err)
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByName[column])
	require.NoError(t, err)
	audited := map[string]bool{}
	for _, c := range columns {
		_, exempt := unaudited[c.Table]
		require.NotEqual(t, exempt, c.Hidden != nil, "%s: has a trigger that audits it, or a reason why not", c.Table)
		if exempt {
			continue
		}
		audited[c.Table] = true
		arguments := strings.Split(*c.Hidden, `\000`)
		secret := c.Type == "bytea" || slices.Contains([]string{"token", "sealed", "hash", "secret", "wrapped", "answer"}, c.Column)
		require.True(t, !secret || slices.Contains(strings.Split(arguments[2], ","), c.Column), "%s.%s is told by the audit", c.Table, c.Column)
	}
	require.Len(t, audited, 13)
}

func audited(t *testing.T, b *dbtest.Bundle, tenant uuid.UUID) []db.AuditEntry {
	t.Helper()
	var out []db.AuditEntry
	require.NoError(t, b.DB.Tenant(t.Context(), tenant, func(tx db.TenantTx) (err error) {
		out, err = tx.AuditList(t.Context(), db.AuditFilter{Limit: 1000})
		return err
	}))
	return out
}

func auditFaults(t *testing.T, b *dbtest.Bundle) []db.AuditFault {
	t.Helper()
	var out []db.AuditFault
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) (err error) {
		out, err = tx.AuditCheck(t.Context(), nil)
		return err
	}))
	return out
}

func audit(t *testing.T, b *dbtest.Bundle) uuid.UUID {
	t.Helper()
	var id uuid.UUID
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		made, err := tx.TenantInsert(t.Context(), "acme", "UTC")
		id = made.TenantID
		return err
	}))
	return id
}

func TestAChangeIsOneEntryInItsTransaction(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	tenant := audit(t, b)
	ctx := db.As(t.Context(), db.Actor{Kind: db.ActorKey, ID: "key_1", Operation: "create-endpoint", Request: &db.ActorRequest{Address: "192.0.2.1", ID: "r"}})
	var endpoint db.Endpoint
	require.NoError(t, b.DB.Tenant(ctx, tenant, func(tx db.TenantTx) (err error) {
		if endpoint, err = tx.EndpointInsert(ctx, "billing", "stripe", []byte(`{"order":"latest"}`)); err != nil {
			return err
		}
		_, err = tx.EndpointSecretInsert(ctx, endpoint.ID, tenants.NewSecret("canary-secret"))
		return err
	}))
	stop := errors.New("stop")
	require.ErrorIs(t, b.DB.Tenant(ctx, tenant, func(tx db.TenantTx) error {
		_, err := tx.EndpointInsert(ctx, "other", "stripe", []byte(`{}`))
		return errors.Join(err, stop)
	}), stop)
	// What a savepoint took back was not done.
	require.NoError(t, b.DB.Tenant(ctx, tenant, func(tx db.TenantTx) error {
		if err := tx.Try(ctx, func(tx db.TenantTx) error {
			_, err := tx.EndpointInsert(ctx, "tried", "stripe", []byte(`{}`))
			return errors.Join(err, stop)
		}); !errors.Is(err, stop) {
			return err
		}
		_, err := tx.EndpointInsert(ctx, "kept", "stripe", []byte(`{}`))
		return err
	}))
	entries := audited(t, b, tenant)
	require.Len(t, entries, 3)
	require.Equal(t, db.ActorDatabase, entries[2].ActorKind, "nobody said who made the tenant")
	made := entries[1]
	require.Equal(t, []any{int64(2), db.ActorKey, "key_1", "create-endpoint"}, []any{made.Seq, made.ActorKind, made.Actor, made.Operation})
	require.Len(t, made.Subjects, 2)
	require.Contains(t, string(made.Told), `"order": "latest"`)
	require.Contains(t, string(made.Told), `"address": "192.0.2.1"`)
	require.NotContains(t, string(made.Told), endpoint.Token)
	require.Contains(t, string(entries[0].Told), `"kept"`)
	require.NotContains(t, string(entries[0].Told), `"tried"`)
	require.Empty(t, auditFaults(t, b))
}

// TestChainsHaveNoGaps writes from many sides at once.
func TestChainsHaveNoGaps(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := audit(t, b), audit(t, b)
	var all sync.WaitGroup
	const writers, times = 8, 10
	for w := range writers {
		all.Go(func() {
			for i := range times {
				tenant := []uuid.UUID{one, other}[(w+i)%2]
				if err := b.DB.Tenant(t.Context(), tenant, func(tx db.TenantTx) error {
					_, err := tx.EndpointInsert(t.Context(), fmt.Sprint(w, i), "stripe", []byte(`{}`))
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	require.Len(t, audited(t, b, one), 1+writers*times/2)
	require.Empty(t, auditFaults(t, b))
}

// TestAMissingLinkIsFound does, as the superuser with the triggers off, what nobody else can.
func TestAMissingLinkIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ harm, fault string }{
		"an entry is gone":           {`delete from sluice.audit_entries where seq = 3`, "missing: the entries from 3 to 3"},
		"the first is gone":          {`delete from sluice.audit_entries where seq = 1`, "missing: the entries from 1 to 1"},
		"the last is gone":           {`delete from sluice.audit_entries where seq = 5`, "missing: the end of the chain"},
		"all are gone":               {`delete from sluice.audit_entries`, "missing: the end of the chain"},
		"the head is gone":           {`delete from sluice.audit_heads`, "unlinked: the chain goes on after its head"},
		"the whole chain is gone":    {`delete from sluice.audit_entries; delete from sluice.audit_changes; delete from sluice.audit_heads`, "missing: the whole chain"},
		"changes of no entry":        {`insert into sluice.audit_changes (tenant_id, entry_id, what, subject, did) select tenant_id, gen_random_uuid(), what, subject, did from sluice.audit_changes where after ->> 'name' = '1'`, "foreign: 1 changes of no entry"},
		"another actor":              {`update sluice.audit_entries set actor = 'key_2' where seq = 3`, "changed: its hash is not that of what it says"},
		"another kind of actor":      {`update sluice.audit_entries set actor_kind = 'rule' where seq = 3`, "changed: its hash is not that of what it says"},
		"another time":               {`update sluice.audit_entries set at = at + interval '1 microsecond' where seq = 3`, "changed: its hash is not that of what it says"},
		"another operation":          {`update sluice.audit_entries set operation = 'x' where seq = 3`, "changed: its hash is not that of what it says"},
		"other subjects":             {`update sluice.audit_entries set subjects = '{}' where seq = 3`, "changed: its hash is not that of what it says"},
		"another hash":               {`update sluice.audit_entries set hash = sha256('x') where seq = 3`, "unlinked: it does not name the hash of the entry before it"},
		"other content":              {`update sluice.audit_changes set after = '{}' where after ->> 'name' = '1'`, "changed: what it changed is not what it was"},
		"content is gone":            {`delete from sluice.audit_changes where after ->> 'name' = '1'`, "changed: what it changed is not what it was"},
		"another address":            {`update sluice.audit_changes set request = '{}' where after ->> 'name' = '1'`, "changed: what it changed is not what it was"},
		"the hash of other content":  {`update sluice.audit_entries set changes = sha256('x') where seq = 3`, "changed: its hash is not that of what it says"},
		"a link in the wrong place":  {`update sluice.audit_entries set prev = (select hash from sluice.audit_entries where seq = 2) where seq = 4`, "unlinked: it does not name the hash of the entry before it"},
		"an entry of another tenant": {`update sluice.audit_entries set tenant_id = gen_random_uuid() where seq = 5`, "changed: its hash is not that of what it says"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := dbtest.New(t)
			tenant := audit(t, b)
			for i := range 4 {
				require.NoError(t, b.DB.Tenant(t.Context(), tenant, func(tx db.TenantTx) error {
					_, err := tx.EndpointInsert(t.Context(), fmt.Sprint(i), "stripe", []byte(`{}`))
					return err
				}))
			}
			require.Empty(t, auditFaults(t, b))
			conn, err := b.Owner.Acquire(t.Context())
			require.NoError(t, err)
			defer conn.Release()
			_, err = conn.Exec(t.Context(), `set session_replication_role = replica`)
			require.NoError(t, err)
			tag, err := conn.Exec(t.Context(), c.harm)
			require.NoError(t, err)
			require.Positive(t, tag.RowsAffected())
			_, err = conn.Exec(t.Context(), `reset session_replication_role`)
			require.NoError(t, err)
			var found []string
			for _, f := range auditFaults(t, b) {
				found = append(found, f.Fault)
			}
			require.Contains(t, found, c.fault)
		})
	}
}

// TestNobodyRewritesTheAudit: no role of ours has a way to, and the superuser meets a trigger.
func TestNobodyRewritesTheAudit(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	tenant := audit(t, b)
	for _, role := range []string{"sluice_app", "sluice_worker", "sluice_system", "sluice_door", "sluice_billing", "sluice_intake", "sluice_auditor", "sluice_owner", "superuser"} {
		for _, statement := range []string{
			`update sluice.audit_entries set actor = 'x'`, `delete from sluice.audit_entries`, `truncate sluice.audit_entries`,
			`update sluice.audit_changes set after = null`, `delete from sluice.audit_changes`, `truncate sluice.audit_changes`,
			`delete from sluice.audit_heads`, `truncate sluice.audit_heads`, `update sluice.audit_heads set hash = sha256('x')`,
			`insert into sluice.audit_entries select (jsonb_populate_record(e, '{"seq": 99}')).* from sluice.audit_entries e`,
		} {
			if strings.HasPrefix(statement, "update sluice.audit_heads") && role == "sluice_auditor" {
				continue // it moves heads, and the check finds one that was moved elsewhere
			}
			if strings.HasPrefix(statement, "insert") && slices.Contains([]string{"sluice_auditor", "sluice_owner", "superuser"}, role) {
				continue // who writes entries can write a wrong one, and the check finds it
			}
			tx, err := b.Owner.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), `select set_config('sluice.tenant_id', $1, true)`, tenant.String())
			require.NoError(t, err)
			if role != "superuser" {
				_, err = tx.Exec(t.Context(), `set local role `+role)
				require.NoError(t, err)
			}
			_, err = tx.Exec(t.Context(), statement)
			var denied bool
			if err != nil {
				denied = strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "append-only")
			}
			require.True(t, denied, "%s: %s: %v", role, statement, err)
			require.NoError(t, tx.Rollback(t.Context()))
		}
	}
	// Nor does a tenant write into another's chain, or read another's.
	other := audit(t, b)
	require.NoError(t, b.DB.Tenant(t.Context(), other, func(tx db.TenantTx) error {
		return tx.AuditNote(t.Context(), "run", tenant, "cancel", nil)
	}))
	require.Len(t, audited(t, b, tenant), 1)
	_, err := b.App.Exec(t.Context(), `select sluice.audit_note($1, 'run', $1, 'x', null, null)`, tenant)
	require.ErrorContains(t, err, "permission denied")
	_, err = b.App.Exec(t.Context(), `select seq from sluice.audit_faults(null)`)
	require.ErrorContains(t, err, "permission denied")
}

// TestErasureKeepsThatAndNotWhat: who changed what and when outlives the tenant; names and settings do not.
func TestErasureKeepsThatAndNotWhat(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	tenant := audit(t, b)
	ctx := db.As(t.Context(), db.Actor{Kind: db.ActorOperator, ID: "opk_1", Operation: "erase-tenant"})
	require.NoError(t, b.DB.Tenant(ctx, tenant, func(tx db.TenantTx) error {
		_, err := tx.CredentialInsert(ctx, "canary-name", "callback", tenants.NewSecret("s"))
		return err
	}))
	require.NoError(t, b.DB.System(ctx, func(tx db.SystemTx) error { return tx.TenantErase(ctx, tenant) }))
	entries := audited(t, b, tenant)
	require.Len(t, entries, 3)
	require.Equal(t, "erase-tenant", entries[0].Operation)
	require.JSONEq(t, `[{"what": "tenant", "subject": "`+tenant.String()+`", "did": "update", "before": {"status": "active"}, "after": {"status": "erased"}, "request": null}]`, string(entries[0].Told))
	require.Equal(t, "[]", string(entries[1].Told))
	require.Empty(t, auditFaults(t, b))
}

// TestAChainThatWasCutTakesNothingMore: what cannot be added to the chain is not done, and it is no conflict of the caller's.
func TestAChainThatWasCutTakesNothingMore(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	tenant := audit(t, b)
	_, err := b.Owner.Exec(t.Context(), `set session_replication_role = replica; delete from sluice.audit_heads; reset session_replication_role`)
	require.NoError(t, err)
	err = b.DB.Tenant(t.Context(), tenant, func(tx db.TenantTx) error {
		_, err := tx.EndpointInsert(t.Context(), "billing", "stripe", []byte(`{}`))
		return err
	})
	require.ErrorContains(t, err, "goes on after its head")
	require.NotErrorIs(t, err, db.ErrConflict)
	require.NotErrorIs(t, err, db.ErrUnavailable)
}

// TestANewVersionTellsWhatIsDifferent: of an automation's new version the audit has what differs, before and after, and not all of it.
func TestANewVersionTellsWhatIsDifferent(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	tenant := audit(t, b)
	require.NoError(t, b.DB.Tenant(t.Context(), tenant, func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(t.Context(), "billing", "stripe", []byte(`{}`))
		require.NoError(t, err)
		a, err := tx.AutomationInsert(t.Context(), e.ID, "x", []byte(`{"name":"x","model":"a/b","mode":"shadow"}`), uuid.Nil)
		require.NoError(t, err)
		_, err = tx.AutomationUpdate(t.Context(), a.ID, db.AutomationChange{Spec: []byte(`{"name":"x","model":"a/c","trial":1}`), Version: a.Version})
		return err
	}))
	told := string(audited(t, b, tenant)[0].Told)
	require.Contains(t, told, `"before": {"spec": {"mode": "shadow", "model": "a/b", "trial": null}}`)
	require.Contains(t, told, `"spec": {"mode": null, "model": "a/c", "trial": 1}`)
}
