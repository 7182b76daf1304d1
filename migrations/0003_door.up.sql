-- The door: many events in one commit, order per entity, alerts, deliveries that never arrived, and raw bodies that are dropped by the day.

-- Order ----------------------------------------------------------------------------------------------------------------

-- What a run is about, and where it stands among the runs of its entity: by the time of the event, then the source's own
-- number, then receipt. Kept with the run, so that a claim finds its neighbours in one index.
alter table sluice.runs
    add column ordering       text not null default 'none' check (ordering in ('none', 'latest', 'serial')),
    add column entity         text not null default '',
    add column ordered_at     timestamptz not null default now(),
    add column order_sequence bigint not null default 0,
    -- Tokens that would have been spent on it, where a newer event made it superfluous.
    add column tokens_saved   bigint not null default 0;
create index runs_latest on sluice.runs (tenant_id, automation_id, entity, ordered_at, order_sequence, event_id) where ordering = 'latest';
create index runs_serial on sluice.runs (tenant_id, endpoint_id, entity, ordered_at, order_sequence, event_id, automation_id)
    where ordering = 'serial' and (finished_at is null or status = 'dead');
grant update (tokens_saved) on sluice.runs to sluice_app;

insert into sluice.run_steps values
    ('dead', 'cancelled', 'a person gives it up, so that the next of its entity may go on');

-- That a run began as queued is its created_at: a history row for it would be one more row for each event. Nobody may insert
-- another status, so the trigger has nothing to say of an insert either.
delete from sluice.run_history where status = 'queued' and epoch = 0;
revoke insert on sluice.runs from sluice_app;
grant insert (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, generation, mode, priority, attempts_max,
    ordering, entity, ordered_at, order_sequence) on sluice.runs to sluice_app;
drop trigger run_step on sluice.runs;
create trigger run_step after update on sluice.runs for each row execute function sluice.run_step();

-- Raw bodies -----------------------------------------------------------------------------------------------------------

-- Partitioned by the day that is in the event's id (a UUIDv7), so that a lookup by id finds its partition, and a retention drops
-- whole tables. No foreign key to events: dropping a partition would lock them, and the rows are written by one function, together.
alter table sluice.event_payloads rename to event_payloads_before;
alter table sluice.event_payloads_before rename constraint event_payloads_pkey to event_payloads_before_pkey;
create table sluice.event_payloads (
    tenant_id uuid not null,
    event_id  uuid not null,
    headers   jsonb not null,
    -- The bytes as received; null where one delivery held several events, and the first of them (body_of) keeps the bytes.
    body      bytea,
    body_of   uuid not null,
    -- The JSON document that templates see, where it is not the body itself.
    document  bytea,
    primary key (tenant_id, event_id),
    check (body is not null or body_of <> event_id)
) partition by range (event_id);
select sluice.protect('sluice.event_payloads');
-- Takes what no day's partition takes: a clock that is far off.
create table sluice.event_payloads_default partition of sluice.event_payloads default;
select sluice.protect('sluice.event_payloads_default');
grant select on sluice.event_payloads to sluice_app;

-- The smallest UUIDv7 of a moment.
create function sluice.uuid_from(at timestamptz) returns uuid language sql immutable set search_path = pg_catalog, pg_temp as $$
    select (substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-0000-0000-000000000000')::uuid
    from (select lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')) x(h)
$$;

-- Makes the partitions of today and of the days ahead, and drops those that ended before the retention began. Runs as the owner of the
-- tables; safe to repeat and to run twice at once. A partition that cannot be had at once is left for the next time.
create function sluice.payload_partitions(retention interval, ahead int) returns table (made int, dropped int)
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' set timezone = 'UTC' as $$
declare
    today date := (now() at time zone 'utc')::date;
    day date;
    part record;
begin
    made := 0;
    dropped := 0;
    if not pg_try_advisory_xact_lock(7238654) then
        return next;
        return;
    end if;
    for day in select today + n from generate_series(0, ahead) n loop
        continue when to_regclass(format('sluice.event_payloads_%s', to_char(day, 'YYYYMMDD'))) is not null;
        begin
            execute format('create table sluice.event_payloads_%s (like sluice.event_payloads including defaults including constraints including indexes)',
                to_char(day, 'YYYYMMDD'));
            perform sluice.protect(format('sluice.event_payloads_%s', to_char(day, 'YYYYMMDD'))::regclass);
            execute format('alter table sluice.event_payloads attach partition sluice.event_payloads_%s for values from (%L) to (%L)',
                to_char(day, 'YYYYMMDD'), sluice.uuid_from(day::timestamptz), sluice.uuid_from((day + 1)::timestamptz));
            made := made + 1;
        exception when check_violation or lock_not_available or duplicate_table then
            null; -- rows of that day stand in the default partition already, where the retention deletes them
        end;
    end loop;
    for part in
        select c.oid::regclass as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'sluice.event_payloads'::regclass and c.relname ~ '^event_payloads_[0-9]{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= (now() - retention)::date
    loop
        begin
            execute format('drop table %s', part.name);
            dropped := dropped + 1;
        exception when lock_not_available then
            null;
        end;
    end loop;
    return next;
end $$;
revoke all on function sluice.payload_partitions(interval, int) from public;
grant execute on function sluice.payload_partitions(interval, int) to sluice_system;
revoke all on function sluice.uuid_from(timestamptz) from public;
select sluice.payload_partitions('100 years', 3);
-- The rows that were there, under each tenant's own policy, which holds for the owner too.
do $$
declare
    t uuid;
begin
    alter table sluice.event_payloads_before no force row level security;
    for t in select distinct tenant_id from sluice.event_payloads_before loop
        perform set_config('sluice.tenant_id', t::text, true);
        insert into sluice.event_payloads (tenant_id, event_id, headers, body, body_of, document)
        select tenant_id, event_id, headers, body, event_id, document from sluice.event_payloads_before where tenant_id = t;
    end loop;
    perform set_config('sluice.tenant_id', '', true);
end $$;
drop table sluice.event_payloads_before;

-- Statistics of tables that grow from nothing. Plans of foreign key checks are made once for a connection, and what is planned on an empty table may
-- scan all of a tenant's rows for each check later, until the table is analysed: autovacuum comes after a minute at the earliest.
create function sluice.analyze_young() returns int language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
    young record;
    done int := 0;
begin
    if not pg_try_advisory_xact_lock(7238655) then
        return 0;
    end if;
    for young in
        select s.relid::regclass as name from pg_stat_user_tables s join pg_class c on c.oid = s.relid
        where s.schemaname = 'sluice' and s.n_mod_since_analyze > greatest(500, 10 * c.reltuples)
    loop
        begin
            execute format('analyze %s', young.name);
            done := done + 1;
        exception when lock_not_available then
            null;
        end;
    end loop;
    return done;
end $$;
revoke all on function sluice.analyze_young() from public;
grant execute on function sluice.analyze_young() to sluice_system;

-- What falls out of the default partition is deleted row by row, across tenants.
create policy system on sluice.event_payloads_default to sluice_system using (true);
grant select (event_id), delete on sluice.event_payloads_default to sluice_system;

-- The intake -----------------------------------------------------------------------------------------------------------

-- One row for each event less: the row in events, which is written with it, holds the tenant by its endpoint.
alter table sluice.event_keys drop constraint event_keys_tenant_id_fkey;
revoke insert on sluice.event_keys, sluice.events from sluice_app;

-- A source's id is found through its key, endpoint by endpoint: a second index on random texts would cost every event a page of a large index.
drop index sluice.events_source_event_id;

create policy intake_insert on sluice.event_keys for insert to sluice_intake with check (true);
create policy intake_select on sluice.event_keys for select to sluice_intake using (true);
create policy intake_update on sluice.event_keys for update to sluice_intake using (true) with check (true);
create policy intake on sluice.events for insert to sluice_intake with check (true);
create policy intake on sluice.event_payloads for insert to sluice_intake with check (true);
create policy intake on sluice.runs for insert to sluice_intake with check (true);
grant usage on schema sluice to sluice_intake, sluice_door;
grant select, insert, update (event_id) on sluice.event_keys to sluice_intake;
grant insert on sluice.events, sluice.event_payloads to sluice_intake;
grant insert (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority, ordering, entity, ordered_at, order_sequence)
    on sluice.runs to sluice_intake;

-- Stores a batch of events of any tenants, with their raw bodies and their runs, and answers for each, in order, with the event that holds its
-- keys: itself where it is new, an earlier one where it is a duplicate, of which nothing is written. Events (e_) name their delivery by its
-- place in d_, runs (r_) their event by its place in e_; places begin at 1. The caller adds the jobs of the runs of new events in the same
-- transaction. Keys are taken in one order, so two batches never wait for each other in a circle.
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

-- sluice_door is the intake's login: it may hand over a batch and add jobs, and read nothing.
grant usage on schema river to sluice_door;
grant insert on river.river_job to sluice_door;
grant usage on sequence river.river_job_id_seq to sluice_door;
grant execute on all functions in schema river to sluice_door;

-- What the door keeps in memory is told at once when it changes.
create function sluice.endpoint_changed() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    row_old jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    row_new jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    field text := tg_argv[0];
begin
    if row_old is not null and (row_new is null or row_old ->> field <> row_new ->> field) then
        perform pg_notify('sluice_endpoints', row_old ->> field);
    end if;
    if row_new is not null then
        perform pg_notify('sluice_endpoints', row_new ->> field);
    end if;
    return null;
end $$;
revoke all on function sluice.endpoint_changed() from public;
create trigger endpoint_changed after insert or update or delete on sluice.endpoints for each row execute function sluice.endpoint_changed('id');
create trigger endpoint_changed after insert or update of sealed, expires_at or delete on sluice.endpoint_secrets
    for each row execute function sluice.endpoint_changed('endpoint_id');
create trigger endpoint_changed after insert or update or delete on sluice.automations for each row execute function sluice.endpoint_changed('endpoint_id');
create trigger endpoint_changed after update of status on sluice.tenants for each row execute function sluice.endpoint_changed('tenant_id');

-- Alerts ---------------------------------------------------------------------------------------------------------------

-- A state worth a person's attention: a row when it begins, its end in the same row.
create table sluice.alerts (
    tenant_id uuid not null references sluice.tenants,
    id        uuid not null,
    kind      text not null,
    -- What it is about, such as an endpoint's id with its prefix.
    subject   text not null,
    detail    text not null,
    began_at  timestamptz not null default now(),
    last_at   timestamptz not null default now(),
    ended_at  timestamptz,
    primary key (tenant_id, id)
);
create unique index alerts_open on sluice.alerts (tenant_id, kind, subject) where ended_at is null;
select sluice.protect('sluice.alerts');
grant select, insert, update (detail, last_at, ended_at) on sluice.alerts to sluice_app;
create policy system on sluice.alerts to sluice_system using (true) with check (true);
grant select (tenant_id, id, kind, subject, last_at, ended_at), update (ended_at) on sluice.alerts to sluice_system;

-- Missed events --------------------------------------------------------------------------------------------------------

-- How far the deliveries that a source lists have been looked through for an endpoint, and how that went.
create table sluice.missed_checks (
    tenant_id   uuid not null,
    endpoint_id uuid not null,
    checked_at  timestamptz not null default now(),
    -- Deliveries up to this time are known to have arrived, to have been asked for again, or to be beyond asking.
    seen_until  timestamptz,
    fault       text not null default '',
    primary key (tenant_id, endpoint_id),
    foreign key (tenant_id, endpoint_id) references sluice.endpoints
);
select sluice.protect('sluice.missed_checks');
grant select, insert, update (checked_at, seen_until, fault) on sluice.missed_checks to sluice_app;

-- Events that the source sent and that never arrived here.
create table sluice.missed_events (
    tenant_id       uuid not null,
    endpoint_id     uuid not null,
    source_event_id text not null,
    -- The source's own name of the delivery, by which it is asked for again.
    delivery        text not null,
    sent_at         timestamptz not null,
    found_at        timestamptz not null default now(),
    asked_at        timestamptz,
    asks            int not null default 0,
    arrived_at      timestamptz,
    primary key (tenant_id, endpoint_id, source_event_id),
    foreign key (tenant_id, endpoint_id) references sluice.endpoints
);
select sluice.protect('sluice.missed_events');
grant select, insert, update (delivery, asked_at, asks, arrived_at) on sluice.missed_events to sluice_app;

-- Erasure learns of the new tables.
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

-- River's table --------------------------------------------------------------------------------------------------------

-- Two GIN indexes that neither River nor we read are two fifths of what a batch of jobs costs (queue.md); the reconciler asks by one field.
-- A job that a worker fetched and never claimed for is told by its time.
grant select (attempted_at) on river.river_job to sluice_system;
drop index river.river_job_args_index;
drop index river.river_job_metadata_index;
create index river_job_run on river.river_job ((args ->> 'run_id')) where kind = 'run';
create index river_job_action on river.river_job ((args ->> 'action_id')) where kind = 'action';
