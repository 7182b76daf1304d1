-- The proof: the audit, what the doctor reads, keys that are changed.

-- Audit ----------------------------------------------------------------------------------------------------------------

-- Every change that a person, a key or a rule makes leaves one entry, in the transaction that makes it: triggers note what changed, and the commit
-- itself writes the entry. An entry names who, what and when, and is chained to the one before it; it holds no content, so that it can outlive its
-- tenant. What was changed, from what to what, stands beside it, and is erased with the tenant; the entry keeps its hash.
--
-- sluice_auditor owns the functions that write here, and nothing else may.
grant usage, create on schema sluice to sluice_auditor;

create table sluice.audit_entries (
    -- The zero uuid is the chain of the operator's own keys.
    tenant_id  uuid not null,
    -- Its place in the tenant's chain, from 1, without gaps.
    seq        bigint not null check (seq >= 1),
    id         uuid not null,
    at         timestamptz not null,
    -- 'key' and 'operator' are API keys; 'rule' is Sluice itself; 'command' is a subcommand of the binary; 'database' is whoever wrote past all of them.
    actor_kind text not null check (actor_kind in ('key', 'operator', 'rule', 'command', 'database')),
    -- The key's id, the rule's or the command's name, or the session's user.
    actor      text not null,
    -- The operation of the API, or '' where none was asked for.
    operation  text not null,
    -- What was changed: the kinds and ids of the rows, no content.
    subjects   text[] not null,
    -- The SHA-256 of what was changed, as sluice.audit_changes has it.
    changes    bytea not null check (length(changes) = 32),
    -- The hash of the entry before it; zeros for the first. And its own.
    prev       bytea not null check (length(prev) = 32),
    hash       bytea not null check (length(hash) = 32),
    primary key (tenant_id, seq)
);
select sluice.protect('sluice.audit_entries');
grant select on sluice.audit_entries to sluice_app;

create table sluice.audit_changes (
    tenant_id uuid not null,
    entry_id  uuid not null,
    n         bigint generated always as identity,
    -- The kind of what was changed and its id: 'endpoint', 'automation', ...
    what      text not null,
    subject   uuid not null,
    -- What was done: 'insert', 'update', 'delete', or a word of its own.
    did       text not null,
    -- The columns that changed, before and after; secrets are never among them.
    before    jsonb,
    after     jsonb,
    -- The address and the trace of the request.
    request   jsonb,
    primary key (tenant_id, entry_id, n)
);
create index audit_entries_id on sluice.audit_entries (tenant_id, id);
create index audit_changes_subject on sluice.audit_changes (tenant_id, subject, entry_id);
select sluice.protect('sluice.audit_changes');
grant select on sluice.audit_changes to sluice_app;

-- The last link of each chain. Whoever cuts off the end of a chain has to change this row too; one who can is told from one who kept an earlier head.
create table sluice.audit_heads (
    tenant_id uuid primary key,
    seq       bigint not null,
    hash      bytea not null
);
select sluice.protect('sluice.audit_heads');
grant select on sluice.audit_heads to sluice_app;

create policy auditor on sluice.audit_entries to sluice_auditor using (true) with check (true);
create policy auditor on sluice.audit_changes to sluice_auditor using (true) with check (true);
create policy auditor on sluice.audit_heads to sluice_auditor using (true) with check (true);
create policy auditor on sluice.tenants for select to sluice_auditor using (true);
grant select, insert on sluice.audit_entries, sluice.audit_changes to sluice_auditor;
grant select, insert, update on sluice.audit_heads to sluice_auditor;
grant select (tenant_id, status) on sluice.tenants to sluice_auditor;
create policy auditor on sluice.automation_versions for select to sluice_auditor using (true);
grant select (tenant_id, automation_id, version, spec) on sluice.automation_versions to sluice_auditor;

-- Nobody changes or deletes an entry, the owner neither; what was changed goes with its tenant, and only then.
create function sluice.audit_kept() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'the audit is append-only' using errcode = '42501';
end $$;
create trigger audit_kept before update or delete or truncate on sluice.audit_entries for each statement execute function sluice.audit_kept();
create trigger audit_kept before update or truncate on sluice.audit_changes for each statement execute function sluice.audit_kept();
create function sluice.audit_erased() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from sluice.tenants t where t.tenant_id = old.tenant_id and t.status = 'erased') then
        raise exception 'the audit is append-only' using errcode = '42501';
    end if;
    return old;
end $$;
create trigger audit_erased before delete on sluice.audit_changes for each row execute function sluice.audit_erased();

create trigger audit_kept before delete or truncate on sluice.audit_heads for each statement execute function sluice.audit_kept();
-- A head moves with its chain, and by the function that writes it alone.
create function sluice.audit_moved() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_user <> 'sluice_auditor' then
        raise exception 'the audit is append-only' using errcode = '42501';
    end if;
    return new;
end $$;
create trigger audit_moved before update on sluice.audit_heads for each row execute function sluice.audit_moved();

-- The hash of what an entry says, with the link to the one before it.
create function sluice.audit_hash(e sluice.audit_entries) returns bytea language sql stable set search_path = pg_catalog, pg_temp as $$
    select sha256(e.prev || convert_to(jsonb_build_array(
        e.tenant_id, e.seq, e.id, extract(epoch from e.at)::text, e.actor_kind, e.actor, e.operation, to_jsonb(e.subjects), encode(e.changes, 'hex'))::text, 'UTF8'))
$$;
create function sluice.audit_changes_hash(t uuid, entry uuid) returns bytea language sql stable set search_path = pg_catalog, pg_temp as $$
    select sha256(convert_to(coalesce(jsonb_agg(jsonb_build_array(c.n, c.what, c.subject, c.did, c.before, c.after, c.request) order by c.n), '[]')::text, 'UTF8'))
    from sluice.audit_changes c where c.tenant_id = t and c.entry_id = entry
$$;

-- Who changes something is in the transaction's setting sluice.actor: {"kind", "id", "operation", "request"}.
create function sluice.audit_actor() returns jsonb language sql stable set search_path = pg_catalog, pg_temp as $$
    select coalesce(nullif(current_setting('sluice.actor', true), '')::jsonb, jsonb_build_object('kind', 'database', 'id', session_user, 'operation', ''))
$$;

-- Notes one change; all notes of a transaction are one entry, whose id the transaction keeps in sluice.audit_entry.
create function sluice.audit_note(t uuid, what text, subject uuid, did text, before jsonb, after jsonb) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    entry uuid := nullif(current_setting('sluice.audit_entry', true), '')::uuid;
begin
    if entry is null then
        entry := gen_random_uuid();
        perform set_config('sluice.audit_entry', entry::text, true);
    end if;
    insert into sluice.audit_changes (tenant_id, entry_id, what, subject, did, before, after, request)
    values (t, entry, what, subject, did, before, after, sluice.audit_actor() -> 'request');
end $$;

-- The same for what no trigger sees, of the tenant that the transaction is for and of no other.
create function sluice.audit_noted(what text, subject uuid, did text, before jsonb, after jsonb) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform sluice.audit_note(nullif(current_setting('sluice.tenant_id', true), '')::uuid, what, subject, did, before, after);
end $$;

-- Writes the entry of a transaction when it commits: the lock of the chain's end is held for the commit alone.
create function sluice.audit_write() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    actor jsonb := sluice.audit_actor();
    e sluice.audit_entries;
begin
    if exists (select from sluice.audit_heads h join sluice.audit_entries x on x.tenant_id = h.tenant_id and x.seq = h.seq
               where h.tenant_id = new.tenant_id and x.id = new.entry_id) then
        return null; -- the transaction's first note has written it
    end if;
    insert into sluice.audit_heads values (new.tenant_id, 0, decode(repeat('00', 32), 'hex')) on conflict do nothing;
    select h.tenant_id, h.seq + 1, h.hash into e.tenant_id, e.seq, e.prev from sluice.audit_heads h where h.tenant_id = new.tenant_id for update;
    if exists (select from sluice.audit_entries x where x.tenant_id = e.tenant_id and x.seq = e.seq) then
        raise exception 'the audit of tenant % goes on after its head: nothing can be added to it', e.tenant_id using errcode = 'XX001';
    end if;
    e.id := new.entry_id;
    e.at := clock_timestamp();
    e.actor_kind := actor ->> 'kind';
    e.actor := actor ->> 'id';
    e.operation := coalesce(actor ->> 'operation', '');
    select array_agg(c.what || ' ' || c.subject order by c.n) into e.subjects
    from (select min(n) as n, what, subject from sluice.audit_changes where tenant_id = e.tenant_id and entry_id = e.id group by what, subject) c;
    e.changes := sluice.audit_changes_hash(e.tenant_id, e.id);
    e.hash := sluice.audit_hash(e);
    insert into sluice.audit_entries values (e.*);
    update sluice.audit_heads set seq = e.seq, hash = e.hash where tenant_id = e.tenant_id;
    return null;
end $$;

-- A row's change, as a trigger with the arguments: what it is, its id's column ('' for what is the tenant's one), and the columns that are not told,
-- because they are secret or say nothing.
create function sluice.audit_row() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    hidden text[] := string_to_array(tg_argv[2], ',') || array['tenant_id', 'created_at', 'updated_at', 'created_by'];
    was jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    made jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    t uuid := coalesce((coalesce(made, was) ->> 'tenant_id')::uuid, '00000000-0000-0000-0000-000000000000');
    subject uuid := coalesce((coalesce(made, was) ->> nullif(tg_argv[1], ''))::uuid, t);
    before jsonb;
    after jsonb;
    secrets text[];
begin
    if tg_op = 'DELETE' and exists (select from sluice.tenants x where x.tenant_id = t and x.status = 'erased') then
        return null; -- what an erasure takes away is not told anew; that it erased is an entry
    end if;
    if tg_op = 'UPDATE' then
        select jsonb_object_agg(o.key, o.value), jsonb_object_agg(o.key, made -> o.key) into before, after
        from jsonb_each(was) o where o.value is distinct from made -> o.key and o.key <> all (hidden);
        -- That a secret was replaced is told; what by is not.
        select array_agg(case o.key when 'sealed' then 'secret' else o.key end order by o.key) into secrets from jsonb_each(was) o
        where o.value is distinct from made -> o.key and o.key in ('sealed', 'token');
        if secrets is not null then
            after := coalesce(after, '{}') || jsonb_build_object('replaced', to_jsonb(secrets));
        end if;
        if after is null then
            return null;
        end if;
        if made ->> 'status' = 'erased' then
            before := jsonb_build_object('status', was -> 'status');
            after := jsonb_build_object('status', made -> 'status');
        end if;
    else
        before := was - hidden;
        after := made - hidden;
    end if;
    if tg_table_name = 'automation_versions' and tg_op = 'INSERT' and (made ->> 'version')::int > 1 then
        -- Of a new version, what differs from the one before it.
        select v.spec into was from sluice.automation_versions v
        where v.tenant_id = t and v.automation_id = subject and v.version = (made ->> 'version')::int - 1;
        select jsonb_object_agg(k, was -> k), jsonb_object_agg(k, made -> 'spec' -> k) into before, made
        from (select jsonb_object_keys(was || (made -> 'spec')) as k) keys where was -> k is distinct from made -> 'spec' -> k;
        before := jsonb_build_object('spec', coalesce(before, '{}'));
        after := after || jsonb_build_object('spec', coalesce(made, '{}'));
    end if;
    perform sluice.audit_note(t, tg_argv[0], subject, lower(tg_op), before, after);
    return null;
end $$;

-- What is not as it was written, in one tenant's chain, or in all. Content that was erased with its tenant is not missed.
create function sluice.audit_faults(of uuid) returns table (tenant_id uuid, seq bigint, fault text)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with links as (
        select e as entry, e.tenant_id, e.seq, e.id, e.prev, e.hash, e.changes,
            lag(e.seq, 1, 0::bigint) over w as before_seq, lag(e.hash, 1, decode(repeat('00', 32), 'hex')) over w as before_hash
        from sluice.audit_entries e where of is null or e.tenant_id = of
        window w as (partition by e.tenant_id order by e.seq)
    )
    select l.tenant_id, l.seq, 'missing: the entries from ' || l.before_seq + 1 || ' to ' || l.seq - 1 from links l where l.seq <> l.before_seq + 1
    union all
    select l.tenant_id, l.seq, 'unlinked: it does not name the hash of the entry before it' from links l where l.seq = l.before_seq + 1 and l.prev <> l.before_hash
    union all
    select l.tenant_id, l.seq, 'changed: its hash is not that of what it says' from links l where l.hash <> sluice.audit_hash(l.entry)
    union all
    select l.tenant_id, l.seq, 'changed: what it changed is not what it was' from links l
    where l.changes <> sluice.audit_changes_hash(l.tenant_id, l.id)
      and not exists (select from sluice.tenants t where t.tenant_id = l.tenant_id and t.status = 'erased')
    union all
    select t.tenant_id, 0::bigint, 'missing: the whole chain' from (select s.tenant_id from sluice.tenants s union all select '00000000-0000-0000-0000-000000000000') t
    where (of is null or t.tenant_id = of) and not exists (select from sluice.audit_heads h where h.tenant_id = t.tenant_id)
    union all
    select c.tenant_id, 0::bigint, 'foreign: ' || count(*) || ' changes of no entry' from sluice.audit_changes c
    where (of is null or c.tenant_id = of) and not exists (select from sluice.audit_entries e where e.tenant_id = c.tenant_id and e.id = c.entry_id)
    group by c.tenant_id
    union all
    select h.tenant_id, h.seq, 'missing: the end of the chain' from sluice.audit_heads h
    where (of is null or h.tenant_id = of)
      and not exists (select from sluice.audit_entries e where e.tenant_id = h.tenant_id and e.seq = h.seq and e.hash = h.hash)
    union all
    select e.tenant_id, max(e.seq), 'unlinked: the chain goes on after its head' from sluice.audit_entries e left join sluice.audit_heads h on h.tenant_id = e.tenant_id
    where of is null or e.tenant_id = of group by e.tenant_id, h.seq having max(e.seq) > coalesce(h.seq, 0)
    order by 1, 2;
end $$;

alter function sluice.audit_note(uuid, text, uuid, text, jsonb, jsonb) owner to sluice_auditor;
alter function sluice.audit_noted(text, uuid, text, jsonb, jsonb) owner to sluice_auditor;
alter function sluice.audit_write() owner to sluice_auditor;
alter function sluice.audit_row() owner to sluice_auditor;
alter function sluice.audit_faults(uuid) owner to sluice_auditor;
alter function sluice.audit_hash(sluice.audit_entries) owner to sluice_auditor;
alter function sluice.audit_changes_hash(uuid, uuid) owner to sluice_auditor;
alter function sluice.audit_actor() owner to sluice_auditor;
revoke create on schema sluice from sluice_auditor;
revoke all on function sluice.audit_moved(), sluice.audit_kept(), sluice.audit_erased(), sluice.audit_hash(sluice.audit_entries), sluice.audit_changes_hash(uuid, uuid), sluice.audit_actor(),
    sluice.audit_note(uuid, text, uuid, text, jsonb, jsonb), sluice.audit_noted(text, uuid, text, jsonb, jsonb), sluice.audit_write(), sluice.audit_row(), sluice.audit_faults(uuid) from public;
grant execute on function sluice.audit_noted(text, uuid, text, jsonb, jsonb) to sluice_app;
grant execute on function sluice.audit_note(uuid, text, uuid, text, jsonb, jsonb), sluice.audit_faults(uuid) to sluice_system;

create constraint trigger audit_write after insert on sluice.audit_changes deferrable initially deferred for each row execute function sluice.audit_write();

create trigger audit after insert or update on sluice.tenants for each row execute function sluice.audit_row('tenant', '', 'version');
create trigger audit after insert or update of role, name, revoked_at or delete on sluice.keys for each row execute function sluice.audit_row('key', 'id', 'hash,last_used_at');
create trigger audit after insert or update of name, revoked_at or delete on sluice.operator_keys for each row execute function sluice.audit_row('operator_key', 'id', 'hash,last_used_at');
create trigger audit after insert or update or delete on sluice.credentials for each row execute function sluice.audit_row('credential', 'id', 'sealed,version');
create trigger audit after insert or update or delete on sluice.endpoints for each row execute function sluice.audit_row('endpoint', 'id', 'token,version');
create trigger audit after insert or update of sealed, expires_at or delete on sluice.endpoint_secrets for each row execute function sluice.audit_row('endpoint_secret', 'id', 'sealed,last_used_at');
create trigger audit after insert or update or delete on sluice.automations for each row execute function sluice.audit_row('automation', 'id', 'version');
create trigger audit after insert or update or delete on sluice.automation_versions for each row execute function sluice.audit_row('automation_version', 'automation_id', 'behaviour');
create trigger audit after insert or update or delete on sluice.limits for each row execute function sluice.audit_row('limits', '', 'version');
create trigger audit after insert or update or delete on sluice.limit_raises for each row execute function sluice.audit_row('limit_raise', 'id', '');
create trigger audit after insert or update of name, kind, target, sealed, kinds or delete on sluice.alert_channels for each row execute function sluice.audit_row('alert_channel', 'id', 'sealed,last_at,last_fault');
create trigger audit after insert or update or delete on sluice.reviews for each row execute function sluice.audit_row('review', 'run_id', 'diff');
create trigger audit after insert on sluice.replays for each row execute function sluice.audit_row('replay', 'id', 'position,paced_at');
create trigger audit_ended after update of status on sluice.replays for each row when (old.status is distinct from new.status and new.status <> 'done')
    execute function sluice.audit_row('replay', 'id', 'position,paced_at');

-- Every chain begins now, so that one that is not there is missed; that of the operator's keys is the zero uuid's.
do $$
begin
    alter table sluice.tenants no force row level security;
    perform sluice.audit_note(x.tenant_id, case when x.tenant_id = '00000000-0000-0000-0000-000000000000' then 'operator' else 'tenant' end, x.tenant_id, 'begin', null, null)
    from (select tenant_id from sluice.tenants union all select '00000000-0000-0000-0000-000000000000') x;
    set constraints all immediate;
    set constraints all deferred;
    perform set_config('sluice.audit_entry', '', true);
    alter table sluice.tenants force row level security;
end $$;

-- Erasure learns of it.
create or replace function sluice.tenant_erase(erased uuid) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('sluice.tenant_id', erased::text, true);
    -- First out of reach, then gone: no statement that comes after this one finds the tenant active. Its own entry of the audit is written after that.
    update sluice.tenants set status = 'erased', name = 'erased', updated_at = now(), version = version + 1 where tenant_id = erased;
    -- What was changed, and from what to what, goes; that it was changed, when and by whom, stays, as the ledger does.
    delete from sluice.audit_changes where tenant_id = erased and entry_id is distinct from nullif(current_setting('sluice.audit_entry', true), '')::uuid;
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

-- Doctor ---------------------------------------------------------------------------------------------------------------

-- What the doctor compares over all tenants: ids, states, times and counts. No body, no output, no effect, no secret.
create policy doctor on sluice.event_keys for select to sluice_system using (true);
create policy doctor on sluice.event_payloads for select to sluice_system using (true);
create policy doctor on sluice.run_history for select to sluice_system using (true);
grant select on sluice.event_keys to sluice_system;
grant select (tenant_id, event_id, body_of) on sluice.event_payloads to sluice_system;
grant select (tenant_id, run_id, position, status) on sluice.run_history to sluice_system;
grant select (source_event_id, received_at, verdicts) on sluice.events to sluice_system;
grant select (event_id, purpose, forced, entity, ordered_at, order_sequence, started_at) on sluice.runs to sluice_system;
grant select (kind, key, target) on sluice.actions to sluice_system;
grant select (reserved_tokens, reserved_pico) on sluice.calls to sluice_system;
grant select (queue, priority, scheduled_at, created_at) on river.river_job to sluice_system;
grant select (expires_at) on river.river_leader to sluice_system;
-- Few at any time, and each waits for a person.
create index actions_unknown on sluice.actions (ended_at) where state = 'unknown';

-- Keys -----------------------------------------------------------------------------------------------------------------

-- Which master key a data key is wrapped by: the first bytes of a MAC under that key, in hex, so that those under an old one can be counted without
-- any key. Null where a binary wrapped it that did not say.
alter table sluice.tenant_keysets add column master_mark text check (master_mark ~ '^[0-9a-f]{8}$');
grant update (wrapped, master_mark) on sluice.tenant_keysets to sluice_system;
grant update (sealed) on sluice.endpoint_secrets, sluice.alert_channels to sluice_app;

-- A tenant that has not been erased. What hangs on a tenant hangs on this row and not on the tenant's own, which stays: whatever was under way while
-- the tenant was erased cannot write another row of it afterwards, from whatever process and cache it comes.
create table sluice.living (
    tenant_id uuid primary key references sluice.tenants
);
select sluice.protect('sluice.living');
create policy system on sluice.living to sluice_system using (true) with check (true);
grant select on sluice.living to sluice_app;
grant select, insert, delete on sluice.living to sluice_system;

create function sluice.tenant_lives() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into sluice.living (tenant_id) values (new.tenant_id);
    return null;
end $$;
revoke all on function sluice.tenant_lives() from public;
-- Triggers run by the order of their names: it lives before it is made.
create trigger tenant_lives after insert on sluice.tenants for each row execute function sluice.tenant_lives();

do $$
declare
    hangs record;
    t uuid;
begin
    -- The migration reads all tenants, past their row security, and puts each one's row under the tenant's own.
    alter table sluice.tenants no force row level security;
    for t in select tenant_id from sluice.tenants where status <> 'erased' loop
        perform set_config('sluice.tenant_id', t::text, true);
        insert into sluice.living (tenant_id) values (t);
    end loop;
    -- What came back of one that was erased goes again.
    for t in select tenant_id from sluice.tenants where status = 'erased' loop
        perform sluice.tenant_erase(t);
    end loop;
    alter table sluice.tenants force row level security;
    perform set_config('sluice.tenant_id', '', true);
    -- What is there is checked by a query of the owner's, which must see both tables.
    alter table sluice.living no force row level security;
    for hangs in
        select c.conrelid::regclass as child, c.conname as name from pg_constraint c
        where c.contype = 'f' and c.confrelid = 'sluice.tenants'::regclass and c.conrelid <> 'sluice.living'::regclass
    loop
        execute format('alter table %s no force row level security', hangs.child);
        execute format('alter table %s drop constraint %I', hangs.child, hangs.name);
        execute format('alter table %s add constraint %I foreign key (tenant_id) references sluice.living', hangs.child, hangs.name);
        execute format('alter table %s force row level security', hangs.child);
    end loop;
    alter table sluice.living force row level security;
end $$;

-- Before a tenant is erased: waits for what is being written of it, and lets nothing begin that would hang on what is about to go. From the top down,
-- as those who write take their locks. A call whose reply is still to come was sent, and will be billed: it is booked as the most it may cost.
create function sluice.tenant_close(erased uuid) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('sluice.tenant_id', erased::text, true);
    perform from sluice.living where tenant_id = erased for update;
    perform from sluice.endpoints where tenant_id = erased order by id for update;
    perform from sluice.automation_versions where tenant_id = erased order by automation_id, version for update;
    perform from sluice.replays where tenant_id = erased order by id for update;
    perform from sluice.runs where tenant_id = erased order by id for update;
    perform from sluice.actions where tenant_id = erased order by id for update;
    perform from sluice.alerts where tenant_id = erased order by id for update;
    perform from sluice.alert_channels where tenant_id = erased order by id for update;
    update sluice.calls set state = 'orphaned', ended_at = clock_timestamp(), error_kind = 'erased', input_uncached = input_estimate,
        output_visible = max_output_tokens, cost_pico = reserved_pico
    where tenant_id = erased and state = 'sent';
    insert into sluice.ledger_entries (tenant_id, id, kind, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider,
        model_asked, model_served, price_id, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning,
        amount_pico)
    select c.tenant_id,
        -- A UUIDv7, as all ids are.
        overlay(overlay(gen_random_uuid()::text placing overlay(lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') placing '-' from 9 for 0)
            from 1 for 13) placing '7' from 15 for 1)::uuid,
        'orphan', c.id, r.id, r.event_id, r.endpoint_id, r.automation_id, r.automation_version, c.provider, c.model_asked, c.model_served, c.price_id,
        c.input_uncached, 0, 0, 0, c.output_visible, 0, c.cost_pico
    from sluice.calls c join sluice.runs r on r.tenant_id = c.tenant_id and r.id = c.run_id
    where c.tenant_id = erased and c.error_kind = 'erased';
    perform set_config('sluice.tenant_id', '', true);
end $$;
revoke all on function sluice.tenant_close(uuid) from public;
grant execute on function sluice.tenant_close(uuid) to sluice_system;

-- Isolation ------------------------------------------------------------------------------------------------------------

-- The owner is a member of sluice_intake and sluice_auditor, so that it can hand functions over to them, and a policy for a role holds for its members
-- too: functions with the owner's rights, an erasure above all, saw other tenants' rows where these two do. They are meant for the two themselves.
do $$
declare
    p record;
begin
    for p in
        select polrelid::regclass as held, polname, polroles[1]::regrole as whose, polqual is not null as reads, polwithcheck is not null as writes
        from pg_policy where polroles <@ array['sluice_intake'::regrole::oid, 'sluice_auditor'::regrole::oid]
    loop
        execute format('alter policy %I on %s', p.polname, p.held) || case when p.reads then format(' using (current_user = %L)', p.whose) else '' end
            || case when p.writes then format(' with check (current_user = %L)', p.whose) else '' end;
    end loop;
end $$;
