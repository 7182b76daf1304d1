package jobs_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/jobs"
	"sluice/jobs/outbound"
	"sluice/scripted"
	"sluice/tenants"
)

const (
	hookPath  = "/repos/octo/demo/hooks/7"
	hookToken = "ghp_canary0123456789canary0123456789"
)

// watch is a tenant with an endpoint of GitHub, and a GitHub that lists what it delivered to it.
type watch struct {
	t        *testing.T
	base     *dbtest.Bundle
	github   *scripted.GitHub
	server   *httptest.Server
	door     *outbound.Door
	log      *bytes.Buffer
	tenant   uuid.UUID
	endpoint uuid.UUID
	// ahead is how far the clock of the one who looks is ahead.
	ahead atomic.Int64
	// status is what the endpoint answers; 200 keeps the event, as the intake does.
	status atomic.Int64
}

// newWatch makes a watch. change, if given, changes the scripted GitHub's configuration, and the credential's kind and secret.
func newWatch(t *testing.T, change ...func(c *scripted.GitHubConfig, kind, secret *string)) *watch {
	t.Helper()
	w := &watch{t: t, base: dbtest.New(t), log: &bytes.Buffer{}}
	w.status.Store(http.StatusServiceUnavailable)
	endpoint := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		status := int(w.status.Load())
		if status == http.StatusOK {
			w.arrive(r.Header.Get("X-GitHub-Delivery"))
		}
		rw.WriteHeader(status)
	}))
	t.Cleanup(endpoint.Close)
	config, kind, secret := scripted.GitHubConfig{Hook: hookPath, Token: hookToken, Target: endpoint.URL, Now: time.Now}, "github", hookToken
	for _, c := range change {
		c(&config, &kind, &secret)
	}
	w.github = scripted.NewGitHub(config)
	w.server = httptest.NewTLSServer(w.github)
	t.Cleanup(w.server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(w.server.Certificate())
	w.door = outbound.New(outbound.Config{AllowLoopback: true, RootCAs: roots, Timeout: 5 * time.Second})
	require.NoError(t, w.base.DB.System(t.Context(), func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(t.Context(), "acme", "UTC")
		w.tenant = tenant.TenantID
		return err
	}))
	w.tx(func(tx db.TenantTx) error {
		c, err := tx.CredentialInsert(t.Context(), "github", kind, tenants.NewSecret(secret))
		if err != nil {
			return err
		}
		e, err := tx.EndpointInsert(t.Context(), "inbox", "github", json.RawMessage(fmt.Sprintf(
			`{"redeliver_hook":%q,"redeliver_credential_id":%q}`, w.server.URL+config.Hook, tenants.FormatID(tenants.CredentialPrefix, c.ID))))
		w.endpoint = e.ID
		return err
	})
	return w
}

func (w *watch) tx(fn func(tx db.TenantTx) error) {
	w.t.Helper()
	require.NoError(w.t, w.base.DB.Tenant(w.t.Context(), w.tenant, fn))
}

// exec is for what only time could do.
func (w *watch) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.base.Owner.Exec(w.t.Context(), sql, args...)
	require.NoError(w.t, err)
}

// arrive keeps an event, as the intake does.
func (w *watch) arrive(guid string) {
	id := tenants.NewID()
	err := w.base.DB.Door(context.WithoutCancel(w.t.Context()), func(tx db.DoorTx) error {
		_, err := tx.Admit(context.WithoutCancel(w.t.Context()), []*db.Delivery{{
			TenantID: w.tenant, EndpointID: w.endpoint, Source: "github", Headers: json.RawMessage(`{}`), Body: []byte(`{}`), BodySHA256: []byte("hash"),
			Events: []db.EventNew{{ID: id, SourceEventID: guid, Type: "issues.opened", Verdicts: json.RawMessage(`[]`)}},
		}})
		return err
	})
	if err != nil {
		w.t.Errorf("keep an event: %v", err)
	}
}

func (w *watch) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

// missed makes one who looks; a look is due at once unless every says otherwise.
func (w *watch) missed(every time.Duration) *jobs.Missed {
	w.t.Helper()
	m, err := jobs.NewMissed(jobs.MissedConfig{
		DB: w.base.Worker, Door: w.door, Log: slog.New(slog.NewTextHandler(w.log, nil)), Now: w.now, Every: every,
	})
	require.NoError(w.t, err)
	return m
}

// at once is the time between two looks that makes each of them due.
const atOnce = time.Nanosecond

// state is how the endpoint stands.
func (w *watch) state() db.Missed {
	w.t.Helper()
	var out db.Missed
	w.tx(func(tx db.TenantTx) error {
		rows, err := tx.MissedListOf(w.t.Context(), []uuid.UUID{w.endpoint})
		if len(rows) > 0 {
			out = rows[0]
		}
		return err
	})
	return out
}

// alerts are all alerts, newest first.
func (w *watch) alerts() []db.Alert {
	w.t.Helper()
	var out []db.Alert
	w.tx(func(tx db.TenantTx) (err error) {
		out, err = tx.AlertList(w.t.Context(), false, db.Page{Limit: 100})
		return err
	})
	return out
}

// requests are the journal's requests of a method, by path.
func (w *watch) requests(method string) []string {
	var out []string
	for _, r := range w.github.Journal() {
		if r.Method == method {
			out = append(out, r.Path)
		}
	}
	return out
}

func attemptsPath(d scripted.GitHubDelivery) string {
	return fmt.Sprintf("%s/deliveries/%d/attempts", hookPath, d.ID)
}
