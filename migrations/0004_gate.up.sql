-- The gate: fair places in the queue, pace, limits with reservations, what is held and released, loops, providers, alerts' channels.

-- Limits ---------------------------------------------------------------------------------------------------------------

-- What a tenant may use; null is no limit. A soft limit is told and holds nothing; a hard one holds. Money is in pico-USD.
create table sluice.limits (
    tenant_id            uuid primary key references sluice.tenants,
    events_per_hour_soft bigint check (events_per_hour_soft >= 0),
    events_per_hour_hard bigint check (events_per_hour_hard >= 0),
    tokens_per_day_soft  bigint check (tokens_per_day_soft >= 0),
    tokens_per_day_hard  bigint check (tokens_per_day_hard >= 0),
    cost_per_day_soft    bigint check (cost_per_day_soft >= 0),
    cost_per_day_hard    bigint check (cost_per_day_hard >= 0),
    cost_per_month_soft  bigint check (cost_per_month_soft >= 0),
    cost_per_month_hard  bigint check (cost_per_month_hard >= 0),
    -- Pace: runs that may begin in a second, and how many at once after a quiet time.
    runs_per_second      double precision check (runs_per_second between 0.001 and 100000),
    burst                int not null default 10 check (burst between 1 and 100000),
    concurrent_runs      int check (concurrent_runs between 1 and 100000),
    -- The share of the workers in a flood, as runs per second at which the tenant is still at the front of the queue. No cap.
    share                double precision not null default 50 check (share between 0.001 and 100000),
    -- The ceiling that protects the store: events kept in an hour, beyond which a delivery is refused.
    stored_per_hour      bigint not null default 1000000 check (stored_per_hour >= 1),
    version              int not null default 1,
    updated_at           timestamptz not null default now()
);
select sluice.protect('sluice.limits');

-- A raise of a hard limit that ends by itself.
create table sluice.limit_raises (
    tenant_id  uuid not null references sluice.tenants,
    id         uuid not null,
    name       text not null check (name in ('events_per_hour', 'tokens_per_day', 'cost_per_day_usd', 'cost_per_month_usd')),
    value      bigint not null check (value >= 0),
    note       text not null default '',
    until      timestamptz not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, id)
);
create index limit_raises_until on sluice.limit_raises (tenant_id, name, until);
select sluice.protect('sluice.limit_raises');

-- Where the next run of a tenant stands in the queue, and how many events its hour has seen. One row, written by each batch of the intake.
create table sluice.places (
    tenant_id   uuid primary key references sluice.tenants,
    -- Virtual time: when the tenant's last run would begin if it had its share and no more. Urgent runs have a line of their own.
    routine_at  timestamptz not null default '-infinity',
    urgent_at   timestamptz not null default '-infinity',
    -- When the last run may begin at the tenant's pace, before its burst is taken off (GCRA).
    pace_at     timestamptz not null default '-infinity',
    hour_from   timestamptz not null default '-infinity',
    hour_until  timestamptz not null default '-infinity',
    -- Events of this hour that went on to work, and events that were stored.
    hour_events bigint not null default 0,
    hour_stored bigint not null default 0,
    -- Whether runs are held for the limit of events: what comes later stands behind them.
    holding     boolean not null default false
) with (fillfactor = 50);
create index places_holding on sluice.places (tenant_id) where holding;
select sluice.protect('sluice.places');

-- What a tenant has used of its day and month, and what is reserved for calls under way. Written by triggers on calls and on the ledger only, so
-- that it cannot differ from them; what is reserved belongs to no window, since it is charged in the one in which it is settled.
create table sluice.budgets (
    tenant_id       uuid primary key references sluice.tenants,
    day_from        timestamptz not null default '-infinity',
    day_until       timestamptz not null default '-infinity',
    day_tokens      bigint not null default 0,
    day_pico        bigint not null default 0,
    month_from      timestamptz not null default '-infinity',
    month_until     timestamptz not null default '-infinity',
    month_pico      bigint not null default 0,
    reserved_tokens bigint not null default 0 check (reserved_tokens >= 0),
    reserved_pico   bigint not null default 0 check (reserved_pico >= 0),
    -- The reason for which runs are held, '' for none: what comes later stands behind them.
    holding         text not null default '',
    -- Whether any run is held for a limit of the budget, be it one that no other stands behind, since it alone is more than the limit.
    held            boolean not null default false,
    -- How many runs wait for one of the tenant's concurrent runs to end.
    parked          int not null default 0,
    -- When the last run that was claimed would have begun at the tenant's pace (GCRA).
    paced_at        timestamptz not null default '-infinity',
    -- Up to here its ledger may be summed already: an entry of before that is marked as late.
    closed_until    timestamptz not null default '-infinity'
) with (fillfactor = 50);
create index budgets_holding on sluice.budgets (tenant_id) where held or parked > 0;
select sluice.protect('sluice.budgets');

-- Every tenant has its three rows from its first moment.
create function sluice.tenant_made() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into sluice.limits (tenant_id) values (new.tenant_id) on conflict do nothing;
    insert into sluice.places (tenant_id) values (new.tenant_id) on conflict do nothing;
    insert into sluice.budgets (tenant_id) values (new.tenant_id) on conflict do nothing;
    return null;
end $$;
revoke all on function sluice.tenant_made() from public;
create trigger tenant_made after insert on sluice.tenants for each row execute function sluice.tenant_made();

grant select on sluice.limits, sluice.limit_raises, sluice.places, sluice.budgets to sluice_app;
grant update on sluice.places, sluice.budgets to sluice_app;
create policy system on sluice.limits to sluice_system using (true) with check (true);
create policy system on sluice.limit_raises to sluice_system using (true) with check (true);
create policy system on sluice.places to sluice_system using (true) with check (true);
create policy system on sluice.budgets to sluice_system using (true) with check (true);
grant select, insert, update on sluice.limits to sluice_system;
grant select, insert, delete on sluice.limit_raises to sluice_system;
grant select, insert, update (routine_at, urgent_at, pace_at) on sluice.places to sluice_system;
grant select, insert on sluice.budgets to sluice_system;

-- The tenants that were there, each under its own policy, which holds for the owner too.
do $$
declare
    t uuid;
begin
    alter table sluice.tenants no force row level security;
    for t in select tenant_id from sluice.tenants where status <> 'erased' loop
        perform set_config('sluice.tenant_id', t::text, true);
        insert into sluice.limits (tenant_id) values (t);
        insert into sluice.places (tenant_id) values (t);
        insert into sluice.budgets (tenant_id) values (t);
    end loop;
    perform set_config('sluice.tenant_id', '', true);
    alter table sluice.tenants force row level security;
end $$;

-- A tenant's hard limits at a moment, raises included. A raise lifts a limit and never lowers it; where there is no limit it says nothing.
create function sluice.limits_at(t uuid, at timestamptz,
    out events_per_hour bigint, out tokens_per_day bigint, out cost_per_day bigint, out cost_per_month bigint
) language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    -- Not in SQL: that would be planned anew at every call.
    select case when l.events_per_hour_hard is not null then greatest(l.events_per_hour_hard, r.events) end,
           case when l.tokens_per_day_hard is not null then greatest(l.tokens_per_day_hard, r.tokens) end,
           case when l.cost_per_day_hard is not null then greatest(l.cost_per_day_hard, r.day) end,
           case when l.cost_per_month_hard is not null then greatest(l.cost_per_month_hard, r.month) end
    into events_per_hour, tokens_per_day, cost_per_day, cost_per_month
    from sluice.limits l, lateral (
        select max(value) filter (where name = 'events_per_hour') as events, max(value) filter (where name = 'tokens_per_day') as tokens,
               max(value) filter (where name = 'cost_per_day_usd') as day, max(value) filter (where name = 'cost_per_month_usd') as month
        from sluice.limit_raises x where x.tenant_id = t and x.until > at) r
    where l.tenant_id = t;
end $$;
revoke all on function sluice.limits_at(uuid, timestamptz) from public;

-- When the day or month of a moment began, in a time zone. Where the clocks are set back over midnight there are two, and the first is meant: the
-- second may be later than the moment itself. Where they are set forward over it there is none, and the first moment after it is meant.
create function sluice.window_from(at timestamptz, unit text, zone text) returns timestamptz language sql stable set search_path = pg_catalog, pg_temp as $$
    select case when timezone(zone, w.began - interval '1 hour') = date_trunc(unit, timezone(zone, at)) then w.began - interval '1 hour' else w.began end
    from (select date_trunc(unit, at, zone) as began) w
$$;
revoke all on function sluice.window_from(timestamptz, text, text) from public;

-- When the window that began at a moment ends, in a time zone: a day may have 23 or 25 hours.
create function sluice.window_until(began timestamptz, unit text, zone text) returns timestamptz language sql stable set search_path = pg_catalog, pg_temp as $$
    select sluice.window_from(timezone(zone, date_trunc(unit, timezone(zone, began)) + ('1 ' || unit)::interval), unit, zone)
$$;
revoke all on function sluice.window_until(timestamptz, text, text) from public;

-- Runs -----------------------------------------------------------------------------------------------------------------

alter table sluice.runs
    -- What its automation wants of what is over a limit.
    add column over_limit  text not null default 'hold' check (over_limit in ('hold', 'drop', 'cheaper')),
    -- How many of our own actions stand in the chain that led to its event.
    add column depth       int not null default 0,
    -- What a held run would reserve, so that it is released when that fits.
    add column held_tokens bigint not null default 0,
    add column held_pico   bigint not null default 0;
-- Not beginning with the tenant, so that no plan of a foreign key check takes it for the key's own index (it did: a scan of all of the tenant's runs).
drop index sluice.runs_status;
create index runs_status on sluice.runs (status, tenant_id, id);
-- What the reconciler looks at: what is overdue, however much waits for later.
create index runs_leased on sluice.runs (lease_until) where status = 'running';
create index runs_waiting on sluice.runs (until) where status = 'waiting';
grant insert (over_limit, depth) on sluice.runs to sluice_app;
grant update (held_tokens, held_pico, depth, started_at, priority) on sluice.runs to sluice_app;

insert into sluice.run_steps values
    ('queued', 'held',    'a limit holds it before it begins'),
    ('queued', 'waiting', 'its tenant works on as many runs as it may, or another of its entity is in front'),
    ('queued', 'skipped', 'its automation drops what is over a limit'),
    ('held',   'held',    'another limit holds it');

-- Runs are stepped many in a statement, so their steps are checked and written down many in a statement too.
drop trigger run_step on sluice.runs;
drop function sluice.run_step();
create function sluice.runs_stepped() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    bad record;
begin
    for bad in
        select n.id, o.status as before, n.status as after, o.epoch as epoch_before, n.epoch as epoch_after
        from was o join made n on n.tenant_id = o.tenant_id and n.id = o.id
        where n.epoch < o.epoch
           or n.status <> o.status and not exists (select from sluice.run_steps s where s.from_status = o.status and s.to_status = n.status)
        limit 1
    loop
        if bad.epoch_after < bad.epoch_before then
            raise exception 'run %: its epoch cannot go from % back to %', bad.id, bad.epoch_before, bad.epoch_after using errcode = '23514';
        end if;
        raise exception 'run %: there is no step from % to %', bad.id, bad.before, bad.after using errcode = '23514';
    end loop;
    insert into sluice.run_history (tenant_id, run_id, status, reason, detail, until, attempt, epoch)
    select n.tenant_id, n.id, n.status, n.reason, n.detail, n.until, n.attempt, n.epoch
    from was o join made n on n.tenant_id = o.tenant_id and n.id = o.id
    where n.status <> o.status or n.reason <> o.reason or n.epoch <> o.epoch;
    return null;
end $$;
revoke all on function sluice.runs_stepped() from public;
create trigger runs_stepped after update on sluice.runs referencing old table as was new table as made
    for each statement execute function sluice.runs_stepped();
-- A row of the history is written by that trigger and the intake alone, with its run: a foreign key would look for each run once more.
alter table sluice.run_history drop constraint run_history_tenant_id_run_id_fkey;

-- Calls ----------------------------------------------------------------------------------------------------------------

alter table sluice.calls
    add column reserved_tokens bigint not null default 0 check (reserved_tokens >= 0),
    add column reserved_pico   bigint not null default 0 check (reserved_pico >= 0),
    -- ask, or repair: a second call that mends an answer which was cut off or did not fit its schema.
    add column part            text not null default 'ask' check (part in ('ask', 'repair'));
-- What the sweeper looks at, over all tenants: small, since a call leaves it when it ends.
create index calls_open on sluice.calls (created_at) where state in ('intended', 'sent');
create policy system on sluice.calls for select to sluice_system using (true);
grant select (tenant_id, id, run_id, epoch, state, created_at) on sluice.calls to sluice_system;
grant select (epoch) on sluice.runs to sluice_system;
-- A price is never deleted (price_kept), so the two foreign keys guarded nothing, and each call locked the one row of its model's price.
alter table sluice.calls drop constraint calls_price_id_fkey;
alter table sluice.ledger_entries drop constraint ledger_entries_price_id_fkey;
-- An adjust entry corrects a charge or an orphan, and there may be several.
alter table sluice.ledger_entries drop constraint ledger_entries_tenant_id_call_id_kind_key;
create unique index ledger_entries_call on sluice.ledger_entries (tenant_id, call_id, kind) where kind <> 'adjust';

-- Brings a tenant's windows up to a moment, and locks its budget. A window that begins is summed from the ledger, so that it is right whatever was
-- there before: another time zone, an adjustment, a mistake. Windows never turn back: a transaction that began before midnight and comes after it
-- finds the new day, and what it books at its own time belongs to the old one.
create function sluice.budget_roll(t uuid, at timestamptz) returns sluice.budgets language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    b sluice.budgets;
    zone text;
    day timestamptz;
    month timestamptz;
begin
    select * into b from sluice.budgets where tenant_id = t for update;
    if b.day_until > at and b.month_until > at then
        return b;
    end if;
    select time_zone into zone from sluice.tenants where tenant_id = t;
    day := sluice.window_from(at, 'day', zone);
    month := sluice.window_from(at, 'month', zone);
    update sluice.budgets set day_from = day, day_until = sluice.window_until(day, 'day', zone), month_from = month,
        month_until = sluice.window_until(month, 'month', zone),
        day_tokens = s.day_tokens, day_pico = s.day_pico, month_pico = s.month_pico
    from (select coalesce(sum(amount_pico), 0)::bigint as month_pico, coalesce(sum(amount_pico) filter (where e.at >= day), 0)::bigint as day_pico,
                 coalesce(sum(input_uncached + input_cache_read + input_cache_write_5m + input_cache_write_1h + output_visible + output_reasoning)
                          filter (where e.at >= day), 0)::bigint as day_tokens
          from sluice.ledger_entries e where e.tenant_id = t and e.at >= least(day, month)) s
    where tenant_id = t returning * into b;
    return b;
end $$;
revoke all on function sluice.budget_roll(uuid, timestamptz) from public;

-- Says of each call of a tenant, in order, whether its worst case fits into what is left of every window: '' for yes, else the name of the limit
-- and when its window turns. The budget stays locked until the transaction ends, and the calls that were granted must be inserted in it, which
-- reserves for them. A call that alone is more than a limit does not stand in the way of those behind it.
create function sluice.reserve(t uuid, at timestamptz, tokens bigint[], pico bigint[], released boolean[],
    out place int, out reason text, out until timestamptz
) returns setof record language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    b sluice.budgets;
    l record;
    tokens_sum bigint := 0;
    pico_sum bigint := 0;
begin
    at := coalesce(at, now());
    b := sluice.budget_roll(t, at);
    if b.tenant_id is null then
        raise exception 'tenant % has no budget', t using errcode = '23503';
    end if;
    select * into l from sluice.limits_at(t, at);
    for i in 1 .. cardinality(tokens) loop
        place := i;
        reason := '';
        until := null;
        if l.cost_per_month is not null and b.month_pico + b.reserved_pico + pico_sum > l.cost_per_month - pico[i] then
            reason := 'limit.cost_per_month';
            until := b.month_until;
        elsif l.cost_per_day is not null and b.day_pico + b.reserved_pico + pico_sum > l.cost_per_day - pico[i] then
            reason := 'limit.cost_per_day';
            until := b.day_until;
        elsif l.tokens_per_day is not null and b.day_tokens + b.reserved_tokens + tokens_sum > l.tokens_per_day - tokens[i] then
            reason := 'limit.tokens_per_day';
            until := b.day_until;
        elsif b.holding <> '' and not released[i] then
            reason := b.holding;
            until := case when b.holding = 'limit.cost_per_month' then b.month_until else b.day_until end;
        end if;
        if reason = '' then
            tokens_sum := tokens_sum + tokens[i];
            pico_sum := pico_sum + pico[i];
        end if;
        return next;
    end loop;
end $$;
revoke all on function sluice.reserve(uuid, timestamptz, bigint[], bigint[], boolean[]) from public;

-- What is reserved is the sum over the calls under way, whoever writes them and however.
create function sluice.call_reserves() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    update sluice.budgets b set reserved_tokens = b.reserved_tokens + s.tokens, reserved_pico = b.reserved_pico + s.pico
    from (select tenant_id, sum(reserved_tokens)::bigint as tokens, sum(reserved_pico)::bigint as pico from made
          where state in ('intended', 'sent') group by tenant_id) s
    where b.tenant_id = s.tenant_id;
    return null;
end $$;
revoke all on function sluice.call_reserves() from public;
create trigger call_reserves after insert on sluice.calls referencing new table as made for each statement execute function sluice.call_reserves();

create function sluice.call_releases() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    update sluice.budgets b set reserved_tokens = b.reserved_tokens - s.tokens, reserved_pico = b.reserved_pico - s.pico
    from (select o.tenant_id, sum(o.reserved_tokens)::bigint as tokens, sum(o.reserved_pico)::bigint as pico
          from was o join made n on n.tenant_id = o.tenant_id and n.id = o.id
          where o.state in ('intended', 'sent') and n.state not in ('intended', 'sent') group by o.tenant_id) s
    where b.tenant_id = s.tenant_id;
    return null;
end $$;
revoke all on function sluice.call_releases() from public;
create trigger call_releases after update on sluice.calls referencing old table as was new table as made
    for each statement execute function sluice.call_releases();

-- What is used is the sum over the ledger's entries in the window.
create function sluice.entry_uses() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    s record;
    b sluice.budgets;
begin
    for s in select tenant_id, max(at) as at, min(at) as first_at from made group by tenant_id order by tenant_id loop
        select * into b from sluice.budgets where tenant_id = s.tenant_id for update;
        if b.tenant_id is null or s.first_at < b.closed_until then
            insert into sluice.usage_late (tenant_id, at)
            select distinct m.tenant_id, sluice.usage_slot(m.at) from made m
            where m.tenant_id = s.tenant_id and (b.tenant_id is null or m.at < b.closed_until)
            -- A mark that is there is locked all the same: who sums must leave it until this entry can be seen.
            order by 2 on conflict (tenant_id, at) do update set at = excluded.at;
        end if;
        if b.day_until <= s.at or b.month_until <= s.at then
            -- A window that opens now is summed with these entries in it.
            perform sluice.budget_roll(s.tenant_id, s.at);
            continue;
        end if;
        update sluice.budgets u set day_tokens = u.day_tokens + n.day_tokens, day_pico = u.day_pico + n.day_pico, month_pico = u.month_pico + n.month_pico
        from (select coalesce(sum(input_uncached + input_cache_read + input_cache_write_5m + input_cache_write_1h + output_visible + output_reasoning)
                              filter (where m.at >= b.day_from), 0)::bigint as day_tokens,
                     coalesce(sum(amount_pico) filter (where m.at >= b.day_from), 0)::bigint as day_pico,
                     coalesce(sum(amount_pico) filter (where m.at >= b.month_from), 0)::bigint as month_pico
              from made m where m.tenant_id = s.tenant_id) n
        where u.tenant_id = s.tenant_id;
    end loop;
    return null;
end $$;
revoke all on function sluice.entry_uses() from public;
create trigger entry_uses after insert on sluice.ledger_entries referencing new table as made for each statement execute function sluice.entry_uses();

grant execute on function sluice.limits_at(uuid, timestamptz), sluice.window_from(timestamptz, text, text), sluice.window_until(timestamptz, text, text),
    sluice.budget_roll(uuid, timestamptz), sluice.reserve(uuid, timestamptz, bigint[], bigint[], boolean[]) to sluice_app;

-- The ledger -----------------------------------------------------------------------------------------------------------

-- Why a correction was made.
alter table sluice.ledger_entries add column note text not null default '' check (length(note) <= 500);

-- The quarter of an hour that a moment lies in. Every time zone in use begins its days at the beginning of one.
create function sluice.usage_slot(at timestamptz) returns timestamptz language sql immutable set search_path = pg_catalog, pg_temp as $$
    select date_bin('15 minutes', at, 'epoch')
$$;
revoke all on function sluice.usage_slot(timestamptz) from public;

-- The ledger, summed by quarters of an hour: derived, and rebuilt at will. Sums are the ledger's own: those of a tenant up to usage_rolled.until,
-- but for the quarters in usage_late, which have got an entry since. What is not summed is read from the ledger; whoever reads does so in one
-- statement, and so it is exact at every moment. Kept by a job (db.UsageRoll): the ledger's own writers do nothing for it.
--
-- Why no entry is missed. A tenant's quarters are closed first (budgets.closed_until) and summed by a later transaction. Who writes an entry locks
-- the budget in its trigger and holds it until it commits. So either it came before the close, which waits for it, and what is summed later sees
-- it; or it sees the close, and marks its quarter as late together with its entry.
create table sluice.usage_rollups (
    tenant_id            uuid not null,
    at                   timestamptz not null,
    -- The day in UTC.
    day                  date not null generated always as (timezone('UTC', at)::date) stored,
    endpoint_id          uuid not null,
    automation_id        uuid not null,
    provider             text not null,
    model_asked          text not null,
    model_served         text not null,
    kind                 text not null,
    entries              bigint not null,
    input_uncached       bigint not null,
    input_cache_read     bigint not null,
    input_cache_write_5m bigint not null,
    input_cache_write_1h bigint not null,
    output_visible       bigint not null,
    output_reasoning     bigint not null,
    amount_pico          numeric not null,
    primary key (tenant_id, at, endpoint_id, automation_id, provider, model_asked, model_served, kind)
);
create index usage_rollups_day on sluice.usage_rollups (day);
create table sluice.usage_rolled (
    tenant_id uuid primary key,
    until     timestamptz not null default '-infinity'
);
create table sluice.usage_late (
    tenant_id uuid not null,
    at        timestamptz not null,
    primary key (tenant_id, at)
);
select sluice.protect('sluice.usage_rollups');
select sluice.protect('sluice.usage_rolled');
select sluice.protect('sluice.usage_late');
grant select on sluice.usage_rollups, sluice.usage_rolled to sluice_app;
grant select, insert, update on sluice.usage_late to sluice_app;
grant execute on function sluice.usage_slot(timestamptz) to sluice_app, sluice_system;
create policy system on sluice.ledger_entries for select to sluice_system using (true);
create policy system on sluice.usage_rollups to sluice_system using (true) with check (true);
create policy system on sluice.usage_rolled to sluice_system using (true) with check (true);
create policy system on sluice.usage_late to sluice_system using (true) with check (true);
grant select on sluice.ledger_entries to sluice_system;
grant select, insert, delete on sluice.usage_rollups to sluice_system;
grant select, update, delete on sluice.usage_late to sluice_system;
grant select, insert, update on sluice.usage_rolled to sluice_system;
grant update (closed_until) on sluice.budgets to sluice_system;

-- What the billing system reads. Views run with the reader's rights, so that it has rights to these tables and columns too, and to nothing else.
-- Columns are documented in docs/billing.md; new ones come at the end.
create policy billing on sluice.usage_rollups for select to sluice_billing using (true);
create policy billing on sluice.usage_rolled for select to sluice_billing using (true);
create policy billing on sluice.usage_late for select to sluice_billing using (true);
create policy billing on sluice.tenants for select to sluice_billing using (true);
grant select on sluice.usage_rollups, sluice.usage_rolled, sluice.usage_late to sluice_billing;
grant select (tenant_id, name, time_zone, status, created_at) on sluice.tenants to sluice_billing;

create or replace view sluice.billing_entries with (security_invoker = true) as
    select tenant_id, id as entry_id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version,
           provider, model_asked, model_served, price_id,
           input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning,
           amount_pico, (amount_pico::numeric / 1000000000000)::numeric(30, 12) as amount_usd, note
    from sluice.ledger_entries;

create view sluice.billing_tenants with (security_invoker = true) as
    select tenant_id, name, time_zone, status, created_at from sluice.tenants;
grant select on sluice.billing_tenants to sluice_billing;

-- Each row lies in one day of UTC and in one of its tenant's: sums by either are whole.
create view sluice.billing_usage_daily with (security_invoker = true) as
    with slots as (
        select r.tenant_id, r.at, r.day, r.endpoint_id, r.automation_id, r.provider, r.model_asked, r.model_served, r.kind, r.entries,
               r.input_uncached, r.input_cache_read, r.input_cache_write_5m, r.input_cache_write_1h, r.output_visible, r.output_reasoning, r.amount_pico
        from sluice.usage_rollups r join sluice.usage_rolled w on w.tenant_id = r.tenant_id and r.at < w.until
        where not exists (select from sluice.usage_late l where l.tenant_id = r.tenant_id and l.at = r.at)
        union all
        select e.tenant_id, e.at, timezone('UTC', e.at)::date, e.endpoint_id, e.automation_id, e.provider, e.model_asked, e.model_served, e.kind, 1,
               e.input_uncached, e.input_cache_read, e.input_cache_write_5m, e.input_cache_write_1h, e.output_visible, e.output_reasoning, e.amount_pico
        from sluice.tenants t left join sluice.usage_rolled w on w.tenant_id = t.tenant_id
        join sluice.ledger_entries e on e.tenant_id = t.tenant_id and e.at >= coalesce(w.until, '-infinity')
        union all
        select e.tenant_id, e.at, timezone('UTC', e.at)::date, e.endpoint_id, e.automation_id, e.provider, e.model_asked, e.model_served, e.kind, 1,
               e.input_uncached, e.input_cache_read, e.input_cache_write_5m, e.input_cache_write_1h, e.output_visible, e.output_reasoning, e.amount_pico
        from sluice.usage_late l join sluice.usage_rolled w on w.tenant_id = l.tenant_id and l.at < w.until
        join sluice.ledger_entries e on e.tenant_id = l.tenant_id and e.at >= l.at and e.at < l.at + interval '15 minutes'
    )
    select s.tenant_id, s.day as day_utc, timezone(t.time_zone, s.at)::date as day_tenant, t.time_zone, s.endpoint_id, s.automation_id,
           s.provider, s.model_asked, s.model_served, s.kind,
           coalesce(sum(s.entries) filter (where s.kind <> 'adjust'), 0)::bigint as calls, sum(s.entries)::bigint as entries,
           sum(s.input_uncached)::bigint as input_uncached, sum(s.input_cache_read)::bigint as input_cache_read,
           sum(s.input_cache_write_5m)::bigint as input_cache_write_5m, sum(s.input_cache_write_1h)::bigint as input_cache_write_1h,
           sum(s.output_visible)::bigint as output_visible, sum(s.output_reasoning)::bigint as output_reasoning,
           sum(s.amount_pico) as amount_pico, (sum(s.amount_pico) / 1000000000000)::numeric(30, 12) as amount_usd
    from slots s join sluice.tenants t on t.tenant_id = s.tenant_id
    group by s.tenant_id, s.day, timezone(t.time_zone, s.at)::date, t.time_zone, s.endpoint_id, s.automation_id, s.provider, s.model_asked,
             s.model_served, s.kind;
grant select on sluice.billing_usage_daily to sluice_billing;

-- Providers ------------------------------------------------------------------------------------------------------------

-- Who a credential is at its service, so that what it did is known when it comes back; and why it is not used for now.
alter table sluice.credentials
    add column actor         text not null default '' check (length(actor) <= 200),
    add column paused_at     timestamptz,
    add column paused_reason text not null default '';
grant update (actor, paused_at, paused_reason) on sluice.credentials to sluice_app;

-- A key that its provider asked to rest, for every worker. The owner is a credential's id, or operator. No tenant's data: only sluice_system sees it.
create table sluice.provider_pauses (
    provider text not null,
    owner    text not null,
    until    timestamptz not null,
    reason   text not null,
    at       timestamptz not null default now(),
    primary key (provider, owner)
);
-- What each worker knows of the providers, for the operator to see.
create table sluice.provider_states (
    process  text not null,
    provider text not null,
    model    text not null,
    owner    text not null,
    state    jsonb not null,
    at       timestamptz not null default now(),
    primary key (process, provider, model, owner)
);
grant select, insert, update, delete on sluice.provider_pauses, sluice.provider_states to sluice_system;

-- Prices of the scripted provider's new models.
insert into sluice.prices values
    (9033, 'scripted', 'flap-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9034, 'scripted', 'chat-flap-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9035, 'scripted', 'slow-stream-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9036, 'scripted', 'chat-slow-stream-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9037, 'scripted', 'stall-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9038, 'scripted', 'chat-stall-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9039, 'scripted', 'storm-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice'),
    (9040, 'scripted', 'chat-storm-1', 0, '2020-01-01T00:00:00Z', null, 1000000, 100000, 1250000, 2000000, 5000000, 'sluice');

-- Loops ----------------------------------------------------------------------------------------------------------------

-- What an effect is about, so that the effects on one entity can be counted.
alter table sluice.actions add column entity text not null default '';
create index actions_entity on sluice.actions (tenant_id, entity, created_at) where entity <> '';
-- Which of our actions caused the run's event, as far as is known. No foreign key: it is written from an action that was just read, is only ever
-- read together with its tenant, and a check on it would look through all runs for each action that is erased.
alter table sluice.runs add column caused_by uuid;
grant update (caused_by) on sluice.runs to sluice_app;

-- Alerts ---------------------------------------------------------------------------------------------------------------

-- Where alerts are told. What is secret of it (a signing secret, the address of an incoming webhook) is sealed.
create table sluice.alert_channels (
    tenant_id  uuid not null references sluice.tenants,
    id         uuid not null,
    name       text not null,
    kind       text not null check (kind in ('webhook', 'slack', 'email')),
    -- What may be shown of where it goes: an address without its secret part.
    target     text not null,
    sealed     bytea not null,
    -- The kinds of alerts that are told here; empty is all.
    kinds      text[] not null default '{}',
    created_at timestamptz not null default now(),
    -- How its last delivery went.
    last_at    timestamptz,
    last_fault text not null default '',
    primary key (tenant_id, id)
);
select sluice.protect('sluice.alert_channels');
grant select, insert, delete, update (last_at, last_fault) on sluice.alert_channels to sluice_app;

-- One thing to tell one channel: that an alert began, that it ended, or that somebody tries the channel out.
create table sluice.alert_notices (
    tenant_id    uuid not null,
    id           uuid not null default gen_random_uuid(),
    alert_id     uuid,
    channel_id   uuid not null,
    phase        text not null check (phase in ('began', 'ended', 'test')),
    -- How many tries have begun. A job names the number it found, and begins the next try only while it still stands.
    attempt      int not null default 0,
    created_at   timestamptz not null default now(),
    -- When it is given a job; while it has one, when that job is taken for lost.
    due_at       timestamptz not null default now(),
    posted_at    timestamptz,
    delivered_at timestamptz,
    given_up_at  timestamptz,
    fault        text not null default '',
    primary key (tenant_id, id),
    unique (tenant_id, alert_id, channel_id, phase),
    check ((phase = 'test') = (alert_id is null)),
    foreign key (tenant_id, alert_id) references sluice.alerts,
    foreign key (tenant_id, channel_id) references sluice.alert_channels on delete cascade
);
create index alert_notices_open on sluice.alert_notices (tenant_id, due_at) where delivered_at is null and given_up_at is null;
create index alert_notices_channel on sluice.alert_notices (tenant_id, channel_id);
select sluice.protect('sluice.alert_notices');
grant select, insert, update (attempt, due_at, posted_at, delivered_at, given_up_at, fault) on sluice.alert_notices to sluice_app;
create policy system on sluice.alert_notices to sluice_system using (true) with check (true);
grant select, update (due_at, posted_at) on sluice.alert_notices to sluice_system;

-- Each is told once when it begins and once when it ends, whoever begins and ends it.
create function sluice.alert_told() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    before text := current_setting('sluice.tenant_id', true);
begin
    -- Alerts are ended across tenants too; the rows are the alert's own tenant's.
    perform set_config('sluice.tenant_id', new.tenant_id::text, true);
    insert into sluice.alert_notices (tenant_id, alert_id, channel_id, phase)
    select new.tenant_id, new.id, c.id, case when tg_op = 'INSERT' then 'began' else 'ended' end
    from sluice.alert_channels c
    where c.tenant_id = new.tenant_id and (c.kinds = '{}' or new.kind = any (c.kinds))
    on conflict do nothing;
    perform set_config('sluice.tenant_id', coalesce(before, ''), true);
    return null;
end $$;
revoke all on function sluice.alert_told() from public;
create trigger alert_began after insert on sluice.alerts for each row execute function sluice.alert_told();
create trigger alert_ended after update of ended_at on sluice.alerts for each row
    when (old.ended_at is null and new.ended_at is not null) execute function sluice.alert_told();

-- Watching -------------------------------------------------------------------------------------------------------------

-- What begins and ends by itself is found over all tenants, by columns that name no content. Each index holds only what is looked for, so that a
-- look costs as much as there is to tell, and not as much as there is.
create index runs_stopped on sluice.runs (reason, tenant_id, automation_id)
    where status = 'held' or (status = 'waiting' and reason = 'provider.breaker_open');
create index runs_dead on sluice.runs (finished_at) where status = 'dead';
create index runs_blocking on sluice.runs (tenant_id, endpoint_id) where status = 'dead' and ordering = 'serial';
create index endpoints_blocking on sluice.endpoints (tenant_id, id) where settings ->> 'order_dead' = 'block' and deleted_at is null;
create index credentials_paused on sluice.credentials (tenant_id, id) where paused_at is not null;
create policy system on sluice.credentials for select to sluice_system using (true);
create policy system on sluice.events for select to sluice_system using (true);
grant select (tenant_id, id, paused_at, paused_reason) on sluice.credentials to sluice_system;
grant select (tenant_id, id, endpoint_id) on sluice.events to sluice_system;
grant select (reason, endpoint_id, automation_id, ordering) on sluice.runs to sluice_system;
grant select (detail, began_at), insert (tenant_id, id, kind, subject, detail, began_at, last_at), update (detail, last_at) on sluice.alerts to sluice_system;
grant execute on function sluice.uuid_from(timestamptz) to sluice_system;

-- How far each thing that is done over all tenants has come, or when it was last done. No tenant's data.
create table sluice.watch_marks (
    name text primary key,
    at   timestamptz not null
);
grant select, insert, update on sluice.watch_marks to sluice_system;

-- What went through a tenant, an endpoint or an automation in each hour of a day (UTC): events, or cost in pico-USD. A day without any has no row.
-- An aid to see what is unusual, not for the books: what commits later than the fold's lag is left out.
create table sluice.rates (
    tenant_id uuid not null references sluice.tenants,
    subject   uuid not null,
    measure   text not null check (measure in ('events', 'cost')),
    day       date not null,
    level     text not null check (level in ('tenant', 'endpoint', 'automation')),
    hours     bigint[] not null check (cardinality(hours) = 24),
    primary key (tenant_id, subject, measure, day)
) with (fillfactor = 70);
create index rates_day on sluice.rates (day);
select sluice.protect('sluice.rates');
grant select on sluice.rates to sluice_app;
create policy system on sluice.rates to sluice_system using (true) with check (true);
grant select, insert, update (hours), delete on sluice.rates to sluice_system;

-- The intake -----------------------------------------------------------------------------------------------------------

create policy intake on sluice.limits for select to sluice_intake using (true);
create policy intake on sluice.limit_raises for select to sluice_intake using (true);
create policy intake on sluice.places to sluice_intake using (true) with check (true);
create policy intake on sluice.tenants for select to sluice_intake using (true);
create policy intake on sluice.run_history for insert to sluice_intake with check (true);
grant select on sluice.limits, sluice.limit_raises to sluice_intake;
grant select, update on sluice.places to sluice_intake;
grant select (tenant_id, time_zone) on sluice.tenants to sluice_intake;
grant insert on sluice.run_history to sluice_intake;
grant insert (attempts_max, over_limit, status, reason, detail, until, finished_at) on sluice.runs to sluice_intake;
grant execute on function sluice.limits_at(uuid, timestamptz), sluice.window_until(timestamptz, text, text) to sluice_intake;

drop function sluice.admit(uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[]);

-- Stores a batch of events of any tenants, with their raw bodies and their runs, and answers for each, in order, with the event that holds its
-- keys: itself where it is new, an earlier one where it is a duplicate, of which nothing is written, and null where its tenant has stored as much
-- in this hour as it may, until the time in ceilings. Events (e_) name their delivery by its place in d_, runs (r_) their event by its place in e_;
-- places begin at 1. The caller adds the jobs of the runs in the same transaction: those whose lag is not null, which says how many seconds the
-- tenant is ahead of its share; slots says when a run may begin at the tenant's pace. The other runs belong to duplicates, or are held.
-- Keys are taken in one order, then the tenants' places in one order: two batches never wait for each other in a circle.
create function sluice.admit(
    at timestamptz,
    e_tenant uuid[], e_endpoint uuid[], e_id uuid[], e_source text[], e_source_event_id text[], e_once text[], e_type text[], e_entity text[],
    e_sequence bigint[], e_occurred_at timestamptz[], e_secret uuid[], e_test boolean[], e_delivery int[], e_verdicts text[], e_trace text[],
    e_document bytea[],
    d_headers text[], d_body bytea[], d_sha256 bytea[],
    r_event int[], r_id uuid[], r_automation uuid[], r_version int[], r_mode text[], r_priority text[], r_ordering text[], r_attempts int[], r_over text[],
    out answers uuid[], out lags double precision[], out slots timestamptz[], out ceilings timestamptz[]
) language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- Plans are kept: planning costs more than a small batch. Joins of a batch with itself are hashed: the planner cannot know its size. What cannot be
-- hashed is priced beyond all measure then, and must not be compiled for that: a compilation takes half a second.
set plan_cache_mode = force_generic_plan set enable_nestloop = off set jit = off as $$
declare
    fresh_ids uuid[];
    full_tenants uuid[];
    full_until timestamptz[];
    holder uuid;
    who uuid;
begin
    at := coalesce(at, now());
    -- Read without a lock, so it may be passed by a batch or two: it protects the store, it is not a price.
    select array_agg(p.tenant_id), array_agg(p.hour_until) into full_tenants, full_until
    from sluice.places p join sluice.limits l on l.tenant_id = p.tenant_id
    where p.tenant_id = any (e_tenant) and p.hour_until > at and p.hour_stored >= l.stored_per_hour;

    with given as materialized (
        select * from unnest(e_tenant, e_endpoint, e_id, e_source, e_source_event_id, e_once, e_type, e_entity, e_sequence, e_occurred_at,
                             e_secret, e_test, e_delivery, e_verdicts, e_trace, e_document)
            with ordinality as e (tenant_id, endpoint_id, id, source, source_event_id, once, type, entity, sequence, occurred_at,
                                  secret_id, test, delivery, verdicts, trace_id, document, place)
        where full_tenants is null or tenant_id <> all (full_tenants)
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
    )
    select coalesce(array_agg(event_id), '{}') into fresh_ids from named;

    lags := array_fill(null::double precision, array[cardinality(r_id)]);
    slots := array_fill(null::timestamptz, array[cardinality(r_id)]);
    if cardinality(fresh_ids) > 0 then
        -- Locked last, and so for as short as can be. The next statement sees what the one before us has committed.
        for who in select distinct t from unnest(e_tenant) t order by t loop
            perform from sluice.places p where p.tenant_id = who for update;
        end loop;
        select a.lags, a.slots into lags, slots from sluice.admit_runs(
            at, e_tenant, e_endpoint, e_id, e_entity, e_sequence, e_occurred_at, fresh_ids,
            r_event, r_id, r_automation, r_version, r_mode, r_priority, r_ordering, r_attempts, r_over) a;
    end if;

    answers := e_id;
    if cardinality(fresh_ids) = cardinality(e_id) then
        return;
    end if;
    for place in 1 .. cardinality(e_id) loop
        continue when e_id[place] = any (fresh_ids);
        if e_tenant[place] = any (full_tenants) then
            answers[place] := null;
            ceilings[place] := full_until[array_position(full_tenants, e_tenant[place])];
            continue;
        end if;
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
end $$;

-- The second half of admit: the runs of the events that are new, each in its place. The tenants' places are locked by the caller.
create function sluice.admit_runs(
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
revoke all on function sluice.admit(timestamptz, uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[], int[], text[]) from public;
revoke all on function sluice.admit_runs(timestamptz, uuid[], uuid[], uuid[], text[], bigint[], timestamptz[], uuid[], int[], uuid[], uuid[], int[], text[],
    text[], text[], int[], text[]) from public;
grant execute on function sluice.admit(timestamptz, uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[], int[], text[]) to sluice_door;
grant create on schema sluice to sluice_intake;
alter function sluice.admit(timestamptz, uuid[], uuid[], uuid[], text[], text[], text[], text[], text[], bigint[], timestamptz[], uuid[], boolean[], int[],
    text[], text[], bytea[], text[], bytea[], bytea[], int[], uuid[], uuid[], int[], text[], text[], text[], int[], text[]) owner to sluice_intake;
alter function sluice.admit_runs(timestamptz, uuid[], uuid[], uuid[], text[], bigint[], timestamptz[], uuid[], int[], uuid[], uuid[], int[], text[],
    text[], text[], int[], text[]) owner to sluice_intake;
revoke create on schema sluice from sluice_intake;

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
