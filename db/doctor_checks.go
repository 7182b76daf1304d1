package db

import "sluice/tenants"

// What the advice of many checks comes to.
const (
	adviceWorkers = "Workers do this by themselves within seconds: look whether `sluice work` runs (`sluice health --url http://HOST:9090/readyz`) and what it logs. "
	adviceReport  = "This is a fault of Sluice or of somebody who wrote past it. Keep the database as it is, keep the output of `sluice doctor --json --deep`, and report it. "
)

// Checks are all that the doctor looks at, in order. A new one needs a line in docs/doctor.md and a damage in doctor_test.go, and both are held to it.
func Checks() []Check {
	return []Check{
		{
			ID: checkVersion, Guards: "all", Severity: SeverityHand, look: lookVersion,
			Says: "this binary cannot serve the database, and nothing else was looked at", Advice: "Run `sluice migrate up`.",
		},
		{
			ID: "schema.newer", Guards: "all", Severity: SeverityNotice, look: lookNewer,
			Says: "the database is newer than this binary, and its objects were not looked at", Advice: "Use the `sluice doctor` of the newer binary.",
		},
		{
			ID: checkObjects, Guards: "all", Severity: SeverityBroken, look: lookSchema,
			Says:   "a table, policy, constraint, index, trigger, function, right or role is not as the migrations made it",
			Advice: "Find out who changed it, and make it again as it stands in migrations/ (an invalid index: REINDEX INDEX CONCURRENTLY). Until then nothing that it guards can be relied on.",
		},
		{
			ID: "tenant.rows", Guards: "I7", Severity: SeverityBroken, Kind: tenants.TenantPrefix, sql: doctorTenantRowsSQL,
			Says: "a tenant lacks a row that is made with it", Advice: adviceReport,
		},
		{
			ID: "tenant.remains", Guards: "erasure", Severity: SeverityBroken, Kind: tenants.TenantPrefix, sql: doctorErasedSQL,
			Says: "rows of a tenant that was erased are still there", Advice: "Erase it again: DELETE /v1/tenants/{id}. " + adviceReport,
		},
		{
			ID: "event.run_missing", Guards: "I2", Severity: SeverityBroken, Kind: tenants.EventPrefix, sql: doctorRunMissingSQL,
			Says: "an event matched an automation and has no run of it", Advice: "POST /v1/replays with these events makes the runs. " + adviceReport,
		},
		{
			ID: "event.key", Guards: "I3", Severity: SeverityBroken, Kind: tenants.EventPrefix, sql: doctorEventKeySQL,
			Says: "an event is not the one that its idempotency key names", Advice: "It may have been worked on twice: compare both with GET /v1/events/{id}/explain. " + adviceReport,
		},
		{
			ID: "event.lost", Guards: "I1", Severity: SeverityBroken, Kind: tenants.EventPrefix, Deep: true, sql: doctorEventLostSQL,
			Says:   "an event was acknowledged and is not there",
			Advice: "Restore it from a backup, or let its source send it again after its row in sluice.event_keys was removed. " + adviceReport,
		},
		{
			ID: "event.payload", Guards: "I1", Severity: SeverityBroken, Kind: tenants.EventPrefix, sql: doctorPayloadSQL,
			Says: "an event has no raw body, and is not too old to have one", Advice: "Restore sluice.event_payloads of that day from a backup. " + adviceReport,
		},
		{
			ID: "payload.partition", Guards: "I1", Severity: SeverityHand, sql: doctorPartitionSQL,
			Says:   "no partition was made for the raw bodies of a day that comes",
			Advice: adviceWorkers + "Bodies of such a day go to sluice.event_payloads_default, and are deleted row by row. If sluice.event_payloads is locked for long, end who locks it.",
		},
		{
			ID: "payload.default", Guards: "retention", Severity: SeverityNotice, Kind: tenants.EventPrefix, sql: doctorPayloadDefaultSQL,
			Says: "raw bodies stand in no day's partition", Advice: "They are served and deleted all the same. A clock of an API process was days off, or a partition was made too late.",
		},
		{
			ID: "run.stuck", Guards: "I2", Severity: SeverityBroken, Kind: tenants.RunPrefix, sql: doctorRunStuckSQL,
			Says: "a run has not ended, and nothing will move it", Advice: adviceWorkers + "POST /v1/runs/{id}/retry sets a waiting one going, POST /v1/runs/{id}/cancel ends one.",
		},
		{
			ID: "run.discarded", Guards: "I2", Severity: SeverityBroken, Kind: tenants.RunPrefix, sql: doctorRunDiscardedSQL,
			Says:   "River gave up the job of a run that has not ended",
			Advice: adviceWorkers + "Its worker was killed on each attempt, or the job failed each time: look for its id in their logs before you retry it.",
		},
		{
			ID: "run.turn", Guards: "I2", Severity: SeverityBroken, Kind: tenants.RunPrefix, sql: doctorRunTurnSQL,
			Says: "a run waits for its turn, and nothing is in front of it", Advice: adviceWorkers,
		},
		{
			ID: "run.held", Guards: "I2", Severity: SeverityBroken, Kind: tenants.RunPrefix, sql: doctorRunHeldSQL,
			Says: "a run is held or parked, and nobody looks at it", Advice: "POST /v1/runs/{id}/cancel and POST /v1/replays bring its event on the way again. " + adviceReport,
		},
		{
			ID: "run.held_long", Guards: "I2", Severity: SeverityNotice, Kind: tenants.RunPrefix, sql: doctorRunHeldLongSQL,
			Says:   "a run is held for longer than until its limit's window turned",
			Advice: "More comes than the limit lets through: PUT /v1/tenants/{id}/limits raises it, POST /v1/runs/cancel ends what is held. After 40 days it ends as dead.",
		},
		{
			ID: "run.review", Guards: "I2", Severity: SeverityHand, Kind: tenants.RunPrefix, sql: doctorReviewSQL,
			Says: "the time for a review is over, and nothing came of it", Advice: adviceWorkers + "POST /v1/runs/{id}/review decides on it.",
		},
		{
			ID: "run.acting", Guards: "I2", Severity: SeverityBroken, Kind: tenants.RunPrefix, sql: doctorActingSQL,
			Says: "a run waits for an effect that nobody will make", Advice: "POST /v1/runs/{id}/cancel ends it. " + adviceReport,
		},
		{
			ID: "run.history", Guards: "I11", Severity: SeverityBroken, Kind: tenants.RunPrefix, sql: doctorHistorySQL,
			Says: "the history of a run does not end with its status", Advice: "The trigger runs_stepped was off, or somebody wrote past it. " + adviceReport,
		},
		{
			ID: "action.stuck", Guards: "I2", Severity: SeverityBroken, Kind: tenants.ActionPrefix, sql: doctorActionStuckSQL,
			Says: "an effect has not ended, and nothing will move it", Advice: adviceWorkers,
		},
		{
			ID: "action.open", Guards: "I4", Severity: SeverityBroken, Kind: tenants.ActionPrefix, sql: doctorActionOpenSQL,
			Says:   "an effect is under way for a run that does not wait for it",
			Advice: "Nothing more is sent for it. Where it was in flight, look at the target whether it is there. " + adviceReport,
		},
		{
			ID: "action.unknown", Guards: "I4", Severity: SeverityHand, Kind: tenants.RunPrefix, sql: doctorUnknownSQL,
			Says: "nobody can tell whether an effect was made", Advice: "Look at the target, and say which it is: POST /v1/runs/{id}/resolve.",
		},
		{
			ID: "action.twice", Guards: "I4, I10", Severity: SeverityBroken, Kind: tenants.ActionPrefix, sql: doctorTwiceSQL,
			Says: "one effect was made twice, or may be", Advice: "Look at the target, and take one of the two away. " + adviceReport,
		},
		{
			ID: "call.open", Guards: "I5, I7", Severity: SeverityBroken, Kind: tenants.CallPrefix, sql: doctorCallSQL,
			Says: "a call to a model is under way, and nobody waits for it", Advice: adviceWorkers + "What it reserves counts against the tenant's limit until then.",
		},
		{
			ID: "budget.reserved", Guards: "I7", Severity: SeverityBroken, Kind: tenants.TenantPrefix, sql: doctorReservedSQL,
			Says: "what is reserved is not what the calls under way want", Advice: "The triggers call_reserves and call_releases were off, or somebody wrote past them. " + adviceReport,
		},
		{
			ID: "budget.cap", Guards: "I7", Severity: SeverityBroken, Kind: tenants.TenantPrefix, sql: doctorCapSQL,
			Says:   "more is used and reserved than the limit was when its window began",
			Advice: "A reply cost more than its worst case by the estimate, or the reservation failed: compare reserved and cost of the window's calls (GET /v1/runs/{id}). " + adviceReport,
		},
		{
			ID: "ledger", Guards: "I6", Severity: SeverityBroken, Kind: tenants.TenantPrefix, Deep: true, look: lookLedger,
			Says: "the ledger, calls, runs, prices, counters and sums do not agree", Advice: "`sluice ledger check` lists them; `sluice ledger rebuild` mends sums, a rollup alone. " + adviceReport,
		},
		{
			ID: "ledger.behind", Guards: "I6", Severity: SeverityNotice, Kind: tenants.TenantPrefix, sql: doctorUsageSQL,
			Says: "the ledger of the last hours is not summed", Advice: "Reports are exact all the same, and slower. " + adviceWorkers,
		},
		{
			ID: "model.price", Guards: "I6", Severity: SeverityHand, Kind: tenants.AutomationPrefix, look: lookPrices,
			Says: "an automation in service may ask a model without a price", Advice: "Its runs end as dead, price.unknown, before anything is asked. Change its model (PATCH /v1/automations/{id}), or add the price by a migration.",
		},
		{
			ID: "credential.paused", Guards: "I2", Severity: SeverityHand, Kind: tenants.CredentialPrefix, sql: doctorPausedSQL,
			Says: "a credential is paused: its service refused it", Advice: "PATCH /v1/credentials/{id} with a new secret sets it, and what waits for it, going again.",
		},
		{
			ID: "credential.unreadable", Guards: "I2", Severity: SeverityHand, Kind: tenants.RunPrefix, sql: doctorUnreadableSQL,
			Says: "a run waits since a credential does not open with the workers' master keys", Advice: "sluice master-key check names what does not open. Give the workers the master key that it is under (docs/keys.md), or PATCH /v1/credentials/{id} with the secret again; they go on within a minute.",
		},
		{
			ID: "secret.sealed", Guards: "secrets", Severity: SeverityBroken, look: lookSecrets,
			Says: "a secret, or the key that it is sealed under, does not open", Advice: "Give the master key that it was sealed under in SLUICE_MASTER_KEYS_OLD (docs/keys.md). If that is lost, so is the secret: put it in again.",
		},
		{
			ID: "audit.chain", Guards: "I11", Severity: SeverityBroken, Kind: tenants.TenantPrefix, Deep: true, sql: doctorAuditSQL,
			Says: "the chain of the audit is broken", Advice: "Somebody who may write past Sluice has changed it. Compare it with a backup, and with the heads that were exported. " + adviceReport,
		},
		{
			ID: "replay.stuck", Guards: "I2", Severity: SeverityHand, Kind: tenants.ReplayPrefix, sql: doctorReplaySQL,
			Says: "a replay does not go on", Advice: adviceWorkers + "POST /v1/replays/{id}/cancel ends it.",
		},
		{
			ID: "alert.notice", Guards: "alerts", Severity: SeverityHand, Kind: tenants.NoticePrefix, sql: doctorNoticeSQL,
			Says: "an alert is not told", Advice: adviceWorkers + "POST /v1/alert-channels/{id}/test tries a channel.",
		},
		{
			ID: "alert.open", Guards: "alerts", Severity: SeverityNotice, Kind: tenants.AlertPrefix, sql: doctorAlertSQL,
			Says: "an alert has not ended", Advice: "GET /v1/alerts?open=true says what it is about; docs/alerts.md what to do.",
		},
		{
			ID: "river.leader", Guards: "I2", Severity: SeverityHand, sql: doctorLeaderSQL,
			Says: "no worker leads River, and jobs wait", Advice: "Start `sluice work`, or look why those that run do not reach the database.",
		},
		{
			ID: "river.running", Guards: "I2", Severity: SeverityHand, sql: doctorLongSQL,
			Says: "River takes a job for running that cannot be", Advice: "The run itself has gone on by another job. River's maintenance does not run: restart `sluice work`.",
		},
		{
			ID: "river.orphan", Guards: "I1", Severity: SeverityBroken, sql: doctorOrphanSQL,
			Says: "a job is of a run or an effect that is not there", Advice: adviceReport,
		},
		{
			ID: "river.queue", Guards: "I2", Severity: SeverityNotice, sql: doctorQueueSQL,
			Says: "jobs have waited for more than 10 minutes", Advice: "More comes than is worked on: start more `sluice work`, or raise SLUICE_RUN_WORKERS. Of one tenant alone: its share or pace, PUT /v1/tenants/{id}/limits.",
		},
		{
			ID: "server.clock", Guards: "leases, limits, signatures", Severity: SeverityHand, look: lookClock,
			Says: "this machine's clock and the database's are apart", Advice: "Let both follow one time server (chrony, systemd-timesyncd). Signatures with a time are judged by this one, leases and limits by the database's.",
		},
		{
			ID: "server.settings", Guards: "I1", Severity: SeverityNotice, sql: doctorSettingsSQL,
			Says: "a crash of the server's machine may lose what was acknowledged", Advice: "ALTER SYSTEM SET fsync = on, full_page_writes = on, synchronous_commit = on, unless this is a database for development.",
		},
		{
			ID: "server.login", Guards: "I8", Severity: SeverityNotice, sql: doctorSuperSQL,
			Says: "the login of DATABASE_URL is above row security", Advice: "Every session steps down to a role that is not, as long as nothing steps up again. Give Sluice a login of its own (README, To run it for real).",
		},
		{
			ID: "server.holders", Guards: "speed", Severity: SeverityNotice, sql: doctorHoldersSQL, asLogin: true,
			Says: "somebody keeps old rows from being cleared away", Advice: "SELECT pg_terminate_backend(pid) ends a session, ROLLBACK PREPARED a prepared transaction, SELECT pg_drop_replication_slot(name) an unused slot.",
		},
		{
			ID: "server.wraparound", Guards: "I1", Severity: SeverityHand, sql: doctorWrapSQL,
			Says: "a table is half way to a standstill of the server", Advice: "End what server.holders names, then VACUUM (FREEZE) the table.",
		},
		{
			ID: "server.bloat", Guards: "speed", Severity: SeverityNotice, sql: doctorBloatSQL,
			Says: "a table has more dead rows than live ones", Advice: "End what server.holders names; autovacuum does the rest, or VACUUM the table.",
		},
	}
}
