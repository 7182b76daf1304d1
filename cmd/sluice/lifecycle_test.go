package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/scripted"
)

// within bounds every wait of these tests.
const within = 20 * time.Second

// process is the binary itself, running a command until it is told to end.
type process struct {
	cmd  *exec.Cmd
	log  *output
	done chan error
}

// begin starts a command, and ends it with the test. It is a process of its own, since telemetry is one for all of a process.
func begin(t *testing.T, e env, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	p := &process{cmd: exec.Command(self, args...), log: &output{}, done: make(chan error, 1)}
	p.cmd.Stderr = p.log
	p.cmd.Env = []string{asSluice + "=1"}
	for name, value := range e {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	require.NoError(t, p.cmd.Start())
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// end tells the process to end, and returns how it did.
func (p *process) end(t *testing.T) error {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-p.done:
		return err
	case <-time.After(within):
		t.Fatalf("the process does not end:\n%s", p.log)
		return nil
	}
}

// said waits for a line of the log, and returns its first group.
func (p *process) said(t *testing.T, pattern string) string {
	t.Helper()
	line := regexp.MustCompile(pattern)
	var found []string
	require.Eventually(t, func() bool {
		found = line.FindStringSubmatch(p.log.String())
		return found != nil
	}, within, 5*time.Millisecond, "%s in %s", pattern, p.log)
	return found[len(found)-1]
}

const (
	servingLine = `"msg":"serving","listen":"([^"]+)"`
	metricsLine = `"msg":"metrics","listen":"([^"]+)"`
)

// onLoopback is a configuration on ports that are free.
func onLoopback(url string) env {
	return env{
		"DATABASE_URL": url, "SLUICE_MASTER_KEY": testMasterKey, "SLUICE_PUBLIC_URL": "http://hooks.example.com", "SLUICE_LISTEN": "127.0.0.1:0",
		"SLUICE_METRICS_LISTEN": "127.0.0.1:0", "SLUICE_DB_CONNS": "4", "SLUICE_RUN_WORKERS": "2", "SLUICE_ACTION_WORKERS": "2",
		"SLUICE_SHUTDOWN_TIMEOUT": "10s", "SLUICE_ALLOW_LOOPBACK": "true",
	}
}

// ask makes a request and returns the status and the body.
func ask(t *testing.T, method, url, key string, body any) (int, string) {
	t.Helper()
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		require.NoError(t, err)
		sent = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, url, sent)
	require.NoError(t, err)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: within}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

func TestServeRefusesASchemaItCannotServe(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"serve", "work"} {
		t.Run(command+"TooOld", func(t *testing.T) {
			t.Parallel()
			code, _, err := sluice(t, onLoopback(dbtest.Empty(t)), command)
			require.Equal(t, 1, code)
			require.Contains(t, err, "run `sluice migrate up`")
		})
		t.Run(command+"InvalidIndex", func(t *testing.T) {
			t.Parallel()
			b := dbtest.New(t)
			_, err := b.Owner.Exec(t.Context(), `update pg_index set indisvalid = false where indexrelid = (
				select indexrelid from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
				where n.nspname = 'sluice' and c.relname = 'events' limit 1)`)
			require.NoError(t, err)
			code, _, told := sluice(t, onLoopback(b.URL), command)
			require.Equal(t, 1, code)
			require.Contains(t, told, "sluice: invalid indexes: sluice.")
		})
	}
	t.Run("WrongMasterKey", func(t *testing.T) {
		t.Parallel()
		b := dbtest.New(t)
		require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
			_, err := tx.TenantInsert(t.Context(), "acme", "UTC")
			return err
		}))
		for _, command := range []string{"serve", "work"} {
			code, _, told := sluice(t, onLoopback(b.URL), command)
			require.Equal(t, 1, code)
			require.Contains(t, told, "SLUICE_MASTER_KEYS_OLD: 1 of 1 data keys are wrapped by a master key that this process was not given")
		}
	})
	t.Run("WrongPassword", func(t *testing.T) {
		t.Parallel()
		b := dbtest.New(t)
		_, err := b.Owner.Exec(t.Context(), `create role nobody_of_sluice login`)
		require.NoError(t, err)
		t.Cleanup(func() { _, _ = b.Owner.Exec(context.Background(), `drop role nobody_of_sluice`) })
		e := onLoopback(regexp.MustCompile(`//[^@]*@`).ReplaceAllString(b.URL, "//nobody_of_sluice:c4n4ry@"))
		code, _, told := sluice(t, e, "serve")
		require.Equal(t, 1, code)
		require.Contains(t, told, "of DATABASE_URL")
		require.NotContains(t, told, "c4n4ry")
	})
}

func TestServeAndWorkTogether(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, provider.Close()) })
	e := onLoopback(b.URL)
	e["SLUICE_SCRIPTED_URL"] = provider.URL()
	serve, work := begin(t, e, "serve"), begin(t, e, "work")
	api := "http://" + serve.said(t, servingLine)
	serveMetrics, workMetrics := "http://"+serve.said(t, metricsLine), "http://"+work.said(t, metricsLine)

	for _, url := range []string{api, serveMetrics, workMetrics} {
		for _, path := range []string{"/healthz", "/readyz"} {
			status, body := ask(t, http.MethodGet, url+path, "", nil)
			require.Equal(t, http.StatusOK, status, body)
			code, out, told := sluice(t, env{}, "health", "--url", url+path)
			require.Zero(t, code, told)
			require.Contains(t, out, "200 OK ")
		}
	}
	status, _ := ask(t, http.MethodGet, api+"/metrics", "", nil)
	require.Equal(t, http.StatusNotFound, status, "metrics have a port of their own")

	_, operator, _ := sluice(t, env{"DATABASE_URL": b.URL}, "operator-key")
	status, body := ask(t, http.MethodPost, api+"/v1/tenants", strings.TrimSpace(operator), map[string]any{"name": "acme"})
	require.Equal(t, http.StatusCreated, status, body)
	var tenant struct{ Key struct{ Secret string } }
	require.NoError(t, json.Unmarshal([]byte(body), &tenant))
	const secret = "0123456789abcdef0123456789abcdef"
	status, body = ask(t, http.MethodPost, api+"/v1/endpoints", tenant.Key.Secret, map[string]any{"name": "hub", "source": "github", "secret": secret})
	require.Equal(t, http.StatusCreated, status, body)
	var endpoint struct{ URL, ID string }
	require.NoError(t, json.Unmarshal([]byte(body), &endpoint))
	require.Regexp(t, `^http://hooks.example.com/in/`, endpoint.URL)
	hook := strings.Replace(endpoint.URL, "http://hooks.example.com", api, 1)

	code, out, told := sluice(t, env{}, "send", "github", "issues.opened", "--url", hook, "--secret", secret, "--count", "2", "--id", "one")
	require.Zero(t, code, out+told)
	require.Contains(t, out, `"duplicate":false`)
	require.Contains(t, out, `"duplicate":true`)
	code, out, _ = sluice(t, env{}, "send", "github", "issues.opened", "--url", hook, "--secret", secret, "--bad-signature")
	require.Equal(t, 1, code)
	require.Contains(t, out, "401 Unauthorized")

	for url, metrics := range map[string][]string{
		serveMetrics: {"http_server_request_duration_seconds_bucket", "pgxpool_"},
		workMetrics:  {"river_job_get_available_count", "go_goroutines"},
	} {
		_, body := ask(t, http.MethodGet, url+"/metrics", "", nil)
		for _, name := range metrics {
			require.Contains(t, body, name)
		}
		require.NotContains(t, body, "tnt_")
	}

	require.NoError(t, serve.end(t), serve.log)
	require.NoError(t, work.end(t), work.log)
	for _, p := range []*process{serve, work} {
		log := p.log.String()
		for _, hidden := range []string{secret, tenant.Key.Secret, strings.TrimSpace(operator), testMasterKey, strings.TrimPrefix(endpoint.URL, "http://hooks.example.com/in/")} {
			require.NotContains(t, log, hidden)
		}
		for line := range strings.Lines(log) {
			require.True(t, json.Valid([]byte(line)), line)
		}
	}
}

func TestReadyzFollowsTheDatabase(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ping := errors.New("away")
	schema := errors.New("too old")
	var pings int
	r := newReadiness(func(context.Context) error { pings++; return ping }, func(context.Context) error { return schema })
	require.ErrorIs(t, r.check(t.Context()), ping)
	require.ErrorIs(t, r.check(t.Context()), ping)
	require.Equal(t, 1, pings, "one look serves all who ask at a time")
	ping, r.pinged = nil, time.Time{}
	require.ErrorIs(t, r.check(t.Context()), schema)
	schema, r.looked = nil, time.Time{}
	require.NoError(t, r.check(t.Context()))
	r.drain()
	require.ErrorIs(t, r.check(t.Context()), errDraining)

	// A database that goes away makes a serving process unready, not dead.
	serve := begin(t, onLoopback(b.URL), "serve")
	metrics := "http://" + serve.said(t, metricsLine)
	status, _ := ask(t, http.MethodGet, metrics+"/readyz", "", nil)
	require.Equal(t, http.StatusOK, status)
	at, err := pgx.ParseConfig(b.URL)
	require.NoError(t, err)
	name := at.Database
	at.Database = "postgres"
	admin, err := pgx.ConnectConfig(t.Context(), at)
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	_, err = admin.Exec(t.Context(), `alter database `+name+` with allow_connections false`)
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = '`+name+`'`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		status, body := ask(t, http.MethodGet, metrics+"/readyz", "", nil)
		return status == http.StatusServiceUnavailable && strings.Contains(body, "the database does not answer")
	}, within, 50*time.Millisecond)
	status, _ = ask(t, http.MethodGet, metrics+"/healthz", "", nil)
	require.Equal(t, http.StatusOK, status)
	code, out, _ := sluice(t, env{}, "health", "--url", metrics+"/readyz")
	require.Equal(t, 1, code)
	require.Contains(t, out, "503 Service Unavailable")
	_, err = admin.Exec(t.Context(), `alter database `+name+` with allow_connections true`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		status, _ := ask(t, http.MethodGet, metrics+"/readyz", "", nil)
		return status == http.StatusOK
	}, within, 50*time.Millisecond)
}

// SIGTERM makes a process unready, then lets it drain; a second signal ends it at once.
func TestSignals(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	serving := func(t *testing.T, delay string) (p *process, api string) {
		t.Helper()
		e := onLoopback(b.URL)
		e["SLUICE_DRAIN_DELAY"], e["SLUICE_SHUTDOWN_TIMEOUT"] = delay, "5m"
		p = begin(t, e, "serve")
		api = "http://" + p.said(t, servingLine)
		p.said(t, metricsLine)
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
		p.said(t, `("msg":"stopping")`)
		return p, api
	}
	t.Run("OneDrains", func(t *testing.T) {
		t.Parallel()
		p, api := serving(t, "1s")
		var status int
		var body string
		require.Eventually(t, func() bool {
			status, body = ask(t, http.MethodGet, api+"/readyz", "", nil)
			return status == http.StatusServiceUnavailable
		}, within, 5*time.Millisecond)
		require.Contains(t, body, "not_ready")
		status, _ = ask(t, http.MethodGet, api+"/healthz", "", nil)
		require.Equal(t, http.StatusOK, status, "requests are still taken meanwhile")
		require.NoError(t, <-p.done)
		require.Contains(t, p.log.String(), `"msg":"stopped"`)
	})
	t.Run("TwoKill", func(t *testing.T) {
		t.Parallel()
		p, _ := serving(t, "5m")
		var exit *exec.ExitError
		require.ErrorAs(t, p.end(t), &exit)
		require.False(t, exit.Success())
	})
}
