package db_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

// plain sums the ledger without the help of any rollup, for a comparison with UsageList.
const plainSQL = `
select coalesce(string_agg(line, E'\n' order by line), '') from (
    select concat_ws(' ', case when $2 then date_trunc('day', timezone($3, at)) end, case when $4 then 'scripted/' || model_asked end, case when $5 then kind end,
        count(*) filter (where kind <> 'adjust'), sum(input_uncached), sum(output_reasoning), sum(amount_pico)) as line
    from sluice.ledger_entries
    where tenant_id = $1 and ($6::timestamptz is null or at >= $6) and ($7::timestamptz is null or at < $7) and ($8 = '' or 'scripted/' || model_asked = $8)
    group by case when $2 then date_trunc('day', timezone($3, at)) end, case when $4 then 'scripted/' || model_asked end, case when $5 then kind end) l`

func (k books) requireExact(by db.UsageBy, f db.UsageFilter, zone string) {
	k.t.Helper()
	want := k.text(plainSQL, k.tenant, by.Day, zone, by.Model, by.Kind, f.Since, f.Until, f.Model)
	var lines []string
	for _, u := range k.usage(by, f, zone) {
		var parts []string
		if u.Day != nil {
			parts = append(parts, u.Day.Format(time.DateTime))
		}
		for _, s := range []*string{u.Model, u.Kind} {
			if s != nil {
				parts = append(parts, *s)
			}
		}
		lines = append(lines, strings.Join(append(parts, fmt.Sprint(u.Calls, u.InputUncached, u.OutputReasoning), u.CostPico), " "))
	}
	require.ElementsMatch(k.t, strings.Split(want, "\n"), strings.Split(strings.Join(lines, "\n"), "\n"), "%+v %+v %s", by, f, zone)
}

// TestUsageIsExactWhateverIsRolledUp writes entries at any time of four days, sums at any moment, and asks anything.
func TestUsageIsExactWhateverIsRolledUp(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("Seed", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			zone := []string{"UTC", "Asia/Kathmandu", "America/New_York"}[seed%3]
			k := newBooks(t, b, zone)
			moment := func() time.Time {
				at := time.Now().Add(-time.Duration(random.Int64N(int64(96 * time.Hour)))).Truncate(time.Microsecond)
				if random.IntN(4) == 0 {
					return at.Truncate(15 * time.Minute) // the edges
				}
				return at
			}
			maybe := func() *time.Time {
				if random.IntN(3) == 0 {
					return nil
				}
				at := moment()
				return &at
			}
			for range 40 {
				switch random.IntN(5) {
				case 0:
					require.NoError(t, k.Worker.UsageRebuild(t.Context(), k.tenant))
				case 1:
					k.roll()
				default:
					k.worker(func(ctx context.Context, tx db.TenantTx) error {
						for range random.IntN(8) {
							kind, pico := []string{"charge", "orphan", "adjust"}[random.IntN(3)], random.Int64N(1e9)-5e8
							if err := k.entryAt(ctx, tx, moment(), kind, []string{"a", "b"}[random.IntN(2)], random.Int64N(1000), pico); err != nil {
								return err
							}
						}
						return nil
					})
				}
				f := db.UsageFilter{Since: maybe(), Until: maybe(), Model: []string{"", "", "scripted/a"}[random.IntN(3)]}
				k.requireExact(db.UsageBy{Day: random.IntN(2) == 0, Model: random.IntN(2) == 0, Kind: random.IntN(2) == 0}, f, zone)
			}
			k.roll()
			k.requireExact(db.UsageBy{Day: true, Model: true, Kind: true}, db.UsageFilter{}, zone)
			for _, d := range k.check() {
				require.NotEqual(t, db.DifferenceRollup, d.Kind)
			}
			require.Equal(t, k.text(`select sum(amount_pico)::text from sluice.ledger_entries where tenant_id = $1`, k.tenant),
				k.text(`select sum(amount_pico)::text from sluice.billing_usage_daily where tenant_id = $1`, k.tenant))
		})
	}
}

// TestRollupsServeWhatIsRolledUp: what is summed is read from the sums, or they would be for nothing.
func TestRollupsServeWhatIsRolledUp(t *testing.T) {
	t.Parallel()
	k := newBooks(t, dbtest.New(t), "UTC")
	k.worker(func(ctx context.Context, tx db.TenantTx) error {
		return k.entryAt(ctx, tx, time.Now().Add(-5*time.Hour), "charge", "a", 1, 1)
	})
	k.roll()
	k.past(`update sluice.usage_rollups set input_uncached = 77 where tenant_id = $1`, k.tenant)
	require.EqualValues(t, 77, k.usage(db.UsageBy{}, db.UsageFilter{}, "UTC")[0].InputUncached)
	require.NoError(t, k.Worker.UsageRebuild(t.Context(), k.tenant))
	require.EqualValues(t, 1, k.usage(db.UsageBy{}, db.UsageFilter{}, "UTC")[0].InputUncached)
	done, err := k.Worker.UsageRoll(t.Context())
	require.NoError(t, err)
	require.Zero(t, done, "nothing is left to do")
}

// TestLateEntriesAreSummed: a transaction that began long before it commits, before and after its quarter of an hour was closed.
func TestLateEntriesAreSummed(t *testing.T) {
	t.Parallel()
	k := newBooks(t, dbtest.New(t), "UTC")
	ctx := t.Context()
	at := time.Now().Add(-2 * time.Hour)
	by := db.UsageBy{Kind: true}
	write := func() (commit func()) {
		written, end, ended := make(chan error), make(chan struct{}), make(chan error)
		go func() {
			ended <- k.Worker.Tenant(ctx, k.tenant, func(tx db.TenantTx) error {
				written <- k.entryAt(ctx, tx, at, "charge", "a", 1, 1)
				<-end
				return nil
			})
		}()
		require.NoError(t, <-written)
		commit = sync.OnceFunc(func() {
			close(end)
			require.NoError(t, <-ended)
		})
		t.Cleanup(commit) // or a test that fails waits for it
		return commit
	}
	k.worker(func(ctx context.Context, tx db.TenantTx) error { return k.entryAt(ctx, tx, at, "charge", "a", 1, 1) })

	open := write()
	_, err := k.Worker.UsageRoll(ctx)
	require.ErrorContains(t, err, "lock timeout", "the quarter is not closed while somebody writes to it")
	k.requireExact(by, db.UsageFilter{}, "UTC")
	open()
	k.roll()
	k.requireExact(by, db.UsageFilter{}, "UTC")

	late := write()
	k.roll()
	late()
	require.Equal(t, "1", k.text(`select count(*)::text from sluice.usage_late`))
	k.requireExact(by, db.UsageFilter{}, "UTC")
	require.Equal(t, "3", k.text(`select sum(calls)::text from sluice.billing_usage_daily`))
	k.roll()
	require.Equal(t, "0", k.text(`select count(*)::text from sluice.usage_late`))
	require.Equal(t, "3", k.text(`select sum(entries)::text from sluice.usage_rollups`))
	k.requireExact(by, db.UsageFilter{}, "UTC")
	require.Equal(t, "3", k.text(`select sum(calls)::text from sluice.billing_usage_daily`))
}

// TestAMarkIsKeptForWhoHoldsIt: of two late entries of one quarter, one is committed and one is not when it is summed.
func TestAMarkIsKeptForWhoHoldsIt(t *testing.T) {
	t.Parallel()
	k := newBooks(t, dbtest.New(t), "UTC")
	ctx := t.Context()
	at := time.Now().Add(-2 * time.Hour)
	one := func(ctx context.Context, tx db.TenantTx) error { return k.entryAt(ctx, tx, at, "charge", "a", 1, 1) }
	k.worker(one)
	k.roll()
	k.worker(one) // leaves a mark
	k.worker(func(ctx context.Context, tx db.TenantTx) error {
		if err := one(ctx, tx); err != nil {
			return err
		}
		_, err := k.Worker.UsageRoll(ctx)
		return err
	})
	k.requireExact(db.UsageBy{}, db.UsageFilter{}, "UTC")
	_, err := k.Worker.UsageRoll(ctx)
	require.NoError(t, err)
	require.Equal(t, "3", k.text(`select sum(entries)::text from sluice.usage_rollups`))
	require.Equal(t, "0", k.text(`select count(*)::text from sluice.usage_late`))
}

// TestManyWriteAndSumAtOnce: readers never see an entry twice or lose one, whoever sums meanwhile.
func TestManyWriteAndSumAtOnce(t *testing.T) {
	t.Parallel()
	k := newBooks(t, dbtest.New(t), "UTC")
	ctx := t.Context()
	const writers, each = 4, 60
	done := make(chan error, writers+2)
	stop := make(chan struct{})
	for w := range writers {
		go func() {
			random := rand.New(rand.NewPCG(uint64(w), 7))
			for range each {
				err := k.Worker.Tenant(ctx, k.tenant, func(tx db.TenantTx) error {
					return k.entryAt(ctx, tx, time.Now().Add(-time.Duration(random.Int64N(int64(3*time.Hour)))), "charge", "a", 1, 1)
				})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		go func() {
			for {
				if _, err := k.Worker.UsageRoll(ctx); err != nil {
					done <- err
					return
				}
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
			}
		}()
	}
	seen, ended := int64(0), 0
	for seen < writers*each {
		calls := int64(0)
		for _, u := range k.usage(db.UsageBy{}, db.UsageFilter{}, "UTC") {
			calls = u.Calls
			require.Equal(t, calls, u.InputUncached)
		}
		require.GreaterOrEqual(t, calls, seen, "an entry that was there is gone")
		require.LessOrEqual(t, calls, int64(writers*each))
		seen = calls
		select {
		case err := <-done:
			require.NoError(t, err)
			ended++
		default:
		}
	}
	close(stop)
	for range writers + 2 - ended {
		require.NoError(t, <-done)
	}
	k.roll()
	k.requireExact(db.UsageBy{Day: true}, db.UsageFilter{}, "UTC")
	require.Empty(t, only(k.check(), db.DifferenceRollup))
}

func only(all []db.Difference, kind string) (kept []db.Difference) {
	for _, d := range all {
		if d.Kind == kind {
			kept = append(kept, d)
		}
	}
	return kept
}

// TestDaysBeginOnAQuarterEverywhere: a rollup's quarter of an hour lies in one day of every tenant.
func TestDaysBeginOnAQuarterEverywhere(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	var odd []string
	require.NoError(t, b.Owner.QueryRow(t.Context(), `
		select coalesce(array_agg(distinct n.name || ' ' || day), '{}')
		from pg_timezone_names n, generate_series(timestamp '2026-01-01', '2028-12-31', '1 day') day
		where n.name not like 'posix%' and extract(epoch from timezone(n.name, day))::bigint % 900 <> 0`).Scan(&odd))
	require.Empty(t, odd)
}

// TestBillingReadsItsViewsAndNothingElse connects as the role sluice_billing, as the billing system does.
func TestBillingReadsItsViewsAndNothingElse(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ctx := t.Context()
	one, other := newBooks(t, b, "Pacific/Auckland"), newBooks(t, b, "UTC")
	for _, k := range []books{one, other} {
		_, call := k.sent()
		k.received(call, 8, 4)
		_, call = k.sent()
		k.orphaned(call)
		k.worker(func(ctx context.Context, tx db.TenantTx) error {
			_, err := tx.EntryAdjust(ctx, db.Correction{CallID: call, CostPico: 1, Tokens: db.Tokens{OutputReasoning: 1}, Note: "counted by hand"})
			return err
		})
		k.worker(func(ctx context.Context, tx db.TenantTx) error {
			return k.entryAt(ctx, tx, time.Date(2026, 3, 1, 23, 50, 0, 0, time.UTC), "charge", "a", 1000, 5_000_000_000_000)
		})
	}
	one.roll()
	billing, err := db.Open(ctx, db.PoolConfig{URL: b.URL, Role: "sluice_billing", ConnsMax: 2})
	require.NoError(t, err)
	t.Cleanup(billing.Close)
	texts := func(sql string, args ...any) []string {
		rows, err := billing.Query(ctx, sql, args...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return lines
	}
	require.Equal(t, []string{"2026-03-01 2026-03-02 Pacific/Auckland 1 1 1000 1 2 3 4 5 5000000000000 5.000000000000"}, texts(`
		select concat_ws(' ', day_utc, day_tenant, time_zone, calls, entries, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible,
			output_reasoning, amount_pico, amount_usd) from sluice.billing_usage_daily where tenant_id = $1 and day_utc = '2026-03-01'`, one.tenant))
	require.Equal(t, []string{"adjust 0 1 -99", "charge 1 1 8", "orphan 1 1 100"}, texts(`
		select concat_ws(' ', kind, calls, entries, input_uncached + case kind when 'adjust' then 1 else 0 end) from sluice.billing_usage_daily
		where tenant_id = $1 and day_utc > '2026-03-01' order by kind`, other.tenant))
	require.Equal(t, []string{"5.000028000001"}, texts(`select sum(amount_usd)::text from sluice.billing_usage_daily where tenant_id = $1`, one.tenant))
	require.Equal(t, []string{"5.000028000001"}, texts(`select sum(amount_usd)::text from sluice.billing_entries where tenant_id = $1`, one.tenant))
	require.Equal(t, []string{"counted by hand"}, texts(`select note from sluice.billing_entries where tenant_id = $1 and kind = 'adjust'`, one.tenant))
	require.Equal(t, []string{"books Pacific/Auckland active", "books UTC active"}, texts(`select concat_ws(' ', name, time_zone, status) from sluice.billing_tenants order by time_zone`))
	requireBillingBound(t, b.Owner, billing, one.tenant)
}

// requireBillingBound asks the catalogue for every relation, column, right and function there is, and wants the few that billing may use.
func requireBillingBound(t *testing.T, owner, billing *pgxpool.Pool, tenant uuid.UUID) {
	t.Helper()
	ctx := t.Context()
	list := func(sql string) (names []string) {
		require.NoError(t, owner.QueryRow(ctx, sql).Scan(&names))
		return names
	}
	require.Equal(t, []string{
		"billing_entries", "billing_tenants", "billing_usage_daily", "ledger_entries", "prices", "usage_late", "usage_rolled", "usage_rollups",
	}, list(`select array_agg(relname::text order by relname) from pg_class where relnamespace = 'sluice'::regnamespace and relkind in ('r', 'p', 'v', 'm')
		and has_table_privilege('sluice_billing', oid, 'select')`))
	require.Equal(t, []string{"tenants.created_at", "tenants.name", "tenants.status", "tenants.tenant_id", "tenants.time_zone"}, list(`
		select array_agg(c.relname || '.' || a.attname order by c.relname || '.' || a.attname) from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relnamespace in ('sluice'::regnamespace, 'river'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm')
		  and has_column_privilege('sluice_billing', c.oid, a.attnum, 'select') and not has_table_privilege('sluice_billing', c.oid, 'select')`))
	require.Empty(t, list(`
		select array_agg(c.oid::regclass::text) from pg_class c where c.relnamespace in ('sluice'::regnamespace, 'river'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm')
		  and (has_table_privilege('sluice_billing', c.oid, 'insert, update, delete, truncate, trigger, references')
		       or has_any_column_privilege('sluice_billing', c.oid, 'insert, update'))`))
	require.Empty(t, list(`
		select array_agg(proname::text) from pg_proc where pronamespace = 'sluice'::regnamespace and has_function_privilege('sluice_billing', oid, 'execute')`))
	for _, statement := range []string{
		`update sluice.ledger_entries set amount_pico = 0`, `delete from sluice.usage_rollups`, `select * from sluice.runs`, `select * from sluice.events`,
		`select version from sluice.tenants`, `select * from sluice.credentials`, `select * from river.river_job`, `insert into sluice.billing_tenants select * from sluice.billing_tenants`,
		`create table sluice.mine (x int)`, `select sluice.tenant_erase('` + tenant.String() + `')`,
	} {
		_, err := billing.Exec(ctx, statement)
		require.ErrorContains(t, err, "permission denied", statement)
	}
}
