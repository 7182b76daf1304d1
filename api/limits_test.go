package api_test

import (
	"encoding/json"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api"
	"sluice/db"
)

// limitNames are the limits of the contract, in its order.
var limitNames = []string{"events_per_hour", "tokens_per_day", "cost_per_day_usd", "cost_per_month_usd", "runs_per_second", "concurrent_runs"}

// limitsOf is the answer of a path by the limits' names; every one of them adds up.
func (b *bundle) limitsOf(key, path string) map[string]map[string]any {
	b.t.Helper()
	out := map[string]map[string]any{}
	var names []string
	for _, row := range b.call(key, "GET", path, nil).is(200).rows() {
		name, _ := row["name"].(string)
		names = append(names, name)
		out[name] = row
		if name != "runs_per_second" {
			requireAddsUp(b.t, row)
		}
	}
	require.Equal(b.t, limitNames, names)
	return out
}

func requireAddsUp(t *testing.T, row map[string]any) {
	t.Helper()
	if row["effective"] == nil {
		require.Nil(t, row["remaining"], row)
		return
	}
	number := func(field string) *big.Rat {
		text, err := json.Marshal(row[field])
		require.NoError(t, err)
		if s, ok := row[field].(string); ok {
			text = []byte(s)
		}
		n, ok := new(big.Rat).SetString(string(text))
		require.True(t, ok, "%s of %v", field, row)
		return n
	}
	sum := new(big.Rat).Add(number("used"), number("reserved"))
	sum.Add(sum, number("remaining")).Sub(sum, number("over"))
	require.Zero(t, sum.Cmp(number("effective")), row)
	require.GreaterOrEqual(t, number("remaining").Sign(), 0, row)
}

func TestLimitsOfANewTenantAreNone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	for name, row := range b.limitsOf(of.viewer, "/v1/limits") {
		require.Nil(t, row["hard"], name)
		if name != "runs_per_second" {
			require.Nil(t, row["effective"], name)
		}
	}
	require.Equal(t, "UTC", b.call(of.viewer, "GET", "/v1/limits", nil).text("time_zone"))
}

func TestLimitsAreSetAsAWholeAndReadBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	path := "/v1/tenants/" + of.id + "/limits"
	read := b.call(b.operator, "GET", path, nil).is(200)
	soon, later := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond), time.Now().Add(2*time.Hour).UTC().Truncate(time.Microsecond)
	config := map[string]any{
		"events_per_hour": map[string]any{"soft": 80, "hard": 100, "raises": []any{
			map[string]any{"value": 150, "until": later, "note": "a launch"}, map[string]any{"value": 500, "until": soon},
		}},
		"tokens_per_day":     map[string]any{"hard": 0},
		"cost_per_day_usd":   map[string]any{"soft": "0.000000000001", "hard": "9223372.036854775807"},
		"cost_per_month_usd": map[string]any{"soft": "10.50", "hard": "20", "raises": []any{map[string]any{"value": "20.000000000001", "until": soon}}},
		"runs_per_second":    0.5, "burst": 3, "concurrent_runs": 7, "share": 12.5, "stored_per_hour": 5000,
	}
	put := b.call(b.operator, "PUT", path, config, "If-Match", read.header.Get("ETag")).is(200)
	require.Equal(t, of.id, put.text("tenant_id"))
	require.Regexp(t, `^"v2-`, put.header.Get("ETag"))
	require.Equal(t, put.get("config"), b.call(b.operator, "GET", path, nil).is(200).get("config"))

	rows := b.limitsOf(of.viewer, "/v1/limits")
	require.Equal(t, rows, b.limitsOf(b.operator, path))
	events, month := rows["events_per_hour"], rows["cost_per_month_usd"]
	require.InDelta(t, 500, events["effective"], 0, "the highest raise holds")
	require.Equal(t, soon.Format(time.RFC3339Nano), events["raised_until"])
	require.InDelta(t, 100, events["hard"], 0)
	require.Equal(t, "10.5", month["soft"])
	require.Equal(t, "20.000000000001", month["effective"])
	require.InDelta(t, 0, rows["tokens_per_day"]["remaining"], 0, "nothing at all is a limit, too")
	require.Equal(t, "9223372.036854775807", rows["cost_per_day_usd"]["remaining"])
	require.Nil(t, rows["cost_per_day_usd"]["raised_until"])
	require.InDelta(t, 0.5, rows["runs_per_second"]["hard"], 0)
	require.InDelta(t, 3, rows["runs_per_second"]["burst"], 0)
	require.InDelta(t, 7, rows["concurrent_runs"]["remaining"], 0)

	// What was read can be sent as it is, but not twice with the same ETag.
	again := b.call(b.operator, "PUT", path, put.get("config"), "If-Match", put.header.Get("ETag")).is(200)
	require.Equal(t, put.get("config"), again.get("config"))
	b.call(b.operator, "PUT", path, put.get("config"), "If-Match", put.header.Get("ETag")).refused(412, "precondition_failed")
	// What is left out is none, or has its default.
	none := b.call(b.operator, "PUT", path, map[string]any{}).is(200)
	fresh := b.tenant()
	require.Equal(t, b.call(b.operator, "GET", "/v1/tenants/"+fresh.id+"/limits", nil).is(200).get("config"), none.get("config"))
	require.Equal(t, b.limitsOf(fresh.viewer, "/v1/limits"), b.limitsOf(of.viewer, "/v1/limits"))
}

func TestLimitsThatCannotBe(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	soon := time.Now().Add(time.Hour)
	raise := func(value any, until time.Time) []any { return []any{map[string]any{"value": value, "until": until}} }
	for name, c := range map[string]struct {
		config map[string]any
		want   []string
	}{
		"everything at once": {map[string]any{
			"events_per_hour":    map[string]any{"soft": 11, "hard": 10, "raises": raise(10, soon)},
			"tokens_per_day":     map[string]any{"raises": raise(10, soon)},
			"cost_per_day_usd":   map[string]any{"soft": "1e3", "hard": "1.0000000000001", "raises": raise("-1", time.Now().Add(-time.Second))},
			"cost_per_month_usd": map[string]any{"soft": "2.000000000001", "hard": "2", "raises": raise("2.00", time.Now().AddDate(1, 0, 1))},
		}, []string{
			"events_per_hour.soft", "events_per_hour.raises/0.value", "tokens_per_day.raises/0", "cost_per_day_usd.soft", "cost_per_day_usd.hard",
			"cost_per_day_usd.raises/0.value", "cost_per_day_usd.raises/0.until", "cost_per_month_usd.soft", "cost_per_month_usd.raises/0.value",
			"cost_per_month_usd.raises/0.until",
		}},
		"more than can be kept": {map[string]any{"cost_per_day_usd": map[string]any{"hard": "9223372.036854775808"}}, []string{"cost_per_day_usd.hard"}},
		"money that is no text": {map[string]any{"cost_per_day_usd": map[string]any{"hard": 5}}, []string{"cost_per_day_usd.hard"}},
		"out of bounds": {map[string]any{
			"events_per_hour": map[string]any{"hard": -1}, "tokens_per_day": map[string]any{"soft": 1.5}, "runs_per_second": 0, "burst": 0, "concurrent_runs": 0,
			"share": 1e-9, "stored_per_hour": 0, "odd": 1,
		}, []string{"events_per_hour.hard", "tokens_per_day.soft", "runs_per_second", "burst", "concurrent_runs", "share", "stored_per_hour", "odd"}},
		"too many raises": {
			map[string]any{"events_per_hour": map[string]any{"hard": 1, "raises": slices.Repeat(raise(2, soon), 11)}},
			[]string{"events_per_hour.raises"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for place, got := range map[string]heard{
				"body.":        b.call(b.operator, "PUT", "/v1/tenants/"+of.id+"/limits", c.config),
				"body.limits.": b.call(b.operator, "POST", "/v1/tenants", map[string]any{"name": "x", "limits": c.config}),
			} {
				var want, found []string
				for _, location := range c.want {
					want = append(want, place+location)
				}
				for location := range got.refused(422, "input.invalid").faults() {
					found = append(found, location)
				}
				require.ElementsMatch(t, want, found, "%s", got.body)
			}
		})
	}
}

func TestTenantIsMadeWithItsLimits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	made := b.call(b.operator, "POST", "/v1/tenants", map[string]any{
		"name": "Acme", "time_zone": "Asia/Kathmandu", "limits": map[string]any{"cost_per_day_usd": map[string]any{"hard": "1.5"}, "concurrent_runs": 2},
	}).is(201)
	rows := b.limitsOf(made.text("key.secret"), "/v1/limits")
	require.Equal(t, "1.5", rows["cost_per_day_usd"]["hard"])
	require.InDelta(t, 2, rows["concurrent_runs"]["hard"], 0)
	from, err := time.Parse(time.RFC3339, rows["cost_per_day_usd"]["window_from"].(string))
	require.NoError(t, err)
	require.Equal(t, "18:15", from.Format("15:04"), "midnight in Kathmandu")
	config, _ := b.call(b.operator, "GET", "/v1/tenants/"+made.text("tenant.id")+"/limits", nil).is(200).get("config").(map[string]any)
	require.InDelta(t, 10, config["burst"], 0, "what was left out has its default")
	require.InDelta(t, 50, config["share"], 0)
}

func TestLimitsOfAnErasedTenantAreGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	path := "/v1/tenants/" + of.id + "/limits"
	b.call(b.operator, "DELETE", "/v1/tenants/"+of.id, nil).is(204)
	b.call(b.operator, "GET", path, nil).refused(404, "not_found")
	b.call(b.operator, "PUT", path, map[string]any{}).refused(409, "tenant.erased")
	for _, id := range []string{unknownID["tenants"], "nonsense"} {
		b.call(b.operator, "GET", "/v1/tenants/"+id+"/limits", nil).refused(404, "not_found")
		b.call(b.operator, "PUT", "/v1/tenants/"+id+"/limits", map[string]any{}).refused(404, "not_found")
	}
}

func TestEventsCountAgainstTheirHour(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	endpoint := b.endpoint(of).text("id")
	b.automation(of, endpoint)
	b.call(b.operator, "PUT", "/v1/tenants/"+of.id+"/limits", map[string]any{"events_per_hour": map[string]any{"hard": 2}}).is(200)
	for range 4 {
		b.event(of, endpoint)
	}
	events := b.limitsOf(of.viewer, "/v1/limits")["events_per_hour"]
	require.InDelta(t, 2, events["used"], 0)
	require.InDelta(t, 0, events["remaining"], 0)
	require.InDelta(t, 2, events["held"], 0)
	b.call(b.operator, "PUT", "/v1/tenants/"+of.id+"/limits", map[string]any{"events_per_hour": map[string]any{"hard": 1}}).is(200)
	events = b.limitsOf(of.viewer, "/v1/limits")["events_per_hour"]
	require.InDelta(t, 1, events["over"], 0, "what was used before the limit was lowered")
}

func TestLimitsInTheDocumentAreToldApartByTheirName(t *testing.T) {
	t.Parallel()
	b := setup(t)
	schema, _ := b.call("", "GET", "/openapi.json", nil).is(200).get("components.schemas.Limits.properties.data.items").(map[string]any)
	discriminator, _ := schema["discriminator"].(map[string]any)
	require.Equal(t, "name", discriminator["propertyName"])
	mapping, _ := discriminator["mapping"].(map[string]any)
	for _, name := range limitNames {
		require.Contains(t, mapping, name)
	}
	require.Len(t, mapping, len(limitNames))
}

// published tells what processes know of the providers.
func (b *bundle) published(process string, states ...db.ProviderState) {
	b.t.Helper()
	require.NoError(b.t, b.DB.System(b.t.Context(), func(tx db.SystemTx) error { return tx.ProviderStatesPut(b.t.Context(), process, states) }))
}

func TestProvidersAreSeenOverAllProcesses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := b.tenant()
	credential := b.call(of.admin, "POST", "/v1/credentials", map[string]any{"name": "c", "kind": "openai", "secret": "sk-0123456789abcdef"}).is(201).text("id")
	var owner string
	require.NoError(t, b.Owner.QueryRow(t.Context(), `select id::text from sluice.credentials`).Scan(&owner))
	at, until := time.Now().UTC().Truncate(time.Second), time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	mine := db.ProviderKey{Provider: "openai", Model: "gpt-5", Owner: owner}
	ours := db.ProviderKey{Provider: "anthropic", Model: "claude", Owner: "operator"}
	b.published("one", db.ProviderState{ProviderKey: ours, ProviderHealth: db.ProviderHealth{
		State: "open", OpenUntil: &until, Opened: 2, InFlight: 1, Bulkhead: 8, Successes: 1, Failures: 3, LatencySeconds: 1, ErrorKind: "overloaded", ErrorStatus: 529, ErrorAt: &at,
	}}, db.ProviderState{ProviderKey: mine, ProviderHealth: db.ProviderHealth{State: "half-open"}})
	before := at.Add(-time.Minute)
	b.published("two", db.ProviderState{ProviderKey: ours, ProviderHealth: db.ProviderHealth{
		State: "closed", InFlight: 2, Bulkhead: 8, Successes: 12, LatencySeconds: 5, ErrorKind: "timeout", ErrorAt: &before, PausedUntil: &at,
	}})
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		require.NoError(t, tx.ProviderPausePut(t.Context(), "openai", owner, until, "provider.rate_limited"))
		return tx.ProviderPausePut(t.Context(), "zeta", "operator", until, "provider.rate_limited")
	}))
	var list struct{ Data []api.Provider }
	require.NoError(t, json.Unmarshal(b.call(b.operator, "GET", "/v1/providers", nil).is(200).body, &list))
	require.Len(t, list.Data, 3)
	all, theirs, resting := list.Data[0], list.Data[1], list.Data[2]
	require.Len(t, all.Processes, 2)
	all.Processes = nil
	require.Equal(t, api.Provider{
		Provider: "anthropic", Model: "claude", Owner: "operator", State: "open", OpenUntil: &until, PausedUntil: &at, InFlight: 3, Bulkhead: 16, Calls: 16,
		Failures: 3, Opened: 2, LatencySeconds: 4, LastError: &api.ProviderError{Kind: "overloaded", Status: 529, At: at},
	}, all)
	require.Equal(t, credential, theirs.Owner)
	require.Equal(t, of.id, theirs.TenantID)
	require.Equal(t, "half_open", theirs.State)
	require.Equal(t, &until, theirs.PausedUntil)
	require.Equal(t, "zeta", resting.Provider)
	require.Empty(t, resting.Model)
	require.Empty(t, resting.Processes)

	// Page by page, each once.
	var seen []string
	for cursor := ""; ; {
		page := b.call(b.operator, "GET", "/v1/providers?limit=1&cursor="+cursor, nil).is(200)
		require.Len(t, page.rows(), 1)
		seen = append(seen, page.rows()[0]["provider"].(string))
		if cursor = page.text("next_cursor"); cursor == "" {
			break
		}
	}
	require.Equal(t, []string{"anthropic", "openai", "zeta"}, seen)
	b.call(b.operator, "GET", "/v1/providers?cursor=YQ", nil).refused(422, "input.invalid")
}
