package db_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// standing reads one limit.
func standing(t *testing.T, d *db.DB, tenant uuid.UUID, name string) db.LimitStanding {
	t.Helper()
	var all []db.LimitStanding
	require.NoError(t, d.Tenant(t.Context(), tenant, func(tx db.TenantTx) (err error) {
		all, err = tx.LimitStandings(t.Context())
		return err
	}))
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	require.Fail(t, "there is no limit "+name)
	return db.LimitStanding{}
}

func putLimits(t *testing.T, b *dbtest.Bundle, tenant uuid.UUID, l db.Limits, raises ...db.LimitRaise) {
	t.Helper()
	l.Burst, l.Share, l.StoredPerHour = 1, 1, 1_000_000
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		_, err := tx.LimitsPut(t.Context(), tenant, l, raises)
		return err
	}))
}

func TestLimitsAreReadWithoutALockAndWithoutAWrite(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	putLimits(t, b, p.tenant, db.Limits{CostPerDayHard: new(int64(100))})
	// Another holds every row there is, and the windows are out of date: 40 days from now nothing has turned them yet.
	other, err := b.Owner.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = other.Rollback(ctx) }()
	for _, table := range []string{"limits", "places", "budgets", "tenants"} {
		_, err := other.Exec(ctx, `select from sluice.`+table+` where tenant_id = $1 for update`, p.tenant)
		require.NoError(t, err)
	}
	later := b.DB.WithClock(func() time.Time { return time.Now().AddDate(0, 0, 40) })
	require.NoError(t, later.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
		_, err := tx.Pgx().Exec(ctx, `set local lock_timeout = '1s'`)
		require.NoError(t, err)
		all, err := tx.LimitStandings(ctx)
		require.NoError(t, err)
		for _, s := range all {
			require.Zero(t, s.Used, s.Name)
			if s.ResetsAt != nil {
				require.True(t, s.ResetsAt.After(time.Now().AddDate(0, 0, 39)), s.Name)
			}
		}
		var xid *string
		require.NoError(t, tx.Pgx().QueryRow(ctx, `select pg_current_xact_id_if_assigned()::text`).Scan(&xid))
		require.Nil(t, xid)
		return nil
	}))
	require.EqualValues(t, 5, standing(t, b.DB, p.tenant, db.LimitCostPerDay).Used, "what plant has booked")
}

func TestLimitsAreReplacedOnlyAsTheyWereRead(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	put := func(tenant uuid.UUID, version int) (l db.Limits, err error) {
		err = b.DB.System(ctx, func(tx db.SystemTx) (err error) {
			l, err = tx.LimitsPut(ctx, tenant, db.Limits{Burst: 1, Share: 1, StoredPerHour: 1, Version: version}, nil)
			return err
		})
		return l, err
	}
	l, err := put(p.tenant, 1)
	require.NoError(t, err)
	require.Equal(t, 2, l.Version)
	_, err = put(p.tenant, 1)
	require.ErrorIs(t, err, db.ErrStale)
	_, err = put(p.tenant, 0)
	require.NoError(t, err)
	_, err = put(tenants.NewID(), 0)
	require.ErrorIs(t, err, db.ErrNotFound)
	require.ErrorIs(t, b.DB.Tenant(ctx, tenants.NewID(), func(tx db.TenantTx) error {
		_, err := tx.LimitStandings(ctx)
		return err
	}), db.ErrNotFound)
}

func eventWithRun(p planted) db.EventNew {
	e := eventNew(tenants.NewID().String(), "")
	e.Runs = []db.RunNew{{
		ID: tenants.NewID(), AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone,
	}}
	return e
}

// A limit that is taken away while others are held for it has no number, and those that come stand behind the others.
func TestEventsStandBehindThoseThatAreHeldForALimitThatIsGone(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	putLimits(t, b, p.tenant, db.Limits{EventsPerHourHard: new(int64(0))})
	admit(t, b.DB, delivered(p, `{}`, eventWithRun(p)))
	putLimits(t, b, p.tenant, db.Limits{})
	behind := eventWithRun(p)
	admit(t, b.DB, delivered(p, `{}`, behind))
	require.NoError(t, b.DB.Tenant(t.Context(), p.tenant, func(tx db.TenantTx) error {
		r, err := tx.RunGet(t.Context(), behind.Runs[0].ID)
		require.NoError(t, err)
		require.Equal(t, db.RunHeld, r.Status)
		require.NotEmpty(t, r.Detail)
		return nil
	}))
	require.EqualValues(t, 2, standing(t, b.DB, p.tenant, db.LimitEventsPerHour).Held)
}

// Many reserve and settle at once, each in its own transaction: at no commit is anything above the limit, and in the end nothing is reserved.
func TestReservationsAtOnceStayUnderTheLimit(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	ctx := t.Context()
	const workers, limit, worst = 6, 1000, 90
	putLimits(t, b, p.tenant, db.Limits{CostPerDayHard: new(int64(limit))})
	var ids []uuid.UUID
	events := make([]db.EventNew, workers)
	for i := range events {
		events[i] = eventWithRun(p)
		ids = append(ids, events[i].Runs[0].ID)
	}
	admit(t, b.DB, delivered(p, `{}`, events...))
	var runs []db.Run
	require.NoError(t, b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) (err error) {
		runs, err = tx.RunsClaim(ctx, ids, time.Hour)
		return err
	}))
	require.Len(t, runs, workers)

	stop, watched := make(chan struct{}), make(chan int64, 1)
	go func() {
		most := int64(0)
		for {
			var sum int64
			if err := b.Owner.QueryRow(ctx, `select day_pico + reserved_pico from sluice.budgets where tenant_id = $1`, p.tenant).Scan(&sum); err != nil {
				sum = limit + 1
			}
			most = max(most, sum)
			select {
			case <-stop:
				watched <- most
				return
			default:
			}
		}
	}()
	var group sync.WaitGroup
	for i, r := range runs {
		group.Go(func() {
			for range 12 {
				call := db.Call{
					ID: tenants.NewID(), RunID: r.ID, Epoch: r.Epoch, Provider: "scripted", ModelAsked: "echo-1", PriceID: 9001, RequestSHA256: []byte("x"),
					Part: db.CallAsk, ReservedPico: worst, CostPico: int64(worst - 10*i),
				}
				if !reserved(t, b, p.tenant, call) {
					continue
				}
				if err := b.Worker.Tenant(ctx, p.tenant, func(tx db.TenantTx) error { return tx.CallsReceive(ctx, []db.Call{call}) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	close(stop)
	require.LessOrEqual(t, <-watched, int64(limit))
	day := standing(t, b.DB, p.tenant, db.LimitCostPerDay)
	require.Zero(t, day.Reserved)
	require.Greater(t, day.Used, int64(limit-worst), "there was more to do than the limit let pass")
	require.LessOrEqual(t, day.Used, int64(limit))
}

func reserved(t *testing.T, b *dbtest.Bundle, tenant uuid.UUID, call db.Call) bool {
	t.Helper()
	granted := false
	err := b.Worker.Tenant(t.Context(), tenant, func(tx db.TenantTx) error {
		answers, err := tx.CallsSend(t.Context(), []db.Call{call})
		granted = len(answers) == 1 && answers[0].Reason == ""
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return granted && err == nil
}
