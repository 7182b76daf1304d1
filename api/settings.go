package api

import (
	"encoding/json"

	"sluice/api/source"
	"sluice/db"
)

// orderSettings says what every source's endpoint can have beside the source's own, for a person.
var orderSettings = []source.Setting{
	{Name: "order", Help: "none: every event on its own; latest: of an entity's events only the newest is worked, a burst is folded into its last; " +
		"serial: an entity's events one after another; else none"},
	{Name: "order_window_seconds", Help: "with latest: how long a run waits for the rest of a burst, 0 to 300; else 2"},
	{Name: "order_dead", Help: "with serial: pass lets the next of an entity go on after a dead run, block does not; else pass"},
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
