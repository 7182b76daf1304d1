package db

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
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
	// masters are the master key that wraps, and behind it those that only unwrap.
	masters []masterKey

	mu   sync.Mutex
	open map[uuid.UUID]openKey
}

// masterKey is a master key with the mark it is told by.
type masterKey struct {
	tink.AEAD

	mark string
}

// openKey remembers the wrapped form it came from: a tenant whose key was replaced or erased is not served from memory.
type openKey struct {
	wrapped []byte
	aead    tink.AEAD
}

// NewSealer makes a Sealer of a master key of MasterKeyLen bytes, under which everything new is sealed, and of others that open what was sealed
// under them.
func NewSealer(master []byte, others ...[]byte) (*Sealer, error) {
	s := &Sealer{open: map[uuid.UUID]openKey{}}
	for _, key := range append([][]byte{master}, others...) {
		if len(key) != MasterKeyLen {
			return nil, fmt.Errorf("the master key has %d bytes, expected %d", len(key), MasterKeyLen)
		}
		a, err := subtle.NewAESGCM(key)
		if err != nil {
			return nil, errors.New("the master key is not usable for AES-256-GCM")
		}
		s.masters = append(s.masters, masterKey{AEAD: a, mark: markOf(key)})
	}
	return s, nil
}

// markLen is the length of a mark in bytes: it tells an operator's few keys apart, and says nothing of them.
const markLen = 4

// markOf names a master key without telling anything of it.
func markOf(key []byte) string {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte("sluice master key mark"))
	return hex.EncodeToString(mac.Sum(nil)[:markLen])
}

// Mark names the master key that wraps.
func (s *Sealer) Mark() string { return s.masters[0].mark }

// newKeyset makes a tenant's data key, wrapped.
func (s *Sealer) newKeyset(tenantID uuid.UUID) ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a tenant's data key: %w", err)
	}
	return s.wrap(tenantID, handle)
}

func (s *Sealer) wrap(tenantID uuid.UUID, handle *keyset.Handle) ([]byte, error) {
	var out bytes.Buffer
	if err := handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&out), s.masters[0], tenantID[:]); err != nil {
		return nil, fmt.Errorf("wrap a tenant's data key: %w", err)
	}
	return out.Bytes(), nil
}

// errUnwrap says that a data key cannot be had.
var errUnwrap = fmt.Errorf("%w: a tenant's data key was wrapped by a master key that is not here, or is damaged", ErrUnreadable)

// handle unwraps a data key by whichever master key it was wrapped by, and names that one.
func (s *Sealer) handle(tenantID uuid.UUID, wrapped []byte) (*keyset.Handle, string, error) {
	for _, master := range s.masters {
		handle, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(wrapped)), master, tenantID[:])
		if err == nil {
			return handle, master.mark, nil
		}
	}
	return nil, "", errUnwrap
}

func (s *Sealer) unwrap(tenantID uuid.UUID, wrapped []byte) (tink.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.open[tenantID]; ok && bytes.Equal(k.wrapped, wrapped) {
		return k.aead, nil
	}
	handle, _, err := s.handle(tenantID, wrapped)
	if err != nil {
		return nil, err
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

// openOperator opens what was sealed under a master key itself, and names that one.
func (s *Sealer) openOperator(table, row string, sealed []byte) (text []byte, mark string, err error) {
	for _, master := range s.masters {
		if text, err := master.Decrypt(sealed, sealedPlace(uuid.Nil, table, row)); err == nil {
			return text, master.mark, nil
		}
	}
	return nil, "", errSealed(table)
}

// errUnsealed says that a ciphertext does not open.
var errUnsealed = fmt.Errorf("%w: sealed with another key, or for another row", ErrUnreadable)

func errSealed(table string) error {
	return fmt.Errorf("open a sealed row of %s: %w", table, errUnsealed)
}

// sealedPlace is what a ciphertext is bound to.
func sealedPlace(tenantID uuid.UUID, table, row string) []byte {
	return []byte(tenantID.String() + "|" + table + "|" + row)
}

const tenantKeysetGetSQL = `select wrapped from sluice.tenant_keysets where tenant_id = @tenant_id`

// tenantKeysetHoldSQL keeps the tenant's data key from being replaced until the transaction has ended: what it seals is under a key that stays
// until it can be seen. It is a statement of its own, since one that waits would go on with what it saw before.
const tenantKeysetHoldSQL = `select pg_advisory_xact_lock_shared(hashtextextended('tenant_keysets ' || @tenant_id::uuid, 0))`

func (tx TenantTx) seal(ctx context.Context, table, row string, secret tenants.Secret) ([]byte, error) {
	var batch pgx.Batch
	batch.Queue(tenantKeysetHoldSQL, tx.with(nil))
	batch.Queue(tenantKeysetGetSQL, tx.with(nil))
	results := tx.tx.SendBatch(ctx, &batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return nil, fmt.Errorf("hold the tenant's data key: %w", translate(err))
	}
	var wrapped []byte
	if err := results.QueryRow().Scan(&wrapped); err != nil {
		return nil, fmt.Errorf("read the tenant's data key: %w", translate(err))
	}
	a, err := tx.sealer.unwrap(tx.TenantID, wrapped)
	if err != nil {
		return nil, err
	}
	return sealWith(a, tx.TenantID, table, row, []byte(secret.Reveal()))
}

func sealWith(key tink.AEAD, tenantID uuid.UUID, table, row string, text []byte) ([]byte, error) {
	sealed, err := key.Encrypt(text, sealedPlace(tenantID, table, row))
	if err != nil {
		return nil, fmt.Errorf("seal a row of %s: %w", table, err)
	}
	return sealed, nil
}

// unseal opens a ciphertext that was just read. Where the data key was replaced between the two statements, both are read anew, at one moment.
func (tx TenantTx) unseal(ctx context.Context, table, row string, sealed []byte) (tenants.Secret, error) {
	wrapped, err := value[[]byte](ctx, tx.tx, tenantKeysetGetSQL, tx.with(nil))
	if err != nil {
		return tenants.Secret{}, fmt.Errorf("read the tenant's data key: %w", err)
	}
	key, err := tx.sealer.unwrap(tx.TenantID, wrapped)
	if err != nil {
		return tenants.Secret{}, err
	}
	secret, err := unsealWith(key, tx.TenantID, table, row, sealed)
	if err == nil {
		return secret, nil
	}
	again, found := tx.readTogether(ctx, table, row)
	if found != nil || (bytes.Equal(again.Wrapped, wrapped) && bytes.Equal(again.Sealed, sealed)) {
		return tenants.Secret{}, err
	}
	if key, err = tx.sealer.unwrap(tx.TenantID, again.Wrapped); err != nil {
		return tenants.Secret{}, err
	}
	return unsealWith(key, tx.TenantID, table, row, again.Sealed)
}

// unsealWith opens a ciphertext with a tenant's own key.
func unsealWith(key tink.AEAD, tenantID uuid.UUID, table, row string, sealed []byte) (tenants.Secret, error) {
	text, err := key.Decrypt(sealed, sealedPlace(tenantID, table, row))
	if err != nil {
		return tenants.Secret{}, errSealed(table)
	}
	return tenants.NewSecret(string(text)), nil
}

// sealOperator seals what belongs to no tenant, under the master key itself.
func (tx SystemTx) sealOperator(table, row string, secret tenants.Secret) ([]byte, error) {
	return sealWith(tx.sealer.masters[0], uuid.Nil, table, row, []byte(secret.Reveal()))
}

func (tx SystemTx) unsealOperator(table, row string, sealed []byte) (tenants.Secret, error) {
	text, _, err := tx.sealer.openOperator(table, row, sealed)
	return tenants.NewSecret(string(text)), err
}
