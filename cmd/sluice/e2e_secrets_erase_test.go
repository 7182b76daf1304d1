package main_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
	"sluice/tenants"
)

// keptAfterErasure are the tables that keep rows of an erased tenant, each with its reason.
var keptAfterErasure = map[string]string{
	"tenants":        "the id and the mark that it was erased, so that nothing is made under it again",
	"ledger_entries": "the books: amounts and ids, no content",
	"usage_rollups":  "the books, summed",
	"usage_rolled":   "how far the books are summed",
	"usage_late":     "what of the books is still to be summed",
	"audit_entries":  "who did what and when, no content",
	"audit_heads":    "the end of that chain",
	"audit_changes":  "that of the erasure itself alone",
}

// second is another `sluice serve` on the same database.
func (w *world) second() *world {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	other := *w
	other.address = listener.Addr().String()
	require.NoError(w.t, listener.Close())
	other.env = append(slices.Clone(w.env), "SLUICE_LISTEN="+other.address)
	return &other
}

// at is an address of a shop at this process.
func (w *world) at(s shop) shop {
	s.url = "http://" + w.address + "/in/" + s.url[strings.LastIndex(s.url, "/")+1:]
	return s
}

// busyShop is a shop with everything under way: live runs, reviews, replays, alerts, idempotent requests.
func (w *world) busyShop(name string) shop {
	s := w.shop()
	var endpoints struct {
		Data []struct{ ID string }
	}
	w.call(s.key, http.MethodGet, "/v1/endpoints", nil, http.StatusOK, &endpoints)
	automation := func(name, mode, path string) {
		var credential struct{ ID string }
		w.call(s.key, http.MethodPost, "/v1/credentials", map[string]any{"name": name, "kind": "callback"}, http.StatusCreated, &credential)
		w.call(s.key, http.MethodPost, "/v1/automations", map[string]any{
			"name": name, "endpoint_id": endpoints.Data[0].ID, "when": "event.type == 'issues.opened'", "model": "scripted/echo-1", "mode": mode,
			"prompt": map[string]any{"user": "{{ payload.issue.title }}"}, "max_output_tokens": 100,
			"action": map[string]any{"kind": "callback", "url": w.hook + path, "credential_id": credential.ID},
		}, http.StatusCreated, nil)
	}
	automation("live", "live", "/"+name+"/live")
	automation("review", "review", "/"+name+"/review")
	w.call(s.key, http.MethodPost, "/v1/alert-channels", map[string]any{"name": "alerts", "kind": "webhook", "url": w.hook + "/" + name + "/alerts"}, http.StatusCreated, nil)
	return s
}

// ask makes a request and takes whatever comes, since the tenant may be erased at any moment.
func (w *world) ask(key, method, path, body, idempotency string) (status int) {
	request, err := http.NewRequestWithContext(context.Background(), method, "http://"+w.address+path, strings.NewReader(body))
	if err != nil {
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	if idempotency != "" {
		request.Header.Set("Idempotency-Key", idempotency)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

const (
	busyEvery   = 20 * time.Millisecond
	replayEvery = 20
)

func waitTick(stop <-chan struct{}, tick *time.Ticker) {
	select {
	case <-tick.C:
	case <-stop:
	}
}

// keepBusy keeps a shop busy at two API processes until stop is closed, and returns when all that it asked was answered.
func (w *world) keepBusy(s shop, name string, others []*world, stop <-chan struct{}) *sync.WaitGroup {
	var busy sync.WaitGroup
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	// At a pace of its own: in a flood, it would be the machine that is tested.
	tick := time.NewTicker(busyEvery)
	busy.Go(func() { <-stop; tick.Stop() })
	for i, at := range others {
		busy.Go(func() {
			for n := 0; !stopped(); n++ {
				waitTick(stop, tick)
				_, _, _ = at.deliver(at.at(s), fmt.Sprintf("%s-%d-%d", name, i, n))
			}
		})
		busy.Go(func() {
			wrong := at.at(s)
			wrong.secret = "not the secret"
			for n := 0; !stopped(); n++ {
				waitTick(stop, tick)
				_, _, _ = at.deliver(wrong, fmt.Sprintf("%s-wrong-%d-%d", name, i, n))
				at.ask(s.key, http.MethodPost, "/v1/credentials", fmt.Sprintf(`{"name": "c%d-%d", "kind": "callback"}`, i, n), fmt.Sprintf("k-%d-%d", i, n))
				if n%replayEvery == 1 {
					at.ask(s.key, http.MethodPost, "/v1/replays", `{"event_filter": {"type": "issues.opened"}, "mode": "run", "per_second": 100}`, "")
				}
				var run string
				_ = w.base.Owner.QueryRow(context.Background(), `
					select id::text from sluice.runs where tenant_id = $1 and status = 'in_review' order by random() limit 1`, s.tenant).Scan(&run)
				at.ask(s.key, http.MethodPost, "/v1/runs/run_"+strings.ReplaceAll(run, "-", "")+"/review", `{"verdict": "approve"}`, "")
			}
		})
	}
	return &busy
}

// TestNothingOfAnErasedTenantComesBack erases tenants in mid-flight, at several processes of which one is killed on the way: as soon as the erasure is
// answered its addresses and keys are unknown, after what was on the wire nothing more leaves, and when all has settled no table has a row of it.
func TestNothingOfAnErasedTenantComesBack(t *testing.T) {
	t.Parallel()
	const bound = 2 * time.Second
	// One in `make test`; `make prove/secrets` says more.
	rounds, _ := strconv.Atoi(cmp.Or(os.Getenv("SLUICE_PROVE_ERASURES"), "1"))
	w := newWorld(t)
	others := []*world{w, w.second()}
	for _, one := range others {
		one.start("serve", servingUp)
	}
	first, _ := w.start("work", workingUp), w.start("work", workingUp)
	kept := w.busyShop("kept")
	require.NoError(t, w.provider.Control(scripted.ProviderControl{Mode: "slow", DelayMS: 150}))
	stay := make(chan struct{})
	staying := w.keepBusy(kept, "kept", others, stay)
	var last time.Duration
	for round := range rounds {
		name := fmt.Sprintf("gone%d", round)
		s := w.busyShop(name)
		stop := make(chan struct{})
		busy := w.keepBusy(s, name, others, stop)
		w.untilSome(`select count(*) from sluice.calls where state = 'sent' and tenant_id = '` + s.tenant.String() + `'`)
		<-time.After(time.Duration(200+rand.IntN(800)) * time.Millisecond) // at whatever moment
		var killed atomic.Bool
		go func() {
			<-time.After(time.Duration(rand.IntN(100)) * time.Millisecond)
			first.kill()
			killed.Store(true)
		}()
		require.Equal(t, http.StatusNoContent, w.ask(w.operator, http.MethodDelete, "/v1/tenants/"+tenants.FormatID(tenants.TenantPrefix, s.tenant), "", ""))
		at := time.Now()
		for _, one := range others {
			require.Equal(t, http.StatusUnauthorized, one.ask(s.key, http.MethodGet, "/v1/tenant", "", ""))
			require.Eventually(t, func() bool {
				status, _, _ := one.deliver(one.at(s), "after")
				require.NotEqual(t, http.StatusOK, status, "not acked, whatever is held in memory")
				return status == http.StatusNotFound
			}, bound, 10*time.Millisecond)
		}
		require.Eventually(t, killed.Load, e2eWait, 5*time.Millisecond)
		first = w.start("work", workingUp)
		// What the killed worker held is running until River looks for it; it ends as the others do.
		w.until(0, `select count(*) from river.river_job where state not in ('completed', 'discarded', 'cancelled', 'running') and args ->> 'tenant_id' = '`+s.tenant.String()+`'`)
		close(stop)
		busy.Wait()
		for _, entry := range w.target.Journal() {
			if strings.HasPrefix(entry.Path, "/"+name+"/") && entry.At.After(at) {
				last = max(last, entry.At.Sub(at))
				require.Less(t, entry.At.Sub(at), bound, "%s left after the erasure", entry.Path)
			}
		}
		w.gone(s)
	}
	close(stay)
	staying.Wait()
	t.Logf("the last request to a target left %s after an erasure was answered", last)
	// The others went on, and the books hold what the erased were billed.
	w.until(0, `select count(*) from sluice.runs where finished_at is null and status not in ('in_review')`)
	w.booked()
}

// untilSome waits until a count is not 0.
func (w *world) untilSome(sql string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		var n int
		require.NoError(w.t, w.base.Owner.QueryRow(context.Background(), sql).Scan(&n))
		return n > 0
	}, e2eWait, 5*time.Millisecond, sql)
}

// gone looks through every table that the catalogue has for rows of a tenant.
func (w *world) gone(s shop) {
	w.t.Helper()
	rows, err := w.base.Owner.Query(w.t.Context(), `
		select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1`)
	require.NoError(w.t, err)
	var tables []string
	for rows.Next() {
		var name string
		require.NoError(w.t, rows.Scan(&name))
		tables = append(tables, name)
	}
	require.NoError(w.t, rows.Err())
	require.Greater(w.t, len(tables), 25)
	for _, name := range tables {
		var n int
		require.NoError(w.t, w.base.Owner.QueryRow(w.t.Context(), `select count(*) from sluice.`+name+` where tenant_id = $1`, s.tenant).Scan(&n))
		if _, kept := keptAfterErasure[name]; !kept {
			require.Zero(w.t, n, "rows of an erased tenant in %s", name)
		}
	}
	var held int
	require.NoError(w.t, w.base.Owner.QueryRow(w.t.Context(), `select count(*) from sluice.audit_changes where tenant_id = $1 and what <> 'tenant'`, s.tenant).Scan(&held))
	require.Zero(w.t, held, "what was changed of an erased tenant")
}
