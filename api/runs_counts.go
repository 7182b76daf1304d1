package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/tenants"
)

// RunWanted is which runs a list is about: those that all of it holds for.
type RunWanted struct {
	EventID      string    `query:"event_id" doc:"evt_..."`
	AutomationID string    `query:"automation_id" doc:"aut_..."`
	EndpointID   string    `query:"endpoint_id" doc:"end_..."`
	Status       string    `query:"status" enum:"queued,running,waiting,held,in_review,acting,done,skipped,dead,cancelled" doc:"dead is the dead-letter list"`
	Reason       string    `query:"reason" maxLength:"100" doc:"a whole reason, or how it begins with a star behind it" example:"action.*"`
	Type         string    `query:"type" maxLength:"512" doc:"that of the event" example:"issues.opened"`
	Entity       string    `query:"entity" maxLength:"1024" doc:"that of the event" example:"issue:1234"`
	Since        time.Time `query:"since" doc:"made from this time on"`
	Until        time.Time `query:"until" doc:"made before this time"`
}

// filter is what the database is asked for; not possible where an id is none, so that nothing can match.
func (w *RunWanted) filter() (f db.RunFilter, possible bool) {
	f = db.RunFilter{Status: w.Status, Reason: w.Reason, Type: w.Type, Entity: w.Entity, Since: given(w.Since), Until: given(w.Until)}
	var okEvent, okAutomation, okEndpoint bool
	f.EventID, okEvent = filterID(tenants.EventPrefix, w.EventID)
	f.AutomationID, okAutomation = filterID(tenants.AutomationPrefix, w.AutomationID)
	f.EndpointID, okEndpoint = filterID(tenants.EndpointPrefix, w.EndpointID)
	return f, okEvent && okAutomation && okEndpoint
}

// RunCounts are runs, counted.
type RunCounts struct {
	Data []RunCount `json:"data" doc:"the most first; at most 1000 rows"`
}

// RunCount is how many runs of an automation stand in one status for one reason.
type RunCount struct {
	Status       string    `json:"status" enum:"queued,running,waiting,held,in_review,acting,done,skipped,dead,cancelled"`
	Reason       string    `json:"reason" doc:"empty where a status needs none" example:"action.unauthorized"`
	AutomationID string    `json:"automation_id"`
	Count        int64     `json:"count"`
	OldestAt     time.Time `json:"oldest_at" doc:"when the first of them was made"`
	NewestAt     time.Time `json:"newest_at" doc:"when the last of them was made"`
}

func toRunCount(c db.RunCount) RunCount {
	return RunCount{
		Status: string(c.Status), Reason: c.Reason, AutomationID: tenants.FormatID(tenants.AutomationPrefix, c.AutomationID), Count: c.Count,
		OldestAt: c.OldestAt.UTC(), NewestAt: c.NewestAt.UTC(),
	}
}

type runCountsInput struct {
	Caller
	RunWanted
}

type runCountsOutput struct{ Body RunCounts }

// runCountsMax bounds the rows of a count.
const runCountsMax = 1000

func (a *API) registerRunCounts() {
	register(a, viewerRole, huma.Operation{
		OperationID: "count-runs", Method: http.MethodGet, Path: "/v1/runs/counts", Tags: []string{"Runs"}, Summary: "Count runs by status, reason and automation",
		Description: "With status=dead it says at a glance what is in the dead-letter list, and since when. The filters are those of the list.",
	}, a.runCounts)
}

func (a *API) runCounts(ctx context.Context, in *runCountsInput) (*runCountsOutput, error) {
	out := &runCountsOutput{Body: RunCounts{Data: []RunCount{}}}
	filter, possible := in.filter()
	if !possible {
		return out, nil
	}
	var rows []db.RunCount
	err := a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		rows, err = tx.RunCounts(ctx, filter, runCountsMax)
		return err
	})
	for _, row := range rows {
		out.Body.Data = append(out.Body.Data, toRunCount(row))
	}
	return out, err
}
