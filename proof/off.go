//go:build !proof

package proof

import (
	"context"
	"time"
)

// Enabled says whether this build can be killed at its boundaries.
const Enabled = false

// Step names the steps that are made with the context: several where they share one commit.
func Step(ctx context.Context, _ ...string) context.Context { return ctx }

// Before is passed right before a step is made.
func Before(context.Context) {}

// After is passed right after a step was made.
func After(context.Context) {}

// Now is the time.
func Now() time.Time { return time.Now() }
