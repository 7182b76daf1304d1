package main_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/api/source"
	"sluice/db"
	"sluice/db/dbtest"
	"sluice/scripted"
	"sluice/tenants"
)

// e2eWait bounds every wait of these tests for something that must come.
const e2eWait = 2 * time.Minute

// world is everything outside of Sluice, and the database: it outlives every process that is killed.
type world struct {
	t        *testing.T
	base     *dbtest.Bundle
	provider *scripted.Provider
	target   *scripted.Target
	hook     string
	address  string
	operator string
	env      []string
	binary   string // what is started; "" is this test's own
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, base: dbtest.New(t)}
	var err error
	w.provider, err = scripted.NewProvider(scripted.ProviderConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.provider.Close() })
	w.target, err = scripted.NewTarget(scripted.TargetConfig{Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.target.Close() })
	w.hook, err = w.target.Listen("127.0.0.1:0")
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.address = listener.Addr().String()
	require.NoError(t, listener.Close())
	key, err := tenants.NewKey(true)
	require.NoError(t, err)
	w.operator = key.Reveal()
	require.NoError(t, w.base.DB.System(t.Context(), func(tx db.SystemTx) error {
		_, err := tx.OperatorKeyInsert(t.Context(), "e2e", key)
		return err
	}))
	w.env = append(os.Environ(), "SLUICE_TEST_AS_SLUICE=1", "DATABASE_URL="+w.base.URL, "SLUICE_MASTER_KEY="+fmt.Sprintf("%x", w.base.MasterKey),
		"SLUICE_LISTEN="+w.address, "SLUICE_PUBLIC_URL=http://"+w.address, "SLUICE_METRICS_LISTEN=127.0.0.1:0", "SLUICE_SCRIPTED_URL="+w.provider.URL(),
		"SLUICE_ALLOW_LOOPBACK=true", "SLUICE_LEASE=8s", "SLUICE_SWEEP_EVERY=200ms", "SLUICE_SHUTDOWN_TIMEOUT=5s", "SLUICE_DB_CONNS=4")
	return w
}

// process is a running `sluice serve` or `sluice work`.
type process struct {
	cmd *exec.Cmd
	log *lockedBuffer
}

// start runs a subcommand, and returns when its log says what it says when it is up; at once where up is "".
func (w *world) start(command, up string, env ...string) *process {
	w.t.Helper()
	path, err := os.Executable()
	require.NoError(w.t, err)
	p := &process{cmd: exec.Command(cmp.Or(w.binary, path), command), log: &lockedBuffer{}}
	p.cmd.Env = append(slices.Clone(w.env), env...)
	stderr, err := p.cmd.StderrPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, p.cmd.Start())
	ready, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		told := false
		for lines.Scan() {
			_, _ = fmt.Fprintln(p.log, lines.Text())
			if !told && up != "" && strings.Contains(lines.Text(), up) {
				told = true
				close(ready)
			}
		}
	}()
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("what %s said:\n%s", command, p.log)
		}
	})
	if up == "" {
		return p // it may end before it is up
	}
	select {
	case <-ready:
	case <-gone:
		w.t.Fatalf("%s ended:\n%s", command, p.log)
	case <-time.After(e2eWait):
		w.t.Fatalf("%s did not come up:\n%s", command, p.log)
	}
	return p
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_, _ = p.cmd.Process.Wait()
}

// end is SIGTERM, and waits.
func (p *process) end(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	state, err := p.cmd.Process.Wait()
	require.NoError(t, err)
	require.True(t, state.Success(), "%v\n%s", state, p.log)
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// call makes a request of the API, wants this status, and reads the answer into out.
func (w *world) call(key, method, path string, in any, status int, out any) {
	w.t.Helper()
	raw, err := json.Marshal(in)
	require.NoError(w.t, err)
	request, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.address+path, bytes.NewReader(raw))
	require.NoError(w.t, err)
	request.Header.Set("Authorization", "Bearer "+key)
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(w.t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(w.t, err)
	require.Equal(w.t, status, response.StatusCode, "%s %s: %s", method, path, answer)
	if out != nil {
		require.NoError(w.t, json.Unmarshal(answer, out))
	}
}

// shop is a tenant with a GitHub endpoint and a live automation, made through the contract.
type shop struct {
	key, url, secret string
	tenant           uuid.UUID
	about            string // the one issue that all deliveries are about; "" is one each
}

func (w *world) shop() shop {
	w.t.Helper()
	var made struct {
		Tenant struct{ ID string }
		Key    struct{ Secret string }
	}
	w.call(w.operator, http.MethodPost, "/v1/tenants", map[string]any{"name": "acme"}, http.StatusCreated, &made)
	s := shop{key: made.Key.Secret, secret: "a-github-secret-for-tests"}
	s.tenant, _ = tenants.ParseID(tenants.TenantPrefix, made.Tenant.ID)
	var credential, endpoint struct{ ID, URL string }
	w.call(s.key, http.MethodPost, "/v1/credentials", map[string]any{"name": "callback", "kind": "callback"}, http.StatusCreated, &credential)
	w.call(s.key, http.MethodPost, "/v1/endpoints", map[string]any{"name": "issues", "source": "github", "secret": s.secret}, http.StatusCreated, &endpoint)
	s.url = endpoint.URL
	w.call(s.key, http.MethodPost, "/v1/automations", map[string]any{
		"name": "triage", "endpoint_id": endpoint.ID, "when": "event.type == 'issues.opened'", "model": "scripted/echo-1", "mode": "live",
		"prompt": map[string]any{"system": "You triage.", "user": "{{ payload.issue.title }}"}, "max_output_tokens": 100,
		"action": map[string]any{"kind": "callback", "url": w.hook + "/hook", "credential_id": credential.ID},
	}, http.StatusCreated, nil)
	return s
}

// deliver sends the sample issue under an id; 0 says that nobody answered.
func (w *world) deliver(s shop, id string) (status int, eventID string, duplicate bool) {
	w.t.Helper()
	github, _ := source.Get("github")
	at := time.Now().UTC()
	for _, sample := range github.Samples {
		if sample.Type != "issues.opened" {
			continue
		}
		body := sample.Body(cmp.Or(s.about, id), time.Unix(1_700_000_000, 0).UTC())
		if s.about != "" {
			body = bytes.Replace(body, []byte("Export to CSV"), []byte(id), 1)
		}
		signed, err := github.Sign(source.SignInput{Method: http.MethodPost, URL: s.url, Header: sample.Header, Body: body, Secret: s.secret, ID: id, At: at})
		require.NoError(w.t, err)
		request, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, s.url, bytes.NewReader(body))
		require.NoError(w.t, err)
		request.Header = signed.Header
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, "", false
		}
		defer response.Body.Close()
		var answer struct {
			EventID   string `json:"event_id"`
			Duplicate bool   `json:"duplicate"`
		}
		_ = json.NewDecoder(response.Body).Decode(&answer)
		return response.StatusCode, answer.EventID, answer.Duplicate
	}
	w.t.Fatal("no such sample")
	return 0, "", false
}

// until waits for a count in the database to reach n.
func (w *world) until(n int, sql string) {
	w.t.Helper()
	var got int
	w.t.Cleanup(func() {
		if !w.t.Failed() {
			return
		}
		var runs, jobs string
		_ = w.base.Owner.QueryRow(context.Background(), `select coalesce(string_agg(concat_ws(' ', status, reason, attempt, epoch, lease_until, until), e'\n'), '') from sluice.runs`).Scan(&runs)
		_ = w.base.Owner.QueryRow(context.Background(), `select coalesce(string_agg(concat_ws(' ', id, kind, state, attempt, scheduled_at), e'\n' order by id), '') from river.river_job`).Scan(&jobs)
		w.t.Logf("runs:\n%s\njobs:\n%s", runs, jobs)
	})
	require.Eventually(w.t, func() bool {
		require.NoError(w.t, w.base.Owner.QueryRow(context.Background(), sql).Scan(&got))
		return got == n
	}, e2eWait, 20*time.Millisecond, "%s: %d, wanted %d", sql, got, n)
}

// booked holds the ledger against the provider's journal, request by request: what was billed is charged to the token where the reply was stored,
// and booked as at least that much where it was lost.
func (w *world) booked() {
	w.t.Helper()
	type entry struct {
		kind    string
		in, out int64
	}
	rows, err := w.base.Owner.Query(w.t.Context(), `
		select kind, input_uncached + input_cache_read + input_cache_write_5m + input_cache_write_1h, output_visible + output_reasoning, call_id
		from sluice.ledger_entries`)
	require.NoError(w.t, err)
	entries := map[string]entry{}
	for rows.Next() {
		var e entry
		var call uuid.UUID
		require.NoError(w.t, rows.Scan(&e.kind, &e.in, &e.out, &call))
		entries[tenants.FormatID(tenants.CallPrefix, call)] = e
	}
	require.NoError(w.t, rows.Err())
	for _, request := range w.provider.Journal() {
		e, ok := entries[request.RequestID]
		require.True(w.t, ok, "request %d of the provider's journal is in the ledger", request.N)
		if e.kind == "charge" {
			require.True(w.t, request.Billed)
			require.Equal(w.t, request.Usage.InputUncached, e.in, "to the token")
			require.Equal(w.t, request.Usage.OutputVisible, e.out, "to the token")
			continue
		}
		require.GreaterOrEqual(w.t, e.in, request.Usage.InputUncached)
		require.GreaterOrEqual(w.t, e.out, request.Usage.OutputVisible)
	}
}

const (
	servingUp = `"serving"`
	workingUp = `"working"`
)

// TestKilledInMidCallTenTimes kills the worker while the model is being asked, ten times, and the API every other time right after its ack: every
// acked event ends, and the target sees one effect for each.
func TestKilledInMidCallTenTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	serving := w.start("serve", servingUp)
	working := w.start("work", workingUp)
	s := w.shop()
	const kills = 10
	hung := 0
	for i := range kills {
		require.NoError(t, w.provider.Control(scripted.ProviderControl{Mode: "hang", Times: 1}))
		status, _, duplicate := w.deliver(s, fmt.Sprintf("delivery-%d", i))
		require.Equal(t, http.StatusOK, status)
		require.False(t, duplicate)
		hung++
		require.Eventually(t, func() bool {
			n := 0
			for _, e := range w.provider.Journal() {
				if e.Mode == "hang" {
					n++
				}
			}
			return n == hung
		}, e2eWait, 5*time.Millisecond)
		working.kill()
		w.provider.Release()
		if i%2 == 1 {
			serving.kill()
			serving = w.start("serve", servingUp)
		}
		working = w.start("work", workingUp)
	}
	w.until(kills, `select count(*) from sluice.runs where status = 'done'`)
	w.until(0, `select count(*) from sluice.runs where finished_at is null`)

	// The journals are the judge.
	effects := map[string]int{}
	for _, e := range w.target.Journal() {
		if e.Acted {
			effects[e.Key]++
		}
	}
	require.Len(t, effects, kills)
	for key, n := range effects {
		require.Equal(t, 1, n, key)
	}
	w.booked()

	// The same deliveries again: all known, nothing new.
	for i := range kills {
		status, _, duplicate := w.deliver(s, fmt.Sprintf("delivery-%d", i))
		require.Equal(t, http.StatusOK, status)
		require.True(t, duplicate)
	}
	working.end(t)
	serving.end(t)
	require.NotContains(t, serving.log.String()+working.log.String(), s.key)
	require.NotContains(t, serving.log.String()+working.log.String(), s.secret)
	require.NotContains(t, serving.log.String(), strings.TrimPrefix(s.url, "http://"+w.address+"/in/"), "the token is a capability")
}
