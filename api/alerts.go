package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/tenants"
)

// Alert is a state worth a person's attention: one row from its beginning to its end.
type Alert struct {
	ID      string     `json:"id" example:"alt_01980000000070008000000000000000"`
	Kind    string     `json:"kind" doc:"rejections: a flood of refused deliveries; missed.unreadable: a source's list of deliveries cannot be read" example:"rejections"`
	Subject string     `json:"subject" doc:"the id of what it is about" example:"end_01980000000070008000000000000000"`
	Detail  string     `json:"detail" doc:"what was seen last, for a person"`
	BeganAt time.Time  `json:"began_at"`
	LastAt  time.Time  `json:"last_at" doc:"when it was last seen, to about a minute"`
	EndedAt *time.Time `json:"ended_at" doc:"null while it goes on"`
}

func toAlert(a db.Alert) Alert {
	return Alert{
		ID: tenants.FormatID(tenants.AlertPrefix, a.ID), Kind: a.Kind, Subject: a.Subject, Detail: a.Detail, BeganAt: a.BeganAt.UTC(),
		LastAt: a.LastAt.UTC(), EndedAt: utc(a.EndedAt),
	}
}

type alertListInput struct {
	Caller
	Page

	Open bool `query:"open" doc:"only those that have not ended"`
}

func (a *API) registerAlerts() {
	register(a, viewerRole, huma.Operation{
		OperationID: "list-alerts", Method: http.MethodGet, Path: "/v1/alerts", Tags: []string{"Alerts"},
		Summary: "List alerts", Description: "Newest first. An alert is one row, however often its state is seen until it ends.",
	}, a.alertList)
}

func (a *API) alertList(ctx context.Context, in *alertListInput) (*listed[Alert], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Alert
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		rows, err = tx.AlertList(ctx, in.Open, page)
		return err
	})
	return pageOf(rows, in.Limit, toAlert, func(al db.Alert) string { return byID(al.ID) }), err
}
