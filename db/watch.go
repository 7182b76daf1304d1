package db

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// endpointsChannel is where migration 0003's triggers tell of changes.
	endpointsChannel = "sluice_endpoints"
	// watchPing is how long the connection may be silent before it is asked whether it lives.
	watchPing    = 3 * time.Second
	watchTimeout = 2 * time.Second // an answer to that question
	// watchRetryMin and watchRetryMax bound the pause before the next try to connect.
	watchRetryMin = 100 * time.Millisecond
	watchRetryMax = 5 * time.Second
)

// Watcher is told of changes of endpoints, of their secrets and automations, and of their tenants' status.
type Watcher struct {
	// Up says that every change from now on is told; Down, that none is until the next Up.
	Up   func()
	Down func(error)
	// Changed names an endpoint, or a tenant.
	Changed func(uuid.UUID)
}

// EndpointsWatch tells of changes until ctx ends, over a connection of its own that it makes again when it is lost. A connection that dies in
// silence is found out within watchPing and watchTimeout.
func (d *DB) EndpointsWatch(ctx context.Context, w Watcher) {
	pause := watchRetryMin
	for {
		up := false
		err := d.watch(ctx, Watcher{Changed: w.Changed, Up: func() { up = true; w.Up() }})
		if ctx.Err() != nil {
			return
		}
		w.Down(err)
		if up {
			pause = watchRetryMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			pause = min(2*pause, watchRetryMax)
		}
	}
}

func (d *DB) watch(ctx context.Context, w Watcher) error {
	config := d.system.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] = "sluice endpoints watch"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return unavailable(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), watchTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "listen "+endpointsChannel); err != nil {
		return fmt.Errorf("listen for changes of endpoints: %w", unavailable(err))
	}
	w.Up()
	for {
		waiting, cancel := context.WithTimeout(ctx, watchPing)
		told, err := conn.WaitForNotification(waiting)
		silent := waiting.Err() != nil
		cancel()
		switch {
		case err == nil:
			if id, err := uuid.Parse(told.Payload); err == nil {
				w.Changed(id)
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case !silent || conn.IsClosed():
			return fmt.Errorf("wait for changes of endpoints: %w", unavailable(err))
		default:
			asking, cancel := context.WithTimeout(ctx, watchTimeout)
			err := conn.Ping(asking)
			cancel()
			if err != nil {
				return fmt.Errorf("ask whether changes of endpoints are still told: %w", unavailable(err))
			}
		}
	}
}
