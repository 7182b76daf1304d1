//nolint:forbidigo // time.Sleep is called in synctest bubbles, whose clock moves on at once
package llm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/jobs/llm"
)

// A pipeProvider is an HTTP server and its client inside a synctest bubble: the connections are in-memory pipes, so that the bubble's
// clock moves on when all wait, and an hour of outage takes no time. Everything above the connection is the real thing.
type pipeProvider struct {
	client *llm.Client
	posts  atomic.Int32
	handle http.HandlerFunc // Replaced only while no call is under way.
}

const okReply = `{"id":"c_1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",
	"message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}`

// inBubble runs test in a bubble with a client whose calls may take 1 minute, whether they make progress or not.
func inBubble(t *testing.T, breaker llm.BreakerConfig, test func(t *testing.T, p *pipeProvider)) {
	t.Helper()
	inBubbleWith(t, llm.Config{Breaker: breaker, Timeout: time.Minute, FirstToken: time.Hour, Idle: time.Hour}, test)
}

// inBubbleWith is inBubble with a client of config.
func inBubbleWith(t *testing.T, config llm.Config, test func(t *testing.T, p *pipeProvider)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pipeProvider{handle: answer(200, okReply)}
		listener := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.posts.Add(1)
			p.handle(w, r)
		})}
		var served sync.WaitGroup
		served.Go(func() { _ = server.Serve(listener) })
		transport := &http.Transport{DialContext: listener.dial}
		c := llm.ProviderConfig{HTTP: &http.Client{Transport: transport}, BaseURL: "http://provider.test/v1", Now: time.Now}
		config.Providers = []llm.Provider{llm.NewOpenAI(c), llm.NewAnthropic(c)}
		config.Breaker.OpenJitter, config.Now = 1, time.Now
		p.client = llm.New(config)
		defer func() {
			transport.CloseIdleConnections()
			_ = server.Close() // It reports the listener that it closed twice.
			served.Wait()
		}()
		test(t, p)
	})
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (*pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipeProvider) call(t *testing.T, owner string) error {
	_, err := p.client.Complete(t.Context(), "openai", owner, request("m"))
	return err
}

// callKind is the kind of the failure, or "" for a reply.
func (p *pipeProvider) callKind(t *testing.T, owner string) llm.Kind {
	t.Helper()
	err := p.call(t, owner)
	if err == nil {
		return ""
	}
	return ended(t, err).Kind
}

// hang answers nothing until the asker leaves.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func TestBreakerTripsAndRecovers(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		p.handle = answer(500, `{"error":{"message":"oops"}}`)
		for range 5 {
			require.Equal(t, llm.KindUnavailable, p.callKind(t, "operator"))
		}
		fault := ended(t, p.call(t, "operator"))
		require.Equal(t, llm.KindBreakerOpen, fault.Kind)
		require.InDelta(t, 30*time.Second, fault.RetryAfter, float64(time.Second), "it says when a probe may pass")
		require.False(t, fault.Sent)
		require.EqualValues(t, 5, p.posts.Load())
		state := p.client.States()[0]
		require.Equal(t, "open", state.State)
		require.WithinDuration(t, time.Now().Add(fault.RetryAfter), state.OpenUntil, time.Second)

		require.Equal(t, llm.KindUnavailable, p.callKind(t, "crd_1"), "another owner's breaker is another")

		time.Sleep(fault.RetryAfter + time.Millisecond)
		require.Equal(t, llm.KindUnavailable, p.callKind(t, "operator"), "one probe passes, and fails")
		require.Equal(t, llm.KindBreakerOpen, p.callKind(t, "operator"))

		time.Sleep(31 * time.Second)
		p.handle = answer(200, okReply)
		require.Empty(t, p.callKind(t, "operator"))
		require.Empty(t, p.callKind(t, "operator"))
		require.Equal(t, "closed", p.client.States()[1].State)
	})
}

func TestBreakerHalfOpenAdmitsOneProbe(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		p.handle = answer(529, `{}`)
		for range 5 {
			require.Equal(t, llm.KindOverloaded, p.callKind(t, "operator"))
		}
		time.Sleep(31 * time.Second)
		release := make(chan struct{})
		p.handle = func(w http.ResponseWriter, r *http.Request) {
			<-release
			answer(200, okReply)(w, r)
		}
		probe := make(chan llm.Kind)
		go func() { probe <- p.callKind(t, "operator") }()
		synctest.Wait()
		fault := ended(t, p.call(t, "operator"))
		require.Equal(t, llm.KindBreakerOpen, fault.Kind)
		require.Positive(t, fault.RetryAfter)
		close(release)
		require.Empty(t, <-probe)
		require.EqualValues(t, 6, p.posts.Load())
	})
}

// A total outage has to trip the breaker even where every call outlives the window, at any number of workers: gobreaker alone, with its
// fixed window, or with a rolling one that is too short, stays closed for ever.
func TestBreakerTripsOnTimeouts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config  llm.BreakerConfig
		workers int
	}{
		"calls outlive the window":             {llm.BreakerConfig{Interval: 50 * time.Second}, 1},
		"calls outlive the window, 16 workers": {llm.BreakerConfig{Interval: 50 * time.Second}, 16},
		"window of a few calls":                {llm.BreakerConfig{Interval: 3 * time.Minute}, 1},
		"default window":                       {llm.BreakerConfig{}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, c.config, func(t *testing.T, p *pipeProvider) {
				p.handle = hang
				var workers sync.WaitGroup
				for range c.workers {
					workers.Go(func() {
						for range 8 {
							err := p.call(t, "operator")
							fault := new(llm.Error)
							if !errors.As(err, &fault) || fault.Kind == llm.KindBreakerOpen {
								return
							}
							if fault.Kind != llm.KindTimeout || !fault.Sent {
								t.Errorf("want a timeout that may have been billed, got %v", fault)
							}
						}
					})
				}
				workers.Wait()
				require.Equal(t, llm.KindBreakerOpen, p.callKind(t, "operator"))
				require.LessOrEqual(t, int(p.posts.Load()), 5+c.workers-1+1, "5 failures, what was under way with the last, and a probe")
			})
		})
	}
}

func TestBreakerTripsOnTimeoutsFarApart(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		p.handle = hang
		for range 5 {
			require.Equal(t, llm.KindTimeout, p.callKind(t, "operator"))
			time.Sleep(time.Hour)
		}
		// The last sleep has outlasted the open state: the next call is the one probe.
		require.Equal(t, "half-open", p.client.States()[0].State)
	})
}

func TestBreakerTripsOnRatio(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		failures int // Of 10, spread so that none are 5 in a row.
		want     string
	}{{4, "closed"}, {5, "open"}} {
		t.Run(fmt.Sprint(c.failures), func(t *testing.T) {
			t.Parallel()
			inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
				for i := range 10 {
					p.handle = answer(200, okReply)
					if i%2 == 1 && i/2 < c.failures {
						p.handle = answer(500, `{"error":{}}`)
					}
					_ = p.callKind(t, "operator")
					time.Sleep(20 * time.Second)
				}
				require.Equal(t, c.want, p.client.States()[0].State)
			})
		})
	}
}

func TestBreakerIgnoresWhatIsNotTheProvidersFault(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{
		"bad requests": answer(400, `{"error":{"message":"too long"}}`),
		"bad keys":     answer(401, `{"error":{}}`),
		"rate limits":  answer(429, `{"error":{}}`),
		"no money":     answer(429, `{"error":{"code":"insufficient_quota"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
				p.handle = handler
				for range 30 {
					require.NotEqual(t, llm.KindBreakerOpen, p.callKind(t, "operator"))
				}
				state := p.client.States()[0]
				require.Equal(t, "closed", state.State)
				require.Zero(t, state.Failures+state.Successes+state.InFlight)
			})
		})
	}
}

func TestBreakerIgnoresTheCallersOwnDeadline(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		p.handle = hang
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := p.client.Complete(ctx, "openai", "operator", request("m"))
			cancel()
			require.Equal(t, llm.KindTimeout, ended(t, err).Kind)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, "closed", p.client.States()[0].State)
	})
}

func TestRateLimitHoldsForAllOfOneOwner(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		p.handle = answer(429, `{"error":{}}`, "Retry-After", "20")
		require.Equal(t, llm.KindRateLimited, p.callKind(t, "operator"))
		p.handle = answer(200, okReply)
		time.Sleep(5 * time.Second)

		fault := ended(t, p.call(t, "operator"))
		require.Equal(t, llm.KindRateLimited, fault.Kind)
		require.Equal(t, 15*time.Second, fault.RetryAfter, "what remains of it")
		require.False(t, fault.Sent)
		require.EqualValues(t, 1, p.posts.Load(), "nothing is sent meanwhile")
		require.Equal(t, time.Now().Add(15*time.Second), p.client.States()[0].PausedUntil)
		require.Empty(t, p.callKind(t, "crd_1"), "another owner does not wait")

		time.Sleep(fault.RetryAfter)
		require.Empty(t, p.callKind(t, "operator"))
	})
}

func TestBreakersAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{EntriesMax: 8}, func(t *testing.T, p *pipeProvider) {
		p.handle = hang
		busy := make(chan llm.Kind)
		go func() { busy <- p.callKind(t, "busy") }()
		synctest.Wait()
		p.handle = answer(200, okReply)
		for i := range 100 {
			require.Empty(t, p.callKind(t, fmt.Sprintf("crd_%03d", i)))
			time.Sleep(time.Millisecond)
			require.LessOrEqual(t, len(p.client.States()), 9)
		}
		states := p.client.States()
		require.Equal(t, "busy", states[0].Owner, "one in use stays")
		require.Equal(t, "crd_099", states[len(states)-1].Owner, "the latest stay")
		require.Equal(t, llm.KindTimeout, <-busy)
	})
}
