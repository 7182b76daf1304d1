package llm

import (
	"slices"
	"time"
)

// A State is one breaker, its bulkhead and its owner's pause, as they stand.
type State struct {
	Provider, Model, Owner string
	// State is "closed", "open" or "half-open".
	State string
	// OpenUntil is when an open breaker lets a probe pass; zero if it is not open. Opened counts how often it tripped.
	OpenUntil time.Time
	Opened    int64
	// PausedUntil is when the provider's rate limit on the owner ends, which holds for all models; zero if there is none.
	PausedUntil time.Time
	// InFlight is how many calls are under way, Bulkhead how many may be; 0 is any number.
	InFlight, Bulkhead int
	// LatencySeconds is how long a call takes, as a moving average; 0 before the first.
	LatencySeconds float64
	// Successes and Failures are those in the rolling window.
	Successes, Failures int
	// LastError is the latest failure of a call that was made; nil if none has failed.
	LastError *LastError
}

// A LastError is what became of the last call that failed.
type LastError struct {
	Kind Kind
	// Status is the HTTP status, 0 if there was none.
	Status int
	At     time.Time
}

// States shows every breaker in memory, by provider, model and owner.
func (c *Client) States() []State {
	all := c.breakers.list()
	out := make([]State, len(all))
	for i, b := range all {
		s := State{
			Provider: b.key.provider, Model: b.key.model, Owner: b.key.owner, Bulkhead: b.bulkhead.places,
			// Asking for the state lets the window roll, so it comes before the counts.
			State: b.gate.State().String(), Opened: b.opened.Load(), LastError: b.lastError.Load(),
			PausedUntil: c.pauses.until(pauseKey{b.key.provider, b.key.owner}),
		}
		s.InFlight, s.LatencySeconds = b.bulkhead.stand()
		n := b.gate.Counts()
		s.Successes, s.Failures = int(n.TotalSuccesses), int(n.TotalFailures)
		if until := b.openUntil.Load(); until != 0 {
			s.OpenUntil = time.Unix(0, until).UTC()
		}
		out[i] = s
	}
	return out
}

// list is every breaker, in order.
func (t *breakers) list() []*breaker {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*breaker, 0, len(t.all))
	for _, b := range t.all {
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b *breaker) int { return a.key.compare(b.key) })
	return all
}
