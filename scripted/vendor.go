package scripted

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Vendor is the API of a service that actions write to: GitHub, Zendesk, Slack. It checks requests the way the service documents that it does, keeps
// what was written, and keeps a journal. What the services have in common stands here; a file each says what one of them answers.
//
// Three paths are its own, as those of Target: POST /_control with {"steps": [VendorStep, ...], "token": "..."}, GET /_journal, and GET / that says so.
//
// It is safe for concurrent use.
type Vendor struct {
	name string
	now  func() time.Time
	mux  *http.ServeMux

	mu       sync.Mutex
	journal  []VendorEntry
	effects  []VendorEffect
	steps    []VendorStep
	token    string
	next     int64
	lag      time.Duration
	changed  chan struct{} // closed, and replaced, when an entry is recorded
	closed   chan struct{}
	shutting sync.Once
	servers  []*http.Server
}

// A VendorStep is how one request that would write is answered in place of what the service would say. The zero step is the service's own answer.
type VendorStep struct {
	// Act lets the service do what it was asked for before it answers as the step says.
	Act        bool              `json:"act,omitempty"`
	Status     int               `json:"status,omitempty"` // 0, without Hang and Cut, is the service's own answer
	DelayMS    int64             `json:"delay_ms,omitempty"`
	Hang       bool              `json:"hang,omitempty"` // never answer
	Cut        bool              `json:"cut,omitempty"`  // close the connection in place of an answer
	RetryAfter string            `json:"retry_after,omitempty"`
	Header     map[string]string `json:"header,omitempty"`
	Body       string            `json:"body,omitempty"`
	// Reads makes the step one for the next request that only reads, such as the lookup of an effect.
	Reads bool `json:"reads,omitempty"`
}

// A VendorEntry is one request.
type VendorEntry struct {
	Ordinal int       `json:"ordinal"` // from 1
	At      time.Time `json:"at"`
	Method  string    `json:"method"`
	Path    string    `json:"path"`
	Query   string    `json:"query,omitempty"`
	// Header is without Authorization, of which Authorized says whether it was right.
	Header     http.Header `json:"header"`
	Authorized bool        `json:"authorized"`
	Body       string      `json:"body,omitempty"`
	// Status is what was answered, 0 for nothing.
	Status int `json:"status"`
	// Effects are how many effects this request made.
	Effects int `json:"effects"`
}

// A VendorEffect is something that was written at the service.
type VendorEffect struct {
	ID     string    `json:"id"`
	Kind   string    `json:"kind"`   // such as comment
	Target string    `json:"target"` // such as acme/shop#12
	Text   string    `json:"text"`   // as it was written
	At     time.Time `json:"at"`
	// Updates are how often it was written anew.
	Updates int `json:"updates"`
	// More is what else is kept of it.
	More map[string]string `json:"more,omitempty"`
}

// vendorBodyMax bounds a request that is recorded.
const vendorBodyMax = 4 << 20

// newVendor makes a service without routes, whose credential is token.
func newVendor(name, token string, now func() time.Time) *Vendor {
	v := &Vendor{name: name, now: now, mux: http.NewServeMux(), token: token, next: 1000, changed: make(chan struct{}), closed: make(chan struct{})}
	v.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		vendorJSON(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
	})
	v.mux.HandleFunc("GET /{$}", v.help)
	return v
}

func (v *Vendor) help(w http.ResponseWriter, _ *http.Request) {
	vendorJSON(w, http.StatusOK, map[string]any{
		"what":    "a scripted " + v.name + ": it takes requests as the service does, keeps what was written, and answers with faults on demand",
		"control": `POST /_control {"steps": [{"status": 503, "retry_after": "3"}, {"act": true, "cut": true}]}: the answers to the next requests that write`,
		"token":   `POST /_control {"token": "another"}: the credential that is taken from here on, so that the one before is refused`,
		"journal": "GET /_journal: the requests, and the effects that they made",
	})
}

// Name is that of the service.
func (v *Vendor) Name() string { return v.name }

// Listen serves on a loopback address such as "127.0.0.1:0" until Close, and returns its URL without a final slash.
func (v *Vendor) Listen(address string) (string, error) {
	server, url, err := listenLoopback(address, v)
	if err != nil {
		return "", err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.servers = append(v.servers, server)
	return url, nil
}

// Close lets go of every request that hangs, and stops listening.
func (v *Vendor) Close() error {
	v.shutting.Do(func() { close(v.closed) })
	v.mu.Lock()
	servers := v.servers
	v.servers = nil
	v.mu.Unlock()
	failures := shutDown(servers)
	return errors.Join(failures...)
}

// Script sets the answers to come, one request each. After them the service answers for itself again.
func (v *Vendor) Script(steps ...VendorStep) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.steps = append([]VendorStep(nil), steps...)
}

// Expect makes another credential the right one.
func (v *Vendor) Expect(token string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.token = token
}

// Lag hides what was written from those who read for a while: services answer reads from copies.
func (v *Vendor) Lag(lag time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lag = lag
}

// Journal returns the requests, in the order of arrival.
func (v *Vendor) Journal() []VendorEntry {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]VendorEntry(nil), v.journal...)
}

// Effects returns what was written, in order.
func (v *Vendor) Effects() []VendorEffect {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]VendorEffect(nil), v.effects...)
}

// Wait returns the journal as soon as done says so of the requests and the effects.
func (v *Vendor) Wait(ctx context.Context, done func([]VendorEntry, []VendorEffect) bool) error {
	for {
		v.mu.Lock()
		ok, changed := done(v.journal, v.effects), v.changed
		v.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", v.name, ctx.Err())
		}
	}
}

// Remove deletes what was written, as a person at the service would.
func (v *Vendor) Remove(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.effects {
		if v.effects[i].ID == id {
			v.effects = append(v.effects[:i], v.effects[i+1:]...)
			return
		}
	}
}

// Hide keeps what was written from those who read, as if they might not see it.
func (v *Vendor) Hide(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.effects {
		if e := &v.effects[i]; e.ID == id {
			more := map[string]string{}
			maps.Copy(more, e.More)
			more[vendorHidden] = "true"
			e.More = more
		}
	}
}

// vendorHidden is among what else is kept of an effect that is hidden.
const vendorHidden = "hidden"

// ServeHTTP answers a request as the service would, unless the script says otherwise, and records it.
func (v *Vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/_control":
		v.control(w, r)
		return
	case "/_journal":
		vendorJSON(w, http.StatusOK, map[string]any{"requests": v.Journal(), "effects": v.Effects()})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, vendorBodyMax))
	if err != nil {
		http.Error(w, "the request's body cannot be recorded", http.StatusRequestEntityTooLarge)
		return
	}
	step := v.step(r, body)
	answer := &vendorAnswer{header: http.Header{}, status: http.StatusOK}
	before := len(v.Effects())
	own := step.Status == 0 && !step.Hang && !step.Cut
	if own || step.Act {
		r.Body = io.NopCloser(bytes.NewReader(body))
		v.mux.ServeHTTP(answer, r)
	}
	if !own {
		answer = &vendorAnswer{header: http.Header{}, status: step.Status}
		answer.body.WriteString(step.Body)
	}
	for name, value := range step.Header {
		answer.header.Set(name, value)
	}
	if step.RetryAfter != "" {
		answer.header.Set("Retry-After", step.RetryAfter)
	}
	if step.Hang || step.Cut {
		answer.status = 0
	}
	v.record(r, body, answer.status, len(v.Effects())-before)
	v.answer(w, r, step, answer)
}

// step takes the next step of the script that is for such a request. A request reads if it is a GET, or a query of GraphQL.
func (v *Vendor) step(r *http.Request, body []byte) VendorStep {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead || strings.HasSuffix(r.URL.Path, "/search") ||
		strings.HasSuffix(r.URL.Path, "/comment/list") || strings.HasSuffix(r.URL.Path, "/batch/read") ||
		bytes.HasPrefix(bytes.TrimSpace(body), []byte(`{"query":"query`))
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.steps) == 0 || v.steps[0].Reads != reads {
		return VendorStep{}
	}
	next := v.steps[0]
	v.steps = v.steps[1:]
	return next
}

func (v *Vendor) record(r *http.Request, body []byte, status, effects int) {
	header := maps.Clone(r.Header)
	authorized := v.authorized(r)
	delete(header, "Authorization")
	v.mu.Lock()
	defer v.mu.Unlock()
	v.journal = append(v.journal, VendorEntry{
		Ordinal: len(v.journal) + 1, At: v.now().UTC(), Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Header: header,
		Authorized: authorized, Body: string(body), Status: status, Effects: effects,
	})
	close(v.changed)
	v.changed = make(chan struct{})
}

// answer plays a step.
func (v *Vendor) answer(w http.ResponseWriter, r *http.Request, step VendorStep, answer *vendorAnswer) {
	hold := time.Duration(step.DelayMS) * time.Millisecond
	if step.Hang {
		hold = targetHoldMax
	}
	if hold > 0 {
		timer := time.NewTimer(min(hold, targetHoldMax))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-v.closed:
		case <-r.Context().Done():
		}
	}
	if step.Hang || step.Cut {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), answer.header)
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body.Bytes())
}

func (v *Vendor) control(w http.ResponseWriter, r *http.Request) {
	var c struct {
		Steps []VendorStep `json:"steps"`
		Token *string      `json:"token"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, targetControlBytesMax))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		http.Error(w, "control: "+err.Error(), http.StatusBadRequest)
		return
	}
	v.Script(c.Steps...)
	if c.Token != nil {
		v.Expect(*c.Token)
	}
	w.WriteHeader(http.StatusNoContent)
}

// vendorAnswer is an answer that may still be kept back.
type vendorAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *vendorAnswer) Header() http.Header         { return a.header }
func (a *vendorAnswer) WriteHeader(status int)      { a.status = status }
func (a *vendorAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }

// What the files of the services are made of.

// authorized says whether a request bears the credential, as a bearer token, as Basic (then the token is "user:password"), or bare.
func (v *Vendor) authorized(r *http.Request) bool {
	v.mu.Lock()
	token := v.token
	v.mu.Unlock()
	given := r.Header.Get("Authorization")
	if user, password, ok := r.BasicAuth(); ok {
		return user+":"+password == token
	}
	for _, scheme := range []string{"Bearer ", "token ", "Token token=", ""} {
		if given == scheme+token {
			return true
		}
	}
	return false
}

// write keeps an effect, and gives it an id where it has none.
func (v *Vendor) write(e VendorEffect) VendorEffect {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.ID == "" {
		v.next++
		e.ID = strconv.FormatInt(v.next, 10)
	}
	e.At = v.now().UTC()
	v.effects = append(v.effects, e)
	return e
}

// rewrite changes an effect, and says whether it is there.
func (v *Vendor) rewrite(id, text string) (VendorEffect, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.effects {
		if e := &v.effects[i]; e.ID == id {
			e.Text, e.Updates = text, e.Updates+1
			return *e, true
		}
	}
	return VendorEffect{}, false
}

// read returns what was written to a target by now, as those see it who read.
func (v *Vendor) read(kind, target string) (seen []VendorEffect) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.effects {
		if e.Kind == kind && e.Target == target && !e.At.After(v.now().Add(-v.lag)) {
			seen = append(seen, e)
		}
	}
	return seen
}

// page cuts a list to the page that the query asks for, by the names of its parameters.
func vendorPage[T any](r *http.Request, list []T, pageName, sizeName string, size, sizeMax int) []T {
	if n, err := strconv.Atoi(r.URL.Query().Get(sizeName)); err == nil && n > 0 {
		size = min(n, sizeMax)
	}
	page, err := strconv.Atoi(r.URL.Query().Get(pageName))
	if err != nil || page < 1 {
		page = 1
	}
	from := min((page-1)*size, len(list))
	return list[from:min(from+size, len(list))]
}

// vendorBody reads a request's JSON, or answers 400.
func vendorBody(w http.ResponseWriter, r *http.Request, into any) bool {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || json.NewDecoder(r.Body).Decode(into) != nil {
		vendorJSON(w, http.StatusBadRequest, map[string]any{"message": "Problems parsing JSON"})
		return false
	}
	return true
}

func vendorJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
