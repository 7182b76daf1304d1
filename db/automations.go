package db

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// Automation is what to do with an endpoint's events, at its newest version.
type Automation struct {
	TenantID   uuid.UUID
	ID         uuid.UUID
	EndpointID uuid.UUID
	Name       string
	Version    int
	Enabled    bool
	// Spec is the contract's automation as JSON: filter, prompt, model, schema, action, mode.
	Spec      json.RawMessage
	CreatedAt time.Time
	UpdatedAt time.Time
	// TrialVersion runs beside Version in shadow mode, nil for none.
	TrialVersion *int
}

const automationSelect = `
select a.tenant_id, a.id, a.endpoint_id, a.name, a.version, a.enabled, v.spec, a.created_at, a.updated_at, a.trial_version
from sluice.automations a
join sluice.automation_versions v on v.tenant_id = a.tenant_id and v.automation_id = a.id and v.version = a.version
where a.tenant_id = @tenant_id and a.deleted_at is null `

const automationInsertSQL = `
insert into sluice.automations (tenant_id, id, endpoint_id, name) values (@tenant_id, @id, @endpoint_id, @name)`

const automationVersionInsertSQL = `
insert into sluice.automation_versions (tenant_id, automation_id, version, spec, behaviour, draft, created_by)
values (@tenant_id, @automation_id, @version, @spec, @behaviour, @draft, @created_by)`

// What a version was made for, if not to be in service.
const (
	DraftTrial    = "trial"
	DraftBacktest = "backtest"
)

// versionInsert keeps what an automation says at a version. by is uuid.Nil where a rule made it.
func (tx TenantTx) versionInsert(ctx context.Context, id uuid.UUID, version int, spec json.RawMessage, draft string, by uuid.UUID) error {
	behaviour, err := tx.Behaviour(ctx, spec)
	if err != nil {
		return err
	}
	a := args{"automation_id": id, "version": version, "spec": spec, "behaviour": behaviour, "draft": draft, "created_by": nil}
	if by != uuid.Nil {
		a["created_by"] = by
	}
	_, err = run(ctx, tx.tx, automationVersionInsertSQL, tx.with(a))
	return err
}

// notBehaviour are the keys of what an automation says that do not change what it writes.
var notBehaviour = []string{
	"credential_id", "demote", "loop", "max_call_usd", "mode", "name", "over_limit", "priority", "promote", "retry", "review",
}

// Behaviour is a hash of what of an automation decides what it writes, and of what. Nil where it cannot be read.
func Behaviour(spec json.RawMessage) []byte {
	decoder := json.NewDecoder(bytes.NewReader(spec))
	decoder.UseNumber()
	var said map[string]any
	if decoder.Decode(&said) != nil {
		return nil
	}
	for _, key := range notBehaviour {
		delete(said, key)
	}
	if action, ok := said["action"].(map[string]any); ok {
		delete(action, "credential_id")
	}
	text, err := json.Marshal(said)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(text)
	return sum[:]
}

// AutomationInsert keeps an automation and its first version. ErrNotFound: there is no such endpoint.
func (tx TenantTx) AutomationInsert(ctx context.Context, endpointID uuid.UUID, name string, spec json.RawMessage, by uuid.UUID) (Automation, error) {
	if _, err := tx.EndpointGet(ctx, endpointID); err != nil {
		return Automation{}, err
	}
	id := tenants.NewID()
	if _, err := run(ctx, tx.tx, automationInsertSQL, tx.with(args{"id": id, "endpoint_id": endpointID, "name": name})); err != nil {
		return Automation{}, err
	}
	if err := tx.versionInsert(ctx, id, 1, spec, "", by); err != nil {
		return Automation{}, err
	}
	return tx.AutomationGet(ctx, id)
}

const automationGetSQL = automationSelect + `and a.id = @id`

// AutomationGet reads an automation at its newest version.
func (tx TenantTx) AutomationGet(ctx context.Context, id uuid.UUID) (Automation, error) {
	return one[Automation](ctx, tx.tx, automationGetSQL, tx.with(args{"id": id}))
}

const automationListSQL = automationSelect + `
and (@endpoint_id::uuid is null or a.endpoint_id = @endpoint_id) and a.id < @before order by a.id desc limit @limit`

// AutomationList lists automations, newest first, of one endpoint or of all.
func (tx TenantTx) AutomationList(ctx context.Context, endpointID *uuid.UUID, p Page) ([]Automation, error) {
	return many[Automation](ctx, tx.tx, automationListSQL, tx.with(args{"endpoint_id": endpointID, "before": p.before(), "limit": p.Limit}))
}

// AutomationChange is a new version of an automation. A nil Spec changes only whether it is enabled, and makes no version.
type AutomationChange struct {
	EndpointID *uuid.UUID
	Name       *string
	Spec       json.RawMessage
	Enabled    *bool
	By         uuid.UUID
	// Version, if not 0, is the version that the caller has read.
	Version int
}

// automationUpdateSQL takes the next number: drafts have numbers, too.
const automationUpdateSQL = `
update sluice.automations set name = coalesce(@name, name), endpoint_id = coalesce(@endpoint_id, endpoint_id),
    enabled = coalesce(@enabled, enabled), updated_at = now(), version = case when @step::int = 0 then version else (
        select max(v.version) + 1 from sluice.automation_versions v where v.tenant_id = @tenant_id and v.automation_id = @id) end
where tenant_id = @tenant_id and id = @id and deleted_at is null and (@version::int = 0 or version = @version)
returning version`

// AutomationUpdate keeps a new version, or enables or disables. Runs that have begun go on with the version they name.
func (tx TenantTx) AutomationUpdate(ctx context.Context, id uuid.UUID, c AutomationChange) (Automation, error) {
	if c.EndpointID != nil {
		if _, err := tx.EndpointGet(ctx, *c.EndpointID); err != nil {
			return Automation{}, err
		}
	}
	step := 0
	if c.Spec != nil {
		step = 1
	}
	version, err := value[int](ctx, tx.tx, automationUpdateSQL, tx.with(args{
		"id": id, "name": c.Name, "endpoint_id": c.EndpointID, "enabled": c.Enabled, "step": step, "version": c.Version,
	}))
	if err != nil {
		return Automation{}, missOrStale(err, func() error { _, err := tx.AutomationGet(ctx, id); return err })
	}
	if c.Spec != nil {
		if err := tx.versionInsert(ctx, id, version, c.Spec, "", c.By); err != nil {
			return Automation{}, err
		}
	}
	return tx.AutomationGet(ctx, id)
}

const automationLockSQL = `select id from sluice.automations where tenant_id = @tenant_id and id = @id and deleted_at is null for update`

const automationDraftSQL = `
select max(version) + 1 from sluice.automation_versions where tenant_id = @tenant_id and automation_id = @id`

// AutomationDraft keeps a version that is not in service, for one of the Draft constants, and returns its number. ErrNotFound: there is no such automation.
func (tx TenantTx) AutomationDraft(ctx context.Context, id uuid.UUID, spec json.RawMessage, draft string, by uuid.UUID) (int, error) {
	// The number is taken under the automation's lock.
	if _, err := value[uuid.UUID](ctx, tx.tx, automationLockSQL, tx.with(args{"id": id})); err != nil {
		return 0, err
	}
	version, err := value[int](ctx, tx.tx, automationDraftSQL, tx.with(args{"id": id}))
	if err != nil {
		return 0, err
	}
	return version, tx.versionInsert(ctx, id, version, spec, draft, by)
}

const automationTrialSQL = `
update sluice.automations set trial_version = @trial::int, updated_at = now() where tenant_id = @tenant_id and id = @id and deleted_at is null returning id`

// AutomationTrial puts a version on trial beside the one in service, or with nil ends the trial.
func (tx TenantTx) AutomationTrial(ctx context.Context, id uuid.UUID, version *int) error {
	_, err := value[uuid.UUID](ctx, tx.tx, automationTrialSQL, tx.with(args{"id": id, "trial": version}))
	return err
}

const automationDeleteSQL = `
update sluice.automations set deleted_at = now(), updated_at = now()
where tenant_id = @tenant_id and id = @id and deleted_at is null and (@version::int = 0 or version = @version)
returning id`

// AutomationDelete takes an automation out of service; its runs and versions stay.
func (tx TenantTx) AutomationDelete(ctx context.Context, id uuid.UUID, version int) error {
	_, err := value[uuid.UUID](ctx, tx.tx, automationDeleteSQL, tx.with(args{"id": id, "version": version}))
	if err != nil {
		return missOrStale(err, func() error { _, err := tx.AutomationGet(ctx, id); return err })
	}
	return nil
}

// AutomationVersion is what an automation said at one version.
type AutomationVersion struct {
	TenantID     uuid.UUID
	AutomationID uuid.UUID
	Version      int
	Spec         json.RawMessage
	CreatedBy    *uuid.UUID
	CreatedAt    time.Time
	// Behaviour is Behaviour of Spec, nil of old versions; Draft is one of the Draft constants, or "".
	Behaviour []byte
	Draft     string
}

const automationVersionColumns = `v.tenant_id, v.automation_id, v.version, v.spec, v.created_by, v.created_at, v.behaviour, v.draft`

const automationVersionListSQL = `
select ` + automationVersionColumns + ` from sluice.automation_versions v
where v.tenant_id = @tenant_id and v.automation_id = @automation_id and v.version < @before order by v.version desc limit @limit`

// AutomationVersionList lists the versions of an automation below a number, newest first; before 0 begins at the newest.
func (tx TenantTx) AutomationVersionList(ctx context.Context, id uuid.UUID, before, limit int) ([]AutomationVersion, error) {
	if before <= 0 {
		before = 1 << 30
	}
	return many[AutomationVersion](ctx, tx.tx, automationVersionListSQL, tx.with(args{"automation_id": id, "before": before, "limit": limit}))
}

const automationVersionGetSQL = `
select ` + automationVersionColumns + ` from sluice.automation_versions v
where v.tenant_id = @tenant_id and v.automation_id = @automation_id and v.version = @version`

// AutomationVersionGet reads one version, also of an automation that was deleted since.
func (tx TenantTx) AutomationVersionGet(ctx context.Context, id uuid.UUID, version int) (AutomationVersion, error) {
	return one[AutomationVersion](ctx, tx.tx, automationVersionGetSQL, tx.with(args{"automation_id": id, "version": version}))
}

// AutomationsMax bounds the automations of one endpoint: each may make a run of an event.
const AutomationsMax = 50

const automationCountSQL = `
select count(*) from sluice.automations where tenant_id = @tenant_id and endpoint_id = @endpoint_id and deleted_at is null`

// AutomationCount counts an endpoint's automations, enabled or not.
func (tx TenantTx) AutomationCount(ctx context.Context, endpointID uuid.UUID) (int64, error) {
	return value[int64](ctx, tx.tx, automationCountSQL, tx.with(args{"endpoint_id": endpointID}))
}
