package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// The kinds of alerts. Each stands in AlertKinds too.
const (
	// AlertRejections is a flood of refused deliveries; its subject is the endpoint.
	AlertRejections = "rejections"
	// AlertMissedUnreadable is a list of deliveries that the source does not let us read; its subject is the endpoint.
	AlertMissedUnreadable = "missed.unreadable"
	// AlertAnomalyCost and AlertAnomalyEvents are far more than is usual; the subject is the tenant, an endpoint or an automation.
	AlertAnomalyCost   = "anomaly.cost"
	AlertAnomalyEvents = "anomaly.events"
	// AlertDemoted is an automation that a rule took from live to review; its subject is the automation.
	AlertDemoted = "automation.demoted"
	// AlertBreaker is a provider that is left alone since it failed, while runs wait for it; its subject is the model.
	AlertBreaker = "provider.breaker"
	// AlertCredentialPaused is a credential that its service refused; its subject is the credential.
	AlertCredentialPaused = "credential.paused"
	// AlertDeadLetters is runs that ended as dead; its subject is the automation.
	AlertDeadLetters = "dead_letters"
	// AlertHeld is runs that are held; its subject is their reason.
	AlertHeld = "held"
	// AlertLimit is a limit that is used up to a share; its subject is the limit's name and the share in percent, or "soft".
	AlertLimit = "limit"
	// AlertLoop is an automation that answers itself, or another machine; its subject is the entity or the automation.
	AlertLoop = "loop"
	// AlertOrderBlocked is a dead run that nothing of its entity may pass; its subject is the endpoint.
	AlertOrderBlocked = "order.blocked"
)

// AlertKinds are all of them, sorted: those that a channel may ask for.
var AlertKinds = []string{
	AlertAnomalyCost, AlertAnomalyEvents, AlertDemoted, AlertCredentialPaused, AlertDeadLetters, AlertHeld, AlertLimit, AlertLoop,
	AlertMissedUnreadable, AlertOrderBlocked, AlertBreaker, AlertRejections,
}

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

const alertGetSQL = `
select tenant_id, id, kind, subject, detail, began_at, last_at, ended_at from sluice.alerts where tenant_id = @tenant_id and id = @id`

// AlertGet reads an alert.
func (tx TenantTx) AlertGet(ctx context.Context, id uuid.UUID) (Alert, error) {
	return one[Alert](ctx, tx.tx, alertGetSQL, tx.with(args{"id": id}))
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
