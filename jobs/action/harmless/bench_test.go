package harmless_test

import (
	"strings"
	"testing"

	"sluice/jobs/action/harmless"
)

// ordinary is 4 KiB of what a model writes on a good day.
var ordinary = strings.Repeat("The order was **shipped** on Monday, see https://good.example/orders/17 (or ask us).\n\n"+
	"- first: `x < y`\n- second, 5 € & more\n\n", 40)[:4<<10]

func BenchmarkFormats(b *testing.B) {
	for _, f := range formats {
		b.Run(f.name, func(b *testing.B) {
			r := harmless.Rules{Links: rules.Links, Max: rules.Max}
			b.SetBytes(int64(len(ordinary)))
			b.ReportAllocs()
			for b.Loop() {
				f.make(ordinary, r)
			}
		})
	}
}

// The worst that was thought of: what would be slow if anything were looked at again and again.
func BenchmarkHostile(b *testing.B) {
	const size = 16 << 10
	for name, piece := range map[string]string{
		"brackets": "]:", "labels": "https://good.example](", "fences": "~~~ ", "slashes": "//a", "angles": "<https://good.example/", "tabs": "\t",
		"marks": "\u0301", "closers": "https://good.example)))))",
	} {
		text := strings.Repeat(piece, size/len(piece))
		for _, f := range formats {
			b.Run(name+"/"+f.name, func(b *testing.B) {
				b.SetBytes(size)
				for b.Loop() {
					f.make(text, harmless.Rules{Links: rules.Links})
				}
			})
		}
	}
}
