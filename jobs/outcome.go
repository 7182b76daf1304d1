package jobs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/riverqueue/river"

	"sluice/automations"
	"sluice/db"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
)

// This file turns what went wrong into what follows: wait (no attempt is spent), retry (one is), or stop.

// How long is waited. Delays are drawn at random up to their bound, so that what failed together does not come back together.
const (
	retryBase       = 2 * time.Second
	retryMax        = 5 * time.Minute
	rateLimitWait   = 30 * time.Second
	quotaWait       = 15 * time.Minute
	breakerWaitMin  = time.Second
	waitMax         = time.Hour
	waitGrowthMax   = 15 * time.Minute
	waitAgeMax      = 72 * time.Hour
	suspendedWait   = 5 * time.Minute
	orphansMax      = 3
	actionRetryMax  = 2 * time.Hour
	actionRetryBase = time.Second
	// actionSettle is how long an effect whose fate is not known is left alone before it is looked for.
	actionSettle = 5 * time.Second
	// actionAgeMax ends an effect that has not been made for so long.
	actionAgeMax = 72 * time.Hour
	// lookupsMore is how often a target is asked for an effect after the last attempt was sent.
	lookupsMore = 4
)

// The reasons of runs that are born in this room; those of actions are born in jobs/action.
const (
	reasonAttempts       = "attempts.exhausted"
	reasonAutomation     = "automation.invalid"
	reasonCeiling        = "limit.max_call"
	reasonCancelled      = "worker.stopped"
	reasonInternal       = "internal"
	reasonNoKey          = "provider.no_credential"
	reasonPayload        = "payload.malformed"
	reasonPaused         = "provider.credential_paused"
	reasonUnreadable     = "credential.unreadable"
	reasonUnread         = "database.unavailable"
	reasonPending        = "action.pending"
	reasonPrice          = "price.unknown"
	reasonPrompt         = "prompt.invalid"
	reasonRefused        = "output.refused"
	reasonReplyLost      = "provider.reply_lost"
	reasonSchema         = "output.schema"
	reasonShadow         = "shadow"
	reasonReview         = "review.pending"
	reasonMade           = "action.made"
	reasonUnknown        = "action.unknown"
	reasonHostBusy       = "action.host_busy"
	reasonHostOpen       = "action.breaker_open"
	reasonSuspended      = "tenant.suspended"
	reasonTruncated      = "output.truncated"
	reasonUnfinished     = "output.unfinished"
	reasonActionBody     = "action.body"
	reasonFetchBlocked   = "fetch.blocked"
	reasonFetchFailed    = "fetch.failed"
	reasonFetchMalformed = "fetch.malformed"
	reasonFetchNoKey     = "fetch.no_credential"
	reasonFetchNotFound  = "fetch.not_found"
	reasonFetchRedirect  = "fetch.redirect"
	reasonFetchRefused   = "fetch.refused"
	reasonFetchTooLarge  = "fetch.too_large"
	reasonFetchURL       = "fetch.url"
	providerReasonDot    = "provider."
)

// snoozeMin is the shortest snooze: a job that came a moment early must not spin.
const snoozeMin = 500 * time.Millisecond

// snooze says that the job is to come again after a while: not a failure.
type snooze struct{ after time.Duration }

func (s snooze) Error() string { return "not yet: again in " + s.after.String() }

// errNothing says that there is nothing to do: the run has ended, waits for somebody else, or is gone.
var errNothing = errors.New("nothing to do")

// errLost says that another worker holds the run by now.
var errLost = errors.New("the run is no longer this worker's")

// forRiver turns what a worker's job came to into River's outcomes: done with it, snooze, or an error that River retries.
func forRiver(err error) error {
	var later snooze
	switch {
	case err == nil, errors.Is(err, errNothing), errors.Is(err, errLost), errors.Is(err, db.ErrStale):
		return nil
	case errors.As(err, &later):
		return river.JobSnooze(max(later.after, snoozeMin))
	}
	return err
}

// tried is how far a run has come with its calls.
type tried struct {
	attempt, attemptsMax int
	// waits is how many calls have ended in a wait, or failed, before.
	waits int
	// claims is how often the run was taken up.
	claims int
	// age is how long ago the run was made.
	age time.Duration
	// retry is what the automation says of failed attempts.
	retry automations.Retry
}

// afterModel says what follows a failed call.
func afterModel(err error, t tried) db.RunStep {
	wait := func(reason, detail string, d time.Duration) db.RunStep { return waitOrDie(reason, detail, d, t) }
	var e *llm.Error
	if !errors.As(err, &e) {
		return retryOrDie(reasonInternal, "Something went wrong inside Sluice; the operator's log has it.", t)
	}
	reason := providerReasonDot + string(e.Kind)
	switch e.Kind {
	case llm.KindBreakerOpen:
		return wait(reason, "The provider failed too often of late, so it is left alone for a while.", max(e.RetryAfter, breakerWaitMin))
	case llm.KindBusy:
		// Each is told a slot of its own: no jitter.
		step := wait(reason, "As many calls to this model are under way with this key as may be.", e.RetryAfter)
		step.Wait = max(e.RetryAfter, snoozeMin)
		return step
	case llm.KindRateLimited:
		return wait(reason, "The provider asked to be called less often.", orDefault(e.RetryAfter, rateLimitWait))
	case llm.KindQuotaExhausted:
		return wait(reason, "The provider's account has no money or reached its limit of spending: "+e.Error(), orDefault(e.RetryAfter, quotaWait))
	case llm.KindCredentialRejected:
		return wait(reason, "The provider refused the API key, which is not used until a person has seen to it: "+e.Error(), quotaWait)
	case llm.KindBadRequest:
		return die(reason, "The provider will never take this request: "+e.Error())
	case llm.KindCancelled:
		return db.RunStep{Status: db.RunQueued, Reason: reasonCancelled, Detail: "The worker was stopped; another one takes the run up.", Refund: true}
	default:
		return retryOrDie(reason, "The provider did not answer as it should: "+e.Error(), t)
	}
}

// detailUnreadable is for a person of the tenant, who can give another secret, and for one of the operator, who has the right key.
const detailUnreadable = "The credential does not open with the keys that Sluice has now. Nothing was sent. It goes on when the right key is back, or when the credential is given another secret."

// waitOrDie waits for as long as it was asked to, and longer with each wait: what says wait for ever must not be asked for ever at one pace. A run
// that has waited for waitAgeMax ends.
func waitOrDie(reason, detail string, asked time.Duration, t tried) db.RunStep {
	if t.age > waitAgeMax {
		return die(reason, detail+" The run has waited for this for too long.")
	}
	return wait(reason, detail, max(asked, backoff(retryBase, waitGrowthMax, t.waits+1)))
}

// wait is a step that spends no attempt.
func wait(reason, detail string, d time.Duration) db.RunStep {
	d = min(d, waitMax)
	return db.RunStep{Status: db.RunWaiting, Reason: reason, Detail: detail, Wait: d + jitter(d/4+time.Second), Refund: true}
}

func die(reason, detail string) db.RunStep {
	return db.RunStep{Status: db.RunDead, Reason: reason, Detail: detail}
}

// retryOrDie spends the attempt.
func retryOrDie(reason, detail string, t tried) db.RunStep {
	if t.attempt >= t.attemptsMax {
		return die(reason, detail+" No attempt is left.")
	}
	return db.RunStep{
		Status: db.RunWaiting, Reason: reason, Detail: detail,
		Wait: backoff(orDefault(t.retry.Base, retryBase), orDefault(t.retry.Most, retryMax), t.attempt),
	}
}

// backoff doubles its bound with every attempt (from 1) and draws from the upper half of it.
func backoff(base, most time.Duration, attempt int) time.Duration {
	const doublingsMax = 20
	bound := min(base<<min(max(attempt-1, 0), doublingsMax), most)
	return bound/2 + jitter(bound/2)
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// afterFetch says what follows of an answer of the source, nil where it holds the state. An answer of "not found" is the automation's to judge.
func afterFetch(res outbound.Response, t tried, at time.Time) *db.RunStep {
	answered := fmt.Sprintf("The source answered %d to the fetch", res.Status)
	patience := action.RetryAfter(res.Header, at)
	t.waits = t.claims - 1 // a fetch that waits leaves no call to count
	var step db.RunStep
	switch {
	case res.Status == http.StatusTooManyRequests:
		step = waitOrDie(reasonFetchFailed, answered+": it asked to be asked less often.", orDefault(patience, rateLimitWait), t)
	case res.Status == http.StatusRequestTimeout, res.Status == http.StatusTooEarly, res.Status >= http.StatusInternalServerError:
		if step = retryOrDie(reasonFetchFailed, answered+".", t); step.Status == db.RunWaiting {
			step.Wait = max(step.Wait, patience)
		}
	case res.Status == http.StatusUnauthorized, res.Status == http.StatusForbidden:
		step = die(reasonFetchRefused, answered+": its credential is missing, wrong, or may not read this.")
	case res.Status >= http.StatusBadRequest:
		step = die(reasonFetchRefused, answered+".")
	case res.Status >= http.StatusMultipleChoices:
		step = die(reasonFetchRedirect, answered+", and redirects are not followed: name the address that it leads to.")
	case res.Truncated && len(res.Body) >= fetchBytesMax:
		step = die(reasonFetchTooLarge, fmt.Sprintf("What the source answered to the fetch is longer than %d bytes.", fetchBytesMax))
	case res.Truncated:
		step = retryOrDie(reasonFetchFailed, answered+", and did not come to its end.", t)
	default:
		return nil
	}
	return &step
}

// afterNoFetch says what follows where a fetch got no answer.
func afterNoFetch(err error, t tried) db.RunStep {
	var e *outbound.Error
	if !errors.As(err, &e) {
		return retryOrDie(reasonInternal, "Something went wrong inside Sluice; the operator's log has it.", t)
	}
	switch e.Kind { //nolint:exhaustive // the others may pass
	case outbound.Canceled:
		return db.RunStep{Status: db.RunQueued, Reason: reasonCancelled, Detail: "The worker was stopped; another one takes the run up.", Refund: true}
	case outbound.BadURL, outbound.Blocked:
		return die(reasonFetchBlocked, "The address of the fetch is not allowed: "+e.Error()+".")
	default:
		return retryOrDie(reasonFetchFailed, "The fetch got no answer: "+e.Error()+".", t)
	}
}

// afterOutput says why an answer of the model cannot be used, or returns its value.
func afterOutput(reply llm.Reply, compiled *automations.Compiled) (any, *db.RunStep) {
	stop := func(reason, detail string) (any, *db.RunStep) {
		step := die(reason, detail)
		return nil, &step
	}
	switch reply.Finish {
	case llm.FinishRefused:
		return stop(reasonRefused, "The model declined to answer.")
	case llm.FinishTruncated:
		return stop(reasonTruncated, "The model's answer was cut off at max_output_tokens.")
	case llm.FinishStop:
	default:
		return stop(reasonUnfinished, "The model stopped before its answer was complete.")
	}
	output, err := compiled.Output(reply.Text)
	if err != nil {
		return stop(reasonSchema, "The model's answer does not fit the automation's output_schema: "+err.Error())
	}
	return output, nil
}

// afterAction says what follows a try at an effect that did not make it for certain. How it was kept from being made twice decides what may be done
// where nobody knows whether it was made. age is how long ago it was intended, and settle how long it is left alone before it is looked for.
func afterAction(err error, a *taken, age, settle time.Duration) db.ActionStep {
	var e *action.Error
	if !errors.As(err, &e) {
		e = &action.Error{Kind: action.Retry, Code: reasonInternal, Message: "Something went wrong inside Sluice; the operator's log has it.", Doubt: true}
	}
	step := db.ActionStep{Reason: e.Code, Detail: e.Error(), Status: e.Status}
	last := a.Attempt >= a.AttemptsMax || age > actionAgeMax
	switch {
	case e.Doubt && a.effect.Once == action.OnceNever:
		step.State, step.Reason = db.ActionUnknown, reasonUnknown
		step.Detail += ". It may have been made, and its target cannot be asked: look there before it is sent again."
	case e.Code == action.CodeCanceled:
		// Our own stop: the attempt is given back where it surely never left.
		step.State, step.Wait, step.Refund = stateOf(e.Doubt), actionRetryBase, !e.Doubt
	case e.Kind == action.Retry && e.Doubt && last && a.effect.Once == action.OnceMark && a.Attempt <= a.AttemptsMax:
		// Nothing more is sent; it is only looked for.
		step.State, step.Wait = db.ActionInFlight, max(e.RetryAfter, settle)
	case e.Kind != action.Retry && e.Doubt && a.effect.Once == action.OnceMark:
		// A failed one would leave its name free for another.
		step.State, step.Reason = db.ActionUnknown, reasonUnknown
		step.Detail = "It may have been made, and cannot be looked for now: " + step.Detail
	case e.Kind != action.Retry:
		step.State = db.ActionFailed
	case last:
		step.State, step.Detail = db.ActionFailed, step.Detail+". No attempt is left."
		if e.Doubt {
			step.Detail += " It may have been made; its target drops what it has seen, so that it may be retried."
		}
	default:
		step.State, step.Wait = stateOf(e.Doubt), max(e.RetryAfter, actionBackoff(a.Attempt))
		if e.Doubt && a.effect.Once == action.OnceMark {
			// A target that is slow may still make it, and one that answers from a copy may not show it yet.
			step.Wait = max(step.Wait, settle)
		}
	}
	return step
}

// afterLookup says what follows where a target could not be asked whether it has an effect that may have been made: it is never sent again before
// that is known.
func afterLookup(err error, a *taken, age time.Duration) db.ActionStep {
	e, ok := errors.AsType[*action.Error](err)
	if !ok {
		e = &action.Error{Kind: action.Retry, Code: reasonInternal, Message: "Something went wrong inside Sluice; the operator's log has it."}
	}
	step := db.ActionStep{Reason: e.Code, Detail: "It may have been made, and its target could not be asked: " + e.Error(), Status: e.Status}
	switch {
	case e.Code == action.CodeCanceled:
		step.State, step.Wait, step.Refund = db.ActionInFlight, actionRetryBase, true
	case e.Kind == action.Retry && a.Attempt < a.AttemptsMax+lookupsMore && age <= actionAgeMax:
		step.State, step.Wait = db.ActionInFlight, max(e.RetryAfter, actionBackoff(min(a.Attempt, a.AttemptsMax)))
	default:
		step.State, step.Reason = db.ActionUnknown, reasonUnknown
	}
	return step
}

// stateOf is the state of an action between two tries.
func stateOf(doubt bool) string {
	if doubt {
		return db.ActionInFlight
	}
	return db.ActionIntended
}

// actionBackoff is about 1 s, 4 s, 16 s, 1 min, 4 min, 17 min, 1 h: what is down for a moment is found again soon, what is down for the
// night is still there in the morning.
func actionBackoff(attempt int) time.Duration {
	return backoff(actionRetryBase, actionRetryMax, 2*attempt-1)
}
