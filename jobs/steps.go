package jobs

// The steps that are made here and that others see: commits, and requests that leave. Each has two boundaries, right before and right after it, and
// TestKilledAtEveryBoundary (cmd/sluice) kills a process at every one. A commit that has no name here must say in boundaries_test.go that it is no
// step of an event's life.
const (
	// A run's commits, which runs of a tenant share.
	stepRunClaim = "run.claim"
	stepRunPark  = "run.park"
	stepRunKeep  = "run.keep"
	stepRunSend  = "run.send"
	stepRunEnd   = "run.end"
	// A run's commits of its own.
	stepRunAlone  = "run.alone"
	stepRunRenew  = "run.renew"
	stepRunLost   = "run.lost"
	stepRunSettle = "run.settle"
	stepKeyPause  = "key.pause"
	// A run's requests: the state of the entity, and the model.
	stepFetch = "fetch"
	stepAsk   = "ask"

	// An action's commits, of which the first two are shared, and its requests.
	stepActionClaim   = "action.claim"
	stepActionConfirm = "action.confirm"
	stepActionEnd     = "action.end"
	stepActionFind    = "action.find"
	stepActionSend    = "action.send"

	// What goes on with an event whose job was lost, or that waits for something.
	stepSweep         = "sweep"
	stepSweepAge      = "sweep.age"
	stepSweepWake     = "sweep.wake"
	stepGate          = "gate"
	stepGateRepace    = "gate.repace"
	stepGateRelease   = "gate.release"
	stepGateSettle    = "gate.settle"
	stepReplay        = "replay"
	stepReviewExpiry  = "review.expiry"
	stepDemotion      = "demotion"
	stepMissedAsk     = "missed.request"
	stepMissedKeep    = "missed.keep"
	stepNoticePost    = "notice.post"
	stepNoticeClaim   = "notice.claim"
	stepNoticeSend    = "notice.send"
	stepNoticeConfirm = "notice.confirm"
	stepNoticeFail    = "notice.fail"
)
