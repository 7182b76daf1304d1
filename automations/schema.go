package automations

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	// schemaURL is the name under which the schema is compiled. Nothing is ever loaded from it or from anywhere else.
	schemaURL = "https://output-schema.invalid/schema"

	// schemaDraft is the only dialect taken.
	schemaDraft = "https://json-schema.org/draft/2020-12/schema"

	// schemaNodesMax bounds the subschemas of a schema with every $ref written out, and so the work of one validation.
	schemaNodesMax = 2000

	schemaFaultsMax = 10
)

// An outputSchema is a compiled JSON Schema.
type outputSchema struct{ compiled *jsonschema.Schema }

// refuse is a loader that loads nothing: no URL and no file.
type refuse struct{}

func (refuse) Load(string) (any, error) {
	return nil, errors.New("expected a reference within the schema (#/$defs/...)")
}

// compileSchema answers nil where there is no schema, or where there was a fault.
func compileSchema(raw json.RawMessage, fault faulter) *outputSchema {
	const place = "output_schema"
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	if len(raw) > schemaBytesMax {
		fault(place, "expected at most %d bytes, got %d", schemaBytesMax, len(raw))
		return nil
	}
	doc, err := decodeJSON(raw)
	if errors.Is(err, ErrTooDeep) {
		fault(place, "%v", err)
		return nil
	}
	root, ok := doc.(map[string]any)
	if err != nil || !ok {
		fault(place, "expected a JSON object%s", syntaxOffset(err))
		return nil
	}
	found := 0
	count := func(place, format string, args ...any) {
		found++
		fault(place, format, args...)
	}
	if root["type"] != "object" {
		count(place+"/type", `expected "object": the model answers with one object`)
	}
	if !numbersExact(doc) {
		count(place, "a number is too long or too large")
	}
	checkKeywords(place, root, true, count)
	if found > 0 {
		return nil
	}
	return compileDocument(place, doc, fault)
}

func compileDocument(place string, doc any, fault faulter) *outputSchema {
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(refuse{})
	compiler.AssertFormat()
	if err := compiler.AddResource(schemaURL, doc); err != nil {
		fault(place, "%v", err)
		return nil
	}
	compiled, err := compiler.Compile(schemaURL)
	if err != nil {
		schemaFaults(place, err, fault)
		return nil
	}
	switch n := unrolled(compiled, map[*jsonschema.Schema]int{}); {
	case n < 0:
		fault(place, "a $ref leads back to itself; expected a schema without recursion")
		return nil
	case n > schemaNodesMax:
		fault(place, "expected at most %d subschemas with every $ref written out", schemaNodesMax)
		return nil
	}
	return &outputSchema{compiled: compiled}
}

// literalKeywords hold values, in which a key is no keyword.
var literalKeywords = map[string]bool{"const": true, "default": true, "enum": true, "examples": true}

// namedKeywords hold schemas by names of the author's choice, so that their keys are no keywords.
var namedKeywords = map[string]bool{
	"$defs": true, "definitions": true, "dependentSchemas": true, "patternProperties": true, "properties": true,
}

// checkKeywords refuses what would lead out of the document, with the place where it stands.
func checkKeywords(place string, schema map[string]any, root bool, fault faulter) {
	for _, key := range sortedKeys(schema) {
		at, value := place+"/"+key, schema[key]
		switch text, _ := value.(string); {
		case key == "$ref" && !strings.HasPrefix(text, "#"):
			fault(at, "expected a reference within the schema (#/$defs/...)")
		case key == "$dynamicRef", key == "$dynamicAnchor", key == "$recursiveRef", key == "$vocabulary":
			fault(at, "%s is not available", key)
		case key == "$schema" && (!root || strings.TrimSuffix(text, "#") != schemaDraft):
			fault(at, "expected %s, or nothing", schemaDraft)
		case key == "$id":
			fault(at, "$id is not available: the schema stands alone")
		case literalKeywords[key]:
		default:
			checkSubschemas(at, value, namedKeywords[key], fault)
		}
	}
}

func checkSubschemas(place string, value any, named bool, fault faulter) {
	switch value := value.(type) {
	case map[string]any:
		if !named {
			checkKeywords(place, value, false, fault)
			return
		}
		for _, name := range sortedKeys(value) {
			checkSubschemas(place+"/"+name, value[name], false, fault)
		}
	case []any:
		for i, item := range value {
			checkSubschemas(place+"/"+itoa(i), item, false, fault)
		}
	}
}

// schemaFaults turns the compiler's error into faults with their places.
func schemaFaults(place string, err error, fault faulter) {
	var (
		invalid *jsonschema.SchemaValidationError
		regex   *jsonschema.InvalidRegexError
		load    *jsonschema.LoadURLError
	)
	switch {
	case errors.As(err, &invalid):
		var cause *jsonschema.ValidationError
		if !errors.As(invalid.Err, &cause) {
			fault(place, "%v", err)
			return
		}
		seen := map[string]bool{} // one fault for each place, the first
		leaves(cause, func(leaf *jsonschema.ValidationError) {
			at := place + pointer(leaf.InstanceLocation)
			if !seen[at] && len(seen) < schemaFaultsMax {
				seen[at] = true
				fault(at, "%s", leaf.ErrorKind.LocalizedString(english))
			}
		})
	case errors.As(err, &regex):
		_, at, _ := strings.Cut(regex.URL, "#")
		fault(place+at, "expected a regular expression of RE2: %v", regex.Err)
	case errors.As(err, &load):
		fault(place, "expected references within the schema (#/$defs/...) only")
	default:
		fault(place, "%s", strings.ReplaceAll(err.Error(), schemaURL, ""))
	}
}

// leaves visits every complaint that has no cause of its own.
func leaves(e *jsonschema.ValidationError, visit func(*jsonschema.ValidationError)) {
	if len(e.Causes) == 0 {
		visit(e)
	}
	for _, cause := range e.Causes {
		leaves(cause, visit)
	}
}

// unrolled answers how many subschemas s has with every $ref written out, capped, or -1 where a $ref leads back to itself.
// known holds what was counted, and -1 for what is being counted.
func unrolled(s *jsonschema.Schema, known map[*jsonschema.Schema]int) int {
	if n, ok := known[s]; ok {
		return n
	}
	known[s] = -1
	total := 1
	for _, sub := range subschemas(s) {
		n := unrolled(sub, known)
		if n < 0 {
			return -1
		}
		total = min(total+n, math.MaxInt32)
	}
	known[s] = total
	return total
}

// subschemas answers every schema that validating by s may validate by.
func subschemas(s *jsonschema.Schema) []*jsonschema.Schema {
	subs := []*jsonschema.Schema{
		s.Ref, s.RecursiveRef, s.Not, s.If, s.Then, s.Else, s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020,
		s.UnevaluatedItems, s.ContentSchema,
	}
	subs = append(subs, s.AllOf...)
	subs = append(subs, s.AnyOf...)
	subs = append(subs, s.OneOf...)
	subs = append(subs, s.PrefixItems...)
	for _, sub := range s.Properties {
		subs = append(subs, sub)
	}
	for _, sub := range s.PatternProperties {
		subs = append(subs, sub)
	}
	for _, sub := range s.DependentSchemas {
		subs = append(subs, sub)
	}
	for _, sub := range s.Dependencies {
		subs = append(subs, oneOrMore(sub)...)
	}
	subs = append(subs, oneOrMore(s.AdditionalProperties)...)
	subs = append(subs, oneOrMore(s.AdditionalItems)...)
	subs = append(subs, oneOrMore(s.Items)...)
	kept := subs[:0]
	for _, sub := range subs {
		if sub != nil {
			kept = append(kept, sub)
		}
	}
	return kept
}

// oneOrMore reads the fields of a compiled schema that hold a schema, several, or something else.
func oneOrMore(v any) []*jsonschema.Schema {
	switch v := v.(type) {
	case *jsonschema.Schema:
		return []*jsonschema.Schema{v}
	case []*jsonschema.Schema:
		return v
	}
	return nil
}
