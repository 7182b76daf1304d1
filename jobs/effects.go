package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/action"
	"sluice/tenants"
)

// Concluded is a run with its output: the model's, or what a person made of it.
type Concluded struct {
	Run        db.Run
	Automation *automations.Compiled
	Event      db.Event
	Payload    any // as templates see it
	Output     any
	At         time.Time
}

// EffectFault says why what is to be sent cannot be prepared: Reason is for machines, the text for people.
type EffectFault struct{ Reason, Detail string }

// Error is the sentence for people.
func (f *EffectFault) Error() string { return f.Detail }

// Effect prepares what is to be sent of a run, as an action to be kept: intended where the run is live, proposed where a person is to approve it, and
// withheld, for ever, where it is in shadow mode. nil: nothing is to be sent. Every error is an *EffectFault.
func Effect(actions *action.Set, c Concluded) (*db.Action, error) {
	spec := c.Automation.Spec()
	named, err := actionParams(spec.Action)
	if err != nil {
		return nil, &EffectFault{reasonAutomation, err.Error()}
	}
	connector, ok := actions.Get(named.Kind)
	if !ok {
		return nil, &EffectFault{reasonAutomation, "There is no connector " + named.Kind + "."}
	}
	if named.Kind == action.KindNone {
		return nil, nil //nolint:nilnil // the outcome is kept, and nothing is sent
	}
	params, faults := action.Read(connector.Spec(), action.Filled(connector.Spec(), spec.Action))
	if len(faults) > 0 {
		return nil, &EffectFault{action.CodeInvalid, "The action cannot be prepared: " + faults[0].Place + ": " + faults[0].Message}
	}
	rendered, err := c.Automation.ActionFields(EventOf(c.Event), c.Payload, c.Output)
	if err != nil {
		return nil, &EffectFault{reasonActionBody, "The action cannot be rendered: " + err.Error()}
	}
	maps.Copy(params.Texts, rendered)
	effect, err := connector.Prepare(params, action.Input{
		RunID: tenants.FormatID(tenants.RunPrefix, c.Run.ID), EventID: tenants.FormatID(tenants.EventPrefix, c.Event.ID),
		AutomationID:      tenants.FormatID(tenants.AutomationPrefix, c.Run.AutomationID),
		AutomationVersion: c.Run.AutomationVersion, EventType: c.Event.Type, Entity: c.Event.Entity, Depth: c.Run.Depth, Mode: c.Run.Mode,
		Output: c.Output, At: c.At,
	})
	if err != nil {
		if e, ok := errors.AsType[*action.Error](err); ok {
			return nil, &EffectFault{e.Code, "The action cannot be prepared: " + e.Error()}
		}
		return nil, &EffectFault{action.CodeInvalid, "The action cannot be prepared."}
	}
	kept, err := json.Marshal(effect)
	if err != nil {
		return nil, &EffectFault{action.CodeInvalid, "The action cannot be kept."}
	}
	a := &db.Action{
		ID: tenants.NewID(), RunID: c.Run.ID, Kind: named.Kind, Key: effectKey(c.Run, named.Kind, effect), Target: effect.Target,
		Effect: kept, State: db.ActionWithheld, Entity: c.Event.Entity, Updates: effect.Update,
	}
	if id, ok := tenants.ParseID(tenants.CredentialPrefix, named.CredentialID); ok {
		a.CredentialID = &id
	}
	switch c.Run.Mode {
	case automations.ModeLive:
		a.State = db.ActionIntended
	case automations.ModeReview:
		a.State = db.ActionProposed
	}
	return a, nil
}

// effectKey names an effect by the event, the automation and the target: however often it is tried, and whichever run tries it, it is the same name. A
// forced run's is its own.
func effectKey(run db.Run, kind string, effect action.Effect) string {
	of := run.EventID.String() + "\x00" + run.AutomationID.String()
	if run.Forced {
		of = run.ID.String()
	}
	target := effect.URL
	if target == "" {
		target = effect.Target
	}
	return keyOf(of, kind, target)
}

// AnotherKey names an effect that a person wants made once more, by the action that it repeats and by its own id.
func AnotherKey(a db.Action, id uuid.UUID) string { return keyOf(a.Key, id.String()) }

func keyOf(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		_, _ = fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return keyPrefix + "_" + hex.EncodeToString(sum.Sum(nil)[:markDigits/2])
}
