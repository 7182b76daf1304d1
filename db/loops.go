package db

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// LoopAsk is what is looked up of a run, to tell whether our own actions caused its event.
type LoopAsk struct {
	// Keys and Runs are the names of actions and of runs that stand in the event. Whose they are, the database knows.
	Keys []string
	Runs []uuid.UUID
	// Actors are the names of the event's sender, in lower case.
	Actors []string
	Entity string
	// Most, if not 0, asks how many actions there were on the entity within the last hour; it counts no further than that.
	Most int
}

// LoopCause is an action of ours that caused an event.
type LoopCause struct {
	ActionID uuid.UUID
	RunID    uuid.UUID
	// Depth is that of the action's run.
	Depth int
}

// LoopFacts are what is known of a run that was asked about.
type LoopFacts struct {
	// Marked is the action that is named in the event, nil for none; of several the deepest.
	Marked *LoopCause
	// CredentialID is the credential whose actor sent the event, nil for none; then Latest is the last action on the entity, nil for none.
	CredentialID *uuid.UUID
	Latest       *LoopCause
	// Recent is how many actions there were on the entity within the last hour.
	Recent int
}

// loopMarkedSQL leaves out what never left the house, so that nothing can come of it; by its name, what surely did not arrive, too.
const loopMarkedSQL = `
select g.place, a.id as action_id, a.run_id, r.depth
from unnest(@key_places::int[], @keys::text[]) as g (place, key)
join sluice.actions a on a.tenant_id = @tenant_id and a.key = g.key and a.state in ('intended', 'in_flight', 'confirmed', 'unknown')
join sluice.runs r on r.tenant_id = @tenant_id and r.id = a.run_id
union all
select g.place, a.id, a.run_id, r.depth
from unnest(@run_places::int[], @runs::uuid[]) as g (place, run_id)
join sluice.actions a on a.tenant_id = @tenant_id and a.run_id = g.run_id and a.state not in ('withheld', 'proposed')
join sluice.runs r on r.tenant_id = @tenant_id and r.id = a.run_id
order by place, depth desc, action_id desc`

// loopActorsSQL reads a tenant's few credentials.
const loopActorsSQL = `
select lower(c.actor) as actor, c.id from sluice.credentials c
where c.tenant_id = @tenant_id and c.actor <> '' and lower(c.actor) = any(@actors::text[]) order by c.id`

const loopRecentSQL = `
select g.place, (select count(*) from (
    select from sluice.actions a
    where a.tenant_id = @tenant_id and a.entity = g.entity and a.entity <> '' and a.created_at > now() - interval '1 hour' and a.state not in ('withheld', 'proposed')
    limit g.most) counted)::int as n
from unnest(@places::int[], @entities::text[], @mosts::int[]) as g (place, entity, most)`

const loopLatestSQL = `
select g.place, a.id as action_id, a.run_id, a.depth
from unnest(@places::int[], @entities::text[]) as g (place, entity)
cross join lateral (
    select a.id, a.run_id, r.depth from sluice.actions a join sluice.runs r on r.tenant_id = @tenant_id and r.id = a.run_id
    where a.tenant_id = @tenant_id and a.entity = g.entity and a.entity <> '' and a.state not in ('withheld', 'proposed')
    order by a.created_at desc limit 1) a`

// The rows of the statements above; place is that of the run among those that were asked about.
type (
	loopCauseRow struct {
		Place int
		LoopCause
	}
	loopActorRow struct {
		Actor string
		ID    uuid.UUID
	}
	loopRecentRow struct{ Place, N int }
)

// LoopFacts looks up what is to be known of some runs, in one round trip; in one more, where an actor was met. The answers stand in the order of
// asks, which must not be empty.
func (tx TenantTx) LoopFacts(ctx context.Context, asks []LoopAsk) ([]LoopFacts, error) {
	var batch pgx.Batch
	readers := tx.loopQueue(&batch, asks)
	facts := make([]LoopFacts, len(asks))
	results := tx.tx.SendBatch(ctx, &batch)
	for _, read := range readers {
		if err := read(results, facts); err != nil {
			_ = results.Close()
			return nil, err
		}
	}
	if err := results.Close(); err != nil {
		return nil, translate(err)
	}
	return facts, tx.loopLatest(ctx, asks, facts)
}

// loopQueue queues those statements that have anything to look for, each with what reads its rows.
func (tx TenantTx) loopQueue(batch *pgx.Batch, asks []LoopAsk) (readers []func(pgx.BatchResults, []LoopFacts) error) {
	var keyPlaces, runPlaces, places, mosts []int32
	var keys, actors, entities []string
	var runs pgtype.FlatArray[pgtype.UUID]
	for i, a := range asks {
		place := int32(i)
		for _, k := range a.Keys {
			keyPlaces, keys = append(keyPlaces, place), append(keys, k)
		}
		for _, r := range a.Runs {
			runPlaces, runs = append(runPlaces, place), append(runs, bits(r))
		}
		actors = append(actors, a.Actors...)
		if a.Most > 0 && a.Entity != "" {
			places, entities, mosts = append(places, place), append(entities, a.Entity), append(mosts, int32(a.Most))
		}
	}
	if len(keys) > 0 || len(runs) > 0 {
		batch.Queue(loopMarkedSQL, tx.with(args{"key_places": keyPlaces, "keys": keys, "run_places": runPlaces, "runs": runs}))
		readers = append(readers, loopReadMarked)
	}
	if len(actors) > 0 {
		batch.Queue(loopActorsSQL, tx.with(args{"actors": actors}))
		readers = append(readers, func(results pgx.BatchResults, facts []LoopFacts) error { return loopReadActors(results, asks, facts) })
	}
	if len(places) > 0 {
		batch.Queue(loopRecentSQL, tx.with(args{"places": places, "entities": entities, "mosts": mosts}))
		readers = append(readers, loopReadRecent)
	}
	return readers
}

func loopReadMarked(results pgx.BatchResults, facts []LoopFacts) error {
	rows, err := next[loopCauseRow](results)
	for _, r := range rows {
		if facts[r.Place].Marked == nil { // the deepest comes first
			facts[r.Place].Marked = &r.LoopCause
		}
	}
	return err
}

func loopReadActors(results pgx.BatchResults, asks []LoopAsk, facts []LoopFacts) error {
	rows, err := next[loopActorRow](results)
	known := map[string]uuid.UUID{}
	for _, r := range rows {
		known[r.Actor] = r.ID
	}
	for i, a := range asks {
		for _, actor := range a.Actors {
			if id, ok := known[actor]; ok {
				facts[i].CredentialID = &id
				break
			}
		}
	}
	return err
}

func loopReadRecent(results pgx.BatchResults, facts []LoopFacts) error {
	rows, err := next[loopRecentRow](results)
	for _, r := range rows {
		facts[r.Place].Recent = r.N
	}
	return err
}

// loopLatest finds what an actor's event most likely came of: our last action on its entity.
func (tx TenantTx) loopLatest(ctx context.Context, asks []LoopAsk, facts []LoopFacts) error {
	var places []int32
	var entities []string
	for i, f := range facts {
		if f.CredentialID != nil && asks[i].Entity != "" {
			places, entities = append(places, int32(i)), append(entities, asks[i].Entity)
		}
	}
	if len(places) == 0 {
		return nil
	}
	rows, err := many[loopCauseRow](ctx, tx.tx, loopLatestSQL, tx.with(args{"places": places, "entities": entities}))
	for _, r := range rows {
		facts[r.Place].Latest = &r.LoopCause
	}
	return err
}

// LoopDepth is how deep a run stands in a chain of our own actions.
type LoopDepth struct {
	RunID uuid.UUID
	Depth int
	// CausedBy is the action that caused its event; nil where only its actor is known.
	CausedBy *uuid.UUID
}

const loopDepthSQL = `
update sluice.runs r set depth = n.depth, caused_by = n.caused_by
from unnest(@runs::uuid[], @depths::int[], @causes::uuid[]) as n (id, depth, caused_by)
where r.tenant_id = @tenant_id and r.id = n.id`

// LoopDepths keeps how deep runs stand.
func (tx TenantTx) LoopDepths(ctx context.Context, depths []LoopDepth) error {
	if len(depths) == 0 {
		return nil
	}
	var runs, causes pgtype.FlatArray[pgtype.UUID]
	numbers := make([]int32, len(depths))
	for i, d := range depths {
		runs, causes = append(runs, bits(d.RunID)), append(causes, bitsOrNull(d.CausedBy))
		numbers[i] = int32(d.Depth)
	}
	_, err := run(ctx, tx.tx, loopDepthSQL, tx.with(args{"runs": runs, "depths": numbers, "causes": causes}))
	return err
}

// loopChainMax bounds how far a chain is followed; an automation's limit of depth is far below.
const loopChainMax = 100

// loopRootSQL goes from a run to the action that caused its event, to that action's run, and so on. A chain that bites its own tail cannot be,
// since an action is kept before anything can come of it; the bound holds all the same.
const loopRootSQL = `
with recursive chain as (
    select r.event_id, r.caused_by, 0 as length from sluice.runs r where r.tenant_id = @tenant_id and r.id = @run_id
    union all
    select r.event_id, r.caused_by, c.length + 1
    from chain c
    join sluice.actions a on a.tenant_id = @tenant_id and a.id = c.caused_by
    join sluice.runs r on r.tenant_id = @tenant_id and r.id = a.run_id
    where c.length < @most)
select event_id, length from chain order by length desc limit 1`

// LoopRoot is the event that a chain of our own actions began with.
type LoopRoot struct {
	EventID uuid.UUID
	// Length is how many of our actions stand between it and the run.
	Length int
}

// LoopRoot follows a run's event back to the first that was not caused by us, as far as that is known.
func (tx TenantTx) LoopRoot(ctx context.Context, runID uuid.UUID) (LoopRoot, error) {
	return one[LoopRoot](ctx, tx.tx, loopRootSQL, tx.with(args{"run_id": runID, "most": loopChainMax}))
}

// loopFirstScanMax bounds how many actions are looked through for the one that a series began with.
const loopFirstScanMax = 1000

// loopFirstSQL finds the first action of the series that goes on now: the last one that none came before within the hour.
const loopFirstSQL = `
select run_id from (
    select a.run_id, a.created_at, lag(a.created_at) over (order by a.created_at) as before
    from (select run_id, created_at from sluice.actions
          where tenant_id = @tenant_id and entity = @entity and entity <> '' and state <> 'withheld' order by created_at desc limit @most) a) series
where before is null or created_at > before + interval '1 hour'
order by created_at desc limit 1`

// LoopFirst finds the run of the action that a series of actions on an entity began with, none of which came more than an hour after the one
// before it. ErrNotFound: there is no action.
func (tx TenantTx) LoopFirst(ctx context.Context, entity string) (uuid.UUID, error) {
	return value[uuid.UUID](ctx, tx.tx, loopFirstSQL, tx.with(args{"entity": entity, "most": loopFirstScanMax}))
}

const loopCauseSQL = `
select a.id as action_id, a.run_id, o.depth from sluice.runs r
join sluice.actions a on a.tenant_id = @tenant_id and a.id = r.caused_by
join sluice.runs o on o.tenant_id = @tenant_id and o.id = a.run_id
where r.tenant_id = @tenant_id and r.id = @run_id`

// LoopCause reads which of our actions caused a run's event. ErrNotFound: none is known.
func (tx TenantTx) LoopCause(ctx context.Context, runID uuid.UUID) (LoopCause, error) {
	return one[LoopCause](ctx, tx.tx, loopCauseSQL, tx.with(args{"run_id": runID}))
}

const alertToldSQL = `
select exists (select from sluice.alerts
    where tenant_id = @tenant_id and kind = @kind and subject = @subject and ended_at is null and last_at > now() - @within::interval)`

// AlertTold says whether an alert goes on and was written to within so long: then its detail need not be made anew.
func (tx TenantTx) AlertTold(ctx context.Context, kind, subject string, within time.Duration) (bool, error) {
	return value[bool](ctx, tx.tx, alertToldSQL, tx.with(args{"kind": kind, "subject": subject, "within": within}))
}
