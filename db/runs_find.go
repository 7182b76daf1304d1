package db

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
)

// RunFilter narrows a list of runs; zero fields do not.
type RunFilter struct {
	EventID      *uuid.UUID
	AutomationID *uuid.UUID
	EndpointID   *uuid.UUID
	Status       string
	// Reason is a whole reason, or its beginning with a star behind it: "action.*".
	Reason string
	// Type and Entity are those of the event.
	Type, Entity string
	// Since and Until are about when the run was made: from Since on, and before Until.
	Since, Until *time.Time
	// Open keeps runs that have not ended.
	Open bool
	// After keeps runs that were made after this one; it is how a caller goes on where it stopped.
	After uuid.UUID
	// IDs keeps the runs of these ids: all of them if it is nil, none if it is empty.
	IDs []uuid.UUID
}

// anyRest at the end of a reason stands for whatever follows.
const anyRest = "*"

func (f RunFilter) args() args {
	beginning, some := strings.CutSuffix(f.Reason, anyRest)
	a := args{
		"event_id": f.EventID, "automation_id": f.AutomationID, "endpoint_id": f.EndpointID, "status": orNil(f.Status), "reason": nil, "beginning": nil,
		"type": orNil(f.Type), "entity": orNil(f.Entity), "since": f.Since, "until": f.Until, "open": f.Open, "after": nil, "ids": f.IDs,
	}
	if some {
		a["beginning"] = orNil(beginning)
	} else {
		a["reason"] = orNil(f.Reason)
	}
	if f.After != uuid.Nil {
		a["after"] = f.After
	}
	return a
}

// runMatches is the condition of a RunFilter. The events of an entity are few and have an index, so they are found first, and their runs by the
// event; those of a type may be nearly all, so that each run is asked for its event.
const runMatches = `r.tenant_id = @tenant_id
  and (@status::text is null or r.status = @status)
  and (not @open::boolean or r.finished_at is null)
  and (@reason::text is null or r.reason = @reason)
  and (@beginning::text is null or starts_with(r.reason, @beginning))
  and (@event_id::uuid is null or r.event_id = @event_id)
  and (@automation_id::uuid is null or r.automation_id = @automation_id)
  and (@endpoint_id::uuid is null or r.endpoint_id = @endpoint_id)
  and (@since::timestamptz is null or r.created_at >= @since)
  and (@until::timestamptz is null or r.created_at < @until)
  and (@after::uuid is null or r.id > @after)
  and (@ids::uuid[] is null or r.id = any(@ids))
  and (@entity::text is null or r.event_id = any(array(
       select e.id from sluice.events e where e.tenant_id = @tenant_id and e.entity = @entity and e.entity <> '')))
  and (@type::text is null or exists (select from sluice.events e where e.tenant_id = @tenant_id and e.id = r.event_id and e.type = @type))`

const runListSQL = `select ` + runColumns + ` from sluice.runs r where ` + runMatches + ` and r.id < @before order by r.id desc limit @limit`

// RunList lists runs, newest first.
func (tx TenantTx) RunList(ctx context.Context, f RunFilter, p Page) ([]Run, error) {
	a := f.args()
	a["before"], a["limit"] = p.before(), p.Limit
	return many[Run](ctx, tx.tx, runListSQL, tx.with(a))
}

// runFindSQL counts and picks by ids alone: an output can be long, and is read only of those that are picked.
const runFindSQL = `
with matched as materialized (select r.id from sluice.runs r where ` + runMatches + `)
select ` + runColumns + `, (select count(*) from matched) as matched
from sluice.runs r join (select id from matched order by id limit @limit) m on m.id = r.id
where r.tenant_id = @tenant_id order by r.id`

// RunFind reads up to limit runs, at least one, oldest first, and says how many there are in all, as of one moment.
func (tx TenantTx) RunFind(ctx context.Context, f RunFilter, limit int) ([]Run, int64, error) {
	type found struct {
		Run

		Matched int64
	}
	a := f.args()
	a["limit"] = max(limit, 1)
	rows, err := many[found](ctx, tx.tx, runFindSQL, tx.with(a))
	if err != nil || len(rows) == 0 {
		return nil, 0, err
	}
	out := make([]Run, len(rows))
	for i := range rows {
		out[i] = rows[i].Run
	}
	return out, rows[0].Matched, nil
}

// RunCount is how many runs of an automation stand in one status for one reason, and when the oldest and the newest of them were made.
type RunCount struct {
	Status       RunStatus
	Reason       string
	AutomationID uuid.UUID
	Count        int64
	OldestAt     time.Time
	NewestAt     time.Time
	// Total is how many runs there are in all, with those of rows that are left out.
	Total int64
}

const runCountsSQL = `
select r.status, r.reason, r.automation_id, count(*) as count, min(r.created_at) as oldest_at, max(r.created_at) as newest_at,
    (sum(count(*)) over ())::bigint as total
from sluice.runs r where ` + runMatches + `
group by r.status, r.reason, r.automation_id order by count desc, r.status, r.reason, r.automation_id limit @limit`

// RunCounts counts runs by their status, reason and automation, the most frequent first.
func (tx TenantTx) RunCounts(ctx context.Context, f RunFilter, limit int) ([]RunCount, error) {
	a := f.args()
	a["limit"] = limit
	return many[RunCount](ctx, tx.tx, runCountsSQL, tx.with(a))
}

const runIDsSQL = `select r.id from sluice.runs r where ` + runMatches + ` order by r.id limit @limit`

// RunIDs lists the ids of runs behind one, oldest first.
func (tx TenantTx) RunIDs(ctx context.Context, f RunFilter, after uuid.UUID, limit int) ([]uuid.UUID, error) {
	f.After = after
	a := f.args()
	a["limit"] = limit
	return values[uuid.UUID](ctx, tx.tx, runIDsSQL, tx.with(a))
}
