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

// EventNew is an event to keep, with its raw body.
type EventNew struct {
	Event
	// BodySHA256 is the hash of the raw body.
	BodySHA256 []byte
	// BodyKey, if not "", is a second idempotency key: it stands in for an id that is not under the signature.
	BodyKey string
	Headers json.RawMessage
	Body    []byte
	// Document is the JSON that templates see, nil where it is the body itself.
	Document []byte
}

const eventKeysInsertSQL = `
insert into sluice.event_keys (tenant_id, endpoint_id, kind, key, event_id)
select @tenant_id, @endpoint_id, kind, key, @event_id from unnest(@kinds::text[], @keys::text[]) as k (kind, key)
on conflict do nothing returning kind`

const eventKeyGetSQL = `
select event_id from sluice.event_keys
where tenant_id = @tenant_id and endpoint_id = @endpoint_id and ((kind = 'id' and key = @id) or (kind = 'body' and key = @body))
order by kind desc limit 1`

const eventInsertSQL = `
with event as (
    insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, entity, sequence, occurred_at, secret_id, test,
        body_bytes, body_sha256, verdicts, trace_id)
    values (@tenant_id, @id, @endpoint_id, @source, @source_event_id, @type, @entity, @sequence, @occurred_at, @secret_id, @test,
        @body_bytes, @body_sha256, @verdicts, @trace_id)
    returning tenant_id, id)
insert into sluice.event_payloads (tenant_id, event_id, headers, body, document)
select tenant_id, id, @headers, @body, @document from event`

// EventInsert keeps an event, its raw body and its idempotency keys. If one of the keys is taken it is a duplicate: nothing is written, and
// first is the id of the event that came first. The caller must then not commit anything that belongs to the new one.
func (tx TenantTx) EventInsert(ctx context.Context, e EventNew) (first uuid.UUID, duplicate bool, err error) {
	// The keys go first: a second delivery at the same moment waits here until this transaction ends, and then finds them taken.
	kinds, keys := []string{"id"}, []string{e.SourceEventID}
	if e.BodyKey != "" {
		kinds, keys = append(kinds, "body"), append(keys, e.BodyKey)
	}
	// A savepoint: of two keys one may be new, and it must not stand for an event that is not kept. A single one is either kept or not.
	if len(keys) > 1 {
		if _, err := tx.tx.Exec(ctx, "savepoint keys"); err != nil {
			return uuid.Nil, false, translate(err)
		}
	}
	made, err := values[string](ctx, tx.tx, eventKeysInsertSQL, tx.with(args{
		"endpoint_id": e.EndpointID, "event_id": e.ID, "kinds": kinds, "keys": keys,
	}))
	if err != nil {
		return uuid.Nil, false, err
	}
	if len(made) < len(keys) {
		if len(made) > 0 {
			if _, err := tx.tx.Exec(ctx, "rollback to savepoint keys"); err != nil {
				return uuid.Nil, false, translate(err)
			}
		}
		first, err = tx.EventFirst(ctx, e.EndpointID, e.SourceEventID, e.BodyKey)
		return first, true, err
	}
	_, err = run(ctx, tx.tx, eventInsertSQL, tx.with(args{
		"id": e.ID, "endpoint_id": e.EndpointID, "source": e.Source, "source_event_id": e.SourceEventID, "type": e.Type, "entity": e.Entity,
		"sequence": e.Sequence, "occurred_at": e.OccurredAt, "secret_id": e.SecretID, "test": e.Test, "body_bytes": len(e.Body),
		"body_sha256": e.BodySHA256, "verdicts": e.Verdicts, "trace_id": e.TraceID, "headers": e.Headers, "body": e.Body,
		"document": e.Document,
	}))
	return e.ID, false, err
}

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
  and (@source_event_id::text is null or e.source_event_id = @source_event_id)
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

const eventPayloadGetSQL = `select headers, body, document from sluice.event_payloads where tenant_id = @tenant_id and event_id = @event_id`

// EventPayload reads the raw body of an event.
func (tx TenantTx) EventPayload(ctx context.Context, id uuid.UUID) (Payload, error) {
	return one[Payload](ctx, tx.tx, eventPayloadGetSQL, tx.with(args{"event_id": id}))
}
