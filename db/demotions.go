package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// demotableSQL begins with what died of late, over an index of just that: only a death can make a rate of failures too high.
const demotableSQL = `
select distinct a.tenant_id, a.id
from sluice.runs r
join sluice.automations a on a.tenant_id = r.tenant_id and a.id = r.automation_id
join sluice.automation_versions v on v.tenant_id = a.tenant_id and v.automation_id = a.id and v.version = a.version
where r.status = 'dead' and r.finished_at > now() - @recent::interval
  and a.deleted_at is null and v.spec ->> 'mode' = 'live' and v.spec ? 'demote'
limit @limit`

// Demotable finds automations of all tenants that are live, may be taken back into review, and had a run that died within recent.
func (tx SystemTx) Demotable(ctx context.Context, recent time.Duration, limit int) ([]Stranded, error) {
	return many[Stranded](ctx, tx.tx, demotableSQL, args{"recent": recent, "limit": limit})
}

// LiveEnds are how the last live runs of an automation ended.
type LiveEnds struct{ Runs, Failed int64 }

// liveEndsSQL counts since the last version that was not live, or behaved in another way: what people let go live is judged anew.
const liveEndsSQL = `
with serving as (
    select v.version, v.behaviour from sluice.automation_versions v
    where v.tenant_id = @tenant_id and v.automation_id = @automation_id and v.version = @version),
since as (
    select coalesce(max(v.version), 0) as version from sluice.automation_versions v cross join serving s
    where v.tenant_id = @tenant_id and v.automation_id = @automation_id and v.draft = '' and v.version < s.version
      and (v.spec ->> 'mode' is distinct from 'live' or v.behaviour is distinct from s.behaviour)),
ended as (
    select r.status from sluice.runs r cross join since
    where r.tenant_id = @tenant_id and r.automation_id = @automation_id and r.mode = 'live' and r.status in ('done', 'dead')
      and r.automation_version > since.version
    order by r.finished_at desc limit @last)
select count(*) as runs, count(*) filter (where status = 'dead') as failed from ended`

// LiveEnds counts the last runs that ended since the version went live.
func (tx TenantTx) LiveEnds(ctx context.Context, id uuid.UUID, version, last int) (LiveEnds, error) {
	return one[LiveEnds](ctx, tx.tx, liveEndsSQL, tx.with(args{"automation_id": id, "version": version, "last": last}))
}

// demotedEndSQL: the subject is the automation's id as people see it.
const demotedEndSQL = `
update sluice.alerts t set ended_at = now()
where t.ended_at is null and t.kind = 'automation.demoted' and not exists (
    select from sluice.automations a
    join sluice.automation_versions v on v.tenant_id = a.tenant_id and v.automation_id = a.id and v.version = a.version
    where a.tenant_id = t.tenant_id and a.id = replace(t.subject, 'aut_', '')::uuid and a.deleted_at is null
      and v.spec ->> 'mode' is distinct from 'live')`

// AlertsDemotedEnd ends the alerts of automations that are live again, or gone, and says how many.
func (tx SystemTx) AlertsDemotedEnd(ctx context.Context) (int64, error) {
	return run(ctx, tx.tx, demotedEndSQL, args{})
}
