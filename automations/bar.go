package automations

import "math"

// wilsonZ is how many standard deviations to either side hold 95 % of a normal distribution.
const wilsonZ = 1.959963984540054

// Wilson answers the bounds that hold a rate with 95 % confidence, of which passed of all were seen: Wilson's score interval, which is right for few
// too. Of none, nothing is known: 0 and 1.
func Wilson(passed, all int) (lower, upper float64) {
	if all <= 0 {
		return 0, 1
	}
	n, rate := float64(all), float64(passed)/float64(all)
	const zz = wilsonZ * wilsonZ
	middle := rate + zz/(2*n) //nolint:mnd // of the formula
	spread := wilsonZ * math.Sqrt(rate*(1-rate)/n+zz/(4*n*n))
	scale := 1 + zz/n
	return max((middle-spread)/scale, 0), min((middle+spread)/scale, 1)
}

// Missing answers how many more outputs, one after another, people must approve as they are until the bar is met: 0 says that it is. verdicts are
// those that were given, newest first, true where the output was approved as it was; only the last Reviews of them count.
func (p PromoteSpec) Missing(verdicts []bool) int {
	verdicts = verdicts[:min(len(verdicts), p.Reviews)]
	for more := range p.Reviews {
		counted := verdicts[:min(len(verdicts), p.Reviews-more)]
		if more+len(counted) == p.Reviews && float64(more+passedOf(counted))/float64(p.Reviews) >= p.PassRate {
			return more
		}
	}
	return p.Reviews
}

func passedOf(verdicts []bool) int {
	n := 0
	for _, passed := range verdicts {
		if passed {
			n++
		}
	}
	return n
}

// PassRate answers how many of verdicts are true, and which part of them that is; 0 of none.
func PassRate(verdicts []bool) (passed int, rate float64) {
	passed = passedOf(verdicts)
	if len(verdicts) > 0 {
		rate = float64(passed) / float64(len(verdicts))
	}
	return passed, rate
}

// Demoted answers whether failed of the last live runs are too many, of those that ended. Where fewer than Runs have ended, the missing ones are taken for
// good ones: what is too many then would be too many with them as well.
func (d DemoteSpec) Demoted(failed int64) bool {
	return float64(failed)/float64(d.Runs) > d.FailureRate
}
