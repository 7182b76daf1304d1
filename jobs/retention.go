package jobs

import (
	"context"
	"log/slog"
	"time"

	"sluice/db"
)

// analyzeEvery is how often tables are looked for that have outgrown what the planner knows of them.
const analyzeEvery = 5 * time.Second

// partitionsEvery is how often the days of the raw bodies are looked after; days ahead are kept ready, so a missed time does not matter.
const partitionsEvery = 15 * time.Minute

// retention drops raw bodies that are older than they may be, and makes room for those to come.
type retention struct {
	db  *db.DB
	log *slog.Logger
	age time.Duration
}

// loop looks after them now and then, until ctx ends.
func (r *retention) loop(ctx context.Context) {
	r.keep(ctx)
	partitions, statistics := time.NewTicker(partitionsEvery), time.NewTicker(analyzeEvery)
	defer partitions.Stop()
	defer statistics.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-partitions.C:
			r.keep(ctx)
		case <-statistics.C:
			r.analyze(ctx)
		}
	}
}

func (r *retention) analyze(ctx context.Context) {
	err := r.db.System(ctx, func(tx db.SystemTx) error {
		_, err := tx.AnalyzeYoung(ctx)
		return err
	})
	if err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "the statistics of young tables were not brought up to date", "error", err)
	}
}

func (r *retention) keep(ctx context.Context) {
	var done db.Partitions
	err := r.db.System(ctx, func(tx db.SystemTx) (err error) {
		done, err = tx.PayloadPartitions(ctx, r.age)
		return err
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.log.WarnContext(ctx, "the partitions of the raw bodies were not looked after", "error", err)
	case done.Made+done.Dropped > 0:
		r.log.InfoContext(ctx, "partitions of the raw bodies", "made", done.Made, "dropped", done.Dropped, "retention", r.age.String())
	}
}
