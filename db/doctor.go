package db

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The doctor holds a database against the promises that are made of it. It writes nothing, locks nothing that anybody waits for, and names ids,
// times, counts and reasons, never content. All that it compares it sees at one moment: what is under way is whole in it.

// Severity is what a finding asks of whoever reads it.
type Severity string

// The severities, the worst first.
const (
	SeverityBroken Severity = "broken" // a promise does not hold
	SeverityHand   Severity = "hand"   // it does not go on by itself
	SeverityNotice Severity = "notice" // good to know; nothing is wrong with it
)

// Check is one thing that the doctor looks at. The list of them all is Checks.
type Check struct {
	ID string
	// Guards is the promise that it is about: I1 to I12 (docs/promises.md), or in words.
	Guards   string
	Severity Severity
	// Says is what is so where it finds something, Advice what to do then.
	Says, Advice string
	// Kind is the prefix of the ids that it names; "" where it names things in words.
	Kind string
	// Deep checks read whole tables.
	Deep bool

	sql string
	// asLogin asks as the login itself: only that may see what its other sessions do.
	asLogin bool
	// look stands in for sql where SQL alone cannot tell.
	look func(ctx context.Context, x *examination) (seen, error)
}

// Item is one place where a check found something.
type Item struct {
	TenantID *uuid.UUID
	ID       *uuid.UUID
	What     string
	Since    *time.Time
}

// Finding is what a check found.
type Finding struct {
	Check

	// Count is how many there are, at least that many where More is set.
	Count int
	More  bool
	// Since is the time of the oldest that was counted, nil where there is none.
	Since *time.Time
	// Items are the first of them.
	Items []Item
}

// Report is what the doctor saw.
type Report struct {
	// At is the database's time of the snapshot.
	At       time.Time
	Findings []Finding
	// Blind are the checks that could not look, with why.
	Blind []Blind
	// Took is how long each check took, in the order of the list.
	Took []Took
}

// Blind is a check that could not look.
type Blind struct {
	ID  string
	Err error
}

// Took is how long a check took.
type Took struct {
	ID   string
	Time time.Duration
}

// Sick says whether anything was found that asks for somebody.
func (r Report) Sick() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity != SeverityNotice })
}

// Examine says what to look at, and how.
type Examine struct {
	// Deep looks at whole tables, too.
	Deep bool
	// Recent is how far back rows are looked at that have ended; 0 is an hour. A deep look goes back to the first.
	Recent time.Duration
	// Grace is how long what is under way may stand still before it counts as stuck; 0 is two minutes.
	Grace time.Duration
	// Shown is how many places of each finding are named; 0 is 10.
	Shown int
	// Only, if not empty, are the checks to look at.
	Only []string
	// PriceNames are the names under which a model's price is looked for.
	PriceNames func(model string) []string
	// Now is this machine's clock; it must be given.
	Now func() time.Time
	// Schema is how far the database is; the zero value is as far as this binary.
	Schema SchemaState
}

// SchemaState is how far a database is, beside how far this binary would bring it.
type SchemaState struct {
	Version, Wanted int
	Dirty           bool
	RiverReady      bool
}

// behind says that what the checks ask for may not be there yet.
func (s SchemaState) behind() bool {
	return s != SchemaState{} && (s.Version < s.Wanted || s.Dirty || !s.RiverReady)
}

// newer says that the database may have what this binary does not know.
func (s SchemaState) newer() bool { return s.Version > s.Wanted }

const (
	doctorRecent = time.Hour
	doctorGrace  = 2 * time.Minute
	doctorShown  = 10
	// doctorCounted bounds what is counted of one finding: beyond it, it is told as "at least".
	doctorCounted = 10_000
	// doctorScanned bounds how many open rows a look that is not deep goes through, the oldest first.
	doctorScanned = 50_000
)

// The bounds of one statement: a look must not hold up a database that is in trouble already.
const (
	doctorTimeout     = "20s"
	doctorTimeoutDeep = "15min"
	doctorLockTimeout = "1s"
)

// examination is one look: a transaction that sees one moment and writes nothing.
type examination struct {
	Examine

	db   *DB
	tx   pgx.Tx
	args pgx.NamedArgs
	// snapshot names the moment, so that others can see the same.
	snapshot string
}

// seen is what a check saw.
type seen struct {
	count int
	items []Item
	since *time.Time
}

// doctorBoundsSQL sets the path, too, since names of functions and indexes are written as it has them.
const doctorBoundsSQL = `
select set_config('statement_timeout', @timeout::text, true), set_config('lock_timeout', @lock::text, true), set_config('jit', 'off', true),
    set_config('search_path', 'pg_catalog', true)`

// doctorSnapshotSQL makes ids of the time from which rows are looked at.
const doctorSnapshotSQL = `
select pg_export_snapshot() as snapshot, now() as at,
    case when @deep::boolean then '00000000-0000-0000-0000-000000000000'::uuid else sluice.uuid_from(now() - @recent::interval) end as from_id`

type doctorSnapshot struct {
	Snapshot string
	At       time.Time
	FromID   uuid.UUID
}

// Examine looks at everything that is asked for, at one moment. An error says that it could not look at all; a check that alone could not is told in
// the report.
func (d *DB) Examine(ctx context.Context, e Examine) (Report, error) {
	tx, err := d.system.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return Report{}, unavailable(fmt.Errorf("begin: %w", err))
	}
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_ = tx.Rollback(cleanup)
	}()
	return d.examine(ctx, tx, e)
}

func (d *DB) examine(ctx context.Context, tx pgx.Tx, e Examine) (Report, error) {
	e.Recent, e.Grace, e.Shown = cmp.Or(e.Recent, doctorRecent), cmp.Or(e.Grace, doctorGrace), cmp.Or(e.Shown, doctorShown)
	timeout, scanned := doctorTimeout, new(int64(doctorScanned))
	if e.Deep {
		timeout, scanned = doctorTimeoutDeep, nil
	}
	if _, err := tx.Exec(ctx, doctorBoundsSQL, pgx.NamedArgs{"timeout": timeout, "lock": doctorLockTimeout}); err != nil {
		return Report{}, fmt.Errorf("bound the look: %w", translate(err))
	}
	at, err := one[doctorSnapshot](ctx, tx, doctorSnapshotSQL, args{"deep": e.Deep, "recent": e.Recent})
	if err != nil {
		return Report{}, fmt.Errorf("take a snapshot: %w", err)
	}
	x := &examination{Examine: e, db: d, tx: tx, snapshot: at.Snapshot, args: pgx.NamedArgs{
		"from": at.FromID, "grace": e.Grace, "scanned": scanned, "counted": doctorCounted + 1, "shown": e.Shown,
	}}
	report := Report{At: at.At}
	for _, c := range Checks() {
		if !e.wants(c) {
			continue
		}
		began := e.Now()
		saw, err := x.check(ctx, c)
		report.Took = append(report.Took, Took{c.ID, e.Now().Sub(began)})
		switch {
		case ctx.Err() != nil:
			return report, ctx.Err()
		case err != nil && gone(err):
			return report, fmt.Errorf("look at %s: %w", c.ID, translate(err))
		case err != nil:
			report.Blind = append(report.Blind, Blind{c.ID, err})
		case saw.count > 0:
			report.Findings = append(report.Findings, Finding{
				Check: c, Count: min(saw.count, doctorCounted), More: saw.count > doctorCounted, Since: saw.since, Items: saw.items,
			})
		}
	}
	slices.SortStableFunc(report.Findings, func(a, b Finding) int { return cmp.Compare(weight[a.Severity], weight[b.Severity]) })
	return report, nil
}

// wants says whether a check is to be looked at.
func (e Examine) wants(c Check) bool {
	switch {
	case e.Schema.behind():
		return c.ID == checkVersion // the others may ask for what is not there
	case e.Schema.newer() && c.ID == checkObjects:
		return false
	}
	return (e.Deep || !c.Deep) && (len(e.Only) == 0 || slices.Contains(e.Only, c.ID))
}

// weight sorts findings, the worst first.
var weight = map[Severity]int{SeverityBroken: 0, SeverityHand: 1, SeverityNotice: 2}

// gone says that the connection is no longer there, and nothing else can be asked.
func gone(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return !answered && connectionLost(err)
}

// check looks at one thing. A savepoint keeps a statement that fails, or takes too long, from ending the look at all others.
func (x *examination) check(ctx context.Context, c Check) (saw seen, err error) {
	point, err := x.tx.Begin(ctx)
	if err != nil {
		return seen{}, err
	}
	// It takes a change of role back, too.
	defer func() {
		if undone := point.Rollback(ctx); err == nil && undone != nil && !errors.Is(undone, pgx.ErrTxClosed) {
			err = undone
		}
	}()
	if c.asLogin {
		if _, err := point.Exec(ctx, "set local role none"); err != nil {
			return seen{}, err
		}
	}
	if c.look != nil {
		inner := *x
		inner.tx = point
		return c.look(ctx, &inner)
	}
	return x.ask(ctx, point, c.sql)
}

// doctorRow is a row of what a check found, with the count of all.
type doctorRow struct {
	TenantID *uuid.UUID
	ID       *uuid.UUID
	What     string
	Since    *time.Time
	Total    int
	Oldest   *time.Time
}

// ask runs the statement of a check, which lists tenant_id, id, what and since of all that is wrong, counts it, and keeps the oldest.
func (x *examination) ask(ctx context.Context, tx pgx.Tx, sql string) (seen, error) {
	rows, err := tx.Query(ctx, `
with found as materialized (select f.tenant_id, f.id, f.what, f.since from (`+sql+`) f limit @counted)
select tenant_id, id, what, since, (select count(*) from found)::int as total, (select min(since) from found) as oldest
from found order by since, tenant_id, id, what limit @shown`, x.args)
	if err != nil {
		return seen{}, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[doctorRow])
	if err != nil {
		return seen{}, err
	}
	var saw seen
	for _, r := range all {
		saw.count, saw.since = r.Total, r.Oldest
		saw.items = append(saw.items, Item{TenantID: r.TenantID, ID: r.ID, What: r.What, Since: r.Since})
	}
	return saw, nil
}

// sawOf makes what a check saw of a list, of which it keeps as much as is shown.
func (x *examination) sawOf(items []Item) seen {
	saw := seen{count: len(items), items: items[:min(len(items), x.Shown)]}
	for _, i := range items {
		if i.Since != nil && (saw.since == nil || i.Since.Before(*saw.since)) {
			saw.since = i.Since
		}
	}
	return saw
}
