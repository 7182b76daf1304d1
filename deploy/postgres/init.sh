#!/bin/bash
# Makes the database's logins, once, when the data directory is empty: one that
# migrates, and one that serves and works and owns nothing. Their passwords come
# from /run/secrets.
set -euo pipefail

psql -v ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" <<'SQL'
\set migrate_password `cat /run/secrets/database_migrate_password`
\set serve_password `cat /run/secrets/database_serve_password`

create role sluice_migrate login createrole password :'migrate_password';
create role sluice_serve login password :'serve_password';

-- The rooms' roles, as migrations/roles.sql makes them where they are missing.
create role sluice_owner nologin;
create role sluice_app nologin;
create role sluice_worker nologin in role sluice_app;
create role sluice_system nologin;
create role sluice_billing nologin;
create role sluice_door nologin;
create role sluice_intake nologin;
grant sluice_owner, sluice_app, sluice_worker, sluice_system, sluice_billing, sluice_door, sluice_intake to sluice_migrate with admin option;
grant sluice_app, sluice_door, sluice_worker, sluice_system to sluice_serve;

-- From 16 on, who makes a role is not by that in it.
select current_setting('server_version_num')::int >= 160000 as self_grant \gset
\if :self_grant
alter role sluice_migrate set createrole_self_grant = 'set, inherit';
\endif

create database sluice owner sluice_migrate;
revoke connect, temporary on database sluice from public;
grant connect on database sluice to sluice_serve, sluice_billing;
SQL
