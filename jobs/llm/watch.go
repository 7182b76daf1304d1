package llm

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// patience is how long to wait for a sign of life; 0 is for ever.
type patience struct{ firstToken, idle time.Duration }

// A lateError is the cause of a call that was given up for want of progress.
type lateError struct{ message string }

func (e *lateError) Error() string { return e.message }

// A watch gives a call up that makes no progress: one timer, first for the first token, then for the time between bytes.
type watch struct {
	patience

	timer *time.Timer
	begun atomic.Bool // The first token is there.
}

// begin starts to wait for the first token; cancel is told why the wait was given up.
func (p patience) begin(cancel context.CancelCauseFunc) *watch {
	w := &watch{patience: p}
	w.timer = time.AfterFunc(forEver(p.firstToken), func() {
		if w.begun.Load() {
			cancel(&lateError{fmt.Sprintf("the stream stopped for %s", p.idle)})
		} else {
			cancel(&lateError{fmt.Sprintf("no first token within %s", p.firstToken)})
		}
	})
	return w
}

// forEver is longer than any call may take.
func forEver(d time.Duration) time.Duration {
	const unlimited = 24 * time.Hour
	if d <= 0 {
		return unlimited
	}
	return d
}

// token notes the first token: from here on, bytes count.
func (w *watch) token() {
	w.begun.Store(true)
	w.timer.Reset(forEver(w.idle))
}

// bytes notes that some came. Before the first token they prove nothing: servers keep connections alive while a model is stuck.
func (w *watch) bytes() {
	if w.begun.Load() {
		w.timer.Reset(forEver(w.idle))
	}
}

// drain gives the rest of a stream that has said all a moment.
func (w *watch) drain() {
	w.begun.Store(false)
	w.timer.Reset(drainWait)
}

func (w *watch) end() { w.timer.Stop() }

// A watchedReader tells the watch of every byte, and bounds them.
type watchedReader struct {
	from  io.Reader
	watch *watch
	read  int
}

func (r *watchedReader) Read(p []byte) (int, error) {
	if r.read > streamBytesMax {
		return 0, errBodyTooLarge
	}
	n, err := r.from.Read(p)
	if n > 0 {
		r.read += n
		r.watch.bytes()
	}
	return n, err
}
