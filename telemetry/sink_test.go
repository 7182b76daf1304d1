package telemetry_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/telemetry"
)

// clogged is a reader that takes nothing until it is opened.
type clogged struct {
	open chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
}

func (c *clogged) Write(line []byte) (int, error) {
	<-c.open
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(line)
}

// TestALogThatNobodyReadsCostsLinesAndNoTime: twenty thousand lines are logged while the reader takes none. Without the queue, the first would wait
// for ever, and this test with it.
func TestALogThatNobodyReadsCostsLinesAndNoTime(t *testing.T) { //nolint:paralleltest // Start sets what is global
	reader := &clogged{open: make(chan struct{})}
	told, err := telemetry.Start(t.Context(), telemetry.Config{Service: "test", LogOutput: reader, LogLevel: slog.LevelInfo, SampleRatio: 1})
	require.NoError(t, err)
	const lines = 20_000
	for i := range lines {
		told.Logger().Info("line", "n", i)
	}
	close(reader.open)
	require.NoError(t, told.Shutdown(t.Context()))
	told.Logger().Info("after the end")
	text := reader.text.String()
	written := strings.Count(text, `"line"`)
	require.Positive(t, written)
	require.Less(t, written, lines, "what did not fit was dropped")
	require.Contains(t, text, `"n":0`)
	require.Contains(t, text, "lines of the log were dropped")
	require.True(t, strings.HasSuffix(strings.TrimSpace(text), `"after the end"}`), "what is logged at the very end is written at once")
}

func TestALogIsWrittenInOrderAndToItsEnd(t *testing.T) { //nolint:paralleltest // Start sets what is global
	reader := &clogged{open: make(chan struct{})}
	close(reader.open)
	told, err := telemetry.Start(t.Context(), telemetry.Config{Service: "test", LogOutput: reader, LogLevel: slog.LevelInfo, SampleRatio: 1})
	require.NoError(t, err)
	const lines = 500
	for i := range lines {
		told.Logger().Info("line", "n", i)
	}
	require.NoError(t, told.Shutdown(t.Context()))
	all := strings.Split(strings.TrimSpace(reader.text.String()), "\n")
	require.Len(t, all, lines)
	require.Contains(t, all[0], `"n":0}`)
	require.Contains(t, all[lines-1], `"n":499}`)
}
