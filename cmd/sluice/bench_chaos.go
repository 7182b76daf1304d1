package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"
)

// benchChaos lets everything that can go wrong go wrong while webhooks come in, and then asks the journals of those outside what came of it.
// docs/chaos.md describes it. What it is made of: bench_chaos_world.go and _furnish.go (what stands there), _schedule.go (which faults, and when),
// _nemesis.go and _nemesis_outside.go (how each is done), _clients.go and _people.go (who sends, and who clicks), _watch.go (what is looked at
// meanwhile), _judges.go, _targets.go and _report.go (what came of it).
type benchChaos struct {
	Seed    uint64        `default:"0" help:"Of the whole schedule of faults and of what the clients send; 0 draws one, and it is printed."`
	For     time.Duration `default:"10m" help:"How long faults are made."`
	Rate    float64       `default:"12" help:"Events a second."`
	Every   time.Duration `default:"2500ms" help:"What lies between the beginnings of two faults, on average."`
	Doors   int           `default:"2" help:"Processes of sluice serve."`
	Workers int           `default:"3" help:"Processes of sluice work."`
	Lease   time.Duration `name:"hold" default:"30s" help:"As SLUICE_LEASE."`
	Settle  time.Duration `default:"15m" help:"How long after the last fault all runs may take to end."`
	Disk    int           `default:"1024" help:"Megabytes of the filesystem that the data directory lives on, where it can be mounted."`
	Binary  string        `help:"A build of sluice with the tag proof, whose clocks can be shifted; without it, this program runs, and no clock is."`
	Keep    bool          `help:"Leaves the world running afterwards, until Ctrl-C."`
}

// Run plays it, prints the counts, and fails where a bar is missed.
func (b benchChaos) Run(ctx context.Context, std streams, lookup environment) (err error) {
	ctx, again := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer again()
	for b.Seed == 0 {
		b.Seed = uint64(time.Now().UnixNano()) % chaosSeeds
	}
	w, err := newChaosWorld(ctx, b, std.out, lookup)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", errBench, err), w.close(false))
	}
	defer func() { err = errors.Join(err, w.close(err != nil)) }()
	if err := errors.Join(w.furnish(ctx), w.calm()); err != nil {
		return fmt.Errorf("%w: furnish: %w", errBench, err)
	}
	if err := w.play(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	missed, err := w.judge(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	if b.Keep {
		w.say("the world is kept until Ctrl-C: psql %q, a door at %s, files in %s", w.house.url, w.doors[0].address, w.house.dir)
		<-ctx.Done()
	}
	if missed > 0 {
		return fmt.Errorf("%w: %d bars are missed; sluice bench chaos --seed %d --for %s makes the same faults", errBench, missed, b.Seed, b.For)
	}
	return nil
}

const (
	// chaosSeeds keeps a drawn seed short enough to be copied by hand.
	chaosSeeds = 1_000_000
	// chaosWarm is how long all is well before the first fault.
	chaosWarm = 3 * time.Second
)

// play lets the clients send and the faults happen, then ends both, and waits until nothing goes on any more.
func (w *chaosWorld) play(ctx context.Context) error {
	schedule := newChaosSchedule(w.benchChaos)
	w.say("seed %d: %d faults within %s, %.0f events a second, %d doors, %d workers, a lease of %s", w.Seed, len(schedule), w.For, w.Rate, len(w.doors), len(w.workers), w.Lease)
	if w.Binary == "" {
		w.say("clocks: not shifted (that takes a build with the tag proof, and --binary)")
	}
	if w.mounted == "" {
		w.say("disk full: not done here, cannot mount")
	}
	w.began = time.Now()
	sending, enough := context.WithCancel(ctx)
	defer enough()
	w.clients.begin(sending, ctx)
	w.people.begin(ctx)
	w.watch.begin(ctx)
	pause(ctx, min(chaosWarm, w.For/10)) // a tenth of a short play
	w.strike(ctx, schedule)
	enough()
	w.ended = time.Now()
	w.people.over.Store(true)
	w.say("the faults are over: %d", w.struck)
	if err := w.heal(ctx); err != nil {
		return err
	}
	w.clients.finish()
	return w.settle(ctx)
}

// settle waits until every run and every action has ended.
func (w *chaosWorld) settle(ctx context.Context) error {
	const open = `select (select count(*) from sluice.runs where finished_at is null) + (select count(*) from sluice.actions where ended_at is null and state <> 'proposed')
		+ (select count(*) from sluice.calls where state in ('intended', 'sent')) + (select count(*) from sluice.replays where status = 'running')`
	deadline := w.ended.Add(w.Settle)
	told := time.Now()
	left := 0
	for {
		err := w.owner.QueryRow(ctx, open).Scan(&left)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("wait for the end: %w", err)
		case left == 0:
			w.settled = time.Since(w.ended)
			w.people.finish()
			w.watch.finish()
			return nil
		case time.Now().After(deadline):
			w.settled = time.Since(w.ended)
			w.people.finish()
			w.watch.finish()
			w.say("%d rows have not ended %s after the last fault", left, w.Settle)
			return nil
		case time.Since(told) > chaosTellEvery:
			told = time.Now()
			w.say("%d runs, actions, calls and replays have not ended yet", left)
		}
		pause(ctx, chaosPoll)
	}
}

const (
	chaosTellEvery = 15 * time.Second
	chaosPoll      = 250 * time.Millisecond
)
