package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db/embedded"
)

const (
	helperDir = "SLUICE_EMBEDDED_HELPER_DIR"
	testWait  = 60 * time.Second
)

// TestMain lets the test binary be started again as a process to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		os.Exit(helper(dir))
	}
	os.Exit(m.Run())
}

// helper starts a cluster, prints its URL and waits for the end of its input.
func helper(dir string) int {
	cluster, err := embedded.Start(context.Background(), embedded.Config{Dir: dir})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println(cluster.URL("postgres"))
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := cluster.Stop(embedded.StopFast); err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// helperStart starts the helper and returns it with its first line.
func helperStart(t *testing.T, binary, dir string, credential *syscall.Credential) (*exec.Cmd, io.Closer, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), helperDir+"="+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return cmd, stdin, strings.TrimSpace(line)
}

// dirMake is a directory that an unprivileged user can reach: t.TempDir is not.
func dirMake(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-embedded-test-*")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func start(t *testing.T, config embedded.Config) *embedded.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	cluster, err := embedded.Start(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Stop(embedded.StopImmediate)) })
	return cluster
}

// ask runs one statement and returns its one value as text.
func ask(t *testing.T, url, sql string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer func() { require.NoError(t, conn.Close(ctx)) }()
	var value string
	err = conn.QueryRow(ctx, sql).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return value, err
}

func requireAnswer(t *testing.T, url, sql, want string) {
	t.Helper()
	got, err := ask(t, url, sql)
	require.NoError(t, err, sql)
	require.Equal(t, want, got, sql)
}

func TestStartKeepsDataAcrossStops(t *testing.T) {
	t.Parallel()
	open := dirMake(t)
	require.NoError(t, os.Chmod(open, 0o755))
	dir := filepath.Join(open, "made", "by", "start")
	config := embedded.Config{Dir: dir, MaxConnections: 17, Settings: map[string]string{"work_mem": "5MB"}}

	cluster := start(t, config)
	url := cluster.URL("postgres")
	requireAnswer(t, url, "show max_connections", "17")
	requireAnswer(t, url, "show work_mem", "5MB")
	requireAnswer(t, url, "show fsync", "off")
	requireAnswer(t, url, "show server_encoding", "UTF8")
	requireAnswer(t, url, "show listen_addresses", "127.0.0.1")
	version, err := ask(t, url, "show server_version")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(version, cluster.Version()), "%q, %q", version, cluster.Version())
	requireAnswer(t, url, "create table kept as select 'here'::text as v", "")

	t.Run("the password is asked for and shown by no format", func(t *testing.T) {
		password := strings.Split(strings.Split(url, "@")[0], ":")[2]
		require.Len(t, password, 48)
		_, err := ask(t, strings.Replace(url, password, "wrong", 1), "select 'in'")
		require.ErrorContains(t, err, "28P01")
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			require.NotContains(t, fmt.Sprintf(format, cluster), password)
		}
		info, err := os.Stat(filepath.Join(dir, "password"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	})

	t.Run("a second start names the process", func(t *testing.T) {
		_, err := embedded.Start(t.Context(), config)
		var living *embedded.LivingError
		require.ErrorAs(t, err, &living)
		require.Equal(t, os.Getpid(), living.PID)
		require.NotZero(t, living.Postmaster)
		require.ErrorContains(t, err, strconv.Itoa(os.Getpid()))
		requireAnswer(t, url, "select v from kept", "here")
	})

	for _, mode := range []embedded.StopMode{embedded.StopFast, embedded.StopImmediate} {
		require.NoError(t, cluster.Stop(mode))
		require.NoError(t, cluster.Stop(mode), "a second stop does nothing")
		<-cluster.Done()
		cluster = start(t, config)
		requireAnswer(t, cluster.URL("postgres"), "select v from kept", "here")
	}

	t.Run("the process id of an ended server may be another's", func(t *testing.T) {
		other := start(t, embedded.Config{Dir: dirMake(t), Durable: true})
		requireAnswer(t, other.URL("postgres"), "show fsync", "on")
		pid, err := os.ReadFile(filepath.Join(other.DataDir(), "postmaster.pid"))
		require.NoError(t, err)
		require.NoError(t, cluster.Stop(embedded.StopFast))
		// Postgres looks at the number alone and would refuse.
		require.NoError(t, os.WriteFile(filepath.Join(cluster.DataDir(), "postmaster.pid"), pid, 0o644))
		cluster = start(t, config)
		requireAnswer(t, cluster.URL("postgres"), "select v from kept", "here")
		requireAnswer(t, other.URL("postgres"), "select 'alive'", "alive")
	})

	require.NoError(t, cluster.Erase())
	require.NoDirExists(t, dir)
}

func TestStartDurableOnATakenPort(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	address, ok := listener.Addr().(*net.TCPAddr)
	require.True(t, ok)

	cluster := start(t, embedded.Config{Dir: dirMake(t), Durable: true, Port: address.Port})
	require.NotEqual(t, address.Port, cluster.Port())
	requireAnswer(t, cluster.URL("postgres"), "show fsync", "on")
	requireAnswer(t, cluster.URL("postgres"), "show full_page_writes", "on")

	// The port that was found is free once the cluster has stopped.
	require.NoError(t, cluster.Stop(embedded.StopFast))
	again := start(t, embedded.Config{Dir: filepath.Dir(cluster.DataDir()), Durable: true, Port: cluster.Port()})
	require.Equal(t, cluster.Port(), again.Port())
}

func TestServerEndsWithAKilledStarter(t *testing.T) {
	t.Parallel()
	dir := dirMake(t)
	binary, err := os.Executable()
	require.NoError(t, err)
	cmd, _, url := helperStart(t, binary, dir, nil)
	requireAnswer(t, url, "create table kept as select 'here'::text as v", "")

	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	require.Error(t, cmd.Wait())
	_, err = conn.Exec(ctx, "select pg_sleep(60)") // ends when the server does
	require.Error(t, err)
	require.NoError(t, ctx.Err())

	cluster := start(t, embedded.Config{Dir: dir})
	requireAnswer(t, cluster.URL("postgres"), "select v from kept", "here")
}

func TestStartRefusesDataItCannotRead(t *testing.T) {
	t.Parallel()
	dir := dirMake(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	data := filepath.Join(dir, "data")
	require.NoError(t, os.Mkdir(data, 0o700))
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		require.NoError(t, err)
		uid, err := strconv.Atoi(nobody.Uid)
		require.NoError(t, err)
		require.NoError(t, os.Chown(data, uid, -1))
	}
	config := embedded.Config{Dir: dir, CacheDir: filepath.Join(dir, "cache")}

	_, err := embedded.Start(t.Context(), config)
	require.ErrorContains(t, err, "is not a cluster's data")
	require.NoError(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("14\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "made-by"), []byte("PostgreSQL 14.9 in /opt/pg14/bin\n"), 0o600))
	_, err = embedded.Start(t.Context(), config)
	require.ErrorContains(t, err, "holds the data of PostgreSQL 14, made by PostgreSQL 14.9 in /opt/pg14/bin")
	config.Version = "16"
	_, err = embedded.Start(t.Context(), config)
	require.ErrorContains(t, err, "version 16 was asked for")
	require.NoDirExists(t, config.CacheDir, "nothing was fetched")
}

func TestStartChecksItsConfig(t *testing.T) {
	t.Parallel()
	old := filepath.Join(dirMake(t), "bin")
	require.NoError(t, os.MkdirAll(old, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(old), 0o755))
	for _, program := range []string{"initdb", "postgres"} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) 14.3 (Debian 14.3-1)'\n"
		require.NoError(t, os.WriteFile(filepath.Join(old, program), []byte(script), 0o755))
	}
	cases := []struct {
		name   string
		config embedded.Config
		want   string
	}{
		{"NoDir", embedded.Config{}, "Dir is empty"},
		{"NegativeConnections", embedded.Config{Dir: "x", MaxConnections: -1}, "max connections -1"},
		{"NoSuchBinDir", embedded.Config{Dir: dirMake(t), BinDir: "/nonexistent"}, "/nonexistent/initdb"},
		{"OldBinDir", embedded.Config{Dir: dirMake(t), BinDir: old}, "PostgreSQL 14.3 in " + old + " is too old"},
		{"OldVersion", embedded.Config{Dir: "x", Version: "14"}, `version "14": want`},
		{"PortTooHigh", embedded.Config{Dir: "x", Port: 65536}, "port 65536"},
		{"ReservedSetting", embedded.Config{Dir: "x", Settings: map[string]string{"Port": "1"}}, `setting "Port"`},
		{"UnknownSetting", embedded.Config{Dir: dirMake(t), Settings: map[string]string{"no_such": "1"}}, "no_such"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := embedded.Start(t.Context(), c.config)
			require.ErrorContains(t, err, c.want)
		})
	}
}
