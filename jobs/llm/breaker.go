package llm

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// BreakerConfig tunes the breakers. A zero field takes its default.
type BreakerConfig struct {
	// MinRequests is how many calls the window must hold before the ratio counts; 10.
	MinRequests int
	// FailurePercent of the window's calls trips the breaker; 50.
	FailurePercent int
	// ConsecutiveFailures trips it too, whatever the window holds; 5.
	ConsecutiveFailures int
	// Interval is the length of the rolling window. It has to hold MinRequests calls that all last as long as the call timeout, or a
	// total outage never reaches the ratio: its default is (MinRequests/ExpectedConcurrency + 2) times the call timeout.
	Interval time.Duration
	// ExpectedConcurrency is how many calls run at once on one breaker; 4.
	ExpectedConcurrency int
	// OpenFor is how long an open breaker lets nothing pass; 30 s. OpenJitter is added at random, once per breaker, so that many
	// processes do not probe at the same instant; a sixth of OpenFor.
	OpenFor, OpenJitter time.Duration
	// Probes is how many calls a half-open breaker admits; 1, at most 3.
	Probes int
	// EntriesMax bounds the breakers kept in memory; 4,096. The ones idle longest go first.
	EntriesMax int
}

const (
	breakerMinRequests         = 10
	breakerFailurePercent      = 50
	breakerConsecutiveFailures = 5
	breakerExpectedConcurrency = 4
	breakerOpenFor             = 30 * time.Second
	breakerProbesMax           = 3
	breakerEntriesMax          = 4096
	// breakerBuckets is how many steps the window rolls in. With 2 or more gobreaker never starts a new generation while closed, so a
	// call that outlives the window still counts as a failure in a row.
	breakerBuckets = 10
	// breakerBusyWait is what to wait when a half-open breaker has its probes out: they tell within moments where the provider is back.
	breakerBusyWait = 2 * time.Second
)

func (c BreakerConfig) filled(timeout time.Duration) BreakerConfig {
	c.MinRequests = cmp.Or(c.MinRequests, breakerMinRequests)
	c.FailurePercent = cmp.Or(c.FailurePercent, breakerFailurePercent)
	c.ConsecutiveFailures = cmp.Or(c.ConsecutiveFailures, breakerConsecutiveFailures)
	c.ExpectedConcurrency = cmp.Or(c.ExpectedConcurrency, breakerExpectedConcurrency)
	rounds := (c.MinRequests + c.ExpectedConcurrency - 1) / c.ExpectedConcurrency
	c.Interval = cmp.Or(c.Interval, time.Duration(rounds+2)*timeout)
	c.OpenFor = cmp.Or(c.OpenFor, breakerOpenFor)
	c.OpenJitter = cmp.Or(c.OpenJitter, c.OpenFor/6)
	c.Probes = min(cmp.Or(c.Probes, 1), breakerProbesMax)
	c.EntriesMax = cmp.Or(c.EntriesMax, breakerEntriesMax)
	return c
}

// breakerKey keeps a tenant's own credential apart from the operator's and from other tenants', so that one bad key cannot stop others.
type breakerKey struct{ provider, model, owner string }

func (k breakerKey) compare(o breakerKey) int {
	return cmp.Or(strings.Compare(k.provider, o.provider), strings.Compare(k.model, o.model), strings.Compare(k.owner, o.owner))
}

// A breaker is the gate before one provider, model and owner, and what is known of their calls.
type breaker struct {
	key       breakerKey
	gate      *gobreaker.CircuitBreaker[Reply]
	probes    int
	bulkhead  bulkhead
	openUntil atomic.Int64 // Unix nanoseconds; written by the gate's callback.
	opened    atomic.Int64 // How often it tripped.
	lastError atomic.Pointer[LastError]

	// Under the lock of breakers.
	users    int
	lastUsed time.Time
}

// refusal is the error that a call meets at once, or nil.
func (b *breaker) refusal(now time.Time) *Error {
	switch b.gate.State() {
	case gobreaker.StateOpen:
		return b.open(now)
	case gobreaker.StateHalfOpen:
		if n := b.gate.Counts(); int(n.Requests-n.TotalExclusions) >= b.probes {
			return probed()
		}
	}
	return nil
}

// open is the error of a call that meets an open breaker.
func (b *breaker) open(now time.Time) *Error {
	e := &Error{Kind: KindBreakerOpen, RetryAfter: breakerBusyWait, Message: "the provider failed too often of late"}
	if until := b.openUntil.Load(); until != 0 {
		e.RetryAfter = max(time.Unix(0, until).Sub(now), time.Millisecond)
	}
	return e
}

// probed is the error of a call that meets a half-open breaker whose probes are out.
func probed() *Error {
	return &Error{Kind: KindBreakerOpen, RetryAfter: breakerBusyWait, Message: "the provider failed of late and is being probed"}
}

// excused wraps an error that must not count, so that gobreaker can tell without knowing our kinds.
type excused struct{ error }

func (t *breakers) newBreaker(key breakerKey) *breaker {
	c := t.config
	b := &breaker{key: key, probes: c.Probes, bulkhead: bulkhead{places: t.places}}
	// Failures in a row, over any time. gobreaker has its own number, from which it drops what is older than the window; a total
	// outage under light traffic would never trip. Read and written under the gate's lock only, in the callbacks.
	inARow := 0
	openFor := c.OpenFor + rand.N(c.OpenJitter+1)
	b.gate = gobreaker.NewCircuitBreaker[Reply](gobreaker.Settings{
		MaxRequests:  uint32(c.Probes),
		Interval:     c.Interval,
		BucketPeriod: max(c.Interval/breakerBuckets, 1),
		Timeout:      openFor,
		IsExcluded: func(err error) bool {
			var outer excused
			return errors.As(err, &outer)
		},
		IsSuccessful: func(err error) bool {
			if err == nil {
				inARow = 0
				return true
			}
			inARow++
			return false
		},
		ReadyToTrip: func(n gobreaker.Counts) bool {
			ended := int(n.TotalFailures + n.TotalSuccesses)
			return inARow >= c.ConsecutiveFailures ||
				ended >= c.MinRequests && int(n.TotalFailures)*100 >= c.FailurePercent*ended
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			inARow = 0
			if to == gobreaker.StateOpen {
				b.openUntil.Store(t.now().Add(openFor).UnixNano())
				b.opened.Add(1)
			} else {
				b.openUntil.Store(0)
			}
			t.changed(key, to.String())
		},
	})
	return b
}

// breakers is a bounded table of them. Its lock is never held while a gate is asked, since a gate calls back.
type breakers struct {
	config BreakerConfig
	places int // Of each bulkhead.
	now    func() time.Time
	// changed is told of every change of a breaker's state, under the gate's lock.
	changed func(key breakerKey, to string)

	mu  sync.Mutex
	all map[breakerKey]*breaker
}

// find is the breaker of key, or nil.
func (t *breakers) find(key breakerKey) *breaker {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all[key]
}

// enter finds or makes the breaker of key, and marks it as in use until leave.
func (t *breakers) enter(key breakerKey) *breaker {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.all[key]
	if b == nil {
		if len(t.all) >= t.config.EntriesMax {
			t.evict()
		}
		b = t.newBreaker(key)
		t.all[key] = b
	}
	b.users++
	b.lastUsed = t.now()
	return b
}

func (t *breakers) leave(b *breaker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b.users--
	b.lastUsed = t.now()
}

// evict drops an eighth of the table, those idle longest. Ones with a call under way stay, so the table passes its bound by at most
// the number of calls under way.
func (t *breakers) evict() {
	idle := make([]*breaker, 0, len(t.all))
	for _, b := range t.all {
		if b.users == 0 {
			idle = append(idle, b)
		}
	}
	slices.SortFunc(idle, func(a, b *breaker) int { return a.lastUsed.Compare(b.lastUsed) })
	for _, b := range idle[:min(len(idle), t.config.EntriesMax/8+1)] {
		delete(t.all, b.key)
	}
}
