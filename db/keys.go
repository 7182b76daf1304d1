package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// Key is an API key of a tenant; its text is not kept, only its hash.
type Key struct {
	TenantID   uuid.UUID
	ID         uuid.UUID
	Name       string
	Role       tenants.Role
	Last4      string
	CreatedAt  time.Time
	LastUsedAt *time.Time
	RevokedAt  *time.Time
}

const keyColumns = `tenant_id, id, name, role, last4, created_at, last_used_at, revoked_at`

const keyInsertSQL = `
insert into sluice.keys (tenant_id, id, name, role, hash, last4) values (@tenant_id, @id, @name, @role, @hash, @last4)
returning ` + keyColumns

func keyArgs(tenantID uuid.UUID, name string, role tenants.Role, text tenants.Secret) args {
	return args{
		"tenant_id": tenantID, "id": tenants.NewID(), "name": name, "role": role,
		"hash": tenants.HashKey(text.Reveal()), "last4": text.Last4(),
	}
}

// KeyInsert keeps a key of the tenant.
func (tx TenantTx) KeyInsert(ctx context.Context, name string, role tenants.Role, text tenants.Secret) (Key, error) {
	return one[Key](ctx, tx.tx, keyInsertSQL, keyArgs(tx.TenantID, name, role, text))
}

// KeyInsert keeps the first key of a tenant that was just made.
func (tx SystemTx) KeyInsert(ctx context.Context, tenantID uuid.UUID, name string, role tenants.Role, text tenants.Secret) (Key, error) {
	return one[Key](ctx, tx.tx, keyInsertSQL, keyArgs(tenantID, name, role, text))
}

const keyListSQL = `
select ` + keyColumns + ` from sluice.keys
where tenant_id = @tenant_id and revoked_at is null and id < @before order by id desc limit @limit`

// KeyList lists the keys that are not revoked, newest first.
func (tx TenantTx) KeyList(ctx context.Context, p Page) ([]Key, error) {
	return many[Key](ctx, tx.tx, keyListSQL, tx.with(args{"before": p.before(), "limit": p.Limit}))
}

const keyAdminsLockSQL = `
select id from sluice.keys where tenant_id = @tenant_id and role = 'admin' and revoked_at is null order by id for update`

const keyRevokeSQL = `
update sluice.keys set revoked_at = now() where tenant_id = @tenant_id and id = @id and revoked_at is null returning ` + keyColumns

// KeyRevoke ends a key at once. ErrConflict: it is the last admin key, and nobody could make another.
func (tx TenantTx) KeyRevoke(ctx context.Context, id uuid.UUID) error {
	// The admin keys are locked, so that two requests cannot each leave the other's key as the last one.
	admins, err := values[uuid.UUID](ctx, tx.tx, keyAdminsLockSQL, tx.with(nil))
	if err != nil {
		return err
	}
	if len(admins) == 1 && admins[0] == id {
		return ErrConflict
	}
	_, err = one[Key](ctx, tx.tx, keyRevokeSQL, tx.with(args{"id": id}))
	return err
}

// KeyFound is a key looked up by its hash, with what decides whether it may be used.
type KeyFound struct {
	TenantID     uuid.UUID
	ID           uuid.UUID
	Role         tenants.Role
	TenantStatus tenants.Status
}

const keyFindSQL = `
select k.tenant_id, k.id, k.role, t.status as tenant_status
from sluice.keys k join sluice.tenants t on t.tenant_id = k.tenant_id
where k.hash = @hash and k.revoked_at is null`

// keyTouchSQL writes at most once a minute for a key: the time is for people.
const keyTouchSQL = `
update sluice.keys set last_used_at = now()
where hash = @hash and revoked_at is null and (last_used_at is null or last_used_at < now() - interval '1 minute')`

// KeyFind looks a key of a tenant up by its hash, and marks it as used.
func (tx SystemTx) KeyFind(ctx context.Context, hash []byte) (KeyFound, error) {
	found, err := one[KeyFound](ctx, tx.tx, keyFindSQL, args{"hash": hash})
	if err != nil {
		return KeyFound{}, err
	}
	_, err = run(ctx, tx.tx, keyTouchSQL, args{"hash": hash})
	return found, err
}

const operatorKeyInsertSQL = `
insert into sluice.operator_keys (id, name, hash, last4) values (@id, @name, @hash, @last4)`

// OperatorKeyInsert keeps a key of the operator.
func (tx SystemTx) OperatorKeyInsert(ctx context.Context, name string, text tenants.Secret) (uuid.UUID, error) {
	id := tenants.NewID()
	_, err := run(ctx, tx.tx, operatorKeyInsertSQL, args{
		"id": id, "name": name, "hash": tenants.HashKey(text.Reveal()), "last4": text.Last4(),
	})
	return id, err
}

const operatorKeyFindSQL = `
update sluice.operator_keys set last_used_at = now() where hash = @hash and revoked_at is null returning id`

// OperatorKeyFind looks a key of the operator up by its hash, and marks it as used.
func (tx SystemTx) OperatorKeyFind(ctx context.Context, hash []byte) (uuid.UUID, error) {
	return value[uuid.UUID](ctx, tx.tx, operatorKeyFindSQL, args{"hash": hash})
}

// OperatorKey is a key of the operator, without its text.
type OperatorKey struct {
	ID         uuid.UUID
	Name       string
	Last4      string
	CreatedAt  time.Time
	LastUsedAt *time.Time
}

const operatorKeyListSQL = `
select id, name, last4, created_at, last_used_at from sluice.operator_keys where revoked_at is null order by id`

// OperatorKeyList lists the operator's keys that are not revoked.
func (tx SystemTx) OperatorKeyList(ctx context.Context) ([]OperatorKey, error) {
	return many[OperatorKey](ctx, tx.tx, operatorKeyListSQL, args{})
}

const operatorKeyRevokeSQL = `update sluice.operator_keys set revoked_at = now() where id = @id and revoked_at is null`

// OperatorKeyRevoke ends a key of the operator at once.
func (tx SystemTx) OperatorKeyRevoke(ctx context.Context, id uuid.UUID) error {
	n, err := run(ctx, tx.tx, operatorKeyRevokeSQL, args{"id": id})
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}
