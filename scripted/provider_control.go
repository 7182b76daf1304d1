package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ProviderMode is a way to answer.
type ProviderMode string

// The modes. Those that a provider would bill say so; an error is not billed.
const (
	// ModeOK answers at once, as asked. Billed.
	ModeOK ProviderMode = "ok"
	// ModeSlow answers after a delay (2 s unless set). Billed, and in the journal, before the delay.
	ModeSlow ProviderMode = "slow"
	// ModeHang answers when released, and as ModeOK then. Not billed, unless the control says so.
	ModeHang ProviderMode = "hang"
	// ModeRefuse declines as the model. Billed.
	ModeRefuse ProviderMode = "refuse"
	// ModeTruncate stops in the middle for want of tokens. Billed.
	ModeTruncate ProviderMode = "truncate"
	// ModeBadJSON answers a text that is not the JSON asked for. Billed.
	ModeBadJSON ProviderMode = "bad_json"
	// ModeWrongSchema answers JSON that is not valid under the schema. Billed.
	ModeWrongSchema ProviderMode = "wrong_schema"
	// ModeCached answers with a part of the input in the cache buckets, and a part of the output as reasoning. Billed.
	ModeCached ProviderMode = "cached"
	// ModeUsageMissing answers without usage. Billed all the same.
	ModeUsageMissing ProviderMode = "usage_missing"
	// ModeDrop closes the connection instead of answering. Billed: this is the case that nobody can tell from outside.
	ModeDrop ProviderMode = "drop"
	// ModeBadBody answers 200 with a body that is not the protocol's. Billed.
	ModeBadBody ProviderMode = "bad_body"
	// ModeStall streams all of the text and stops before the stream's end, until released. Billed: all of it, which is what was streamed,
	// whether the asker stays for the end or not. An asker that does not stream waits for its whole answer.
	ModeStall ProviderMode = "stall"
	// ModeSlowStream streams a token every delay_ms (100 unless set). Billed: all of it, from the beginning, even where the asker leaves
	// halfway. An asker that does not stream waits for as long as all tokens take.
	ModeSlowStream ProviderMode = "slow_stream"
	// ModeFlap is ModeOverloaded and ModeOK in turn, over all requests in this mode.
	ModeFlap ProviderMode = "flap"
	// ModeStorm is ModeRateLimit for the first 20 requests in this mode and ModeOK from then on. As a control it is ModeRateLimit for as many
	// requests as times says, and begins anew.
	ModeStorm ProviderMode = "storm"
	// ModeObey carries out what the prompt's data order, and repeats all of it: see provider_obey.go. Billed.
	ModeObey ProviderMode = "obey"
	// ModeRateLimit, ModeQuota, ModeOverloaded, ModeError500 and ModeUnauthorized are errors, in each protocol's own form.
	ModeRateLimit    ProviderMode = "rate_limit"
	ModeQuota        ProviderMode = "quota"
	ModeOverloaded   ProviderMode = "overloaded"
	ModeError500     ProviderMode = "error500"
	ModeUnauthorized ProviderMode = "unauthorized"
)

// A providerModel is a model that always answers in one mode: "slow-1", and "chat-slow-1" over OpenAI's protocol.
type providerModel struct {
	name string
	mode ProviderMode
}

var providerModels = []providerModel{
	{"bad-body-1", ModeBadBody},
	{"cached-1", ModeCached},
	{"drop-1", ModeDrop},
	{"echo-1", ModeOK},
	{"error-1", ModeError500},
	{"flap-1", ModeFlap},
	{"garbage-1", ModeBadJSON},
	{"hang-1", ModeHang},
	{"obey-1", ModeObey},
	{"overloaded-1", ModeOverloaded},
	{"quota-1", ModeQuota},
	{"rate-limit-1", ModeRateLimit},
	{"refuse-1", ModeRefuse},
	{"slow-1", ModeSlow},
	{"slow-stream-1", ModeSlowStream},
	{"stall-1", ModeStall},
	{"storm-1", ModeStorm},
	{"truncate-1", ModeTruncate},
	{"unauthorized-1", ModeUnauthorized},
	{"usage-missing-1", ModeUsageMissing},
	{"wrong-schema-1", ModeWrongSchema},
}

// providerChatPrefix marks the models that our client asks over OpenAI's protocol; the server takes every model over either.
const providerChatPrefix = "chat-"

// Models is every model that the provider knows by name. It also takes the names of real ones (claude-, gpt-, o1 to o4) and answers as
// echo-1, so that a real provider's base URL can be pointed here.
func Models() []string {
	var names []string
	for _, m := range providerModels {
		names = append(names, m.name, providerChatPrefix+m.name)
	}
	slices.Sort(names)
	return names
}

func modelMode(model string) (ProviderMode, bool) {
	for _, m := range providerModels {
		if m.name == strings.TrimPrefix(model, providerChatPrefix) {
			return m.mode, true
		}
	}
	for _, prefix := range []string{"claude-", "gpt-", "o1", "o3", "o4"} {
		if strings.HasPrefix(model, prefix) {
			return ModeOK, true
		}
	}
	return "", false
}

// A ProviderControl tells the provider how to answer, against what the model's name says.
type ProviderControl struct {
	Mode ProviderMode `json:"mode"`
	// DelayMS is waited before the answer, in any mode, in milliseconds.
	DelayMS int `json:"delay_ms,omitempty"`
	// RetryAfterS is the Retry-After of an error in seconds; 2 for rate_limit unless set, -1 for no header.
	RetryAfterS int `json:"retry_after_s,omitempty"`
	// Times is for how many requests it holds; 0 is until the next control.
	Times int `json:"times,omitempty"`
	// Model limits it to one model. A control without a model clears all others.
	Model string `json:"model,omitempty"`
	// Answer is the text to answer with.
	Answer string `json:"answer,omitempty"`
	// Bill overrides what the mode says of billing.
	Bill *bool `json:"bill,omitempty"`
}

// modeNames are the modes there are, in order.
func modeNames() []string {
	names := make([]string, 0, len(providerModels))
	for _, m := range providerModels {
		names = append(names, string(m.mode))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Control sets how to answer from here on. The newest control that fits a request is used.
func (p *Provider) Control(c ProviderControl) error {
	// Every mode has a model.
	known := func(m providerModel) bool { return m.mode == c.Mode }
	switch {
	case !slices.ContainsFunc(providerModels, known):
		return fmt.Errorf("control: mode %q is not known; there are: %s", c.Mode, strings.Join(modeNames(), ", "))
	case c.DelayMS < 0 || time.Duration(c.DelayMS)*time.Millisecond > providerDelayMax:
		return fmt.Errorf("control: delay_ms %d: expected 0 to %d", c.DelayMS, providerDelayMax.Milliseconds())
	case c.Times < 0:
		return fmt.Errorf("control: times %d: expected 0 or more", c.Times)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Mode == ModeStorm {
		p.stormed = 0
		if c.Times > 0 {
			// It ends by its own count.
			c.Mode, p.stormed = ModeRateLimit, providerStormRequests
		}
	}
	p.controls = slices.DeleteFunc(p.controls, func(old ProviderControl) bool { return c.Model == "" || old.Model == c.Model })
	if len(p.controls) >= providerControlsMax {
		return fmt.Errorf("control: %d models have one, which is the most", providerControlsMax)
	}
	p.controls = append(p.controls, c)
	return nil
}

// controlFor takes one use of the control that fits model; where none does, the model's name is the control.
func (p *Provider) controlFor(model string, named ProviderMode) ProviderControl {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.controls) - 1; i >= 0; i-- {
		c := p.controls[i]
		if c.Model != "" && c.Model != model {
			continue
		}
		if c.Times == 1 {
			p.controls = slices.Delete(p.controls, i, i+1)
		} else if c.Times > 1 {
			p.controls[i].Times--
		}
		if c.Mode == ModeOK {
			// A control of ok clears, or only delays or words, what the model's name asks for.
			c.Mode = named
		}
		return c
	}
	return ProviderControl{Mode: named}
}

// turn is what a mode that changes from request to request is for the next one.
func (p *Provider) turn(m ProviderMode) ProviderMode {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m {
	case ModeFlap:
		p.flapped = !p.flapped
		if p.flapped {
			return ModeOverloaded
		}
		return ModeOK
	case ModeStorm:
		if p.stormed < providerStormRequests {
			p.stormed++
			return ModeRateLimit
		}
		return ModeOK
	}
	return m
}

func (p *Provider) serveControl(w http.ResponseWriter, r *http.Request) {
	var c ProviderControl
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, providerBodyBytesMax))
	d.DisallowUnknownFields()
	err := d.Decode(&c)
	if err == nil {
		err = p.Control(c)
	}
	if err != nil {
		writeProviderJSON(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
		return
	}
	writeProviderJSON(w, http.StatusOK, c)
}

func (p *Provider) serveHelp(w http.ResponseWriter, _ *http.Request) {
	writeProviderJSON(w, http.StatusOK, map[string]any{
		"what":      "a scripted model provider: deterministic answers, faults on demand, a journal of what it bills",
		"anthropic": "POST /v1/messages with any x-api-key, streamed or not",
		"openai":    "POST /v1/chat/completions with any bearer key, streamed or not",
		"models":    Models(),
		"control":   `POST /_control {"mode": "rate_limit", "times": 2, "retry_after_s": 3, "model": "echo-1"}`,
		"release":   "POST /_release answers what hangs",
		"journal":   "GET /_journal",
	})
}

func writeProviderJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // The reader is gone; there is nobody to tell.
}
