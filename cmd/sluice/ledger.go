package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// ledgerCommand looks after the books. It goes through tenants one by one, each under its own row security: it needs no more rights than a worker.
type ledgerCommand struct {
	Check     ledgerCheck     `cmd:"" help:"Compare the ledger with calls, runs, prices, counters of limits and sums; exit code 0 is no difference."`
	Reconcile ledgerReconcile `cmd:"" help:"Hold a provider's export against the ledger, and correct what was an estimate; exit code 0 is that both agree."`
	Rebuild   ledgerRebuild   `cmd:"" help:"Sum the ledger anew for the reports. Safe at any time."`
}

type ledgerCheck struct {
	Tenant string `name:"tenant" placeholder:"tnt_..." help:"This tenant alone."`
}

type ledgerReconcile struct {
	Provider string `name:"provider" required:"" help:"Whose export it is, such as anthropic."`
	File     string `arg:"" help:"JSON lines with request_id, the six buckets (at the top or under usage), and, if there are, model and billed. - is the input."`
	DryRun   bool   `name:"dry-run" help:"Write nothing."`
	All      bool   `name:"all" help:"Take the provider's word for every call, and not for estimates alone."`
}

type ledgerRebuild struct {
	Tenant string `name:"tenant" placeholder:"tnt_..." help:"This tenant alone."`
}

// ledgerTenantsPage is how many tenants are read at once.
const ledgerTenantsPage = 1000

// asBookkeeper runs fn with the roles of a worker that seals nothing.
func asBookkeeper(ctx context.Context, c *Config, fn func(*db.DB) error) error {
	return asCommand(ctx, c, nil, fn)
}

// asCommand runs fn with the roles of a worker, on one connection of each, and with what opens and seals its secrets.
func asCommand(ctx context.Context, c *Config, sealer *db.Sealer, fn func(*db.DB) error) error {
	system, err := db.Open(ctx, db.PoolConfig{URL: c.DatabaseURL.Reveal(), Role: db.SystemRole, ConnsMax: 1})
	if err != nil {
		return err
	}
	defer system.Close()
	app, err := db.Open(ctx, db.PoolConfig{URL: c.DatabaseURL.Reveal(), Role: db.AppRole, ConnsMax: 1})
	if err != nil {
		return err
	}
	defer app.Close()
	if err := waitForSchema(ctx, system); err != nil {
		return err
	}
	return fn(db.New(db.Pools{App: app, System: system}, sealer))
}

// eachTenant calls fn for the tenant of an id, or for all.
func eachTenant(ctx context.Context, d *db.DB, text string, fn func(db.Tenant) error) (int, error) {
	if text != "" {
		id, ok := tenants.ParseID(tenants.TenantPrefix, text)
		if !ok {
			return 0, usage("--tenant: expected %s_ and 32 hex digits", tenants.TenantPrefix)
		}
		var t db.Tenant
		err := d.System(ctx, func(tx db.SystemTx) (err error) {
			t, err = tx.TenantGet(ctx, id)
			return err
		})
		if errors.Is(err, db.ErrNotFound) {
			return 0, fmt.Errorf("there is no tenant %s", text)
		} else if err != nil {
			return 0, fmt.Errorf("read the tenant: %w", err)
		}
		return 1, fn(t)
	}
	n := 0
	for page := (db.Page{Limit: ledgerTenantsPage}); ; {
		var list []db.Tenant
		err := d.System(ctx, func(tx db.SystemTx) (err error) {
			list, err = tx.TenantList(ctx, page)
			return err
		})
		if err != nil {
			return n, fmt.Errorf("list the tenants: %w", err)
		}
		if len(list) == 0 {
			return n, nil
		}
		for _, t := range list {
			if err := fn(t); err != nil {
				return n, err
			}
			n, page.Before = n+1, t.TenantID
		}
	}
}

// subjectPrefixes say whose id a difference names.
var subjectPrefixes = map[string]string{
	db.DifferenceCall: tenants.CallPrefix, db.DifferenceCallPrice: tenants.CallPrefix, db.DifferenceEntryCall: tenants.EntryPrefix,
	db.DifferenceEntryPrice: tenants.EntryPrefix, db.DifferenceRun: tenants.RunPrefix,
}

// Run checks, and lists what is wrong on the output.
func (l ledgerCheck) Run(ctx context.Context, c *Config, std streams) error {
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	differences, checked := 0, 0
	list := func(tenant uuid.UUID, found []db.Difference) {
		for _, d := range found {
			if differences == 0 {
				fmt.Fprintln(table, "TENANT\tWHAT\tID\tEXPECTED\tFOUND")
			}
			differences++
			prefix := subjectPrefixes[d.Kind]
			if prefix == "" {
				prefix = tenants.TenantPrefix
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", tenants.FormatID(tenants.TenantPrefix, tenant), d.Kind, tenants.FormatID(prefix, d.Subject), d.Expected, d.Found)
		}
	}
	err := asBookkeeper(ctx, c, func(d *db.DB) (err error) {
		checked, err = eachTenant(ctx, d, l.Tenant, func(t db.Tenant) error {
			var found []db.Difference
			err := d.Tenant(ctx, t.TenantID, func(tx db.TenantTx) (err error) {
				found, err = tx.LedgerCheck(ctx)
				return err
			})
			if err != nil {
				return fmt.Errorf("check tenant %s: %w", tenants.FormatID(tenants.TenantPrefix, t.TenantID), err)
			}
			list(t.TenantID, found)
			return nil
		})
		if err != nil || l.Tenant != "" {
			return err
		}
		return d.System(ctx, func(tx db.SystemTx) error {
			found, err := tx.LedgerTenantsCheck(ctx)
			for _, one := range found {
				list(one.Subject, []db.Difference{one})
			}
			return err
		})
	})
	if flushed := table.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "tenants: %d, differences: %d\n", checked, differences)
	if differences > 0 {
		return errSilent
	}
	return nil
}

// Run reconciles, and lists what is not the same on the output.
func (l ledgerReconcile) Run(ctx context.Context, c *Config, std streams) error {
	in, name := std.in, "the input"
	if l.File != "-" {
		file, err := os.Open(l.File)
		if err != nil {
			return fmt.Errorf("open the export: %w", err)
		}
		defer file.Close()
		in, name = file, filepath.Base(l.File)
	}
	var result jobs.Reconciliation
	err := asBookkeeper(ctx, c, func(d *db.DB) (err error) {
		result, err = jobs.Reconcile(db.As(ctx, db.Actor{Kind: db.ActorCommand, ID: "ledger reconcile"}), d, l.Provider, in, jobs.ReconcileOptions{DryRun: l.DryRun, All: l.All, Note: exportNote(name)})
		return err
	})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	if len(result.Calls) > 0 {
		fmt.Fprintln(table, "OUTCOME\tTENANT\tCALL\tSTATE\tBOOKED\tBILLED")
	}
	for _, r := range result.Calls {
		tenant := "-"
		if r.TenantID != uuid.Nil {
			tenant = tenants.FormatID(tenants.TenantPrefix, r.TenantID)
		}
		outcome := r.Outcome
		if l.DryRun && outcome == jobs.ReconcileAdjusted {
			outcome = "to adjust"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", outcome, tenant, tenants.FormatID(tenants.CallPrefix, r.CallID), r.State,
			booking(r.Booked, r.BookedPico), booking(r.Billed, r.BilledPico))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	fmt.Fprintf(std.out, "lines: %d, not ours: %d, the same: %d, not the same: %d\n", result.Lines, result.Foreign, result.Same, len(result.Calls))
	if !result.Agrees(l.DryRun) {
		return errSilent
	}
	return nil
}

// exportNameMax keeps the note of an entry within its bounds, in bytes.
const exportNameMax = 200

// exportNote says in the ledger where a correction comes from.
func exportNote(name string) string {
	return "reconciled with " + strings.ToValidUTF8(name[:min(len(name), exportNameMax)], "")
}

func booking(t db.Tokens, pico int64) string {
	return fmt.Sprintf("%d/%d/%d/%d/%d/%d tokens, %d pico", t.InputUncached, t.InputCacheRead, t.InputCacheWrite5m, t.InputCacheWrite1h, t.OutputVisible, t.OutputReasoning, pico)
}

// Run rebuilds the sums.
func (l ledgerRebuild) Run(ctx context.Context, c *Config, std streams) error {
	n := 0
	err := asBookkeeper(ctx, c, func(d *db.DB) (err error) {
		n, err = eachTenant(ctx, d, l.Tenant, func(t db.Tenant) error { return d.UsageRebuild(ctx, t.TenantID) })
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "tenants: %d\n", n)
	return err
}
