package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// Credential is a sealed secret of a tenant for going out.
type Credential struct {
	TenantID  uuid.UUID
	ID        uuid.UUID
	Name      string
	Kind      string
	Last4     string
	Version   int
	CreatedAt time.Time
	UpdatedAt time.Time
	// Actor is who the credential is at its service, "" where that is not known.
	Actor string
	// PausedAt, if not nil, says that it is not used until a person has seen to it, and PausedReason why.
	PausedAt     *time.Time
	PausedReason string
	// BaseURL is where its service is asked, "" where everybody's is.
	BaseURL string
}

const credentialColumns = `tenant_id, id, name, kind, last4, version, created_at, updated_at, actor, paused_at, paused_reason, base_url`

const credentialInsertSQL = `
insert into sluice.credentials (tenant_id, id, name, kind, base_url, sealed, last4) values (@tenant_id, @id, @name, @kind, @base_url, @sealed, @last4)
returning ` + credentialColumns

// CredentialInsert seals and keeps a secret, for the address that everybody asks its service at.
func (tx TenantTx) CredentialInsert(ctx context.Context, name, kind string, secret tenants.Secret) (Credential, error) {
	return tx.CredentialInsertAt(ctx, name, kind, "", secret)
}

// CredentialInsertAt seals and keeps a secret, for a service at an address.
func (tx TenantTx) CredentialInsertAt(ctx context.Context, name, kind, baseURL string, secret tenants.Secret) (Credential, error) {
	id := tenants.NewID()
	sealed, err := tx.seal(ctx, "credentials", id.String(), secret)
	if err != nil {
		return Credential{}, err
	}
	return one[Credential](ctx, tx.tx, credentialInsertSQL, tx.with(args{
		"id": id, "name": name, "kind": kind, "base_url": baseURL, "sealed": sealed, "last4": secret.Last4(),
	}))
}

const credentialGetSQL = `select ` + credentialColumns + ` from sluice.credentials where tenant_id = @tenant_id and id = @id`

// CredentialGet reads a credential without its secret.
func (tx TenantTx) CredentialGet(ctx context.Context, id uuid.UUID) (Credential, error) {
	return one[Credential](ctx, tx.tx, credentialGetSQL, tx.with(args{"id": id}))
}

const credentialListSQL = `
select ` + credentialColumns + ` from sluice.credentials
where tenant_id = @tenant_id and id < @before order by id desc limit @limit`

// CredentialList lists credentials, newest first.
func (tx TenantTx) CredentialList(ctx context.Context, p Page) ([]Credential, error) {
	return many[Credential](ctx, tx.tx, credentialListSQL, tx.with(args{"before": p.before(), "limit": p.Limit}))
}

// CredentialOpened is a credential with its secret.
type CredentialOpened struct {
	Secret  tenants.Secret
	BaseURL string
}

type credentialSealed struct {
	Sealed  []byte
	BaseURL string
}

const credentialSealedSQL = `select sealed, base_url from sluice.credentials where tenant_id = @tenant_id and id = @id`

// CredentialOpen opens a credential.
func (tx TenantTx) CredentialOpen(ctx context.Context, id uuid.UUID) (CredentialOpened, error) {
	row, err := one[credentialSealed](ctx, tx.tx, credentialSealedSQL, tx.with(args{"id": id}))
	if err != nil {
		return CredentialOpened{}, err
	}
	secret, err := tx.unseal(ctx, "credentials", id.String(), row.Sealed)
	return CredentialOpened{Secret: secret, BaseURL: row.BaseURL}, err
}

// CredentialSecret opens the secret of a credential.
func (tx TenantTx) CredentialSecret(ctx context.Context, id uuid.UUID) (tenants.Secret, error) {
	opened, err := tx.CredentialOpen(ctx, id)
	return opened.Secret, err
}

// CredentialChange is what may be changed of a credential; nil and an empty secret leave as it is.
type CredentialChange struct {
	Name  *string
	Actor *string
	// BaseURL is where its service is asked; "" is where everybody's is.
	BaseURL *string
	Secret  tenants.Secret
	// Resume ends its pause; so does a new secret.
	Resume bool
}

const credentialUpdateSQL = `
update sluice.credentials set name = coalesce(@name, name), actor = coalesce(@actor, actor), base_url = coalesce(@base_url, base_url), sealed = coalesce(@sealed, sealed),
    last4 = coalesce(@last4, last4), paused_at = case when @resume::boolean then null else paused_at end,
    paused_reason = case when @resume then '' else paused_reason end, version = version + 1, updated_at = now()
where tenant_id = @tenant_id and id = @id and (@version::int = 0 or version = @version)
returning ` + credentialColumns

// CredentialUpdate changes a credential. version, if not 0, is the one that was read.
func (tx TenantTx) CredentialUpdate(ctx context.Context, id uuid.UUID, change CredentialChange, version int) (Credential, error) {
	var sealed []byte
	var last4 *string
	if !change.Secret.Empty() {
		var err error
		if sealed, err = tx.seal(ctx, "credentials", id.String(), change.Secret); err != nil {
			return Credential{}, err
		}
		shown := change.Secret.Last4()
		last4 = &shown
	}
	c, err := one[Credential](ctx, tx.tx, credentialUpdateSQL, tx.with(args{
		"id": id, "name": change.Name, "actor": change.Actor, "base_url": change.BaseURL, "sealed": sealed, "last4": last4, "resume": change.Resume || sealed != nil, "version": version,
	}))
	if err != nil {
		return Credential{}, missOrStale(err, func() error { _, err := tx.CredentialGet(ctx, id); return err })
	}
	return c, nil
}

// credentialPauseSQL keeps the first reason and its time. The version goes up with the pause, since it is the ETag of what people read.
const credentialPauseSQL = `
update sluice.credentials set paused_at = coalesce(paused_at, now()), paused_reason = case when paused_at is null then @reason else paused_reason end,
    version = case when paused_at is null then version + 1 else version end, updated_at = case when paused_at is null then now() else updated_at end
where tenant_id = @tenant_id and id = @id`

// CredentialPause stops the use of a credential until a person has seen to it. ErrNotFound: it was deleted.
func (tx TenantTx) CredentialPause(ctx context.Context, id uuid.UUID, reason string) error {
	return found(run(ctx, tx.tx, credentialPauseSQL, tx.with(args{"id": id, "reason": reason})))
}

const credentialResumeSQL = `
update sluice.credentials set paused_at = null, paused_reason = '', version = case when paused_at is null then version else version + 1 end,
    updated_at = case when paused_at is null then updated_at else now() end
where tenant_id = @tenant_id and id = @id`

// CredentialResume lets a credential be used again. ErrNotFound: it was deleted.
func (tx TenantTx) CredentialResume(ctx context.Context, id uuid.UUID) error {
	return found(run(ctx, tx.tx, credentialResumeSQL, tx.with(args{"id": id})))
}

// found turns an update that touched no row into ErrNotFound.
func found(n int64, err error) error {
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

const credentialOfKindSQL = `
select ` + credentialColumns + ` from sluice.credentials where tenant_id = @tenant_id and kind = @kind order by id desc limit 1`

// CredentialOfKind reads the newest credential of a kind, which is the one that the tenant's calls to that provider are made with.
func (tx TenantTx) CredentialOfKind(ctx context.Context, kind string) (Credential, error) {
	return one[Credential](ctx, tx.tx, credentialOfKindSQL, tx.with(args{"kind": kind}))
}

// credentialUsesSQL finds automations and endpoints that would be left without it.
const credentialUsesSQL = `
select distinct 'the automation ' || a.name as name from sluice.automations a
join sluice.automation_versions v on v.tenant_id = a.tenant_id and v.automation_id = a.id and v.version in (a.version, a.trial_version)
where a.tenant_id = @tenant_id and a.deleted_at is null
  and (v.spec #>> '{action,credential_id}' = @shown or v.spec #>> '{fetch,credential_id}' = @shown or v.spec ->> 'credential_id' = @shown)
union all
select 'the endpoint ' || e.name from sluice.endpoints e
where e.tenant_id = @tenant_id and e.deleted_at is null and e.settings ->> 'redeliver_credential_id' = @shown
order by name limit 5`

const credentialDeleteSQL = `delete from sluice.credentials where tenant_id = @tenant_id and id = @id`

// CredentialDelete deletes a credential. The names are of automations and endpoints that use it: while there are any, nothing is deleted.
func (tx TenantTx) CredentialDelete(ctx context.Context, id uuid.UUID) (usedBy []string, err error) {
	if _, err := tx.CredentialGet(ctx, id); err != nil {
		return nil, err
	}
	shown := tenants.FormatID(tenants.CredentialPrefix, id)
	if usedBy, err = values[string](ctx, tx.tx, credentialUsesSQL, tx.with(args{"shown": shown})); err != nil || len(usedBy) > 0 {
		return usedBy, err
	}
	_, err = run(ctx, tx.tx, credentialDeleteSQL, tx.with(args{"id": id}))
	return nil, err
}
