// Package db is the only room that speaks SQL. Its row structs are the domain's types. A tenant's rows are reached through a TenantTx and
// through nothing else; the few acts across tenants are methods of SystemTx, on another role and pool. No HTTP, no River worker and no
// call to the outside may enter it.
package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/proof"
)

// The roles that a pool takes on when it connects; the login of the URL must be a member.
const (
	AppRole    = "sluice_app"
	WorkerRole = "sluice_worker"
	SystemRole = "sluice_system"
	DoorRole   = "sluice_door"
)

// RiverSchema is the schema of River's tables.
const RiverSchema = "river"

// connectTimeout bounds one attempt to connect, so that a database that is away is told from a slow one within the intake's 2 s.
const connectTimeout = 1500 * time.Millisecond

// PoolConfig says how Open connects.
type PoolConfig struct {
	// URL is a Postgres connection string.
	URL string
	// Role is one of the roles above; the session starts as it, so that a RESET ROLE returns to it.
	Role string
	// ConnsMax is the size of the pool.
	ConnsMax int32
	// PlanCacheMode is Postgres's setting of that name. River's fetch needs force_custom_plan (a generic plan made on a young table scans it
	// all), River's completion within our transactions needs force_generic_plan (it is planned anew each time otherwise).
	PlanCacheMode string
	// Tracer, if set, sees every statement.
	Tracer pgx.QueryTracer
}

// Open makes a pool. It does not connect yet: a database that is away is met by the first statement.
func Open(ctx context.Context, c PoolConfig) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, errors.New("parse the database url: it is not a Postgres connection string (its text is not shown, since it holds a password)")
	}
	config.MaxConns = max(c.ConnsMax, 1)
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.ConnConfig.RuntimeParams["role"] = c.Role
	config.ConnConfig.RuntimeParams["application_name"] = "sluice " + c.Role
	if c.PlanCacheMode != "" {
		config.ConnConfig.RuntimeParams["plan_cache_mode"] = c.PlanCacheMode
	}
	if c.Tracer != nil {
		config.ConnConfig.Tracer = c.Tracer
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the pool of %s: %w", c.Role, err)
	}
	return pool, nil
}

// DB reaches the rows of one tenant, or does one of the few acts across tenants.
type DB struct {
	app, system, door *pgxpool.Pool
	sealer            *Sealer
	clock             func() time.Time
}

// WithClock is a DB whose windows of limits are told by clock and not by the database: for tests of what happens at midnight.
func (d *DB) WithClock(clock func() time.Time) *DB {
	other := *d
	other.clock = clock
	return &other
}

// at is the moment to tell the database; nil, its own, is what everybody but a test wants.
func (d *DB) at() *time.Time {
	if d.clock == nil {
		return nil
	}
	now := d.clock()
	return &now
}

// Pools are the ways into the database.
type Pools struct {
	App    *pgxpool.Pool // of role AppRole or WorkerRole
	System *pgxpool.Pool // of SystemRole
	Door   *pgxpool.Pool // of DoorRole; nil in a process without an intake
}

// New makes a DB of its pools.
func New(p Pools, sealer *Sealer) *DB {
	return &DB{app: p.App, system: p.System, door: p.Door, sealer: sealer}
}

// TenantTx is a transaction that sees one tenant's rows and no others.
type TenantTx struct {
	TenantID uuid.UUID

	tx     pgx.Tx
	sealer *Sealer
	at     *time.Time // see DB.WithClock
}

// Pgx hands the transaction to River, so that a job is added or completed with the rows it belongs to. Nothing else may use it.
func (tx TenantTx) Pgx() pgx.Tx { return tx.tx }

// SystemTx is a transaction for the few acts across tenants.
type SystemTx struct {
	tx     pgx.Tx
	sealer *Sealer
	at     *time.Time // see DB.WithClock
}

// Pgx hands the transaction to River, as TenantTx.Pgx does.
func (tx SystemTx) Pgx() pgx.Tx { return tx.tx }

// Tenant runs fn in one transaction under the tenant's row security, and commits if fn returns nil. A commit whose end is not known is an
// ErrCommitUnknown.
func (d *DB) Tenant(ctx context.Context, id uuid.UUID, fn func(TenantTx) error) error {
	// One round trip for both; a uuid's text needs no quoting. The setting is the transaction's, so it never leaks through the pool.
	begin := "begin; select set_config('sluice.tenant_id', '" + id.String() + "', true)" + actorSet(ctx)
	return inTx(ctx, d.app, begin, func(tx pgx.Tx) error {
		return fn(TenantTx{TenantID: id, tx: tx, sealer: d.sealer, at: d.at()})
	})
}

// System runs fn in one transaction as sluice_system, and commits if fn returns nil.
func (d *DB) System(ctx context.Context, fn func(SystemTx) error) error {
	begin := ""
	if actor := actorSet(ctx); actor != "" {
		begin = "begin" + actor
	}
	return inTx(ctx, d.system, begin, func(tx pgx.Tx) error {
		return fn(SystemTx{tx: tx, sealer: d.sealer, at: d.at()})
	})
}

// Ping says whether both pools reach the database.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.app.Ping(ctx); err != nil {
		return unavailable(err)
	}
	return unavailable(d.system.Ping(ctx))
}

// rollbackTimeout bounds the rollback of a transaction whose own context has ended.
const rollbackTimeout = 5 * time.Second

func inTx(ctx context.Context, pool *pgxpool.Pool, begin string, fn func(pgx.Tx) error) error {
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
	if err != nil {
		return unavailable(fmt.Errorf("begin: %w", err))
	}
	defer func() {
		// After a commit this does nothing; before it, also where fn panics, it gives the connection back clean.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_ = tx.Rollback(cleanup)
	}()
	if err := fn(tx); err != nil {
		return translate(err)
	}
	proof.Before(ctx)
	if err := tx.Commit(ctx); err != nil {
		return commitFault(err)
	}
	proof.After(ctx)
	return nil
}

// args are a statement's named arguments; those of a TenantTx always hold tenant_id, which every statement names.
type args = pgx.StrictNamedArgs

func (tx TenantTx) with(a args) args {
	if a == nil {
		a = args{}
	}
	a["tenant_id"] = tx.TenantID
	return a
}

// many reads all rows of a statement; T's fields are its columns, strictly.
func many[T any](ctx context.Context, tx pgx.Tx, sql string, a args) ([]T, error) {
	rows, err := tx.Query(ctx, sql, a)
	if err != nil {
		return nil, translate(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[T])
	return out, translate(err)
}

// one reads exactly one row; none is ErrNotFound.
func one[T any](ctx context.Context, tx pgx.Tx, sql string, a args) (T, error) {
	rows, err := tx.Query(ctx, sql, a)
	if err != nil {
		var zero T
		return zero, translate(err)
	}
	out, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	return out, translate(err)
}

// value reads one column of one row; none is ErrNotFound.
func value[T any](ctx context.Context, tx pgx.Tx, sql string, a args) (T, error) {
	rows, err := tx.Query(ctx, sql, a)
	if err != nil {
		var zero T
		return zero, translate(err)
	}
	out, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	return out, translate(err)
}

// run executes a statement and returns how many rows it touched.
func run(ctx context.Context, tx pgx.Tx, sql string, a args) (int64, error) {
	tag, err := tx.Exec(ctx, sql, a)
	return tag.RowsAffected(), translate(err)
}

// Page is one page of a list, newest first: up to Limit rows whose id comes before Before; a zero Before begins at the newest.
type Page struct {
	Before uuid.UUID
	Limit  int
}

// before is the id to start below; ids are UUIDv7, so their order is the order of their making.
func (p Page) before() uuid.UUID {
	if p.Before == uuid.Nil {
		return uuid.Max
	}
	return p.Before
}

// orNil makes an optional filter of an empty text.
func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// values reads one column of all rows.
func values[T any](ctx context.Context, tx pgx.Tx, sql string, a args) ([]T, error) {
	rows, err := tx.Query(ctx, sql, a)
	if err != nil {
		return nil, translate(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	return out, translate(err)
}
