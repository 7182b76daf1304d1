package scripted

import (
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"
)

// A providerStream is a reply as server-sent events: what comes before the text, an event for each piece of it, and what comes after.
type providerStream struct {
	begin  []byte
	pieces [][]byte
	end    []byte
}

const (
	// providerPieceBytes is the length of a piece where nobody counts tokens: few events, since they cost both sides.
	providerPieceBytes = 32
	// providerTokenDelay is the time between the tokens of ModeSlowStream.
	providerTokenDelay = 100 * time.Millisecond
)

// pieces cuts a text every so many bytes, never within a character.
func pieces(text string, size int) []string {
	var out []string
	for len(text) > size {
		n := size
		for n > 1 && !utf8.RuneStart(text[n]) {
			n--
		}
		out = append(out, text[:n])
		text = text[n:]
	}
	return append(out, text)
}

// sendStream writes a reply as events: at once, or at the pace and as far as the mode says.
func (p *Provider) sendStream(w http.ResponseWriter, r *http.Request, wire providerWire, reply providerReply, c ProviderControl, released <-chan struct{}) {
	size := providerPieceBytes
	if c.Mode == ModeSlowStream || c.Mode == ModeStall {
		size = providerBytesPerToken
	}
	s := wire.stream(reply, pieces(reply.text, size))
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	flush := func(b []byte) {
		_, _ = w.Write(b) // The reader is gone; there is nobody to tell.
		_ = out.Flush()
	}
	switch c.Mode {
	case ModeSlowStream:
		flush(s.begin)
		for _, piece := range s.pieces {
			p.pause(r, time.Duration(c.DelayMS)*time.Millisecond)
			flush(piece)
		}
	case ModeStall:
		for _, piece := range s.pieces {
			s.begin = append(s.begin, piece...)
		}
		flush(s.begin)
		p.hang(r, released)
	default:
		for _, piece := range s.pieces {
			s.begin = append(s.begin, piece...)
		}
		s.end = append(s.begin, s.end...)
	}
	_, _ = w.Write(s.end)
}

// event appends one server-sent event; a name may be empty.
func event(to []byte, name string, data any) []byte {
	if name != "" {
		to = append(append(append(to, "event: "...), name...), '\n')
	}
	raw, _ := json.Marshal(data) // Structs of ours, of strings and numbers.
	return append(append(append(to, "data: "...), raw...), "\n\n"...)
}

// anthropicDelta is the event of a piece of text, in the vendor's order of fields.
type anthropicDelta struct {
	Type  string             `json:"type"`
	Index int                `json:"index"`
	Delta anthropicTextDelta `json:"delta"`
}

type anthropicTextDelta struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

func (anthropicWire) stream(r providerReply, texts []string) providerStream {
	message := map[string]any{
		"id": r.id, "type": "message", "role": "assistant", "model": r.model, "content": []any{}, "stop_reason": nil, "stop_sequence": nil,
	}
	delta := map[string]any{
		"type": "message_delta", "delta": map[string]any{"stop_reason": anthropicStops[r.stop], "stop_sequence": nil},
	}
	if r.usage != nil {
		usage := anthropicUsage(*r.usage)
		// The vendor counts cumulatively: a first token at the start, only what has changed at the end.
		delta["usage"] = map[string]any{"output_tokens": usage["output_tokens"], "output_tokens_details": usage["output_tokens_details"]}
		usage["output_tokens"], usage["output_tokens_details"] = 1, nil
		message["usage"] = usage
	}
	var s providerStream
	s.begin = event(nil, "message_start", map[string]any{"type": "message_start", "message": message})
	s.begin = event(s.begin, "content_block_start", map[string]any{
		"type": "content_block_start", "index": 0, "content_block": anthropicTextDelta{Type: "text"},
	})
	s.begin = event(s.begin, "ping", map[string]any{"type": "ping"})
	for _, text := range texts {
		s.pieces = append(s.pieces, event(nil, "content_block_delta", anthropicDelta{"content_block_delta", 0, anthropicTextDelta{"text_delta", text}}))
	}
	s.end = event(nil, "content_block_stop", map[string]any{"type": "content_block_stop", "index": 0})
	s.end = event(s.end, "message_delta", delta)
	s.end = event(s.end, "message_stop", map[string]any{"type": "message_stop"})
	return s
}

// openAIChunk is an event, in the vendor's order of fields.
type openAIChunk struct {
	ID      string         `json:"id"`
	Object  string         `json:"object"`
	Created int64          `json:"created"`
	Model   string         `json:"model"`
	Choices []openAIChoice `json:"choices"`
	Usage   map[string]any `json:"usage"`
}

type openAIChoice struct {
	Index        int            `json:"index"`
	Delta        map[string]any `json:"delta"`
	Logprobs     any            `json:"logprobs"`
	FinishReason *string        `json:"finish_reason"`
}

func (openAIWire) stream(r providerReply, texts []string) providerStream {
	chunk := func(finish *string, delta map[string]any) []byte {
		return event(nil, "", openAIChunk{
			ID: r.id, Object: "chat.completion.chunk", Created: r.created.Unix(), Model: r.model, Choices: []openAIChoice{{Delta: delta, FinishReason: finish}},
		})
	}
	field := "content"
	if r.stop == stopRefused {
		field = "refusal"
	}
	s := providerStream{begin: chunk(nil, map[string]any{"role": "assistant", "content": ""})}
	for _, text := range texts {
		s.pieces = append(s.pieces, chunk(nil, map[string]any{field: text}))
	}
	s.end = chunk(&openAIStops[r.stop], map[string]any{})
	if r.usage != nil && r.usageWanted {
		s.end = event(s.end, "", openAIChunk{
			ID: r.id, Object: "chat.completion.chunk", Created: r.created.Unix(), Model: r.model, Choices: []openAIChoice{}, Usage: openAIUsage(*r.usage),
		})
	}
	s.end = append(s.end, "data: [DONE]\n\n"...)
	return s
}
