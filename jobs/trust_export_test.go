package jobs

import (
	"context"
	"log/slog"

	"sluice/db"
)

// ExpireReviews decides once on all reviews that are overdue.
func ExpireReviews(ctx context.Context, d *db.DB, r *Reviewer) error {
	return (&expiry{db: d, reviewer: r, log: slog.New(slog.DiscardHandler)}).tick(ctx)
}

// DemoteOnce looks once for automations that fail too often.
func DemoteOnce(ctx context.Context, d *db.DB) error {
	return (&demoter{db: d, log: slog.New(slog.DiscardHandler)}).tick(ctx)
}

// Differ is how two outputs differ, and how much.
func Differ(before, after string) (diff string, changed float64) { return differ(before, after) }
