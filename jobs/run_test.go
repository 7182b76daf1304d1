package jobs_test

import (
	"encoding/json"
	"testing"
	"time"

	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/jobs/llm"
	"sluice/scripted"
	"sluice/tenants"
)

func TestRunLive(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"scripted/echo-1", "scripted/chat-echo-1"} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			id := h.event(h.automation(map[string]any{"model": model}), `{"title":"It breaks"}`)
			h.work()
			run := h.ended(id)
			require.Equal(t, db.RunDone, run.Status, run.Detail)

			// The journals are the judge: one request, one effect, and the signature holds.
			require.Len(t, h.provider.Journal(), 1)
			effects := h.target.Journal()
			require.Len(t, effects, 1)
			hook, err := webhooks.NewWebhook(secret)
			require.NoError(t, err)
			require.NoError(t, hook.Verify(effects[0].Body, effects[0].Header))

			calls := h.calls(id)
			require.Len(t, calls, 1)
			billed := h.provider.Journal()[0].Usage
			require.Equal(t, billed.InputUncached, calls[0].InputUncached)
			require.Equal(t, db.CallReceived, calls[0].State)
			require.Positive(t, calls[0].CostPico)
			require.Equal(t, map[string]int64{"charge": calls[0].CostPico}, h.ledger())
			require.Equal(t, calls[0].CostPico, run.CostPico)
			require.JSONEq(t, string(run.Output), string(effectOutput(t, effects[0].Body)))
		})
	}
}

func effectOutput(t *testing.T, body []byte) json.RawMessage {
	t.Helper()
	var sent struct {
		Data struct{ Output json.RawMessage }
	}
	require.NoError(t, json.Unmarshal(body, &sent))
	return sent.Data.Output
}

func TestRunShadowSendsNothingAndKeepsWhatItWouldHaveSent(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.event(h.automation(map[string]any{"mode": "shadow"}), `{"title":"It breaks"}`)
	h.work()
	run := h.ended(id)
	require.Equal(t, db.RunDone, run.Status)
	require.Equal(t, "shadow", run.Reason)
	require.Empty(t, h.target.Journal())
	h.tx(func(tx db.TenantTx) error {
		actions, err := tx.ActionList(t.Context(), id)
		require.Len(t, actions, 1)
		require.Equal(t, db.ActionWithheld, actions[0].State)
		return err
	})
}

func TestRunEndsByWhatTheProviderDoes(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		control scripted.ProviderControl
		status  db.RunStatus
		reason  string
		charged bool
	}{
		{"Refusal", scripted.ProviderControl{Mode: "refuse"}, db.RunDead, "output.refused", true},
		{"Truncated", scripted.ProviderControl{Mode: "truncate"}, db.RunDead, "output.truncated", true},
		{"NotJSON", scripted.ProviderControl{Mode: "bad_json"}, db.RunDead, "output.schema", true},
		{"WrongSchema", scripted.ProviderControl{Mode: "wrong_schema"}, db.RunDead, "output.schema", true},
		{"UsageMissing", scripted.ProviderControl{Mode: "usage_missing"}, db.RunDone, "", true},
		{"OneFailureIsRetried", scripted.ProviderControl{Mode: "error500", Times: 1}, db.RunDone, "", true},
		{"OneOverloadIsRetried", scripted.ProviderControl{Mode: "overloaded", Times: 1}, db.RunDone, "", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			require.NoError(t, h.provider.Control(c.control))
			id := h.event(h.automation(nil), `{"title":"It breaks"}`)
			h.work()
			run := h.ended(id)
			require.Equal(t, c.status, run.Status, run.Detail)
			require.Equal(t, c.reason, run.Reason)
			require.Equal(t, c.charged, h.ledger()["charge"] > 0, "a bill: %v", h.ledger())
			if c.status == db.RunDead {
				require.NotEmpty(t, run.Detail)
				require.Empty(t, h.target.Journal())
			}
		})
	}
}

func TestRunWaitsWithoutSpendingAnAttempt(t *testing.T) {
	t.Parallel()
	t.Run("RateLimited", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t)
		require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "rate_limit", RetryAfterS: 1, Times: 1}))
		id := h.event(h.automation(nil), `{"title":"a"}`)
		h.work()
		waiting := h.until(id, func(r db.Run) bool { return r.Status == db.RunWaiting })
		require.Equal(t, "provider.rate_limited", waiting.Reason)
		require.NotNil(t, waiting.Until)
		require.Zero(t, waiting.Attempt)
		require.Equal(t, db.RunDone, h.ended(id).Status)
	})
	t.Run("BreakerOpen", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t)
		require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "error500"}))
		automation := h.automation(nil)
		h.work(func(s *settings) {
			s.breaker = llm.BreakerConfig{ConsecutiveFailures: 2, OpenFor: 2 * time.Second, OpenJitter: time.Millisecond}
		})
		first := h.event(automation, `{"title":"a"}`)
		second := h.event(automation, `{"title":"b"}`)
		open := func(r db.Run) bool { return r.Status == db.RunWaiting && r.Reason == "provider.breaker_open" }
		require.Eventually(t, func() bool {
			var a, b db.Run
			h.tx(func(tx db.TenantTx) (err error) {
				if a, err = tx.RunGet(t.Context(), first); err == nil {
					b, err = tx.RunGet(t.Context(), second)
				}
				return err
			})
			return open(a) || open(b)
		}, waitMax, 5*time.Millisecond)
		require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "ok"}))
		require.Equal(t, db.RunDone, h.ended(first).Status)
		require.Equal(t, db.RunDone, h.ended(second).Status)
	})
}

// TestRunWaitsLongerEachTimeAndNotForEver: a provider that says wait for ever is not asked for ever at the same pace, and not for ever at all.
func TestRunWaitsLongerEachTimeAndNotForEver(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "rate_limit", RetryAfterS: 1}))
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	require.Eventually(t, func() bool { return len(h.provider.Journal()) >= 3 }, waitMax, 20*time.Millisecond)
	third := h.until(id, func(r db.Run) bool {
		return r.Status == db.RunWaiting && len(h.provider.Journal()) >= 3 && r.Until.Sub(r.UpdatedAt) > 4*time.Second
	})
	require.Zero(t, third.Attempt)
	_, err := h.base.Owner.Exec(t.Context(), `update sluice.runs set created_at = now() - interval '80 hours', until = now() where id = $1`, id)
	require.NoError(t, err)
	run := h.ended(id)
	require.Equal(t, db.RunDead, run.Status)
	require.Equal(t, "provider.rate_limited", run.Reason)
	require.Contains(t, run.Detail, "waited")
}

func TestRunNeedsKeyAndPrice(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	noPrice := h.event(h.automation(map[string]any{"model": "scripted/never-priced"}), `{}`)
	h.work()
	run := h.ended(noPrice)
	require.Equal(t, "price.unknown", run.Reason)
	require.Empty(t, h.provider.Journal(), "what has no price is not called")

	bare := newHouse(t)
	noKey := bare.event(bare.automation(nil), `{}`)
	bare.work(func(s *settings) { s.keys = nil })
	require.Equal(t, "provider.no_credential", bare.ended(noKey).Reason)
}

func TestRunUsesTheTenantsOwnKeyFirst(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.tx(func(tx db.TenantTx) error {
		_, err := tx.CredentialInsert(t.Context(), "mine", "scripted", tenants.NewSecret("the-tenants-own-key-9999"))
		return err
	})
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	require.Equal(t, db.RunDone, h.ended(id).Status)
	require.Equal(t, "9999", h.provider.Journal()[0].KeyLast4)
	require.NotNil(t, h.calls(id)[0].CredentialID)
}

func TestRunOfASuspendedTenantWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	suspended := tenants.Suspended
	require.NoError(t, h.base.DB.System(t.Context(), func(tx db.SystemTx) error {
		_, err := tx.TenantUpdate(t.Context(), h.tenant, db.TenantChange{Status: &suspended})
		return err
	}))
	id := h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	run := h.until(id, func(r db.Run) bool { return r.Status == db.RunWaiting })
	require.Equal(t, "tenant.suspended", run.Reason)
	require.Empty(t, h.provider.Journal())
}

func TestRunOfAnErasedTenantLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	require.NoError(t, h.provider.Control(scripted.ProviderControl{Mode: "hang"}))
	h.event(h.automation(nil), `{"title":"a"}`)
	h.work()
	_, err := h.provider.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, h.base.DB.System(t.Context(), func(tx db.SystemTx) error { return tx.TenantErase(t.Context(), h.tenant) }))
	h.provider.Release()
	var left int
	require.Eventually(t, func() bool {
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from river.river_job where kind = 'run' and state = 'completed'`).Scan(&left))
		return left == 1
	}, waitMax, 20*time.Millisecond)
	for _, table := range []string{"runs", "events", "calls", "actions", "credentials", "tenant_keysets", "run_history"} {
		require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.`+table).Scan(&left))
		require.Zero(t, left, table)
	}
	// But its books: the call was under way, and will be billed.
	require.NoError(t, h.base.Owner.QueryRow(t.Context(), `select count(*) from sluice.ledger_entries where kind = 'orphan' and amount_pico > 0`).Scan(&left))
	require.Equal(t, 1, left)
	require.Empty(t, h.target.Journal())
}
