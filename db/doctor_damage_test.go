package db_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
)

// A damage is done by a superuser with triggers off, and taken back.
type damage struct {
	check, name string
	do          []string // :name stands for the id of the run of that name
	what        string   // is told of it
	deep        bool
	more        bool // it is seen in more than one place
}

// aged takes a run back by two hours, so that what stands still has stood for long.
const aged = `update sluice.runs set updated_at = updated_at - interval '2 hours', until = until - interval '9 hours', lease_until = lease_until - interval '9 hours' where id = `

var damages = []damage{
	{check: "schema.object", name: "TriggerOff", do: []string{`alter table sluice.runs disable trigger runs_stepped`}, what: "trigger runs.runs_stepped is not as it was made"},
	{check: "schema.object", name: "TriggerGone", do: []string{`drop trigger call_reserves on sluice.calls`}, what: "trigger calls.call_reserves is missing"},
	{check: "schema.object", name: "ForeignKeysOff", do: []string{`alter table sluice.events disable trigger all`}, what: "table events is not as it was made: of sluice_owner secured forced foreign keys off"},
	{check: "schema.object", name: "PolicyGone", do: []string{`drop policy tenant on sluice.calls`}, what: "policy calls.tenant is missing"},
	{check: "schema.object", name: "PolicyLoose", do: []string{`create policy loose on sluice.events for select using (true)`}, what: "policy events.loose is none of ours: allows r to all using true"},
	{check: "schema.object", name: "PolicyWeaker", do: []string{`alter policy tenant on sluice.keys with check (true)`}, what: "policy keys.tenant is not as it was made"},
	{check: "schema.object", name: "NotForced", do: []string{`alter table sluice.credentials no force row level security`}, what: "table credentials is not as it was made"},
	{check: "schema.object", name: "NotSecured", do: []string{`alter table sluice.credentials disable row level security`}, what: "table credentials is not as it was made"},
	{check: "schema.object", name: "Unlogged", do: []string{`alter table sluice.provider_states set unlogged`}, what: "table provider_states is not as it was made"},
	{check: "schema.object", name: "IndexGone", do: []string{`drop index sluice.actions_key`}, what: "index sluice.actions_key is missing"},
	{check: "schema.object", name: "IndexInvalid", do: []string{`update pg_index set indisvalid = false where indexrelid = 'sluice.event_keys_pkey'::regclass`}, what: "INVALID"},
	{check: "schema.object", name: "ConstraintGone", do: []string{`alter table sluice.runs drop constraint ended`}, what: "constraint runs.ended is missing"},
	{
		check: "schema.object", name: "ConstraintNotValidated",
		do: []string{
			`alter table sluice.runs drop constraint ended`,
			`alter table sluice.runs add constraint ended check ((status in ('done', 'skipped', 'dead', 'cancelled')) = (finished_at is not null)) not valid`,
		},
		what: "constraint runs.ended is not as it was made",
	},
	{check: "schema.object", name: "Right", do: []string{`grant delete on sluice.ledger_entries to sluice_app`}, what: "grant ledger_entries to sluice_app is not as it was made"},
	{check: "schema.object", name: "RightOfAColumn", do: []string{`grant update (amount_pico) on sluice.ledger_entries to sluice_app`}, what: "grant ledger_entries columns to sluice_app is none of ours"},
	{check: "schema.object", name: "RightOfAPartition", do: []string{`grant select on sluice.event_payloads_{today} to sluice_app`}, what: "is none of ours: select"},
	{check: "schema.object", name: "PartitionOpen", do: []string{`drop policy tenant on sluice.event_payloads_{today}`}, what: ".tenant is missing"},
	{check: "schema.object", name: "PartitionNotForced", do: []string{`alter table sluice.event_payloads_{today} no force row level security`}, what: "is not as it was made: of sluice_owner secured"},
	{check: "schema.object", name: "Definer", do: []string{`create function sluice.mine() returns int language sql security definer as 'select 1'`}, what: "mine() is none of ours: of", more: true},
	{check: "schema.object", name: "Function", do: []string{`create or replace function sluice.usage_slot(at timestamptz) returns timestamptz language sql immutable as 'select at'`}, what: "function sluice.usage_slot(timestamp with time zone) is not as it was made"},
	{check: "schema.object", name: "View", do: []string{`alter view sluice.billing_entries reset (security_invoker)`}, what: "table billing_entries is not as it was made"},
	{check: "schema.object", name: "RoleAboveRowSecurity", do: []string{`alter role sluice_app bypassrls`}, what: "role sluice_app is not as it was made: ours bypassrls"},
	{check: "schema.object", name: "RoleOfAnother", do: []string{`grant sluice_owner to sluice_app`}, what: "member sluice_app of sluice_owner is none of ours"},
	{check: "tenant.rows", do: []string{`delete from sluice.budgets where tenant_id = (select tenant_id from sluice.tenants where status = 'erased')`, `delete from sluice.limits where tenant_id = ':tenant'`}, what: "no limits"},
	{check: "tenant.remains", do: []string{`insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, body_bytes, body_sha256) select ':erased', '00000000-0000-7000-8000-000000000001', endpoint_id, source, source_event_id, type, 0, '' from sluice.events limit 1`}, what: "rows of events are still there"},
	{check: "event.run_missing", do: []string{`delete from sluice.runs where id = ':done'`, `delete from sluice.calls where run_id = ':done'`}, what: "and has no run of it"},
	{check: "event.key", name: "Missing", do: []string{`delete from sluice.event_keys where key = 'done'`}, what: "has no key"},
	{check: "event.key", name: "OfAnother", do: []string{`update sluice.event_keys set event_id = (select event_id from sluice.event_keys where key = 'held') where key = 'done'`}, what: "its key is another event's"},
	{check: "event.lost", do: []string{`delete from sluice.events where source_event_id = 'done'`}, what: "has a key, and is not there", deep: true},
	{check: "event.payload", name: "Gone", do: []string{`delete from sluice.event_payloads where event_id = (select event_id from sluice.runs where id = ':done')`}, what: "has no raw body"},
	{check: "event.payload", name: "OfAnotherGone", do: []string{`update sluice.event_payloads set body_of = gen_random_uuid() where event_id = (select event_id from sluice.runs where id = ':done')`}, what: "the event that keeps its raw body does not"},
	{check: "payload.partition", do: []string{`drop table sluice.event_payloads_{tomorrow}`}, what: "no partition for"},
	{check: "payload.default", do: []string{`insert into sluice.event_payloads values (':tenant', '00000000-0000-7000-8000-000000000001', '{}', '', '00000000-0000-7000-8000-000000000001')`}, what: "stands in no day's partition"},
	{check: "run.stuck", name: "Queued", do: []string{`delete from river.river_job where args ->> 'run_id' = ':queued'`}, what: "queued, and no job stands for it"},
	{check: "run.stuck", name: "QueuedAndItsJobIsDone", do: []string{`update river.river_job set state = 'completed', finalized_at = now() where args ->> 'run_id' = ':queued'`}, what: "queued, and no job stands for it"},
	{check: "run.stuck", name: "QueuedAndItsWorkerWasKilled", do: []string{`update river.river_job set state = 'running', attempted_at = now() - interval '10 minutes' where args ->> 'run_id' = ':queued'`}, what: "queued, and no job stands for it"},
	{check: "run.stuck", name: "Running", do: []string{aged + `':first'`}, what: "running, and no job stands for it"},
	{check: "run.stuck", name: "Waiting", do: []string{aged + `':waiting'`, `delete from river.river_job where args ->> 'run_id' = ':waiting'`}, what: "waiting why, and no job stands for it"},
	{check: "run.stuck", name: "WaitingForEver", do: []string{`update sluice.runs set until = null where id = ':waiting'`}, what: "waits without a time: why"},
	{check: "run.discarded", do: []string{`update river.river_job set state = 'discarded', finalized_at = now() where args ->> 'run_id' = ':queued'`}, what: "queued, and River has given its job up"},
	{check: "run.turn", do: []string{`update sluice.runs set status = 'done', finished_at = now(), lease_until = null where id = ':first'`, `insert into sluice.run_history (tenant_id, run_id, status, reason, detail, attempt, epoch) values (':tenant', ':first', 'done', '', '', 1, 1)`}, what: "nothing is in front of it"},
	{check: "run.held", name: "Limit", do: []string{`update sluice.budgets set held = false, holding = ''`}, what: "held, limit.cost_per_day"},
	{check: "run.held", name: "Events", do: []string{`update sluice.runs set reason = 'limit.events_per_hour' where id = ':held'`}, what: "held, limit.events_per_hour"},
	{check: "run.held", name: "Parked", do: []string{`update sluice.budgets set parked = 0`}, what: "waiting, limit.concurrent_runs"},
	{check: "run.held_long", do: []string{`update sluice.runs set until = now() - interval '3 hours' where id = ':held'`}, what: "past its time"},
	{check: "run.review", do: []string{aged + `':review'`}, what: "in review, past its time"},
	{check: "run.acting", do: []string{`update sluice.actions set state = 'failed', ended_at = now() where run_id = ':acting'`}, what: "no effect of it is on its way"},
	{check: "run.history", name: "Missing", do: []string{`delete from sluice.run_history where run_id = ':done'`}, what: "is done, and its history ends with nothing"},
	{check: "run.history", name: "Differs", do: []string{`update sluice.runs set status = 'skipped', reason = 'x' where id = ':dead'`}, what: "is skipped, and its history ends with dead"},
	{check: "action.stuck", name: "Intended", do: []string{`delete from river.river_job where kind = 'action'`}, what: "intended, and no job stands for it"},
	{check: "action.stuck", name: "InFlight", do: []string{`update sluice.actions set state = 'in_flight', lease_until = now() - interval '10 minutes' where run_id = ':acting'`, `delete from river.river_job where kind = 'action'`}, what: "in_flight, and no job stands for it"},
	{check: "action.open", name: "OfAnEndedRun", do: []string{`update sluice.actions set state = 'in_flight', run_id = ':dead' where run_id = ':acting'`, `update sluice.actions set run_id = ':acting', state = 'intended', ended_at = null where run_id = ':done'`, `update river.river_job set args = jsonb_set(args, '{action_id}', (select to_jsonb(id::text) from sluice.actions where run_id = ':acting')) where kind = 'action'`}, what: "in_flight, and its run is dead"},
	{check: "action.open", name: "ProposedAndNotInReview", do: []string{`update sluice.actions set run_id = ':dead' where run_id = ':review'`}, what: "proposed, and its run is dead"},
	{check: "action.unknown", do: []string{`update sluice.actions set state = 'unknown', run_id = ':dead' where run_id = ':done'`}, what: "nobody can tell"},
	{check: "action.twice", name: "ByAReplay", do: []string{
		`update sluice.runs set purpose = 'replay', generation = 1, event_id = (select event_id from sluice.runs where id = ':done') where id = ':stopped'`,
		`update sluice.events set verdicts = '[]' where source_event_id = 'stopped'`,
		`insert into sluice.actions (tenant_id, id, run_id, kind, key, target, effect, state, ended_at) select tenant_id, gen_random_uuid(), ':stopped', kind, 'other', target, '{}', 'confirmed', now() from sluice.actions where run_id = ':done'`,
	}, what: "was made by run_"},
	{check: "call.open", name: "RunIsGone", do: []string{`update sluice.calls set created_at = now() - interval '1 hour', run_id = ':dead', ordinal = 9 where state = 'sent'`}, what: "sent, and nobody waits for it"},
	{check: "call.open", name: "AnotherHasTheRun", do: []string{`update sluice.calls set created_at = now() - interval '1 hour', epoch = 0 where state = 'sent'`}, what: "sent, and nobody waits for it"},
	{check: "budget.reserved", do: []string{`update sluice.budgets set reserved_pico = reserved_pico + 1`}, what: "100 tokens, 1001 pico are reserved; its calls under way want 100 tokens, 1000 pico"},
	{check: "budget.cap", do: []string{`update sluice.limits set cost_per_day_hard = 28000999, updated_at = now() - interval '50 hours' where tenant_id = ':tenant'`}, what: "cost_per_day_usd: 28001000 of 28000999"},
	{check: "ledger.behind", do: []string{`update sluice.ledger_entries set at = at - interval '2 hours'`}, what: "not summed"},
	{check: "model.price", name: "Model", do: []string{`update sluice.automation_versions set spec = '{"model":"scripted/none"}'`}, what: "may ask scripted/none"},
	{check: "model.price", name: "Fallback", do: []string{`update sluice.prices set effective_to = now() where model = 'chat-echo-1'`}, what: "may ask scripted/chat-echo-1"},
	{check: "credential.paused", do: []string{`update sluice.credentials set paused_at = now(), paused_reason = 'x'`}, what: "is paused"},
	{check: "credential.unreadable", do: []string{`update sluice.runs set reason = 'credential.unreadable', detail = 'x' where status = 'waiting' and until is not null`}, what: "does not open"},
	{check: "audit.chain", do: []string{`update sluice.audit_entries set actor = 'somebody' where seq = 1 and tenant_id = ':tenant'`}, what: "entry 1: changed", deep: true},
	{check: "replay.stuck", do: []string{`insert into sluice.replays (tenant_id, id, kind, mode, asked, per_second, items, updated_at) values (':tenant', gen_random_uuid(), 'replay', 'run', '{}', 1, 1, now() - interval '1 hour')`}, what: "nobody goes on with it"},
	{check: "alert.notice", do: []string{`insert into sluice.alert_notices (tenant_id, channel_id, phase, due_at) values (':tenant', gen_random_uuid(), 'test', now() - interval '1 hour')`}, what: "is not told"},
	{check: "alert.open", do: []string{`insert into sluice.alerts (tenant_id, id, kind, subject, detail) values (':tenant', gen_random_uuid(), 'held', 'x', 'canary')`}, what: "held"},
	{check: "river.leader", do: []string{`delete from river.river_leader`}, what: "no worker leads"},
	{check: "river.running", do: []string{`insert into river.river_job (kind, queue, max_attempts, state, args, attempted_at) values ('notice', 'x', 1, 'running', '{}', now() - interval '1 hour')`}, what: "of kind notice is said to run"},
	{check: "river.orphan", do: []string{`update river.river_job set args = jsonb_set(args, '{run_id}', to_jsonb(gen_random_uuid()::text)) where args ->> 'run_id' = ':waiting'`}, what: "is of a run that is not there"},
	{check: "river.queue", do: []string{`update river.river_job set created_at = now() - interval '1 hour'`}, what: "runs, priority 1: 3 jobs"},
}

// covered are the checks whose damage is done elsewhere: it cannot be done in a transaction.
var covered = map[string]string{
	"schema.version": "TestDoctorVersions", "schema.newer": "TestDoctorVersions", "ledger": "TestDoctorLedger", "secret.sealed": "TestDoctorSecrets", "server.clock": "TestDoctorClock", "server.holders": "TestDoctorHolders", "server.settings": "every test's server", "server.login": "every test's login",
	"server.wraparound": "it takes a billion transactions", "server.bloat": "it takes 100,000 dead rows, and their count comes late",
}

func TestDoctorFindsEveryDamage(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	names := []string{":tenant", w.of.tenant.String(), ":erased", w.erased.String(), "{today}", time.Now().UTC().Format("20060102"), "{tomorrow}", time.Now().UTC().AddDate(0, 0, 1).Format("20060102")}
	for name, id := range w.runs {
		names = append(names, ":"+name, id.String())
	}
	fill := strings.NewReplacer(names...)
	checked := map[string]bool{}
	for _, d := range damages {
		checked[d.check] = true
		t.Run(d.check+"/"+d.name, func(t *testing.T) {
			ctx := t.Context()
			tx, err := w.Owner.Begin(ctx)
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(ctx) }()
			for _, sql := range slices.Concat([]string{`set local session_replication_role = replica`}, d.do, []string{`set local role sluice_system`}) {
				_, err := tx.Exec(ctx, fill.Replace(sql))
				require.NoError(t, err, sql)
			}
			r, err := w.DB.ExamineIn(ctx, tx, db.Examine{Now: time.Now, Deep: d.deep})
			require.NoError(t, err)
			require.Empty(t, r.Blind)
			require.Equal(t, []string{d.check}, found(r), "%+v", r.Findings)
			f := r.Findings[slices.IndexFunc(r.Findings, func(f db.Finding) bool { return f.ID == d.check })]
			require.Equal(t, d.more, f.Count > 1, "%d", f.Count)
			require.Contains(t, f.Items[0].What, d.what)
			if f.Kind != "" {
				require.NotNil(t, f.Items[0].ID)
			}
		})
	}
	for _, c := range db.Checks() {
		require.True(t, checked[c.ID] || covered[c.ID] != "", "no test does the damage that %s finds", c.ID)
	}
}
