package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"sluice/telemetry"
)

const (
	// readyWithin bounds one look at the database: an orchestrator's probe gives up after a second or more.
	readyWithin = 900 * time.Millisecond
	// readyKept is how long a look is good for, so that probes from outside cannot keep the database busy.
	readyKept = time.Second
	// schemaKept is how long a look at the schema is good for; it changes when somebody migrates.
	schemaKept = 15 * time.Second
)

// errDraining is why a process that was told to end is not ready.
var errDraining = errors.New("shutting down")

// readiness says whether requests, or jobs, should come to this process.
type readiness struct {
	ping, schema func(context.Context) error

	mu                 sync.Mutex
	draining           bool
	pinged, looked     time.Time
	pingErr, schemaErr error
}

func newReadiness(ping, schema func(context.Context) error) *readiness {
	return &readiness{ping: ping, schema: schema}
}

// drain makes it unready for good.
func (r *readiness) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// check is why the process is not ready, nil if it is. One look serves all who ask within readyKept.
func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return errDraining
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if time.Since(r.pinged) > readyKept {
		r.pingErr = r.ping(ctx)
		r.pinged = time.Now()
	}
	if r.pingErr != nil {
		return r.pingErr
	}
	if time.Since(r.looked) > schemaKept {
		r.schemaErr = r.schema(ctx)
		if ctx.Err() == nil {
			r.looked = time.Now()
		}
	}
	return r.schemaErr
}

// probes serve /metrics, /healthz and /readyz, on a port that the world does not reach.
type probes struct {
	server *http.Server
	addr   string
}

// startProbes listens at once. It returns nil where listen is empty.
func startProbes(ctx context.Context, listen string, told *telemetry.Telemetry, ready ...*readiness) (*probes, error) {
	if listen == "" {
		return nil, nil //nolint:nilnil // No probes are no error, and every method of none is safe.
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", told.MetricsHandler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerProbe(w, http.StatusOK, "ok", nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		for _, part := range ready {
			if err := part.check(r.Context()); err != nil {
				told.Logger().WarnContext(r.Context(), "not ready", "error", err)
				answerProbe(w, http.StatusServiceUnavailable, "not ready", err)
				return
			}
		}
		answerProbe(w, http.StatusOK, "ready", nil)
	})
	p := &probes{server: newServer(mux), addr: listener.Addr().String()}
	p.server.ErrorLog = slog.NewLogLogger(told.Logger().Handler(), slog.LevelWarn)
	go func() {
		if err := p.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			told.Logger().Error("the metrics are not served any more", "error", err)
		}
	}()
	return p, nil
}

// A probeAnswer is how the process is.
type probeAnswer struct {
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Version string `json:"version"`
}

// answerProbe says how the process is. The reason is one word or two for what an operator may see: whatever else an error says is logged.
func answerProbe(w http.ResponseWriter, status int, word string, reason error) {
	body := probeAnswer{Status: word, Version: version}
	switch {
	case reason == nil:
	case errors.Is(reason, errDraining):
		body.Reason = errDraining.Error()
	default:
		body.Reason = "the database does not answer, or its schema is not the one this binary needs"
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	text, err := json.Marshal(body)
	if err != nil {
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// Addr is where they listen, "" if nowhere.
func (p *probes) Addr() string {
	if p == nil {
		return ""
	}
	return p.addr
}

// stop ends them at once: they are the last to go.
func (p *probes) stop() {
	if p != nil {
		_ = p.server.Close()
	}
}
