package db

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// RunStatus is where a run stands; table sluice.run_steps says which status may follow which.
type RunStatus string

// The statuses of a run. The last four are its ends.
const (
	RunQueued    RunStatus = "queued"
	RunRunning   RunStatus = "running"
	RunWaiting   RunStatus = "waiting"
	RunHeld      RunStatus = "held"
	RunInReview  RunStatus = "in_review"
	RunActing    RunStatus = "acting"
	RunDone      RunStatus = "done"
	RunSkipped   RunStatus = "skipped"
	RunDead      RunStatus = "dead"
	RunCancelled RunStatus = "cancelled"
)

// Ended says whether nothing follows by itself.
func (s RunStatus) Ended() bool {
	return s == RunDone || s == RunSkipped || s == RunDead || s == RunCancelled
}

// Run is one automation applied to one event.
type Run struct {
	TenantID          uuid.UUID
	ID                uuid.UUID
	EventID           uuid.UUID
	EndpointID        uuid.UUID
	AutomationID      uuid.UUID
	AutomationVersion int
	Mode              string
	Priority          string
	Status            RunStatus
	// Reason is for machines, Detail a sentence for people, Until the time that it waits for.
	Reason string
	Detail string
	Until  *time.Time
	// Attempt counts claims that were not waiting; at AttemptsMax the next failure ends the run.
	Attempt     int
	AttemptsMax int
	// Epoch goes up with every claim; what an earlier claim still writes is refused.
	Epoch      int64
	LeaseUntil *time.Time
	Output     json.RawMessage
	// CostPico is the sum of the run's calls in pico-USD.
	CostPico   int64
	CreatedAt  time.Time
	StartedAt  *time.Time
	FinishedAt *time.Time
	UpdatedAt  time.Time
	// Ordering, Entity, OrderedAt and OrderSequence place the run among those of its entity.
	Ordering      string
	Entity        string
	OrderedAt     time.Time
	OrderSequence int64
	// TokensSaved are those that were not spent on it, an estimate, where a newer event made it superfluous.
	TokensSaved int64
	// OverLimit is what becomes of it where it is over a limit: one of the Over constants.
	OverLimit string
	// Depth is how many of our own actions stand in the chain that led to its event.
	Depth int
	// HeldTokens and HeldPico are what it would reserve, where it was held for a limit.
	HeldTokens, HeldPico int64
	// Purpose is what it was made for: one of the Purpose constants.
	Purpose string
	// Generation counts the runs of one automation on one event: 0 is that of the event itself, 1 and more are of trials and replays.
	Generation int
	// ReplayID is the replay that made it, nil for none.
	ReplayID *uuid.UUID
	// Forced says that its effect is made even where the same was made before.
	Forced bool
}

// What a run was made for.
const (
	PurposeEvent    = "event"    // the event came
	PurposeTrial    = "trial"    // a version on trial stands beside the one in service
	PurposeReplay   = "replay"   // a person wants it again
	PurposeBacktest = "backtest" // a draft is tried on stored events
)

const runColumns = `r.tenant_id, r.id, r.event_id, r.endpoint_id, r.automation_id, r.automation_version, r.mode, r.priority, r.status, r.reason,
    r.detail, r.until, r.attempt, r.attempts_max, r.epoch, r.lease_until, r.output, r.cost_pico, r.created_at, r.started_at, r.finished_at,
    r.updated_at, r.ordering, r.entity, r.ordered_at, r.order_sequence, r.tokens_saved, r.over_limit, r.depth, r.held_tokens, r.held_pico,
    r.purpose, r.generation, r.replay_id, r.forced`

// RunNew is a run to make of an event.
type RunNew struct {
	ID                uuid.UUID
	AutomationID      uuid.UUID
	AutomationVersion int
	Mode              string // of its automation, or ModeTrial
	Priority          string
	Ordering          string // one of the Order constants
	AttemptsMax       int    // 0 is the default
	OverLimit         string // one of the Over constants; "" is OverHold
}

// ModeTrial makes a run in shadow mode of a version that is on trial.
const ModeTrial = "trial"

// attemptsDefault is how often a run is tried where nothing else is said.
const attemptsDefault = 5

// What becomes of a run that is over a limit.
const (
	OverHold    = "hold"    // it waits until the window turns or the limit is raised
	OverDrop    = "drop"    // it is skipped
	OverCheaper = "cheaper" // it is asked of a cheaper model, and held where that does not fit either
)

// How the runs of one entity stand to each other.
const (
	OrderNone   = "none"   // every run on its own
	OrderLatest = "latest" // one that a newer event made superfluous is skipped
	OrderSerial = "serial" // one after another
)

const runGetSQL = `select ` + runColumns + ` from sluice.runs r where r.tenant_id = @tenant_id and r.id = @id`

// RunGet reads a run.
func (tx TenantTx) RunGet(ctx context.Context, id uuid.UUID) (Run, error) {
	return one[Run](ctx, tx.tx, runGetSQL, tx.with(args{"id": id}))
}

// runsClaimSQL takes runs that are due, or whose worker let its lease run out. What the lease says is decided by the database's clock alone.
const runsClaimSQL = `
update sluice.runs r set status = 'running',
    reason = case when r.status = 'running' then 'worker.lost' when r.reason in ('order.turn', 'limit.released') then r.reason else '' end,
    detail = case when r.status = 'running' then 'The worker that had the run did not report back in time; another one takes it up.' else '' end,
    until = null, epoch = r.epoch + 1, attempt = r.attempt + 1, lease_until = now() + @lease::interval,
    started_at = coalesce(r.started_at, now()), updated_at = now()
where r.tenant_id = @tenant_id and r.id = any(@ids) and (@ordered::boolean or r.ordering = 'none')
  and (r.status = 'queued' or (r.status = 'waiting' and r.until <= now()) or (r.status = 'running' and r.lease_until < now()))
returning ` + runColumns

// RunClaim takes a run for one worker: its epoch goes up, and it is that worker's until the lease ends. ErrNotFound: there is nothing to take,
// since it is not due, or another worker has it, or it has ended.
func (tx TenantTx) RunClaim(ctx context.Context, id uuid.UUID, lease time.Duration) (Run, error) {
	return one[Run](ctx, tx.tx, runsClaimSQL, tx.with(args{"ids": []uuid.UUID{id}, "lease": lease, "ordered": true}))
}

// RunsClaim takes those of the runs that may be taken and have no order among them, as RunClaim does one.
func (tx TenantTx) RunsClaim(ctx context.Context, ids []uuid.UUID, lease time.Duration) ([]Run, error) {
	return many[Run](ctx, tx.tx, runsClaimSQL, tx.with(args{"ids": ids, "lease": lease, "ordered": false}))
}

const runRenewSQL = `
update sluice.runs set lease_until = now() + @lease::interval
where tenant_id = @tenant_id and id = @id and epoch = @epoch and status = 'running'`

// RunLoaded is what the work on a run needs beside the run itself.
type RunLoaded struct {
	Event Event
	// Payload is nil where it is no longer kept.
	Payload *Payload
	Calls   []Call
}

// RunRenew makes a worker's lease longer. ErrStale: the run is no longer its own.
func (tx TenantTx) RunRenew(ctx context.Context, id uuid.UUID, epoch int64, lease time.Duration) error {
	return touched(run(ctx, tx.tx, runRenewSQL, tx.with(args{"id": id, "epoch": epoch, "lease": lease})))
}

// RunStep is the next step of a run that a worker holds.
type RunStep struct {
	Status RunStatus
	Reason string
	Detail string
	// Wait, if not 0, is how long from now the run waits; Until, if not nil, until when it is held.
	Wait  time.Duration
	Until *time.Time
	// Refund gives the attempt back: waiting is not failing.
	Refund bool
	Output json.RawMessage
	// TokensSaved is what was not spent, by an estimate.
	TokensSaved int64
	// HeldTokens and HeldPico are what a held run would reserve.
	HeldTokens, HeldPico int64
}

// RunStep ends a worker's hold of a run with its next status. ErrStale: the run is no longer its own, and nothing was written.
func (tx TenantTx) RunStep(ctx context.Context, id uuid.UUID, epoch int64, s RunStep) error {
	_, err := tx.RunsStep(ctx, []RunEnd{{ID: id, Epoch: epoch, RunStep: s}})
	return err
}

const runActedSQL = `
update sluice.runs set status = @status, reason = @reason, detail = @detail, until = null, finished_at = now(), updated_at = now()
where tenant_id = @tenant_id and id = @id and status = 'acting'`

// RunActed ends a run whose effect is confirmed (done) or given up (dead). ErrStale: it was not acting.
func (tx TenantTx) RunActed(ctx context.Context, id uuid.UUID, status RunStatus, reason, detail string) error {
	return touched(run(ctx, tx.tx, runActedSQL, tx.with(args{"id": id, "status": status, "reason": reason, "detail": detail})))
}

const runActingSQL = `
update sluice.runs set reason = @reason, detail = @detail, until = now() + @wait::interval, updated_at = now()
where tenant_id = @tenant_id and id = @id and status = 'acting'`

// RunActingWait says why a run's effect is not made yet, and when it is tried again.
func (tx TenantTx) RunActingWait(ctx context.Context, id uuid.UUID, reason, detail string, wait time.Duration) error {
	return touched(run(ctx, tx.tx, runActingSQL, tx.with(args{"id": id, "reason": reason, "detail": detail, "wait": wait})))
}

// auditRun is what the audit calls a run.
const auditRun = "run"

// auditStep is what the audit tells of a run that was made to step.
type auditStep struct {
	Status RunStatus `json:"status"`
	Reason string    `json:"reason"`
}

// runRetrySQL lets a run that begins anew take its place among those of its entity anew: it has not begun.
const runRetrySQL = `
update sluice.runs set status = @status, reason = @reason, detail = @detail, until = null, attempt = 0, finished_at = null, lease_until = null,
    started_at = case when @status = 'queued' and finished_at is not null then null else started_at end, updated_at = now()
where tenant_id = @tenant_id and id = @id and status = any (@from::text[])
returning epoch`

// RunRetry sets a dead run going again, as queued or as acting, or a waiting one as queued. ErrConflict: it is in neither status.
func (tx TenantTx) RunRetry(ctx context.Context, id uuid.UUID, to RunStatus, from []RunStatus, reason, detail string) error {
	if _, err := tx.RunGet(ctx, id); err != nil {
		return err
	}
	statuses := make([]string, len(from))
	for i, s := range from {
		statuses[i] = string(s)
	}
	_, err := value[int64](ctx, tx.tx, runRetrySQL, tx.with(args{"id": id, "status": to, "from": statuses, "reason": reason, "detail": detail}))
	if errors.Is(err, ErrNotFound) {
		return ErrConflict
	} else if err != nil {
		return err
	}
	return tx.AuditNote(ctx, auditRun, id, "retry", auditStep{Status: to, Reason: reason})
}

const runArrivedSQL = `
update sluice.runs set status = 'done', reason = @reason, detail = @detail, until = null, finished_at = now(), updated_at = now()
where tenant_id = @tenant_id and id = @id and status = 'dead' returning id`

// RunArrived ends a dead run as done, since a person has seen its effect. ErrNotFound: it is not dead.
func (tx TenantTx) RunArrived(ctx context.Context, id uuid.UUID, reason, detail string) error {
	if _, err := value[uuid.UUID](ctx, tx.tx, runArrivedSQL, tx.with(args{"id": id, "reason": reason, "detail": detail})); err != nil {
		return err
	}
	return tx.AuditNote(ctx, auditRun, id, "resolve", auditStep{Status: RunDone, Reason: reason})
}

// runCancelSQL raises the epoch, so that a worker that holds the run finds that it lost it.
const runCancelSQL = `
update sluice.runs set status = 'cancelled', reason = @reason, detail = @detail, until = null, lease_until = null, epoch = epoch + 1,
    finished_at = now(), updated_at = now()
where tenant_id = @tenant_id and id = @id
  and (status in ('queued', 'running', 'waiting', 'held', 'in_review', 'acting') or (status = 'dead' and ordering = 'serial'))
returning id`

// RunCancel ends a run that has not ended, or gives up a dead one of OrderSerial, which may be in the way of others. ErrConflict: it has ended.
func (tx TenantTx) RunCancel(ctx context.Context, id uuid.UUID, reason, detail string) error {
	if _, err := tx.RunGet(ctx, id); err != nil {
		return err
	}
	_, err := value[uuid.UUID](ctx, tx.tx, runCancelSQL, tx.with(args{"id": id, "reason": reason, "detail": detail}))
	if errors.Is(err, ErrNotFound) {
		return ErrConflict
	} else if err != nil {
		return err
	}
	return tx.AuditNote(ctx, auditRun, id, "cancel", auditStep{Status: RunCancelled, Reason: reason})
}

// RunMark is one step of a run's history.
type RunMark struct {
	RunID   uuid.UUID
	At      time.Time
	Status  RunStatus
	Reason  string
	Detail  string
	Until   *time.Time
	Attempt int
	Epoch   int64
}

const runHistorySQL = `
select run_id, at, status, reason, detail, until, attempt, epoch from (
    select r.id as run_id, r.created_at as at, 'queued' as status, '' as reason, '' as detail, null::timestamptz as until, 0 as attempt,
           0::bigint as epoch, 0::bigint as position
    from sluice.runs r where r.tenant_id = @tenant_id and r.event_id = @event_id
    union all
    select h.run_id, h.at, h.status, h.reason, h.detail, h.until, h.attempt, h.epoch, h.position
    from sluice.run_history h join sluice.runs r on r.tenant_id = h.tenant_id and r.id = h.run_id
    where h.tenant_id = @tenant_id and r.event_id = @event_id) steps
order by at, position limit @limit`

// explainRowsMax bounds what is told of one event.
const explainRowsMax = 1000

// RunHistory reads the steps of all runs of an event, in order.
func (tx TenantTx) RunHistory(ctx context.Context, eventID uuid.UUID) ([]RunMark, error) {
	return many[RunMark](ctx, tx.tx, runHistorySQL, tx.with(args{"event_id": eventID, "limit": explainRowsMax}))
}

// touched turns an update that touched no row into ErrStale.
func touched(n int64, err error) error {
	if err == nil && n == 0 {
		return ErrStale
	}
	return err
}

// Stranded is a run or an action that should have gone on by now, and that no live job stands for.
type Stranded struct {
	TenantID uuid.UUID
	ID       uuid.UUID
}

// scannedMax bounds how many open rows one sweep looks at, the oldest first: each costs a look into River's table, and a long queue is no
// reason to look at all of it. One that is stranded grows old, and is looked at then.
const scannedMax = 2000

// claimedWithin is how long a job that River has handed to a worker may take until it has claimed its run or its action, which is the first thing it
// does: beyond it, the worker was killed in between.
const claimedWithin = 15 * time.Second

// jobStands is whether a job stands for a row that is due. River puts a job off by the clock of its worker, and where that clock is ahead, the job lies
// in the future by as much. The row is given another job then, and a few at most. What is put off on purpose is a job that nobody has tried yet, since
// its order has a window, and all of a tenant with a pace.
const jobStands = `j.scheduled_at < now() + interval '1 minute'`

// runStrandedSQL: a run whose lease ran out gets a job even where River still believes that the dead worker works on the old one; one that is
// queued or due gets a job only where none is alive, since it may just be a long queue.
const runStrandedSQL = `
select r.tenant_id, r.id
from ((select tenant_id, id, status, updated_at, false as paced from sluice.runs where status = 'running' and lease_until < now() and updated_at < now() - @grace::interval
       order by lease_until limit @scanned)
    union all
      (select r.tenant_id, id, status, r.updated_at, l.runs_per_second is not null from sluice.runs r join sluice.limits l on l.tenant_id = r.tenant_id where status = 'waiting' and until < now() - @grace::interval order by until limit @scanned)
    union all
      (select r.tenant_id, id, status, r.updated_at, l.runs_per_second is not null from sluice.runs r join sluice.limits l on l.tenant_id = r.tenant_id
       where finished_at is null and status = 'queued' and r.updated_at < now() - @grace::interval order by r.updated_at limit @scanned)) r
where ((r.status = 'running'
        and not exists (select from river.river_job j where j.kind = 'run' and j.args ->> 'run_id' = r.id::text
                        and j.state in ('available', 'pending', 'retryable', 'scheduled') and ` + jobStands + `))
    or (r.status <> 'running'
        and not exists (select from river.river_job j where j.kind = 'run' and j.args ->> 'run_id' = r.id::text
                        and (j.state in ('available', 'pending', 'retryable', 'scheduled') and (` + jobStands + ` or j.attempted_at is null or r.paced)
                             or (j.state = 'running' and j.attempted_at > now() - @claimed::interval)))))
  and (select count(*) from river.river_job j where j.kind = 'run' and j.args ->> 'run_id' = r.id::text
       and j.state in ('available', 'pending', 'retryable', 'scheduled')) < 5
order by r.updated_at limit @limit`

// RunStranded finds runs of all tenants that nobody works on.
func (tx SystemTx) RunStranded(ctx context.Context, grace time.Duration, limit int) ([]Stranded, error) {
	return many[Stranded](ctx, tx.tx, runStrandedSQL, args{"grace": grace, "limit": limit, "scanned": scannedMax, "claimed": claimedWithin})
}

const actionStrandedSQL = `
select a.tenant_id, a.id
from (select tenant_id, id, state, until, lease_until, updated_at from sluice.actions where ended_at is null and state <> 'proposed' and updated_at < now() - @grace::interval order by updated_at limit @scanned) a
where ((a.state = 'in_flight' and a.lease_until < now()
        and not exists (select from river.river_job j where j.kind = 'action' and j.args ->> 'action_id' = a.id::text
                        and j.state in ('available', 'pending', 'retryable', 'scheduled') and ` + jobStands + `))
    or (a.lease_until is null and coalesce(a.until, a.updated_at) < now() - @grace::interval
        and not exists (select from river.river_job j where j.kind = 'action' and j.args ->> 'action_id' = a.id::text
                        and (j.state in ('available', 'pending', 'retryable', 'scheduled') and ` + jobStands + `
                             or (j.state = 'running' and j.attempted_at > now() - @claimed::interval)))))
  and (select count(*) from river.river_job j where j.kind = 'action' and j.args ->> 'action_id' = a.id::text
       and j.state in ('available', 'pending', 'retryable', 'scheduled')) < 5
order by a.updated_at limit @limit`

// ActionStranded finds actions of all tenants that nobody works on.
func (tx SystemTx) ActionStranded(ctx context.Context, grace time.Duration, limit int) ([]Stranded, error) {
	return many[Stranded](ctx, tx.tx, actionStrandedSQL, args{"grace": grace, "limit": limit, "scanned": scannedMax, "claimed": claimedWithin})
}

const runsTooOldSQL = `
select tenant_id, id from sluice.runs where finished_at is null and created_at < now() - @age::interval order by updated_at limit @limit`

// RunsTooOld finds runs of all tenants that were made so long ago and have not ended.
func (tx SystemTx) RunsTooOld(ctx context.Context, age time.Duration, limit int) ([]Stranded, error) {
	return many[Stranded](ctx, tx.tx, runsTooOldSQL, args{"age": age, "limit": limit})
}

// runGiveUpSQL raises the epoch, as a cancellation does.
const runGiveUpSQL = `
update sluice.runs set status = 'dead', reason = @reason, detail = @detail, until = null, lease_until = null, epoch = epoch + 1, finished_at = now(), updated_at = now()
where tenant_id = @tenant_id and id = @id and finished_at is null returning id`

// RunGiveUp ends a run as dead, whatever it waits for. ErrNotFound: it has ended.
func (tx TenantTx) RunGiveUp(ctx context.Context, id uuid.UUID, reason, detail string) error {
	_, err := value[uuid.UUID](ctx, tx.tx, runGiveUpSQL, tx.with(args{"id": id, "reason": reason, "detail": detail}))
	return err
}

const sweepLockSQL = `select pg_try_advisory_xact_lock(7238652)`

// SweepLock says whether this transaction is the one that sweeps; another worker's sweep is enough.
func (tx SystemTx) SweepLock(ctx context.Context) (bool, error) {
	return value[bool](ctx, tx.tx, sweepLockSQL, args{})
}

const backlogSQL = `
select status, count(*) as runs, coalesce(extract(epoch from now() - min(updated_at)), 0)::float8 as oldest_seconds
from sluice.runs where finished_at is null group by status`

// Backlog is how many runs of all tenants stand in one status, and how long the oldest has not moved.
type Backlog struct {
	Status        RunStatus
	Runs          int64
	OldestSeconds float64
}

// Backlog counts the runs that have not ended.
func (tx SystemTx) Backlog(ctx context.Context) ([]Backlog, error) {
	return many[Backlog](ctx, tx.tx, backlogSQL, args{})
}
