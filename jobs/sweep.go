package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/proof"
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
	now    func() time.Time
	// agedAt is when runs that are too old were last looked for.
	agedAt time.Time
}

// A run that has not ended runAgeMax after it was made is ended, whatever it waits for: a turn behind a dead one, a tenant that was suspended. Every
// other wait has a bound of its own, which is shorter: provider 72 h, effect 72 h, review 30 days, limit 40 days.
const (
	runAgeMax    = 45 * 24 * time.Hour
	agedEvery    = time.Hour
	reasonTooOld = "run.too_old"
)

func (s *sweeper) loop(ctx context.Context, pause time.Duration) {
	every(ctx, pause, func(ctx context.Context) {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "sweep: it is tried again at the next tick", "error", err)
		}
	})
}

func (s *sweeper) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	// First, so that what is to be ended gets no job.
	if err := s.aged(ctx, s.now(), runAgeMax); err != nil {
		return err
	}
	var lines []uuid.UUID
	err := s.db.System(proof.Step(ctx, stepSweep), func(tx db.SystemTx) error {
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
		if lines, err = tx.RunLines(ctx, s.grace, sweepMax); err != nil {
			return err
		}
		backlog, err := tx.Backlog(ctx)
		if err != nil {
			return err
		}
		s.meters.setBacklog(backlog)
		return nil
	})
	if err != nil {
		return err
	}
	return s.lines(ctx, lines)
}

// aged ends runs that are older than age, once in agedEvery.
func (s *sweeper) aged(ctx context.Context, now time.Time, age time.Duration) error {
	if now.Sub(s.agedAt) < agedEvery {
		return nil
	}
	var old []db.Stranded
	err := s.db.System(ctx, func(tx db.SystemTx) (err error) {
		old, err = tx.RunsTooOld(ctx, age, sweepMax)
		return err
	})
	for _, r := range old {
		err = errors.Join(err, s.db.Tenant(proof.Step(ctx, stepSweepAge), r.TenantID, func(tx db.TenantTx) error { return s.giveUp(ctx, tx, r.ID) }))
	}
	if err != nil {
		return fmt.Errorf("end what waits for ever: %w", err)
	}
	if len(old) < sweepMax {
		s.agedAt = now
	}
	return nil
}

func (s *sweeper) giveUp(ctx context.Context, tx db.TenantTx, id uuid.UUID) error {
	run, err := tx.RunGet(ctx, id)
	if err != nil {
		return err
	}
	const detail = "It has waited for too long, and is given up."
	if err := tx.RunGiveUp(ctx, id, reasonTooOld, detail+" Before: "+run.Reason); errors.Is(err, db.ErrNotFound) {
		return nil // it has ended meanwhile
	} else if err != nil {
		return err
	}
	if err := tx.ActionsCancel(ctx, id, detail); err != nil {
		return err
	}
	return s.poster.HandOver(ctx, tx, run)
}

// lines wakes runs that wait for their turn although nothing is in front of them any more. Who ends hands over, so this is for the endpoint
// whose settings were changed, and for what nobody thought of.
func (s *sweeper) lines(ctx context.Context, of []uuid.UUID) error {
	for _, tenantID := range of {
		var forgotten []db.Run
		err := s.db.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
			forgotten, err = tx.RunForgotten(ctx, s.grace, sweepMax)
			return err
		})
		if err == nil {
			err = s.wake(ctx, tenantID, forgotten)
		}
		if err != nil {
			return fmt.Errorf("wake what waits for its turn: %w", err)
		}
	}
	return nil
}

// wake hands over to each, in a transaction of its own: each takes the lock of one entity.
func (s *sweeper) wake(ctx context.Context, tenantID uuid.UUID, runs []db.Run) error {
	if len(runs) > 0 {
		s.log.WarnContext(ctx, "sweep: woke runs that nothing is in front of", "runs", len(runs))
		s.meters.stranded.Add(ctx, int64(len(runs)))
	}
	for _, run := range runs {
		if err := s.db.Tenant(proof.Step(ctx, stepSweepWake), tenantID, func(tx db.TenantTx) error { return s.poster.HandOver(ctx, tx, run) }); err != nil {
			return err
		}
	}
	return nil
}
