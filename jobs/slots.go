package jobs

import (
	"context"
	"sync"
	"time"
)

// slotPatience is how long a run waits for one of its tenant's slots before it is parked: with a quick model one is free by then, and with a slow one
// a worker must not be kept from others' runs for longer.
const slotPatience = 2 * time.Second

// slots bound how many of a process's workers one taker may have at once: a tenant among all, so that a slow model of one leaves workers to the others, or
// a tenant at one host.
type slots[K comparable] struct {
	most     int
	patience time.Duration // how long one is waited for

	mu  sync.Mutex
	all map[K]*taker
}

// taker has slots, and waits for more.
type taker struct {
	taken   int
	waiting []chan struct{}
}

func newSlots[K comparable](most int, patience time.Duration) *slots[K] {
	return &slots[K]{most: max(most, 1), patience: patience, all: map[K]*taker{}}
}

// take takes a slot, waiting for one for a moment, and says whether it got one.
func (s *slots[K]) take(ctx context.Context, who K) bool {
	s.mu.Lock()
	mine := s.all[who]
	if mine == nil {
		mine = &taker{}
		s.all[who] = mine
	}
	if mine.taken < s.most {
		mine.taken++
		s.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	mine.waiting = append(mine.waiting, turn)
	s.mu.Unlock()
	patience := time.NewTimer(s.patience)
	defer patience.Stop()
	select {
	case <-turn:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range mine.waiting {
		if w == turn {
			mine.waiting = append(mine.waiting[:i], mine.waiting[i+1:]...)
			return false
		}
	}
	return true // it was given in this very moment
}

// give gives a slot back: to the one that waits longest, if any.
func (s *slots[K]) give(who K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.all[who]
	if len(mine.waiting) > 0 {
		close(mine.waiting[0])
		mine.waiting = mine.waiting[1:]
		return
	}
	if mine.taken--; mine.taken == 0 {
		delete(s.all, who)
	}
}
