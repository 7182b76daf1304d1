// Package proof lets a build with the tag `proof` be killed at a boundary between two durable steps, and live by a clock that is ahead or behind.
// In every other build it does nothing, and costs nothing.
//
// A boundary is the moment before or after a step that others see: a commit, or a request that leaves. The step has a name, which its context carries
// to the two places where steps are made (db, when it commits; jobs/outbound, when it sends). What must not enter: anything that changes what a step
// does. Nothing of the house is imported.
package proof

// The two boundaries of a step, as SLUICE_CRASH_AT names them.
const (
	PhaseBefore = "before"
	PhaseAfter  = "after"
)

// The variables that a build with the tag reads.
const (
	// EnvCrashAt names the boundary to be killed at, and optionally its occurrence: "run.claim/after", "run.claim/after#2".
	EnvCrashAt = "SLUICE_CRASH_AT"
	// EnvJournal is a file to which each boundary that is passed is added, a line each.
	EnvJournal = "SLUICE_CRASH_JOURNAL"
	// EnvClockOffset is a duration that is added to the process's clock: "10m", "-10m".
	EnvClockOffset = "SLUICE_CLOCK_OFFSET"
)
