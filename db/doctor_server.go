package db

import (
	"context"
	"fmt"
	"time"
)

// What it all stands on: River, the server, its clock.

// doctorLeaderSQL: where nobody leads, what waits for a retry or for its time is not brought back. River's table of leaders is empty after a crash.
const doctorLeaderSQL = `
select null::uuid as tenant_id, null::uuid as id, 'no worker leads, and jobs wait' as what, (select max(expires_at) from river.river_leader) as since
where not exists (select from river.river_leader where expires_at > now() - @grace::interval)
  and exists (select from river.river_job where state in ('available', 'retryable', 'scheduled') and created_at < now() - @grace::interval)`

// doctorLongSQL: River ends a job after 11 minutes at the very most, and clears up after a killed worker within twice that.
const doctorLongSQL = `
select null::uuid as tenant_id, null::uuid as id, 'job ' || j.id || ' of kind ' || j.kind || ' is said to run' as what, j.attempted_at as since
from river.river_job j where j.state = 'running' and j.attempted_at < now() - interval '30 minutes' - @grace::interval`

const doctorOrphanSQL = `
select j.tenant_id, j.thing_id as id, 'job ' || j.job_id || ' is of a ' || j.kind || ' that is not there' as what, j.created_at as since
from (select id as job_id, kind, created_at, (args ->> 'tenant_id')::uuid as tenant_id, (args ->> (kind || '_id'))::uuid as thing_id from river.river_job
      where kind in ('run', 'action') and state in ('available', 'pending', 'retryable', 'scheduled') limit @scanned::bigint) j
join sluice.tenants t on t.tenant_id = j.tenant_id and t.status <> 'erased'
where case j.kind when 'run' then not exists (select from sluice.runs r where r.tenant_id = j.tenant_id and r.id = j.thing_id)
           else not exists (select from sluice.actions a where a.tenant_id = j.tenant_id and a.id = j.thing_id) end`

// doctorQueueSQL leaves out what waits for its own time.
const doctorQueueSQL = `
select null::uuid as tenant_id, null::uuid as id, q.queue || ', priority ' || q.priority || ': ' || q.jobs || ' jobs' as what, q.oldest as since
from (select queue, priority, count(*) as jobs, min(created_at) as oldest from river.river_job
      where state = 'available' and scheduled_at <= now() group by queue, priority) q
where q.oldest < now() - interval '10 minutes'`

const doctorSettingsSQL = `
select null::uuid as tenant_id, null::uuid as id, s.name || ' is off' as what, null::timestamptz as since
from (values ('fsync'), ('full_page_writes'), ('synchronous_commit')) s (name) where current_setting(s.name) = 'off'`

const doctorSuperSQL = `
select null::uuid as tenant_id, null::uuid as id, 'the login of DATABASE_URL is above row security' as what, null::timestamptz as since
from pg_roles where rolname = session_user and (rolsuper or rolbypassrls)`

// doctorHoldersSQL is asked as the login: it sees its own sessions, and others only where it may.
const doctorHoldersSQL = `
select null::uuid as tenant_id, null::uuid as id, 'session ' || pid || ' (' || coalesce(nullif(application_name, ''), usename::text) || ') is ' || state as what, xact_start as since
from pg_stat_activity
where pid <> pg_backend_pid() and xact_start < now() - interval '10 minutes' and (state like 'idle in transaction%' or backend_xmin is not null)
  and backend_type = 'client backend'
union all
select null::uuid as tenant_id, null::uuid as id, 'a prepared transaction', prepared from pg_prepared_xacts where prepared < now() - interval '10 minutes'
union all
select null::uuid as tenant_id, null::uuid as id, 'replication slot ' || slot_name || ' is not used', null::timestamptz from pg_replication_slots where not active`

// doctorWrapSQL finds what is half of the way to where Postgres takes nothing any more; autovacuum begins at a fifth of that.
const doctorWrapSQL = `
select null::uuid as tenant_id, null::uuid as id, 'table ' || c.oid::regclass || ': the oldest row is ' || age(c.relfrozenxid) || ' transactions old' as what,
    null::timestamptz as since
from pg_class c where c.relkind in ('r', 't', 'm') and age(c.relfrozenxid) > 1000000000`

const doctorBloatSQL = `
select null::uuid as tenant_id, null::uuid as id, 'table ' || s.relid::regclass || ': ' || s.n_dead_tup || ' dead rows beside ' || s.n_live_tup as what,
    s.last_autovacuum as since
from pg_stat_user_tables s where s.schemaname in ('sluice', 'river') and s.n_dead_tup > 100000 and s.n_dead_tup > s.n_live_tup`

const doctorClockSQL = `select clock_timestamp()`

// clockApartMax is how far this machine's clock may be from the database's: signatures are judged by the one, leases and limits by the other.
const clockApartMax = 10 * time.Second

// lookClock compares the two clocks, and counts the time of the question for neither.
func lookClock(ctx context.Context, x *examination) (seen, error) {
	before := x.Now()
	theirs, err := value[time.Time](ctx, x.tx, doctorClockSQL, args{})
	if err != nil {
		return seen{}, err
	}
	after := x.Now()
	var apart time.Duration
	switch {
	case theirs.Before(before):
		apart = theirs.Sub(before)
	case theirs.After(after):
		apart = theirs.Sub(after)
	}
	if apart.Abs() <= clockApartMax {
		return seen{}, nil
	}
	return x.sawOf([]Item{{What: fmt.Sprintf("the database's clock is %s from this machine's", apart.Round(time.Second))}}), nil
}
