package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"sluice/tenants"
)

// The kinds of alert channels.
const (
	ChannelWebhook = "webhook"
	ChannelSlack   = "slack"
	ChannelEmail   = "email"
)

// AlertChannelsMax is how many channels a tenant may have: each alert is told to all of them.
const AlertChannelsMax = 20

// AlertChannel is where alerts are told, without what is secret of it.
type AlertChannel struct {
	TenantID  uuid.UUID
	ID        uuid.UUID
	Name      string
	Kind      string
	Target    string   // where it goes, without its secret part
	Kinds     []string // of the alerts that are told here; none is all
	CreatedAt time.Time
	LastAt    *time.Time // of the last try
	LastFault string     // of the last try; "" if it went well
}

// AlertAddress is what is sealed of a channel.
type AlertAddress struct {
	URL    tenants.Secret // of a webhook or of Slack
	Secret tenants.Secret // that a webhook is signed with
	Email  tenants.Secret
}

// alertAddressText is an AlertAddress as it is sealed. It never leaves this file.
type alertAddressText struct {
	URL    string `json:"url,omitempty"`
	Secret string `json:"secret,omitempty"`
	Email  string `json:"email,omitempty"`
}

const alertChannelsTable = "alert_channels"

const alertChannelColumns = `tenant_id, id, name, kind, target, kinds, created_at, last_at, last_fault`

// alertChannelsLockSQL makes two requests count one after the other.
const alertChannelsLockSQL = `select pg_advisory_xact_lock(hashtextextended('alert_channels ' || @tenant_id::uuid, 0))`

const alertChannelInsertSQL = `
insert into sluice.alert_channels (tenant_id, id, name, kind, target, sealed, kinds)
select @tenant_id, @id, @name, @kind, @target, @sealed, @kinds
where (select count(*) from sluice.alert_channels where tenant_id = @tenant_id) < @most
returning ` + alertChannelColumns

// AlertChannelInsert seals an address and keeps a channel of c's name, kind, target and kinds. ErrConflict: there are AlertChannelsMax of them.
func (tx TenantTx) AlertChannelInsert(ctx context.Context, c AlertChannel, to AlertAddress) (AlertChannel, error) {
	id := tenants.NewID()
	text, err := json.Marshal(alertAddressText{URL: to.URL.Reveal(), Secret: to.Secret.Reveal(), Email: to.Email.Reveal()})
	if err != nil {
		return AlertChannel{}, fmt.Errorf("write the address of an alert channel: %w", err)
	}
	sealed, err := tx.seal(ctx, alertChannelsTable, id.String(), tenants.NewSecret(string(text)))
	if err != nil {
		return AlertChannel{}, err
	}
	if _, err := run(ctx, tx.tx, alertChannelsLockSQL, tx.with(nil)); err != nil {
		return AlertChannel{}, err
	}
	if c.Kinds == nil {
		c.Kinds = []string{}
	}
	made, err := one[AlertChannel](ctx, tx.tx, alertChannelInsertSQL, tx.with(args{
		"id": id, "name": c.Name, "kind": c.Kind, "target": c.Target, "sealed": sealed, "kinds": c.Kinds, "most": AlertChannelsMax,
	}))
	if errors.Is(err, ErrNotFound) {
		return AlertChannel{}, fmt.Errorf("%w: %d alert channels", ErrConflict, AlertChannelsMax)
	}
	return made, err
}

const alertChannelGetSQL = `select ` + alertChannelColumns + ` from sluice.alert_channels where tenant_id = @tenant_id and id = @id`

// AlertChannelGet reads a channel without its address.
func (tx TenantTx) AlertChannelGet(ctx context.Context, id uuid.UUID) (AlertChannel, error) {
	return one[AlertChannel](ctx, tx.tx, alertChannelGetSQL, tx.with(args{"id": id}))
}

const alertChannelListSQL = `
select ` + alertChannelColumns + ` from sluice.alert_channels
where tenant_id = @tenant_id and id < @before order by id desc limit @limit`

// AlertChannelList lists channels, newest first.
func (tx TenantTx) AlertChannelList(ctx context.Context, p Page) ([]AlertChannel, error) {
	return many[AlertChannel](ctx, tx.tx, alertChannelListSQL, tx.with(args{"before": p.before(), "limit": p.Limit}))
}

const alertChannelSealedSQL = `select sealed from sluice.alert_channels where tenant_id = @tenant_id and id = @id`

// AlertChannelAddress opens the address of a channel.
func (tx TenantTx) AlertChannelAddress(ctx context.Context, id uuid.UUID) (AlertAddress, error) {
	sealed, err := value[[]byte](ctx, tx.tx, alertChannelSealedSQL, tx.with(args{"id": id}))
	if err != nil {
		return AlertAddress{}, err
	}
	opened, err := tx.unseal(ctx, alertChannelsTable, id.String(), sealed)
	if err != nil {
		return AlertAddress{}, err
	}
	var text alertAddressText
	if json.Unmarshal([]byte(opened.Reveal()), &text) != nil {
		// The error of the parser would quote what it could not read.
		return AlertAddress{}, fmt.Errorf("read the address of alert channel %s: it is not as it was written", id)
	}
	return AlertAddress{URL: tenants.NewSecret(text.URL), Secret: tenants.NewSecret(text.Secret), Email: tenants.NewSecret(text.Email)}, nil
}

const alertChannelDeleteSQL = `delete from sluice.alert_channels where tenant_id = @tenant_id and id = @id`

// AlertChannelDelete deletes a channel, with what was still to be told there.
func (tx TenantTx) AlertChannelDelete(ctx context.Context, id uuid.UUID) error {
	rows, err := run(ctx, tx.tx, alertChannelDeleteSQL, tx.with(args{"id": id}))
	if err == nil && rows == 0 {
		return ErrNotFound
	}
	return err
}

const alertChannelTriedSQL = `
update sluice.alert_channels set last_at = now(), last_fault = @fault where tenant_id = @tenant_id and id = @id`
