package api

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/tenants"
)

// Tokens are the disjoint buckets of usage, and their sums.
type Tokens struct {
	InputTokens       int64 `json:"input_tokens" doc:"the sum of the four input buckets"`
	OutputTokens      int64 `json:"output_tokens" doc:"the sum of the two output buckets"`
	InputUncached     int64 `json:"input_uncached"`
	InputCacheRead    int64 `json:"input_cache_read"`
	InputCacheWrite5m int64 `json:"input_cache_write_5m"`
	InputCacheWrite1h int64 `json:"input_cache_write_1h"`
	OutputVisible     int64 `json:"output_visible"`
	OutputReasoning   int64 `json:"output_reasoning"`
}

func toTokens(t db.Tokens) Tokens {
	return Tokens{
		InputTokens:   t.InputUncached + t.InputCacheRead + t.InputCacheWrite5m + t.InputCacheWrite1h,
		OutputTokens:  t.OutputVisible + t.OutputReasoning,
		InputUncached: t.InputUncached, InputCacheRead: t.InputCacheRead, InputCacheWrite5m: t.InputCacheWrite5m, InputCacheWrite1h: t.InputCacheWrite1h,
		OutputVisible: t.OutputVisible, OutputReasoning: t.OutputReasoning,
	}
}

func (t *Tokens) add(o Tokens) {
	t.InputTokens += o.InputTokens
	t.OutputTokens += o.OutputTokens
	t.InputUncached += o.InputUncached
	t.InputCacheRead += o.InputCacheRead
	t.InputCacheWrite5m += o.InputCacheWrite5m
	t.InputCacheWrite1h += o.InputCacheWrite1h
	t.OutputVisible += o.OutputVisible
	t.OutputReasoning += o.OutputReasoning
}

// Usage is the sum of one group; it names what it is grouped by.
type Usage struct {
	Day            string `json:"day,omitempty" doc:"a day of the tenant's time zone" example:"2026-11-23"`
	EndpointID     string `json:"endpoint_id,omitempty"`
	EndpointName   string `json:"endpoint_name,omitempty" doc:"with group_by=endpoint: its name as of now"`
	AutomationID   string `json:"automation_id,omitempty"`
	AutomationName string `json:"automation_name,omitempty" doc:"with group_by=automation: its name as of now"`
	Model          string `json:"model,omitempty" doc:"provider/model, as it was asked"`
	ModelServed    string `json:"model_served,omitempty" doc:"provider/model, as the provider says who answered; nothing after the slash where no answer came"`
	Kind           string `json:"kind,omitempty" enum:"charge,orphan,adjust"`
	Calls          int64  `json:"calls" doc:"a call counts where it was first booked; a correction counts none"`
	Tokens

	CostUSD string `json:"cost_usd" example:"0.000412"`
}

// UsageReport is the ledger, summed.
type UsageReport struct {
	Data     []Usage    `json:"data"`
	Totals   UsageTotal `json:"totals"`
	TimeZone string     `json:"time_zone" doc:"the zone of the days"`
}

// UsageTotal is the sum of all groups.
type UsageTotal struct {
	Calls int64 `json:"calls"`
	Tokens

	CostUSD string `json:"cost_usd"`
}

// Entry is one row of the ledger.
type Entry struct {
	ID                string    `json:"id"`
	Kind              string    `json:"kind" enum:"charge,orphan,adjust" doc:"charge: what the provider reported; orphan: an estimate for a reply that never came; adjust: a correction"`
	At                time.Time `json:"at"`
	CallID            string    `json:"call_id"`
	RunID             string    `json:"run_id"`
	EventID           string    `json:"event_id"`
	EndpointID        string    `json:"endpoint_id"`
	AutomationID      string    `json:"automation_id"`
	AutomationVersion int       `json:"automation_version"`
	Provider          string    `json:"provider"`
	ModelAsked        string    `json:"model_asked"`
	ModelServed       string    `json:"model_served"`
	PriceID           int64     `json:"price_id"`
	Tokens

	AmountUSD string `json:"amount_usd" doc:"an adjust may be negative"`
	Note      string `json:"note,omitempty" doc:"why a correction was made"`
}

func toUsage(u db.Usage) Usage {
	out := Usage{Calls: u.Calls, Tokens: toTokens(u.Tokens), CostUSD: usd(picoOf(u.CostPico))}
	if u.Day != nil {
		out.Day = u.Day.Format(time.DateOnly)
	}
	if u.EndpointID != nil {
		out.EndpointID = tenants.FormatID(tenants.EndpointPrefix, *u.EndpointID)
	}
	if u.AutomationID != nil {
		out.AutomationID = tenants.FormatID(tenants.AutomationPrefix, *u.AutomationID)
	}
	for field, value := range map[*string]*string{
		&out.EndpointName: u.EndpointName, &out.AutomationName: u.AutomationName, &out.Model: u.Model, &out.ModelServed: u.ModelServed, &out.Kind: u.Kind,
	} {
		if value != nil {
			*field = *value
		}
	}
	return out
}

func toEntry(e db.Entry) Entry {
	return Entry{
		ID: tenants.FormatID(tenants.EntryPrefix, e.ID), Kind: e.Kind, At: e.At.UTC(), CallID: tenants.FormatID(tenants.CallPrefix, e.CallID),
		RunID: tenants.FormatID(tenants.RunPrefix, e.RunID), EventID: tenants.FormatID(tenants.EventPrefix, e.EventID),
		EndpointID: tenants.FormatID(tenants.EndpointPrefix, e.EndpointID), AutomationID: tenants.FormatID(tenants.AutomationPrefix, e.AutomationID),
		AutomationVersion: e.AutomationVersion, Provider: e.Provider, ModelAsked: e.ModelAsked, ModelServed: e.ModelServed, PriceID: e.PriceID,
		Tokens: toTokens(e.Tokens), AmountUSD: usdOf(e.AmountPico), Note: e.Note,
	}
}

// UsageFilter narrows the ledger.
type UsageFilter struct {
	EndpointID   string    `query:"endpoint_id" doc:"end_..."`
	AutomationID string    `query:"automation_id" doc:"aut_..."`
	Model        string    `query:"model" maxLength:"200" doc:"provider/model, as it was asked"`
	Since        time.Time `query:"since" doc:"from this time on"`
	Until        time.Time `query:"until" doc:"before this time"`
}

// rows is the filter for the database; not ok is one that matches nothing.
func (f UsageFilter) rows() (db.UsageFilter, bool) {
	out := db.UsageFilter{Model: f.Model, Since: given(f.Since), Until: given(f.Until)}
	var okEndpoint, okAutomation bool
	out.EndpointID, okEndpoint = filterID(tenants.EndpointPrefix, f.EndpointID)
	out.AutomationID, okAutomation = filterID(tenants.AutomationPrefix, f.AutomationID)
	return out, okEndpoint && okAutomation
}

type usageInput struct {
	Caller
	UsageFilter

	GroupBy string `query:"group_by" maxLength:"100" doc:"day, endpoint, automation, model, model_served, kind: several with commas between; left out, one sum of all" example:"day,model"`
	Accept  string `header:"Accept" doc:"text/csv gives a file"`
}

type entryListInput struct {
	Caller
	Page
	UsageFilter

	Accept string `header:"Accept" doc:"text/csv gives a file, with the next page as a Link"`
}

// streamed answers JSON or CSV, as the caller accepts.
type streamed struct{ Body func(huma.Context) }

func (a *API) registerUsage() {
	register(a, viewerRole, huma.Operation{
		OperationID: "get-usage", Method: http.MethodGet, Path: "/v1/usage", Tags: []string{"Usage"}, Summary: "Sum the ledger by groups",
		Description: "Days are those of the tenant's time zone. Money is exact, in decimals of USD. What was committed before the request is in the sums, " +
			"and model is the model that was asked; group by model_served for the one that answered.",
		Responses: documented[UsageReport](a),
	}, a.usage)
	register(a, viewerRole, huma.Operation{
		OperationID: "list-usage-entries", Method: http.MethodGet, Path: "/v1/usage/entries", Tags: []string{"Usage"}, Summary: "List the ledger",
		Description: "Append-only: an entry is never changed. Newest first.",
		Responses:   documented[List[Entry]](a),
	}, a.entryList)
}

// documented is the document of an answer that is JSON or CSV.
func documented[T any](a *API) map[string]*huma.Response {
	schema := a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
	return map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{
		"application/json": {Schema: schema}, csvType: {Schema: &huma.Schema{Type: huma.TypeString}},
	}}}
}

// groupNames are what usage can be grouped by.
var groupNames = []string{"day", "endpoint", "automation", "model", "model_served", "kind"}

func groupsOf(text string) (by db.UsageBy, names []string, err error) {
	if text == "" {
		return by, nil, nil
	}
	switches := map[string]*bool{
		"day": &by.Day, "endpoint": &by.Endpoint, "automation": &by.Automation, "model": &by.Model, "model_served": &by.ModelServed, "kind": &by.Kind,
	}
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		on, ok := switches[name]
		if !ok {
			return by, nil, invalidAt("query.group_by", "expected "+strings.Join(groupNames, ", ")+", with commas between")
		}
		if !*on {
			names = append(names, name)
		}
		*on = true
	}
	return by, names, nil
}

func (a *API) usage(ctx context.Context, in *usageInput) (*streamed, error) {
	by, names, err := groupsOf(in.GroupBy)
	if err != nil {
		return nil, err
	}
	var rows []db.Usage
	report := UsageReport{Data: []Usage{}}
	filter, ok := in.rows()
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		t, err := tx.TenantGet(ctx)
		if err != nil || !ok {
			return err
		}
		report.TimeZone = t.TimeZone
		rows, err = tx.UsageList(ctx, by, filter, t.TimeZone)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(rows) >= db.UsageRowsMax {
		return nil, invalidAt("query.since", fmt.Sprintf("expected a shorter time, or fewer groups: there are more than %d rows", db.UsageRowsMax-1))
	}
	sum := new(big.Int)
	for _, r := range rows {
		u := toUsage(r)
		report.Data = append(report.Data, u)
		report.Totals.Calls += u.Calls
		report.Totals.add(u.Tokens)
		sum.Add(sum, picoOf(r.CostPico))
	}
	report.Totals.CostUSD = usd(sum)
	if wantsCSV(in.Accept) {
		return csvFile("usage.csv", "", usageRecords(names, report.Data)), nil
	}
	return jsonBody(report), nil
}

func (a *API) entryList(ctx context.Context, in *entryListInput) (*streamed, error) {
	page, err := in.Page.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Entry
	if filter, ok := in.UsageFilter.rows(); ok {
		err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
			rows, err = tx.EntryList(ctx, filter, page)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	out := pageOf(rows, in.Limit, toEntry, func(e db.Entry) string { return byID(e.ID) })
	if wantsCSV(in.Accept) {
		return csvFile("usage_entries.csv", out.Body.NextCursor, entryRecords(out.Body.Data)), nil
	}
	return jsonBody(out.Body), nil
}

// jsonBody writes an answer as Huma would.
func jsonBody(v any) *streamed {
	return &streamed{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", "application/json")
		ctx.SetStatus(http.StatusOK)
		encoder := json.NewEncoder(ctx.BodyWriter())
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(v) // to a connection that is gone there is nothing to say
	}}
}
