package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/proof"
	"sluice/tenants"
)

const (
	// demoteEvery is how often live automations are looked at of which a run died within demoteRecent; demoteMax bounds one look.
	demoteEvery   = 10 * time.Second
	demoteRecent  = 10 * time.Minute
	demoteMax     = 500
	demoteTimeout = 30 * time.Second
)

// demoter takes automations that fail too often from live back into review. Any number of workers may do it: the version that it read is the one that it
// replaces, so that of two the second finds it replaced.
type demoter struct {
	db  *db.DB
	log *slog.Logger
}

func (d *demoter) loop(ctx context.Context) {
	every(ctx, demoteEvery, func(ctx context.Context) {
		if err := d.tick(ctx); err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "demotion: it is looked at again at the next tick", "error", err)
		}
	})
}

func (d *demoter) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoteTimeout)
	defer cancel()
	var found []db.Stranded
	err := d.db.System(ctx, func(tx db.SystemTx) (err error) {
		if _, err = tx.AlertsDemotedEnd(ctx); err != nil {
			return fmt.Errorf("end alerts of automations that are live again: %w", err)
		}
		found, err = tx.Demotable(ctx, demoteRecent, demoteMax)
		return err
	})
	if err != nil {
		return fmt.Errorf("find automations with failures: %w", err)
	}
	var faults []error
	for _, one := range found {
		err := d.db.Tenant(proof.Step(db.AsRule(ctx, "demotion"), stepDemotion), one.TenantID, func(tx db.TenantTx) error { return d.demote(ctx, tx, one.ID) })
		if err != nil && !errors.Is(err, db.ErrStale) && !errors.Is(err, db.ErrNotFound) {
			faults = append(faults, fmt.Errorf("look at automation %s: %w", one.ID, err))
		}
	}
	return errors.Join(faults...)
}

// demote makes a version in review of an automation of which too many runs failed, and tells of it.
func (d *demoter) demote(ctx context.Context, tx db.TenantTx, id uuid.UUID) error {
	row, err := tx.AutomationGet(ctx, id)
	if err != nil {
		return err
	}
	var said struct {
		Mode   string
		Demote *automations.DemoteSpec
	}
	if err := json.Unmarshal(row.Spec, &said); err != nil {
		return fmt.Errorf("read what it says: %w", err)
	}
	if said.Mode != automations.ModeLive || said.Demote == nil {
		return nil
	}
	ends, err := tx.LiveEnds(ctx, id, row.Version, said.Demote.Runs)
	if err != nil || !said.Demote.Demoted(ends.Failed) {
		return err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(row.Spec, &fields); err != nil {
		return fmt.Errorf("read what it says: %w", err)
	}
	fields["mode"] = json.RawMessage(`"` + automations.ModeReview + `"`)
	spec, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("write what it says: %w", err)
	}
	demoted, err := tx.AutomationUpdate(ctx, id, db.AutomationChange{Spec: spec, Version: row.Version})
	if err != nil {
		return err
	}
	shown := tenants.FormatID(tenants.AutomationPrefix, id)
	detail := fmt.Sprintf("The automation is in review again, as version %d: of its last %d live runs %d died, and demote allows %.0f %% of %d. "+
		"See why (GET /v1/runs?automation_id=%s&status=dead), mend it, and let it go live again.",
		demoted.Version, ends.Runs, ends.Failed, said.Demote.FailureRate*100, said.Demote.Runs, shown) //nolint:mnd // in percent
	if err := tx.AlertBegin(ctx, db.AlertDemoted, shown, detail); err != nil {
		return fmt.Errorf("tell of it: %w", err)
	}
	d.log.WarnContext(ctx, "automation demoted to review", "tenant_id", tenants.FormatID(tenants.TenantPrefix, tx.TenantID), "automation_id", shown,
		"version", demoted.Version, "runs", ends.Runs, "failed", ends.Failed)
	return nil
}
