package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluice/tenants"
)

// MasterKeyLen is the length of the master key in bytes: AES-256.
const MasterKeyLen = 32

// openKeysMax bounds how many tenants' data keys are held unwrapped; past it, all are forgotten and unwrapped again when needed.
const openKeysMax = 10_000

// Sealer seals and opens secrets: AES-256-GCM under a key of the tenant, which is itself wrapped by the master key. What is sealed is bound
// to its tenant, table and row, so that a ciphertext copied to another row does not open.
type Sealer struct {
	master tink.AEAD

	mu   sync.Mutex
	open map[uuid.UUID]openKey
}

// openKey remembers the wrapped form it came from: a tenant whose key was replaced or erased is not served from memory.
type openKey struct {
	wrapped []byte
	aead    tink.AEAD
}

// NewSealer makes a Sealer of a master key of MasterKeyLen bytes.
func NewSealer(master []byte) (*Sealer, error) {
	if len(master) != MasterKeyLen {
		return nil, fmt.Errorf("the master key has %d bytes, expected %d", len(master), MasterKeyLen)
	}
	a, err := subtle.NewAESGCM(master)
	if err != nil {
		return nil, errors.New("the master key is not usable for AES-256-GCM")
	}
	return &Sealer{master: a, open: map[uuid.UUID]openKey{}}, nil
}

// newKeyset makes a tenant's data key, wrapped.
func (s *Sealer) newKeyset(tenantID uuid.UUID) ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a tenant's data key: %w", err)
	}
	var out bytes.Buffer
	if err := handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&out), s.master, tenantID[:]); err != nil {
		return nil, fmt.Errorf("wrap a tenant's data key: %w", err)
	}
	return out.Bytes(), nil
}

func (s *Sealer) unwrap(tenantID uuid.UUID, wrapped []byte) (tink.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.open[tenantID]; ok && bytes.Equal(k.wrapped, wrapped) {
		return k.aead, nil
	}
	handle, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(wrapped)), s.master, tenantID[:])
	if err != nil {
		return nil, errors.New("unwrap a tenant's data key: it was wrapped by another master key, or is damaged")
	}
	a, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("open a tenant's data key: %w", err)
	}
	if len(s.open) >= openKeysMax {
		clear(s.open)
	}
	s.open[tenantID] = openKey{wrapped: wrapped, aead: a}
	return a, nil
}

// sealedPlace is what a ciphertext is bound to.
func sealedPlace(tenantID uuid.UUID, table, row string) []byte {
	return []byte(tenantID.String() + "|" + table + "|" + row)
}

const tenantKeysetGetSQL = `select wrapped from sluice.tenant_keysets where tenant_id = @tenant_id`

func (tx TenantTx) seal(ctx context.Context, table, row string, secret tenants.Secret) ([]byte, error) {
	return sealIn(ctx, tx.tx, tx.sealer, tx.TenantID, table, row, secret)
}

func (tx TenantTx) unseal(ctx context.Context, table, row string, sealed []byte) (tenants.Secret, error) {
	return unsealIn(ctx, tx.tx, tx.sealer, tx.TenantID, table, row, sealed)
}

// sealOperator seals what belongs to no tenant, under the master key itself.
func (tx SystemTx) sealOperator(table, row string, secret tenants.Secret) ([]byte, error) {
	sealed, err := tx.sealer.master.Encrypt([]byte(secret.Reveal()), sealedPlace(uuid.Nil, table, row))
	if err != nil {
		return nil, fmt.Errorf("seal a row of %s: %w", table, err)
	}
	return sealed, nil
}

func (tx SystemTx) unsealOperator(table, row string, sealed []byte) (tenants.Secret, error) {
	text, err := tx.sealer.master.Decrypt(sealed, sealedPlace(uuid.Nil, table, row))
	if err != nil {
		return tenants.Secret{}, fmt.Errorf("open a sealed row of %s: sealed with another key, or for another row", table)
	}
	return tenants.NewSecret(string(text)), nil
}

func sealIn(ctx context.Context, tx pgx.Tx, s *Sealer, tenantID uuid.UUID, table, row string, secret tenants.Secret) ([]byte, error) {
	a, err := s.tenantAEAD(ctx, tx, tenantID)
	if err != nil {
		return nil, err
	}
	sealed, err := a.Encrypt([]byte(secret.Reveal()), sealedPlace(tenantID, table, row))
	if err != nil {
		return nil, fmt.Errorf("seal a row of %s: %w", table, err)
	}
	return sealed, nil
}

func unsealIn(ctx context.Context, tx pgx.Tx, s *Sealer, tenantID uuid.UUID, table, row string, sealed []byte) (tenants.Secret, error) {
	a, err := s.tenantAEAD(ctx, tx, tenantID)
	if err != nil {
		return tenants.Secret{}, err
	}
	return unsealWith(a, tenantID, table, row, sealed)
}

// unsealWith opens a ciphertext with a tenant's own key.
func unsealWith(key tink.AEAD, tenantID uuid.UUID, table, row string, sealed []byte) (tenants.Secret, error) {
	text, err := key.Decrypt(sealed, sealedPlace(tenantID, table, row))
	if err != nil {
		return tenants.Secret{}, fmt.Errorf("open a sealed row of %s: sealed with another key, or for another row", table)
	}
	return tenants.NewSecret(string(text)), nil
}

func (s *Sealer) tenantAEAD(ctx context.Context, tx pgx.Tx, tenantID uuid.UUID) (tink.AEAD, error) {
	wrapped, err := value[[]byte](ctx, tx, tenantKeysetGetSQL, args{"tenant_id": tenantID})
	if err != nil {
		return nil, fmt.Errorf("read the tenant's data key: %w", err)
	}
	return s.unwrap(tenantID, wrapped)
}
