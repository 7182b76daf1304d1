//go:build !linux || sluice_watcher

package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// A leash ends the server when this process dies: a shell waits for the end of a
// pipe that only this process holds open, then stops the server at once. The
// build tag sluice_watcher takes it on Linux too, so that it can be tested there.
type leash struct {
	watcher *exec.Cmd
	pipe    *os.File
}

const leashScript = `read -r _; kill -QUIT "$1" 2>/dev/null`

// leashStart starts the command and its watcher.
func leashStart(cmd *exec.Cmd) (leash, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return leash{}, fmt.Errorf("make the watcher's pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return leash{}, errors.Join(err, read.Close(), write.Close())
	}
	watcher := exec.Command("/bin/sh", "-c", leashScript, "sluice-postgres-watcher", strconv.Itoa(cmd.Process.Pid))
	watcher.Stdin = read
	watcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C must not end it before the server
	err = watcher.Start()
	_ = read.Close() // the watcher has its own
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return leash{}, errors.Join(fmt.Errorf("start the watcher: %w", err), write.Close())
	}
	return leash{watcher: watcher, pipe: write}, nil
}

// release ends the watcher before its pipe, so that it cannot signal a later
// process of the same id.
func (l leash) release() {
	_ = l.watcher.Process.Kill()
	_ = l.watcher.Wait()
	_ = l.pipe.Close()
}
