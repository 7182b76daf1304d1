package db_test

import (
	"sort"
	"time"

	"github.com/google/uuid"

	"sluice/db"
)

// limitsModel is what the limits of one tenant should do, without a database: the windows by looking for the first second of a day, the sums by
// adding up the whole ledger.
type limitsModel struct {
	zone   *time.Location
	limits db.Limits
	raises []db.LimitRaise

	dayFrom, dayUntil, monthFrom, monthUntil time.Time
	ledger                                   []modelEntry
	open                                     map[uuid.UUID]modelAmount
	holding                                  string

	hourFrom, hourUntil     time.Time
	hourEvents, hourStored  int64
	hourHolding             bool
	heldEvents, heldDropped int64
}

type modelAmount struct{ tokens, pico int64 }

type modelEntry struct {
	at time.Time
	modelAmount
}

// firstSecond is the first second at or before at for which began is true, and it is true from there on.
func firstSecond(at time.Time, back time.Duration, began func(time.Time) bool) time.Time {
	from := at.Add(-back).Truncate(time.Second)
	n := sort.Search(int(back/time.Second)+1, func(i int) bool { return began(from.Add(time.Duration(i) * time.Second)) })
	return from.Add(time.Duration(n) * time.Second)
}

// dayOf are the bounds of the day of at: a clock that is set over midnight may begin it at 1, or twice.
func dayOf(at time.Time, zone *time.Location) (from, until time.Time) {
	const twoDays = 49 * time.Hour
	number := func(t time.Time) int { y, m, d := t.In(zone).Date(); return y*10_000 + int(m)*100 + d }
	today := number(at)
	from = firstSecond(at, twoDays, func(t time.Time) bool { return number(t) >= today })
	until = firstSecond(from.Add(twoDays), twoDays, func(t time.Time) bool { return number(t) > today })
	return from, until
}

// monthOf are the bounds of the month of at.
func monthOf(at time.Time, zone *time.Location) (from, until time.Time) {
	const aMonth = 33 * 24 * time.Hour
	number := func(t time.Time) int { y, m, _ := t.In(zone).Date(); return y*100 + int(m) }
	current := number(at)
	from = firstSecond(at, aMonth, func(t time.Time) bool { return number(t) >= current })
	until = firstSecond(from.Add(aMonth), aMonth, func(t time.Time) bool { return number(t) > current })
	return from, until
}

// roll brings the windows up to a moment; they never turn back.
func (m *limitsModel) roll(at time.Time) {
	if m.dayUntil.After(at) && m.monthUntil.After(at) {
		return
	}
	m.dayFrom, m.dayUntil = dayOf(at, m.zone)
	m.monthFrom, m.monthUntil = monthOf(at, m.zone)
}

func (m *limitsModel) rollHour(at time.Time) {
	if m.hourUntil.After(at) {
		return
	}
	local := at.In(m.zone)
	m.hourFrom = at.Add(-time.Duration(local.Minute())*time.Minute - time.Duration(local.Second())*time.Second)
	m.hourUntil, m.hourEvents, m.hourStored = m.hourFrom.Add(time.Hour), 0, 0
}

// used is the ledger from a time on.
func (m *limitsModel) used(from time.Time) (sum modelAmount) {
	for _, e := range m.ledger {
		if !e.at.Before(from) {
			sum.tokens += e.tokens
			sum.pico += e.pico
		}
	}
	return sum
}

func (m *limitsModel) reserved() (sum modelAmount) {
	for _, r := range m.open {
		sum.tokens += r.tokens
		sum.pico += r.pico
	}
	return sum
}

// effective is a hard limit with its raises, and when the one ends that it comes from.
func (m *limitsModel) effective(name string, hard *int64, at time.Time) (*int64, *time.Time) {
	if hard == nil {
		return nil, nil
	}
	limit, until := *hard, (*time.Time)(nil)
	for _, r := range m.raises {
		if r.Name == name && r.Until.After(at) && (r.Value > limit || until != nil && r.Value == limit && r.Until.After(*until)) {
			limit, until = r.Value, &r.Until
		}
	}
	return &limit, until
}

// send says of each call of a batch what becomes of it, and reserves for those that may be made.
func (m *limitsModel) send(calls []db.Call, released map[uuid.UUID]bool, at time.Time) map[uuid.UUID]db.Granted {
	m.roll(at)
	month, _ := m.effective(db.LimitCostPerMonth, m.limits.CostPerMonthHard, at)
	day, _ := m.effective(db.LimitCostPerDay, m.limits.CostPerDayHard, at)
	tokens, _ := m.effective(db.LimitTokensPerDay, m.limits.TokensPerDayHard, at)
	out := map[uuid.UUID]db.Granted{}
	for _, c := range calls {
		reserved, ofDay, ofMonth := m.reserved(), m.used(m.dayFrom), m.used(m.monthFrom)
		g := db.Granted{ID: c.ID}
		switch {
		case month != nil && ofMonth.pico+reserved.pico+c.ReservedPico > *month:
			g.Reason, g.Until = "limit.cost_per_month", &m.monthUntil
		case day != nil && ofDay.pico+reserved.pico+c.ReservedPico > *day:
			g.Reason, g.Until = "limit.cost_per_day", &m.dayUntil
		case tokens != nil && ofDay.tokens+reserved.tokens+c.ReservedTokens > *tokens:
			g.Reason, g.Until = "limit.tokens_per_day", &m.dayUntil
		case m.holding != "" && !released[c.RunID]:
			g.Reason, g.Until = m.holding, &m.dayUntil
			if m.holding == "limit.cost_per_month" {
				g.Until = &m.monthUntil
			}
		default:
			m.open[c.ID] = modelAmount{c.ReservedTokens, c.ReservedPico}
		}
		out[c.ID] = g
	}
	return out
}

// settle ends a call. What it cost, if anything, is booked at a time.
func (m *limitsModel) settle(id uuid.UUID, cost *modelAmount, at time.Time) {
	delete(m.open, id)
	if cost != nil {
		m.ledger = append(m.ledger, modelEntry{at, *cost})
		m.roll(at)
	}
}

// modelEvent is what becomes of an event: refused, or kept and worked on, or kept and not.
type modelEvent struct{ full, over bool }

// admit takes a batch of events in.
func (m *limitsModel) admit(drops []bool, at time.Time) []modelEvent {
	out := make([]modelEvent, len(drops))
	if m.hourUntil.After(at) && m.hourStored >= m.limits.StoredPerHour {
		for i := range out {
			out[i].full = true
		}
		return out
	}
	m.rollHour(at)
	limit, _ := m.effective(db.LimitEventsPerHour, m.limits.EventsPerHourHard, at)
	held, worked := false, int64(0)
	for i, drop := range drops {
		// What comes after those that are held stands behind them, whatever became of the limit; what is to be dropped stands behind nothing.
		out[i].over = m.hourHolding && !drop || limit != nil && m.hourEvents+int64(i)+1 > *limit
		switch {
		case !out[i].over:
			worked++
		case drop:
			m.heldDropped++
		default:
			m.heldEvents++
			held = true
		}
	}
	m.hourHolding = m.hourHolding || held
	m.hourEvents, m.hourStored = m.hourEvents+worked, m.hourStored+int64(len(drops))
	return out
}

// release lets go on what the hour held and has room for.
func (m *limitsModel) release(most int64, at time.Time) int64 {
	if !m.hourHolding {
		return 0
	}
	m.rollHour(at)
	n := min(most, m.heldEvents)
	if limit, _ := m.effective(db.LimitEventsPerHour, m.limits.EventsPerHourHard, at); limit != nil {
		n = min(n, max(*limit-m.hourEvents, 0))
	}
	m.heldEvents -= n
	m.hourEvents += n
	m.hourHolding = m.heldEvents > 0
	return n
}

// standings is how the limits should stand, without a change of the model: whoever looks turns no window.
func (m *limitsModel) standings(at time.Time) []db.LimitStanding {
	now := *m
	now.roll(at)
	now.rollHour(at)
	reserved, day, month := now.reserved(), now.used(now.dayFrom), now.used(now.monthFrom)
	out := []db.LimitStanding{
		{Name: db.LimitEventsPerHour, Soft: m.limits.EventsPerHourSoft, Hard: m.limits.EventsPerHourHard, Used: now.hourEvents, Held: m.heldEvents},
		{Name: db.LimitTokensPerDay, Soft: m.limits.TokensPerDaySoft, Hard: m.limits.TokensPerDayHard, Used: day.tokens, Reserved: reserved.tokens},
		{Name: db.LimitCostPerDay, Soft: m.limits.CostPerDaySoft, Hard: m.limits.CostPerDayHard, Used: day.pico, Reserved: reserved.pico},
		{Name: db.LimitCostPerMonth, Soft: m.limits.CostPerMonthSoft, Hard: m.limits.CostPerMonthHard, Used: month.pico, Reserved: reserved.pico},
	}
	for i, window := range [][2]*time.Time{
		{&now.hourFrom, &now.hourUntil}, {&now.dayFrom, &now.dayUntil}, {&now.dayFrom, &now.dayUntil}, {&now.monthFrom, &now.monthUntil},
	} {
		out[i].WindowFrom, out[i].ResetsAt = window[0], window[1]
	}
	for i := range out {
		out[i].Effective, out[i].RaisedUntil = m.effective(out[i].Name, out[i].Hard, at)
	}
	return out
}
