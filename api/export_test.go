package api

// What a test asks for by itself.
var (
	Harmless = harmless
	PicoOf   = picoOf
	USD      = usd
	WantsCSV = wantsCSV
)
