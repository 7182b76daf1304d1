package llm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A dialect is the part of JSON Schema that a provider's structured output can enforce. Both know types, properties, items, enum,
// const, anyOf, $ref and $defs, demand additionalProperties: false, and refuse bounds, patterns and most of the rest with a 400. We
// derive what they can hold a model to, move the rest into the description where the model reads it, and the caller validates the
// reply against the tenant's own schema in any case.
//
// Properties come in alphabetical order, since encoding/json sorts them.
type dialect struct {
	// allRequired: every property has to be required (OpenAI's strict mode). An optional one becomes required and nullable, and
	// withoutAddedNulls takes the nulls out again.
	allRequired bool
	// rootObject: the root has to be an object.
	rootObject bool
	// blind: below anyOf or $defs, where withoutAddedNulls does not see, and nothing optional may be made nullable.
	blind bool
}

var (
	dialectAnthropic = dialect{}
	dialectOpenAI    = dialect{allRequired: true, rootObject: true}
)

// schemaDepthMax bounds the nesting of a schema that we derive from; OpenAI's own limit is 10.
const schemaDepthMax = 10

// derive returns the schema in the dialect; ok is false where it cannot be said there (maps with free keys, tuples, conditions,
// conjunctions, schemas without a type), and the caller asks without enforcement.
func (d dialect) derive(raw json.RawMessage) (derived map[string]any, ok bool) {
	var schema map[string]any
	if decode(raw, &schema) != nil {
		return nil, false
	}
	if d.rootObject && schema["type"] != "object" {
		return nil, false
	}
	return d.node(schema, 0)
}

// Keywords that a node keeps as they are, those that change nothing about what is valid, and those that only narrow it.
var (
	schemaKept     = []string{"type", "enum", "const", "$ref"}
	schemaIgnored  = []string{"$schema", "$id", "$comment", "title", "default", "examples", "deprecated", "readOnly", "writeOnly"}
	schemaNarrowed = []string{
		"minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
		"minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
	}
)

func (d dialect) node(schema map[string]any, depth int) (map[string]any, bool) {
	if depth > schemaDepthMax {
		return nil, false
	}
	out := map[string]any{}
	var notes []string
	for _, keyword := range slices.Sorted(maps.Keys(schema)) {
		value, ok := schema[keyword], true
		switch {
		case keyword == "description":
			text, _ := value.(string)
			notes = append([]string{text}, notes...)
		case slices.Contains(schemaKept, keyword):
			out[keyword] = value
		case slices.Contains(schemaNarrowed, keyword):
			notes = append(notes, fmt.Sprintf("%s: %v.", keyword, value))
		case slices.Contains(schemaIgnored, keyword):
		case keyword == "anyOf" || keyword == "oneOf":
			out["anyOf"], ok = d.unseen().list(value, depth)
			ok = ok && (schema["anyOf"] == nil || schema["oneOf"] == nil)
		case keyword == "items":
			out["items"], ok = d.child(value, depth)
		case keyword == "$defs" || keyword == "definitions":
			out[keyword], ok = d.unseen().children(value, depth)
		case keyword == "properties" || keyword == "required" || keyword == "additionalProperties":
			// object below.
		default:
			ok = false
		}
		if !ok {
			return nil, false
		}
	}
	if out["$ref"] != nil && len(schema) > 1 {
		// Neither provider takes a $ref with neighbours, and its neighbours may matter.
		return nil, false
	}
	if out["type"] == nil && out["enum"] == nil && out["const"] == nil && out["anyOf"] == nil && out["$ref"] == nil {
		return nil, false
	}
	if isType(schema, "object") && !d.object(schema, out, depth) {
		return nil, false
	}
	if note := strings.TrimSpace(strings.Join(notes, " ")); note != "" {
		out["description"] = note
	}
	return out, true
}

// object fills in the keywords of an object. An object whose properties are not all named cannot be said.
func (d dialect) object(schema, out map[string]any, depth int) bool {
	properties, named := schema["properties"].(map[string]any)
	if extra, set := schema["additionalProperties"]; !named || set && extra != false && extra != true {
		return false
	}
	derived, ok := d.children(properties, depth)
	if !ok {
		return false
	}
	required := stringsOf(schema["required"])
	for _, name := range required {
		if _, known := properties[name]; !known {
			return false
		}
	}
	if d.allRequired {
		for name, property := range derived {
			if !slices.Contains(required, name) && !allowsNull(properties[name]) {
				if d.blind {
					return false
				}
				derived[name] = map[string]any{"anyOf": []any{property, map[string]any{"type": "null"}}}
			}
		}
		required = slices.Sorted(maps.Keys(derived))
	}
	out["properties"], out["required"], out["additionalProperties"] = derived, required, false
	return true
}

func (d dialect) unseen() dialect {
	d.blind = true
	return d
}

func (d dialect) child(value any, depth int) (map[string]any, bool) {
	schema, ok := value.(map[string]any)
	if !ok {
		return nil, false
	}
	return d.node(schema, depth+1)
}

func (d dialect) children(value any, depth int) (map[string]any, bool) {
	schemas, ok := value.(map[string]any)
	out := make(map[string]any, len(schemas))
	for name, schema := range schemas {
		child, said := d.child(schema, depth)
		if !said {
			return nil, false
		}
		out[name] = child
	}
	return out, ok
}

func (d dialect) list(value any, depth int) ([]any, bool) {
	schemas, ok := value.([]any)
	out := make([]any, 0, len(schemas))
	for _, schema := range schemas {
		child, said := d.child(schema, depth)
		if !said {
			return nil, false
		}
		out = append(out, child)
	}
	return out, ok
}

// withoutAddedNulls takes out of a strict reply the nulls that stand for "absent": those of properties which the tenant's schema
// has as optional and not nullable. It looks through properties and items; below anyOf and $ref it leaves the reply as it is.
func withoutAddedNulls(raw json.RawMessage, text string) string {
	var schema map[string]any
	var value any
	if !strings.Contains(text, "null") || decode(raw, &schema) != nil || decode([]byte(text), &value) != nil || !dropNulls(schema, value) {
		return text
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return text
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// dropNulls reports whether it changed anything. Its depth is that of the schema, which derive has bounded.
func dropNulls(schema map[string]any, value any) (changed bool) {
	switch v := value.(type) {
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		required := stringsOf(schema["required"])
		for name, property := range properties {
			inner, present := v[name]
			child, _ := property.(map[string]any)
			if present && inner == nil && !slices.Contains(required, name) && !allowsNull(property) {
				delete(v, name)
				changed = true
			} else if child != nil && dropNulls(child, inner) {
				changed = true
			}
		}
	case []any:
		items, _ := schema["items"].(map[string]any)
		for _, inner := range v {
			if items != nil && dropNulls(items, inner) {
				changed = true
			}
		}
	}
	return changed
}

// allowsNull says whether a schema names null as valid at its own level.
func allowsNull(value any) bool {
	schema, _ := value.(map[string]any)
	if schema == nil {
		return true
	}
	if isType(schema, "null") {
		return true
	}
	for _, keyword := range []string{"anyOf", "oneOf"} {
		choices, _ := schema[keyword].([]any)
		if slices.ContainsFunc(choices, func(c any) bool { return c != nil && allowsNull(c) }) {
			return true
		}
	}
	values, enumerated := schema["enum"].([]any)
	return enumerated && schema["type"] == nil && slices.Contains(values, any(nil))
}

func isType(schema map[string]any, name string) bool {
	switch t := schema["type"].(type) {
	case string:
		return t == name
	case []any:
		return slices.Contains(t, any(name))
	}
	return false
}

func stringsOf(value any) []string {
	list, _ := value.([]any)
	out := make([]string, 0, len(list))
	for _, v := range list {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// decode keeps numbers as they are written.
func decode(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return fmt.Errorf("more than one JSON value")
	}
	return nil
}
