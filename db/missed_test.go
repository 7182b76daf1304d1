package db_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
)

func TestMissedHooksArePagedTenantByTenant(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	ctx := t.Context()
	want := map[uuid.UUID]uuid.UUID{}
	var tenant uuid.UUID
	for range 3 {
		p := plant(t, b, "one")
		tenant = p.tenant
		for range 3 {
			require.NoError(t, b.DB.Tenant(ctx, p.tenant, func(tx db.TenantTx) error {
				e, err := tx.EndpointInsert(ctx, "in", "github", []byte(`{"redeliver_hook":"https://api.github.com/app/hook","redeliver_credential_id":"crd_1"}`))
				want[e.ID] = p.tenant
				return err
			}))
		}
	}
	got := map[uuid.UUID]uuid.UUID{}
	var order []uuid.UUID
	for after := (db.MissedHook{}); ; {
		var page []db.MissedHook
		require.NoError(t, b.DB.System(ctx, func(tx db.SystemTx) (err error) {
			page, err = tx.MissedHooks(ctx, after, 2)
			return err
		}))
		for _, h := range page {
			got[h.EndpointID] = h.TenantID
			order = append(order, h.TenantID)
			after = h
		}
		if len(page) < 2 {
			break
		}
	}
	require.Equal(t, want, got)
	require.Len(t, order, 9)
	for i := range order[2:] {
		require.False(t, order[i] == order[i+2] && order[i] != order[i+1], "those of a tenant stand together")
	}
	// Nobody notes anything of an endpoint that is not his.
	for endpoint, of := range want {
		if of == tenant {
			continue
		}
		require.ErrorIs(t, b.DB.Tenant(ctx, tenant, func(tx db.TenantTx) error {
			_, err := tx.MissedEventsAdd(ctx, endpoint, []db.MissedEvent{{SourceEventID: "a", Delivery: "1", SentAt: time.Now()}})
			return err
		}), db.ErrConflict)
		require.ErrorIs(t, b.DB.Tenant(ctx, tenant, func(tx db.TenantTx) error {
			_, err := tx.MissedClaim(ctx, endpoint, time.Minute)
			return err
		}), db.ErrConflict)
	}
}
