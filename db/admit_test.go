package db_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

func TestEventIsKeptOnce(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	insert := func(e db.EventNew) (holder uuid.UUID, duplicate bool) {
		holder = admit(t, b.DB, delivered(p, `{}`, e))[0][0]
		return holder, holder != e.ID
	}
	original := eventNew("evt_1", "body-1")
	first, duplicate := insert(original)
	require.Equal(t, original.ID, first)
	require.False(t, duplicate)
	for name, again := range map[string]db.EventNew{
		"SameID": eventNew("evt_1", ""), "SameBodyUnderAFreshID": eventNew("evt_2", "body-1"), "SameIDOverAnotherBody": eventNew("evt_1", "body-2"),
	} {
		first, duplicate = insert(again)
		require.True(t, duplicate, name)
		require.Equal(t, original.ID, first, name)
	}
	// The fresh id of a replayed body was not taken: the event that it truly belongs to can still come.
	_, duplicate = insert(eventNew("evt_2", "body-3"))
	require.False(t, duplicate)
	// The body that came under the first one's id belongs to it.
	first, duplicate = insert(eventNew("evt_4", "body-2"))
	require.True(t, duplicate)
	require.Equal(t, original.ID, first)
}

func TestBatchHoldsItsOwnDuplicates(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, two := plant(t, b, "one"), plant(t, b, "two")
	first, again, other := eventNew("evt_1", "body-1"), eventNew("evt_1", "body-1"), eventNew("evt_1", "body-1")
	replay := eventNew("evt_9", "body-1")
	held := admit(t, b.DB, delivered(one, `{}`, first), delivered(one, `{}`, again), delivered(two, `{}`, other), delivered(one, `{}`, replay))
	require.Equal(t, [][]uuid.UUID{{first.ID}, {first.ID}, {other.ID}, {first.ID}}, held, "another tenant's event is its own")
}

func TestEventsThatComeAtOnceFromManySidesAreKeptOnce(t *testing.T) {
	t.Parallel()
	for name, once := range map[string]string{"OneKey": "", "TwoKeys": "body of "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := dbtest.New(t)
			p := plant(t, b, "one")
			const senders, events = 8, 600 // so many that the batches overlap
			holders := make([][]uuid.UUID, senders)
			var group sync.WaitGroup
			for i := range senders {
				group.Go(func() {
					batch := make([]db.EventNew, events)
					for j := range batch {
						id := fmt.Sprintf("evt_%03d", j)
						body := ""
						if once != "" {
							body = once + id
						}
						batch[j] = eventNew(id, body)
					}
					// In turned order, so that batches would wait for each other in a circle if they did not take the keys in one.
					if i%2 == 1 {
						slices.Reverse(batch)
					}
					held := admit(t, b.DB, delivered(p, `{}`, batch...))[0]
					if i%2 == 1 {
						slices.Reverse(held)
					}
					holders[i] = held
				})
			}
			group.Wait()
			for _, held := range holders {
				require.Equal(t, holders[0], held)
			}
			var kept int
			require.NoError(t, b.Owner.QueryRow(t.Context(), `select count(*) from sluice.events where source_event_id like 'evt_%'`).Scan(&kept))
			require.Equal(t, events, kept)
		})
	}
}

// One delivery with several events keeps its bytes once, in the first event that is new, and every event finds them.
func TestDeliveryOfManyEventsKeepsItsBytesOnce(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	known := eventNew("item-0", "")
	admit(t, b.DB, delivered(p, `{"n":0}`, known))
	items := []db.EventNew{eventNew("item-0", ""), eventNew("item-1", ""), eventNew("item-2", "")}
	for i := range items {
		items[i].Document = []byte(`{"n":` + strconv.Itoa(i) + `}`)
	}
	held := admit(t, b.DB, delivered(p, `[0,1,2]`, items...))[0]
	require.Equal(t, []uuid.UUID{known.ID, items[1].ID, items[2].ID}, held)
	var bytesKept int
	require.NoError(t, b.Owner.QueryRow(t.Context(), `select count(*) from sluice.event_payloads where body = '[0,1,2]'`).Scan(&bytesKept))
	require.Equal(t, 1, bytesKept)
	require.NoError(t, b.DB.Tenant(t.Context(), p.tenant, func(tx db.TenantTx) error {
		for i, item := range items[1:] {
			payload, err := tx.EventPayload(t.Context(), item.ID)
			require.NoError(t, err)
			require.Equal(t, `[0,1,2]`, string(payload.Body))
			require.JSONEq(t, `{"n":`+strconv.Itoa(i+1)+`}`, string(payload.Document))
		}
		return nil
	}))
}

func TestRunsOfADuplicateAreNotMade(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	number := int64(7)
	with := func(id string, occurred *time.Time, sequence *int64) db.EventNew {
		e := eventNew(id, "")
		e.Entity, e.OccurredAt, e.Sequence = "issue:1", occurred, sequence
		e.Runs = []db.RunNew{{ID: tenants.NewID(), AutomationID: p.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderLatest}}
		return e
	}
	timed, numbered, bare, again := with("timed", &at, &number), with("numbered", nil, &number), with("bare", nil, nil), with("timed", &at, nil)
	admit(t, b.DB, delivered(p, `{}`, timed), delivered(p, `{}`, numbered), delivered(p, `{}`, bare), delivered(p, `{}`, again))
	require.NoError(t, b.DB.Tenant(t.Context(), p.tenant, func(tx db.TenantTx) error {
		for _, c := range []struct {
			event    db.EventNew
			at       time.Time
			sequence int64
		}{{timed, at, 7}, {numbered, time.Unix(0, 0), 7}, {bare, time.Now(), 0}} {
			r, err := tx.RunGet(t.Context(), c.event.Runs[0].ID)
			require.NoError(t, err)
			require.Equal(t, db.RunQueued, r.Status)
			require.Equal(t, "issue:1", r.Entity)
			require.Equal(t, db.OrderLatest, r.Ordering)
			require.Equal(t, c.sequence, r.OrderSequence)
			require.WithinDuration(t, c.at, r.OrderedAt, time.Minute)
			history, err := tx.RunHistory(t.Context(), c.event.ID)
			require.NoError(t, err)
			require.Len(t, history, 1)
			require.Equal(t, db.RunQueued, history[0].Status)
		}
		_, err := tx.RunGet(t.Context(), again.Runs[0].ID)
		require.ErrorIs(t, err, db.ErrNotFound)
		return nil
	}))
}

// A duplicate costs a look, not a write: no transaction id is assigned, so nothing is flushed.
func TestDuplicateWritesNothing(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	first := eventNew("evt_1", "body-1")
	admit(t, b.DB, delivered(p, `{}`, first))
	require.NoError(t, b.DB.Door(t.Context(), func(tx db.DoorTx) error {
		held, err := tx.Admit(t.Context(), []*db.Delivery{delivered(p, `{}`, eventNew("evt_1", "body-1"))})
		require.NoError(t, err)
		require.Equal(t, first.ID, held[0][0].Holder)
		var xid *string
		require.NoError(t, tx.Pgx().QueryRow(t.Context(), `select pg_current_xact_id_if_assigned()::text`).Scan(&xid))
		require.Nil(t, xid)
		return nil
	}))
}

func TestNoForeignEndpointCanBeAdmittedTo(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	one, two := plant(t, b, "one"), plant(t, b, "two")
	crossed := delivered(one, `{}`, eventNew("evt_crossed", ""))
	crossed.EndpointID = two.endpoint
	e := eventNew("evt_run", "")
	e.Runs = []db.RunNew{{ID: tenants.NewID(), AutomationID: two.automation, AutomationVersion: 1, Mode: "live", Priority: "routine", Ordering: db.OrderNone}}
	for name, d := range map[string]*db.Delivery{"Endpoint": crossed, "Automation": delivered(one, `{}`, e)} {
		err := b.DB.Door(t.Context(), func(tx db.DoorTx) error {
			_, err := tx.Admit(t.Context(), []*db.Delivery{d})
			return err
		})
		require.Error(t, err, name)
	}
}

// The door's role can do nothing but what it is for.
func TestDoorReadsNothing(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	plant(t, b, "one")
	for _, sql := range []string{
		`select count(*) from sluice.events`, `select count(*) from sluice.event_keys`, `select count(*) from sluice.endpoints`,
		`select count(*) from sluice.event_payloads`, `select count(*) from river.river_job`, `delete from sluice.events`,
		`insert into sluice.event_keys (tenant_id, endpoint_id, kind, key, event_id) values (gen_random_uuid(), gen_random_uuid(), 'id', 'x', gen_random_uuid())`,
	} {
		_, err := b.Door.Exec(t.Context(), sql)
		require.ErrorContains(t, err, "permission denied", sql)
	}
}

func TestPayloadPartitionsComeAndGo(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	p := plant(t, b, "one")
	today := eventNew("today", "")
	longAgo := eventNew("long ago", "")
	longAgo.ID = uuid.MustParse("01700000-0000-7000-8000-000000000001") // of 2019: no partition is that old
	admit(t, b.DB, delivered(p, `"today"`, today), delivered(p, `"long ago"`, longAgo))
	count := func(sql string) (n int) {
		require.NoError(t, b.Owner.QueryRow(t.Context(), sql).Scan(&n))
		return n
	}
	require.Equal(t, 1, count(`select count(*) from sluice.event_payloads_default`))
	keep := func(retention time.Duration) db.Partitions {
		var out db.Partitions
		require.NoError(t, b.DB.System(t.Context(), func(tx db.SystemTx) (err error) {
			out, err = tx.PayloadPartitions(t.Context(), retention)
			return err
		}))
		return out
	}
	made := keep(24 * time.Hour)
	require.Zero(t, made.Dropped)
	require.Equal(t, 0, count(`select count(*) from sluice.event_payloads_default`), "what is older than the retention goes from the default partition too")
	partition := fmt.Sprintf("event_payloads_%s", time.Now().UTC().AddDate(0, 0, -3).Format("20060102"))
	_, err := b.Owner.Exec(t.Context(), fmt.Sprintf(`create table sluice.%s partition of sluice.event_payloads
		for values from ('00000000-0000-0000-0000-000000000001') to ('00000000-0000-0000-0000-000000000002')`, partition))
	require.NoError(t, err)
	_, err = b.Owner.Exec(t.Context(), fmt.Sprintf(`alter table sluice.%s owner to sluice_owner`, partition))
	require.NoError(t, err)
	require.Zero(t, keep(3*24*time.Hour).Dropped, "it is of this retention")
	require.Equal(t, 1, keep(24*time.Hour).Dropped)
	require.Equal(t, db.Partitions{}, keep(24*time.Hour), "nothing is left to do")
	require.NoError(t, b.DB.Tenant(t.Context(), p.tenant, func(tx db.TenantTx) error {
		payload, err := tx.EventPayload(t.Context(), today.ID)
		require.NoError(t, err)
		require.JSONEq(t, `"today"`, string(payload.Body))
		return nil
	}))
}
