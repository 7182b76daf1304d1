package jobs

import (
	"context"
	"log/slog"
	"time"

	"sluice/db"
	"sluice/jobs/llm"
)

const (
	// providersEvery is how often a process publishes what it knows of the providers.
	providersEvery = 5 * time.Second
	// pauseTellTimeout bounds how long the call waits that learned of a pause.
	pauseTellTimeout = 2 * time.Second
)

// A providerSync shares what this process knows of the providers with the others: their pauses at once, its own states for the operator to see.
type providerSync struct {
	db      *db.DB
	models  *llm.Client
	process string // names this process, and no other that lives
	log     *slog.Logger
	now     func() time.Time

	published time.Time
	failing   bool
}

// tick heeds the pauses that others learned of, and publishes from time to time. It is to be called every second, by one goroutine.
func (s *providerSync) tick(ctx context.Context) {
	err := s.sync(ctx)
	switch {
	case err != nil && !s.failing && ctx.Err() == nil:
		s.log.WarnContext(ctx, "the states of the providers are not shared until the database answers", "error", err)
	case err == nil && s.failing:
		s.log.InfoContext(ctx, "the states of the providers are shared again")
	}
	s.failing = err != nil
}

func (s *providerSync) sync(ctx context.Context) error {
	var pauses []db.ProviderPause
	publish := s.now().Sub(s.published) >= providersEvery
	err := s.db.System(ctx, func(tx db.SystemTx) (err error) {
		if pauses, err = tx.ProviderPauseList(ctx); err != nil || !publish {
			return err
		}
		return tx.ProviderStatesPut(ctx, s.process, providerStates(s.models.States()))
	})
	if err != nil {
		return err
	}
	for _, p := range pauses {
		s.models.Pause(p.Provider, p.Owner, p.Until)
	}
	if publish {
		s.published = s.now()
	}
	return nil
}

func providerStates(states []llm.State) []db.ProviderState {
	out := make([]db.ProviderState, len(states))
	for i, s := range states {
		health := db.ProviderHealth{
			State: s.State, OpenUntil: timeOrNil(s.OpenUntil), Opened: s.Opened, PausedUntil: timeOrNil(s.PausedUntil), InFlight: s.InFlight,
			Bulkhead: s.Bulkhead, LatencySeconds: s.LatencySeconds, Successes: s.Successes, Failures: s.Failures,
		}
		if e := s.LastError; e != nil {
			health.ErrorKind, health.ErrorStatus, health.ErrorAt = string(e.Kind), e.Status, timeOrNil(e.At)
		}
		out[i] = db.ProviderState{ProviderKey: db.ProviderKey{Provider: s.Provider, Model: s.Model, Owner: s.Owner}, ProviderHealth: health}
	}
	return out
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// PauseTeller is an llm.Config.OnPause that tells every other process. What cannot be told is logged: the others find out by themselves, from a
// refusal of their own.
func PauseTeller(d *db.DB, log *slog.Logger) func(provider, owner string, until time.Time) {
	return func(provider, owner string, until time.Time) {
		// The call's own context may have ended, and the pause holds even so.
		ctx, cancel := context.WithTimeout(context.Background(), pauseTellTimeout)
		defer cancel()
		err := d.System(ctx, func(tx db.SystemTx) error {
			return tx.ProviderPausePut(ctx, provider, owner, until, "provider.rate_limited")
		})
		if err != nil {
			log.WarnContext(ctx, "a provider's rate limit was not told to the other workers", "error", err, "provider", provider, "until", until)
		}
	}
}
