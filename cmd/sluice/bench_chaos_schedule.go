package main

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// chaosFault is one thing that goes wrong.
type chaosFault struct {
	at   time.Duration // from the first moment
	kind string
	part int           // which process, proxy, model: counted around by whoever does it
	hold time.Duration // how long it lasts
	draw uint64        // the seed of what else is drawn
}

// chaosKind is a kind of fault: how often it comes beside the others, and how long it lasts.
type chaosKind struct {
	name           string
	weight         int
	shortest, more time.Duration
}

// The kinds, in the order of the report.
const (
	faultKillDoor    = "kill a door"
	faultKillWorker  = "kill a worker"
	faultKillWorkers = "kill all workers"
	faultPauseDoor   = "pause a door"
	faultPauseWorker = "pause a worker beyond its lease"
	faultClock       = "a worker whose clock is wrong"
	faultStopDB      = "stop Postgres at once"
	faultBackends    = "terminate all backends"
	faultCutDB       = "cut connections to Postgres"
	faultSlowDB      = "slow down Postgres"
	faultBlackholeDB = "half-open connections to Postgres"
	faultDisk        = "disk full"
	faultProviderNet = "network to the provider"
	faultHang        = "a provider that hangs"
	faultStorm       = "a provider that storms"
	faultLies        = "a provider that lies"
	faultTargets     = "targets that act and then fail"
	faultTargetNet   = "network to the targets"
	faultFlood       = "a flood of duplicates"
	faultSchema      = "a rolling restart onto a new schema"
	faultSettings    = "change an automation"
)

var chaosKinds = []chaosKind{
	{faultKillDoor, 4, 300 * time.Millisecond, 2 * time.Second},
	{faultKillWorker, 8, 300 * time.Millisecond, 3 * time.Second},
	{faultKillWorkers, 2, 300 * time.Millisecond, 2 * time.Second},
	{faultPauseDoor, 2, time.Second, 6 * time.Second},
	{faultPauseWorker, 3, 3 * time.Second, 4 * time.Second}, // beyond the lease
	{faultClock, 3, 8 * time.Second, 10 * time.Second},
	{faultStopDB, 2, 500 * time.Millisecond, 4 * time.Second},
	{faultBackends, 3, 0, 0},
	{faultCutDB, 3, 0, 0},
	{faultSlowDB, 2, 2 * time.Second, 4 * time.Second},
	{faultBlackholeDB, 2, 2 * time.Second, 6 * time.Second},
	{faultDisk, 1, 4 * time.Second, 4 * time.Second},
	{faultProviderNet, 3, time.Second, 5 * time.Second},
	{faultHang, 2, 3 * time.Second, 8 * time.Second},
	{faultStorm, 2, 3 * time.Second, 5 * time.Second},
	{faultLies, 3, 3 * time.Second, 5 * time.Second},
	{faultTargets, 6, 3 * time.Second, 5 * time.Second},
	{faultTargetNet, 3, time.Second, 5 * time.Second},
	{faultFlood, 4, 0, 0},
	{faultSettings, 1, 0, 0},
}

// chaosSchemaAt is the part of the time after which the schema changes, once.
const chaosSchemaAt = 0.45

// newChaosSchedule draws the faults: every kind comes before one comes more often than its weight. Nothing but the command's settings decides.
func newChaosSchedule(b benchChaos) (faults []chaosFault) {
	random := rand.New(rand.NewPCG(b.Seed, 1)) // it has to be the same again
	var bag []chaosKind
	next := func() chaosKind {
		if len(bag) == 0 {
			for _, k := range chaosKinds {
				for range k.weight {
					bag = append(bag, k)
				}
			}
			random.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		k := bag[0]
		bag = bag[1:]
		return k
	}
	for at := time.Duration(0); ; {
		at += time.Duration((0.2 + 1.6*random.Float64()) * float64(b.Every)) // uniform, and b.Every on average
		k := next()
		f := chaosFault{at: at, kind: k.name, part: random.IntN(chaosSeeds), hold: k.shortest, draw: random.Uint64()}
		if k.more > 0 {
			f.hold += time.Duration(random.Int64N(int64(k.more)))
		}
		if f.kind == faultPauseWorker {
			f.hold += b.Lease
		}
		if at > b.For {
			break
		}
		if at+f.hold > b.For+b.Lease {
			continue
		}
		faults = append(faults, f)
	}
	faults = append(faults, chaosFault{at: time.Duration(chaosSchemaAt * float64(b.For)), kind: faultSchema, draw: random.Uint64()})
	slices.SortStableFunc(faults, func(a, b chaosFault) int { return cmp.Compare(a.at, b.at) })
	return faults
}
