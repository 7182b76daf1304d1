package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// The phases of a notice: what is told.
const (
	NoticeBegan = "began"
	NoticeEnded = "ended"
	// NoticeTest is a channel tried out by a person; it is about no alert.
	NoticeTest = "test"
)

// noticeTestPause is the least time between two tests of a channel: nobody is to be flooded by our hand.
const noticeTestPause = time.Minute

// Notice is one thing to tell one channel. Triggers of sluice.alerts write those of an alert, in the transaction that begins or ends it.
type Notice struct {
	TenantID  uuid.UUID
	ID        uuid.UUID
	AlertID   *uuid.UUID // nil for a test
	ChannelID uuid.UUID
	Phase     string
	Attempt   int // of the tries that have begun
	CreatedAt time.Time
}

// NoticeRef names the next try of a notice: the one after as many as have begun.
type NoticeRef struct {
	TenantID uuid.UUID
	ID       uuid.UUID
	Attempt  int
}

const noticesLockSQL = `select pg_try_advisory_xact_lock(7238653)`

// noticesDueSQL goes from tenant to tenant by the index of open notices, and takes of each no more than it may have under way: a tenant whose
// channels are slow keeps nobody else waiting. That an alert ended is told after that it began.
const noticesDueSQL = `
with recursive owners as (
    (select tenant_id from sluice.alert_notices where delivered_at is null and given_up_at is null order by tenant_id limit 1)
    union all
    select (select n.tenant_id from sluice.alert_notices n
            where n.delivered_at is null and n.given_up_at is null and n.tenant_id > o.tenant_id order by n.tenant_id limit 1)
    from owners o where o.tenant_id is not null
), due as (
    select n.tenant_id, n.id from owners o cross join lateral (
        select x.tenant_id, x.id from sluice.alert_notices x
        where x.tenant_id = o.tenant_id and x.delivered_at is null and x.given_up_at is null and x.due_at <= now()
          and not (x.phase = 'ended' and exists (select from sluice.alert_notices b
              where b.tenant_id = x.tenant_id and b.alert_id = x.alert_id and b.channel_id = x.channel_id and b.phase = 'began'
                and b.delivered_at is null and b.given_up_at is null))
        order by x.due_at
        limit greatest(@each::bigint - (select count(*) from sluice.alert_notices f
            where f.tenant_id = o.tenant_id and f.delivered_at is null and f.given_up_at is null and f.due_at > now() and f.posted_at is not null), 0)) n
    where o.tenant_id is not null
    limit @limit
)
update sluice.alert_notices n set posted_at = now(), due_at = now() + @grace::interval
from due d where n.tenant_id = d.tenant_id and n.id = d.id
returning n.tenant_id, n.id, n.attempt`

// NoticesDue takes notices of all tenants whose time has come, for the caller to give each a job in the same transaction: at most each of one
// tenant, those under way included. A job that is not heard of within grace is taken for lost. While another process does this there are none.
func (tx SystemTx) NoticesDue(ctx context.Context, each, limit int, grace time.Duration) ([]NoticeRef, error) {
	mine, err := value[bool](ctx, tx.tx, noticesLockSQL, args{})
	if err != nil || !mine {
		return nil, err
	}
	return many[NoticeRef](ctx, tx.tx, noticesDueSQL, args{"each": each, "limit": limit, "grace": grace})
}

const noticeChannelLockSQL = `select id from sluice.alert_channels where tenant_id = @tenant_id and id = @id for update`

const noticeTestSQL = `
insert into sluice.alert_notices (tenant_id, channel_id, phase, posted_at, due_at)
select @tenant_id, @id, 'test', now(), now() + @grace::interval
where not exists (select from sluice.alert_notices n
    where n.tenant_id = @tenant_id and n.channel_id = @id and n.phase = 'test' and n.created_at > now() - @pause::interval)
returning tenant_id, id, attempt`

// NoticeTest writes a notice that tries a channel out, for the caller to give it a job in the same transaction. ErrConflict: there was one within
// a minute.
func (tx TenantTx) NoticeTest(ctx context.Context, channelID uuid.UUID, grace time.Duration) (NoticeRef, error) {
	if _, err := value[uuid.UUID](ctx, tx.tx, noticeChannelLockSQL, tx.with(args{"id": channelID})); err != nil {
		return NoticeRef{}, err
	}
	ref, err := one[NoticeRef](ctx, tx.tx, noticeTestSQL, tx.with(args{"id": channelID, "grace": grace, "pause": noticeTestPause}))
	if errors.Is(err, ErrNotFound) {
		return NoticeRef{}, fmt.Errorf("%w: the channel was tested a moment ago", ErrConflict)
	}
	return ref, err
}

// noticeClaimSQL begins a try that no other job has begun. What belongs to a tenant that is not active waits.
const noticeClaimSQL = `
update sluice.alert_notices n set attempt = n.attempt + 1, posted_at = now(), due_at = now() + @lease::interval
where n.tenant_id = @tenant_id and n.id = @id and n.attempt = @attempt and n.delivered_at is null and n.given_up_at is null
  and exists (select from sluice.tenants t where t.tenant_id = @tenant_id and t.status = 'active')
returning n.tenant_id, n.id, n.alert_id, n.channel_id, n.phase, n.attempt, n.created_at`

// NoticeClaim begins the next try of a notice. ErrNotFound: another job has begun it, there is nothing left to tell, or the tenant is suspended. A
// try that is not heard of within lease is taken for lost, and followed by another.
func (tx TenantTx) NoticeClaim(ctx context.Context, ref NoticeRef, lease time.Duration) (Notice, error) {
	return one[Notice](ctx, tx.tx, noticeClaimSQL, tx.with(args{"id": ref.ID, "attempt": ref.Attempt, "lease": lease}))
}

const noticeDeliveredSQL = `
update sluice.alert_notices set delivered_at = now(), posted_at = null, fault = ''
where tenant_id = @tenant_id and id = @id and delivered_at is null and given_up_at is null`

// NoticeDelivered ends a notice that was told, whichever try it was.
func (tx TenantTx) NoticeDelivered(ctx context.Context, n Notice) error {
	// The channel first, as a deletion locks it.
	if _, err := run(ctx, tx.tx, alertChannelTriedSQL, tx.with(args{"id": n.ChannelID, "fault": ""})); err != nil {
		return err
	}
	_, err := run(ctx, tx.tx, noticeDeliveredSQL, tx.with(args{"id": n.ID}))
	return err
}

const noticeFailedSQL = `
update sluice.alert_notices set fault = @fault, posted_at = null, due_at = now() + @wait::interval,
    given_up_at = case when @final::boolean then now() end
where tenant_id = @tenant_id and id = @id and attempt = @attempt and delivered_at is null and given_up_at is null`

// NoticeFailed keeps the fault of a try; it is tried again after wait, or, if that was final, given up.
func (tx TenantTx) NoticeFailed(ctx context.Context, n Notice, fault string, wait time.Duration, final bool) error {
	if _, err := run(ctx, tx.tx, alertChannelTriedSQL, tx.with(args{"id": n.ChannelID, "fault": fault})); err != nil {
		return err
	}
	_, err := run(ctx, tx.tx, noticeFailedSQL, tx.with(args{"id": n.ID, "attempt": n.Attempt, "fault": fault, "wait": wait, "final": final}))
	return err
}
