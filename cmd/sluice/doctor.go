package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/jobs/llm"
	"sluice/migrations"
	"sluice/proof"
	"sluice/tenants"
)

// doctorCommand holds a database against the promises that are made of it (docs/doctor.md). It writes nothing.
type doctorCommand struct {
	Deep    bool          `name:"deep" help:"Read whole tables, too: every event, run and ledger entry, every secret if SLUICE_MASTER_KEY is given, every chain of the audit."`
	JSON    bool          `name:"json" help:"Write JSON, for machines."`
	Wait    time.Duration `name:"wait" default:"0s" help:"Look again and again until nothing is found, or for so long: for what is merely under way."`
	Grace   time.Duration `name:"grace" default:"2m" help:"How long what is under way may stand still before it counts as stuck."`
	Recent  time.Duration `name:"recent" default:"1h" help:"How far back events and runs are looked at that have ended; with --deep, to the first."`
	Show    int           `name:"show" default:"10" help:"How many places of each finding are named."`
	Check   []string      `name:"check" placeholder:"ID" help:"Look at this check alone; may be given more than once."`
	Verbose bool          `name:"verbose" help:"Say how long each check took."`
}

const (
	// doctorPause is between two looks of --wait.
	doctorPause = 2 * time.Second
	// doctorConns: one holds the moment of the look, the other reads what belongs to one tenant at that moment.
	doctorConns = 2
)

// Run looks, and tells. Exit code 0 is that nothing asks for anybody, 1 that something does, 2 that it could not look.
func (d doctorCommand) Run(ctx context.Context, c *Config, std streams) error {
	if err := d.fault(); err != nil {
		return err
	}
	system, err := db.Open(ctx, db.PoolConfig{URL: c.DatabaseURL.Reveal(), Role: db.SystemRole, ConnsMax: doctorConns})
	if err != nil {
		return blind(err)
	}
	defer system.Close()
	app, err := db.Open(ctx, db.PoolConfig{URL: c.DatabaseURL.Reveal(), Role: db.AppRole, ConnsMax: doctorConns})
	if err != nil {
		return blind(err)
	}
	defer app.Close()
	var sealer *db.Sealer
	if key := c.MasterKey.bytes(); len(key) > 0 {
		if sealer, err = db.NewSealer(key, c.MasterKeysOld.bytes()...); err != nil {
			return blind(err)
		}
	}
	database := db.New(db.Pools{App: app, System: system}, sealer)
	until := time.Now().Add(d.Wait)
	for {
		report, err := d.look(ctx, database, system)
		if err == nil && !report.Sick() && len(report.Blind) == 0 || !time.Now().Add(doctorPause).Before(until) {
			if err != nil {
				return blind(err)
			}
			return d.tell(std.out, report)
		}
		select {
		case <-time.After(doctorPause):
		case <-ctx.Done():
			return blind(ctx.Err())
		}
	}
}

// blind is a look that came to nothing: it ends the process with another code than a look that found something.
func blind(err error) error { return usage("could not look: %w", explainConnect(err)) }

// fault is what is wrong with the command line.
func (d doctorCommand) fault() error {
	switch {
	case d.Show < 1, d.Grace < time.Second, d.Recent < 0, d.Wait < 0:
		return usage("expected --show of 1 or more, --grace of 1s or more, and no time below 0")
	}
	known := map[string]bool{}
	for _, c := range db.Checks() {
		known[c.ID] = true
	}
	for _, id := range d.Check {
		if !known[id] {
			return usage("--check: there is no check %s; docs/doctor.md lists them", id)
		}
	}
	return nil
}

func (d doctorCommand) look(ctx context.Context, database *db.DB, system *pgxpool.Pool) (db.Report, error) {
	status, err := migrations.Read(ctx, system)
	if err != nil {
		return db.Report{}, err
	}
	if status.Version == 0 {
		return db.Report{}, errors.New("there is no schema of Sluice in this database: run `sluice migrate up`")
	}
	return database.Examine(ctx, db.Examine{
		Deep: d.Deep, Grace: d.Grace, Recent: d.Recent, Shown: d.Show, Only: d.Check, PriceNames: llm.PriceNames, Now: proof.Now,
		Schema: db.SchemaState{Version: status.Version, Wanted: status.Wanted, Dirty: status.Dirty, RiverReady: status.RiverReady},
	})
}

// tell writes the report, and turns it into an exit code.
func (d doctorCommand) tell(out io.Writer, r db.Report) error {
	write := d.write
	if d.JSON {
		write = d.writeJSON
	}
	if err := write(out, r); err != nil {
		return blind(fmt.Errorf("write the report: %w", err))
	}
	switch {
	case r.Sick():
		return errSilent
	case len(r.Blind) > 0:
		return usageError{errSilent}
	}
	return nil
}

// doctorReport is the report as JSON. Names stay; new ones may come.
type doctorReport struct {
	At       time.Time       `json:"at"`
	Deep     bool            `json:"deep"`
	Clean    bool            `json:"clean"`
	Findings []doctorFinding `json:"findings"`
	Blind    []doctorBlind   `json:"could_not_look"`
	Checks   []doctorCheck   `json:"checks"`
}

type doctorFinding struct {
	Check    string       `json:"check"`
	Severity string       `json:"severity"`
	Guards   string       `json:"guards"`
	What     string       `json:"what"`
	Count    int          `json:"count"`
	More     bool         `json:"more"`
	Since    *time.Time   `json:"since,omitempty"`
	Places   []doctorItem `json:"places"`
	Advice   string       `json:"advice"`
}

type doctorItem struct {
	Tenant string     `json:"tenant_id,omitempty"`
	ID     string     `json:"id,omitempty"`
	What   string     `json:"what"`
	Since  *time.Time `json:"since,omitempty"`
}

type doctorBlind struct {
	Check string `json:"check"`
	Error string `json:"error"`
}

type doctorCheck struct {
	Check string  `json:"check"`
	Took  float64 `json:"seconds"`
}

func (d doctorCommand) writeJSON(out io.Writer, r db.Report) error {
	told := doctorReport{
		At: r.At, Deep: d.Deep, Clean: !r.Sick() && len(r.Blind) == 0, Findings: []doctorFinding{}, Blind: []doctorBlind{}, Checks: []doctorCheck{},
	}
	for _, f := range r.Findings {
		one := doctorFinding{
			Check: f.ID, Severity: string(f.Severity), Guards: f.Guards, What: f.Says, Count: f.Count, More: f.More, Since: f.Since, Advice: strings.TrimSpace(f.Advice),
		}
		for _, i := range f.Items {
			one.Places = append(one.Places, doctorItem{Tenant: shown(tenants.TenantPrefix, i.TenantID), ID: shown(f.Kind, i.ID), What: i.What, Since: i.Since})
		}
		told.Findings = append(told.Findings, one)
	}
	for _, b := range r.Blind {
		told.Blind = append(told.Blind, doctorBlind{b.ID, b.Err.Error()})
	}
	for _, t := range r.Took {
		told.Checks = append(told.Checks, doctorCheck{t.ID, t.Time.Seconds()})
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(told)
}

// shown is an id as the API has it, "" for none.
func shown(prefix string, id *uuid.UUID) string {
	if id == nil {
		return ""
	}
	if prefix == "" {
		return id.String()
	}
	return tenants.FormatID(prefix, *id)
}

// write tells people.
func (d doctorCommand) write(out io.Writer, r db.Report) error {
	counts := map[db.Severity]int{}
	for _, f := range r.Findings {
		counts[f.Severity]++
		atLeast, since := "", ""
		if f.More {
			atLeast = "at least "
		}
		if f.Since != nil {
			since = ", since " + f.Since.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(out, "%s  %s (%s)  %s: %s%d%s\n", strings.ToUpper(string(f.Severity)), f.ID, f.Guards, f.Says, atLeast, f.Count, since)
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, i := range f.Items {
			at := ""
			if i.Since != nil {
				at = i.Since.UTC().Format(time.RFC3339)
			}
			id, tenant := shown(f.Kind, i.ID), shown(tenants.TenantPrefix, i.TenantID)
			if id == tenant {
				id = ""
			}
			columns := slices.DeleteFunc([]string{tenant, id, at, i.What}, func(column string) bool { return column == "" })
			fmt.Fprintf(table, "    %s\n", strings.Join(columns, "\t"))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if n := f.Count - len(f.Items); n > 0 {
			fmt.Fprintf(out, "    and %s%d more\n", atLeast, n)
		}
		fmt.Fprintf(out, "    -> %s\n\n", strings.TrimSpace(f.Advice))
	}
	for _, b := range r.Blind {
		fmt.Fprintf(out, "COULD NOT LOOK  %s: %s\n", b.ID, strings.ReplaceAll(b.Err.Error(), "\n", " "))
	}
	if d.Verbose {
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, t := range r.Took {
			fmt.Fprintf(table, "%.1f ms\t  %s\n", t.Time.Seconds()*1000, t.ID) //nolint:mnd // milliseconds
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "%s: %d checks, broken: %d, needs a hand: %d, notices: %d, could not look: %d\n", r.At.UTC().Format(time.RFC3339), len(r.Took),
		counts[db.SeverityBroken], counts[db.SeverityHand], counts[db.SeverityNotice], len(r.Blind))
	return err
}
