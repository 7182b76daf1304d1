package automations_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/automations"
)

// TestWilsonBounds: the values come of another form of the formula, (passed + z²/2 ± z sqrt(passed (all - passed)/all + z²/4)) / (all + z²), in Python.
func TestWilsonBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		passed, all  int
		lower, upper float64
	}{
		{0, 0, 0, 1},
		{0, 10, 0, 0.277533},
		{10, 10, 0.722467, 1},
		{1, 1, 0.206549, 1},
		{5, 10, 0.236593, 0.763407},
		{18, 20, 0.698966, 0.972134},
		{90, 100, 0.825634, 0.944771},
		{990, 1000, 0.981691, 0.994559},
	} {
		lower, upper := automations.Wilson(c.passed, c.all)
		require.InDelta(t, c.lower, lower, 1e-6, "%d of %d", c.passed, c.all)
		require.InDelta(t, c.upper, upper, 1e-6, "%d of %d", c.passed, c.all)
	}
}

func TestBarSaysHowManyApprovalsAreMissing(t *testing.T) {
	t.Parallel()
	list := func(text string) []bool {
		var out []bool
		for _, c := range text {
			out = append(out, c == 'y')
		}
		return out
	}
	for _, c := range []struct {
		name     string
		reviews  int
		rate     float64
		verdicts string // newest first
		missing  int
	}{
		{"none yet", 5, 0.8, "", 5},
		{"too few", 5, 0.8, "yyyy", 1},
		{"met to the last", 5, 0.8, "nyyyy", 0},
		{"one below", 5, 0.8, "nnyyy", 4},
		{"old failures leave the window", 5, 0.8, "yyynn", 1},
		{"only the last ones count", 3, 1, "yyynnnnn", 0},
		{"older ones do not help", 3, 1, "nyyyyyyy", 3},
		{"nine tenths of ten", 10, 0.9, "yyyyynyyyy", 0},
		{"any verdicts will do", 2, 0, "nn", 0},
		{"any verdicts will do, but two of them", 2, 0, "n", 1},
	} {
		bar := automations.PromoteSpec{Reviews: c.reviews, PassRate: c.rate}
		verdicts := list(c.verdicts)
		require.Equal(t, c.missing, bar.Missing(verdicts), c.name)
		// The answer is the least number that does.
		for more := range c.missing {
			require.NotZero(t, bar.Missing(slices.Concat(slices.Repeat([]bool{true}, more), verdicts)), c.name)
		}
		require.Zero(t, bar.Missing(slices.Concat(slices.Repeat([]bool{true}, c.missing), verdicts)), c.name)
	}
}

func TestDemotionByFailures(t *testing.T) {
	t.Parallel()
	d := automations.DemoteSpec{Runs: 20, FailureRate: 0.1}
	require.False(t, d.Demoted(2), "exactly the rate is not above it")
	require.True(t, d.Demoted(3))
	require.True(t, automations.DemoteSpec{Runs: 5}.Demoted(1), "a rate of 0 lets none fail")
}
