package main_test

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is a collector's journal.
type spans struct {
	mu  sync.Mutex
	all []*tracepb.Span
	raw strings.Builder
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/v1/traces" {
		return
	}
	var request collector.ExportTraceServiceRequest
	if proto.Unmarshal(body, &request) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.raw.Write(body)
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			s.all = append(s.all, scope.GetSpans()...)
		}
	}
}

// of are the spans of one trace, by name.
func (s *spans) of(traceID string) map[string]*tracepb.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]*tracepb.Span{}
	for _, span := range s.all {
		if hex.EncodeToString(span.GetTraceId()) == traceID {
			out[span.GetName()] = span
		}
	}
	return out
}

func (s *spans) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.String()
}

// TestOneTraceFromTheDoorToTheTarget follows an event over two processes: intake, job, model call, action; and finds no secret and no payload
// in what was told.
func TestOneTraceFromTheDoorToTheTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	journal := &spans{}
	server := httptest.NewServer(journal)
	t.Cleanup(server.Close)
	w.env = append(w.env, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)
	serving, working := w.start("serve", servingUp), w.start("work", workingUp)
	s := w.shop()
	status, eventID, _ := w.deliver(s, "delivery-1")
	require.Equal(t, http.StatusOK, status)
	w.until(1, `select count(*) from sluice.runs where status = 'done'`)
	var explained struct {
		TraceID string `json:"trace_id"`
	}
	w.call(s.key, http.MethodGet, "/v1/events/"+eventID+"/explain", nil, http.StatusOK, &explained)
	require.Len(t, explained.TraceID, 32)
	// A stop sends what is still held back.
	working.end(t)
	serving.end(t)
	var found map[string]*tracepb.Span
	require.Eventually(t, func() bool {
		found = journal.of(explained.TraceID)
		return len(found) >= 4
	}, e2eWait, 20*time.Millisecond)
	for _, name := range []string{"POST /in/{token}", "river.work/run", "chat echo-1", "river.work/action"} {
		require.Contains(t, found, name)
	}
	logs := serving.log.String() + working.log.String()
	require.Contains(t, logs, explained.TraceID)
	token := s.url[strings.LastIndex(s.url, "/")+1:]
	for _, secret := range []string{s.key, s.secret, token, "scripted-provider-key", "whsec_"} {
		require.NotContains(t, journal.text(), secret)
		require.NotContains(t, logs, secret)
	}
}
