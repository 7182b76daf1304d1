package jobs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sluice/db"
)

const (
	// anomalyEvents and anomalyPico are by how much the usual of an hour must be passed at least: by so many events, or by so much money.
	anomalyEvents = 100
	anomalyPico   = picoPerUSD
	// busyShare of that is what a subject must have at least to be looked at: below it, no threshold can be near.
	busyShare = 2
	// foldsMax and foldsTime bound how many pieces of time are counted in one transaction where the count is behind.
	foldsMax  = 30
	foldsTime = 5 * time.Second
	// subjectsAtOnce bounds how many subjects' pasts are held in memory.
	subjectsAtOnce = 500
)

// count brings the rates up to date.
func (w *watcher) count(ctx context.Context, tx db.SystemTx) error {
	began := w.now()
	for range foldsMax {
		span, err := tx.RatesFold(ctx)
		if err != nil {
			return err
		}
		if w.behind = span.Behind; !span.Behind || w.now().Sub(began) > foldsTime {
			break
		}
	}
	return nil
}

// anomalies finds tenants, endpoints and automations that have, or cost, far more than is usual for them. It says nothing while the count is behind.
func (w *watcher) anomalies(ctx context.Context, tx db.SystemTx) error {
	fresh, err := tx.RatesFresh(ctx)
	if err != nil || !fresh {
		return err
	}
	busy, err := tx.RatesBusy(ctx, anomalyEvents/busyShare, anomalyPico/busyShare)
	if err != nil {
		return err
	}
	seen := map[string][]db.AlertSeen{db.AlertAnomalyEvents: nil, db.AlertAnomalyCost: nil}
	for some := range slices.Chunk(busy, subjectsAtOnce) {
		rates, err := tx.RatesList(ctx, some)
		if err != nil {
			return err
		}
		for len(rates) > 0 {
			n := slices.IndexFunc(rates, func(r db.Rate) bool { return r.Subject != rates[0].Subject || r.Measure != rates[0].Measure })
			if n < 0 {
				n = len(rates)
			}
			if s, kind, ok := anomalySeen(rates[:n], some[0].At.UTC()); ok {
				seen[kind] = append(seen[kind], s)
			}
			rates = rates[n:]
		}
	}
	for kind, of := range seen {
		if err := w.settle(ctx, tx, kind, anomalyQuiet, of); err != nil {
			return err
		}
	}
	return nil
}

// anomalySeen judges one subject by all that is kept of one measure of it.
func anomalySeen(days []db.Rate, at time.Time) (seen db.AlertSeen, kind string, ok bool) {
	r := days[0]
	baseline, kind := Baseline{Floor: anomalyEvents}, db.AlertAnomalyEvents
	if r.Measure == db.RateCost {
		baseline, kind = Baseline{Floor: anomalyPico}, db.AlertAnomalyCost
	}
	j, known := baseline.Judge(seriesOf(days, at))
	if !known || !j.Near() {
		return seen, kind, false
	}
	detail := fmt.Sprintf("%.0f events within 60 minutes; %.0f would be usual.", j.Rate, j.Usual)
	if r.Measure == db.RateCost {
		detail = fmt.Sprintf("%s USD within 60 minutes; %s USD would be usual.", dollars(int64(j.Rate)), dollars(int64(j.Usual)))
	}
	return db.AlertSeen{TenantID: r.TenantID, Subject: subjectOfRate(r.Level, r.Subject), Detail: detail, KeepsOnly: !j.Far()}, kind, true
}

// seriesOf puts days, the oldest first, into a row of hours that begins with the first in which there was anything; a day that is missing had nothing.
func seriesOf(days []db.Rate, at time.Time) Series {
	hour := at.Truncate(time.Hour)
	began := days[0].Day.UTC()
	all := make([]int64, int(hour.Sub(began)/time.Hour)+1)
	for _, d := range days {
		from := int(d.Day.UTC().Sub(began) / time.Hour)
		for i, n := range d.Hours {
			if from+i < len(all) {
				all[from+i] = max(0, n) // a correction of the ledger may be more than what was charged
			}
		}
	}
	last := len(all) - 1
	first := slices.IndexFunc(all[:last], func(n int64) bool { return n > 0 })
	if first < 0 {
		first = last
	}
	return Series{Hours: all[first:last], Current: all[last], Part: at.Sub(hour).Hours()}
}
