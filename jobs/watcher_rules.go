package jobs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/jobs/llm"
	"sluice/tenants"
)

const reasonBreakerOpen = providerReasonDot + string(llm.KindBreakerOpen)

// limitShares are the shares of a limit, in percent, that are told of.
var limitShares = []int64{50, 80, 100}

const (
	// limitShareLeast is the least of them.
	limitShareLeast = 0.5
	// limitShareHeld is how much of a limit must be used, in percent, for runs that are held to mean that it is used up: what is left is too little for
	// the next call. With less, the reservations of calls under way hold them, for a moment.
	limitShareHeld = 80
	limitShareAll  = 100
	subjectSoft    = ":soft"
)

// limits finds limits that are used up to a share.
func (w *watcher) limits(ctx context.Context, tx db.SystemTx) error {
	uses, err := tx.LimitsUsed(ctx, limitShareLeast)
	if err != nil {
		return err
	}
	var seen []db.AlertSeen
	for _, u := range uses {
		seen = append(seen, limitSeen(u)...)
	}
	return w.settle(ctx, tx, db.AlertLimit, limitQuiet, seen)
}

// limitSeen is what there is to tell of a limit: the shares of the hard one that are used, and whether the soft one is passed. Of a soft one alone, the
// shares below it are told too.
func limitSeen(u db.LimitUse) []db.AlertSeen {
	var seen []db.AlertSeen
	tell := func(subject, detail string) {
		seen = append(seen, db.AlertSeen{
			TenantID: u.TenantID, Subject: u.Name + subject,
			Detail: detail + " The window turns at " + u.Until.UTC().Format(time.RFC3339) + ".",
		})
	}
	of, what := u.Hard, "limit"
	if of == nil {
		of, what = u.Soft, "soft limit"
	}
	limit, used := amountOf(u.Name, *of), amountOf(u.Name, u.Used)
	for _, share := range limitShares {
		switch {
		case share == limitShareAll && u.Hard == nil: // told as the soft one below
		case u.Used > 0 && reached(u.Used, *of, share):
			tell(fmt.Sprintf(":%d", share), fmt.Sprintf("%d %% of the %s of %s is used: %s.", share, what, limit, used))
		case share == limitShareAll && u.Holding && reached(u.Used, *of, limitShareHeld):
			tell(fmt.Sprintf(":%d", share), fmt.Sprintf("Of the limit of %s, %s is used, and what is left is too little for what comes next.", limit, used))
		}
	}
	if u.Soft != nil && u.Used > 0 && reached(u.Used, *u.Soft, limitShareAll) {
		tell(subjectSoft, fmt.Sprintf("The soft limit of %s is reached: %s. It holds nothing.", amountOf(u.Name, *u.Soft), used))
	}
	return seen
}

// reached compares without multiplying amounts, which may be as large as a bigint.
func reached(used, limit, share int64) bool {
	whole, part := limit/limitShareAll*share, limit%limitShareAll*share
	return used >= whole+(part+limitShareAll-1)/limitShareAll
}

// amountOf writes an amount of a limit as people say it.
func amountOf(name string, n int64) string {
	switch name {
	case "cost_per_day_usd":
		return dollars(n) + " USD per day"
	case "cost_per_month_usd":
		return dollars(n) + " USD per month"
	}
	return strconv.FormatInt(n, 10) + " " + strings.ReplaceAll(name, "_", " ")
}

const (
	picoPerUSD   = 1_000_000_000_000
	picoPerMicro = 1_000_000
)

// dollars writes pico-USD, to a millionth.
func dollars(pico int64) string {
	sign := ""
	if pico < 0 {
		sign, pico = "-", -pico
	}
	return sign + strings.TrimSuffix(strings.TrimRight(usd(pico), "0"), ".")
}

// stopped finds runs that are held, and runs that wait for a breaker.
func (w *watcher) stopped(ctx context.Context, tx db.SystemTx) error {
	found, err := tx.RunsStopped(ctx)
	if err != nil {
		return err
	}
	var held, waiting []db.AlertSeen
	for _, s := range found {
		if s.Reason == reasonBreakerOpen {
			waiting = append(waiting, db.AlertSeen{
				TenantID: s.TenantID, Subject: s.Model,
				Detail: "Runs wait for " + s.Model + ": its provider failed too often of late, and is left alone for a while.",
			})
			continue
		}
		detail := "Runs are held: " + s.Reason + "."
		if s.Until != nil {
			detail += " They go on at " + s.Until.UTC().Format(time.RFC3339) + ", or earlier."
		}
		held = append(held, db.AlertSeen{TenantID: s.TenantID, Subject: s.Reason, Detail: detail})
	}
	if err := w.settle(ctx, tx, db.AlertHeld, heldQuiet, held); err != nil {
		return err
	}
	return w.settle(ctx, tx, db.AlertBreaker, breakerQuiet, waiting)
}

// credentials finds credentials that are paused.
func (w *watcher) credentials(ctx context.Context, tx db.SystemTx) error {
	return w.subjects(ctx, tx, db.AlertCredentialPaused, 0, tx.CredentialsPaused, func(s db.Subject) (string, string) {
		return tenants.FormatID(tenants.CredentialPrefix, s.ID), "The credential is not used for now: " + s.Text
	})
}

// died finds automations with runs that died.
func (w *watcher) died(ctx context.Context, tx db.SystemTx) error {
	return w.subjects(ctx, tx, db.AlertDeadLetters, deathsQuiet, tx.RunsDied, func(s db.Subject) (string, string) {
		return tenants.FormatID(tenants.AutomationPrefix, s.ID), "Runs of the automation died, of late of " + s.Text + "; they are kept, and can be retried."
	})
}

// blocked finds endpoints with a dead run that is in the way.
func (w *watcher) blocked(ctx context.Context, tx db.SystemTx) error {
	return w.subjects(ctx, tx, db.AlertOrderBlocked, blockedQuiet, tx.RunsBlocking, func(s db.Subject) (string, string) {
		return tenants.FormatID(tenants.EndpointPrefix, s.ID), "A dead run lets nothing of its entity pass: retry it, or cancel it."
	})
}

func (w *watcher) subjects(ctx context.Context, tx db.SystemTx, kind string, quiet time.Duration, find func(context.Context) ([]db.Subject, error),
	tell func(db.Subject) (subject, detail string),
) error {
	found, err := find(ctx)
	if err != nil {
		return err
	}
	seen := make([]db.AlertSeen, len(found))
	for i, s := range found {
		subject, detail := tell(s)
		seen[i] = db.AlertSeen{TenantID: s.TenantID, Subject: subject, Detail: detail}
	}
	return w.settle(ctx, tx, kind, quiet, seen)
}

// subjectOfRate is the id of what a rate is of, as people see it.
func subjectOfRate(level string, id uuid.UUID) string {
	prefix := map[string]string{db.RateTenant: tenants.TenantPrefix, db.RateEndpoint: tenants.EndpointPrefix, db.RateAutomation: tenants.AutomationPrefix}[level]
	return tenants.FormatID(prefix, id)
}
