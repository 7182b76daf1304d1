package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sluice/db"
	"sluice/jobs/outbound"
	"sluice/proof"
	"sluice/tenants"
)

// GitHub does not deliver again by itself, and lets a delivery of the last three days be asked for (seven on an Enterprise Server): docs.github.com/
// en/webhooks/testing-and-troubleshooting-webhooks/redelivering-webhooks. What is looked for is what its own script looks for: events of which no
// attempt went well (.../using-webhooks/automatically-redelivering-failed-deliveries-for-a-repository-webhook), less those that are here all the same.
const (
	missedWithin = 3 * 24 * time.Hour
	// missedOverlap is looked through again: an attempt is listed when it has ended, and attempts do not end in the order in which they began.
	missedOverlap = 15 * time.Minute
	// missedAsksMax bounds what one look asks for again at one hook, missedAsksEach how often one event is asked for: after 15 minutes, then after 2 hours.
	missedAsksMax     = 50
	missedAsksEach    = 3
	missedPause       = 15 * time.Minute
	missedPauseFactor = 8
	// missedHooksMax is how many hooks are read from the database at once, missedAtOnce how many tenants' hooks are looked at.
	missedHooksMax = 500
	missedAtOnce   = 4
	// missedLookMax bounds one look at one hook, and the time in which further looks at the hooks of one tenant are begun.
	missedLookMax = 5 * time.Minute
	// missedTicks is how often in the time between two looks it is seen whether one is due: a look is due for all workers together.
	missedTicks = 5
)

// MissedConfig is what a Missed works with.
type MissedConfig struct {
	// DB works as sluice_worker.
	DB *db.DB
	// Door leads to the sources.
	Door *outbound.Door
	Log  *slog.Logger
	Now  func() time.Time
	// Every is the time between two looks at one hook.
	Every time.Duration
	// Pause is the time between two asks at one hook; GitHub wants a second between requests that change something.
	Pause time.Duration
}

// Missed finds events that a source sent and that never arrived, and asks the source to send them again. What it does is in the database, so that any
// number of workers may look: each look at a hook, and each ask, is one worker's.
type Missed struct {
	MissedConfig

	events metric.Int64Counter

	// resting is until when a source wants to be left alone. It is this process's own knowledge: another one learns it by one request.
	mu      sync.Mutex
	resting map[uuid.UUID]time.Time
}

// NewMissed makes a Missed.
func NewMissed(c MissedConfig) (*Missed, error) {
	if c.Every <= 0 {
		return nil, errors.New("look for missed events: the time between two looks must be above 0")
	}
	events, err := otel.Meter("sluice/jobs").Int64Counter("sluice.missed", metric.WithDescription(
		"Events that a source sent and that did not arrive, by step: found, asked (for again), arrived (then)."))
	if err != nil {
		return nil, fmt.Errorf("measure missed events: %w", err)
	}
	return &Missed{MissedConfig: c, events: events, resting: map[uuid.UUID]time.Time{}}, nil
}

func (m *Missed) loop(ctx context.Context) {
	ticker := time.NewTicker(max(m.Every/missedTicks, 1))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := m.Look(ctx); err != nil && ctx.Err() == nil {
				m.Log.WarnContext(ctx, "missed events: looked for again at the next tick", "error", err)
			}
		}
	}
}

// Look looks at every hook whose look is due, and returns when all are done. What is wrong with one hook is kept with it, and is no error here.
func (m *Missed) Look(ctx context.Context) error {
	var looks sync.WaitGroup
	defer looks.Wait()
	places := make(chan struct{}, missedAtOnce)
	for after := (db.MissedHook{}); ; {
		var hooks []db.MissedHook
		err := m.DB.System(ctx, func(tx db.SystemTx) (err error) {
			hooks, err = tx.MissedHooks(ctx, after, missedHooksMax)
			return err
		})
		if err != nil {
			return fmt.Errorf("list the hooks that can be asked: %w", err)
		}
		for first, i := 0, 1; i <= len(hooks); i++ {
			if i < len(hooks) && hooks[i].TenantID == hooks[first].TenantID {
				continue
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			of := hooks[first:i]
			first = i
			looks.Go(func() {
				defer func() { <-places }()
				m.turn(ctx, of)
			})
		}
		if len(hooks) < missedHooksMax {
			return nil
		}
		after = hooks[len(hooks)-1]
	}
}

// turn looks at the hooks of one tenant, one after another and for so long, so that a tenant with many slow ones does not hold the others up.
func (m *Missed) turn(ctx context.Context, hooks []db.MissedHook) {
	turn, cancel := context.WithTimeout(ctx, missedLookMax)
	defer cancel()
	for _, one := range hooks {
		if turn.Err() != nil {
			return
		}
		if err := m.look(ctx, one); err != nil && ctx.Err() == nil {
			m.Log.WarnContext(ctx, "missed events: a look failed", "endpoint", subjectOf(one), "error", err)
		}
	}
}

func subjectOf(h db.MissedHook) string { return tenants.FormatID(tenants.EndpointPrefix, h.EndpointID) }

// look takes the look at one hook, if it is due: read, ask GitHub, write, ask again. No transaction is open while GitHub is asked.
func (m *Missed) look(ctx context.Context, of db.MissedHook) error {
	if m.rests(of.EndpointID) {
		return nil
	}
	var check db.MissedCheck
	err := m.DB.Tenant(proof.Step(ctx, stepMissedKeep), of.TenantID, func(tx db.TenantTx) (err error) {
		check, err = tx.MissedClaim(ctx, of.EndpointID, m.Every)
		return err
	})
	if errors.Is(err, db.ErrNotFound) {
		return nil // not due, or another worker's
	}
	if err != nil {
		return fmt.Errorf("begin a look: %w", err)
	}
	asked, err := m.open(ctx, of)
	if err != nil {
		return m.conclude(ctx, of, time.Time{}, err)
	}
	now := m.Now()
	since := now.Add(-missedWithin)
	if check.SeenUntil != nil && check.SeenUntil.Add(-missedOverlap).After(since) {
		since = check.SeenUntil.Add(-missedOverlap)
	}
	// What GitHub is asked has a bound in time; what is known by then is written all the same.
	bounded, cancel := context.WithTimeout(ctx, missedLookMax)
	defer cancel()
	found, fault := asked.list(bounded, since)
	if err := m.keep(ctx, of, found, now); err != nil {
		return err
	}
	until := time.Time{}
	if f := asFault(fault); fault == nil || f != nil && !f.stop {
		// What could not be looked through for want of a bound is told, and not tried again: the next look would end at the same place.
		if until = found.newest; until.After(now) {
			until = now
		}
		if asking := m.askAll(bounded, of, asked); asking != nil && (fault == nil || asFault(asking).stops()) {
			fault = asking
		}
	}
	return m.conclude(ctx, of, until, fault)
}

// open makes the hook with its credential. A credential that is gone, or is of another kind by now, is a fault.
func (m *Missed) open(ctx context.Context, of db.MissedHook) (*hook, error) {
	unusable := &hookFault{text: "The credential " + of.Credential + " cannot be used: it is not there, or its secret is not what GitHub takes.", stop: true}
	id, ok := tenants.ParseID(tenants.CredentialPrefix, of.Credential)
	if !ok {
		return nil, unusable
	}
	var credential db.Credential
	var secret tenants.Secret
	err := m.DB.Tenant(ctx, of.TenantID, func(tx db.TenantTx) (err error) {
		if credential, err = tx.CredentialGet(ctx, id); err != nil {
			return err
		}
		secret, err = tx.CredentialSecret(ctx, id)
		return err
	})
	if errors.Is(err, db.ErrNotFound) || err == nil && !slices.Contains(GitHubKinds(), credential.Kind) {
		return nil, unusable
	}
	if err != nil {
		return nil, fmt.Errorf("read the credential of a hook: %w", err)
	}
	bearer, err := githubBearer(credential.Kind, secret.Reveal(), m.Now())
	if err != nil {
		return nil, unusable
	}
	return &hook{door: m.Door, address: of.Hook, bearer: bearer, now: m.Now}, nil
}

// keep writes down what is missed, and what has arrived since it was.
func (m *Missed) keep(ctx context.Context, of db.MissedHook, l looked, now time.Time) error {
	missed := make([]db.MissedEvent, 0, len(l.failed))
	for _, guid := range slices.Sorted(maps.Keys(l.failed)) {
		d := l.failed[guid]
		sent := d.DeliveredAt
		if sent.After(now) {
			sent = now
		}
		missed = append(missed, db.MissedEvent{SourceEventID: guid, Delivery: d.deliveryID(), SentAt: sent})
	}
	var found, arrived int64
	err := m.DB.Tenant(proof.Step(ctx, stepMissedKeep), of.TenantID, func(tx db.TenantTx) (err error) {
		if found, err = tx.MissedEventsAdd(ctx, of.EndpointID, missed); err != nil {
			return err
		}
		arrived, err = tx.MissedEventsArrived(ctx, of.EndpointID, l.accepted)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep what is missed: %w", err)
	}
	m.count(ctx, "found", found)
	m.count(ctx, "arrived", arrived)
	return nil
}

func (m *Missed) count(ctx context.Context, step string, n int64) {
	if n > 0 {
		m.events.Add(ctx, n, metric.WithAttributes(attribute.String("step", step)))
	}
}

// askAll asks for what is due to be asked for, one after another. It returns the fault that ended the asking, else the last one.
func (m *Missed) askAll(ctx context.Context, of db.MissedHook, asked *hook) error {
	var last error
	for n := range missedAsksMax {
		if n > 0 && !pause(ctx, m.Pause) {
			return last
		}
		err := m.askNext(ctx, of, asked)
		if errors.Is(err, db.ErrNotFound) {
			return last
		}
		if err != nil {
			last = err
			if asFault(err).stops() {
				return last
			}
		}
	}
	return last
}

// askNext asks for the next event that is due; db.ErrNotFound says that none is. The ask is counted before it is made, and taken back where GitHub
// certainly did not take it.
func (m *Missed) askNext(ctx context.Context, of db.MissedHook, asked *hook) error {
	var event db.MissedEvent
	err := m.DB.Tenant(proof.Step(ctx, stepMissedKeep), of.TenantID, func(tx db.TenantTx) (err error) {
		event, err = tx.MissedEventClaim(ctx, of.EndpointID, db.MissedAsking{
			Within: missedWithin, Max: missedAsksEach, Pause: missedPause, Factor: missedPauseFactor,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("take an event to ask for: %w", err)
	}
	fault := asked.ask(ctx, event.Delivery)
	if fault == nil {
		m.count(ctx, "asked", 1)
		return nil
	}
	if f := asFault(fault); f != nil && f.untaken {
		if err := m.DB.Tenant(proof.Step(ctx, stepMissedKeep), of.TenantID, func(tx db.TenantTx) error {
			return tx.MissedEventUnask(ctx, of.EndpointID, event.SourceEventID)
		}); err != nil {
			return fmt.Errorf("take an ask back: %w", err)
		}
	}
	return fault
}

// pause waits, and says whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// conclude keeps how a look ended, and tells a person once where the source cannot be asked, and once when it can be again. A rate limit is nothing
// for a person: it ends by itself. An error that is not the source's is the caller's.
func (m *Missed) conclude(ctx context.Context, of db.MissedHook, until time.Time, ended error) error {
	f := asFault(ended)
	if ended != nil && f == nil {
		return ended
	}
	text := ""
	if f != nil {
		text = f.text
		m.rest(of.EndpointID, f.rest)
	}
	err := m.DB.Tenant(proof.Step(ctx, stepMissedKeep), of.TenantID, func(tx db.TenantTx) error {
		if err := tx.MissedCheckPut(ctx, of.EndpointID, until, text); err != nil {
			return err
		}
		switch {
		case f == nil || f.single:
			return tx.AlertEnd(ctx, db.AlertMissedUnreadable, subjectOf(of))
		case f.rest > 0:
			return nil
		}
		return tx.AlertBegin(ctx, db.AlertMissedUnreadable, subjectOf(of), text)
	})
	if err != nil {
		return fmt.Errorf("keep how a look ended: %w", err)
	}
	return nil
}

// rests says whether a source wants to be left alone.
func (m *Missed) rests(endpointID uuid.UUID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	until, ok := m.resting[endpointID]
	if ok && !m.Now().Before(until) {
		delete(m.resting, endpointID)
		return false
	}
	return ok
}

func (m *Missed) rest(endpointID uuid.UUID, d time.Duration) {
	if d <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resting[endpointID] = m.Now().Add(d)
}

func asFault(err error) *hookFault {
	f, _ := errors.AsType[*hookFault](err)
	return f
}

// stops says whether there is no use in going on; what is no fault of the source stops too.
func (f *hookFault) stops() bool { return f == nil || f.stop }
