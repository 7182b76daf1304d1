package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/tenants"
)

// chaosPeople are those who use the API meanwhile: the operator who raises a budget, and a tenant's people who decide, cancel and replay. Each asks
// whichever door answers, and asks again, as people do.
type chaosPeople struct {
	world    *chaosWorld
	http     *http.Client
	operator string
	houses   map[string]chaosHouse
	group    sync.WaitGroup
	stop     context.CancelFunc
	// over says that the faults are: nothing new is begun, and what is held shall end.
	over atomic.Bool

	mu      sync.Mutex
	random  *rand.Rand
	budget  float64
	counts  map[string]int
	strange map[string]int // answers that nobody should get, by what they said
}

// How often they do something.
const (
	reviewEvery = 700 * time.Millisecond
	cancelEvery = 4 * time.Second
	replayEvery = 9 * time.Second
	raiseEvery  = 6 * time.Second
	askedTwice  = 3 // of so many decisions, one is given twice at once, by two people
)

func newChaosPeople(w *chaosWorld) *chaosPeople {
	return &chaosPeople{
		world: w, http: chaosHTTP(), houses: map[string]chaosHouse{}, random: rand.New(rand.NewPCG(w.Seed, 3)), // it has to be the same again
		counts: map[string]int{}, strange: map[string]int{},
	}
}

// client speaks to the door of that number.
func (p *chaosPeople) client(key string, door int) apiClient {
	return apiClient{base: "http://" + p.world.doors[door%len(p.world.doors)].address, key: key, http: p.http}
}

func (p *chaosPeople) begin(ctx context.Context) {
	ctx, p.stop = context.WithCancel(ctx)
	for _, one := range []struct {
		pause time.Duration
		do    func(context.Context)
	}{{reviewEvery, p.review}, {cancelEvery, p.cancel}, {replayEvery, p.replay}, {raiseEvery, func(ctx context.Context) { _ = p.raise(ctx) }}} {
		p.group.Go(func() {
			for ctx.Err() == nil {
				pause(ctx, one.pause)
				one.do(ctx)
			}
		})
	}
}

func (p *chaosPeople) finish() {
	p.stop()
	p.group.Wait()
}

// draw is a number below n.
func (p *chaosPeople) draw(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.random.IntN(n)
}

// ask makes one request and counts what came of it; an answer that is neither an answer nor a refusal of the moment is strange.
func (p *chaosPeople) ask(ctx context.Context, what, key, method, path string, in, out any) error {
	err := p.client(key, p.draw(len(p.world.doors))).call(ctx, method, path, in, out)
	p.mu.Lock()
	defer p.mu.Unlock()
	var fault *apiFault
	switch {
	case err == nil:
		p.counts[what]++
	case errors.As(err, &fault):
		p.counts[what+" refused with "+strconv.Itoa(fault.status)]++
		if fault.status == http.StatusInternalServerError || fault.status == http.StatusUnauthorized || fault.status == http.StatusForbidden {
			p.strange[fmt.Sprintf("%s %s: %d", method, strings.TrimRight(path, "0123456789abcdef"), fault.status)]++
		}
	default:
		p.counts[what+" unanswered"]++
	}
	return err
}

type chaosRuns struct {
	Data []struct{ ID string }
}

// runs lists runs of a tenant.
func (p *chaosPeople) runs(ctx context.Context, h chaosHouse, query string) []string {
	var list chaosRuns
	if p.ask(ctx, "list", h.key, http.MethodGet, "/v1/runs?"+query, nil, &list) != nil {
		return nil
	}
	var ids []string
	for _, r := range list.Data {
		ids = append(ids, r.ID)
	}
	return ids
}

// review decides what waits for a decision; some decisions are given twice at once.
func (p *chaosPeople) review(ctx context.Context) {
	h := p.houses[housePeople]
	for _, id := range p.runs(ctx, h, "status=in_review&limit=20") {
		verdict := "approve"
		if p.draw(5) == 0 { // a fifth
			verdict = "reject"
		}
		var both sync.WaitGroup
		for range 1 + (askedTwice-p.draw(askedTwice))/askedTwice {
			both.Go(func() {
				_ = p.ask(ctx, "review", h.key, http.MethodPost, "/v1/runs/"+id+"/review", map[string]any{"verdict": verdict, "note": "chaos"}, nil)
			})
		}
		both.Wait()
	}
}

// cancel cancels a run that waits, or is under way.
func (p *chaosPeople) cancel(ctx context.Context) {
	if p.over.Load() {
		return
	}
	h := p.houses[housePeople]
	for _, status := range []string{"acting", "waiting", "running"} {
		ids := p.runs(ctx, h, "limit=10&status="+status)
		if len(ids) > 0 {
			_ = p.ask(ctx, "cancel", h.key, http.MethodPost, "/v1/runs/"+ids[p.draw(len(ids))]+"/cancel", nil, nil)
			return
		}
	}
}

// replay asks for what is dead again, and for what is done, which must have no second effect. A replay that got no answer is asked for once more
// under the same id.
func (p *chaosPeople) replay(ctx context.Context) {
	if p.over.Load() {
		return
	}
	h := p.houses[[]string{houseBusy, housePeople}[p.draw(2)]]
	id := tenants.FormatID(tenants.ReplayPrefix, tenants.NewID())
	in := map[string]any{"id": id, "per_second": 20, "mode": "run"}
	switch p.draw(3) { // three kinds
	case 0:
		in["filter"] = map[string]any{"status": "dead"}
	case 1:
		in["filter"], in["mode"] = map[string]any{"status": "dead"}, "from_action"
	default:
		ids := p.runs(ctx, h, "status=done&limit=5")
		if len(ids) == 0 {
			return
		}
		in["runs"] = ids
	}
	for range 3 {
		err := p.ask(ctx, "replay", h.key, http.MethodPost, "/v1/replays", in, nil)
		if fault := new(*apiFault); err == nil || errors.As(err, fault) && (*fault).status < http.StatusInternalServerError {
			return
		}
		pause(ctx, reviewEvery)
	}
}

// raise gives the tight tenant a little more.
func (p *chaosPeople) raise(ctx context.Context) error {
	p.mu.Lock()
	p.budget += chaosBudget
	hard := any(strconv.FormatFloat(p.budget, 'f', 2, 64))
	if p.over.Load() {
		hard = nil
	}
	p.mu.Unlock()
	return p.ask(ctx, "raise", p.operator, http.MethodPut, "/v1/tenants/"+p.houses[houseTight].tenant+"/limits", map[string]any{
		"cost_per_day_usd": map[string]any{"hard": hard}, "concurrent_runs": chaosConcurrent,
	}, nil)
}

const chaosConcurrent = 10

// rename changes an automation, so that runs of two versions are under way at once.
func (p *chaosPeople) rename(ctx context.Context, part int) {
	desk := p.world.desks[part%len(p.world.desks)]
	_ = p.ask(ctx, "change", p.houses[desk.house].key, http.MethodPatch, "/v1/automations/"+desk.automation, json.RawMessage(`{"max_output_tokens": `+strconv.Itoa(chaosOutput+part%20)+`}`), nil)
}
