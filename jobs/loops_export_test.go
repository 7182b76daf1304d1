package jobs

import (
	"context"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
)

// SendersOf are the names of whoever caused an event.
func SendersOf(source string, payload any) []string { return sendersOf(source, payload) }

// ActorsOf are the actors that a credential may have been given for names.
func ActorsOf(source string, names []string) []string { return actorsOf(source, names) }

// MarksIn are the names of actions and runs in what came with an event.
func MarksIn(texts ...[]byte) (keys []string, runs []uuid.UUID) { return marksIn(texts...) }

// LoopedTogether says of runs that are about entities, and were claimed together, which must be skipped.
func LoopedTogether(ctx context.Context, tx db.TenantTx, automation *automations.Compiled, runs []uuid.UUID, entities ...string) ([]*db.RunStep, error) {
	all := make([]*claimed, len(runs))
	for i, id := range runs {
		run, err := tx.RunGet(ctx, id)
		if err != nil {
			return nil, err
		}
		event, err := tx.EventGet(ctx, run.EventID)
		if err != nil {
			return nil, err
		}
		event.Entity = entities[i]
		all[i] = &claimed{run: run, event: event, stored: &db.Payload{}, automation: automation}
	}
	return (&runWorker{}).loopedTogether(ctx, tx, all)
}
