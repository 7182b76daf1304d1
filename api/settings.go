package api

import (
	"encoding/json"

	"sluice/api/source"
	"sluice/db"
)

// orderSettings says what every source's endpoint can have beside the source's own, for a person.
var orderSettings = []source.Setting{
	{Name: "order", Help: "none (the default): every event on its own; latest: what an automation has to do for an entity is done for its newest event, " +
		"and a burst is folded into its last; serial: an entity's events are worked one after another, in order"},
	{Name: "order_window_seconds", Help: "with latest: how long a run waits for the rest of a burst, 0 to 300; 2 if left out"},
	{Name: "order_dead", Help: "with serial: what a dead run means for those behind it: pass (the default) lets them go on, block does not until it is retried or cancelled"},
}

// splitSettings checks an endpoint's settings: the order here, the rest by the source. It returns the source's part, compiled.
func splitSettings(s source.Source, raw json.RawMessage) (source.Settings, db.Order, []source.Fault) {
	fields := map[string]json.RawMessage{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, db.Order{}, []source.Fault{{Place: "", Message: "expected an object"}}
		}
	}
	order, wrong := db.ParseOrder(fields)
	faults := make([]source.Fault, 0, len(wrong))
	for _, fault := range wrong {
		faults = append(faults, source.Fault(fault))
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, order, append(faults, source.Fault{Place: "", Message: "expected an object"})
	}
	settings, more := s.ParseSettings(rest)
	return settings, order, append(faults, more...)
}
