package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/tenants"
)

type benchIntake struct {
	Connections []int         `default:"1,16,64,256" help:"How many callers at once, one row for each."`
	During      time.Duration `default:"5s" help:"How long each figure is measured."`
	Rounds      int           `default:"1" help:"How often each row is measured; the median by acks per second is shown."`
	Flushers    int           `default:"2" help:"Commits of sluice's lane that may be on their way at once, as SLUICE_INTAKE_FLUSHERS."`
	Stored      int           `default:"0" help:"How many events are stored first, to compare with an empty table."`
}

// The floor: what any intake would have to write, and nothing more.
const (
	bareTableSQL = `create table public.bare_events (id uuid primary key, body bytea not null)`
	bareEventSQL = `insert into public.bare_events (id, body) values ($1, $2)`
	bareJobSQL   = `insert into river.river_job (kind, max_attempts, queue, args) values ('bare', 1, 'bare', $1)`
)

// The lanes of the bench.
const (
	laneBare   = "bare commits"       // two inserts and a commit, straight from the caller
	laneSingle = "a commit a request" // our own door, every delivery in a transaction of its own
	laneOurs   = "sluice"
)

// bareConnsMax bounds the connections of the bare lane: more than these only queue in Postgres.
const bareConnsMax = 128

// Run measures and prints.
func (b benchIntake) Run(ctx context.Context, std streams, lookup environment) error {
	h, err := newBenchHouse(ctx, lookup)
	if err != nil {
		return err
	}
	defer h.close()
	database, closeDB, err := h.open(ctx, db.AppRole, 2, "")
	if err != nil {
		return err
	}
	defer closeDB()
	none := func(string) map[string]any { return map[string]any{"kind": "none"} }
	if _, err := h.furnish(ctx, database, none, "shadow"); err != nil {
		return err
	}
	lanes, err := b.open(ctx, h)
	if err != nil {
		return err
	}
	defer lanes.close()
	h.machine(std.out, "intake")
	fmt.Fprintf(std.out, "one event of %d bytes, one run and one River job each; the two doors are `sluice serve` as a process of its own, over HTTP, signatures checked; %s a figure\n",
		benchBody, b.During)
	for _, measure := range []func(context.Context, *benchHouse, *intakeLanes, io.Writer) error{b.table, b.duplicates, b.security, b.filled} {
		if err := measure(ctx, h, lanes, std.out); err != nil {
			return fmt.Errorf("%w: %w", errBench, err)
		}
	}
	return nil
}

// intakeLanes are the three ways in.
type intakeLanes struct {
	bare         *pgxpool.Pool
	single, ours *benchDoor
	meter        *benchMeter
}

func (b benchIntake) open(ctx context.Context, h *benchHouse) (_ *intakeLanes, err error) {
	l := &intakeLanes{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.bare, err = pgxpool.New(ctx, h.url+"&pool_max_conns="+strconv.Itoa(bareConnsMax)); err != nil {
		return nil, fmt.Errorf("open the bare lane's pool: %w", err)
	}
	if _, err = l.bare.Exec(ctx, bareTableSQL); err != nil {
		return nil, fmt.Errorf("make the bare lane's table: %w", err)
	}
	// As many transactions at once as is usual for a pool: more make it slower on few cores.
	if l.single, err = h.serve(ctx, "SLUICE_INTAKE_BATCH=1", "SLUICE_INTAKE_FLUSHERS=16"); err != nil {
		return nil, err
	}
	if l.ours, err = h.serve(ctx, "SLUICE_INTAKE_FLUSHERS="+strconv.Itoa(b.Flushers)); err != nil {
		return nil, err
	}
	if l.meter, err = newBenchMeter(ctx, h); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *intakeLanes) close() {
	if l.bare != nil {
		l.bare.Close()
	}
	l.single.close()
	l.ours.close()
	l.meter.close()
}

// figure is what one lane did at one number of connections.
type figure struct {
	rate

	spent spent
}

// lane measures one lane, and what it cost.
func (b benchIntake) lane(ctx context.Context, l *intakeLanes, name string, n int) (figure, error) {
	var all []figure
	for range max(b.Rounds, 1) {
		door := map[string]*benchDoor{laneSingle: l.single, laneOurs: l.ours}[name]
		before, err := l.meter.read(ctx, door)
		if err != nil {
			return figure{}, err
		}
		var r rate
		if door == nil {
			r, err = hammer(ctx, min(n, bareConnsMax), b.During, func(ctx context.Context, _ int) error { return bareTransaction(ctx, l.bare) })
		} else {
			r, err = door.hammer(ctx, n, b.During, nil)
		}
		if err != nil {
			return figure{}, fmt.Errorf("%s at %d connections: %w", name, n, err)
		}
		after, err := l.meter.read(ctx, door)
		if err != nil {
			return figure{}, err
		}
		all = append(all, figure{rate: r, spent: after.since(before)})
	}
	return median(all), nil
}

// table is the three lanes at each number of connections.
func (b benchIntake) table(ctx context.Context, _ *benchHouse, l *intakeLanes, out io.Writer) error {
	fmt.Fprintf(out, "\n%5s  %-18s %8s %6s | %8s %8s %8s | %9s %8s | %9s %9s | %7s\n", "conns", "lane", "acks/s", "ratio", "p50", "p95", "p99",
		"WAL/event", "commits", "PG CPU", "door CPU", "RSS")
	for _, n := range b.Connections {
		var single figure
		for _, lane := range []string{laneBare, laneSingle, laneOurs} {
			f, err := b.lane(ctx, l, lane, n)
			if err != nil {
				return err
			}
			ratio := "-"
			if lane == laneSingle {
				single = f
			}
			if lane == laneOurs {
				ratio = fmt.Sprintf("%.2f", f.perSecond()/single.perSecond())
			}
			fmt.Fprintf(out, "%5d  %-18s %8.0f %6s | %8s %8s %8s | %s\n", n, lane, f.perSecond(), ratio,
				short(f.quantile(0.5)), short(f.quantile(0.95)), short(f.quantile(0.99)), f.spent.line(f.done))
		}
	}
	return nil
}

// duplicates floods one event that is stored already.
func (b benchIntake) duplicates(ctx context.Context, _ *benchHouse, l *intakeLanes, out io.Writer) error {
	const n = 64
	fresh, err := b.lane(ctx, l, laneOurs, n)
	if err != nil {
		return err
	}
	id := tenants.NewID().String()
	before, err := l.meter.read(ctx, l.ours)
	if err != nil {
		return err
	}
	r, err := l.ours.hammer(ctx, n, b.During, func() string { return id })
	if err != nil {
		return err
	}
	after, err := l.meter.read(ctx, l.ours)
	if err != nil {
		return err
	}
	again := figure{rate: r, spent: after.since(before)}
	fmt.Fprintf(out, "\nduplicates, %d connections\n%-26s %8.0f/s p99 %8s | %s\n%-26s %8.0f/s p99 %8s | %s  ratio %.2f\n", n,
		"originals", fresh.perSecond(), short(fresh.quantile(0.99)), fresh.spent.line(fresh.done),
		"one event again and again", again.perSecond(), short(again.quantile(0.99)), again.spent.line(again.done), again.perSecond()/fresh.perSecond())
	return nil
}

// The tables that a delivery writes.
var intakeTables = []string{"sluice.event_keys", "sluice.events", "sluice.event_payloads", "sluice.runs"}

// security compares with row security switched off on every table that a delivery writes.
func (b benchIntake) security(ctx context.Context, h *benchHouse, l *intakeLanes, out io.Writer) error {
	const n = 64
	var with, without []figure
	// In turns, so that what else the machine does meets both.
	for range 3 {
		f, err := b.lane(ctx, l, laneOurs, n)
		if err != nil {
			return err
		}
		with = append(with, f)
		if err := h.secure(ctx, l.bare, false); err != nil {
			return err
		}
		if f, err = b.lane(ctx, l, laneOurs, n); err != nil {
			return err
		}
		without = append(without, f)
		if err := h.secure(ctx, l.bare, true); err != nil {
			return err
		}
	}
	on, off := median(with), median(without)
	fmt.Fprintf(out, "\nrow security, %d connections, median of %d in turns: on %.0f/s, off %.0f/s, ratio %.2f; PG CPU %s on, %s off\n", n, len(with),
		on.perSecond(), off.perSecond(), on.perSecond()/off.perSecond(), on.spent.perEvent(on.spent.postgres, on.done), off.spent.perEvent(off.spent.postgres, off.done))
	return nil
}

func (h *benchHouse) secure(ctx context.Context, pool *pgxpool.Pool, on bool) error {
	verb := "disable"
	if on {
		verb = "enable"
	}
	for _, table := range intakeTables {
		if _, err := pool.Exec(ctx, "alter table "+table+" "+verb+" row level security"); err != nil {
			return fmt.Errorf("%s row security of %s: %w", verb, table, err)
		}
	}
	return nil
}

// filled stores many events, and measures again.
func (b benchIntake) filled(ctx context.Context, h *benchHouse, l *intakeLanes, out io.Writer) error {
	if b.Stored == 0 {
		return nil
	}
	const n = 64
	b.Rounds = max(b.Rounds, 3) //nolint:mnd // one figure of one moment says little
	before, err := b.lane(ctx, l, laneOurs, n)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := h.fill(ctx, l.bare, b.Stored); err != nil {
		return err
	}
	took := time.Since(begun)
	after, err := b.lane(ctx, l, laneOurs, n)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d events stored first (in %s; keys, events and ended runs, their bodies dropped), %d connections\n", b.Stored, took.Round(time.Second), n)
	for _, f := range []struct {
		name string
		figure
	}{{"into an empty table", before}, {"into the full one", after}} {
		fmt.Fprintf(out, "%-26s %8.0f/s p99 %8s | %s  ratio %.2f\n", f.name, f.perSecond(), short(f.quantile(0.99)), f.spent.line(f.done), f.perSecond()/before.perSecond())
	}
	return nil
}

// fillSQL stores events of the past with ids of their time, as a long history would: ids of the source are random, as real ones are.
const fillSQL = `
with made as materialized (
    select g, (lpad(to_hex((extract(epoch from now() - interval '300 days') * 1000 + g)::bigint), 12, '0') || '7' || substr(md5(g::text), 1, 3) || '8' || substr(md5(g::text), 4, 15))::uuid as id,
           md5('event' || g) as key
    from generate_series($3::bigint, $4::bigint) g),
keys as (insert into sluice.event_keys (tenant_id, endpoint_id, kind, key, event_id) select $1, $2, 'id', key, id from made),
events as (insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, entity, body_bytes, body_sha256, received_at)
    select $1, id, $2, 'standard', key, 'contact.created', 'contact:' || (g % 100000), 2048, '\x00', now() - interval '300 days' from made)
insert into sluice.runs (id, tenant_id, event_id, endpoint_id, automation_id, automation_version, mode, priority, status, finished_at)
select made.id, $1, made.id, $2, a.id, 1, 'shadow', 'routine', 'done', now() from made, (select id from sluice.automations limit 1) a`

func (h *benchHouse) fill(ctx context.Context, pool *pgxpool.Pool, n int) error {
	const batch = 100_000
	for from := 1; from <= n; from += batch {
		if _, err := pool.Exec(ctx, fillSQL, h.tenant, h.endpoint, from, min(from+batch-1, n)); err != nil {
			return fmt.Errorf("store events %d and on: %w", from, err)
		}
	}
	// What autovacuum would do within the next minutes, so that it does not do it while the figure is taken.
	if _, err := pool.Exec(ctx, "vacuum (analyze) sluice.event_keys, sluice.events, sluice.runs"); err != nil {
		return fmt.Errorf("vacuum what was stored: %w", err)
	}
	if _, err := pool.Exec(ctx, "checkpoint"); err != nil {
		return fmt.Errorf("write out what was stored: %w", err)
	}
	// The kernel goes on writing for a while.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(fillSettle):
		return nil
	}
}

// fillSettle is how long the disk is left alone after a table was filled.
const fillSettle = time.Minute

func short(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func bareTransaction(ctx context.Context, pool *pgxpool.Pool) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	id := tenants.NewID()
	if _, err := tx.Exec(ctx, bareEventSQL, id, payload(id.String())); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, bareJobSQL, `{"id":"`+id.String()+`"}`); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
