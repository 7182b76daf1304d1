package api_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

// workedMax bounds a wait for a worker.
const workedMax = 30 * time.Second

// shop is an API with a worker behind it, a model and a target with journals, and a tenant that has an endpoint and a callback.
type shop struct {
	*bundle

	of       tenant
	endpoint string
	callback string
	provider *scripted.Provider
	target   *scripted.Target
	hook     string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{bundle: setup(t)}
	var err error
	s.provider, err = scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.provider.Close() })
	s.target, err = scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.target.Close() })
	url, err := s.target.Listen("127.0.0.1:0")
	require.NoError(t, err)
	s.hook = url + "/hook"
	s.of = s.tenant()
	s.endpoint = s.bundle.endpoint(s.of).text("id")
	s.callback = s.call(s.of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "callback"}).is(201).text("id")
	return s
}

// work starts a worker until the test ends.
func (s *shop) work() {
	s.t.Helper()
	door := outbound.New(outbound.Config{AllowLoopback: true, Timeout: 2 * time.Second})
	pool, err := db.Open(context.Background(), db.PoolConfig{URL: s.URL, Role: db.WorkerRole, ConnsMax: 8, PlanCacheMode: "force_custom_plan"})
	require.NoError(s.t, err)
	w, err := jobs.NewWorker(jobs.Deps{
		DB: s.Worker, River: pool, ProviderKeys: map[string]tenants.Secret{"scripted": tenants.NewSecret("scripted-key-0001")}, Door: door,
		Actions: action.New(door), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Models: llm.New(llm.Config{
			Providers: []llm.Provider{llm.NewScripted(llm.ProviderConfig{HTTP: door.Operator(workedMax), BaseURL: s.provider.URL(), Now: time.Now})},
			Timeout:   workedMax, Now: time.Now,
		}),
		Lease: 5 * time.Second, SweepEvery: 200 * time.Millisecond, PayloadRetention: 24 * time.Hour, ModelTimeout: 5 * time.Second,
		ActionTimeout: 3 * time.Second, RunWorkers: 8, ActionWorkers: 8, ShutdownTimeout: time.Second,
	})
	require.NoError(s.t, err)
	require.NoError(s.t, w.Start(s.t.Context()))
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), workedMax)
		defer cancel()
		_ = w.Stop(ctx)
		pool.Close()
	})
}

// spec is an automation that is reviewed, changed by changes.
func (s *shop) spec(changes map[string]any) map[string]any {
	spec := map[string]any{
		"name": "triage", "endpoint_id": s.endpoint, "model": "scripted/echo-1", "mode": "review",
		"prompt":        map[string]any{"system": "You triage.", "user": "{{ payload | json }}"},
		"output_schema": map[string]any{"type": "object", "properties": map[string]any{"reply": map[string]any{"type": "string"}}, "required": []string{"reply"}},
		"action":        map[string]any{"kind": "callback", "url": s.hook, "credential_id": s.callback},
	}
	maps.Copy(spec, changes)
	return spec
}

// make keeps an automation, and returns its id.
func (s *shop) make(changes map[string]any) string {
	s.t.Helper()
	return s.call(s.of.editor, "POST", "/v1/automations", s.spec(changes)).is(201).text("id")
}

func (s *shop) patch(id string, changes map[string]any) heard {
	s.t.Helper()
	return s.call(s.of.editor, "PATCH", "/v1/automations/"+id, changes)
}

func (s *shop) review(run string, verdict map[string]any) heard {
	s.t.Helper()
	return s.call(s.of.editor, "POST", "/v1/runs/"+run+"/review", verdict)
}

// runs sends one event, and waits until each of its runs stands in one of the statuses. They come by their automation's id and version.
func (s *shop) runs(statuses ...string) []heard {
	s.t.Helper()
	return s.settled(s.event(s.of, s.endpoint), statuses...)
}

// settled waits until each run of an event stands in one of the statuses.
func (s *shop) settled(event string, statuses ...string) []heard {
	s.t.Helper()
	var rows []map[string]any
	require.Eventually(s.t, func() bool {
		rows = s.call(s.of.viewer, "GET", "/v1/runs?event_id="+event, nil).is(200).rows()
		for _, row := range rows {
			status, _ := row["status"].(string)
			if !strings.Contains(strings.Join(statuses, " "), status) {
				return false
			}
		}
		return len(rows) > 0
	}, workedMax, 20*time.Millisecond, "%v", &rows)
	out := make([]heard, len(rows))
	for i, row := range rows {
		id, _ := row["id"].(string)
		out[i] = s.read(id)
	}
	return out
}

func (s *shop) read(run string) heard {
	s.t.Helper()
	return s.call(s.of.viewer, "GET", "/v1/runs/"+run, nil).is(200)
}

// waiting sends an event, and returns its run as it waits for a review.
func (s *shop) waiting() heard {
	s.t.Helper()
	return s.runs("in_review")[0]
}

// ended waits for a run's end.
func (s *shop) ended(run string) heard {
	s.t.Helper()
	var got heard
	require.Eventually(s.t, func() bool {
		got = s.read(run)
		return got.get("finished_at") != nil
	}, workedMax, 20*time.Millisecond)
	return got
}

// reviewed keeps a run of an automation at a version as if it had been worked and decided on: an approval, an edit or a rejection by a person.
func (s *shop) reviewed(automation string, version int, verdicts ...string) {
	s.t.Helper()
	id, _ := tenants.ParseID(tenants.AutomationPrefix, automation)
	endpoint, _ := tenants.ParseID(tenants.EndpointPrefix, s.endpoint)
	by := uuid.New()
	for _, verdict := range verdicts {
		runID, event := tenants.NewID(), tenants.NewID()
		require.NoError(s.t, s.DB.Door(s.t.Context(), func(tx db.DoorTx) error {
			_, err := tx.Admit(s.t.Context(), []*db.Delivery{{
				TenantID: s.of.uuid(), EndpointID: endpoint, Source: "standard", Headers: json.RawMessage(`{}`), Body: []byte(`{}`), BodySHA256: []byte("hash"),
				Events: []db.EventNew{{ID: event, SourceEventID: event.String(), Verdicts: json.RawMessage(`[]`), Runs: []db.RunNew{{
					ID: runID, AutomationID: id, AutomationVersion: version, Mode: "review", Priority: "routine", Ordering: db.OrderNone,
				}}}},
			}})
			return err
		}))
		require.NoError(s.t, s.DB.Tenant(s.t.Context(), s.of.uuid(), func(tx db.TenantTx) error {
			v := db.Review{RunID: runID, Verdict: db.VerdictApprove, ByKey: &by}
			switch verdict {
			case "edit":
				v.Output, v.Changed = json.RawMessage(`{"reply":"b"}`), 0.25
			case "reject":
				v.Verdict = db.VerdictReject
			case "expire":
				v.Verdict, v.ByKey = db.VerdictReject, nil
			}
			return tx.ReviewInsert(s.t.Context(), v)
		}))
	}
}
