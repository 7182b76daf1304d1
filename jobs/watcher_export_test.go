package jobs

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"sluice/db"
)

// WatchOnce makes a watcher, and returns what lets it look once at everything that is due.
func WatchOnce(d *db.DB) func(context.Context) error {
	w := newWatcher(d, slog.New(slog.DiscardHandler), func() time.Time { return time.Time{} }, 0)
	return func(ctx context.Context) error {
		var faults []error
		for _, l := range w.looks() {
			faults = append(faults, w.look(ctx, l))
		}
		return errors.Join(faults...)
	}
}
