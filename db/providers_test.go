package db_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

func providerState(model string, inFlight int) db.ProviderState {
	return db.ProviderState{
		ProviderKey:    db.ProviderKey{Provider: "scripted", Model: model, Owner: "operator"},
		ProviderHealth: db.ProviderHealth{State: "closed", InFlight: inFlight},
	}
}

func TestProviderStatesAreThoseOfLivingProcesses(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ctx := t.Context()
	put := func(process string, states ...db.ProviderState) {
		require.NoError(t, b.DB.System(ctx, func(tx db.SystemTx) error { return tx.ProviderStatesPut(ctx, process, states) }))
	}
	// list is what is in flight, by process and model.
	list := func() map[string]int {
		out := map[string]int{}
		require.NoError(t, b.DB.System(ctx, func(tx db.SystemTx) error {
			rows, err := tx.ProviderStateList(ctx, db.ProviderKey{}, 100)
			for _, r := range rows {
				out[*r.Process+" "+r.Model] = r.State.InFlight
			}
			return err
		}))
		return out
	}
	put("one", providerState("a", 1), providerState("b", 2))
	put("two", providerState("a", 3))
	require.Equal(t, map[string]int{"one a": 1, "one b": 2, "two a": 3}, list())
	put("one", providerState("a", 5))
	require.Equal(t, map[string]int{"one a": 5, "two a": 3}, list(), "what a process does not name any more is gone, and no other's")

	// What does not change is written now and then only, and in time.
	age := func(process, by string) {
		_, err := b.Owner.Exec(ctx, `update sluice.provider_states set at = now() - $2::interval where process = $1`, process, by)
		require.NoError(t, err)
	}
	young := func(process string) (is bool) {
		require.NoError(t, b.Owner.QueryRow(ctx, `select at > now() - interval '3 seconds' from sluice.provider_states where process = $1`, process).Scan(&is))
		return is
	}
	age("one", "5 seconds")
	put("one", providerState("a", 5))
	require.False(t, young("one"))
	put("one", providerState("a", 6))
	require.True(t, young("one"), "it has changed")
	age("one", "15 seconds")
	put("one", providerState("a", 6))
	require.True(t, young("one"), "it would look old soon")

	age("two", "31 seconds")
	require.Equal(t, map[string]int{"one a": 6}, list(), "who is silent is left out")
	age("two", "11 minutes")
	put("one", providerState("a", 6))
	var left int
	require.NoError(t, b.Owner.QueryRow(ctx, `select count(*) from sluice.provider_states`).Scan(&left))
	require.Equal(t, 1, left, "and taken away by whoever comes by")
	put("one")
	require.Empty(t, list())
}

func TestProviderPausesOnlyGrow(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ctx := t.Context()
	now := time.Now().Truncate(time.Microsecond)
	put := func(owner string, until time.Time) {
		require.NoError(t, b.DB.System(ctx, func(tx db.SystemTx) error { return tx.ProviderPausePut(ctx, "scripted", owner, until, "rate") }))
	}
	list := func() map[string]time.Time {
		out := map[string]time.Time{}
		require.NoError(t, b.DB.System(ctx, func(tx db.SystemTx) error {
			pauses, err := tx.ProviderPauseList(ctx)
			for _, p := range pauses {
				out[p.Owner] = p.Until.UTC()
			}
			return err
		}))
		return out
	}
	long := now.Add(time.Hour).UTC()
	put("operator", long)
	put("operator", now.Add(time.Minute))
	put("over", now.Add(-time.Minute))
	require.Equal(t, map[string]time.Time{"operator": long}, list())
	put("operator", long.Add(time.Minute))
	require.Equal(t, map[string]time.Time{"operator": long.Add(time.Minute)}, list())
	put("long over", now.Add(-time.Hour))
	put("other", long)
	var kept int
	require.NoError(t, b.Owner.QueryRow(ctx, `select count(*) from sluice.provider_pauses where owner like '%over'`).Scan(&kept))
	require.Equal(t, 1, kept, "what has long ended is taken away")
}

func TestTenantsSeeNoProviders(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	for _, table := range []string{"provider_states", "provider_pauses"} {
		_, err := b.App.Exec(t.Context(), `select from sluice.`+table)
		require.ErrorContains(t, err, "permission denied", table)
		_, err = b.WorkerPool.Exec(t.Context(), `select from sluice.`+table)
		require.ErrorContains(t, err, "permission denied", table)
	}
}
