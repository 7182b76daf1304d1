-- The cluster's roles, which outlive any one database, and this database's two schemas. Run by every `migrate up`
-- before the numbered files; every statement is safe to repeat, and all of them are one transaction. No lock of Postgres
-- spans the databases of a cluster: who meets another migration here fails, and migrations.go tries again.
do $$
declare
    r text;
    server_version int := current_setting('server_version_num')::int;
begin
    foreach r in array array['sluice_owner', 'sluice_app', 'sluice_worker', 'sluice_system', 'sluice_billing', 'sluice_door', 'sluice_intake', 'sluice_auditor'] loop
        if not exists (select from pg_roles where rolname = r) then
            execute format('create role %I nologin nosuperuser nobypassrls nocreatedb nocreaterole', r);
        end if;
        -- The one who migrates, and the login that serves, step into these roles; a role that is one's own already is left alone.
        -- From 16 on, who makes a role may grant it but not step into it, until it grants itself that.
        if r <> current_user and not pg_has_role(current_user, r, case when server_version >= 160000 then 'set' else 'member' end) then
            execute format('grant %I to current_user', r);
        end if;
    end loop;
    -- A worker is the application, plus River's tables.
    if not pg_has_role('sluice_worker', 'sluice_app', 'member') then
        grant sluice_app to sluice_worker;
    end if;
    -- The owner hands functions over to sluice_intake and sluice_auditor, for which it must be able to step into them.
    foreach r in array array['sluice_intake', 'sluice_auditor'] loop
        if not pg_has_role('sluice_owner', r, case when server_version >= 160000 then 'set' else 'member' end) then
            execute format('grant %I to sluice_owner', r);
        end if;
    end loop;
    execute format('grant create, connect on database %I to sluice_owner', current_database());
end $$;

create schema if not exists sluice authorization sluice_owner;
create schema if not exists river authorization sluice_owner;
