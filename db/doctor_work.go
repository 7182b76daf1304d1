package db

// What is done with it: I2 (every run ends, in bounded time), I4 and I10 (one effect).

// doctorRunJob finds the jobs that stand for a run, doctorActionJob those for an action. One that a worker took is alive for a while: River believes
// much longer than we do that a killed worker is at work.
const (
	doctorRunJob    = `select from river.river_job j where j.kind = 'run' and j.args ->> 'run_id' = r.id::text and `
	doctorActionJob = `select from river.river_job j where j.kind = 'action' and j.args ->> 'action_id' = a.id::text and `
	doctorAlive     = `(j.state in ('available', 'pending', 'retryable', 'scheduled') or j.state = 'running' and j.attempted_at > now() - @grace::interval)`
)

// doctorOverdue are the runs that should have gone on, those first that have stood for longest.
const doctorOverdue = `
((select tenant_id, id, status, reason, lease_until as since from sluice.runs
  where status = 'running' and lease_until < now() - @grace::interval order by lease_until limit @scanned::bigint)
 union all
 (select tenant_id, id, status, reason, until from sluice.runs
  where status = 'waiting' and until < now() - @grace::interval order by until limit @scanned::bigint)
 union all
 (select tenant_id, id, status, reason, updated_at from sluice.runs
  where finished_at is null and status = 'queued' and updated_at < now() - @grace::interval order by updated_at limit @scanned::bigint))`

const doctorRunStuckSQL = `
select r.tenant_id, r.id, concat_ws(' ', r.status, nullif(r.reason, '')) || ', and no job stands for it' as what, r.since
from ` + doctorOverdue + ` r
where not exists (` + doctorRunJob + doctorAlive + `) and not exists (` + doctorRunJob + `j.state = 'discarded')
union all
select r.tenant_id, r.id, 'waits without a time: ' || r.reason, r.updated_at
from sluice.runs r
where r.finished_at is null and r.status = 'waiting' and r.until is null and r.reason not in ('order.behind', 'limit.concurrent_runs')
  and r.updated_at < now() - @grace::interval`

const doctorRunDiscardedSQL = `
select r.tenant_id, r.id, concat_ws(' ', r.status, nullif(r.reason, '')) || ', and River has given its job up' as what, r.since
from ` + doctorOverdue + ` r
where not exists (` + doctorRunJob + doctorAlive + `) and exists (` + doctorRunJob + `j.state = 'discarded')`

// doctorRunTurnSQL looks at the front of each line, as the workers do (serial.go).
const doctorRunTurnSQL = `
select r.tenant_id, r.id, 'waits for its turn, and nothing is in front of it' as what, r.updated_at as since
from (select tenant_id, id, endpoint_id, entity, ordered_at, order_sequence, event_id, automation_id, updated_at from sluice.runs
      where finished_at is null and status = 'waiting' and until is null and reason = 'order.behind' and updated_at < now() - @grace::interval
      order by updated_at limit @scanned::bigint) r
join sluice.endpoints e on e.tenant_id = r.tenant_id and e.id = r.endpoint_id and e.updated_at < now() - @grace::interval
where not exists (
    select from sluice.runs o
    where o.tenant_id = r.tenant_id and o.endpoint_id = r.endpoint_id and o.entity = r.entity and o.ordering = 'serial'
      and (o.finished_at is null or o.status = 'dead') and o.id <> r.id
      and (o.finished_at is null or e.settings ->> 'order_dead' = 'block')
      and ((o.ordered_at, o.order_sequence, o.event_id, o.automation_id, o.id) < (r.ordered_at, r.order_sequence, r.event_id, r.automation_id, r.id)
           or o.finished_at is null and o.started_at is not null))`

// doctorRunHeldSQL: who releases looks at tenants whose marks say that something is held, and at no others.
const doctorRunHeldSQL = `
select r.tenant_id, r.id, 'held, ' || r.reason || ', and its tenant''s mark says that nothing is' as what, r.updated_at as since
from sluice.places p cross join lateral (
    select r.tenant_id, r.id, r.reason, r.updated_at from sluice.runs r
    where r.status = 'held' and r.reason = 'limit.events_per_hour' and r.tenant_id = p.tenant_id limit @counted::bigint) r
where not p.holding
union all
select r.tenant_id, r.id, 'held, ' || r.reason || ', and its tenant''s mark says that nothing is', r.updated_at
from sluice.budgets b cross join lateral (
    select r.tenant_id, r.id, r.reason, r.updated_at from sluice.runs r
    where r.status = 'held' and r.reason <> 'limit.events_per_hour' and r.tenant_id = b.tenant_id limit @counted::bigint) r
where not b.held
union all
select r.tenant_id, r.id, 'waiting, ' || r.reason || ', and its tenant''s mark says that nothing is', r.updated_at
from sluice.budgets b cross join lateral (
    select r.tenant_id, r.id, r.reason, r.updated_at from sluice.runs r
    where r.status = 'waiting' and r.until is null and r.reason = 'limit.concurrent_runs' and r.tenant_id = b.tenant_id limit @counted::bigint) r
where b.parked = 0`

const doctorRunHeldLongSQL = `
select r.tenant_id, r.id, 'held, ' || r.reason || ', past its time' as what, r.until as since
from sluice.runs r join sluice.tenants t on t.tenant_id = r.tenant_id
where r.status = 'held' and r.until < now() - interval '1 hour' - @grace::interval and t.status = 'active'`

const doctorReviewSQL = `
select r.tenant_id, r.id, 'in review, past its time' as what, r.until as since
from sluice.runs r join sluice.tenants t on t.tenant_id = r.tenant_id
where r.status = 'in_review' and r.until < now() - @grace::interval and t.status = 'active'`

const doctorActingSQL = `
select r.tenant_id, r.id, 'acting, and no effect of it is on its way' as what, r.updated_at as since
from (select tenant_id, id, updated_at from sluice.runs
      where finished_at is null and status = 'acting' and updated_at < now() - @grace::interval order by updated_at limit @scanned::bigint) r
where not exists (select from sluice.actions a where a.tenant_id = r.tenant_id and a.run_id = r.id and a.state in ('intended', 'in_flight') and a.ended_at is null)`

// doctorOpenActions are the actions that have not ended and have not moved for a while, with the status of their runs.
const doctorOpenActions = `
(select o.tenant_id, o.id, o.state, o.until, o.lease_until, o.updated_at, r.status
 from (select tenant_id, id, run_id, state, until, lease_until, updated_at from sluice.actions
       where ended_at is null and updated_at < now() - @grace::interval order by updated_at limit @scanned::bigint) o
 left join sluice.runs r on r.tenant_id = o.tenant_id and r.id = o.run_id)`

const doctorActionStuckSQL = `
select a.tenant_id, a.id, a.state || ', and no job stands for it' as what, coalesce(a.lease_until, a.until, a.updated_at) as since
from ` + doctorOpenActions + ` a
where a.state in ('intended', 'in_flight') and a.status = 'acting' and coalesce(a.lease_until, a.until, a.updated_at) < now() - @grace::interval
  and not exists (` + doctorActionJob + doctorAlive + `)`

const doctorActionOpenSQL = `
select a.tenant_id, a.id, a.state || ', and its run is ' || coalesce(a.status, 'not there') as what, coalesce(a.lease_until, a.updated_at) as since
from ` + doctorOpenActions + ` a
where coalesce(a.lease_until, a.updated_at) < now() - @grace::interval
  and a.status is distinct from case when a.state = 'proposed' then 'in_review' else 'acting' end`

const doctorHistorySQL = `
select r.tenant_id, r.id, 'is ' || r.status || ', and its history ends with ' || coalesce(h.status, 'nothing') as what, r.updated_at as since
from sluice.tenants t cross join lateral (
    select r.tenant_id, r.id, r.status, r.updated_at from sluice.runs r where r.tenant_id = t.tenant_id and r.id >= @from::uuid offset 0) r
left join lateral (
    select h.status from sluice.run_history h where h.tenant_id = r.tenant_id and h.run_id = r.id order by h.position desc limit 1) h on true
where coalesce(h.status, 'queued') <> r.status`

const doctorUnknownSQL = `
select a.tenant_id, a.run_id as id, 'nobody can tell whether its effect was made' as what, a.ended_at as since
from sluice.actions a join sluice.runs r on r.tenant_id = a.tenant_id and r.id = a.run_id
where a.state = 'unknown' and r.status = 'dead'`

// doctorTwiceSQL knows an effect by its event, automation, kind and target, not by its key; a target of a request is masked, so that of these the key
// alone tells. What a person has forced is meant.
const doctorTwiceSQL = `
select a.tenant_id, a.id, 'was made by ' || 'run_' || replace(o.id::text, '-', '') || ', too' as what, coalesce(a.ended_at, a.updated_at) as since
from sluice.tenants t cross join lateral (
    select r.tenant_id, r.id, r.event_id, r.automation_id from sluice.runs r
    where r.tenant_id = t.tenant_id and r.id >= @from::uuid and r.purpose = 'replay' and not r.forced offset 0) r
join sluice.runs o on o.tenant_id = r.tenant_id and o.event_id = r.event_id and o.automation_id = r.automation_id and o.id <> r.id and not o.forced
join sluice.actions a on a.tenant_id = r.tenant_id and a.run_id = r.id and a.state = 'confirmed'
join sluice.actions b on b.tenant_id = o.tenant_id and b.run_id = o.id and b.state = 'confirmed' and b.kind = a.kind and b.target = a.target
where a.kind not in ('callback', 'http')
union all
select a.tenant_id, a.id, 'another has its key', coalesce(a.ended_at, a.updated_at)
from sluice.tenants t cross join lateral (
    select a.tenant_id, a.id, a.key, a.ended_at, a.updated_at from sluice.actions a
    where a.tenant_id = t.tenant_id and a.id >= @from::uuid and a.state in ('intended', 'in_flight', 'confirmed', 'unknown') offset 0) a
where exists (select from sluice.actions b where b.tenant_id = a.tenant_id and b.key = a.key and b.id < a.id
              and b.state in ('intended', 'in_flight', 'confirmed', 'unknown'))`

const doctorReplaySQL = `
select p.tenant_id, p.id, 'nobody goes on with it' as what, p.updated_at as since
from sluice.replays p join sluice.tenants t on t.tenant_id = p.tenant_id
where p.finished_at is null and p.updated_at < now() - interval '10 minutes' - @grace::interval and t.status = 'active'`

const doctorNoticeSQL = `
select n.tenant_id, n.id, 'is not told' as what, n.due_at as since
from sluice.alert_notices n join sluice.tenants t on t.tenant_id = n.tenant_id
where n.delivered_at is null and n.given_up_at is null and n.due_at < now() - interval '10 minutes' - @grace::interval and t.status = 'active'`

const doctorAlertSQL = `
select a.tenant_id, a.id, a.kind as what, a.began_at as since from sluice.alerts a where a.ended_at is null`

const doctorUnreadableSQL = `
select r.tenant_id, r.id, 'waits since a credential does not open' as what, r.updated_at as since from sluice.runs r
where r.finished_at is null and r.status in ('waiting', 'acting') and r.reason = 'credential.unreadable'`

const doctorPausedSQL = `
select c.tenant_id, c.id, 'is paused' as what, c.paused_at as since from sluice.credentials c where c.paused_at is not null`
