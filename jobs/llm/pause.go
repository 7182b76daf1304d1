package llm

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// pauseBase is the first pause of a rate limit that does not say how long it holds; each one after is twice as long, up to pauseMax.
	pauseBase = time.Second
	pauseMax  = time.Minute
	// pauseSlack is how much later a pause has to end than the one that is known, to be told to others: calls that were under way together
	// are refused within moments of each other.
	pauseSlack = time.Second
)

// pauseKey is whom a provider's rate limits count against: its limits are of an account, and are felt by all models at once.
type pauseKey struct{ provider, owner string }

// A pause is what is known of a rate limit.
type pause struct {
	until time.Time
	// learned is when the provider last refused a call of ours; calls that began before say no more than the refusal did.
	learned time.Time
	// refusals in a row that did not say how long to wait.
	refusals int
}

// pauses is a bounded table of them.
type pauses struct {
	now        func() time.Time
	entriesMax int

	mu  sync.Mutex
	all map[pauseKey]*pause
}

// wait is how long calls have to wait yet.
func (t *pauses) wait(key pauseKey) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.all[key]
	if p == nil {
		return 0
	}
	return max(0, p.until.Sub(t.now()))
}

// until is when the pause of key ends; zero if there is none.
func (t *pauses) until(key pauseKey) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.all[key]; p != nil && p.until.After(t.now()) {
		return p.until
	}
	return time.Time{}
}

// hold makes calls wait until a time that others learned of.
func (t *pauses) hold(key pauseKey, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if !until.After(now) {
		return
	}
	p := t.entry(key)
	if last := now.Add(retryAfterMax); until.After(last) {
		until = last
	}
	if until.After(p.until) {
		p.until = until
	}
}

// refused notes that the provider refused a call that began at began, and asked to wait for asked, 0 if it did not say. It returns how long
// to wait, until when, and whether that is news.
func (t *pauses) refused(key pauseKey, began time.Time, asked time.Duration) (wait time.Duration, until time.Time, news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, p := t.now(), t.entry(key)
	if asked == 0 {
		if !began.After(p.learned) && p.until.After(now) {
			return p.until.Sub(now), p.until, false
		}
		asked = t.backoff(p, began)
	}
	p.learned = now
	until = now.Add(asked)
	if !until.After(p.until) {
		return p.until.Sub(now), p.until, false
	}
	news = !p.until.After(now) || until.Sub(p.until) > pauseSlack
	p.until = until
	return asked, until, news
}

// backoff is a wait between nothing and a bound that doubles with each refusal of a call that could know of the last one.
func (*pauses) backoff(p *pause, began time.Time) time.Duration {
	if began.After(p.learned) {
		p.refusals++
	}
	bound := pauseBase
	for i := 1; i < p.refusals && bound < pauseMax; i++ {
		bound *= 2
	}
	return 1 + rand.N(min(bound, pauseMax))
}

// succeeded notes that a call that began at began was answered.
func (t *pauses) succeeded(key pauseKey, began time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.all[key]; p != nil && began.After(p.learned) {
		p.refusals = 0
	}
}

// entry finds or makes a pause. Where the table is full, those that ended first, or end next, go.
func (t *pauses) entry(key pauseKey) *pause {
	if p := t.all[key]; p != nil {
		return p
	}
	if len(t.all) >= t.entriesMax {
		keys := make([]pauseKey, 0, len(t.all))
		for key := range t.all {
			keys = append(keys, key)
		}
		slices.SortFunc(keys, func(a, b pauseKey) int { return t.all[a].until.Compare(t.all[b].until) })
		for _, key := range keys[:min(len(keys), t.entriesMax/8+1)] {
			delete(t.all, key)
		}
	}
	p := &pause{}
	t.all[key] = p
	return p
}
