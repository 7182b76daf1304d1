package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/proof"
)

// chaosProcess is one process of Sluice, which is started again as often as it ends. What is done to it is done by whoever holds its lock.
type chaosProcess struct {
	name, binary, command string
	address               string // of a door
	dir                   string
	env                   []string

	busy    sync.Mutex
	offset  time.Duration // of its clock
	running *exec.Cmd
	ended   chan struct{} // closed when running has ended
	log     *os.File
	fell    int // how often it ended by itself
}

const chaosLogMode = 0o600

// start runs it; the lock is held, or nobody else is there yet.
func (p *chaosProcess) start() (err error) {
	if p.log == nil {
		if p.log, err = os.OpenFile(p.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, chaosLogMode); err != nil {
			return fmt.Errorf("open the log of %s: %w", p.name, err)
		}
	}
	c := exec.Command(p.binary, p.command) //nolint:noctx // it ends by our hand, and by no context
	c.Env = p.env
	if p.offset != 0 {
		c.Env = append(append([]string{}, p.env...), proof.EnvClockOffset+"="+p.offset.String())
	}
	c.Stdout, c.Stderr = p.log, p.log
	if err := c.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.running, p.ended = c, make(chan struct{})
	go func(ended chan struct{}) {
		_ = c.Wait()
		close(ended)
	}(p.ended)
	return nil
}

func (p *chaosProcess) logPath() string {
	return filepath.Join(p.dir, strings.ReplaceAll(p.name, " ", "-")+".log")
}

// signal tells the process, and says whether there is one.
func (p *chaosProcess) signal(s syscall.Signal) bool {
	return p.running != nil && p.running.Process.Signal(s) == nil
}

// kill ends it at once.
func (p *chaosProcess) kill() {
	if p.running != nil {
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
	p.running = nil
}

// rises starts a process again that has ended by itself, as whoever runs it in production does: one that finds no database ends.
func (p *chaosProcess) rises() error {
	if !p.busy.TryLock() {
		return nil
	}
	defer p.busy.Unlock()
	if p.running == nil {
		return nil
	}
	select {
	case <-p.ended:
		p.fell++
		return p.start()
	default:
		return nil
	}
}

// stop ends it as an operator would.
func (p *chaosProcess) stop() {
	p.busy.Lock()
	defer p.busy.Unlock()
	p.stopHeld()
}

// stopHeld is stop for whoever holds the lock: a process that does not end in its time is killed, as an orchestrator does.
func (p *chaosProcess) stopHeld() {
	if p.running == nil {
		return
	}
	running := p.running
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGTERM)
	grace := time.AfterFunc(chaosGrace, func() { _ = running.Process.Kill() })
	defer grace.Stop()
	<-p.ended
	p.running = nil
}

const chaosGrace = 10 * time.Second

// again is stop and start, with the clock as it should be.
func (p *chaosProcess) again() error {
	p.busy.Lock()
	defer p.busy.Unlock()
	p.stopHeld()
	p.offset = 0
	return p.start()
}

// opens waits until a door takes requests.
func (p *chaosProcess) opens(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, benchReadyTimeout)
	defer cancel()
	client := chaosHTTP()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		if response, err := client.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		pause(ctx, chaosPoll)
		if ctx.Err() != nil {
			return fmt.Errorf("%s did not open; its log is %s", p.name, p.logPath())
		}
	}
}

// panics counts what its log says of panics and of data races.
func (p *chaosProcess) panics() (n int) {
	text, err := os.ReadFile(p.logPath())
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.Contains(line, "panic: ") || strings.Contains(line, `"panic"`) {
			n++
		}
	}
	return n
}
