package api

import (
	"context"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/tenants"
)

// Event is one thing that happened in a source, verified and kept.
type Event struct {
	ID            string     `json:"id" example:"evt_01980000000070008000000000000000"`
	EndpointID    string     `json:"endpoint_id"`
	Source        string     `json:"source" example:"github"`
	SourceEventID string     `json:"source_event_id" doc:"the source's own id: the same on every retry of the source"`
	Type          string     `json:"type" example:"issues.opened"`
	Entity        string     `json:"entity,omitempty" doc:"what it is about" example:"issue:1234"`
	Sequence      *int64     `json:"sequence,omitempty" doc:"grows with each event of one entity, where the source says so"`
	OccurredAt    *time.Time `json:"occurred_at,omitempty" doc:"when it happened, as the source says"`
	ReceivedAt    time.Time  `json:"received_at"`
	Test          bool       `json:"test,omitempty" doc:"a sample that was sent with POST /v1/endpoints/{id}/test"`
	BodyBytes     int        `json:"body_bytes"`
	TraceID       string     `json:"trace_id,omitempty"`
}

// EventFull is an event with what was made of it.
type EventFull struct {
	Event

	Runs []RunSummary `json:"runs"`
}

// RunSummary is a run in one line.
type RunSummary struct {
	ID           string `json:"id"`
	AutomationID string `json:"automation_id"`
	Status       string `json:"status"`
	Reason       string `json:"reason,omitempty"`
}

func toEvent(e db.Event) Event {
	return Event{
		ID: tenants.FormatID(tenants.EventPrefix, e.ID), EndpointID: tenants.FormatID(tenants.EndpointPrefix, e.EndpointID), Source: e.Source,
		SourceEventID: e.SourceEventID, Type: e.Type, Entity: e.Entity, Sequence: e.Sequence, OccurredAt: utc(e.OccurredAt),
		ReceivedAt: e.ReceivedAt.UTC(), Test: e.Test, BodyBytes: e.BodyBytes, TraceID: e.TraceID,
	}
}

func toRunSummary(r db.Run) RunSummary {
	return RunSummary{
		ID: tenants.FormatID(tenants.RunPrefix, r.ID), AutomationID: tenants.FormatID(tenants.AutomationPrefix, r.AutomationID),
		Status: string(r.Status), Reason: r.Reason,
	}
}

type eventListInput struct {
	Caller
	Page

	EndpointID    string    `query:"endpoint_id" doc:"end_..."`
	Type          string    `query:"type" maxLength:"512" example:"issues.opened"`
	Entity        string    `query:"entity" maxLength:"1024" example:"issue:1234"`
	SourceEventID string    `query:"source_event_id" maxLength:"1024"`
	Status        string    `query:"status" enum:"queued,running,waiting,held,in_review,acting,done,skipped,dead,cancelled" doc:"events that have a run of this status"`
	Since         time.Time `query:"since" doc:"received from this time on"`
	Until         time.Time `query:"until" doc:"received before this time"`
}

type eventInput struct {
	Caller

	ID string `path:"id" doc:"evt_..."`
}

type eventOutput struct{ Body EventFull }

type payloadOutput struct {
	ContentType string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Policy      string `header:"Content-Security-Policy"`
	Body        []byte
}

func (a *API) registerEvents() {
	register(a, viewerRole, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/events", Tags: []string{"Events"}, Summary: "List events",
	}, a.eventList)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-event", Method: http.MethodGet, Path: "/v1/events/{id}", Tags: []string{"Events"}, Summary: "Read an event",
	}, a.eventGet)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-event-payload", Method: http.MethodGet, Path: "/v1/events/{id}/payload", Tags: []string{"Events"},
		Summary: "Read the raw body of an event, byte for byte as received",
		Responses: map[string]*huma.Response{"200": {Description: "the bytes, as the source sent them", Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}},
	}, a.eventPayload)
	register(a, viewerRole, huma.Operation{
		OperationID: "explain-event", Method: http.MethodGet, Path: "/v1/events/{id}/explain", Tags: []string{"Events"},
		Summary: "Tell everything that happened to an event", Description: "In order, with times, reasons, costs and the trace: why did the AI answer, or why not?",
	}, a.eventExplain)
}

func (a *API) eventList(ctx context.Context, in *eventListInput) (*listed[Event], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	filter := db.EventFilter{
		Type: in.Type, Entity: in.Entity, SourceEventID: in.SourceEventID, Status: in.Status, Since: given(in.Since), Until: given(in.Until),
	}
	var ok bool
	filter.EndpointID, ok = filterID(tenants.EndpointPrefix, in.EndpointID)
	var rows []db.Event
	if ok {
		err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
			rows, err = tx.EventList(ctx, filter, page)
			return err
		})
	}
	return pageOf(rows, in.Limit, toEvent, func(e db.Event) string { return byID(e.ID) }), err
}

func (a *API) eventGet(ctx context.Context, in *eventInput) (*eventOutput, error) {
	id, err := pathID(tenants.EventPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	out := &eventOutput{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		e, err := tx.EventGet(ctx, id)
		if err != nil {
			return err
		}
		out.Body = EventFull{Event: toEvent(e), Runs: []RunSummary{}}
		runs, err := runsOf(ctx, tx, id)
		for _, r := range runs {
			out.Body.Runs = append(out.Body.Runs, toRunSummary(r))
		}
		return err
	})
	return out, err
}

// payloadTypes are the types under which a stranger's bytes may be served; anything else is served as bytes and nothing more.
var payloadTypes = []string{"application/json", "application/x-www-form-urlencoded", "application/xml", "text/plain", "text/xml"}

// payloadType is the type that the source gave the body, if it is harmless.
func payloadType(headers json.RawMessage) string {
	var kept map[string]string
	if json.Unmarshal(headers, &kept) == nil {
		if kind, _, err := mime.ParseMediaType(kept["content-type"]); err == nil && slices.Contains(payloadTypes, kind) {
			return kind
		}
	}
	return "application/octet-stream"
}

func (a *API) eventPayload(ctx context.Context, in *eventInput) (*payloadOutput, error) {
	id, err := pathID(tenants.EventPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var p db.Payload
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		p, err = tx.EventPayload(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	// A stranger's bytes: a browser must keep them, not show them. nosniff is on every answer.
	return &payloadOutput{
		ContentType: payloadType(p.Headers), Disposition: `attachment; filename="` + in.ID + `"`, Policy: "default-src 'none'; sandbox", Body: p.Body,
	}, nil
}
