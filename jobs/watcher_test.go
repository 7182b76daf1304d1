package jobs_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/jobs"
	"sluice/tenants"
)

// lookout is a tenant that is watched, and a clock that stands until it is moved. It is planted by SQL, so that any state can be had at once.
type lookout struct {
	t                                        *testing.T
	b                                        *dbtest.Bundle
	now                                      time.Time
	look                                     func(context.Context) error
	tenant, endpoint, automation, credential uuid.UUID
}

func newLookout(t *testing.T) *lookout {
	t.Helper()
	l := &lookout{
		t: t, b: dbtest.New(t), now: time.Date(2026, time.March, 4, 9, 30, 0, 0, time.UTC),
		tenant: tenants.NewID(), endpoint: tenants.NewID(), automation: tenants.NewID(), credential: tenants.NewID(),
	}
	l.look = jobs.WatchOnce(l.b.DB.WithClock(func() time.Time { return l.now }))
	l.exec(`insert into sluice.tenants (tenant_id, name) values ($1, 'x')`, l.tenant)
	l.exec(`insert into sluice.endpoints (tenant_id, id, name, source, token, settings) values ($1, $2, 'x', 'standard', 'x', '{"order_dead": "block"}')`, l.tenant, l.endpoint)
	l.exec(`insert into sluice.automations (tenant_id, id, endpoint_id, name) values ($1, $2, $3, 'x')`, l.tenant, l.automation, l.endpoint)
	l.exec(`insert into sluice.automation_versions (tenant_id, automation_id, version, spec) values ($1, $2, 1, '{"model": "scripted/echo-1"}')`, l.tenant, l.automation)
	l.exec(`insert into sluice.credentials (tenant_id, id, name, kind, sealed, last4) values ($1, $2, 'x', 'x', '', '')`, l.tenant, l.credential)
	l.exec(`insert into sluice.alert_channels (tenant_id, id, name, kind, target, sealed) values ($1, $1, 'x', 'email', 'x', '')`, l.tenant)
	return l
}

// exec runs a statement as the superuser, without the triggers that hold a run to its steps.
func (l *lookout) exec(sql string, arguments ...any) {
	l.t.Helper()
	_, err := l.b.Owner.Exec(l.t.Context(), sql, arguments...)
	require.NoError(l.t, err, sql)
}

// run plants a run.
func (l *lookout) run(status, reason, ordering string, ended *time.Time) {
	l.t.Helper()
	tx, err := l.b.Owner.Begin(l.t.Context())
	require.NoError(l.t, err)
	_, err = tx.Exec(l.t.Context(), `set local session_replication_role = replica`)
	require.NoError(l.t, err)
	id := tenants.NewID()
	_, err = tx.Exec(l.t.Context(), `insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority, status, reason,
		ordering, finished_at) values ($1, $2, $2, $3, $4, 1, 'live', 'routine', $5, $6, $7, $8)`, l.tenant, id, l.endpoint, l.automation, status, reason, ordering, ended)
	require.NoError(l.t, err)
	require.NoError(l.t, tx.Commit(l.t.Context()))
}

// after moves the clock, changes what is so, looks, and answers with the alerts that are open, by kind and subject.
func (l *lookout) after(d time.Duration, changes ...string) []string {
	l.t.Helper()
	l.now = l.now.Add(d)
	for _, sql := range changes {
		l.exec(sql)
	}
	require.NoError(l.t, l.look(l.t.Context()))
	require.NoError(l.t, l.look(l.t.Context()), "a second look at once")
	var open []string
	for _, a := range l.alerts() {
		if a.EndedAt == nil {
			open = append(open, a.Kind+" "+a.Subject)
		}
	}
	slices.Sort(open)
	return open
}

func (l *lookout) alerts() []db.Alert {
	l.t.Helper()
	var out []db.Alert
	require.NoError(l.t, l.b.DB.Tenant(l.t.Context(), l.tenant, func(tx db.TenantTx) (err error) {
		out, err = tx.AlertList(l.t.Context(), false, db.Page{Limit: 200})
		return err
	}))
	return out
}

// detail is the sentence of the newest alert of a subject.
func (l *lookout) detail(subject string) string {
	l.t.Helper()
	for _, a := range l.alerts() {
		if a.Subject == subject {
			return a.Detail
		}
	}
	return "none"
}

// told is how often alerts were told to begin and to end: once each.
func (l *lookout) told() {
	l.t.Helper()
	notices := map[string]int{}
	rows, err := l.b.Owner.Query(l.t.Context(), `select alert_id::text || ' ' || phase, count(*)::int from sluice.alert_notices group by 1`)
	require.NoError(l.t, err)
	defer rows.Close()
	for rows.Next() {
		var of string
		var n int
		require.NoError(l.t, rows.Scan(&of, &n))
		notices[of] = n
	}
	require.NoError(l.t, rows.Err())
	want := map[string]int{}
	for _, a := range l.alerts() {
		want[a.ID.String()+" began"] = 1
		if a.EndedAt != nil {
			want[a.ID.String()+" ended"] = 1
		}
	}
	require.Equal(l.t, want, notices)
}

func TestWatcher_TellsOfSharesOfALimit(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	const usd = "000000000000"
	raise := func(value string) string {
		return fmt.Sprintf(`insert into sluice.limit_raises (tenant_id, id, name, value, until) values ('%s', gen_random_uuid(), 'cost_per_day_usd', %s, '2026-03-04T20:00:00Z')`,
			l.tenant, value)
	}
	l.exec(`update sluice.limits set cost_per_day_hard = 10` + usd + `, cost_per_day_soft = 7` + usd)
	l.exec(`update sluice.budgets set day_until = '2026-03-05', month_until = '2026-04-01'`)
	used := func(usd string) string {
		return `update sluice.budgets set day_pico = ` + usd + `::numeric * 1000000000000`
	}
	const half, most, all, soft = "limit cost_per_day_usd:50", "limit cost_per_day_usd:80", "limit cost_per_day_usd:100", "limit cost_per_day_usd:soft"
	require.Empty(t, l.after(0))
	require.Empty(t, l.after(time.Second, used("4.99")))
	require.Equal(t, []string{half}, l.after(time.Second, used("5")))
	require.Equal(t, "50 % of the limit of 10 USD per day is used: 5 USD per day. The window turns at 2026-03-05T00:00:00Z.", l.detail("cost_per_day_usd:50"))
	require.Equal(t, []string{half, soft}, l.after(time.Second, used("7.000001")))
	require.Equal(t, []string{half, most, soft}, l.after(time.Second, used("8")))
	// Less than a call is left: runs are held, so the limit is reached.
	require.Equal(t, []string{all, half, most, soft}, l.after(time.Second, used("9.87"), `update sluice.budgets set holding = 'limit.cost_per_day'`))
	require.Contains(t, l.detail("cost_per_day_usd:100"), "9.87 USD per day is used, and what is left is too little")
	require.Equal(t, []string{all, half, most, soft}, l.after(10*time.Second, `update sluice.budgets set holding = ''`), "a small run was let through in between")
	require.Equal(t, []string{all, half, most, soft}, l.after(10*time.Second, `update sluice.budgets set holding = 'limit.cost_per_day'`))
	// It is raised: 9.87 of 15 are left over a half, and the soft limit is passed as before.
	l.after(time.Second, raise("15"+usd), `update sluice.budgets set holding = ''`)
	require.Equal(t, []string{half, soft}, l.after(2*time.Minute))
	// The raise ends at 20:00.
	require.Equal(t, []string{half, most, soft}, l.after(11*time.Hour))
	// The day turns.
	l.after(4 * time.Hour)
	require.Empty(t, l.after(2*time.Minute))
	require.Len(t, l.alerts(), 5, "each began once; four fifths twice, since it was raised in between")
	l.told()
	for _, a := range l.alerts() {
		require.NotNil(t, a.EndedAt)
	}

	// A soft limit alone; and an hour's events, of which the last is taken and the next is held.
	l.exec(`update sluice.limits set cost_per_day_hard = null, cost_per_day_soft = null, tokens_per_day_soft = 100, events_per_hour_hard = 3`)
	l.exec(`update sluice.places set hour_until = $1`, l.now.Add(time.Hour))
	l.exec(`update sluice.budgets set day_until = $1`, l.now.Add(24*time.Hour))
	const events = "limit events_per_hour:"
	require.Equal(t, []string{events + "50", "limit tokens_per_day:50", "limit tokens_per_day:80"},
		l.after(time.Second, `update sluice.places set hour_events = 2`, `update sluice.budgets set day_tokens = 80`))
	require.Equal(t, []string{events + "100", events + "50", events + "80", "limit tokens_per_day:50", "limit tokens_per_day:80", "limit tokens_per_day:soft"},
		l.after(time.Second, `update sluice.places set hour_events = 3`, `update sluice.budgets set day_tokens = 100`))
	require.Contains(t, l.detail("tokens_per_day:80"), "80 % of the soft limit of 100 tokens per day is used: 80 tokens per day.")
	l.told()
}

func TestWatcher_TellsOfWhatStandsStill(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	require.Empty(t, l.after(0))
	automation := "dead_letters " + tenants.FormatID(tenants.AutomationPrefix, l.automation)
	endpoint := "order.blocked " + tenants.FormatID(tenants.EndpointPrefix, l.endpoint)
	credential := "credential.paused " + tenants.FormatID(tenants.CredentialPrefix, l.credential)

	for range 3 {
		l.run("held", "limit.cost_per_day", "none", nil)
		l.run("waiting", "provider.breaker_open", "none", nil)
	}
	require.Equal(t, []string{"held limit.cost_per_day", "provider.breaker scripted/echo-1"}, l.after(time.Minute))
	require.Equal(t, []string{"held limit.cost_per_day", "provider.breaker scripted/echo-1"}, l.after(time.Second, `delete from sluice.runs`), "for a moment")
	require.Equal(t, []string{"provider.breaker scripted/echo-1"}, l.after(3*time.Minute))
	require.Empty(t, l.after(3*time.Minute))

	require.Equal(t, []string{credential}, l.after(time.Second, `update sluice.credentials set paused_at = now(), paused_reason = 'It was refused.'`))
	require.Equal(t, "The credential is not used for now: It was refused.", l.detail(strings.TrimPrefix(credential, "credential.paused ")))
	require.Empty(t, l.after(time.Second, `update sluice.credentials set paused_at = null`))

	l.run("dead", "output.schema", "serial", &l.now)
	require.Equal(t, []string{automation, endpoint}, l.after(20*time.Second))
	l.run("dead", "output.schema", "none", &l.now)
	require.Equal(t, []string{automation}, l.after(2*time.Minute, `update sluice.runs set status = 'cancelled' where ordering = 'serial'`), "the next did not block")
	require.Equal(t, []string{automation}, l.after(29*time.Minute))
	require.Empty(t, l.after(3*time.Minute), "nothing has died for half an hour")
	require.Len(t, l.alerts(), 5)
	l.told()
}

func TestWatcher_EndsWhatNobodyBeginsAnew(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	for kind, quiet := range map[string]string{db.AlertLoop: "1 hour", db.AlertRejections: "10 minutes", db.AlertMissedUnreadable: "24 hours", "another": "100 hours"} {
		for subject, age := range map[string]string{"loud": "-1 minute", "silent": "1 minute"} {
			l.exec(`insert into sluice.alerts (tenant_id, id, kind, subject, detail, last_at) values ($1, gen_random_uuid(), $2, $3, 'x', now() - $4::interval - $5::interval)`,
				l.tenant, kind, subject, quiet, age)
		}
	}
	require.Equal(t, []string{"another loud", "another silent", "loop loud", "missed.unreadable loud", "rejections loud"}, l.after(0))
	l.told()
}

func TestWatcher_TellsOfWhatIsUnusual(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	// Ten days of ten events and a tenth of a dollar in each hour, at the endpoint; the automation began a day before yesterday, the tenant has more.
	for back := 10; back >= 0; back-- {
		for _, r := range []struct {
			subject uuid.UUID
			level   string
			events  int
			from    int
		}{{l.tenant, "tenant", 100, 10}, {l.endpoint, "endpoint", 10, 10}, {l.automation, "automation", 10, 0}} {
			if back > r.from {
				continue
			}
			hours := `array_fill($5::bigint, array[24])`
			if back == 0 {
				hours = `array_fill($5::bigint, array[9]) || array_fill(0::bigint, array[15])`
			}
			for measure, n := range map[string]int{"events": r.events, "cost": r.events * picoPerCent} {
				l.exec(`insert into sluice.rates (tenant_id, subject, measure, day, level, hours) values ($1, $2, $3, $4, $6, `+hours+`)`,
					l.tenant, r.subject, measure, l.now.AddDate(0, 0, -back), n, r.level)
			}
		}
	}
	require.Empty(t, l.after(0))
	l.exec(`update sluice.places set hour_until = $1`, l.now.Add(24*time.Hour))
	l.exec(`update sluice.budgets set day_from = $1, day_until = $2, month_from = $1, month_until = $2`, l.now.Add(-time.Hour), l.now.Add(24*time.Hour))
	// 300 events and three dollars within ten minutes.
	for i := range 300 {
		at := l.now.Add(time.Duration(i) * time.Second)
		id := tenants.NewID()
		ms := at.UnixMilli()
		for i := range 6 {
			id[5-i] = byte(ms >> (8 * i))
		}
		l.exec(`insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, body_bytes, body_sha256) values ($1, $2, $3, 'standard', $4, 'x', 0, '')`,
			l.tenant, id, l.endpoint, id.String())
		l.exec(`insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority) values ($1, $2, $2, $3, $4, 1, 'live', 'routine')`,
			l.tenant, id, l.endpoint, l.automation)
		l.exec(`insert into sluice.ledger_entries (tenant_id, id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider, model_asked,
			model_served, price_id, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning, amount_pico)
			values ($1, $2, 'charge', $3, $2, $2, $2, $4, $5, 1, 'x', 'x', 'x', 1, 0, 0, 0, 0, 0, 0, $6)`, l.tenant, id, at, l.endpoint, l.automation, picoPerCent)
	}
	endpoint := tenants.FormatID(tenants.EndpointPrefix, l.endpoint)
	// For the tenant, which has 100 an hour, they are near the threshold of 400 and not above it; of the automation too little is known.
	both := []string{"anomaly.cost " + endpoint, "anomaly.events " + endpoint}
	require.Equal(t, both, l.after(10*time.Minute))
	for _, a := range l.alerts() {
		// It was counted until half a minute ago, so 20 minutes and a half of the hour before, which had 10, are within the 60 minutes.
		require.Equal(t, map[string]string{
			db.AlertAnomalyEvents: "303 events within 60 minutes; 10 would be usual.", db.AlertAnomalyCost: "3.034166 USD within 60 minutes; 0.1 USD would be usual.",
		}[a.Kind], a.Detail)
	}
	// It takes an hour until they are no longer of the last, and two more until that is told.
	steps := 0
	for open := both; len(open) > 0; steps++ {
		require.Less(t, steps, 60)
		open = l.after(5 * time.Minute)
		require.True(t, len(open) == 2 || len(open) == 0, "%v", open)
	}
	require.InDelta(t, 36, steps, 6, "steps of five minutes")
	require.Len(t, l.alerts(), 2)
	l.told()

	// While the count is behind, nothing is said and nothing ends.
	l.exec(`update sluice.alerts set ended_at = null`)
	l.exec(`update sluice.watch_marks set at = $1 where name = 'rates'`, l.now.Add(-10*24*time.Hour))
	require.Len(t, l.after(6*time.Minute), 2)
}

const picoPerCent = 10_000_000_000
