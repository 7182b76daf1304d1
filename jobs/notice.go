package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"sluice/db"
	"sluice/jobs/action"
	"sluice/proof"
	"sluice/tenants"
)

// noticeQueue has workers of its own: what is told of a trouble must not wait behind it.
const noticeQueue = "notices"

const (
	// noticeWorkers is how many notices one process tells at once.
	noticeWorkers = 16
	// noticesEach is how many of one tenant are under way at once, and noticesMax how many are given a job in one go.
	noticesEach = 4
	noticesMax  = 500
	// noticesEvery is how often notices whose time has come are looked for.
	noticesEvery = 2 * time.Second
	// noticesTimeout bounds one look.
	noticesTimeout = 10 * time.Second
	// NoticeGrace is after how long a job that did not begin its try is taken for lost.
	NoticeGrace = 2 * time.Minute
	// noticeTimeout bounds one try, noticeLease how long it belongs to a worker that is not heard of again.
	noticeTimeout = 10 * time.Second
	noticeLease   = noticeTimeout + jobMargin
)

// noticeWaits are the pauses behind a notice's tries; behind the last one it is given up. A channel that asks for a longer pause gets it.
var noticeWaits = []time.Duration{time.Second, 4 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour}

// NoticeArgs name the next try of a notice: the one that follows as many as Attempt.
type NoticeArgs struct {
	TenantID uuid.UUID `json:"tenant_id"`
	NoticeID uuid.UUID `json:"notice_id"`
	Attempt  int       `json:"attempt"`
}

// Kind is River's name of the job.
func (NoticeArgs) Kind() string { return "notice" }

// InsertOpts are the job's queue.
func (NoticeArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: noticeQueue, MaxAttempts: riverAttemptsMax}
}

// PostNotices adds a job for the next try of each notice, in the caller's transaction.
func (p *Poster) PostNotices(ctx context.Context, tx pgx.Tx, notices []db.NoticeRef) error {
	all := make([]NoticeArgs, len(notices))
	for i, n := range notices {
		all[i] = NoticeArgs{TenantID: n.TenantID, NoticeID: n.ID, Attempt: n.Attempt}
	}
	return post(ctx, p.client, tx, all, func(NoticeArgs) trace.SpanContext { return trace.SpanContext{} })
}

// notices gives a job to each notice whose time has come: a new one, one to be tried again, one whose job was lost. Our table says when, so that no
// job waits in River for an hour.
type notices struct {
	db     *db.DB
	poster *Poster
	log    *slog.Logger
}

func (n *notices) loop(ctx context.Context) {
	every(ctx, noticesEvery, func(ctx context.Context) {
		if err := n.post(ctx); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "notices: they are looked for again at the next tick", "error", err)
		}
	})
}

func (n *notices) post(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, noticesTimeout)
	defer cancel()
	return n.db.System(proof.Step(ctx, stepNoticePost), func(tx db.SystemTx) error {
		due, err := tx.NoticesDue(ctx, noticesEach, noticesMax, NoticeGrace)
		if err != nil {
			return fmt.Errorf("look for notices that are due: %w", err)
		}
		return n.poster.PostNotices(ctx, tx.Pgx(), due)
	})
}

// noticeWorker tells one channel of one alert: the try is begun (committed), made, and its end is kept (committed). A try whose end nobody knows is
// made again under the same id, by which a receiver can tell.
type noticeWorker struct {
	river.WorkerDefaults[NoticeArgs]

	db *db.DB
	// webhook posts to addresses that tenants chose, and signs where there is a secret.
	webhook action.Connector
	mail    *Mailer // nil where no server is configured
	log     *slog.Logger
	now     func() time.Time
}

// newNoticeWorker makes the worker; its webhooks are sent as callbacks are.
func newNoticeWorker(d *db.DB, actions *action.Set, mail *Mailer, log *slog.Logger, now func() time.Time) (*noticeWorker, error) {
	webhook, ok := actions.Get("callback")
	if !ok {
		return nil, errors.New("make the worker of notices: there is no connector called callback")
	}
	return &noticeWorker{db: d, webhook: webhook, mail: mail, log: log, now: now}, nil
}

// Timeout bounds the whole job.
func (*noticeWorker) Timeout(*river.Job[NoticeArgs]) time.Duration { return noticeLease }

// Work makes one try.
func (w *noticeWorker) Work(ctx context.Context, job *river.Job[NoticeArgs]) error {
	return forRiver(w.work(ctx, job.Args))
}

// telling is a notice that this worker holds, with all that is told and where.
type telling struct {
	db.Notice

	alert   db.Alert
	channel db.AlertChannel
	to      db.AlertAddress
}

func (w *noticeWorker) work(ctx context.Context, args NoticeArgs) error {
	n, err := w.claim(ctx, args)
	if err != nil {
		return err
	}
	trace.SpanFromContext(ctx).SetAttributes(
		attribute.String("sluice.tenant_id", tenants.FormatID(tenants.TenantPrefix, n.TenantID)), attribute.String("sluice.channel_kind", n.channel.Kind),
		attribute.String("sluice.notice_id", tenants.FormatID(tenants.NoticePrefix, n.ID)), attribute.Int("sluice.attempt", n.Attempt),
	)
	fault := w.tell(ctx, n)
	return w.end(ctx, n, fault)
}

// claim begins the try, and reads what it tells.
func (w *noticeWorker) claim(ctx context.Context, args NoticeArgs) (*telling, error) {
	var n telling
	err := w.db.Tenant(proof.Step(ctx, stepNoticeClaim), args.TenantID, func(tx db.TenantTx) (err error) {
		if n.Notice, err = tx.NoticeClaim(ctx, db.NoticeRef{ID: args.NoticeID, Attempt: args.Attempt}, noticeLease); err != nil {
			return err
		}
		if n.channel, err = tx.AlertChannelGet(ctx, n.ChannelID); err != nil {
			return err
		}
		if n.to, err = tx.AlertChannelAddress(ctx, n.ChannelID); err != nil {
			return err
		}
		if n.AlertID == nil {
			n.alert = testAlert(n.Notice)
			return nil
		}
		n.alert, err = tx.AlertGet(ctx, *n.AlertID)
		return err
	})
	if errors.Is(err, db.ErrNotFound) {
		// Begun by another job, told, or deleted with its channel.
		return nil, errNothing
	} else if err != nil {
		return nil, fmt.Errorf("claim notice %s: %w", args.NoticeID, err)
	}
	return &n, nil
}

// tell makes the try; nil is told.
func (w *noticeWorker) tell(ctx context.Context, n *telling) *noticeFault {
	if n.Attempt > n.triesMax() {
		return &noticeFault{message: "its last try did not come to an end", final: true}
	}
	ctx, cancel := context.WithTimeout(ctx, noticeTimeout)
	defer cancel()
	switch n.channel.Kind {
	case db.ChannelEmail:
		if w.mail == nil {
			return &noticeFault{message: "no SMTP server is configured", final: true}
		}
		return noticeFaultOf(w.mail.send(ctx, n.mail()))
	case db.ChannelSlack:
		return noticeFaultOf(w.postTo(ctx, n, slackBody))
	default:
		return noticeFaultOf(w.postTo(ctx, n, webhookBody))
	}
}

// postTo writes a body and sends it to the channel's URL; a webhook's is signed.
func (w *noticeWorker) postTo(ctx context.Context, n *telling, write func(*telling) ([]byte, error)) error {
	body, err := write(n)
	if err != nil {
		return err
	}
	_, err = w.webhook.Do(proof.Step(ctx, stepNoticeSend), action.Send{
		Key: n.key(), Access: action.Access{Secret: n.to.Secret.Reveal()}, At: w.now(), Attempt: n.Attempt,
		Effect: action.Effect{
			Kind: w.webhook.Spec().Kind, URL: n.to.URL.Reveal(), ContentType: "application/json", Signed: n.channel.Kind == db.ChannelWebhook, Body: body,
		},
	})
	return err
}

// end keeps how the try went, even where the job was cut off.
func (w *noticeWorker) end(ctx context.Context, n *telling, fault *noticeFault) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	about := []any{
		"tenant_id", tenants.FormatID(tenants.TenantPrefix, n.TenantID), "channel_id", tenants.FormatID(tenants.ChannelPrefix, n.ChannelID),
		"notice_id", n.key(), "channel_kind", n.channel.Kind, "alert_kind", n.alert.Kind, "phase", n.Phase, "attempt", n.Attempt,
	}
	if fault == nil {
		err := w.db.Tenant(proof.Step(ctx, stepNoticeConfirm), n.TenantID, func(tx db.TenantTx) error { return tx.NoticeDelivered(ctx, n.Notice) })
		if err != nil {
			return fmt.Errorf("keep that notice %s was told: %w", n.ID, err)
		}
		w.log.InfoContext(ctx, "notice told", about...)
		return nil
	}
	wait, final := n.after(fault)
	err := w.db.Tenant(proof.Step(ctx, stepNoticeFail), n.TenantID, func(tx db.TenantTx) error { return tx.NoticeFailed(ctx, n.Notice, fault.message, wait, final) })
	if err != nil {
		return fmt.Errorf("keep what became of notice %s: %w", n.ID, err)
	}
	w.log.WarnContext(ctx, "notice not told", append(about, "fault", fault.message, "given_up", final, "error", fault.cause)...)
	return nil
}

// key is the notice's id as receivers see it: the same for every try.
func (n *telling) key() string { return tenants.FormatID(tenants.NoticePrefix, n.ID) }

// triesMax is one for a test: whoever made it looks at what came of it.
func (n *telling) triesMax() int {
	if n.Phase == db.NoticeTest {
		return 1
	}
	return len(noticeWaits) + 1
}

// after says how long to wait after a failed try, or that it was the last. A worker that was stopped says nothing about the channel.
func (n *telling) after(f *noticeFault) (wait time.Duration, final bool) {
	switch {
	case f.final, n.Attempt >= n.triesMax():
		return 0, true
	case f.stopped:
		return noticeWaits[0], false
	}
	bound := noticeWaits[n.Attempt-1]
	return max(bound/2+jitter(bound/2), f.retryAfter), false
}

// noticeFault is how a try failed. Its message is fit for the tenant.
type noticeFault struct {
	message    string
	final      bool // no other try can do better
	stopped    bool // by us
	retryAfter time.Duration
	cause      error // for the operator's log: no address and no secret is in it
}

func (f *noticeFault) Error() string { return f.message }

// noticeFaultOf reads the errors of connectors and of the mailer; nil is none.
func noticeFaultOf(err error) *noticeFault {
	var known *noticeFault
	var sent *action.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(err, &sent):
		f := &noticeFault{message: sent.Message, retryAfter: sent.RetryAfter, stopped: sent.Code == action.CodeCanceled, cause: err}
		switch sent.Code {
		case action.CodeGone, action.CodeBlocked, action.CodeInvalid, action.CodeCredential:
			f.final = true
		}
		return f
	default:
		return &noticeFault{message: "something went wrong inside Sluice; the operator's log has it", cause: err}
	}
}
