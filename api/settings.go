package api

import (
	"encoding/json"

	"sluice/api/source"
)

// orderSetting is the one setting that every source's endpoint has; the rest is the source's own.
const orderSetting = "order"

// orderNone is the order in which every event stands on its own.
const orderNone = "none"

// orderSettings says what splitSettings reads itself, for a person.
var orderSettings = []source.Setting{
	{Name: orderSetting, Help: "none: every event on its own"},
}

// splitSettings checks an endpoint's settings: ours here, the rest by the source. It returns the source's part, compiled.
func splitSettings(s source.Source, raw json.RawMessage) (source.Settings, []source.Fault) {
	fields := map[string]json.RawMessage{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, []source.Fault{{Place: "", Message: "expected an object"}}
		}
	}
	var faults []source.Fault
	if value, ok := fields[orderSetting]; ok {
		var order string
		if err := json.Unmarshal(value, &order); err != nil || order != orderNone {
			faults = append(faults, source.Fault{Place: orderSetting, Message: `expected "none": "latest" and "serial" are not available yet`})
		}
		delete(fields, orderSetting)
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, append(faults, source.Fault{Place: "", Message: "expected an object"})
	}
	settings, more := s.ParseSettings(rest)
	return settings, append(faults, more...)
}
