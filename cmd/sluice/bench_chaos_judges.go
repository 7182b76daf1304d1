package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/db"
	"sluice/jobs/llm"
	"sluice/scripted"
	"sluice/tenants"
)

// chaosVerdict is what the judges found. A bar is a count that has to be 0.
type chaosVerdict struct {
	lines []string
	bars  []chaosBar
}

type chaosBar struct {
	what  string
	count int
	shown []string // some of them
}

// chaosShown bounds what is shown of what breaks a bar.
const chaosShown = 12

func (v *chaosVerdict) tell(format string, args ...any) {
	v.lines = append(v.lines, fmt.Sprintf(format, args...))
}

// bar adds a count that has to be 0, with examples of what it counts.
func (v *chaosVerdict) bar(what string, count int, shown ...string) {
	v.bars = append(v.bars, chaosBar{what, count, shown[:min(len(shown), chaosShown)]})
}

// missed is how many bars are.
func (v *chaosVerdict) missed() (n int) {
	for _, b := range v.bars {
		if b.count != 0 {
			n++
		}
	}
	return n
}

// judge asks every journal, prints what came of it, and says how many bars are missed.
func (w *chaosWorld) judge(ctx context.Context) (missed int, err error) {
	v := &chaosVerdict{}
	kept, err := w.readEvents(ctx)
	if err != nil {
		return 0, err
	}
	for _, one := range []func(context.Context, *chaosVerdict, map[string][]chaosKept) error{
		w.judgeClients, w.judgeRuns, w.judgeTargets, w.judgeBooks, w.judgeProcesses, w.judgeDoctor,
	} {
		if err := one(ctx, v, kept); err != nil {
			return 0, err
		}
	}
	w.report(v)
	return v.missed(), nil
}

// chaosKept is an event as the database has it.
type chaosKept struct {
	id       uuid.UUID
	endpoint uuid.UUID
	body     []byte
	runs     int
	open     int
}

const keptSQL = `
select e.source_event_id, e.id, e.endpoint_id, p.body,
    (select count(*)::int from sluice.runs r where r.tenant_id = e.tenant_id and r.event_id = e.id and r.generation = 0),
    (select count(*)::int from sluice.runs r where r.tenant_id = e.tenant_id and r.event_id = e.id and r.finished_at is null)
from sluice.events e left join sluice.event_payloads p on p.tenant_id = e.tenant_id and p.event_id = e.id`

// readEvents reads every event by the source's id.
func (w *chaosWorld) readEvents(ctx context.Context) (map[string][]chaosKept, error) {
	rows, err := w.owner.Query(ctx, keptSQL)
	if err != nil {
		return nil, fmt.Errorf("read the events: %w", err)
	}
	kept := map[string][]chaosKept{}
	var source string
	var k chaosKept
	_, err = pgx.ForEachRow(rows, []any{&source, &k.id, &k.endpoint, &k.body, &k.runs, &k.open}, func() error {
		one := k
		one.body = bytes.Clone(k.body)
		kept[source] = append(kept[source], one)
		return nil
	})
	return kept, err
}

// judgeClients holds what the senders were told against what is kept.
func (w *chaosWorld) judgeClients(_ context.Context, v *chaosVerdict, kept map[string][]chaosKept) error {
	c := w.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	var lost, twice, two, altered, forged, idle, open, unacked []string
	genuine, acked, unknown, arrived, alterations := 0, 0, 0, 0, 0
	for id, e := range c.sent {
		of := kept[id]
		alterations += e.altered
		if len(of) > 1 {
			twice = append(twice, id)
		}
		if e.twoIDs {
			two = append(two, id)
		}
		if e.forged {
			if len(of) > 0 {
				forged = append(forged, id)
			}
			continue
		}
		genuine++
		if len(of) > 0 && of[0].runs == 0 {
			idle = append(idle, id)
		}
		if len(of) > 0 && of[0].open > 0 {
			open = append(open, id)
		}
		switch {
		case e.eventID == "" && e.abandoned:
			unknown++
			arrived += min(len(of), 1)
			continue
		case e.eventID == "":
			unacked = append(unacked, id)
			continue
		}
		acked++
		switch {
		case len(of) == 0 || !slices.ContainsFunc(of, func(k chaosKept) bool { return tenants.FormatID(tenants.EventPrefix, k.id) == e.eventID }):
			lost = append(lost, id+" "+e.eventID)
		case e.altered > 0 && !bytes.Equal(of[0].body, e.body):
			altered = append(altered, id)
		}
	}
	n := c.counts
	v.tell("events sent %d, acked %d, kept %d; sent once and not acked %d, of which %d are kept", genuine, acked, len(kept), unknown, arrived)
	v.tell("deliveries %d: answered as duplicates %d, floods of %d %d, with another body %d, forged %d; no answer %d; refused by status %v", n.deliveries, n.duplicates,
		chaosFloodSize, n.floods, alterations, n.forged, n.unanswered, n.refused)
	v.bar("acked events lost", len(lost), lost...)
	v.bar("events that were never acked, though all was well for minutes", len(unacked), unacked...)
	v.bar("ids of a source with two events", len(twice), twice...)
	v.bar("events whose acks named two ids", len(two), two...)
	v.bar("events overwritten by another body", len(altered), altered...)
	v.bar("forgeries let in", n.forgedIn+len(forged), forged...)
	v.bar("kept events without a run", len(idle), idle...)
	v.bar("kept events with a run that has not ended", len(open), open...)
	other := 0
	for status, count := range n.refused {
		if status != 503 && status != 429 {
			other += count
		}
	}
	v.bar("genuine deliveries refused with neither 503 nor 429", other, fmt.Sprint(n.refused))
	v.bar("refusals without Retry-After", n.unpatient)
	return nil
}

// judgeRuns tells how the runs ended, and what is left.
func (w *chaosWorld) judgeRuns(ctx context.Context, v *chaosVerdict, _ map[string][]chaosKept) error {
	runs, err := w.tally(ctx, `select trim(status || ' ' || reason), count(*)::int from sluice.runs group by 1 order by 2 desc, 1`)
	if err != nil {
		return err
	}
	actions, err := w.tally(ctx, `select kind || ' ' || trim(state || ' ' || reason), count(*)::int from sluice.actions group by 1 order by 1`)
	if err != nil {
		return err
	}
	v.tell("runs: %s", strings.Join(runs, ", "))
	v.tell("actions: %s", strings.Join(actions, ", "))
	var open, actionsOpen, callsOpen int
	var reserved, above int64
	var seen int64
	err = w.owner.QueryRow(ctx, `select (select count(*) from sluice.runs where finished_at is null), (select count(*) from sluice.actions where ended_at is null and state <> 'proposed'),
		(select count(*) from sluice.calls where state in ('intended', 'sent')), (select sum(reserved_pico + reserved_tokens)::bigint from sluice.budgets),
		(select count(*) from public.budget_seen where spent + reserved > cap), (select count(*) from public.budget_seen where cap is not null)`).
		Scan(&open, &actionsOpen, &callsOpen, &reserved, &above, &seen)
	if err != nil {
		return fmt.Errorf("count what is left: %w", err)
	}
	v.tell("all has ended %.1f s after the last fault; %d kills and pauses of workers, %d holds watched over them, the longest went on after %.1f s", w.settled.Seconds(), w.watch.kills,
		w.watch.watched, w.watch.longest.Seconds())
	v.tell("budgets: looked at in %d commits", seen)
	v.bar("runs that have not ended", open)
	v.bar("actions that have not ended", actionsOpen)
	v.bar("calls that have not ended", callsOpen)
	v.bar(fmt.Sprintf("runs and actions of killed workers that went on after more than %s", chaosRecovery), w.watch.late+len(w.watch.held))
	v.bar("commits with more spent and reserved than the budget", int(above))
	v.bar("tokens and pico-USD still reserved", int(reserved))
	return nil
}

// tally reads rows of a text and a count.
func (w *chaosWorld) tally(ctx context.Context, sql string) (lines []string, err error) {
	rows, err := w.owner.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	var text string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&text, &n}, func() error {
		lines = append(lines, fmt.Sprintf("%d %s", n, text))
		return nil
	})
	return lines, err
}

// judgeBooks holds the ledger against what the provider billed.
func (w *chaosWorld) judgeBooks(ctx context.Context, v *chaosVerdict, _ map[string][]chaosKept) error {
	ledger, err := booksOf(ctx, w.owner)
	if err != nil {
		return err
	}
	// Where the provider said nothing of the usage, the most that it can be is charged.
	unsaid := 0
	journal := slices.DeleteFunc(w.provider.Journal(), func(e scripted.ProviderEntry) bool {
		u := llm.Usage(e.Usage)
		of, ok := ledger[e.RequestID]
		if e.Mode != scripted.ModeUsageMissing || !ok || of.kind != db.EntryCharge || of.input < u.InputTotal() || of.output < u.OutputTotal() {
			return false
		}
		unsaid++
		delete(ledger, e.RequestID)
		return true
	})
	c := compareBooks(ledger, journal)
	v.tell("ledger beside the provider's journal of %d calls: %d charges equal to the token, %d orphans at or above what was billed, %d orphans that never arrived, "+
		"%d charges at or above what was billed by a provider that did not say how much", len(journal)+unsaid, c.charges, c.orphans, c.unsent, unsaid)
	v.bar("differences between the ledger and the provider's journal", len(c.differences), c.differences...)
	return nil
}

// judgeProcesses looks at what the processes left behind.
func (w *chaosWorld) judgeProcesses(_ context.Context, v *chaosVerdict, _ map[string][]chaosKept) error {
	panics, fell := 0, 0
	for _, p := range w.all() {
		panics += p.panics()
		fell += p.fell
	}
	v.tell("processes that ended by themselves, since there was no database to begin with: %d", fell)
	v.bar("panics", panics)
	var strange []string
	for what, n := range w.people.strange {
		strange = append(strange, fmt.Sprintf("%d of %s", n, what))
	}
	slices.Sort(strange)
	v.bar("kinds of answers of the API that nobody should get", len(strange), strange...)
	return nil
}

// judgeDoctor asks `sluice doctor`. What it finds that needs a person's hand, such as an effect whose fate is unknown, is told, and is no break.
func (w *chaosWorld) judgeDoctor(ctx context.Context, v *chaosVerdict, _ map[string][]chaosKept) error {
	if _, err := w.owner.Exec(ctx, `drop trigger budget_seen on sluice.budgets`); err != nil {
		return fmt.Errorf("stop watching the budgets: %w", err)
	}
	door := w.doors[0]
	c := exec.CommandContext(ctx, door.binary, "doctor", "--json", "--deep")
	c.Env = door.env
	var told bytes.Buffer
	c.Stderr = &told
	out, err := c.Output()
	var said struct {
		Findings []struct {
			Check, Severity, What string
			Count                 int
		}
		Blind []json.RawMessage `json:"could_not_look"`
	}
	if json.Unmarshal(out, &said) != nil {
		v.bar("a doctor who could not look", 1, fmt.Sprint(err), told.String())
		return nil //nolint:nilerr // it is told
	}
	var broken, others []string
	for _, f := range said.Findings {
		line := fmt.Sprintf("%s (%s): %s: %d", f.Check, f.Severity, f.What, f.Count)
		if f.Severity == "broken" {
			broken = append(broken, line)
		} else {
			others = append(others, line)
		}
	}
	v.tell("sluice doctor --deep: %d findings that are no break: %s", len(others), strings.Join(others, "; "))
	v.bar("broken promises that sluice doctor finds", len(broken), broken...)
	v.bar("checks of sluice doctor that could not look", len(said.Blind))
	return nil
}
