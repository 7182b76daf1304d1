package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/tenants"
)

// compiledNow is an automation as it is now, nil if it was deleted or no longer compiles.
func (a *API) compiledNow(ctx context.Context, tx db.TenantTx, id uuid.UUID) (*automations.Compiled, error) {
	row, err := tx.AutomationGet(ctx, id)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil //nolint:nilnil // there is none
	} else if err != nil {
		return nil, err
	}
	v, err := tx.AutomationVersionGet(ctx, id, row.Version)
	if err != nil {
		return nil, err
	}
	compiled, err := a.intake.cache.compiled.Of(v)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // its runs will say so
	}
	return compiled, nil
}

// replayFind finds the items that are asked for: exactly one way to name them must be used, and a filter must say something.
func (a *API) replayFind(ctx context.Context, tx db.TenantTx, asked ReplayAsked) ([]db.ReplayItem, error) {
	ways := 0
	for _, used := range []bool{len(asked.Runs) > 0, len(asked.Events) > 0, asked.Filter != nil, asked.EventFilter != nil} {
		if used {
			ways++
		}
	}
	switch {
	case ways != 1:
		return nil, invalidAt("body", "expected exactly one of runs, filter, events and event_filter")
	case asked.Filter != nil && *asked.Filter == (ReplayRunFilter{}):
		return nil, invalidAt("body.filter", "expected at least one field: an empty filter is everything")
	case asked.EventFilter != nil && *asked.EventFilter == (ReplayEventFilter{}):
		return nil, invalidAt("body.event_filter", "expected at least one field: an empty filter is everything")
	case asked.AutomationID != "" && (len(asked.Runs) > 0 || asked.Filter != nil):
		return nil, invalidAt("body.automation_id", "is of events only: a run names its automation")
	}
	var items []db.ReplayItem
	var err error
	if len(asked.Runs) > 0 || asked.Filter != nil {
		items, err = a.replayOfRuns(ctx, tx, asked)
	} else {
		items, err = a.replayOfEvents(ctx, tx, asked)
	}
	if err == nil && len(items) > replayItemsMax {
		err = invalidAt("body", fmt.Sprintf("more than %d items match: narrow the filter", replayItemsMax))
	}
	return items, err
}

// replayOfRuns are the runs that are named or match, once for each automation and event.
func (a *API) replayOfRuns(ctx context.Context, tx db.TenantTx, asked ReplayAsked) ([]db.ReplayItem, error) {
	var ids []uuid.UUID
	var err error
	if asked.Filter != nil {
		if ids, err = a.replayMatching(ctx, tx, *asked.Filter); err != nil {
			return nil, err
		}
	}
	var faults []Fault
	for i, text := range asked.Runs {
		id, ok := tenants.ParseID(tenants.RunPrefix, text)
		if !ok {
			faults = append(faults, Fault{Location: fmt.Sprintf("body.runs/%d", i), Message: "expected the id of a run, run_...; there is none of this id"})
		}
		ids = append(ids, id)
	}
	if err := invalid(faults); err != nil {
		return nil, err
	}
	var items []db.ReplayItem
	seen := map[[2]uuid.UUID]int{}
	for i, id := range ids {
		run, err := tx.RunGet(ctx, id)
		if errors.Is(err, db.ErrNotFound) {
			return nil, invalidAt(fmt.Sprintf("body.runs/%d", i), "expected the id of a run, run_...; there is none of this id")
		} else if err != nil {
			return nil, err
		}
		key := [2]uuid.UUID{run.EventID, run.AutomationID}
		if at, twice := seen[key]; !twice {
			seen[key] = len(items)
			items = append(items, db.ReplayItem{EventID: run.EventID, AutomationID: run.AutomationID, RunID: &run.ID})
		} else if bytes.Compare(run.ID[:], items[at].RunID[:]) > 0 {
			items[at].RunID = &run.ID // of two the later one says how it stands
		}
	}
	return items, nil
}

// replayMatching are the runs that a filter holds for.
func (a *API) replayMatching(ctx context.Context, tx db.TenantTx, f ReplayRunFilter) ([]uuid.UUID, error) {
	wanted := RunWanted{AutomationID: f.AutomationID, EndpointID: f.EndpointID, Status: f.Status, Reason: f.Reason, Type: f.Type, Entity: f.Entity}
	filter, possible := wanted.filter()
	if !possible {
		return nil, nil
	}
	filter.Since, filter.Until = f.Since, f.Until
	return tx.RunIDs(ctx, filter, uuid.Nil, replayItemsMax+1)
}

// replayOfEvents are the automations of the events that are named or match.
func (a *API) replayOfEvents(ctx context.Context, tx db.TenantTx, asked ReplayAsked) ([]db.ReplayItem, error) {
	only, ok := filterID(tenants.AutomationPrefix, asked.AutomationID)
	if !ok {
		return nil, invalidAt("body.automation_id", "expected the id of an automation, aut_...; there is none of this id")
	}
	events, err := a.replayEvents(ctx, tx, asked)
	if err != nil {
		return nil, err
	}
	byEndpoint := map[uuid.UUID][]db.Automation{}
	var items []db.ReplayItem
	for _, e := range events {
		all, known := byEndpoint[e.EndpointID]
		if !known {
			if all, err = tx.AutomationList(ctx, &e.EndpointID, db.Page{Limit: db.AutomationsMax}); err != nil {
				return nil, err
			}
			byEndpoint[e.EndpointID] = all
		}
		for _, one := range all {
			if only == nil && one.Enabled || only != nil && *only == one.ID {
				items = append(items, db.ReplayItem{EventID: e.ID, AutomationID: one.ID})
			}
		}
	}
	return items, nil
}

// replayEvents are the events that are named, or match, oldest first.
func (a *API) replayEvents(ctx context.Context, tx db.TenantTx, asked ReplayAsked) ([]db.Event, error) {
	if f := asked.EventFilter; f != nil {
		filter := db.EventFilter{Type: f.Type, Entity: f.Entity, Since: f.Since, Until: f.Until}
		var ok bool
		if filter.EndpointID, ok = filterID(tenants.EndpointPrefix, f.EndpointID); !ok {
			return nil, nil
		}
		events, err := tx.EventList(ctx, filter, db.Page{Limit: replayItemsMax + 1})
		slices.Reverse(events)
		return events, err
	}
	var events []db.Event
	for i, text := range distinctTexts(asked.Events) {
		id, ok := tenants.ParseID(tenants.EventPrefix, text)
		var e db.Event
		err := db.ErrNotFound
		if ok {
			e, err = tx.EventGet(ctx, id)
		}
		if errors.Is(err, db.ErrNotFound) {
			return nil, invalidAt(fmt.Sprintf("body.events/%d", i), "expected the id of an event, evt_...; there is none of this id")
		} else if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}
