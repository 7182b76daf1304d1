package jobs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	"sluice/automations"
)

// diffBytesMax bounds the diff that is kept of an edit.
const diffBytesMax = 64 << 10

// outputOf reads an output that a person gave, as if the model had answered it.
func outputOf(automation *automations.Compiled, given json.RawMessage) (any, error) {
	if len(automation.Spec().OutputSchema) > 0 {
		return automation.Output(string(given))
	}
	var text string
	if json.Unmarshal(given, &text) != nil {
		return nil, &automations.OutputError{Message: "expected a text, since the automation has no output schema"}
	}
	return automation.Output(text)
}

// written writes the run's output and another one as people read them: a text as it is, JSON with a line for each value.
func written(automation *automations.Compiled, kept json.RawMessage, other any) (before, after string, err error) {
	was, err := outputOf(automation, kept)
	if err != nil {
		return "", "", fmt.Errorf("read the run's output: %s", err.Error()) //nolint:errorlint // it is our fault, and not one of the person's output
	}
	if before, err = readable(was); err != nil {
		return "", "", err
	}
	after, err = readable(other)
	return before, after, err
}

func readable(output any) (string, error) {
	if text, ok := output.(string); ok {
		return text, nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(output); err != nil {
		return "", fmt.Errorf("write the output: %w", err)
	}
	return out.String(), nil
}

// differ says how two texts that are not the same differ: line by line, and which part of all characters of both was taken out or put in.
func differ(before, after string) (diff string, changed float64) {
	diff = udiff.Unified("model", "person", before, after)
	if len(diff) > diffBytesMax {
		diff = strings.ToValidUTF8(diff[:diffBytesMax], "") + "\n[cut]\n"
	}
	moved := 0
	for _, edit := range udiff.Strings(before, after) {
		moved += utf8.RuneCountInString(before[edit.Start:edit.End]) + utf8.RuneCountInString(edit.New)
	}
	return diff, float64(moved) / float64(utf8.RuneCountInString(before)+utf8.RuneCountInString(after))
}
