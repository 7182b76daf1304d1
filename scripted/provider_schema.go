package scripted

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
)

// An instancer makes a small value that is valid under a JSON Schema, out of the words of a prompt. It knows what structured output
// knows: types, properties, items, enum, const, anyOf, oneOf, allOf, local $ref, and the simple bounds. What it does not know
// (patterns, conditions) it ignores.
type instancer struct {
	root  map[string]any
	words string
	steps int
}

const (
	instanceDepthMax = 24
	// instanceStepsMax bounds the whole: a schema that is a list of a hundred of itself grows beyond any depth.
	instanceStepsMax = 10_000
	instanceItemsMax = 100
	instanceBytesMax = 10_000
	instanceWords    = 12
)

// providerInstance is the JSON text of such a value; ok is false where schema is no object.
func providerInstance(schema json.RawMessage, prompt string) (text string, ok bool) {
	var root map[string]any
	if json.Unmarshal(schema, &root) != nil || root == nil {
		return "", false
	}
	in := &instancer{root: root, words: firstWords(prompt, instanceWords)}
	out, err := json.Marshal(in.value(root, 0))
	return string(out), err == nil
}

func (in *instancer) value(schema map[string]any, depth int) any {
	schema = in.resolved(schema, depth)
	if depth > instanceDepthMax || in.spent() {
		return nil
	}
	if c, set := schema["const"]; set {
		return c
	}
	if values, _ := schema["enum"].([]any); len(values) > 0 {
		return values[0]
	}
	switch in.typeOf(schema) {
	case "object":
		return in.object(schema, depth)
	case "array":
		return in.array(schema, depth)
	case "string":
		return in.text(schema)
	case "integer":
		return math.Ceil(in.number(schema))
	case "number":
		return in.number(schema)
	case "boolean":
		return true
	}
	return nil
}

// resolved follows $ref and chooses the first branch of anyOf or oneOf that is not null; allOf is laid over one another.
func (in *instancer) resolved(schema map[string]any, depth int) map[string]any {
	for range instanceDepthMax - min(depth, instanceDepthMax) {
		ref, isRef := schema["$ref"].(string)
		branch := in.branch(schema)
		parts, _ := schema["allOf"].([]any)
		switch {
		case in.spent():
			return schema
		case isRef:
			schema = in.lookup(ref)
		case branch != nil:
			schema = overlaid(schema, branch, "anyOf", "oneOf")
		case len(parts) > 0:
			for _, part := range parts {
				p, _ := part.(map[string]any)
				schema = overlaid(schema, in.resolved(p, depth+1), "allOf")
			}
		default:
			return schema
		}
	}
	return schema
}

func (in *instancer) spent() bool {
	in.steps++
	return in.steps > instanceStepsMax
}

func (in *instancer) branch(schema map[string]any) map[string]any {
	for _, keyword := range []string{"anyOf", "oneOf"} {
		branches, _ := schema[keyword].([]any)
		for _, b := range branches {
			if branch, _ := b.(map[string]any); branch != nil && branch["type"] != "null" {
				return branch
			}
		}
	}
	return nil
}

// overlaid is base with the keywords of top laid over it, properties and required joined, and without the keywords of drop.
func overlaid(base, top map[string]any, drop ...string) map[string]any {
	out := maps.Clone(base)
	for _, keyword := range drop {
		delete(out, keyword)
	}
	for keyword, value := range top {
		old, _ := out[keyword].(map[string]any)
		add, _ := value.(map[string]any)
		if keyword == "properties" && old != nil && add != nil {
			both := maps.Clone(old)
			maps.Copy(both, add)
			value = both
		}
		out[keyword] = value
	}
	return out
}

func (in *instancer) lookup(ref string) map[string]any {
	path, local := strings.CutPrefix(ref, "#")
	var at any = in.root
	for step := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if step == "" || !local {
			continue
		}
		node, _ := at.(map[string]any)
		at = node[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]
	}
	schema, _ := at.(map[string]any)
	return schema
}

// typeOf is the first type that is not null; a schema without one is known by its keywords.
func (in *instancer) typeOf(schema map[string]any) string {
	switch t := schema["type"].(type) {
	case string:
		return t
	case []any:
		for _, name := range t {
			if s, _ := name.(string); s != "null" {
				return s
			}
		}
		return "null"
	}
	switch {
	case schema["properties"] != nil || schema["required"] != nil:
		return "object"
	case schema["items"] != nil:
		return "array"
	}
	return "string"
}

func (in *instancer) object(schema map[string]any, depth int) map[string]any {
	out := map[string]any{}
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		child, _ := property.(map[string]any)
		// Deep in a recursive schema only what is required is filled in.
		if depth < instanceDepthMax/2 || slices.Contains(namesIn(schema["required"]), name) {
			out[name] = in.value(child, depth+1)
		}
	}
	free, _ := schema["additionalProperties"].(map[string]any)
	for _, name := range namesIn(schema["required"]) {
		if _, set := out[name]; !set {
			out[name] = in.value(free, depth+1)
		}
	}
	return out
}

func (in *instancer) array(schema map[string]any, depth int) []any {
	n := 1
	if depth >= instanceDepthMax/2 {
		n = 0
	}
	if least, set := schema["minItems"].(float64); set {
		n = max(n, int(min(least, instanceItemsMax)))
	}
	if most, set := schema["maxItems"].(float64); set {
		n = min(n, int(min(max(most, 0), instanceItemsMax)))
	}
	items, _ := schema["items"].(map[string]any)
	out := make([]any, 0, n)
	for range n {
		out = append(out, in.value(items, depth+1))
	}
	return out
}

// instanceFormats are valid strings of the formats that a model is asked for.
var instanceFormats = map[string]string{
	"date":      "2026-01-02",
	"date-time": "2026-01-02T03:04:05Z",
	"time":      "03:04:05Z",
	"email":     "someone@example.com",
	"uri":       "https://example.com/",
	"uuid":      "00000000-0000-4000-8000-000000000000",
	"ipv4":      "192.0.2.1",
}

func (in *instancer) text(schema map[string]any) string {
	format, _ := schema["format"].(string)
	if s, known := instanceFormats[format]; known {
		return s
	}
	s := []rune(in.words)
	if least, set := schema["minLength"].(float64); set {
		for len(s) < int(min(least, instanceBytesMax)) {
			s = append(s, '.')
		}
	}
	if most, set := schema["maxLength"].(float64); set && float64(len(s)) > max(most, 0) {
		s = s[:int(max(most, 0))]
	}
	return string(s)
}

func (in *instancer) number(schema map[string]any) float64 {
	n := 1.0
	if most, set := schema["maximum"].(float64); set {
		n = min(n, most)
	}
	if most, set := schema["exclusiveMaximum"].(float64); set && n >= most {
		n = most - 1
	}
	if least, set := schema["minimum"].(float64); set {
		n = max(n, least)
	}
	if least, set := schema["exclusiveMinimum"].(float64); set && n <= least {
		n = least + 1
	}
	if step, set := schema["multipleOf"].(float64); set && step > 0 {
		n = math.Ceil(n/step) * step
	}
	return n
}

func namesIn(value any) []string {
	list, _ := value.([]any)
	var names []string
	for _, v := range list {
		if s, ok := v.(string); ok {
			names = append(names, s)
		}
	}
	return names
}

// firstWords is the beginning of a text on one line, "nothing" for an empty one.
func firstWords(text string, n int) string {
	words := strings.Fields(text)
	if len(words) == 0 {
		return "nothing"
	}
	s := strings.Join(words[:min(n, len(words))], " ")
	return cut(s, instanceBytesMax)
}

// cut bounds a text in bytes, at a whole character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
