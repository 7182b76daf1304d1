package api

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"sluice/automations"
	"sluice/db"
)

// LimitsConfig is what the operator sets for a tenant.
type LimitsConfig struct {
	EventsPerHour   CountBounds `json:"events_per_hour" required:"false" doc:"events that go on to work, in an hour"`
	TokensPerDay    CountBounds `json:"tokens_per_day" required:"false" doc:"tokens of all kinds, in a day of the tenant's time zone"`
	CostPerDayUSD   MoneyBounds `json:"cost_per_day_usd" required:"false"`
	CostPerMonthUSD MoneyBounds `json:"cost_per_month_usd" required:"false"`

	RunsPerSecond  *float64 `json:"runs_per_second" required:"false" minimum:"0.001" maximum:"100000" doc:"how many may begin in a second; null is no limit"`
	Burst          int      `json:"burst" required:"false" minimum:"1" maximum:"100000" default:"10" doc:"how many may begin at once after a quiet time"`
	ConcurrentRuns *int     `json:"concurrent_runs" required:"false" minimum:"1" maximum:"100000" doc:"how many runs may be worked on at once; null is no limit"`
	Share          float64  `json:"share" required:"false" minimum:"0.001" maximum:"100000" default:"50" doc:"runs a second at which it is still at the front of the queue; no cap"`
	StoredPerHour  int64    `json:"stored_per_hour" required:"false" minimum:"1" maximum:"1000000000000" default:"1000000" doc:"events that are kept in an hour; what comes then gets 429"`
}

// CountBounds are a limit of a number.
type CountBounds struct {
	Soft   *int64       `json:"soft" required:"false" minimum:"0" maximum:"1000000000000000" doc:"what is told when it is passed; null is none"`
	Hard   *int64       `json:"hard" required:"false" minimum:"0" maximum:"1000000000000000" doc:"what holds; null is no limit"`
	Raises []CountRaise `json:"raises" required:"false" maxItems:"10" doc:"of the hard limit; the highest holds"`
}

// CountRaise lifts a hard limit for some time.
type CountRaise struct {
	Value int64     `json:"value" minimum:"0" maximum:"1000000000000000" doc:"the limit until then, above the hard one"`
	Until time.Time `json:"until" doc:"when it ends by itself, within a year"`
	Note  string    `json:"note,omitempty" maxLength:"200" pattern:"^[^\\x00-\\x1f\\x7f]*$" patternDescription:"text without control characters" doc:"why, for people"`
}

// MoneyBounds are a limit of USD.
type MoneyBounds struct {
	Soft   *string      `json:"soft" required:"false" maxLength:"30" example:"8.00" doc:"what is told when it is passed; null is none"`
	Hard   *string      `json:"hard" required:"false" maxLength:"30" example:"10.00" doc:"what holds; null is no limit"`
	Raises []MoneyRaise `json:"raises" required:"false" maxItems:"10" doc:"of the hard limit; the highest holds"`
}

// MoneyRaise lifts a hard limit for some time.
type MoneyRaise struct {
	Value string    `json:"value" maxLength:"30" example:"25.00" doc:"the limit until then, above the hard one"`
	Until time.Time `json:"until" doc:"when it ends by itself, within a year"`
	Note  string    `json:"note,omitempty" maxLength:"200" pattern:"^[^\\x00-\\x1f\\x7f]*$" patternDescription:"text without control characters" doc:"why, for people"`
}

func toLimitsConfig(l db.Limits, raises []db.LimitRaise) LimitsConfig {
	counts := func(name string, soft, hard *int64) CountBounds {
		out := CountBounds{Soft: soft, Hard: hard, Raises: []CountRaise{}}
		for _, r := range raises {
			if r.Name == name {
				out.Raises = append(out.Raises, CountRaise{Value: r.Value, Until: r.Until.UTC(), Note: r.Note})
			}
		}
		return out
	}
	money := func(name string, soft, hard *int64) MoneyBounds {
		out := MoneyBounds{Soft: optional(soft, usdOf), Hard: optional(hard, usdOf), Raises: []MoneyRaise{}}
		for _, r := range raises {
			if r.Name == name {
				out.Raises = append(out.Raises, MoneyRaise{Value: usdOf(r.Value), Until: r.Until.UTC(), Note: r.Note})
			}
		}
		return out
	}
	return LimitsConfig{
		EventsPerHour:   counts(db.LimitEventsPerHour, l.EventsPerHourSoft, l.EventsPerHourHard),
		TokensPerDay:    counts(db.LimitTokensPerDay, l.TokensPerDaySoft, l.TokensPerDayHard),
		CostPerDayUSD:   money(db.LimitCostPerDay, l.CostPerDaySoft, l.CostPerDayHard),
		CostPerMonthUSD: money(db.LimitCostPerMonth, l.CostPerMonthSoft, l.CostPerMonthHard),
		RunsPerSecond:   l.RunsPerSecond, Burst: l.Burst, ConcurrentRuns: l.ConcurrentRuns, Share: l.Share, StoredPerHour: l.StoredPerHour,
	}
}

// rows is the configuration for the database, with every fault; place is where it stands in the request.
func (c LimitsConfig) rows(place string, now time.Time) (db.Limits, []db.LimitRaise, []Fault) {
	l := db.Limits{
		RunsPerSecond: c.RunsPerSecond, Burst: c.Burst, ConcurrentRuns: c.ConcurrentRuns, Share: c.Share, StoredPerHour: c.StoredPerHour,
	}
	check := limitsCheck{place: place, now: now}
	l.EventsPerHourSoft, l.EventsPerHourHard = check.counts(db.LimitEventsPerHour, c.EventsPerHour)
	l.TokensPerDaySoft, l.TokensPerDayHard = check.counts(db.LimitTokensPerDay, c.TokensPerDay)
	l.CostPerDaySoft, l.CostPerDayHard = check.money(db.LimitCostPerDay, c.CostPerDayUSD)
	l.CostPerMonthSoft, l.CostPerMonthHard = check.money(db.LimitCostPerMonth, c.CostPerMonthUSD)
	slices.SortStableFunc(check.raises, func(a, b db.LimitRaise) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), a.Until.Compare(b.Until), cmp.Compare(a.Value, b.Value)) // as they are read back
	})
	return l, check.raises, check.faults
}

// limitsCheck gathers what is set and what is wrong with it.
type limitsCheck struct {
	place  string
	now    time.Time
	raises []db.LimitRaise
	faults []Fault
}

func (c *limitsCheck) fault(location, message string) {
	c.faults = append(c.faults, Fault{Location: c.place + "." + location, Message: message})
}

func raiseAt(name string, i int) string { return fmt.Sprintf("%s.raises/%d", name, i) }

func (c *limitsCheck) counts(name string, b CountBounds) (soft, hard *int64) {
	c.order(name, b.Soft, b.Hard)
	for i, r := range b.Raises {
		c.raise(raiseAt(name, i), b.Hard != nil, b.Hard, &r.Value, db.LimitRaise{Name: name, Note: r.Note, Until: r.Until})
	}
	return b.Soft, b.Hard
}

func (c *limitsCheck) money(name string, b MoneyBounds) (soft, hard *int64) {
	soft, hard = c.amount(name+".soft", b.Soft), c.amount(name+".hard", b.Hard)
	c.order(name, soft, hard)
	for i, r := range b.Raises {
		at := raiseAt(name, i)
		c.raise(at, b.Hard != nil, hard, c.amount(at+".value", &r.Value), db.LimitRaise{Name: name, Note: r.Note, Until: r.Until})
	}
	return soft, hard
}

// zeroUSD is nothing at all, which is a limit too.
var zeroUSD = regexp.MustCompile(`^0(\.0{1,12})?$`)

// amount reads pico-USD; nil for none, and for what is a fault.
func (c *limitsCheck) amount(location string, text *string) *int64 {
	if text == nil {
		return nil
	}
	if zeroUSD.MatchString(*text) {
		return new(int64)
	}
	pico, err := automations.ParseUSD(*text)
	if err != nil {
		c.fault(location, err.Error())
		return nil
	}
	return &pico
}

func (c *limitsCheck) order(name string, soft, hard *int64) {
	if soft != nil && hard != nil && *soft > *hard {
		c.fault(name+".soft", "expected at most the hard limit")
	}
}

// raise takes a raise. A value that is nil has its fault already, and so has a hard limit that is set and nil.
func (c *limitsCheck) raise(at string, hardIsSet bool, hard, value *int64, r db.LimitRaise) {
	switch {
	case !hardIsSet:
		c.fault(at, "there is no hard limit to raise")
	case hard != nil && value != nil && *value <= *hard:
		c.fault(at+".value", "expected more than the hard limit")
	case value != nil:
		r.Value = *value
	}
	if !r.Until.After(c.now) || r.Until.After(c.now.AddDate(1, 0, 0)) {
		c.fault(at+".until", "expected a time in the future, within a year")
	}
	r.Until = r.Until.Truncate(time.Microsecond) // as the database keeps it
	c.raises = append(c.raises, r)
}
