package db_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// turns are moments at which something happens to the windows of a zone: clocks that are set over midnight in both directions, half hours, ends of
// months and of years.
var turns = []struct {
	zone string
	at   time.Time
}{
	{"UTC", time.Date(2024, 12, 31, 23, 0, 0, 0, time.UTC)},
	{"Europe/Berlin", time.Date(2024, 3, 30, 22, 0, 0, 0, time.UTC)},
	{"Europe/Berlin", time.Date(2024, 10, 26, 21, 0, 0, 0, time.UTC)},
	{"America/New_York", time.Date(2024, 11, 3, 3, 0, 0, 0, time.UTC)},
	{"America/Havana", time.Date(2024, 3, 10, 4, 0, 0, 0, time.UTC)},      // no midnight: it is 1 at once
	{"America/Havana", time.Date(2024, 11, 3, 3, 30, 0, 0, time.UTC)},     // two midnights
	{"America/Santiago", time.Date(2024, 4, 7, 2, 0, 0, 0, time.UTC)},     // 23:00 comes twice
	{"America/Santiago", time.Date(2024, 9, 8, 3, 0, 0, 0, time.UTC)},     // no midnight
	{"Atlantic/Azores", time.Date(2024, 10, 26, 23, 0, 0, 0, time.UTC)},   // two midnights
	{"Australia/Lord_Howe", time.Date(2024, 4, 6, 13, 0, 0, 0, time.UTC)}, // back by half an hour
	{"Asia/Kathmandu", time.Date(2024, 2, 29, 17, 0, 0, 0, time.UTC)},
	{"Asia/Kolkata", time.Date(2024, 6, 30, 18, 0, 0, 0, time.UTC)},
	{"Pacific/Apia", time.Date(2024, 7, 31, 10, 0, 0, 0, time.UTC)},
}

func TestWindowsAreThoseOfTheTenantsZone(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	for _, turn := range turns {
		zone, err := time.LoadLocation(turn.zone)
		require.NoError(t, err)
		for minutes := 0; minutes < 6*60; minutes += 15 {
			at := turn.at.Add(time.Duration(minutes) * time.Minute)
			for unit, bounds := range map[string]func(time.Time, *time.Location) (time.Time, time.Time){"day": dayOf, "month": monthOf} {
				var from, until time.Time
				require.NoError(t, b.Owner.QueryRow(t.Context(), `
					select w, sluice.window_until(w, $2, $3) from sluice.window_from($1, $2, $3) w`, at, unit, turn.zone).Scan(&from, &until))
				wantFrom, wantUntil := bounds(at, zone)
				require.Equal(t, wantFrom.UTC(), from.UTC(), "the %s of %s in %s begins", unit, at, turn.zone)
				require.Equal(t, wantUntil.UTC(), until.UTC(), "the %s of %s in %s ends", unit, at, turn.zone)
			}
		}
	}
}

// limited is a tenant with runs under way, beside its model.
type limited struct {
	t       *rapid.T
	b       *dbtest.Bundle
	p       planted
	now     time.Time
	model   *limitsModel
	running []db.Run
	// released are the runs that a limit has let go on.
	released map[uuid.UUID]bool
	open     map[uuid.UUID]db.Call
	ended    []db.Call
	events   int
}

// at is the database at a time of the test.
func (l *limited) at(at time.Time) (app, worker *db.DB) {
	clock := func() time.Time { return at }
	return l.b.DB.WithClock(clock), l.b.Worker.WithClock(clock)
}

const runsUnderWay = 5

func newLimited(t *rapid.T, b *dbtest.Bundle) *limited {
	turn := rapid.SampledFrom(turns).Draw(t, "turn")
	zone, err := time.LoadLocation(turn.zone)
	require.NoError(t, err)
	l := &limited{
		t: t, b: b, now: turn.at, released: map[uuid.UUID]bool{}, open: map[uuid.UUID]db.Call{},
		model: &limitsModel{zone: zone, open: map[uuid.UUID]modelAmount{}, limits: db.Limits{Burst: 1, Share: 1, StoredPerHour: 1_000_000}},
	}
	ctx := t.Context()
	require.NoError(t, b.DB.System(ctx, func(tx db.SystemTx) error {
		made, err := tx.TenantInsert(ctx, "limited", turn.zone)
		l.p.tenant = made.TenantID
		return err
	}))
	require.NoError(t, b.DB.Tenant(ctx, l.p.tenant, func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(ctx, "in", "standard", json.RawMessage(`{}`))
		if err != nil {
			return err
		}
		l.p.endpoint = e.ID
		a, err := tx.AutomationInsert(ctx, e.ID, "work", json.RawMessage(`{"name":"x"}`), uuid.Nil)
		l.p.automation = a.ID
		return err
	}))
	// Their events are of another hour.
	admitted := l.admitted(make([]bool, runsUnderWay), l.now.Add(-3*time.Hour))
	l.model.admit(make([]bool, runsUnderWay), l.now.Add(-3*time.Hour))
	var ids []uuid.UUID
	for _, e := range admitted {
		ids = append(ids, e.run)
	}
	require.NoError(t, b.Worker.Tenant(ctx, l.p.tenant, func(tx db.TenantTx) (err error) {
		l.running, err = tx.RunsClaim(ctx, ids, time.Hour)
		return err
	}))
	require.Len(t, l.running, runsUnderWay)
	l.released[l.running[0].ID] = true
	_, err = b.Owner.Exec(ctx, `update sluice.runs set reason = 'limit.released' where id = $1`, l.running[0].ID)
	require.NoError(t, err)
	return l
}

type admittedEvent struct {
	run uuid.UUID
	db.Admitted
}

// admitted sends events through the door, each with one run that is held or dropped over the limit.
func (l *limited) admitted(drops []bool, at time.Time) []admittedEvent {
	ctx := l.t.Context()
	out := make([]admittedEvent, len(drops))
	events := make([]db.EventNew, len(drops))
	for i, drop := range drops {
		l.events++
		events[i] = eventNew(fmt.Sprint("evt_", l.events), "")
		out[i].run = tenants.NewID()
		run := db.RunNew{ID: out[i].run, AutomationID: l.p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}
		if drop {
			run.OverLimit = db.OverDrop
		}
		events[i].Runs = []db.RunNew{run}
	}
	app, _ := l.at(at)
	require.NoError(l.t, app.Door(ctx, func(tx db.DoorTx) error {
		answers, err := tx.Admit(ctx, []*db.Delivery{delivered(l.p, `{}`, events...)})
		if err != nil {
			return err
		}
		for i, a := range answers[0] {
			out[i].Admitted = a
		}
		return nil
	}))
	return out
}

// late is now, or a while ago: a transaction may have begun before the hour struck.
func (l *limited) late() time.Time {
	return l.now.Add(-time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 900, 5400}).Draw(l.t, "late")) * time.Second)
}

func (l *limited) advance() {
	switch rapid.SampledFrom([]string{"a while", "to midnight", "a day", "days"}).Draw(l.t, "advance") {
	case "a while":
		l.now = l.now.Add(time.Duration(rapid.IntRange(1, 7200).Draw(l.t, "seconds")) * time.Second)
	case "to midnight":
		_, until := dayOf(l.now, l.model.zone)
		l.now = slices.MaxFunc([]time.Time{l.now, until.Add(time.Duration(rapid.IntRange(-1, 1).Draw(l.t, "seconds")) * time.Second)}, time.Time.Compare)
	case "a day":
		l.now = l.now.Add(time.Duration(rapid.IntRange(20, 28).Draw(l.t, "hours")) * time.Hour)
	default:
		l.now = l.now.Add(time.Duration(rapid.IntRange(2, 40).Draw(l.t, "days")) * 24 * time.Hour)
	}
}

func (l *limited) limit() {
	maybe := func(name string, most int64) *int64 {
		if rapid.Bool().Draw(l.t, name+" is set") {
			n := rapid.Int64Range(0, most).Draw(l.t, name)
			return &n
		}
		return nil
	}
	m := l.model
	m.limits.EventsPerHourHard, m.limits.EventsPerHourSoft = maybe("events", 12), maybe("events soft", 12)
	m.limits.TokensPerDayHard, m.limits.TokensPerDaySoft = maybe("tokens", 3000), maybe("tokens soft", 3000)
	m.limits.CostPerDayHard, m.limits.CostPerDaySoft = maybe("day", 3000), maybe("day soft", 3000)
	m.limits.CostPerMonthHard, m.limits.CostPerMonthSoft = maybe("month", 9000), maybe("month soft", 9000)
	m.limits.StoredPerHour = rapid.SampledFrom([]int64{1_000_000, 1_000_000, 15}).Draw(l.t, "stored")
	m.raises = nil
	names := []string{db.LimitEventsPerHour, db.LimitTokensPerDay, db.LimitCostPerDay, db.LimitCostPerMonth}
	for range rapid.IntRange(0, 4).Draw(l.t, "raises") {
		m.raises = append(m.raises, db.LimitRaise{
			Name: rapid.SampledFrom(names).Draw(l.t, "raised"), Value: rapid.Int64Range(0, 10_000).Draw(l.t, "to"),
			Until: l.now.Add(time.Duration(rapid.IntRange(-1, 48*60).Draw(l.t, "for minutes")) * time.Minute),
		})
	}
	require.NoError(l.t, l.b.DB.System(l.t.Context(), func(tx db.SystemTx) error {
		_, err := tx.LimitsPut(l.t.Context(), l.p.tenant, m.limits, m.raises)
		return err
	}))
}

func (l *limited) move() {
	name := rapid.SampledFrom(turns).Draw(l.t, "to zone").zone
	zone, err := time.LoadLocation(name)
	require.NoError(l.t, err)
	l.model.zone = zone
	require.NoError(l.t, l.b.DB.System(l.t.Context(), func(tx db.SystemTx) error {
		_, err := tx.TenantUpdate(l.t.Context(), l.p.tenant, db.TenantChange{TimeZone: &name})
		return err
	}))
}

// send asks for calls of some of the runs at once.
func (l *limited) send() {
	at := l.late()
	// Often one of the two is scarce, and many small calls come close to a limit together.
	sizes := rapid.SampledFrom([]int64{0, 300, 900, 1500})
	tokensMost, picoMost := sizes.Draw(l.t, "tokens at most"), sizes.Draw(l.t, "pico at most")
	var calls []db.Call
	for _, r := range rapid.Permutation(l.running).Draw(l.t, "runs")[:rapid.IntRange(1, runsUnderWay).Draw(l.t, "calls")] {
		calls = append(calls, db.Call{
			ID: tenants.NewID(), RunID: r.ID, Epoch: r.Epoch, Provider: "scripted", ModelAsked: "echo-1", PriceID: 9001, RequestSHA256: []byte("x"), Part: db.CallAsk,
			ReservedTokens: rapid.Int64Range(0, tokensMost).Draw(l.t, "tokens"), ReservedPico: rapid.Int64Range(0, picoMost).Draw(l.t, "pico"),
		})
	}
	got := map[uuid.UUID]db.Granted{}
	_, worker := l.at(at)
	require.NoError(l.t, worker.Tenant(l.t.Context(), l.p.tenant, func(tx db.TenantTx) error {
		granted, err := tx.CallsSend(l.t.Context(), calls)
		for _, g := range granted {
			got[g.ID] = g
		}
		return err
	}))
	want := l.model.send(calls, l.released, at)
	require.Len(l.t, got, len(want))
	passed := false
	for _, c := range calls {
		g, w := got[c.ID], want[c.ID]
		require.Equal(l.t, w.Reason, g.Reason, "%+v of %+v at %s", c, l.model, at)
		if w.Until != nil {
			require.True(l.t, w.Until.Equal(*g.Until), "until %s, not %s", w.Until, g.Until)
		}
		if g.Reason == "" {
			l.open[c.ID], passed = c, true
		}
	}
	if passed {
		l.requireUnder(at)
	}
}

// requireUnder: whatever the model says, after a call was admitted nothing is above its limit.
func (l *limited) requireUnder(at time.Time) {
	var over int
	require.NoError(l.t, l.b.Owner.QueryRow(l.t.Context(), `
		select count(*) from sluice.budgets b, sluice.limits_at(b.tenant_id, $2) m
		where b.tenant_id = $1 and (b.day_tokens + b.reserved_tokens > m.tokens_per_day or b.day_pico + b.reserved_pico > m.cost_per_day
		    or b.month_pico + b.reserved_pico > m.cost_per_month)`, l.p.tenant, at).Scan(&over))
	require.Zero(l.t, over, "a call was admitted above a limit")
}

// settle ends some of the calls under way, in one transaction: with a reply, without one, or for nothing.
func (l *limited) settle() {
	at, ctx := l.late(), l.t.Context()
	ids := make([]uuid.UUID, 0, len(l.open))
	for id := range l.open {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	if len(ids) == 0 {
		return
	}
	ids = ids[:rapid.IntRange(1, len(ids)).Draw(l.t, "settled")]
	_, worker := l.at(at)
	require.NoError(l.t, worker.Tenant(ctx, l.p.tenant, func(tx db.TenantTx) error {
		var received []db.Call
		for _, id := range ids {
			c := l.open[id]
			delete(l.open, id)
			switch rapid.SampledFrom([]string{"less", "equal", "failed", "orphaned"}).Draw(l.t, "end") {
			case "failed":
				if err := tx.CallFail(ctx, id, "refused", 400); err != nil {
					return err
				}
				l.model.settle(id, nil, at)
				continue
			case "orphaned":
				if err := tx.CallOrphan(ctx, db.Call{ID: id}); err != nil {
					return err
				}
				if _, err := tx.EntryAdjust(ctx, db.Correction{CallID: id, Tokens: db.Tokens{OutputVisible: c.ReservedTokens}, CostPico: c.ReservedPico}); err != nil {
					return err
				}
				l.model.settle(id, nil, at)
				if c.ReservedTokens+c.ReservedPico > 0 { // what was free is not booked
					l.model.settle(id, &modelAmount{c.ReservedTokens, c.ReservedPico}, at)
				}
			case "less":
				c.OutputVisible, c.CostPico = rapid.Int64Range(0, c.ReservedTokens).Draw(l.t, "tokens"), rapid.Int64Range(0, c.ReservedPico).Draw(l.t, "pico")
				received = append(received, c)
			default:
				c.InputUncached, c.CostPico = c.ReservedTokens, c.ReservedPico
				received = append(received, c)
			}
			l.ended = append(l.ended, c)
		}
		for _, c := range received {
			l.model.settle(c.ID, &modelAmount{c.InputUncached + c.OutputVisible, c.CostPico}, at)
		}
		return tx.CallsReceive(ctx, received)
	}))
}

// correct changes what a call was booked at, to more or to less.
func (l *limited) correct() {
	if len(l.ended) == 0 {
		return
	}
	at, ctx := l.late(), l.t.Context()
	c := rapid.SampledFrom(l.ended).Draw(l.t, "corrected")
	to := modelAmount{rapid.Int64Range(0, 2000).Draw(l.t, "tokens"), rapid.Int64Range(0, 2000).Draw(l.t, "pico")}
	var booked modelAmount
	require.NoError(l.t, l.b.Owner.QueryRow(ctx, `
		select coalesce(sum(input_uncached + output_visible), 0), coalesce(sum(amount_pico), 0) from sluice.ledger_entries where tenant_id = $1 and call_id = $2`,
		l.p.tenant, c.ID).Scan(&booked.tokens, &booked.pico))
	_, worker := l.at(at)
	posted := 0
	require.NoError(l.t, worker.Tenant(ctx, l.p.tenant, func(tx db.TenantTx) (err error) {
		posted, err = tx.EntryAdjust(ctx, db.Correction{CallID: c.ID, Tokens: db.Tokens{OutputVisible: to.tokens}, CostPico: to.pico})
		return err
	}))
	if posted > 0 {
		l.model.settle(c.ID, &modelAmount{to.tokens - booked.tokens, to.pico - booked.pico}, at)
	}
}

// hold begins to hold what comes later, for a limit of the budget, or lets it go on.
func (l *limited) hold() {
	reason := rapid.SampledFrom([]string{"", "limit.cost_per_month", "limit.cost_per_day", "limit.tokens_per_day"}).Draw(l.t, "reason")
	if reason == "" {
		_, err := l.b.Owner.Exec(l.t.Context(), `update sluice.budgets set holding = '' where tenant_id = $1`, l.p.tenant)
		require.NoError(l.t, err)
		l.model.holding = ""
		return
	}
	require.NoError(l.t, l.b.Worker.Tenant(l.t.Context(), l.p.tenant, func(tx db.TenantTx) error {
		return tx.BudgetHold(l.t.Context(), reason)
	}))
	if l.model.holding == "" {
		l.model.holding = reason
	}
}

func (l *limited) deliver() {
	drops := rapid.SliceOfN(rapid.Bool(), 1, 8).Draw(l.t, "drops")
	at := l.late()
	got, want := l.admitted(drops, at), l.model.admit(drops, at)
	for i := range want {
		require.Equal(l.t, want[i].full, got[i].FullUntil != nil, "event %d of %v at %s", i, drops, at)
		if want[i].full {
			require.True(l.t, l.model.hourUntil.Equal(*got[i].FullUntil))
			continue
		}
		require.Equal(l.t, want[i].over, got[i].Places[0].Held, "event %d of %v at %s", i, drops, at)
	}
}

func (l *limited) release() {
	most := rapid.IntRange(1, 10).Draw(l.t, "most")
	_, worker := l.at(l.now)
	var woken []db.Woken
	require.NoError(l.t, worker.Tenant(l.t.Context(), l.p.tenant, func(tx db.TenantTx) (err error) {
		woken, err = tx.RunsReleaseEvents(l.t.Context(), most)
		return err
	}))
	require.Len(l.t, woken, int(l.model.release(int64(most), l.now)))
}

// requireAsTheModel compares what the API would show, and looks at nothing else: reading must not turn a window.
func (l *limited) requireAsTheModel() {
	app, _ := l.at(l.now)
	var got []db.LimitStanding
	require.NoError(l.t, app.Tenant(l.t.Context(), l.p.tenant, func(tx db.TenantTx) (err error) {
		got, err = tx.LimitStandings(l.t.Context())
		return err
	}))
	want := l.model.standings(l.now)
	require.Len(l.t, got, len(want)+1)
	for i := range want {
		for _, at := range []**time.Time{&got[i].WindowFrom, &got[i].ResetsAt, &got[i].RaisedUntil, &want[i].WindowFrom, &want[i].ResetsAt, &want[i].RaisedUntil} {
			if *at != nil {
				u := (*at).UTC()
				*at = &u
			}
		}
		require.Equal(l.t, want[i], got[i], "at %s", l.now)
	}
	require.Equal(l.t, int64(runsUnderWay), got[len(want)].Used)
}

// TestLimitsAreThoseOfTheModel holds reservations, settlements and windows against a model, over months that pass in moments.
func TestLimitsAreThoseOfTheModel(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	rapid.Check(t, func(rt *rapid.T) {
		l := newLimited(rt, b)
		l.limit()
		steps := map[string]func(){
			"advance": l.advance, "limit": l.limit, "move": l.move, "send": l.send, "settle": l.settle, "correct": l.correct, "hold": l.hold,
			"deliver": l.deliver, "release": l.release,
		}
		names := []string{"advance", "advance", "limit", "move", "send", "send", "send", "settle", "settle", "correct", "hold", "deliver", "deliver", "release"}
		for range rapid.IntRange(4, 24).Draw(rt, "steps") {
			steps[rapid.SampledFrom(names).Draw(rt, "step")]()
			l.requireAsTheModel()
		}
	})
}
