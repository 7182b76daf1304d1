package scripted

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// The limits of a Target.
const (
	targetAnswerBytesMax  = 1 << 30          // of a body that a step sends
	targetBodyBytesMax    = 1 << 20          // of a request that is recorded; a longer one is answered 413
	targetEntriesMax      = 1 << 18          // that are remembered; further requests are answered 507
	targetHeaderTimeout   = 5 * time.Second  // for the header of a request
	targetHoldMax         = 10 * time.Minute // that one request is delayed or left hanging
	targetShutdownTimeout = 5 * time.Second  // for answers under way when a Target is closed
	targetStepsMax        = 10_000           // of one script
)

// TargetConfig says how a target is played.
type TargetConfig struct {
	// Journal is a file to which each request is appended and synced before it is answered, one JSON line each, so that the
	// record outlives a killed process. Requests that it already holds are part of the journal. Empty means memory only.
	Journal string
	// Now is the clock of the journal.
	Now func() time.Time
}

// A TargetStep is how one request is answered. The zero step answers 200 at once.
type TargetStep struct {
	Status     int    `json:"status,omitempty"`      // 0 means 200
	Act        bool   `json:"act,omitempty"`         // make the effect, whatever the status tells the caller
	DelayMS    int64  `json:"delay_ms,omitempty"`    // wait this long before the answer
	Hang       bool   `json:"hang,omitempty"`        // never answer
	Cut        bool   `json:"cut,omitempty"`         // close the connection in place of an answer
	RetryAfter string `json:"retry_after,omitempty"` // the header, as it is sent
	Location   string `json:"location,omitempty"`    // the header, as it is sent
	Body       string `json:"body,omitempty"`        // of the answer
	BodyBytes  int64  `json:"body_bytes,omitempty"`  // of the answer, in spaces, in place of Body
}

// effect reports whether a request so answered makes its effect: when it is told that it did, or when Act says so.
func (s TargetStep) effect() bool {
	return s.Act || !s.Hang && !s.Cut && s.Status/100 == 2
}

// A Target is a system that actions are sent to. Any path takes any request; three are its own:
//
//	POST /_control   changes what it answers, see Control
//	GET  /_journal   lists what it was sent, from ?after=<ordinal> on, as {"data": [TargetEntry, ...]}
//	GET  /           the same
//
// It is safe for concurrent use.
type Target struct {
	now func() time.Time

	mu       sync.Mutex
	acted    map[string]bool // keys whose effect was made
	changed  chan struct{}   // closed, and replaced, when an entry is recorded
	closed   chan struct{}
	entries  []TargetEntry
	file     *os.File // nil without a journal file
	servers  []*http.Server
	steps    []TargetStep // still to come; the last one stays
	shutting sync.Once
}

// NewTarget returns a target that answers 200 to everything. Its error is about the journal file.
func NewTarget(c TargetConfig) (*Target, error) {
	t := &Target{
		acted: map[string]bool{}, changed: make(chan struct{}), closed: make(chan struct{}), now: c.Now,
		steps: []TargetStep{{}},
	}
	if c.Journal == "" {
		return t, nil
	}
	var err error
	if t.file, t.entries, err = openTargetJournal(c.Journal); err != nil {
		return nil, err
	}
	for _, entry := range t.entries {
		if entry.Acted && entry.Key != "" {
			t.acted[entry.Key] = true
		}
	}
	return t, nil
}

// Listen serves the target on a loopback address such as "127.0.0.1:0" until Close, and returns its URL without a final
// slash.
func (t *Target) Listen(address string) (string, error) {
	server, url, err := listenLoopback(address, t)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.servers = append(t.servers, server)
	return url, nil
}

// Close lets go of every request that hangs, stops listening and closes the journal file.
func (t *Target) Close() error {
	t.shutting.Do(func() { close(t.closed) })
	t.mu.Lock()
	servers := t.servers
	t.servers = nil
	t.mu.Unlock()
	failures := shutDown(servers)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil {
		failures = append(failures, t.file.Close())
		t.file = nil
	}
	return errors.Join(failures...)
}

// Script sets the answers to come, one request each; the last one stays. With no steps the target answers 200 again.
func (t *Target) Script(steps ...TargetStep) {
	if len(steps) == 0 {
		steps = []TargetStep{{}}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append([]TargetStep(nil), steps...)
}

// Journal returns what the target was sent, in the order of arrival.
func (t *Target) Journal() []TargetEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]TargetEntry(nil), t.entries...)
}

// Wait returns the journal as soon as it holds n requests, those of a journal file that was found included.
func (t *Target) Wait(ctx context.Context, n int) ([]TargetEntry, error) {
	for {
		t.mu.Lock()
		count, changed := len(t.entries), t.changed
		t.mu.Unlock()
		if count >= n {
			return t.Journal(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return t.Journal(), fmt.Errorf("wait for %d requests, saw %d: %w", n, count, ctx.Err())
		}
	}
}

// ServeHTTP records a request and answers it as the script says.
func (t *Target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/_control" && r.Method == http.MethodPost:
		t.control(w, r)
		return
	case (r.URL.Path == "/_journal" || r.URL.Path == "/") && r.Method == http.MethodGet:
		t.list(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, targetBodyBytesMax))
	if err != nil {
		status := http.StatusBadRequest // the sender went away; nobody reads this
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "the request's body cannot be recorded", status)
		return
	}
	step, err := t.record(r, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInsufficientStorage)
		return
	}
	t.answer(w, r, step)
}

// record takes the next step and writes the request down, first to the file, so that no answer is given for what a killed
// process would have forgotten.
func (t *Target) record(r *http.Request, body []byte) (TargetStep, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.entries) >= targetEntriesMax {
		return TargetStep{}, fmt.Errorf("the journal is full at %d requests", targetEntriesMax)
	}
	step := t.steps[0]
	if step.Status == 0 {
		step.Status = http.StatusOK
	}
	entry := TargetEntry{
		At: t.now().UTC(), Body: body, Header: r.Header, Key: targetKey(r.Header), Method: r.Method,
		Ordinal: len(t.entries) + 1, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Status: step.Status,
	}
	if step.Hang || step.Cut {
		entry.Status = 0
	}
	entry.Repeat = entry.Key != "" && t.acted[entry.Key]
	entry.Acted = step.effect() && !entry.Repeat
	if t.file != nil {
		if err := appendTargetEntry(t.file, entry); err != nil {
			return TargetStep{}, err
		}
	}
	if entry.Acted && entry.Key != "" {
		t.acted[entry.Key] = true
	}
	if len(t.steps) > 1 {
		t.steps = t.steps[1:]
	}
	t.entries = append(t.entries, entry)
	close(t.changed)
	t.changed = make(chan struct{})
	return step, nil
}

// answer plays a step.
func (t *Target) answer(w http.ResponseWriter, r *http.Request, step TargetStep) {
	hold := time.Duration(step.DelayMS) * time.Millisecond
	if step.Hang {
		hold = targetHoldMax
	}
	if hold > 0 {
		timer := time.NewTimer(min(hold, targetHoldMax))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.closed:
		case <-r.Context().Done():
		}
	}
	if step.Hang || step.Cut {
		panic(http.ErrAbortHandler) // closes the connection without an answer, and without a word in the log
	}
	if step.RetryAfter != "" {
		w.Header().Set("Retry-After", step.RetryAfter)
	}
	if step.Location != "" {
		w.Header().Set("Location", step.Location)
	}
	w.WriteHeader(step.Status)
	if step.BodyBytes == 0 {
		_, _ = io.WriteString(w, step.Body)
		return
	}
	_, _ = io.CopyN(w, spaces{}, min(step.BodyBytes, targetAnswerBytesMax))
}

// spaces is an endless reader of spaces.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// list answers with the journal.
func (t *Target) list(w http.ResponseWriter, r *http.Request) {
	entries := t.Journal()
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	entries = entries[min(max(after, 0), len(entries)):]
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"data": entries})
}
