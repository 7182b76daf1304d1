package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

var errPortTaken = errors.New("the port was taken by another process")

// launch starts postgres and waits until it is ready.
func launch(ctx context.Context, binaries binaries, at *place, args []string, log io.Writer) (*process, error) {
	tail := &tailWriter{next: log}
	server, err := processStart(binaries.path("postgres"), args, at, tail)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for !at.ready(server.pid) {
		select {
		case <-poll.C:
		case <-server.done:
			if strings.Contains(tail.String(), "could not bind") {
				return nil, errPortTaken
			}
			return nil, fmt.Errorf("it ended before it was ready (%w); its last words: %s", server.err, tail)
		case <-ctx.Done():
			err := fmt.Errorf("wait until it is ready: %w; its last words: %s", context.Cause(ctx), tail)
			return nil, errors.Join(err, server.stop(StopImmediate))
		}
	}
	return server, nil
}

// A process is a server that ends with this process. done is closed, and err
// set, when it has ended.
type process struct {
	pid    int
	handle *os.Process
	done   chan struct{}
	err    error
}

func (p *process) stop(mode StopMode) error {
	steps := []struct {
		signal syscall.Signal
		wait   time.Duration
	}{
		{syscall.SIGINT, stopFastWait}, // Postgres: fast
		{syscall.SIGQUIT, stopQuitWait},
		{syscall.SIGKILL, stopQuitWait},
	}
	if mode == StopImmediate {
		steps = steps[1:]
	}
	for _, step := range steps {
		if err := p.handle.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("send %s to process %d: %w", step.signal, p.pid, err)
		}
		timer := time.NewTimer(step.wait)
		select {
		case <-p.done:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
	return fmt.Errorf("process %d did not end within %s of SIGKILL", p.pid, stopQuitWait)
}

// command is a server program as the account runs it, with an environment that
// holds nothing a Postgres program would heed (PGDATA, PGPORT, LC_MESSAGES).
func command(ctx context.Context, account account, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + filepath.Dir(path) + ":/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we stop the server in order
	if account.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: account.uid, Gid: account.gid}
	}
	return cmd
}

// processStart starts a server that ends with this process and holds the place's
// lock as long as any part of it lives.
func processStart(path string, args []string, at *place, output io.Writer) (*process, error) {
	server := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	// The kernel's word that a parent died goes by the thread that started the
	// child, not by the process: so one goroutine keeps its thread until the
	// server has ended.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// The server outlives the start's context: only stop ends it.
		cmd := command(context.Background(), at.account, path, args...)
		cmd.Stdout, cmd.Stderr = output, output
		cmd.ExtraFiles = []*os.File{at.lock}
		cmd.WaitDelay = outputWait
		leash, err := leashStart(cmd)
		if err != nil {
			started <- err
			return
		}
		server.pid, server.handle = cmd.Process.Pid, cmd.Process
		started <- nil
		server.err = cmd.Wait()
		if server.err == nil {
			server.err = errors.New("exit status 0")
		}
		leash.release()
		close(server.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("run %s: %w", path, err)
	}
	return server, nil
}

// A tailWriter passes a log on and keeps its end.
type tailWriter struct {
	mu   sync.Mutex
	next io.Writer
	tail []byte
}

// Write never fails: a log that cannot be written must not stop the server.
func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tail = append(w.tail, p...)
	if over := len(w.tail) - tailBytesMax; over > 0 {
		w.tail = append(w.tail[:0], w.tail[over:]...)
	}
	if w.next != nil {
		_, _ = w.next.Write(p)
	}
	return len(p), nil
}

// String is the last lines, on one line.
func (w *tailWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(w.tail)), "\n")
	lines = lines[max(0, len(lines)-tailLinesMax):]
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, " | ")
}
