package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// The kinds of alerts.
const (
	// AlertRejections is a flood of refused deliveries; its subject is the endpoint.
	AlertRejections = "rejections"
	// AlertMissedUnreadable is a list of deliveries that the source does not let us read; its subject is the endpoint.
	AlertMissedUnreadable = "missed.unreadable"
)

// Alert is a state worth a person's attention, told once when it begins and once when it ends.
type Alert struct {
	TenantID uuid.UUID
	ID       uuid.UUID
	Kind     string
	Subject  string // what it is about, such as an endpoint's id with its prefix
	Detail   string
	BeganAt  time.Time
	LastAt   time.Time
	EndedAt  *time.Time
}

// alertBeginSQL looks before it writes: an update that finds nothing to change would still lock the row, which is a write.
const alertBeginSQL = `
insert into sluice.alerts (tenant_id, id, kind, subject, detail)
select @tenant_id, @id, @kind, @subject, @detail
where not exists (select from sluice.alerts a
    where a.tenant_id = @tenant_id and a.kind = @kind and a.subject = @subject and a.ended_at is null and a.last_at > now() - interval '1 minute')
on conflict (tenant_id, kind, subject) where ended_at is null do update set last_at = now(), detail = excluded.detail`

// AlertBegin begins an alert; one of this kind and subject that has not ended goes on, and is written to once a minute at most.
func (tx TenantTx) AlertBegin(ctx context.Context, kind, subject, detail string) error {
	_, err := run(ctx, tx.tx, alertBeginSQL, tx.with(args{"id": tenants.NewID(), "kind": kind, "subject": subject, "detail": detail}))
	return err
}

const alertListSQL = `
select tenant_id, id, kind, subject, detail, began_at, last_at, ended_at from sluice.alerts
where tenant_id = @tenant_id and id < @before and (not @open::boolean or ended_at is null)
order by id desc limit @limit`

// AlertList lists alerts, newest first; open keeps those that have not ended.
func (tx TenantTx) AlertList(ctx context.Context, open bool, p Page) ([]Alert, error) {
	return many[Alert](ctx, tx.tx, alertListSQL, tx.with(args{"before": p.before(), "limit": p.Limit, "open": open}))
}

const alertEndSQL = `
update sluice.alerts set ended_at = now() where tenant_id = @tenant_id and kind = @kind and subject = @subject and ended_at is null`

// AlertEnd ends an alert, if there is one that has not ended.
func (tx TenantTx) AlertEnd(ctx context.Context, kind, subject string) error {
	_, err := run(ctx, tx.tx, alertEndSQL, tx.with(args{"kind": kind, "subject": subject}))
	return err
}

const alertsEndSQL = `
update sluice.alerts set ended_at = now() where ended_at is null and kind = @kind and last_at < now() - @quiet::interval`

// AlertsEnd ends the alerts of a kind, of all tenants, that have been quiet for so long, and says how many.
func (tx SystemTx) AlertsEnd(ctx context.Context, kind string, quiet time.Duration) (int64, error) {
	return run(ctx, tx.tx, alertsEndSQL, args{"kind": kind, "quiet": quiet})
}
