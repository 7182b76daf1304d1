package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// clockTick is the unit of /proc's times: USER_HZ is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// benchMeter reads what the parts have spent so far: Postgres by its own counters and by /proc, a door by /proc. Where there is no /proc the
// times are 0, and shown as unknown.
type benchMeter struct {
	pool       *pgxpool.Pool
	postmaster int
}

// spent is what was spent up to a moment, or between two.
type spent struct {
	wal      int64
	commits  int64
	versions int64 // rows written: inserted and updated
	postgres time.Duration
	door     time.Duration
	resident int64 // bytes of the door, at its highest
}

func newBenchMeter(ctx context.Context, h *benchHouse) (*benchMeter, error) {
	pool, err := pgxpool.New(ctx, h.url+"&pool_max_conns=1")
	if err != nil {
		return nil, fmt.Errorf("open the meter's pool: %w", err)
	}
	m := &benchMeter{pool: pool}
	if text, err := os.ReadFile(filepath.Join(h.cluster.DataDir(), "postmaster.pid")); err == nil {
		line, _, _ := strings.Cut(string(text), "\n")
		m.postmaster, _ = strconv.Atoi(line)
	}
	return m, nil
}

func (m *benchMeter) close() {
	if m != nil {
		m.pool.Close()
	}
}

const meterSQL = `
select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, (select sum(xact_commit)::bigint from pg_stat_database),
    (select sum(n_tup_ins + n_tup_upd)::bigint from pg_stat_user_tables)`

// statisticsLag is how long a backend may keep its counters to itself.
const statisticsLag = 1100 * time.Millisecond

// read reads the counters; door may be nil.
func (m *benchMeter) read(ctx context.Context, door *benchDoor) (spent, error) {
	var s spent
	select {
	case <-ctx.Done():
		return s, ctx.Err()
	case <-time.After(statisticsLag):
	}
	if err := m.pool.QueryRow(ctx, meterSQL).Scan(&s.wal, &s.commits, &s.versions); err != nil {
		return s, fmt.Errorf("read Postgres's counters: %w", err)
	}
	s.postgres = m.family()
	if door == nil {
		_, s.door, _ = processTimes(os.Getpid())
	} else {
		_, own, _ := processTimes(door.command.Process.Pid)
		s.door, s.resident = own, residentHighest(door.command.Process.Pid)
	}
	return s, nil
}

// family is what the postmaster, its processes and those that have ended have used.
func (m *benchMeter) family() time.Duration {
	if m.postmaster == 0 {
		return 0
	}
	_, own, ended := processTimes(m.postmaster)
	all := own + ended
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil {
			continue
		}
		if parent, own, _ := processTimes(pid); parent == m.postmaster {
			all += own
		}
	}
	return all
}

// The fields of /proc/pid/stat behind the name, counted from 0 (proc(5)).
const (
	statParent = 1
	statUser   = 11 // user, system, and both of the children that ended, follow each other
	statFields = statUser + 4
)

// processTimes is a process's parent, its own CPU time, and that of its children that have ended.
func processTimes(pid int) (parent int, own, ended time.Duration) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, 0
	}
	_, behind, _ := bytes.Cut(text, []byte(") "))
	fields := strings.Fields(string(behind))
	if len(fields) < statFields {
		return 0, 0, 0
	}
	ticks := func(i int) time.Duration {
		n, _ := strconv.ParseInt(fields[statUser+i], 10, 64)
		return time.Duration(n) * clockTick
	}
	parent, _ = strconv.Atoi(fields[statParent])
	return parent, ticks(0) + ticks(1), ticks(2) + ticks(3) //nolint:mnd // see statUser
}

// residentHighest is the most memory a process has had resident, in bytes.
func residentHighest(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kilobytes << 10 //nolint:mnd // kB
		}
	}
	return 0
}

func (s spent) since(before spent) spent {
	return spent{
		wal: s.wal - before.wal, commits: s.commits - before.commits, versions: s.versions - before.versions, postgres: s.postgres - before.postgres, door: s.door - before.door, resident: s.resident,
	}
}

func (spent) perEvent(d time.Duration, events int) string {
	if d == 0 || events == 0 {
		return "-"
	}
	return fmt.Sprintf("%d us", (d / time.Duration(events)).Microseconds())
}

// line is the columns of the table, for an event each.
func (s spent) line(events int) string {
	if events == 0 {
		return ""
	}
	resident := "-"
	if s.resident > 0 {
		resident = fmt.Sprintf("%d MB", s.resident>>20) //nolint:mnd // bytes to MB
	}
	return fmt.Sprintf("%7d B %8.2f | %9s %9s | %7s", s.wal/int64(events), float64(s.commits)/float64(events), s.perEvent(s.postgres, events), s.perEvent(s.door, events), resident)
}
