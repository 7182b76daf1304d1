package main

import (
	"context"
	"errors"
	"log/slog"
	"os/signal"
	"syscall"

	"sluice/telemetry"
)

// A part is a piece of the process that runs until it is stopped: serving or working.
type part interface {
	// Addr is where it listens, "" if nowhere.
	Addr() string
	// Failed tells if it ends by itself.
	Failed() <-chan error
	// Ready is whether it can do its work.
	Ready() *readiness
	// Stop lets what is under way end before ctx does.
	Stop(ctx context.Context) error
}

// untilSignal runs one part, with telemetry and probes, until SIGTERM or SIGINT, or until ctx ends. A second signal ends the process at once.
func untilSignal(ctx context.Context, c Config, std streams, start func(context.Context, *telemetry.Telemetry) (part, error)) (err error) {
	// The process' own context outlives the signal: what is under way goes on.
	running := context.WithoutCancel(ctx)
	ctx, again := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer again()
	told, err := startTelemetry(running, c, std)
	if err != nil {
		return err
	}
	slog.SetDefault(told.Logger())
	defer func() {
		if lost := told.Shutdown(running); lost != nil {
			told.Logger().Warn("the last of the telemetry is lost", "error", lost)
		}
	}()
	// Starting ends with the signal, too: a process that waits for its database can be told to go.
	p, err := start(ctx, told)
	if err != nil {
		return err
	}
	watch, err := startProbes(running, c.MetricsListen, told, p.Ready())
	if err != nil {
		return errors.Join(err, stopWithin(running, c, p))
	}
	defer watch.stop()
	if watch.Addr() != "" {
		told.Logger().Info("metrics", "listen", watch.Addr())
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-p.Failed():
	}
	// From here on a second signal has its usual effect.
	again()
	told.Logger().Info("stopping", "within", c.ShutdownTimeout.String())
	err = errors.Join(failed, stopWithin(running, c, p))
	told.Logger().Info("stopped")
	return err
}

// stopWithin stops a part within the configured time.
func stopWithin(ctx context.Context, c Config, p part) error {
	ctx, cancel := context.WithTimeout(ctx, c.ShutdownTimeout)
	defer cancel()
	return p.Stop(ctx)
}
