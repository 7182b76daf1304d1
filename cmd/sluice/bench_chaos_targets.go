package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sluice/scripted"
)

// chaosEffects counts the effects at the targets, by the event that each names and the desk that it was made for.
type chaosEffects struct {
	made map[string]int    // by kind of target, desk and event
	keys map[string]string // the bodies that came with a key
	// changed are keys that came with two bodies, strange are effects of no event.
	changed, strange []string
	// order are breaks of the order of entities, and how many effects were in order.
	order   []string
	ordered int
}

func (e *chaosEffects) add(target, desk, event string) {
	if event == "" {
		e.strange = append(e.strange, target+" "+desk)
		return
	}
	e.made[target+" "+desk+" "+event]++
}

// readEffects reads the targets' own journals.
func readEffects(callbacks []scripted.TargetEntry, github, intercom []scripted.VendorEffect) *chaosEffects {
	e := &chaosEffects{made: map[string]int{}, keys: map[string]string{}}
	last := map[string]int{}
	for _, entry := range callbacks {
		if known, ok := e.keys[entry.Key]; ok && known != string(entry.Body) {
			e.changed = append(e.changed, entry.Key)
		}
		e.keys[entry.Key] = string(entry.Body)
		if !entry.Acted {
			continue
		}
		var said struct {
			Event, Entity string
			Seq           int
		}
		_ = json.Unmarshal(entry.Body, &said)
		desk := string(bytes.TrimPrefix([]byte(entry.Path), []byte("/")))
		e.add(targetCallback, desk, said.Event)
		if said.Seq == 0 {
			continue
		}
		e.ordered++
		if said.Seq <= last[said.Entity] {
			e.order = append(e.order, fmt.Sprintf("%s: %d after %d", said.Entity, said.Seq, last[said.Entity]))
		}
		last[said.Entity] = said.Seq
	}
	for _, effect := range github {
		e.add(targetGitHub, effect.Target, eventOf(effect.Text))
	}
	for _, effect := range intercom {
		e.add(targetIntercom, effect.Target, eventOf(effect.Text))
	}
	return e
}

// total is how many effects of a kind of target there are, and twice those that were made more than once.
func (e *chaosEffects) total(target string) (total int, twice []string) {
	for name, n := range e.made {
		if len(name) < len(target) || name[:len(target)] != target {
			continue
		}
		total += n
		if n > 1 {
			twice = append(twice, fmt.Sprintf("%s %d times", name, n))
		}
	}
	return total, twice
}

const statesSQL = `
select a.kind, a.state, e.source_event_id from sluice.actions a
join sluice.runs r on r.tenant_id = a.tenant_id and r.id = a.run_id
join sluice.events e on e.tenant_id = r.tenant_id and e.id = r.event_id`

// judgeTargets holds the targets' journals against each other and against the receipts.
func (w *chaosWorld) judgeTargets(ctx context.Context, v *chaosVerdict, _ map[string][]chaosKept) error {
	e := readEffects(w.callbacks.Journal(), w.github.Effects(), w.intercom.Effects())
	byEvent := map[string]int{} // without the desk: an event has one
	for _, one := range []struct{ target, promise string }{
		{targetCallback, "second effects on targets with a key"}, {targetGitHub, "second effects on targets with a mark"},
		{targetIntercom, "second effects on targets with neither"},
	} {
		total, twice := e.total(one.target)
		v.tell("effects at %s: %d", one.target, total)
		v.bar(one.promise, len(twice), twice...)
	}
	for name, n := range e.made {
		var target, desk, event string
		_, _ = fmt.Sscan(name, &target, &desk, &event)
		byEvent[target+" "+event] += n
	}
	rows, err := w.owner.Query(ctx, statesSQL)
	if err != nil {
		return fmt.Errorf("read the receipts: %w", err)
	}
	var kind, state, event string
	var lies []string
	failed, unknown, unknownMade := 0, 0, 0
	_, err = pgx.ForEachRow(rows, []any{&kind, &state, &event}, func() error {
		made := byEvent[kind+" "+event] > 0
		switch {
		case state == "confirmed" && !made:
			lies = append(lies, kind+" "+event)
		case state == "failed" && made:
			failed++
		case state == "unknown":
			unknown++
			if made {
				unknownMade++
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the receipts: %w", err)
	}
	v.tell("unknown, and told so: %d, of which were made %d; failed actions whose event has an effect (of another run, or of a keyed target that said no): %d", unknown, unknownMade, failed)
	v.tell("effects of events in order: %d", e.ordered)
	v.bar("receipts of effects that are not there", len(lies), lies...)
	v.bar("keys that came with two bodies", len(e.changed), e.changed...)
	v.bar("effects of no event", len(e.strange), e.strange...)
	v.bar("effects out of order", len(e.order), e.order...)
	return nil
}
