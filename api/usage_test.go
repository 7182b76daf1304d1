package api_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api"
	"sluice/db"
	"sluice/tenants"
)

func TestMoneyIsExact(t *testing.T) {
	t.Parallel()
	for pico, want := range map[string]string{
		"0": "0", "1": "0.000000000001", "412000000": "0.000412", "1000000000000": "1", "1500000000000": "1.5", "-1": "-0.000000000001",
		"9223372036854775807": "9223372.036854775807", "123456789012345678901234567890": "123456789012345678.90123456789", "100000000000000": "100",
	} {
		require.Equal(t, want, api.USD(api.PicoOf(pico)))
		back, ok := new(big.Rat).SetString(want)
		require.True(t, ok)
		require.Zero(t, back.Mul(back, big.NewRat(1e12, 1)).Cmp(new(big.Rat).SetInt(api.PicoOf(pico))), pico)
	}
}

func TestCSVFieldsAreNoFormulas(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"": "", "plain": "plain", "=1+1": "'=1+1", "+1": "'+1", "@SUM(A1)": "'@SUM(A1)", "\tx": "'\tx", "\rx": "'\rx", "\nx": "'\nx", "-1+1": "'-1+1",
		"-cmd|' /C calc'!A0": "'-cmd|' /C calc'!A0", "-0.5": "-0.5", "a=b": "a=b", "-1.2.3": "'-1.2.3", "-": "'-", "-0.000000000005": "-0.000000000005",
		" =1": "' =1", "\u00a0\ufeff=1": "'\u00a0\ufeff=1", "\x00=1": "'\x00=1", "\ufeffplain": "'\ufeffplain", "＝1": "'＝1", "−1": "'−1",
		"x;=1": "x;'=1", "x\t+1": "x\t'+1", "x\n=1": "x\n'=1", "'=1": "''=1", "\"=1": "'\"=1", "a|-1": "a|'-1", "a, \"b\"": "a, \"b\"", "Prüfung 检查": "Prüfung 检查",
		"2026-11-23": "2026-11-23", "2026-11-23T10:00:00.5Z": "2026-11-23T10:00:00.5Z", "scripted/echo-1": "scripted/echo-1", "café – ok": "café – ok",
	} {
		require.Equal(t, want, api.Harmless(field))
	}
}

func TestWhoWantsCSV(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "text/csv": true, "application/json, text/csv;q=0.5": false, "application/json;q=0.1, text/csv": true, "text/csv;q=0": false,
		"text/csv; charset=utf-8": true, ",;=": false,
	} {
		require.Equal(t, want, api.WantsCSV(accept), accept)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	for range 3 {
		b.worked(of).answered(db.RunStep{Status: db.RunDone})
	}
	all := b.call(of.viewer, "GET", "/v1/usage", nil).is(200)
	require.Len(t, all.rows(), 1)
	require.Equal(t, "0.001236", all.text("totals.cost_usd"))
	require.InDelta(t, 24, all.get("totals.input_tokens"), 0)
	require.InDelta(t, 12, all.get("totals.output_tokens"), 0)
	require.Equal(t, "UTC", all.text("time_zone"))
	grouped := b.call(of.viewer, "GET", "/v1/usage?group_by=endpoint,day,model,automation", nil).is(200).rows()
	require.Len(t, grouped, 3)
	require.Equal(t, time.Now().UTC().Format(time.DateOnly), grouped[0]["day"])
	require.Equal(t, "scripted/echo-1", grouped[0]["model"])
	require.Equal(t, "0.000412", grouped[0]["cost_usd"])
	require.Equal(t, "triage", grouped[0]["automation_name"])
	require.Equal(t, "in", grouped[0]["endpoint_name"])
	served := b.call(of.viewer, "GET", "/v1/usage?group_by=model_served,%20kind", nil).is(200).rows()
	require.Len(t, served, 1)
	require.Equal(t, []any{"scripted/echo-1", "charge"}, []any{served[0]["model_served"], served[0]["kind"]})
	require.Contains(t, b.call(of.viewer, "GET", "/v1/usage?group_by=day,hour", nil).is(422).faults()["query.group_by"], "model_served, kind")
	require.Empty(t, b.call(of.viewer, "GET", "/v1/usage?endpoint_id=odd", nil).is(200).rows())
	require.Equal(t, "0", b.call(of.viewer, "GET", "/v1/usage?model=other/x", nil).is(200).text("totals.cost_usd"))

	entries := b.call(of.viewer, "GET", "/v1/usage/entries?limit=2", nil).is(200)
	require.Len(t, entries.rows(), 2)
	require.Equal(t, "0.000412", entries.rows()[0]["amount_usd"])
	require.Len(t, b.call(of.viewer, "GET", "/v1/usage/entries?limit=2&cursor="+entries.text("next_cursor"), nil).is(200).rows(), 1)
}

func TestUsageAsCSV(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	b.worked(of).answered(db.RunStep{Status: db.RunDone})
	b.worked(of).answered(db.RunStep{Status: db.RunDone})
	// A provider that names itself as a formula.
	_, err := b.Owner.Exec(t.Context(), `
		insert into sluice.ledger_entries (tenant_id, id, kind, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider, model_asked,
			model_served, price_id, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning, amount_pico)
		select tenant_id, gen_random_uuid(), 'adjust', call_id, run_id, event_id, endpoint_id, automation_id, automation_version, '=HYPERLINK("http://x")', '+1',
			'@x', price_id, 0, 0, 0, 0, 0, 0, -5 from sluice.ledger_entries limit 1`)
	require.NoError(t, err)
	file := b.call(of.viewer, "GET", "/v1/usage?group_by=model", nil, "Accept", "text/csv").is(200)
	require.Contains(t, file.header.Get("Content-Type"), "text/csv")
	require.Contains(t, file.header.Get("Content-Disposition"), "attachment")
	records, err := csv.NewReader(strings.NewReader(string(file.body))).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"model", "calls"}, records[0][:2])
	require.Equal(t, `'=HYPERLINK("http://x")/+1`, records[1][0])
	require.Equal(t, "-0.000000000005", records[1][len(records[1])-1])

	// Names that a person chose, grouped by several.
	_, err = b.Owner.Exec(t.Context(), `update sluice.automations set name = $1`, "=cmd|' /C calc'!A0, \"quoted\"\nnext 检查")
	require.NoError(t, err)
	named := b.call(of.viewer, "GET", "/v1/usage?group_by=kind,automation,model_served,endpoint,kind", nil, "Accept", "text/csv").is(200)
	records, err = csv.NewReader(strings.NewReader(string(named.body))).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"kind", "automation_id", "automation_name", "model_served", "endpoint_id", "endpoint_name", "calls", "input_tokens"}, records[0][:8])
	require.Equal(t, "'=cmd|' /C calc'!A0, \"quoted\"\nnext 检查", records[1][2])
	require.Len(t, records, 4)
	served := map[string]string{}
	for _, r := range records[1:] {
		served[r[0]+" "+r[3]] = r[6]
	}
	require.Equal(t, "0", served[`adjust '=HYPERLINK("http://x")/@x`], "a correction is no call")

	page := b.call(of.viewer, "GET", "/v1/usage/entries?limit=2", nil, "Accept", "text/csv").is(200)
	records, err = csv.NewReader(strings.NewReader(string(page.body))).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 3)
	next, _, ok := strings.Cut(strings.TrimPrefix(page.header.Get("Link"), "<"), ">")
	require.True(t, ok)
	rest := b.call(of.viewer, "GET", next, nil, "Accept", "text/csv").is(200)
	records, err = csv.NewReader(strings.NewReader(string(rest.body))).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 2)
}

func TestRejections(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint, other := b.endpoint(of).text("id"), b.endpoint(of).text("id")
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	require.NoError(t, b.DB.Tenant(t.Context(), of.uuid(), func(tx db.TenantTx) error {
		for minute := range 3 {
			for _, text := range []string{endpoint, other} {
				id, _ := tenants.ParseID(tenants.EndpointPrefix, text)
				for _, reason := range []string{"signature.mismatch", "timestamp.stale"} {
					at := start.Add(time.Duration(minute) * time.Minute)
					if err := tx.RejectionAdd(context.Background(), db.Rejection{
						EndpointID: id, Reason: reason, Count: 2, Sample: json.RawMessage(`{"detail":"x"}`), FirstAt: at, LastAt: at,
					}); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}))
	seen, cursor := map[string]bool{}, ""
	for range 3 {
		got := b.call(of.viewer, "GET", "/v1/rejections?limit=5&cursor="+cursor, nil).is(200)
		for _, row := range got.rows() {
			key := row["minute"].(string) + row["endpoint_id"].(string) + row["reason"].(string)
			require.False(t, seen[key])
			seen[key] = true
		}
		cursor = got.text("next_cursor")
	}
	require.Empty(t, cursor)
	require.Len(t, seen, 12)
	count := func(query string) int {
		return len(b.call(of.viewer, "GET", "/v1/rejections?"+query, nil).is(200).rows())
	}
	require.Equal(t, 6, count("endpoint_id="+endpoint))
	require.Equal(t, 6, count("reason=timestamp.stale"))
	require.Equal(t, 4, count("since=2026-11-01T12:02:00Z"))
	for _, bad := range []string{"eA", "fHw", "MjAyNi0xMS0wMVQxMjowMDowMFp8eHx5"} {
		b.call(of.viewer, "GET", "/v1/rejections?cursor="+bad, nil).refused(422, "input.invalid")
	}
}
