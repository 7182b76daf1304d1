package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"sluice/db"
	"sluice/jobs/action"
	"sluice/proof"
	"sluice/tenants"
)

// actionWorker makes an effect: in flight (committed), send, confirmed (committed). A try that finds it in flight does not know whether it was made:
// it looks for it at the target first, or sends it again where the target drops what it has seen, or leaves it to a person.
type actionWorker struct {
	river.WorkerDefaults[ActionArgs]

	db      *db.DB
	actions *action.Set
	poster  *Poster
	log     *slog.Logger
	now     func() time.Time
	meters  *meters
	timeout time.Duration
	lease   time.Duration
	settle  time.Duration
	secrets *secretCache
	hosts   *hosts
	// lanes are the tenants' commits: claims and confirmations of their actions share them.
	lanes lanes[actionWish, *db.ActionHeld]
}

// Timeout bounds the whole job.
func (w *actionWorker) Timeout(*river.Job[ActionArgs]) time.Duration { return w.timeout + jobMargin }

// Work makes one try at an effect.
func (w *actionWorker) Work(ctx context.Context, job *river.Job[ActionArgs]) error {
	return forRiver(w.work(ctx, job.Args))
}

// taken is an action that this worker holds, with what its work needs.
type taken struct {
	db.ActionHeld

	connector action.Connector
	effect    action.Effect
	opened    db.CredentialOpened
	host      string
	deadline  time.Time // the end of the lease, less what it takes to write down what happened
}

// doubted says that an earlier try may have made the effect.
func (a *taken) doubted() bool { return a.Was == db.ActionInFlight }

// actionWish is what one action wants of its tenant's next commit: to be claimed, or to be confirmed.
type actionWish struct {
	claim   uuid.UUID
	confirm *db.Confirmation
	run     db.Run // of the one to confirm
}

// commit grants the wishes of actions of one tenant in one transaction; what it answers is the action that was claimed, nil where it was not.
func (w *actionWorker) commit(ctx context.Context, tenantID uuid.UUID, wishes []actionWish) ([]*db.ActionHeld, error) {
	var claims []uuid.UUID
	var confirmations []db.Confirmation
	for _, one := range wishes {
		if one.confirm != nil {
			confirmations = append(confirmations, *one.confirm)
		} else {
			claims = append(claims, one.claim)
		}
	}
	out := make([]*db.ActionHeld, len(wishes))
	var steps []string
	if len(claims) > 0 {
		steps = append(steps, stepActionClaim)
	}
	if len(confirmations) > 0 {
		steps = append(steps, stepActionConfirm)
	}
	err := w.db.Tenant(proof.Step(ctx, steps...), tenantID, func(tx db.TenantTx) error {
		if len(confirmations) > 0 {
			if err := tx.ActionsConfirm(ctx, confirmations); err != nil {
				return fmt.Errorf("confirm %d actions: %w", len(confirmations), err)
			}
		}
		for _, one := range wishes {
			if one.confirm == nil {
				continue
			}
			if err := w.poster.HandOver(ctx, tx, one.run); err != nil {
				return err
			}
		}
		if len(claims) == 0 {
			return nil
		}
		held, err := tx.ActionsClaim(ctx, claims, w.lease)
		if err != nil {
			return fmt.Errorf("claim %d actions: %w", len(claims), err)
		}
		for i := range held {
			at := slices.IndexFunc(wishes, func(one actionWish) bool { return one.claim == held[i].ID })
			out[at] = &held[i]
		}
		return nil
	})
	return out, err
}

func (w *actionWorker) work(ctx context.Context, args ActionArgs) error {
	a, err := w.claim(ctx, args)
	if err != nil {
		return err
	}
	trace.SpanFromContext(ctx).SetAttributes(
		attribute.String("sluice.tenant_id", tenants.FormatID(tenants.TenantPrefix, a.TenantID)),
		attribute.String("sluice.run_id", tenants.FormatID(tenants.RunPrefix, a.RunID)),
		attribute.String("sluice.action_id", tenants.FormatID(tenants.ActionPrefix, a.ID)),
		attribute.String("sluice.action_kind", a.Kind), attribute.Int("sluice.attempt", a.Attempt),
	)
	leave, away := w.hosts.enter(ctx, a.host, a.TenantID, credentialOf(a))
	if away != nil {
		return w.turnedAway(ctx, a, away)
	}
	if a.doubted() && a.effect.Once != action.OnceKey {
		receipt, err := w.find(ctx, a)
		if w.renewed(ctx, a, err) {
			receipt, err = w.find(ctx, a)
		}
		if err != nil || receipt != nil || a.Attempt > a.AttemptsMax {
			leave(err)
			return w.looked(ctx, a, receipt, err)
		}
	}
	receipt, err := w.send(ctx, a)
	if w.renewed(ctx, a, err) {
		receipt, err = w.send(ctx, a)
	}
	leave(err)
	if err != nil {
		return w.failed(ctx, a, err)
	}
	return w.confirmed(ctx, a, receipt)
}

// looked ends a try that was only a look: the effect was found, or nobody can tell, or it is surely not there and no attempt is left.
func (w *actionWorker) looked(ctx context.Context, a *taken, receipt *action.Receipt, err error) error {
	switch {
	case err != nil:
		return w.ended(ctx, a, afterLookup(err, a, w.age(a)))
	case receipt != nil:
		receipt.Note = cmp.Or(receipt.Note, "found at the target, by its mark")
		return w.confirmed(ctx, a, *receipt)
	default:
		return w.failed(ctx, a, exhausted())
	}
}

func credentialOf(a *taken) uuid.UUID {
	if a.CredentialID == nil {
		return uuid.Nil
	}
	return *a.CredentialID
}

func (w *actionWorker) age(a *taken) time.Duration { return w.now().Sub(a.CreatedAt) }

func exhausted() *action.Error {
	return &action.Error{Kind: action.Refused, Code: reasonAttempts, Message: "Its attempts ended without an answer of the target."}
}

// turnedAway puts the action back as it was, without an attempt: to wait is not to fail.
func (w *actionWorker) turnedAway(ctx context.Context, a *taken, away *turnedAway) error {
	step := db.ActionStep{State: a.Was, Reason: away.reason, Detail: away.detail, Wait: min(away.wait, waitMax), Refund: true}
	if w.age(a) > actionAgeMax {
		step = db.ActionStep{State: db.ActionFailed, Reason: away.reason, Detail: away.detail + " It has waited for this for too long.", Refund: true}
		if a.doubted() && a.effect.Once != action.OnceKey {
			step.State, step.Reason = db.ActionUnknown, reasonUnknown
		}
	}
	return w.ended(ctx, a, step)
}

// claim marks the action as in flight, and opens its credential. What cannot be sent any more is ended here.
func (w *actionWorker) claim(ctx context.Context, args ActionArgs) (*taken, error) {
	began := w.now()
	held, err := w.lanes.write(ctx, args.TenantID, actionWish{claim: args.ActionID})
	if err != nil {
		return nil, err
	}
	if held == nil {
		var why error
		err := w.db.Tenant(proof.Step(ctx, stepActionEnd), args.TenantID, func(tx db.TenantTx) (err error) {
			why, err = w.whyNot(ctx, tx, args.ActionID)
			return err
		})
		return nil, cmp.Or(err, why)
	}
	a := &taken{ActionHeld: *held, deadline: began.Add(w.lease - leaseMargin)}
	fault, err := w.open(ctx, a)
	if err != nil {
		// Nothing has left: it is put back as it was.
		if err := w.turnedAway(ctx, a, w.unopened(ctx, a, err)); err != nil {
			return nil, err
		}
		return nil, errNothing
	}
	if fault == nil {
		return a, nil
	}
	if err := w.failed(ctx, a, fault); err != nil {
		return nil, err
	}
	return nil, errNothing
}

// unopenedWait is how long an action or a run waits for a secret that does not open: for an operator who has the right key, or for a new secret.
const unopenedWait = time.Minute

// unopened says why an action that was claimed cannot be worked on now.
func (w *actionWorker) unopened(ctx context.Context, a *taken, err error) *turnedAway {
	if !errors.Is(err, db.ErrUnreadable) {
		return &turnedAway{reason: reasonUnread, detail: "What its work needs could not be read.", wait: snoozeMin}
	}
	w.log.ErrorContext(ctx, "a credential does not open with this process's master keys", "tenant_id", tenants.FormatID(tenants.TenantPrefix, a.TenantID),
		"credential_id", tenants.FormatID(tenants.CredentialPrefix, credentialOf(a)), "error", err)
	return &turnedAway{reason: reasonUnreadable, detail: detailUnreadable, wait: unopenedWait}
}

// updatesWait is how long an action waits for another that changes the same target.
const updatesWait = 2 * time.Second

// leaseMargin is what of a lease is left for writing down what happened: nothing is sent in it.
const leaseMargin = 2 * time.Second

// open reads what the action's work needs, or says why it cannot be done.
func (w *actionWorker) open(ctx context.Context, a *taken) (*action.Error, error) {
	var ok bool
	a.connector, ok = w.actions.Get(a.Kind)
	if err := json.Unmarshal(a.Effect, &a.effect); err != nil || !ok {
		return &action.Error{Kind: action.Refused, Code: action.CodeInvalid, Message: "The action cannot be read."}, nil
	}
	if a.effect.Once == "" {
		a.effect.Once = action.OnceKey
	}
	if a.CredentialID != nil {
		var err error
		a.opened, err = w.secrets.find(ctx, a.TenantID, *a.CredentialID)
		if errors.Is(err, db.ErrNotFound) {
			return &action.Error{Kind: action.Refused, Code: action.CodeCredential, Message: "The action's credential was deleted.", Doubt: a.doubted()}, nil
		} else if err != nil {
			return nil, err
		}
	}
	address := a.effect.URL
	if account, ok := w.actions.Account(a.connector.Spec().Account); ok && address == "" {
		address = cmp.Or(a.opened.BaseURL, account.Base)
	}
	a.host = hostOf(address)
	switch {
	case a.doubted() && a.effect.Once == action.OnceNever:
		return &action.Error{Kind: action.Retry, Code: reasonUnknown, Message: "A worker was lost while it sent it", Doubt: true}, nil
	case a.Attempt > a.AttemptsMax && (!a.doubted() || a.effect.Once == action.OnceKey):
		return exhausted(), nil
	}
	return nil, nil //nolint:nilnil // nothing is wrong with it
}

// whyNot tells what to do with a job whose action cannot be claimed.
func (w *actionWorker) whyNot(ctx context.Context, tx db.TenantTx, id uuid.UUID) (why, err error) {
	a, err := tx.ActionGet(ctx, id)
	if errors.Is(err, db.ErrNotFound) || (err == nil && a.EndedAt != nil) {
		return errNothing, nil
	} else if err != nil {
		return nil, err
	}
	run, err := tx.RunGet(ctx, a.RunID)
	if err != nil {
		return nil, err
	}
	tenant, err := tx.TenantGet(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case run.Status.Ended():
		// A person cancelled it, and whoever has it in hand ends it. A worker that was lost does not: nobody can tell then what became of it.
		return errNothing, tx.ActionsCancel(ctx, a.RunID, "The run was cancelled while its effect was on the way, and its worker was lost.")
	case run.Status != db.RunActing:
		return errNothing, nil
	case tenant.Status != tenants.Active:
		return snooze{suspendedWait}, nil
	case a.LeaseUntil != nil:
		return snooze{a.LeaseUntil.Sub(w.now()) + snoozeMin}, nil
	case a.Until != nil && a.Until.After(w.now()):
		return snooze{a.Until.Sub(w.now())}, nil
	case a.Updates && a.State != db.ActionProposed:
		return snooze{updatesWait}, nil // another one changes the same target, and goes first
	}
	return errNothing, nil
}

// send makes the try, outside of any transaction, and never after the lease: another worker may have the action by then.
func (w *actionWorker) send(ctx context.Context, a *taken) (action.Receipt, error) {
	ctx, cancel := context.WithDeadline(ctx, a.deadline)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, w.timeout)
	defer stop()
	if ctx.Err() != nil {
		return action.Receipt{}, &action.Error{Kind: action.Retry, Code: action.CodeCanceled, Message: "the worker was held up for too long, or is being stopped"}
	}
	return a.connector.Do(proof.Step(ctx, stepActionSend), w.attempt(a))
}

// renewed says that a credential was refused which somebody has replaced since it was read: a person who has mended it, and sets its dead letters going
// at once, must not see them die of the old one. What was refused was surely not made.
func (w *actionWorker) renewed(ctx context.Context, a *taken, err error) bool {
	refused, ok := errors.AsType[*action.Error](err)
	if !ok || refused.Code != action.CodeUnauthorized || refused.Doubt || a.CredentialID == nil {
		return false
	}
	opened, err := w.secrets.renew(ctx, a.TenantID, *a.CredentialID)
	if err != nil || opened.Secret.Reveal() == a.opened.Secret.Reveal() || opened.BaseURL != a.opened.BaseURL {
		return false
	}
	a.opened = opened
	return true
}

// find looks for the effect at its target, nil if it surely is not there.
func (w *actionWorker) find(ctx context.Context, a *taken) (*action.Receipt, error) {
	finder, ok := a.connector.(action.Finder)
	if !ok {
		return nil, &action.Error{Kind: action.Refused, Code: action.CodeLookup, Message: "effects of this kind cannot be looked for"}
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	return finder.Find(proof.Step(ctx, stepActionFind), w.attempt(a))
}

// attempt is what a connector is told.
func (w *actionWorker) attempt(a *taken) action.Send {
	s := action.Send{
		Access: action.Access{Secret: a.opened.Secret.Reveal(), Base: a.opened.BaseURL},
		Key:    a.Key, Effect: a.effect, At: w.now(), Attempt: a.Attempt, Since: a.CreatedAt,
	}
	if a.FirstSentAt != nil {
		s.Since = *a.FirstSentAt
	}
	var previous action.Receipt
	if a.effect.Update && len(a.Previous) > 0 && json.Unmarshal(a.Previous, &previous) == nil {
		s.Previous = &previous
	}
	return s
}

// confirmed keeps the receipt and ends the run, in one transaction with other actions of the tenant.
func (w *actionWorker) confirmed(ctx context.Context, a *taken, receipt action.Receipt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	kept, err := json.Marshal(receipt)
	if err != nil {
		return fmt.Errorf("write the receipt: %w", err)
	}
	step := db.ActionStep{State: db.ActionConfirmed, Status: receipt.Status, Receipt: kept}
	_, err = w.lanes.write(ctx, a.TenantID, actionWish{run: a.Run, confirm: &db.Confirmation{Action: a.Action, Status: receipt.Status, Receipt: kept}})
	if errors.Is(err, db.ErrStale) {
		// A person cancelled the run meanwhile, or another worker has the action: it is looked at alone.
		err = w.db.Tenant(proof.Step(ctx, stepActionEnd), a.TenantID, func(tx db.TenantTx) error { return w.end(ctx, tx, a, step) })
	}
	if err != nil {
		return fmt.Errorf("confirm action %s: %w", a.ID, err)
	}
	w.told(ctx, a, step)
	return nil
}

// failed keeps what became of the try, and comes again or ends the run.
func (w *actionWorker) failed(ctx context.Context, a *taken, cause error) error {
	return w.ended(ctx, a, afterAction(cause, a, w.age(a), w.settle))
}

// ended keeps a step of the action, and comes again where it waits.
func (w *actionWorker) ended(ctx context.Context, a *taken, step db.ActionStep) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	err := w.db.Tenant(proof.Step(ctx, stepActionEnd), a.TenantID, func(tx db.TenantTx) error { return w.end(ctx, tx, a, step) })
	if err != nil {
		return fmt.Errorf("keep what became of action %s: %w", a.ID, err)
	}
	w.told(ctx, a, step)
	if step.Wait > 0 {
		return snooze{step.Wait}
	}
	return nil
}

// end writes a step of the action, and what it means for the run and for the next one of its entity.
func (w *actionWorker) end(ctx context.Context, tx db.TenantTx, a *taken, s db.ActionStep) error {
	if err := tx.ActionStep(ctx, a.Action, s); err != nil {
		return err
	}
	var err error
	ended := true
	switch s.State {
	case db.ActionConfirmed:
		err = tx.RunActed(ctx, a.RunID, db.RunDone, "", "")
	case db.ActionFailed, db.ActionUnknown:
		err = tx.RunActed(ctx, a.RunID, db.RunDead, s.Reason, s.Detail)
	default:
		ended, err = false, tx.RunActingWait(ctx, a.RunID, s.Reason, s.Detail, s.Wait)
	}
	if err == nil && ended {
		err = w.poster.HandOver(ctx, tx, a.Run)
	}
	if !errors.Is(err, db.ErrStale) {
		return err
	}
	// A person cancelled the run while its effect was on the way: the action keeps what became of it, the run stays cancelled, and what would
	// be tried again is not.
	if s.Wait > 0 {
		return tx.ActionsCancel(ctx, a.RunID, "The run was cancelled while its effect was on the way.")
	}
	return nil
}

func (w *actionWorker) told(ctx context.Context, a *taken, s db.ActionStep) {
	w.meters.action(ctx, a.Kind, s.State, s.Reason)
	took := w.now().Sub(a.ReceivedAt)
	level := slog.LevelInfo
	switch s.State {
	case db.ActionConfirmed:
		w.meters.step(ctx, db.RunDone, "")
		w.meters.latency.Record(ctx, took.Seconds())
	case db.ActionFailed, db.ActionUnknown:
		level = slog.LevelWarn
		w.meters.step(ctx, db.RunDead, s.Reason)
		w.meters.latency.Record(ctx, took.Seconds())
	}
	w.log.Log(ctx, level, "action "+s.State,
		"tenant_id", tenants.FormatID(tenants.TenantPrefix, a.TenantID), "run_id", tenants.FormatID(tenants.RunPrefix, a.RunID),
		"action_id", tenants.FormatID(tenants.ActionPrefix, a.ID), "kind", a.Kind, "latency_ms", took.Milliseconds(), "reason", s.Reason,
		"status", s.Status, "attempt", a.Attempt)
}
