package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/jobs/llm"
	"sluice/scripted"
	"sluice/tenants"
)

// booked is what the ledger says of one call.
type booked struct {
	kind          string
	input, output int64
}

// differencesShown bounds what is printed of differences; all are counted.
const differencesShown = 20

// booksBeside compares the ledger with the provider's journal, and prints what came of it.
func booksBeside(ctx context.Context, owner *pgxpool.Pool, provider *scripted.Provider, out io.Writer) (differences int, err error) {
	ledger, err := booksOf(ctx, owner)
	if err != nil {
		return 0, err
	}
	journal := provider.Journal()
	if len(journal) < provider.Total() {
		return 0, fmt.Errorf("compare the books: the journal has %d calls, and keeps %d", provider.Total(), len(journal))
	}
	c := compareBooks(ledger, journal)
	for _, difference := range c.differences[:min(len(c.differences), differencesShown)] {
		fmt.Fprintln(out, difference)
	}
	fmt.Fprintf(out, "ledger beside the provider's journal of %d calls: %d charges equal to the token, %d orphans at or above what was billed, %d orphans that never arrived; differences %d\n",
		len(journal), c.charges, c.orphans, c.unsent, len(c.differences))
	return len(c.differences), nil
}

// comparison is what came of comparing the books.
type comparison struct {
	charges, orphans, unsent int
	differences              []string
}

// compareBooks goes through the journal call by call: a charge is equal to the token, an orphan covers what was billed. It uses the ledger up.
func compareBooks(ledger map[string]booked, journal []scripted.ProviderEntry) (c comparison) {
	differ := func(format string, args ...any) { c.differences = append(c.differences, fmt.Sprintf(format, args...)) }
	for _, entry := range journal {
		e, ok := ledger[entry.RequestID]
		// A call that reached the provider twice finds no entry the second time.
		delete(ledger, entry.RequestID)
		u := llm.Usage(entry.Usage)
		input, output := u.InputTotal(), u.OutputTotal()
		switch {
		case !ok && !entry.Billed:
		case !ok:
			differ("the provider billed %s, and the ledger has no entry for that", entry.RequestID)
		case e.kind == db.EntryOrphan && e.input >= input && e.output >= output:
			c.orphans++
		case e.kind != db.EntryOrphan && e.input == input && e.output == output:
			c.charges++
		default:
			differ("%s is booked as %s of %d and %d tokens, and billed as %d and %d", entry.RequestID, e.kind, e.input, e.output, input, output)
		}
	}
	for id, e := range ledger {
		if e.kind == db.EntryOrphan {
			c.unsent++
		} else {
			differ("%s is booked as %s, and never reached the provider", id, e.kind)
		}
	}
	return c
}

// booksOf reads the ledger's calls by the id that the provider is told.
func booksOf(ctx context.Context, owner *pgxpool.Pool) (map[string]booked, error) {
	rows, err := owner.Query(ctx, `select call_id, max(kind), sum(input_uncached + input_cache_read + input_cache_write_5m + input_cache_write_1h)::bigint,
		sum(output_visible + output_reasoning)::bigint from sluice.ledger_entries group by 1`)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	ledger := map[string]booked{}
	var id [16]byte
	var e booked
	_, err = pgx.ForEachRow(rows, []any{&id, &e.kind, &e.input, &e.output}, func() error {
		ledger[tenants.FormatID(tenants.CallPrefix, id)] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return ledger, nil
}
