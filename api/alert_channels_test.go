package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

func webhookChannel(url string) map[string]any {
	return map[string]any{"name": "on call", "kind": "webhook", "url": url, "kinds": []string{"rejections", "missed.unreadable", "rejections"}}
}

func TestAlertChannelsShowNothingSecret(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	const secretURL = "https://hooks.slack.com/services/T0/B0/c4n4ry?key=c4n4ry"
	hook := b.call(of.admin, "POST", "/v1/alert-channels", webhookChannel("https://hooks.example.com:8443/c4n4ry")).is(201)
	secret := hook.text("secret")
	require.Regexp(t, `^whsec_[A-Za-z0-9+/=]{44}$`, secret)
	require.Equal(t, "https://hooks.example.com:8443/***", hook.text("target"))
	require.Equal(t, []any{"missed.unreadable", "rejections"}, hook.get("kinds"))
	slack := b.call(of.admin, "POST", "/v1/alert-channels", map[string]any{"name": "s", "kind": "slack", "url": secretURL}).is(201)
	require.NotContains(t, slack.object(), "secret", "Slack signs nothing")
	require.Equal(t, "https://hooks.slack.com/***", slack.text("target"))
	mail := b.call(of.admin, "POST", "/v1/alert-channels", map[string]any{"name": "m", "kind": "email", "address": "oncall@example.com"}).is(201)
	require.Equal(t, "oncall@example.com", mail.text("target"))
	bare := b.call(of.admin, "POST", "/v1/alert-channels", map[string]any{"name": "b", "kind": "webhook", "url": "https://hooks.example.com/"}).is(201)
	require.Equal(t, "https://hooks.example.com", bare.text("target"))

	all := b.call(of.viewer, "GET", "/v1/alert-channels", nil).is(200)
	require.Len(t, all.rows(), 4)
	one := b.call(of.viewer, "GET", "/v1/alert-channels/"+hook.text("id"), nil).is(200)
	var kept string
	require.NoError(t, b.Owner.QueryRow(t.Context(), `select string_agg(c::text || encode(sealed, 'escape'), ' ') from sluice.alert_channels c`).Scan(&kept))
	for _, text := range []string{string(all.body), string(one.body), string(slack.body), kept, b.log.String()} {
		require.NotContains(t, text, "c4n4ry")
		require.NotContains(t, text, secret)
	}
	require.Equal(t, []any{nil, ""}, []any{one.get("last_at"), one.get("last_fault")})
	b.call(of.viewer, "GET", "/v1/alert-channels/"+hook.text("id"), nil, "If-None-Match", one.header.Get("ETag")).is(304)

	b.call(of.admin, "DELETE", "/v1/alert-channels/"+hook.text("id"), nil).is(204)
	b.call(of.admin, "DELETE", "/v1/alert-channels/"+hook.text("id"), nil).refused(404, "not_found")
	b.call(of.viewer, "GET", "/v1/alert-channels/"+hook.text("id"), nil).refused(404, "not_found")
	other := b.tenant()
	for _, method := range []string{"GET", "DELETE"} {
		b.call(other.admin, method, "/v1/alert-channels/"+slack.text("id"), nil).refused(404, "not_found")
	}
	b.call(other.admin, "POST", "/v1/alert-channels/"+slack.text("id")+"/test", nil).refused(404, "not_found")
}

func TestAlertChannelsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	for name, c := range map[string]struct {
		body map[string]any
		want []string
	}{
		"kind":           {map[string]any{"name": "x", "kind": "fax"}, []string{"body.kind"}},
		"no url":         {map[string]any{"name": "x", "kind": "webhook"}, []string{"body.url"}},
		"plain http":     {map[string]any{"name": "x", "kind": "webhook", "url": "http://example.com/x"}, []string{"body.url"}},
		"private":        {map[string]any{"name": "x", "kind": "slack", "url": "https://10.0.0.1/x"}, []string{"body.url"}},
		"metadata":       {map[string]any{"name": "x", "kind": "webhook", "url": "https://169.254.169.254/"}, []string{"body.url"}},
		"user":           {map[string]any{"name": "x", "kind": "webhook", "url": "https://c4n4ry:c4n4ry@example.com/"}, []string{"body.url"}},
		"no address":     {map[string]any{"name": "x", "kind": "email"}, []string{"body.address"}},
		"bad address":    {map[string]any{"name": "x", "kind": "email", "address": "a@example.com\r\nBcc: c4n4ry@example.com"}, []string{"body.address"}},
		"both":           {map[string]any{"name": "x", "kind": "email", "address": "a@example.com", "url": "https://example.com"}, []string{"body.url"}},
		"both otherwise": {map[string]any{"name": "x", "kind": "slack", "address": "a@example.com", "url": "https://example.com"}, []string{"body.address"}},
		"kinds":          {map[string]any{"name": "x", "kind": "email", "address": "a", "kinds": []string{"rejections", "odd"}}, []string{"body.address", "body.kinds[1]"}},
		"control":        {map[string]any{"name": "x\n", "kind": "email", "address": "a@example.com"}, []string{"body.name"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := b.call(of.admin, "POST", "/v1/alert-channels", c.body).refused(422, "input.invalid")
			var found []string
			for location := range got.faults() {
				found = append(found, location)
			}
			require.ElementsMatch(t, c.want, found, "%s", got.body)
			require.NotContains(t, string(got.body), "c4n4ry")
		})
	}
}

func TestAlertChannelsAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	var all sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for i := range db.AlertChannelsMax + 5 {
		all.Go(func() {
			got := b.call(of.admin, "POST", "/v1/alert-channels", map[string]any{"name": fmt.Sprint(i), "kind": "email", "address": "a@example.com"})
			mu.Lock()
			defer mu.Unlock()
			statuses[got.status]++
		})
	}
	all.Wait()
	require.Equal(t, map[int]int{http.StatusCreated: db.AlertChannelsMax, http.StatusConflict: 5}, statuses)
	b.call(of.admin, "POST", "/v1/alert-channels", webhookChannel("https://hooks.example.com")).refused(409, "alert_channel.too_many")
}

func TestAlertChannelIsMadeOnceForAKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	first := b.call(of.admin, "POST", "/v1/alert-channels", webhookChannel("https://hooks.example.com/a"), "Idempotency-Key", "k").is(201)
	again := b.call(of.admin, "POST", "/v1/alert-channels", webhookChannel("https://hooks.example.com/a"), "Idempotency-Key", "k").is(201)
	require.JSONEq(t, string(first.body), string(again.body))
	b.call(of.admin, "POST", "/v1/alert-channels", webhookChannel("https://hooks.example.com/b"), "Idempotency-Key", "k").refused(422, "idempotency.key_reused")
	require.Len(t, b.call(of.viewer, "GET", "/v1/alert-channels", nil).is(200).rows(), 1)
}

func TestAlertChannelTestIsAJob(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	path := "/v1/alert-channels/" + b.call(of.admin, "POST", "/v1/alert-channels", webhookChannel("https://hooks.example.com/c4n4ry")).is(201).text("id") + "/test"
	notice := b.call(of.admin, "POST", path, nil, "Idempotency-Key", "k").is(202).text("notice_id")
	require.Equal(t, notice, b.call(of.admin, "POST", path, nil, "Idempotency-Key", "k").is(202).text("notice_id"))
	b.call(of.admin, "POST", path, nil).refused(409, "alert_channel.tested")
	id, ok := tenants.ParseID(tenants.NoticePrefix, notice)
	require.True(t, ok)
	var args map[string]any
	var raw []byte
	require.NoError(t, b.Owner.QueryRow(t.Context(), `select args from river.river_job where kind = 'notice' and queue = 'notices'`).Scan(&raw))
	require.NoError(t, json.Unmarshal(raw, &args))
	require.Equal(t, map[string]any{"tenant_id": of.uuid().String(), "notice_id": id.String(), "attempt": 0.0}, args)
}

// TestWebhooksTellAnAlertAsTheAPIShowsIt holds the two to each other: they are written in different rooms.
func TestWebhooksTellAnAlertAsTheAPIShowsIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	var alert db.Alert
	for _, ended := range []bool{false, true} {
		require.NoError(t, b.DB.Tenant(t.Context(), of.uuid(), func(tx db.TenantTx) error {
			if err := tx.AlertBegin(t.Context(), db.AlertRejections, "end_x", "Many <b>."); err != nil {
				return err
			}
			if ended {
				if err := tx.AlertEnd(t.Context(), db.AlertRejections, "end_x"); err != nil {
					return err
				}
			}
			rows, err := tx.AlertList(t.Context(), false, db.Page{Limit: 1})
			alert = rows[0]
			return err
		}))
		told, err := json.Marshal(jobs.TellAlert(alert))
		require.NoError(t, err)
		shown, err := json.Marshal(b.call(of.viewer, "GET", "/v1/alerts", nil).is(200).rows()[0])
		require.NoError(t, err)
		require.JSONEq(t, string(shown), string(told))
		require.Equal(t, ended, !strings.Contains(string(told), `"ended_at":null`))
	}
}
