package llm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/llm"
	"sluice/scripted"
)

// BenchmarkComplete asks a scripted provider over loopback: what a call costs client and server together.
func BenchmarkComplete(b *testing.B) {
	provider, err := scripted.NewProvider(scripted.ProviderConfig{Now: time.Now, JournalKeep: 1})
	require.NoError(b, err)
	door := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	b.Cleanup(func() {
		door.CloseIdleConnections()
		require.NoError(b, provider.Close())
	})
	client := llm.New(llm.Config{
		Providers: []llm.Provider{llm.NewScripted(llm.ProviderConfig{HTTP: door, BaseURL: provider.URL(), Now: time.Now})}, Now: time.Now,
	})
	for _, model := range []string{"echo-1", "chat-echo-1"} {
		b.Run(model, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(next *testing.PB) {
				r := benchRequest(model)
				for next.Next() {
					if _, err := client.Complete(b.Context(), "scripted", "operator", r); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkCompleteAlone answers from memory, as the request asks for it: what a call costs the client.
func BenchmarkCompleteAlone(b *testing.B) {
	const words = 20 // a short answer: a class, a reason
	for provider, whole := range map[string]string{"anthropic": wholeMessage, "openai": wholeCompletion} {
		streamed := streamOf(provider, words)
		door := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			contentType, reply := "application/json", whole
			if bytes.Contains(body, []byte(`"stream":true`)) {
				contentType, reply = "text/event-stream", streamed
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(reply))}, nil
		})}
		c := llm.ProviderConfig{HTTP: door, BaseURL: "http://provider.test/v1", Now: time.Now}
		client := llm.New(llm.Config{Providers: []llm.Provider{llm.NewAnthropic(c), llm.NewOpenAI(c)}, Now: time.Now})
		b.Run(provider, func(b *testing.B) {
			b.ReportAllocs()
			r := benchRequest("m")
			for b.Loop() {
				if _, err := client.Complete(b.Context(), provider, "operator", r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchRequest is a request as an automation makes it, with a schema of a few fields.
func benchRequest(model string) llm.Request {
	r := request(model)
	r.User = strings.Repeat("The export is broken since the last release. ", 40)
	r.Schema = json.RawMessage(`{"type":"object","properties":{"class":{"type":"string","enum":["bug","question","spam"]},
		"reason":{"type":"string","maxLength":200},"urgent":{"type":"boolean"}},"required":["class","reason","urgent"],"additionalProperties":false}`)
	return r
}

const (
	wholeMessage = `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"word word"}],
		"stop_reason":"end_turn","usage":{"input_tokens":500,"output_tokens":20}}`
	wholeCompletion = `{"id":"c_1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,
		"message":{"role":"assistant","content":"word word"},"finish_reason":"stop"}],
		"usage":{"prompt_tokens":500,"completion_tokens":20,"total_tokens":520}}`
)

// streamOf is a stream of so many words, as each vendor sends it.
func streamOf(provider string, words int) string {
	var b strings.Builder
	if provider == "anthropic" {
		b.WriteString(anthropicEvent("message_start", `"message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],
			"stop_reason":null,"usage":{"input_tokens":500,"output_tokens":1}}`))
		b.WriteString(anthropicEvent("content_block_start", `"index":0,"content_block":{"type":"text","text":""}`))
		for range words {
			b.WriteString(anthropicEvent("content_block_delta", `"index":0,"delta":{"type":"text_delta","text":"word "}`))
		}
		b.WriteString(anthropicEvent("content_block_stop", `"index":0`))
		b.WriteString(anthropicEvent("message_delta", fmt.Sprintf(`"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}`, words)))
		b.WriteString(anthropicEvent("message_stop", `"stop":null`))
		return b.String()
	}
	for range words {
		b.WriteString(openAIChunk(`[{"index":0,"delta":{"content":"word "},"finish_reason":null}]`, "null"))
	}
	b.WriteString(openAIChunk(`[{"index":0,"delta":{},"finish_reason":"stop"}]`, "null"))
	b.WriteString(openAIChunk(`[]`, fmt.Sprintf(`{"prompt_tokens":500,"completion_tokens":%d,"total_tokens":%d}`, words, 500+words)))
	return b.String() + "data: [DONE]\n\n"
}

func anthropicEvent(kind, fields string) string {
	return "event: " + kind + "\ndata: " + strings.Join(strings.Fields(`{"type":"`+kind+`",`+fields+"}"), " ") + "\n\n"
}

func openAIChunk(choices, usage string) string {
	return `data: {"id":"c_1","object":"chat.completion.chunk","created":1,"model":"m","choices":` + choices + `,"usage":` + usage + "}\n\n"
}
