package api

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"

	"sluice/api/source"
	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
	"sluice/tenants"
)

const (
	// cacheAgeMax is the bound on staleness should a notification be lost: an endpoint is read anew after this time whatever is told of it.
	cacheAgeMax = 10 * time.Second
	// cacheEndpointsMax bounds what is held; with more endpoints in use than this, some are read more often.
	cacheEndpointsMax = 10_000
)

// cachedEndpoint is an endpoint with all that a delivery needs, read and compiled once for many deliveries.
type cachedEndpoint struct {
	db.EndpointFound

	tenant   string // the tenant's id as it is shown
	source   source.Source
	known    bool // this binary knows the source
	settings source.Settings
	order    db.Order
	faults   []source.Fault // why the settings cannot be used
	asked    []askedAutomation
	asks     bool // one of them looks at the payload
	loadedAt time.Time
}

// askedAutomation is an automation that is asked about each event.
type askedAutomation struct {
	db.AutomationVersion

	compiled *automations.Compiled
	fault    error
}

// endpointCache holds endpoints by their tokens. It is told of every change by the database, and reads anew after cacheAgeMax in any case.
// While it is not being told, it holds nothing.
type endpointCache struct {
	db       *db.DB
	log      *slog.Logger
	now      func() time.Time
	compiled *jobs.Compiled
	loads    singleflight.Group

	told atomic.Bool // changes are being told
	// changes counts what was told: what was read before a change is not kept after it.
	changes atomic.Uint64
	mu      sync.RWMutex
	byToken map[string]*cachedEndpoint

	// watch begins with the first delivery: a face that only writes its contract down has no database.
	watch   sync.Once
	ctx     context.Context //nolint:containedctx // of the watch, until close
	stop    context.CancelFunc
	stopped chan struct{}
}

func newEndpointCache(d *db.DB, log *slog.Logger, now func() time.Time) *endpointCache {
	ctx, stop := context.WithCancel(context.Background())
	return &endpointCache{
		db: d, log: log, now: now, compiled: jobs.NewCompiled(), byToken: map[string]*cachedEndpoint{}, ctx: ctx, stop: stop, stopped: make(chan struct{}),
	}
}

// begin has changes told from now on.
func (c *endpointCache) begin() {
	go func() {
		defer close(c.stopped)
		c.db.EndpointsWatch(c.ctx, db.Watcher{Up: c.up, Down: c.down, Changed: c.drop})
	}()
}

// get finds the endpoint of a token: db.ErrNotFound if there is none.
func (c *endpointCache) get(ctx context.Context, token string) (*cachedEndpoint, error) {
	c.watch.Do(c.begin)
	c.mu.RLock()
	held := c.byToken[token]
	c.mu.RUnlock()
	if held != nil && c.now().Sub(held.loadedAt) < cacheAgeMax {
		return held, nil
	}
	// One looks for all that ask at once; each waits only as long as it can.
	loading := c.loads.DoChan(token, func() (any, error) { return c.load(token) })
	select {
	case loaded := <-loading:
		if loaded.Err != nil {
			return nil, loaded.Err
		}
		e, _ := loaded.Val.(*cachedEndpoint) // load's own type
		return e, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// load reads and compiles an endpoint, and keeps it unless something was changed meanwhile.
func (c *endpointCache) load(token string) (*cachedEndpoint, error) {
	ctx, cancel := context.WithTimeout(context.Background(), intakeDatabaseTimeout/2)
	defer cancel()
	before, e := c.changes.Load(), &cachedEndpoint{loadedAt: c.now()}
	err := c.db.System(ctx, func(tx db.SystemTx) (err error) {
		e.EndpointFound, err = tx.EndpointFind(ctx, token)
		return err
	})
	if err != nil {
		return nil, err
	}
	e.tenant = tenants.FormatID(tenants.TenantPrefix, e.TenantID)
	if e.source, e.known = source.Get(e.Source); e.known {
		e.settings, e.order, e.faults = splitSettings(e.source, e.Settings)
	}
	for _, version := range e.Automations {
		asked := askedAutomation{AutomationVersion: version}
		asked.compiled, asked.fault = c.compiled.Of(version)
		e.asked = append(e.asked, asked)
		e.asks = e.asks || (asked.fault == nil && asked.compiled.Asks())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.told.Load() || c.changes.Load() != before {
		return e, nil
	}
	for other := range c.byToken {
		if len(c.byToken) < cacheEndpointsMax {
			break
		}
		delete(c.byToken, other) // whichever: it is read again when it is asked for
	}
	c.byToken[token] = e
	return e, nil
}

// up begins to keep what is read: changes are told from now on.
func (c *endpointCache) up() {
	c.clear()
	c.told.Store(true)
}

// down ends that: what is not told cannot be trusted.
func (c *endpointCache) down(err error) {
	c.told.Store(false)
	c.clear()
	c.log.Warn("changes of endpoints are not told for the moment; each delivery reads its endpoint", "error", err)
}

func (c *endpointCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes.Add(1)
	clear(c.byToken)
}

// drop forgets what belongs to an id, of an endpoint or of a tenant.
func (c *endpointCache) drop(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes.Add(1)
	for token, e := range c.byToken {
		if e.ID == id || e.TenantID == id {
			delete(c.byToken, token)
		}
	}
}

func (c *endpointCache) close() {
	c.stop()
	c.watch.Do(func() { close(c.stopped) })
	<-c.stopped
}
