package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// MissedEvent is an event that a source sent and that never arrived here.
type MissedEvent struct {
	TenantID      uuid.UUID
	EndpointID    uuid.UUID
	SourceEventID string
	Delivery      string // the source's own name of the delivery, by which it is asked for again
	SentAt        time.Time
	FoundAt       time.Time
	AskedAt       *time.Time
	Asks          int
	ArrivedAt     *time.Time
}

// Missed is how the deliveries of an endpoint stand that its source lists.
type Missed struct {
	CheckedAt time.Time
	SeenUntil *time.Time
	Fault     string
	Found     int64 // events that had not arrived when they were looked for
	Asked     int64 // those that the source was asked to send again
	Arrived   int64 // those that arrived then
}

const missedCheckPutSQL = `
insert into sluice.missed_checks (tenant_id, endpoint_id, seen_until, fault) values (@tenant_id, @endpoint_id, @seen_until, @fault)
on conflict (tenant_id, endpoint_id) do update set checked_at = now(), seen_until = coalesce(excluded.seen_until, sluice.missed_checks.seen_until), fault = excluded.fault`

// MissedCheckPut notes how far an endpoint's deliveries have been looked through; a zero seenUntil leaves it where it was.
func (tx TenantTx) MissedCheckPut(ctx context.Context, endpointID uuid.UUID, seenUntil time.Time, fault string) error {
	var seen *time.Time
	if !seenUntil.IsZero() {
		seen = &seenUntil
	}
	_, err := run(ctx, tx.tx, missedCheckPutSQL, tx.with(args{"endpoint_id": endpointID, "seen_until": seen, "fault": fault}))
	return err
}

const missedEventAddSQL = `
insert into sluice.missed_events (tenant_id, endpoint_id, source_event_id, delivery, sent_at)
select @tenant_id, @endpoint_id, @source_event_id, @delivery, @sent_at
where not exists (select from sluice.event_keys k
    where k.tenant_id = @tenant_id and k.endpoint_id = @endpoint_id and k.kind = 'id' and k.key = @source_event_id)
on conflict (tenant_id, endpoint_id, source_event_id) do update set delivery = excluded.delivery`

// MissedEventAdd keeps an event that the source sent, unless it has arrived. It says whether it is missed.
func (tx TenantTx) MissedEventAdd(ctx context.Context, m MissedEvent) (bool, error) {
	n, err := run(ctx, tx.tx, missedEventAddSQL, tx.with(args{
		"endpoint_id": m.EndpointID, "source_event_id": m.SourceEventID, "delivery": m.Delivery, "sent_at": m.SentAt,
	}))
	return n > 0, err
}
