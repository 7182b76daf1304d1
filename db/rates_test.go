package db_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/tenants"
)

// fold counts once.
func (w *watched) fold() db.RatesSpan {
	w.t.Helper()
	return system(w, func(tx db.SystemTx) (db.RatesSpan, error) { return tx.RatesFold(w.t.Context()) })
}

// spend plants an entry of the ledger.
func (w *watched) spend(at time.Time, pico int64) {
	w.t.Helper()
	w.exec(`insert into sluice.ledger_entries (tenant_id, id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider, model_asked,
		model_served, price_id, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning, amount_pico)
		values ($1, $6, 'charge', $2, $6, $6, $6, $3, $4, 1, 'x', 'x', 'x', 1, 0, 0, 0, 0, 0, 0, $5)`,
		w.tenant, at, w.endpoint, w.automation, pico, tenants.NewID())
}

// rates are the sums of each subject, and those of one hour.
func (w *watched) rates(measure string, hour time.Time) map[uuid.UUID][2]int64 {
	w.t.Helper()
	of := []db.RateNow{
		{TenantID: w.tenant, Subject: w.tenant, Measure: measure}, {TenantID: w.tenant, Subject: w.endpoint, Measure: measure},
		{TenantID: w.tenant, Subject: w.automation, Measure: measure},
	}
	out := map[uuid.UUID][2]int64{}
	for _, r := range system(w, func(tx db.SystemTx) ([]db.Rate, error) { return tx.RatesList(w.t.Context(), of) }) {
		require.Equal(w.t, measure, r.Measure)
		require.Equal(w.t, map[uuid.UUID]string{w.tenant: db.RateTenant, w.endpoint: db.RateEndpoint, w.automation: db.RateAutomation}[r.Subject], r.Level)
		sum := out[r.Subject]
		for h, n := range r.Hours {
			sum[0] += n
			if r.Day.Equal(hour.Truncate(24*time.Hour)) && h == hour.Hour() {
				sum[1] += n
			}
		}
		out[r.Subject] = sum
	}
	return out
}

func TestRatesFold_CountsEachEventAndEntryOnceInItsHour(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	w.now = w.now.Truncate(time.Hour).Add(59*time.Minute + 30*time.Second)
	began := w.now.Add(-30 * time.Second)
	w.exec(`update sluice.places set hour_until = $1`, w.now.Add(time.Hour))
	w.exec(`update sluice.budgets set day_until = $1, month_until = $1, month_from = $2, day_from = $2`, w.now.Add(24*time.Hour), w.now.Add(-time.Hour))
	w.run(began.Add(-time.Minute), "done", "", "none")
	require.Equal(t, db.RatesSpan{Since: began, Until: began}, utcSpan(w.fold()), "what was before is not counted")

	hour := began.Truncate(time.Hour)
	for range 3 {
		w.run(began.Add(time.Second), "done", "", "none") // of this hour
		w.spend(began.Add(time.Second), 100)
	}
	for range 2 {
		w.run(hour.Add(time.Hour+30*time.Second), "done", "", "none") // of the next
		w.spend(hour.Add(time.Hour+30*time.Second), 10)
	}
	w.now = hour.Add(61*time.Minute + 30*time.Second)
	first := utcSpan(w.fold())
	require.Equal(t, db.RatesSpan{Since: began, Until: hour.Add(time.Hour), Behind: true}, first, "one hour at once")
	require.Equal(t, map[uuid.UUID][2]int64{w.tenant: {3, 3}, w.endpoint: {3, 3}, w.automation: {3, 3}}, w.rates(db.RateEvents, hour))
	require.Equal(t, map[uuid.UUID][2]int64{w.tenant: {300, 300}, w.endpoint: {300, 300}, w.automation: {300, 300}}, w.rates(db.RateCost, hour))
	second := utcSpan(w.fold())
	require.Equal(t, db.RatesSpan{Since: first.Until, Until: w.now.Add(-30 * time.Second)}, second, "what is young may not be committed yet")
	third := utcSpan(w.fold())
	require.Equal(t, db.RatesSpan{Since: second.Until, Until: second.Until}, third)
	w.run(w.now.Add(-10*time.Second), "done", "", "none")
	w.now = w.now.Add(time.Minute)
	w.fold()
	require.Equal(t, map[uuid.UUID][2]int64{w.tenant: {6, 3}, w.endpoint: {6, 3}, w.automation: {6, 3}}, w.rates(db.RateEvents, hour.Add(time.Hour)))
	require.Equal(t, map[uuid.UUID][2]int64{w.tenant: {320, 20}, w.endpoint: {320, 20}, w.automation: {320, 20}}, w.rates(db.RateCost, hour.Add(time.Hour)))

	// A tenant that was erased takes its rates with it; rates that are too old go by themselves.
	w.exec(`insert into sluice.rates values ($1, $1, 'events', $2, 'tenant', array_fill(1, array[24])), ($1, $1, 'cost', $3, 'tenant', array_fill(1, array[24]))`,
		w.tenant, w.now.Add(-db.RatesKept-48*time.Hour), w.now.Add(-db.RatesKept+48*time.Hour))
	w.now = w.now.Add(time.Minute)
	w.fold()
	require.Equal(t, int64(6), w.rates(db.RateEvents, hour)[w.tenant][0])
	require.Equal(t, int64(344), w.rates(db.RateCost, hour)[w.tenant][0])
	require.NoError(t, w.b.DB.System(t.Context(), func(tx db.SystemTx) error { return tx.TenantErase(t.Context(), w.tenant) }))
	require.Empty(t, w.rates(db.RateEvents, hour))
}

func utcSpan(s db.RatesSpan) db.RatesSpan {
	return db.RatesSpan{Since: s.Since.UTC(), Until: s.Until.UTC(), Behind: s.Behind}
}

func TestRatesBusy_LooksAtAFullHour(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	midnight := w.now.Truncate(24 * time.Hour)
	other := tenants.NewID()
	day := func(subject uuid.UUID, measure string, of time.Time, hour int, n int64) {
		w.exec(`insert into sluice.rates values ($1, $2, $3, $4, 'tenant', array_fill(0, array[24]))`, w.tenant, subject, measure, of)
		w.exec(`update sluice.rates set hours[$1] = $2 where subject = $3 and measure = $4 and day = $5`, hour+1, n, subject, measure, of)
	}
	busy := func(at time.Time) []uuid.UUID {
		w.exec(`insert into sluice.watch_marks values ('rates', $1) on conflict (name) do update set at = excluded.at`, at)
		var out []uuid.UUID
		for _, r := range system(w, func(tx db.SystemTx) ([]db.RateNow, error) { return tx.RatesBusy(t.Context(), 100, 7) }) {
			require.True(t, r.At.Equal(at))
			out = append(out, r.Subject)
		}
		return out
	}
	day(w.tenant, db.RateEvents, midnight, 23, 80)
	day(w.tenant, db.RateEvents, midnight.Add(24*time.Hour), 0, 40)
	day(other, db.RateEvents, midnight, 23, 100)
	day(w.endpoint, db.RateCost, midnight, 23, 7)
	day(w.automation, db.RateCost, midnight, 23, 6)
	require.ElementsMatch(t, []uuid.UUID{other, w.endpoint}, busy(midnight.Add(23*time.Hour+59*time.Minute)))
	// A quarter past midnight: three quarters of 80, and 40.
	require.Equal(t, []uuid.UUID{w.tenant}, busy(midnight.Add(24*time.Hour+15*time.Minute)))
	require.Empty(t, busy(midnight.Add(24*time.Hour+30*time.Minute)))
	require.Empty(t, busy(midnight.Add(26*time.Hour)))
}
