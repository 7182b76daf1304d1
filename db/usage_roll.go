package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// rollLag is how long after its end a quarter of an hour is summed: by then nearly all that belongs to it has been committed, and what has not is
// marked as late. It may be anything; a shorter one makes more marks.
const rollLag = time.Minute

// rollLockTimeout bounds the wait for a tenant's budget. Who is not met now is met a minute later.
const rollLockTimeout = "2s"

// rollStepsMax bounds the days of one tenant that are summed in one go, so that a long history keeps no other tenant waiting.
const rollStepsMax = 400

// usageOpenSQL finds the tenants that have entries to sum: one probe of an index each.
const usageOpenSQL = `
select t.tenant_id from sluice.tenants t left join sluice.usage_rolled w on w.tenant_id = t.tenant_id
where exists (select from sluice.ledger_entries e where e.tenant_id = t.tenant_id and e.at >= coalesce(w.until, '-infinity')
              and e.at < sluice.usage_slot(now() - @lag::interval))
   or exists (select from sluice.usage_late l where l.tenant_id = t.tenant_id and l.at < w.until)`

const usageLockTimeoutSQL = `select set_config('lock_timeout', @timeout, true)`

// usageCloseSQL waits for whoever is writing an entry of the tenant. An erased tenant has no budget, and every entry of one is marked.
const usageCloseSQL = `
update sluice.budgets set closed_until = sluice.usage_slot(now() - @lag::interval)
where tenant_id = @tenant_id and closed_until < sluice.usage_slot(now() - @lag::interval)`

const usageRolledInsertSQL = `insert into sluice.usage_rolled (tenant_id) values (@tenant_id) on conflict do nothing`

// usageRolledLockSQL lets one process at a time sum a tenant's.
const usageRolledLockSQL = `select until from sluice.usage_rolled where tenant_id = @tenant_id for update`

// usageStepSQL says from where to where to sum: a day at most, counted from the first entry that is not summed.
const usageStepSQL = `
with closed as (
    select coalesce((select b.closed_until from sluice.budgets b where b.tenant_id = @tenant_id), sluice.usage_slot(now() - @lag::interval)) as until
), step as (
    select w.until as since, greatest(w.until, least(c.until, sluice.usage_slot(
        (select min(e.at) from sluice.ledger_entries e where e.tenant_id = @tenant_id and e.at >= w.until)) + interval '1 day')) as until, c.until as closed
    from sluice.usage_rolled w, closed c where w.tenant_id = @tenant_id)
select since, until, until < closed as more from step`

// usageStep is a time that may begin at -infinity.
type usageStep struct {
	Since, Until pgtype.Timestamptz
	More         bool
}

// usageUnmarkSQL takes the marks away before the quarters are summed anew: an entry that comes between the two is in the sum and keeps its mark,
// and is summed again, to the same, the next time. A mark that somebody holds is left: its entry cannot be seen yet.
const usageUnmarkSQL = `
with free as materialized (
    select at from sluice.usage_late where tenant_id = @tenant_id and at < @until::timestamptz for update skip locked
), late as (delete from sluice.usage_late l using free where l.tenant_id = @tenant_id and l.at = free.at returning l.at),
gone as (delete from sluice.usage_rollups r where r.tenant_id = @tenant_id and (r.at >= @since::timestamptz or r.at in (select at from late)))
select at from late where at < @since`

const usageSumSQL = `
insert into sluice.usage_rollups (tenant_id, at, endpoint_id, automation_id, provider, model_asked, model_served, kind, entries, ` + tokenColumns + `, amount_pico)
select @tenant_id, sluice.usage_slot(e.at), e.endpoint_id, e.automation_id, e.provider, e.model_asked, e.model_served, e.kind, count(*),
    sum(e.input_uncached)::bigint, sum(e.input_cache_read)::bigint, sum(e.input_cache_write_5m)::bigint, sum(e.input_cache_write_1h)::bigint,
    sum(e.output_visible)::bigint, sum(e.output_reasoning)::bigint, sum(e.amount_pico)
from (select @since::timestamptz as since, @until::timestamptz as until
      union all select l.at, l.at + interval '15 minutes' from unnest(@late::timestamptz[]) as l (at)) s
join sluice.ledger_entries e on e.tenant_id = @tenant_id and e.at >= s.since and e.at < s.until
group by 2, 3, 4, 5, 6, 7, 8`

const usageRolledSQL = `update sluice.usage_rolled set until = @until where tenant_id = @tenant_id`

// UsageRoll sums the quarters of an hour that are over, of every tenant, and returns of how many tenants. It is safe to run from several processes,
// to stop at any moment, and to leave out: what is not summed is read from the ledger.
func (d *DB) UsageRoll(ctx context.Context) (int, error) {
	var open []uuid.UUID
	err := d.System(ctx, func(tx SystemTx) (err error) {
		open, err = values[uuid.UUID](ctx, tx.tx, usageOpenSQL, args{"lag": rollLag})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("find what is to be summed of the ledger: %w", err)
	}
	var faults []error
	done := 0
	for _, id := range open {
		if err := d.usageRollTenant(ctx, id); err != nil {
			faults = append(faults, fmt.Errorf("sum the ledger of tenant %s: %w", id, err))
			continue
		}
		done++
	}
	return done, errors.Join(faults...)
}

func (d *DB) usageRollTenant(ctx context.Context, id uuid.UUID) error {
	// A transaction of its own: what is summed must be seen after it.
	err := d.System(ctx, func(tx SystemTx) error {
		if _, err := run(ctx, tx.tx, usageLockTimeoutSQL, args{"timeout": rollLockTimeout}); err != nil {
			return err
		}
		if _, err := run(ctx, tx.tx, usageRolledInsertSQL, args{"tenant_id": id}); err != nil {
			return err
		}
		_, err := run(ctx, tx.tx, usageCloseSQL, args{"tenant_id": id, "lag": rollLag})
		return err
	})
	for steps, more := 0, true; err == nil && more && steps < rollStepsMax; steps++ {
		err = d.System(ctx, func(tx SystemTx) (err error) {
			more, err = tx.usageRollStep(ctx, id)
			return err
		})
	}
	return err
}

// usageRollStep sums a day at most, and what is late, and says whether there is more.
func (tx SystemTx) usageRollStep(ctx context.Context, id uuid.UUID) (more bool, err error) {
	if _, err := one[struct{ Until pgtype.Timestamptz }](ctx, tx.tx, usageRolledLockSQL, args{"tenant_id": id}); err != nil {
		return false, err
	}
	step, err := one[usageStep](ctx, tx.tx, usageStepSQL, args{"tenant_id": id, "lag": rollLag})
	if err != nil {
		return false, err
	}
	late, err := values[time.Time](ctx, tx.tx, usageUnmarkSQL, args{"tenant_id": id, "since": step.Since, "until": step.Until})
	if err != nil {
		return false, err
	}
	if _, err := run(ctx, tx.tx, usageSumSQL, args{"tenant_id": id, "since": step.Since, "until": step.Until, "late": late}); err != nil {
		return false, err
	}
	_, err = run(ctx, tx.tx, usageRolledSQL, args{"tenant_id": id, "until": step.Until})
	return step.More, err
}

const usageRollupsDeleteSQL = `delete from sluice.usage_rollups where tenant_id = @tenant_id`

// UsageRebuild forgets the sums of a tenant and makes them anew. Whoever reads meanwhile reads the ledger.
func (d *DB) UsageRebuild(ctx context.Context, id uuid.UUID) error {
	err := d.System(ctx, func(tx SystemTx) error {
		if _, err := run(ctx, tx.tx, usageRolledSQL, args{"tenant_id": id, "until": pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}}); err != nil {
			return err
		}
		// A statement of its own: it sees what whoever was summing has committed meanwhile.
		_, err := run(ctx, tx.tx, usageRollupsDeleteSQL, args{"tenant_id": id})
		return err
	})
	if err == nil {
		err = d.usageRollTenant(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("rebuild the sums of tenant %s: %w", id, err)
	}
	return nil
}
