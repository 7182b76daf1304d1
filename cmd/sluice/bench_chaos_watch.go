package main

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// chaosWatch measures how long what was under way when a worker was killed, or paused, takes to go on. Who held what is not told apart: all that
// anybody held at that moment is watched, so the longest is at least as long as that of the one that was killed.
type chaosWatch struct {
	world *chaosWorld
	group sync.WaitGroup
	stop  context.CancelFunc

	mu      sync.Mutex
	held    map[chaosHeld]time.Time
	kills   int
	watched int
	longest time.Duration
	late    int // that took longer than the bar
}

// chaosHeld is a run or an action in one hold: the epoch is raised by whoever takes it next.
type chaosHeld struct {
	id     uuid.UUID
	epoch  int64
	action bool
}

const heldSQL = `
select id, epoch, false as action from sluice.runs where status = 'running'
union all
select id, epoch, true from sluice.actions where state = 'in_flight' and lease_until is not null`

// chaosRecovery is the bar for what was killed.
const chaosRecovery = 2 * time.Minute

func newChaosWatch(w *chaosWorld) *chaosWatch {
	return &chaosWatch{world: w, held: map[chaosHeld]time.Time{}}
}

// killed notes what is held at this moment; a database that is away says nothing.
func (c *chaosWatch) killed(ctx context.Context) {
	now := time.Now()
	held, err := c.read(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kills++
	if err != nil {
		return
	}
	for h := range held {
		if _, known := c.held[h]; !known {
			c.held[h] = now
			c.watched++
		}
	}
}

func (c *chaosWatch) read(ctx context.Context) (map[chaosHeld]bool, error) {
	rows, err := c.world.owner.Query(ctx, heldSQL)
	if err != nil {
		return nil, err
	}
	held := map[chaosHeld]bool{}
	var h chaosHeld
	_, err = pgx.ForEachRow(rows, []any{&h.id, &h.epoch, &h.action}, func() error {
		held[h] = true
		return nil
	})
	return held, err
}

func (c *chaosWatch) begin(ctx context.Context) {
	ctx, c.stop = context.WithCancel(ctx)
	c.group.Go(func() {
		for ctx.Err() == nil {
			pause(ctx, chaosPoll)
			c.look(ctx)
		}
	})
}

func (c *chaosWatch) finish() {
	c.look(context.Background())
	c.stop()
	c.group.Wait()
}

// look strikes out what is no longer in the hold that it was in.
func (c *chaosWatch) look(ctx context.Context) {
	held, err := c.read(ctx)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for h, since := range c.held {
		if held[h] {
			continue
		}
		delete(c.held, h)
		took := time.Since(since)
		c.longest = max(c.longest, took)
		if took > chaosRecovery {
			c.late++
		}
	}
}
