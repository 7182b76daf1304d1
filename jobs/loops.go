package jobs

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/tenants"
)

// The reasons of runs that are skipped since an automation answers itself, or another machine.
const (
	reasonLoopDepth = "loop.depth"
	reasonLoopRate  = "loop.rate"
)

// keyPrefix begins the key of every action, which is its name outside: see actionKey.
const keyPrefix = "msg"

// markDigits is how many hex digits follow the prefix of a key and of an id.
const markDigits = 32

// marksMax bounds how many names of one event are looked up.
const marksMax = 64

// loopAlertEvery is how often the alert of a loop that goes on is written anew.
const loopAlertEvery = time.Minute

// looped is loopedTogether for one run.
func (w *runWorker) looped(ctx context.Context, tx db.TenantTx, c *claimed) (*db.RunStep, error) {
	steps, err := w.loopedTogether(ctx, tx, []*claimed{c})
	if err != nil {
		return nil, err
	}
	return steps[0], nil
}

// loopedTogether says of claimed runs of one tenant which must be skipped since their events stand in a loop: a step for each of these, nil for the others.
// It keeps the depth of those whose events our own actions caused, and begins the alerts. No token has been spent on them, and none will be.
func (w *runWorker) loopedTogether(ctx context.Context, tx db.TenantTx, runs []*claimed) ([]*db.RunStep, error) {
	steps := make([]*db.RunStep, len(runs))
	var asks []db.LoopAsk
	var asked []int
	for i, c := range runs {
		if ask, ok := loopAskOf(c); ok {
			asks, asked = append(asks, ask), append(asked, i)
		}
	}
	if len(asks) == 0 {
		return steps, nil
	}
	facts, err := tx.LoopFacts(ctx, asks)
	if err != nil {
		return nil, fmt.Errorf("look for loops: %w", err)
	}
	var depths []db.LoopDepth
	coming := map[string]int{} // the actions that runs of this batch will make, by entity
	for j, i := range asked {
		c, found := runs[i], facts[j]
		cause := causeOf(c, found)
		if cause.depth > c.run.Depth {
			c.run.Depth = cause.depth
			depths = append(depths, db.LoopDepth{RunID: c.run.ID, Depth: cause.depth, CausedBy: cause.action()})
		}
		found.Recent += coming[asks[j].Entity]
		if steps[i] = loopStep(c, asks[j], found, cause); steps[i] == nil && asks[j].Most > 0 {
			coming[asks[j].Entity]++
		}
	}
	if err := tx.LoopDepths(ctx, depths); err != nil {
		return nil, fmt.Errorf("keep how deep runs stand: %w", err)
	}
	told := map[string]bool{}
	for i, c := range runs {
		step, subject := steps[i], loopSubject(c)
		if step == nil || told[subject] {
			continue
		}
		told[subject] = true
		if err := loopAlert(ctx, tx, c, *step); err != nil {
			return nil, fmt.Errorf("tell of a loop: %w", err)
		}
	}
	return steps, nil
}

// loopAskOf says what must be looked up of a run; of most there is nothing, or no more than the number of actions on its entity.
func loopAskOf(c *claimed) (db.LoopAsk, bool) {
	if c.automation == nil || c.stored == nil {
		return db.LoopAsk{}, false // it ends for another reason
	}
	ask := db.LoopAsk{Entity: c.event.Entity}
	if c.run.Depth == 0 {
		// Where one delivery held several events, a name in one of them says nothing of the others.
		ask.Keys, ask.Runs = marksIn(c.stored.Seen(), c.stored.Headers, []byte(c.event.SourceEventID))
		ask.Actors = actorsOf(c.event.Source, sendersOf(c.event.Source, c.payload))
	}
	if c.run.Mode == automations.ModeLive && c.event.Entity != "" && c.acts() {
		ask.Most = c.automation.Loop().ActionsPerHour
	}
	return ask, len(ask.Keys) > 0 || len(ask.Runs) > 0 || len(ask.Actors) > 0 || ask.Most > 0
}

// acts says whether a run of the automation makes an effect.
func (c *claimed) acts() bool {
	params, err := actionParams(c.automation.Spec().Action)
	return err == nil && params.Kind != "none"
}

// marksIn finds the names of actions and runs in what came with an event: the keys that our effects bear, and the ids of runs that stand in them,
// each once, up to marksMax of either. What only looks like one is not found in the database, and says nothing.
func marksIn(texts ...[]byte) (keys []string, runs []uuid.UUID) {
	for _, text := range texts {
		// The one byte that all names have is found faster than their prefixes are.
		for at := bytes.IndexByte(text, '_'); at >= 0; at = bytes.IndexByte(text, '_') {
			key, run := bytes.HasSuffix(text[:at], []byte(keyPrefix)), bytes.HasSuffix(text[:at], []byte(tenants.RunPrefix))
			text = text[at+1:]
			if !key && !run {
				continue
			}
			digits := leadingDigits(text)
			if len(digits) != markDigits {
				continue
			}
			if key && len(keys) < marksMax {
				keys = appendNew(keys, keyPrefix+"_"+digits)
			}
			if id, ok := tenants.ParseID(tenants.RunPrefix, tenants.RunPrefix+"_"+digits); run && ok && len(runs) < marksMax {
				runs = appendNew(runs, id)
			}
		}
	}
	return keys, runs
}

// leadingDigits are the lower-case hex digits that a text begins with: no more of them than tell that there are too many.
func leadingDigits(text []byte) string {
	n := 0
	for n < len(text) && n <= markDigits && strings.IndexByte("0123456789abcdef", text[n]) >= 0 {
		n++
	}
	return string(text[:n])
}

func appendNew[T comparable](list []T, item T) []T {
	if slices.Contains(list, item) {
		return list
	}
	return append(list, item)
}

// loopCause is why we believe that an event came of one of our own actions.
type loopCause struct {
	depth int
	// how is a sentence for people about it.
	how string
	of  *db.LoopCause
}

func (l loopCause) action() *uuid.UUID {
	if l.of == nil {
		return nil
	}
	return &l.of.ActionID
}

// causeOf weighs what was found: of the marker and the sender, whatever stands deeper in the chain. Depth 0 is an event that we did not cause.
func causeOf(c *claimed, found db.LoopFacts) loopCause {
	cause := loopCause{depth: c.run.Depth}
	if cause.depth > 0 {
		cause.how = "Its event was caused by one of our own actions." // told when it was first claimed
	}
	if found.Marked != nil {
		cause = loopCause{
			depth: found.Marked.Depth + 1, of: found.Marked,
			how: "Its event was caused by " + named(*found.Marked) + ", whose name stands in it.",
		}
	}
	if found.CredentialID == nil {
		return cause
	}
	sent := fmt.Sprintf("Its event was sent by %s, who is the actor of %s", senderShown(c.event.Source, c.payload),
		tenants.FormatID(tenants.CredentialPrefix, *found.CredentialID))
	switch {
	case found.Latest != nil && found.Latest.Depth+1 > cause.depth:
		cause = loopCause{depth: found.Latest.Depth + 1, of: found.Latest, how: sent + "; our last action about the same entity was " + named(*found.Latest) + "."}
	case cause.depth == 0:
		cause = loopCause{depth: 1, how: sent + "."}
	}
	return cause
}

func named(l db.LoopCause) string {
	return tenants.FormatID(tenants.ActionPrefix, l.ActionID) + " of " + tenants.FormatID(tenants.RunPrefix, l.RunID)
}

// loopStep skips a run that stands too deep, or whose entity has seen too many actions.
func loopStep(c *claimed, ask db.LoopAsk, found db.LoopFacts, cause loopCause) *db.RunStep {
	limits := c.automation.Loop()
	step := &db.RunStep{Status: db.RunSkipped}
	switch {
	case cause.depth > limits.Depth:
		step.Reason = reasonLoopDepth
		step.Detail = fmt.Sprintf("%s That makes a chain of %d of our own actions, and the automation goes on after %d at most.", cause.how, cause.depth, limits.Depth)
	case ask.Most > 0 && found.Recent >= ask.Most:
		step.Reason = reasonLoopRate
		step.Detail = fmt.Sprintf("There were %d automatic actions about %s within an hour, which is the most for this automation: another bot may be answering ours.",
			ask.Most, ask.Entity)
	default:
		return nil
	}
	return step
}
