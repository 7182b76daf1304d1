package jobs

import (
	"time"

	"github.com/riverqueue/river"

	"sluice/proof"
)

// riverClock lets River's own decisions (who leads, what is stuck, when a retry is due) go by the process's clock. Where River asks the database for
// the time it goes on doing so, as in every other build.
type riverClock struct{ now func() time.Time }

// Now is the process's time.
func (c riverClock) Now() time.Time { return c.now() }

// NowOrNil is nil: no time is put in the place of the database's.
func (riverClock) NowOrNil() *time.Time { return nil }

// riverTest is empty, but in a build for proofs, whose clock may be ahead or behind.
func riverTest(now func() time.Time) river.TestConfig {
	if !proof.Enabled {
		return river.TestConfig{}
	}
	return river.TestConfig{Time: riverClock{now}}
}
