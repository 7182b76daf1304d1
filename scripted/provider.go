package scripted

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// ProviderConfig is what a scripted provider needs.
type ProviderConfig struct {
	// Addr is the address to listen on, loopback only; "127.0.0.1:0" if empty.
	Addr string
	// JournalPath, if set, is a file to which every request is appended as one JSON line, and synced, before it is answered: it survives
	// a kill of either side. What the file already holds is read back, and its ordinals go on.
	JournalPath string
	// JournalKeep is how many entries are kept in memory; ProviderJournalKeep if 0. The total is counted beyond that.
	JournalKeep int
	// Now is the clock of the journal; required.
	Now func() time.Time
}

// A Provider is a model provider on a loopback socket. It speaks Anthropic's Messages API (POST /v1/messages) and OpenAI's Chat
// Completions (POST /v1/chat/completions) well enough for the vendors' own SDKs, streamed or not, answers deterministically, misbehaves when told to
// (by Control, by POST /_control, or by the name of the model), and keeps a journal of what it was asked and what it bills.
type Provider struct {
	now      func() time.Time
	journal  *providerJournal
	listener net.Listener
	server   *http.Server

	mu       sync.Mutex
	controls []ProviderControl
	flapped  bool          // The last request of ModeFlap was refused.
	stormed  int           // Requests of ModeStorm so far, up to providerStormRequests.
	released chan struct{} // Closed and replaced by Release.
	closed   chan struct{}
	closing  sync.Once
}

const (
	providerBodyBytesMax      = 8 << 20
	providerHeaderTimeout     = 5 * time.Second
	providerControlsMax       = 100
	providerDelayMax          = 10 * time.Minute
	providerAddr              = "127.0.0.1:0"
	providerSlowDelay         = 2 * time.Second
	providerRetryAfterDefault = 2
	providerStormRequests     = 20
)

// NewProvider starts a provider; Close stops it.
func NewProvider(c ProviderConfig) (*Provider, error) {
	if c.Addr == "" {
		c.Addr = providerAddr
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("scripted provider: address %q: expected a loopback address and a port", c.Addr)
	}
	journal, err := openProviderJournal(c.JournalPath, c.JournalKeep)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("scripted provider: %w", err), journal.close())
	}
	p := &Provider{now: c.Now, journal: journal, listener: listener, released: make(chan struct{}), closed: make(chan struct{})}
	p.server = &http.Server{Handler: p.routes(), ReadHeaderTimeout: providerHeaderTimeout}
	go func() { _ = p.server.Serve(listener) }() // Ends with Close.
	return p, nil
}

// URL is the root of the server: the base URL for Anthropic's SDK; OpenAI's takes it with "/v1".
func (p *Provider) URL() string { return "http://" + p.listener.Addr().String() }

// Close lets hanging requests go, closes every connection and the journal.
func (p *Provider) Close() error {
	var err error
	p.closing.Do(func() {
		close(p.closed)
		err = errors.Join(p.server.Close(), p.journal.close())
	})
	return err
}

// Release lets the requests that hang now be answered.
func (p *Provider) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.released)
	p.released = make(chan struct{})
}

// Journal is what is kept of the journal, oldest first.
func (p *Provider) Journal() []ProviderEntry { return p.journal.entries() }

// Total is how many requests were journalled, kept or not.
func (p *Provider) Total() int { return p.journal.count() }

// Wait returns the journal when n requests are in it, counted from its beginning, or the error of ctx. A request is there before it is
// answered.
func (p *Provider) Wait(ctx context.Context, n int) ([]ProviderEntry, error) {
	if err := p.journal.wait(ctx, n); err != nil {
		return nil, err
	}
	return p.Journal(), nil
}

func (p *Provider) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, anthropicWire{}) })
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, openAIWire{}) })
	mux.HandleFunc("GET /_journal", p.serveJournal)
	mux.HandleFunc("POST /_control", p.serveControl)
	mux.HandleFunc("POST /_release", func(w http.ResponseWriter, _ *http.Request) {
		p.Release()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /{$}", p.serveHelp)
	return mux
}
