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

// outputOf reads an output that was given in place of another, as if the model had answered it. What is a text in one is a text in the other.
func outputOf(automation *automations.Compiled, kept, given json.RawMessage) (any, error) {
	if !bytes.HasPrefix(kept, []byte(`"`)) {
		return automation.Output(string(given))
	}
	var text string
	if json.Unmarshal(given, &text) != nil {
		return nil, &automations.OutputError{Message: "expected a text, since the automation has no output schema"}
	}
	return automation.Output(text)
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
