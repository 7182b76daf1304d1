package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/scripted"
	"sluice/tenants"
)

// ledgerHouse is a tenant whose calls a test writes by hand.
type ledgerHouse struct {
	*dbtest.Bundle

	t                            *testing.T
	e                            env
	tenant, endpoint, automation uuid.UUID
}

func newLedgerHouse(t *testing.T) *ledgerHouse {
	t.Helper()
	b := dbtest.New(t)
	h := &ledgerHouse{Bundle: b, t: t, e: env{"DATABASE_URL": b.URL}, endpoint: tenants.NewID(), automation: tenants.NewID()}
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(t.Context(), "books", "UTC")
		h.tenant = tenant.TenantID
		return err
	}))
	h.exec(`insert into sluice.endpoints (tenant_id, id, name, source, token) values ($1, $2, 'in', 'standard', 'x')`, h.tenant, h.endpoint)
	h.exec(`insert into sluice.automations (tenant_id, id, endpoint_id, name) values ($1, $2, $3, 'triage')`, h.tenant, h.automation, h.endpoint)
	h.exec(`insert into sluice.automation_versions (tenant_id, automation_id, version, spec) values ($1, $2, 1, '{}')`, h.tenant, h.automation)
	return h
}

func (h *ledgerHouse) exec(sql string, args ...any) {
	h.t.Helper()
	_, err := h.Owner.Exec(h.t.Context(), sql, args...)
	require.NoError(h.t, err)
}

// call makes a call in a state, booked as used; an orphan at the dearest rate.
func (h *ledgerHouse) call(state string, input, output int64) string {
	h.t.Helper()
	id, event := tenants.NewID(), tenants.NewID()
	h.exec(`insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, body_bytes, body_sha256)
		values ($1, $2, $3, 'standard', gen_random_uuid()::text, 'x', 0, '')`, h.tenant, event, h.endpoint)
	h.exec(`insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority)
		values ($1, $2, $2, $3, $4, 1, 'live', 'routine')`, h.tenant, event, h.endpoint, h.automation)
	h.exec(`insert into sluice.calls (tenant_id, id, run_id, ordinal, epoch, state, provider, model_asked, price_id, request_sha256, input_estimate, max_output_tokens)
		select $1, $2, $3, 1, 1, 'sent', 'scripted', 'echo-1', id, '', 1, 1 from sluice.prices where provider = 'scripted' and model = 'echo-1'`, h.tenant, id, event)
	kind, cost, served := db.EntryCharge, input*1_000_000+output*5_000_000, "echo-1"
	if state == db.CallOrphaned {
		kind, cost, served = db.EntryOrphan, input*1_250_000+output*5_000_000, ""
	}
	h.exec(`update sluice.calls set state = $3, input_uncached = $4, output_visible = $5, cost_pico = $6, model_served = $7 where tenant_id = $1 and id = $2`,
		h.tenant, id, state, input, output, cost, served)
	if state == db.CallReceived || state == db.CallOrphaned {
		require.NoError(h.t, h.Worker.Tenant(h.t.Context(), h.tenant, func(tx db.TenantTx) error { return tx.EntryInsert(h.t.Context(), id, kind) }))
	}
	return tenants.FormatID(tenants.CallPrefix, id)
}

func (h *ledgerHouse) entries() (n int) {
	h.t.Helper()
	require.NoError(h.t, h.Owner.QueryRow(h.t.Context(), `select count(*) from sluice.ledger_entries`).Scan(&n))
	return n
}

func TestLedgerCheck(t *testing.T) {
	t.Parallel()
	h := newLedgerHouse(t)
	received, _ := h.call(db.CallReceived, 8, 4), h.call(db.CallOrphaned, 100, 10)
	code, out, err := sluice(t, h.e, "ledger", "check")
	require.Zero(t, code, out+err)
	require.Equal(t, "tenants: 1, differences: 0\n", out)
	h.exec(`update sluice.calls set cost_pico = cost_pico + 1 where state = 'received'`)
	tenant := tenants.FormatID(tenants.TenantPrefix, h.tenant)
	for _, args := range [][]string{{"ledger", "check"}, {"ledger", "check", "--tenant", tenant}} {
		code, out, err = sluice(t, h.e, args...)
		require.Equal(t, 1, code, err)
		require.Empty(t, err)
		require.Regexp(t, `(?m)^`+tenant+` +call +`+received+` +8/0/0/0/4/0 tokens, 28000001 pico, 1 first entries \(received\) +8/0/0/0/4/0 tokens, 28000000 pico, 1 first entries$`, out)
		require.Regexp(t, `(?m)^`+tenant+` +call\.price +`+received+` +28000000 pico by price \d+ +28000001 pico$`, out)
		require.Contains(t, out, "tenants: 1, differences: 3\n")
	}
	code, _, err = sluice(t, h.e, "ledger", "check", "--tenant", "nonsense")
	require.Equal(t, 2, code)
	require.Contains(t, err, "sluice: --tenant: expected tnt_")
	code, _, err = sluice(t, h.e, "ledger", "check", "--tenant", tenants.FormatID(tenants.TenantPrefix, uuid.New()))
	require.Equal(t, 1, code)
	require.Contains(t, err, "there is no tenant")
	code, out, err = sluice(t, h.e, "ledger", "rebuild")
	require.Zero(t, code, out+err)
	require.Equal(t, "tenants: 1\n", out)
}

// TestLedgerReconcile takes the scripted provider's own journal as the export.
func TestLedgerReconcile(t *testing.T) {
	t.Parallel()
	h := newLedgerHouse(t)
	first := h.call(db.CallReceived, 8, 4)
	lower := h.call(db.CallOrphaned, 100, 10)
	twice := h.call(db.CallOrphaned, 100, 10)
	unbilled := h.call(db.CallOrphaned, 100, 10)
	missing := h.call(db.CallOrphaned, 100, 10)
	differs := h.call(db.CallReceived, 8, 4)
	failed := h.call(db.CallFailed, 0, 0)
	underWay := h.call(db.CallSent, 0, 0)
	stranger := tenants.FormatID(tenants.CallPrefix, tenants.NewID())
	last := h.call(db.CallReceived, 1, 1)
	h.call(db.CallReceived, 1, 1) // after the last that the export names: it may not have been written yet

	file := filepath.Join(t.TempDir(), "journal.jsonl")
	var lines []string
	add := func(id string, billed bool, u scripted.ProviderUsage) {
		line, err := json.Marshal(scripted.ProviderEntry{N: len(lines) + 1, At: time.Now(), Model: "echo-1", RequestID: id, Billed: billed, Usage: u})
		require.NoError(t, err)
		lines = append(lines, string(line))
	}
	add(first, true, scripted.ProviderUsage{InputUncached: 8, OutputVisible: 4})
	add(lower, true, scripted.ProviderUsage{InputUncached: 20, InputCacheRead: 30, OutputVisible: 2, OutputReasoning: 1})
	add(twice, true, scripted.ProviderUsage{InputUncached: 50, OutputVisible: 5})
	add(twice, true, scripted.ProviderUsage{InputUncached: 50, OutputVisible: 5})
	add(unbilled, false, scripted.ProviderUsage{})
	add(differs, true, scripted.ProviderUsage{InputUncached: 9, OutputVisible: 4})
	add(failed, true, scripted.ProviderUsage{InputUncached: 3})
	add(underWay, true, scripted.ProviderUsage{InputUncached: 3})
	add(last, true, scripted.ProviderUsage{InputUncached: 1, OutputVisible: 1})
	add(stranger, true, scripted.ProviderUsage{InputUncached: 1})
	add("req-7", true, scripted.ProviderUsage{InputUncached: 1})
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	_, err := scripted.ReadProviderJournal(file)
	require.NoError(t, err, "it is a journal as the provider writes it")

	reconcile := func(want int, args ...string) string {
		t.Helper()
		code, out, fault := sluice(t, h.e, append([]string{"ledger", "reconcile", "--provider", "scripted", file}, args...)...)
		require.Equal(t, want, code, out+fault)
		require.Empty(t, fault)
		return out
	}
	before := h.entries()
	out := reconcile(1, "--dry-run")
	require.Equal(t, before, h.entries())
	for id, outcome := range map[string]string{
		lower: "to adjust", twice: "to adjust", unbilled: "to adjust", missing: "missing", differs: "differs", failed: "differs", underWay: "under way", stranger: "unknown",
	} {
		require.Regexp(t, `(?m)^`+outcome+` +\S+ +`+id+` `, out)
	}
	require.NotContains(t, out, first)
	require.Contains(t, out, "lines: 11, not ours: 1, the same: 2, not the same: 8\n")
	require.Regexp(t, lower+` +orphaned +100/0/0/0/10/0 tokens, 175000000 pico +20/30/0/0/2/1 tokens, 38000000 pico`, out)

	out = reconcile(1)
	require.Regexp(t, `(?m)^adjusted +\S+ +`+lower, out)
	require.Regexp(t, `(?m)^differs +\S+ +`+differs, out)
	h.requireBooked(lower, "20/30/2/1 38000000")
	h.requireBooked(twice, "100/0/10/0 150000000")
	h.requireBooked(unbilled, "0/0/0/0 0")
	h.requireBooked(differs, "8/0/4/0 28000000")
	after := h.entries()
	require.NotContains(t, reconcile(1), "adjusted", "once is enough")
	require.Equal(t, after, h.entries())

	out = reconcile(1, "--all")
	require.NotContains(t, out, "differs")
	h.requireBooked(differs, "9/0/4/0 29000000")
	h.requireBooked(failed, "3/0/0/0 3000000")
	code, out, fault := sluice(t, h.e, "ledger", "check")
	require.Zero(t, code, out+fault)
}

func (h *ledgerHouse) requireBooked(call, want string) {
	h.t.Helper()
	id, _ := tenants.ParseID(tenants.CallPrefix, call)
	var got string
	require.NoError(h.t, h.Owner.QueryRow(context.Background(), `
		select concat_ws('/', sum(input_uncached), sum(input_cache_read), sum(output_visible), sum(output_reasoning)) || ' ' || sum(amount_pico)
		from sluice.ledger_entries where call_id = $1`, id).Scan(&got))
	require.Equal(h.t, want, got)
}

func TestLedgerReconcileRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	h := newLedgerHouse(t)
	id := h.call(db.CallOrphaned, 100, 10)
	for in, want := range map[string]string{
		`{"request_id":"` + id + `","input_tokens":5}`:                             "line 1: there is none of the buckets",
		`{"request_id":"` + id + `","usage":{}}`:                                   "line 1: there is none of the buckets",
		`{"request_id":"` + id + `","output_visible":-1}`:                          "line 1: a bucket is below 0",
		"\n" + `{"request_id":"` + id + `","output_visible":1}` + "\n{\"request_i": "line 2: it is no JSON object",
		`{"request_id":"` + id + `","output_visible":1.5}`:                         "line 1: it is no JSON object",
	} {
		code, out, err := sluiceIn(t.Context(), in, h.e, "ledger", "reconcile", "--provider", "scripted", "-")
		require.Equal(t, 1, code, in)
		require.Empty(t, out)
		require.Contains(t, err, want)
		require.Equal(t, 1, h.entries())
	}
	code, out, _ := sluiceIn(t.Context(), `{"request_id":"`+id+`","output_visible":1,"model":"nobody-9"}`, h.e, "ledger", "reconcile", "--provider", "scripted", "-")
	require.Zero(t, code, "a served model without a price is priced as the one that was asked")
	require.Contains(t, out, "adjusted")
	h.requireBooked(id, "0/0/1/0 5000000")
	code, out, _ = sluiceIn(t.Context(), "", h.e, "ledger", "reconcile", "--provider", "scripted", "-")
	require.Zero(t, code)
	require.Equal(t, "lines: 0, not ours: 0, the same: 0, not the same: 0\n", out)
	code, _, err := sluice(t, h.e, "ledger", "reconcile", "x")
	require.Equal(t, 2, code)
	require.Contains(t, err, "missing flags: --provider")
}
