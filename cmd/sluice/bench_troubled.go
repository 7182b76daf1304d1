package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/db"
	"sluice/scripted"
	"sluice/tenants"
)

// troubledTenant is a tenant whose model is in trouble, asked with a key of its own.
type troubledTenant struct {
	*providersRound
	guest
	trouble

	credential uuid.UUID
	endedAt    time.Time
	recovered  backlog
	err        error
}

// backlog is what is left of a tenant's runs after a while.
type backlog struct {
	took time.Duration
	left int
}

// troubled makes the tenant of a trouble, and the price of its model.
func (r *providersRound) troubled(ctx context.Context, t trouble) (*troubledTenant, error) {
	one := &troubledTenant{providersRound: r, trouble: t}
	if _, err := r.owner.Exec(ctx, providersPriceSQL, "scripted", t.model()); err != nil {
		return nil, fmt.Errorf("price a model: %w", err)
	}
	if _, err := r.house.furnish(ctx, r.db, noAction, "live"); err != nil {
		return nil, fmt.Errorf("furnish a tenant in trouble: %w", err)
	}
	one.tenant, one.endpoint = r.house.tenant, r.house.endpoint
	err := r.db.Tenant(ctx, one.tenant, func(tx db.TenantTx) error {
		c, err := tx.CredentialInsert(ctx, "scripted", "scripted", tenants.NewSecret("scripted-key-"+one.tenant.String()))
		if err != nil {
			return err
		}
		one.credential = c.ID
		spec := map[string]any{
			"name": "troubled", "model": "scripted/" + t.model(), "mode": "live", "max_output_tokens": 100, "prompt": map[string]any{"user": "{{ payload.type }}"},
			"action": noAction(""),
		}
		if t.schema {
			spec["output_schema"] = map[string]any{"type": "object", "properties": map[string]any{"reply": map[string]any{"type": "string"}}, "required": []string{"reply"}}
		}
		if t.fallback != "" {
			spec["fallbacks"] = []string{t.fallback}
		}
		raw, err := json.Marshal(spec)
		if err != nil {
			return err
		}
		a, err := tx.AutomationInsert(ctx, one.endpoint, "troubled", raw, uuid.Nil)
		one.automation = a.ID
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make the automation of %s: %w", t.name, err)
	}
	return one, nil
}

func (t *troubledTenant) flood(ctx context.Context) error {
	return plantFor(ctx, t.db, t.guest, t.Flood, false)
}

func (t *troubledTenant) begin() error {
	control := t.control
	control.Model = t.model()
	return t.provider.Control(control)
}

// end ends the trouble, and does what a person would: a key that works again is told so.
func (t *troubledTenant) end(ctx context.Context) error {
	t.endedAt = time.Now()
	if err := t.provider.Control(scripted.ProviderControl{Mode: scripted.ModeOK, Model: t.model()}); err != nil {
		return err
	}
	if t.control.Mode == scripted.ModeHang {
		t.provider.Release()
	}
	return t.db.Tenant(ctx, t.tenant, func(tx db.TenantTx) error { return tx.CredentialResume(ctx, t.credential) })
}

// await waits until the backlog is done, for as long as it may take.
func (t *troubledTenant) await(ctx context.Context, most time.Duration) backlog {
	for {
		b := backlog{took: time.Since(t.endedAt)}
		t.err = t.owner.QueryRow(ctx, `select count(*) from sluice.runs where tenant_id = $1 and finished_at is null`, t.tenant).Scan(&b.left)
		if t.err != nil || b.left == 0 || b.took > most {
			return b
		}
		pause(ctx, providersPoll)
	}
}

// seen are the moments at which the provider was asked for the tenant's model.
func (t *troubledTenant) seen() (calls []time.Time) {
	for _, e := range t.provider.Journal() {
		if e.Model == t.model() {
			calls = append(calls, e.At)
		}
	}
	return calls
}

// show prints the tenant's calls and runs at the end of a phase.
func (t *troubledTenant) show(ctx context.Context, phase *othersFigure) error {
	calls := t.seen()
	statuses, err := t.statuses(ctx)
	if err != nil {
		return err
	}
	rates := ""
	if phase != nil {
		most, last := 0, 0
		seconds := map[int]int{}
		for _, at := range calls {
			second := int(at.Sub(phase.from).Seconds())
			seconds[second]++
			most = max(most, seconds[second])
			if phase.to.Sub(at) < providersRatePart {
				last++
			}
		}
		rates = fmt.Sprintf(", %d in the busiest second, %.1f a second in the last %s", most, float64(last)/providersRatePart.Seconds(), providersRatePart)
	}
	fmt.Fprintf(t.out, "%-15s troubled: %d calls%s; runs: %s\n", "", len(calls), rates, statuses)
	return nil
}

// statuses are the tenant's runs by status and reason.
func (t *troubledTenant) statuses(ctx context.Context) (string, error) {
	rows, err := t.owner.Query(ctx, `select trim(status || ' ' || reason), count(*) from sluice.runs where tenant_id = $1 group by 1 order by 2 desc`, t.tenant)
	if err != nil {
		return "", fmt.Errorf("count the runs of %s: %w", t.name, err)
	}
	var parts []string
	var status string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&status, &n}, func() error {
		parts = append(parts, fmt.Sprintf("%d %s", n, status))
		return nil
	})
	return strings.Join(parts, ", "), err
}

// judge prints how the tenant recovered, and holds it against the promise: trouble costs waiting, not failures.
func (t *troubledTenant) judge(ctx context.Context) error {
	if t.err != nil {
		return fmt.Errorf("watch the backlog of %s: %w", t.name, t.err)
	}
	statuses, err := t.statuses(ctx)
	if err != nil {
		return err
	}
	calls, most, dead, latest, err := t.counts(ctx)
	if err != nil {
		return err
	}
	recovered := fmt.Sprintf("backlog done %.1f s after its end", t.recovered.took.Seconds())
	if t.recovered.left > 0 {
		recovered = fmt.Sprintf("%d runs left %.0f s after its end, the last of which waits until %s after it", t.recovered.left, t.recovered.took.Seconds(),
			latest.Sub(t.endedAt).Round(time.Second))
		t.broken("%s: %s", t.name, recovered)
	}
	if dead > 0 && !t.deadly {
		t.broken("%s: %d runs are dead", t.name, dead)
	}
	fmt.Fprintf(t.out, "%-15s %s; calls per run %.2f, at most %d; %d dead; runs: %s\n", t.name, recovered, float64(calls)/float64(t.Flood), most, dead, statuses)
	return nil
}

const troubledCountsSQL = `
select coalesce(sum(c.n), 0)::int, coalesce(max(c.n), 0)::int, (count(*) filter (where r.status = 'dead'))::int, coalesce(max(r.until) filter (where r.finished_at is null), now())
from sluice.runs r
left join lateral (select count(*) as n from sluice.calls c where c.tenant_id = r.tenant_id and c.run_id = r.id and c.sent_at is not null) c on true
where r.tenant_id = $1`

// counts are the tenant's calls, the most that one run made, its dead runs, and until when the last of its runs waits.
func (t *troubledTenant) counts(ctx context.Context) (calls, most, dead int, latest time.Time, err error) {
	if err = t.owner.QueryRow(ctx, troubledCountsSQL, t.tenant).Scan(&calls, &most, &dead, &latest); err != nil {
		err = fmt.Errorf("count the calls of %s: %w", t.name, err)
	}
	return calls, most, dead, latest, err
}

// served says which models the tenant's runs were answered by, and how many calls each took for it.
func (t *troubledTenant) served(ctx context.Context) (string, error) {
	rows, err := t.owner.Query(ctx, `select provider || '/' || model_asked, count(*) filter (where state = 'received'), count(*) from sluice.calls where tenant_id = $1 group by 1 order by 2 desc`,
		t.tenant)
	if err != nil {
		return "", fmt.Errorf("count the answers to %s: %w", t.name, err)
	}
	var parts []string
	var model string
	var received, calls int
	_, err = pgx.ForEachRow(rows, []any{&model, &received, &calls}, func() error {
		parts = append(parts, fmt.Sprintf("%s %d of %d calls", model, received, calls))
		return nil
	})
	return strings.Join(parts, ", "), err
}

// fallbacksWithin is how long runs with a fallback are watched.
const fallbacksWithin = 20 * time.Second

// fallbacks lets automations with a second model meet trouble that does not end, all at once.
func (r *providersRound) fallbacks(ctx context.Context) error {
	fmt.Fprintf(r.out, "\nwith a fallback, and a trouble that does not end; %d events each, up to %s\n", r.Flood, fallbacksWithin)
	var cases []*troubledTenant
	for _, t := range providersFallbacks {
		one, err := r.troubled(ctx, t)
		if err != nil {
			return err
		}
		if err := one.begin(); err != nil {
			return err
		}
		if err := one.flood(ctx); err != nil {
			return err
		}
		one.endedAt = time.Now()
		cases = append(cases, one)
	}
	var group sync.WaitGroup
	for _, one := range cases {
		group.Go(func() { one.recovered = one.await(ctx, fallbacksWithin) })
	}
	group.Wait()
	for _, one := range cases {
		if one.err != nil {
			return one.err
		}
		statuses, err := one.statuses(ctx)
		if err != nil {
			return err
		}
		by, err := one.served(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(r.out, "%-15s fallback %-17s after %.1f s: %s; answers: %s\n", one.name, one.fallback, one.recovered.took.Seconds(), statuses, by)
	}
	return nil
}
