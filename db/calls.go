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
    input_estimate, max_output_tokens, ` + tokenColumns + `, cost_pico, usage_raw, usage_fault, finish, response_id, response_text,
    error_kind, error_status, created_at, sent_at, ended_at`

const callListSQL = `select ` + callColumns + ` from sluice.calls where tenant_id = @tenant_id and run_id = @run_id order by ordinal`

// CallList reads the calls of a run, in order.
func (tx TenantTx) CallList(ctx context.Context, runID uuid.UUID) ([]Call, error) {
	return many[Call](ctx, tx.tx, callListSQL, tx.with(args{"run_id": runID}))
}

// callIntendSQL writes only while the run is the caller's: the condition is in the statement, and the lock on the run's row keeps it true.
const callIntendSQL = `
with run as (
    select id from sluice.runs where tenant_id = @tenant_id and id = @run_id and epoch = @epoch and status = 'running' for update)
insert into sluice.calls (tenant_id, id, run_id, ordinal, epoch, state, provider, model_asked, credential_id, price_id, request_sha256,
    input_estimate, max_output_tokens)
select @tenant_id, @id, run.id, (select count(*) + 1 from sluice.calls c where c.tenant_id = @tenant_id and c.run_id = @run_id), @epoch,
    'intended', @provider, @model_asked, @credential_id, @price_id, @request_sha256, @input_estimate, @max_output_tokens
from run`

// CallIntend keeps a call that is about to be made. ErrStale: the run is no longer the caller's.
func (tx TenantTx) CallIntend(ctx context.Context, c Call) error {
	return touched(run(ctx, tx.tx, callIntendSQL, tx.with(args{
		"id": c.ID, "run_id": c.RunID, "epoch": c.Epoch, "provider": c.Provider, "model_asked": c.ModelAsked, "credential_id": c.CredentialID,
		"price_id": c.PriceID, "request_sha256": c.RequestSHA256, "input_estimate": c.InputEstimate, "max_output_tokens": c.MaxOutputTokens,
	})))
}

const callSendSQL = `
update sluice.calls c set state = 'sent', sent_at = clock_timestamp()
where c.tenant_id = @tenant_id and c.id = @id and c.state = 'intended'
  and exists (select from sluice.runs r where r.tenant_id = @tenant_id and r.id = c.run_id and r.epoch = @epoch and r.status = 'running')`

// CallSend marks a call as sent, right before it is. ErrStale: the run is no longer the caller's, and the call must not be made.
func (tx TenantTx) CallSend(ctx context.Context, id uuid.UUID, epoch int64) error {
	return touched(run(ctx, tx.tx, callSendSQL, tx.with(args{"id": id, "epoch": epoch})))
}

const callReceiveSQL = `
update sluice.calls set state = 'received', ended_at = clock_timestamp(), model_served = @model_served, price_id = @price_id,
    input_uncached = @input_uncached, input_cache_read = @input_cache_read, input_cache_write_5m = @input_cache_write_5m,
    input_cache_write_1h = @input_cache_write_1h, output_visible = @output_visible, output_reasoning = @output_reasoning,
    cost_pico = @cost_pico, usage_raw = @usage_raw, usage_fault = @usage_fault, finish = @finish, response_id = @response_id,
    response_text = @response_text
where tenant_id = @tenant_id and id = @id and state = 'sent'`

// CallReceive keeps a reply with its usage and cost.
func (tx TenantTx) CallReceive(ctx context.Context, c Call) error {
	return touched(run(ctx, tx.tx, callReceiveSQL, tx.with(args{
		"id": c.ID, "model_served": c.ModelServed, "price_id": c.PriceID,
		"input_uncached": c.InputUncached, "input_cache_read": c.InputCacheRead, "input_cache_write_5m": c.InputCacheWrite5m,
		"input_cache_write_1h": c.InputCacheWrite1h, "output_visible": c.OutputVisible, "output_reasoning": c.OutputReasoning,
		"cost_pico": c.CostPico, "usage_raw": c.UsageRaw, "usage_fault": c.UsageFault, "finish": c.Finish, "response_id": c.ResponseID,
		"response_text": c.ResponseText,
	})))
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
    cost_pico = @cost_pico, input_uncached = @input_uncached, output_visible = @output_visible
where tenant_id = @tenant_id and id = @id and state = 'sent'`

// CallOrphan ends a call that was sent and whose reply never came; its cost is an estimate.
func (tx TenantTx) CallOrphan(ctx context.Context, c Call) error {
	return touched(run(ctx, tx.tx, callOrphanSQL, tx.with(args{
		"id": c.ID, "error_kind": c.ErrorKind, "error_status": c.ErrorStatus, "cost_pico": c.CostPico,
		"input_uncached": c.InputUncached, "output_visible": c.OutputVisible,
	})))
}
