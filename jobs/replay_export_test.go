package jobs

import (
	"context"
	"log/slog"
	"time"

	"sluice/db"
)

// ReplayOnce looks once at all replays, as one of many workers does.
func ReplayOnce(ctx context.Context, d *db.DB, poster *Poster) error {
	return (&replayer{db: d, poster: poster, compiled: NewCompiled(), log: slog.New(slog.DiscardHandler), now: time.Now}).tick(ctx)
}
