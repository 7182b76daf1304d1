package jobs

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sony/gobreaker/v2"

	"sluice/jobs/action"
)

// The bounds of what is sent to one host. A breaker counts what says that the host is in trouble, and never what it says of one request or of one
// credential: a tenant's wrong token must not close a host to others.
const (
	hostFailuresInARow = 5
	hostMinRequests    = 20
	hostFailureRatio   = 0.5
	hostWindow         = time.Minute
	hostOpenFor        = 15 * time.Second
	hostBuckets        = 10
	// hostShareOf is the part of the workers of a process that one tenant may have at one host, so that a slow host holds up nobody else.
	hostShareOf = 2
	// hostPatience is how long an attempt waits at a host for a place, with its worker, before it is turned away: where effects are quick none ever is.
	hostPatience = 250 * time.Millisecond
	// hostSlowness is the weight of the last turn in what a turn is taken to last.
	hostSlowness = 8
	hostJitterOf = 4
	// hostsMax bounds how many hosts are known; past it, those that nothing is sent to are forgotten.
	hostsMax = 10_000
	// hostTurn is how long a turn at a host is taken to last before one has been seen.
	hostTurn = 500 * time.Millisecond
)

// hosts are the targets' hosts as this process knows them: who is in trouble, who asked for patience, how many are there.
type hosts struct {
	places *slots[hostPlace]
	now    func() time.Time

	mu  sync.Mutex
	all map[string]*host
}

// host is one host. All but the breaker is under the lock of hosts; inARow is under the breaker's.
type host struct {
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	// openUntil is when the breaker may let one through.
	openUntil time.Time
	visitors  map[uuid.UUID]*visitor
	there     int // attempts on their way there
	inARow    int
}

// visitor is a tenant at a host.
type visitor struct {
	took   time.Duration // what a turn lasts
	queued time.Time     // when the last that was turned away comes again
	paused map[uuid.UUID]time.Time
}

// hostPlace is what a tenant has so many of at a host.
type hostPlace struct {
	host     string
	tenantID uuid.UUID
}

func newHosts(workers int, now func() time.Time) *hosts {
	return &hosts{places: newSlots[hostPlace](workers/hostShareOf, hostPatience), now: now, all: map[string]*host{}}
}

// hostOf is the host of an address, in its one spelling.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// turnedAway says why nothing is sent to a host now, and when to come again.
type turnedAway struct {
	reason, detail string
	wait           time.Duration
}

// enter lets one attempt go to a host, and returns how to say how it went, or why it must come again. Where its tenant has as many there as may be, it
// waits a moment for a place. credential is uuid.Nil where there is none.
func (h *hosts) enter(ctx context.Context, name string, tenantID, credential uuid.UUID) (leave func(error), away *turnedAway) {
	h.mu.Lock()
	at, v := h.visit(name, tenantID)
	patience := v.paused[credential].Sub(h.now())
	h.mu.Unlock()
	if patience > 0 {
		return nil, &turnedAway{action.CodeRateLimited, "The target asked to be asked less often.", patience}
	}
	place := hostPlace{name, tenantID}
	if !h.places.take(ctx, place) {
		return nil, &turnedAway{reasonHostBusy, "As many effects are on their way to this host as may be at once.", h.turn(v)}
	}
	done, err := at.breaker.Allow()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.places.give(place)
		wait := max(at.openUntil.Sub(h.now()), breakerWaitMin)
		return nil, &turnedAway{reasonHostOpen, "The target's host failed too often of late, so it is left alone for a while.", wait + jitter(wait/hostJitterOf)}
	}
	at.there++
	began := h.now()
	return func(err error) {
		h.places.give(place)
		h.mu.Lock()
		at.there--
		v.took += (h.now().Sub(began) - v.took) / hostSlowness
		if e, ok := errors.AsType[*action.Error](err); ok && e.Code == action.CodeRateLimited {
			if v.paused == nil {
				v.paused = map[uuid.UUID]time.Time{}
			}
			v.paused[credential] = h.now().Add(orDefault(e.RetryAfter, rateLimitWait))
		}
		h.mu.Unlock()
		done(troubled(err))
	}, nil
}

// turn is when one that is turned away comes again: each is told a turn of its own.
func (h *hosts) turn(v *visitor) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	if first := now.Add(v.took); v.queued.Before(first) {
		v.queued = first
	}
	v.queued = v.queued.Add(v.took / time.Duration(h.places.most))
	return v.queued.Sub(now)
}

// visit finds or makes a host and a visitor of it.
func (h *hosts) visit(name string, tenantID uuid.UUID) (*host, *visitor) {
	if len(h.all) >= hostsMax {
		for other, at := range h.all {
			if at.there == 0 {
				delete(h.all, other)
			}
		}
	}
	at := h.all[name]
	if at == nil {
		at = &host{visitors: map[uuid.UUID]*visitor{}}
		at.breaker = h.newBreaker(at)
		h.all[name] = at
	}
	v := at.visitors[tenantID]
	if v == nil {
		v = &visitor{took: hostTurn}
		at.visitors[tenantID] = v
	}
	return at, v
}

// newBreaker makes the breaker of a host. gobreaker calls back under its own lock, inside of Allow and done, which are called without that of hosts.
func (h *hosts) newBreaker(at *host) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	openFor := hostOpenFor + rand.N(hostOpenFor/hostJitterOf)
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Interval: hostWindow, BucketPeriod: hostWindow / hostBuckets, Timeout: openFor,
		IsExcluded: func(err error) bool { return errors.Is(err, errNothing) },
		IsSuccessful: func(err error) bool {
			if err == nil {
				at.inARow = 0
				return true
			}
			at.inARow++
			return false
		},
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return at.inARow >= hostFailuresInARow ||
				n.Requests >= hostMinRequests && float64(n.TotalFailures) >= hostFailureRatio*float64(n.Requests)
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				h.mu.Lock()
				at.openUntil = h.now().Add(openFor)
				h.mu.Unlock()
			}
			if to == gobreaker.StateClosed {
				at.inARow = 0
			}
		},
	})
}

// troubled is what an attempt says of its host: nil is well, errNothing is nothing.
func troubled(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*action.Error](err)
	if !ok {
		return errNothing
	}
	switch e.Code {
	case action.CodeBroken, action.CodeConnect, action.CodeDNS, action.CodeStatus5xx, action.CodeTLS, action.CodeTimeout:
		return err
	case action.CodeCanceled, action.CodeInvalid, action.CodeCredential, action.CodeBlocked:
		return errNothing
	}
	return nil // it answered
}
