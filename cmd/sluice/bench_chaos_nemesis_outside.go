package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"sluice/scripted"
)

// inflictOutside makes the faults of those whom Sluice speaks with.
func (w *chaosWorld) inflictOutside(ctx context.Context, f chaosFault, random *rand.Rand) (string, error) {
	held := f.hold.Round(time.Millisecond).String()
	targets := []*scripted.Proxy{w.callbackNet, w.githubNet, w.intercomNet}
	switch f.kind {
	case faultProviderNet:
		return w.trouble(ctx, f, random, w.models) + ", " + held, nil
	case faultTargetNet:
		return w.trouble(ctx, f, random, targets[f.part%len(targets)]) + ", " + held, nil
	case faultHang:
		bill := true // It answers in the end, to whoever still waits.
		return held, w.misbehave(ctx, f, scripted.ProviderControl{Mode: scripted.ModeHang, Bill: &bill})
	case faultStorm:
		modes := []scripted.ProviderControl{
			{Mode: scripted.ModeRateLimit, RetryAfterS: 1 + random.IntN(3)}, {Mode: scripted.ModeOverloaded, RetryAfterS: -1}, {Mode: scripted.ModeError500, RetryAfterS: -1},
			{Mode: scripted.ModeFlap},
		}
		control := modes[random.IntN(len(modes))]
		return fmt.Sprintf("%s, %s", control.Mode, held), w.misbehave(ctx, f, control)
	case faultLies:
		modes := []scripted.ProviderMode{
			scripted.ModeBadBody, scripted.ModeUsageMissing, scripted.ModeTruncate, scripted.ModeDrop, scripted.ModeStall, scripted.ModeCached, scripted.ModeSlowStream,
			scripted.ModeRefuse,
		}
		control := scripted.ProviderControl{Mode: modes[random.IntN(len(modes))]}
		return fmt.Sprintf("%s, %s", control.Mode, held), w.misbehave(ctx, f, control)
	case faultTargets:
		return w.treacherous(ctx, f, random)
	}
	return "", fmt.Errorf("nobody knows how to make the fault %q", f.kind)
}

// trouble is a fault of the network to somebody outside, and says which.
func (w *chaosWorld) trouble(ctx context.Context, f chaosFault, random *rand.Rand, p *scripted.Proxy) string {
	switch random.IntN(4) {
	case 0:
		cut := p.Cut(1)
		w.network(ctx, f, scripted.ProxyFault{Refuse: true}, p)
		return fmt.Sprintf("%d connections cut, new ones refused", cut)
	case 1:
		w.network(ctx, f, scripted.ProxyFault{Blackhole: true, Every: 1 + f.part%2}, p)
		return "half open"
	case 2:
		w.network(ctx, f, scripted.ProxyFault{BytesPerSecond: 2 << 10}, p)
		return "2 kB a second"
	default:
		// Answers are lost whose requests arrived.
		until, cancel := context.WithTimeout(ctx, f.hold)
		defer cancel()
		cut := 0
		for until.Err() == nil {
			cut += p.Cut(2)
			pause(until, chaosPoll)
		}
		return fmt.Sprintf("%d connections cut again and again", cut)
	}
}

// misbehave lets the provider answer otherwise for a while: one model of it, or all.
func (w *chaosWorld) misbehave(ctx context.Context, f chaosFault, control scripted.ProviderControl) error {
	control.Model = []string{"", "echo-1", "chat-echo-1"}[f.part%3]
	if err := w.provider.Control(control); err != nil {
		return err
	}
	pause(ctx, f.hold)
	err := w.provider.Control(scripted.ProviderControl{Mode: scripted.ModeOK, Model: control.Model, DelayMS: chaosThinkMS})
	w.provider.Release()
	return err
}

// treacherous lets a target make the effect and say that it did not, or say nothing, among honest answers and honest refusals.
func (w *chaosWorld) treacherous(ctx context.Context, f chaosFault, random *rand.Rand) (string, error) {
	var steps []scripted.TargetStep
	for range chaosSteps {
		step := scripted.TargetStep{} // an honest answer
		switch random.IntN(6) {
		case 0:
			step = scripted.TargetStep{Status: http.StatusInternalServerError, Act: true}
		case 1:
			step = scripted.TargetStep{Cut: true, Act: true}
		case 2:
			step = scripted.TargetStep{Hang: true, Act: true}
		case 3:
			step = scripted.TargetStep{Status: http.StatusServiceUnavailable}
		case 4:
			step = scripted.TargetStep{Cut: true}
		}
		steps = append(steps, step)
	}
	which := f.part % 3 // the targets
	if which == 0 {
		w.callbacks.Script(append(steps, scripted.TargetStep{})...)
	} else {
		v := []*scripted.Vendor{w.github, w.intercom}[which-1]
		script := make([]scripted.VendorStep, len(steps))
		for i, s := range steps {
			script[i] = scripted.VendorStep{Act: s.Act, Status: s.Status, Hang: s.Hang, Cut: s.Cut}
		}
		v.Script(script...)
	}
	pause(ctx, f.hold)
	return fmt.Sprintf("%s, %s", []string{targetCallback, targetGitHub, targetIntercom}[which], f.hold.Round(time.Millisecond)), nil
}

// chaosSteps is how many answers of a target one fault decides at most; those that were not given when all is healed are forgotten.
const chaosSteps = 30

// How those outside are when nothing is wrong: slow enough that whoever is killed leaves something under way.
const chaosThinkMS = 600

var chaosFar = scripted.ProxyFault{Latency: 60 * time.Millisecond}

// calm lets those outside behave, from the beginning or again.
func (w *chaosWorld) calm() error {
	w.callbacks.Script(scripted.TargetStep{})
	w.github.Script()
	w.intercom.Script()
	for _, p := range []*scripted.Proxy{w.callbackNet, w.githubNet, w.intercomNet} {
		p.Set(chaosFar)
	}
	err := w.provider.Control(scripted.ProviderControl{Mode: scripted.ModeOK, DelayMS: chaosThinkMS})
	w.provider.Release()
	return err
}
