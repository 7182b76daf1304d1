package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
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

const alertBeginSQL = `
insert into sluice.alerts (tenant_id, id, kind, subject, detail) values (@tenant_id, @id, @kind, @subject, @detail)
on conflict (tenant_id, kind, subject) where ended_at is null do update set last_at = now(), detail = excluded.detail`

// AlertBegin begins an alert; one of this kind and subject that has not ended goes on.
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

const alertsEndSQL = `
update sluice.alerts set ended_at = now() where ended_at is null and kind = @kind and last_at < now() - @quiet::interval`

// AlertsEnd ends the alerts of a kind, of all tenants, that have been quiet for so long, and says how many.
func (tx SystemTx) AlertsEnd(ctx context.Context, kind string, quiet time.Duration) (int64, error) {
	return run(ctx, tx.tx, alertsEndSQL, args{"kind": kind, "quiet": quiet})
}
