package main_test

import (
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/proof"
	"sluice/scripted"
)

// TestWhatKillsEveryWorkerEndsAsADeadLetter: an event at which every worker that takes it up dies (out of memory, a stack that overflows) is given up
// after its attempts, and its neighbour is answered meanwhile.
func TestWhatKillsEveryWorkerEndsAsADeadLetter(t *testing.T) {
	t.Parallel()
	binary, err := proving()
	require.NoError(t, err)
	d := newDoomed(t, &doom{name: "poison", prepare: func(d *doomed) {
		d.target.Script(scripted.TargetStep{Body: `{"state": "open"}`})
		answered(nil)(d)
		// The neighbour fetches nothing, and so passes no boundary at which its worker dies.
		d.made("/v1/automations", map[string]any{
			"name": "poison", "endpoint_id": d.newest("/v1/endpoints"), "model": "scripted/echo-1", "mode": "live", "max_output_tokens": 100,
			"prompt": map[string]any{"user": "{{ payload.issue.title }}"}, "action": map[string]any{"kind": "none"}, "fetch": map[string]any{"url": d.hook + "/state"},
		})
	}}, binary)
	status, _, _ := d.deliver(d.of, "poison-1")
	require.Equal(t, http.StatusOK, status)
	lost := 0
	for over := false; !over; {
		p := d.start("work", "", proof.EnvCrashAt+"=fetch/before")
		ended := make(chan syscall.WaitStatus, 1)
		go func() {
			if state, err := p.cmd.Process.Wait(); err == nil { // else the test has ended it
				status, _ := state.Sys().(syscall.WaitStatus)
				ended <- status
			}
		}()
		for waiting := true; waiting; {
			select {
			case status := <-ended:
				require.Equal(t, syscall.SIGKILL, status.Signal(), "%s", p.log)
				lost++
				waiting = false
			case <-time.After(100 * time.Millisecond):
				var open int
				require.NoError(t, d.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.runs where finished_at is null`).Scan(&open))
				if open == 0 {
					over, waiting = true, false
				}
			}
		}
	}
	var done, dead int
	require.NoError(t, d.base.Owner.QueryRow(t.Context(), `
		select count(*) filter (where status = 'done'), count(*) filter (where status = 'dead' and reason = 'attempts.exhausted') from sluice.runs`).Scan(&done, &dead))
	require.Equal(t, []int{1, 1}, []int{done, dead})
	require.InDelta(t, 5, lost, 3, "as often as a run is tried, and no oftener")
	d.booked()
}
