package scripted

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
	"unicode/utf8"
)

// A TargetEntry is one request that a target was sent.
type TargetEntry struct {
	Ordinal int // from 1, in the order of arrival
	At      time.Time
	Method  string
	Path    string // as it was escaped
	Query   string // as it was sent, without the question mark
	Header  http.Header
	Body    []byte // exactly as received

	// Key names the effect that is asked for: the webhook-id header, else Idempotency-Key, else empty.
	Key string
	// Acted tells that the effect was made by this request: the count of these entries is the count of effects in the world.
	Acted bool
	// Repeat tells that the effect of this Key had been made already, so that this request made none.
	Repeat bool
	// Status is the answer that was decided on, 0 for none.
	Status int
}

// targetEntryJSON is an entry as it is written: the body as text where that is exact, for people to read.
type targetEntryJSON struct {
	Ordinal    int         `json:"ordinal"`
	At         time.Time   `json:"at"`
	Method     string      `json:"method"`
	Path       string      `json:"path"`
	Query      string      `json:"query,omitempty"`
	Header     http.Header `json:"header"`
	Body       string      `json:"body,omitempty"`
	BodyBase64 []byte      `json:"body_base64,omitempty"`
	Key        string      `json:"key,omitempty"`
	Acted      bool        `json:"acted"`
	Repeat     bool        `json:"repeat"`
	Status     int         `json:"status"`
}

// MarshalJSON writes the body as "body" where it is valid UTF-8, else as "body_base64".
func (e TargetEntry) MarshalJSON() ([]byte, error) {
	entry := targetEntryJSON{
		Acted: e.Acted, At: e.At, Header: e.Header, Key: e.Key, Method: e.Method, Ordinal: e.Ordinal, Path: e.Path,
		Query: e.Query, Repeat: e.Repeat, Status: e.Status,
	}
	if utf8.Valid(e.Body) {
		entry.Body = string(e.Body)
	} else {
		entry.BodyBase64 = e.Body
	}
	return json.Marshal(entry)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *TargetEntry) UnmarshalJSON(b []byte) error {
	var entry targetEntryJSON
	if err := json.Unmarshal(b, &entry); err != nil {
		return fmt.Errorf("read target entry: %w", err)
	}
	*e = TargetEntry{
		Acted: entry.Acted, At: entry.At, Body: entry.BodyBase64, Header: entry.Header, Key: entry.Key, Method: entry.Method,
		Ordinal: entry.Ordinal, Path: entry.Path, Query: entry.Query, Repeat: entry.Repeat, Status: entry.Status,
	}
	if entry.BodyBase64 == nil {
		e.Body = []byte(entry.Body)
	}
	return nil
}

func targetKey(h http.Header) string {
	if id := h.Get("Webhook-Id"); id != "" {
		return id
	}
	return h.Get("Idempotency-Key")
}

// ReadTargetJournal reads a journal file. A last line without its end, which a process left behind that was killed as it
// wrote, is no entry: its request was not answered.
func ReadTargetJournal(path string) ([]TargetEntry, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read target journal: %w", err)
	}
	entries, _, err := parseTargetJournal(b)
	if err != nil {
		return nil, fmt.Errorf("read target journal %s: %w", path, err)
	}
	return entries, nil
}

// parseTargetJournal returns the entries and the length of their lines.
func parseTargetJournal(b []byte) (entries []TargetEntry, length int64, err error) {
	reader := bufio.NewReader(bytes.NewReader(b))
	for range targetEntriesMax + 1 {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return entries, length, nil
		}
		var entry TargetEntry
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", len(entries)+1, err)
		}
		entries = append(entries, entry)
		length += int64(len(line))
	}
	return nil, 0, fmt.Errorf("expected at most %d requests", targetEntriesMax)
}

// openTargetJournal opens a journal file for appending, makes it if need be, and cuts an unfinished last line off.
func openTargetJournal(path string) (*os.File, []TargetEntry, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open target journal: %w", err)
	}
	b, err := io.ReadAll(file)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read target journal: %w", err), file.Close())
	}
	entries, length, err := parseTargetJournal(b)
	if err == nil {
		err = file.Truncate(length)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open target journal %s: %w", path, err), file.Close())
	}
	return file, entries, nil
}

// appendTargetEntry writes one line and waits until the disk has it.
func appendTargetEntry(file *os.File, entry TargetEntry) error {
	line, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("write target journal: %w", err)
	}
	if _, err := file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write target journal: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("sync target journal: %w", err)
	}
	return nil
}
