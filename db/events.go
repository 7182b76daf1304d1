package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Event is one thing that happened in a source, verified and kept.
type Event struct {
	TenantID      uuid.UUID
	ID            uuid.UUID
	EndpointID    uuid.UUID
	Source        string
	SourceEventID string
	Type          string
	Entity        string
	Sequence      *int64
	OccurredAt    *time.Time
	ReceivedAt    time.Time
	SecretID      *uuid.UUID
	Test          bool
	BodyBytes     int
	// Verdicts is a JSON array of what each automation of the endpoint made of the event.
	Verdicts json.RawMessage
	TraceID  string
}

const eventColumns = `e.tenant_id, e.id, e.endpoint_id, e.source, e.source_event_id, e.type, e.entity, e.sequence, e.occurred_at, e.received_at,
    e.secret_id, e.test, e.body_bytes, e.verdicts, e.trace_id`

const eventKeyGetSQL = `
select event_id from sluice.event_keys
where tenant_id = @tenant_id and endpoint_id = @endpoint_id and ((kind = 'id' and key = @id) or (kind = 'body' and key = @body))
order by kind desc limit 1`

// EventFirst finds the event that holds one of the two idempotency keys, the source's id before the body's.
func (tx TenantTx) EventFirst(ctx context.Context, endpointID uuid.UUID, id, body string) (uuid.UUID, error) {
	return value[uuid.UUID](ctx, tx.tx, eventKeyGetSQL, tx.with(args{"endpoint_id": endpointID, "id": id, "body": body}))
}

const eventGetSQL = `select ` + eventColumns + ` from sluice.events e where e.tenant_id = @tenant_id and e.id = @id`

// EventGet reads an event.
func (tx TenantTx) EventGet(ctx context.Context, id uuid.UUID) (Event, error) {
	return one[Event](ctx, tx.tx, eventGetSQL, tx.with(args{"id": id}))
}

// EventFilter narrows a list of events; zero fields do not.
type EventFilter struct {
	EndpointID    *uuid.UUID
	Type          string
	Entity        string
	SourceEventID string
	// Status keeps events that have a run of this status.
	Status       string
	Since, Until *time.Time
}

const eventListSQL = `
select ` + eventColumns + ` from sluice.events e
where e.tenant_id = @tenant_id and e.id < @before
  and (@endpoint_id::uuid is null or e.endpoint_id = @endpoint_id)
  and (@type::text is null or e.type = @type)
  and (@entity::text is null or e.entity = @entity)
  and (@source_event_id::text is null or e.id in (
       select k.event_id from sluice.endpoints ep join sluice.event_keys k on k.tenant_id = ep.tenant_id and k.endpoint_id = ep.id
       where ep.tenant_id = @tenant_id and k.kind = 'id' and k.key = @source_event_id))
  and (@since::timestamptz is null or e.received_at >= @since)
  and (@until::timestamptz is null or e.received_at < @until)
  and (@status::text is null or exists (select from sluice.runs r
       where r.tenant_id = @tenant_id and r.event_id = e.id and r.status = @status))
order by e.id desc limit @limit`

// EventList lists events, newest first.
func (tx TenantTx) EventList(ctx context.Context, f EventFilter, p Page) ([]Event, error) {
	return many[Event](ctx, tx.tx, eventListSQL, tx.with(args{
		"before": p.before(), "limit": p.Limit, "endpoint_id": f.EndpointID, "type": orNil(f.Type), "entity": orNil(f.Entity),
		"source_event_id": orNil(f.SourceEventID), "status": orNil(f.Status), "since": f.Since, "until": f.Until,
	}))
}

// Payload is an event's raw body and the headers that matter, as received.
type Payload struct {
	Headers json.RawMessage
	Body    []byte
	// Document is the JSON that templates see, nil where it is the body itself.
	Document []byte
}

// Seen is the JSON that templates see.
func (p Payload) Seen() []byte {
	if p.Document != nil {
		return p.Document
	}
	return p.Body
}

// eventPayloadGetSQL: where one delivery held several events, one of them keeps the bytes for all.
const eventPayloadGetSQL = `
select p.headers, coalesce(p.body, o.body) as body, p.document
from sluice.event_payloads p
left join sluice.event_payloads o on o.tenant_id = p.tenant_id and o.event_id = p.body_of and p.body is null
where p.tenant_id = @tenant_id and p.event_id = @event_id`

// EventPayload reads the raw body of an event.
func (tx TenantTx) EventPayload(ctx context.Context, id uuid.UUID) (Payload, error) {
	return one[Payload](ctx, tx.tx, eventPayloadGetSQL, tx.with(args{"event_id": id}))
}
