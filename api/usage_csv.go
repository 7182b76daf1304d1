package api

import (
	"encoding/csv"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const csvType = "text/csv"

// wantsCSV says whether the caller prefers CSV to JSON: it is named, with a weight above 0 and not below that of JSON.
func wantsCSV(accept string) bool {
	weights := map[string]float64{}
	for one := range strings.SplitSeq(accept, ",") {
		kind, parameters, err := mime.ParseMediaType(strings.TrimSpace(one))
		if err != nil {
			continue
		}
		weight := 1.0
		if q, err := strconv.ParseFloat(parameters["q"], 64); err == nil {
			weight = q
		}
		weights[kind] = weight
	}
	return weights[csvType] > 0 && weights[csvType] >= weights["application/json"]
}

// csvFile answers records as a file. next, if not "", is the cursor of the page after it.
func csvFile(name, next string, records [][]string) *streamed {
	return &streamed{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", csvType+"; charset=utf-8; header=present")
		ctx.SetHeader("Content-Disposition", `attachment; filename="`+name+`"`)
		if next != "" {
			u := ctx.URL()
			query := u.Query()
			query.Set("cursor", next)
			ctx.SetHeader("Link", "<"+u.Path+"?"+query.Encode()+`>; rel="next"`)
		}
		ctx.SetStatus(http.StatusOK)
		w := csv.NewWriter(ctx.BodyWriter())
		for _, record := range records {
			for i := range record {
				record[i] = harmless(record[i])
			}
			_ = w.Write(record) // what a gone connection does not take is nobody's loss
		}
		w.Flush()
	}}
}

// harmless keeps a spreadsheet from taking a field for a formula: what begins as one gets an apostrophe before it (OWASP, CSV injection). A
// negative amount is a number, and stays one.
func harmless(field string) string {
	if field == "" || !strings.ContainsRune("=+-@\t\r\n", rune(field[0])) {
		return field
	}
	if field[0] == '-' && strings.Trim(field[1:], "0123456789.") == "" {
		return field
	}
	return "'" + field
}

// tokenColumns are the names of what tokenFields writes.
var tokenColumns = []string{
	"input_tokens", "output_tokens", "input_uncached", "input_cache_read", "input_cache_write_5m", "input_cache_write_1h", "output_visible", "output_reasoning",
}

func tokenFields(t Tokens) []string {
	var fields []string
	for _, n := range []int64{
		t.InputTokens, t.OutputTokens, t.InputUncached, t.InputCacheRead, t.InputCacheWrite5m, t.InputCacheWrite1h, t.OutputVisible, t.OutputReasoning,
	} {
		fields = append(fields, strconv.FormatInt(n, 10))
	}
	return fields
}

// usageRecords has a column for each group that was asked for, in that order.
func usageRecords(groups []string, rows []Usage) [][]string {
	column := map[string]struct {
		name string
		of   func(Usage) string
	}{
		"day":        {"day", func(u Usage) string { return u.Day }},
		"endpoint":   {"endpoint_id", func(u Usage) string { return u.EndpointID }},
		"automation": {"automation_id", func(u Usage) string { return u.AutomationID }},
		"model":      {"model", func(u Usage) string { return u.Model }},
	}
	var head []string
	for _, g := range groups {
		head = append(head, column[g].name)
	}
	records := [][]string{append(append(append(head, "calls"), tokenColumns...), "cost_usd")}
	for _, u := range rows {
		var record []string
		for _, g := range groups {
			record = append(record, column[g].of(u))
		}
		record = append(append(record, strconv.FormatInt(u.Calls, 10)), tokenFields(u.Tokens)...)
		records = append(records, append(record, u.CostUSD))
	}
	return records
}

func entryRecords(rows []Entry) [][]string {
	head := []string{
		"id", "kind", "at", "call_id", "run_id", "event_id", "endpoint_id", "automation_id", "automation_version", "provider", "model_asked",
		"model_served", "price_id",
	}
	records := [][]string{append(append(head, tokenColumns...), "amount_usd")}
	for _, e := range rows {
		record := []string{
			e.ID, e.Kind, e.At.Format(time.RFC3339Nano), e.CallID, e.RunID, e.EventID, e.EndpointID, e.AutomationID, strconv.Itoa(e.AutomationVersion),
			e.Provider, e.ModelAsked, e.ModelServed, strconv.FormatInt(e.PriceID, 10),
		}
		records = append(records, append(append(record, tokenFields(e.Tokens)...), e.AmountUSD))
	}
	return records
}
