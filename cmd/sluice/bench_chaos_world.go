package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/db/embedded"
	"sluice/migrations"
	"sluice/scripted"
)

// chaosWorld is all that stands while things go wrong: Postgres, the processes, those outside, and a proxy before each of them.
type chaosWorld struct {
	benchChaos

	out     io.Writer
	house   *benchHouse
	cluster embedded.Config
	mounted string // where the data's own filesystem is, "" for none
	dbLog   *os.File
	// owner looks at the database from beside the proxy.
	owner *pgxpool.Pool

	database, models, callbackNet, githubNet, intercomNet *scripted.Proxy

	provider  *scripted.Provider
	callbacks *scripted.Target
	github    *scripted.Vendor
	intercom  *scripted.Vendor

	doors, workers []*chaosProcess
	desks          []*chaosDesk

	clients *chaosClients
	people  *chaosPeople
	watch   *chaosWatch

	began, ended   time.Time
	settled        time.Duration
	struck         int
	made           map[string]int // faults, by kind
	mu             sync.Mutex     // of made, and of out
	databaseStands sync.RWMutex   // held for writing by whoever stops Postgres
}

// What the world is given.
const (
	chaosToken        = "chaos-token-0123456789"
	chaosConversation = "77"
	chaosConnections  = 300
	chaosJournalKeep  = 1 << 20
	chaosPathMode     = 0o755
	chaosProcessConns = "12"
)

func newChaosWorld(ctx context.Context, b benchChaos, out io.Writer, lookup environment) (*chaosWorld, error) {
	w := &chaosWorld{benchChaos: b, out: out, house: &benchHouse{}, made: map[string]int{}}
	for _, step := range []func(context.Context, environment) error{w.openDatabase, w.openOutside, w.openProcesses} {
		if err := step(ctx, lookup); err != nil {
			return w, err
		}
	}
	w.house.machine(out, "chaos")
	w.clients, w.people, w.watch = newChaosClients(w), newChaosPeople(w), newChaosWatch(w)
	return w, nil
}

// say tells what happens, with the time since the beginning.
func (w *chaosWorld) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Duration(0)
	if !w.began.IsZero() {
		at = time.Since(w.began)
	}
	fmt.Fprintf(w.out, "%7.1f s  %s\n", at.Seconds(), fmt.Sprintf(format, args...))
}

// openDatabase runs Postgres as safe as it is by default, on a filesystem of its own where one can be mounted, with a proxy before it.
func (w *chaosWorld) openDatabase(ctx context.Context, lookup environment) (err error) {
	h := w.house
	if h.dir, err = os.MkdirTemp("", "sluice-chaos-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if err := os.Chmod(h.dir, chaosPathMode); err != nil { // Postgres runs as another user, and must pass through
		return fmt.Errorf("open the directory: %w", err)
	}
	home := filepath.Join(h.dir, "postgres")
	if err := os.Mkdir(home, chaosPathMode); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if chaosMount(home, w.Disk) == nil {
		w.mounted = home
	}
	if w.dbLog, err = os.Create(filepath.Join(h.dir, "postgres.log")); err != nil {
		return fmt.Errorf("open the log of Postgres: %w", err)
	}
	binDir, _ := lookup("SLUICE_POSTGRES_BIN")
	w.cluster = embedded.Config{
		BinDir: binDir, Dir: home, Durable: true, Log: w.dbLog, MaxConnections: chaosConnections,
		// Segments of the log are made anew and not used again, so that a full disk is met by the log, too.
		Settings: map[string]string{"shared_buffers": "256MB", "wal_recycle": "off", "max_wal_size": "256MB", "min_wal_size": "32MB"},
	}
	if h.cluster, err = embedded.Start(ctx, w.cluster); err != nil {
		return err
	}
	w.cluster.Port = h.cluster.Port()
	h.url = h.cluster.URL("postgres")
	if err := migrations.Up(ctx, h.url); err != nil {
		return err
	}
	if h.sealer, err = db.NewSealer(make([]byte, db.MasterKeyLen)); err != nil {
		return err
	}
	if w.owner, err = pgxpool.New(ctx, h.url+"&pool_max_conns=6"); err != nil {
		return fmt.Errorf("open the owner's pool: %w", err)
	}
	w.database, err = scripted.NewProxy(net.JoinHostPort("127.0.0.1", strconv.Itoa(h.cluster.Port())))
	return err
}

// openOutside starts the provider and the targets, with their journals, and a proxy before each.
func (w *chaosWorld) openOutside(context.Context, environment) (err error) {
	journal := filepath.Join(w.house.dir, "provider.jsonl")
	if w.provider, err = scripted.NewProvider(scripted.ProviderConfig{Now: time.Now, JournalPath: journal, JournalKeep: chaosJournalKeep}); err != nil {
		return err
	}
	if w.callbacks, err = scripted.NewTarget(scripted.TargetConfig{Now: time.Now, Journal: filepath.Join(w.house.dir, "callbacks.jsonl")}); err != nil {
		return err
	}
	w.github = scripted.NewGitHubIssues(chaosToken, time.Now)
	w.intercom = scripted.NewIntercom(chaosToken, time.Now, chaosConversation)
	listen := func(of interface {
		Listen(address string) (string, error)
	}) string {
		address, failed := of.Listen("127.0.0.1:0")
		err = errors.Join(err, failed)
		return address
	}
	for _, one := range []struct {
		url   string
		proxy **scripted.Proxy
	}{{w.provider.URL(), &w.models}, {listen(w.callbacks), &w.callbackNet}, {listen(w.github), &w.githubNet}, {listen(w.intercom), &w.intercomNet}} {
		if err != nil {
			return err
		}
		*one.proxy, err = scripted.NewProxy(strings.TrimPrefix(one.url, "http://"))
	}
	return err
}

// openProcesses starts the doors and the workers.
func (w *chaosWorld) openProcesses(ctx context.Context, _ environment) error {
	binary := w.Binary
	if binary == "" {
		own, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		binary = own
	}
	through, err := url.Parse(w.house.url)
	if err != nil {
		return fmt.Errorf("read the database's URL: %w", err)
	}
	through.Host = w.database.Addr()
	env := []string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + through.String(), "SLUICE_MASTER_KEY=" + hex.EncodeToString(make([]byte, db.MasterKeyLen)),
		"SLUICE_DB_CONNS=" + chaosProcessConns, "SLUICE_SCRIPTED_URL=http://" + w.models.Addr(), "SLUICE_ALLOW_LOOPBACK=true", "SLUICE_LOG_LEVEL=warn",
		"SLUICE_METRICS_LISTEN=", "SLUICE_SHUTDOWN_TIMEOUT=5s",
	}
	for i := range max(w.Doors, 1) {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		address := listener.Addr().String()
		_ = listener.Close()
		w.doors = append(w.doors, &chaosProcess{
			name: "door " + strconv.Itoa(i+1), binary: binary, command: "serve", address: address, dir: w.house.dir,
			env: append([]string{"SLUICE_LISTEN=" + address, "SLUICE_PUBLIC_URL=http://" + address}, env...),
		})
	}
	for i := range max(w.Workers, 1) {
		w.workers = append(w.workers, &chaosProcess{
			name: "worker " + strconv.Itoa(i+1), binary: binary, command: "work", dir: w.house.dir,
			env: append([]string{
				"SLUICE_LEASE=" + w.Lease.String(), "SLUICE_RUN_WORKERS=64", "SLUICE_MODEL_TIMEOUT=15s", "SLUICE_FIRST_TOKEN_TIMEOUT=6s",
				"SLUICE_IDLE_TIMEOUT=6s", "SLUICE_ACTION_TIMEOUT=5s",
			}, env...),
		})
	}
	for _, p := range w.all() {
		if err := p.start(); err != nil {
			return err
		}
	}
	for _, p := range w.doors {
		if err := p.opens(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *chaosWorld) all() []*chaosProcess {
	return append(append([]*chaosProcess{}, w.doors...), w.workers...)
}

// postgres runs the cluster again where it has ended, whoever ended it.
func (w *chaosWorld) postgres(ctx context.Context) error {
	select {
	case <-w.house.cluster.Done():
	default:
		return nil
	}
	_ = w.house.cluster.Stop(embedded.StopImmediate)
	cluster, err := embedded.Start(ctx, w.cluster)
	if err != nil {
		return fmt.Errorf("start Postgres again: %w", err)
	}
	if cluster.Port() != w.cluster.Port {
		return fmt.Errorf("start Postgres again: port %d was taken by another", w.cluster.Port)
	}
	w.house.cluster = cluster
	return nil
}

// close ends all; what stands in files is kept where somebody will want to read it.
func (w *chaosWorld) close(keep bool) error {
	for _, p := range w.all() {
		p.stop()
	}
	var errs []error
	for _, p := range []*scripted.Proxy{w.database, w.models, w.callbackNet, w.githubNet, w.intercomNet} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	if w.provider != nil {
		errs = append(errs, w.provider.Close())
	}
	if w.callbacks != nil {
		_ = w.callbacks.Close() // A request that hangs has been let go.
	}
	for _, v := range []*scripted.Vendor{w.github, w.intercom} {
		if v != nil {
			_ = v.Close()
		}
	}
	if w.owner != nil {
		w.owner.Close()
	}
	if w.house.cluster != nil {
		if keep && w.mounted != "" {
			_ = w.house.cluster.Stop(embedded.StopImmediate)
			errs = append(errs, exec.Command("cp", "-a", w.house.cluster.DataDir(), filepath.Join(w.house.dir, "data")).Run()) //nolint:noctx // it is short
		}
		_ = w.house.cluster.Erase()
	}
	if w.dbLog != nil {
		_ = w.dbLog.Close()
	}
	if w.mounted != "" {
		errs = append(errs, chaosUnmount(w.mounted))
	}
	if keep {
		w.say("logs and journals are kept in %s", w.house.dir)
	} else if w.house.dir != "" {
		errs = append(errs, os.RemoveAll(w.house.dir))
	}
	return errors.Join(errs...)
}

// chaosHTTP is what those who send and those who click speak with.
func chaosHTTP() *http.Client {
	return &http.Client{Timeout: chaosPatience, Transport: &http.Transport{MaxIdleConnsPerHost: chaosIdleConns, DisableCompression: true}}
}

const (
	// chaosPatience is how long a sender waits for an answer, as Shopify does.
	chaosPatience  = 5 * time.Second
	chaosIdleConns = 64
)
