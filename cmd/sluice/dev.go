package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/db"
	"sluice/db/embedded"
	"sluice/migrations"
	"sluice/scripted"
	"sluice/tenants"
)

// What dev keeps, all below its directory.
const (
	devDatabase   = "sluice"
	devEnvFile    = "dev.env"
	devLogFile    = "sluice.log"
	devPostgres   = "postgres.log"
	devKeyFile    = "master.key"
	devModel      = "scripted/echo-1"
	devFileMode   = 0o600
	devDirMode    = 0o755
	devStopWait   = 20 * time.Second
	devProvider   = "provider.jsonl"
	devTarget     = "target.jsonl"
	devAPIPort    = 8080
	devMetrics    = 9090
	devTargetPort = 8787
	devGitHubPort = 8788
	devLease      = 6 * time.Second
	leaseDefault  = 30 * time.Second
)

// devCommand runs all of Sluice on this machine alone: Postgres, API, workers, a scripted model and a target for callbacks.
type devCommand struct {
	Dir     string `name:"dir" default:".sluice" help:"Where the database, keys, logs and dev.env are kept."`
	NoDemo  bool   `name:"no-demo" help:"Makes the demo tenant, but sends no sample events."`
	Version string `name:"postgres" default:"" help:"Postgres to run: 15, 16, 17, 18, or fetch for the one that is downloaded. Without it, the newest found."`
}

// dev is what a running `sluice dev` holds.
type dev struct {
	command  devCommand
	config   Config
	out      io.Writer
	binDir   string
	log      *os.File
	cluster  *embedded.Cluster
	provider *scripted.Provider
	target   *scripted.Target
	github   *scripted.Vendor
	env      devEnv
	// earlier is what the last start told.
	earlier devEnv
	stops   []func(context.Context)
}

// Run starts everything, shows the demo, and waits for a signal.
func (c devCommand) Run(ctx context.Context, config *Config, std streams, lookup environment) (err error) {
	ctx, again := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer again()
	started := time.Now()
	d := &dev{command: c, config: *config, out: std.out}
	d.binDir, _ = lookup("SLUICE_POSTGRES_BIN")
	if d.command.Dir, err = filepath.Abs(c.Dir); err != nil {
		return fmt.Errorf("find %s: %w", c.Dir, err)
	}
	defer func() { d.stop() }()
	for _, step := range []func(context.Context) error{d.startFiles, d.startPostgres, d.startStandIns, d.startSluice} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := d.startDemo(ctx); err != nil {
		return err
	}
	if err := d.env.write(filepath.Join(d.command.Dir, devEnvFile)); err != nil {
		return err
	}
	d.say("\nSluice is ready at %s after %.1f s. Docs: %s/docs", d.env.URL, time.Since(started).Seconds(), d.env.URL)
	if !c.NoDemo {
		d.showDemo(ctx)
	}
	d.hints()
	select {
	case <-ctx.Done():
		again()
		d.say("\nStopping: no new events, and what runs comes to its end ...")
	case <-d.cluster.Done():
		return errors.New("Postgres stopped by itself; its log is in " + filepath.Join(d.command.Dir, devPostgres))
	}
	return nil
}

func (d *dev) say(format string, a ...any) { fmt.Fprintf(d.out, format+"\n", a...) }

// stop ends what was started, the last first.
func (d *dev) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), devStopWait+d.config.ShutdownTimeout)
	defer cancel()
	for _, stop := range slices.Backward(d.stops) {
		stop(ctx)
	}
	d.stops = nil
}

func (d *dev) onStop(fn func(context.Context)) { d.stops = append(d.stops, fn) }

// startFiles makes the directory, the log and the master key.
func (d *dev) startFiles(context.Context) error {
	if err := os.MkdirAll(d.command.Dir, devDirMode); err != nil {
		return fmt.Errorf("make %s: %w", d.command.Dir, err)
	}
	log, err := os.OpenFile(filepath.Join(d.command.Dir, devLogFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, devFileMode)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	d.log = log
	d.onStop(func(context.Context) { _ = log.Close() })
	if err := d.earlier.read(filepath.Join(d.command.Dir, devEnvFile)); err != nil {
		return err
	}
	if len(d.config.MasterKey.bytes()) > 0 {
		return nil
	}
	path := filepath.Join(d.command.Dir, devKeyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key := make([]byte, db.MasterKeyLen)
		_, _ = rand.Read(key)
		text = []byte(hex.EncodeToString(key))
		err = os.WriteFile(path, text, devFileMode)
	}
	if err != nil {
		return fmt.Errorf("keep the master key in %s: %w", path, err)
	}
	key, ok := parseMasterKey(strings.TrimSpace(string(text)))
	if !ok {
		return fmt.Errorf("%s: expected 32 bytes in hex", path)
	}
	d.config.MasterKey = key
	return nil
}

// startPostgres runs the private cluster and migrates its database.
func (d *dev) startPostgres(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(d.command.Dir, devPostgres), os.O_CREATE|os.O_WRONLY|os.O_APPEND, devFileMode)
	if err != nil {
		return fmt.Errorf("open the log of Postgres: %w", err)
	}
	d.onStop(func(context.Context) { _ = log.Close() })
	cluster, err := embedded.Start(ctx, embedded.Config{
		BinDir: d.binDir, Dir: filepath.Join(d.command.Dir, "postgres"), Durable: true, Log: log,
		Version: d.command.Version, MaxConnections: 200,
	})
	if err != nil {
		return err
	}
	d.cluster = cluster
	d.onStop(func(context.Context) { _ = cluster.Stop(embedded.StopFast) })
	if err := ensureDatabase(ctx, cluster.URL("postgres"), devDatabase); err != nil {
		return err
	}
	database := cluster.URL(devDatabase)
	if err := migrations.Up(ctx, database); err != nil {
		return err
	}
	d.config.DatabaseURL, d.config.OwnerDatabaseURL = tenants.NewSecret(database), tenants.NewSecret(database)
	d.env.OwnerDatabaseURL = database
	d.say("Postgres %s runs on port %d; its data is in %s", cluster.Version(), cluster.Port(), cluster.DataDir())
	return nil
}

func ensureDatabase(ctx context.Context, server, name string) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return fmt.Errorf("connect to the private Postgres: %w", err)
	}
	defer conn.Close(ctx)
	var there bool
	if err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, name).Scan(&there); err != nil || there {
		return err
	}
	if _, err := conn.Exec(ctx, `create database `+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("make database %s: %w", name, err)
	}
	return nil
}

// startStandIns starts the scripted model provider, the target of the demo's callbacks, and a scripted GitHub to comment at.
func (d *dev) startStandIns(ctx context.Context) error {
	var err error
	d.provider, err = scripted.NewProvider(scripted.ProviderConfig{JournalPath: filepath.Join(d.command.Dir, devProvider), Now: time.Now})
	if err != nil {
		return fmt.Errorf("start the scripted provider: %w", err)
	}
	d.onStop(func(context.Context) { _ = d.provider.Close() })
	d.target, err = scripted.NewTarget(scripted.TargetConfig{Journal: filepath.Join(d.command.Dir, devTarget), Now: time.Now})
	if err != nil {
		return fmt.Errorf("start the target: %w", err)
	}
	d.onStop(func(context.Context) { _ = d.target.Close() })
	// A target that is found at the same address after a restart lets what is still to be sent arrive.
	d.env.TargetURL, err = d.target.Listen(freePort(ctx, "127.0.0.1", portOf(d.earlier.TargetURL, devTargetPort)))
	if err != nil {
		return fmt.Errorf("start the target: %w", err)
	}
	d.config.ScriptedURL = d.provider.URL()
	d.env.ProviderURL, d.env.Model = d.provider.URL(), devModel
	// What a credential was told of the last start stays true: the same token, and the same address where it is free.
	d.env.GitHubToken = cmp.Or(d.earlier.GitHubToken, "ghp_"+randomHex())
	d.github = scripted.NewGitHubIssues(d.env.GitHubToken, time.Now)
	d.onStop(func(context.Context) { _ = d.github.Close() })
	if d.env.GitHubAPIURL, err = d.github.Listen(freePort(ctx, "127.0.0.1", portOf(d.earlier.GitHubAPIURL, devGitHubPort))); err != nil {
		return fmt.Errorf("start the scripted GitHub: %w", err)
	}
	return nil
}

// portOf is the port of a URL, or otherwise where it has none.
func portOf(address string, otherwise int) int {
	u, err := url.Parse(address)
	if err != nil {
		return otherwise
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return otherwise
	}
	return port
}

// reachable is an address to call where a server listens on this one: every address of the machine is reached by loopback.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// freePort is host and wanted where that port is free, else host and any free port.
func freePort(ctx context.Context, host string, wanted int) string {
	var listen net.ListenConfig
	address := net.JoinHostPort(host, fmt.Sprint(wanted))
	listener, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		if listener, err = listen.Listen(ctx, "tcp", net.JoinHostPort(host, "0")); err != nil {
			return address // what is wrong is said by whoever listens
		}
	}
	defer listener.Close()
	return listener.Addr().String()
}

// startSluice starts the API and the workers in this process.
func (d *dev) startSluice(ctx context.Context) error {
	d.config.AllowLoopback = true
	if d.config.Lease == leaseDefault {
		// Nobody waits here for a worker on another machine: what a kill interrupts goes on sooner.
		d.config.Lease = devLease
	}
	for _, address := range []struct {
		value   *string
		normal  string
		port    int
		earlier string
	}{{&d.config.Listen, ":8080", devAPIPort, d.earlier.URL}, {&d.config.MetricsListen, ":9090", devMetrics, d.earlier.MetricsURL}} {
		if *address.value != address.normal {
			continue // set by the user, who is told if it is taken
		}
		// Development serves this machine alone.
		// The port of the last start first: what it has handed out stays good.
		*address.value = freePort(ctx, "127.0.0.1", portOf(address.earlier, address.port))
		if wanted := portOf(address.earlier, address.port); portOf("http://"+*address.value, 0) != wanted {
			d.say("Port %d is taken, so %d is used.", wanted, portOf("http://"+*address.value, 0))
		}
	}
	if d.config.PublicURL == "" {
		d.config.PublicURL = "http://" + reachable(d.config.Listen)
	}
	running := context.WithoutCancel(ctx)
	told, err := startTelemetry(running, d.config, streams{out: d.out, err: d.log})
	if err != nil {
		return err
	}
	d.onStop(func(ctx context.Context) { _ = told.Shutdown(ctx) })
	slog.SetDefault(told.Logger())
	worker, err := startWork(running, d.config, told)
	if err != nil {
		return err
	}
	d.onStop(func(ctx context.Context) { _ = worker.Stop(ctx) })
	server, err := startServe(running, d.config, told)
	if err != nil {
		return err
	}
	d.onStop(func(ctx context.Context) { _ = server.Stop(ctx) })
	watch, err := startProbes(running, d.config.MetricsListen, told, server.Ready(), worker.Ready())
	if err != nil {
		return err
	}
	d.onStop(func(context.Context) { watch.stop() })
	d.env.URL = "http://" + reachable(server.Addr())
	if watch.Addr() != "" {
		d.env.MetricsURL = "http://" + reachable(watch.Addr()) + "/metrics"
	}
	return nil
}
