package jobs_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

// waitMax bounds every wait of these tests for something that must come.
const waitMax = 30 * time.Second

// secret is the signing secret of the house's callbacks.
const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// house is a tenant with an endpoint, a database, a model provider and a target, and workers where a test starts them.
type house struct {
	t        *testing.T
	base     *dbtest.Bundle
	provider *scripted.Provider
	target   *scripted.Target
	url      string
	poster   *jobs.Poster
	tenant   uuid.UUID
	endpoint uuid.UUID
	callback uuid.UUID
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, base: dbtest.New(t)}
	var err error
	h.provider, err = scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.provider.Close() })
	h.target, err = scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.target.Close() })
	h.url, err = h.target.Listen("127.0.0.1:0")
	require.NoError(t, err)
	h.poster, err = jobs.NewPoster(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, h.base.DB.System(t.Context(), func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(t.Context(), "acme", "UTC")
		h.tenant = tenant.TenantID
		return err
	}))
	h.tx(func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(t.Context(), "inbox", "standard", json.RawMessage(`{}`))
		h.endpoint = e.ID
		if err != nil {
			return err
		}
		c, err := tx.CredentialInsert(t.Context(), "callback", "callback", tenants.NewSecret(secret))
		h.callback = c.ID
		return err
	})
	return h
}

func (h *house) tx(fn func(tx db.TenantTx) error) {
	h.t.Helper()
	require.NoError(h.t, h.base.DB.Tenant(h.t.Context(), h.tenant, fn))
}

// spec is an automation with the house's callback, changed by changes.
func (h *house) spec(changes map[string]any) map[string]any {
	spec := map[string]any{
		"name": "triage", "model": "scripted/echo-1", "mode": "live", "max_output_tokens": 200,
		"prompt":        map[string]any{"system": "You triage.", "user": "{{ payload.title }}"},
		"output_schema": map[string]any{"type": "object", "properties": map[string]any{"reply": map[string]any{"type": "string"}}, "required": []string{"reply"}},
		"action": map[string]any{
			"kind": "callback", "url": h.url + "/hook", "credential_id": tenants.FormatID(tenants.CredentialPrefix, h.callback),
		},
	}
	maps.Copy(spec, changes)
	return spec
}

// automation keeps an automation.
func (h *house) automation(changes map[string]any) uuid.UUID {
	h.t.Helper()
	raw, err := json.Marshal(h.spec(changes))
	require.NoError(h.t, err)
	var id uuid.UUID
	h.tx(func(tx db.TenantTx) error {
		a, err := tx.AutomationInsert(h.t.Context(), h.endpoint, "triage", raw, uuid.Nil)
		id = a.ID
		return err
	})
	return id
}

// event keeps an event with one run of the automation, and its job, as the intake does; changes are made to it first.
func (h *house) event(automation uuid.UUID, body string, changes ...func(*db.EventNew)) uuid.UUID {
	h.t.Helper()
	var spec struct{ Mode string }
	var version int
	h.tx(func(tx db.TenantTx) error {
		a, err := tx.AutomationGet(h.t.Context(), automation)
		if err != nil {
			return err
		}
		version = a.Version
		return json.Unmarshal(a.Spec, &spec)
	})
	id, runID := tenants.NewID(), tenants.NewID()
	e := db.EventNew{
		ID: id, SourceEventID: id.String(), Type: "issue.opened", Verdicts: json.RawMessage(`[]`),
		Runs: []db.RunNew{{ID: runID, AutomationID: automation, AutomationVersion: version, Mode: spec.Mode, Priority: "routine", Ordering: db.OrderNone}},
	}
	for _, change := range changes {
		change(&e)
	}
	require.NoError(h.t, h.base.DB.Door(h.t.Context(), func(tx db.DoorTx) error {
		if _, err := tx.Admit(h.t.Context(), []*db.Delivery{{
			TenantID: h.tenant, EndpointID: h.endpoint, Source: "standard", Headers: json.RawMessage(`{}`), Body: []byte(body),
			BodySHA256: []byte("hash"), Events: []db.EventNew{e},
		}}); err != nil {
			return err
		}
		return h.poster.PostRuns(h.t.Context(), tx.Pgx(), []jobs.RunArgs{{TenantID: h.tenant, RunID: runID}})
	}))
	return runID
}

// settings of the workers that a test may change before they start.
type settings struct {
	lease, timeout time.Duration
	actionTimeout  time.Duration
	settle         time.Duration
	sweep          time.Duration
	breaker        llm.BreakerConfig
	keys           map[string]tenants.Secret
	missed         *jobs.Missed
}

// work starts a worker, and stops it when the test ends.
func (h *house) work(change ...func(*settings)) *jobs.Worker {
	h.t.Helper()
	s := settings{
		lease: 5 * time.Second, timeout: 20 * time.Second, actionTimeout: 3 * time.Second, sweep: 200 * time.Millisecond,
		keys: map[string]tenants.Secret{"scripted": tenants.NewSecret("scripted-key-0001")},
	}
	for _, c := range change {
		c(&s)
	}
	door := outbound.New(outbound.Config{AllowLoopback: true, Timeout: 2 * time.Second})
	pool, err := db.Open(context.Background(), db.PoolConfig{URL: h.base.URL, Role: db.WorkerRole, ConnsMax: 8, PlanCacheMode: "force_custom_plan"})
	require.NoError(h.t, err)
	w, err := jobs.NewWorker(jobs.Deps{
		DB: h.base.Worker, River: pool, ProviderKeys: s.keys, Door: door, Actions: action.New(door), Missed: s.missed, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Models: llm.New(llm.Config{
			Providers: []llm.Provider{llm.NewScripted(llm.ProviderConfig{HTTP: door.Operator(s.timeout), BaseURL: h.provider.URL(), Now: time.Now})},
			Breaker:   s.breaker, Timeout: s.timeout, Now: time.Now,
		}),
		Lease: s.lease, SweepEvery: s.sweep, PayloadRetention: 24 * time.Hour, ModelTimeout: s.timeout, ActionTimeout: s.actionTimeout, ActionSettle: s.settle,
		RunWorkers: 8, ActionWorkers: 8, ShutdownTimeout: time.Second,
	})
	require.NoError(h.t, err)
	require.NoError(h.t, w.Start(h.t.Context()))
	h.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitMax)
		defer cancel()
		_ = w.Stop(ctx)
		pool.Close()
	})
	return w
}

// until waits for a run to be as wanted.
func (h *house) until(id uuid.UUID, wanted func(db.Run) bool) db.Run {
	h.t.Helper()
	var run db.Run
	require.Eventually(h.t, func() bool {
		h.tx(func(tx db.TenantTx) error {
			var err error
			run, err = tx.RunGet(h.t.Context(), id)
			return err
		})
		return wanted(run)
	}, waitMax, 20*time.Millisecond, "run: %+v", &run)
	return run
}

// ended waits for a run's end.
func (h *house) ended(id uuid.UUID) db.Run {
	h.t.Helper()
	return h.until(id, func(r db.Run) bool { return r.Status.Ended() })
}

// calls are the calls of a run.
func (h *house) calls(id uuid.UUID) []db.Call {
	h.t.Helper()
	var calls []db.Call
	h.tx(func(tx db.TenantTx) error {
		var err error
		calls, err = tx.CallList(h.t.Context(), id)
		return err
	})
	return calls
}

// ledger is the sum of the ledger by kind.
func (h *house) ledger() map[string]int64 {
	h.t.Helper()
	out := map[string]int64{}
	h.tx(func(tx db.TenantTx) error {
		entries, err := tx.EntryList(h.t.Context(), db.UsageFilter{}, db.Page{Limit: 1000})
		for _, e := range entries {
			out[e.Kind] += e.AmountPico
		}
		return err
	})
	return out
}
