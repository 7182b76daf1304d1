package db_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"sluice/db"
	"sluice/db/dbtest"
	"sluice/tenants"
)

// plainBytes are the columns of bytes that are not sealed, each with its reason. Every other one has to be known to those who change keys.
var plainBytes = map[string]string{
	"audit_entries.changes":                  "a hash",
	"audit_entries.hash":                     "a hash",
	"audit_entries.prev":                     "a hash",
	"audit_heads.hash":                       "a hash",
	"automation_versions.behaviour":          "a hash",
	"calls.request_sha256":                   "a hash",
	"event_payloads.body":                    "what a source sent; it is the tenant's data, and no secret of ours",
	"event_payloads.document":                "what a source answered; it is the tenant's data, and no secret of ours",
	"events.body_sha256":                     "a hash",
	"idempotency_keys.request_hash":          "a hash",
	"keys.hash":                              "a hash",
	"operator_idempotency_keys.request_hash": "a hash",
	"operator_keys.hash":                     "a hash",
	// These two are under the master key itself.
	"operator_idempotency_keys.answer": "sealed; MasterKeyRotate has it",
	"tenant_keysets.wrapped":           "wrapped; MasterKeyRotate has it",
}

// TestEverySealedColumnIsKnownToTheKeys asks the catalogue: a new column of bytes is sealed anew with the others, or has a reason.
func TestEverySealedColumnIsKnownToTheKeys(t *testing.T) {
	t.Parallel()
	b := dbtest.New(t)
	rows, err := b.Owner.Query(t.Context(), `
		select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and a.atttypid = 'bytea'::regtype and a.attnum > 0
		  and not a.attisdropped`)
	require.NoError(t, err)
	var sealed []string
	for rows.Next() {
		var table, column string
		require.NoError(t, rows.Scan(&table, &column))
		if _, plain := plainBytes[table+"."+column]; !plain {
			sealed = append(sealed, table)
		}
	}
	require.NoError(t, rows.Err())
	require.ElementsMatch(t, db.SealedTables(), sealed)
}

// keyring is a house with several keys.
type keyring struct {
	*dbtest.Bundle

	t       *testing.T
	tenants []uuid.UUID
	kept    []kept
}

// kept is a secret and where it is.
type kept struct {
	tenant, credential uuid.UUID
	text               string
}

func newKeyring(t *testing.T, tenantsMade int) *keyring {
	t.Helper()
	k := &keyring{Bundle: dbtest.New(t), t: t}
	for range tenantsMade {
		k.tenant(k.DB)
	}
	return k
}

// tenant makes a tenant with something in every sealed column.
func (k *keyring) tenant(d *db.DB) uuid.UUID {
	k.t.Helper()
	ctx := k.t.Context()
	var id uuid.UUID
	require.NoError(k.t, d.System(ctx, func(tx db.SystemTx) error {
		_, err := tx.Once(ctx, "make-"+uuid.NewString(), []byte("x"), func() (uuid.UUID, []byte, error) {
			made, err := tx.TenantInsert(ctx, "keys", "UTC")
			id = made.TenantID
			return id, []byte("the first key"), err
		})
		return err
	}))
	text := "secret-of-" + id.String()
	require.NoError(k.t, d.Tenant(ctx, id, func(tx db.TenantTx) error {
		c, err := tx.CredentialInsert(ctx, "c", "callback", tenants.NewSecret(text))
		if err != nil {
			return err
		}
		k.kept = append(k.kept, kept{id, c.ID, text})
		e, err := tx.EndpointInsert(ctx, "e", "standard", []byte(`{}`))
		if err != nil {
			return err
		}
		if _, err := tx.EndpointSecretInsert(ctx, e.ID, tenants.NewSecret(text)); err != nil {
			return err
		}
		if _, err := tx.AlertChannelInsert(ctx, db.AlertChannel{Name: "a", Kind: db.ChannelWebhook}, db.AlertAddress{Secret: tenants.NewSecret(text)}); err != nil {
			return err
		}
		_, err = tx.Once(ctx, "once", []byte("x"), func() ([]byte, error) { return []byte(text), nil })
		return err
	}))
	k.tenants = append(k.tenants, id)
	return id
}

// with is the database under other keys.
func (k *keyring) with(keys ...[]byte) *db.DB {
	k.t.Helper()
	sealer, err := db.NewSealer(keys[0], keys[1:]...)
	require.NoError(k.t, err)
	return db.New(db.Pools{App: k.App, System: k.System, Door: k.Door}, sealer)
}

// opens says how many of the kept secrets come back as they were.
func (k *keyring) opens(d *db.DB) int {
	k.t.Helper()
	n := 0
	for _, one := range k.kept {
		var secret tenants.Secret
		err := d.Tenant(k.t.Context(), one.tenant, func(tx db.TenantTx) (err error) {
			secret, err = tx.CredentialSecret(k.t.Context(), one.credential)
			return err
		})
		if err == nil {
			require.Equal(k.t, one.text, secret.Reveal())
			n++
		}
	}
	return n
}

func (k *keyring) check(d *db.DB) db.KeysReport {
	k.t.Helper()
	r, err := d.KeysCheck(k.t.Context())
	require.NoError(k.t, err)
	return r
}

var keyB, keyC = []byte("BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"), []byte("CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC")

func TestAfterAChangeOfTheMasterKeyTheOldOneOpensNothing(t *testing.T) {
	t.Parallel()
	k := newKeyring(t, 3)
	old, both, alone := k.DB, k.with(keyB, k.MasterKey), k.with(keyB)
	require.Equal(t, 3, k.opens(both), "the old key still opens")
	require.Zero(t, k.opens(alone))
	require.Equal(t, 3+3, k.check(both).Old())

	done, err := both.MasterKeyRotate(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, db.Rewrapped{Keysets: 3, Answers: 3}, done)
	require.Equal(t, 3, k.opens(alone))
	require.Zero(t, k.opens(old), "the old key is dead")
	require.Zero(t, k.opens(k.with(keyC, k.MasterKey)))
	after := k.check(alone)
	require.Zero(t, after.Old())
	require.Empty(t, after.Unreadable)
	require.Equal(t, map[string]int{"credentials": 3, "endpoint_secrets": 3, "alert_channels": 3, "idempotency_keys": 3}, after.Sealed)

	// Again it finds nothing to do, until a process that was not told makes another tenant under the old key.
	done, err = both.MasterKeyRotate(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, db.Rewrapped{}, done)
	k.tenant(old)
	require.Len(t, k.check(alone).Unreadable, 2, "told by name, not passed over")
	done, err = both.MasterKeyRotate(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, db.Rewrapped{Keysets: 1, Answers: 1}, done)
	require.Equal(t, 4, k.opens(alone))

	// What is stored beside a data key counts without any key.
	var marks []string
	require.NoError(t, k.Owner.QueryRow(t.Context(), `select array_agg(distinct master_mark) from sluice.tenant_keysets`).Scan(&marks))
	require.Equal(t, []string{after.Mark}, marks)
}

func TestWhatIsUnderNoKnownKeyIsNamedAndLeftAsItIs(t *testing.T) {
	t.Parallel()
	k := newKeyring(t, 2)
	done, err := k.with(keyB).MasterKeyRotate(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, done.Unreadable, 4)
	require.Zero(t, done.Keysets+done.Answers)
	require.Equal(t, 2, k.opens(k.DB))
}

func TestAfterAChangeOfTheDataKeyACopiedCiphertextIsDead(t *testing.T) {
	t.Parallel()
	k := newKeyring(t, 2)
	var copied []byte
	require.NoError(t, k.Owner.QueryRow(t.Context(), `select sealed from sluice.credentials where id = $1`, k.kept[0].credential).Scan(&copied))
	n, err := k.DB.DataKeyRotate(t.Context(), k.tenants[0])
	require.NoError(t, err)
	require.Equal(t, len(db.SealedTables()), n)
	require.Equal(t, 2, k.opens(k.DB))
	report := k.check(k.DB)
	require.Empty(t, report.Unreadable)
	require.Zero(t, report.Aged)
	_, err = k.Owner.Exec(t.Context(), `update sluice.credentials set sealed = $1 where id = $2`, copied, k.kept[0].credential)
	require.NoError(t, err)
	require.Equal(t, 1, k.opens(k.DB), "put back, it does not open")
	require.Len(t, k.check(k.DB).Unreadable, 1)
	// What does not open keeps its old key from being taken away.
	_, err = k.DB.DataKeyRotate(t.Context(), k.tenants[0])
	require.ErrorContains(t, err, "credentials")
}

// TestSecretsAreMadeWhileKeysChange is the race: tenants write and read while both keys are changed again and again, half of the processes with the
// master keys in the other order. Nothing is lost, and no read fails even for a moment.
func TestSecretsAreMadeWhileKeysChange(t *testing.T) {
	t.Parallel()
	const writers, rounds = 4, 2
	k := newKeyring(t, 2)
	orders := []*db.DB{k.with(k.MasterKey, keyB), k.with(keyB, k.MasterKey)}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	var faults []error
	fault := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		faults = append(faults, err)
	}
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			d, one, last := orders[i%2], k.kept[i%len(k.kept)], ""
			var mine uuid.UUID
			for n := 0; ctx.Err() == nil; n++ {
				text := fmt.Sprintf("%d-%d", i, n)
				err := d.Tenant(t.Context(), one.tenant, func(tx db.TenantTx) error {
					if mine == uuid.Nil {
						c, err := tx.CredentialInsert(t.Context(), text, "callback", tenants.NewSecret(text))
						mine, last = c.ID, text
						return err
					}
					if rand.IntN(8) > 0 {
						last = text
						_, err := tx.CredentialUpdate(t.Context(), mine, db.CredentialChange{Secret: tenants.NewSecret(text)}, 0)
						return err
					}
					answer, err := tx.Once(t.Context(), text, []byte("x"), func() ([]byte, error) { return []byte(text), nil })
					if err == nil && string(answer) != text {
						return errors.New("another answer")
					}
					return err
				})
				if err != nil {
					fault(fmt.Errorf("write: %w", err))
				}
				err = d.Tenant(t.Context(), one.tenant, func(tx db.TenantTx) error {
					secret, err := tx.CredentialSecret(t.Context(), mine)
					if err == nil && secret.Reveal() != last {
						return fmt.Errorf("read %s, wrote %s", secret.Reveal(), last)
					}
					return err
				})
				if err != nil {
					fault(fmt.Errorf("read: %w", err))
				}
			}
		})
	}
	for round := range rounds {
		d := orders[round%2]
		_, err := d.MasterKeyRotate(t.Context(), nil)
		require.NoError(t, err)
		for _, id := range k.tenants {
			// Two at once: each goes on with what the other has begun.
			var changing sync.WaitGroup
			for _, by := range orders {
				changing.Go(func() {
					if _, err := by.DataKeyRotate(t.Context(), id); err != nil && !errors.Is(err, db.ErrStale) {
						fault(err)
					}
				})
			}
			changing.Wait()
		}
	}
	stop()
	writing.Wait()
	require.Empty(t, faults)
	_, err := orders[1].MasterKeyRotate(t.Context(), nil)
	require.NoError(t, err)
	for _, id := range k.tenants {
		_, err := orders[1].DataKeyRotate(t.Context(), id)
		require.NoError(t, err)
	}
	report := k.check(k.with(keyB))
	require.Empty(t, report.Unreadable)
	require.Zero(t, report.Old()+report.Aged)
	require.Greater(t, report.Sealed["idempotency_keys"], len(k.tenants))
}

// TestAChangeWaitsForThoseWhoSeal holds a transaction open that has sealed: the new data key comes after it, and finds what it wrote.
func TestAChangeWaitsForThoseWhoSeal(t *testing.T) {
	t.Parallel()
	k := newKeyring(t, 1)
	sealed, ending, changed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	end := sync.OnceFunc(func() { close(ending) })
	t.Cleanup(end) // also where the test fails, or the transaction would hold the database
	writing := make(chan error, 1)
	go func() {
		writing <- k.DB.Tenant(t.Context(), k.tenants[0], func(tx db.TenantTx) error {
			c, err := tx.CredentialInsert(t.Context(), "late", "callback", tenants.NewSecret("late"))
			k.kept = append(k.kept, kept{k.tenants[0], c.ID, "late"})
			close(sealed)
			<-ending
			return err
		})
	}()
	<-sealed
	go func() {
		_, err := k.DB.DataKeyRotate(t.Context(), k.tenants[0])
		changed <- err
	}()
	require.Eventually(t, func() bool {
		var waiting int
		require.NoError(t, k.Owner.QueryRow(t.Context(), `
			select count(*) from pg_locks where locktype = 'advisory' and not granted
			  and database = (select oid from pg_database where datname = current_database())`).Scan(&waiting))
		return waiting == 1
	}, 20*time.Second, 5*time.Millisecond)
	end()
	require.NoError(t, <-writing)
	require.NoError(t, <-changed)
	require.Equal(t, 2, k.opens(k.DB))
	require.Zero(t, k.check(k.DB).Aged)
}

// between runs a function before the first statement that reads a data key.
type between struct {
	once sync.Once
	do   func()
}

// TraceQueryStart is part of pgx.QueryTracer.
func (b *between) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(q.SQL, "select wrapped from sluice.tenant_keysets") {
		b.once.Do(b.do)
	}
	return ctx
}

// TraceQueryEnd is part of pgx.QueryTracer.
func (*between) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestAReadAcrossAChangeFindsTheSecret changes the data key between the statement that reads a secret and the one that reads its key.
func TestAReadAcrossAChangeFindsTheSecret(t *testing.T) {
	t.Parallel()
	k := newKeyring(t, 1)
	changed := 0
	pool, err := db.Open(t.Context(), db.PoolConfig{URL: k.URL, Role: db.AppRole, ConnsMax: 1, Tracer: &between{do: func() {
		var err error
		changed, err = k.DB.DataKeyRotate(t.Context(), k.tenants[0])
		require.NoError(t, err)
	}}})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	sealer, err := db.NewSealer(k.MasterKey)
	require.NoError(t, err)
	require.Equal(t, 1, k.opens(db.New(db.Pools{App: pool, System: k.System}, sealer)))
	require.Equal(t, len(db.SealedTables()), changed)
}

func TestSealersTellTheirKeysApart(t *testing.T) {
	t.Parallel()
	a, err := db.NewSealer(keyB, keyC)
	require.NoError(t, err)
	b, err := db.NewSealer(keyC, keyB)
	require.NoError(t, err)
	require.NotEqual(t, a.Mark(), b.Mark())
	require.Regexp(t, `^[0-9a-f]{8}$`, a.Mark())
	_, err = db.NewSealer(keyB, []byte("short"))
	require.Error(t, err)
}
