package jobs_test

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/jobs"
)

// record writes the series and the table of docs/alerts.md anew: go test ./jobs -run Baseline -record.
var record = flag.Bool("record", false, "write testdata/baseline.txt and the table of docs/alerts.md anew")

const (
	recordedPath = "testdata/baseline.txt"
	alertsPath   = "../docs/alerts.md"
	// checks is how often an hour is looked at.
	checks = 12
	// checkEvery and quietMax are the watcher's: an alert ends when it was not near its threshold for so long.
	checkEvery = time.Hour / checks
	quietMax   = 2 * time.Hour
	hour       = time.Hour
	day        = 24 * hour
	week       = 7 * day
)

// baseFloor is the watcher's for events.
const baseFloor = 100

// happening is something that befalls the series: while it lasts, the rate is multiplied and added to.
type happening struct {
	name     string
	from, to time.Duration // since the first Monday; to 0 is for ever
	times    func(since time.Duration) float64
	plus     float64 // events per hour
	told     bool    // whether there ought to be an alert
}

func times(x float64) func(time.Duration) float64 { return func(time.Duration) float64 { return x } }

// happenings is what befalls an endpoint of a support desk: 40 events an hour at night, 600 at noon, a quarter of it at weekends.
var happenings = []happening{
	{name: "the first day", from: 0, to: day, times: times(1)},
	{name: "the first morning with a past: Tuesday, 09:00", from: day + 9*hour, to: day + 12*hour, times: times(1)},
	{name: "a deploy: 60 % more events from Wednesday, 14:00, on", from: 2*week + 2*day + 14*hour, to: 0, times: times(1.6)},
	{name: "the clocks change: all is an hour earlier from Sunday on", from: 3*week + 6*day, to: 0, times: times(1)},
	{name: "a burst: 5,000 events within 20 minutes, Tuesday, 10:05", from: 4*week + day + 10*hour + 5*time.Minute, to: 4*week + day + 10*hour + 25*time.Minute, times: times(1), plus: 15000, told: true},
	{name: "a retry storm: each event 8 times, Friday, 02:00 to 05:00", from: 4*week + 4*day + 2*hour, to: 4*week + 4*day + 5*hour, times: times(8), told: true},
	{name: "a silent weekend: nothing from Friday, 22:00, to Monday, 06:00", from: 5*week + 4*day + 22*hour, to: 6*week + 6*hour, times: times(0)},
	{name: "the silent weekend's events all at once: Monday, 06:00 to 07:00", from: 6*week + 6*hour, to: 6*week + 7*hour, times: times(1), plus: 6000, told: true},
	{name: "a slow growth: 6 % a day for two weeks, to 2.3 times", from: 7 * week, to: 0, times: func(since time.Duration) float64 {
		return math.Pow(1.06, min(14, since.Hours()/24))
	}},
	{name: "a new customer: 6 times as much from Tuesday, 09:00, on", from: 9*week + day + 9*hour, to: 0, times: times(6), told: true},
}

// seriesEnd is the end of the last week.
const seriesEnd = 10 * week

// generate makes the series: counts of 5 minutes each, drawn from a Poisson distribution around the rate of that moment, which has a working day's
// shape, a mood of the day and of the hour, and what befalls it.
func generate() []int64 {
	random := rand.New(rand.NewPCG(2026, 1))
	out := make([]int64, 0, int(seriesEnd/checkEvery))
	var mood, hourly float64
	for at := time.Duration(0); at < seriesEnd; at += checkEvery {
		if at%day == 0 {
			mood = math.Exp(0.1 * random.NormFloat64())
		}
		if at%hour == 0 {
			hourly = math.Exp(0.15 * random.NormFloat64())
		}
		var shift time.Duration
		if at >= 3*week+6*day {
			shift = hour
		}
		rate := shape(at+shift) * mood * hourly
		plus := 0.0
		for _, h := range happenings {
			if at >= h.from && (h.to == 0 || at < h.to) {
				rate *= h.times(at - h.from)
				plus += h.plus
			}
		}
		out = append(out, poisson(random, (rate+plus)/checks))
	}
	return out
}

// shape is the events per hour of a moment of the week.
func shape(at time.Duration) float64 {
	of := (at % day).Hours()
	busy := 1 / (1 + math.Exp(-2.5*(of-8.5))) / (1 + math.Exp(2.5*(of-17.5)))
	rate := 40 + 560*busy
	if at%week >= 5*day {
		rate /= 4
	}
	return rate
}

// poisson draws from a Poisson distribution; a large one is as good as normal.
func poisson(random *rand.Rand, mean float64) int64 {
	if mean > 50 {
		return max(0, int64(math.Round(mean+math.Sqrt(mean)*random.NormFloat64())))
	}
	var n int64
	for p := random.Float64(); p > math.Exp(-mean); n++ {
		p *= random.Float64()
	}
	return n
}

// episode is one alert.
type episode struct {
	began, ended time.Duration // since the first Monday; 0 is not yet
	rate, usual  float64       // as it began
}

// watchSeries looks at a series as the watcher does: every 5 minutes, at what is kept.
func watchSeries(b jobs.Baseline, counts []int64) []episode {
	var hours []int64
	var current int64
	var out []episode
	var open bool
	var last time.Duration
	for i, n := range counts {
		current += n
		at := time.Duration(i+1) * checkEvery
		part := float64((i+1)%checks) / checks
		if part == 0 {
			hours, current = append(hours, current), 0
		}
		j, known := b.Judge(jobs.Series{Hours: hours, Current: current, Part: part})
		switch {
		case known && j.Far() && !open:
			out, open = append(out, episode{began: at, rate: j.Rate, usual: j.Usual}), true
			last = at
		case open && known && j.Near():
			last = at
		case open && at-last >= quietMax:
			out[len(out)-1].ended, open = at, false
		}
	}
	return out
}

// table tells what befell the series, and which alerts came of it.
func table(t *testing.T, episodes []episode) string {
	t.Helper()
	var out strings.Builder
	out.WriteString("| what happens | told | the last 60 minutes, beside the usual | ended after |\n| --- | --- | --- | --- |\n")
	seen := 0
	for i, h := range happenings {
		until := h.to + hour
		if h.to == 0 {
			until = h.from + day
		}
		var of []episode
		for _, e := range episodes {
			// The silent weekend ends as what it leads to begins.
			if e.began > h.from && e.began <= until && (i+1 == len(happenings) || e.began <= happenings[i+1].from || happenings[i+1].from <= h.from) {
				of = append(of, e)
			}
		}
		seen += len(of)
		if !h.told {
			require.Empty(t, of, h.name)
			fmt.Fprintf(&out, "| %s | no | | |\n", h.name)
			continue
		}
		require.Len(t, of, 1, h.name)
		e := of[0]
		require.NotZero(t, e.ended, h.name)
		fmt.Fprintf(&out, "| %s | after %s | %.0f, %.0f | %s |\n", h.name, short(e.began-h.from), e.rate, e.usual, short(e.ended-e.began))
	}
	require.Len(t, episodes, seen, "alerts that nothing happened for: %v", episodes)
	return out.String()
}

func short(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "0s")
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return strings.NewReplacer("h", " h ", "m", " min").Replace(strings.TrimSpace(text))
}

func write(counts []int64) []byte {
	var out bytes.Buffer
	for i := 0; i < len(counts); i += checks {
		out.WriteString(strings.Trim(fmt.Sprint(counts[i:i+checks]), "[]") + "\n")
	}
	return out.Bytes()
}

func read(t *testing.T) []int64 {
	t.Helper()
	raw, err := os.ReadFile(recordedPath)
	require.NoError(t, err)
	var out []int64
	for line := range strings.Lines(string(raw)) {
		for text := range strings.FieldsSeq(line) {
			var n int64
			_, err := fmt.Sscan(text, &n)
			require.NoError(t, err)
			out = append(out, n)
		}
	}
	return out
}

// TestBaseline_OnTheRecordedSeries shows which alerts come of what happens, and that no others do.
func TestBaseline_OnTheRecordedSeries(t *testing.T) {
	t.Parallel()
	if *record {
		require.NoError(t, os.WriteFile(recordedPath, write(generate()), 0o600))
	}
	counts := read(t)
	require.Equal(t, string(write(generate())), string(write(counts)), "the recorded series is the generator's")
	shown := table(t, watchSeries(jobs.Baseline{Floor: baseFloor}, counts))
	paper, err := os.ReadFile(alertsPath)
	require.NoError(t, err)
	if *record {
		before, after, ok := strings.Cut(string(paper), "| what happens |")
		require.True(t, ok)
		_, after, _ = strings.Cut(after, "\n\n")
		require.NoError(t, os.WriteFile(alertsPath, []byte(before+shown+"\n"+after), 0o600))
		return
	}
	require.Contains(t, string(paper), shown, "docs/alerts.md tells it otherwise")
}

// TestBaseline_OfMoney: the same series in pico-USD, at a cent an event, tells the same.
func TestBaseline_OfMoney(t *testing.T) {
	t.Parallel()
	counts := read(t)
	const cent = 1e10
	money := make([]int64, len(counts))
	for i, n := range counts {
		money[i] = n * cent
	}
	inEvents, inMoney := watchSeries(jobs.Baseline{Floor: baseFloor}, counts), watchSeries(jobs.Baseline{Floor: baseFloor * cent}, money)
	require.Len(t, inMoney, len(inEvents))
	for i, e := range inEvents {
		require.Equal(t, e.began, inMoney[i].began)
		require.Equal(t, e.ended, inMoney[i].ended)
	}
}

func full(n int, of func(i int) int64) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = of(i)
	}
	return out
}

func TestBaseline_Thresholds(t *testing.T) {
	t.Parallel()
	flat := func(n int64) func(int) int64 { return func(int) int64 { return n } }
	cases := []struct {
		name             string
		hours            []int64
		usual, threshold float64
		silent           bool
	}{
		{name: "no past", silent: true},
		{name: "a day, but for an hour", hours: full(23, flat(1)), silent: true},
		{name: "a day of little", hours: full(24, flat(10)), usual: 10, threshold: 110},
		{name: "a day of much", hours: full(24, flat(1000)), usual: 1000, threshold: 4000},
		{name: "a working day: its busy hours", hours: full(24, func(i int) int64 { return int64(i / 16 * 500) }), usual: 500, threshold: 2000},
		{name: "a week, then nothing", hours: full(8*24, func(i int) int64 { return int64(1000 * (1 - i/168)) }), usual: 1000, threshold: 4000},
		{name: "a day of work a week, for the second time", hours: full(240, func(i int) int64 { return int64(500 * (1 - min(1, max(i/24-3, 3-i/24)))) }), usual: 500, threshold: 2000},
		{name: "five weeks of a wild past", hours: full(840, func(i int) int64 { return int64(100 + 1000*(i/24%2)) }), usual: 600, threshold: 600 + 6*1.4826*500},
		{name: "a level that is new since a day", hours: full(840, func(i int) int64 { return int64(1000 + 5000*(i/816)) }), usual: 5950, threshold: 4 * 5950.5},
		{name: "a level that is new since eleven hours", hours: full(840, func(i int) int64 { return int64(1000 + 5000*(i/829)) }), usual: 1000, threshold: 4000},
		{name: "a hole of a day is no new level", hours: full(840, func(i int) int64 { return int64(1000 - 1000*(i/816)) }), usual: 1000, threshold: 4000},
		{name: "one wild week of four", hours: full(840, func(i int) int64 { return int64(1000 + 9000*(i/168%5/4)*(1-i/820)) }), usual: 1000, threshold: 4000},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j, known := jobs.Baseline{Floor: 100}.Judge(jobs.Series{Hours: c.hours, Part: 1})
			require.Equal(t, !c.silent, known)
			require.InDelta(t, c.usual, j.Usual, 1)
			require.InDelta(t, c.threshold, j.Threshold, 4)
		})
	}
}

// TestBaseline_IsMonotonous: more of late is never less unusual, and what is as ever is never unusual.
func TestBaseline_IsMonotonous(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		hours := rapid.SliceOfN(rapid.Int64Range(0, 1e15), 24, 800).Draw(t, "hours")
		part := rapid.Float64Range(0, 1).Draw(t, "part")
		current := rapid.Int64Range(0, 1e15).Draw(t, "current")
		b := jobs.Baseline{Floor: rapid.Float64Range(1, 1e12).Draw(t, "floor")}
		before := append([]int64(nil), hours...)
		less, known := b.Judge(jobs.Series{Hours: hours, Current: current, Part: part})
		require.True(t, known)
		more, _ := b.Judge(jobs.Series{Hours: hours, Current: current * 2, Part: part})
		require.Equal(t, before, hours, "the past is only read")
		require.InDelta(t, less.Threshold, more.Threshold, 0, "what goes through now is not measured by itself")
		require.GreaterOrEqual(t, more.Rate, less.Rate)
		require.GreaterOrEqual(t, less.Threshold, less.Usual+b.Floor*(1-1e-9))
		if less.Far() {
			require.True(t, less.Near())
			require.True(t, more.Far())
		}
	})
}
