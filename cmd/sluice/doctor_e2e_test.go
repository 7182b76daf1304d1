package main_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// doctor runs `sluice doctor` as a process of its own, and returns what it says.
func (w *world) doctor(args ...string) (code int, said string) {
	w.t.Helper()
	path, err := os.Executable()
	require.NoError(w.t, err)
	cmd := exec.CommandContext(w.t.Context(), path, append([]string{"doctor"}, args...)...)
	cmd.Env = w.env
	out, err := cmd.CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended { //nolint:errorlint // Output's own error
		require.NoError(w.t, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestDoctorBesideTraffic: false alarms wake people. While webhooks come in and are worked on, and after a worker was killed, everything that the doctor
// sees is whole; when all is quiet, nothing is left over.
func TestDoctorBesideTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	serving := w.start("serve", servingUp)
	working := w.start("work", workingUp)
	s := w.shop()
	const senders, each = 4, 25
	var sending sync.WaitGroup
	for n := range senders {
		sending.Go(func() {
			for i := range each {
				status, _, _ := w.deliver(s, fmt.Sprintf("delivery-%d-%d", n%2, i)) // half of them come twice
				if status != http.StatusOK {
					t.Errorf("was answered %d", status)
				}
			}
		})
	}
	for i := range 3 {
		code, said := w.doctor("--deep")
		require.Zero(t, code, said)
		if i == 0 {
			working.kill()
			working = w.start("work", workingUp)
		}
	}
	sending.Wait()
	w.until(senders*each/2, `select count(*) from sluice.runs where status = 'done'`)
	code, said := w.doctor("--deep", "--wait", "1m", "--grace", "1s")
	require.Zero(t, code, said)
	require.Contains(t, said, "broken: 0, needs a hand: 0, notices: 2, could not look: 0\n")
	working.end(t)
	serving.end(t)
}
