package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"sluice/automations"
	"sluice/db"
)

// compiledMax bounds how many compiled automations are held; past it, all are forgotten and compiled again when needed.
const compiledMax = 2000

// Compiled holds automations as compiled, for the intake and for the work. A version never changes, so nothing in it grows old.
type Compiled struct {
	mu   sync.Mutex
	held map[compiledKey]*automations.Compiled
}

// compiledKey begins with the tenant, as every key of ours.
type compiledKey struct {
	tenantID, automationID uuid.UUID
	version                int
}

// NewCompiled makes an empty cache.
func NewCompiled() *Compiled {
	return &Compiled{held: map[compiledKey]*automations.Compiled{}}
}

// Of compiles a version of an automation, or finds it compiled. An automations.Fault says that it does not compile.
func (c *Compiled) Of(v db.AutomationVersion) (*automations.Compiled, error) {
	key := compiledKey{v.TenantID, v.AutomationID, v.Version}
	if held, ok := c.find(key); ok {
		return held, nil
	}
	var spec automations.Spec
	if err := json.Unmarshal(v.Spec, &spec); err != nil {
		return nil, fmt.Errorf("read version %d of automation %s: %w", v.Version, v.AutomationID, err)
	}
	compiled, faults := automations.Compile(spec)
	if len(faults) > 0 {
		return nil, faults[0]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) >= compiledMax {
		clear(c.held)
	}
	c.held[key] = compiled
	return compiled, nil
}

// get reads a version of an automation, if it is not held, and compiles it.
func (c *Compiled) get(ctx context.Context, tx db.TenantTx, id uuid.UUID, version int) (*automations.Compiled, error) {
	if held, ok := c.find(compiledKey{tx.TenantID, id, version}); ok {
		return held, nil
	}
	v, err := tx.AutomationVersionGet(ctx, id, version)
	if err != nil {
		return nil, fmt.Errorf("read version %d of automation %s: %w", version, id, err)
	}
	return c.Of(v)
}

func (c *Compiled) find(key compiledKey) (*automations.Compiled, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held, ok := c.held[key]
	return held, ok
}
