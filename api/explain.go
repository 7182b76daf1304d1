package api

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"sluice/automations"
	"sluice/db"
	"sluice/tenants"
)

// Explanation is everything that happened to an event.
type Explanation struct {
	Event    Event     `json:"event"`
	Status   string    `json:"status" doc:"no_automation, no_match, or what its runs have come to: working, waiting, held, in_review, done, shadow, skipped, dead, cancelled"`
	Summary  string    `json:"summary" doc:"one sentence for a person"`
	Timeline []Moment  `json:"timeline" doc:"in the order of time"`
	Verdicts []Verdict `json:"verdicts" doc:"what each automation of the endpoint made of the event when it came"`
	Runs     []RunFull `json:"runs"`
	CostUSD  string    `json:"cost_usd"`
	TraceID  string    `json:"trace_id,omitempty"`
}

// Verdict is what an automation made of an event.
type Verdict struct {
	AutomationID string `json:"automation_id"`
	Name         string `json:"name,omitempty"`
	Version      int    `json:"version"`
	Trial        bool   `json:"trial,omitempty" doc:"it is on trial beside the version in service"`
	Matched      bool   `json:"matched"`
	Reason       string `json:"reason,omitempty" doc:"why not: when.false, when.error, automation.invalid"`
	Detail       string `json:"detail,omitempty"`
}

// Moment is one thing that happened.
type Moment struct {
	At       time.Time  `json:"at"`
	What     string     `json:"what" doc:"event.received, run.<status>, call.intended, call.sent, call.<state>, review.approved, review.edited, review.rejected, review.expired, action.intended, action.sent, action.<outcome>" example:"run.waiting"`
	RunID    string     `json:"run_id,omitempty"`
	CallID   string     `json:"call_id,omitempty"`
	ActionID string     `json:"action_id,omitempty"`
	Status   int        `json:"status,omitempty" doc:"an HTTP status from outside"`
	Reason   string     `json:"reason,omitempty"`
	Detail   string     `json:"detail,omitempty"`
	Attempt  int        `json:"attempt,omitempty"`
	Until    *time.Time `json:"until,omitempty"`
	CostUSD  string     `json:"cost_usd,omitempty"`
	Receipt  *Receipt   `json:"receipt,omitempty"`
}

type explainOutput struct{ Body Explanation }

func (a *API) eventExplain(ctx context.Context, in *eventInput) (*explainOutput, error) {
	id, err := pathID(tenants.EventPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	out := &explainOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		e, err := tx.EventGet(ctx, id)
		if err != nil {
			return err
		}
		runs, err := runsOf(ctx, tx, id)
		if err != nil {
			return err
		}
		history, err := tx.RunHistory(ctx, id)
		if err != nil {
			return err
		}
		full := make([]RunFull, len(runs))
		cost := new(big.Int)
		for i, r := range runs {
			if full[i], err = runRead(ctx, tx, r); err != nil {
				return err
			}
			cost.Add(cost, big.NewInt(r.CostPico))
		}
		out.Body = explain(e, full, history)
		out.Body.CostUSD = usd(cost)
		return nil
	})
	return out, err
}

// explain puts together what was read.
func explain(e db.Event, runs []RunFull, history []db.RunMark) Explanation {
	out := Explanation{Event: toEvent(e), Runs: runs, Verdicts: []Verdict{}, TraceID: e.TraceID}
	_ = json.Unmarshal(e.Verdicts, &out.Verdicts) // written by the intake; what does not read is not told
	received := Moment{At: out.Event.ReceivedAt, What: "event.received", Detail: receivedDetail(out.Event)}
	out.Timeline = append(out.Timeline, received)
	for _, m := range history {
		out.Timeline = append(out.Timeline, Moment{
			At: m.At.UTC(), What: "run." + string(m.Status), RunID: tenants.FormatID(tenants.RunPrefix, m.RunID), Reason: m.Reason, Detail: m.Detail,
			Attempt: m.Attempt, Until: utc(m.Until),
		})
	}
	for _, r := range runs {
		if r.Review != nil {
			out.Timeline = append(out.Timeline, reviewMoment(r.ID, *r.Review))
		}
		for _, c := range r.Calls {
			out.Timeline = append(out.Timeline, callMoments(r.ID, c)...)
		}
		for _, one := range r.Actions {
			out.Timeline = append(out.Timeline, actionMoments(r.ID, one)...)
		}
	}
	// Stable: what has the same time stays in the order in which it must have happened.
	slices.SortStableFunc(out.Timeline, func(x, y Moment) int { return x.At.Compare(y.At) })
	out.Status, out.Summary = summary(out.Verdicts, runs)
	return out
}

func receivedDetail(e Event) string {
	kind := "An event"
	if e.Test {
		kind = "A test event"
	}
	if e.Type != "" {
		kind += " of the type " + e.Type
	}
	return fmt.Sprintf("%s came from %s, was verified, and kept.", kind, e.Source)
}

func callMoments(runID string, c Call) []Moment {
	model := c.Provider + "/" + c.ModelAsked
	// A call is kept at the moment in which it is sent; only those of before version 4 of the database were intended first, and may not have been sent.
	moments := []Moment{{At: c.CreatedAt, What: "call.intended", RunID: runID, CallID: c.ID, Detail: model + " is to be asked."}}
	if c.SentAt != nil {
		moments[0].At, moments[0].What, moments[0].Detail = *c.SentAt, "call.sent", model+" was asked."
	}
	if c.EndedAt == nil {
		return moments
	}
	end := Moment{At: *c.EndedAt, What: "call." + c.State, RunID: runID, CallID: c.ID, Reason: c.ErrorKind, Status: c.ErrorStatus, CostUSD: c.CostUSD}
	tokens := fmt.Sprintf("%d tokens in, %d out", c.InputUncached+c.InputCacheRead+c.InputCacheWrite5m+c.InputCacheWrite1h, c.OutputVisible+c.OutputReasoning)
	switch c.State {
	case db.CallReceived:
		end.Detail = fmt.Sprintf("%s answered: %s.", c.Provider+"/"+c.ModelServed, tokens)
		if c.UsageFault != "" {
			end.Detail += " The provider's count cannot be trusted (" + c.UsageFault + "), so this is an estimate."
		}
	case db.CallOrphaned:
		end.Detail = "There is no reply that can be used, and it may have been billed; what it can have cost at most is booked: " + tokens + "."
	default:
		end.Detail = model + " did not answer, and nothing was billed."
	}
	return append(moments, end)
}

const (
	actionProposed = "action.proposed"
	proposedDetail = "The effect is kept to be shown, and is sent only if it is approved."
)

func actionMoments(runID string, a Action) []Moment {
	what, detail := "action.intended", "The effect is to be made."
	switch a.State {
	case db.ActionWithheld:
		what, detail = "action.withheld", "The effect is kept to be shown, and is never sent."
	case db.ActionProposed:
		what, detail = actionProposed, proposedDetail
	}
	moments := []Moment{{At: a.CreatedAt, What: what, RunID: runID, ActionID: a.ID, Detail: detail}}
	if a.State == db.ActionWithheld && a.Reason != "" && a.EndedAt != nil {
		moments[0].What, moments[0].Detail = actionProposed, proposedDetail
		return append(moments, Moment{At: *a.EndedAt, What: what, RunID: runID, ActionID: a.ID, Reason: a.Reason, Detail: a.Detail})
	}
	for i, t := range a.Attempts {
		moments = append(moments, Moment{
			At: t.SentAt, What: "action.sent", RunID: runID, ActionID: a.ID, Attempt: t.Attempt, Detail: "Sent to " + orElse(a.Target, a.Kind) + ".",
		})
		if t.EndedAt == nil {
			continue
		}
		end := Moment{At: *t.EndedAt, What: "action.answered", RunID: runID, ActionID: a.ID, Attempt: t.Attempt, Status: t.Status, Reason: t.Reason, Detail: t.Detail}
		if i == len(a.Attempts)-1 && a.EndedAt != nil {
			end.What, end.Receipt = "action."+a.State, a.Receipt
		}
		moments = append(moments, end)
	}
	return moments
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// summary says in one word and one sentence what an event has come to. Of several runs the one that needs a person most speaks.
func summary(verdicts []Verdict, runs []RunFull) (status, sentence string) {
	if len(runs) == 0 {
		return unworked(verdicts)
	}
	worst := slices.MinFunc(runs, func(x, y RunFull) int { return urgency(x.Run) - urgency(y.Run) })
	status, sentence = told(worst)
	if len(runs) > 1 {
		sentence = fmt.Sprintf("Of %d runs, this one matters most: %s", len(runs), strings.ToLower(sentence[:1])+sentence[1:])
	}
	return status, sentence
}

// unworked says why an event has no run.
func unworked(verdicts []Verdict) (status, sentence string) {
	if len(verdicts) == 0 {
		return "no_automation", "The event was kept, but its endpoint had no enabled automation when it came, so nothing was done."
	}
	var why []string
	for _, v := range verdicts {
		why = append(why, fmt.Sprintf("%q (%s, version %d): %s", v.Name, v.AutomationID, v.Version, strings.TrimSuffix(orElse(v.Detail, v.Reason), ".")))
	}
	return "no_match", "The event was kept, but no automation wanted it: " + strings.Join(why, "; ") + "."
}

// urgency orders runs by how much they need a person: the smallest first.
func urgency(r Run) int {
	order := []db.RunStatus{
		db.RunDead, db.RunInReview, db.RunHeld, db.RunWaiting, db.RunRunning, db.RunActing, db.RunQueued, db.RunCancelled, db.RunSkipped, db.RunDone,
	}
	return slices.Index(order, db.RunStatus(r.Status))
}

// told says what one run has come to.
func told(r RunFull) (status, sentence string) {
	why := strings.TrimSuffix(orElse(r.Detail, r.Reason), ".")
	switch db.RunStatus(r.Status) {
	case db.RunQueued:
		if r.Order == db.OrderLatest && r.Attempt == 0 {
			return "working", "The event waits for the rest of a burst (order_window_seconds of the endpoint), and then for a free worker."
		}
		return "working", "The event waits for a free worker."
	case db.RunRunning:
		return "working", "The event is being worked on at this moment."
	case db.RunActing:
		next := ""
		if r.Until != nil {
			next = " It is tried again at " + r.Until.UTC().Format(time.RFC3339) + "."
		}
		return "working", "The model answered, and the effect is not confirmed yet: " + orElse(why, "it is being sent") + "." + next
	case db.RunWaiting, db.RunHeld:
		return r.Status, fmt.Sprintf("The run is %s%s: %s (%s).", r.Status, untilShown(r.Until), why, r.Reason)
	case db.RunInReview:
		return r.Status, "A person is to decide on the answer of the model (POST /v1/runs/" + r.ID + "/review)" + untilShown(r.Until) + "."
	case db.RunDone:
		return doneTold(r)
	default:
		return r.Status, fmt.Sprintf("The run is %s: %s (%s).", r.Status, why, r.Reason)
	}
}

func untilShown(until *time.Time) string {
	if until == nil {
		return ""
	}
	return " until " + until.UTC().Format(time.RFC3339)
}

func doneTold(r RunFull) (status, sentence string) {
	for _, one := range r.Actions {
		switch one.State {
		case db.ActionWithheld:
			if r.Mode != automations.ModeShadow {
				return "done", r.Detail
			}
			return "shadow", "The model answered; in shadow mode the effect is kept to be shown, and nothing left."
		case db.ActionConfirmed:
			return "done", "The model answered, and the effect was made: " + orElse(one.Target, one.Kind) + " took it."
		}
	}
	return "done", "The model answered, and its output is kept; there was nothing to send."
}
