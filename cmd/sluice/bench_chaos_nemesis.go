package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/db/embedded"
	"sluice/scripted"
)

// strike makes the faults of a schedule, each at its time, and returns when the last is over. Faults of different things overlap; those of one thing
// wait for each other.
func (w *chaosWorld) strike(ctx context.Context, schedule []chaosFault) {
	watched, enough := context.WithCancel(ctx)
	var keeper, group sync.WaitGroup
	keeper.Go(func() { w.keep(watched) })
	for _, f := range schedule {
		pause(ctx, time.Until(w.began.Add(f.at)))
		if ctx.Err() != nil {
			break
		}
		group.Go(func() {
			random := rand.New(rand.NewPCG(f.draw, 4)) // it has to be the same again
			if told, err := w.inflict(ctx, f, random); err != nil {
				w.say("%s: could not be done: %v", f.kind, err)
			} else if told != "" {
				w.say("%s: %s", f.kind, told)
				w.mu.Lock()
				w.made[f.kind]++
				w.struck++
				w.mu.Unlock()
			}
		})
	}
	pause(ctx, time.Until(w.began.Add(w.For)))
	group.Wait()
	enough()
	keeper.Wait()
}

// keep starts again what has ended by itself, as whoever runs the processes in production does.
func (w *chaosWorld) keep(ctx context.Context) {
	for ctx.Err() == nil {
		for _, p := range w.all() {
			if err := p.rises(); err != nil {
				w.say("%v", err)
			}
		}
		pause(ctx, time.Second)
	}
}

// inflict makes one fault and ends it, and says what it was; nothing, if it was not made.
func (w *chaosWorld) inflict(ctx context.Context, f chaosFault, random *rand.Rand) (string, error) {
	held := f.hold.Round(time.Millisecond).String()
	switch f.kind {
	case faultKillDoor:
		return w.killed(ctx, f, w.doors[f.part%len(w.doors)])
	case faultKillWorker:
		return w.killed(ctx, f, w.workers[f.part%len(w.workers)])
	case faultKillWorkers:
		return w.killed(ctx, f, w.workers...)
	case faultPauseDoor:
		return w.paused(ctx, f, w.doors[f.part%len(w.doors)])
	case faultPauseWorker:
		return w.paused(ctx, f, w.workers[f.part%len(w.workers)])
	case faultClock:
		return w.shifted(ctx, f, w.workers[f.part%len(w.workers)], random)
	case faultStopDB:
		return held, w.stopDatabase(ctx, f)
	case faultBackends:
		w.databaseStands.RLock()
		defer w.databaseStands.RUnlock()
		var n int
		err := w.owner.QueryRow(ctx, `select count(pg_terminate_backend(pid)) from pg_stat_activity where backend_type = 'client backend' and application_name like 'sluice %'`).Scan(&n)
		return fmt.Sprintf("%d of them", n), err
	case faultCutDB:
		return fmt.Sprintf("%d of them", w.database.Cut(1+f.part%2)), nil
	case faultSlowDB:
		fault := scripted.ProxyFault{Latency: time.Duration(5+random.IntN(60)) * time.Millisecond, Every: 1 + f.part%2} // 5 to 64 ms
		w.network(ctx, f, fault, w.database)
		return fmt.Sprintf("%s for each piece, %s", fault.Latency, held), nil
	case faultBlackholeDB:
		w.network(ctx, f, scripted.ProxyFault{Blackhole: true, Every: 1 + f.part%3}, w.database)
		return held, nil
	case faultDisk:
		return w.filled(ctx, f)
	case faultFlood:
		w.clients.flood(random)
		return fmt.Sprintf("%d deliveries at once", chaosFloodSize), nil
	case faultSettings:
		w.people.rename(ctx, f.part)
		return "another version", nil
	case faultSchema:
		return "a column and an index more, and every process started anew", w.migrate(ctx)
	default:
		return w.inflictOutside(ctx, f, random)
	}
}

// killed kills processes, and starts them again after a while.
func (w *chaosWorld) killed(ctx context.Context, f chaosFault, which ...*chaosProcess) (string, error) {
	var names []string
	var err error
	for _, p := range which {
		p.busy.Lock()
		defer p.busy.Unlock()
		names = append(names, p.name)
	}
	for _, p := range which {
		p.kill()
	}
	if which[0].command == "work" {
		w.watch.killed(ctx)
	}
	pause(ctx, f.hold)
	for _, p := range which {
		p.offset = 0
		err = errors.Join(err, p.start())
	}
	return strings.Join(names, ", ") + " for " + f.hold.Round(time.Millisecond).String(), err
}

// paused stops a process where it stands, and lets it go on as if nothing had been.
func (w *chaosWorld) paused(ctx context.Context, f chaosFault, p *chaosProcess) (string, error) {
	p.busy.Lock()
	defer p.busy.Unlock()
	if !p.signal(syscall.SIGSTOP) {
		return "", nil
	}
	if p.command == "work" {
		w.watch.killed(ctx)
	}
	pause(ctx, f.hold)
	p.signal(syscall.SIGCONT)
	return p.name + " for " + f.hold.Round(time.Millisecond).String(), nil
}

// shifted starts a worker anew with a clock that is ahead or behind. It keeps it until it is killed, or all is healed.
func (w *chaosWorld) shifted(_ context.Context, _ chaosFault, p *chaosProcess, random *rand.Rand) (string, error) {
	if w.Binary == "" {
		return "", nil
	}
	p.busy.Lock()
	defer p.busy.Unlock()
	p.kill()
	p.offset = []time.Duration{-chaosSkew, chaosSkew}[random.IntN(2)]
	return fmt.Sprintf("%s by %s", p.name, p.offset), p.start()
}

// chaosSkew is how wrong a clock is.
const chaosSkew = 10 * time.Minute

// stopDatabase ends Postgres as `pg_ctl stop -m immediate` does, and starts it again after a while.
func (w *chaosWorld) stopDatabase(ctx context.Context, f chaosFault) error {
	w.databaseStands.Lock()
	defer w.databaseStands.Unlock()
	if err := w.house.cluster.Stop(embedded.StopImmediate); err != nil {
		return err
	}
	pause(ctx, f.hold)
	return w.postgres(ctx)
}

// network does something to the connections through a proxy for a while.
func (w *chaosWorld) network(ctx context.Context, f chaosFault, fault scripted.ProxyFault, p *scripted.Proxy) {
	p.Set(fault)
	pause(ctx, f.hold)
	if p == w.database || p == w.models {
		p.Set(scripted.ProxyFault{})
	} else {
		p.Set(chaosFar)
	}
}

// filled fills the filesystem of the data directory, the log's included, and empties it again.
func (w *chaosWorld) filled(ctx context.Context, f chaosFault) (string, error) {
	if w.mounted == "" {
		return "", nil
	}
	w.databaseStands.Lock()
	defer w.databaseStands.Unlock()
	ballast := filepath.Join(w.mounted, "ballast")
	size, err := fill(ballast)
	if err != nil {
		return "", err
	}
	// The log goes on in another segment, for which there is no room.
	_, _ = w.owner.Exec(ctx, `select pg_switch_wal()`)
	pause(ctx, f.hold)
	more, _ := fill(ballast) // What was given back meanwhile.
	fell := false
	select {
	case <-w.house.cluster.Done():
		fell = true
	default:
	}
	if err := os.Remove(ballast); err != nil {
		return "", fmt.Errorf("remove the ballast: %w", err)
	}
	pause(ctx, chaosPoll)
	if err := w.postgres(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d MB of ballast for %s; Postgres fell: %v", (size+more)>>20, f.hold.Round(time.Millisecond), fell), nil // bytes to MB
}

// fill writes to a file until nothing goes into it any more, and says how much did.
func fill(path string) (size int64, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, chaosLogMode)
	if err != nil {
		return 0, fmt.Errorf("fill the disk: %w", err)
	}
	defer file.Close()
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		n, err := file.Write(piece)
		size += int64(n)
		if err == nil {
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, fs.ErrInvalid) {
			return size, fmt.Errorf("fill the disk: %w", err)
		}
		piece = piece[:len(piece)/2] // Down to the last byte.
	}
	return size, nil
}

// chaosMigration is what the next version of Sluice would do: it waits for no lock for long, and keeps the binary of today working.
const chaosMigration = `
set local lock_timeout = '2s';
alter table sluice.runs add column chaos_note text default 'none';
create index chaos_runs on sluice.runs (tenant_id, chaos_note) where chaos_note <> 'none';
update sluice.schema_migrations set version = version + 1`

// migrate changes the schema under everybody, and starts the processes one after another.
func (w *chaosWorld) migrate(ctx context.Context) error {
	var err error
	for range chaosMigrationTries {
		w.databaseStands.RLock()
		_, err = w.owner.Exec(ctx, "begin; "+chaosMigration+"; commit")
		w.databaseStands.RUnlock()
		if err == nil {
			break
		}
		pause(ctx, time.Second)
	}
	if err != nil {
		return fmt.Errorf("change the schema: %w", err)
	}
	for _, p := range w.all() {
		p.busy.Lock()
		p.stopHeld()
		err = errors.Join(err, p.start())
		p.busy.Unlock()
		pause(ctx, time.Second)
	}
	return err
}

const chaosMigrationTries = 60

// heal ends every fault, starts every process anew, and waits until the doors are open.
func (w *chaosWorld) heal(ctx context.Context) error {
	for _, p := range []*scripted.Proxy{w.database, w.models} {
		p.Set(scripted.ProxyFault{})
	}
	if err := w.calm(); err != nil {
		return err
	}
	if err := w.postgres(ctx); err != nil {
		return err
	}
	for _, p := range w.all() {
		if err := p.again(); err != nil {
			return err
		}
	}
	for _, p := range w.doors {
		if err := p.opens(ctx); err != nil {
			return err
		}
	}
	return nil
}
