package db

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
)

// Score is what people said of the outputs of one version.
type Score struct {
	Version int
	Mode    string
	// SameBehaviour says that it writes what the version does that was asked for, so that its verdicts count for that one too.
	SameBehaviour bool
	// Approved is of outputs as they were, Edited of changed ones, of which EditedMean is how much: 0 to 1.
	Approved, Edited, Rejected int64
	EditedMean                 float64
	// Expired are those that nobody gave in time; they count in nothing else.
	Expired int64
}

// automationBehaved selects the versions that write what one of the given number, or of the given behaviour, does.
const automationBehaved = `
(v.version = @version::int or v.behaviour = coalesce(@behaviour::bytea, (
    select b.behaviour from sluice.automation_versions b
    where b.tenant_id = @tenant_id and b.automation_id = @automation_id and b.version = @version::int)))`

const scoreListSQL = `
select v.version, coalesce(v.spec ->> 'mode', 'shadow') as mode, coalesce(` + automationBehaved + `, false) as same_behaviour,
    count(*) filter (where r.by_key is not null and r.verdict = 'approve' and r.output is null) as approved,
    count(*) filter (where r.by_key is not null and r.output is not null) as edited,
    count(*) filter (where r.by_key is not null and r.verdict = 'reject') as rejected,
    coalesce(avg(r.changed) filter (where r.by_key is not null and r.output is not null), 0)::float8 as edited_mean,
    count(*) filter (where r.by_key is null) as expired
from sluice.reviews r
join sluice.automation_versions v on v.tenant_id = @tenant_id and v.automation_id = r.automation_id and v.version = r.automation_version
join sluice.runs u on u.tenant_id = @tenant_id and u.id = r.run_id and u.endpoint_id = @endpoint_id
where r.tenant_id = @tenant_id and r.automation_id = @automation_id
group by v.tenant_id, v.automation_id, v.version order by v.version desc`

// ScoreList reads the scores of all versions of an automation that have been reviewed, newest first, beside a version. Only verdicts on events of the
// endpoint that it is at now count: other events are other work.
func (tx TenantTx) ScoreList(ctx context.Context, a Automation, version int) ([]Score, error) {
	return many[Score](ctx, tx.tx, scoreListSQL, tx.with(args{"automation_id": a.ID, "endpoint_id": a.EndpointID, "version": version, "behaviour": nil}))
}

const verdictListSQL = `
select r.verdict = 'approve' and r.output is null as passed
from sluice.reviews r
join sluice.automation_versions v on v.tenant_id = @tenant_id and v.automation_id = r.automation_id and v.version = r.automation_version
join sluice.runs u on u.tenant_id = @tenant_id and u.id = r.run_id and u.endpoint_id = @endpoint_id
where r.tenant_id = @tenant_id and r.automation_id = @automation_id and r.by_key is not null and ` + automationBehaved + `
order by r.at desc, r.run_id desc limit @limit`

// VerdictAsk says which verdicts are meant: those on events of an endpoint, of a version of an automation and of all others that behave as it does; or, with
// version 0, of a behaviour that may have no version yet.
type VerdictAsk struct {
	AutomationID, EndpointID uuid.UUID
	Version                  int
	Behaviour                []byte
	Limit                    int
}

// VerdictList reads the last verdicts of people, newest first: whether they approved the output as it was.
func (tx TenantTx) VerdictList(ctx context.Context, v VerdictAsk) ([]bool, error) {
	return values[bool](ctx, tx.tx, verdictListSQL, tx.with(args{
		"automation_id": v.AutomationID, "endpoint_id": v.EndpointID, "version": v.Version, "behaviour": v.Behaviour, "limit": v.Limit,
	}))
}

const behaviourSQL = `select @spec::jsonb`

// Behaviour is Behaviour of a spec as the database keeps it: it writes a number in one way, of the many that there are.
func (tx TenantTx) Behaviour(ctx context.Context, spec json.RawMessage) ([]byte, error) {
	kept, err := value[json.RawMessage](ctx, tx.tx, behaviourSQL, args{"spec": spec})
	return Behaviour(kept), err
}
