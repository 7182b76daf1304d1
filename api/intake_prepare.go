package api

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"

	"go.opentelemetry.io/otel/trace"

	"sluice/api/source"
	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// keptDelivery is a delivery that is ready to be stored, with the jobs of each of its events.
type keptDelivery struct {
	delivery *db.Delivery
	posted   [][]jobs.RunArgs
}

// verdict is what an automation made of an event, as explain shows it.
type verdict struct {
	AutomationID string `json:"automation_id"`
	Trial        bool   `json:"trial,omitempty"`
	Name         string `json:"name"`
	Version      int    `json:"version"`
	Matched      bool   `json:"matched"`
	Reason       string `json:"reason"`
	Detail       string `json:"detail"`
}

// prepare names the events and asks every automation of the endpoint, all before the transaction begins.
func (in *intake) prepare(r *http.Request, d *delivery, events []source.Event) (*keptDelivery, error) {
	headers, err := json.Marshal(keptHeaders(r.Header, source.ProofHeader(d.endpoint.settings)))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(d.request.Body)
	e := d.endpoint
	kept := &keptDelivery{delivery: &db.Delivery{
		TenantID: e.TenantID, EndpointID: e.ID, Source: e.Source, Test: d.trial != nil, Headers: headers, Body: d.request.Body, BodySHA256: sum[:],
	}}
	if e.source.Kept != nil {
		kept.delivery.Body = e.source.Kept(d.request.Body)
	}
	if d.secret != nil {
		kept.delivery.SecretID = &d.secret.ID
	}
	if span := trace.SpanContextFromContext(r.Context()); span.HasTraceID() {
		kept.delivery.TraceID = span.TraceID().String()
	}
	for _, event := range events {
		document := event.Payload
		if document == nil {
			document = d.request.Body
		}
		// What cannot be read is refused at the door, and not found out by a worker; it is laid out only where an automation asks.
		var payload any
		if e.asks {
			payload, err = automations.DecodePayload(document)
		} else {
			err = automations.CheckPayload(document)
		}
		if err != nil {
			return nil, err
		}
		fresh := db.EventNew{
			ID: tenants.NewID(), SourceEventID: event.ID, Once: event.Once, Type: event.Type, Entity: event.Entity, Sequence: event.Sequence, Document: event.Payload,
		}
		if !event.OccurredAt.IsZero() {
			fresh.OccurredAt = &event.OccurredAt
		}
		kept.posted = append(kept.posted, in.ask(d, &fresh, payload))
		kept.delivery.Events = append(kept.delivery.Events, fresh)
	}
	return kept, nil
}

// ask lets every automation of the endpoint judge the event, and returns the jobs of the runs that it makes.
func (in *intake) ask(d *delivery, f *db.EventNew, payload any) (posted []jobs.RunArgs) {
	about := jobs.EventOf(db.Event{
		ID: f.ID, EndpointID: d.endpoint.ID, Source: d.endpoint.Source, SourceEventID: f.SourceEventID, Type: f.Type, Entity: f.Entity,
		Sequence: f.Sequence, OccurredAt: f.OccurredAt, ReceivedAt: d.request.ReceivedAt, Test: d.trial != nil,
	})
	order := d.endpoint.order
	if f.Entity == "" {
		order = db.Order{Mode: db.OrderNone}
	}
	verdicts := make([]verdict, 0, len(d.endpoint.asked))
	for _, a := range d.endpoint.asked {
		v := verdict{AutomationID: tenants.FormatID(tenants.AutomationPrefix, a.AutomationID), Version: a.Version}
		if a.fault != nil {
			v.Reason, v.Detail = "automation.invalid", a.fault.Error()
			verdicts = append(verdicts, v)
			continue
		}
		spec := a.compiled.Spec()
		v.Name, v.Trial = spec.Name, a.Draft == db.DraftTrial
		var err error
		v.Matched, err = a.compiled.Matches(about, payload)
		switch {
		case err != nil:
			v.Matched, v.Reason, v.Detail = false, "when.error", err.Error()
		case !v.Matched:
			v.Reason, v.Detail = "when.false", "Its when is false for this event: "+cut(spec.When, whenShownMax)
		default:
			priority, err := a.compiled.Priority(about, payload)
			if err != nil {
				v.Detail = "The priority is routine, since its expression failed: " + err.Error()
			}
			if v.Trial {
				posted = append(posted, trialRun(d, f, a))
				break
			}
			run := db.RunNew{ID: tenants.NewID(), AutomationID: a.AutomationID, AutomationVersion: a.Version, Mode: spec.Mode, Priority: priority, Ordering: order.Mode,
				AttemptsMax: a.compiled.Retry().Attempts, OverLimit: spec.OverLimit}
			f.Runs = append(f.Runs, run)
			job := jobs.RunArgs{TenantID: d.endpoint.TenantID, RunID: run.ID, Urgent: priority == automations.PriorityUrgent, Ordered: order.Mode != db.OrderNone, Posted: d.request.ReceivedAt}
			if order.Mode == db.OrderLatest && order.Window > 0 {
				job.NotBefore = d.request.ReceivedAt.Add(order.Window) // the rest of a burst may still come
			}
			posted = append(posted, job)
		}
		verdicts = append(verdicts, v)
	}
	f.Verdicts, _ = json.Marshal(verdicts) //nolint:errchkjson // texts, numbers and booleans always marshal
	return posted
}

// trialRun adds the run of a version on trial: beside the one in service, in no order, behind all others, and dropped where it is over a limit.
func trialRun(d *delivery, f *db.EventNew, a askedAutomation) jobs.RunArgs {
	run := db.RunNew{
		ID: tenants.NewID(), AutomationID: a.AutomationID, AutomationVersion: a.Version, Mode: db.ModeTrial, Priority: automations.PriorityRoutine,
		Ordering: db.OrderNone, AttemptsMax: a.compiled.Retry().Attempts, OverLimit: automations.OverDrop,
	}
	f.Runs = append(f.Runs, run)
	return jobs.RunArgs{TenantID: d.endpoint.TenantID, RunID: run.ID, Posted: d.request.ReceivedAt}
}

// whenShownMax is how much of a condition is shown of an event that it refused, in characters.
const whenShownMax = 200

func cut(text string, runesMax int) string {
	if runes := []rune(text); len(runes) > runesMax {
		return string(runes[:runesMax]) + "…"
	}
	return text
}
