package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// Rejection is how many deliveries to an endpoint were refused for one reason within one minute.
type Rejection struct {
	EndpointID string          `json:"endpoint_id"`
	Reason     string          `json:"reason" example:"signature.mismatch"`
	Minute     time.Time       `json:"minute"`
	Count      int64           `json:"count"`
	Sample     json.RawMessage `json:"sample" doc:"what is known of the first of them"`
	FirstAt    time.Time       `json:"first_at"`
	LastAt     time.Time       `json:"last_at"`
}

func toRejection(r db.Rejection) Rejection {
	return Rejection{
		EndpointID: tenants.FormatID(tenants.EndpointPrefix, r.EndpointID), Reason: r.Reason, Minute: r.Minute.UTC(), Count: r.Count, Sample: r.Sample,
		FirstAt: r.FirstAt.UTC(), LastAt: r.LastAt.UTC(),
	}
}

type rejectionListInput struct {
	Caller
	Page

	EndpointID string    `query:"endpoint_id" doc:"end_..."`
	Reason     string    `query:"reason" maxLength:"100"`
	Since      time.Time `query:"since" doc:"from this time on"`
	Until      time.Time `query:"until" doc:"before this time"`
}

func (a *API) registerRejections() {
	register(a, viewerRole, huma.Operation{
		OperationID: "list-rejections", Method: http.MethodGet, Path: "/v1/rejections", Tags: []string{"Events"},
		Summary: "List refused deliveries", Description: "Counted by endpoint, reason and minute, newest first, with a sample of the first of each.",
	}, a.rejectionList)
}

// rejectionCursor is where a page of rejections ended. Neither a time nor an id nor a reason holds a bar.
func rejectionCursor(r db.Rejection) string {
	return r.Minute.UTC().Format(time.RFC3339) + "|" + r.EndpointID.String() + "|" + r.Reason
}

func rejectionPage(p *Page) (db.RejectionPage, error) {
	page := db.RejectionPage{Limit: p.Limit + 1}
	text, err := p.text()
	if err != nil || text == "" {
		return page, err
	}
	parts := strings.SplitN(text, "|", 3)
	if len(parts) != 3 || strings.ContainsRune(parts[2], 0) {
		return page, invalidAt("query.cursor", errCursor)
	}
	minute, timeErr := time.Parse(time.RFC3339, parts[0])
	id, idErr := uuid.Parse(parts[1])
	if timeErr != nil || idErr != nil {
		return page, invalidAt("query.cursor", errCursor)
	}
	page.Minute, page.EndpointID, page.Reason = minute, id, strings.ToValidUTF8(parts[2], "")
	return page, nil
}

func (a *API) rejectionList(ctx context.Context, in *rejectionListInput) (*listed[Rejection], error) {
	page, err := rejectionPage(&in.Page)
	if err != nil {
		return nil, err
	}
	filter := db.RejectionFilter{Reason: in.Reason, Since: given(in.Since), Until: given(in.Until)}
	var ok bool
	if filter.EndpointID, ok = filterID(tenants.EndpointPrefix, in.EndpointID); !ok {
		return pageOf[db.Rejection](nil, in.Limit, toRejection, rejectionCursor), nil
	}
	var rows []db.Rejection
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		rows, err = tx.RejectionList(ctx, filter, page)
		return err
	})
	return pageOf(rows, in.Limit, toRejection, rejectionCursor), err
}

// given is a time that may be absent.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// filterID reads an id to filter by. What is no id at all matches nothing, as an id does that is unknown or another tenant's: not ok.
func filterID(prefix, text string) (*uuid.UUID, bool) {
	if text == "" {
		return nil, true
	}
	id, ok := tenants.ParseID(prefix, text)
	return &id, ok
}
