package api

import (
	"encoding/csv"
	"mime"
	"net/http"
	"regexp"
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

// A number may begin with a minus; nothing else that could be a formula may stay as it is.
var plainNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)

// formulaBegins finds where a spreadsheet could begin to read a formula: at the start of a field, behind what it skips there (spaces, control and
// format characters), or behind what it may take for the end of a cell, where it splits by something other than commas. The signs have full-width
// forms that some take for the same.
var formulaBegins = regexp.MustCompile(`(^|[;|\t\r\n])([\p{Z}\p{C}'"]*)([=+\-@＝＋－＠﹢﹣﹦﹫−])`)

// controlBegins is a field that begins with a character which some readers cut off.
var controlBegins = regexp.MustCompile(`^\p{C}`)

// harmless keeps a spreadsheet from taking a field, or a part of one, for a formula: what begins as one gets an apostrophe before it (OWASP, CSV
// injection).
func harmless(field string) string {
	if plainNumber.MatchString(field) {
		return field
	}
	safe := formulaBegins.ReplaceAllString(field, "$1'$2$3")
	if controlBegins.MatchString(safe) {
		return "'" + safe
	}
	return safe
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

// usageRecords has the columns of each group that was asked for, in that order.
func usageRecords(groups []string, rows []Usage) [][]string {
	type column struct {
		name string
		of   func(Usage) string
	}
	known := map[string][]column{
		"day":          {{"day", func(u Usage) string { return u.Day }}},
		"endpoint":     {{"endpoint_id", func(u Usage) string { return u.EndpointID }}, {"endpoint_name", func(u Usage) string { return u.EndpointName }}},
		"automation":   {{"automation_id", func(u Usage) string { return u.AutomationID }}, {"automation_name", func(u Usage) string { return u.AutomationName }}},
		"model":        {{"model", func(u Usage) string { return u.Model }}},
		"model_served": {{"model_served", func(u Usage) string { return u.ModelServed }}},
		"kind":         {{"kind", func(u Usage) string { return u.Kind }}},
	}
	var columns []column
	var head []string
	for _, g := range groups {
		for _, c := range known[g] {
			columns, head = append(columns, c), append(head, c.name)
		}
	}
	records := [][]string{append(append(append(head, "calls"), tokenColumns...), "cost_usd")}
	for _, u := range rows {
		var record []string
		for _, c := range columns {
			record = append(record, c.of(u))
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
	records := [][]string{append(append(head, tokenColumns...), "amount_usd", "note")}
	for _, e := range rows {
		record := []string{
			e.ID, e.Kind, e.At.Format(time.RFC3339Nano), e.CallID, e.RunID, e.EventID, e.EndpointID, e.AutomationID, strconv.Itoa(e.AutomationVersion),
			e.Provider, e.ModelAsked, e.ModelServed, strconv.FormatInt(e.PriceID, 10),
		}
		records = append(records, append(append(record, tokenFields(e.Tokens)...), e.AmountUSD, e.Note))
	}
	return records
}
