package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"

	"sluice/db"
	"sluice/jobs/action"
	"sluice/jobs/llm"
	"sluice/jobs/outbound"
	"sluice/migrations"
	"sluice/proof"
	"sluice/telemetry"
)

const (
	// schemaWait is how long a process waits for a database that does not answer yet; schemaPoll is the pause between two tries.
	schemaWait = 10 * time.Second
	schemaPoll = 250 * time.Millisecond
	// modelMargin is what the door gives a call to a model beyond its own timeout, so that the timeout of the call is the one that is met.
	modelMargin = 5 * time.Second
)

// stack is what serve and work both stand on: pools, the database and the door out.
type stack struct {
	db      *db.DB
	pools   []*pgxpool.Pool
	door    *outbound.Door
	actions *action.Set
	ready   *readiness
}

// newStack opens a pool of role and one of the system's, waits for the database, and refuses a schema that this binary cannot serve.
func newStack(ctx context.Context, c Config, role, planCacheMode string) (_ *stack, err error) {
	sealer, err := db.NewSealer(c.MasterKey.bytes(), c.MasterKeysOld.bytes()...)
	if err != nil {
		return nil, err
	}
	denied, _ := networks(c.DenyNetworks) // it was read once already, when the settings were
	s := &stack{door: outbound.New(outbound.Config{AllowLoopback: c.AllowLoopback, Deny: denied, Timeout: c.ActionTimeout})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	own, err := s.open(ctx, c, role, planCacheMode)
	if err != nil {
		return nil, err
	}
	system, err := s.open(ctx, c, db.SystemRole, "")
	if err != nil {
		return nil, err
	}
	pools := db.Pools{App: own, System: system}
	if role == db.AppRole {
		if pools.Door, err = s.open(ctx, c, db.DoorRole, ""); err != nil {
			return nil, err
		}
	}
	if err := waitForSchema(ctx, own); err != nil {
		return nil, err
	}
	// A role that the login may not become is found out now, and not by the first delivery.
	for _, pool := range []*pgxpool.Pool{system, pools.Door} {
		if pool == nil {
			continue
		}
		if err := pool.Ping(ctx); err != nil {
			return nil, explainConnect(err)
		}
	}
	s.db = db.New(pools, sealer)
	if err := s.db.MasterKeysKnown(ctx); err != nil {
		if _, foreign := errors.AsType[*db.KeysForeignError](err); foreign {
			return nil, fmt.Errorf("SLUICE_MASTER_KEY, SLUICE_MASTER_KEYS_OLD: %w; see docs/keys.md for how keys are changed", err)
		}
		return nil, err
	}
	s.actions = action.New(s.door)
	s.ready = newReadiness(s.db.Ping, func(ctx context.Context) error { return schemaFault(ctx, own) })
	return s, nil
}

// open makes a pool, tells telemetry of it, and keeps it to be closed.
func (s *stack) open(ctx context.Context, c Config, role, planCacheMode string) (*pgxpool.Pool, error) {
	var tracer pgx.QueryTracer
	if c.TraceSQL {
		tracer = otelpgx.NewTracer(otelpgx.WithDisableConnectionDetailsInAttributes())
	}
	pool, err := db.Open(ctx, db.PoolConfig{
		URL: c.DatabaseURL.Reveal(), Role: role, ConnsMax: int32(c.DBConns), PlanCacheMode: planCacheMode, Tracer: tracer,
	})
	if err != nil {
		return nil, err
	}
	s.pools = append(s.pools, pool)
	name := role
	if planCacheMode == riverPlans {
		name += " river"
	}
	if err := otelpgx.RecordStats(pool, otelpgx.WithStatsAttributes(attribute.String("db.client.connection.pool.name", name))); err != nil {
		return nil, fmt.Errorf("measure the pool of %s: %w", role, err)
	}
	return pool, nil
}

// fetch gets what is at a URL of a source's own.
func (s *stack) fetch(ctx context.Context, url string) ([]byte, error) {
	answer, err := s.door.Do(ctx, outbound.Request{Method: http.MethodGet, URL: url})
	if err != nil {
		return nil, err
	}
	if answer.Status != http.StatusOK {
		return nil, fmt.Errorf("expected 200, was answered %d", answer.Status)
	}
	return answer.Body, nil
}

// headerNames reads a list with commas.
func headerNames(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' })
}

// close gives every connection back.
func (s *stack) close() {
	for _, pool := range s.pools {
		pool.Close()
	}
}

// schemaFault is what is wrong with the schema, nil if nothing is.
func schemaFault(ctx context.Context, pool *pgxpool.Pool) error {
	status, err := migrations.Read(ctx, pool)
	if err != nil {
		return explainConnect(err)
	}
	return status.Err()
}

// waitForSchema waits a little for a database that does not answer, and not at all for one whose schema is not right.
func waitForSchema(ctx context.Context, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, schemaWait)
	defer cancel()
	for {
		fault := schemaFault(ctx, pool)
		if fault == nil || !mayComeUp(fault) {
			return fault
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the database does not answer: %w", fault)
		case <-time.After(schemaPoll):
		}
	}
}

// The SQLSTATE codes of a connection that this binary can explain (Postgres manual, appendix A).
const (
	classOperator       = "57" // starting up, shutting down
	classConnections    = "53" // too many connections
	invalidParameter    = "22023"
	insufficientRight   = "42501"
	invalidPassword     = "28P01"
	invalidAuthenticate = "28000"
	noSuchDatabase      = "3D000"
)

// mayComeUp says whether a fault can go away by waiting: nobody listens, or the server says that it is not yet, or no longer, up.
func mayComeUp(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code[:2] == classOperator || pgErr.Code[:2] == classConnections
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	return connecting || errors.Is(err, context.DeadlineExceeded)
}

// explainConnect says what to do about the faults of a connection that an operator meets first.
func explainConnect(err error) error {
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !connecting || !ok {
		return err
	}
	switch pgErr.Code {
	case invalidParameter:
		return fmt.Errorf("the database's roles are not there: run `sluice migrate up`: %w", pgErr)
	case insufficientRight:
		return fmt.Errorf("the login of DATABASE_URL may not become one of Sluice's roles: grant it sluice_app, sluice_door, sluice_worker and sluice_system: %w", pgErr)
	case invalidPassword, invalidAuthenticate, noSuchDatabase:
		return fmt.Errorf("the database refuses the login of DATABASE_URL: %w", pgErr)
	}
	return err
}

// providersOf names the providers that a configuration has.
func providersOf(c Config) []string {
	names := []string{"anthropic", "openai"}
	if c.ScriptedURL != "" {
		names = append(names, "scripted")
	}
	return names
}

// modelsOf makes the client that asks them.
func modelsOf(c Config, door *outbound.Door, onPause func(provider, owner string, until time.Time)) *llm.Client {
	provider := func(baseURL string) llm.ProviderConfig {
		return llm.ProviderConfig{HTTP: door.Operator(c.ModelTimeout + modelMargin), BaseURL: baseURL, Now: proof.Now}
	}
	all := []llm.Provider{llm.NewAnthropic(provider(c.AnthropicBaseURL)), llm.NewOpenAI(provider(c.OpenAIBaseURL))}
	if c.ScriptedURL != "" {
		all = append(all, llm.NewScripted(provider(c.ScriptedURL)))
	}
	bulkhead := c.Bulkhead
	if bulkhead == 0 {
		bulkhead = max(c.RunWorkers/2, 1) //nolint:mnd // a slow model leaves the other half to others
	}
	return llm.New(llm.Config{
		Providers: all, Timeout: c.ModelTimeout, FirstToken: c.FirstToken, Idle: c.IdleTimeout, Bulkhead: bulkhead, OnPause: onPause, Now: proof.Now,
	})
}

// startTelemetry begins to tell what the process does.
func startTelemetry(ctx context.Context, c Config, std streams) (*telemetry.Telemetry, error) {
	told, err := telemetry.Start(ctx, telemetry.Config{
		Service: c.ServiceName, Version: version, OTLPEndpoint: c.OTLPEndpoint, SampleRatio: c.TraceRatio,
		LogLevel: c.LogLevel, LogFormat: c.LogFormat, LogOutput: std.err,
	})
	if err != nil {
		return nil, fmt.Errorf("start telemetry: %w", err)
	}
	return told, nil
}

// newServer is a server whose clients cannot hold on to it without end.
func newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 2 * time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}
