package db_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// ring is a tenant with runs, each of an event of its own, and actions of theirs.
type ring struct {
	t          *testing.T
	b          *dbtest.Bundle
	tenant     uuid.UUID
	endpoint   uuid.UUID
	automation uuid.UUID
	credential uuid.UUID
}

func newRing(t *testing.T, b *dbtest.Bundle) *ring {
	t.Helper()
	r := &ring{t: t, b: b}
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(t.Context(), "acme", "UTC")
		r.tenant = tenant.TenantID
		return err
	}))
	r.tx(func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(t.Context(), "inbox", "standard", json.RawMessage(`{}`))
		if err != nil {
			return err
		}
		a, err := tx.AutomationInsert(t.Context(), e.ID, "one", json.RawMessage(`{"name":"one"}`), uuid.Nil)
		if err != nil {
			return err
		}
		c, err := tx.CredentialInsert(t.Context(), "bot", "callback", tenants.NewSecret("a-secret-of-the-bot"))
		r.endpoint, r.automation, r.credential = e.ID, a.ID, c.ID
		return err
	})
	return r
}

func (r *ring) tx(fn func(tx db.TenantTx) error) {
	r.t.Helper()
	require.NoError(r.t, r.b.DB.Tenant(r.t.Context(), r.tenant, fn))
}

// run keeps a run of a new event; cause, if not nil, is the action that caused the event.
func (r *ring) run(depth int, cause *uuid.UUID) (run, event uuid.UUID) {
	r.t.Helper()
	event, run = tenants.NewID(), tenants.NewID()
	require.NoError(r.t, r.b.DB.Door(r.t.Context(), func(tx db.DoorTx) error {
		_, err := tx.Admit(r.t.Context(), []*db.Delivery{{
			TenantID: r.tenant, EndpointID: r.endpoint, Source: "standard", Headers: json.RawMessage(`{}`), Body: []byte(`{}`), BodySHA256: []byte("x"),
			Events: []db.EventNew{{
				ID: event, SourceEventID: event.String(), Type: "x", Verdicts: json.RawMessage(`[]`),
				Runs: []db.RunNew{{ID: run, AutomationID: r.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}},
			}},
		}})
		return err
	}))
	r.tx(func(tx db.TenantTx) error {
		return tx.LoopDepths(r.t.Context(), []db.LoopDepth{{RunID: run, Depth: depth, CausedBy: cause}})
	})
	return run, event
}

// action keeps an action of a run, as old as age.
func (r *ring) action(run uuid.UUID, entity, state string, age time.Duration) db.Action {
	r.t.Helper()
	id := tenants.NewID()
	a := db.Action{
		ID: id, RunID: run, Kind: "callback", Key: tenants.FormatID("msg", id), Target: "t", Effect: json.RawMessage(`{}`), State: state, Entity: entity,
	}
	r.tx(func(tx db.TenantTx) error { return tx.ActionInsert(r.t.Context(), a) })
	_, err := r.b.Owner.Exec(r.t.Context(), `update sluice.actions set created_at = clock_timestamp() - $2::interval where id = $1`, a.ID, age)
	require.NoError(r.t, err)
	return a
}

func (r *ring) facts(asks ...db.LoopAsk) (facts []db.LoopFacts) {
	r.t.Helper()
	r.tx(func(tx db.TenantTx) (err error) {
		facts, err = tx.LoopFacts(r.t.Context(), asks)
		return err
	})
	require.Len(r.t, facts, len(asks))
	return facts
}

func TestLoopMarkers(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := newRing(t, b), newRing(t, b)
	shallow, _ := one.run(0, nil)
	deep, _ := one.run(2, nil)
	shadow, _ := one.run(0, nil)
	idle, _ := one.run(5, nil)
	first, second := one.action(shallow, "issue:1", db.ActionConfirmed, 0), one.action(deep, "issue:1", db.ActionIntended, 0)
	withheld := one.action(shadow, "issue:1", db.ActionWithheld, 0)
	foreign, _ := other.run(7, nil)
	theirs := other.action(foreign, "issue:1", db.ActionConfirmed, 0)

	facts := one.facts(
		db.LoopAsk{Keys: []string{first.Key}},
		db.LoopAsk{Runs: []uuid.UUID{shallow}},
		db.LoopAsk{Keys: []string{first.Key, second.Key}},
		db.LoopAsk{Keys: []string{first.Key}, Runs: []uuid.UUID{deep}},
		db.LoopAsk{Keys: []string{withheld.Key}, Runs: []uuid.UUID{shadow}},
		db.LoopAsk{Keys: []string{theirs.Key}, Runs: []uuid.UUID{foreign}},
		db.LoopAsk{Keys: []string{"msg_" + "00000000000000000000000000000000"}, Runs: []uuid.UUID{uuid.New(), idle}},
	)
	of := func(a db.Action, depth int) *db.LoopCause {
		return &db.LoopCause{ActionID: a.ID, RunID: a.RunID, Depth: depth}
	}
	for i, want := range []*db.LoopCause{of(first, 0), of(first, 0), of(second, 2), of(second, 2), nil, nil, nil} {
		require.Equal(t, want, facts[i].Marked, "ask %d", i)
	}
}

func TestLoopActors(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := newRing(t, b), newRing(t, b)
	actor := "Acme-Bot[bot]"
	one.tx(func(tx db.TenantTx) error {
		_, err := tx.CredentialUpdate(t.Context(), one.credential, db.CredentialChange{Actor: &actor}, 0)
		return err
	})
	old, _ := one.run(4, nil)
	latest, _ := one.run(1, nil)
	one.action(old, "issue:1", db.ActionConfirmed, time.Hour)
	want := one.action(latest, "issue:1", db.ActionFailed, time.Minute)
	one.action(old, "issue:1", db.ActionWithheld, 0)
	one.action(old, "issue:2", db.ActionConfirmed, 0)

	facts := one.facts(
		db.LoopAsk{Actors: []string{"octocat", "acme-bot[bot]"}, Entity: "issue:1"},
		db.LoopAsk{Actors: []string{"acme-bot[bot]"}, Entity: "issue:3"},
		db.LoopAsk{Actors: []string{"acme-bot[bot]"}},
		db.LoopAsk{Actors: []string{"octocat", "acme", ""}, Entity: "issue:1"},
		db.LoopAsk{Entity: "issue:1"},
	)
	require.Equal(t, &db.LoopCause{ActionID: want.ID, RunID: latest, Depth: 1}, facts[0].Latest)
	for i, f := range facts {
		if i < 3 {
			require.Equal(t, &one.credential, f.CredentialID, "ask %d", i)
		} else {
			require.Nil(t, f.CredentialID, "ask %d", i)
		}
		if i > 0 {
			require.Nil(t, f.Latest, "ask %d", i)
		}
	}
	require.Nil(t, other.facts(db.LoopAsk{Actors: []string{"acme-bot[bot]"}, Entity: "issue:1"})[0].CredentialID, "another tenant's actor")
}

func TestLoopRecentActions(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := newRing(t, b), newRing(t, b)
	run, _ := one.run(0, nil)
	for _, age := range []time.Duration{0, time.Minute, 59 * time.Minute, 61 * time.Minute} {
		one.action(run, "issue:1", db.ActionConfirmed, age)
	}
	one.action(run, "issue:1", db.ActionWithheld, 0)
	one.action(run, "issue:2", db.ActionIntended, 0)
	one.action(run, "", db.ActionIntended, 0)
	foreign, _ := other.run(0, nil)
	other.action(foreign, "issue:1", db.ActionConfirmed, 0)

	facts := one.facts(
		db.LoopAsk{Entity: "issue:1", Most: 30}, db.LoopAsk{Entity: "issue:1", Most: 2}, db.LoopAsk{Entity: "issue:2", Most: 30},
		db.LoopAsk{Entity: "issue:3", Most: 30}, db.LoopAsk{Most: 30}, db.LoopAsk{Entity: "issue:1"},
	)
	var counts []int
	for _, f := range facts {
		counts = append(counts, f.Recent)
	}
	require.Equal(t, []int{3, 2, 1, 0, 0, 0}, counts)
}

func TestLoopIsFollowedToItsFirstEvent(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := newRing(t, b), newRing(t, b)
	run, first := one.run(0, nil)
	for depth := range 3 {
		a := one.action(run, "issue:1", db.ActionConfirmed, 0)
		caused := run
		run, _ = one.run(depth+1, &a.ID)
		one.tx(func(tx db.TenantTx) error {
			cause, err := tx.LoopCause(t.Context(), run)
			require.Equal(t, db.LoopCause{ActionID: a.ID, RunID: caused, Depth: depth}, cause)
			return err
		})
	}
	one.tx(func(tx db.TenantTx) error {
		root, err := tx.LoopRoot(t.Context(), run)
		require.Equal(t, db.LoopRoot{EventID: first, Length: 3}, root)
		return err
	})
	alone, event := one.run(1, nil)
	one.tx(func(tx db.TenantTx) error {
		root, err := tx.LoopRoot(t.Context(), alone)
		require.Equal(t, db.LoopRoot{EventID: event}, root)
		_, missing := tx.LoopCause(t.Context(), alone)
		require.ErrorIs(t, missing, db.ErrNotFound)
		return err
	})
	require.ErrorIs(t, b.DB.Tenant(t.Context(), other.tenant, func(tx db.TenantTx) error {
		_, err := tx.LoopRoot(t.Context(), run)
		return err
	}), db.ErrNotFound)
}

func TestLoopSeriesBeginsWhereAnHourWasQuiet(t *testing.T) {
	t.Parallel()
	one := newRing(t, dbtest.New(t))
	var runs []uuid.UUID
	for _, age := range []time.Duration{5 * time.Hour, 4*time.Hour + time.Minute, 2*time.Hour + 50*time.Minute, 2 * time.Hour, 70 * time.Minute, 11 * time.Minute, 0} {
		run, _ := one.run(0, nil)
		one.action(run, "issue:1", db.ActionConfirmed, age)
		runs = append(runs, run)
	}
	withheld, _ := one.run(0, nil)
	one.action(withheld, "issue:1", db.ActionWithheld, 3*time.Hour+30*time.Minute)
	one.tx(func(tx db.TenantTx) error {
		first, err := tx.LoopFirst(t.Context(), "issue:1")
		require.Equal(t, runs[2], first)
		_, none := tx.LoopFirst(t.Context(), "issue:2")
		require.ErrorIs(t, none, db.ErrNotFound)
		return err
	})
}

func TestAlertThatWasJustToldIsNotToldAnew(t *testing.T) {
	t.Parallel()
	one := newRing(t, dbtest.New(t))
	told := func(subject string) (told bool) {
		one.tx(func(tx db.TenantTx) (err error) {
			told, err = tx.AlertTold(t.Context(), db.AlertLoop, subject, time.Minute)
			return err
		})
		return told
	}
	require.False(t, told("issue:1"))
	one.tx(func(tx db.TenantTx) error { return tx.AlertBegin(t.Context(), db.AlertLoop, "issue:1", "It began.") })
	require.True(t, told("issue:1"))
	require.False(t, told("issue:2"))
	_, err := one.b.Owner.Exec(t.Context(), `update sluice.alerts set last_at = now() - interval '2 minutes'`)
	require.NoError(t, err)
	require.False(t, told("issue:1"))
	one.tx(func(tx db.TenantTx) error { return tx.AlertBegin(t.Context(), db.AlertLoop, "issue:1", "It goes on.") })
	one.tx(func(tx db.TenantTx) error { return tx.AlertEnd(t.Context(), db.AlertLoop, "issue:1") })
	require.False(t, told("issue:1"), "it has ended")
}

func TestCredentialIsPausedUntilAPersonHasSeenToIt(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, other := newRing(t, b), newRing(t, b)
	get := func() (c db.Credential) {
		one.tx(func(tx db.TenantTx) (err error) {
			c, err = tx.CredentialGet(t.Context(), one.credential)
			return err
		})
		return c
	}
	pause := func(reason string) {
		one.tx(func(tx db.TenantTx) error { return tx.CredentialPause(t.Context(), one.credential, reason) })
	}
	pause("The provider refuses the key.")
	paused := get()
	require.NotNil(t, paused.PausedAt)
	require.Equal(t, "The provider refuses the key.", paused.PausedReason)
	require.Equal(t, 2, paused.Version)
	pause("Again.")
	require.Equal(t, paused, get(), "the first reason stays, with its time")

	name := "renamed"
	for what, change := range map[string]struct {
		change db.CredentialChange
		ends   bool
	}{
		"a name":   {db.CredentialChange{Name: &name}, false},
		"an actor": {db.CredentialChange{Actor: &name}, false},
		"a secret": {db.CredentialChange{Secret: tenants.NewSecret("another-secret")}, true},
		"a person": {db.CredentialChange{Resume: true}, true},
	} {
		pause("The provider refuses the key.")
		one.tx(func(tx db.TenantTx) error {
			c, err := tx.CredentialUpdate(t.Context(), one.credential, change.change, 0)
			require.Equal(t, change.ends, c.PausedAt == nil && c.PausedReason == "", what)
			return err
		})
	}
	pause("Once more.")
	one.tx(func(tx db.TenantTx) error { return tx.CredentialResume(t.Context(), one.credential) })
	resumed := get()
	require.Nil(t, resumed.PausedAt)
	require.Empty(t, resumed.PausedReason)
	one.tx(func(tx db.TenantTx) error { return tx.CredentialResume(t.Context(), one.credential) })
	require.Equal(t, resumed, get(), "nothing to resume")

	for _, id := range []uuid.UUID{one.credential, uuid.New()} {
		require.ErrorIs(t, b.DB.Tenant(t.Context(), other.tenant, func(tx db.TenantTx) error { return tx.CredentialPause(t.Context(), id, "x") }), db.ErrNotFound)
		require.ErrorIs(t, b.DB.Tenant(t.Context(), other.tenant, func(tx db.TenantTx) error { return tx.CredentialResume(t.Context(), id) }), db.ErrNotFound)
	}
}
