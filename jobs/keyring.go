package jobs

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"sluice/db"
	"sluice/jobs/llm"
	"sluice/tenants"
)

// heldMax bounds what is held in memory for a moment; past it, all is forgotten and read again.
const heldMax = 10_000

// moment holds what each run needs for a moment, so that it is not read for each.
type moment[K comparable, V any] struct {
	age time.Duration
	now func() time.Time

	mu   sync.Mutex
	held map[K]dated[V]
}

type dated[V any] struct {
	value V
	until time.Time
}

func newMoment[K comparable, V any](age time.Duration, now func() time.Time) *moment[K, V] {
	return &moment[K, V]{age: age, now: now, held: map[K]dated[V]{}}
}

// get is what is held under a name, or what read reads. An error is not held.
func (m *moment[K, V]) get(name K, read func() (V, error)) (V, error) {
	now := m.now()
	m.mu.Lock()
	held, ok := m.held[name]
	m.mu.Unlock()
	if ok && held.until.After(now) {
		return held.value, nil
	}
	value, err := read()
	if err != nil {
		return value, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.held) >= heldMax {
		clear(m.held)
	}
	m.held[name] = dated[V]{value, now.Add(m.age)}
	return value, nil
}

// drop lets what is held under a name be read anew.
func (m *moment[K, V]) drop(name K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, name)
}

// forget lets everything be read anew.
func (m *moment[K, V]) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.held)
}

// keyringAge is how long a key is held in memory: a rotation, a deletion, a pause by another worker is seen within it.
const keyringAge = 2 * time.Second

// keyring finds the keys to call providers with.
type keyring struct {
	db       *db.DB
	operator map[string]tenants.Secret
	held     *moment[keyName, heldKey]
}

type keyName struct {
	tenantID        uuid.UUID
	provider, named string
}

// heldKey is a key to call a provider with.
type heldKey struct {
	secret       tenants.Secret // empty where there is none
	credentialID *uuid.UUID     // nil for the operator's
	owner        string
	paused       string // why it is not to be used for now, "" where it may
}

func newKeyring(d *db.DB, operator map[string]tenants.Secret, now func() time.Time) *keyring {
	return &keyring{db: d, operator: operator, held: newMoment[keyName, heldKey](keyringAge, now)}
}

// find finds the key of a tenant for a provider: the credential that the automation names, if it is of that provider, else the tenant's newest of
// that kind, else the operator's. A named one that was deleted is not replaced by another: somebody else would pay.
func (k *keyring) find(ctx context.Context, tenantID uuid.UUID, provider, named string) (heldKey, error) {
	return k.held.get(keyName{tenantID, provider, named}, func() (held heldKey, err error) {
		err = k.db.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
			held, err = k.read(ctx, tx, provider, named)
			return err
		})
		return held, err
	})
}

func (k *keyring) read(ctx context.Context, tx db.TenantTx, provider, named string) (heldKey, error) {
	var credential db.Credential
	err := db.ErrNotFound
	if id, ok := tenants.ParseID(tenants.CredentialPrefix, named); ok {
		if credential, err = tx.CredentialGet(ctx, id); errors.Is(err, db.ErrNotFound) {
			return heldKey{}, nil
		}
		if err == nil && credential.Kind != provider {
			err = db.ErrNotFound // it is the automation's own model's, and this is another provider
		}
	}
	if errors.Is(err, db.ErrNotFound) {
		credential, err = tx.CredentialOfKind(ctx, provider)
	}
	if errors.Is(err, db.ErrNotFound) {
		return heldKey{secret: k.operator[provider], owner: llm.OwnerOperator}, nil
	} else if err != nil {
		return heldKey{}, err
	}
	secret, err := tx.CredentialSecret(ctx, credential.ID)
	held := heldKey{secret: secret, credentialID: &credential.ID, owner: credential.ID.String()}
	if credential.PausedAt != nil {
		held.paused = credential.PausedReason
	}
	return held, err
}

// forget lets the next run read its key anew.
func (k *keyring) forget() { k.held.forget() }

// priceAge is how long prices are held in memory. A price row is never changed, so what can be missed for so long is only that another began.
const priceAge = 5 * time.Second

// priceList finds the prices of models.
type priceList struct {
	db   *db.DB
	held *moment[[2]string, []llm.Price]
}

func newPriceList(d *db.DB, now func() time.Time) *priceList {
	return &priceList{db: d, held: newMoment[[2]string, []llm.Price](priceAge, now)}
}

// of reads today's prices of a model, one for each tier. ErrNotFound: it has none.
func (l *priceList) of(ctx context.Context, tenantID uuid.UUID, provider, model string) ([]llm.Price, error) {
	return l.held.get([2]string{provider, model}, func() (prices []llm.Price, err error) {
		err = l.db.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
			prices, err = pricesOf(ctx, tx, provider, model)
			return err
		})
		return prices, err
	})
}

// secretCache finds the secrets that effects are made with.
type secretCache struct {
	db   *db.DB
	held *moment[[2]uuid.UUID, db.CredentialOpened]
}

func newSecretCache(d *db.DB, now func() time.Time) *secretCache {
	return &secretCache{db: d, held: newMoment[[2]uuid.UUID, db.CredentialOpened](keyringAge, now)}
}

// find opens a credential of a tenant. ErrNotFound: it was deleted.
func (c *secretCache) find(ctx context.Context, tenantID, credentialID uuid.UUID) (db.CredentialOpened, error) {
	return c.held.get([2]uuid.UUID{tenantID, credentialID}, func() (opened db.CredentialOpened, err error) {
		err = c.db.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
			opened, err = tx.CredentialOpen(ctx, credentialID)
			return err
		})
		return opened, err
	})
}

// renew opens a credential as it is now.
func (c *secretCache) renew(ctx context.Context, tenantID, credentialID uuid.UUID) (db.CredentialOpened, error) {
	c.held.drop([2]uuid.UUID{tenantID, credentialID})
	return c.find(ctx, tenantID, credentialID)
}
