package main

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/scripted"
	"sluice/tenants"
)

func TestChaosScheduleIsTheSeed(t *testing.T) {
	t.Parallel()
	b := benchChaos{Seed: 7, For: 10 * time.Minute, Every: 2500 * time.Millisecond, Lease: 30 * time.Second}
	schedule := newChaosSchedule(b)
	require.Equal(t, schedule, newChaosSchedule(b))
	other := b
	other.Seed = 8
	require.NotEqual(t, schedule, newChaosSchedule(other))
	kinds := map[string]int{}
	last := time.Duration(0)
	for _, f := range schedule {
		kinds[f.kind]++
		require.GreaterOrEqual(t, f.at, last)
		require.LessOrEqual(t, f.at, b.For)
		last = f.at
		if f.kind == faultPauseWorker {
			require.Greater(t, f.hold, b.Lease, "another must have its runs by then")
		}
	}
	require.Equal(t, 1, kinds[faultSchema])
	for _, k := range chaosKinds {
		require.Positive(t, kinds[k.name], k.name)
	}
	require.InDelta(t, 240, len(schedule), 30)
}

// bars are the counts of a verdict that are not 0.
func (v *chaosVerdict) broken() map[string]int {
	out := map[string]int{}
	for _, b := range v.bars {
		if b.count != 0 {
			out[b.what] = b.count
		}
	}
	return out
}

func TestChaosJudgesWhatSendersWereTold(t *testing.T) {
	t.Parallel()
	event, other := uuid.New(), uuid.New()
	acked := tenants.FormatID(tenants.EventPrefix, event)
	kept := chaosKept{id: event, body: []byte("a"), runs: 1}
	with := func(change func(*chaosKept)) chaosKept {
		k := kept
		change(&k)
		return k
	}
	for name, c := range map[string]struct {
		sent chaosEvent
		kept []chaosKept
		want map[string]int
	}{
		"well":                          {chaosEvent{eventID: acked}, []chaosKept{kept}, nil},
		"acked and lost":                {chaosEvent{eventID: acked}, nil, map[string]int{"acked events lost": 1}},
		"acked as another":              {chaosEvent{eventID: tenants.FormatID(tenants.EventPrefix, other)}, []chaosKept{kept}, map[string]int{"acked events lost": 1}},
		"kept twice":                    {chaosEvent{eventID: acked}, []chaosKept{kept, kept}, map[string]int{"ids of a source with two events": 1}},
		"acked with two ids":            {chaosEvent{eventID: acked, twoIDs: true}, []chaosKept{kept}, map[string]int{"events whose acks named two ids": 1}},
		"another body that was dropped": {chaosEvent{eventID: acked, altered: 1, body: []byte("a")}, []chaosKept{kept}, nil},
		"another body that was kept": {
			chaosEvent{eventID: acked, altered: 1, body: []byte("b")},
			[]chaosKept{kept},
			map[string]int{"events overwritten by another body": 1},
		},
		"forged and refused":           {chaosEvent{forged: true, abandoned: true}, nil, nil},
		"forged and kept":              {chaosEvent{forged: true, abandoned: true}, []chaosKept{kept}, map[string]int{"forgeries let in": 1}},
		"sent once, and nobody knows":  {chaosEvent{abandoned: true}, nil, nil},
		"sent once, kept, not ended":   {chaosEvent{abandoned: true}, []chaosKept{with(func(k *chaosKept) { k.open = 1 })}, map[string]int{"kept events with a run that has not ended": 1}},
		"sent again and never acked":   {chaosEvent{}, nil, map[string]int{"events that were never acked, though all was well for minutes": 1}},
		"kept, and nobody works on it": {chaosEvent{eventID: acked}, []chaosKept{with(func(k *chaosKept) { k.runs = 0 })}, map[string]int{"kept events without a run": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clients := &chaosClients{sent: map[string]*chaosEvent{"x": &c.sent}, counts: chaosCounts{refused: map[int]int{503: 2, 429: 1}}}
			v := &chaosVerdict{}
			require.NoError(t, (&chaosWorld{clients: clients}).judgeClients(t.Context(), v, map[string][]chaosKept{"x": c.kept}))
			if c.want == nil {
				c.want = map[string]int{}
			}
			require.Equal(t, c.want, v.broken())
			require.Equal(t, len(c.want), v.missed())
		})
	}
	clients := &chaosClients{counts: chaosCounts{refused: map[int]int{503: 2, 500: 1, 401: 3}, unpatient: 4}}
	v := &chaosVerdict{}
	require.NoError(t, (&chaosWorld{clients: clients}).judgeClients(t.Context(), v, nil))
	require.Equal(t, map[string]int{"genuine deliveries refused with neither 503 nor 429": 4, "refusals without Retry-After": 4}, v.broken())
}

func TestChaosCountsEffectsByTheirEvents(t *testing.T) {
	t.Parallel()
	hook := func(key, body string, acted bool) scripted.TargetEntry {
		return scripted.TargetEntry{Key: key, Path: "/desk", Body: []byte(body), Acted: acted}
	}
	event := func(id string) string { return `{"event": "` + id + `"}` }
	first, second := event("chaosevent1"), event("chaosevent2")
	e := readEffects(
		[]scripted.TargetEntry{hook("a", first, true), hook("a", first, false), hook("b", second, true)},
		[]scripted.VendorEffect{{Target: "chaos/x#1", Text: "event chaosevent1 is done <!-- mark -->"}, {Target: "chaos/x#1", Text: "event chaosevent10 is done"}},
		[]scripted.VendorEffect{{Target: "77", Text: "<p>event chaosevent1 is done</p>"}},
	)
	for target, want := range map[string]int{targetCallback: 2, targetGitHub: 2, targetIntercom: 1} {
		total, twice := e.total(target)
		require.Equal(t, want, total, target)
		require.Empty(t, twice, target)
	}
	require.Empty(t, e.strange)
	require.Empty(t, e.changed)

	e = readEffects(
		[]scripted.TargetEntry{hook("a", first, true), hook("b", first, true), hook("b", second, false)},
		[]scripted.VendorEffect{{Target: "chaos/x#1", Text: "event chaosevent1 is done"}, {Target: "chaos/x#1", Text: "event chaosevent1 is done"}, {Text: "who am I"}},
		[]scripted.VendorEffect{{Target: "77", Text: "event chaosevent5"}, {Target: "77", Text: "event chaosevent5"}},
	)
	for _, target := range []string{targetCallback, targetGitHub, targetIntercom} {
		_, twice := e.total(target)
		require.Len(t, twice, 1, target)
	}
	require.Equal(t, []string{"b"}, e.changed)
	require.Len(t, e.strange, 1)

	line := func(entity, seq string) scripted.TargetEntry {
		return hook(entity+seq, `{"event": "chaosevent`+seq+`", "entity": "`+entity+`", "seq": `+seq+`}`, true)
	}
	e = readEffects([]scripted.TargetEntry{line("a", "1"), line("b", "1"), line("a", "3"), line("b", "2"), line("a", "2")}, nil, nil)
	require.Equal(t, 5, e.ordered)
	require.Equal(t, []string{"a: 2 after 3"}, e.order)
}

func TestChaosFindsTheEventOfAnEffect(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"event chaosevent12 is done": "chaosevent12", "chaosevent7": "chaosevent7", "<p>chaosevent3</p>": "chaosevent3", "event 12": "", "chaosevent": "", "": "",
	} {
		require.Equal(t, want, eventOf(text), text)
	}
}
