package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"sluice/api"
	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/llm"
	"sluice/proof"
	"sluice/telemetry"
)

// serveCommand is the API and the intake.
type serveCommand struct{}

// Run serves until it is told to end.
func (serveCommand) Run(ctx context.Context, c *Config, std streams) error {
	return untilSignal(ctx, *c, std, func(ctx context.Context, told *telemetry.Telemetry) (part, error) {
		return startServe(ctx, *c, told)
	})
}

// serving is a running API.
type serving struct {
	*stack
	api    *api.API
	server *http.Server
	addr   string
	delay  time.Duration
	failed chan error
}

// garbagePercent lets the heap of the API grow to four times what lives before it is swept: little lives, and every request leaves something behind.
const garbagePercent = 300

// startServe opens the pools and listens. It returns when requests are taken; an error leaves nothing behind.
func startServe(ctx context.Context, c Config, told *telemetry.Telemetry) (_ *serving, err error) {
	log := told.Logger()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	base, err := newStack(ctx, c, db.AppRole, "")
	if err != nil {
		return nil, err
	}
	s := &serving{stack: base, delay: c.DrainDelay, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			base.close()
		}
	}()
	poster, err := jobs.NewPoster(log)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	s.addr = listener.Addr().String()
	s.api = api.New(api.Deps{
		DB: base.db, Poster: poster, Actions: base.actions, ModelFault: jobs.ModelFault(providersOf(c)), PriceNames: llm.PriceNames,
		PublicURL: c.PublicURL, Log: log, Now: proof.Now, Version: version, Ready: base.ready.check,
		ProxyHeaders: headerNames(c.ProxyHeaders), Fetch: base.fetch, IntakeFlushers: c.IntakeFlushers, IntakeBatch: c.IntakeBatch,
	})
	s.server = newServer(s.api.Handler())
	s.server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	bounded := newConnections(listener, s.server, connectionsMax, connectionsCrowded)
	go func() {
		if err := s.server.Serve(bounded); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serve: %w", err)
		}
	}()
	log.InfoContext(ctx, "serving", "listen", s.addr, "public_url", c.PublicURL)
	return s, nil
}

// Addr is where the API listens, as host:port.
func (s *serving) Addr() string { return s.addr }

// Failed tells if the API ends by itself.
func (s *serving) Failed() <-chan error { return s.failed }

// Ready is whether requests should come.
func (s *serving) Ready() *readiness { return s.stack.ready }

// Stop says on /readyz that it is going, waits for load balancers to hear it, takes no more requests, and lets those under way end, all before
// ctx ends.
func (s *serving) Stop(ctx context.Context) error {
	s.ready.drain()
	select {
	case <-ctx.Done():
	case <-time.After(s.delay):
	}
	err := s.server.Shutdown(ctx)
	if err != nil {
		_ = s.server.Close()
		err = fmt.Errorf("some requests were cut off: %w", err)
	}
	s.api.Close(context.WithoutCancel(ctx))
	s.close()
	return err
}
