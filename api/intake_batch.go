package api

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"sluice/db"
	"sluice/jobs"
	"sluice/proof"
)

const (
	// batchQueueDefault bounds the deliveries that wait to be stored, where nothing else is said; one more is told to come again.
	batchQueueDefault = 4096
	// batchBytesMax bounds one commit; a single larger delivery is one of its own.
	batchBytesMax = 1 << 20
	// queueWaitMax is how long a delivery may expect to wait for its turn; others are told to come again at once. Beyond it the wait would grow to
	// where each is given up just as its commit ends, and all of the work is for nobody.
	queueWaitMax = 500 * time.Millisecond
	// commitMemory is how many commits, about, the expectation goes by.
	commitMemory = 4
	// batchTimeout bounds one commit. Whoever waits for it has a shorter patience.
	batchTimeout = 5 * time.Second
)

// errBusy says that more deliveries wait to be stored than may.
var errBusy = errors.New("too many deliveries wait to be stored")

// batcher stores deliveries that come at the same time in one commit: with the disk and the round trips shared, many cost little more than one.
// Nobody waits for company: a flusher that is free takes what is there, be it one, and a batch grows only while the one before it is on its way.
type batcher struct {
	db     *db.DB
	poster *jobs.Poster
	now    func() time.Time
	// deliveriesMax bounds one commit too.
	deliveriesMax int

	queue    chan *pending
	stopping chan struct{}
	flushers sync.WaitGroup
	// room is how many deliveries all commits at once can hold, and took how long a commit took of late, in nanoseconds.
	room int
	took atomic.Int64
}

// pending is a delivery that waits for its commit.
type pending struct {
	ctx      context.Context //nolint:containedctx // of the request that waits: its end, and the span of its runs
	delivery *db.Delivery
	posted   [][]jobs.RunArgs // the jobs of each event, should it be new
	bytes    int
	answer   chan batchAnswer
}

// batchAnswer is what became of each event of a delivery.
type batchAnswer struct {
	admitted []db.Admitted
	err      error
}

func newBatcher(deps Deps) *batcher {
	b := &batcher{
		db: deps.DB, poster: deps.Poster, now: deps.Now, deliveriesMax: max(deps.IntakeBatch, 1), queue: make(chan *pending, cmp.Or(deps.IntakeQueue, batchQueueDefault)), stopping: make(chan struct{}),
	}
	flushers := max(deps.IntakeFlushers, 1)
	b.room = flushers * b.deliveriesMax
	for range flushers {
		b.flushers.Go(b.loop)
	}
	return b
}

// store waits until the delivery is committed, and answers what became of each event. An error of ctx leaves open whether
// it was: the source comes again, and finds a duplicate if so.
func (b *batcher) store(ctx context.Context, d *db.Delivery, posted [][]jobs.RunArgs) ([]db.Admitted, error) {
	p := &pending{ctx: ctx, delivery: d, posted: posted, bytes: len(d.Body) + len(d.Headers), answer: make(chan batchAnswer, 1)}
	for _, e := range d.Events {
		p.bytes += len(e.Document) + len(e.Verdicts)
	}
	select {
	case b.queue <- p:
	case <-b.stopping:
		return nil, errBusy
	default:
		return nil, errBusy
	}
	select {
	case a := <-p.answer:
		return a.admitted, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// full says that whoever came now would be told to come again.
func (b *batcher) full() bool {
	waiting := len(b.queue)
	return waiting == cap(b.queue) || time.Duration(int64(waiting)*b.took.Load()/int64(b.room)) > queueWaitMax
}

// close stores what waits, and ends the flushers. Nothing may be stored after it.
func (b *batcher) close() {
	close(b.stopping)
	b.flushers.Wait()
}

func (b *batcher) loop() {
	var next *pending
	for {
		if next == nil {
			select {
			case next = <-b.queue:
			case <-b.stopping:
				select {
				case next = <-b.queue:
				default:
					return
				}
			}
		}
		var batch []*pending
		batch, next = b.gather(next)
		if len(batch) > 0 {
			begun := b.now()
			b.flush(batch)
			before := b.took.Load() // two that end at once may lose one of them, which the next makes good
			b.took.Store(before + (int64(b.now().Sub(begun))-before)/commitMemory)
		}
	}
}

// gather takes what is waiting, as much as one commit holds, and leaves out whoever has given up. What no longer fits begins the next.
func (b *batcher) gather(first *pending) (batch []*pending, next *pending) {
	bytes := 0
	for p := first; ; {
		if p.ctx.Err() == nil {
			if len(batch) > 0 && (bytes+p.bytes > batchBytesMax || len(batch) == b.deliveriesMax) {
				return batch, p
			}
			batch, bytes = append(batch, p), bytes+p.bytes
		}
		select {
		case p = <-b.queue:
		default:
			return batch, nil
		}
	}
}

// stepStore is the commit of a batch, as jobs names its steps.
const stepStore = "intake.store"

// flush commits a batch and tells everyone. What fails for a reason of its own (a text that the database does not take) must not fail the others:
// the batch is halved until it stands alone.
func (b *batcher) flush(batch []*pending) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	var admitted [][]db.Admitted
	err := b.db.Door(proof.Step(ctx, stepStore), func(tx db.DoorTx) (err error) {
		admitted, err = b.admit(ctx, tx, batch)
		return err
	})
	if err != nil && len(batch) > 1 && !errors.Is(err, db.ErrUnavailable) && !errors.Is(err, db.ErrCommitUnknown) {
		half := len(batch) / 2 //nolint:mnd // a half
		b.flush(batch[:half])
		b.flush(batch[half:])
		return
	}
	for i, p := range batch {
		a := batchAnswer{err: err}
		if err == nil {
			a.admitted = admitted[i]
		}
		p.answer <- a
	}
}

// admit hands the batch over, and adds the jobs of the events that are new, each in its place.
func (b *batcher) admit(ctx context.Context, tx db.DoorTx, batch []*pending) ([][]db.Admitted, error) {
	deliveries := make([]*db.Delivery, len(batch))
	for i, p := range batch {
		deliveries[i] = p.delivery
	}
	admitted, err := tx.Admit(ctx, deliveries)
	if err != nil {
		return nil, err
	}
	var posted []jobs.RunArgs
	for i, p := range batch {
		span := trace.SpanContextFromContext(p.ctx)
		for j := range p.delivery.Events {
			for k, place := range admitted[i][j].Places {
				if place.Held {
					continue
				}
				run := p.posted[j][k]
				run.Trace, run.Lag = span, place.Lag
				if place.NotBefore.After(run.NotBefore) {
					run.NotBefore = place.NotBefore
				}
				posted = append(posted, run)
			}
		}
	}
	return admitted, b.poster.PostRuns(ctx, tx.Pgx(), posted)
}
