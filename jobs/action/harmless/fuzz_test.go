package harmless_test

import (
	"testing"

	"sluice/jobs/action/harmless"
)

// fuzz looks for a text that stays harmful in the format of that place.
func fuzz(f *testing.F, which int) {
	f.Helper()
	for _, attack := range attacks {
		f.Add(attack, uint16(0))
	}
	f.Add("@user [a](https://good.example) and more of it, as long as it takes", uint16(30))
	f.Fuzz(func(t *testing.T, text string, limit uint16) {
		r := harmless.Rules{Links: rules.Links, Max: int(limit)}
		if limit == 0 {
			r.Max = rules.Max
		}
		formats[which].check(t, text, r)
	})
}

func FuzzMarkdown(f *testing.F) { fuzz(f, 0) }
func FuzzSlack(f *testing.F)    { fuzz(f, 1) }
func FuzzHTML(f *testing.F)     { fuzz(f, 2) }
func FuzzPlain(f *testing.F)    { fuzz(f, 3) }
func FuzzLine(f *testing.F)     { fuzz(f, 4) }
