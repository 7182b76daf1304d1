-- The effect: credentials of services, effects that are made once, reviews, trials, replays.

-- Credentials ----------------------------------------------------------------------------------------------------------

-- Where its service is asked, if not where everybody's is. It is an admin's to say: a credential goes there.
alter table sluice.credentials add column base_url text not null default '';
grant update (base_url) on sluice.credentials to sluice_app;

-- Automations ----------------------------------------------------------------------------------------------------------

alter table sluice.automations
    -- The version that runs beside the one in service, in shadow mode, on the same events.
    add column trial_version int;
grant update (trial_version) on sluice.automations to sluice_app;
alter table sluice.automation_versions
    -- A hash of all that decides what the version writes: reviews of one count for every other of the same behaviour. Null for those of before.
    add column behaviour bytea,
    -- What it was made for, if not to be in service.
    add column draft text not null default '' check (draft in ('', 'trial', 'backtest'));

-- Runs -----------------------------------------------------------------------------------------------------------------

alter table sluice.runs
    add column purpose text not null default 'event' check (purpose in ('event', 'trial', 'replay', 'backtest')),
    add column replay_id uuid,
    -- Its effect is made even where the same was made before: a person wants it again.
    add column forced boolean not null default false,
    -- Nothing of a run in shadow mode leaves, whatever is asked of it: it cannot wait for an approval, nor have an effect on the way.
    add constraint shadow_stays check (mode <> 'shadow' or status not in ('in_review', 'acting'));
create index runs_replay on sluice.runs (replay_id) where replay_id is not null;
create index runs_in_review on sluice.runs (until) where status = 'in_review';
create index runs_on_trial on sluice.runs (tenant_id, automation_id, automation_version, id) where purpose = 'trial';
-- How the last live runs of an automation ended: one entry of each, when it ends.
create index runs_lived on sluice.runs (tenant_id, automation_id, finished_at) where mode = 'live' and status in ('done', 'dead');
-- What the sweeper looks at, to end what waits for ever.
grant select (created_at) on sluice.runs to sluice_system;
-- A replay makes runs, as queued and in no other status: that column is not granted.
grant insert (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, generation, mode, priority, ordering, entity, ordered_at,
    order_sequence, attempts_max, over_limit, purpose, replay_id, forced) on sluice.runs to sluice_app;
insert into sluice.run_steps values
    ('in_review', 'dead', 'what was approved cannot be prepared'),
    ('dead',      'done', 'a person has seen its effect at the target'),
    ('done',      'acting', 'a person wants its effect made again');

-- Actions --------------------------------------------------------------------------------------------------------------

alter table sluice.actions drop constraint actions_state_check;
alter table sluice.actions
    -- proposed: a person is to approve it first.
    add constraint actions_state_check check (state in ('proposed', 'intended', 'in_flight', 'confirmed', 'failed', 'unknown', 'withheld')),
    -- It changes the last one on its target, where there is one.
    add column updates boolean not null default false,
    add column first_sent_at timestamptz;
-- The same effect is made once: while one may have been made, there is no other of its name. One that surely was not leaves the name free.
alter table sluice.actions drop constraint actions_tenant_id_key_key;
create unique index actions_key on sluice.actions (tenant_id, key) where state in ('intended', 'in_flight', 'confirmed', 'unknown');
-- Not beginning with the tenant, so that no plan over a young table takes it for the key's own index (it did: a scan of all of the tenant's actions).
drop index sluice.actions_run;
create index actions_run on sluice.actions (run_id);
create index actions_updates on sluice.actions (target, id) where updates;
grant update (key, target, credential_id, effect, updates, first_sent_at) on sluice.actions to sluice_app;

create function sluice.action_kept() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'action %: one that is % stays as it is', old.id, old.state using errcode = '23514';
end $$;
revoke all on function sluice.action_kept() from public;
create trigger action_kept before update on sluice.actions for each row
    when (old.state in ('withheld', 'confirmed') and (old.state, old.key, old.target, old.effect) is distinct from (new.state, new.key, new.target, new.effect)) execute function sluice.action_kept();

-- Reviews --------------------------------------------------------------------------------------------------------------

-- A person's verdict on a run's output, or that of the time that was over; never changed.
create table sluice.reviews (
    tenant_id          uuid not null,
    run_id             uuid not null,
    automation_id      uuid not null,
    automation_version int not null,
    verdict            text not null check (verdict in ('approve', 'reject')),
    -- The key that gave it; null where the time was over.
    by_key             uuid,
    -- The output as the person changed it, null where it was not; how it differs, and how much: 0 not at all, 1 in all of it.
    output             jsonb,
    diff               text not null default '',
    changed            double precision not null default 0 check (changed between 0 and 1),
    note               text not null default '',
    at                 timestamptz not null default now(),
    primary key (tenant_id, run_id),
    foreign key (tenant_id, run_id) references sluice.runs,
    constraint changed_said check ((output is null) = (changed = 0))
);
create index reviews_automation on sluice.reviews (automation_id, at);
select sluice.protect('sluice.reviews');
grant select, insert on sluice.reviews to sluice_app;

-- Replays --------------------------------------------------------------------------------------------------------------

-- Work that a person asks for on events that were stored before: paced, capped, and never twice for one id. A backtest is one of a draft version.
create table sluice.replays (
    tenant_id          uuid not null references sluice.tenants,
    id                 uuid not null,
    kind               text not null check (kind in ('replay', 'backtest')),
    mode               text not null check (mode in ('run', 'from_action', 'shadow')),
    status             text not null default 'running' check (status in ('running', 'done', 'cancelled', 'stopped')),
    reason             text not null default '',
    detail             text not null default '',
    -- What was asked for, as it was; a second asking with the same id must be the same.
    asked              jsonb not null,
    automation_id      uuid,
    automation_version int,
    forced             boolean not null default false,
    per_second         double precision not null check (per_second between 0.01 and 100),
    max_cost_pico      bigint check (max_cost_pico >= 0),
    items              int not null check (items >= 0),
    estimate_pico      bigint not null default 0,
    worst_pico         bigint not null default 0,
    -- Items up to here have begun, and when the last of them did.
    position           int not null default 0,
    paced_at           timestamptz,
    created_by         uuid,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    finished_at        timestamptz,
    primary key (tenant_id, id),
    constraint replay_ended check ((status = 'running') = (finished_at is null))
);
create index replays_open on sluice.replays (updated_at) where finished_at is null;
select sluice.protect('sluice.replays');
grant select, insert on sluice.replays to sluice_app;
grant update (status, reason, detail, position, paced_at, updated_at, finished_at) on sluice.replays to sluice_app;
create policy system on sluice.replays for select to sluice_system using (true);
grant select (tenant_id, id, status, updated_at, finished_at) on sluice.replays to sluice_system;

create table sluice.replay_items (
    tenant_id     uuid not null,
    replay_id     uuid not null,
    position      int not null,
    event_id      uuid not null,
    automation_id uuid not null,
    -- The run that it repeats, or is compared with; null where the automation has made none of the event.
    run_id        uuid,
    -- The run that it became; the same as run_id where only the effect is tried again.
    new_run_id    uuid,
    state         text not null default 'pending' check (state in ('pending', 'started', 'skipped')),
    reason        text not null default '',
    detail        text not null default '',
    primary key (tenant_id, replay_id, position),
    foreign key (tenant_id, replay_id) references sluice.replays
);
select sluice.protect('sluice.replay_items');
grant select, insert on sluice.replay_items to sluice_app;
grant update (run_id, new_run_id, state, reason, detail) on sluice.replay_items to sluice_app;

-- The intake -----------------------------------------------------------------------------------------------------------

grant insert (purpose, generation) on sluice.runs to sluice_intake;
create or replace function sluice.admit_runs(
    at timestamptz, e_tenant uuid[], e_endpoint uuid[], e_id uuid[], e_entity text[], e_sequence bigint[], e_occurred_at timestamptz[], fresh_ids uuid[],
    r_event int[], r_id uuid[], r_automation uuid[], r_version int[], r_mode text[], r_priority text[], r_ordering text[], r_attempts int[], r_over text[],
    out lags double precision[], out slots timestamptz[]
) language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_nestloop = off set jit = off as $$
begin
    with fresh as materialized (
        select g.* from unnest(e_tenant, e_endpoint, e_id, e_entity, e_sequence, e_occurred_at)
            with ordinality as g (tenant_id, endpoint_id, id, entity, sequence, occurred_at, place)
        where g.id = any (fresh_ids)
    ), stood as materialized (
        -- Where each tenant stands before this batch; an hour that is over begins anew.
        select p.tenant_id, greatest(p.routine_at, at) as routine_at, greatest(p.urgent_at, at) as urgent_at, greatest(p.pace_at, at) as pace_at,
               case when p.hour_until > at then p.hour_events else 0 end as hour_events,
               case when p.hour_until > at then p.hour_stored else 0 end as hour_stored,
               case when p.hour_until > at then p.hour_from else date_trunc('hour', at, t.time_zone) end as hour_from,
               case when p.hour_until > at then p.hour_until else date_trunc('hour', at, t.time_zone) + interval '1 hour' end as hour_until,
               p.holding, m.events_per_hour, l.runs_per_second, l.burst, l.share,
               -- Where the limit is gone and others are held for it still, it has no number.
               coalesce('The tenant''s limit of ' || m.events_per_hour || ' events per hour was reached.',
                        'Others that came before it are held by a limit of events per hour.') as detail
        from (select distinct tenant_id from fresh) f
        join sluice.places p on p.tenant_id = f.tenant_id
        join sluice.limits l on l.tenant_id = f.tenant_id
        join sluice.tenants t on t.tenant_id = f.tenant_id
        cross join lateral sluice.limits_at(f.tenant_id, at) m
    ), counted as materialized (
        select f.*, coalesce(s.hour_events + row_number() over (partition by f.tenant_id order by f.place) > s.events_per_hour, false) as beyond, s.holding
        from fresh f join stood s on s.tenant_id = f.tenant_id
    ), judged as materialized (
        -- What is to be dropped stands behind nothing: it is dropped where the hour is full, and goes on where it is not.
        select r.*, c.tenant_id, c.endpoint_id, c.id as event_id, c.entity, c.sequence, c.occurred_at,
               c.beyond or c.holding and r.over_limit <> 'drop' as over
        from unnest(r_event, r_id, r_automation, r_version, r_mode, r_priority, r_ordering, r_attempts, r_over)
             with ordinality as r (event, id, automation_id, version, mode, priority, ordering, attempts_max, over_limit, place)
        join counted c on c.place = r.event
    ), placed as materialized (
        select j.*, row_number() over (partition by j.tenant_id, j.priority, j.over order by j.place) - 1 as behind,
               row_number() over (partition by j.tenant_id, j.over order by j.place) - 1 as paced
        from judged j
    ), runs as (
        insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, purpose, generation, priority,
                                 ordering, entity, ordered_at, order_sequence, attempts_max, over_limit, status, reason, detail, until, finished_at)
        select p.tenant_id, p.id, p.event_id, p.endpoint_id, p.automation_id, p.version,
               -- A version on trial stands beside the one in service: a run of its own, in shadow mode.
               case p.mode when 'trial' then 'shadow' else p.mode end, case p.mode when 'trial' then 'trial' else 'event' end,
               case p.mode when 'trial' then 1 else 0 end, p.priority, p.ordering, p.entity,
               -- Without a time of its own, but with a number, an event is ordered by the number alone.
               coalesce(p.occurred_at, case when p.sequence is null then at else 'epoch' end), coalesce(p.sequence, 0),
               p.attempts_max, p.over_limit,
               case when not p.over then 'queued' when p.over_limit = 'drop' then 'skipped' else 'held' end,
               case when p.over then 'limit.events_per_hour' else '' end,
               case when p.over then s.detail else '' end,
               case when p.over and p.over_limit <> 'drop' then s.hour_until end,
               case when p.over and p.over_limit = 'drop' then at end
        from placed p join stood s on s.tenant_id = p.tenant_id
    ), history as (
        insert into sluice.run_history (tenant_id, run_id, status, reason, detail, until, attempt, epoch)
        select p.tenant_id, p.id, case when p.over_limit = 'drop' then 'skipped' else 'held' end, 'limit.events_per_hour',
               s.detail,
               case when p.over_limit <> 'drop' then s.hour_until end, 0, 0
        from placed p join stood s on s.tenant_id = p.tenant_id where p.over
    ), moved as (
        update sluice.places p set hour_from = s.hour_from, hour_until = s.hour_until, hour_stored = s.hour_stored + n.stored, hour_events = s.hour_events + n.worked,
            holding = s.holding or coalesce(m.held, false),
            routine_at = s.routine_at + coalesce(m.routine, 0) * (interval '1 second' / s.share),
            urgent_at = s.urgent_at + coalesce(m.urgent, 0) * (interval '1 second' / s.share),
            pace_at = s.pace_at + coalesce(coalesce(m.routine + m.urgent, 0) * (interval '1 second' / s.runs_per_second), interval '0')
        from stood s
        join (select tenant_id, count(*) as stored, count(*) filter (where not c.beyond and (not c.holding or c.place in (select event from judged where not over))) as worked
              from counted c group by 1) n on n.tenant_id = s.tenant_id
        left join (select tenant_id, count(*) filter (where not over and priority = 'routine') as routine,
                          count(*) filter (where not over and priority = 'urgent') as urgent,
                          bool_or(over and over_limit <> 'drop') as held from placed group by 1) m on m.tenant_id = s.tenant_id
        where p.tenant_id = s.tenant_id
    )
    select array_agg(case when not p.over then
                          extract(epoch from case when p.priority = 'urgent' then s.urgent_at else s.routine_at end - at)::double precision
                          + p.behind / s.share end order by r.place),
           array_agg(case when not p.over and s.runs_per_second is not null
                          then greatest(at, s.pace_at + (p.paced - s.burst + 1) * (interval '1 second' / s.runs_per_second)) end order by r.place)
    into lags, slots
    from unnest(r_id) with ordinality as r (id, place)
    left join placed p on p.place = r.place
    left join stood s on s.tenant_id = p.tenant_id;
end $$;

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
    delete from sluice.replay_items where tenant_id = erased;
    delete from sluice.replays where tenant_id = erased;
    delete from sluice.reviews where tenant_id = erased;
    delete from sluice.action_attempts where tenant_id = erased;
    delete from sluice.actions where tenant_id = erased;
    delete from sluice.calls where tenant_id = erased;
    delete from sluice.run_history where tenant_id = erased;
    delete from sluice.runs where tenant_id = erased;
    delete from sluice.event_payloads where tenant_id = erased;
    delete from sluice.events where tenant_id = erased;
    delete from sluice.event_keys where tenant_id = erased;
    delete from sluice.rejections where tenant_id = erased;
    delete from sluice.alert_notices where tenant_id = erased;
    delete from sluice.alert_channels where tenant_id = erased;
    delete from sluice.alerts where tenant_id = erased;
    delete from sluice.missed_events where tenant_id = erased;
    delete from sluice.missed_checks where tenant_id = erased;
    delete from sluice.automation_versions where tenant_id = erased;
    delete from sluice.automations where tenant_id = erased;
    delete from sluice.endpoint_secrets where tenant_id = erased;
    delete from sluice.endpoints where tenant_id = erased;
    delete from sluice.credentials where tenant_id = erased;
    delete from sluice.limit_raises where tenant_id = erased;
    delete from sluice.limits where tenant_id = erased;
    delete from sluice.places where tenant_id = erased;
    delete from sluice.budgets where tenant_id = erased;
    delete from sluice.rates where tenant_id = erased;
    perform set_config('sluice.tenant_id', '', true);
end $$;

-- Prices of the scripted provider's model that obeys everything.
insert into sluice.prices values
    (9041, 'scripted', 'obey-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9042, 'scripted', 'chat-obey-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice');
