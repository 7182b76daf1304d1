package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"sluice/db"
)

const (
	// touchEvery is how exact the last use of a secret is: it is for people.
	touchEvery = time.Minute
	// touchesMax bounds what waits to be written; what finds no room is noted by a later delivery.
	touchesMax   = 1024
	touchTimeout = 5 * time.Second
	touchesHeld  = 100_000 // secrets whose last note is remembered
)

// secretTouches writes when a secret was last used, beside the deliveries and not in their way.
type secretTouches struct {
	db    *db.DB
	log   *slog.Logger
	queue chan secretTouch
	done  chan struct{}

	mu     sync.Mutex
	noted  map[uuid.UUID]time.Time
	closed bool
}

type secretTouch struct{ tenantID, secretID uuid.UUID }

func newSecretTouches(d *db.DB, log *slog.Logger) *secretTouches {
	t := &secretTouches{db: d, log: log, queue: make(chan secretTouch, touchesMax), done: make(chan struct{}), noted: map[uuid.UUID]time.Time{}}
	go t.loop()
	return t
}

// note says that a secret has proved a delivery.
func (t *secretTouches) note(tenantID uuid.UUID, s *db.OpenSecret, at time.Time) {
	if s.LastUsedAt != nil && at.Sub(*s.LastUsedAt) < touchEvery {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || at.Sub(t.noted[s.ID]) < touchEvery {
		return
	}
	if len(t.noted) >= touchesHeld {
		clear(t.noted)
	}
	select {
	case t.queue <- secretTouch{tenantID, s.ID}:
		t.noted[s.ID] = at
	default:
	}
}

func (t *secretTouches) loop() {
	defer close(t.done)
	for touch := range t.queue {
		ctx, cancel := context.WithTimeout(context.Background(), touchTimeout)
		err := t.db.Tenant(ctx, touch.tenantID, func(tx db.TenantTx) error { return tx.EndpointSecretTouch(ctx, touch.secretID) })
		cancel()
		if err != nil {
			t.log.Warn("the last use of a secret was not written", "error", err)
		}
	}
}

func (t *secretTouches) close() {
	t.mu.Lock()
	t.closed = true
	close(t.queue)
	t.mu.Unlock()
	<-t.done
}
