package db_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

func TestRunsAreFoundByWhatIsAsked(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p, other := plant(t, b, "one"), plant(t, b, "other")
	var ids []uuid.UUID
	for i := range 6 {
		e := eventNew(fmt.Sprint("e", i), fmt.Sprint("body", i))
		e.Type, e.Entity = []string{"a", "b"}[i%2], fmt.Sprint("issue:", i%3)
		e.Runs = []db.RunNew{{ID: tenants.NewID(), AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}}
		ids = append(ids, e.Runs[0].ID)
		admit(t, b.DB, delivered(p, `{}`, e))
	}
	// Two are dead, of reasons with the same beginning but for a letter that stands for any other in LIKE.
	for i, reason := range []string{"action.failed", "action_odd"} {
		require.NoError(t, b.DB.Tenant(t.Context(), p.tenant, func(tx db.TenantTx) error { return tx.RunGiveUp(t.Context(), ids[i], reason, "x") }))
	}
	later, earlier := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	for name, c := range map[string]struct {
		filter db.RunFilter
		want   []uuid.UUID
	}{
		"everything":      {db.RunFilter{}, append([]uuid.UUID{p.run}, ids...)},
		"type":            {db.RunFilter{Type: "b"}, []uuid.UUID{ids[1], ids[3], ids[5]}},
		"entity":          {db.RunFilter{Entity: "issue:1"}, []uuid.UUID{ids[1], ids[4]}},
		"type and entity": {db.RunFilter{Type: "a", Entity: "issue:1"}, []uuid.UUID{ids[4]}},
		"status":          {db.RunFilter{Status: "dead"}, ids[:2]},
		"open":            {db.RunFilter{Open: true}, append([]uuid.UUID{p.run}, ids[2:]...)},
		"whole reason":    {db.RunFilter{Reason: "action.failed"}, ids[:1]},
		"no such reason":  {db.RunFilter{Reason: "action."}, nil},
		"beginning":       {db.RunFilter{Reason: "action.f*"}, ids[:1]},
		"no pattern":      {db.RunFilter{Reason: "action_*"}, ids[1:2]},
		"ids":             {db.RunFilter{IDs: []uuid.UUID{ids[3], ids[2], other.run}}, ids[2:4]},
		"no ids":          {db.RunFilter{IDs: []uuid.UUID{}}, nil},
		"after":           {db.RunFilter{After: ids[3]}, ids[4:]},
		"since later":     {db.RunFilter{Since: &later}, nil},
		"until earlier":   {db.RunFilter{Until: &earlier}, nil},
		"endpoint":        {db.RunFilter{EndpointID: &other.endpoint}, nil},
		"within":          {db.RunFilter{Since: &earlier, Until: &later, EndpointID: &p.endpoint}, append([]uuid.UUID{p.run}, ids...)},
	} {
		require.NoError(t, b.DB.Tenant(t.Context(), p.tenant, func(tx db.TenantTx) error {
			found, matched, err := tx.RunFind(t.Context(), c.filter, 100)
			require.NoError(t, err, name)
			var got []uuid.UUID
			for _, r := range found {
				got = append(got, r.ID)
			}
			require.Equal(t, c.want, got, name)
			require.EqualValues(t, len(c.want), matched, name)
			listed, err := tx.RunList(t.Context(), c.filter, db.Page{Limit: 100})
			require.NoError(t, err, name)
			require.Len(t, listed, len(c.want), name)
			counts, err := tx.RunCounts(t.Context(), c.filter, 1)
			require.NoError(t, err, name)
			if len(c.want) > 0 {
				require.EqualValues(t, len(c.want), counts[0].Total, name)
			}
			if len(c.want) > 1 {
				found, matched, err = tx.RunFind(t.Context(), c.filter, 1)
				require.NoError(t, err)
				require.Equal(t, c.want[0], found[0].ID, name)
				require.EqualValues(t, len(c.want), matched, name)
			}
			return nil
		}))
	}
}
