package action

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// fields reads an action object whose values are texts, and returns what it holds and what is wrong with it: no object, a
// kind other than the connector's, a field that is not known, a value that is no text.
func fields(params json.RawMessage, kind string, known ...string) (map[string]string, []Fault) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(params, &object); err != nil || object == nil {
		return nil, []Fault{{Place: "action", Message: "expected an object"}}
	}
	texts := map[string]string{}
	var faults []Fault
	for name, value := range object {
		place := "action." + name
		var text *string
		switch {
		case !slices.Contains(known, name):
			faults = append(faults, Fault{Place: place, Message: "expected one of " + strings.Join(known, ", ")})
		case json.Unmarshal(value, &text) != nil || text == nil:
			faults = append(faults, Fault{Place: place, Message: "expected a text"})
		default:
			texts[name] = *text
		}
	}
	if got, ok := texts["kind"]; ok && got != kind || !ok && object["kind"] == nil {
		faults = append(faults, Fault{Place: "action.kind", Message: fmt.Sprintf("expected %q", kind)})
	}
	slices.SortFunc(faults, func(a, b Fault) int { return strings.Compare(a.Place, b.Place) })
	return texts, faults
}
