package scripted

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// A providerAsk is a request as both protocols mean it.
type providerAsk struct {
	model, system, prompt string
	schema                json.RawMessage
	maxTokens             int64
	stream, usageWanted   bool
}

// A providerReply is an answer as both protocols mean it.
type providerReply struct {
	id, model, text string
	stop            providerStop
	usage           *ProviderUsage // nil leaves it out.
	usageWanted     bool           // In a stream, where OpenAI tells it only on request.
	created         time.Time
}

type providerStop int

const (
	stopDone providerStop = iota
	stopTruncated
	stopRefused
)

// A providerFault is an error in both protocols' words.
type providerFault struct {
	status                         int
	anthropicType, anthropicDetail string
	openAIType, openAICode         string
	message                        string
}

var providerFaults = map[ProviderMode]providerFault{
	ModeRateLimit:    {429, "rate_limit_error", "", "requests", "rate_limit_exceeded", "Rate limit reached."},
	ModeQuota:        {429, "rate_limit_error", "enforced_spend_limit_reached", "insufficient_quota", "insufficient_quota", "You exceeded your current quota."},
	ModeOverloaded:   {529, "overloaded_error", "", "server_error", "server_overloaded", "Overloaded."},
	ModeError500:     {500, "api_error", "", "server_error", "server_error", "The server had an error."},
	ModeUnauthorized: {401, "authentication_error", "", "invalid_request_error", "invalid_api_key", "The API key is not valid."},
}

var (
	faultNoModel    = providerFault{404, "not_found_error", "", "invalid_request_error", "model_not_found", "The model does not exist; GET / lists those that do."}
	faultBadRequest = providerFault{400, "invalid_request_error", "", "invalid_request_error", "", "The request is not of the expected form."}
	faultJournal    = providerFault{500, "api_error", "", "server_error", "journal_failed", "The journal cannot be written."}
)

// A providerWire reads and writes one protocol.
type providerWire interface {
	name() string
	idPrefix() string
	// splitsWrites: usage tells cache writes for 5 minutes from those for 1 hour.
	splitsWrites() bool
	key(h http.Header) string
	read(body []byte) (providerAsk, error)
	reply(r providerReply) any
	stream(r providerReply, texts []string) providerStream
	fault(f providerFault, id string) any
}

// serve answers one request: it decides everything first, writes the journal, and only then lets the asker hear of it.
func (p *Provider) serve(w http.ResponseWriter, r *http.Request, wire providerWire) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, providerBodyBytesMax))
	ask := providerAsk{}
	if err == nil {
		ask, err = wire.read(body)
	}
	entry := ProviderEntry{
		At: p.now().UTC(), Protocol: wire.name(), Model: ask.model, RequestID: r.Header.Get("X-Client-Request-Id"),
		KeyLast4: last4(wire.key(r.Header)), System: cut(ask.system, ProviderJournalText), Prompt: cut(ask.prompt, ProviderJournalText),
	}
	mode, known := modelMode(ask.model)
	refuse := func(f providerFault) { p.refuse(w, wire, entry, f, 0) }
	switch {
	case wire.key(r.Header) == "":
		refuse(providerFaults[ModeUnauthorized])
		return
	case err != nil:
		refuse(faultBadRequest)
		return
	case !known:
		refuse(faultNoModel)
		return
	}
	control := p.controlFor(ask.model, mode)
	entry.Mode = control.Mode
	if control.Mode == ModeSlow && control.DelayMS == 0 {
		control.DelayMS = int(providerSlowDelay.Milliseconds())
	}
	if control.Mode == ModeSlowStream && control.DelayMS == 0 {
		control.DelayMS = int(providerTokenDelay.Milliseconds())
	}
	control.Mode = p.turn(control.Mode)
	if fault, isFault := providerFaults[control.Mode]; isFault {
		p.pause(r, time.Duration(control.DelayMS)*time.Millisecond)
		wait := control.RetryAfterS
		if wait == 0 && control.Mode == ModeRateLimit {
			wait = providerRetryAfterDefault
		}
		p.refuse(w, wire, entry, fault, wait)
		return
	}
	p.answer(w, r, wire, entry, ask, control)
}

// refuse answers an error, which is not billed unless the control of its mode says so.
func (p *Provider) refuse(w http.ResponseWriter, wire providerWire, entry ProviderEntry, f providerFault, retryAfterS int) {
	entry.Status = f.status
	entry, err := p.journal.add(entry, "")
	if err != nil {
		f = faultJournal
	}
	if retryAfterS > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterS))
	}
	writeProviderJSON(w, f.status, wire.fault(f, fmt.Sprintf("req_%08d", entry.N)))
}

// answer makes the reply of a mode that is not an error.
func (p *Provider) answer(w http.ResponseWriter, r *http.Request, wire providerWire, entry ProviderEntry, ask providerAsk, c ProviderControl) {
	text, stop := providerText(ask, c)
	usage := providerUsage(ask, text, c.Mode)
	if !wire.splitsWrites() {
		usage.InputCacheWrite5m, usage.InputCacheWrite1h = usage.InputCacheWrite5m+usage.InputCacheWrite1h, 0
	}
	entry.Status, entry.Answer, entry.Billed = http.StatusOK, cut(text, ProviderJournalText), c.Mode != ModeHang
	if c.Bill != nil {
		entry.Billed = *c.Bill
	}
	if entry.Billed {
		entry.Usage = usage
	}
	idPrefix := wire.idPrefix()
	if c.Mode == ModeDrop {
		entry.Status, idPrefix = 0, ""
	}
	// Before the entry can be seen: whoever waits for it may release at once.
	released := p.releasedChan()
	entry, err := p.journal.add(entry, idPrefix)
	if err != nil {
		writeProviderJSON(w, faultJournal.status, wire.fault(faultJournal, ""))
		return
	}
	wait := time.Duration(c.DelayMS) * time.Millisecond
	switch {
	case c.Mode == ModeHang, c.Mode == ModeStall && !ask.stream:
		p.hang(r, released)
		p.pause(r, wait)
	case c.Mode == ModeSlowStream && ask.stream:
		// The stream itself is what takes its time.
	case c.Mode == ModeSlowStream:
		p.pause(r, wait*time.Duration(providerTokens(text)))
	default:
		p.pause(r, wait)
	}
	reply := providerReply{
		id: entry.ResponseID, model: ask.model, text: text, stop: stop, usage: &usage, usageWanted: ask.usageWanted, created: entry.At,
	}
	switch c.Mode {
	case ModeDrop:
		panic(http.ErrAbortHandler)
	case ModeBadBody:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body>It works!</body></html>") // The reader is gone; there is nobody to tell.
		return
	case ModeUsageMissing:
		reply.usage = nil
	}
	if ask.stream {
		p.sendStream(w, r, wire, reply, c, released)
		return
	}
	writeProviderJSON(w, http.StatusOK, wire.reply(reply))
}

func (p *Provider) releasedChan() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.released
}

// hang waits for Release. Where the asker or the provider is gone first, the connection ends without an answer: a handler that just
// returned would answer 200.
func (p *Provider) hang(r *http.Request, released <-chan struct{}) {
	select {
	case <-released:
		return
	case <-r.Context().Done():
	case <-p.closed:
	}
	panic(http.ErrAbortHandler)
}

// pause waits, and ends the connection as hang does.
func (p *Provider) pause(r *http.Request, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return
	case <-r.Context().Done():
	case <-p.closed:
	}
	panic(http.ErrAbortHandler)
}

// providerText is the answer of a mode: the control's own, an instance of the schema, or the first words of the prompt.
func providerText(ask providerAsk, c ProviderControl) (string, providerStop) {
	text, stop := "", stopDone
	instance := false
	if len(ask.schema) > 0 {
		text, instance = providerInstance(ask.schema, ask.prompt)
	}
	if !instance {
		text = "echo: " + firstWords(ask.prompt, instanceWords)
	}
	if c.Answer != "" {
		text = c.Answer
	}
	switch c.Mode {
	case ModeObey:
		text = providerObeyed(ask.schema, ask.prompt)
	case ModeRefuse:
		text, stop = "I can't help with that.", stopRefused
	case ModeBadJSON:
		text = `{"reply": "this is not`
	case ModeWrongSchema:
		text = wrongInstance(ask.schema)
	case ModeTruncate:
		text, stop = cut(text, (len(text)+1)/2), stopTruncated
	}
	// The limit holds for every mode, as it does for a real model.
	if ask.maxTokens > 0 && providerTokens(text) > ask.maxTokens {
		text, stop = cut(text, int(ask.maxTokens)*providerBytesPerToken), stopTruncated
	}
	return text, stop
}

// wrongInstance is JSON of another type than the schema's root.
func wrongInstance(schema json.RawMessage) string {
	var root struct{ Type any }
	if json.Unmarshal(schema, &root) == nil && root.Type == "array" {
		return `{"unexpected":true}`
	}
	return `["unexpected"]`
}

const (
	providerBytesPerToken = 4
	// providerReasoning is what ModeCached reports as reasoning, on top of the visible output.
	providerReasoning = 7
)

// providerTokens is the length of a text in the provider's tokens: 4 bytes each, rounded up.
func providerTokens(text string) int64 {
	return int64((len(text) + providerBytesPerToken - 1) / providerBytesPerToken)
}

// providerUsage is what an answer costs. ModeCached reads half of the input from the cache, writes a quarter for 5 minutes and an
// eighth for 1 hour.
func providerUsage(ask providerAsk, text string, mode ProviderMode) ProviderUsage {
	in := providerTokens(ask.system) + max(1, providerTokens(ask.prompt))
	u := ProviderUsage{InputUncached: in, OutputVisible: max(1, providerTokens(text))}
	if mode == ModeCached {
		u.InputCacheRead, u.InputCacheWrite5m, u.InputCacheWrite1h = in/2, in/4, in/8
		u.InputUncached -= in/2 + in/4 + in/8
		u.OutputReasoning = providerReasoning
	}
	return u
}

func last4(key string) string {
	const keyBytesMin = 12 // Of a shorter key the end would be too much of it.
	if len(key) < keyBytesMin {
		return ""
	}
	return key[len(key)-4:]
}
