package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/api/source"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
	"sluice/tenants"
)

// What must not be in anything that leaves: of a secret, of another tenant's payload, of a system prompt, and what would come of a template or an
// expression in a payload if it were run.
const (
	canarySecret = "canary0secret0of0acme"
	canaryOther  = "CANARY-OF-ANOTHER-TENANT"
	canarySystem = "CANARY-OF-THE-SYSTEM-PROMPT"
	canaryLiquid = "LIQUID-RAN"
)

// refusals are automations of every connector with the model's words, or a stranger's without a list, where the target stands: saving refuses them all.
func (w *raid) refusals(endpoint string) (refused int) {
	w.t.Helper()
	for nth, p := range w.preys() {
		connector, _ := action.New(outbound.New(outbound.Config{})).Get(p.kind)
		for _, f := range connector.Spec().Fields {
			if f.Form != action.FormTarget && f.Form != action.FormAddress && f.Form != action.FormLiteral {
				continue
			}
			for _, bad := range []string{
				"{{ output }}", "{{ output.to }}", "{% assign x = output %}{{ x }}", "{% for x in output %}{{ x }}{% endfor %}", w.hook + "/items/{{ output }}", "https://{{ payload.host }}/",
				"{% if output %}C0EVIL{% endif %}",
			} {
				if f.Form == action.FormTarget && !strings.Contains(bad, "output") {
					continue
				}
				fields := maps.Clone(p.target)
				if allow, has := p.careless["allow"]; has {
					fields["allow"] = allow // so that what is refused is the template
				}
				fields[f.Name] = bad
				w.unsaved(w.aimed(p, endpoint, fields, nth), f.Name, bad)
				refused++
			}
		}
		if p.careless != nil {
			fields := maps.Clone(p.careless)
			delete(fields, "allow")
			w.unsaved(w.aimed(p, endpoint, fields, nth), "allow", nil)
			refused++
		}
	}
	return refused
}

// unsaved sees to it that an automation is refused for a field of its action.
func (w *raid) unsaved(automation map[string]any, field string, value any) {
	w.t.Helper()
	act, isObject := automation["action"].(map[string]any)
	require.True(w.t, isObject)
	if value != nil {
		act[field] = value
	}
	var told json.RawMessage
	w.call(w.key, http.MethodPost, "/v1/automations", automation, http.StatusUnprocessableEntity, &told)
	require.Contains(w.t, string(told), "action."+field)
}

// shownMax is how many escapes are shown of each connector.
const shownMax = 20

// injectionsEnv asks for more than a share of the corpus at every source: a number of entries for each, or "all" of them in both places.
const injectionsEnv = "SLUICE_TEST_INJECTIONS"

// TestInjectionsReachNobody sends poisoned events of every source to live automations of every connector, whose model obeys every word of a payload.
// The journals of the services are the judge.
func TestInjectionsReachNobody(t *testing.T) {
	t.Parallel()
	w := newRaid(t)
	serving := w.start("serve", servingUp)
	w.key = w.tenant("acme")
	w.open()
	corpus, sources, preys := injections(t), source.All(), w.preys()
	var kinds []string
	for _, p := range preys {
		kinds = append(kinds, p.kind)
	}
	require.Equal(t, action.New(outbound.New(outbound.Config{})).Kinds(), kinds, "every connector is under attack")

	other := w.connect(w.tenant("other"), mustSource(t, "standard"), nil)
	w.post(other, other.Samples[0], "other", canaryOther)
	var ends []connected
	automations := map[string]string{} // what an automation is, by its id
	for i, src := range sources {
		c := w.connect(w.key, src, nil)
		ends = append(ends, c)
		for j, p := range preys {
			fields := p.target
			if slices.Contains(p.home, src.Name) {
				fields = map[string]any{} // the connector's defaults
			}
			automations[w.automation(w.aimed(p, c.id, fields, i+j))] = p.kind
			if p.careless != nil {
				automations[w.automation(w.aimed(p, c.id, p.careless, i+j+1))] = "careless " + p.kind
			}
		}
	}
	refused := w.refusals(ends[0].id)
	attacks := w.attack(ends, corpus)
	working := w.start("work", workingUp)
	w.until(0, `select count(*) from sluice.runs where finished_at is null`)

	found := w.judge(preys, ends)
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		t.Errorf("%s: %d escapes, such as\n%s", kind, len(found[kind]), strings.Join(found[kind][:min(len(found[kind]), shownMax)], "\n"))
	}
	w.tally(sources, preys, automations, attacks, refused, found)
	working.end(t)
	serving.end(t)
	for _, canary := range []string{canarySecret, canarySystem, canaryOther} {
		require.NotContains(t, serving.log.String()+working.log.String(), canary)
	}
}

func mustSource(t *testing.T, name string) source.Source {
	t.Helper()
	s, ok := source.Get(name)
	require.True(t, ok)
	return s
}

func (w *raid) automation(body map[string]any) string {
	w.t.Helper()
	var made struct{ ID string }
	w.call(w.key, http.MethodPost, "/v1/automations", body, http.StatusCreated, &made)
	return made.ID
}

// post delivers a sample with a text in its values, to another tenant.
func (w *raid) post(c connected, sample source.Sample, id, text string) {
	w.t.Helper()
	signed, places := c.poisoned(w.t, sample, id, text, false)
	require.Positive(w.t, places)
	require.NoError(w.t, w.deliverSigned(c, signed))
}

func (w *raid) deliverSigned(c connected, signed source.Signed) error {
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, c.url, bytes.NewReader(signed.Body))
	if err != nil {
		return err
	}
	request.Header = signed.Header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		return fmt.Errorf("%s was answered %d: %s %w", c.Name, response.StatusCode, answer, err)
	}
	return nil
}

// attack sends each entry of the corpus at least once, and to each source at least one in its values and one in its names and keys. It returns how many
// texts of how many deliveries were poisoned, by source.
func (w *raid) attack(ends []connected, corpus []injection) map[string]int {
	w.t.Helper()
	type task struct {
		to     connected
		sample source.Sample
		entry  injection
		names  bool
		id     string
	}
	var tasks []task
	rounds := max(2, (len(corpus)+len(ends)-1)/len(ends))
	switch asked := os.Getenv(injectionsEnv); asked {
	case "":
	case "all":
		rounds = 2 * len(corpus)
	default:
		more, err := strconv.Atoi(asked)
		require.NoError(w.t, err, injectionsEnv)
		rounds = max(rounds, more)
	}
	for round := range rounds {
		for i, c := range ends {
			n := round*len(ends) + i
			entry := corpus[n%len(corpus)]
			if rounds == 2*len(corpus) {
				entry = corpus[round%len(corpus)]
			}
			tasks = append(tasks, task{c, c.Samples[round%len(c.Samples)], entry, (round+round/len(corpus))%2 == 1, fmt.Sprintf("injected-%d", n)})
		}
	}
	attacks := map[string]int{}
	var mu sync.Mutex
	var callers errgroup.Group
	callers.SetLimit(sendersMax)
	for _, k := range tasks {
		callers.Go(func() error {
			var places int
			if k.to.with.Sign == "" {
				places = w.swap(k.to, k.sample, k.entry.Text, k.names)
			} else {
				var signed source.Signed
				signed, places = k.to.poisoned(w.t, k.sample, k.id, k.entry.Text, k.names)
				if err := w.deliverSigned(k.to, signed); err != nil {
					return fmt.Errorf("%s: %w", k.entry.Name, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			attacks[k.to.Name] += places
			return nil
		})
	}
	require.NoError(w.t, callers.Wait())
	return attacks
}

// swap is for sources whose deliveries only they can sign: their own sample goes through the door, and what was kept of it is poisoned before a worker is
// there to read it.
func (w *raid) swap(c connected, sample source.Sample, text string, names bool) (places int) {
	w.t.Helper()
	var told struct {
		EventID string `json:"event_id"`
	}
	w.call(w.key, http.MethodPost, "/v1/endpoints/"+c.id+"/test", map[string]any{"sample": sample.Type}, http.StatusOK, &told)
	id, ok := tenants.ParseID(tenants.EventPrefix, told.EventID)
	require.True(w.t, ok)
	var kept []byte
	require.NoError(w.t, w.base.Owner.QueryRow(w.t.Context(), `select coalesce(document, body) from sluice.event_payloads where event_id = $1`, id).Scan(&kept))
	document := parsed(w.t, sample, kept)
	for _, change := range document.changes(text, names) {
		undo := change()
		if len(document.body(w.t)) > poisonedMax {
			undo()
			continue
		}
		places++
	}
	_, err := w.base.Owner.Exec(w.t.Context(), `update sluice.event_payloads set document = $2 where event_id = $1`, id, document.body(w.t))
	require.NoError(w.t, err)
	return places
}

// tally prints what became of the runs, and holds the journals against it: one effect for each.
func (w *raid) tally(sources []source.Source, preys []prey, automations map[string]string, attacks map[string]int, refused int, found map[string][]string) {
	w.t.Helper()
	rows, err := w.base.Owner.Query(w.t.Context(), `select e.source, r.automation_id, r.status, concat_ws(': ', r.reason, left(r.detail, 90)), count(*)::int from sluice.runs r
		join sluice.events e on e.id = r.event_id group by 1, 2, 3, 4`)
	require.NoError(w.t, err)
	made, done, ends := map[string]int{}, map[string]int{}, map[string]int{}
	for rows.Next() {
		var name, status, reason string
		var id uuid.UUID
		var n int
		require.NoError(w.t, rows.Scan(&name, &id, &status, &reason, &n))
		kind, ours := automations[tenants.FormatID(tenants.AutomationPrefix, id)]
		if !ours {
			continue
		}
		ends[strings.TrimSpace(kind+" "+status+" "+reason)] += n
		made[name+" "+kind] += n
		if status == "done" {
			done[kind] += n
			done[name+" "+kind] += n
		}
	}
	require.NoError(w.t, rows.Err())
	for kind, n := range w.effects() {
		require.Equal(w.t, done[kind], n, "%s: one effect for each run that says so", kind)
	}
	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 1, ' ', 0)
	fmt.Fprint(out, "source\ttexts")
	for _, p := range preys {
		fmt.Fprint(out, "\t"+p.kind)
	}
	fmt.Fprintln(out)
	for _, s := range sources {
		fmt.Fprintf(out, "%s\t%d", s.Name, attacks[s.Name])
		for _, p := range preys {
			fmt.Fprintf(out, "\t%d/%d", done[s.Name+" "+p.kind], made[s.Name+" "+p.kind]+made[s.Name+" careless "+p.kind])
			require.Positive(w.t, made[s.Name+" "+p.kind], "%s to %s", s.Name, p.kind)
		}
		fmt.Fprintln(out)
	}
	fmt.Fprint(out, "escapes\t")
	for _, p := range preys {
		fmt.Fprintf(out, "\t%d", len(found[p.kind]))
	}
	fmt.Fprintln(out)
	require.NoError(w.t, out.Flush())
	w.t.Logf("attacks by a model that obeys: effects/runs; %d careless automations were not saved\n%s", refused, &table)
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		w.t.Logf("%5d %s", ends[end], end)
	}
}

// effects are how many effects the journals hold, by the kind of connector. A label that is there already is none, so its requests count.
func (w *raid) effects() map[string]int {
	n := map[string]int{"email": len(w.mailbox.Journal()), "callback": 0, "http": 0}
	for _, e := range w.target.Journal() {
		if !e.Acted {
			continue
		}
		if e.Path == "/callback" {
			n["callback"]++
		} else {
			n["http"]++
		}
	}
	for kind, vendor := range w.vendors {
		n[kind] = len(vendor.Effects())
	}
	n["github_comment"], n["github_labels"] = 0, 0
	for _, e := range w.vendors["github_comment"].Journal() {
		switch {
		case e.Method != http.MethodPost || e.Status/100 != 2:
		case strings.HasSuffix(e.Path, "/labels"):
			n["github_labels"]++
		default:
			n["github_comment"]++
		}
	}
	return n
}
