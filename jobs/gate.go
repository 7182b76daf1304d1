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

const (
	// gateEvery is how often what is held is looked at: how late it goes on after its window has turned, or its limit was raised.
	gateEvery = time.Second
	// gateTenantsMax and gateReleaseMax bound one look.
	gateTenantsMax = 200
	gateReleaseMax = 500
	// gateUnparkMax is how many parked runs of a tenant are woken at once where nobody has: their waker was killed.
	gateUnparkMax = 20
	// settleEvery is how often the places of tenants that have nothing in the queue are brought back to the present.
	settleEvery = 5 * time.Second
	// gateTimeout bounds one look.
	gateTimeout = 30 * time.Second
	// heldMaxAge ends what was held for longer than the longest window.
	heldMaxAge = 40 * 24 * time.Hour
)

// gate lets go on what limits hold and what waits for a place, and settles what calls without a worker have reserved.
type gate struct {
	db     *db.DB
	poster *Poster
	log    *slog.Logger
	grace  time.Duration
	now    func() time.Time

	settled time.Time
}

func (g *gate) loop(ctx context.Context) {
	every(ctx, gateEvery, func(ctx context.Context) {
		if err := g.tick(ctx, g.now()); err != nil && ctx.Err() == nil {
			g.log.WarnContext(ctx, "gate: it is tried again at the next tick", "error", err)
		}
	})
}

func (g *gate) tick(ctx context.Context, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	var due, changed []uuid.UUID
	var calls []db.Stranded
	err := g.db.System(proof.Step(ctx, stepGate), func(tx db.SystemTx) (err error) {
		if due, err = tx.GatesDue(ctx, gateTenantsMax); err != nil {
			return fmt.Errorf("find what is held: %w", err)
		}
		if at.Sub(g.settled) < settleEvery {
			return nil
		}
		g.settled = at
		if _, err = tx.PlacesSettle(ctx); err != nil {
			return fmt.Errorf("settle places: %w", err)
		}
		if changed, err = tx.GatesChanged(ctx, 2*settleEvery); err != nil { //nolint:mnd // twice, so that none is missed
			return fmt.Errorf("find changed limits: %w", err)
		}
		calls, err = tx.CallsStranded(ctx, g.grace, sweepMax)
		return err
	})
	if err != nil {
		return err
	}
	for _, tenantID := range changed {
		if err := g.db.Tenant(proof.Step(ctx, stepGateRepace), tenantID, func(tx db.TenantTx) error { return tx.RunsRepace(ctx) }); err != nil {
			return fmt.Errorf("give jobs other slots: %w", err)
		}
	}
	for _, tenantID := range due {
		if err := g.release(ctx, tenantID, g.settled.Equal(at)); err != nil {
			return err
		}
	}
	return g.settle(ctx, calls)
}

// release lets a tenant's runs go on, as far as there is room, in the order in which they came. Now and then (aged) those are ended that were held for
// too long.
func (g *gate) release(ctx context.Context, tenantID uuid.UUID, aged bool) error {
	for _, step := range []func(tx db.TenantTx) ([]db.Woken, error){
		func(tx db.TenantTx) ([]db.Woken, error) { return tx.RunsReleaseEvents(ctx, gateReleaseMax) },
		func(tx db.TenantTx) ([]db.Woken, error) { return tx.RunsReleaseBudget(ctx, gateReleaseMax) },
		func(tx db.TenantTx) ([]db.Woken, error) {
			gate, err := tx.GateGet(ctx)
			if errors.Is(err, db.ErrNotFound) || err == nil && gate.Parked == 0 {
				return nil, nil
			} else if err != nil {
				return nil, err
			}
			return tx.RunsUnpark(ctx, gateUnparkMax)
		},
		func(tx db.TenantTx) (_ []db.Woken, err error) {
			if aged {
				_, err = tx.RunsHeldTooLong(ctx, heldMaxAge)
			}
			return nil, err
		},
	} {
		var woken []db.Woken
		err := g.db.Tenant(proof.Step(ctx, stepGateRelease), tenantID, func(tx db.TenantTx) (err error) {
			if woken, err = step(tx); err != nil {
				return err
			}
			return g.poster.PostRuns(ctx, tx.Pgx(), jobsOf(tenantID, woken))
		})
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return fmt.Errorf("let runs go on: %w", err)
		}
		if len(woken) > 0 {
			g.log.InfoContext(ctx, "gate: let runs go on", "runs", len(woken))
		}
	}
	return nil
}

// settle books calls whose worker was killed, and whose run nobody takes up again, as estimates.
func (g *gate) settle(ctx context.Context, calls []db.Stranded) error {
	for _, s := range calls {
		err := g.db.Tenant(proof.Step(ctx, stepGateSettle), s.TenantID, func(tx db.TenantTx) error {
			call, err := tx.CallGet(ctx, s.ID)
			if err != nil {
				return err
			}
			return settleCall(ctx, tx, call)
		})
		if err != nil && !errors.Is(err, db.ErrStale) && !errors.Is(err, db.ErrNotFound) {
			return fmt.Errorf("settle a call that nobody waits for: %w", err)
		}
	}
	if len(calls) > 0 {
		g.log.WarnContext(ctx, "gate: settled calls that nobody waited for", "calls", len(calls))
	}
	return nil
}
