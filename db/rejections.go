package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Rejection is how many deliveries to an endpoint were refused for one reason within one minute, with a sample of the first.
type Rejection struct {
	TenantID   uuid.UUID
	EndpointID uuid.UUID
	Reason     string
	Minute     time.Time
	Count      int64
	Sample     json.RawMessage
	FirstAt    time.Time
	LastAt     time.Time
}

const rejectionAddSQL = `
insert into sluice.rejections (tenant_id, endpoint_id, reason, minute, count, sample, first_at, last_at)
values (@tenant_id, @endpoint_id, @reason, date_trunc('minute', @first_at::timestamptz), @count, @sample, @first_at, @last_at)
on conflict (tenant_id, endpoint_id, reason, minute)
do update set count = sluice.rejections.count + excluded.count, last_at = greatest(sluice.rejections.last_at, excluded.last_at)`

// RejectionAdd counts refused deliveries; the first of a minute leaves its sample.
func (tx TenantTx) RejectionAdd(ctx context.Context, r Rejection) error {
	_, err := run(ctx, tx.tx, rejectionAddSQL, tx.with(args{
		"endpoint_id": r.EndpointID, "reason": r.Reason, "count": r.Count, "sample": r.Sample, "first_at": r.FirstAt, "last_at": r.LastAt,
	}))
	return err
}

// RejectionMinute is what was refused at an endpoint within one minute, whatever the reasons.
type RejectionMinute struct {
	Count   int64
	Reason  string // the most frequent one
	FirstAt time.Time
}

const rejectionMinuteSQL = `
select coalesce(sum(count), 0)::bigint as count, coalesce((array_agg(reason order by count desc, reason))[1], '') as reason,
    coalesce(min(first_at), @at::timestamptz) as first_at
from sluice.rejections where tenant_id = @tenant_id and endpoint_id = @endpoint_id and minute = date_trunc('minute', @at::timestamptz)`

// RejectionMinute sums up the minute that at is in.
func (tx TenantTx) RejectionMinute(ctx context.Context, endpointID uuid.UUID, at time.Time) (RejectionMinute, error) {
	return one[RejectionMinute](ctx, tx.tx, rejectionMinuteSQL, tx.with(args{"endpoint_id": endpointID, "at": at}))
}

// RejectionFilter narrows a list of rejections; zero fields do not.
type RejectionFilter struct {
	EndpointID   *uuid.UUID
	Reason       string
	Since, Until *time.Time
}

// RejectionPage is where a page of rejections begins: below this row; a zero Minute begins at the newest.
type RejectionPage struct {
	Minute     time.Time
	EndpointID uuid.UUID
	Reason     string
	Limit      int
}

const rejectionListSQL = `
select tenant_id, endpoint_id, reason, minute, count, sample, first_at, last_at from sluice.rejections
where tenant_id = @tenant_id
  and (@minute::timestamptz is null or (minute, endpoint_id, reason) < (@minute, @after_endpoint::uuid, @after_reason::text))
  and (@endpoint_id::uuid is null or endpoint_id = @endpoint_id)
  and (@reason::text is null or reason = @reason)
  and (@since::timestamptz is null or minute >= @since)
  and (@until::timestamptz is null or minute < @until)
order by minute desc, endpoint_id desc, reason desc limit @limit`

// RejectionList lists rejections, newest minute first.
func (tx TenantTx) RejectionList(ctx context.Context, f RejectionFilter, p RejectionPage) ([]Rejection, error) {
	var minute *time.Time
	if !p.Minute.IsZero() {
		minute = &p.Minute
	}
	return many[Rejection](ctx, tx.tx, rejectionListSQL, tx.with(args{
		"minute": minute, "after_endpoint": p.EndpointID, "after_reason": p.Reason, "limit": p.Limit,
		"endpoint_id": f.EndpointID, "reason": orNil(f.Reason), "since": f.Since, "until": f.Until,
	}))
}
