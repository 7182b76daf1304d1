package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/db/embedded"
	"sluice/migrations"
	"sluice/tenants"
)

// benchCommand measures on a private, durable Postgres of its own, each figure beside a yardstick of the same run.
type benchCommand struct {
	Intake benchIntake `cmd:"" help:"Acks per second at 1, 16, 64 and 256 connections, beside bare commits and a transaction for each request; duplicates; row security; a full table."`
	Work   benchWork   `cmd:"" help:"Runs per second against a model that answers at once, beside bare River jobs that do nothing."`

	Fairness benchFairness `cmd:"" help:"How long the events of quiet tenants wait while another floods, beside no flood and beside first come, first served."`
	Budget   benchBudget   `cmd:"" help:"Runs at once against a budget for few, with workers that are killed: what was spent and reserved at every commit, and the ledger beside the provider's journal."`

	Chaos     benchChaos     `cmd:"" help:"Everything goes wrong while webhooks come in: processes killed and paused, Postgres stopped, networks cut, disks full, clocks wrong, models and targets that lie; then the journals of those outside are asked."`
	Providers benchProviders `cmd:"" help:"A tenant whose model is slow, hangs, storms, flaps, answers garbage or refuses the key: its calls and runs, what others notice, how it recovers."`

	Overload benchOverload `cmd:"" help:"Ten times what the door can do, and a database that stands still: what is acked, refused and how long it takes, before, during and after; every acked event ends."`
}

// benchBody is about what a webhook weighs.
const benchBody = 2048

// benchHouse is a database with one tenant, an endpoint and an automation.
type benchHouse struct {
	cluster  *embedded.Cluster
	dir      string
	url      string
	sealer   *db.Sealer
	tenant   uuid.UUID
	endpoint uuid.UUID
	token    string
}

// benchSecret is the example of the Standard Webhooks specification.
const benchSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func newBenchHouse(ctx context.Context, lookup environment) (*benchHouse, error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	binDir, _ := lookup("SLUICE_POSTGRES_BIN")
	h := &benchHouse{dir: dir}
	h.cluster, err = embedded.Start(ctx, embedded.Config{
		BinDir: binDir, Dir: dir, Durable: true, Log: io.Discard, MaxConnections: 300,
		Settings: map[string]string{"shared_buffers": "1GB"},
	})
	if err != nil {
		h.close()
		return nil, err
	}
	h.url = h.cluster.URL("postgres")
	if err := migrations.Up(ctx, h.url); err != nil {
		h.close()
		return nil, err
	}
	if h.sealer, err = db.NewSealer(make([]byte, db.MasterKeyLen)); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *benchHouse) close() {
	if h.cluster != nil {
		_ = h.cluster.Erase()
	}
	_ = os.RemoveAll(h.dir)
}

// open makes a DB of its own pools.
func (h *benchHouse) open(ctx context.Context, role string, conns int32, planCache string) (*db.DB, func(), error) {
	app, err := db.Open(ctx, db.PoolConfig{URL: h.url, Role: role, ConnsMax: conns, PlanCacheMode: planCache})
	if err != nil {
		return nil, nil, err
	}
	system, err := db.Open(ctx, db.PoolConfig{URL: h.url, Role: db.SystemRole, ConnsMax: conns})
	if err != nil {
		app.Close()
		return nil, nil, err
	}
	door, err := db.Open(ctx, db.PoolConfig{URL: h.url, Role: db.DoorRole, ConnsMax: conns})
	if err != nil {
		app.Close()
		system.Close()
		return nil, nil, err
	}
	return db.New(db.Pools{App: app, System: system, Door: door}, h.sealer), func() { app.Close(); system.Close(); door.Close() }, nil
}

// furnish makes the tenant, an endpoint with a secret, and an automation of this action.
func (h *benchHouse) furnish(ctx context.Context, d *db.DB, action func(callback string) map[string]any, mode string) (automation uuid.UUID, err error) {
	err = d.System(ctx, func(tx db.SystemTx) error {
		t, err := tx.TenantInsert(ctx, "bench", "UTC")
		h.tenant = t.TenantID
		return err
	})
	if err != nil {
		return uuid.Nil, err
	}
	err = d.Tenant(ctx, h.tenant, func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(ctx, "bench", "standard", json.RawMessage(`{}`))
		if err != nil {
			return err
		}
		h.endpoint, h.token = e.ID, e.Token
		if _, err := tx.EndpointSecretInsert(ctx, e.ID, tenants.NewSecret(benchSecret)); err != nil {
			return err
		}
		c, err := tx.CredentialInsert(ctx, "callback", "callback", tenants.NewSecret(benchSecret))
		if err != nil {
			return err
		}
		spec, err := json.Marshal(map[string]any{
			"name": "bench", "model": "scripted/echo-1", "mode": mode, "max_output_tokens": 100, "prompt": map[string]any{"user": "{{ payload.type }}"},
			"action": action(tenants.FormatID(tenants.CredentialPrefix, c.ID)),
		})
		if err != nil {
			return err
		}
		a, err := tx.AutomationInsert(ctx, e.ID, "bench", spec, uuid.Nil)
		automation = a.ID
		return err
	})
	return automation, err
}

// benchNote fills a body.
var benchNote = strings.Repeat("abcdefghijklmnopqrstuvwxyz", benchBody/26-6)

// payload is a body of about benchBody bytes.
func payload(id string) []byte {
	return []byte(`{"type":"contact.created","timestamp":"2026-01-02T03:04:05Z","data":{"id":"` + id + `","note":"` + benchNote + `"}}`)
}

// rate is how often something was done, and how long each took.
type rate struct {
	done    int
	elapsed time.Duration
	waits   []time.Duration
}

func (r rate) perSecond() float64 { return float64(r.done) / r.elapsed.Seconds() }

func (r rate) quantile(q float64) time.Duration {
	if len(r.waits) == 0 {
		return 0
	}
	return r.waits[min(int(q*float64(len(r.waits))), len(r.waits)-1)]
}

// hammer lets n callers do one thing after another for a while. The first failure ends it.
func hammer(ctx context.Context, n int, during time.Duration, do func(ctx context.Context, caller int) error) (rate, error) {
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	waits := make([][]time.Duration, n)
	started := time.Now()
	deadline := started.Add(during)
	for caller := range n {
		group.Go(func() {
			for time.Now().Before(deadline) && failed.Load() == nil && ctx.Err() == nil {
				begun := time.Now()
				if err := do(ctx, caller); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				waits[caller] = append(waits[caller], time.Since(begun))
			}
		})
	}
	group.Wait()
	r := rate{elapsed: time.Since(started)}
	if err := failed.Load(); err != nil {
		return r, *err
	}
	r.waits = slices.Concat(waits...)
	slices.Sort(r.waits)
	r.done = len(r.waits)
	return r, ctx.Err()
}

// machine says where a figure was measured.
func (h *benchHouse) machine(out io.Writer, what string) {
	fmt.Fprintf(out, "%s: %d CPUs (%s/%s), Postgres %s on this machine with fsync and synchronous_commit on; client, Sluice and Postgres share the CPUs\n",
		what, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, h.cluster.Version())
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

var errBench = errors.New("the measurement failed")
