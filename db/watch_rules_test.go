package db_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// watched is a tenant with an endpoint and an automation, and a clock that stands until it is moved.
type watched struct {
	t                            *testing.T
	b                            *dbtest.Bundle
	now                          time.Time
	db                           *db.DB
	tenant, endpoint, automation uuid.UUID
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, b: dbtest.New(t), now: time.Now().UTC().Truncate(time.Hour).Add(30 * time.Minute)}
	w.db = w.b.DB.WithClock(func() time.Time { return w.now })
	w.tenant, w.endpoint, w.automation = w.plant("UTC")
	return w
}

// exec runs a statement as the superuser, without the triggers that hold a run to its steps.
func (w *watched) exec(sql string, arguments ...any) {
	w.t.Helper()
	_, err := w.b.Owner.Exec(w.t.Context(), sql, arguments...)
	require.NoError(w.t, err, sql)
}

// plant makes a tenant with an endpoint that lets a dead run block, and an automation.
func (w *watched) plant(zone string) (tenant, endpoint, automation uuid.UUID) {
	w.t.Helper()
	tenant, endpoint, automation = tenants.NewID(), tenants.NewID(), tenants.NewID()
	w.exec(`insert into sluice.tenants (tenant_id, name, time_zone) values ($1, 'x', $2)`, tenant, zone)
	w.exec(`insert into sluice.endpoints (tenant_id, id, name, source, token, settings) values ($1, $2, 'x', 'standard', $3, '{"order_dead": "block"}')`,
		tenant, endpoint, endpoint.String())
	w.exec(`insert into sluice.automations (tenant_id, id, endpoint_id, name) values ($1, $2, $3, 'x')`, tenant, automation, endpoint)
	w.exec(`insert into sluice.automation_versions (tenant_id, automation_id, version, spec) values ($1, $2, 1, '{"model": "scripted/echo-1"}')`, tenant, automation)
	return tenant, endpoint, automation
}

// run plants an event and a run of it as they were made at a moment; the run stands as it is told to.
func (w *watched) run(at time.Time, status, reason, ordering string) uuid.UUID {
	w.t.Helper()
	id := idAt(at)
	w.exec(`insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, body_bytes, body_sha256)
		values ($1, $2, $3, 'standard', $4, 'x', 0, '')`, w.tenant, id, w.endpoint, id.String())
	tx, err := w.b.Owner.Begin(w.t.Context())
	require.NoError(w.t, err)
	_, err = tx.Exec(w.t.Context(), `set local session_replication_role = replica`)
	require.NoError(w.t, err)
	_, err = tx.Exec(w.t.Context(), `insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority, status, reason,
		ordering, until, lease_until, finished_at) values ($1, $2, $2, $3, $4, 1, 'live', 'routine', $5, $6, $7, $8,
		case when $5 = 'running' then now() end, case when $5 in ('done', 'skipped', 'dead', 'cancelled') then $8::timestamptz end)`,
		w.tenant, id, w.endpoint, w.automation, status, reason, ordering, at)
	require.NoError(w.t, err)
	require.NoError(w.t, tx.Commit(w.t.Context()))
	return id
}

// idAt is a UUIDv7 of a moment.
func idAt(at time.Time) uuid.UUID {
	id := tenants.NewID()
	ms := at.UnixMilli()
	for i := range 6 {
		id[5-i] = byte(ms >> (8 * i))
	}
	return id
}

// system runs fn as the watcher does.
func system[T any](w *watched, fn func(tx db.SystemTx) (T, error)) T {
	w.t.Helper()
	var out T
	require.NoError(w.t, w.db.System(w.t.Context(), func(tx db.SystemTx) (err error) {
		out, err = fn(tx)
		return err
	}))
	return out
}

func (w *watched) settle(kind string, quiet time.Duration, seen ...db.AlertSeen) db.AlertsSettled {
	w.t.Helper()
	return system(w, func(tx db.SystemTx) (db.AlertsSettled, error) {
		return tx.AlertsSettle(w.t.Context(), kind, quiet, seen)
	})
}

// alerts are the tenant's, the oldest first, as "subject detail" with a + while open.
func (w *watched) alerts(tenant uuid.UUID) []string {
	w.t.Helper()
	var out []string
	require.NoError(w.t, w.db.Tenant(w.t.Context(), tenant, func(tx db.TenantTx) error {
		rows, err := tx.AlertList(w.t.Context(), false, db.Page{Limit: 100})
		for _, a := range rows {
			mark := ""
			if a.EndedAt == nil {
				mark = "+"
			}
			out = append([]string{a.Subject + " " + a.Detail + mark}, out...)
		}
		return err
	}))
	return out
}

func TestAlertsSettle_BeginsOnceAndEndsOnce(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	other, _, _ := w.plant("UTC")
	const quiet = 5 * time.Minute
	mine := func(detail string) db.AlertSeen {
		return db.AlertSeen{TenantID: w.tenant, Subject: "s", Detail: detail}
	}
	theirs := db.AlertSeen{TenantID: other, Subject: "s", Detail: "theirs"}
	w.settle("other", quiet, mine("kept apart"))
	steps := []struct {
		name  string
		after time.Duration
		seen  []db.AlertSeen
		want  db.AlertsSettled
		open  []string
	}{
		{"what only keeps begins nothing", 0, []db.AlertSeen{{TenantID: w.tenant, Subject: "s", KeepsOnly: true}}, db.AlertsSettled{}, nil},
		{"both begin, and what is said twice begins once", time.Second, []db.AlertSeen{mine("first"), mine("first"), theirs}, db.AlertsSettled{Began: 2}, []string{"s first+"}},
		{"it goes on", 5 * time.Second, []db.AlertSeen{mine("second"), theirs}, db.AlertsSettled{}, []string{"s first+"}},
		{"it is written to now and then", time.Minute, []db.AlertSeen{mine("third"), theirs}, db.AlertsSettled{}, []string{"s third+"}},
		{"it goes on for what only keeps", 4 * time.Minute, []db.AlertSeen{{TenantID: w.tenant, Subject: "s", Detail: "kept", KeepsOnly: true}, theirs}, db.AlertsSettled{}, []string{"s kept+"}},
		{"it is gone, but not for long", 4 * time.Minute, []db.AlertSeen{theirs}, db.AlertsSettled{}, []string{"s kept+"}},
		{"it is back: nobody was told", time.Second, []db.AlertSeen{mine("back"), theirs}, db.AlertsSettled{}, []string{"s back+"}},
		{"it is gone for long", quiet, []db.AlertSeen{theirs}, db.AlertsSettled{Ended: 1}, []string{"s back"}},
		{"it stays gone", quiet, []db.AlertSeen{theirs}, db.AlertsSettled{}, []string{"s back"}},
		{"it begins anew", time.Second, []db.AlertSeen{mine("again"), theirs}, db.AlertsSettled{Began: 1}, []string{"s back", "s again+"}},
	}
	for _, step := range steps {
		w.now = w.now.Add(step.after)
		require.Equal(t, step.want, w.settle("kind", quiet, step.seen...), step.name)
		require.Equal(t, append([]string{"s kept apart+"}, step.open...), w.alerts(w.tenant), step.name)
	}
	require.Equal(t, []string{"s theirs+"}, w.alerts(other))
}

func TestWatchDue_IsOnceInATime(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	due := func(name string) bool {
		return system(w, func(tx db.SystemTx) (bool, error) { return tx.WatchDue(t.Context(), name, 5*time.Second) })
	}
	require.True(t, due("one"))
	require.False(t, due("one"))
	require.True(t, due("two"))
	w.now = w.now.Add(5 * time.Second)
	require.True(t, due("one"))
	// While one looks, nobody else does, however late it is.
	w.now = w.now.Add(time.Hour)
	require.NoError(t, w.db.System(t.Context(), func(tx db.SystemTx) error {
		mine, err := tx.WatchDue(t.Context(), "one", time.Second)
		require.True(t, mine)
		require.False(t, due("one"))
		return err
	}))
}

func TestLimitsUsed_CountsOnlyTheWindowThatIsOpenAndTheRaisesThatHold(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	set := func(limits, places, budgets string) {
		w.exec(`delete from sluice.limit_raises`)
		w.exec(`update sluice.limits set events_per_hour_soft = null, events_per_hour_hard = null, tokens_per_day_soft = null, tokens_per_day_hard = null,
			cost_per_day_soft = null, cost_per_day_hard = null, cost_per_month_soft = null, cost_per_month_hard = null`)
		w.exec(`update sluice.places set hour_until = $1, hour_events = 0, holding = false`, w.now.Add(time.Hour))
		w.exec(`update sluice.budgets set day_until = $1, month_until = $1, day_tokens = 0, day_pico = 0, month_pico = 0, holding = ''`, w.now.Add(time.Hour))
		for table, change := range map[string]string{"limits": limits, "places": places, "budgets": budgets} {
			if change != "" {
				w.exec(`update sluice.` + table + ` set ` + change)
			}
		}
	}
	found := func() []string {
		var out []string
		for _, u := range system(w, func(tx db.SystemTx) ([]db.LimitUse, error) { return tx.LimitsUsed(t.Context(), 0.5) }) {
			require.Equal(t, w.tenant, u.TenantID)
			out = append(out, fmt.Sprintf("%s %s %s %d %t", u.Name, number(u.Soft), number(u.Hard), u.Used, u.Holding))
		}
		return out
	}
	cases := []struct {
		name, limits, places, budgets string
		raise                         string
		want                          []string
	}{
		{name: "no limit", places: "hour_events = 1000000", budgets: "day_pico = 1000000"},
		{name: "below a half", limits: "events_per_hour_hard = 100", places: "hour_events = 49"},
		{name: "a half", limits: "events_per_hour_hard = 100", places: "hour_events = 50", want: []string{"events_per_hour - 100 50 false"}},
		{name: "a half of the soft one", limits: "events_per_hour_hard = 100, events_per_hour_soft = 20", places: "hour_events = 10", want: []string{"events_per_hour 20 100 10 false"}},
		{name: "an hour that is over", limits: "events_per_hour_hard = 100", places: "hour_events = 100, hour_until = '2020-01-01'"},
		{name: "a day that is over", limits: "cost_per_day_hard = 100", budgets: "day_pico = 100, day_until = '2020-01-01'"},
		{
			name: "all four", limits: "events_per_hour_soft = 4, tokens_per_day_hard = 4, cost_per_day_hard = 4, cost_per_month_hard = 4", places: "hour_events = 2",
			budgets: "day_tokens = 2, day_pico = 3, month_pico = 4",
			want:    []string{"cost_per_day_usd - 4 3 false", "cost_per_month_usd - 4 4 false", "events_per_hour 4 - 2 false", "tokens_per_day - 4 2 false"},
		},
		{name: "held with little used", limits: "cost_per_day_hard = 100", budgets: "day_pico = 1, holding = 'limit.cost_per_day'", want: []string{"cost_per_day_usd - 100 1 true"}},
		{name: "held for another", limits: "cost_per_day_hard = 100", budgets: "day_pico = 1, holding = 'limit.cost_per_month'"},
		{name: "raised", limits: "cost_per_day_hard = 100", budgets: "day_pico = 90", raise: "1 hour"},
		{name: "a raise that ended", limits: "cost_per_day_hard = 100", budgets: "day_pico = 90", raise: "-1 second", want: []string{"cost_per_day_usd - 100 90 false"}},
		{name: "nothing of nothing", limits: "cost_per_day_hard = 0"},
	}
	for _, c := range cases {
		set(c.limits, c.places, c.budgets)
		if c.raise != "" {
			w.exec(`insert into sluice.limit_raises (tenant_id, id, name, value, until) values ($1, gen_random_uuid(), 'cost_per_day_usd', 1000, $2::timestamptz + $3::interval)`,
				w.tenant, w.now, c.raise)
		}
		require.Equal(t, c.want, found(), c.name)
	}
}

func number(n *int64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func TestRunsStopped_SaysEachReasonOnce(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	found := func() []db.Stopped {
		out := system(w, func(tx db.SystemTx) ([]db.Stopped, error) { return tx.RunsStopped(t.Context()) })
		for i := range out {
			require.Equal(t, "scripted/echo-1", out[i].Model)
			out[i].Model, out[i].Until = "", nil
		}
		return out
	}
	require.Empty(t, found())
	held := w.run(w.now, "held", "limit.cost_per_day", "none")
	for range 5 {
		w.run(w.now, "held", "limit.cost_per_day", "none")
		w.run(w.now, "held", "limit.events_per_hour", "none")
		w.run(w.now, "waiting", "provider.breaker_open", "none")
		w.run(w.now, "waiting", "order.behind", "none")
		w.run(w.now, "dead", "provider.breaker_open", "none")
		w.run(w.now, "queued", "", "none")
	}
	first := w.tenant
	w.tenant, w.endpoint, w.automation = w.plant("UTC")
	w.run(w.now, "held", "limit.cost_per_day", "none")
	require.ElementsMatch(t, []db.Stopped{
		{TenantID: first, Reason: "limit.cost_per_day"}, {TenantID: first, Reason: "limit.events_per_hour"}, {TenantID: first, Reason: "provider.breaker_open"},
		{TenantID: w.tenant, Reason: "limit.cost_per_day"},
	}, found())
	w.exec(`update sluice.runs set status = 'queued', reason = '' where status = 'held' and id <> $1`, held)
	require.ElementsMatch(t, []db.Stopped{{TenantID: first, Reason: "limit.cost_per_day"}, {TenantID: first, Reason: "provider.breaker_open"}}, found())
}

func TestRunsDied_TellsOfEachDeathSinceTheLastLook(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	died := func() []db.Subject {
		return system(w, func(tx db.SystemTx) ([]db.Subject, error) { return tx.RunsDied(t.Context()) })
	}
	one := []db.Subject{{TenantID: w.tenant, ID: w.automation, Text: "output.schema"}}
	w.run(w.now.Add(-11*time.Minute), "dead", "output.schema", "none")
	require.Empty(t, died(), "too long ago")
	w.run(w.now.Add(-9*time.Minute), "dead", "output.schema", "none")
	require.Empty(t, died(), "before the last look")
	w.exec(`delete from sluice.watch_marks`)
	require.Equal(t, one, died(), "nobody looked")
	require.Empty(t, died(), "looked at already")
	w.now = w.now.Add(5 * time.Second)
	w.run(w.now.Add(-20*time.Second), "dead", "output.schema", "none")
	require.Equal(t, one, died(), "it was committed late")
	w.now = w.now.Add(time.Minute)
	require.Equal(t, one, died(), "what was just before the last look is told again")
	require.Empty(t, died())
}

func TestCredentialsPausedAndRunsBlocking(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	paused := func() []db.Subject {
		return system(w, func(tx db.SystemTx) ([]db.Subject, error) { return tx.CredentialsPaused(t.Context()) })
	}
	blocking := func() []db.Subject {
		return system(w, func(tx db.SystemTx) ([]db.Subject, error) { return tx.RunsBlocking(t.Context()) })
	}
	require.Empty(t, paused())
	credential := tenants.NewID()
	w.exec(`insert into sluice.credentials (tenant_id, id, name, kind, sealed, last4) values ($1, $2, 'x', 'x', '', '')`, w.tenant, credential)
	require.Empty(t, paused())
	w.exec(`update sluice.credentials set paused_at = now(), paused_reason = 'refused'`)
	require.Equal(t, []db.Subject{{TenantID: w.tenant, ID: credential, Text: "refused"}}, paused())

	w.run(w.now, "dead", "x", "none")
	w.run(w.now, "waiting", "x", "serial")
	require.Empty(t, blocking())
	w.run(w.now, "dead", "x", "serial")
	require.Equal(t, []db.Subject{{TenantID: w.tenant, ID: w.endpoint}}, blocking())
	w.exec(`update sluice.endpoints set settings = '{"order_dead": "pass"}'`)
	require.Empty(t, blocking(), "the endpoint lets it pass")
}
