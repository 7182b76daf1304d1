drop table sluice.replay_items, sluice.replays, sluice.reviews;

drop trigger action_kept on sluice.actions;
drop function sluice.action_kept();
drop index sluice.actions_key, sluice.actions_updates, sluice.actions_run;
create index actions_run on sluice.actions (tenant_id, run_id);
-- Its policy holds for the owner, too.
alter table sluice.actions no force row level security;
update sluice.actions set key = key || ':' || id where state in ('failed', 'withheld', 'proposed');
update sluice.actions set state = 'withheld', reason = 'review.dropped', detail = 'There are no reviews any more.', ended_at = now() where state = 'proposed';
alter table sluice.actions drop constraint actions_state_check, drop column updates, drop column first_sent_at;
alter table sluice.actions add constraint actions_state_check check (state in ('intended', 'in_flight', 'confirmed', 'failed', 'unknown', 'withheld'));
alter table sluice.actions add unique (tenant_id, key);
alter table sluice.actions force row level security;

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
        insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority,
                                 ordering, entity, ordered_at, order_sequence, attempts_max, over_limit, status, reason, detail, until, finished_at)
        select p.tenant_id, p.id, p.event_id, p.endpoint_id, p.automation_id, p.version, p.mode, p.priority, p.ordering, p.entity,
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

delete from sluice.run_steps where (from_status, to_status) in (('in_review', 'dead'), ('dead', 'done'), ('done', 'acting'));
revoke select (created_at) on sluice.runs from sluice_system;
drop index sluice.runs_replay, sluice.runs_in_review, sluice.runs_on_trial, sluice.runs_lived;
alter table sluice.runs drop constraint shadow_stays, drop column purpose, drop column replay_id, drop column forced;
alter table sluice.automation_versions drop column behaviour, drop column draft;
alter table sluice.automations drop column trial_version;
alter table sluice.credentials drop column base_url;

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

alter table sluice.prices disable trigger price_kept;
delete from sluice.prices where id in (9041, 9042);
alter table sluice.prices enable trigger price_kept;
