package db_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// BenchmarkAdmit is what one batch costs Postgres, for an event: one with two keys, a body of 2 KB and one run, without its job. Beside the time it
// says the CPU time of the server's process, which is the same on a busy machine.
func BenchmarkAdmit(b *testing.B) {
	for _, events := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			base := dbtest.New(b)
			p := plant(b, base, "one")
			body := []byte(`{"note":"` + strings.Repeat("abcdefghij klmnopqrst", 95) + `"}`)
			var pid int
			var spent time.Duration
			require.NoError(b, base.DB.Door(b.Context(), func(tx db.DoorTx) error {
				return tx.Pgx().QueryRow(b.Context(), `select pg_backend_pid()`).Scan(&pid)
			}))
			for b.Loop() {
				deliveries := make([]*db.Delivery, events)
				for i := range deliveries {
					id := tenants.NewID().String()
					e := eventNew(id, "body "+id)
					e.Entity, e.Verdicts = "issue:"+id, json.RawMessage(`[{"automation_id":"aut_1","name":"triage","version":1,"matched":true,"reason":"","detail":""}]`)
					e.Runs = []db.RunNew{{ID: tenants.NewID(), AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}}
					deliveries[i] = delivered(p, string(body), e)
				}
				before := processorTime(pid)
				admit(b, base.DB, deliveries...)
				spent += processorTime(pid) - before
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*events), "us/event")
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N*events), "pg-us/event")
		})
	}
}

// processorTime is the CPU time of a process, exact to the nanosecond where Linux tells it (sched_debug's first field), and 0 elsewhere.
func processorTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, _ := strconv.ParseInt(first, 10, 64)
	return time.Duration(n)
}
