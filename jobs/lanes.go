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
	laneMax = 64
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

// lane is what waits of one tenant while a commit is on its way.
type lane[In, Out any] struct{ waiting []*rider[In, Out] }

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
	mine, busy := l.all[tenantID]
	if busy {
		mine.waiting = append(mine.waiting, me)
		l.mu.Unlock()
		<-me.done
		return me.out, me.err
	}
	mine = &lane[In, Out]{}
	l.all[tenantID] = mine
	l.mu.Unlock()
	l.flush(ctx, tenantID, []*rider[In, Out]{me})
	if l.next(tenantID, mine) != nil {
		go l.drive(context.WithoutCancel(ctx), tenantID, mine)
	}
	return me.out, me.err
}

// next says what waits, or takes the lane away where nothing does.
func (l *lanes[In, Out]) next(tenantID uuid.UUID, mine *lane[In, Out]) []*rider[In, Out] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(mine.waiting) == 0 {
		delete(l.all, tenantID)
		return nil
	}
	return mine.waiting
}

// drive commits what waits until nothing does.
func (l *lanes[In, Out]) drive(ctx context.Context, tenantID uuid.UUID, mine *lane[In, Out]) {
	for l.next(tenantID, mine) != nil {
		l.mu.Lock()
		n := min(len(mine.waiting), laneMax)
		batch := mine.waiting[:n:n]
		mine.waiting = mine.waiting[n:]
		l.mu.Unlock()
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
