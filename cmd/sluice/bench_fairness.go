package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/scripted"
)

type benchFairness struct {
	Flood     int           `default:"50000" help:"Events of the tenant that floods."`
	Quiet     int           `default:"10" help:"Quiet tenants."`
	PerSecond float64       `default:"5" help:"Events a second of each of them."`
	Alone     time.Duration `default:"20s" help:"How long they are measured without a flood."`
	Processes []int         `default:"1,4" help:"Worker processes."`
	Workers   int           `default:"0" help:"Workers of each process; 0 is its default."`
}

// Run measures and prints.
func (b benchFairness) Run(ctx context.Context, std streams, lookup environment) error {
	h, err := newBenchHouse(ctx, lookup)
	if err != nil {
		return err
	}
	defer h.close()
	h.machine(std.out, "fairness")
	fmt.Fprintf(std.out, "%d quiet tenants send %.0f events a second each; wait is from the event's commit to the beginning of its run\n\n", b.Quiet, b.PerSecond)
	fmt.Fprintf(std.out, "%-9s %-28s | %8s %9s %9s %9s | %9s %9s | %s\n", "processes", "", "events", "p50", "p99", "most", "flood", "runs/s", "snoozes")
	for _, processes := range b.Processes {
		var alone, plain, fair fairnessFigure
		for _, lane := range []struct {
			name  string
			into  *fairnessFigure
			flood int
			fifo  bool
		}{
			{"no flood", &alone, 0, false},
			{"first come, first served", &plain, b.Flood, true},
			{"sluice", &fair, b.Flood, false},
		} {
			if *lane.into, err = b.lane(ctx, h, processes, lane.flood, lane.fifo); err != nil {
				return fmt.Errorf("%w: %s with %d processes: %w", errBench, lane.name, processes, err)
			}
			f := *lane.into
			fmt.Fprintf(std.out, "%-9d %-28s | %8d %9s %9s %9s | %9s %9.0f | %d\n", processes, lane.name, len(f.waits), shortly(f.quantile(0.5)),
				shortly(f.quantile(0.99)), shortly(f.quantile(1)), shortly(f.elapsed), f.perSecond(), f.snoozes)
		}
		fmt.Fprintf(std.out, "%-9d p99 beside no flood %.2f (first come %.0f); throughput beside first come %.2f\n\n", processes,
			fair.quantile(0.99).Seconds()/alone.quantile(0.99).Seconds(), plain.quantile(0.99).Seconds()/alone.quantile(0.99).Seconds(),
			fair.perSecond()/plain.perSecond())
	}
	return nil
}

// fairnessFigure is how long the quiet tenants' events waited, and how fast all was worked.
type fairnessFigure struct {
	rate

	snoozes int
}

func shortly(d time.Duration) string { return d.Round(time.Millisecond).String() }

// lane measures one of the three with fresh tenants.
func (b benchFairness) lane(ctx context.Context, h *benchHouse, processes, flood int, fifo bool) (f fairnessFigure, err error) {
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now, JournalKeep: 1})
	if err != nil {
		return f, err
	}
	defer func() { _ = provider.Close() }()
	d, closeDB, err := h.open(ctx, db.AppRole, 12, "") //nolint:mnd // enough for the quiet ones and the flood
	if err != nil {
		return f, err
	}
	defer closeDB()
	owner, err := pgxpool.New(ctx, h.url+"&pool_max_conns=2")
	if err != nil {
		return f, err
	}
	defer owner.Close()
	if _, err := owner.Exec(ctx, `truncate river.river_job; update sluice.places set routine_at = '-infinity'`); err != nil {
		return f, err
	}
	none := func(string) map[string]any { return map[string]any{"kind": "none"} }
	guests := make([]guest, b.Quiet+1)
	for i := range guests {
		automation, err := h.furnish(ctx, d, none, "live")
		if err != nil {
			return f, err
		}
		guests[i] = guest{h.tenant, h.endpoint, automation}
	}
	stop, err := h.work(ctx, processes, provider.URL(), "SLUICE_RUN_WORKERS="+strconv.Itoa(b.Workers))
	if err != nil {
		return f, err
	}
	defer stop()
	// The workers compile plans and automations with the first of each.
	for _, g := range guests {
		if err := plantFor(ctx, d, g, 2, fifo); err != nil { //nolint:mnd // one may be enough
			return f, err
		}
	}
	if err := untilNone(ctx, owner, `select count(*) from sluice.runs where finished_at is null`); err != nil {
		return f, err
	}
	return b.measure(ctx, d, owner, guests, flood, fifo)
}

// measure lets the quiet ones send while the flood is worked, or for a while where there is none.
func (b benchFairness) measure(ctx context.Context, d *db.DB, owner *pgxpool.Pool, guests []guest, flood int, fifo bool) (f fairnessFigure, err error) {
	var begun time.Time
	if err := owner.QueryRow(ctx, `select clock_timestamp()`).Scan(&begun); err != nil {
		return f, err
	}
	sending, enough := context.WithCancel(ctx)
	defer enough()
	var group sync.WaitGroup
	errs := make(chan error, len(guests))
	for _, g := range guests[1:] {
		group.Go(func() {
			for {
				pause := time.Duration(rand.ExpFloat64() / b.PerSecond * float64(time.Second))
				select {
				case <-sending.Done():
					return
				case <-time.After(pause):
				}
				if err := plantFor(ctx, d, g, 1, fifo); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	started := time.Now()
	if flood > 0 {
		if err := plantFor(ctx, d, guests[0], flood, fifo); err != nil {
			return f, err
		}
		err = untilNone(ctx, owner, `select count(*) from sluice.runs where finished_at is null and tenant_id = '`+guests[0].tenant.String()+`'`)
	} else {
		select {
		case <-ctx.Done():
		case <-time.After(b.Alone):
		}
	}
	f.elapsed = time.Since(started)
	enough()
	group.Wait()
	close(errs)
	for one := range errs {
		err = one
	}
	if err == nil {
		err = untilNone(ctx, owner, `select count(*) from sluice.runs where finished_at is null`)
	}
	if err != nil {
		return f, err
	}
	return f, f.read(ctx, owner, guests, begun)
}

// read takes the waits from the tables: what the workers wrote, by the database's clock.
func (f *fairnessFigure) read(ctx context.Context, owner *pgxpool.Pool, guests []guest, begun time.Time) error {
	rows, err := owner.Query(ctx, `select tenant_id = $1, extract(epoch from started_at - created_at)::float8 from sluice.runs where created_at >= $2 and status = 'done'`,
		guests[0].tenant, begun)
	if err != nil {
		return err
	}
	for rows.Next() {
		var flooder bool
		var wait float64
		if err := rows.Scan(&flooder, &wait); err != nil {
			return err
		}
		f.done++
		if !flooder {
			f.waits = append(f.waits, time.Duration(wait*float64(time.Second)))
		}
	}
	slices.Sort(f.waits)
	if err := rows.Err(); err != nil {
		return err
	}
	return owner.QueryRow(ctx, `select count(*) from river.river_job where metadata ? 'snoozes'`).Scan(&f.snoozes)
}

// work starts worker processes with their defaults and these settings, and returns how to stop them.
func (h *benchHouse) work(ctx context.Context, processes int, providerURL string, settings ...string) (stop func(), err error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var all []*exec.Cmd
	stop = func() {
		for _, c := range all {
			_ = c.Process.Signal(syscall.SIGTERM)
		}
		for _, c := range all {
			_ = c.Wait()
		}
	}
	for range processes {
		c, err := h.worker(ctx, binary, providerURL, settings...)
		if err != nil {
			stop()
			return nil, err
		}
		all = append(all, c)
	}
	return stop, nil
}

// worker starts one worker process.
func (h *benchHouse) worker(ctx context.Context, binary, providerURL string, settings ...string) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, binary, "work")
	c.Env = []string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + h.url, "SLUICE_MASTER_KEY=" + hex.EncodeToString(make([]byte, db.MasterKeyLen)),
		"SLUICE_METRICS_LISTEN=", "SLUICE_SCRIPTED_URL=" + providerURL, "SLUICE_ALLOW_LOOPBACK=true", "SLUICE_LOG_LEVEL=error",
	}
	for _, s := range settings {
		if s != "SLUICE_RUN_WORKERS=0" {
			c.Env = append(c.Env, s)
		}
	}
	c.Stdout, c.Stderr = io.Discard, os.Stderr
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	return c, nil
}
