package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

// AlertChannel is where alerts are told, without what is secret of it.
type AlertChannel struct {
	ID        string     `json:"id" example:"chn_01980000000070008000000000000000"`
	Name      string     `json:"name"`
	Kind      string     `json:"kind" enum:"webhook,slack,email"`
	Target    string     `json:"target" doc:"where it goes: an address of e-mail, or a URL without its path, which may hold a secret" example:"https://hooks.example.com/***"`
	Kinds     []string   `json:"kinds" doc:"the kinds of alerts that are told here; empty is all"`
	CreatedAt time.Time  `json:"created_at"`
	LastAt    *time.Time `json:"last_at" doc:"when something was last told here, or tried to be; null if never"`
	LastFault string     `json:"last_fault" doc:"why that did not succeed; empty if it did"`
}

// version is always 1: a channel cannot be changed.
func (AlertChannel) version() int { return 1 }

// NewAlertChannel is a channel that was just made.
type NewAlertChannel struct {
	AlertChannel

	Secret string `json:"secret,omitempty" doc:"of a webhook: what its signatures are checked with (Standard Webhooks), shown now and never again"`
}

// AlertChannelTest is a test that is on its way.
type AlertChannelTest struct {
	NoticeID string `json:"notice_id" doc:"the webhook-id, or the left part of the Message-ID, of what will arrive" example:"ntc_01980000000070008000000000000000"`
}

// version is always 1: a test cannot be changed.
func (AlertChannelTest) version() int { return 1 }

func toAlertChannel(c db.AlertChannel) AlertChannel {
	return AlertChannel{
		ID: tenants.FormatID(tenants.ChannelPrefix, c.ID), Name: c.Name, Kind: c.Kind, Target: c.Target, Kinds: c.Kinds, CreatedAt: c.CreatedAt.UTC(),
		LastAt: utc(c.LastAt), LastFault: c.LastFault,
	}
}

type alertChannelCreateInput struct {
	Caller
	Creating

	Body struct {
		Name    string   `json:"name" minLength:"1" maxLength:"100" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		Kind    string   `json:"kind" enum:"webhook,slack,email"`
		URL     string   `json:"url,omitempty" maxLength:"2048" doc:"of a webhook, or of an incoming webhook of Slack; it is sealed, and shown without its path" writeOnly:"true"`
		Address string   `json:"address,omitempty" maxLength:"254" doc:"of e-mail"`
		Kinds   []string `json:"kinds,omitempty" maxItems:"50" doc:"the kinds of alerts to tell here; none is all" example:"[\"rejections\"]"`
	}
}

type alertChannelListInput struct {
	Caller
	Page
}

type alertChannelGetInput struct {
	Caller
	Known

	ID string `path:"id" doc:"chn_..."`
}

type alertChannelDeleteInput struct {
	Caller

	ID string `path:"id" doc:"chn_..."`
}

type alertChannelTestInput struct {
	Caller
	Creating

	ID string `path:"id" doc:"chn_..."`
}

func (a *API) registerAlertChannels() {
	register(a, adminRole, huma.Operation{
		OperationID: "create-alert-channel", Method: http.MethodPost, Path: "/v1/alert-channels", Tags: []string{"Alerts"},
		DefaultStatus: http.StatusCreated, Summary: "Have alerts told somewhere",
		Description: "Each alert is told once when it begins and once when it ends. A webhook is posted {type, timestamp, data}: type is alert.began, alert.ended " +
			"or alert.test, data is the alert as GET /v1/alerts shows it, signed as Standard Webhooks says with a secret that is made here and shown once. " +
			"What does not answer 2xx is tried eight times over about an hour and a half; after a 410 never again. " +
			"The webhook-id is the same for every try. With 20 channels: 409 alert_channel.too_many.",
	}, a.alertChannelCreate)
	register(a, viewerRole, huma.Operation{
		OperationID: "list-alert-channels", Method: http.MethodGet, Path: "/v1/alert-channels", Tags: []string{"Alerts"}, Summary: "List alert channels",
	}, a.alertChannelList)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-alert-channel", Method: http.MethodGet, Path: "/v1/alert-channels/{id}", Tags: []string{"Alerts"}, Summary: "Read an alert channel",
	}, a.alertChannelGet)
	register(a, adminRole, huma.Operation{
		OperationID: "delete-alert-channel", Method: http.MethodDelete, Path: "/v1/alert-channels/{id}", Tags: []string{"Alerts"},
		Summary: "Delete an alert channel", Description: "What was still to be told there is not told any more.",
	}, a.alertChannelDelete)
	register(a, adminRole, huma.Operation{
		OperationID: "test-alert-channel", Method: http.MethodPost, Path: "/v1/alert-channels/{id}/test", Tags: []string{"Alerts"},
		DefaultStatus: http.StatusAccepted, Summary: "Send a test to an alert channel",
		Description: "It is sent once, as a job; what came of it stands in last_at and last_fault of the channel. Within a minute of the last test: " +
			"409 alert_channel.tested.",
	}, a.alertChannelTest)
}

// alertTarget says what is wrong with where a channel is to go, or what may be shown of it.
func (a *API) alertTarget(kind, address, email string) (target string, faults []Fault) {
	if kind == db.ChannelEmail {
		if address != "" {
			faults = append(faults, Fault{"body.url", "a channel of the kind email has no url"})
		}
		if err := jobs.CheckMailAddress(email); err != nil {
			faults = append(faults, Fault{"body.address", err.Error()})
		}
		return email, faults
	}
	if email != "" {
		faults = append(faults, Fault{"body.address", "a channel of the kind " + kind + " has no address, but a url"})
	}
	if err := a.deps.Actions.CheckURL(address); err != nil {
		return "", append(faults, Fault{"body.url", err.Error()})
	}
	u, err := url.Parse(address)
	if err != nil { // cannot be: it was just checked
		return "", append(faults, Fault{"body.url", "expected a URL"})
	}
	target = u.Scheme + "://" + u.Host
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		target += "/***"
	}
	return target, faults
}

// alertKindFaults are the kinds that no alert is of.
func alertKindFaults(kinds []string) (faults []Fault) {
	for i, kind := range kinds {
		if !slices.Contains(db.AlertKinds, kind) {
			faults = append(faults, Fault{fmt.Sprintf("body.kinds[%d]", i), "expected one of " + strings.Join(db.AlertKinds, ", ")})
		}
	}
	return faults
}

func (a *API) alertChannelCreate(ctx context.Context, in *alertChannelCreateInput) (*made[NewAlertChannel], error) {
	target, faults := a.alertTarget(in.Body.Kind, in.Body.URL, in.Body.Address)
	if err := invalid(append(faults, alertKindFaults(in.Body.Kinds)...)); err != nil {
		return nil, err
	}
	kinds := slices.Compact(slices.Sorted(slices.Values(in.Body.Kinds)))
	return create(ctx, a, in.Caller, in.Creating, in.Body, func(tx db.TenantTx) (NewAlertChannel, error) {
		to, secret := db.AlertAddress{URL: tenants.NewSecret(in.Body.URL), Email: tenants.NewSecret(in.Body.Address)}, ""
		if in.Body.Kind == db.ChannelWebhook {
			signer, ok := a.deps.Actions.Account("callback")
			if !ok {
				return NewAlertChannel{}, errors.New("make a webhook's secret: there is no account called callback")
			}
			var err error
			if secret, err = signer.NewSecret(); err != nil {
				return NewAlertChannel{}, err
			}
			to.Secret = tenants.NewSecret(secret)
		}
		c, err := tx.AlertChannelInsert(ctx, db.AlertChannel{Name: in.Body.Name, Kind: in.Body.Kind, Target: target, Kinds: kinds}, to)
		if errors.Is(err, db.ErrConflict) {
			return NewAlertChannel{}, conflict("alert_channel.too_many", fmt.Sprintf("A tenant can have %d alert channels. Delete one first.", db.AlertChannelsMax))
		}
		return NewAlertChannel{AlertChannel: toAlertChannel(c), Secret: secret}, err
	})
}

func (a *API) alertChannelList(ctx context.Context, in *alertChannelListInput) (*listed[AlertChannel], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.AlertChannel
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		rows, err = tx.AlertChannelList(ctx, page)
		return err
	})
	return pageOf(rows, in.Limit, toAlertChannel, func(c db.AlertChannel) string { return byID(c.ID) }), err
}

func (a *API) alertChannelGet(ctx context.Context, in *alertChannelGetInput) (*got[AlertChannel], error) {
	id, err := pathID(tenants.ChannelPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var c db.AlertChannel
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		c, err = tx.AlertChannelGet(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer(in.Known, toAlertChannel(c)), nil
}

func (a *API) alertChannelDelete(ctx context.Context, in *alertChannelDeleteInput) (*struct{}, error) {
	id, err := pathID(tenants.ChannelPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error { return tx.AlertChannelDelete(ctx, id) })
}

func (a *API) alertChannelTest(ctx context.Context, in *alertChannelTestInput) (*made[AlertChannelTest], error) {
	id, err := pathID(tenants.ChannelPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return create(ctx, a, in.Caller, in.Creating, nil, func(tx db.TenantTx) (AlertChannelTest, error) {
		notice, err := tx.NoticeTest(ctx, id, jobs.NoticeGrace)
		if errors.Is(err, db.ErrConflict) {
			return AlertChannelTest{}, conflict("alert_channel.tested", "This channel was tested within the last minute. What came of it stands in last_at and last_fault.")
		} else if err != nil {
			return AlertChannelTest{}, err
		}
		err = a.deps.Poster.PostNotices(ctx, tx.Pgx(), []db.NoticeRef{notice})
		return AlertChannelTest{NoticeID: tenants.FormatID(tenants.NoticePrefix, notice.ID)}, err
	})
}
