// Package migrations is the history of the database: our numbered files, run by golang-migrate into schema sluice, and River's, run by
// rivermigrate into schema river. Nothing here reads or writes a tenant's rows, and no other room changes the shape of the database.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

const (
	ownerRole   = "sluice_owner"
	riverSchema = "river"
	ourSchema   = "sluice"
	// serverVersionMin is the oldest Postgres that is tested: views with security_invoker came with 15.
	serverVersionMin = 15_00_00

	// migrationLock is the advisory lock of one migration of one database; any number that nobody else uses.
	migrationLock = 7238651
	lockWait      = 15 * time.Minute // another process's migration may build an index
	lockPoll      = 100 * time.Millisecond

	bootstrapTriesMax = 10
	bootstrapRetry    = 100 * time.Millisecond
)

// errURL does not show the url, which holds a password.
var errURL = errors.New("parse the database url: it is not a Postgres connection string (its text is not shown, since it holds a password)")

// Status is how far a database is, and how far this binary would bring it.
type Status struct {
	// Version is the number of our newest file applied; 0 is none.
	Version int
	// Wanted is the number of our newest file in this binary.
	Wanted int
	// Dirty says that a file of ours stopped half way; our files are one transaction each, so it did nothing.
	Dirty bool
	// RiverReady says that River's own migrations are all applied.
	RiverReady bool
	// InvalidIndexes are the indexes that an interrupted CREATE INDEX CONCURRENTLY has left; a unique one of them guards nothing.
	InvalidIndexes []string
}

// Err is nil where a binary of this version can serve the database; else it says what is wrong and what to do.
// A database newer than the binary is served: migrations keep the previous binary working.
func (s Status) Err() error {
	var faults []error
	if s.Dirty {
		faults = append(faults, fmt.Errorf("migration %04d did not end: run `sluice migrate up`", s.Version))
	}
	if s.Version < s.Wanted {
		faults = append(faults, fmt.Errorf("the schema is at version %d, this binary needs %d: run `sluice migrate up`", s.Version, s.Wanted))
	}
	if !s.RiverReady {
		faults = append(faults, errors.New("the tables of River are older than this binary needs: run `sluice migrate up`"))
	}
	if len(s.InvalidIndexes) > 0 {
		faults = append(faults, fmt.Errorf("invalid indexes: %s: drop and create each again (REINDEX INDEX CONCURRENTLY)", strings.Join(s.InvalidIndexes, ", ")))
	}
	return errors.Join(faults...)
}

// Up brings the database at url to this binary's version: the roles and schemas, River's tables, then ours. The url's user must be able to
// create roles and to create in the database. It is safe to repeat, and to run twice at once.
func Up(ctx context.Context, url string) error {
	return alone(ctx, url, func(conn *pgx.Conn) error {
		if err := bootstrap(ctx, conn); err != nil {
			return err
		}
		return up(ctx, url)
	})
}

func up(ctx context.Context, url string) error {
	pool, err := ownerPool(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	river, err := riverMigrator(pool)
	if err != nil {
		return err
	}
	if _, err := river.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate River's tables up: %w", err)
	}
	return ours(pool, func(m *migrate.Migrate, s Status) error {
		if s.Dirty {
			// A file is one transaction: the one that failed left nothing behind, so the one before it holds.
			before := s.Version - 1
			if before == 0 {
				before = database.NilVersion
			}
			if err := m.Force(before); err != nil {
				return fmt.Errorf("take back the mark of migration %04d: %w", s.Version, err)
			}
		}
		return m.Up()
	})
}

// Down takes steps of our own migrations back; steps <= 0 means all of them, and River's tables as well. The rows go with the tables.
func Down(ctx context.Context, url string, steps int) error {
	return alone(ctx, url, func(*pgx.Conn) error { return down(ctx, url, steps) })
}

func down(ctx context.Context, url string, steps int) error {
	pool, err := ownerPool(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	there, err := versioned(ctx, pool)
	if err != nil {
		return err
	}
	if there {
		err = ours(pool, func(m *migrate.Migrate, s Status) error {
			if s.Dirty {
				return fmt.Errorf("migration %04d did not end: run `sluice migrate up` first", s.Version)
			}
			last := 0
			if steps > 0 {
				last = max(s.Version-steps, 0)
			}
			for version := s.Version; version > last; version-- {
				if err := m.Steps(-1); err != nil {
					// The file that failed took nothing away, so the version before it holds.
					return errors.Join(fmt.Errorf("take back migration %04d: %w", version, err), m.Force(version))
				}
			}
			return nil
		})
	}
	if err != nil || steps > 0 {
		return err
	}
	river, err := riverMigrator(pool)
	if err != nil {
		return err
	}
	if _, err := river.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1}); err != nil {
		return fmt.Errorf("migrate River's tables down: %w", err)
	}
	return nil
}

// statusSQL reads our version without golang-migrate, which would create its table: asking must not write.
const statusSQL = `select version, dirty from sluice.schema_migrations limit 1`

// invalidIndexesSQL leaves out what REINDEX CONCURRENTLY is building beside the index that it replaces, which guards as before: River's maintenance does
// that every night, and no process may take the database for unfit meanwhile.
const invalidIndexesSQL = `
select n.nspname || '.' || c.relname
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
where not i.indisvalid and n.nspname in ('sluice', 'river') and c.relname !~ '_cc(new|old)[0-9]*$'
order by 1`

// Read tells how far the database is, on a connection of any of our roles. It writes nothing.
func Read(ctx context.Context, pool *pgxpool.Pool) (Status, error) {
	s := Status{Wanted: newest()}
	there, err := versioned(ctx, pool)
	if err != nil {
		return s, err
	}
	if there {
		err := pool.QueryRow(ctx, statusSQL).Scan(&s.Version, &s.Dirty)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return s, fmt.Errorf("read the schema's version: %w", err)
		}
	}
	rows, _ := pool.Query(ctx, invalidIndexesSQL)
	invalid, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s, fmt.Errorf("look for invalid indexes: %w", err)
	}
	s.InvalidIndexes = invalid
	if !there {
		return s, nil
	}
	river, err := riverMigrator(pool)
	if err != nil {
		return s, err
	}
	result, err := river.Validate(ctx, nil)
	if err != nil {
		return s, fmt.Errorf("read the version of River's tables: %w", err)
	}
	s.RiverReady = result.OK
	return s, nil
}

// versioned says whether our version table is there; where it is not, the version is 0.
func versioned(ctx context.Context, pool *pgxpool.Pool) (there bool, err error) {
	// Text, not a cast: a missing table is no error.
	if err := pool.QueryRow(ctx, `select to_regclass('sluice.schema_migrations') is not null`).Scan(&there); err != nil {
		return false, fmt.Errorf("look for the schema: %w", err)
	}
	return there, nil
}

// alone runs do while no other process migrates the same database. The lock is that of do's connection, so a process that is killed frees it.
func alone(ctx context.Context, url string, do func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return errURL
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to migrate: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// It asks again and again, since a statement that waits holds a snapshot, which CREATE INDEX CONCURRENTLY would wait for in turn.
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		var locked bool
		if err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, migrationLock).Scan(&locked); err != nil {
			return fmt.Errorf("lock the database for a migration: %w", err)
		}
		if locked {
			return do(conn)
		}
		select {
		case <-poll.C:
		case <-wait.Done():
			return fmt.Errorf("wait for another migration of the database to end: %w", wait.Err())
		}
	}
}

// bootstrap makes the roles and the schemas, as whoever conn is. The roles are the cluster's, and no lock spans databases, so where another
// database is migrated at the same moment one of the two loses, and tries again.
func bootstrap(ctx context.Context, conn *pgx.Conn) error {
	var version int
	if err := conn.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return fmt.Errorf("read the server's version: %w", err)
	}
	if version < serverVersionMin {
		return fmt.Errorf("the server is Postgres %d; Sluice needs 15 or newer", version/10000)
	}
	roles, err := files.ReadFile("roles.sql")
	if err != nil {
		return fmt.Errorf("read roles.sql: %w", err)
	}
	for try := 1; ; try++ {
		_, err := conn.Exec(ctx, string(roles))
		if err == nil {
			return nil
		}
		if try == bootstrapTriesMax || !lost(err) {
			return fmt.Errorf("make the roles and schemas: %w", err)
		}
		timer := time.NewTimer(bootstrapRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("make the roles and schemas: %w", ctx.Err())
		}
	}
}

// lost says that a statement met another that changed the same roles: two make one role, or two change its members. The last is
// elog("tuple concurrently updated") in Postgres, which has no code of its own.
func lost(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains([]string{"23505", "40P01", "42710", "XX000"}, pgErr.Code)
}

func ownerPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errURL
	}
	config.ConnConfig.RuntimeParams["role"] = ownerRole
	config.ConnConfig.RuntimeParams["search_path"] = ourSchema
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect as %s: %w", ownerRole, err)
	}
	return pool, nil
}

func riverMigrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: riverSchema})
	if err != nil {
		return nil, fmt.Errorf("open River's migrations: %w", err)
	}
	return m, nil
}

// ours runs do with golang-migrate on our files, with its version table in our schema.
func ours(pool *pgxpool.Pool, do func(*migrate.Migrate, Status) error) error {
	// golang-migrate keeps a connection where its start fails, and a pool would wait for it for ever: so these are none of the pool's.
	var opened []*pgx.Conn
	sqlDB := stdlib.OpenDB(*pool.Config().ConnConfig, stdlib.OptionAfterConnect(func(_ context.Context, conn *pgx.Conn) error {
		opened = append(opened, conn)
		return nil
	}))
	defer func() {
		_ = sqlDB.Close()
		for _, conn := range opened {
			_ = conn.Close(context.Background())
		}
	}()
	driver, err := migratepgx.WithInstance(sqlDB, &migratepgx.Config{SchemaName: ourSchema})
	if err != nil {
		return fmt.Errorf("open the version table: %w", err)
	}
	source, err := iofs.New(numbered{files}, ".")
	if err != nil {
		return fmt.Errorf("open the migrations: %w", err)
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		return fmt.Errorf("open the migrations: %w", err)
	}
	defer m.Close()
	var s Status
	version, dirty, err := m.Version()
	if err != nil && !errors.Is(err, migrate.ErrNilVersion) {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	s.Version, s.Dirty = int(version), dirty
	if err := do(m, s); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate: %w", err)
	}
	// The roles that serve ask how far the schema is.
	grant := `grant select on sluice.schema_migrations to sluice_app, sluice_worker, sluice_system; grant usage on schema sluice to sluice_app, sluice_worker, sluice_system`
	if _, err := sqlDB.Exec(grant); err != nil {
		return fmt.Errorf("let the roles read the schema's version: %w", err)
	}
	return nil
}

// newest is the number of the newest file.
func newest() int {
	entries, _ := files.ReadDir(".")
	n := 0
	for _, e := range entries {
		if number, _, ok := strings.Cut(e.Name(), "_"); ok {
			if v, err := strconv.Atoi(number); err == nil {
				n = max(n, v)
			}
		}
	}
	return n
}

// numbered shows golang-migrate the numbered files only.
type numbered struct{ fs.FS }

// ReadDir leaves out roles.sql.
func (n numbered) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(n.FS, name)
	kept := entries[:0:0]
	for _, e := range entries {
		if e.Name()[0] >= '0' && e.Name()[0] <= '9' {
			kept = append(kept, e)
		}
	}
	return kept, err
}
