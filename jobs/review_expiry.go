package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sluice/automations"
	"sluice/db"
	"sluice/proof"
	"sluice/tenants"
)

const (
	// expiryEvery is how often runs are looked for whose time for a review is over, expiryMax how many are decided on in one look.
	expiryEvery = 2 * time.Second
	expiryMax   = 200
	// expiryTimeout bounds one look.
	expiryTimeout = 30 * time.Second

	expiryNote = "The time for a review was over."
)

// expiry decides on runs that nobody has decided on in time, as their automations say. Any number of workers may do it: a run is decided on once.
type expiry struct {
	db       *db.DB
	reviewer *Reviewer
	log      *slog.Logger
}

func (e *expiry) loop(ctx context.Context) {
	every(ctx, expiryEvery, func(ctx context.Context) {
		if err := e.tick(ctx); err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "reviews: what is overdue is decided on at the next tick", "error", err)
		}
	})
}

// tick decides on all that is overdue. One run that cannot be decided on keeps no other from it.
func (e *expiry) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, expiryTimeout)
	defer cancel()
	var overdue []db.Stranded
	err := e.db.System(ctx, func(tx db.SystemTx) (err error) {
		overdue, err = tx.ReviewsOverdue(ctx, expiryMax)
		return err
	})
	if err != nil {
		return fmt.Errorf("find overdue reviews: %w", err)
	}
	var faults []error
	for _, one := range overdue {
		if err := e.decide(ctx, one); err != nil {
			faults = append(faults, fmt.Errorf("decide on run %s: %w", one.ID, err))
		}
	}
	return errors.Join(faults...)
}

func (e *expiry) decide(ctx context.Context, one db.Stranded) error {
	v := Verdict{Verdict: db.VerdictReject, Note: expiryNote}
	err := e.db.Tenant(proof.Step(db.AsRule(ctx, "review-expiry"), stepReviewExpiry), one.TenantID, func(tx db.TenantTx) error {
		run, err := tx.RunGet(ctx, one.ID)
		if err != nil {
			return err
		}
		automation, err := e.reviewer.compiled.get(ctx, tx, run.AutomationID, run.AutomationVersion)
		if fault, ok := errors.AsType[automations.Fault](err); ok {
			v.Note += " The automation no longer compiles: " + fault.Error()
		} else if err != nil {
			return err
		} else if automation.Review().OnExpiry == automations.ExpiryApprove {
			v.Verdict = db.VerdictApprove
		}
		return e.reviewer.Decide(ctx, tx, run.ID, v)
	})
	if _, decided := errors.AsType[*ReviewFault](err); decided || errors.Is(err, db.ErrNotFound) {
		return nil // by another worker, or its tenant was erased
	}
	if err == nil {
		e.log.InfoContext(ctx, "review expired", "tenant_id", tenants.FormatID(tenants.TenantPrefix, one.TenantID),
			"run_id", tenants.FormatID(tenants.RunPrefix, one.ID), "verdict", v.Verdict)
	}
	return err
}
