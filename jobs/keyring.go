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

// keyring finds the keys to call providers with, and holds them for a moment, since each run needs one.
type keyring struct {
	db       *db.DB
	operator map[string]tenants.Secret
	now      func() time.Time

	mu   sync.Mutex
	held map[keyName]heldKey
}

type keyName struct {
	tenantID        uuid.UUID
	provider, named string
}

// heldMax bounds what a keyring or a price list holds; past it, all is forgotten and read again.
const heldMax = 10_000

// find finds the key of a tenant for a provider: the credential that the automation names, if it is of that provider, else the tenant's newest of
// that kind, else the operator's. A named one that was deleted is not replaced by another: somebody else would pay.
func (k *keyring) find(ctx context.Context, tenantID uuid.UUID, provider, named string) (heldKey, error) {
	name := keyName{tenantID, provider, named}
	now := k.now()
	k.mu.Lock()
	held, ok := k.held[name]
	k.mu.Unlock()
	if ok && held.until.After(now) {
		return held, nil
	}
	err := k.db.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
		held, err = k.read(ctx, tx, provider, named)
		return err
	})
	if err != nil {
		return heldKey{}, err
	}
	held.until = now.Add(keyringAge)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil || len(k.held) >= heldMax {
		k.held = map[keyName]heldKey{}
	}
	k.held[name] = held
	return held, nil
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
func (k *keyring) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held = nil
}

// priceAge is how long prices are held in memory. A price row is never changed, so what can be missed for so long is only that another began.
const priceAge = 5 * time.Second

// priceList holds the prices of models for a moment, since each call needs them.
type priceList struct {
	db  *db.DB
	now func() time.Time

	mu   sync.Mutex
	held map[[2]string]heldPrices
}

type heldPrices struct {
	prices []llm.Price
	until  time.Time
}

// of reads today's prices of a model, one for each tier. ErrNotFound: it has none.
func (l *priceList) of(ctx context.Context, tenantID uuid.UUID, provider, model string) ([]llm.Price, error) {
	name := [2]string{provider, model}
	now := l.now()
	l.mu.Lock()
	held, ok := l.held[name]
	l.mu.Unlock()
	if ok && held.until.After(now) {
		return held.prices, nil
	}
	err := l.db.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
		held.prices, err = pricesOf(ctx, tx, provider, model)
		return err
	})
	if err != nil {
		return nil, err
	}
	held.until = now.Add(priceAge)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil || len(l.held) >= heldMax {
		l.held = map[[2]string]heldPrices{}
	}
	l.held[name] = held
	return held.prices, nil
}

// secretCache holds the secrets that effects are made with for a moment, since each effect needs one.
type secretCache struct {
	db  *db.DB
	now func() time.Time

	mu   sync.Mutex
	held map[[2]uuid.UUID]heldSecret
}

type heldSecret struct {
	secret tenants.Secret
	until  time.Time
}

// find opens a credential of a tenant. ErrNotFound: it was deleted.
func (c *secretCache) find(ctx context.Context, tenantID, credentialID uuid.UUID) (tenants.Secret, error) {
	name := [2]uuid.UUID{tenantID, credentialID}
	now := c.now()
	c.mu.Lock()
	held, ok := c.held[name]
	c.mu.Unlock()
	if ok && held.until.After(now) {
		return held.secret, nil
	}
	err := c.db.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
		held.secret, err = tx.CredentialSecret(ctx, credentialID)
		return err
	})
	if err != nil {
		return tenants.Secret{}, err
	}
	held.until = now.Add(keyringAge)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil || len(c.held) >= heldMax {
		c.held = map[[2]uuid.UUID]heldSecret{}
	}
	c.held[name] = held
	return held.secret, nil
}
