package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sluice/db"
	"sluice/tenants"
)

const (
	// replayEvery is how often replays are looked at, replaysMax how many in one look.
	replayEvery = 500 * time.Millisecond
	replaysMax  = 50
	// replayTimeout bounds one look.
	replayTimeout = 30 * time.Second
	// replayItemsMax bounds what one look begins of a replay.
	replayItemsMax = 100
	// replayUnderWay is how many runs of a replay may be under way at once: it waits for them before it begins more.
	replayUnderWay = 500
	// replayLag puts the runs of a replay behind fresh events.
	replayLag = 10 * time.Minute
)

// replayer begins what people want done again: paced, up to a ceiling of money, in order. Any number of workers may do it: each look holds one replay.
type replayer struct {
	db       *db.DB
	poster   *Poster
	compiled *Compiled
	log      *slog.Logger
	now      func() time.Time
}

func (r *replayer) loop(ctx context.Context) {
	every(ctx, replayEvery, func(ctx context.Context) {
		if err := r.tick(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "replays: they are gone on with at the next tick", "error", err)
		}
	})
}

// tick goes on with all replays. One that cannot go on keeps no other from it.
func (r *replayer) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	var due []db.Stranded
	err := r.db.System(ctx, func(tx db.SystemTx) (err error) {
		due, err = tx.ReplaysDue(ctx, replaysMax)
		return err
	})
	if err != nil {
		return fmt.Errorf("find replays: %w", err)
	}
	var faults []error
	for _, one := range due {
		err := r.db.Tenant(ctx, one.TenantID, func(tx db.TenantTx) error {
			replay, err := tx.ReplayLock(ctx, one.ID)
			if errors.Is(err, db.ErrNotFound) {
				return nil // it has ended, or another worker has it in hand
			} else if err != nil {
				return err
			}
			return r.goOn(ctx, tx, replay)
		})
		if err != nil {
			faults = append(faults, fmt.Errorf("replay %s: %w", tenants.FormatID(tenants.ReplayPrefix, one.ID), err))
		}
	}
	return errors.Join(faults...)
}

// replayState is how a replay stands.
type replayState struct {
	pending, underWay int
	cost              int64
	ended             int
}

func replayStateOf(counts []db.ReplayCount) (s replayState) {
	for _, c := range counts {
		switch {
		case c.State == db.ItemPending:
			s.pending += c.Items
		case c.State == db.ItemStarted && !db.RunStatus(c.Status).Ended() && c.Status != string(db.RunInReview):
			s.underWay += c.Items
		case c.State == db.ItemStarted:
			s.ended += c.Items
		}
		s.cost += c.NewCost
	}
	return s
}

// goOn begins as many items as are due, and ends the replay where nothing is left.
func (r *replayer) goOn(ctx context.Context, tx db.TenantTx, p db.Replay) error {
	counts, err := tx.ReplayCounts(ctx, p.ID)
	if err != nil {
		return err
	}
	s := replayStateOf(counts)
	switch {
	case s.pending == 0 && s.underWay == 0:
		r.log.InfoContext(ctx, "replay ended", "tenant_id", tenants.FormatID(tenants.TenantPrefix, p.TenantID), "replay_id", tenants.FormatID(tenants.ReplayPrefix, p.ID))
		return tx.ReplayEnd(ctx, p.ID, db.ReplayDone, "", "")
	case s.pending == 0:
		return tx.ReplayAdvance(ctx, p.ID, p.Position, nil)
	case p.MaxCostPico != nil && s.cost+int64(s.underWay)*perItem(p) >= *p.MaxCostPico:
		if s.underWay > 0 {
			return tx.ReplayAdvance(ctx, p.ID, p.Position, nil) // what they cost will be known
		}
		return tx.ReplayEnd(ctx, p.ID, db.ReplayStopped, "replay.max_cost", "Its runs have cost "+usd(s.cost)+" USD: max_cost_usd was reached.")
	}
	due := min(r.due(p), replayUnderWay-s.underWay)
	if p.MaxCostPico != nil && perItem(p) > 0 {
		// Not more than the ceiling has room for, by what an item is expected to cost; one at least.
		room := (*p.MaxCostPico - s.cost - int64(s.underWay)*perItem(p)) / perItem(p)
		due = min(due, int(max(room, 1)))
	}
	if due <= 0 {
		return tx.ReplayAdvance(ctx, p.ID, p.Position, nil)
	}
	items, err := tx.ReplayNext(ctx, p, due)
	if err != nil {
		return err
	}
	var runs []RunArgs
	var actions []ActionArgs
	for _, item := range items {
		begun, err := r.begin(ctx, tx, p, &item)
		if err != nil {
			return fmt.Errorf("begin item %d: %w", item.Position, err)
		}
		runs, actions = append(runs, begun.runs...), append(actions, begun.actions...)
		if err := tx.ReplayItemStep(ctx, p.ID, item); err != nil {
			return err
		}
		p.Position = item.Position
	}
	if err := r.poster.PostRuns(ctx, tx.Pgx(), runs); err != nil {
		return err
	}
	if err := r.poster.PostActions(ctx, tx.Pgx(), actions); err != nil {
		return err
	}
	now := r.now()
	return tx.ReplayAdvance(ctx, p.ID, p.Position, &now)
}

// perItem is what an item is expected to cost.
func perItem(p db.Replay) int64 {
	if p.Items == 0 {
		return 0
	}
	return p.EstimatePico / int64(p.Items)
}

// due is how many items may begin now: a pause earns no burst.
func (r *replayer) due(p db.Replay) int {
	since := replayEvery
	if p.PacedAt != nil {
		since = min(r.now().Sub(*p.PacedAt), max(time.Second, time.Duration(float64(time.Second)/p.PerSecond)))
	}
	n := int(since.Seconds() * p.PerSecond)
	if p.PacedAt == nil {
		n = max(n, 1)
	}
	return min(n, replayItemsMax)
}
