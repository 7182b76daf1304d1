package telemetry

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
)

// linesMax is how many lines of the log wait for a reader that is slow; about 2 MB.
const linesMax = 8192

// sink stands between the log and where it is read. A reader that has stopped, or a full disk, costs lines and never time: what does not fit into the
// queue is dropped and counted, and that it was is told when lines are taken again.
type sink struct {
	out     io.Writer
	lines   chan []byte
	stop    chan struct{} // closed when no more is taken
	done    chan struct{} // closed when all that was taken is written
	once    sync.Once
	dropped atomic.Int64
	// told is called with how many lines were dropped, once lines are taken again; it writes to out by itself.
	told func(lines int64)
}

// newSink makes a sink; whoever makes it starts write.
func newSink(out io.Writer) *sink {
	return &sink{out: out, lines: make(chan []byte, linesMax), stop: make(chan struct{}), done: make(chan struct{})}
}

// Write takes a line, or drops it; it waits for nobody. After close it writes by itself.
func (s *sink) Write(line []byte) (int, error) {
	select {
	case <-s.stop:
		select {
		case <-s.done:
			return s.out.Write(line)
		default: // the reader has stopped, and the process must end all the same
			s.dropped.Add(1)
			return len(line), nil
		}
	default:
	}
	select {
	case s.lines <- append([]byte(nil), line...):
	default:
		s.dropped.Add(1)
	}
	return len(line), nil
}

// write hands the lines on, one after another, until the sink is closed and empty.
func (s *sink) write() {
	defer close(s.done)
	var told int64
	for {
		select {
		case line := <-s.lines:
			_, _ = s.out.Write(line) // nobody could be told
			if n := s.dropped.Load(); n > told {
				s.told(n - told)
				told = n
			}
			continue
		default:
		}
		select {
		case line := <-s.lines:
			_, _ = s.out.Write(line)
		case <-s.stop:
			if len(s.lines) == 0 {
				return
			}
		}
	}
}

// close writes what waits, as long as ctx lasts.
func (s *sink) close(ctx context.Context) {
	s.once.Do(func() { close(s.stop) })
	select {
	case <-s.done:
	case <-ctx.Done():
	}
}
