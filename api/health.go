package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
)

// Health is whether this process can serve.
type Health struct {
	Status  string `json:"status" enum:"ok,ready"`
	Version string `json:"version"`
}

type healthInput struct{}

type healthOutput struct{ Body Health }

// NotReady is a reason of Deps.Ready that anyone may read; another error is told only in general, since it may hold the database's address.
type NotReady string

// Error is the reason.
func (r NotReady) Error() string { return string(r) }

// notReady says why a process is not ready, to anyone.
func notReady(err error) string {
	var reason NotReady
	switch {
	case errors.As(err, &reason):
		return string(reason)
	case errors.Is(err, db.ErrUnavailable):
		return "The database cannot be reached."
	default:
		return "The process is not ready; its log says why."
	}
}

func (a *API) registerHealth() {
	register(a, public, huma.Operation{
		OperationID: "health", Method: http.MethodGet, Path: "/healthz", Tags: []string{"Health"}, Summary: "Does the process run?",
	}, func(context.Context, *healthInput) (*healthOutput, error) {
		return &healthOutput{Body: Health{Status: "ok", Version: a.deps.Version}}, nil
	})
	register(a, public, huma.Operation{
		OperationID: "ready", Method: http.MethodGet, Path: "/readyz", Tags: []string{"Health"}, Summary: "Should requests come here?",
		Description: "Ready is a process whose database answers and is migrated as it expects. Else: 503 not_ready.",
	}, a.ready)
}

func (a *API) ready(ctx context.Context, _ *healthInput) (*healthOutput, error) {
	if a.deps.Ready != nil {
		if err := a.deps.Ready(ctx); err != nil {
			a.deps.Log.WarnContext(ctx, "not ready", "error", err)
			return nil, problemUnavailable("not_ready", notReady(err))
		}
	}
	return &healthOutput{Body: Health{Status: "ready", Version: a.deps.Version}}, nil
}
