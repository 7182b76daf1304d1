package db_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// books is a tenant with one endpoint and one automation, whose calls a test writes as a worker would.
type books struct {
	*dbtest.Bundle

	t                            *testing.T
	tenant, endpoint, automation uuid.UUID
}

// The rates of price 9010 of the scripted provider, echo-1's, in pico-USD.
const (
	echoInput  = 1_000_000
	echoOutput = 5_000_000
)

// scriptedPriceSQL finds the price of a model of the scripted provider.
const scriptedPriceSQL = `select id from sluice.prices where provider = 'scripted' and model = $1`

func newBooks(t *testing.T, b *dbtest.Bundle, zone string) books {
	t.Helper()
	k := books{Bundle: b, t: t, endpoint: tenants.NewID(), automation: tenants.NewID()}
	require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) error {
		tenant, err := tx.TenantInsert(t.Context(), "books", zone)
		k.tenant = tenant.TenantID
		return err
	}))
	k.owner(`insert into sluice.endpoints (tenant_id, id, name, source, token) values ($1, $2, 'in', 'standard', gen_random_uuid()::text)`, k.tenant, k.endpoint)
	k.owner(`insert into sluice.automations (tenant_id, id, endpoint_id, name) values ($1, $2, $3, '=triage')`, k.tenant, k.automation, k.endpoint)
	k.owner(`insert into sluice.automation_versions (tenant_id, automation_id, version, spec) values ($1, $2, 1, '{}')`, k.tenant, k.automation)
	return k
}

// owner writes as the superuser, past every check but the tables' own.
func (k books) owner(sql string, args ...any) {
	k.t.Helper()
	_, err := k.Owner.Exec(k.t.Context(), sql, args...)
	require.NoError(k.t, err)
}

func (k books) price(model string) (id int64) {
	k.t.Helper()
	require.NoError(k.t, k.Owner.QueryRow(k.t.Context(), scriptedPriceSQL, model).Scan(&id))
	return id
}

// worker runs fn as a worker, in the tenant's transaction.
func (k books) worker(fn func(ctx context.Context, tx db.TenantTx) error) {
	k.t.Helper()
	require.NoError(k.t, k.Worker.Tenant(k.t.Context(), k.tenant, func(tx db.TenantTx) error { return fn(k.t.Context(), tx) }))
}

// sent makes a run with a call under way, whose worst case is reserved.
func (k books) sent() (run, call uuid.UUID) {
	k.t.Helper()
	event := tenants.NewID()
	run, call = tenants.NewID(), tenants.NewID()
	k.owner(`insert into sluice.events (tenant_id, id, endpoint_id, source, source_event_id, type, body_bytes, body_sha256)
		values ($1, $2, $3, 'standard', gen_random_uuid()::text, 'x', 0, '')`, k.tenant, event, k.endpoint)
	k.owner(`insert into sluice.runs (tenant_id, id, event_id, endpoint_id, automation_id, automation_version, mode, priority)
		values ($1, $2, $3, $4, $5, 1, 'live', 'routine')`, k.tenant, run, event, k.endpoint, k.automation)
	k.worker(func(ctx context.Context, tx db.TenantTx) error {
		_, err := tx.Pgx().Exec(ctx, `
			insert into sluice.calls (tenant_id, id, run_id, ordinal, epoch, state, provider, model_asked, price_id, request_sha256, input_estimate,
				max_output_tokens, reserved_tokens, reserved_pico, sent_at)
			values ($1, $2, $3, 1, 1, 'sent', 'scripted', 'echo-1', $4, '', 100, 10, 110, $5, now())`,
			k.tenant, call, run, k.price("echo-1"), 100*echoInput+10*echoOutput)
		return err
	})
	return run, call
}

// received ends a call with a reply and books it.
func (k books) received(call uuid.UUID, input, output int64) {
	k.t.Helper()
	k.worker(func(ctx context.Context, tx db.TenantTx) error {
		if _, err := tx.Pgx().Exec(ctx, `update sluice.calls set state = 'received', model_served = 'echo-1', input_uncached = $3, output_visible = $4,
			cost_pico = $5 where tenant_id = $1 and id = $2`, k.tenant, call, input, output, input*echoInput+output*echoOutput); err != nil {
			return err
		}
		return tx.EntryInsert(ctx, call, db.EntryCharge)
	})
}

// orphaned ends a call without a reply and books the most that it can have cost.
func (k books) orphaned(call uuid.UUID) {
	k.t.Helper()
	k.worker(func(ctx context.Context, tx db.TenantTx) error {
		err := tx.CallOrphan(ctx, db.Call{
			ID: call, Tokens: db.Tokens{InputUncached: 100, OutputVisible: 10}, CostPico: 100*echoInput*5/4 + 10*echoOutput, ErrorKind: "timeout",
		})
		if err != nil {
			return err
		}
		return tx.EntryInsert(ctx, call, db.EntryOrphan)
	})
}

// entryAt writes an entry of no call at a time, as a worker, into tx.
func (k books) entryAt(ctx context.Context, tx db.TenantTx, at time.Time, kind, model string, tokens, pico int64) error {
	_, err := tx.Pgx().Exec(ctx, `
		insert into sluice.ledger_entries (tenant_id, id, kind, at, call_id, run_id, event_id, endpoint_id, automation_id, automation_version, provider, model_asked,
			model_served, price_id, input_uncached, input_cache_read, input_cache_write_5m, input_cache_write_1h, output_visible, output_reasoning, amount_pico)
		values ($1, $2, $3, $4, $2, $2, $2, $5, $6, 1, 'scripted', $7, $7, 1, $8, 1, 2, 3, 4, 5, $9)`,
		k.tenant, tenants.NewID(), kind, at, k.endpoint, k.automation, model, tokens, pico)
	if err != nil {
		return fmt.Errorf("write an entry: %w", err)
	}
	return nil
}

func (k books) check() []db.Difference {
	k.t.Helper()
	var found []db.Difference
	k.worker(func(ctx context.Context, tx db.TenantTx) (err error) {
		found, err = tx.LedgerCheck(ctx)
		return err
	})
	return found
}

func (k books) budget(column string) (n int64) {
	k.t.Helper()
	require.NoError(k.t, k.Owner.QueryRow(k.t.Context(), `select `+column+` from sluice.budgets where tenant_id = $1`, k.tenant).Scan(&n))
	return n
}

func (k books) text(sql string, args ...any) (text string) {
	k.t.Helper()
	require.NoError(k.t, k.Owner.QueryRow(k.t.Context(), sql, args...).Scan(&text))
	return text
}

// usage sums the tenant's ledger as the API does.
func (k books) usage(by db.UsageBy, f db.UsageFilter, zone string) (rows []db.Usage) {
	k.t.Helper()
	k.worker(func(ctx context.Context, tx db.TenantTx) (err error) {
		rows, err = tx.UsageList(ctx, by, f, zone)
		return err
	})
	return rows
}

func (k books) roll() {
	k.t.Helper()
	_, err := k.Worker.UsageRoll(k.t.Context())
	require.NoError(k.t, err)
}

func TestEntryAdjust(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ledger := func(k books, call uuid.UUID) string {
		return k.text(`select string_agg(concat_ws(' ', kind, model_served, input_uncached, input_cache_read, output_visible, output_reasoning, amount_pico, note), E'\n'
			order by id) from sluice.ledger_entries where tenant_id = $1 and call_id = $2`, k.tenant, call)
	}
	adjust := func(k books, c db.Correction) (n int) {
		k.worker(func(ctx context.Context, tx db.TenantTx) (err error) {
			n, err = tx.EntryAdjust(ctx, c)
			return err
		})
		return n
	}

	t.Run("ALowerTruthTakesBackUnderTheOldNameAndBooksUnderTheNew", func(t *testing.T) {
		t.Parallel()
		k := newBooks(t, b, "UTC")
		run, call := k.sent()
		require.EqualValues(t, 110, k.budget("reserved_tokens"))
		k.orphaned(call)
		require.Zero(t, k.budget("reserved_tokens"))
		require.EqualValues(t, 110, k.budget("day_tokens"))
		c := db.Correction{
			CallID: call, Tokens: db.Tokens{InputUncached: 20, OutputVisible: 2}, CostPico: 20*echoInput + 2*echoOutput, ModelServed: "echo-1", Note: "late reply",
		}
		require.Equal(t, 2, adjust(k, c))
		require.Equal(t, "orphan  100 0 10 0 175000000 \nadjust  -100 0 -10 0 -175000000 late reply\nadjust echo-1 20 0 2 0 30000000 late reply", ledger(k, call))
		require.EqualValues(t, 22, k.budget("day_tokens"))
		require.EqualValues(t, 30_000_000, k.budget("day_pico"))
		require.EqualValues(t, 30_000_000, k.budget("month_pico"))
		require.Equal(t, "30000000", k.text(`select cost_pico::text from sluice.runs where tenant_id = $1 and id = $2`, k.tenant, run))
		require.Equal(t, "30000000 20 echo-1 orphaned", k.text(
			`select concat_ws(' ', cost_pico, input_uncached, model_served, state) from sluice.calls where tenant_id = $1 and id = $2`, k.tenant, call))
		require.Empty(t, k.check())

		require.Zero(t, adjust(k, c), "what is right already is left alone")
		c.InputCacheRead, c.CostPico = 5, c.CostPico+5*echoInput/10
		require.Equal(t, 1, adjust(k, c), "under the same name and price, the difference alone")
		require.Contains(t, ledger(k, call), "adjust echo-1 0 5 0 0 500000 late reply")
		require.Empty(t, k.check())
	})
	t.Run("ReceivedCallsTooAndOtherCallsOfTheRunCount", func(t *testing.T) {
		t.Parallel()
		k := newBooks(t, b, "UTC")
		run, call := k.sent()
		k.received(call, 8, 4)
		k.owner(`insert into sluice.calls (tenant_id, id, run_id, ordinal, epoch, state, provider, model_asked, price_id, request_sha256, input_estimate, max_output_tokens)
			select tenant_id, $2, run_id, 2, 1, 'sent', provider, model_asked, price_id, '', 1, 1 from sluice.calls where tenant_id = $1`, k.tenant, tenants.NewID())
		k.owner(`update sluice.calls set state = 'failed' where tenant_id = $1 and ordinal = 2`, k.tenant)
		require.Equal(t, 1, adjust(k, db.Correction{CallID: call, Tokens: db.Tokens{InputUncached: 9, OutputVisible: 4}, CostPico: 9*echoInput + 4*echoOutput}))
		require.Equal(t, "29000000", k.text(`select cost_pico::text from sluice.runs where tenant_id = $1 and id = $2`, k.tenant, run))
		require.Empty(t, k.check())
	})
	t.Run("ACallUnderWayOrOfAnotherTenantIsNotFound", func(t *testing.T) {
		t.Parallel()
		k, other := newBooks(t, b, "UTC"), newBooks(t, b, "UTC")
		_, call := k.sent()
		require.ErrorIs(t, k.Worker.Tenant(t.Context(), k.tenant, func(tx db.TenantTx) error {
			_, err := tx.EntryAdjust(t.Context(), db.Correction{CallID: call})
			return err
		}), db.ErrNotFound)
		k.orphaned(call)
		require.ErrorIs(t, k.Worker.Tenant(t.Context(), other.tenant, func(tx db.TenantTx) error {
			_, err := tx.EntryAdjust(t.Context(), db.Correction{CallID: call})
			return err
		}), db.ErrNotFound)
	})
	t.Run("TwoAtOnceDoNotBookTwice", func(t *testing.T) {
		t.Parallel()
		k := newBooks(t, b, "UTC")
		_, call := k.sent()
		k.orphaned(call)
		const writers = 8
		faults := make(chan error, writers)
		for range writers {
			go func() {
				faults <- k.Worker.Tenant(t.Context(), k.tenant, func(tx db.TenantTx) error {
					_, err := tx.EntryAdjust(t.Context(), db.Correction{CallID: call, Tokens: db.Tokens{InputUncached: 1}, CostPico: echoInput})
					return err
				})
			}()
		}
		for range writers {
			require.NoError(t, <-faults)
		}
		require.Equal(t, "2", k.text(`select count(*)::text from sluice.ledger_entries where tenant_id = $1`, k.tenant))
		require.Empty(t, k.check())
	})
}

// TestLedgerCheckFindsWhatIsWrong breaks the books in every way that it says it finds, past all triggers, and wants that one difference named.
func TestLedgerCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	for _, c := range []struct {
		name, sql string
		kinds     []string
	}{
		{"Nothing", `select 1 where $1::uuid is null`, nil},
		{"BucketOfACall", `update sluice.calls set input_cache_read = 1 where tenant_id = $1 and state = 'orphaned'`, []string{"call"}},
		{"CostOfACall", `update sluice.calls set cost_pico = cost_pico + 1 where tenant_id = $1 and state = 'received' and cost_pico > 0`, []string{"call", "call.price", "run"}},
		{"EntryGone", `delete from sluice.ledger_entries where tenant_id = $1 and kind = 'charge' and at > now() - interval '1 hour'`, []string{"call", "budget.day", "budget.month"}},
		{"EntryOfAFailedCall", `update sluice.calls set state = 'failed' where tenant_id = $1 and state = 'received' and cost_pico > 0`, []string{"call"}},
		{
			"CallBookedTwice", `insert into sluice.ledger_entries select tenant_id, gen_random_uuid(), 'orphan', at, call_id, run_id, event_id, endpoint_id, automation_id, 1, provider,
			model_asked, model_served, price_id, 0, 0, 0, 0, 0, 0, 0 from sluice.ledger_entries where tenant_id = $1 and kind = 'charge' and at > now() - interval '1 hour'`,
			[]string{"call"},
		},
		{"AmountOfAnEntry", `update sluice.ledger_entries set amount_pico = amount_pico - 1 where tenant_id = $1 and kind = 'charge' and at > now() - interval '1 hour'`, []string{"call", "entry.price", "budget.day", "budget.month"}},
		{"EstimateBeyondTheWorst", `update sluice.ledger_entries set amount_pico = 175000001 where tenant_id = $1 and kind = 'orphan'`, []string{"call", "entry.price", "budget.day", "budget.month"}},
		{"TokensOfAnEntry", `update sluice.ledger_entries set output_reasoning = 1 where tenant_id = $1 and kind = 'charge' and at > now() - interval '1 hour'`, []string{"call", "entry.price", "budget.day"}},
		{"UnknownPrice", `update sluice.ledger_entries set price_id = -1 where tenant_id = $1 and kind = 'charge' and at > now() - interval '1 hour'`, []string{"entry.price"}},
		{"EntryOfNoCall", `update sluice.ledger_entries set call_id = id where tenant_id = $1 and kind = 'orphan'`, []string{"call", "entry.call"}},
		{"CostOfARun", `update sluice.runs set cost_pico = 1 where tenant_id = $1 and id = (select run_id from sluice.calls where tenant_id = $1 and state = 'sent')`, []string{"run"}},
		{"DayOfTheBudget", `update sluice.budgets set day_tokens = day_tokens + 1 where tenant_id = $1`, []string{"budget.day"}},
		{"MonthOfTheBudget", `update sluice.budgets set month_pico = month_pico + 1 where tenant_id = $1`, []string{"budget.month"}},
		{"Reserved", `update sluice.budgets set reserved_pico = reserved_pico + 1 where tenant_id = $1`, []string{"budget.reserved"}},
		{"ReservedForACallThatIsGone", `delete from sluice.calls where tenant_id = $1 and state = 'sent'`, []string{"budget.reserved"}},
		{"RollupOff", `update sluice.usage_rollups set output_visible = output_visible + 1 where tenant_id = $1`, []string{"rollup"}},
		{"RollupGone", `delete from sluice.usage_rollups where tenant_id = $1`, []string{"rollup"}},
		{"RollupOfNothing", `update sluice.usage_rollups set model_served = 'other' where tenant_id = $1`, []string{"rollup", "rollup"}},
		{"RollupBeyondItsEnd", `update sluice.usage_rolled set until = '-infinity' where tenant_id = $1`, []string{"rollup"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := newBooks(t, b, "Asia/Kolkata")
			_, received := k.sent()
			k.received(received, 8, 4)
			_, orphan := k.sent()
			k.orphaned(orphan)
			k.sent()
			// An old entry that is rolled up, of a call whose books are in order: it is corrected to nothing and posted long ago.
			k.worker(func(ctx context.Context, tx db.TenantTx) error {
				_, err := tx.EntryAdjust(ctx, db.Correction{CallID: received, Tokens: db.Tokens{InputUncached: 8, OutputVisible: 4}, CostPico: 28_000_000})
				return err
			})
			k.rolledPast()
			require.Empty(t, k.check())
			k.past(c.sql, k.tenant)
			var kinds []string
			for _, d := range k.check() {
				kinds = append(kinds, d.Kind)
				require.NotEqual(t, d.Expected, d.Found)
			}
			require.Equal(t, c.kinds, kinds)
		})
	}
	t.Run("TenantThatNeverWas", func(t *testing.T) {
		t.Parallel()
		alone := dbtest.New(t)
		one, two := newBooks(t, alone, "UTC"), newBooks(t, alone, "UTC")
		for _, k := range []books{one, two} {
			_, call := k.sent()
			k.received(call, 1, 1)
		}
		find := func() (found []db.Difference) {
			require.NoError(t, alone.DB.System(t.Context(), func(tx db.SystemTx) (err error) {
				found, err = tx.LedgerTenantsCheck(t.Context())
				return err
			}))
			return found
		}
		require.Empty(t, find())
		stranger := uuid.New()
		two.past(`update sluice.ledger_entries set tenant_id = $2 where tenant_id = $1`, two.tenant, stranger)
		found := find()
		require.Len(t, found, 1)
		require.Equal(t, stranger, found[0].Subject)
	})
	t.Run("AnErasedTenantHasItsLedgerAndNoDifference", func(t *testing.T) {
		t.Parallel()
		k := newBooks(t, b, "UTC")
		_, call := k.sent()
		k.received(call, 8, 4)
		k.rolledPast()
		before := k.usage(db.UsageBy{Model: true}, db.UsageFilter{}, "UTC")
		require.NoError(t, k.DB.System(t.Context(), func(tx db.SystemTx) error { return tx.TenantErase(t.Context(), k.tenant) }))
		require.Empty(t, k.check())
		require.Equal(t, before, k.usage(db.UsageBy{Model: true}, db.UsageFilter{}, "UTC"))
		require.NoError(t, k.Worker.UsageRebuild(t.Context(), k.tenant))
		require.Empty(t, k.check())
		require.Equal(t, before, k.usage(db.UsageBy{Model: true}, db.UsageFilter{}, "UTC"))
	})
}

// past writes as the superuser without any trigger: what no program of ours can do.
func (k books) past(sql string, args ...any) {
	k.t.Helper()
	tx, err := k.Owner.Begin(k.t.Context())
	require.NoError(k.t, err)
	_, err = tx.Exec(k.t.Context(), `set local session_replication_role = replica`)
	require.NoError(k.t, err)
	_, err = tx.Exec(k.t.Context(), sql, args...)
	require.NoError(k.t, err)
	require.NoError(k.t, tx.Commit(k.t.Context()))
}

// rolledPast has one entry of three hours ago, of a received call of its own, and sums it.
func (k books) rolledPast() {
	k.t.Helper()
	run, call := k.sent()
	k.past(`update sluice.calls set state = 'received', reserved_tokens = 0, reserved_pico = 0 where tenant_id = $1 and id = $2`, k.tenant, call)
	k.past(`update sluice.budgets set reserved_tokens = reserved_tokens - 110, reserved_pico = reserved_pico - $2 where tenant_id = $1`,
		k.tenant, 100*echoInput+10*echoOutput)
	k.past(`insert into sluice.ledger_entries select c.tenant_id, gen_random_uuid(), 'charge', now() - interval '3 hours', c.id, r.id, r.event_id, r.endpoint_id, r.automation_id, 1,
		c.provider, c.model_asked, 'echo-1', c.price_id, 0, 0, 0, 0, 0, 0, 0 from sluice.calls c join sluice.runs r on r.id = c.run_id where c.tenant_id = $1 and c.id = $2 and r.id = $3`,
		k.tenant, call, run)
	// The tenant's alone: other tests break theirs.
	require.NoError(k.t, k.Worker.UsageRebuild(k.t.Context(), k.tenant))
}
