package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/scripted"
)

type benchBudget struct {
	Runs      int   `default:"500" help:"Runs at once."`
	Affords   int   `default:"10" help:"How many of them the day's budget can pay in the worst case."`
	Processes int   `default:"4" help:"Worker processes."`
	Kills     int   `default:"100" help:"How many workers are killed (SIGKILL) while calls are under way."`
	Seed      int64 `default:"1" help:"Of the moments of the kills."`
}

// budgetWatchSQL makes a row of every state of the budget that is committed; the bench's own, in its own database.
const budgetWatchSQL = `
create table public.budget_seen (at timestamptz default clock_timestamp(), spent bigint, reserved bigint, cap bigint);
create function public.budget_seen() returns trigger language plpgsql security definer as $$
begin
    insert into public.budget_seen (spent, reserved, cap) select new.day_pico, new.reserved_pico, cost_per_day_hard from sluice.limits where tenant_id = new.tenant_id;
    return null;
end $$;
create trigger budget_seen after update on sluice.budgets for each row execute function public.budget_seen()`

// Run plays it, prints the counts, and fails where one is wrong.
func (b benchBudget) Run(ctx context.Context, std streams, lookup environment) error {
	h, err := newBenchHouse(ctx, lookup)
	if err != nil {
		return err
	}
	defer h.close()
	h.machine(std.out, "budget")
	journal := filepath.Join(h.dir, "journal.jsonl")
	// Slow enough that a killed worker leaves calls under way.
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now, JournalPath: journal})
	if err != nil {
		return err
	}
	defer func() { _ = provider.Close() }()
	if err := provider.Control(scripted.ProviderControl{Mode: scripted.ModeSlow, DelayMS: 150}); err != nil { //nolint:mnd // about the time between two kills
		return err
	}
	owner, err := pgxpool.New(ctx, h.url)
	if err != nil {
		return err
	}
	defer owner.Close()
	r := &budgetRound{benchBudget: b, house: h, owner: owner, provider: provider, out: std.out}
	if err := r.furnish(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	if err := r.play(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	return r.judge(ctx)
}

// budgetRound is one play of it.
type budgetRound struct {
	benchBudget

	house    *benchHouse
	owner    *pgxpool.Pool
	provider *scripted.Provider
	out      io.Writer
	cap      int64
}

// furnish makes the tenant, learns the worst case of a run by letting one be held by a budget of nothing, and sets the budget to so many of it.
func (r *budgetRound) furnish(ctx context.Context) error {
	d, closeDB, err := r.house.open(ctx, db.AppRole, 4, "") //nolint:mnd // a few
	if err != nil {
		return err
	}
	defer closeDB()
	none := func(string) map[string]any { return map[string]any{"kind": "none"} }
	automation, err := r.house.furnish(ctx, d, none, "live")
	if err != nil {
		return err
	}
	if _, err := r.owner.Exec(ctx, `update sluice.limits set cost_per_day_hard = 0`); err != nil {
		return err
	}
	stop, err := r.house.work(ctx, 1, r.provider.URL())
	if err != nil {
		return err
	}
	err = r.house.plant(ctx, d, automation, r.Runs)
	if err == nil {
		err = untilNone(ctx, r.owner, `select count(*) from sluice.runs where status <> 'held'`)
	}
	stop()
	if err != nil {
		return err
	}
	var worst int64
	if err := r.owner.QueryRow(ctx, `select max(held_pico) from sluice.runs`).Scan(&worst); err != nil {
		return err
	}
	r.cap = worst * int64(r.Affords)
	fmt.Fprintf(r.out, "%d runs held by a budget of 0; the worst case of one is %d pico-USD, and the budget is raised to %d times that\n", r.Runs, worst, r.Affords)
	if _, err := r.owner.Exec(ctx, budgetWatchSQL); err != nil {
		return err
	}
	_, err = r.owner.Exec(ctx, `update sluice.limits set cost_per_day_hard = $1, version = version + 1, updated_at = now()`, r.cap)
	return err
}

// play lets the workers work, kills one after another while calls are under way, and starts another for each. When nothing fits any more, the budget
// is raised, so that there is something to kill.
func (r *budgetRound) play(ctx context.Context) error {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(r.Seed), 0))
	workers := make([]*exec.Cmd, r.Processes)
	defer func() {
		for _, c := range workers {
			if c != nil {
				_ = c.Process.Signal(syscall.SIGTERM)
				_ = c.Wait()
			}
		}
	}()
	start := func(i int) error {
		workers[i], err = r.house.worker(ctx, binary, r.provider.URL(), "SLUICE_LEASE=3s", "SLUICE_SWEEP_EVERY=1s", "SLUICE_RUN_WORKERS=32")
		return err
	}
	for i := range workers {
		if err := start(i); err != nil {
			return err
		}
	}
	kills, open, known := 0, 0, 0
	deadline := time.Now().Add(15 * time.Minute) //nolint:mnd // far beyond what it takes
	for kills < r.Kills && time.Now().Before(deadline) {
		var under, made int
		if err := r.owner.QueryRow(ctx, `select count(*) filter (where state = 'sent'), count(*) from sluice.calls`).Scan(&under, &made); err != nil {
			return err
		}
		if under == 0 || made == known {
			pause(ctx, 20*time.Millisecond) //nolint:mnd // often enough
			if err := r.more(ctx); err != nil {
				return err
			}
			continue
		}
		// Calls that no kill has seen are under way: every worker is killed, one after another, within the time of a call.
		known, open = made, open+under
		for _, i := range random.Perm(len(workers)) {
			pause(ctx, time.Duration(random.IntN(30))*time.Millisecond) //nolint:mnd // a part of the time of a call
			_ = workers[i].Process.Kill()
			_ = workers[i].Wait()
			kills++
			if err := start(i); err != nil {
				return err
			}
		}
	}
	rounds := max(kills/len(workers), 1)
	fmt.Fprintf(r.out, "%d workers killed in %d rounds, with %.1f calls under way at the beginning of a round\n", kills, rounds, float64(open)/float64(rounds))
	if err := untilNone(ctx, r.owner, `select count(*) from sluice.calls where state in ('intended', 'sent')`); err != nil {
		return err
	}
	return untilNone(ctx, r.owner, `select count(*) from sluice.runs where status not in ('done', 'held', 'dead')`)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// more raises the budget, by as much as it was at first, where all is held and nothing is under way: orphans are booked at their worst case and use it up.
func (r *budgetRound) more(ctx context.Context) error {
	_, err := r.owner.Exec(ctx, `
		update sluice.limits l set cost_per_day_hard = l.cost_per_day_hard + $1::bigint, version = version + 1, updated_at = now()
		from sluice.budgets b where b.tenant_id = l.tenant_id and b.reserved_pico = 0 and b.day_pico + $1::bigint / $2::bigint > l.cost_per_day_hard
		  and not exists (select from sluice.runs where status in ('queued', 'running', 'waiting'))`, r.cap, int64(r.Affords))
	return err
}

// judge holds what the database and the provider's journal say against the promise.
func (r *budgetRound) judge(ctx context.Context) error {
	var above, states, reserved, limit, spent int64
	var most float64
	err := r.owner.QueryRow(ctx, `select count(*) filter (where s.spent + s.reserved > s.cap), count(*), max((s.spent + s.reserved)::float8 / s.cap), max(b.reserved_pico), max(l.cost_per_day_hard), max(b.day_pico)
		from public.budget_seen s, sluice.limits l, sluice.budgets b`).Scan(&above, &states, &most, &reserved, &limit, &spent)
	if err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	counts := map[string]int{}
	rows, err := r.owner.Query(ctx, `select status, count(*) from sluice.runs group by 1`)
	if err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	for rows.Next() {
		var status string
		var n int
		if err := rows.Scan(&status, &n); err != nil {
			return fmt.Errorf("%w: %w", errBench, err)
		}
		counts[status] = n
	}
	fmt.Fprintf(r.out, "budget at the end %d, spent %d, reserved %d; at any of %d writes spent and reserved were at most %.4f of the budget as it was then; above it: %d\n",
		limit, spent, reserved, states, most, above)
	fmt.Fprintf(r.out, "runs: %v\n", counts)
	differences, err := booksBeside(ctx, r.owner, r.provider, r.out)
	if err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	if above > 0 || reserved != 0 || differences > 0 || counts["done"]+counts["held"]+counts["dead"] != r.Runs {
		return fmt.Errorf("%w: a promise is broken", errBench)
	}
	return nil
}
