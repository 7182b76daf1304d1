package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/scripted"
)

func TestBooksAreComparedCallByCall(t *testing.T) {
	t.Parallel()
	const id = "call_1"
	billed := scripted.ProviderEntry{RequestID: id, Billed: true, Usage: scripted.ProviderUsage{InputUncached: 6, InputCacheRead: 4, OutputVisible: 5}}
	refused := scripted.ProviderEntry{RequestID: id}
	book := func(kind string, input, output int64) map[string]booked {
		return map[string]booked{id: {kind, input, output}}
	}
	journal := func(entries ...scripted.ProviderEntry) []scripted.ProviderEntry { return entries }
	for name, c := range map[string]struct {
		ledger      map[string]booked
		journal     []scripted.ProviderEntry
		want        comparison
		differences int
	}{
		"a charge is equal to the token":                 {book(db.EntryCharge, 10, 5), journal(billed), comparison{charges: 1}, 0},
		"a charge of a token less differs":               {book(db.EntryCharge, 9, 5), journal(billed), comparison{}, 1},
		"a charge of a token more differs":               {book(db.EntryCharge, 10, 6), journal(billed), comparison{}, 1},
		"an orphan covers what was billed":               {book(db.EntryOrphan, 200, 100), journal(billed), comparison{orphans: 1}, 0},
		"an orphan below what was billed differs":        {book(db.EntryOrphan, 10, 4), journal(billed), comparison{}, 1},
		"an orphan may be of a call that was not billed": {book(db.EntryOrphan, 200, 100), journal(refused), comparison{orphans: 1}, 0},
		"an orphan may never have arrived":               {book(db.EntryOrphan, 200, 100), nil, comparison{unsent: 1}, 0},
		"a charge that never arrived differs":            {book(db.EntryCharge, 10, 5), nil, comparison{}, 1},
		"a call that was not billed needs no entry":      {map[string]booked{}, journal(refused), comparison{}, 0},
		"a billed call without an entry differs":         {map[string]booked{}, journal(billed), comparison{}, 1},
		"a call that was billed twice differs":           {book(db.EntryCharge, 10, 5), journal(billed, billed), comparison{charges: 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := compareBooks(c.ledger, c.journal)
			require.Len(t, got.differences, c.differences)
			got.differences = nil
			require.Equal(t, c.want, got)
		})
	}
}
