package db

// What came in: I1 (acked is stored), I2 (what is stored is worked on), I3 (once).

// doctorEvents are the events that are looked at. The inner limit makes it one walk of an index for each tenant, whatever the planner thinks of ids.
const doctorEvents = `
sluice.tenants t cross join lateral (
    select e.tenant_id, e.id, e.endpoint_id, e.source_event_id, e.received_at, e.verdicts from sluice.events e
    where e.tenant_id = t.tenant_id and e.id >= @from::uuid offset 0) e`

const doctorRunMissingSQL = `
select e.tenant_id, e.id, 'matched ' || (v.verdict ->> 'automation_id') || ', and has no run of it' as what, e.received_at as since
from ` + doctorEvents + `
cross join lateral jsonb_array_elements(e.verdicts) v (verdict)
where (v.verdict ->> 'matched')::boolean and not exists (
    select from sluice.runs r where r.tenant_id = e.tenant_id and r.event_id = e.id and r.automation_id = replace(v.verdict ->> 'automation_id', 'aut_', '')::uuid
      and r.purpose = case when (v.verdict ->> 'trial')::boolean then 'trial' else 'event' end)`

const doctorEventKeySQL = `
select e.tenant_id, e.id, case when k.event_id is null then 'has no key' else 'its key is another event''s' end as what, e.received_at as since
from ` + doctorEvents + `
left join sluice.event_keys k on k.tenant_id = e.tenant_id and k.endpoint_id = e.endpoint_id and k.kind = 'id' and k.key = e.source_event_id
where k.event_id is distinct from e.id`

// doctorTimeOf is the time that is in a UUIDv7.
const doctorTimeOf = `to_timestamp(('x' || substr(replace(k.event_id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0)`

const doctorEventLostSQL = `
select k.tenant_id, k.event_id as id, 'has a key, and is not there' as what, ` + doctorTimeOf + ` as since
from sluice.event_keys k where not exists (select from sluice.events e where e.tenant_id = k.tenant_id and e.id = k.event_id)`

// doctorPayloadSQL begins with the oldest day that is kept: what came before has been dropped by the retention.
const doctorPayloadSQL = `
with kept as (
    select coalesce(sluice.uuid_from(min(to_date(right(c.relname, 8), 'YYYYMMDD')) at time zone 'UTC'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) as from_id
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'sluice.event_payloads'::regclass and c.relname ~ '^event_payloads_[0-9]{8}$')
select e.tenant_id, e.id, case when p.event_id is null then 'has no raw body' else 'the event that keeps its raw body does not' end as what, e.received_at as since
from kept, ` + doctorEvents + `
left join sluice.event_payloads p on p.tenant_id = e.tenant_id and p.event_id = e.id
where e.id >= kept.from_id and (p.event_id is null or p.body_of <> p.event_id and not exists (
    select from sluice.event_payloads b where b.tenant_id = p.tenant_id and b.event_id = p.body_of))`

const doctorPartitionSQL = `
select null::uuid as tenant_id, null::uuid as id, 'no partition for ' || d.day as what, null::timestamptz as since
from (select (now() at time zone 'UTC')::date + n as day from generate_series(0, 2) n) d
where to_regclass('sluice.event_payloads_' || to_char(d.day, 'YYYYMMDD')) is null`

const doctorPayloadDefaultSQL = `
select null::uuid as tenant_id, p.event_id as id, 'stands in no day''s partition' as what, null::timestamptz as since from sluice.event_payloads_default p`

const doctorTenantRowsSQL = `
select t.tenant_id, t.tenant_id as id, concat_ws(', ', case when l.tenant_id is null then 'no limits' end, case when p.tenant_id is null then 'no place' end,
    case when b.tenant_id is null then 'no budget' end, case when k.tenant_id is null then 'no data key' end) as what, t.created_at as since
from sluice.tenants t left join sluice.limits l using (tenant_id) left join sluice.places p using (tenant_id) left join sluice.budgets b using (tenant_id)
left join sluice.tenant_keysets k using (tenant_id)
where t.status <> 'erased' and (l.tenant_id is null or p.tenant_id is null or b.tenant_id is null or k.tenant_id is null)`

// doctorErasedSQL probes one index of each large table for each tenant that was erased. The order keeps a plan from looking for nothing in all of it.
const doctorErasedSQL = `
select t.tenant_id, t.tenant_id as id, 'rows of ' || h.name || ' are still there' as what, t.updated_at as since
from sluice.tenants t cross join lateral (values
    ('events', (select true from sluice.events x where x.tenant_id = t.tenant_id order by x.id limit 1)),
    ('event_keys', (select true from sluice.event_keys x where x.tenant_id = t.tenant_id order by x.endpoint_id, x.kind, x.key limit 1)),
    ('event_payloads', (select true from sluice.event_payloads x where x.tenant_id = t.tenant_id order by x.event_id limit 1)),
    ('runs', (select true from sluice.runs x where x.tenant_id = t.tenant_id order by x.id limit 1)),
    ('run_history', (select true from sluice.run_history x where x.tenant_id = t.tenant_id order by x.run_id, x.position limit 1)),
    ('calls', (select true from sluice.calls x where x.tenant_id = t.tenant_id order by x.id limit 1)),
    ('actions', (select true from sluice.actions x where x.tenant_id = t.tenant_id order by x.id limit 1)),
    ('automations', exists (select from sluice.automations x where x.tenant_id = t.tenant_id)),
    ('endpoints', exists (select from sluice.endpoints x where x.tenant_id = t.tenant_id)),
    ('endpoint_secrets', exists (select from sluice.endpoint_secrets x where x.tenant_id = t.tenant_id)),
    ('credentials', exists (select from sluice.credentials x where x.tenant_id = t.tenant_id)),
    ('keys', exists (select from sluice.keys x where x.tenant_id = t.tenant_id)),
    ('tenant_keysets', exists (select from sluice.tenant_keysets x where x.tenant_id = t.tenant_id))) h (name, there)
where t.status = 'erased' and h.there`
