package db

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/tenants"
)

// What it costs: I5 (paid once), I6 (booked to the token), I7 (never above the limit).

// doctorCallSQL: a call is alive while its run is held, in the same hold, by a worker that reports back.
const doctorCallSQL = `
select c.tenant_id, c.id, c.state || ', and nobody waits for it' as what, c.created_at as since
from (select tenant_id, id, run_id, epoch, state, created_at from sluice.calls
      where state in ('intended', 'sent') and created_at < now() - @grace::interval order by created_at limit @scanned::bigint) c
left join sluice.runs r on r.tenant_id = c.tenant_id and r.id = c.run_id
where (r.status = 'running' and r.epoch = c.epoch and r.lease_until > now() - @grace::interval) is not true`

const doctorReservedSQL = `
with open as (
    select tenant_id, sum(reserved_tokens)::bigint as tokens, sum(reserved_pico)::bigint as pico from sluice.calls
    where state in ('intended', 'sent') group by tenant_id)
select b.tenant_id, b.tenant_id as id, b.reserved_tokens || ' tokens, ' || b.reserved_pico || ' pico are reserved; its calls under way want '
    || coalesce(o.tokens, 0) || ' tokens, ' || coalesce(o.pico, 0) || ' pico' as what, null::timestamptz as since
from sluice.budgets b left join open o on o.tenant_id = b.tenant_id
where (b.reserved_tokens, b.reserved_pico) <> (coalesce(o.tokens, 0), coalesce(o.pico, 0))`

// doctorCapSQL looks only at windows in which the limit was the same all the time: one that was lowered may be below what was spent before. What was
// raised for a while counts as raised, and a correction of the ledger is no spending.
const doctorCapSQL = `
select b.tenant_id, b.tenant_id as id, w.name || ': ' || w.used || ' of ' || w.cap || ' are used or reserved' as what, w.since
from sluice.budgets b join sluice.limits l on l.tenant_id = b.tenant_id
left join lateral (
    select max(value) filter (where name = 'tokens_per_day' and until > b.day_from) as tokens, max(value) filter (where name = 'cost_per_day_usd' and until > b.day_from) as day,
           max(value) filter (where name = 'cost_per_month_usd' and until > b.month_from) as month
    from sluice.limit_raises x where x.tenant_id = b.tenant_id) r on true
cross join lateral (values
    ('tokens_per_day', b.day_tokens + b.reserved_tokens, greatest(l.tokens_per_day_hard, case when l.tokens_per_day_hard is not null then r.tokens end), b.day_from, b.day_until),
    ('cost_per_day_usd', b.day_pico + b.reserved_pico, greatest(l.cost_per_day_hard, case when l.cost_per_day_hard is not null then r.day end), b.day_from, b.day_until),
    ('cost_per_month_usd', b.month_pico + b.reserved_pico, greatest(l.cost_per_month_hard, case when l.cost_per_month_hard is not null then r.month end), b.month_from, b.month_until)
    ) w (name, used, cap, since, until)
where w.used > w.cap and w.until > now() and l.updated_at < w.since
  and not exists (select from sluice.ledger_entries e where e.tenant_id = b.tenant_id and e.at >= w.since and e.kind = 'adjust')`

const doctorUsageSQL = `
select t.tenant_id, t.tenant_id as id, 'its ledger is not summed up to an hour ago' as what,
    case when isfinite(w.until) then w.until end as since
from sluice.tenants t left join sluice.usage_rolled w on w.tenant_id = t.tenant_id
where exists (select from sluice.ledger_entries e where e.tenant_id = t.tenant_id and e.at >= coalesce(w.until, '-infinity')
              and e.at < sluice.usage_slot(now() - interval '1 hour'))`

// doctorModelsSQL are the models that automations in service may ask.
const doctorModelsSQL = `
select distinct a.tenant_id, a.id, m.model
from sluice.automations a
join sluice.automation_versions v on v.tenant_id = a.tenant_id and v.automation_id = a.id and v.version = a.version
join sluice.tenants t on t.tenant_id = a.tenant_id
cross join lateral (
    select v.spec ->> 'model' union select v.spec ->> 'cheaper_model'
    union select f from jsonb_array_elements_text(case when jsonb_typeof(v.spec -> 'fallbacks') = 'array' then v.spec -> 'fallbacks' else '[]' end) f) m (model)
where a.enabled and a.deleted_at is null and t.status = 'active' and m.model <> ''`

type doctorModel struct {
	TenantID uuid.UUID
	ID       uuid.UUID
	Model    string
}

const doctorPricedSQL = `
select distinct provider || '/' || model from sluice.prices where effective_from <= now() and (effective_to is null or effective_to > now())`

// lookPrices finds automations that may ask a model without a price: their runs die of it.
func lookPrices(ctx context.Context, x *examination) (seen, error) {
	priced, err := values[string](ctx, x.tx, doctorPricedSQL, args{})
	if err != nil {
		return seen{}, err
	}
	asked, err := many[doctorModel](ctx, x.tx, doctorModelsSQL, args{})
	if err != nil {
		return seen{}, err
	}
	var items []Item
	for _, a := range asked {
		provider, model, _ := strings.Cut(a.Model, "/")
		names := []string{model}
		if x.PriceNames != nil {
			names = x.PriceNames(model)
		}
		if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(priced, provider+"/"+name) }) {
			items = append(items, Item{TenantID: &a.TenantID, ID: &a.ID, What: "may ask " + a.Model + ", which has no price"})
		}
	}
	return x.sawOf(items), nil
}

const doctorTenantsSQL = `select tenant_id from sluice.tenants order by tenant_id`

// differencePrefixes say whose id a difference of the books names.
var differencePrefixes = map[string]string{
	DifferenceCall: tenants.CallPrefix, DifferenceCallPrice: tenants.CallPrefix, DifferenceEntryCall: tenants.EntryPrefix,
	DifferenceEntryPrice: tenants.EntryPrefix, DifferenceRun: tenants.RunPrefix,
}

// lookLedger compares the books of each tenant, as `sluice ledger check` does, all at the moment of the look.
func lookLedger(ctx context.Context, x *examination) (seen, error) {
	all, err := values[uuid.UUID](ctx, x.tx, doctorTenantsSQL, args{})
	if err != nil {
		return seen{}, err
	}
	var items []Item
	list := func(tenantID uuid.UUID, differences []Difference) {
		for _, d := range differences {
			what := d.Kind
			if prefix := differencePrefixes[d.Kind]; prefix != "" {
				what += " " + tenants.FormatID(prefix, d.Subject)
			}
			items = append(items, Item{TenantID: &tenantID, ID: &tenantID, What: what + ": expected " + d.Expected + ", found " + d.Found})
		}
	}
	for _, id := range all {
		err := x.asTenant(ctx, id, func(tx TenantTx) error {
			found, err := tx.LedgerCheck(ctx)
			list(id, found)
			return err
		})
		if err != nil {
			return seen{}, fmt.Errorf("check the books of tenant %s: %w", id, err)
		}
	}
	strangers, err := SystemTx{tx: x.tx}.LedgerTenantsCheck(ctx)
	for _, d := range strangers {
		list(d.Subject, []Difference{d})
	}
	return x.sawOf(items), err
}

// asTenant runs fn as the application does, under the tenant's row security, at the moment of the look.
func (x *examination) asTenant(ctx context.Context, id uuid.UUID, fn func(TenantTx) error) error {
	// The name of a snapshot is the server's own, of hex digits and hyphens.
	begin := "begin read only, isolation level repeatable read; set transaction snapshot '" + x.snapshot + "'; set local jit = off; set local statement_timeout = '" +
		doctorTimeoutDeep + "'; set local lock_timeout = '" + doctorLockTimeout + "'; select set_config('sluice.tenant_id', '" + id.String() + "', true)"
	tx, err := x.db.app.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
	if err != nil {
		return unavailable(fmt.Errorf("begin: %w", err))
	}
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_ = tx.Rollback(cleanup)
	}()
	return fn(TenantTx{TenantID: id, tx: tx, sealer: x.db.sealer})
}

const doctorAuditSQL = `
select f.tenant_id, f.tenant_id as id, 'entry ' || f.seq || ': ' || f.fault as what, null::timestamptz as since from sluice.audit_faults(null) f`

// lookSecrets opens what the tenants' secrets are sealed under, and in a deep look each of them, where the doctor was given the master key. It reads as
// the rotation of keys does, and not at the moment of the look.
func lookSecrets(ctx context.Context, x *examination) (seen, error) {
	if x.db.sealer == nil {
		return seen{}, nil
	}
	opens := x.db.MasterKeyCheck
	if x.Deep {
		opens = x.db.KeysCheck
	}
	r, err := opens(ctx)
	var items []Item
	for _, name := range r.Unreadable {
		items = append(items, Item{What: name + " does not open"})
	}
	return x.sawOf(items), err
}
