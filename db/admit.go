package db

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// DoorTx is a transaction of the intake: it hands over batches of deliveries of any tenants, adds their jobs, and reads nothing.
type DoorTx struct {
	tx pgx.Tx
	at *time.Time // see DB.WithClock
}

// Pgx hands the transaction to River, as TenantTx.Pgx does.
func (tx DoorTx) Pgx() pgx.Tx { return tx.tx }

// Door runs fn in one transaction as sluice_door, and commits if fn returns nil. A commit whose end is not known is an ErrCommitUnknown.
func (d *DB) Door(ctx context.Context, fn func(DoorTx) error) error {
	return inTx(ctx, d.door, "", func(tx pgx.Tx) error { return fn(DoorTx{tx: tx, at: d.at()}) })
}

// Delivery is one verified delivery of a source to an endpoint: its raw body and the events in it.
type Delivery struct {
	TenantID   uuid.UUID
	EndpointID uuid.UUID
	Source     string
	SecretID   *uuid.UUID // the secret that matched; nil for a source without secrets
	Test       bool
	TraceID    string
	Headers    json.RawMessage
	Body       []byte
	BodySHA256 []byte
	Events     []EventNew
}

// EventNew is an event to keep.
type EventNew struct {
	ID            uuid.UUID
	SourceEventID string
	// Once, if not "", is a second idempotency key: it stands in for an id that is not under the signature.
	Once       string
	Type       string
	Entity     string
	Sequence   *int64
	OccurredAt *time.Time
	// Verdicts is a JSON array of what each automation of the endpoint made of the event.
	Verdicts json.RawMessage
	// Document is the JSON that templates see, nil where it is the body itself.
	Document []byte
	Runs     []RunNew
}

const admitSQL = `
select answers, lags, slots, ceilings from sluice.admit(@at, @e_tenant, @e_endpoint, @e_id, @e_source, @e_source_event_id, @e_once, @e_type, @e_entity,
    @e_sequence, @e_occurred_at, @e_secret, @e_test, @e_delivery, @e_verdicts, @e_trace, @e_document, @d_headers, @d_body, @d_sha256,
    @r_event, @r_id, @r_automation, @r_version, @r_mode, @r_priority, @r_ordering, @r_attempts, @r_over)`

// Admitted is what became of one event of a delivery.
type Admitted struct {
	// Holder is the event that holds its keys: its own id where it is new, that of an earlier one where it is a duplicate, of which nothing
	// was written.
	Holder uuid.UUID
	// FullUntil, if not nil, says that its tenant has stored as many events in this hour as it may: nothing was written, nor looked for.
	FullUntil *time.Time
	// Places are those of its runs, in order; empty where it is not new.
	Places []Place
}

// Place is where a new run stands in the queue.
type Place struct {
	// Held says that the run is over its tenant's limit of events: it is held, or dropped, and gets no job.
	Held bool
	// Lag is how far the tenant is ahead of its share.
	Lag time.Duration
	// NotBefore, if not zero, is when the run may begin at the tenant's pace.
	NotBefore time.Time
}

// admitRow is a batch's answer, column by column.
type admitRow struct {
	Answers  []*uuid.UUID
	Lags     []*float64
	Slots    []*time.Time
	Ceilings []*time.Time
}

// Admit stores deliveries of any tenants with their events and runs, and answers for each event of each delivery, in order. The jobs of the runs
// of new events that are not held must be added in the same transaction.
func (tx DoorTx) Admit(ctx context.Context, deliveries []*Delivery) ([][]Admitted, error) {
	b := newAdmission(deliveries)
	a := b.args()
	a["at"] = tx.at
	row, err := one[admitRow](ctx, tx.tx, admitSQL, a)
	if err != nil {
		return nil, fmt.Errorf("admit %d deliveries: %w", len(deliveries), err)
	}
	if len(row.Answers) != len(b.eID) || len(row.Lags) != len(b.rID) || len(row.Slots) != len(b.rID) {
		return nil, fmt.Errorf("admit %d deliveries: %d answers for %d events", len(deliveries), len(row.Answers), len(b.eID))
	}
	out := make([][]Admitted, len(deliveries))
	event, run := 0, 0
	for i, d := range deliveries {
		out[i] = make([]Admitted, len(d.Events))
		for j, e := range d.Events {
			out[i][j] = row.admitted(event, run, e)
			event, run = event+1, run+len(e.Runs)
		}
	}
	return out, nil
}

// admitted is the answer for the event at a place, whose runs begin at another.
func (row admitRow) admitted(event, run int, e EventNew) Admitted {
	if row.Answers[event] == nil {
		return Admitted{FullUntil: row.Ceilings[event]}
	}
	a := Admitted{Holder: *row.Answers[event]}
	if a.Holder != e.ID {
		return a
	}
	for i := run; i < run+len(e.Runs); i++ {
		var p Place
		if lag := row.Lags[i]; lag != nil {
			p.Lag = time.Duration(*lag * float64(time.Second))
		} else {
			p.Held = true
		}
		if slot := row.Slots[i]; slot != nil {
			p.NotBefore = *slot
		}
		a.Places = append(a.Places, p)
	}
	return a
}

// admission is a batch, column by column.
type admission struct {
	eTenant, eEndpoint, eID, rID, rAutomation          pgtype.FlatArray[pgtype.UUID]
	eSecret                                            pgtype.FlatArray[pgtype.UUID]
	eSource, eSourceEventID, eType, eEntity, eVerdicts []string
	eOnce                                              []*string
	eSequence                                          []*int64
	eOccurredAt                                        []*time.Time
	eTest                                              []bool
	eDelivery                                          []int32
	eTrace                                             []string
	eDocument                                          [][]byte
	dHeaders                                           []string
	dBody, dSHA256                                     [][]byte
	rEvent, rVersion                                   []int32
	rMode, rPriority, rOrdering, rOver                 []string
	rAttempts                                          []int32
}

func newAdmission(deliveries []*Delivery) *admission {
	// Empty columns must be empty arrays, not null.
	b := &admission{
		rEvent: []int32{}, rVersion: []int32{}, rID: pgtype.FlatArray[pgtype.UUID]{}, rAutomation: pgtype.FlatArray[pgtype.UUID]{},
		rMode: []string{}, rPriority: []string{}, rOrdering: []string{}, rOver: []string{}, rAttempts: []int32{},
	}
	for i, d := range deliveries {
		b.dHeaders = append(b.dHeaders, string(d.Headers))
		b.dBody = append(b.dBody, orEmpty(d.Body))
		b.dSHA256 = append(b.dSHA256, d.BodySHA256)
		for _, e := range d.Events {
			b.add(d, int32(i+1), e)
		}
	}
	return b
}

func (b *admission) add(d *Delivery, place int32, e EventNew) {
	b.eTenant, b.eEndpoint, b.eID = append(b.eTenant, bits(d.TenantID)), append(b.eEndpoint, bits(d.EndpointID)), append(b.eID, bits(e.ID))
	b.eSource, b.eSourceEventID = append(b.eSource, d.Source), append(b.eSourceEventID, e.SourceEventID)
	b.eOnce = append(b.eOnce, orNil(e.Once))
	b.eType, b.eEntity = append(b.eType, e.Type), append(b.eEntity, e.Entity)
	b.eSequence, b.eOccurredAt = append(b.eSequence, e.Sequence), append(b.eOccurredAt, e.OccurredAt)
	b.eSecret, b.eTest, b.eDelivery = append(b.eSecret, bitsOrNull(d.SecretID)), append(b.eTest, d.Test), append(b.eDelivery, place)
	b.eVerdicts, b.eTrace, b.eDocument = append(b.eVerdicts, string(e.Verdicts)), append(b.eTrace, d.TraceID), append(b.eDocument, e.Document)
	for _, r := range e.Runs {
		b.rEvent = append(b.rEvent, int32(len(b.eID)))
		b.rID, b.rAutomation, b.rVersion = append(b.rID, bits(r.ID)), append(b.rAutomation, bits(r.AutomationID)), append(b.rVersion, int32(r.AutomationVersion))
		b.rMode, b.rPriority, b.rOrdering = append(b.rMode, r.Mode), append(b.rPriority, r.Priority), append(b.rOrdering, r.Ordering)
		b.rAttempts, b.rOver = append(b.rAttempts, int32(cmp.Or(r.AttemptsMax, attemptsDefault))), append(b.rOver, cmp.Or(r.OverLimit, OverHold))
	}
}

func (b *admission) args() args {
	return args{
		"e_tenant": b.eTenant, "e_endpoint": b.eEndpoint, "e_id": b.eID, "e_source": b.eSource, "e_source_event_id": b.eSourceEventID,
		"e_once": b.eOnce, "e_type": b.eType, "e_entity": b.eEntity, "e_sequence": b.eSequence, "e_occurred_at": b.eOccurredAt,
		"e_secret": b.eSecret, "e_test": b.eTest, "e_delivery": b.eDelivery, "e_verdicts": b.eVerdicts, "e_trace": b.eTrace,
		"e_document": b.eDocument, "d_headers": b.dHeaders, "d_body": b.dBody, "d_sha256": b.dSHA256,
		"r_event": b.rEvent, "r_id": b.rID, "r_automation": b.rAutomation, "r_version": b.rVersion, "r_mode": b.rMode,
		"r_priority": b.rPriority, "r_ordering": b.rOrdering, "r_attempts": b.rAttempts, "r_over": b.rOver,
	}
}

// orEmpty keeps an empty body from being null.
func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// bits is an id as pgx writes it without asking what it is; a batch holds a thousand.
func bits(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

func bitsOrNull(id *uuid.UUID) pgtype.UUID {
	if id == nil {
		return pgtype.UUID{}
	}
	return bits(*id)
}
