package jobs_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/jobs"
	"sluice/jobs/llm"
)

// refusing is a provider that answers every call with one error.
type refusing struct{ fault *llm.Error }

func (refusing) Name() string { return "scripted" }

func (r refusing) Complete(context.Context, llm.Request) (llm.Reply, error) {
	fault := *r.fault
	return llm.Reply{}, &fault
}

func refuse(t *testing.T, c *llm.Client, model, owner string) {
	t.Helper()
	_, err := c.Complete(t.Context(), "scripted", owner, llm.Request{Model: model, User: "x", MaxOutputTokens: 1, APIKey: "k"})
	require.Error(t, err)
}

func TestAPauseOfOneWorkerIsHeededByAll(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	log := slog.New(slog.DiscardHandler)
	limited := refusing{&llm.Error{Kind: llm.KindRateLimited, Status: 429, RetryAfter: 10 * time.Minute, Sent: true}}
	learner := llm.New(llm.Config{Providers: []llm.Provider{limited}, Now: time.Now, OnPause: jobs.PauseTeller(b.Worker, log)})
	other := llm.New(llm.Config{Providers: []llm.Provider{limited}, Now: time.Now, OnPause: func(string, string, time.Time) {
		t.Error("what others told is not told again")
	}})
	tick := jobs.SharingProviders(b.Worker, other, "other", log, time.Now)
	tick(t.Context())
	require.Nil(t, other.Ready("scripted", "echo-1", "operator"))
	refuse(t, learner, "echo-1", "operator")
	tick(t.Context())
	fault := other.Ready("scripted", "another-model", "operator")
	require.NotNil(t, fault)
	require.Equal(t, llm.KindRateLimited, fault.Kind)
	require.InDelta(t, 600, fault.RetryAfter.Seconds(), 30)
	require.Nil(t, other.Ready("scripted", "echo-1", "5c0e5d2e-0000-7000-8000-000000000000"), "another owner does not wait")
}

func TestWorkersPublishWhatTheyKnowOfTheProviders(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	now := time.Now()
	models := llm.New(llm.Config{
		Providers: []llm.Provider{refusing{&llm.Error{Kind: llm.KindUnavailable, Status: 500, Sent: true}}}, Now: func() time.Time { return now },
		Breaker: llm.BreakerConfig{}, Bulkhead: 4,
	})
	tick := jobs.SharingProviders(b.Worker, models, "one", slog.New(slog.DiscardHandler), func() time.Time { return now })
	states := func() (rows []db.ProviderStateRow) {
		require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) (err error) {
			rows, err = tx.ProviderStateList(t.Context(), db.ProviderKey{}, 10)
			return err
		}))
		return rows
	}
	refuse(t, models, "echo-1", "operator")
	tick(t.Context())
	rows := states()
	require.Len(t, rows, 1)
	require.Equal(t, db.ProviderKey{Provider: "scripted", Model: "echo-1", Owner: "operator"}, rows[0].ProviderKey)
	require.Equal(t, "one", *rows[0].Process)
	require.Equal(t, 1, rows[0].State.Failures)
	require.Equal(t, 4, rows[0].State.Bulkhead)
	require.Equal(t, string(llm.KindUnavailable), rows[0].State.ErrorKind)
	require.Equal(t, 500, rows[0].State.ErrorStatus)
	require.Nil(t, rows[0].PausedUntil)

	// Not at every tick: it is not worth the writes.
	refuse(t, models, "echo-2", "operator")
	tick(t.Context())
	require.Len(t, states(), 1)
	now = now.Add(5 * time.Second)
	tick(t.Context())
	require.Len(t, states(), 2)
}

func TestWorkersSayOnceThatTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(context.Background(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	sealer, err := db.NewSealer(make([]byte, db.MasterKeyLen))
	require.NoError(t, err)
	var text bytes.Buffer
	models := llm.New(llm.Config{Providers: []llm.Provider{refusing{}}, Now: time.Now})
	tick := jobs.SharingProviders(db.New(db.Pools{App: pool, System: pool}, sealer), models, "one", slog.New(slog.NewTextHandler(&text, nil)), time.Now)
	for range 3 {
		tick(t.Context())
	}
	require.Equal(t, 1, strings.Count(text.String(), "level=WARN"), text.String())
}
