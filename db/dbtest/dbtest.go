// Package dbtest gives a test its own corner of a real Postgres: a database made from a migrated template, with pools of every role. It takes
// SLUICE_TEST_DATABASE_URL if set, else a container where a Docker engine answers, else a private cluster (db/embedded). Nothing of it is
// linked into the binary, and no test of anything but a database's use belongs here.
package dbtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/migrations"
)

// Bundle is what a test gets.
type Bundle struct {
	// URL connects to the test's own database as its superuser; a child process may be given it as DATABASE_URL.
	URL string
	// DB runs as the API does, Worker as a worker does.
	DB, Worker *db.DB
	// App, WorkerPool, System, Door and Owner are pools of those roles; Owner is the superuser, whom no row security binds.
	App, WorkerPool, System, Door, Owner *pgxpool.Pool
	// MasterKey sealed what DB and Worker seal.
	MasterKey []byte
}

// setupTimeout bounds the start of a server and the making of a database.
const setupTimeout = 2 * time.Minute

// urlVariable is the environment's name of the url of a superuser of a running server.
const urlVariable = "SLUICE_TEST_DATABASE_URL"

// cluster is the server of this test process, started by the first test that asks.
var cluster struct {
	once     sync.Once
	err      error
	url      string
	template string
	stop     func()
	making   sync.Mutex
}

// Main runs a package's tests and takes the server away after them: func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }.
func Main(m *testing.M) int {
	defer func() {
		if cluster.stop != nil {
			cluster.stop()
		}
	}()
	return m.Run()
}

// New gives a test its own migrated database, dropped when the test ends.
func New(tb testing.TB) *Bundle {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	cluster.once.Do(func() { cluster.err = start(ctx) })
	if cluster.err != nil {
		tb.Fatalf("start a Postgres for tests: %v", cluster.err)
	}
	name := "sluice_test_" + random()
	// CREATE DATABASE from a template wants nobody else at the template.
	cluster.making.Lock()
	err := exec(ctx, cluster.url, fmt.Sprintf(`create database %s template %s`, name, cluster.template))
	cluster.making.Unlock()
	if err != nil {
		tb.Fatalf("make the test's database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		if err := exec(ctx, cluster.url, fmt.Sprintf(`drop database %s with (force)`, name)); err != nil {
			tb.Errorf("drop the test's database: %v", err)
		}
	})
	return open(tb, withDatabase(cluster.url, name))
}

// Empty gives a test a database that is not migrated, and only its url.
func Empty(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	cluster.once.Do(func() { cluster.err = start(ctx) })
	if cluster.err != nil {
		tb.Fatalf("start a Postgres for tests: %v", cluster.err)
	}
	name := "sluice_test_" + random()
	if err := exec(ctx, cluster.url, `create database `+name); err != nil {
		tb.Fatalf("make the test's database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		_ = exec(ctx, cluster.url, fmt.Sprintf(`drop database %s with (force)`, name))
	})
	return withDatabase(cluster.url, name)
}

func open(tb testing.TB, url string) *Bundle {
	tb.Helper()
	pool := func(role, planCache string) *pgxpool.Pool {
		// The pool outlives this function, so its context is its own.
		p, err := db.Open(context.Background(), db.PoolConfig{URL: url, Role: role, ConnsMax: 8, PlanCacheMode: planCache})
		if err != nil {
			tb.Fatalf("open a pool of %s: %v", role, err)
		}
		tb.Cleanup(p.Close)
		return p
	}
	b := &Bundle{URL: url, MasterKey: []byte("0123456789abcdef0123456789abcdef")}
	b.App, b.WorkerPool, b.System = pool(db.AppRole, ""), pool(db.WorkerRole, "force_generic_plan"), pool(db.SystemRole, "")
	b.Door = pool(db.DoorRole, "")
	owner, err := pgxpool.New(context.Background(), url)
	if err != nil {
		tb.Fatalf("open the superuser's pool: %v", err)
	}
	tb.Cleanup(owner.Close)
	b.Owner = owner
	sealer, err := db.NewSealer(b.MasterKey)
	if err != nil {
		tb.Fatal(err)
	}
	b.DB = db.New(db.Pools{App: b.App, System: b.System, Door: b.Door}, sealer)
	b.Worker = db.New(db.Pools{App: b.WorkerPool, System: b.System}, sealer)
	return b
}

// start finds a server and makes the migrated template.
func start(ctx context.Context) error {
	var err error
	switch {
	case os.Getenv(urlVariable) != "":
		cluster.url = os.Getenv(urlVariable)
	case dockerAnswers():
		cluster.url, cluster.stop, err = startContainer(ctx)
	default:
		cluster.url, cluster.stop, err = startPrivate(ctx)
	}
	if err != nil {
		return err
	}
	template := "sluice_template_" + random()
	if err := exec(ctx, cluster.url, `create database `+template); err != nil {
		return err
	}
	stop := cluster.stop
	cluster.stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		_ = exec(ctx, cluster.url, fmt.Sprintf(`drop database if exists %s with (force)`, template))
		if stop != nil {
			stop()
		}
	}
	cluster.template = template
	return migrations.Up(ctx, withDatabase(cluster.url, template))
}

func exec(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	u.Path = "/" + name
	return u.String()
}

func random() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
