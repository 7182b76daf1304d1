package dbtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"

	"sluice/db/embedded"
)

// Server gives a test a Postgres server of its own, empty, for what concerns a whole cluster: its roles. It takes a second or more to start,
// and ends with the test. The url is the superuser's.
func Server(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	run := startPrivate
	if os.Getenv(urlVariable) == "" && dockerAnswers() {
		run = startContainer
	}
	url, stop, err := run(ctx)
	if err != nil {
		tb.Fatalf("start a Postgres for this test: %v", err)
	}
	tb.Cleanup(stop)
	return url
}

// connectionsMax is enough for the parallel tests of one package, each with four pools.
const connectionsMax = 400

// dockerTimeout bounds the question whether an engine answers.
const dockerTimeout = 2 * time.Second

// dockerAnswers asks the engine's socket itself: a docker client on the PATH says nothing of an engine.
func dockerAnswers() bool {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	u, err := url.Parse(host)
	if err != nil {
		return false
	}
	network, address := "tcp", u.Host
	if u.Scheme == "unix" {
		network, address = "unix", u.Path
	}
	client := http.Client{Timeout: dockerTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
	}}
	response, err := client.Get("http://docker/_ping")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// startContainer runs Postgres in a container. SLUICE_TEST_POSTGRES_IMAGE names another image than the default.
func startContainer(ctx context.Context) (string, func(), error) {
	image := os.Getenv("SLUICE_TEST_POSTGRES_IMAGE")
	if image == "" {
		image = "postgres:18"
	}
	container, err := postgres.Run(ctx, image, postgres.WithUsername("postgres"), postgres.WithPassword("postgres"), postgres.WithDatabase("postgres"),
		testcontainers.WithCmdArgs("-c", fmt.Sprint("max_connections=", connectionsMax)), // fsync=off is the module's own
		postgres.BasicWaitStrategies())
	if err != nil {
		_ = testcontainers.TerminateContainer(container) // one that was made, but did not become ready
		return "", nil, fmt.Errorf("run %s: %w", image, err)
	}
	stop := func() { _ = testcontainers.TerminateContainer(container) }
	connection, err := container.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("ask the container for its address: %w", err)
	}
	return connection, stop, nil
}

// startPrivate runs a cluster of this process. SLUICE_POSTGRES_BIN and SLUICE_TEST_POSTGRES_VERSION choose another server than the newest found.
func startPrivate(_ context.Context) (string, func(), error) {
	dir, err := os.MkdirTemp("", "sluice-test-")
	if err != nil {
		return "", nil, fmt.Errorf("make a directory for Postgres: %w", err)
	}
	var log strings.Builder
	// The cluster lives as long as the process, so it gets no context that ends with the first test.
	cluster, err := embedded.Start(context.Background(), embedded.Config{
		BinDir: os.Getenv("SLUICE_POSTGRES_BIN"), Dir: dir, Log: &log, MaxConnections: connectionsMax, Version: os.Getenv("SLUICE_TEST_POSTGRES_VERSION"),
	})
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("%w\n%s", err, log.String())
	}
	return cluster.URL("postgres"), func() { _ = cluster.Erase(); _ = os.RemoveAll(dir) }, nil
}
