//go:build linux && !sluice_watcher

package embedded

import (
	"os/exec"
	"syscall"
)

// A leash ends the server when this process dies. Linux needs nothing beside
// the order given to the kernel at the start.
type leash struct{}

// leashStart starts the command; the calling goroutine must hold its thread
// until the command has ended. The kernel sends SIGQUIT, Postgres's immediate
// shutdown, even when this process is killed.
func leashStart(cmd *exec.Cmd) (leash, error) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	return leash{}, cmd.Start()
}

func (leash) release() {}
