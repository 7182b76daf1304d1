package scripted_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

var providerNow = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func startProvider(t *testing.T, c scripted.ProviderConfig) *scripted.Provider {
	t.Helper()
	c.Now = func() time.Time { return providerNow }
	p, err := scripted.NewProvider(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// post sends a body as a vendor's SDK would; a status of 0 is a connection without an answer.
func post(ctx context.Context, url, key string, body any) (status int, header http.Header, answer map[string]any) {
	raw, _ := json.Marshal(body)
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	r.Header.Set("X-Client-Request-Id", "req-7")
	if key != "" {
		r.Header.Set("X-Api-Key", key)
		r.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, nil
	}
	defer res.Body.Close()
	raw, _ = io.ReadAll(res.Body)
	_ = json.Unmarshal(raw, &answer)
	return res.StatusCode, res.Header, answer
}

const providerKey = "sk-0123456789-abcd"

func messages(model, prompt string) map[string]any {
	return map[string]any{"model": model, "max_tokens": 500, "messages": []any{map[string]any{"role": "user", "content": prompt}}}
}

func ask(ctx context.Context, p *scripted.Provider, model string) (int, http.Header, map[string]any) {
	path := "/v1/messages"
	if strings.HasPrefix(model, "chat-") {
		path = "/v1/chat/completions"
	}
	return post(ctx, p.URL()+path, providerKey, messages(model, "The export is broken"))
}

func TestProviderJournal(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	status, _, answer := ask(t.Context(), p, "echo-1")
	require.Equal(t, 200, status)
	require.Equal(t, "msg_00000001", answer["id"])

	require.Equal(t, []scripted.ProviderEntry{{
		N: 1, At: providerNow, Protocol: "anthropic", Model: "echo-1", Mode: scripted.ModeOK, Status: 200, KeyLast4: "abcd", RequestID: "req-7",
		Prompt: "The export is broken", Answer: "echo: The export is broken", Billed: true,
		Usage: scripted.ProviderUsage{InputUncached: 5, OutputVisible: 7}, ResponseID: "msg_00000001",
	}}, p.Journal())

	res, err := http.Get(p.URL() + "/_journal")
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NotContains(t, string(raw), providerKey)
	var listed struct {
		Total int
		Data  []scripted.ProviderEntry
	}
	require.NoError(t, json.Unmarshal(raw, &listed))
	require.Equal(t, 1, listed.Total)
	require.Equal(t, p.Journal(), listed.Data)
}

func TestProviderModels(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	for _, c := range []struct {
		model  string
		status int
		billed bool
	}{
		{"echo-1", 200, true}, {"cached-1", 200, true}, {"refuse-1", 200, true}, {"truncate-1", 200, true}, {"garbage-1", 200, true},
		{"wrong-schema-1", 200, true}, {"usage-missing-1", 200, true}, {"bad-body-1", 200, true}, {"drop-1", 0, true},
		{"rate-limit-1", 429, false}, {"quota-1", 429, false}, {"overloaded-1", 529, false}, {"error-1", 500, false},
		{"unauthorized-1", 401, false}, {"no-such-1", 404, false}, {"claude-sonnet-4-5", 200, true}, {"gpt-5-mini", 200, true},
	} {
		for _, prefix := range []string{"", "chat-"} {
			if strings.HasPrefix(c.model, "claude") || strings.HasPrefix(c.model, "gpt") {
				prefix = ""
			}
			status, header, _ := ask(t.Context(), p, prefix+c.model)
			require.Equal(t, c.status, status, prefix+c.model)
			require.Equal(t, c.model == "rate-limit-1", header.Get("Retry-After") != "")
			journal := p.Journal()
			last := journal[len(journal)-1]
			require.Equal(t, prefix+c.model, last.Model)
			require.Equal(t, c.status, last.Status)
			require.Equal(t, c.billed, last.Billed, "an error is not billed, all else is")
			require.Equal(t, c.billed, last.Usage != scripted.ProviderUsage{})
		}
	}
}

func TestProviderRefusesWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	status, _, answer := post(t.Context(), p.URL()+"/v1/messages", "", messages("echo-1", "x"))
	require.Equal(t, 401, status)
	require.Equal(t, "authentication_error", answer["error"].(map[string]any)["type"])
	for name, body := range map[string]any{
		"no prompt": map[string]any{"model": "echo-1", "max_tokens": 5, "messages": []any{}},
		"no limit":  map[string]any{"model": "echo-1", "messages": []any{map[string]any{"role": "user", "content": "x"}}},
		"a list":    []any{},
	} {
		status, _, _ = post(t.Context(), p.URL()+"/v1/messages", providerKey, body)
		require.Equal(t, 400, status, name)
	}
	require.Equal(t, 4, p.Total(), "what is refused is in the journal too")
	_, err := scripted.NewProvider(scripted.ProviderConfig{Addr: "0.0.0.0:0"})
	require.ErrorContains(t, err, "expected a loopback address")
}

func TestProviderMaxTokensHold(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	body := messages("echo-1", "The export is broken")
	body["max_tokens"] = 2
	_, _, answer := post(t.Context(), p.URL()+"/v1/messages", providerKey, body)
	require.Equal(t, "max_tokens", answer["stop_reason"])
	require.EqualValues(t, 2, answer["usage"].(map[string]any)["output_tokens"])
}

func TestProviderControl(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	status, _, _ := post(t.Context(), p.URL()+"/_control", "", map[string]any{"mode": "overloaded", "times": 2, "model": "echo-1", "retry_after_s": 3})
	require.Equal(t, 200, status)
	require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeOK, Answer: "fixed", Model: "chat-echo-1"}))

	var statuses []int
	for range 3 {
		status, _, _ := ask(t.Context(), p, "echo-1")
		statuses = append(statuses, status)
	}
	require.Equal(t, []int{529, 529, 200}, statuses)
	_, _, answer := ask(t.Context(), p, "chat-echo-1")
	require.Equal(t, "fixed", answer["choices"].([]any)[0].(map[string]any)["message"].(map[string]any)["content"])

	require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeQuota}))
	status, _, _ = ask(t.Context(), p, "chat-echo-1")
	require.Equal(t, 429, status, "a control without a model clears all others")
	require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeOK}))
	status, _, _ = ask(t.Context(), p, "error-1")
	require.Equal(t, 500, status, "ok leaves what the model's name says")

	for _, bad := range []map[string]any{{"mode": "sideways"}, {"mode": "ok", "delay_ms": -1}, {"mode": "ok", "times": -1}, {"mode": "ok", "sped": 1}} {
		status, _, answer := post(t.Context(), p.URL()+"/_control", "", bad)
		require.Equal(t, 400, status)
		require.NotEmpty(t, answer["error"])
	}
}

func TestProviderHangsUntilReleased(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	for i, model := range []string{"hang-1", "chat-hang-1"} {
		done := make(chan int)
		go func() {
			status, _, _ := ask(t.Context(), p, model)
			done <- status
		}()
		journal, err := p.Wait(t.Context(), i+1)
		require.NoError(t, err)
		require.False(t, journal[i].Billed)
		select {
		case status := <-done:
			t.Fatalf("answered %d while hanging", status)
		default:
		}
		p.Release()
		require.Equal(t, 200, <-done)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Wait(ctx, 3)
	require.ErrorIs(t, err, context.Canceled)
}

func TestProviderCloseEndsWhatHangs(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	done := make(chan int)
	go func() {
		status, _, _ := ask(t.Context(), p, "hang-1")
		done <- status
	}()
	_, err := p.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.Zero(t, <-done)
}

func TestProviderSlowIsInTheJournalBeforeItAnswers(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeSlow, DelayMS: 500_000}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		status, _, _ := ask(ctx, p, "echo-1")
		done <- status
	}()
	journal, err := p.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.True(t, journal[0].Billed, "an asker that is killed meanwhile has to pay")
	cancel()
	require.Zero(t, <-done)
}

func TestProviderJournalIsBounded(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{JournalKeep: 3})
	for i := range 7 {
		_, _, _ = post(t.Context(), p.URL()+"/v1/messages", providerKey, messages("echo-1", fmt.Sprint(i, strings.Repeat(" long", 5000))))
		journal := p.Journal()
		require.Len(t, journal, min(i+1, 3))
		require.Equal(t, i+1, journal[len(journal)-1].N, "oldest first")
		require.LessOrEqual(t, len(journal[0].Prompt), scripted.ProviderJournalText)
	}
	require.Equal(t, 7, p.Total())
}

func TestProviderJournalOutlivesTheProvider(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "provider.jsonl")
	p := startProvider(t, scripted.ProviderConfig{JournalPath: path})
	var asks sync.WaitGroup
	for range 8 {
		asks.Go(func() { _, _, _ = ask(t.Context(), p, "echo-1") })
	}
	asks.Wait()
	first, err := scripted.ReadProviderJournal(path)
	require.NoError(t, err)
	require.Equal(t, p.Journal(), first, "all that was answered is in the file")
	require.NoError(t, p.Close())

	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.WriteString(`{"n":9,"prom`) // What a kill leaves.
	require.NoError(t, err)
	require.NoError(t, file.Close())

	p = startProvider(t, scripted.ProviderConfig{JournalPath: path})
	require.Equal(t, 8, p.Total())
	_, _, answer := ask(t.Context(), p, "echo-1")
	require.Equal(t, "msg_00000009", answer["id"], "ordinals go on")
	all, err := scripted.ReadProviderJournal(path)
	require.NoError(t, err)
	require.Len(t, all, 9)

	require.NoError(t, os.WriteFile(path, []byte("{}\nnot JSON\n"), 0o600))
	_, err = scripted.NewProvider(scripted.ProviderConfig{JournalPath: path})
	require.ErrorContains(t, err, "line 2")
}

func TestProviderInstances(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	for name, schema := range map[string]string{
		"string":        `{"type":"object","properties":{"reply":{"type":"string"}},"required":["reply"],"additionalProperties":false}`,
		"types":         `{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"number"},"i":{"type":"integer"},"b":{"type":"boolean"},"z":{"type":"null"}},"required":["s","n","i","b","z"]}`,
		"bounds":        `{"type":"object","properties":{"s":{"type":"string","minLength":50,"maxLength":60},"t":{"type":"string","maxLength":3},"n":{"type":"number","exclusiveMinimum":3,"multipleOf":5},"i":{"type":"integer","maximum":-2},"h":{"type":"integer","minimum":1.5}},"required":["s","t","n","i","h"]}`,
		"enum":          `{"type":"object","properties":{"e":{"enum":["urgent","routine"]},"c":{"const":7}},"required":["e","c"]}`,
		"nullable":      `{"type":"object","properties":{"a":{"type":["null","string"]},"b":{"anyOf":[{"type":"null"},{"type":"integer","minimum":3}]}},"required":["a","b"]}`,
		"lists":         `{"type":"array","minItems":2,"maxItems":4,"items":{"type":"object","properties":{"tags":{"type":"array","maxItems":0}},"required":["tags"]}}`,
		"references":    `{"$ref":"#/$defs/a","$defs":{"a":{"type":"object","properties":{"b":{"$ref":"#/$defs/b~1c"}},"required":["b"]},"b/c":{"type":"boolean"}}}`,
		"allOf":         `{"allOf":[{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]},{"properties":{"b":{"type":"integer"}}}]}`,
		"oneOf":         `{"oneOf":[{"type":"object","properties":{"k":{"const":"x"}},"required":["k"]},{"type":"string"}]}`,
		"formats":       `{"type":"object","properties":{"d":{"type":"string","format":"date-time"},"e":{"type":"string","format":"email"},"u":{"type":"string","format":"uuid"}},"required":["d","e","u"]}`,
		"only required": `{"required":["x"],"additionalProperties":{"type":"number"}}`,
		"recursive":     `{"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/n"}]}},"required":["v"]}}}`,
		"anything":      `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			document, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
			require.NoError(t, err)
			compiler := jsonschema.NewCompiler()
			compiler.AssertFormat()
			require.NoError(t, compiler.AddResource("schema.json", document))
			compiled, err := compiler.Compile("schema.json")
			require.NoError(t, err)

			body := messages("echo-1", "The export is broken since the last release")
			body["output_config"] = map[string]any{"format": map[string]any{"type": "json_schema", "schema": json.RawMessage(schema)}}
			_, _, answer := post(t.Context(), p.URL()+"/v1/messages", providerKey, body)
			text := answer["content"].([]any)[0].(map[string]any)["text"].(string)
			instance, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
			require.NoError(t, err, text)
			require.NoError(t, compiled.Validate(instance), text)
		})
	}
}

func TestProviderHelp(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	res, err := http.Get(p.URL() + "/")
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	for _, model := range scripted.Models() {
		require.Contains(t, string(raw), `"`+model+`"`)
	}
}

// The price table knows every model that a user of `sluice dev` can name, and no other of ours.
func TestEveryModelHasAPrice(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../migrations/*.up.sql")
	require.NoError(t, err)
	var priced []string
	for _, file := range files {
		sql, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`'scripted', '([^']+)'`).FindAllStringSubmatch(string(sql), -1) {
			priced = append(priced, m[1])
		}
	}
	slices.Sort(priced)
	require.Equal(t, scripted.Models(), priced)
}

func FuzzProviderInstance(f *testing.F) {
	p, err := scripted.NewProvider(scripted.ProviderConfig{Now: func() time.Time { return providerNow }, JournalKeep: 10})
	require.NoError(f, err)
	f.Cleanup(func() { _ = p.Close() })
	f.Add(`{"type":"array","items":{"$ref":"#"},"minItems":100}`)
	f.Add(`{"anyOf":[{"allOf":[{"$ref":"#"},{"$ref":"#"}]}]}`)
	f.Add(`{"type":"number","multipleOf":1e-300,"minimum":1e300}`)
	f.Add(`{"$ref":"#/properties/a","properties":{"a":{"$ref":"#/properties/a"}}}`)
	f.Fuzz(func(t *testing.T, schema string) {
		if !json.Valid([]byte(schema)) {
			return // not JSON at all
		}
		body := messages("echo-1", "words")
		body["output_config"] = map[string]any{"format": map[string]any{"type": "json_schema", "schema": json.RawMessage(schema)}}
		status, _, _ := post(t.Context(), p.URL()+"/v1/messages", providerKey, body)
		require.Equal(t, 200, status)
	})
}
