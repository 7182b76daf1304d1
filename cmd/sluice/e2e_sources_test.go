package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/api/source"
	"sluice/api/source/sourcetest"
)

// connected is an endpoint of one source, made through the contract.
type connected struct {
	source.Source

	with    sourcetest.Connection
	id, url string
	forger  string // another secret of the same shape
}

func (w *world) connect(key string, s source.Source, order map[string]any) connected {
	w.t.Helper()
	c := connected{Source: s, with: sourcetest.Connect(w.t, s)}
	c.forger = sourcetest.Connect(w.t, s).Sign
	if c.forger == c.with.Sign {
		c.forger = strings.NewReplacer("aaaa", "bbbb", "a1a1", "b2b2").Replace(c.with.Sign)
	}
	settings := map[string]any{}
	maps.Copy(settings, c.with.Settings)
	maps.Copy(settings, order)
	body := map[string]any{"name": s.Name, "source": s.Name, "settings": settings}
	if c.with.Secret != "" {
		body["secret"] = c.with.Secret
	}
	var made struct{ ID, URL string }
	w.call(key, http.MethodPost, "/v1/endpoints", body, http.StatusCreated, &made)
	c.id, c.url = made.ID, made.URL
	w.call(key, http.MethodPost, "/v1/automations", map[string]any{
		"name": s.Name, "endpoint_id": c.id, "model": "scripted/echo-1", "mode": "shadow", "max_output_tokens": 100,
		"prompt": map[string]any{"user": "{{ event.type }}"}, "action": map[string]any{"kind": "none"},
	}, http.StatusCreated, nil)
	return c
}

// holds is how many events a sample has.
func (c connected) holds(t *testing.T, sample source.Sample, id string) int {
	t.Helper()
	raw, err := json.Marshal(c.with.Settings)
	require.NoError(t, err)
	settings, faults := c.ParseSettings(raw)
	require.Empty(t, faults)
	now := time.Now()
	signed, err := c.Sign(source.SignInput{
		Method: http.MethodPost, URL: c.url, Header: sample.Header, Body: sample.Body(id, now), Secret: c.with.Sign, ID: id, At: now, Settings: settings,
	})
	require.NoError(t, err)
	events, err := c.Events(source.Request{Method: http.MethodPost, URL: c.url, Header: signed.Header, Body: signed.Body, ReceivedAt: now}, settings)
	require.NoError(t, err)
	return len(events)
}

// sendLine is what `sluice send` prints of a delivery.
var sendLine = regexp.MustCompile(`^(\d{3}) .*?: ?(.*)$`)

// sendersMax is how many processes of `sluice send` run at once.
const sendersMax = 4

// send runs `sluice send` as a process, and returns the status and the answer.
func (w *world) send(c connected, event, secret string, more ...string) (status int, answer string, err error) {
	path, err := os.Executable()
	if err != nil {
		return 0, "", err
	}
	args := append([]string{"send", c.Name, event, "--url", c.url}, more...)
	if c.with.Settings != nil {
		text, err := json.Marshal(c.with.Settings)
		if err != nil {
			return 0, "", err
		}
		args = append(args, "--settings", string(text))
	}
	command := exec.CommandContext(w.t.Context(), path, args...)
	command.Env = append(slices.Clone(w.env), "SLUICE_SEND_SECRET="+secret)
	out, _ := command.Output() // a delivery that is refused ends with 1
	found := sendLine.FindStringSubmatch(strings.TrimSpace(string(out)))
	if found == nil {
		return 0, "", fmt.Errorf("%s %s: it said %q", c.Name, event, out)
	}
	status, err = strconv.Atoi(found[1])
	return status, found[2], err
}

// TestSendOverAllSources delivers every sample of every source twice, in random order, with forged ones in between, as processes of `sluice send`
// against a real `sluice serve`; then a burst and a late event to an endpoint in order latest. It prints what became of them.
func TestSendOverAllSources(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env = append(w.env, "SLUICE_PROXY_HEADERS="+sourcetest.ClientCertHeader)
	serving, working := w.start("serve", servingUp), w.start("work", workingUp)
	s := w.shop()
	type task struct {
		to     connected
		event  string
		id     string
		forged bool
	}
	var tasks []task
	tried, inSamples := map[string]int{}, map[string]int{}
	for _, src := range source.All() {
		c := w.connect(s.key, src, nil)
		for i, sample := range src.Samples {
			if c.with.Sign == "" { // only the source itself can sign: its sample is signed with a key for the one delivery
				for range 2 {
					var told struct {
						Status  int
						EventID string `json:"event_id"`
					}
					w.call(s.key, http.MethodPost, "/v1/endpoints/"+c.id+"/test", map[string]any{"sample": sample.Type}, http.StatusOK, &told)
					require.NotEmpty(t, told.EventID, src.Name)
					tried[src.Name]++
				}
				continue
			}
			id := fmt.Sprintf("sample-%s-%d", src.Name, i)
			inSamples[src.Name] += c.holds(t, sample, id)
			tasks = append(tasks, task{c, sample.Type, id, false}, task{c, sample.Type, id, false}, task{c, sample.Type, id + "-forged", true})
		}
	}
	rand.Shuffle(len(tasks), func(i, j int) { tasks[i], tasks[j] = tasks[j], tasks[i] })
	// One moment for both deliveries of an event: where a source has no id, what happened when makes it the same event.
	at := time.Now().UTC().Format(time.RFC3339)
	statuses := map[string]map[int]int{}
	answers := make([]int, len(tasks))
	var callers errgroup.Group
	callers.SetLimit(sendersMax)
	for i, k := range tasks {
		callers.Go(func() error {
			secret := k.to.with.Sign
			if k.forged {
				secret = k.to.forger
			}
			status, answer, err := w.send(k.to, k.event, secret, "--id", k.id, "--at", at)
			answers[i] = status
			switch {
			case err != nil:
				return err
			case k.forged && status != k.to.Codes.Refused, !k.forged && status/100 != 2:
				return fmt.Errorf("%s %s, forged %v, was answered %d: %s", k.to.Name, k.event, k.forged, status, answer)
			}
			return nil
		})
	}
	require.NoError(t, callers.Wait())
	for i, k := range tasks {
		if statuses[k.to.Name] == nil {
			statuses[k.to.Name] = map[int]int{}
		}
		statuses[k.to.Name][answers[i]]++
	}
	w.until(0, `select count(*) from sluice.runs where finished_at is null`)

	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "source\tdeliveries\tevents kept\tduplicates\trefused\truns done")
	for _, src := range source.All() {
		var kept, refused, done int
		require.NoError(t, w.base.Owner.QueryRow(t.Context(), `select
			(select count(*) from sluice.events where source = $1),
			(select count(*) from sluice.runs r join sluice.events e on e.id = r.event_id where e.source = $1 and r.status = 'done')`, src.Name).Scan(&kept, &done))
		require.Eventually(t, func() bool {
			require.NoError(t, w.base.Owner.QueryRow(t.Context(), `select coalesce(sum(r.count), 0)::int from sluice.rejections r join sluice.endpoints e on e.id = r.endpoint_id
				where e.source = $1`, src.Name).Scan(&refused))
			return refused == statuses[src.Name][src.Codes.Refused]
		}, e2eWait, 20*time.Millisecond)
		if tried[src.Name] > 0 {
			require.Equal(t, tried[src.Name], kept, src.Name)
			fmt.Fprintf(out, "%s\t%d (tests)\t%d\t0\t-\t%d\n", src.Name, tried[src.Name], kept, done)
			continue
		}
		n := len(src.Samples)
		require.Equal(t, n, refused, src.Name)
		require.Equal(t, inSamples[src.Name], kept, "%s: each event once", src.Name)
		require.Equal(t, kept, done, src.Name)
		fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%d\t%d\n", src.Name, 3*n, kept, inSamples[src.Name], refused, done)
	}
	require.NoError(t, out.Flush())
	table.WriteString(w.burst(s.key))
	t.Log("\n" + table.String())
	working.end(t)
	serving.end(t)
}

// burst sends one contact five times within a moment, and then an event that happened before them.
func (w *world) burst(key string) string {
	w.t.Helper()
	standard, _ := source.Get("standard")
	c := w.connect(key, standard, map[string]any{"order": "latest", "order_window_seconds": 3})
	at := time.Now().UTC()
	send := func(id string, at time.Time) {
		file := w.t.TempDir() + "/body.json"
		require.NoError(w.t, os.WriteFile(file, fmt.Appendf(nil, `{"type":"contact.updated","timestamp":%q,"data":{"id":"con_1"}}`, at.Format(time.RFC3339Nano)), 0o600))
		status, answer, err := w.send(c, "contact.created", c.with.Sign, "--id", id, "--body", file)
		require.NoError(w.t, err)
		require.Equal(w.t, http.StatusOK, status, answer)
	}
	for i := range 5 {
		send(fmt.Sprintf("burst-%d", i), at.Add(time.Duration(i)*time.Second))
	}
	send("late", at.Add(-time.Hour))
	w.until(0, `select count(*) from sluice.runs where finished_at is null`)
	rows, err := w.base.Owner.Query(w.t.Context(), `
		select e.source_event_id, r.status, r.reason, r.tokens_saved from sluice.runs r join sluice.events e on e.id = r.event_id
		where r.ordering = 'latest' order by e.occurred_at`)
	require.NoError(w.t, err)
	var text strings.Builder
	text.WriteString("\norder latest, one entity: five within a moment, then one that happened before\n")
	reasons := map[string]int{}
	for rows.Next() {
		var id, status, reason string
		var saved int64
		require.NoError(w.t, rows.Scan(&id, &status, &reason, &saved))
		reasons[status+" "+reason]++
		fmt.Fprintf(&text, "%-8s  %s %s, %d tokens saved\n", id, status, reason, saved)
	}
	require.NoError(w.t, rows.Err())
	require.Equal(w.t, map[string]int{"done ": 1, "skipped order.folded": 4, "skipped order.stale": 1}, reasons)
	return text.String()
}
