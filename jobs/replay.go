package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/proof"
	"sluice/tenants"
)

const (
	// replayEvery is how often replays are looked at, replaysMax how many in one look.
	replayEvery = 500 * time.Millisecond
	replaysMax  = 50
	// replayTimeout bounds one look.
	replayTimeout = 30 * time.Second
	// replayItemsMax bounds what one look begins, or skips, of a replay.
	replayItemsMax = 100
	// replayTriesMax is how often an item may fail to begin, for a reason that nobody thought of, before it is skipped: others stand behind it.
	replayTriesMax = 5
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

	// failed are the items that have failed to begin, each the first of its replay that has not begun, with how often they have.
	failed map[uuid.UUID]failedItem
}

type failedItem struct{ position, times int }

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
		err := r.db.Tenant(proof.Step(db.AsRule(ctx, "replay"), stepReplay), one.TenantID, func(tx db.TenantTx) error {
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
			// Those that fail must not stand before all others for ever.
			faults = append(faults, r.db.Tenant(ctx, one.TenantID, func(tx db.TenantTx) error { return tx.ReplayTouch(ctx, one.ID) }))
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
		return tx.ReplayTouch(ctx, p.ID)
	case p.MaxCostPico != nil && s.cost+int64(s.underWay)*perItem(p) >= *p.MaxCostPico:
		if s.underWay > 0 {
			return tx.ReplayTouch(ctx, p.ID) // what they cost will be known
		}
		return tx.ReplayEnd(ctx, p.ID, db.ReplayStopped, "replay.max_cost", "Its runs have cost "+usd(s.cost)+" USD: max_cost_usd was reached.")
	}
	due, at := r.due(p)
	due = min(due, replayUnderWay-s.underWay)
	if p.MaxCostPico != nil && perItem(p) > 0 {
		// Not more than the ceiling has room for, by the most that an item may cost; one at least.
		room := (*p.MaxCostPico - s.cost - int64(s.underWay)*perItem(p)) / perItem(p)
		due = min(due, int(max(room, 1)))
	}
	if due <= 0 {
		return tx.ReplayTouch(ctx, p.ID)
	}
	items, err := tx.ReplayNext(ctx, p, replayItemsMax)
	if err != nil {
		return err
	}
	started := 0
	for _, item := range items {
		if started == due {
			break
		}
		if err := r.beginOne(ctx, tx, p, &item); err != nil {
			// What has begun before it stands; it is tried again at the next look.
			r.log.WarnContext(ctx, "an item of a replay did not begin", "replay_id", tenants.FormatID(tenants.ReplayPrefix, p.ID), "position", item.Position, "error", err)
			break
		}
		if item.State == db.ItemStarted {
			started++
		}
		p.Position = item.Position
	}
	if started == 0 {
		return tx.ReplayAdvance(ctx, p.ID, p.Position, nil) // what is skipped takes nobody's time
	}
	now := at(started)
	return tx.ReplayAdvance(ctx, p.ID, p.Position, &now)
}

// beginOne begins an item with its jobs, or skips it, within a savepoint: what goes wrong with it undoes nothing of the others.
func (r *replayer) beginOne(ctx context.Context, tx db.TenantTx, p db.Replay, item *db.ReplayItem) error {
	asked := *item
	err := tx.Try(ctx, func(tx db.TenantTx) error {
		begun, err := r.begin(ctx, tx, p, item)
		if err != nil {
			return err
		}
		if err := r.poster.PostRuns(ctx, tx.Pgx(), begun.runs); err != nil {
			return err
		}
		if err := r.poster.PostActions(ctx, tx.Pgx(), begun.actions); err != nil {
			return err
		}
		return tx.ReplayItemStep(ctx, p.ID, *item)
	})
	if err == nil || errors.Is(err, db.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	*item = asked
	if p.Mode == db.ReplayFromAction && errors.Is(err, db.ErrConflict) {
		_, _ = skip(item, "replay.effect_made", "Another run has made this very effect meanwhile, or may have.")
		return tx.ReplayItemStep(ctx, p.ID, *item)
	}
	if !r.hopeless(p.ID, item.Position) {
		return err
	}
	r.log.ErrorContext(ctx, "an item of a replay cannot begin", "replay_id", tenants.FormatID(tenants.ReplayPrefix, p.ID), "position", item.Position, "error", err)
	_, _ = skip(item, reasonInternal, "Something went wrong inside Sluice; the operator's log has it.")
	return tx.ReplayItemStep(ctx, p.ID, *item)
}

// hopeless counts how often an item has failed to begin, and says whether that was too often.
func (r *replayer) hopeless(id uuid.UUID, position int) bool {
	if r.failed == nil || len(r.failed) > replaysMax {
		r.failed = map[uuid.UUID]failedItem{}
	}
	f := r.failed[id]
	if f.position != position {
		f = failedItem{position: position}
	}
	f.times++
	r.failed[id] = f
	return f.times >= replayTriesMax
}

// perItem is the most that an item is expected to cost: a ceiling is passed by no more than one of them.
func perItem(p db.Replay) int64 {
	if p.Items == 0 {
		return 0
	}
	return p.WorstPico / int64(p.Items)
}

// due is how many items may begin now, and how far the pace has come when so many have: what is left of a look is not lost, and a pause earns no burst.
func (r *replayer) due(p db.Replay) (n int, at func(started int) time.Time) {
	now := r.now()
	if p.PacedAt == nil {
		return 1, func(int) time.Time { return now }
	}
	step := time.Duration(float64(time.Second) / p.PerSecond)
	most := max(int(math.Ceil(2*replayEvery.Seconds()*p.PerSecond)), 1) //nolint:mnd // what comes due in two looks
	n = int(now.Sub(*p.PacedAt) / step)
	if n > most {
		n = most
		return n, func(int) time.Time { return now }
	}
	return n, func(started int) time.Time {
		if started < n {
			return now
		}
		return p.PacedAt.Add(time.Duration(started) * step)
	}
}
