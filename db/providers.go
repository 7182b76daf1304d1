package db

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// ProviderState is what one worker process knows of a model, asked in the name of an owner: the operator, or a credential.
type ProviderState struct {
	ProviderKey
	ProviderHealth
}

// ProviderHealth is how a model does, as one process sees it.
type ProviderHealth struct {
	// State is that of the breaker: closed, half-open or open; OpenUntil is when an open one lets a probe pass, Opened how often it tripped.
	State     string     `json:"state"`
	OpenUntil *time.Time `json:"open_until,omitempty"`
	Opened    int64      `json:"opened"`
	// PausedUntil is when the provider's rate limit ends.
	PausedUntil *time.Time `json:"paused_until,omitempty"`
	// InFlight is how many calls are under way, Bulkhead how many may be; 0 is any number.
	InFlight int `json:"in_flight"`
	Bulkhead int `json:"bulkhead"`
	// LatencySeconds is a moving average; 0 before the first call.
	LatencySeconds float64 `json:"latency_seconds"`
	// Successes and Failures are those in the breaker's window.
	Successes int `json:"successes"`
	Failures  int `json:"failures"`
	// The last failure; an empty kind is none.
	ErrorKind   string     `json:"error_kind,omitempty"`
	ErrorStatus int        `json:"error_status,omitempty"`
	ErrorAt     *time.Time `json:"error_at,omitempty"`
}

const (
	// ProviderStateFresh is how old a state may be: a process that is silent for so long is taken for gone.
	ProviderStateFresh = 30 * time.Second
	// providerStateRewrite is how long a state that does not change is left alone.
	providerStateRewrite = ProviderStateFresh / 3
	// providerRowsKept is how long what is out of date stays, before whoever comes by takes it away.
	providerRowsKept = 10 * time.Minute
)

// providerStatesPutSQL rewrites what has changed, and what would look old soon. Rows of dead processes are taken away by whoever finds them free.
const providerStatesPutSQL = `
with given as materialized (
    select g.provider, g.model, g.owner, g.state from unnest(@providers::text[], @models::text[], @owners::text[], @states::jsonb[]) as g (provider, model, owner, state)
), dead as (
    select s.process, s.provider, s.model, s.owner from sluice.provider_states s
    where s.process <> @process and s.at < now() - @kept::interval
       or s.process = @process and (s.provider, s.model, s.owner) not in (select g.provider, g.model, g.owner from given g)
    order by s.process, s.provider, s.model, s.owner for update skip locked
), gone as (
    delete from sluice.provider_states s using dead d
    where s.process = d.process and s.provider = d.provider and s.model = d.model and s.owner = d.owner
)
insert into sluice.provider_states as s (process, provider, model, owner, state)
select @process, g.provider, g.model, g.owner, g.state from given g
order by g.provider, g.model, g.owner
on conflict (process, provider, model, owner) do update set state = excluded.state, at = now()
where s.state <> excluded.state or s.at < now() - @rewrite::interval`

// ProviderStatesPut publishes all that a process knows of the providers; what it knew before and does not name now is gone.
func (tx SystemTx) ProviderStatesPut(ctx context.Context, process string, states []ProviderState) error {
	providers, models, owners := make([]string, len(states)), make([]string, len(states)), make([]string, len(states))
	healths := make([]ProviderHealth, len(states))
	for i, s := range states {
		providers[i], models[i], owners[i], healths[i] = s.Provider, s.Model, s.Owner, s.ProviderHealth
	}
	_, err := run(ctx, tx.tx, providerStatesPutSQL, args{
		"process": process, "providers": providers, "models": models, "owners": owners, "states": healths,
		"kept": providerRowsKept, "rewrite": providerStateRewrite,
	})
	return err
}

// ProviderKey names what a state is of. An empty model is all models of the provider.
type ProviderKey struct{ Provider, Model, Owner string }

// ProviderStateRow is what one process knows of a key, and the rest that the provider asked of its owner.
type ProviderStateRow struct {
	ProviderKey
	// TenantID is the tenant of the owner's credential; nil for the operator's, and for a credential that is gone.
	TenantID    *uuid.UUID
	PausedUntil *time.Time
	PauseReason *string
	// Process, State and At are nil for an owner who is only known to rest.
	Process *string
	State   *ProviderHealth
	At      *time.Time
}

const providerStateListSQL = `
with keys as (
    select s.provider, s.model, s.owner from sluice.provider_states s where s.at > now() - @fresh::interval
    union
    select p.provider, '', p.owner from sluice.provider_pauses p
    where p.until > now() and not exists (
        select from sluice.provider_states s where s.provider = p.provider and s.owner = p.owner and s.at > now() - @fresh::interval)
), page as (
    select provider, model, owner from keys where (provider, model, owner) > (@provider, @model, @owner) order by provider, model, owner limit @limit
)
select k.provider, k.model, k.owner, c.tenant_id, p.until as paused_until, p.reason as pause_reason, s.process, s.state, s.at
from page k
left join sluice.provider_states s
    on s.provider = k.provider and s.model = k.model and s.owner = k.owner and s.at > now() - @fresh::interval
left join sluice.provider_pauses p on p.provider = k.provider and p.owner = k.owner and p.until > now()
left join sluice.credentials c on c.id::text = k.owner
order by k.provider, k.model, k.owner, s.process`

// ProviderStateList lists what the processes that are alive know of the next keys, up to limit of them; the rows of a key stand together.
func (tx SystemTx) ProviderStateList(ctx context.Context, after ProviderKey, limit int) ([]ProviderStateRow, error) {
	return many[ProviderStateRow](ctx, tx.tx, providerStateListSQL, args{
		"provider": after.Provider, "model": after.Model, "owner": after.Owner, "limit": limit, "fresh": ProviderStateFresh,
	})
}

// ProviderPause is a rest that a provider asked of an owner's key, for all of its models.
type ProviderPause struct {
	Provider, Owner string
	Until           time.Time
	Reason          string
}

const providerPausePutSQL = `
with ended as (
    select p.provider, p.owner from sluice.provider_pauses p
    where p.until < now() - @kept::interval and (p.provider, p.owner) <> (@provider, @owner)
    order by p.provider, p.owner for update skip locked
), gone as (
    delete from sluice.provider_pauses p using ended e where p.provider = e.provider and p.owner = e.owner
)
insert into sluice.provider_pauses as p (provider, owner, until, reason) values (@provider, @owner, @until, @reason)
on conflict (provider, owner) do update set until = excluded.until, reason = excluded.reason, at = now() where p.until < excluded.until`

// ProviderPausePut tells every worker of a pause. It only ever makes one longer.
func (tx SystemTx) ProviderPausePut(ctx context.Context, provider, owner string, until time.Time, reason string) error {
	_, err := run(ctx, tx.tx, providerPausePutSQL, args{
		"provider": provider, "owner": owner, "until": until, "reason": reason, "kept": providerRowsKept,
	})
	return err
}

// providerPausesMax bounds what is read of pauses.
const providerPausesMax = 10_000

const providerPauseListSQL = `
select p.provider, p.owner, p.until, p.reason from sluice.provider_pauses p
where p.until > now() order by p.provider, p.owner limit @limit`

// ProviderPauseList lists the pauses that have not ended.
func (tx SystemTx) ProviderPauseList(ctx context.Context) ([]ProviderPause, error) {
	return many[ProviderPause](ctx, tx.tx, providerPauseListSQL, args{"limit": providerPausesMax})
}
