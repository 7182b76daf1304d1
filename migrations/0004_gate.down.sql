drop function sluice.admit(timestamptz, uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[], int[], text[]);
drop function sluice.admit_runs(timestamptz, uuid[], uuid[], uuid[], text[], bigint[], timestamptz[], uuid[], int[], uuid[], uuid[], int[], text[],
    text[], text[], int[], text[]);
create function sluice.admit(
    e_tenant uuid[], e_endpoint uuid[], e_id uuid[], e_source text[], e_source_event_id text[], e_once text[], e_type text[], e_entity text[],
    e_sequence bigint[], e_occurred_at timestamptz[], e_secret uuid[], e_test boolean[], e_delivery int[], e_verdicts text[], e_trace text[],
    e_document bytea[],
    d_headers text[], d_body bytea[], d_sha256 bytea[],
    r_event int[], r_id uuid[], r_automation uuid[], r_version int[], r_mode text[], r_priority text[], r_ordering text[]
) returns uuid[] language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- Plans are kept: planning costs more than a small batch. Joins of a batch with itself are hashed: the planner cannot know its size.
set plan_cache_mode = force_generic_plan set enable_nestloop = off as $$
declare
    fresh_ids uuid[];
    answers uuid[];
    holder uuid;
begin
    with given as materialized (
        select * from unnest(e_tenant, e_endpoint, e_id, e_source, e_source_event_id, e_once, e_type, e_entity, e_sequence, e_occurred_at,
                             e_secret, e_test, e_delivery, e_verdicts, e_trace, e_document)
            with ordinality as e (tenant_id, endpoint_id, id, source, source_event_id, once, type, entity, sequence, occurred_at,
                                  secret_id, test, delivery, verdicts, trace_id, document, place)
    ), once as (
        insert into sluice.event_keys (tenant_id, endpoint_id, kind, key, event_id)
        select tenant_id, endpoint_id, 'body', once, id from given where once is not null
        order by tenant_id, endpoint_id, once, place
        on conflict do nothing returning event_id
    ), named as (
        insert into sluice.event_keys (tenant_id, endpoint_id, kind, key, event_id)
        select tenant_id, endpoint_id, 'id', source_event_id, id from given where once is null or id in (select event_id from once)
        order by tenant_id, endpoint_id, source_event_id, place
        on conflict do nothing returning event_id
    ), fresh as materialized (
        select g.*, first_value(g.id) over (partition by g.delivery order by g.place) as body_of
        from given g where g.id in (select event_id from named)
    ), events as (
        insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, entity, sequence, occurred_at, secret_id, test,
                                   body_bytes, body_sha256, verdicts, trace_id)
        select tenant_id, id, endpoint_id, source, source_event_id, type, entity, sequence, occurred_at, secret_id, test,
               length(d_body[delivery]), d_sha256[delivery], verdicts::jsonb, trace_id
        from fresh
    ), payloads as (
        insert into sluice.event_payloads (tenant_id, event_id, headers, body, body_of, document)
        select tenant_id, id, d_headers[delivery]::jsonb, case when id = body_of then d_body[delivery] end, body_of, document
        from fresh
    ), runs as (
        insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority,
                                 ordering, entity, ordered_at, order_sequence)
        select f.tenant_id, r.id, f.id, f.endpoint_id, r.automation_id, r.version, r.mode, r.priority,
               r.ordering, f.entity,
               -- Without a time of its own, but with a number, an event is ordered by the number alone.
               coalesce(f.occurred_at, case when f.sequence is null then now() else 'epoch' end), coalesce(f.sequence, 0)
        from unnest(r_event, r_id, r_automation, r_version, r_mode, r_priority, r_ordering)
             as r (event, id, automation_id, version, mode, priority, ordering)
        join fresh f on f.place = r.event
    )
    select coalesce(array_agg(event_id), '{}') into fresh_ids from named;

    if cardinality(fresh_ids) = cardinality(e_id) then
        return e_id;
    end if;
    answers := e_id;
    for place in 1 .. cardinality(e_id) loop
        continue when e_id[place] = any (fresh_ids);
        -- A statement of its own: it sees what another batch has committed while ours waited for it.
        select k.event_id into holder from sluice.event_keys k
        where k.tenant_id = e_tenant[place] and k.endpoint_id = e_endpoint[place] and k.kind = 'id' and k.key = e_source_event_id[place];
        if holder is not null then
            -- The second key was free and the id was not: it belongs to the event that has the id.
            update sluice.event_keys k set event_id = holder
            where k.tenant_id = e_tenant[place] and k.endpoint_id = e_endpoint[place] and k.kind = 'body' and k.key = e_once[place]
              and k.event_id = e_id[place];
        else
            select k.event_id into strict holder from sluice.event_keys k
            where k.tenant_id = e_tenant[place] and k.endpoint_id = e_endpoint[place] and k.kind = 'body' and k.key = e_once[place];
        end if;
        answers[place] := holder;
    end loop;
    return answers;
end $$;
revoke all on function sluice.admit(uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[]) from public;
grant execute on function sluice.admit(uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[]) to sluice_door;
grant create on schema sluice to sluice_intake;
alter function sluice.admit(uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[]) owner to sluice_intake;
revoke create on schema sluice from sluice_intake;
drop policy intake on sluice.limits;
drop policy intake on sluice.limit_raises;
drop policy intake on sluice.places;
drop policy intake on sluice.tenants;
drop policy intake on sluice.run_history;
revoke select on sluice.limits, sluice.limit_raises from sluice_intake;
revoke select, update on sluice.places from sluice_intake;
revoke select (tenant_id, time_zone) on sluice.tenants from sluice_intake;
revoke insert on sluice.run_history from sluice_intake;
revoke insert (attempts_max, over_limit, status, reason, detail, until, finished_at) on sluice.runs from sluice_intake;

drop table sluice.rates, sluice.watch_marks;
revoke execute on function sluice.uuid_from(timestamptz) from sluice_system;
revoke select (detail, began_at), insert (tenant_id, id, kind, subject, detail, began_at, last_at), update (detail, last_at) on sluice.alerts from sluice_system;
revoke select (reason, endpoint_id, automation_id, ordering) on sluice.runs from sluice_system;
revoke select (tenant_id, id, endpoint_id) on sluice.events from sluice_system;
revoke select (tenant_id, id, paused_at, paused_reason) on sluice.credentials from sluice_system;
drop policy system on sluice.events;
drop policy system on sluice.credentials;
drop index sluice.credentials_paused, sluice.endpoints_blocking, sluice.runs_blocking, sluice.runs_dead, sluice.runs_stopped;

drop trigger alert_began on sluice.alerts;
drop trigger alert_ended on sluice.alerts;
drop function sluice.alert_told();
drop table sluice.alert_notices, sluice.alert_channels;
drop index sluice.actions_entity;
alter table sluice.actions drop column entity;
alter table sluice.runs drop column caused_by;
drop table sluice.provider_pauses, sluice.provider_states;
alter table sluice.prices disable trigger price_kept;
delete from sluice.prices where id between 9033 and 9040;
alter table sluice.prices enable trigger price_kept;
alter table sluice.credentials drop column actor, drop column paused_at, drop column paused_reason;

drop view sluice.billing_usage_daily, sluice.billing_tenants, sluice.billing_entries;
drop policy billing on sluice.tenants;
revoke select (tenant_id, name, time_zone, status, created_at) on sluice.tenants from sluice_billing;
drop policy system on sluice.ledger_entries;
revoke select on sluice.ledger_entries from sluice_system;
drop table sluice.usage_rollups, sluice.usage_rolled, sluice.usage_late;
drop function sluice.usage_slot(timestamptz);
alter table sluice.ledger_entries drop column note;
create view sluice.billing_entries with (security_invoker = true) as
    select tenant_id, id as entry_id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version,
           provider, model_asked, model_served, price_id,
           input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning,
           amount_pico, (amount_pico::numeric / 1000000000000)::numeric(30, 12) as amount_usd
    from sluice.ledger_entries;
grant select on sluice.billing_entries to sluice_billing;

drop trigger entry_uses on sluice.ledger_entries;
drop trigger call_reserves on sluice.calls;
drop trigger call_releases on sluice.calls;
drop function sluice.entry_uses();
drop function sluice.call_reserves();
drop function sluice.call_releases();
drop function sluice.reserve(uuid, timestamptz, bigint[], bigint[], boolean[]);
drop function sluice.budget_roll(uuid, timestamptz);
drop index sluice.ledger_entries_call;
alter table sluice.ledger_entries add constraint ledger_entries_tenant_id_call_id_kind_key unique (tenant_id, call_id, kind);
alter table sluice.ledger_entries add constraint ledger_entries_price_id_fkey foreign key (price_id) references sluice.prices;
alter table sluice.calls add constraint calls_price_id_fkey foreign key (price_id) references sluice.prices;
drop policy system on sluice.calls;
revoke select (tenant_id, id, run_id, epoch, state, created_at) on sluice.calls from sluice_system;
drop index sluice.calls_open;
alter table sluice.calls drop column reserved_tokens, drop column reserved_pico, drop column part;
drop trigger runs_stepped on sluice.runs;
drop function sluice.runs_stepped();
create function sluice.run_step() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        if new.status = old.status and new.reason = old.reason and new.epoch = old.epoch then
            return null;
        end if;
        if new.epoch < old.epoch then
            raise exception 'run %: its epoch cannot go from % back to %', new.id, old.epoch, new.epoch using errcode = '23514';
        end if;
        if new.status <> old.status
           and not exists (select from sluice.run_steps s where s.from_status = old.status and s.to_status = new.status) then
            raise exception 'run %: there is no step from % to %', new.id, old.status, new.status using errcode = '23514';
        end if;
    elsif new.status <> 'queued' then
        raise exception 'run %: begins as queued, not as %', new.id, new.status using errcode = '23514';
    end if;
    insert into sluice.run_history (tenant_id, run_id, status, reason, detail, until, attempt, epoch)
    values (new.tenant_id, new.id, new.status, new.reason, new.detail, new.until, new.attempt, new.epoch);
    return null;
end $$;
revoke all on function sluice.run_step() from public;
create trigger run_step after update on sluice.runs for each row execute function sluice.run_step();
alter table sluice.run_history add foreign key (tenant_id, run_id) references sluice.runs;
delete from sluice.run_steps where (from_status, to_status) in (('queued', 'held'), ('queued', 'waiting'), ('queued', 'skipped'), ('held', 'held'));
drop index sluice.runs_status, sluice.runs_leased, sluice.runs_waiting;
create index runs_status on sluice.runs (tenant_id, status, id);
revoke select (epoch) on sluice.runs from sluice_system;
alter table sluice.runs drop column over_limit, drop column depth, drop column held_tokens, drop column held_pico;

drop trigger tenant_made on sluice.tenants;
drop function sluice.tenant_made();
drop function sluice.limits_at(uuid, timestamptz);
drop function sluice.window_until(timestamptz, text, text);
drop function sluice.window_from(timestamptz, text, text);
drop table sluice.budgets, sluice.places, sluice.limit_raises, sluice.limits;

create or replace function sluice.tenant_erase(erased uuid) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('sluice.tenant_id', erased::text, true);
    -- First out of reach, then gone: no statement that comes after this one finds the tenant active.
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
    delete from sluice.alerts where tenant_id = erased;
    delete from sluice.missed_events where tenant_id = erased;
    delete from sluice.missed_checks where tenant_id = erased;
    delete from sluice.automation_versions where tenant_id = erased;
    delete from sluice.automations where tenant_id = erased;
    delete from sluice.endpoint_secrets where tenant_id = erased;
    delete from sluice.endpoints where tenant_id = erased;
    delete from sluice.credentials where tenant_id = erased;
    perform set_config('sluice.tenant_id', '', true);
end $$;
