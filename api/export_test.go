package api

// What a test asks for by itself.
var (
	Harmless = harmless
	PicoOf   = picoOf
	USD      = usd
	WantsCSV = wantsCSV
)

// IntakeWaiting is how many deliveries wait for a commit.
func (a *API) IntakeWaiting() int { return len(a.intake.batcher.queue) }

// IntakeHeld is how many endpoints are held in memory.
func (a *API) IntakeHeld() int {
	a.intake.cache.mu.RLock()
	defer a.intake.cache.mu.RUnlock()
	return len(a.intake.cache.byToken)
}
