package automations

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A faulter takes one fault.
type faulter func(place, format string, args ...any)

// modelRE is the shape of a model's name. Which providers and models exist is known elsewhere. A model's own name may hold
// slashes (OpenRouter), colons and at signs (Bedrock, Vertex).
var modelRE = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}/[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$`)

func checkName(name string, fault faulter) {
	switch n := utf8.RuneCountInString(name); {
	case !utf8.ValidString(name):
		fault("name", "expected valid UTF-8")
	case strings.TrimSpace(name) == "" || n > nameRunesMax:
		fault("name", "expected 1 to %d characters, got %d", nameRunesMax, n)
	case strings.ContainsFunc(name, unicode.IsControl):
		fault("name", "expected no control characters")
	}
}

func checkModels(model string, fallbacks []string, fault faulter) {
	if !modelRE.MatchString(model) {
		fault("model", "expected provider/model, such as anthropic/claude-sonnet-4-5, got %s", quoted(model))
	}
	if len(fallbacks) > fallbacksMax {
		fault("fallbacks", "expected at most %d, got %d", fallbacksMax, len(fallbacks))
		return
	}
	for i, f := range fallbacks {
		place := "fallbacks/" + itoa(i)
		switch {
		case !modelRE.MatchString(f):
			fault(place, "expected provider/model, such as openai/gpt-5-mini, got %s", quoted(f))
		case f == model || slices.Contains(fallbacks[:i], f):
			fault(place, "%s is named already", quoted(f))
		}
	}
}

func checkMode(mode string, fault faulter) {
	switch mode {
	case ModeShadow, ModeReview, ModeLive:
	default:
		fault("mode", "expected shadow, review or live, got %s", quoted(mode))
	}
}

// quotedRunesMax bounds what a message repeats of the author's own text.
const quotedRunesMax = 60

// quoted shows a piece of the author's text inside a message.
func quoted(s string) string {
	if r := []rune(s); len(r) > quotedRunesMax {
		s = string(r[:quotedRunesMax]) + "…"
	}
	return `"` + strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s) + `"`
}
