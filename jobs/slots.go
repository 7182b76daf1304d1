package jobs

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
)

// slotPatience is how long a run waits for one of its tenant's slots before it is parked: with a quick model one is free by then, and with a slow one
// a worker must not be kept from others' runs for longer.
const slotPatience = 2 * time.Second

// slots bound how many of a process's workers one tenant may have at once, so that a slow model of one leaves workers to the others.
type slots struct {
	most int

	mu  sync.Mutex
	all map[uuid.UUID]*tenantSlots
}

type tenantSlots struct {
	taken   int
	waiting []chan struct{}
}

func newSlots(most int) *slots { return &slots{most: max(most, 1), all: map[uuid.UUID]*tenantSlots{}} }

// take takes a slot, waiting for one for a moment, and says whether it got one.
func (s *slots) take(ctx context.Context, tenantID uuid.UUID) bool {
	s.mu.Lock()
	mine := s.all[tenantID]
	if mine == nil {
		mine = &tenantSlots{}
		s.all[tenantID] = mine
	}
	if mine.taken < s.most {
		mine.taken++
		s.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	mine.waiting = append(mine.waiting, turn)
	s.mu.Unlock()
	patience := time.NewTimer(slotPatience)
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
func (s *slots) give(tenantID uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.all[tenantID]
	if len(mine.waiting) > 0 {
		close(mine.waiting[0])
		mine.waiting = mine.waiting[1:]
		return
	}
	if mine.taken--; mine.taken == 0 {
		delete(s.all, tenantID)
	}
}
