package scripted_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/scripted"
)

// A streamed answer is its status, the kinds of its events in order, its text, and the usage that its events report.
type streamedAnswer struct {
	status int
	kinds  []string
	text   string
	usage  map[string]any
	done   bool
	err    error
}

// askStream asks for a stream and reads it to its end.
func askStream(ctx context.Context, p *scripted.Provider, model, prompt string) streamedAnswer {
	return readStream(openStream(ctx, p, model, prompt))
}

func openStream(ctx context.Context, p *scripted.Provider, model, prompt string) *http.Response {
	body := messages(model, prompt)
	body["stream"], body["stream_options"] = true, map[string]any{"include_usage": true}
	path := "/v1/messages"
	if strings.HasPrefix(model, "chat-") {
		path = "/v1/chat/completions"
	}
	raw, _ := json.Marshal(body)
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, p.URL()+path, bytes.NewReader(raw))
	r.Header.Set("X-Api-Key", providerKey)
	r.Header.Set("Authorization", "Bearer "+providerKey)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return &http.Response{Body: io.NopCloser(strings.NewReader(""))}
	}
	return res
}

func readStream(res *http.Response) streamedAnswer {
	defer res.Body.Close()
	a := streamedAnswer{status: res.StatusCode, usage: map[string]any{}}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		data, isData := strings.CutPrefix(lines.Text(), "data: ")
		if data == "[DONE]" {
			a.done = true
			continue
		}
		var event struct {
			Type    string
			Message struct{ Usage map[string]any }
			Delta   struct{ Text string }
			Choices []struct {
				Delta struct{ Content, Refusal string }
			}
			Usage map[string]any
		}
		if !isData || json.Unmarshal([]byte(data), &event) != nil {
			continue
		}
		if len(a.kinds) == 0 || a.kinds[len(a.kinds)-1] != event.Type {
			a.kinds = append(a.kinds, event.Type)
		}
		a.done = a.done || event.Type == "message_stop"
		a.text += event.Delta.Text
		for _, choice := range event.Choices {
			a.text += choice.Delta.Content + choice.Delta.Refusal
		}
		for _, usage := range []map[string]any{event.Message.Usage, event.Usage} {
			for field, value := range usage {
				if value != nil {
					a.usage[field] = value
				}
			}
		}
	}
	a.err = lines.Err()
	return a
}

// long is a prompt whose echo takes several pieces, and has characters of several bytes where a cut may fall.
const long = "Die Ausfuhr ist seit der letzten Fassung überall kaputt, größer wäre schöner; 漢字漢字漢字漢字漢字 🎉🎉🎉🎉"

func TestProviderStreams(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	for _, model := range []string{"echo-1", "cached-1", "refuse-1", "truncate-1", "garbage-1", "slow-stream-1", "usage-missing-1"} {
		require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeOK, DelayMS: 1}))
		for _, prefix := range []string{"", "chat-"} {
			a := askStream(t.Context(), p, prefix+model, long)
			require.NoError(t, a.err)
			require.Equal(t, 200, a.status)
			require.True(t, a.done, prefix+model)
			journal := p.Journal()
			entry := journal[len(journal)-1]
			require.Equal(t, entry.Answer, a.text, "the stream is the answer that an asker without a stream gets")
			require.True(t, entry.Billed)
			output, field := entry.Usage.OutputVisible+entry.Usage.OutputReasoning, "output_tokens"
			if prefix != "" {
				field = "completion_tokens"
			}
			if model == "usage-missing-1" {
				require.Empty(t, a.usage)
				continue
			}
			require.EqualValues(t, output, a.usage[field], prefix+model)
		}
	}
	a := askStream(t.Context(), p, "echo-1", long)
	require.Equal(t, []string{
		"message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
	}, a.kinds)
}

// Errors, dropped connections and strange bodies come before any stream.
func TestProviderStreamsNoErrors(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	for model, status := range map[string]int{"rate-limit-1": 429, "overloaded-1": 529, "drop-1": 0, "bad-body-1": 200} {
		for _, prefix := range []string{"", "chat-"} {
			a := askStream(t.Context(), p, prefix+model, long)
			require.Equal(t, status, a.status)
			require.False(t, a.done)
			require.Empty(t, a.text)
		}
	}
}

func TestProviderTellsOpenAIUsageOnRequest(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	body := messages("chat-echo-1", "x")
	body["stream"] = true
	raw, _ := json.Marshal(body)
	r, _ := http.NewRequest(http.MethodPost, p.URL()+"/v1/chat/completions", bytes.NewReader(raw))
	r.Header.Set("Authorization", "Bearer "+providerKey)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	a := readStream(res)
	require.True(t, a.done)
	require.Empty(t, a.usage)
}

func TestProviderStallsBeforeTheEnd(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	for i, model := range []string{"stall-1", "chat-stall-1"} {
		done := make(chan streamedAnswer)
		res := openStream(t.Context(), p, model, "The export is broken") // The header is there: the stream has begun.
		go func() { done <- readStream(res) }()
		journal := p.Journal()
		require.Len(t, journal, i+1)
		require.True(t, journal[i].Billed, "all was streamed, so all is billed")
		require.EqualValues(t, 7, journal[i].Usage.OutputVisible)
		select {
		case <-done:
			t.Fatal("ended while stalled")
		default:
		}
		p.Release()
		a := <-done
		require.True(t, a.done)
		require.Equal(t, "echo: The export is broken", a.text)
	}

	// Nobody releases this one: all of the text is there all the same.
	ctx, cancel := context.WithCancel(t.Context())
	res := openStream(ctx, p, "stall-1", "The export is broken")
	text := make([]byte, 0, 4096)
	for !bytes.Contains(text, []byte(`"en"`)) { // The last token.
		n, err := res.Body.Read(text[len(text):cap(text)])
		require.NoError(t, err)
		text = text[:len(text)+n]
	}
	require.NotContains(t, string(text), "message_stop")
	cancel()
	require.NoError(t, res.Body.Close())
}

func TestProviderStallsWithoutAStreamToo(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	done := make(chan int)
	go func() {
		status, _, _ := ask(t.Context(), p, "stall-1")
		done <- status
	}()
	journal, err := p.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.True(t, journal[0].Billed)
	p.Release()
	require.Equal(t, 200, <-done)
}

func TestProviderStreamsSlowly(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeSlowStream, DelayMS: 20}))
	for _, stream := range []bool{true, false} {
		began := time.Now()
		if stream {
			require.Equal(t, "echo: The export is broken", askStream(t.Context(), p, "echo-1", "The export is broken").text)
		} else {
			_, _, _ = ask(t.Context(), p, "echo-1")
		}
		require.GreaterOrEqual(t, time.Since(began), 7*20*time.Millisecond, "7 tokens")
	}
}

func TestProviderFlaps(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	var statuses []int
	var billed []bool
	for i, model := range []string{"flap-1", "flap-1", "chat-flap-1", "flap-1"} {
		status, _, _ := ask(t.Context(), p, model)
		statuses = append(statuses, status)
		billed = append(billed, p.Journal()[i].Billed)
		require.Equal(t, scripted.ModeFlap, p.Journal()[i].Mode)
	}
	require.Equal(t, []int{529, 200, 529, 200}, statuses)
	require.Equal(t, []bool{false, true, false, true}, billed)
}

func TestProviderStorms(t *testing.T) {
	t.Parallel()
	p := startProvider(t, scripted.ProviderConfig{})
	refused := func(model string, most int) int {
		for n := range most {
			status, header, _ := ask(t.Context(), p, model)
			if status == 200 {
				return n
			}
			require.Equal(t, 429, status)
			require.NotEmpty(t, header.Get("Retry-After"))
		}
		return most
	}
	require.Equal(t, 20, refused("storm-1", 100))
	require.Zero(t, refused("storm-1", 100), "it is over")

	require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeStorm, Times: 3, RetryAfterS: 7}))
	status, header, _ := ask(t.Context(), p, "echo-1")
	require.Equal(t, 429, status)
	require.Equal(t, "7", header.Get("Retry-After"))
	require.Equal(t, 2, refused("echo-1", 100))
	require.NoError(t, p.Control(scripted.ProviderControl{Mode: scripted.ModeStorm}))
	require.Equal(t, 20, refused("echo-1", 100))
}
