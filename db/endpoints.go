package db

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/tenants"
)

// Endpoint is an address that a tenant registered for one source.
type Endpoint struct {
	TenantID  uuid.UUID
	ID        uuid.UUID
	Name      string
	Source    string
	Token     string
	Settings  json.RawMessage
	Enabled   bool
	Version   int
	CreatedAt time.Time
	UpdatedAt time.Time
}

const endpointColumns = `tenant_id, id, name, source, token, settings, enabled, version, created_at, updated_at`

const endpointInsertSQL = `
insert into sluice.endpoints (tenant_id, id, name, source, token, settings) values (@tenant_id, @id, @name, @source, @token, @settings)
returning ` + endpointColumns

// EndpointInsert registers an address under a token that is made here.
func (tx TenantTx) EndpointInsert(ctx context.Context, name, source string, settings json.RawMessage) (Endpoint, error) {
	token, err := tenants.NewToken()
	if err != nil {
		return Endpoint{}, err
	}
	return one[Endpoint](ctx, tx.tx, endpointInsertSQL, tx.with(args{
		"id": tenants.NewID(), "name": name, "source": source, "token": token, "settings": settings,
	}))
}

const endpointGetSQL = `select ` + endpointColumns + ` from sluice.endpoints where tenant_id = @tenant_id and id = @id and deleted_at is null`

// EndpointGet reads an endpoint.
func (tx TenantTx) EndpointGet(ctx context.Context, id uuid.UUID) (Endpoint, error) {
	return one[Endpoint](ctx, tx.tx, endpointGetSQL, tx.with(args{"id": id}))
}

const endpointListSQL = `
select ` + endpointColumns + ` from sluice.endpoints
where tenant_id = @tenant_id and deleted_at is null and id < @before order by id desc limit @limit`

// EndpointList lists endpoints, newest first.
func (tx TenantTx) EndpointList(ctx context.Context, p Page) ([]Endpoint, error) {
	return many[Endpoint](ctx, tx.tx, endpointListSQL, tx.with(args{"before": p.before(), "limit": p.Limit}))
}

// EndpointChange is what may be changed of an endpoint; nil leaves as it is.
type EndpointChange struct {
	Name     *string
	Settings json.RawMessage
	Enabled  *bool
	// Version, if not 0, is the version that the caller has read.
	Version int
}

const endpointUpdateSQL = `
update sluice.endpoints set name = coalesce(@name, name), settings = coalesce(@settings::jsonb, settings), enabled = coalesce(@enabled, enabled),
    version = version + 1, updated_at = now()
where tenant_id = @tenant_id and id = @id and deleted_at is null and (@version::int = 0 or version = @version)
returning ` + endpointColumns

// EndpointUpdate changes an endpoint.
func (tx TenantTx) EndpointUpdate(ctx context.Context, id uuid.UUID, c EndpointChange) (Endpoint, error) {
	e, err := one[Endpoint](ctx, tx.tx, endpointUpdateSQL, tx.with(args{
		"id": id, "name": c.Name, "settings": c.Settings, "enabled": c.Enabled, "version": c.Version,
	}))
	if err != nil {
		return Endpoint{}, missOrStale(err, func() error { _, err := tx.EndpointGet(ctx, id); return err })
	}
	return e, nil
}

const endpointDeleteSQL = `
update sluice.endpoints set deleted_at = now(), updated_at = now(), version = version + 1
where tenant_id = @tenant_id and id = @id and deleted_at is null and (@version::int = 0 or version = @version)
returning ` + endpointColumns

const endpointAutomationsDeleteSQL = `
update sluice.automations set deleted_at = now(), updated_at = now() where tenant_id = @tenant_id and endpoint_id = @id and deleted_at is null`

// EndpointDelete takes an endpoint and its automations out of service; its events stay.
func (tx TenantTx) EndpointDelete(ctx context.Context, id uuid.UUID, version int) error {
	_, err := one[Endpoint](ctx, tx.tx, endpointDeleteSQL, tx.with(args{"id": id, "version": version}))
	if err != nil {
		return missOrStale(err, func() error { _, err := tx.EndpointGet(ctx, id); return err })
	}
	_, err = run(ctx, tx.tx, endpointAutomationsDeleteSQL, tx.with(args{"id": id}))
	return err
}

// EndpointSecret is one of an endpoint's signing secrets, without its text.
type EndpointSecret struct {
	TenantID   uuid.UUID
	ID         uuid.UUID
	EndpointID uuid.UUID
	Last4      string
	CreatedAt  time.Time
	ExpiresAt  *time.Time
	LastUsedAt *time.Time
}

// endpointSecretsTable is what a sealed signing secret is bound to.
const endpointSecretsTable = "endpoint_secrets"

const endpointSecretColumns = `tenant_id, id, endpoint_id, last4, created_at, expires_at, last_used_at`

const endpointSecretInsertSQL = `
insert into sluice.endpoint_secrets (tenant_id, id, endpoint_id, sealed, last4) values (@tenant_id, @id, @endpoint_id, @sealed, @last4)
returning ` + endpointSecretColumns

// EndpointSecretInsert seals and keeps a signing secret.
func (tx TenantTx) EndpointSecretInsert(ctx context.Context, endpointID uuid.UUID, secret tenants.Secret) (EndpointSecret, error) {
	id := tenants.NewID()
	sealed, err := tx.seal(ctx, endpointSecretsTable, id.String(), secret)
	if err != nil {
		return EndpointSecret{}, err
	}
	return one[EndpointSecret](ctx, tx.tx, endpointSecretInsertSQL, tx.with(args{
		"id": id, "endpoint_id": endpointID, "sealed": sealed, "last4": secret.Last4(),
	}))
}

const endpointSecretListSQL = `
select ` + endpointSecretColumns + ` from sluice.endpoint_secrets
where tenant_id = @tenant_id and endpoint_id = @endpoint_id and (expires_at is null or expires_at > now()) order by id desc limit @limit`

// EndpointSecretsMax bounds how many secrets an endpoint may have at once: each costs a verification.
const EndpointSecretsMax = 5

// EndpointSecretList lists the secrets that are good, newest first.
func (tx TenantTx) EndpointSecretList(ctx context.Context, endpointID uuid.UUID) ([]EndpointSecret, error) {
	return many[EndpointSecret](ctx, tx.tx, endpointSecretListSQL, tx.with(args{"endpoint_id": endpointID, "limit": EndpointSecretsMax}))
}

const endpointSecretListOfSQL = `
select ` + endpointSecretColumns + ` from sluice.endpoint_secrets
where tenant_id = @tenant_id and endpoint_id = any (@endpoint_ids) and (expires_at is null or expires_at > now()) order by id desc limit @limit`

// EndpointSecretListOf lists the secrets that are good of a page of endpoints, newest first.
func (tx TenantTx) EndpointSecretListOf(ctx context.Context, endpointIDs []uuid.UUID) ([]EndpointSecret, error) {
	return many[EndpointSecret](ctx, tx.tx, endpointSecretListOfSQL, tx.with(args{
		"endpoint_ids": endpointIDs, "limit": len(endpointIDs) * EndpointSecretsMax,
	}))
}

const endpointSecretsExpireSQL = `
update sluice.endpoint_secrets set expires_at = now() + @overlap::interval
where tenant_id = @tenant_id and endpoint_id = @endpoint_id and (expires_at is null or expires_at > now() + @overlap::interval)`

// EndpointSecretsExpire lets all secrets of an endpoint end after overlap, those that would end earlier as they were.
func (tx TenantTx) EndpointSecretsExpire(ctx context.Context, endpointID uuid.UUID, overlap time.Duration) error {
	_, err := run(ctx, tx.tx, endpointSecretsExpireSQL, tx.with(args{"endpoint_id": endpointID, "overlap": overlap}))
	return err
}

const endpointSecretTouchSQL = `
update sluice.endpoint_secrets set last_used_at = now()
where tenant_id = @tenant_id and id = @id and (last_used_at is null or last_used_at < now() - interval '1 minute')`

// EndpointSecretTouch marks a secret as used, at most once a minute: the time is for people.
func (tx TenantTx) EndpointSecretTouch(ctx context.Context, id uuid.UUID) error {
	_, err := run(ctx, tx.tx, endpointSecretTouchSQL, tx.with(args{"id": id}))
	return err
}

// OpenSecret is a signing secret, opened.
type OpenSecret struct {
	ID         uuid.UUID
	Text       tenants.Secret
	ExpiresAt  *time.Time
	LastUsedAt *time.Time
}

type sealedSecret struct {
	ID         uuid.UUID
	Sealed     []byte
	ExpiresAt  *time.Time
	LastUsedAt *time.Time
}

const endpointSecretSealedSQL = `
select id, sealed, expires_at, last_used_at from sluice.endpoint_secrets
where tenant_id = @tenant_id and endpoint_id = @endpoint_id and (expires_at is null or expires_at > now()) order by id desc limit @limit`

// EndpointSecrets opens the secrets that are good, newest first.
func (tx TenantTx) EndpointSecrets(ctx context.Context, endpointID uuid.UUID) ([]OpenSecret, error) {
	rows, err := many[sealedSecret](ctx, tx.tx, endpointSecretSealedSQL, tx.with(args{"endpoint_id": endpointID, "limit": EndpointSecretsMax}))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return openAll(rows, func(row string, sealed []byte) (tenants.Secret, error) {
		return tx.unseal(ctx, endpointSecretsTable, row, sealed)
	})
}

func openAll(rows []sealedSecret, unseal func(row string, sealed []byte) (tenants.Secret, error)) ([]OpenSecret, error) {
	out := make([]OpenSecret, len(rows))
	for i, r := range rows {
		text, err := unseal(r.ID.String(), r.Sealed)
		if err != nil {
			return nil, err
		}
		out[i] = OpenSecret{ID: r.ID, Text: text, ExpiresAt: r.ExpiresAt, LastUsedAt: r.LastUsedAt}
	}
	return out, nil
}

// EndpointFound is an endpoint looked up by the token of its address, with all that a delivery needs.
type EndpointFound struct {
	Endpoint
	Secrets     []OpenSecret
	Automations []AutomationVersion
}

// endpointKeyed is an endpoint with its tenant's data key, wrapped.
type endpointKeyed struct {
	Endpoint
	Wrapped []byte
}

const endpointFindSQL = `
select ` + endpointColumns + `, (select k.wrapped from sluice.tenant_keysets k where k.tenant_id = e.tenant_id) as wrapped
from sluice.endpoints e
where token = @token and deleted_at is null
  and exists (select from sluice.tenants t where t.tenant_id = e.tenant_id and t.status <> 'erased')`

const endpointFindSecretsSQL = `
select s.id, s.sealed, s.expires_at, s.last_used_at from sluice.endpoints e
join sluice.endpoint_secrets s on s.tenant_id = e.tenant_id and s.endpoint_id = e.id
where e.token = @token and e.deleted_at is null and (s.expires_at is null or s.expires_at > now()) order by s.id desc limit @limit`

const endpointFindAutomationsSQL = `
select ` + automationVersionColumns + ` from sluice.endpoints e
join sluice.automations a on a.tenant_id = e.tenant_id and a.endpoint_id = e.id
join sluice.automation_versions v on v.tenant_id = a.tenant_id and v.automation_id = a.id and v.version in (a.version, a.trial_version)
where e.token = @token and e.deleted_at is null and a.deleted_at is null and a.enabled order by a.id, v.version limit 2 * @limit`

// EndpointFind looks an endpoint up by its token, opens its secrets and reads its enabled automations, in one round trip: every delivery pays for it.
func (tx SystemTx) EndpointFind(ctx context.Context, token string) (EndpointFound, error) {
	found, err := tx.endpointFind(ctx, token)
	if errors.Is(err, errUnsealed) {
		// The data key may have been replaced between the statement that read it and the one that read the secrets.
		return tx.endpointFind(ctx, token)
	}
	return found, err
}

func (tx SystemTx) endpointFind(ctx context.Context, token string) (EndpointFound, error) {
	var batch pgx.Batch
	batch.Queue(endpointFindSQL, args{"token": token})
	batch.Queue(endpointFindSecretsSQL, args{"token": token, "limit": EndpointSecretsMax})
	batch.Queue(endpointFindAutomationsSQL, args{"token": token, "limit": AutomationsMax})
	results := tx.tx.SendBatch(ctx, &batch)
	defer results.Close()
	keyed, err := next[endpointKeyed](results)
	if err != nil {
		return EndpointFound{}, err
	}
	if len(keyed) == 0 {
		return EndpointFound{}, ErrNotFound
	}
	found := EndpointFound{Endpoint: keyed[0].Endpoint}
	secrets, err := next[sealedSecret](results)
	if err != nil {
		return EndpointFound{}, err
	}
	if found.Automations, err = next[AutomationVersion](results); err != nil || len(secrets) == 0 {
		return found, err
	}
	key, err := tx.sealer.unwrap(found.TenantID, keyed[0].Wrapped)
	if err != nil {
		return EndpointFound{}, err
	}
	found.Secrets, err = openAll(secrets, func(row string, sealed []byte) (tenants.Secret, error) {
		return unsealWith(key, found.TenantID, endpointSecretsTable, row, sealed)
	})
	return found, err
}

// next reads all rows of the next statement of a batch.
func next[T any](results pgx.BatchResults) ([]T, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, translate(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[T])
	return out, translate(err)
}
