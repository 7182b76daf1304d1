package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/db"
	"sluice/scripted"
	"sluice/tenants"
)

type benchProviders struct {
	Flood     int           `default:"2000" help:"Events of the tenant in trouble, at the beginning of each trouble."`
	Others    int           `default:"10" help:"Other tenants, on the operator's key."`
	PerSecond float64       `default:"20" help:"Events a second of each of them."`
	During    time.Duration `default:"16s" help:"How long each trouble lasts."`
	Recover   time.Duration `default:"60s" help:"How long a backlog may take to be done after its trouble."`
	Only      []string      `help:"These troubles alone."`
	Apart     bool          `help:"Let each backlog recover before the next trouble begins, and not meanwhile; twice as long."`
}

const (
	// providersJournal keeps every call of the bench in memory: the journal is the judge.
	providersJournal = 500_000
	// providersThroughputMin is what the others keep of their throughput at least.
	providersThroughputMin = 0.95
	// providersRatePart is the last part of a trouble, over which its calls per second are shown.
	providersRatePart = 5 * time.Second
	// providersPoll is how often a backlog is looked at.
	providersPoll = 250 * time.Millisecond
	// providersSlowMS is how long a slow model takes.
	providersSlowMS = 60_000
	// providersRetryAfterS is what a storm asks to wait.
	providersRetryAfterS = 3
	// providersOwnAccount is a model of the operator's account with another provider.
	providersOwnAccount = "openai/gpt-bench"
)

// providersSettings shorten what would take minutes: a model that says nothing is given up after 5 s and not after 30.
var providersSettings = []string{"SLUICE_FIRST_TOKEN_TIMEOUT=5s", "SLUICE_MODEL_TIMEOUT=10s"}

// A trouble is one way in which a model misbehaves.
type trouble struct {
	name    string
	control scripted.ProviderControl
	// schema asks for JSON, which garbage can only then fail to be.
	schema bool
	// deadly troubles are those in which a run's end is the model's own answer, and no wait would help.
	deadly   bool
	fallback string
}

// model is the trouble's own, so that it begins and ends without touching another's.
func (t trouble) model() string { return "claude-" + t.name }

const healthy = "none"

var providersTroubles = []trouble{
	{name: "rejected-key", control: scripted.ProviderControl{Mode: scripted.ModeUnauthorized}},
	{name: "slow", control: scripted.ProviderControl{Mode: scripted.ModeSlow, DelayMS: providersSlowMS}},
	{name: "hang", control: scripted.ProviderControl{Mode: scripted.ModeHang}},
	{name: "storm", control: scripted.ProviderControl{Mode: scripted.ModeRateLimit, RetryAfterS: providersRetryAfterS}},
	{name: "flap", control: scripted.ProviderControl{Mode: scripted.ModeFlap}},
	{name: "garbage-body", control: scripted.ProviderControl{Mode: scripted.ModeBadBody}},
	{name: "garbage-text", control: scripted.ProviderControl{Mode: scripted.ModeBadJSON}, schema: true, deadly: true},
}

// providersFallbacks run at once: what others notice is not their question.
var providersFallbacks = []trouble{
	{name: "storm-beside", control: scripted.ProviderControl{Mode: scripted.ModeRateLimit, RetryAfterS: providersRetryAfterS}, fallback: "scripted/echo-1"},
	{name: "storm-elsewhere", control: scripted.ProviderControl{Mode: scripted.ModeRateLimit, RetryAfterS: providersRetryAfterS}, fallback: providersOwnAccount},
	{name: "flap-beside", control: scripted.ProviderControl{Mode: scripted.ModeFlap}, fallback: "scripted/echo-1"},
	{name: "error-beside", control: scripted.ProviderControl{Mode: scripted.ModeError500}, fallback: "scripted/echo-1"},
}

// providersPriceSQL gives a model the price of echo-1; in the bench's own database.
const providersPriceSQL = `
insert into sluice.prices (id, provider, model, effective_from, input_pico, cache_read_pico, cache_write_5m_pico, cache_write_1h_pico, output_pico, source)
select (select max(id) + 1 from sluice.prices), $1, $2, p.effective_from, p.input_pico, p.cache_read_pico, p.cache_write_5m_pico, p.cache_write_1h_pico, p.output_pico, 'bench'
from sluice.prices p where p.provider = 'scripted' and p.model = 'echo-1'`

// Run plays every trouble, prints what came of it, and fails where a promise is broken.
func (b benchProviders) Run(ctx context.Context, std streams, lookup environment) error {
	h, err := newBenchHouse(ctx, lookup)
	if err != nil {
		return err
	}
	defer h.close()
	h.machine(std.out, "providers")
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now, JournalKeep: providersJournal})
	if err != nil {
		return err
	}
	defer func() { _ = provider.Close() }()
	owner, err := pgxpool.New(ctx, h.url+"&pool_max_conns=4")
	if err != nil {
		return err
	}
	defer owner.Close()
	d, closeDB, err := h.open(ctx, db.AppRole, int32(b.Others)+4, "") //nolint:mnd // one for each sender, and some for the floods
	if err != nil {
		return err
	}
	defer closeDB()
	r := &providersRound{benchProviders: b, house: h, provider: provider, owner: owner, db: d, out: std.out}
	if err := r.play(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBench, err)
	}
	checked := ledgerCheck{}.Run(ctx, &Config{DatabaseURL: tenants.NewSecret(h.url)}, std)
	if checked != nil {
		r.broken("sluice ledger check: %v", checked)
	}
	for _, one := range r.breaches {
		fmt.Fprintln(std.out, "BROKEN:", one)
	}
	if len(r.breaches) > 0 {
		return fmt.Errorf("%w: %d promises are broken", errBench, len(r.breaches))
	}
	return nil
}

// providersRound is one play of all troubles.
type providersRound struct {
	benchProviders

	house    *benchHouse
	provider *scripted.Provider
	owner    *pgxpool.Pool
	db       *db.DB
	out      io.Writer

	mu       sync.Mutex
	breaches []string
	others   []guest
}

func (r *providersRound) broken(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.breaches = append(r.breaches, fmt.Sprintf(format, args...))
}

// play measures the phases in turn, then the fallbacks, and then compares the books.
func (r *providersRound) play(ctx context.Context) error {
	fmt.Fprintf(r.out, "one worker process (%s); a tenant with a key of its own floods %d events at the beginning of each trouble of %s; %d others send %.0f events a second each\n",
		strings.Join(providersSettings, " "), r.Flood, r.During, r.Others, r.PerSecond)
	recovery := "while the next trouble is on"
	if r.Apart {
		recovery = "before the next trouble begins"
	}
	fmt.Fprintf(r.out, "a backlog recovers %s; wait is from the event's commit to the beginning of its run; throughput is of events sent and done in the phase\n\n", recovery)
	if _, err := r.owner.Exec(ctx, providersPriceSQL, "openai", strings.TrimPrefix(providersOwnAccount, "openai/")); err != nil {
		return fmt.Errorf("price a model: %w", err)
	}
	for range r.Others {
		automation, err := r.house.furnish(ctx, r.db, noAction, "live")
		if err != nil {
			return fmt.Errorf("furnish the others: %w", err)
		}
		r.others = append(r.others, guest{r.house.tenant, r.house.endpoint, automation})
	}
	stop, err := r.house.work(ctx, 1, r.provider.URL(), append([]string{
		"OPENAI_API_KEY=scripted-operator-0000", "SLUICE_OPENAI_BASE_URL=" + r.provider.URL() + "/v1",
	}, providersSettings...)...)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			stop()
		}
	}()
	sending, enough := context.WithCancel(ctx)
	sent := r.send(sending)
	err = r.phases(ctx)
	enough()
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	if err != nil {
		return err
	}
	if err := r.fallbacks(ctx); err != nil {
		return err
	}
	if err := untilNone(ctx, r.owner, `select count(*) from sluice.calls where state in ('intended', 'sent')`); err != nil {
		return err
	}
	stop()
	stopped = true
	differences, err := booksBeside(ctx, r.owner, r.provider, r.out)
	if differences > 0 {
		r.broken("the ledger differs from the journal in %d calls", differences)
	}
	return err
}

func noAction(string) map[string]any { return map[string]any{"kind": "none"} }

// send lets every other tenant send at a steady pace until ctx ends: what is late is sent at once, so that the pace is the same in every phase.
func (r *providersRound) send(ctx context.Context) <-chan error {
	out := make(chan error, 1)
	go func() {
		var group sync.WaitGroup
		errs := make([]error, len(r.others))
		started := time.Now()
		for i, g := range r.others {
			group.Go(func() {
				for sent := 0; ctx.Err() == nil; {
					due := int(time.Since(started).Seconds()*r.PerSecond) - sent
					if due > 0 {
						// Not under ctx: an event that was begun is sent.
						if errs[i] = plantFor(context.WithoutCancel(ctx), r.db, g, due, false); errs[i] != nil {
							return
						}
						sent += due
					}
					pause(ctx, time.Duration(float64(time.Second)/r.PerSecond))
				}
			})
		}
		group.Wait()
		out <- cmp.Or(errs...)
	}()
	return out
}

// phases plays nothing, a flood without trouble, and then each trouble.
func (r *providersRound) phases(ctx context.Context) error {
	// The workers compile plans and automations with the first runs.
	pause(ctx, providersRatePart)
	alone, err := r.phase(ctx, func(context.Context) error { return nil })
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%-15s others %s\n", "no flood", alone)
	calm, err := r.troubled(ctx, trouble{name: healthy})
	if err != nil {
		return err
	}
	yardstick, err := r.phase(ctx, calm.flood)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%-15s others %s\n", "flood, healthy", yardstick)
	if err := calm.show(ctx, nil); err != nil {
		return err
	}
	var group sync.WaitGroup
	var cases []*troubledTenant
	for _, t := range providersTroubles {
		if len(r.Only) > 0 && !slices.Contains(r.Only, t.name) {
			continue
		}
		one, err := r.troubled(ctx, t)
		if err != nil {
			return err
		}
		if err := one.begin(); err != nil {
			return err
		}
		figure, err := r.phase(ctx, one.flood)
		if err != nil {
			return err
		}
		ratio := figure.perSecond() / yardstick.perSecond()
		fmt.Fprintf(r.out, "%-15s others %s; beside no trouble: throughput %.2f, p50 %.2f, p99 %.2f\n", t.name, figure, ratio,
			figure.quantile(0.5).Seconds()/yardstick.quantile(0.5).Seconds(), figure.quantile(0.99).Seconds()/yardstick.quantile(0.99).Seconds())
		if ratio < providersThroughputMin {
			r.broken("%s: the others kept %.2f of their throughput, expected %.2f", t.name, ratio, providersThroughputMin)
		}
		if err := one.show(ctx, &figure); err != nil {
			return err
		}
		if err := one.end(ctx); err != nil {
			return err
		}
		cases = append(cases, one)
		group.Go(func() { one.recovered = one.await(ctx, r.Recover) })
		if r.Apart {
			group.Wait()
		}
	}
	group.Wait()
	again, err := r.phase(ctx, func(context.Context) error { return nil })
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%-15s others %s\n\n", "no flood, again", again)
	for _, one := range cases {
		if err := one.judge(ctx); err != nil {
			return err
		}
	}
	return nil
}

// othersFigure is what the others notice of a phase.
type othersFigure struct {
	rate

	from, to   time.Time
	sent, dead int
}

func (f othersFigure) String() string {
	return fmt.Sprintf("%5.0f/s sent %5.0f/s done, wait p50 %s p99 %s most %s", float64(f.sent)/f.elapsed.Seconds(), f.perSecond(), shortly(f.quantile(0.5)),
		shortly(f.quantile(0.99)), shortly(f.quantile(1)))
}

const othersSQL = `
select created_at >= $2 and created_at < $3, coalesce(finished_at >= $2 and finished_at < $3 and status = 'done', false), status = 'dead',
    extract(epoch from coalesce(started_at, $3) - created_at)::float8
from sluice.runs where tenant_id = any($1) and (created_at >= $2 or finished_at >= $2)`

// othersIDs are the others' tenants.
func (r *providersRound) othersIDs() []string {
	ids := make([]string, len(r.others))
	for i, g := range r.others {
		ids[i] = g.tenant.String()
	}
	return ids
}

// settle waits until the others have caught up, so that a phase does not pay for the one before; not for ever.
func (r *providersRound) settle(ctx context.Context) error {
	for deadline := time.Now().Add(r.During); time.Now().Before(deadline); {
		var late int
		err := r.owner.QueryRow(ctx, `select count(*) from sluice.runs where tenant_id = any($1) and finished_at is null and started_at is null and created_at < now() - interval '1 second'`,
			r.othersIDs()).Scan(&late)
		if err != nil {
			return fmt.Errorf("count what is late: %w", err)
		}
		if late == 0 {
			return nil
		}
		pause(ctx, providersPoll)
	}
	return nil
}

// phase lets a phase begin, waits for its length, and reads what the others had of it. One that has not begun has waited until the end.
func (r *providersRound) phase(ctx context.Context, begin func(context.Context) error) (f othersFigure, err error) {
	if err := r.settle(ctx); err != nil {
		return f, err
	}
	f.from = time.Now()
	if err := begin(ctx); err != nil {
		return f, err
	}
	pause(ctx, time.Until(f.from.Add(r.During)))
	f.to = time.Now()
	f.elapsed = f.to.Sub(f.from)
	rows, err := r.owner.Query(ctx, othersSQL, r.othersIDs(), f.from, f.to)
	if err != nil {
		return f, fmt.Errorf("read the others' runs: %w", err)
	}
	var sent, done, dead bool
	var wait float64
	_, err = pgx.ForEachRow(rows, []any{&sent, &done, &dead, &wait}, func() error {
		if sent && done {
			f.done++
		}
		if dead {
			f.dead++
		}
		if sent {
			f.sent++
			f.waits = append(f.waits, time.Duration(wait*float64(time.Second)))
		}
		return nil
	})
	slices.Sort(f.waits)
	if err == nil && f.dead > 0 {
		r.broken("%d runs of the others are dead", f.dead)
	}
	return f, err
}
