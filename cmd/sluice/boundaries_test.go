package main_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/proof"
	"sluice/scripted"
)

// kept are the named steps that no process is killed at here, each with its reason.
var kept = map[string]string{
	"missed.request": "asks a source for what it sent before: at most a few times each, whatever happens (jobs/missed_test.go)",
	"missed.keep":    "the same: what was read or asked is read or asked again",
	"demotion":       "one transaction, that the next tick makes if this one was lost (jobs/demote_test.go)",
}

// stepless are the transactions of jobs and of the intake that are no step of an event's life, by the function that makes them.
var stepless = map[string]string{
	"api/intake.go readAgain":           "reads what a commit of unknown end has stored",
	"api/intake_cache.go load":          "reads an endpoint",
	"api/intake_touches.go loop":        "when a secret was last used, to the minute",
	"api/rejections_count.go flush":     "counts of refusals: a crash loses those of a few seconds, as docs/sources.md says",
	"jobs/demote.go tick":               "reads what may be demoted, and ends alerts of what is demoted no more",
	"jobs/fetch.go fetchToken":          "reads a credential",
	"jobs/keyring.go find":              "reads a credential",
	"jobs/keyring.go of":                "reads prices",
	"jobs/missed.go Look":               "reads hooks",
	"jobs/missed.go open":               "reads a credential",
	"jobs/providers.go sync":            "what workers know of the providers, anew each second",
	"jobs/providers.go PauseTeller":     "a key that rests, told to other workers: a lost one is asked for again by the provider's next answer",
	"jobs/reconcile.go reconcileTenant": "a command of the operator's, which reads",
	"jobs/reconcile.go Reconcile":       "a command of the operator's, which reads",
	"jobs/reconcile.go reconcileCall":   "a command of the operator's, that can be given again",
	"jobs/replay.go tick":               "reads what is due, and turns the line of replays",
	"jobs/retention.go analyze":         "makes statistics of young tables",
	"jobs/retention.go keep":            "makes and drops partitions by the day, again and again",
	"jobs/review_expiry.go tick":        "reads what is overdue",
	"jobs/sweep.go aged":                "reads what is too old",
	"jobs/sweep.go lines":               "reads what was forgotten",
	"jobs/watcher.go look":              "alerts of what stands in the database: the next look finds the same",
}

// TestEveryBoundaryHasAName reads the source: a transaction or a request of the path from the first byte to the receipt that is made without a name is
// one that nobody kills a process at.
func TestEveryBoundaryHasAName(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../jobs/*.go")
	require.NoError(t, err)
	intake, err := filepath.Glob("../../api/intake*.go")
	require.NoError(t, err)
	files = append(append(files, intake...), "../../api/rejections_count.go")
	named := map[string]bool{}
	exempted := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		stepConstants(parsed, named)
		for _, declared := range parsed.Decls {
			function, isFunction := declared.(*ast.FuncDecl)
			if !isFunction {
				continue
			}
			ast.Inspect(function, func(n ast.Node) bool {
				call, isCall := n.(*ast.CallExpr)
				if !isCall || !makesStep(call) || bearsStep(call.Args[0]) {
					return true
				}
				place := strings.TrimPrefix(name, "../../") + " " + function.Name.Name
				_, known := stepless[place]
				require.True(t, known, "%s makes a transaction or a request without a name: give it a proof.Step, or say here why it is no step", place)
				exempted[place] = true
				return true
			})
		}
	}
	for place := range stepless {
		require.True(t, exempted[place], "%s makes nothing without a name any more", place)
	}
	require.GreaterOrEqual(t, len(named), 30)
	swept := map[string]bool{}
	for _, d := range dooms {
		for _, step := range d.steps {
			swept[step] = true
		}
	}
	for name := range named {
		_, exempt := kept[name]
		require.NotEqual(t, exempt, swept[name], "%s: a process is killed at it, or a reason says why not", name)
	}
	for name := range swept {
		require.True(t, named[name] || strings.HasPrefix(name, "api."), "%s is no step of the source", name)
	}
}

// stepConstants collects the names of steps: the texts of the constants step*.
func stepConstants(file *ast.File, into map[string]bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		spec, isValue := n.(*ast.ValueSpec)
		if !isValue {
			return true
		}
		for i, name := range spec.Names {
			if rest, isStep := strings.CutPrefix(name.Name, "step"); !isStep || rest == "" || i >= len(spec.Values) {
				continue
			}
			if text, isText := spec.Values[i].(*ast.BasicLit); isText && text.Kind == token.STRING {
				value, _ := strconv.Unquote(text.Value)
				into[value] = true
			}
		}
		return true
	})
}

// makesStep says that a call opens a transaction, or sends a request: those of db.DB, of the one door out, of models and connectors.
func makesStep(call *ast.CallExpr) bool {
	selector, isSelector := call.Fun.(*ast.SelectorExpr)
	if !isSelector || len(call.Args) < 2 {
		return false
	}
	return slices.Contains([]string{"Tenant", "System", "Door", "Do", "Complete", "Find"}, selector.Sel.Name) && startsWithContext(call.Args[0])
}

// startsWithContext tells db.Tenant from a method of the same name that takes no context.
func startsWithContext(argument ast.Expr) bool {
	switch a := argument.(type) {
	case *ast.Ident:
		return a.Name == "ctx"
	case *ast.CallExpr:
		return true
	}
	return false
}

// bearsStep says that a context is named: proof.Step is somewhere around it.
func bearsStep(argument ast.Expr) (found bool) {
	ast.Inspect(argument, func(n ast.Node) bool {
		selector, isSelector := n.(*ast.SelectorExpr)
		if !isSelector {
			return true
		}
		room, _ := selector.X.(*ast.Ident)
		found = found || room != nil && room.Name == "proof" && selector.Sel.Name == "Step"
		return true
	})
	return found
}

// proving is a build of the binary that can be killed at its boundaries, made once; TestMain says where, and takes it away.
var proving = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.Getenv("SLUICE_TEST_PROVING_DIR"), "sluice")
	build := exec.Command("go", "build", "-tags", "proof", "-o", path, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return "", &exec.Error{Name: string(out), Err: err}
	}
	return path, nil
})

// A doom is a world in which one process after another is killed, at both boundaries of each of some steps.
type doom struct {
	name  string
	steps []string
	// first are boundaries at which processes are killed before, so that the steps are come to at all: what is found again, what was lost.
	first []string
	// prepare makes what the world needs, once; before makes what each kill needs, while both processes are well.
	prepare, before func(d *doomed)
	// fire lets happen what passes the boundary. What asks a process that dies is asked again when that is back: see doomed.insist.
	fire func(d *doomed)
	// between is called where a process of first has died, rouse when the last one that was killed is back.
	between, rouse func(d *doomed)
	// ends is how a run may end, "done" where it is not said.
	ends []string
	// effects is how many effects the targets must have seen; one for each acked event where it is not said.
	effects func(d *doomed) int
}

// doomed is a doom while it happens.
type doomed struct {
	*world
	*doom

	of      shop
	serving *process
	working *process
	vendor  *scripted.Vendor
	// acked are the deliveries that were acked; each must be an event with an end. again are those that were not, and other requests that must be heard.
	acked []string
	again []func() bool
	kills int
	sent  int
	hangs int // calls that have hung before
	// kept are ids between a preparation and what is fired.
	kept map[string]string
}

// doomsAtOnce are as many as a small machine takes: most of the time they wait for leases.
const doomsAtOnce = 10

// TestKilledAtEveryBoundary kills a real process right before and right after each step of an event's life, lets another go on, and holds the
// journals of the client, the model's provider and the targets against each other.
func TestKilledAtEveryBoundary(t *testing.T) {
	t.Parallel()
	binary, err := proving()
	require.NoError(t, err)
	var all sync.WaitGroup
	var mu sync.Mutex
	kills := 0
	places := make(chan struct{}, doomsAtOnce)
	for _, d := range dooms {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			t.Run(d.name, func(t *testing.T) {
				one := newDoomed(t, d, binary)
				for _, step := range d.steps {
					for _, phase := range []string{proof.PhaseBefore, proof.PhaseAfter} {
						one.kill(step + "/" + phase)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				kills += one.kills
			})
		})
	}
	all.Wait()
	t.Logf("%d processes were killed", kills)
}

func newDoomed(t *testing.T, d *doom, binary string) *doomed {
	t.Helper()
	one := &doomed{world: newWorld(t), doom: d, kept: map[string]string{}}
	one.binary = binary
	one.env = append(one.env, "SLUICE_LEASE=3s", "SLUICE_ACTION_TIMEOUT=4s", "SLUICE_MODEL_TIMEOUT=20s", "SLUICE_RUN_WORKERS=4", "SLUICE_ACTION_WORKERS=4")
	one.serving = one.start("serve", servingUp)
	d.prepare(one)
	return one
}

// role is the subcommand that passes a boundary.
func role(boundary string) string {
	if strings.HasPrefix(boundary, "intake.") || strings.HasPrefix(boundary, "api.") {
		return "serve"
	}
	return "work"
}

// kill lets a process die at a boundary, lets another go on, and judges.
func (d *doomed) kill(boundary string) {
	d.t.Helper()
	if d.working == nil {
		d.working = d.start("work", workingUp)
	}
	call(d.before, d)
	for n, at := range append(slices.Clone(d.first), boundary) {
		if n > 0 {
			call(d.between, d)
		}
		armed := d.arm(at)
		if n == 0 {
			call(d.fire, d)
		}
		d.dies(armed, at)
	}
	if role(boundary) == "serve" {
		d.serving = d.start("serve", servingUp)
	} else {
		d.working = d.start("work", workingUp)
	}
	call(d.rouse, d)
	d.judge(boundary)
}

func call(hook func(d *doomed), d *doomed) {
	if hook != nil {
		hook(d)
	}
}

// arm starts the process that is to die, in place of the one of its role.
func (d *doomed) arm(boundary string) *process {
	d.t.Helper()
	order := proof.EnvCrashAt + "=" + boundary
	if role(boundary) == "serve" {
		d.serving.kill()
		d.serving = d.start("serve", servingUp, order)
		return d.serving
	}
	d.working.kill()
	d.working = d.start("work", "", order)
	return d.working
}

// dies waits for the process to be killed by its own hand.
func (d *doomed) dies(p *process, boundary string) {
	d.t.Helper()
	ended := make(chan *os.ProcessState, 1)
	go func() {
		if state, err := p.cmd.Process.Wait(); err == nil { // else the test has ended it
			ended <- state
		}
	}()
	select {
	case state := <-ended:
		status, isStatus := state.Sys().(syscall.WaitStatus)
		require.True(d.t, isStatus && status.Signaled() && status.Signal() == syscall.SIGKILL, "%s: %v\n%s", boundary, state, p.log)
		d.kills++
	case <-time.After(e2eWait):
		d.t.Fatalf("%s was not passed:\n%s", boundary, p.log)
	}
}

// send delivers an event, and keeps at it when nobody answers, as a source does.
func (d *doomed) send(id string) {
	d.t.Helper()
	d.insist(func() bool {
		status, _, _ := d.deliver(d.of, id)
		if status == http.StatusOK {
			d.acked = append(d.acked, id)
		}
		return status == http.StatusOK
	})
}

// insist asks once, and again when the killed process is back, until it is heard.
func (d *doomed) insist(ask func() bool) {
	if !ask() {
		d.again = append(d.again, ask)
	}
}

// ask makes a request of the API that may find nobody; refused says which answers of the second time mean that the first was heard.
func (d *doomed) ask(method, path string, in any, fine ...int) {
	d.t.Helper()
	d.insist(func() bool {
		raw, err := json.Marshal(in)
		require.NoError(d.t, err)
		request, err := http.NewRequestWithContext(d.t.Context(), method, "http://"+d.address+path, bytes.NewReader(raw))
		require.NoError(d.t, err)
		request.Header.Set("Authorization", "Bearer "+d.of.key)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		require.Contains(d.t, fine, response.StatusCode, "%s %s: %s", method, path, body)
		return true
	})
}

// judge waits until all has ended, and holds the journals against each other.
func (d *doomed) judge(boundary string) {
	d.t.Helper()
	for _, ask := range d.again {
		require.Eventually(d.t, ask, e2eWait, 50*time.Millisecond)
	}
	d.again = nil
	ctx := d.t.Context()
	d.until(0, `select count(*) from sluice.runs where finished_at is null`)
	// Every acked delivery is one event, and every run of it has ended as it should.
	for _, id := range d.acked {
		var events int
		require.NoError(d.t, d.base.Owner.QueryRow(ctx, `select count(*) from sluice.events where source_event_id = $1`, id).Scan(&events))
		require.Equal(d.t, 1, events, "%s: %s", boundary, id)
	}
	ends := d.ends
	if ends == nil {
		ends = []string{"done"}
	}
	var runs, well int
	require.NoError(d.t, d.base.Owner.QueryRow(ctx, `select count(*), count(*) filter (where status = any ($1)) from sluice.runs`, ends).Scan(&runs, &well))
	require.Equal(d.t, runs, well, boundary)
	require.GreaterOrEqual(d.t, runs, len(d.acked), boundary)
	// Nor has a call or a notice been forgotten.
	d.until(0, `select count(*) from sluice.calls where state in ('intended', 'sent')`)
	d.until(0, `select count(*) from sluice.alert_notices where delivered_at is null and given_up_at is null`)
	// The targets saw each effect once: a callback is told from the next by its key, what stands at a vendor by its text, which names the event.
	effects := map[string]int{}
	for _, e := range d.target.Journal() {
		if e.Acted && e.Key != "" {
			effects[e.Key] = 1 // a receiver that keeps the keys acts once
		}
	}
	if d.vendor != nil {
		for _, e := range d.vendor.Effects() {
			effects[e.Text]++
		}
	}
	for key, n := range effects {
		require.Equal(d.t, 1, n, "%s: %s", boundary, key)
	}
	want := len(d.acked)
	if d.effects != nil {
		want = d.effects(d)
	}
	require.Len(d.t, effects, want, boundary)
	// The ledger is the provider's journal, and nothing stays reserved.
	d.booked()
	var reserved int64
	require.NoError(d.t, d.base.Owner.QueryRow(ctx, `select coalesce(sum(reserved_tokens + reserved_pico), 0)::bigint from sluice.budgets`).Scan(&reserved))
	require.Zero(d.t, reserved, boundary)
}
