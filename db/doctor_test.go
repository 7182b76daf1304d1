package db_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// ward is a tenant with runs in every status, each where it belongs, and an erased one beside it.
type ward struct {
	*dbtest.Bundle

	t      *testing.T
	of     planted
	erased uuid.UUID
	// runs are by what became of them.
	runs map[string]uuid.UUID
}

func newWard(t *testing.T) *ward {
	t.Helper()
	ctx := t.Context()
	w := &ward{Bundle: dbtest.New(t), t: t, runs: map[string]uuid.UUID{}}
	require.NoError(t, w.DB.System(ctx, func(tx db.SystemTx) error {
		a, err := tx.TenantInsert(ctx, "busy", "UTC")
		if err != nil {
			return err
		}
		b, err := tx.TenantInsert(ctx, "gone", "UTC")
		w.of.tenant, w.erased = a.TenantID, b.TenantID
		return err
	}))
	require.NoError(t, w.DB.System(ctx, func(tx db.SystemTx) error { return tx.TenantErase(ctx, w.erased) }))
	w.tenant(func(tx db.TenantTx) error {
		e, err := tx.EndpointInsert(ctx, "in", "standard", json.RawMessage(`{"order":"serial"}`))
		if err != nil {
			return err
		}
		c, err := tx.CredentialInsert(ctx, "callback", "callback", tenants.NewSecret("canary"))
		if err != nil {
			return err
		}
		a, err := tx.AutomationInsert(ctx, e.ID, "triage", json.RawMessage(`{"name":"triage","model":"scripted/echo-1","fallbacks":["scripted/chat-echo-1"]}`), uuid.Nil)
		w.of.endpoint, w.of.credential, w.of.automation = e.ID, c.ID, a.ID
		return err
	})
	for _, kind := range []string{"done", "queued", "waiting", "review", "acting", "running", "first", "second", "parked", "dead", "stopped", "held"} {
		w.begin(kind)
	}
	// All of it happened an hour and a half ago, but for what belongs to a worker now.
	w.exec(`set session_replication_role = replica`,
		`update sluice.runs set updated_at = updated_at - interval '90 minutes', ordered_at = ordered_at - interval '90 minutes'`,
		`update sluice.actions set updated_at = updated_at - interval '90 minutes' where ended_at is null`,
		`update sluice.endpoints set updated_at = updated_at - interval '90 minutes'`,
		`update river.river_job set created_at = now() - interval '9 minutes'`,
		`insert into river.river_leader (elected_at, expires_at, leader_id) values (now(), now() + interval '1 minute', 'test')`,
		`reset session_replication_role`)
	return w
}

func (w *ward) tenant(fn func(tx db.TenantTx) error) {
	w.t.Helper()
	require.NoError(w.t, w.DB.Tenant(w.t.Context(), w.of.tenant, fn))
}

func (w *ward) exec(statements ...string) {
	w.t.Helper()
	conn, err := w.Owner.Acquire(w.t.Context())
	require.NoError(w.t, err)
	defer conn.Release()
	for _, sql := range statements {
		_, err := conn.Exec(w.t.Context(), sql)
		require.NoError(w.t, err, sql)
	}
}

func (w *ward) job(kind string, id uuid.UUID) {
	w.t.Helper()
	_, err := w.Owner.Exec(w.t.Context(), `insert into river.river_job (kind, queue, max_attempts, state, args)
		values ($1, 'runs', 10, 'available', jsonb_build_object('tenant_id', $2::text, $1 || '_id', $3::text))`, kind, w.of.tenant.String(), id.String())
	require.NoError(w.t, err)
}

// begin takes an event in, and its run to where kind says.
func (w *ward) begin(kind string) {
	w.t.Helper()
	ctx := w.t.Context()
	event, id := tenants.NewID(), tenants.NewID()
	w.runs[kind] = id
	ordering, entity := db.OrderNone, ""
	if kind == "first" || kind == "second" {
		ordering, entity = db.OrderSerial, "issue:1"
	}
	verdicts, err := json.Marshal([]map[string]any{
		{"automation_id": tenants.FormatID(tenants.AutomationPrefix, w.of.automation), "version": 1, "matched": true},
		{"automation_id": tenants.FormatID(tenants.AutomationPrefix, tenants.NewID()), "version": 1, "matched": false},
	})
	require.NoError(w.t, err)
	admit(w.t, w.DB, delivered(w.of, `{}`, db.EventNew{
		ID: event, SourceEventID: kind, Type: "x", Entity: entity, Verdicts: verdicts,
		Runs: []db.RunNew{{ID: id, AutomationID: w.of.automation, AutomationVersion: 1, Mode: "review", Priority: "routine", Ordering: ordering}},
	}))
	switch kind {
	case "queued":
		w.job("run", id)
		return
	case "parked":
		w.tenant(func(tx db.TenantTx) error {
			_, err := tx.RunsPark(ctx, []uuid.UUID{id})
			return err
		})
		return
	}
	var run db.Run
	w.tenant(func(tx db.TenantTx) (err error) {
		run, err = tx.RunClaim(ctx, id, time.Hour)
		return err
	})
	step := db.RunStep{Reason: "why", Detail: "because"}
	call := db.Call{
		ID: tenants.NewID(), RunID: id, Epoch: run.Epoch, Provider: "scripted", ModelAsked: "echo-1", PriceID: w.price(), RequestSHA256: []byte("x"), MaxOutputTokens: 10,
		Part: db.CallAsk, ReservedTokens: 100, ReservedPico: 1000,
	}
	send := func(tx db.TenantTx) error {
		_, err := tx.CallsSend(ctx, []db.Call{call})
		return err
	}
	switch kind {
	case "running":
		w.tenant(send)
		return
	case "first":
		return
	case "second":
		w.tenant(func(tx db.TenantTx) error { return tx.RunBehind(ctx, run, "because") })
		return
	case "waiting":
		step.Status, step.Wait = db.RunWaiting, 5*time.Hour
		w.job("run", id)
	case "held":
		step.Status, step.Reason = db.RunHeld, "limit.cost_per_day"
	case "review":
		step.Status, step.Until = db.RunInReview, new(time.Now().Add(time.Hour))
	case "dead", "stopped":
		step.Status = db.RunDead
	case "acting", "done":
		step.Status = db.RunActing
	}
	action := db.Action{
		ID: tenants.NewID(), RunID: id, Kind: "slack_message", Key: kind, Target: "#" + kind, Effect: json.RawMessage(`{}`), State: db.ActionIntended,
	}
	w.tenant(func(tx db.TenantTx) error {
		if kind == "done" {
			if err := send(tx); err != nil {
				return err
			}
			call.Tokens, call.CostPico, call.ModelServed = db.Tokens{InputUncached: 8, OutputVisible: 4}, 28_000_000, "echo-1"
			if err := tx.CallsReceive(ctx, []db.Call{call}); err != nil {
				return err
			}
		}
		if _, err := tx.RunsStep(ctx, []db.RunEnd{{ID: id, Epoch: run.Epoch, CostPico: call.CostPico, RunStep: step}}); err != nil {
			return err
		}
		switch kind {
		case "held":
			return tx.BudgetHold(ctx, step.Reason)
		case "review":
			action.State = db.ActionProposed
		case "acting":
			w.job("action", action.ID)
		case "done":
		default:
			return nil
		}
		if err := tx.ActionInsert(ctx, action); err != nil || kind != "done" {
			return err
		}
		held, err := tx.ActionsClaim(ctx, []uuid.UUID{action.ID}, time.Minute)
		if err != nil {
			return err
		}
		return tx.ActionsConfirm(ctx, []db.Confirmation{{Action: held[0].Action, Status: 200, Receipt: json.RawMessage(`{}`)}})
	})
}

func (w *ward) price() (id int64) {
	w.t.Helper()
	require.NoError(w.t, w.Owner.QueryRow(w.t.Context(), `select id from sluice.prices where provider = 'scripted' and model = 'echo-1'`).Scan(&id))
	return id
}

// expected are found in every test's database: it is not made to survive a crash, and its login is the superuser.
var expected = []string{"server.settings", "server.login"}

func found(r db.Report) (ids []string) {
	for _, f := range r.Findings {
		if !slices.Contains(expected, f.ID) {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

func TestDoctorFindsNothingInAHealthyDatabase(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	for _, deep := range []bool{false, true} {
		r, err := w.DB.Examine(t.Context(), db.Examine{Now: time.Now, Deep: deep})
		require.NoError(t, err)
		require.Empty(t, r.Blind)
		require.Empty(t, found(r), "%+v", r.Findings)
		require.False(t, r.Sick())
		require.WithinDuration(t, time.Now(), r.At, time.Minute)
	}
}

// TestDoctorLedger holds the books against each other at the moment of the look, through the pool of the application.
func TestDoctorLedger(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.exec(`update sluice.calls set cost_pico = cost_pico + 1 where state = 'received'`)
	r, err := w.DB.Examine(t.Context(), db.Examine{Now: time.Now, Deep: true})
	require.NoError(t, err)
	require.Empty(t, r.Blind)
	require.Equal(t, []string{"ledger"}, found(r), "%+v", r.Findings)
	require.Equal(t, 3, r.Findings[0].Count)
	require.Contains(t, r.Findings[0].Items[0].What, "call cal_")
	r, err = w.DB.Examine(t.Context(), db.Examine{Now: time.Now})
	require.NoError(t, err)
	require.Empty(t, found(r), "only a deep look reads the books")
}

// TestDoctorSecrets: a data key is looked at each time, what is sealed under it in a deep look.
func TestDoctorSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, do string
		found    map[bool][]string // by deep
	}{
		{"Secret", `update sluice.credentials set sealed = sealed || 'x'`, map[bool][]string{true: {"secret.sealed"}}},
		{"DataKey", `update sluice.tenant_keysets set wrapped = wrapped || 'x'`, map[bool][]string{true: {"secret.sealed"}, false: {"secret.sealed"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t)
			w.exec(`set session_replication_role = replica`, c.do, `reset session_replication_role`)
			for _, deep := range []bool{false, true} {
				r, err := w.DB.Examine(t.Context(), db.Examine{Now: time.Now, Deep: deep})
				require.NoError(t, err)
				require.Empty(t, r.Blind)
				require.Equal(t, c.found[deep], found(r), "%+v", r.Findings)
			}
		})
	}
}

func TestDoctorVersions(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	for _, c := range []struct {
		name  string
		state db.SchemaState
		found []string
		all   bool // the objects are looked at
	}{
		{"Same", db.SchemaState{Version: 6, Wanted: 6, RiverReady: true}, nil, true},
		{"Unsaid", db.SchemaState{}, nil, true},
		{"Older", db.SchemaState{Version: 5, Wanted: 6, RiverReady: true}, []string{"schema.version"}, false},
		{"Dirty", db.SchemaState{Version: 6, Wanted: 6, RiverReady: true, Dirty: true}, []string{"schema.version"}, false},
		{"RiverOlder", db.SchemaState{Version: 6, Wanted: 6}, []string{"schema.version"}, false},
		{"Newer", db.SchemaState{Version: 7, Wanted: 6, RiverReady: true}, []string{"schema.newer"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := b.DB.Examine(t.Context(), db.Examine{Now: time.Now, Schema: c.state})
			require.NoError(t, err)
			require.Empty(t, r.Blind)
			require.Equal(t, c.found, found(r))
			require.Equal(t, c.all, slices.ContainsFunc(r.Took, func(took db.Took) bool { return took.ID == "schema.object" }))
		})
	}
}

func TestDoctorClock(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	for _, c := range []struct {
		off  time.Duration
		what string
	}{
		{8 * time.Second, ""}, {-8 * time.Second, ""}, {time.Minute, "the database's clock is -1m0s from this machine's"}, {-10 * time.Minute, "the database's clock is 10m0s from this machine's"},
	} {
		r, err := b.DB.Examine(t.Context(), db.Examine{Only: []string{"server.clock"}, Now: func() time.Time { return time.Now().Add(c.off) }})
		require.NoError(t, err)
		require.Len(t, r.Took, 1)
		if c.what == "" {
			require.Empty(t, r.Findings, c.off)
			continue
		}
		require.Len(t, r.Findings, 1, c.off)
		require.Equal(t, c.what, r.Findings[0].Items[0].What)
	}
}

// TestDoctorHolders: no transaction can be made older than it is, so the statement is asked with another age.
func TestDoctorHolders(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	holder, err := b.App.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = holder.Exec(t.Context(), `select from sluice.events`)
	require.NoError(t, err)
	sql := strings.ReplaceAll(db.DoctorHoldersSQL, "interval '10 minutes'", "interval '0 s'")
	require.NotEqual(t, db.DoctorHoldersSQL, sql)
	tx, err := b.System.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), `set local role none`)
	require.NoError(t, err)
	var found int
	require.NoError(t, tx.QueryRow(t.Context(), `select count(*) from (`+sql+`) f where what like '%sluice sluice_app%idle in transaction'`).Scan(&found))
	require.Positive(t, found)
}

// A look that cannot see one thing sees all others, and says so.
func TestDoctorIsBlindForOneThingAlone(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	tx, err := w.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	for _, sql := range []string{`set local session_replication_role = replica`, `update sluice.budgets set parked = 0`, `alter table sluice.replays rename to moved`, `set local role sluice_system`} {
		_, err := tx.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	r, err := w.DB.ExamineIn(t.Context(), tx, db.Examine{Now: time.Now})
	require.NoError(t, err)
	require.Len(t, r.Blind, 1)
	require.Equal(t, "replay.stuck", r.Blind[0].ID)
	require.Equal(t, []string{"schema.object", "run.held"}, found(r))
	require.True(t, r.Sick())
}

// TestDoctorCounts: many are counted and few are named, the oldest first.
func TestDoctorCounts(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.exec(`insert into sluice.alerts (tenant_id, id, kind, subject, detail, began_at)
		select tenant_id, gen_random_uuid(), 'held', n::text, 'canary', now() - n * interval '1 s' from sluice.tenants, generate_series(1, 12000) n where status = 'active'`)
	r, err := w.DB.Examine(t.Context(), db.Examine{Now: time.Now, Only: []string{"alert.open"}, Shown: 3})
	require.NoError(t, err)
	require.Len(t, r.Findings, 1)
	f := r.Findings[0]
	require.Equal(t, 10_000, f.Count)
	require.True(t, f.More)
	require.Len(t, f.Items, 3)
	require.NotContains(t, fmt.Sprintf("%+v", r), "canary")
}

// told are the statements of a pool.
type told struct{ statements []string }

func (l *told) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	l.statements = append(l.statements, strings.TrimSpace(d.SQL))
	return ctx
}

func (*told) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestDoctorWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	var said told
	pool, err := db.Open(t.Context(), db.PoolConfig{URL: w.URL, Role: db.SystemRole, ConnsMax: 1, Tracer: &said})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	r, err := db.New(db.Pools{App: w.App, System: pool}, nil).Examine(t.Context(), db.Examine{Now: time.Now, Deep: true})
	require.NoError(t, err)
	require.Empty(t, r.Blind)
	require.Regexp(t, `^begin isolation level repeatable.read read only$`, said.statements[0])
	require.Greater(t, len(said.statements), 2*len(r.Took))
	for _, sql := range said.statements[1:] {
		require.NotRegexp(t, `(?i)^(begin|commit|start)`, sql, "all of it is one transaction")
	}
	var role, path, mode string
	require.NoError(t, pool.QueryRow(t.Context(), `select current_user, current_setting('search_path'), current_setting('transaction_read_only')`).Scan(&role, &path, &mode))
	require.Equal(t, []string{"sluice_system", "off"}, []string{role, mode}, "the connection is given back as it was")
	require.NotEqual(t, "pg_catalog", path)
}
