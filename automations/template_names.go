package automations

import (
	"slices"
	"strings"
)

// The kinds of a lexical part of a Liquid expression.
type lexKind int

const (
	lexName     lexKind = iota // a variable, a filter, an operator word
	lexKeyword                 // name: before the arguments of a filter, or a loop's modifier
	lexProperty                // .name
	lexLiteral
	lexMark // any other character
)

type lexPart struct {
	kind lexKind
	text string
}

// lexExpression splits an expression as the library's scanner does (expressions/scanner.rl), since the library keeps no
// tree of an expression that could be asked for its names.
func lexExpression(source string) []lexPart {
	var parts []lexPart
	for i := 0; i < len(source); {
		switch c := source[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f':
			i++
		case c == '"' || c == '\'':
			end := strings.IndexByte(source[i+1:], c)
			if end < 0 {
				return parts
			}
			parts = append(parts, lexPart{lexLiteral, source[i : i+end+2]})
			i += end + 2
		case nameStart(c):
			end := nameEnd(source, i)
			kind := lexName
			text := source[i:end]
			if end < len(source) && source[end] == ':' {
				kind = lexKeyword
				end++
			}
			parts = append(parts, lexPart{kind, text})
			i = end
		case c == '.' && i+1 < len(source) && nameStart(source[i+1]):
			end := nameEnd(source, i+1)
			parts = append(parts, lexPart{lexProperty, source[i+1 : end]})
			i = end
		case c >= '0' && c <= '9':
			parts = append(parts, lexPart{lexLiteral, source[i : i+1]})
			i++
		default:
			parts = append(parts, lexPart{lexMark, source[i : i+1]})
			i++
		}
	}
	return parts
}

func nameStart(c byte) bool {
	return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
}

func nameEnd(source string, i int) int {
	for i < len(source) && (nameStart(source[i]) || source[i] == '-' || (source[i] >= '0' && source[i] <= '9')) {
		i++
	}
	if i < len(source) && source[i] == '?' {
		i++
	}
	return i
}

// wordOperators are names that are no variables.
var wordOperators = []string{"and", "contains", "false", "in", "nil", "or", "reversed", "true"}

// eventFields and loopFields are what a template can read of event and forloop.
var (
	eventFields = []string{
		"endpoint_id", "entity", "id", "occurred_at", "received_at", "source", "source_event_id", "test", "type",
	}
	loopFields = []string{"first", "index", "index0", "last", "length", "rindex", "rindex0"}
)

// checkNames checks every filter, variable and field of event that an expression or a tag names.
func (c *checker) checkNames(source string, line, column int) {
	parts := lexExpression(source)
	for i, part := range parts {
		isFilter := i > 0 && parts[i-1] == lexPart{lexMark, "|"}
		switch {
		case isFilter:
			c.checkFilter(part.text, line, column)
		case part.kind != lexName || slices.Contains(wordOperators, part.text):
		case part.text == "event" && i+1 < len(parts) && parts[i+1].kind == lexProperty:
			c.checkField("event", parts[i+1].text, eventFields, line, column)
		case part.text == "forloop" && i+1 < len(parts) && parts[i+1].kind == lexProperty:
			c.checkField("forloop", parts[i+1].text, loopFields, line, column)
		case part.text == "forloop", slices.Contains(c.roots, part.text), c.made[part.text]:
		default:
			c.report(line, column, "unknown variable %s; given are %s", quoted(part.text), strings.Join(c.roots, ", "))
		}
	}
}

func (c *checker) checkFilter(name string, line, column int) {
	if _, ok := filters[name]; ok {
		if !slices.Contains(c.filters, name) {
			c.filters = append(c.filters, name)
		}
		return
	}
	hint := ""
	if name == "safe" || name == "raw" {
		hint = "; nothing can take a value out of its fence"
	}
	c.report(line, column, "unknown filter %s%s; available are %s", quoted(name), hint, strings.Join(filterNames, ", "))
}

func (c *checker) checkField(of, name string, fields []string, line, column int) {
	if !slices.Contains(fields, name) {
		c.report(line, column, "%s has no field %s; it has %s", of, quoted(name), strings.Join(fields, ", "))
	}
}
