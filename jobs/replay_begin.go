package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/action"
	"sluice/tenants"
)

// begun are the jobs of an item that has begun.
type begun struct {
	runs    []RunArgs
	actions []ActionArgs
}

// skip says why an item is not done.
func skip(item *db.ReplayItem, reason, detail string) (begun, error) {
	item.State, item.Reason, item.Detail = db.ItemSkipped, reason, detail
	return begun{}, nil
}

// begin begins an item, or skips it, and says so in it.
func (r *replayer) begin(ctx context.Context, tx db.TenantTx, p db.Replay, item *db.ReplayItem) (begun, error) {
	runs, err := tx.RunsOfEvent(ctx, item.EventID, item.AutomationID)
	if err != nil {
		return begun{}, err
	}
	// What was tried in shadow mode beside it says nothing of what was done, unless somebody has named that very run.
	earlier := slices.DeleteFunc(runs, func(one db.Run) bool {
		named := item.RunID != nil && one.ID == *item.RunID
		return !named && (one.Purpose == db.PurposeTrial || one.Purpose == db.PurposeBacktest || one.Purpose == db.PurposeReplay && one.Mode == automations.ModeShadow)
	})
	if p.Mode == db.ReplayFromAction {
		return r.fromAction(ctx, tx, p, item, earlier)
	}
	return r.again(ctx, tx, p, item, earlier)
}

// again makes another run of the item's automation on its event.
func (r *replayer) again(ctx context.Context, tx db.TenantTx, p db.Replay, item *db.ReplayItem, earlier []db.Run) (begun, error) {
	effects := p.Mode == db.ReplayRun
	if effects && slices.ContainsFunc(earlier, func(one db.Run) bool { return !one.Status.Ended() }) {
		return skip(item, "replay.not_ended", "An earlier run has not ended: retry or cancel it.")
	}
	if effects && !p.Forced {
		made, err := tx.EffectMade(ctx, item.EventID, item.AutomationID)
		if err != nil {
			return begun{}, err
		}
		if made {
			return skip(item, "replay.effect_made", "Its effect was made before, or may have been. With force it is made again.")
		}
	}
	version, compiled, reason, detail, err := r.version(ctx, tx, p, *item)
	if err != nil {
		return begun{}, err
	}
	if reason != "" {
		return skip(item, reason, detail)
	}
	event, err := tx.EventGet(ctx, item.EventID)
	if errors.Is(err, db.ErrNotFound) {
		return skip(item, "replay.event_gone", "The event is no longer kept.")
	} else if err != nil {
		return begun{}, err
	}
	payload, reason, detail, err := payloadFor(ctx, tx, item.EventID)
	if err != nil {
		return begun{}, err
	}
	if reason != "" {
		return skip(item, reason, detail)
	}
	if item.RunID == nil || p.Kind == db.KindBacktest {
		// Nobody has named a run of it, or it is a draft that is tried: the automation decides whether it wants the event.
		if matched, err := compiled.Matches(EventOf(event), payload); err != nil {
			return skip(item, "when.error", "The automation's when cannot be evaluated for this event: "+err.Error())
		} else if !matched {
			return skip(item, "when.false", "The automation's when is false for this event.")
		}
	}
	spec := compiled.Spec()
	run := db.RunAgain{
		EventID: item.EventID, AutomationID: item.AutomationID, AutomationVersion: version, Mode: spec.Mode, Purpose: db.PurposeReplay, ReplayID: p.ID,
		Forced: p.Forced, AttemptsMax: compiled.Retry().Attempts, OverLimit: spec.OverLimit,
	}
	if p.Kind == db.KindBacktest {
		run.Purpose = db.PurposeBacktest
	}
	id := tenants.NewID()
	if !effects {
		// What does not fit a limit is dropped, as that of a trial is: held, it would make live runs stand behind it.
		run.Mode, run.OverLimit = automations.ModeShadow, automations.OverDrop
	} else if run.Order, err = r.place(ctx, tx, event, earlier, id); err != nil {
		return begun{}, err
	}
	if err := tx.RunInsertAgain(ctx, id, run); err != nil {
		return begun{}, err
	}
	item.State, item.NewRunID = db.ItemStarted, &id
	return begun{runs: []RunArgs{{TenantID: tx.TenantID, RunID: id, Ordered: run.Order != nil, Lag: replayLag, Posted: r.now()}}}, nil
}

// place is where a run of an event stands among those of its entity, as the endpoint orders them now; nil for no order. A dead run that blocks the entity
// gives its place to the one that repeats it, which would wait for it for ever.
func (r *replayer) place(ctx context.Context, tx db.TenantTx, event db.Event, earlier []db.Run, by uuid.UUID) (*db.Run, error) {
	if event.Entity == "" {
		return nil, nil //nolint:nilnil // it stands behind nobody
	}
	endpoint, err := tx.EndpointGet(ctx, event.EndpointID)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil //nolint:nilnil // the endpoint was deleted: nothing comes any more
	} else if err != nil {
		return nil, fmt.Errorf("read the endpoint of event %s: %w", event.ID, err)
	}
	settings := map[string]json.RawMessage{}
	_ = json.Unmarshal(endpoint.Settings, &settings) // checked when they were kept
	order, _ := db.ParseOrder(settings)
	if order.Mode == db.OrderNone {
		return nil, nil //nolint:nilnil // as above
	}
	place := placeOf(event)
	if len(earlier) > 0 {
		place.OrderedAt, place.OrderSequence = earlier[0].OrderedAt, earlier[0].OrderSequence
	}
	place.Ordering = order.Mode
	for _, one := range earlier {
		if one.Status != db.RunDead || !one.Ordered(db.OrderSerial) || !order.DeadBlocks {
			continue
		}
		detail := "Its place was taken by " + tenants.FormatID(tenants.RunPrefix, by) + ", which repeats it."
		if err := tx.RunCancel(ctx, one.ID, "replay.superseded", detail); err != nil {
			return nil, fmt.Errorf("give the place of run %s to another: %w", one.ID, err)
		}
	}
	return &place, nil
}

// placeOf is where a run of an event stands that is the first of it, as the intake has it: one without a time of its own, but with a number, is ordered
// by the number alone.
func placeOf(e db.Event) db.Run {
	place := db.Run{OrderedAt: e.ReceivedAt}
	if e.Sequence != nil {
		place.OrderedAt, place.OrderSequence = time.Unix(0, 0), *e.Sequence
	}
	if e.OccurredAt != nil {
		place.OrderedAt = *e.OccurredAt
	}
	return place
}

// version is the version of an item's automation that is to run.
func (r *replayer) version(ctx context.Context, tx db.TenantTx, p db.Replay, item db.ReplayItem) (version int, c *automations.Compiled, reason, detail string, err error) {
	automation, err := tx.AutomationGet(ctx, item.AutomationID)
	if errors.Is(err, db.ErrNotFound) {
		return 0, nil, "replay.automation_gone", "The automation was deleted.", nil
	} else if err != nil {
		return 0, nil, "", "", err
	}
	if p.Kind == db.KindBacktest && p.AutomationVersion != nil {
		version = *p.AutomationVersion
	} else {
		if version = automation.Version; !automation.Enabled && p.Mode == db.ReplayRun {
			return 0, nil, "replay.automation_disabled", "The automation is disabled. Enable it, or replay it with the mode shadow.", nil
		}
	}
	c, err = r.compiled.get(ctx, tx, item.AutomationID, version)
	if fault, ok := errors.AsType[automations.Fault](err); ok {
		return 0, nil, reasonAutomation, "The automation no longer compiles: " + fault.Error(), nil
	}
	return version, c, "", "", err
}

// payloadFor reads an event's payload as templates see it, or says why it cannot be had.
func payloadFor(ctx context.Context, tx db.TenantTx, eventID uuid.UUID) (payload any, reason, detail string, err error) {
	stored, err := tx.EventPayload(ctx, eventID)
	if errors.Is(err, db.ErrNotFound) {
		return nil, "replay.payload_gone", "The payload is no longer kept.", nil
	} else if err != nil {
		return nil, "", "", err
	}
	if payload, err = automations.DecodePayload(stored.Seen()); err != nil {
		return nil, reasonPayload, "The payload cannot be read.", nil //nolint:nilerr // the reason is the answer
	}
	return payload, "", "", nil
}

// fromAction makes the effect of a kept outcome, and asks no model.
func (r *replayer) fromAction(ctx context.Context, tx db.TenantTx, p db.Replay, item *db.ReplayItem, earlier []db.Run) (begun, error) {
	at := 0
	if item.RunID != nil {
		at = slices.IndexFunc(earlier, func(one db.Run) bool { return one.ID == *item.RunID })
	}
	if at < 0 || len(earlier) == 0 {
		return skip(item, "replay.no_outcome", "There is no run of it whose outcome was kept.")
	}
	run := earlier[at]
	item.RunID = &run.ID
	switch {
	case run.Mode == automations.ModeShadow:
		return skip(item, "replay.shadow", "The run was in shadow mode: nothing of it can be sent. Replay it with the mode run.")
	case !run.Status.Ended():
		return skip(item, "replay.not_ended", "The run has not ended: retry or cancel it.")
	case run.Status != db.RunDead && run.Status != db.RunDone:
		return skip(item, "replay.no_outcome", "The run is "+string(run.Status)+", and has no effect to make.")
	}
	actions, err := tx.ActionList(ctx, run.ID)
	if err != nil {
		return begun{}, err
	}
	if run.Status == db.RunDone {
		return r.effectAgain(ctx, tx, p, item, run, actions)
	}
	const detail = "A replay makes the effect; the outcome stands."
	for _, one := range actions {
		switch one.State {
		case db.ActionFailed:
			err = tx.ActionRetry(ctx, one.ID, ActionAttemptsMore)
		case db.ActionUnknown:
			switch {
			case EffectCanBeSought(one):
				err = tx.ActionLook(ctx, one.ID, ActionAttemptsMore)
			case p.Forced:
				err = tx.ActionNotArrived(ctx, one.ID, ActionAttemptsMore)
			default:
				return skip(item, "replay.effect_unknown", "Its effect may have been made, and its target cannot be asked. With force it is sent again.")
			}
		default:
			continue
		}
		if err != nil {
			return begun{}, err
		}
		if err := tx.RunRetry(ctx, run.ID, db.RunActing, []db.RunStatus{db.RunDead}, reasonReplayed, detail); err != nil {
			return begun{}, err
		}
		item.State, item.NewRunID = db.ItemStarted, &run.ID
		return begun{actions: []ActionArgs{{TenantID: tx.TenantID, ActionID: one.ID}}}, nil
	}
	return r.outcomeAgain(ctx, tx, item, run, len(actions))
}

// outcomeAgain takes up a dead run that has a reply and no action: the reply is used again, and no model is asked.
func (r *replayer) outcomeAgain(ctx context.Context, tx db.TenantTx, item *db.ReplayItem, run db.Run, actions int) (begun, error) {
	calls, err := tx.CallList(ctx, run.ID)
	if err != nil {
		return begun{}, err
	}
	if actions > 0 || len(run.Output) == 0 || !slices.ContainsFunc(calls, func(c db.Call) bool { return c.State == db.CallReceived }) {
		return skip(item, "replay.no_outcome", "The run died without an outcome: replay it with the mode run.")
	}
	if err := tx.RunRetry(ctx, run.ID, db.RunQueued, []db.RunStatus{db.RunDead}, reasonReplayed, "A replay makes the effect of the outcome that was kept."); err != nil {
		return begun{}, err
	}
	item.State, item.NewRunID = db.ItemStarted, &run.ID
	return begun{runs: []RunArgs{{TenantID: tx.TenantID, RunID: run.ID, Ordered: run.Ordering != db.OrderNone, Lag: replayLag, Posted: r.now()}}}, nil
}

// effectAgain makes the confirmed effect of a run once more, where that is forced.
func (r *replayer) effectAgain(ctx context.Context, tx db.TenantTx, p db.Replay, item *db.ReplayItem, run db.Run, actions []db.Action) (begun, error) {
	at := slices.IndexFunc(actions, func(one db.Action) bool { return one.State == db.ActionConfirmed })
	switch {
	case at < 0:
		return skip(item, "replay.no_outcome", "The run has no effect to make.")
	case !p.Forced:
		return skip(item, "replay.effect_made", "Its effect was made. With force it is made again.")
	}
	id := tenants.NewID()
	if err := tx.ActionRepeat(ctx, actions[at].ID, id, AnotherKey(actions[at], id)); err != nil {
		return begun{}, err
	}
	if err := tx.RunRepeat(ctx, run.ID, reasonReplayed, "A person wants the effect made again."); err != nil {
		return begun{}, err
	}
	item.State, item.NewRunID = db.ItemStarted, &run.ID
	return begun{actions: []ActionArgs{{TenantID: tx.TenantID, ActionID: id}}}, nil
}

const (
	// ActionAttemptsMore is how many tries an effect gets when a person sets it going again.
	ActionAttemptsMore = 8

	reasonReplayed = "replayed"
)

// EffectCanBeSought says whether an action's target can be asked for its effect, or drops what it has seen: then no person has to look.
func EffectCanBeSought(a db.Action) bool {
	var effect action.Effect
	return json.Unmarshal(a.Effect, &effect) == nil && effect.Once != action.OnceNever
}
