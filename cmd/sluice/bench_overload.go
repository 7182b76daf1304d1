package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/scripted"
)

type benchOverload struct {
	Seconds     int `default:"60" help:"How long ten times the load is offered."`
	Times       int `default:"10" help:"How many times what the door can do is offered."`
	Connections int `default:"3000" help:"How many connections the senders may have at once."`
	Batch       int `default:"2" help:"Deliveries of one commit, as SLUICE_INTAKE_BATCH: few narrow the door, so that senders on the same CPUs can really offer ten times what it does."`
	Flushers    int `default:"1" help:"Commits at once, as SLUICE_INTAKE_FLUSHERS."`
}

const (
	overloadCalm     = 10 * time.Second // how long each figure beside the overload is measured
	overloadSettle   = 10 * time.Second // after which latency is as it was
	overloadCallers  = 16               // of the closed loop
	overloadQuiet    = 4                // the part of capacity that is offered before and after: one fourth
	overloadReturn   = 2                // how many times the latency of before counts as normal
	overloadFloor    = 20 * time.Millisecond
	overloadAckMost  = 2 * time.Second // an ack or a refusal later than this is drowning, whatever its status
	overloadResident = 1 << 30
	overloadSlow     = 5 * time.Second // how long commits stand still in the middle of it
)

// overloadHoldSQL stops every commit of the intake without harming one.
const overloadHoldSQL = `lock table sluice.event_keys in share row exclusive mode`

// Run measures, prints, and fails where a bar is missed.
func (b benchOverload) Run(ctx context.Context, std streams, lookup environment) error {
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
	if _, err := h.furnish(ctx, database, none, "live"); err != nil {
		return err
	}
	door, err := h.serve(ctx, "SLUICE_INTAKE_BATCH="+strconv.Itoa(b.Batch), "SLUICE_INTAKE_FLUSHERS="+strconv.Itoa(b.Flushers))
	if err != nil {
		return err
	}
	defer door.close()
	owner, err := pgxpool.New(ctx, h.url+"&pool_max_conns=2")
	if err != nil {
		return fmt.Errorf("open the judge's pool: %w", err)
	}
	defer owner.Close()
	h.machine(std.out, "overload")
	fmt.Fprintf(std.out, "SLUICE_INTAKE_BATCH=%d, SLUICE_INTAKE_FLUSHERS=%d\n", b.Batch, b.Flushers)
	o := &overload{benchOverload: b, door: door, owner: owner, out: std.out, journal: &overloadJournal{answers: map[string]overloadAnswer{}}}
	if err := o.run(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	if err := o.drain(ctx, h); err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	if len(o.missed) > 0 {
		return fmt.Errorf("%w: %s", errBench, strings.Join(o.missed, "; "))
	}
	fmt.Fprintln(std.out, "every bar is held")
	return nil
}

// overload is one measurement under way.
type overload struct {
	benchOverload

	door    *benchDoor
	owner   *pgxpool.Pool
	out     io.Writer
	journal *overloadJournal
	missed  []string
}

// bar notes a bar that was missed.
func (o *overload) bar(held bool, format string, args ...any) {
	if !held {
		o.missed = append(o.missed, fmt.Sprintf(format, args...))
	}
}

// run finds out what the door can do, offers a part of it, then many times as much, then the part again.
func (o *overload) run(ctx context.Context) error {
	can, err := o.door.hammer(ctx, overloadCallers, overloadCalm, nil)
	if err != nil {
		return err
	}
	capacity := can.perSecond()
	fmt.Fprintf(o.out, "closed loop, %d connections: %.0f acks/s, p50 %s, p99 %s\n\n", overloadCallers, capacity, short(can.quantile(0.5)), short(can.quantile(0.99)))
	fmt.Fprintf(o.out, "%-22s %9s %9s %8s %8s %8s %8s %8s | %9s %9s | %9s %9s | %7s\n", "phase", "wanted/s", "offered/s", "acked", "503", "429", "other", "silent",
		"ack p50", "ack p99", "no p99", "longest", "RSS")
	before, err := o.phase(ctx, "before", capacity/overloadQuiet, overloadCalm)
	if err != nil {
		return err
	}
	during := time.Duration(o.Seconds) * time.Second
	flooded, err := o.phase(ctx, "ten times", capacity*float64(o.Times), during)
	if err != nil {
		return err
	}
	if err := o.stalled(ctx, capacity); err != nil {
		return err
	}
	settling, err := o.phase(ctx, "settling", capacity/overloadQuiet, overloadSettle)
	if err != nil {
		return err
	}
	after, err := o.phase(ctx, "after", capacity/overloadQuiet, overloadCalm)
	if err != nil {
		return err
	}
	for _, f := range []*overloadFigure{before, flooded, settling, after} {
		o.bar(f.other == 0, "%s: %d answers that are neither an ack nor a 503 or 429 with Retry-After", f.name, f.other)
		o.bar(f.longest <= overloadAckMost, "%s: an answer took %s", f.name, shortly(f.longest))
	}
	o.bar(flooded.acked > 0, "nothing was acked under load")
	o.bar(flooded.silent == 0, "%d deliveries of the flood were not answered", flooded.silent)
	normal := max(before.acks.quantile(0.99)*overloadReturn, overloadFloor)
	o.bar(after.acks.quantile(0.99) <= normal, "p99 after is %s, and was %s before", short(after.acks.quantile(0.99)), short(before.acks.quantile(0.99)))
	o.bar(after.acked == after.offered, "after the flood %d of %d were not acked", after.offered-after.acked, after.offered)
	o.bar(after.resident <= overloadResident, "%d MB were resident", after.resident>>20) //nolint:mnd // bytes to MB
	goodput := float64(flooded.acked) / during.Seconds()
	fmt.Fprintf(o.out, "\nacks under the flood: %.0f/s, %.2f of what the closed loop had; the senders share the %d CPUs\n", goodput, goodput/capacity, runtime.NumCPU())
	return nil
}

// stalled offers what the door can do while the database commits nothing for a while.
func (o *overload) stalled(ctx context.Context, capacity float64) error {
	var group sync.WaitGroup
	var held error
	group.Go(func() {
		held = func() error {
			tx, err := o.owner.Begin(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback(ctx) }()
			if _, err := tx.Exec(ctx, overloadHoldSQL); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
			case <-time.After(overloadSlow):
			}
			return nil
		}()
	})
	f, err := o.phase(ctx, "commits stand still", capacity, 2*overloadSlow) //nolint:mnd // and as long again without
	group.Wait()
	if err = errors.Join(err, held); err != nil {
		return err
	}
	o.bar(f.other == 0 && f.silent == 0, "while commits stood still %d answers were of another kind and %d did not come", f.other, f.silent)
	o.bar(f.longest <= overloadAckMost, "while commits stood still an answer took %s", shortly(f.longest))
	return nil
}

// phase offers so many a second, whether they are answered or not, and prints what became of them.
func (o *overload) phase(ctx context.Context, name string, perSecond float64, during time.Duration) (*overloadFigure, error) {
	f := &overloadFigure{name: name}
	senders := newOverloadSenders(o.door, o.Connections, o.journal, f)
	senders.offer(ctx, perSecond, during)
	senders.close()
	f.resident = residentHighest(o.door.command.Process.Pid)
	f.sort()
	fmt.Fprintf(o.out, "%-22s %9.0f %9.0f %8d %8d %8d %8d %8d | %9s %9s | %9s %9s | %4d MB\n", name, perSecond, float64(f.offered)/during.Seconds(),
		f.acked, f.busy, f.paced, f.other, f.silent, short(f.acks.quantile(0.5)), short(f.acks.quantile(0.99)), short(f.refusals.quantile(0.99)), shortly(f.longest),
		f.resident>>20) //nolint:mnd // bytes to MB
	if f.unoffered > 0 {
		fmt.Fprintf(o.out, "%-22s %d more were due while all %d connections of the senders waited: they were not offered\n", "", f.unoffered, o.Connections)
	}
	if f.firstOther != "" {
		fmt.Fprintf(o.out, "%-22s the first of another kind: %s\n", "", f.firstOther)
	}
	return f, ctx.Err()
}

// drain lets workers end what was acked, and holds the senders' journal against the tables.
func (o *overload) drain(ctx context.Context, h *benchHouse) error {
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now, JournalKeep: 1})
	if err != nil {
		return err
	}
	defer func() { _ = provider.Close() }()
	begun := time.Now()
	stop, err := h.work(ctx, 1, provider.URL(), "SLUICE_RUN_WORKERS="+strconv.Itoa(overloadCallers))
	if err != nil {
		return err
	}
	defer stop()
	if err := untilNone(ctx, o.owner, `select count(*) from (select from sluice.runs where finished_at is null limit 1) open`); err != nil {
		return err
	}
	acked, unknown, refused := o.journal.sets()
	var lost, unended, kept, refusedKept int
	err = o.owner.QueryRow(ctx, `
		select count(*) filter (where e.id is null), count(*) filter (where e.id is not null and r.finished_at is null)
		from unnest($1::text[]) sent(id) left join sluice.events e on e.source_event_id = sent.id left join sluice.runs r on r.event_id = e.id`, acked).Scan(&lost, &unended)
	if err != nil {
		return fmt.Errorf("look for what was acked: %w", err)
	}
	for _, c := range []struct {
		ids  []string
		into *int
	}{{unknown, &kept}, {refused, &refusedKept}} {
		if err := o.owner.QueryRow(ctx, `select count(*) from sluice.events where source_event_id = any($1)`, c.ids).Scan(c.into); err != nil {
			return fmt.Errorf("look for what was not acked: %w", err)
		}
	}
	fmt.Fprintf(o.out, "drained in %s by one worker: %d acked, of which %d have no event and %d no end; %d refused, of which %d are stored all the same (a 503 says only \"send again\"); %d not answered, of which %d are stored\n",
		time.Since(begun).Round(time.Second), len(acked), lost, unended, len(refused), refusedKept, len(unknown), kept)
	o.bar(lost == 0, "%d acked events are lost", lost)
	o.bar(unended == 0, "%d acked events have not ended", unended)
	return nil
}
