-- The tables of Sluice. Three rules hold for each that belongs to a tenant:
--   * its key is (tenant_id, id), and so is every foreign key to it: no id of another tenant can be linked;
--   * every unique index begins with tenant_id: a collision never tells of another tenant, and row security uses the index;
--   * row security is enabled and forced, with one policy for everybody, made by sluice.protect() below.
-- The few acts across tenants belong to sluice_system, by policies of its own, at the end of this file.

revoke all on schema sluice from public;
grant usage on schema sluice to sluice_app, sluice_worker, sluice_system, sluice_billing;

-- One policy, of one form. Unset and empty see nothing: after a commit the local setting is '', not null.
create function sluice.protect(t regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s enable row level security', t);
    execute format('alter table %s force row level security', t);
    execute format($p$create policy tenant on %s
        using (tenant_id = (select nullif(current_setting('sluice.tenant_id', true), '')::uuid))
        with check (tenant_id = (select nullif(current_setting('sluice.tenant_id', true), '')::uuid))$p$, t);
end $$;

-- Who ------------------------------------------------------------------------------------------------------------------

-- A tenant is its own tenant_id, so that it falls under the same policy as what it owns.
create table sluice.tenants (
    tenant_id  uuid primary key,
    name       text not null check (length(name) between 1 and 200),
    time_zone  text not null default 'UTC',
    status     text not null default 'active' check (status in ('active', 'suspended', 'erased')),
    version    int not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
select sluice.protect('sluice.tenants');
grant select on sluice.tenants to sluice_app;

-- The tenant's data key, wrapped by the master key. Deleting the row makes every secret of the tenant unreadable.
create table sluice.tenant_keysets (
    tenant_id  uuid primary key references sluice.tenants,
    wrapped    bytea not null,
    created_at timestamptz not null default now()
);
select sluice.protect('sluice.tenant_keysets');
grant select on sluice.tenant_keysets to sluice_app;

create table sluice.keys (
    tenant_id    uuid not null references sluice.tenants,
    id           uuid not null,
    name         text not null,
    role         text not null check (role in ('admin', 'editor', 'viewer')),
    hash         bytea not null check (length(hash) = 32),
    last4        text not null,
    created_at   timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at   timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, hash)
);
create index keys_hash on sluice.keys (hash);
select sluice.protect('sluice.keys');
grant select, insert on sluice.keys to sluice_app;
grant update (revoked_at) on sluice.keys to sluice_app;

-- The operator's own keys. They belong to no tenant, and only sluice_system sees them.
create table sluice.operator_keys (
    id           uuid primary key,
    name         text not null,
    hash         bytea not null unique check (length(hash) = 32),
    last4        text not null,
    created_at   timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at   timestamptz
);

-- Answers to POSTs that carried an Idempotency-Key. The answer is sealed: it may hold a secret that is shown once.
create table sluice.idempotency_keys (
    tenant_id    uuid not null references sluice.tenants,
    key          text not null check (length(key) between 1 and 255),
    request_hash bytea not null,
    answer       bytea,
    created_at   timestamptz not null default now(),
    primary key (tenant_id, key)
);
select sluice.protect('sluice.idempotency_keys');
grant select, insert, update (answer) on sluice.idempotency_keys to sluice_app;

create table sluice.operator_idempotency_keys (
    key          text primary key check (length(key) between 1 and 255),
    request_hash bytea not null,
    tenant_id    uuid not null,
    answer       bytea,
    created_at   timestamptz not null default now()
);

-- What a tenant sets up ------------------------------------------------------------------------------------------------

create table sluice.credentials (
    tenant_id  uuid not null references sluice.tenants,
    id         uuid not null,
    name       text not null,
    kind       text not null,
    sealed     bytea not null,
    last4      text not null,
    version    int not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, id)
);
select sluice.protect('sluice.credentials');
grant select, insert, delete on sluice.credentials to sluice_app;
grant update (name, sealed, last4, version, updated_at) on sluice.credentials to sluice_app;

create table sluice.endpoints (
    tenant_id  uuid not null references sluice.tenants,
    id         uuid not null,
    name       text not null,
    source     text not null,
    token      text not null,
    settings   jsonb not null default '{}',
    enabled    boolean not null default true,
    version    int not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, token)
);
create index endpoints_token on sluice.endpoints (token) where deleted_at is null;
select sluice.protect('sluice.endpoints');
grant select, insert on sluice.endpoints to sluice_app;
grant update (name, settings, enabled, version, updated_at, deleted_at) on sluice.endpoints to sluice_app;

create table sluice.endpoint_secrets (
    tenant_id    uuid not null,
    id           uuid not null,
    endpoint_id  uuid not null,
    sealed       bytea not null,
    last4        text not null,
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, endpoint_id) references sluice.endpoints
);
create index endpoint_secrets_endpoint on sluice.endpoint_secrets (tenant_id, endpoint_id);
select sluice.protect('sluice.endpoint_secrets');
grant select, insert on sluice.endpoint_secrets to sluice_app;
grant update (expires_at, last_used_at) on sluice.endpoint_secrets to sluice_app;

create table sluice.automations (
    tenant_id   uuid not null,
    id          uuid not null,
    endpoint_id uuid not null,
    name        text not null,
    version     int not null default 1,
    enabled     boolean not null default true,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    deleted_at  timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, endpoint_id) references sluice.endpoints
);
create index automations_endpoint on sluice.automations (tenant_id, endpoint_id) where deleted_at is null;
select sluice.protect('sluice.automations');
grant select, insert on sluice.automations to sluice_app;
grant update (name, endpoint_id, version, enabled, updated_at, deleted_at) on sluice.automations to sluice_app;

-- What an automation said at each version; never changed, since runs name the version they used.
create table sluice.automation_versions (
    tenant_id     uuid not null,
    automation_id uuid not null,
    version       int not null,
    spec          jsonb not null,
    created_by    uuid,
    created_at    timestamptz not null default now(),
    primary key (tenant_id, automation_id, version),
    foreign key (tenant_id, automation_id) references sluice.automations
);
select sluice.protect('sluice.automation_versions');
grant select, insert on sluice.automation_versions to sluice_app;

-- What came in ---------------------------------------------------------------------------------------------------------

-- The idempotency keys of events: they never expire, and outlive the event that a retention may drop.
-- kind 'id' is the source's event id; kind 'body' the SHA-256 of the raw body, where the id is not under the signature.
create table sluice.event_keys (
    tenant_id       uuid not null references sluice.tenants,
    endpoint_id     uuid not null,
    kind            text not null check (kind in ('id', 'body')),
    key             text not null,
    event_id        uuid not null,
    primary key (tenant_id, endpoint_id, kind, key)
);
select sluice.protect('sluice.event_keys');
grant select, insert on sluice.event_keys to sluice_app;

create table sluice.events (
    tenant_id       uuid not null,
    id              uuid not null,
    endpoint_id     uuid not null,
    source          text not null,
    source_event_id text not null,
    type            text not null,
    entity          text not null default '',
    sequence        bigint,
    occurred_at     timestamptz,
    received_at     timestamptz not null default now(),
    secret_id       uuid,
    test            boolean not null default false,
    body_bytes      int not null,
    body_sha256     bytea not null,
    -- One object for each automation of the endpoint: which version, whether its filter matched, and if not, why.
    verdicts        jsonb not null default '[]',
    trace_id        text not null default '',
    primary key (tenant_id, id),
    foreign key (tenant_id, endpoint_id) references sluice.endpoints
);
create index events_source_event_id on sluice.events (tenant_id, source_event_id);
create index events_entity on sluice.events (tenant_id, entity, id) where entity <> '';
select sluice.protect('sluice.events');
grant select, insert on sluice.events to sluice_app;

-- The raw body, byte for byte, apart from the event: it is large, and may be kept for a shorter time.
create table sluice.event_payloads (
    tenant_id   uuid not null,
    event_id    uuid not null,
    received_at timestamptz not null default now(),
    headers     jsonb not null,
    body        bytea not null,
    -- The JSON document that templates see, where it is not the body itself (a form that carries it, for example).
    document    bytea,
    primary key (tenant_id, event_id),
    foreign key (tenant_id, event_id) references sluice.events
);
select sluice.protect('sluice.event_payloads');
grant select, insert on sluice.event_payloads to sluice_app;

-- Refused deliveries: one row for an endpoint, a reason and a minute, however many there were, with one sample.
create table sluice.rejections (
    tenant_id   uuid not null,
    endpoint_id uuid not null,
    reason      text not null,
    minute      timestamptz not null,
    count       bigint not null,
    sample      jsonb not null,
    first_at    timestamptz not null,
    last_at     timestamptz not null,
    primary key (tenant_id, endpoint_id, reason, minute),
    foreign key (tenant_id, endpoint_id) references sluice.endpoints
);
create index rejections_minute on sluice.rejections (tenant_id, minute);
select sluice.protect('sluice.rejections');
grant select, insert, update (count, last_at) on sluice.rejections to sluice_app;

-- What is done with it -------------------------------------------------------------------------------------------------

create table sluice.runs (
    tenant_id          uuid not null,
    id                 uuid not null,
    event_id           uuid not null,
    endpoint_id        uuid not null,
    automation_id      uuid not null,
    automation_version int not null,
    generation         int not null default 0,
    mode               text not null check (mode in ('shadow', 'review', 'live')),
    priority           text not null check (priority in ('urgent', 'routine')),
    status             text not null default 'queued' check (status in
                       ('queued', 'running', 'waiting', 'held', 'in_review', 'acting', 'done', 'skipped', 'dead', 'cancelled')),
    reason             text not null default '',
    detail             text not null default '',
    until              timestamptz,
    attempt            int not null default 0,
    attempts_max       int not null default 5 check (attempts_max between 1 and 20),
    epoch              bigint not null default 0,
    lease_until        timestamptz,
    output             jsonb,
    cost_pico          bigint not null default 0,
    created_at         timestamptz not null default now(),
    started_at         timestamptz,
    finished_at        timestamptz,
    updated_at         timestamptz not null default now(),
    primary key (tenant_id, id),
    unique (tenant_id, event_id, automation_id, generation),
    foreign key (tenant_id, event_id) references sluice.events,
    foreign key (tenant_id, automation_id, automation_version) references sluice.automation_versions,
    constraint reason_said check (status in ('queued', 'running', 'done') or reason <> ''),
    constraint lease_held check ((status = 'running') = (lease_until is not null)),
    constraint ended check ((status in ('done', 'skipped', 'dead', 'cancelled')) = (finished_at is not null))
);
create index runs_status on sluice.runs (tenant_id, status, id);
-- What the reconciler looks at, over all tenants: small, since a run leaves it when it ends.
create index runs_open on sluice.runs (updated_at) where finished_at is null;
select sluice.protect('sluice.runs');
grant select, insert on sluice.runs to sluice_app;
grant update (status, reason, detail, until, attempt, attempts_max, epoch, lease_until, output, cost_pico, started_at, finished_at, updated_at)
    on sluice.runs to sluice_app;

-- The state machine of a run: this table is all of it, and the trigger below refuses any other step.
create table sluice.run_steps (
    from_status text not null,
    to_status   text not null,
    what        text not null,
    primary key (from_status, to_status)
);
insert into sluice.run_steps values
    ('queued',    'running',   'a worker claims it'),
    ('queued',    'cancelled', 'a person cancels it'),
    ('queued',    'dead',      'its attempts are used up'),
    ('running',   'queued',    'its worker stops, and gives it back'),
    ('running',   'waiting',   'the provider is away or says wait, or an attempt failed'),
    ('running',   'held',      'a limit holds it'),
    ('running',   'in_review', 'a person is to decide'),
    ('running',   'acting',    'the outcome stands, its effect is to be made'),
    ('running',   'done',      'the outcome stands, and nothing is to be sent'),
    ('running',   'skipped',   'it is not to be done'),
    ('running',   'dead',      'it cannot be done, or its attempts are used up'),
    ('running',   'cancelled', 'a person cancels it'),
    ('waiting',   'running',   'a worker claims it again'),
    ('waiting',   'queued',    'a person will not wait'),
    ('waiting',   'dead',      'its attempts are used up'),
    ('waiting',   'cancelled', 'a person cancels it'),
    ('held',      'queued',    'the limit lets it go on'),
    ('held',      'skipped',   'the automation drops what is over a limit'),
    ('held',      'dead',      'it was held too long'),
    ('held',      'cancelled', 'a person cancels it'),
    ('in_review', 'acting',    'a person approves'),
    ('in_review', 'done',      'a person approves, and nothing is to be sent'),
    ('in_review', 'skipped',   'a person rejects, or the time is over'),
    ('in_review', 'cancelled', 'a person cancels it'),
    ('acting',    'done',      'the effect is confirmed'),
    ('acting',    'dead',      'the effect was refused, or its attempts are used up'),
    ('acting',    'cancelled', 'a person cancels it'),
    ('dead',      'queued',    'a person retries it'),
    ('dead',      'acting',    'a person retries its effect');
grant select on sluice.run_steps to sluice_app, sluice_system;

-- Every step of a run, for the people who ask what happened. Written by the trigger, so that no step is left out.
create table sluice.run_history (
    tenant_id uuid not null,
    run_id    uuid not null,
    position  bigint generated always as identity,
    at        timestamptz not null default clock_timestamp(),
    status    text not null,
    reason    text not null,
    detail    text not null,
    until     timestamptz,
    attempt   int not null,
    epoch     bigint not null,
    primary key (tenant_id, run_id, position),
    foreign key (tenant_id, run_id) references sluice.runs
);
select sluice.protect('sluice.run_history');
grant select, insert on sluice.run_history to sluice_app;

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
create trigger run_step after insert or update on sluice.runs for each row execute function sluice.run_step();

-- Prices: pico-USD (1e-12) for one token; a row is never changed but for its end, and a call names the row it was priced by.
create table sluice.prices (
    id                  bigint primary key,
    provider            text not null,
    model               text not null,
    tier_above          bigint not null default 0 check (tier_above >= 0),
    effective_from      timestamptz not null,
    effective_to        timestamptz check (effective_to > effective_from),
    input_pico          bigint not null check (input_pico >= 0),
    cache_read_pico     bigint check (cache_read_pico >= 0),
    cache_write_5m_pico bigint check (cache_write_5m_pico >= 0),
    cache_write_1h_pico bigint check (cache_write_1h_pico >= 0),
    output_pico         bigint not null check (output_pico >= 0),
    source              text not null,
    unique (provider, model, tier_above, effective_from)
);
grant select on sluice.prices to sluice_app, sluice_system, sluice_billing;
create function sluice.price_kept() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'DELETE' or (to_jsonb(new) - 'effective_to') <> (to_jsonb(old) - 'effective_to') or old.effective_to is not null then
        raise exception 'price %: a price row is never changed: end it, and insert the next', old.id using errcode = '23514';
    end if;
    return new;
end $$;
create trigger price_kept before update or delete on sluice.prices for each row execute function sluice.price_kept();

-- One request to a model. intended: about to be sent; sent: it may have reached the provider; received: the reply is here;
-- failed: the provider answered with an error, nothing was billed; orphaned: sent, and nobody knows what became of it.
create table sluice.calls (
    tenant_id           uuid not null,
    id                  uuid not null,
    run_id              uuid not null,
    ordinal             int not null,
    epoch               bigint not null,
    state               text not null check (state in ('intended', 'sent', 'received', 'failed', 'orphaned')),
    provider            text not null,
    model_asked         text not null,
    model_served        text not null default '',
    credential_id       uuid,
    price_id            bigint not null references sluice.prices,
    request_sha256      bytea not null,
    input_estimate      bigint not null,
    max_output_tokens   bigint not null,
    input_uncached      bigint not null default 0 check (input_uncached >= 0),
    input_cache_read    bigint not null default 0 check (input_cache_read >= 0),
    input_cache_write_5m bigint not null default 0 check (input_cache_write_5m >= 0),
    input_cache_write_1h bigint not null default 0 check (input_cache_write_1h >= 0),
    output_visible      bigint not null default 0 check (output_visible >= 0),
    output_reasoning    bigint not null default 0 check (output_reasoning >= 0),
    cost_pico           bigint not null default 0 check (cost_pico >= 0),
    usage_raw           jsonb,
    usage_fault         text not null default '',
    finish              text not null default '',
    response_id         text not null default '',
    response_text       text,
    error_kind          text not null default '',
    error_status        int not null default 0,
    created_at          timestamptz not null default clock_timestamp(),
    sent_at             timestamptz,
    ended_at            timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, run_id, ordinal),
    foreign key (tenant_id, run_id) references sluice.runs
);
select sluice.protect('sluice.calls');
grant select, insert on sluice.calls to sluice_app;
grant update (state, price_id, model_served, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning,
    cost_pico, usage_raw, usage_fault, finish, response_id, response_text, error_kind, error_status, sent_at, ended_at) on sluice.calls to sluice_app;

-- Cost, append-only. It names what it was for, and refers to nothing that a retention or an erasure may drop.
create table sluice.ledger_entries (
    tenant_id          uuid not null,
    id                 uuid not null,
    kind               text not null check (kind in ('charge', 'orphan', 'adjust')),
    at                 timestamptz not null default now(),
    call_id            uuid not null,
    run_id             uuid not null,
    event_id           uuid not null,
    endpoint_id        uuid not null,
    automation_id      uuid not null,
    automation_version int not null,
    provider           text not null,
    model_asked        text not null,
    model_served       text not null,
    price_id           bigint not null references sluice.prices,
    input_uncached       bigint not null,
    input_cache_read     bigint not null,
    input_cache_write_5m bigint not null,
    input_cache_write_1h bigint not null,
    output_visible       bigint not null,
    output_reasoning     bigint not null,
    amount_pico        bigint not null,
    primary key (tenant_id, id),
    unique (tenant_id, call_id, kind)
);
create index ledger_entries_at on sluice.ledger_entries (tenant_id, at);
select sluice.protect('sluice.ledger_entries');
grant select, insert on sluice.ledger_entries to sluice_app;
create function sluice.ledger_kept() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is append-only: post an adjust entry instead' using errcode = '23514';
end $$;
create trigger ledger_kept before update or delete or truncate on sluice.ledger_entries for each statement execute function sluice.ledger_kept();

-- One effect outside. intended: to be sent; in_flight: it may have arrived; confirmed: the target took it;
-- failed: it did not, and will not be tried again; unknown: nobody can tell; withheld: shadow, never to be sent.
create table sluice.actions (
    tenant_id     uuid not null,
    id            uuid not null,
    run_id        uuid not null,
    kind          text not null,
    key           text not null,
    target        text not null,
    credential_id uuid,
    effect        jsonb not null,
    state         text not null default 'intended' check (state in ('intended', 'in_flight', 'confirmed', 'failed', 'unknown', 'withheld')),
    reason        text not null default '',
    detail        text not null default '',
    attempt       int not null default 0,
    attempts_max  int not null default 8,
    epoch         bigint not null default 0,
    lease_until   timestamptz,
    until         timestamptz,
    receipt       jsonb,
    created_at    timestamptz not null default clock_timestamp(),
    updated_at    timestamptz not null default now(),
    ended_at      timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, key),
    foreign key (tenant_id, run_id) references sluice.runs
);
create index actions_run on sluice.actions (tenant_id, run_id);
create index actions_open on sluice.actions (updated_at) where ended_at is null;
select sluice.protect('sluice.actions');
grant select, insert on sluice.actions to sluice_app;
grant update (state, reason, detail, attempt, attempts_max, epoch, lease_until, until, receipt, updated_at, ended_at) on sluice.actions to sluice_app;

-- Every try at an effect: what the target answered.
create table sluice.action_attempts (
    tenant_id uuid not null,
    action_id uuid not null,
    attempt   int not null,
    sent_at   timestamptz not null default clock_timestamp(),
    ended_at  timestamptz,
    status    int not null default 0,
    reason    text not null default '',
    detail    text not null default '',
    primary key (tenant_id, action_id, attempt),
    foreign key (tenant_id, action_id) references sluice.actions
);
select sluice.protect('sluice.action_attempts');
grant select, insert on sluice.action_attempts to sluice_app;
grant update (ended_at, status, reason, detail) on sluice.action_attempts to sluice_app;

-- Across tenants -------------------------------------------------------------------------------------------------------

-- sluice_system finds who is asking (a key, a token), makes and changes tenants, and finds runs and actions that nobody works on.
create policy system on sluice.tenants to sluice_system using (true) with check (true);
create policy system on sluice.tenant_keysets to sluice_system using (true) with check (true);
create policy system on sluice.keys to sluice_system using (true) with check (true);
create policy system on sluice.endpoints for select to sluice_system using (true);
create policy system on sluice.endpoint_secrets for select to sluice_system using (true);
create policy system on sluice.automations for select to sluice_system using (true);
create policy system on sluice.automation_versions for select to sluice_system using (true);
create policy system on sluice.runs for select to sluice_system using (true);
create policy system on sluice.actions for select to sluice_system using (true);

grant select, insert, update on sluice.tenants to sluice_system;
grant select, insert on sluice.tenant_keysets to sluice_system;
grant select, insert on sluice.keys to sluice_system;
grant update (last_used_at) on sluice.keys to sluice_system;
grant select, insert, update on sluice.operator_keys to sluice_system;
grant select, insert, update on sluice.operator_idempotency_keys to sluice_system;
grant select on sluice.endpoints, sluice.endpoint_secrets, sluice.automations, sluice.automation_versions to sluice_system;
grant select (tenant_id, id, status, until, lease_until, updated_at, finished_at) on sluice.runs to sluice_system;
grant select (tenant_id, id, run_id, state, until, lease_until, updated_at, ended_at) on sluice.actions to sluice_system;

-- Erases all that a tenant owns but its ledger, which names no content and is kept for the books. The tenant's row stays, without
-- its name. Runs as the owner of the tables, under the tenant's own row security: it can reach no other tenant's rows.
create function sluice.tenant_erase(erased uuid) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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
    delete from sluice.automation_versions where tenant_id = erased;
    delete from sluice.automations where tenant_id = erased;
    delete from sluice.endpoint_secrets where tenant_id = erased;
    delete from sluice.endpoints where tenant_id = erased;
    delete from sluice.credentials where tenant_id = erased;
    perform set_config('sluice.tenant_id', '', true);
end $$;
revoke all on function sluice.tenant_erase(uuid) from public;
grant execute on function sluice.tenant_erase(uuid) to sluice_system;
revoke all on function sluice.protect(regclass) from public;
revoke all on function sluice.run_step() from public;
revoke all on function sluice.price_kept() from public;
revoke all on function sluice.ledger_kept() from public;

-- What the billing system reads: every tenant's entries, through one view with the reader's own rights.
create policy billing on sluice.ledger_entries for select to sluice_billing using (true);
grant select on sluice.ledger_entries to sluice_billing;
create view sluice.billing_entries with (security_invoker = true) as
    select tenant_id, id as entry_id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version,
           provider, model_asked, model_served, price_id,
           input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning,
           amount_pico, (amount_pico::numeric / 1000000000000)::numeric(30, 12) as amount_usd
    from sluice.ledger_entries;
grant select on sluice.billing_entries to sluice_billing;

-- River's tables hold every tenant's jobs, so the application may add one and read none; a worker works them.
grant usage on schema river to sluice_app, sluice_worker, sluice_system;
grant insert on river.river_job to sluice_app, sluice_system;
grant usage on sequence river.river_job_id_seq to sluice_app, sluice_system;
grant select, insert, update, delete on all tables in schema river to sluice_worker;
grant usage on all sequences in schema river to sluice_worker;
grant execute on all functions in schema river to sluice_app, sluice_worker, sluice_system;
-- Every process asks how far River's tables are before it serves.
grant select on river.river_migration to sluice_app, sluice_system;
-- The reconciler asks whether a run still has a live job.
grant select (id, kind, state, args) on river.river_job to sluice_system;
-- A queue's table turns over as fast as the work: vacuum and analyse it by count, not by share (queue.md, plan-cache pitfall).
alter table river.river_job set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
