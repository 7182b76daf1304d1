package jobs

import (
	"context"
	"log/slog"
	"time"

	"sluice/db"
)

// sweepMax bounds how many stranded rows one sweep gives a job; the next sweep goes on.
const sweepMax = 500

// sweepTimeout bounds one sweep.
const sweepTimeout = 30 * time.Second

// sweeper finds runs and actions that should have gone on and that no live job stands for: their worker was killed, or River gave up their job.
// Our table is the truth and River is the clock, so they are given another job; one too many does no harm, since a claim is refused.
type sweeper struct {
	db     *db.DB
	poster *Poster
	log    *slog.Logger
	grace  time.Duration
	meters *meters
}

func (s *sweeper) loop(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "sweep: it is tried again at the next tick", "error", err)
			}
		}
	}
}

func (s *sweeper) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	return s.db.System(ctx, func(tx db.SystemTx) error {
		mine, err := tx.SweepLock(ctx)
		if err != nil || !mine {
			return err
		}
		runs, err := tx.RunStranded(ctx, s.grace, sweepMax)
		if err != nil {
			return err
		}
		args := make([]RunArgs, len(runs))
		for i, r := range runs {
			args[i] = RunArgs{TenantID: r.TenantID, RunID: r.ID}
		}
		if err := s.poster.PostRuns(ctx, tx.Pgx(), args); err != nil {
			return err
		}
		actions, err := tx.ActionStranded(ctx, s.grace, sweepMax)
		if err != nil {
			return err
		}
		sends := make([]ActionArgs, len(actions))
		for i, a := range actions {
			sends[i] = ActionArgs{TenantID: a.TenantID, ActionID: a.ID}
		}
		if err := s.poster.PostActions(ctx, tx.Pgx(), sends); err != nil {
			return err
		}
		if len(runs)+len(actions) > 0 {
			s.log.WarnContext(ctx, "sweep: gave a job to what nobody worked on", "runs", len(runs), "actions", len(actions))
			s.meters.stranded.Add(ctx, int64(len(runs)+len(actions)))
		}
		backlog, err := tx.Backlog(ctx)
		if err != nil {
			return err
		}
		s.meters.setBacklog(backlog)
		return nil
	})
}
