package jobs

import (
	"context"
	"log/slog"
	"time"

	"sluice/db"
	"sluice/jobs/llm"
)

// SharingProviders is one tick of what shares the states of the providers between processes.
func SharingProviders(d *db.DB, models *llm.Client, process string, log *slog.Logger, now func() time.Time) (tick func(context.Context)) {
	s := &providerSync{db: d, models: models, process: process, log: log, now: now}
	return s.tick
}
