-- Takes away all of ours and leaves River's tables and the roles, which other databases of the cluster may use.
alter table river.river_job reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_analyze_threshold, autovacuum_vacuum_cost_delay);
revoke all on all tables in schema river from sluice_app, sluice_worker, sluice_system;
revoke all (id, kind, state, args) on river.river_job from sluice_system;
revoke all on all sequences in schema river from sluice_app, sluice_worker, sluice_system;
revoke all on all functions in schema river from sluice_app, sluice_worker, sluice_system;
revoke all on schema river from sluice_app, sluice_worker, sluice_system;

drop view sluice.billing_entries;
drop table sluice.action_attempts, sluice.actions, sluice.ledger_entries, sluice.calls, sluice.prices, sluice.run_history, sluice.run_steps,
    sluice.runs, sluice.rejections, sluice.event_payloads, sluice.events, sluice.event_keys, sluice.automation_versions, sluice.automations,
    sluice.endpoint_secrets, sluice.endpoints, sluice.credentials, sluice.operator_idempotency_keys, sluice.idempotency_keys,
    sluice.operator_keys, sluice.keys, sluice.tenant_keysets, sluice.tenants;
drop function sluice.tenant_erase(uuid), sluice.ledger_kept(), sluice.price_kept(), sluice.run_step(), sluice.protect(regclass);
revoke all on schema sluice from sluice_app, sluice_worker, sluice_system, sluice_billing;
