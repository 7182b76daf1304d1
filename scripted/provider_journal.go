package scripted

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// ProviderUsage is what a request used, in tokens, in buckets that do not overlap.
type ProviderUsage struct {
	InputUncached     int64 `json:"input_uncached"`
	InputCacheRead    int64 `json:"input_cache_read"`
	InputCacheWrite5m int64 `json:"input_cache_write_5m"`
	InputCacheWrite1h int64 `json:"input_cache_write_1h"`
	OutputVisible     int64 `json:"output_visible"`
	OutputReasoning   int64 `json:"output_reasoning"`
}

// A ProviderEntry is one request in the journal. Usage is what is billed: all zero where Billed is false.
type ProviderEntry struct {
	N        int          `json:"n"` // From 1.
	At       time.Time    `json:"at"`
	Protocol string       `json:"protocol"` // "anthropic" or "openai".
	Model    string       `json:"model"`
	Mode     ProviderMode `json:"mode"`
	// Status is the HTTP status of the answer, 0 where the connection is dropped.
	Status int `json:"status"`
	// KeyLast4 is the end of the API key; empty for a key of fewer than 12 characters.
	KeyLast4  string `json:"key_last4"`
	RequestID string `json:"request_id"`
	// System, Prompt and Answer are cut after ProviderJournalText bytes.
	System string        `json:"system"`
	Prompt string        `json:"prompt"`
	Answer string        `json:"answer"`
	Billed bool          `json:"billed"`
	Usage  ProviderUsage `json:"usage"`
	// ResponseID is the id in the answer, if it has one.
	ResponseID string `json:"response_id"`
}

const (
	// ProviderJournalKeep is how many entries stay in memory by default.
	ProviderJournalKeep = 10_000
	// ProviderJournalText bounds each text in an entry, in bytes.
	ProviderJournalText = 4096
	// providerLineMax bounds a line of the journal's file: three texts, each byte escaped to six.
	providerLineMax = 6*3*ProviderJournalText + 8192
)

// A providerJournal is a ring in memory and, if it has a file, a line per entry.
type providerJournal struct {
	mu      sync.Mutex
	file    *os.File
	ring    []ProviderEntry
	keep    int
	total   int
	changed chan struct{} // Closed and replaced by every append.
	broken  error         // Of the file; the provider answers nothing once its judge cannot write.
}

func openProviderJournal(path string, keep int) (*providerJournal, error) {
	if keep <= 0 {
		keep = ProviderJournalKeep
	}
	j := &providerJournal{keep: keep, changed: make(chan struct{})}
	if path == "" {
		return j, nil
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("scripted provider: journal: %w", err)
	}
	j.file = file
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("scripted provider: journal %s: %w", path, err), file.Close())
	}
	return j, nil
}

// load reads back what the file holds. A last line that a kill cut short was never answered, and is cut off.
func (j *providerJournal) load() error {
	whole, err := readProviderJournal(j.file, j.remember)
	if err != nil {
		return err
	}
	return j.file.Truncate(whole)
}

// ReadProviderJournal reads the journal of a provider that may be gone, or be running in another process. A last line that is not
// whole is left out: its request was never answered.
func ReadProviderJournal(path string) ([]ProviderEntry, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("scripted provider: journal: %w", err)
	}
	defer file.Close()
	var entries []ProviderEntry
	if _, err := readProviderJournal(file, func(e ProviderEntry) { entries = append(entries, e) }); err != nil {
		return nil, fmt.Errorf("scripted provider: journal %s: %w", path, err)
	}
	return entries, nil
}

// readProviderJournal gives every whole line to each, and returns their length in bytes.
func readProviderJournal(r io.Reader, each func(ProviderEntry)) (whole int64, err error) {
	lines := bufio.NewReaderSize(r, providerLineMax)
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		var e ProviderEntry
		if err == nil {
			err = json.Unmarshal(line, &e)
		}
		if err != nil {
			return whole, fmt.Errorf("line %d: %w", n, err)
		}
		whole += int64(len(line))
		each(e)
	}
}

func (j *providerJournal) remember(e ProviderEntry) {
	j.total++
	if len(j.ring) < j.keep {
		j.ring = append(j.ring, e)
	} else {
		j.ring[(j.total-1)%j.keep] = e
	}
}

// add numbers the entry, and its response where there is a prefix for its id, writes and syncs it, and only then lets it be seen.
func (j *providerJournal) add(e ProviderEntry, idPrefix string) (ProviderEntry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.N = j.total + 1
	if idPrefix != "" {
		e.ResponseID = fmt.Sprintf("%s%08d", idPrefix, e.N)
	}
	if j.broken == nil && j.file != nil {
		line, err := json.Marshal(e)
		if err == nil {
			_, err = j.file.Write(append(line, '\n'))
		}
		if err == nil {
			err = j.file.Sync()
		}
		j.broken = err
	}
	if j.broken != nil {
		return e, fmt.Errorf("scripted provider: journal: %w", j.broken)
	}
	j.remember(e)
	close(j.changed)
	j.changed = make(chan struct{})
	return e, nil
}

func (j *providerJournal) entries() []ProviderEntry {
	j.mu.Lock()
	defer j.mu.Unlock()
	oldest := 0
	if len(j.ring) == j.keep {
		oldest = j.total % j.keep
	}
	return append(append([]ProviderEntry{}, j.ring[oldest:]...), j.ring[:oldest]...)
}

func (j *providerJournal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.total
}

func (j *providerJournal) wait(ctx context.Context, n int) error {
	for {
		j.mu.Lock()
		total, changed := j.total, j.changed
		j.mu.Unlock()
		if total >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d requests, have %d: %w", n, total, ctx.Err())
		}
	}
}

func (j *providerJournal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file, j.broken = nil, os.ErrClosed
	return err
}

func (p *Provider) serveJournal(w http.ResponseWriter, _ *http.Request) {
	writeProviderJSON(w, http.StatusOK, map[string]any{"total": p.Total(), "data": p.Journal()})
}
