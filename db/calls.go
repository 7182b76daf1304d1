package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// The states of a call.
const (
	CallIntended = "intended"
	CallSent     = "sent"
	CallReceived = "received"
	CallFailed   = "failed"
	CallOrphaned = "orphaned"
)

// The parts that a call plays.
const (
	CallAsk    = "ask"
	CallRepair = "repair" // mends an answer that was cut off or did not fit its schema
)

// Tokens are the disjoint buckets of a call's usage.
type Tokens struct {
	InputUncached     int64
	InputCacheRead    int64
	InputCacheWrite5m int64 `db:"input_cache_write_5m"`
	InputCacheWrite1h int64 `db:"input_cache_write_1h"`
	OutputVisible     int64
	OutputReasoning   int64
}

// Call is one request to a model.
type Call struct {
	TenantID        uuid.UUID
	ID              uuid.UUID
	RunID           uuid.UUID
	Ordinal         int
	Epoch           int64
	State           string
	Provider        string
	ModelAsked      string
	ModelServed     string
	CredentialID    *uuid.UUID
	PriceID         int64
	RequestSHA256   []byte `db:"request_sha256"`
	InputEstimate   int64
	MaxOutputTokens int64
	// ReservedTokens and ReservedPico are its worst case, reserved while it is under way.
	ReservedTokens, ReservedPico int64
	// Part is CallAsk or CallRepair.
	Part string
	Tokens
	CostPico     int64
	UsageRaw     json.RawMessage
	UsageFault   string
	Finish       string
	ResponseID   string
	ResponseText *string
	ErrorKind    string
	ErrorStatus  int
	CreatedAt    time.Time
	SentAt       *time.Time
	EndedAt      *time.Time
}

const tokenColumns = `input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning`

const callColumns = `tenant_id, id, run_id, ordinal, epoch, state, provider, model_asked, model_served, credential_id, price_id, request_sha256,
    input_estimate, max_output_tokens, reserved_tokens, reserved_pico, part, ` + tokenColumns + `, cost_pico, usage_raw, usage_fault, finish, response_id, response_text,
    error_kind, error_status, created_at, sent_at, ended_at`

const callListSQL = `select ` + callColumns + ` from sluice.calls where tenant_id = @tenant_id and run_id = @run_id order by ordinal`

// CallList reads the calls of a run, in order.
func (tx TenantTx) CallList(ctx context.Context, runID uuid.UUID) ([]Call, error) {
	return many[Call](ctx, tx.tx, callListSQL, tx.with(args{"run_id": runID}))
}

const callFailSQL = `
update sluice.calls set state = 'failed', ended_at = clock_timestamp(), error_kind = @error_kind, error_status = @error_status
where tenant_id = @tenant_id and id = @id and state in ('intended', 'sent')`

// CallFail ends a call that the provider refused, or that never left: nothing was billed.
func (tx TenantTx) CallFail(ctx context.Context, id uuid.UUID, kind string, status int) error {
	return touched(run(ctx, tx.tx, callFailSQL, tx.with(args{"id": id, "error_kind": kind, "error_status": status})))
}

const callOrphanSQL = `
update sluice.calls set state = 'orphaned', ended_at = clock_timestamp(), error_kind = @error_kind, error_status = @error_status,
    cost_pico = @cost_pico, ` + callTokensSet + `
where tenant_id = @tenant_id and id = @id and state = 'sent'`

// callTokensSet sets the buckets of a call's usage.
const callTokensSet = `input_uncached = @input_uncached, input_cache_read = @input_cache_read, input_cache_write_5m = @input_cache_write_5m,
    input_cache_write_1h = @input_cache_write_1h, output_visible = @output_visible, output_reasoning = @output_reasoning`

// CallOrphan ends a call that was sent and whose reply never came; its cost is an estimate.
func (tx TenantTx) CallOrphan(ctx context.Context, c Call) error {
	return touched(run(ctx, tx.tx, callOrphanSQL, tx.with(args{
		"id": c.ID, "error_kind": c.ErrorKind, "error_status": c.ErrorStatus, "cost_pico": c.CostPico,
		"input_uncached": c.InputUncached, "input_cache_read": c.InputCacheRead, "input_cache_write_5m": c.InputCacheWrite5m,
		"input_cache_write_1h": c.InputCacheWrite1h, "output_visible": c.OutputVisible, "output_reasoning": c.OutputReasoning,
	})))
}
