package llm

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// slotMax bounds how far ahead a slot may lie.
	slotMax = 10 * time.Minute
	// callSecondsGuess is how long a call is taken to last before any has.
	callSecondsGuess = 5
	// callSecondsWeight is what one call counts in the moving average.
	callSecondsWeight = 0.2
)

// A bulkhead bounds the calls under way to one model in one name, so that a slow model fills its own places and no more. Each call that
// finds no place is told a time of its own: the places come free at the pace of places / the length of a call, and the times are given out
// at that pace (a generic cell rate algorithm).
type bulkhead struct {
	places int // 0 is any number.

	mu       sync.Mutex
	inFlight int
	seconds  float64 // The moving average of a call's length; 0 before the first.
	last     time.Time
}

// enter takes a place, or a slot where there is none: how long to wait until a place is likely to be free.
func (b *bulkhead) enter(now time.Time) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full() {
		return b.take(now), false
	}
	b.inFlight++
	return 0, true
}

// leave gives a place back. length is how long the call took, 0 where that says nothing about calls.
func (b *bulkhead) leave(length time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
	switch {
	case length <= 0:
	case b.seconds == 0:
		b.seconds = length.Seconds()
	default:
		b.seconds += callSecondsWeight * (length.Seconds() - b.seconds)
	}
}

// busy is what enter would say, and takes nothing.
func (b *bulkhead) busy(now time.Time) (wait time.Duration, busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.full() {
		return 0, false
	}
	wait, _ = b.slot(now)
	return wait, true
}

// reserve takes a slot where there is no place.
func (b *bulkhead) reserve(now time.Time) (wait time.Duration, full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.full() {
		return 0, false
	}
	return b.take(now), true
}

func (b *bulkhead) full() bool { return b.places > 0 && b.inFlight >= b.places }

// take gives the next slot out.
func (b *bulkhead) take(now time.Time) time.Duration {
	wait, at := b.slot(now)
	b.last = at
	return wait
}

// slot is the wait for the slot after the last one, and that slot. Beyond slotMax none are kept: who is sent so far away is told any time
// in the farther half, and is given a slot on return.
func (b *bulkhead) slot(now time.Time) (wait time.Duration, at time.Time) {
	seconds := b.seconds
	if seconds == 0 {
		seconds = callSecondsGuess
	}
	at = now
	if b.last.After(now) {
		at = b.last
	}
	at = at.Add(time.Duration(seconds / float64(b.places) * float64(time.Second)))
	if wait = at.Sub(now); wait > slotMax {
		return slotMax/2 + rand.N(slotMax/2) + 1, b.last
	}
	return max(wait, time.Millisecond), at
}

// stand is what States shows.
func (b *bulkhead) stand() (inFlight int, seconds float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inFlight, b.seconds
}
