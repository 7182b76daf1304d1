package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sluice/db"
)

// watchTimeout bounds one look of the watcher.
const watchTimeout = 30 * time.Second

// restsMin is how many times as long as a look took is waited at least until the next: with very many tenants, looks come less often, and never take
// more than so large a part of a connection.
const restsMin = 20

// How often is looked for what costs more than a few rows of an index; the rest is looked for at each tick.
const (
	blockedEvery   = 15 * time.Second
	quietEvery     = 15 * time.Second
	ratesEvery     = time.Minute
	anomaliesEvery = 5 * time.Minute
)

// How long a state must be gone until its alert ends: one that comes and goes is told once.
const (
	limitQuiet   = time.Minute // a run that fits in between lets a tenant hold for a moment only
	heldQuiet    = 2 * time.Minute
	breakerQuiet = 5 * time.Minute // between one failed probe and the next, what waits is tried
	deathsQuiet  = 30 * time.Minute
	blockedQuiet = time.Minute
	loopQuiet    = time.Hour
	// anomalyQuiet is longer than the two hours beside each that a Baseline takes for the same: an alert does not end at a day's steep end to begin anew.
	anomalyQuiet = 2 * time.Hour
)

// Alerts that nobody begins anew end by themselves: a flood of refusals after its last minute; a hook that could not be read when nobody looks at it
// any more, since its endpoint or its settings are gone.
const (
	rejectionsQuiet       = 10 * time.Minute
	missedUnreadableQuiet = 24 * time.Hour
)

// watcher begins and ends alerts for what is so by itself, over all tenants: it looks for what is so now, and lets the open alerts be that. Any number
// of processes may watch; each look is done by one of them.
type watcher struct {
	db  *db.DB
	log *slog.Logger
	now func() time.Time
	// every is how often it looks.
	every time.Duration
	// took is how long the last look of each name took.
	took map[string]time.Duration
	// behind says that there are rates to count that should have been counted before.
	behind bool
}

// look is one thing that the watcher looks for.
type look struct {
	name  string
	every time.Duration // 0 is at each tick
	find  func(ctx context.Context, tx db.SystemTx) error
	// steady is one that is never put off: it would only have more to do.
	steady bool
}

func (w *watcher) looks() []look {
	rates := ratesEvery
	if w.behind {
		rates = 0
	}
	return []look{
		{name: "limits", find: w.limits},
		{name: "stopped", find: w.stopped},
		{name: "credentials", find: w.credentials},
		{name: "died", find: w.died},
		{name: "blocked", every: blockedEvery, find: w.blocked},
		{name: "quiet", every: quietEvery, find: w.quiet},
		{name: "count", every: rates, find: w.count, steady: true},
		{name: "anomalies", every: anomaliesEvery, find: w.anomalies},
	}
}

func newWatcher(d *db.DB, log *slog.Logger, now func() time.Time, every time.Duration) *watcher {
	return &watcher{db: d, log: log, now: now, every: every, took: map[string]time.Duration{}}
}

// loop looks now, and again and again until ctx ends.
func (w *watcher) loop(ctx context.Context) {
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	for {
		w.tick(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tick looks for all that is due. One look that fails keeps no other from being taken.
func (w *watcher) tick(ctx context.Context) {
	for _, l := range w.looks() {
		if err := w.look(ctx, l); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "watch: it is looked at again at the next tick", "what", l.name, "error", err)
		}
	}
}

func (w *watcher) look(ctx context.Context, l look) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	every := l.every
	if every == 0 {
		every = w.every - w.every/4 // a tick may come a little early
	}
	if !l.steady {
		every = max(every, w.took[l.name]*restsMin)
	}
	err := w.db.System(ctx, func(tx db.SystemTx) error {
		due, err := tx.WatchDue(ctx, l.name, every)
		if err != nil || !due {
			return err
		}
		began := w.now()
		defer func() { w.took[l.name] = w.now().Sub(began) }()
		return l.find(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("look at %s: %w", l.name, err)
	}
	return nil
}

// settle lets the open alerts of a kind be what is seen.
func (w *watcher) settle(ctx context.Context, tx db.SystemTx, kind string, quiet time.Duration, seen []db.AlertSeen) error {
	settled, err := tx.AlertsSettle(ctx, kind, quiet, seen)
	if err == nil && settled.Began+settled.Ended > 0 {
		w.log.InfoContext(ctx, "alerts", "kind", kind, "began", settled.Began, "ended", settled.Ended)
	}
	return err
}

// quiet ends alerts that were begun by whoever met what they tell of, and that nobody begins anew.
func (w *watcher) quiet(ctx context.Context, tx db.SystemTx) error {
	for kind, quiet := range map[string]time.Duration{
		db.AlertLoop: loopQuiet, db.AlertMissedUnreadable: missedUnreadableQuiet, db.AlertRejections: rejectionsQuiet,
	} {
		ended, err := tx.AlertsEnd(ctx, kind, quiet)
		if err != nil {
			return err
		}
		if ended > 0 {
			w.log.InfoContext(ctx, "alerts", "kind", kind, "ended", ended)
		}
	}
	return nil
}
