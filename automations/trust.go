package automations

import "time"

// What becomes of a run whose review nobody has given in time.
const (
	ExpiryReject  = "reject"
	ExpiryApprove = "approve"
)

// A ReviewSpec says how long a person has, in the mode review.
type ReviewSpec struct {
	ExpiresMinutes int    `json:"expires_minutes,omitempty"` // 1 to 43200 (30 days); 0 means 1440
	OnExpiry       string `json:"on_expiry,omitempty"`       // one of ExpiryReject and ExpiryApprove; "" means reject
}

// A PromoteSpec is the bar under which an automation may not go live: of the last Reviews verdicts on what behaves as it does, at least PassRate
// approved the output as it was.
type PromoteSpec struct {
	Reviews  int     `json:"reviews"`   // 1 to 1000
	PassRate float64 `json:"pass_rate"` // 0 to 1
}

// A DemoteSpec puts a live automation back into review: when of its last Runs live runs more than FailureRate ended as dead.
type DemoteSpec struct {
	Runs        int     `json:"runs"`         // 5 to 1000
	FailureRate float64 `json:"failure_rate"` // 0 to below 1
}

const (
	reviewMinutesMax     = 30 * 24 * 60
	reviewMinutesDefault = 24 * 60
	trustRunsMax         = 1000
	demoteRunsMin        = 5
)

// A Review says how long a person has, and what becomes of a run then.
type Review struct {
	Within   time.Duration
	OnExpiry string
}

// Review is how the automation's runs are reviewed, with the defaults filled in.
func (c *Compiled) Review() Review {
	r := Review{Within: reviewMinutesDefault * time.Minute, OnExpiry: ExpiryReject}
	if s := c.spec.Review; s != nil {
		if s.ExpiresMinutes > 0 {
			r.Within = time.Duration(s.ExpiresMinutes) * time.Minute
		}
		if s.OnExpiry != "" {
			r.OnExpiry = s.OnExpiry
		}
	}
	return r
}

// checkTrust finds what is wrong with how far the automation is trusted.
func checkTrust(s Spec, fault faulter) {
	if r := s.Review; r != nil {
		if r.ExpiresMinutes < 0 || r.ExpiresMinutes > reviewMinutesMax {
			fault("review.expires_minutes", "expected a number from 1 to %d, got %d", reviewMinutesMax, r.ExpiresMinutes)
		}
		switch r.OnExpiry {
		case "", ExpiryReject, ExpiryApprove:
		default:
			fault("review.on_expiry", "expected reject or approve, got %s", quoted(r.OnExpiry))
		}
	}
	if p := s.Promote; p != nil {
		if p.Reviews < 1 || p.Reviews > trustRunsMax {
			fault("promote.reviews", "expected a number from 1 to %d, got %d", trustRunsMax, p.Reviews)
		}
		if p.PassRate < 0 || p.PassRate > 1 {
			fault("promote.pass_rate", "expected a number from 0 to 1")
		}
	}
	if d := s.Demote; d != nil {
		if d.Runs < demoteRunsMin || d.Runs > trustRunsMax {
			fault("demote.runs", "expected a number from %d to %d, got %d", demoteRunsMin, trustRunsMax, d.Runs)
		}
		if d.FailureRate < 0 || d.FailureRate >= 1 {
			fault("demote.failure_rate", "expected a number from 0 to below 1")
		}
	}
}
