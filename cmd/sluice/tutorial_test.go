package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// tutorialPath is the page whose every command is run, and whose every answer is held against the real one.
const tutorialPath = "../../docs/tutorial.md"

// A tutorialStep is a block of commands and the answer that the page shows below it, if any.
type tutorialStep struct {
	line     int
	commands string
	form     string // json or text; "" where no answer is shown
	answer   string
}

// readTutorial finds the steps of a page. What looks like a step or an answer and would not be run is an error.
func readTutorial(page string) (steps []tutorialStep, err error) {
	var block *strings.Builder
	var form string
	opened, shown := 0, false // shown: the last step can have no answer any more
	for i, line := range strings.Split(page, "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && block == nil:
			block, form, opened = &strings.Builder{}, fence, i+1
		case isFence && form == "sh":
			steps, shown, block = append(steps, tutorialStep{line: opened, commands: block.String()}), false, nil
		case isFence && (form == "json" || form == "text") && len(steps) > 0 && !shown:
			last := &steps[len(steps)-1]
			last.form, last.answer, shown, block = form, block.String(), true, nil
		case isFence:
			return nil, fmt.Errorf("line %d: a block of the form %q, where a step (sh) or its only answer (json, text) is expected", opened, form)
		case block != nil:
			block.WriteString(line + "\n")
		case strings.HasPrefix(line, "    "):
			return nil, fmt.Errorf("line %d: a block that is indented is not run", i+1)
		}
	}
	if block != nil {
		return nil, fmt.Errorf("line %d: a block without an end", opened)
	}
	return steps, nil
}

// asks says whether commands only read: what is worked on meanwhile may take a moment, so that such a step is done again until its answer comes.
func (s tutorialStep) asks() bool {
	return !regexp.MustCompile(`\s-[dX]\s|^send\b|\nsend\b|>`).MatchString(s.commands)
}

var (
	// takenRE is a variable that a reader fills from the answer above: run=run_...
	takenRE = regexp.MustCompile(`(?m)^([a-z]+)=((?:[a-z]+_|http://)?)\.\.\.(?: +# "([a-z_]+)")?$`)
	// memberRE is a member of an answer that is a text.
	memberRE = regexp.MustCompile(`"([a-z_]+)":"([^"]*)"`)
)

// fill puts into the step what a reader copies from the answer above: the first text that begins as the placeholder does, and has the name that the comment
// behind it says, where there is one.
func (s tutorialStep) fill(above string) (string, error) {
	var missing error
	filled := takenRE.ReplaceAllStringFunc(s.commands, func(line string) string {
		parts := takenRE.FindStringSubmatch(line)
		for _, member := range memberRE.FindAllStringSubmatch(above, -1) {
			if strings.HasPrefix(member[2], parts[2]) && (parts[3] == "" || parts[3] == member[1]) {
				return parts[1] + "=" + member[2]
			}
		}
		missing = fmt.Errorf("nothing above is as in %q", line)
		return line
	})
	return filled, missing
}

// check says how an answer differs from the one that is shown.
func (s tutorialStep) check(got string) error {
	switch s.form {
	case "":
		if strings.TrimSpace(got) != "" {
			return fmt.Errorf("an answer that is not shown:\n%s", got)
		}
		return nil
	case "text":
		if !linesLike(linesOf(s.answer), linesOf(got)) {
			return fmt.Errorf("shown:\n%s\ngot:\n%s", s.answer, got)
		}
		return nil
	}
	var want, have any
	if err := json.Unmarshal([]byte(withoutDots(s.answer)), &want); err != nil {
		return fmt.Errorf("the answer that is shown is no JSON: %w", err)
	}
	if err := json.Unmarshal([]byte(got), &have); err != nil {
		return fmt.Errorf("no JSON: %w:\n%s", err, got)
	}
	if place := differs("", want, have); place != "" {
		return fmt.Errorf("%s differs; shown:\n%s\ngot:\n%s", place, s.answer, got)
	}
	return nil
}

// What three dots are in an answer that is shown, once it can be read as JSON.
const (
	dotsAny    = "…any"
	dotsMore   = "…more"
	dotsNumber = "…number " // and its first digits
)

// begunNumberRE is a number of which only the first digits are shown.
var begunNumberRE = regexp.MustCompile(`: (\d+\.\d+)\.\.\.`)

// withoutDots makes JSON of an answer with three dots in it: they stand for further members of an object, for further elements of an array, for any
// value, or for further digits. Those within a text stay, and stand for any text.
func withoutDots(shown string) string {
	shown = begunNumberRE.ReplaceAllString(shown, `: "`+dotsNumber+`$1"`)
	var out strings.Builder
	var open []byte
	last, quoted := byte(0), false
	for i := 0; i < len(shown); i++ {
		c := shown[i]
		switch {
		case quoted && c == '\\':
			out.WriteByte(c)
			i++
			c = shown[i]
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.HasPrefix(shown[i:], "..."):
			i += len("...") - 1
			switch {
			case last == ':':
				fmt.Fprintf(&out, "%q", dotsAny)
			case len(open) > 0 && open[len(open)-1] == '{':
				fmt.Fprintf(&out, "%q:0", dotsMore)
			default:
				fmt.Fprintf(&out, "%q", dotsMore)
			}
			last = '.'
			continue
		case c == '{' || c == '[':
			open = append(open, c)
		case c == '}' || c == ']':
			open = open[:max(len(open)-1, 0)]
		}
		out.WriteByte(c)
		if c != ' ' && c != '\n' {
			last = c
		}
	}
	return out.String()
}

// differs returns the first place at which have is not as want shows it, "" for none.
func differs(place string, want, have any) string {
	if want == dotsAny {
		return ""
	}
	switch want := want.(type) {
	case string:
		number, isNumber := have.(float64)
		if digits, begun := strings.CutPrefix(want, dotsNumber); begun && isNumber && strings.HasPrefix(strconv.FormatFloat(number, 'f', -1, 64), digits) {
			return ""
		}
		if text, ok := have.(string); ok && pieceLike(want, text) {
			return ""
		}
	case map[string]any:
		object, ok := have.(map[string]any)
		if !ok {
			break
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if name == dotsMore {
				continue
			}
			if inner, there := object[name]; !there {
				return place + "." + name
			} else if inside := differs(place+"."+name, want[name], inner); inside != "" {
				return inside
			}
		}
		if _, more := want[dotsMore]; more || len(want) == len(object) {
			return ""
		}
	case []any:
		if list, ok := have.([]any); ok && listLike(want, list) {
			return ""
		}
	default:
		if reflect.DeepEqual(want, have) {
			return ""
		}
	}
	return orTop(place)
}

func orTop(place string) string {
	if place == "" {
		return "all of it"
	}
	return place
}

// listLike compares two lists, where dotsMore stands for any number of elements.
func listLike(want, have []any) bool {
	switch {
	case len(want) == 0:
		return len(have) == 0
	case want[0] == dotsMore:
		return listLike(want[1:], have) || len(have) > 0 && listLike(want, have[1:])
	}
	return len(have) > 0 && differs("", want[0], have[0]) == "" && listLike(want[1:], have[1:])
}

// pieceLike compares two texts, where three dots stand for any piece.
func pieceLike(want, got string) bool {
	return regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, `.*`) + `$`).MatchString(got)
}

// linesLike compares what two commands print, line by line and without the blanks around a line; a line of three dots stands for any number of lines.
func linesLike(want, got []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "...":
		return linesLike(want[1:], got) || len(got) > 0 && linesLike(want, got[1:])
	}
	return len(got) > 0 && pieceLike(want[0], got[0]) && linesLike(want[1:], got[1:])
}

func linesOf(text string) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// A tutorialShell is the shell of the reader, who keeps it open from the first step to the last.
type tutorialShell struct {
	t     *testing.T
	in    io.Writer
	out   *bufio.Reader
	dir   string
	count int
}

// tutorialEnd is what the shell says at the end of a step.
const tutorialEnd = "end-of-step"

func openTutorialShell(t *testing.T, dir string) *tutorialShell {
	t.Helper()
	cmd := exec.Command("sh")
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &tutorialShell{t: t, in: in, out: bufio.NewReader(out), dir: dir}
}

// do runs commands as one block, and returns what they print.
func (s *tutorialShell) do(commands string) string {
	s.t.Helper()
	s.count++
	file := filepath.Join(s.dir, fmt.Sprintf("step-%d.sh", s.count))
	require.NoError(s.t, os.WriteFile(file, []byte(commands), 0o600))
	_, err := fmt.Fprintf(s.in, ". '%s' < /dev/null; echo; echo %s\n", file, tutorialEnd)
	require.NoError(s.t, err)
	var printed strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		require.NoError(s.t, err, "the shell ended:\n%s%s", printed.String(), line)
		if line == tutorialEnd+"\n" {
			return printed.String()
		}
		printed.WriteString(line)
	}
}

// reader makes what a reader of the tutorial has after `make run`: bin/sluice and .sluice/dev.env, of processes of this test.
func (w *world) reader(github *scripted.Vendor, token string) (dir string) {
	w.t.Helper()
	dir = w.t.TempDir()
	api, err := github.Listen("127.0.0.1:0")
	require.NoError(w.t, err)
	var made struct {
		Key struct{ Secret string }
	}
	w.call(w.operator, http.MethodPost, "/v1/tenants", map[string]any{"name": "acme"}, http.StatusCreated, &made)
	self, err := os.Executable()
	require.NoError(w.t, err)
	for name, text := range map[string]string{
		"bin/sluice": "#!/bin/sh\nSLUICE_TEST_AS_SLUICE=1 exec '" + self + "' \"$@\"\n",
		".sluice/dev.env": strings.Join([]string{
			"SLUICE_URL=http://" + w.address, "SLUICE_KEY=" + made.Key.Secret, "SLUICE_MODEL=scripted/echo-1", "SLUICE_TARGET_URL=" + w.hook,
			"SLUICE_SCRIPTED_URL=" + w.provider.URL(), "SLUICE_GITHUB_API_URL=" + api, "SLUICE_GITHUB_TOKEN=" + token, "",
		}, "\n"),
	} {
		path := filepath.Join(dir, name)
		require.NoError(w.t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(w.t, os.WriteFile(path, []byte(text), 0o700))
	}
	return dir
}

// walk does every step of the tutorial in a directory.
func walk(t *testing.T, dir string) {
	t.Helper()
	page, err := os.ReadFile(tutorialPath)
	require.NoError(t, err)
	steps, err := readTutorial(string(page))
	require.NoError(t, err)
	require.NotEmpty(t, steps)
	shell, above := openTutorialShell(t, dir), ""
	for _, step := range steps {
		commands, err := step.fill(above)
		require.NoError(t, err, "%s:%d", tutorialPath, step.line)
		again, over := time.NewTicker(askedEvery), time.After(within)
		for {
			above = shell.do(commands)
			if err = step.check(above); err == nil || !step.asks() {
				break
			}
			select {
			case <-again.C:
				continue
			case <-over:
			}
			break
		}
		again.Stop()
		require.NoError(t, err, "%s:%d:\n%s", tutorialPath, step.line, commands)
	}
}

const (
	// within bounds how long a question may take until its answer is the one that is shown.
	within     = time.Minute
	askedEvery = 50 * time.Millisecond
)

// TestTutorial walks through docs/tutorial.md as its reader does. With SLUICE_TEST_TUTORIAL it does so where `sluice dev` runs already: the directory that
// holds bin/sluice and .sluice.
func TestTutorial(t *testing.T) {
	t.Parallel()
	for _, needed := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(needed); err != nil {
			t.Skip("a reader of the tutorial needs " + needed)
		}
	}
	if dir := os.Getenv("SLUICE_TEST_TUTORIAL"); dir != "" {
		walk(t, dir)
		return
	}
	w := newWorld(t)
	w.start("serve", servingUp)
	w.start("work", workingUp)
	const token = "ghp_a_token_of_the_tutorial"
	github := scripted.NewGitHubIssues(token, time.Now)
	t.Cleanup(func() { _ = github.Close() })
	walk(t, w.reader(github, token))

	// What the page says of the ends is held against the journals, too: no effect stands twice, and no run paid for more than one call.
	marks := map[string]int{}
	for _, effect := range github.Effects() {
		_, mark, found := strings.Cut(effect.Text, "<!-- sluice:")
		require.True(t, found, effect.Text)
		marks[mark]++
	}
	require.NotEmpty(t, marks)
	for mark, n := range marks {
		require.Equal(t, 1, n, mark)
	}
	w.until(len(w.provider.Journal()), `select count(*) from sluice.calls`)
	w.until(0, `select count(*) from (select from sluice.calls group by run_id having count(*) > 1) twice`)
	w.booked()
}

func TestTutorialIsReadStrictly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, shown, got string }{
		{"AMemberThatIsNotShown", `{"a": 1}`, `{"a":1,"b":2}`},
		{"AMemberThatIsNotThere", `{"a": 1, "b": 2, ...}`, `{"a":1}`},
		{"AnotherValue", `{"a": {"b": [1]}, ...}`, `{"a":{"b":[2]}}`},
		{"AnotherBeginning", `{"id": "run_..."}`, `{"id":"evt_1"}`},
		{"AnElementThatIsNotShown", `[1, 2]`, `[1,2,3]`},
		{"AnElementThatIsNotThere", `[1, ..., 3]`, `[1,2]`},
		{"AnotherNumber", `{"a": 0.2...}`, `{"a":0.3}`},
		{"AnotherKind", `{"a": "1"}`, `{"a":1}`},
		{"NoJSON", `{...}`, `hello`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Error(t, tutorialStep{form: "json", answer: c.shown}.check(c.got))
		})
	}
	for _, c := range []struct{ form, shown, got string }{
		{"json", `{"id": "run_...", "n": ..., "m": 0.2..., "list": [..., {"b": "x \"...\" y", ...}], ...}`, `{"id":"run_1","n":7,"m":0.25,"list":[1,{"b":"x \"q\" y","c":1}],"more":null}`},
		{"json", `[1, ...]`, `[1]`},
		{"text", "200 OK in ...: {\"id\":\"...\"}\n...\nend\n", "200 OK in 1ms: {\"id\":\"7\"}\na\nb\n  end\n"},
		{"", "", "\n"},
	} {
		require.NoError(t, tutorialStep{form: c.form, answer: c.shown}.check(c.got), c.shown)
	}
	require.Error(t, tutorialStep{form: "text", answer: "7\n"}.check("8\n"))
	require.Error(t, tutorialStep{form: "text", answer: "a\n"}.check("a\nb\n"))
	require.Error(t, tutorialStep{}.check("an answer that is not shown"))

	for _, page := range []string{"```json\n{}\n```", "```sh\nx\n```\n```json\n{}\n```\n```json\n{}\n```", "```sh\nx", "text\n\n    x", "```sh\nx\n```\n```\ny\n```"} {
		_, err := readTutorial(page)
		require.Error(t, err, page)
	}
	filled, err := tutorialStep{commands: "run=run_...\nurl=http://...\ns=...  # \"secret\"\n"}.fill(`{"id":"evt_1","run_id":"run_1","url":"http://x/in/y","secret":"abc"}`)
	require.NoError(t, err)
	require.Equal(t, "run=run_1\nurl=http://x/in/y\ns=abc\n", filled)
	_, err = tutorialStep{commands: "run=run_..."}.fill(`{"id":"evt_1"}`)
	require.Error(t, err)
	require.True(t, tutorialStep{commands: "api /v1/runs | grep -c x"}.asks())
	for _, acts := range []string{"api /v1/x -d '{}'\n", "api /v1/x -X POST\n", "send --count 2\n", "a\nsend\n", "api /v1/usage > before\n"} {
		require.False(t, tutorialStep{commands: acts}.asks(), acts)
	}
}

// TestTutorialHasWhatItNeeds holds the variables of the page against those that `sluice dev` tells.
func TestTutorialHasWhatItNeeds(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(tutorialPath)
	require.NoError(t, err)
	told, err := os.ReadFile("dev_env.go")
	require.NoError(t, err)
	used := regexp.MustCompile(`\$(SLUICE_[A-Z_]+)`).FindAllSubmatch(page, -1)
	require.NotEmpty(t, used)
	for _, name := range used {
		require.True(t, bytes.Contains(told, fmt.Appendf(nil, "%q", name[1])), "%s", name[1])
	}
}
