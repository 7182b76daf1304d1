package db

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
)

// TrialPair is what a version on trial and the version in service made of one event.
type TrialPair struct {
	EventID       uuid.UUID
	TrialRunID    uuid.UUID
	TrialStatus   RunStatus
	TrialReason   string
	TrialOutput   json.RawMessage
	TrialCostPico int64
	// The Live fields are nil where there is no such run.
	LiveRunID    *uuid.UUID
	LiveVersion  *int
	LiveStatus   *RunStatus
	LiveReason   *string
	LiveOutput   json.RawMessage
	LiveCostPico *int64
	// Same says that both have an output, and that it is the same.
	Same bool
}

// trialPairs are the runs of a version on trial, each with the event's own run of the automation.
const trialPairs = `
from sluice.runs t
left join sluice.runs l on l.tenant_id = @tenant_id and l.event_id = t.event_id and l.automation_id = t.automation_id and l.generation = 0
where t.tenant_id = @tenant_id and t.automation_id = @automation_id and t.automation_version = @version and t.purpose = 'trial'`

const trialListSQL = `
select t.event_id, t.id as trial_run_id, t.status as trial_status, t.reason as trial_reason, t.output as trial_output, t.cost_pico as trial_cost_pico,
    l.id as live_run_id, l.automation_version as live_version, l.status as live_status, l.reason as live_reason, l.output as live_output,
    l.cost_pico as live_cost_pico, coalesce(t.output = l.output, false) as same` + trialPairs + ` and t.id < @before order by t.id desc limit @limit`

// TrialList reads what a version on trial made of events, beside what was made of them in service, newest first.
func (tx TenantTx) TrialList(ctx context.Context, id uuid.UUID, version int, p Page) ([]TrialPair, error) {
	return many[TrialPair](ctx, tx.tx, trialListSQL, tx.with(args{"automation_id": id, "version": version, "before": p.before(), "limit": p.Limit}))
}

// TrialTotals are the sums of a trial.
type TrialTotals struct {
	Events int64
	// Compared are the events of which both have an output, Same those of which it is the same.
	Compared, Same int64
	// The costs are in pico-USD, as decimal texts: a sum may be larger than a bigint.
	TrialCost, LiveCost string
	// Dead are all runs that died, Schema those of them whose answer did not hold to the output schema.
	TrialDead, LiveDead     int64
	TrialSchema, LiveSchema int64
}

const trialTotalsSQL = `
select count(*) as events, count(*) filter (where t.output is not null and l.output is not null) as compared,
    count(*) filter (where t.output = l.output) as same,
    coalesce(sum(t.cost_pico), 0)::text as trial_cost, coalesce(sum(l.cost_pico), 0)::text as live_cost,
    count(*) filter (where t.status = 'dead') as trial_dead, count(*) filter (where l.status = 'dead') as live_dead,
    count(*) filter (where t.status = 'dead' and t.reason = 'output.schema') as trial_schema,
    count(*) filter (where l.status = 'dead' and l.reason = 'output.schema') as live_schema` + trialPairs

// TrialTotals sums a trial up.
func (tx TenantTx) TrialTotals(ctx context.Context, id uuid.UUID, version int) (TrialTotals, error) {
	return one[TrialTotals](ctx, tx.tx, trialTotalsSQL, tx.with(args{"automation_id": id, "version": version}))
}

const automationBeforeSQL = `
select ` + automationVersionColumns + ` from sluice.automation_versions v
where v.tenant_id = @tenant_id and v.automation_id = @automation_id and v.version < @version and v.draft = '' order by v.version desc limit 1`

// AutomationVersionBefore reads the version that was in service when a draft was made.
func (tx TenantTx) AutomationVersionBefore(ctx context.Context, id uuid.UUID, draft int) (AutomationVersion, error) {
	return one[AutomationVersion](ctx, tx.tx, automationBeforeSQL, tx.with(args{"automation_id": id, "version": draft}))
}

// AutomationLock reads an automation at its newest version, and keeps everybody else from changing it until the transaction ends.
func (tx TenantTx) AutomationLock(ctx context.Context, id uuid.UUID) (Automation, error) {
	if _, err := value[uuid.UUID](ctx, tx.tx, automationLockSQL, tx.with(args{"id": id})); err != nil {
		return Automation{}, err
	}
	// In a statement of its own: it sees what was changed while the lock was waited for.
	return tx.AutomationGet(ctx, id)
}
