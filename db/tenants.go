package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// Tenant is a customer of the operator. Its key column is tenant_id, so that it falls under the policy of all that it owns.
type Tenant struct {
	TenantID  uuid.UUID
	Name      string
	TimeZone  string
	Status    tenants.Status
	Version   int
	CreatedAt time.Time
	UpdatedAt time.Time
}

const tenantColumns = `tenant_id, name, time_zone, status, version, created_at, updated_at`

const tenantInsertSQL = `
insert into sluice.tenants (tenant_id, name, time_zone) values (@tenant_id, @name, @time_zone)
returning ` + tenantColumns

const tenantKeysetInsertSQL = `insert into sluice.tenant_keysets (tenant_id, wrapped, master_mark) values (@tenant_id, @wrapped, @mark)`

// TenantInsert makes a tenant and its data key.
func (tx SystemTx) TenantInsert(ctx context.Context, name, timeZone string) (Tenant, error) {
	id := tenants.NewID()
	t, err := one[Tenant](ctx, tx.tx, tenantInsertSQL, args{"tenant_id": id, "name": name, "time_zone": timeZone})
	if err != nil {
		return Tenant{}, err
	}
	wrapped, err := tx.sealer.newKeyset(id)
	if err != nil {
		return Tenant{}, err
	}
	_, err = run(ctx, tx.tx, tenantKeysetInsertSQL, args{"tenant_id": id, "wrapped": wrapped, "mark": tx.sealer.Mark()})
	return t, err
}

const tenantGetSQL = `select ` + tenantColumns + ` from sluice.tenants where tenant_id = @tenant_id`

// TenantGet reads any tenant.
func (tx SystemTx) TenantGet(ctx context.Context, id uuid.UUID) (Tenant, error) {
	return one[Tenant](ctx, tx.tx, tenantGetSQL, args{"tenant_id": id})
}

// TenantGet reads the tenant itself.
func (tx TenantTx) TenantGet(ctx context.Context) (Tenant, error) {
	return one[Tenant](ctx, tx.tx, tenantGetSQL, tx.with(nil))
}

const tenantListSQL = `select ` + tenantColumns + ` from sluice.tenants where tenant_id < @before order by tenant_id desc limit @limit`

// TenantList lists tenants, newest first.
func (tx SystemTx) TenantList(ctx context.Context, p Page) ([]Tenant, error) {
	return many[Tenant](ctx, tx.tx, tenantListSQL, args{"before": p.before(), "limit": p.Limit})
}

// TenantChange is what may be changed of a tenant; nil leaves as it is.
type TenantChange struct {
	Name, TimeZone *string
	Status         *tenants.Status
	// Version, if not 0, is the version that the caller has read.
	Version int
}

const tenantUpdateSQL = `
update sluice.tenants set name = coalesce(@name, name), time_zone = coalesce(@time_zone, time_zone), status = coalesce(@status, status),
    version = version + 1, updated_at = now()
where tenant_id = @tenant_id and status <> 'erased' and (@version::int = 0 or version = @version)
returning ` + tenantColumns

// TenantUpdate changes a tenant. ErrStale: its version is another one by now.
func (tx SystemTx) TenantUpdate(ctx context.Context, id uuid.UUID, c TenantChange) (Tenant, error) {
	t, err := one[Tenant](ctx, tx.tx, tenantUpdateSQL, args{
		"tenant_id": id, "name": c.Name, "time_zone": c.TimeZone, "status": c.Status, "version": c.Version,
	})
	if err != nil {
		return Tenant{}, missOrStale(err, func() error { _, err := tx.TenantGet(ctx, id); return err })
	}
	return t, nil
}

const tenantCloseSQL = `select sluice.tenant_close(@tenant_id)`

const tenantEraseSQL = `select sluice.tenant_erase(@tenant_id)`

const tenantLivingDeleteSQL = `delete from sluice.living where tenant_id = @tenant_id`

// TenantErase erases all that a tenant owns but its books. What is being written of it is waited for; what comes to be written later is refused, since
// the row is gone that it would hang on. ErrConflict: something came between, and nothing was erased.
func (tx SystemTx) TenantErase(ctx context.Context, id uuid.UUID) error {
	for _, statement := range []string{tenantCloseSQL, tenantEraseSQL, tenantLivingDeleteSQL} {
		if _, err := run(ctx, tx.tx, statement, args{"tenant_id": id}); err != nil {
			return err
		}
	}
	return nil
}

// missOrStale tells why an update by id and version touched nothing: the row is gone (ErrNotFound), or it has another version (ErrStale).
func missOrStale(err error, get func() error) error {
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := get(); err != nil {
		return err
	}
	return fmt.Errorf("%w: read it again", ErrStale)
}
