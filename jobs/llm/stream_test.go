//nolint:forbidigo // time.Sleep is called in synctest bubbles, whose clock moves on at once
package llm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/llm"
)

// streamed answers with a stream, which ends after body.
func streamed(body string) http.HandlerFunc {
	return answer(200, body, "Content-Type", "text/event-stream; charset=utf-8")
}

// parts answers with the parts of a stream, each flushed, with a wait before each but the first; then it hangs, or cuts the connection.
func parts(wait time.Duration, hang bool, bodies ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for i, body := range bodies {
			if i > 0 && wait > 0 {
				select {
				case <-time.After(wait):
				case <-r.Context().Done():
					panic(http.ErrAbortHandler)
				}
			}
			_, _ = io.WriteString(w, body)
			_ = http.NewResponseController(w).Flush()
		}
		if hang {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
}

// Streams in parts: what comes before the text, a text of 4 words, and the end.
var (
	messageBegin = anthropicEvent("message_start", `"message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],
		"usage":{"input_tokens":500,"cache_read_input_tokens":100,"output_tokens":1}}`) +
		anthropicEvent("content_block_start", `"index":0,"content_block":{"type":"text","text":""}`)
	messageText = strings.Repeat(anthropicEvent("content_block_delta", `"index":0,"delta":{"type":"text_delta","text":"some "}`), 4)
	messageEnd  = anthropicEvent("content_block_stop", `"index":0`) +
		anthropicEvent("message_delta", `"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":40,"cache_read_input_tokens":null}`) +
		anthropicEvent("message_stop", `"x":1`)

	chunkBegin = openAIChunk(`[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]`, "null")
	chunkText  = strings.Repeat(openAIChunk(`[{"index":0,"delta":{"content":"some "},"finish_reason":null}]`, "null"), 4)
	chunkEnd   = openAIChunk(`[{"index":0,"delta":{},"finish_reason":"stop"}]`, "null") +
		openAIChunk(`[]`, `{"prompt_tokens":600,"completion_tokens":40,"total_tokens":640,"prompt_tokens_details":{"cached_tokens":100}}`) +
		"data: [DONE]\n\n"
)

// streams are both vendors' parts.
var streams = map[string]struct{ begin, text, end string }{
	"anthropic": {messageBegin, messageText, messageEnd},
	"openai":    {chunkBegin, chunkText, chunkEnd},
}

// fourWords is the text that the streams hold.
var fourWords = strings.Repeat("some ", 4)

// textTokens is the estimate of the 4 words: 20 letters and spaces, a third of a token each.
const textTokens = 7

func TestStreamedReply(t *testing.T) {
	t.Parallel()
	for provider, s := range streams {
		whole := s.begin + s.text + s.end
		for name, body := range map[string]string{
			"as it is":            whole,
			"CR LF":               strings.ReplaceAll(whole, "\n", "\r\n"),
			"comments":            strings.ReplaceAll(whole, "\n\n", "\n\n: keep-alive\n\nretry: 5\n\n"),
			"no space":            strings.ReplaceAll(whole, "data: ", "data:"),
			"spaces in the JSON":  strings.ReplaceAll(whole, `":`, `" : `),
			"data in two lines":   strings.ReplaceAll(whole, `,"`, ",\ndata: \""),
			"event of no meaning": s.begin + "event: new\ndata: {\"type\":\"new_kind\",\"choices\":[]}\n\n" + s.text + s.end,
			"nothing after done":  s.begin + s.text + s.end + "garbage\n\n",
		} {
			t.Run(provider+" "+name, func(t *testing.T) {
				t.Parallel()
				reply, err := vendor(t, streamed(body)).Complete(t.Context(), provider, "operator", request("m"))
				require.NoError(t, err)
				require.Equal(t, fourWords, reply.Text)
				require.Equal(t, llm.FinishStop, reply.Finish)
				require.Empty(t, reply.UsageFault)
				require.Equal(t, llm.Usage{InputUncached: 500, InputCacheRead: 100, OutputVisible: 40}, reply.Usage)
				require.Equal(t, "m", reply.ModelServed)
				require.NotEmpty(t, reply.ResponseID)
				require.True(t, json.Valid(reply.RawUsage))
			})
		}
	}
}

// A text is the same whether it comes in the frame that is read byte for byte, or in another.
func TestStreamedTextIsExact(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"plain", `quotes " and \ and /`, "lines\n\ttabs\r", "é 漢字 🎉", "\u2028 \x00 \x7f", `{"choices":[{"index":0,"delta":{"content":"x"}}]}`, `}}`, "",
	} {
		quoted, err := json.Marshal(text)
		require.NoError(t, err)
		escaped := strings.ReplaceAll(fmt.Sprintf("%+q", text), `\x`, `\u00`)
		for _, literal := range []string{string(quoted), escaped} {
			if !json.Valid([]byte(literal)) {
				continue
			}
			for _, space := range []string{"", " "} {
				message := messageBegin + "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":" + space + literal + "}}\n\n" + messageEnd
				chunks := chunkBegin + "data: {\"id\":\"c_1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":" + space + literal + "},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n" + chunkEnd
				for provider, body := range map[string]string{"anthropic": message, "openai": chunks} {
					reply, err := vendor(t, streamed(body)).Complete(t.Context(), provider, "operator", request("m"))
					require.NoError(t, err, literal)
					require.Equal(t, text, reply.Text, provider+literal)
				}
			}
		}
	}
}

func TestStreamsEndings(t *testing.T) {
	t.Parallel()
	finished := openAIChunk(`[{"index":0,"delta":{},"finish_reason":"length"}]`, "null")
	for name, c := range map[string]struct {
		provider, body string
		finish         llm.Finish
		text, fault    string
	}{
		"no DONE":          {"openai", chunkBegin + chunkText + finished, llm.FinishTruncated, fourWords, "the reply carries no usage"},
		"no reason":        {"openai", chunkBegin + chunkText + "data: [DONE]\n\n", llm.FinishOther, fourWords, "the reply carries no usage"},
		"no message_stop":  {"anthropic", messageBegin + messageText + strings.Split(messageEnd, "event: message_stop")[0], llm.FinishStop, fourWords, ""},
		"garbage after it": {"openai", chunkBegin + chunkText + finished + "data: {{{\n\n", llm.FinishTruncated, fourWords, "the reply carries no usage"},
		"a refusal": {"openai", chunkBegin + openAIChunk(`[{"index":0,"delta":{"refusal":"I can't "}}]`, "null") +
			openAIChunk(`[{"index":0,"delta":{"refusal":"do that."}}]`, "null") + chunkEnd, llm.FinishRefused, "I can't do that.", ""},
		"another choice": {"openai", chunkBegin + openAIChunk(`[{"index":1,"delta":{"content":"other"},"finish_reason":"stop"}]`, "null") + chunkText + chunkEnd,
			llm.FinishStop, fourWords, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reply, err := vendor(t, streamed(c.body)).Complete(t.Context(), c.provider, "operator", request("m"))
			require.NoError(t, err)
			require.Equal(t, c.finish, reply.Finish)
			require.Equal(t, c.text, reply.Text)
			require.Equal(t, c.fault, reply.UsageFault)
		})
	}
}

func TestBrokenStreamsTellWhatWasSeen(t *testing.T) {
	t.Parallel()
	reported := map[string]llm.Usage{"anthropic": {InputUncached: 500, InputCacheRead: 100, OutputVisible: 1}}
	for provider, s := range streams {
		begun := s.begin + s.text
		long := strings.Repeat("x", 5<<20)
		for name, c := range map[string]struct {
			handler http.HandlerFunc
			kind    llm.Kind
			nothing bool // Nothing was seen before it broke.
		}{
			"cut":                   {parts(0, false, begun), llm.KindUnavailable, false},
			"ended early":           {streamed(begun), llm.KindUnavailable, false},
			"ended within an event": {streamed(begun + "data: {\"type\":"), llm.KindUnavailable, false},
			"garbage":               {streamed(begun + "data: <html>\n\n" + s.end), llm.KindMalformedReply, false},
			"bytes":                 {streamed(begun + "data: \x00\xff\xfe{\n\n"), llm.KindMalformedReply, false},
			"a line of 5 MB":        {streamed(begun + "data: {\"x\":\"" + long + "\"}\n\n" + s.end), llm.KindMalformedReply, false},
			"a line without an end": {streamed(begun + long), llm.KindMalformedReply, false},
			"data of 5 MB in lines": {streamed(begun + strings.Repeat("data: xxxxxxxxxx\n", 500_000)), llm.KindMalformedReply, false},
			"nothing":               {streamed(""), llm.KindMalformedReply, true},
			"no stream at all":      {streamed("<html>It works</html>"), llm.KindMalformedReply, true},
			"only its end":          {streamed("data: [DONE]\n\n"), llm.KindMalformedReply, true},
		} {
			t.Run(provider+" "+name, func(t *testing.T) {
				t.Parallel()
				_, err := vendor(t, c.handler).Complete(t.Context(), provider, "operator", request("m"))
				fault := ended(t, err)
				require.Equal(t, c.kind, fault.Kind, err)
				require.True(t, fault.Sent)
				if c.nothing {
					require.Zero(t, fault.Usage)
					require.Zero(t, fault.OutputSeen)
					return
				}
				require.Equal(t, reported[provider], fault.Usage)
				require.EqualValues(t, textTokens, fault.OutputSeen)
			})
		}
	}
}

// What stands around a text is not passed over for being read in a hurry.
func TestFramesAreReadToTheirEnd(t *testing.T) {
	t.Parallel()
	frame := `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"first"`
	reply, err := vendor(t, streamed(messageBegin+frame+`,"text":"last"}}`+"\n\n"+messageEnd)).Complete(t.Context(), "anthropic", "operator", request("m"))
	require.NoError(t, err)
	require.Equal(t, "last", reply.Text)
	for _, end := range []string{`}} x`, `}`, `}}}`, `"}}`} {
		_, err := vendor(t, streamed(messageBegin+frame+end+"\n\n"+messageEnd)).Complete(t.Context(), "anthropic", "operator", request("m"))
		require.Equal(t, llm.KindMalformedReply, ended(t, err).Kind, end)
	}
}

func TestErrorsInTheMidstOfAStream(t *testing.T) {
	t.Parallel()
	for kind, said := range map[llm.Kind]string{
		llm.KindOverloaded:     `{"type":"overloaded_error","message":"Overloaded ` + testKey + `"}`,
		llm.KindRateLimited:    `{"type":"rate_limit_error","message":"slow down"}`,
		llm.KindQuotaExhausted: `{"type":"x","code":"insufficient_quota","message":"no money"}`,
		llm.KindUnavailable:    `{"type":"api_error","message":"oops"}`,
	} {
		for provider, s := range streams {
			body := s.begin + s.text + "event: error\ndata: {\"type\":\"error\",\"error\":" + said + "}\n\n" + s.end
			_, err := vendor(t, streamed(body)).Complete(t.Context(), provider, "operator", request("m"))
			fault := ended(t, err)
			require.Equal(t, kind, fault.Kind, provider)
			require.True(t, fault.Sent, "it may have been billed so far")
			require.Equal(t, 200, fault.Status)
			require.EqualValues(t, textTokens, fault.OutputSeen)
		}
	}
}

// What a model thinks is billed, and counts as seen; it is no part of the reply.
func TestThoughtsCountAsSeen(t *testing.T) {
	t.Parallel()
	for provider, body := range map[string]string{
		"anthropic": messageBegin + anthropicEvent("content_block_delta", `"index":0,"delta":{"type":"thinking_delta","thinking":"`+fourWords+`"}`),
		"openai":    chunkBegin + openAIChunk(`[{"index":0,"delta":{"reasoning_content":"`+fourWords+`"}}]`, "null"),
	} {
		_, err := vendor(t, streamed(body)).Complete(t.Context(), provider, "operator", request("m"))
		require.GreaterOrEqual(t, ended(t, err).OutputSeen, int64(textTokens), provider)
	}
}

func TestReplyOfMegabytes(t *testing.T) {
	t.Parallel()
	const pieces, piece = 30_000, 100 // 3 MB of text in 9 MB of stream
	text := strings.Repeat("x", piece)
	body := chunkBegin + strings.Repeat(openAIChunk(`[{"index":0,"delta":{"content":"`+text+`"},"finish_reason":null}]`, "null"), pieces) + chunkEnd
	reply, err := vendor(t, streamed(body)).Complete(t.Context(), "openai", "operator", request("m"))
	require.NoError(t, err)
	require.Len(t, reply.Text, pieces*piece)

	body = chunkBegin + strings.Repeat(openAIChunk(`[{"index":0,"delta":{"content":"`+text+`"},"finish_reason":null}]`, "null"), 2*pieces) + chunkEnd
	_, err = vendor(t, streamed(body)).Complete(t.Context(), "openai", "operator", request("m"))
	require.Equal(t, llm.KindMalformedReply, ended(t, err).Kind, "the text is bounded")
}

func TestRequestsAskForAStream(t *testing.T) {
	t.Parallel()
	var body map[string]any
	client := vendor(t, asked(&body, "{}"))
	_, _ = client.Complete(t.Context(), "anthropic", "operator", request("m"))
	require.Equal(t, map[string]any{
		"model": "m", "max_tokens": 200.0, "stream": true, "system": "You triage.",
		"messages": []any{map[string]any{"role": "user", "content": "The export is broken"}},
	}, body)
	body = nil
	_, _ = client.Complete(t.Context(), "openai", "operator", request("m"))
	require.Equal(t, map[string]any{
		"model": "m", "max_completion_tokens": 200.0, "stream": true, "stream_options": map[string]any{"include_usage": true},
		"messages": []any{map[string]any{"role": "system", "content": "You triage."}, map[string]any{"role": "user", "content": "The export is broken"}},
	}, body)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	var got http.Header
	var path string
	client := vendor(t, func(_ http.ResponseWriter, r *http.Request) { got, path = r.Header, r.URL.Path })
	_, _ = client.Complete(t.Context(), "anthropic", "operator", request("m"))
	require.Equal(t, "/v1/messages", path)
	require.Equal(t, testKey, got.Get("X-Api-Key"))
	require.Equal(t, "2023-06-01", got.Get("Anthropic-Version"))
	require.Equal(t, "application/json", got.Get("Content-Type"))
	require.Equal(t, "req-1", got.Get("X-Client-Request-Id"))
	_, _ = client.Complete(t.Context(), "openai", "operator", request("m"))
	require.Equal(t, "/chat/completions", path)
	require.Equal(t, "Bearer "+testKey, got.Get("Authorization"))
	require.Empty(t, got.Get("X-Api-Key"))
}

func TestDeadlinesOfAStream(t *testing.T) {
	t.Parallel()
	config := llm.Config{Timeout: 100 * time.Second, FirstToken: 30 * time.Second, Idle: 20 * time.Second}
	for provider, s := range streams {
		for name, c := range map[string]struct {
			handler http.HandlerFunc
			message string
			after   time.Duration
			seen    int64
		}{
			"no answer":                        {hang, "no first token within 30s", 30 * time.Second, 0},
			"headers only":                     {parts(0, true, ": hello\n\n"), "no first token within 30s", 30 * time.Second, 0},
			"a beginning and no token":         {parts(0, true, s.begin), "no first token within 30s", 30 * time.Second, 0},
			"only signs of life":               {parts(9*time.Second, true, s.begin, ": a\n", ": b\n", ": c\n", ": d\n"), "no first token within 30s", 30 * time.Second, 0},
			"silence after the text":           {parts(25*time.Second, true, s.begin, s.text), "the stream stopped for 20s", 45 * time.Second, textTokens},
			"silence, then more":               {parts(21*time.Second, true, s.begin+s.text, s.end), "the stream stopped for 20s", 20 * time.Second, textTokens},
			"drops for ever":                   {trickle(s.begin, s.text), "no full reply in time", 100 * time.Second, textTokens},
			"a JSON body that stops":           {stopsInJSON, "the stream stopped for 20s", 20 * time.Second, 0},
			"late, slow, and in time":          {parts(19*time.Second, true, s.begin, s.text, s.end), "", 38 * time.Second, 0},
			"a JSON body for a streamed reply": {wholeReply(provider), "", 0, 0},
		} {
			t.Run(provider+" "+name, func(t *testing.T) {
				t.Parallel()
				inBubbleWith(t, config, func(t *testing.T, p *pipeProvider) {
					p.handle = c.handler
					began := time.Now()
					reply, err := p.client.Complete(t.Context(), provider, "operator", request("m"))
					took := time.Since(began)
					if c.message == "" {
						require.NoError(t, err)
						require.InDelta(t, c.after, took, float64(100*time.Millisecond), "an answer that does not end is not waited for")
						require.Equal(t, c.after/2, reply.FirstToken)
						return
					}
					fault := ended(t, err)
					require.Equal(t, llm.KindTimeout, fault.Kind)
					require.Equal(t, c.message, fault.Message)
					require.Equal(t, c.after, took)
					require.True(t, fault.Sent)
					require.Equal(t, c.seen, fault.OutputSeen)
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.Equal(t, 1, p.client.States()[0].Failures, "the breaker hears of it")
				})
			})
		}
	}
}

// trickle sends text once, and then a comment every 10 seconds.
func trickle(begin, text string) http.HandlerFunc {
	bodies := []string{begin + text}
	for range 20 {
		bodies = append(bodies, ": still here\n\n")
	}
	return parts(10*time.Second, true, bodies...)
}

func stopsInJSON(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"id":`)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func wholeReply(provider string) http.HandlerFunc {
	if provider == "anthropic" {
		return answer(200, wholeMessage)
	}
	return answer(200, wholeCompletion)
}

func TestTimeoutIsBounded(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, llm.Config{Timeout: time.Hour, FirstToken: time.Hour}, func(t *testing.T, p *pipeProvider) {
		p.handle = hang
		began := time.Now()
		require.Equal(t, llm.KindTimeout, p.ask(t, "openai", "m", "operator").Kind)
		require.Equal(t, 10*time.Minute, time.Since(began))
	})
}

// Sending may wait for a database; that is not the provider's time.
func TestSendingIsNotTheFirstTokensTime(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, llm.Config{FirstToken: 10 * time.Second}, func(t *testing.T, p *pipeProvider) {
		r := request("m")
		r.Sending = func(context.Context) error {
			time.Sleep(11 * time.Second)
			return nil
		}
		_, err := p.client.Complete(t.Context(), "openai", "operator", r)
		require.NoError(t, err)
	})
}

// A stream that is read to its end leaves a connection to use again; most of a call's time may be its handshake.
func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	const calls, lag = 5, 5 * time.Millisecond
	for provider, s := range streams {
		var connections atomic.Int32
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			streamed(s.begin+s.text+s.end)(w, r)
			_ = http.NewResponseController(w).Flush()
			<-time.After(lag) // The end of the body comes apart from the end of the stream.
		}))
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		server.Start()
		t.Cleanup(server.Close)
		c := llm.ProviderConfig{HTTP: server.Client(), BaseURL: server.URL, Now: time.Now}
		client := llm.New(llm.Config{Providers: []llm.Provider{llm.NewAnthropic(c), llm.NewOpenAI(c)}, Now: time.Now})
		for range calls {
			_, err := client.Complete(t.Context(), provider, "operator", request("m"))
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, connections.Load(), provider)
	}
}

func TestStalledProvider(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"stall-1", "chat-stall-1"} {
		client, provider := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := client.Complete(ctx, "scripted", "operator", request(model))
			done <- err
		}()
		journal, err := provider.Wait(t.Context(), 1)
		require.NoError(t, err)
		provider.Release()
		require.NoError(t, <-done, "released, it ends")
		require.True(t, journal[0].Billed)

		go func() {
			_, err := client.Complete(ctx, "scripted", "operator", request(model))
			done <- err
		}()
		_, err = provider.Wait(t.Context(), 2)
		require.NoError(t, err)
		cancel()
		fault := ended(t, <-done)
		require.Equal(t, llm.KindCancelled, fault.Kind)
		require.True(t, fault.Sent)
	}
}

// What is booked of a stalled stream covers what the provider bills.
func TestEstimateOfAStalledStreamCoversTheBill(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"stall-1", "chat-stall-1"} {
		client, provider := setupWith(t, llm.Config{Idle: 50 * time.Millisecond})
		_, err := client.Complete(t.Context(), "scripted", "operator", request(model))
		fault := ended(t, err)
		require.Equal(t, "the stream stopped for 50ms", fault.Message)
		billed := provider.Journal()[0].Usage
		require.GreaterOrEqual(t, max(fault.OutputSeen, fault.Usage.OutputTotal()), billed.OutputVisible)
		require.GreaterOrEqual(t, max(llm.EstimateTokens("You triage.The export is broken"), fault.Usage.InputTotal()), billed.InputUncached)
	}
}
