package jobs

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"sluice/db"
)

const (
	// laneMax bounds the runs of one commit.
	laneMax = 128
	// laneCommits is how many commits of a tenant may be on their way at once: while one waits for its flush, another reads and writes.
	laneCommits = 2
	// laneTimeout bounds one commit.
	laneTimeout = 20 * time.Second
)

// lanes let runs of one tenant that want to write at the same time share a transaction: its round trips, its flush and the lock of the tenant's
// budget, which would else be taken and waited for once for each run. Nobody waits for company: what comes while a commit is on its way is the next.
type lanes[In, Out any] struct {
	// commit writes for all of them, or for none.
	commit func(ctx context.Context, tenantID uuid.UUID, in []In) ([]Out, error)

	mu  sync.Mutex
	all map[uuid.UUID]*lane[In, Out]
}

// lane is what waits of one tenant while its commits are on their way.
type lane[In, Out any] struct {
	commits int
	waiting []*rider[In, Out]
}

type rider[In, Out any] struct {
	in   In
	out  Out
	err  error
	done chan struct{}
}

// write hands in to the tenant's next commit, and answers when that has ended. It waits for it whatever becomes of ctx: what was written must be known.
func (l *lanes[In, Out]) write(ctx context.Context, tenantID uuid.UUID, in In) (Out, error) {
	me := &rider[In, Out]{in: in, done: make(chan struct{})}
	l.mu.Lock()
	if l.all == nil {
		l.all = map[uuid.UUID]*lane[In, Out]{}
	}
	mine := l.all[tenantID]
	if mine == nil {
		mine = &lane[In, Out]{}
		l.all[tenantID] = mine
	}
	if mine.commits == laneCommits {
		mine.waiting = append(mine.waiting, me)
		l.mu.Unlock()
		<-me.done
		return me.out, me.err
	}
	mine.commits++
	l.mu.Unlock()
	l.flush(ctx, tenantID, []*rider[In, Out]{me})
	if next := l.next(tenantID, mine); next != nil {
		go l.drive(context.WithoutCancel(ctx), tenantID, mine, next)
	}
	return me.out, me.err
}

// next takes what waits, as much as one commit holds; where nothing does, it ends this commit's turn.
func (l *lanes[In, Out]) next(tenantID uuid.UUID, mine *lane[In, Out]) []*rider[In, Out] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(mine.waiting) == 0 {
		if mine.commits--; mine.commits == 0 {
			delete(l.all, tenantID)
		}
		return nil
	}
	n := min(len(mine.waiting), laneMax)
	batch := mine.waiting[:n:n]
	mine.waiting = mine.waiting[n:]
	return batch
}

// drive commits what waits until nothing does.
func (l *lanes[In, Out]) drive(ctx context.Context, tenantID uuid.UUID, mine *lane[In, Out], batch []*rider[In, Out]) {
	for ; batch != nil; batch = l.next(tenantID, mine) {
		l.flush(ctx, tenantID, batch)
	}
}

// flush commits for all, and where that fails for a reason of one of them, for each alone.
func (l *lanes[In, Out]) flush(ctx context.Context, tenantID uuid.UUID, batch []*rider[In, Out]) {
	defer func() {
		for _, r := range batch {
			close(r.done)
		}
	}()
	in := make([]In, len(batch))
	for i, r := range batch {
		in[i] = r.in
	}
	out, err := l.once(ctx, tenantID, in)
	if err == nil {
		for i, r := range batch {
			r.out = out[i]
		}
		return
	}
	alone := len(batch) > 1 && !errors.Is(err, db.ErrUnavailable) && !errors.Is(err, db.ErrCommitUnknown)
	for i, r := range batch {
		r.err = err
		if !alone {
			continue
		}
		var one []Out
		if one, r.err = l.once(ctx, tenantID, in[i:i+1]); r.err == nil {
			r.out = one[0]
		}
	}
}

func (l *lanes[In, Out]) once(ctx context.Context, tenantID uuid.UUID, in []In) (out []Out, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), laneTimeout)
	defer cancel()
	return l.commit(ctx, tenantID, in)
}
