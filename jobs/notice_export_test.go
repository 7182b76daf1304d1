package jobs

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"sluice/db"
	"sluice/jobs/action"
)

// NoticeRoom is what a test tells notices with: it looks for those that are due by itself, and so waits for no clock.
type NoticeRoom struct {
	DB     *db.DB
	River  *pgxpool.Pool
	Poster *Poster
	Set    *action.Set
	Mail   *Mailer
	Log    *slog.Logger
}

// Post gives a job to what is due.
func (r NoticeRoom) Post(ctx context.Context) error {
	return (&notices{db: r.DB, poster: r.Poster, log: r.Log}).post(ctx)
}

// Work tells until stop is called.
func (r NoticeRoom) Work(ctx context.Context) (stop func(context.Context) error, err error) {
	worker, err := newNoticeWorker(r.DB, r.Set, r.Mail, r.Log, time.Now)
	if err != nil {
		return nil, err
	}
	kinds := river.NewWorkers()
	river.AddWorker(kinds, worker)
	client, err := river.NewClient(riverpgxv5.New(r.River), &river.Config{
		Schema: db.RiverSchema, Logger: r.Log, Workers: kinds, Queues: map[string]river.QueueConfig{noticeQueue: {MaxWorkers: noticeWorkers}},
		FetchCooldown: fetchCooldown, FetchPollInterval: fetchPollInterval, SoftStopTimeout: time.Second,
	})
	if err != nil {
		return nil, err
	}
	return client.Stop, client.Start(ctx)
}

// NoticeTries is how often a notice is tried.
var NoticeTries = len(noticeWaits) + 1
