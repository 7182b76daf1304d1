package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

const (
	// rejectionFlushEvery is how long counts stay in memory: a flood of forgeries costs a row's update in this time, not a row each. A killed
	// process loses at most this much of them.
	rejectionFlushEvery = 500 * time.Millisecond
	// rejectionKeysMax bounds what is counted apart between two flushes; further ones are only logged.
	rejectionKeysMax = 10_000
	// rejectionFlushTimeout bounds one flush.
	rejectionFlushTimeout = 10 * time.Second

	// rejectionFlood is how many refusals of one endpoint within one minute are told to a person, once: a wrong secret, or somebody who tries.
	rejectionFlood = 50

	keptHeadersMax     = 64
	keptHeaderValueMax = 512
)

// rejectionKey is what refused deliveries are counted by, together with the minute.
type rejectionKey struct {
	tenantID, endpointID uuid.UUID
	reason               string
}

type rejectionCount struct {
	count           int64
	firstAt, lastAt time.Time
	sample          json.RawMessage
}

// rejectionCounter counts refused deliveries in memory, and writes the counts a few times a second.
type rejectionCounter struct {
	db  *db.DB
	log *slog.Logger

	mu      sync.Mutex
	pending map[rejectionKey]*rejectionCount
	dropped int64

	stop chan struct{}
	done chan struct{}
}

func newRejectionCounter(d *db.DB, log *slog.Logger) *rejectionCounter {
	c := &rejectionCounter{db: d, log: log, pending: map[rejectionKey]*rejectionCount{}, stop: make(chan struct{}), done: make(chan struct{})}
	go c.loop()
	return c
}

// add counts one refused delivery; sample is made only for the first of its kind since the last flush.
func (c *rejectionCounter) add(key rejectionKey, at time.Time, sample func() json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held, ok := c.pending[key]; ok {
		held.count++
		held.lastAt = at
		return
	}
	if len(c.pending) >= rejectionKeysMax {
		c.dropped++
		return
	}
	c.pending[key] = &rejectionCount{count: 1, firstAt: at, lastAt: at, sample: sample()}
}

func (c *rejectionCounter) loop() {
	defer close(c.done)
	ticker := time.NewTicker(rejectionFlushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
			c.flush(context.Background())
		}
	}
}

// flush writes what is pending; what cannot be written is kept for the next time.
func (c *rejectionCounter) flush(ctx context.Context) {
	c.mu.Lock()
	pending, dropped := c.pending, c.dropped
	c.pending, c.dropped = map[rejectionKey]*rejectionCount{}, 0
	c.mu.Unlock()
	if dropped > 0 {
		c.log.WarnContext(ctx, "rejections not counted: too many endpoints were refused at once", "count", dropped)
	}
	ctx, cancel := context.WithTimeout(ctx, rejectionFlushTimeout)
	defer cancel()
	for key, r := range pending {
		err := c.db.Tenant(ctx, key.tenantID, func(tx db.TenantTx) error {
			if err := tx.RejectionAdd(ctx, db.Rejection{
				EndpointID: key.endpointID, Reason: key.reason, Count: r.count, Sample: r.sample, FirstAt: r.firstAt, LastAt: r.lastAt,
			}); err != nil {
				return err
			}
			return floodTell(ctx, tx, key.endpointID, r.firstAt)
		})
		if errors.Is(err, db.ErrConflict) {
			continue // its tenant was erased meanwhile, and will never be there again
		}
		if err != nil {
			c.log.WarnContext(ctx, "rejections not written yet", "error", err, "count", r.count)
			c.putBack(key, r)
		}
	}
}

// floodTell begins an alert where an endpoint has refused so much within the minute of at that a person should know.
func floodTell(ctx context.Context, tx db.TenantTx, endpointID uuid.UUID, at time.Time) error {
	minute, err := tx.RejectionMinute(ctx, endpointID, at)
	if err != nil || minute.Count < rejectionFlood {
		return err
	}
	return tx.AlertBegin(ctx, db.AlertRejections, tenants.FormatID(tenants.EndpointPrefix, endpointID), fmt.Sprintf(
		"%d deliveries were refused within a minute, since %s, most of them for %s.", minute.Count, minute.FirstAt.UTC().Format(time.RFC3339), minute.Reason))
}

func (c *rejectionCounter) putBack(key rejectionKey, r *rejectionCount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held, ok := c.pending[key]; ok {
		held.count += r.count
		held.firstAt, held.sample = r.firstAt, r.sample
		return
	}
	if len(c.pending) < rejectionKeysMax {
		c.pending[key] = r
	}
}

func (c *rejectionCounter) close(ctx context.Context) {
	close(c.stop)
	<-c.done
	c.flush(ctx)
}

// rejectionSample tells what one refused delivery looked like: no body, no signature, no token.
func rejectionSample(r *http.Request, d *delivery, detail string) func() json.RawMessage {
	return func() json.RawMessage {
		sum := sha256.Sum256(d.request.Body)
		address, _, _ := net.SplitHostPort(r.RemoteAddr)
		sample, err := json.Marshal(map[string]any{
			"detail": detail, "method": r.Method, "remote_address": address, "headers": keptHeaders(r.Header, source.ProofHeader(d.endpoint.settings)),
			"body_bytes": len(d.request.Body), "body_sha256": hex.EncodeToString(sum[:]),
		})
		if err != nil {
			return json.RawMessage(`{}`)
		}
		return sample
	}
}

// secretWords are parts of header names whose values prove something, and are not kept.
var secretWords = []string{"signature", "hmac", "token", "auth", "secret", "cookie", "key", "password", "credential", "session"}

// keptHeaders are the headers that matter of a delivery: what a source says of itself and of the event, and nothing that proves who it is, such as
// the header that the endpoint's settings name.
func keptHeaders(h http.Header, proof string) map[string]string {
	out := map[string]string{}
	for name, values := range h {
		lower := strings.ToLower(name)
		if len(out) >= keptHeadersMax || len(values) == 0 || !keptHeader(lower) || strings.EqualFold(name, proof) {
			continue
		}
		value := strings.ToValidUTF8(strings.ReplaceAll(values[0], "\x00", ""), "\uFFFD")
		if len(value) > keptHeaderValueMax {
			value = strings.ToValidUTF8(value[:keptHeaderValueMax], "")
		}
		out[lower] = value
	}
	return out
}

func keptHeader(lower string) bool {
	for _, word := range secretWords {
		if strings.Contains(lower, word) {
			return false
		}
	}
	switch lower {
	case "content-type", "content-length", "user-agent", "date":
		return true
	}
	if strings.HasPrefix(lower, "x-forwarded") || strings.HasPrefix(lower, "x-real") {
		return false
	}
	return strings.HasPrefix(lower, "x-") || strings.HasPrefix(lower, "webhook-") || strings.HasPrefix(lower, "svix-") || strings.HasPrefix(lower, "sluice-")
}
