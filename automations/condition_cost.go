package automations

import (
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types/ref"
)

// bytesPerCost is how much of a text one unit of cost reads or makes, as in the library's own cost model.
const bytesPerCost = 10

// dynamicCost charges for the calls on values whose type is known at run time only, which is all of the payload. The
// library finds no overload for such a call and charges 1, however long the texts are (common/cost/tracker.go: CostCall).
type dynamicCost struct{}

// CallCost is the library's hook; nil leaves a call to the library's own model.
func (dynamicCost) CallCost(function, overload string, args []ref.Val, result ref.Val) *uint64 {
	deep := function == operators.Equals || function == operators.NotEquals || function == operators.In
	if overload != "" && !deep {
		return nil
	}
	left := bytesPerCost * conditionCostMax
	cost := uint64(1) + textCost(result)
	for _, arg := range args {
		if deep {
			cost += deepCost(arg, &left)
		} else {
			cost += textCost(arg)
		}
	}
	return &cost
}

// textCost is the cost of reading v where it is a text, and 0 for all else.
func textCost(v ref.Val) uint64 {
	if v == nil {
		return 0
	}
	switch v := v.Value().(type) {
	case string:
		return uint64(len(v) / bytesPerCost)
	case []byte:
		return uint64(len(v) / bytesPerCost)
	}
	return 0
}

// deepCost is the cost of reading all of v. It stops to count once left is used up.
func deepCost(v any, left *int) uint64 {
	if *left--; *left < 0 {
		return 1
	}
	cost := uint64(1)
	switch v := v.(type) {
	case ref.Val:
		return deepCost(v.Value(), left)
	case string:
		cost += uint64(len(v) / bytesPerCost)
	case []byte:
		cost += uint64(len(v) / bytesPerCost)
	case []any:
		for _, item := range v {
			cost += deepCost(item, left)
		}
	case []ref.Val:
		for _, item := range v {
			cost += deepCost(item, left)
		}
	case map[string]any:
		for _, item := range v {
			cost += deepCost(item, left)
		}
	case map[ref.Val]ref.Val:
		for _, item := range v {
			cost += deepCost(item, left)
		}
	}
	return cost
}

// longestText answers the bytes of the longest string in v.
func longestText(v any) int {
	longest := 0
	switch v := v.(type) {
	case string:
		return len(v)
	case []any:
		for _, item := range v {
			longest = max(longest, longestText(item))
		}
	case map[string]any:
		for key, item := range v {
			longest = max(longest, len(key), longestText(item))
		}
	}
	return longest
}
