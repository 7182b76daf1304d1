package db

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"sluice/tenants"
)

// This file is what workers write for many runs of one tenant at once: a claim, a reservation, an outcome. Each is a few statements, however many
// runs there are; what is true of one run alone is in runs.go.

// Gate is what stands between a tenant's runs and their work.
type Gate struct {
	Status         tenants.Status
	RunsPerSecond  *float64
	Burst          int
	ConcurrentRuns *int
	// Holding is the reason for which runs are held, "" for none.
	Holding string
	// Parked is how many runs wait for one of the concurrent runs to end.
	Parked int
}

const gateGetSQL = `
select t.status, l.runs_per_second, l.burst, l.concurrent_runs, b.holding, b.parked
from sluice.tenants t join sluice.limits l on l.tenant_id = t.tenant_id join sluice.budgets b on b.tenant_id = t.tenant_id
where t.tenant_id = @tenant_id`

// GateGet reads the gate of the tenant. ErrNotFound: it was erased.
func (tx TenantTx) GateGet(ctx context.Context) (Gate, error) {
	return one[Gate](ctx, tx.tx, gateGetSQL, tx.with(nil))
}

const gateLockSQL = `select held from sluice.budgets where tenant_id = @tenant_id for update`

// runsHoldSQL holds what has not begun and has nothing of its own to say of a limit; what was released is let through.
const runsHoldSQL = `
update sluice.runs r set status = 'held', reason = b.holding, detail = 'Others that came before it are held by this limit.',
    until = case b.holding when 'limit.cost_per_month' then b.month_until else b.day_until end, updated_at = now()
from sluice.budgets b
where b.tenant_id = @tenant_id and b.holding <> '' and r.tenant_id = @tenant_id and r.id = any(@ids) and r.status = 'queued'
  and r.over_limit = 'hold' and r.reason <> 'limit.released' and r.started_at is null
returning r.id`

// ReasonReleased is that of a run which a limit held and lets go on.
const ReasonReleased = "limit.released"

// RunsHold holds those of the runs that must stand behind others which a limit holds already, and says which.
func (tx TenantTx) RunsHold(ctx context.Context, ids []uuid.UUID) ([]uuid.UUID, error) {
	// Under the lock the releaser cannot have looked before and clear the mark after.
	if _, err := value[bool](ctx, tx.tx, gateLockSQL, tx.with(nil)); err != nil {
		return nil, err
	}
	return values[uuid.UUID](ctx, tx.tx, runsHoldSQL, tx.with(args{"ids": ids}))
}

// gateFreeSQL counts under the budget's lock, in a statement of its own: it sees every claim and every end that came before.
const gateFreeSQL = `
select greatest(@concurrent::int - count(*), 0)::int from sluice.runs r
where r.tenant_id = @tenant_id and r.status = 'running' and r.lease_until > now()`

// gatePaceSQL takes as many of the slots of a tenant's pace as are due, and says how many those are, and when the next is.
const gatePaceSQL = `
with pace as (
    select greatest(b.paced_at, now()) as at, interval '1 second' / @per_second::float8 as step,
           now() + (@burst::int - 1) * (interval '1 second' / @per_second::float8) as last
    from sluice.budgets b where b.tenant_id = @tenant_id),
due as (
    select at, step, last, least(@wanted::int, greatest(floor(extract(epoch from last - at) / extract(epoch from step) + 0.000001)::int + 1, 0)) as n from pace),
taken as (
    update sluice.budgets b set paced_at = due.at + due.n * due.step from due where b.tenant_id = @tenant_id and due.n > 0)
select due.n as now, greatest(due.at + due.n * due.step - (due.last - now()), now()) as next, due.step from due`

// Pace is how many of some runs may begin now, when the next may, and how far the others are apart.
type Pace struct {
	Now  int
	Next time.Time
	Step time.Duration
}

// GateEnter says how many of wanted runs may begin now, by the tenant's concurrency and then by its pace, and takes the pace's slots. The budget is
// locked until the transaction ends; the runs must be claimed in it.
func (tx TenantTx) GateEnter(ctx context.Context, g Gate, wanted int) (free int, pace Pace, err error) {
	if _, err := value[bool](ctx, tx.tx, gateLockSQL, tx.with(nil)); err != nil {
		return 0, Pace{}, err
	}
	free = wanted
	if g.ConcurrentRuns != nil {
		if free, err = value[int](ctx, tx.tx, gateFreeSQL, tx.with(args{"concurrent": *g.ConcurrentRuns})); err != nil {
			return 0, Pace{}, err
		}
		free = min(free, wanted)
	}
	pace.Now = free
	if g.RunsPerSecond != nil && free > 0 {
		if pace, err = one[Pace](ctx, tx.tx, gatePaceSQL, tx.with(args{"per_second": *g.RunsPerSecond, "burst": g.Burst, "wanted": free})); err != nil {
			return 0, Pace{}, err
		}
	}
	return free, pace, nil
}

// The reasons of a run that waits for a free place among its tenant's concurrent runs, and of one whose place has come.
const (
	ReasonParked   = "limit.concurrent_runs"
	ReasonUnparked = "limit.turn"
)

const runsParkSQL = `
with parked as (
    update sluice.runs r set status = 'waiting', reason = 'limit.concurrent_runs', detail = 'Its tenant works on as many runs at once as it may.',
        until = null, updated_at = now()
    where r.tenant_id = @tenant_id and r.id = any(@ids) and r.status in ('queued', 'waiting') and r.reason <> 'limit.concurrent_runs'
    returning r.id),
counted as (
    update sluice.budgets b set parked = b.parked + (select count(*) from parked)::int where b.tenant_id = @tenant_id)
select id from parked`

// RunsPark lets runs wait, without a job, until another of the tenant ends, and says which.
func (tx TenantTx) RunsPark(ctx context.Context, ids []uuid.UUID) ([]uuid.UUID, error) {
	return values[uuid.UUID](ctx, tx.tx, runsParkSQL, tx.with(args{"ids": ids}))
}

// runsUnparkSQL wakes the first of those that wait: urgent ones first, then as they came.
const runsUnparkSQL = `
with free as (
    select case when l.concurrent_runs is null then @most::int
           else least(@most::int, l.concurrent_runs - (select count(*) from sluice.runs r where r.tenant_id = @tenant_id and r.status = 'running' and r.lease_until > now())::int
                - (select count(*) from sluice.runs r where r.tenant_id = @tenant_id and r.status = 'queued' and r.reason = 'limit.turn')::int) end as n
    from sluice.limits l where l.tenant_id = @tenant_id),
woken as (
    update sluice.runs r set status = 'queued', reason = 'limit.turn', detail = 'A place among its tenant''s concurrent runs is free.', updated_at = now()
    where r.tenant_id = @tenant_id and r.id in (
        select w.id from sluice.runs w
        where w.tenant_id = @tenant_id and w.status = 'waiting' and w.reason = 'limit.concurrent_runs'
        order by w.priority = 'urgent' desc, w.id limit greatest((select n from free), 0) for update skip locked)
    returning r.id, r.priority),
counted as (
    update sluice.budgets b set parked = case when (select count(*) from woken) = 0 and (select n from free) > 0 then 0
                                              else greatest(b.parked - (select count(*) from woken)::int, 0) end
    where b.tenant_id = @tenant_id)
select id, priority from woken`

// Woken is a run that goes on, and needs a job.
type Woken struct {
	ID       uuid.UUID
	Priority string
}

// RunsUnpark wakes up to most of the runs that wait for a free place. The caller adds their jobs in the same transaction.
func (tx TenantTx) RunsUnpark(ctx context.Context, most int) ([]Woken, error) {
	if _, err := value[bool](ctx, tx.tx, gateLockSQL, tx.with(nil)); err != nil {
		return nil, err
	}
	return many[Woken](ctx, tx.tx, runsUnparkSQL, tx.with(args{"most": most}))
}

const eventsOfSQL = `select ` + eventColumns + ` from sluice.events e where e.tenant_id = @tenant_id and e.id = any(@ids)`

// payloadOf is the raw body of an event that is named.
type payloadOf struct {
	EventID uuid.UUID
	Payload
}

const payloadsOfSQL = `
select p.event_id, p.headers, p.body, p.document from sluice.event_payloads p where p.tenant_id = @tenant_id and p.event_id = any(@ids)`

const callsOfSQL = `select ` + callColumns + ` from sluice.calls where tenant_id = @tenant_id and run_id = any(@ids) order by run_id, ordinal`

// RunsLoad reads what the work on claimed runs needs, in one round trip; in the order of the runs.
func (tx TenantTx) RunsLoad(ctx context.Context, runs []Run) ([]RunLoaded, error) {
	ids, events := make([]uuid.UUID, len(runs)), make([]uuid.UUID, len(runs))
	for i, r := range runs {
		ids[i], events[i] = r.ID, r.EventID
	}
	var batch pgx.Batch
	batch.Queue(eventsOfSQL, tx.with(args{"ids": events}))
	batch.Queue(payloadsOfSQL, tx.with(args{"ids": events}))
	batch.Queue(callsOfSQL, tx.with(args{"ids": ids}))
	results := tx.tx.SendBatch(ctx, &batch)
	defer results.Close()
	eventRows, err := next[Event](results)
	if err != nil {
		return nil, err
	}
	payloads, err := next[payloadOf](results)
	if err != nil {
		return nil, err
	}
	calls, err := next[Call](results)
	if err != nil {
		return nil, err
	}
	byEvent, bodies, byRun := map[uuid.UUID]Event{}, map[uuid.UUID]*Payload{}, map[uuid.UUID][]Call{}
	for _, e := range eventRows {
		byEvent[e.ID] = e
	}
	for i := range payloads {
		bodies[payloads[i].EventID] = &payloads[i].Payload
	}
	for _, c := range calls {
		byRun[c.RunID] = append(byRun[c.RunID], c)
	}
	if err := results.Close(); err != nil {
		return nil, translate(err)
	}
	out := make([]RunLoaded, len(runs))
	for i, r := range runs {
		event, ok := byEvent[r.EventID]
		if !ok {
			return nil, ErrNotFound
		}
		if kept := bodies[r.EventID]; kept != nil && kept.Body == nil {
			// One of several events of a delivery: another keeps the bytes for all.
			whole, err := tx.EventPayload(ctx, r.EventID)
			if err != nil {
				return nil, err
			}
			bodies[r.EventID] = &whole
		}
		out[i] = RunLoaded{Event: event, Payload: bodies[r.EventID], Calls: byRun[r.ID]}
	}
	return out, nil
}

// callsSendSQL is one statement: what is granted is reserved and kept, and what is not leaves nothing. Runs that are no longer their worker's do
// not count, and answer nothing.
const callsSendSQL = `
with asked as materialized (
    select a.* from unnest(@ids::uuid[], @runs::uuid[], @epochs::bigint[], @parts::text[], @providers::text[], @models::text[], @credentials::uuid[], @prices::bigint[],
        @hashes::bytea[], @inputs::bigint[], @outputs::bigint[], @tokens::bigint[], @picos::bigint[])
        with ordinality as a (id, run_id, epoch, part, provider, model_asked, credential_id, price_id, request_sha256, input_estimate, max_output_tokens,
                              reserved_tokens, reserved_pico, place)
), alive as materialized (
    select a.*, row_number() over (order by a.place) as nth, r.reason = 'limit.released' as released
    from asked a join sluice.runs r on r.tenant_id = @tenant_id and r.id = a.run_id and r.epoch = a.epoch and r.status = 'running'
), verdicts as materialized (
    select v.place, v.reason, v.until
    from (select array_agg(reserved_tokens order by nth) as tokens, array_agg(reserved_pico order by nth) as pico, array_agg(released order by nth) as released
          from alive having count(*) > 0) s,
        sluice.reserve(@tenant_id, @at, s.tokens, s.pico, s.released) v
), sent as (
    insert into sluice.calls (tenant_id, id, run_id, ordinal, epoch, state, part, provider, model_asked, credential_id, price_id, request_sha256,
        input_estimate, max_output_tokens, reserved_tokens, reserved_pico, sent_at)
    select @tenant_id, a.id, a.run_id, (select count(*) + 1 from sluice.calls c where c.tenant_id = @tenant_id and c.run_id = a.run_id), a.epoch, 'sent',
        a.part, a.provider, a.model_asked, a.credential_id, a.price_id, a.request_sha256, a.input_estimate, a.max_output_tokens,
        a.reserved_tokens, a.reserved_pico, clock_timestamp()
    from alive a join verdicts v on v.place = a.nth where v.reason = ''
)
select a.id, v.reason, v.until from alive a join verdicts v on v.place = a.nth`

// Granted is what became of a call that wants to be made.
type Granted struct {
	ID uuid.UUID
	// Reason is "" where its worst case is reserved and it may be sent; else the limit that it would pass, and Until when that turns.
	Reason string
	Until  *time.Time
}

// CallsSend reserves the worst case of calls and keeps them as sent, right before they are: what fits, in order. A call that is missing in the
// answer must not be made: its run is no longer its worker's.
func (tx TenantTx) CallsSend(ctx context.Context, calls []Call) ([]Granted, error) {
	var ids, runs, credentials pgtype.FlatArray[pgtype.UUID]
	var epochs, prices, inputs, outputs, tokens, picos []int64
	var parts, providers, models []string
	var hashes [][]byte
	for _, c := range calls {
		ids, runs, credentials = append(ids, bits(c.ID)), append(runs, bits(c.RunID)), append(credentials, bitsOrNull(c.CredentialID))
		epochs, prices, inputs = append(epochs, c.Epoch), append(prices, c.PriceID), append(inputs, c.InputEstimate)
		outputs, tokens, picos = append(outputs, c.MaxOutputTokens), append(tokens, c.ReservedTokens), append(picos, c.ReservedPico)
		parts, providers, models = append(parts, c.Part), append(providers, c.Provider), append(models, c.ModelAsked)
		hashes = append(hashes, c.RequestSHA256)
	}
	return many[Granted](ctx, tx.tx, callsSendSQL, tx.with(args{
		"at": tx.at, "ids": ids, "runs": runs, "epochs": epochs, "parts": parts, "providers": providers, "models": models, "credentials": credentials,
		"prices": prices, "hashes": hashes, "inputs": inputs, "outputs": outputs, "tokens": tokens, "picos": picos,
	}))
}

// callsReceiveSQL books the calls as they stand, so that the two cannot differ.
const callsReceiveSQL = `
with received as (
    update sluice.calls c set state = 'received', ended_at = clock_timestamp(), model_served = n.model_served, price_id = n.price_id,
        input_uncached = n.input_uncached, input_cache_read = n.input_cache_read, input_cache_write_5m = n.input_cache_write_5m,
        input_cache_write_1h = n.input_cache_write_1h, output_visible = n.output_visible, output_reasoning = n.output_reasoning,
        cost_pico = n.cost_pico, usage_raw = n.usage_raw::jsonb, usage_fault = n.usage_fault, finish = n.finish, response_id = n.response_id,
        response_text = n.response_text
    from unnest(@ids::uuid[], @served::text[], @prices::bigint[], @in_uncached::bigint[], @in_cache_read::bigint[], @in_cache_write_5m::bigint[],
        @in_cache_write_1h::bigint[], @out_visible::bigint[], @out_reasoning::bigint[], @costs::bigint[], @raws::text[], @faults::text[], @finishes::text[],
        @responses::text[], @texts::text[], @entries::uuid[])
        as n (id, model_served, price_id, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning,
              cost_pico, usage_raw, usage_fault, finish, response_id, response_text, entry_id)
    where c.tenant_id = @tenant_id and c.id = n.id and c.state = 'sent'
    returning n.entry_id, c.*)
insert into sluice.ledger_entries (tenant_id, id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider,
    model_asked, model_served, price_id, ` + tokenColumns + `, amount_pico)
select c.tenant_id, c.entry_id, 'charge', coalesce(@at, now()), c.id, r.id, r.event_id, r.endpoint_id, r.automation_id, r.automation_version, c.provider,
    c.model_asked, c.model_served, c.price_id, c.input_uncached, c.input_cache_read, c.input_cache_write_5m, c.input_cache_write_1h, c.output_visible,
    c.output_reasoning, c.cost_pico
from received c join sluice.runs r on r.tenant_id = @tenant_id and r.id = c.run_id`

// CallsReceive keeps replies with their usage and cost, and books them. ErrStale: one of the calls was settled otherwise, and nothing was written.
func (tx TenantTx) CallsReceive(ctx context.Context, calls []Call) error {
	if len(calls) == 0 {
		return nil
	}
	var ids, entries pgtype.FlatArray[pgtype.UUID]
	columns := map[string][]int64{}
	var served, faults, finishes, responses []string
	var raws, texts []*string
	for _, c := range calls {
		ids, entries = append(ids, bits(c.ID)), append(entries, bits(tenants.NewID()))
		for name, value := range map[string]int64{
			"prices": c.PriceID, "in_uncached": c.InputUncached, "in_cache_read": c.InputCacheRead, "in_cache_write_5m": c.InputCacheWrite5m,
			"in_cache_write_1h": c.InputCacheWrite1h, "out_visible": c.OutputVisible, "out_reasoning": c.OutputReasoning, "costs": c.CostPico,
		} {
			columns[name] = append(columns[name], value)
		}
		served, faults, finishes = append(served, c.ModelServed), append(faults, c.UsageFault), append(finishes, c.Finish)
		responses, texts, raws = append(responses, c.ResponseID), append(texts, c.ResponseText), append(raws, textOrNull(c.UsageRaw))
	}
	a := args{"ids": ids, "entries": entries, "at": tx.at, "served": served, "faults": faults, "finishes": finishes, "responses": responses, "texts": texts, "raws": raws}
	for name, column := range columns {
		a[name] = column
	}
	n, err := run(ctx, tx.tx, callsReceiveSQL, tx.with(a))
	if err != nil {
		return err
	}
	if n != int64(len(calls)) {
		return ErrStale
	}
	return nil
}

func textOrNull(raw json.RawMessage) *string {
	if raw == nil {
		return nil
	}
	text := string(raw)
	return &text
}

// RunEnd is a run whose worker is done with it for now.
type RunEnd struct {
	ID    uuid.UUID
	Epoch int64
	// CostPico is what its end adds to its cost: that of the call that is booked with it.
	CostPico int64
	RunStep
}

const runsStepSQL = `
with stepped as (
update sluice.runs r set status = n.status, reason = n.reason, detail = n.detail,
    until = case when n.wait > interval '0' then now() + n.wait else n.until end,
    attempt = r.attempt - n.refund, lease_until = null, output = coalesce(n.output::jsonb, r.output), tokens_saved = n.tokens_saved,
    held_tokens = n.held_tokens, held_pico = n.held_pico,
    cost_pico = r.cost_pico + n.cost_pico,
    finished_at = case when n.status in ('done', 'skipped', 'dead', 'cancelled') then now() end, updated_at = now()
from unnest(@ids::uuid[], @epochs::bigint[], @statuses::text[], @reasons::text[], @details::text[], @waits::interval[], @untils::timestamptz[], @refunds::int[],
    @outputs::text[], @saved::bigint[], @held_tokens::bigint[], @held_pico::bigint[], @costs::bigint[])
    as n (id, epoch, status, reason, detail, wait, until, refund, output, tokens_saved, held_tokens, held_pico, cost_pico)
where r.tenant_id = @tenant_id and r.id = n.id and r.epoch = n.epoch and r.status = 'running'
returning r.id)
select (select count(*) from stepped)::int as stepped, b.parked from sluice.budgets b where b.tenant_id = @tenant_id`

type stepped struct{ Stepped, Parked int }

// RunsStep ends the hold of runs, each with its next status, and says how many others wait for the places that are free now. ErrStale: one of them is
// no longer its worker's.
func (tx TenantTx) RunsStep(ctx context.Context, ends []RunEnd) (parked int, err error) {
	var ids pgtype.FlatArray[pgtype.UUID]
	var epochs, saved, heldTokens, heldPico, costs []int64
	var statuses, reasons, details []string
	var waits []time.Duration
	var untils []*time.Time
	var refunds []int32
	var outputs []*string
	for _, e := range ends {
		refund := int32(0)
		if e.Refund {
			refund = 1
		}
		ids, epochs, statuses = append(ids, bits(e.ID)), append(epochs, e.Epoch), append(statuses, string(e.Status))
		reasons, details, waits = append(reasons, e.Reason), append(details, e.Detail), append(waits, e.Wait)
		untils, refunds, outputs = append(untils, e.Until), append(refunds, refund), append(outputs, textOrNull(e.Output))
		saved, heldTokens, heldPico = append(saved, e.TokensSaved), append(heldTokens, e.HeldTokens), append(heldPico, e.HeldPico)
		costs = append(costs, e.CostPico)
	}
	row, err := one[stepped](ctx, tx.tx, runsStepSQL, tx.with(args{
		"ids": ids, "epochs": epochs, "statuses": statuses, "reasons": reasons, "details": details, "waits": waits, "untils": untils, "refunds": refunds,
		"outputs": outputs, "saved": saved, "held_tokens": heldTokens, "held_pico": heldPico,
		"costs": costs,
	}))
	if err == nil && row.Stepped != len(ends) || errors.Is(err, ErrNotFound) {
		return 0, ErrStale // the tenant was erased meanwhile
	}
	return row.Parked, err
}

const budgetHoldSQL = `
update sluice.budgets set holding = case when holding = '' then @reason else holding end, held = true where tenant_id = @tenant_id`

// BudgetHold marks that a run is held for a limit of the budget, so that those that come later stand behind it.
func (tx TenantTx) BudgetHold(ctx context.Context, reason string) error {
	_, err := run(ctx, tx.tx, budgetHoldSQL, tx.with(args{"reason": reason}))
	return err
}

// ActionsInsert keeps intents, in one round trip.
func (tx TenantTx) ActionsInsert(ctx context.Context, actions []Action) error {
	if len(actions) == 0 {
		return nil
	}
	var batch pgx.Batch
	for _, a := range actions {
		batch.Queue(actionInsertSQL, tx.with(a.insertArgs()))
	}
	return translate(tx.tx.SendBatch(ctx, &batch).Close())
}

const runCostSQL = `
update sluice.runs r set cost_pico = (
    select coalesce(sum(c.cost_pico), 0)::bigint from sluice.calls c where c.tenant_id = @tenant_id and c.run_id = r.id)
where r.tenant_id = @tenant_id and r.id = @id`

// RunCost brings a run's cost up to date with its calls.
func (tx TenantTx) RunCost(ctx context.Context, id uuid.UUID) error {
	_, err := run(ctx, tx.tx, runCostSQL, tx.with(args{"id": id}))
	return err
}

const runsWakeSQL = `
update sluice.runs r set status = 'queued', reason = 'provider.credential_resumed', detail = 'A person has seen to the credential that it waited for.',
    until = null, updated_at = now()
where r.tenant_id = @tenant_id and r.id in (
    select w.id from sluice.runs w
    where w.tenant_id = @tenant_id and w.status = 'waiting' and w.reason = any(@reasons) order by w.id limit @most for update skip locked)
returning r.id, r.priority`

// RunsWake lets go on at once what waits for one of these reasons, up to most. The caller adds their jobs in the same transaction.
func (tx TenantTx) RunsWake(ctx context.Context, reasons []string, most int) ([]Woken, error) {
	return many[Woken](ctx, tx.tx, runsWakeSQL, tx.with(args{"reasons": reasons, "most": most}))
}
