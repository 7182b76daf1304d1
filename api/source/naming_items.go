package source

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// list gives the items of an expression, of which there have to be some.
func (v *view) list(e *expression) ([]ref.Val, error) {
	lister, ok := v.eval(e).(traits.Lister)
	if !ok {
		return nil, refuse(ReasonPayloadMalformed, "the expression items gave no list")
	}
	size, ok := lister.Size().(types.Int)
	if !ok || size < 1 || size > eventsMax {
		return nil, refuse(ReasonPayloadMalformed, fmt.Sprintf("the expression items must give 1 to %d events", eventsMax))
	}
	items := make([]ref.Val, size)
	for i := range items {
		items[i] = lister.Get(types.Int(i))
	}
	return items, nil
}

// document writes an item as JSON: digit for digit as it stood in the delivery, where it stood there.
func (o opener) document(item ref.Val) ([]byte, error) {
	plain, ok := o.plain(item)
	if !ok {
		return nil, refuse(ReasonPayloadMalformed, "the expression items must give what JSON can hold")
	}
	document, err := json.Marshal(plain)
	if err != nil { // a float that is not a number
		return nil, refuse(ReasonPayloadMalformed, "the expression items must give what JSON can hold")
	}
	return document, nil
}

// plain gives the value of an item for encoding/json.
func (o opener) plain(item ref.Val) (value any, ok bool) {
	if seen, isObject := item.Value().(map[string]any); isObject {
		if known, found := o[identity(seen)]; found {
			return known.written, true
		}
	}
	switch v := item.(type) {
	case types.Null:
		return nil, true
	case types.Bool, types.String, types.Int, types.Uint, types.Double:
		return v.Value(), true
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano), true
	case traits.Mapper:
		return o.plainObject(v)
	case traits.Lister:
		return o.plainArray(v)
	default:
		return nil, false
	}
}

func (o opener) plainObject(v traits.Mapper) (value any, ok bool) {
	out := map[string]any{}
	for names := v.Iterator(); names.HasNext() == types.True; {
		name := names.Next()
		text, isText := name.(types.String)
		inner, fits := o.plain(v.Get(name))
		if !isText || !fits {
			return nil, false
		}
		out[string(text)] = inner
	}
	return out, true
}

func (o opener) plainArray(v traits.Lister) (value any, ok bool) {
	out := []any{}
	for items := v.Iterator(); items.HasNext() == types.True; {
		inner, fits := o.plain(items.Next())
		if !fits {
			return nil, false
		}
		out = append(out, inner)
	}
	return out, true
}

// identity tells objects apart that are alive.
func identity(object map[string]any) uintptr { return reflect.ValueOf(object).Pointer() }
