package automations

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Limits and defaults of what an automation says about retries, loops and money.
const (
	attemptsDefault = 5
	attemptsMax     = 20

	backoffSecondsDefault    = 2
	backoffSecondsMax        = 3600
	backoffMaxSecondsDefault = 300
	backoffMaxSecondsMax     = 24 * 3600

	loopDepthDefault = 2
	loopDepthMax     = 10

	actionsPerHourDefault = 30
	actionsPerHourMax     = 10_000
)

// What becomes of a run that meets a limit of its tenant.
const (
	OverCheaper = "cheaper" // it asks the cheaper model, where the limit is one of money
	OverDrop    = "drop"    // it ends as skipped
	OverHold    = "hold"    // it waits until the limit lets it go on
)

// A RetrySpec is what an automation says about failed attempts. What is nil has its default.
type RetrySpec struct {
	Attempts          *int `json:"attempts,omitempty"`            // 1 to 20; nil means 5
	BackoffSeconds    *int `json:"backoff_seconds,omitempty"`     // 1 to 3600; nil means 2
	BackoffMaxSeconds *int `json:"backoff_max_seconds,omitempty"` // backoff_seconds to 86400; nil means 300
}

// Retry is how often a run is tried, and how long it waits between: Base after the first failure, then longer, at most Most.
type Retry struct {
	Attempts int
	Base     time.Duration
	Most     time.Duration
}

// A LoopSpec bounds how far an automation may react to what was done for it. What is nil has its default.
type LoopSpec struct {
	Depth          *int `json:"depth,omitempty"`            // 0 to 10; nil means 2
	ActionsPerHour *int `json:"actions_per_hour,omitempty"` // 1 to 10000; nil means 30
}

// Loop is where a loop of events and actions is cut.
type Loop struct {
	Depth          int // how many own actions may stand in the chain that led to an event; 0 skips every event that one of them caused
	ActionsPerHour int
}

// Retry answers how to retry, with the defaults filled in.
func (c *Compiled) Retry() Retry { return c.retry }

// Loop answers where to cut a loop, with the defaults filled in.
func (c *Compiled) Loop() Loop { return c.loop }

// MaxCallPico answers what one call may cost at worst, in pico-USD, whichever model it asks; 0 is no such limit.
func (c *Compiled) MaxCallPico() int64 { return c.maxCallPico }

// OutputTokens is how many tokens the model may write, with the default filled in.
func (s Spec) OutputTokens() int {
	if s.MaxOutputTokens == 0 {
		return maxOutputTokensDefault
	}
	return s.MaxOutputTokens
}

// compileRetry checks the retries. What was given is left as it is, and comes back with the defaults filled in.
func compileRetry(given *RetrySpec, fault faulter) (Retry, *RetrySpec) {
	filled := RetrySpec{}
	if given != nil {
		filled = *given
	}
	attempts := within("retry.attempts", &filled.Attempts, bounds{1, attemptsMax, attemptsDefault}, fault)
	base := within("retry.backoff_seconds", &filled.BackoffSeconds, bounds{1, backoffSecondsMax, backoffSecondsDefault}, fault)
	most := within("retry.backoff_max_seconds", &filled.BackoffMaxSeconds, bounds{1, backoffMaxSecondsMax, backoffMaxSecondsDefault}, fault)
	// A base or a most that is faulty by itself says nothing about the other.
	if base <= backoffSecondsMax && most >= 1 && most < base {
		fault("retry.backoff_max_seconds", "expected at least backoff_seconds, which is %d, got %d (%d if left out)", base, most, backoffMaxSecondsDefault)
	}
	retry := Retry{Attempts: attempts, Base: time.Duration(base) * time.Second, Most: time.Duration(most) * time.Second}
	if given == nil {
		return retry, nil
	}
	return retry, &filled
}

// compileLoop checks the bounds of a loop, as compileRetry does.
func compileLoop(given *LoopSpec, fault faulter) (Loop, *LoopSpec) {
	filled := LoopSpec{}
	if given != nil {
		filled = *given
	}
	loop := Loop{
		Depth:          within("loop.depth", &filled.Depth, bounds{0, loopDepthMax, loopDepthDefault}, fault),
		ActionsPerHour: within("loop.actions_per_hour", &filled.ActionsPerHour, bounds{1, actionsPerHourMax, actionsPerHourDefault}, fault),
	}
	if given == nil {
		return loop, nil
	}
	return loop, &filled
}

// bounds are what a number may be, and what it is where it is left out.
type bounds struct{ least, most, otherwise int }

// within fills in a number that was left out, and checks one that was not.
func within(place string, n **int, b bounds, fault faulter) int {
	if *n == nil {
		*n = &b.otherwise
	}
	if **n < b.least || **n > b.most {
		fault(place, "expected a number from %d to %d, got %d", b.least, b.most, **n)
	}
	return **n
}

// checkOverLimit checks what becomes of a run at a limit, and that a cheaper model is named where one is to be asked, and only there.
func checkOverLimit(s Spec, fault faulter) {
	switch s.OverLimit {
	case OverHold, OverDrop:
		if s.CheaperModel != "" {
			fault("cheaper_model", "is asked only where over_limit is %s; here it is %s", OverCheaper, s.OverLimit)
		}
		return
	case OverCheaper:
	default:
		fault("over_limit", "expected hold, drop or cheaper, got %s", quoted(s.OverLimit))
		if s.CheaperModel == "" {
			return
		}
	}
	switch {
	case s.CheaperModel == "":
		fault("cheaper_model", "is required where over_limit is %s: expected provider/model, such as openai/gpt-5-mini", OverCheaper)
	case !modelRE.MatchString(s.CheaperModel):
		fault("cheaper_model", "expected provider/model, such as openai/gpt-5-mini, got %s", quoted(s.CheaperModel))
	case s.CheaperModel == s.Model:
		fault("cheaper_model", "%s is the model itself; expected another", quoted(s.CheaperModel))
	}
}

// usdRE is an amount of USD as it is written one way only: no sign, no exponent, no zeros before it, and no part below a pico-USD.
var usdRE = regexp.MustCompile(`^(0|[1-9][0-9]*)(?:\.([0-9]{1,12}))?$`)

// picoDigits is how many decimal places a pico-USD has.
const picoDigits = 12

// ParseUSD reads a decimal of USD above 0 as pico-USD (1e-12 USD): exactly, or not at all. The error is a sentence for whoever wrote it.
func ParseUSD(text string) (pico int64, err error) {
	parts := usdRE.FindStringSubmatch(text)
	if parts == nil {
		return 0, fmt.Errorf("expected USD as a decimal in a string, such as \"0.05\", with at most %d decimals, got %s", picoDigits, quoted(text))
	}
	whole, part := parts[1], parts[2]
	pico, err = strconv.ParseInt(whole+part+strings.Repeat("0", picoDigits-len(part)), 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("expected less than 9223372 USD, got %s", quoted(text))
	case pico == 0:
		return 0, fmt.Errorf("expected more than 0 USD, got %s", quoted(text))
	}
	return pico, nil
}

// compileMaxCall checks the ceiling of one call; "" is none, which is 0.
func compileMaxCall(text string, fault faulter) int64 {
	if text == "" {
		return 0
	}
	pico, err := ParseUSD(text)
	if err != nil {
		fault("max_call_usd", "%v", err)
	}
	return pico
}
