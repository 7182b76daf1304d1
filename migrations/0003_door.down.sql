revoke select (attempted_at) on river.river_job from sluice_system;
drop index river.river_job_run, river.river_job_action;
create index river_job_args_index on river.river_job using gin (args);
create index river_job_metadata_index on river.river_job using gin (metadata);

drop trigger endpoint_changed on sluice.endpoints;
drop trigger endpoint_changed on sluice.endpoint_secrets;
drop trigger endpoint_changed on sluice.automations;
drop trigger endpoint_changed on sluice.tenants;
drop function sluice.endpoint_changed();
drop table sluice.missed_events, sluice.missed_checks, sluice.alerts;

revoke all on all functions in schema river from sluice_door;
revoke all on sequence river.river_job_id_seq from sluice_door;
revoke all on river.river_job from sluice_door;
revoke all on schema river from sluice_door;
drop function sluice.admit(uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[]);
drop policy intake_insert on sluice.event_keys;
drop policy intake_select on sluice.event_keys;
drop policy intake_update on sluice.event_keys;
drop policy intake on sluice.events;
drop policy intake on sluice.runs;
revoke all on sluice.event_keys, sluice.events, sluice.runs from sluice_intake;
revoke all (event_id) on sluice.event_keys from sluice_intake;
revoke all (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority, ordering, entity, ordered_at, order_sequence)
    on sluice.runs from sluice_intake;
revoke all on schema sluice from sluice_intake, sluice_door;
grant insert on sluice.event_keys, sluice.events to sluice_app;
alter table sluice.event_keys add constraint event_keys_tenant_id_fkey foreign key (tenant_id) references sluice.tenants;

create index events_source_event_id on sluice.events (tenant_id, source_event_id);
drop function sluice.payload_partitions(interval, int);
drop function sluice.analyze_young();
alter table sluice.event_payloads rename to event_payloads_after;
alter table sluice.event_payloads_after rename constraint event_payloads_pkey to event_payloads_after_pkey;
create table sluice.event_payloads (
    tenant_id   uuid not null,
    event_id    uuid not null,
    received_at timestamptz not null default now(),
    headers     jsonb not null,
    body        bytea not null,
    document    bytea,
    primary key (tenant_id, event_id),
    foreign key (tenant_id, event_id) references sluice.events
);
select sluice.protect('sluice.event_payloads');
grant select, insert on sluice.event_payloads to sluice_app;
do $$
declare
    t uuid;
begin
    alter table sluice.event_payloads_after no force row level security;
    for t in select distinct tenant_id from sluice.event_payloads_after loop
        perform set_config('sluice.tenant_id', t::text, true);
        insert into sluice.event_payloads (tenant_id, event_id, received_at, headers, body, document)
        select p.tenant_id, p.event_id, e.received_at, p.headers, coalesce(p.body, o.body), p.document
        from sluice.event_payloads_after p
        join sluice.events e on e.tenant_id = p.tenant_id and e.id = p.event_id
        join sluice.event_payloads_after o on o.tenant_id = p.tenant_id and o.event_id = p.body_of
        where p.tenant_id = t and o.body is not null;
    end loop;
    perform set_config('sluice.tenant_id', '', true);
end $$;
drop table sluice.event_payloads_after;
drop function sluice.uuid_from(timestamptz);

drop trigger run_step on sluice.runs;
create trigger run_step after insert or update on sluice.runs for each row execute function sluice.run_step();
delete from sluice.run_steps where from_status = 'dead' and to_status = 'cancelled';
revoke insert (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, generation, mode, priority, attempts_max,
    ordering, entity, ordered_at, order_sequence) on sluice.runs from sluice_app;
grant insert on sluice.runs to sluice_app;
alter table sluice.runs drop column ordering, drop column entity, drop column ordered_at, drop column order_sequence, drop column tokens_saved;

create or replace function sluice.tenant_erase(erased uuid) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('sluice.tenant_id', erased::text, true);
    update sluice.tenants set status = 'erased', name = 'erased', updated_at = now(), version = version + 1 where tenant_id = erased;
    delete from sluice.tenant_keysets where tenant_id = erased;
    delete from sluice.keys where tenant_id = erased;
    delete from sluice.idempotency_keys where tenant_id = erased;
    delete from sluice.operator_idempotency_keys where tenant_id = erased;
    delete from sluice.action_attempts where tenant_id = erased;
    delete from sluice.actions where tenant_id = erased;
    delete from sluice.calls where tenant_id = erased;
    delete from sluice.run_history where tenant_id = erased;
    delete from sluice.runs where tenant_id = erased;
    delete from sluice.event_payloads where tenant_id = erased;
    delete from sluice.events where tenant_id = erased;
    delete from sluice.event_keys where tenant_id = erased;
    delete from sluice.rejections where tenant_id = erased;
    delete from sluice.automation_versions where tenant_id = erased;
    delete from sluice.automations where tenant_id = erased;
    delete from sluice.endpoint_secrets where tenant_id = erased;
    delete from sluice.endpoints where tenant_id = erased;
    delete from sluice.credentials where tenant_id = erased;
    perform set_config('sluice.tenant_id', '', true);
end $$;
