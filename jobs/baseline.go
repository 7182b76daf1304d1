package jobs

import (
	"slices"
)

// This file tells what is unusual for a subject from its own past, and from nothing else. docs/alerts.md says the same in words, and shows it on a
// recorded series. No I/O may enter it.

// The hours that are compared with.
const (
	hoursOfDay  = 24
	hoursOfWeek = 7 * hoursOfDay
	// baselineCold is how much past there must be at least.
	baselineCold = hoursOfDay
	// baselineDays and baselineWeeks are how many days, or weeks, are looked back; with fewer of them, the next shorter season is taken.
	baselineDays  = 7
	baselineWeeks = 4
	// baselineMost is how much of the past is of use: four weeks before the hour, and before each hour of the day before it.
	baselineMost = baselineWeeks*hoursOfWeek + hoursOfDay + 2
)

// What is far above the usual: the greatest of the three is what must be added to it.
const (
	baselineSpreads = 6      // times the spread of that hour's past
	madToDeviation  = 1.4826 // the median deviation of a normal distribution is so much smaller than its standard deviation
	baselineTimes   = 3      // times the usual itself
	// baselineBusy is the share of hours that are below what is usual where there is no season yet: a working day is a third of a day.
	baselineBusy = 0.9
	// baselineEnds is the share of the threshold below which an alert comes to its end.
	baselineEnds = 0.5
	// levelSmoothing is the share of the floor that is added on both sides of a ratio, so that small numbers say little.
	levelSmoothing = 0.1
)

// Baseline tells what is usual.
type Baseline struct {
	// Floor is by how much the usual must be passed at least.
	Floor float64
}

// Series is what went through a subject.
type Series struct {
	// Hours are the full hours before the one that is under way, the oldest first. The first is the subject's first.
	Hours []int64
	// Current is what the hour that is under way has had, and Part how much of it is over, from 0 to 1.
	Current int64
	Part    float64
}

// Judgement is what a Baseline says of the last 60 minutes.
type Judgement struct {
	// Rate is what went through within them, Usual what was to be expected, Threshold what is far above it.
	Rate, Usual, Threshold float64
}

// Far says that the rate is far above the usual.
func (j Judgement) Far() bool { return j.Rate > j.Threshold }

// Near says that the rate is not yet so low again that an alert should end.
func (j Judgement) Near() bool { return j.Rate >= j.Threshold*baselineEnds }

// Judge looks at the last 60 minutes: the hour under way, and of the hour before as much as is missing. The usual is put together from both hours in
// the same way, so that a day's steep beginning and end are nothing unusual. It says nothing (false) of a subject that has not been there for a day.
func (b Baseline) Judge(s Series) (Judgement, bool) {
	s.Hours = s.Hours[max(0, len(s.Hours)-baselineMost):]
	n := len(s.Hours)
	if n < baselineCold {
		return Judgement{}, false
	}
	now, then := b.at(s.Hours, n), b.at(s.Hours, max(n-1, baselineCold))
	mix := func(now, then float64) float64 { return now*s.Part + then*(1-s.Part) }
	return Judgement{
		Rate:      float64(s.Current) + float64(s.Hours[n-1])*(1-s.Part),
		Usual:     mix(now.usual, then.usual),
		Threshold: mix(now.threshold, then.threshold),
	}, true
}

// expected is what is usual in one hour, and what is far above it.
type expected struct{ usual, threshold float64 }

// at says what is expected of hour i from the hours before it.
func (b Baseline) at(hours []int64, i int) expected {
	centre, spread := season(hours, i)
	level := b.level(hours, i)
	centre, spread = centre*level, spread*level
	return expected{usual: centre, threshold: centre + max(baselineSpreads*spread, baselineTimes*centre, b.Floor)}
}

// level is by how much the day before hour i was above its own season: half of its hours were at least so much higher. A change that stays is the
// usual after half a day, and a slow growth always is.
func (b Baseline) level(hours []int64, i int) float64 {
	if i < hoursOfWeek+hoursOfDay {
		return 1
	}
	few := b.Floor * levelSmoothing
	ratios := make([]float64, 0, hoursOfDay)
	for j := i - hoursOfDay; j < i; j++ {
		centre, _ := season(hours, j)
		ratios = append(ratios, (float64(hours[j])+few)/(centre+few))
	}
	return max(1, quantile(ratios, median))
}

// season is the centre and the spread of what hour i is compared with: the same hour of the week, of the day, or, where the past is shorter than a
// week, the busy hours of it.
func season(hours []int64, i int) (centre, spread float64) {
	switch {
	case i >= baselineWeeks*hoursOfWeek:
		return around(hours, i, hoursOfWeek, baselineWeeks)
	case i >= baselineDays*hoursOfDay:
		daily, dailySpread := around(hours, i, hoursOfDay, baselineDays)
		weekly, weeklySpread := around(hours, i, hoursOfWeek, i/hoursOfWeek)
		return max(daily, weekly), max(dailySpread, weeklySpread)
	}
	past := make([]float64, i)
	for j := range past {
		past[j] = float64(hours[j])
	}
	return quantile(past, baselineBusy), 0
}

// around looks at the hours that lie whole seasons before hour i, and at those beside them: the busiest of the three counts, since clocks change, and
// people are early or late.
func around(hours []int64, i, season, seasons int) (centre, spread float64) {
	for beside := -1; beside <= 1; beside++ {
		values := make([]float64, 0, seasons)
		for k := 1; k <= seasons; k++ {
			if j := i - k*season + beside; j >= 0 {
				values = append(values, float64(hours[j]))
			}
		}
		if len(values) == 0 {
			continue
		}
		if c, s := spreadOf(values); beside == -1 || c > centre {
			centre, spread = c, s
		}
	}
	return centre, spread
}

const median = 0.5

// spreadOf is the median of values, and their median deviation from it as a standard deviation: neither is moved by a few wild values.
func spreadOf(values []float64) (centre, spread float64) {
	centre = quantile(values, median)
	deviations := make([]float64, len(values))
	for i, v := range values {
		deviations[i] = max(v-centre, centre-v)
	}
	return centre, quantile(deviations, median) * madToDeviation
}

// quantile sorts values, and answers with the one that so large a share of them lie below, between two of them where it falls there.
func quantile(values []float64, share float64) float64 {
	slices.Sort(values)
	place := share * float64(len(values)-1)
	low := int(place)
	high := min(low+1, len(values)-1)
	return values[low] + (values[high]-values[low])*(place-float64(low))
}
