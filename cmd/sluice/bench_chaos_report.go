package main

import (
	"fmt"
	"slices"
	"strings"
)

// report prints what was done, what came of it, and the bars.
func (w *chaosWorld) report(v *chaosVerdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var made []string
	for _, k := range append(slices.Clone(chaosKinds), chaosKind{name: faultSchema}) {
		if n := w.made[k.name]; n > 0 {
			made = append(made, fmt.Sprintf("%d × %s", n, k.name))
		}
	}
	fmt.Fprintf(w.out, "\nfaults: %d (%s)\n", w.struck, strings.Join(made, ", "))
	var clicks []string
	for what, n := range w.people.counts {
		clicks = append(clicks, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(clicks)
	fmt.Fprintf(w.out, "people: %s\n", strings.Join(clicks, ", "))
	for _, line := range v.lines {
		fmt.Fprintln(w.out, line)
	}
	fmt.Fprintf(w.out, "\n%8s  bars: each has to be 0\n", "count")
	for _, b := range v.bars {
		mark := ""
		if b.count != 0 {
			mark = "  MISSED"
		}
		fmt.Fprintf(w.out, "%8d  %s%s\n", b.count, b.what, mark)
		if b.count != 0 {
			for _, one := range b.shown {
				fmt.Fprintf(w.out, "%8s    %s\n", "", one)
			}
		}
	}
	fmt.Fprintf(w.out, "seed %d: %d of %d bars are missed\n", w.Seed, v.missed(), len(v.bars))
}
