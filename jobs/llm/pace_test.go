//nolint:forbidigo // time.Sleep is called in synctest bubbles, whose clock moves on at once
package llm_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"sluice/jobs/llm"
)

// ask calls provider for model in the name of owner; nil is a reply.
func (p *pipeProvider) ask(t *testing.T, provider, model, owner string) *llm.Error {
	t.Helper()
	_, err := p.client.Complete(t.Context(), provider, owner, request(model))
	if err == nil {
		return nil
	}
	return ended(t, err)
}

func TestPauseHoldsForAKeyAndNoOther(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		pauses bool
		header []string
	}{
		"429":                  {429, true, []string{"Retry-After", "20"}},
		"529":                  {529, true, []string{"Retry-After", "20"}},
		"503":                  {503, true, []string{"Retry-After", "20"}},
		"529 without a time":   {529, false, nil},
		"500 with a time":      {500, false, []string{"Retry-After", "20"}},
		"no money with a time": {402, false, []string{"Retry-After", "20"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
				p.handle = answer(c.status, `{"error":{"message":"no"}}`, c.header...)
				require.NotNil(t, p.ask(t, "openai", "m", "operator"))
				p.handle = answer(200, okReply)
				time.Sleep(5 * time.Second)

				ready := p.client.Ready("openai", "other", "operator")
				fault := p.ask(t, "openai", "other", "operator")
				if !c.pauses {
					require.Nil(t, ready)
					require.Nil(t, fault)
					return
				}
				require.Equal(t, llm.KindRateLimited, fault.Kind, "another model of the same key waits too")
				require.Equal(t, 15*time.Second, fault.RetryAfter)
				require.Equal(t, fault, ready, "Ready says the same")
				require.EqualValues(t, 1, p.posts.Load())
				require.Nil(t, p.ask(t, "openai", "m", "crd_1"), "another owner does not wait")
				p.handle = answer(c.status, `{"error":{"message":"no"}}`, c.header...)
				require.NotNil(t, p.ask(t, "openai", "m", "crd_2"))
				require.NotNil(t, p.client.Ready("openai", "m", "crd_2"))
				require.Nil(t, p.client.Ready("openai", "m", "crd_1"), "a tenant's key makes nobody else wait")
				p.handle = answer(200, okReply)
				require.Nil(t, p.client.Ready("anthropic", "m", "operator"), "nor does another provider")
				time.Sleep(15 * time.Second)
				require.Nil(t, p.ask(t, "openai", "other", "operator"))
			})
		})
	}
}

func TestPauseGrowsWhereTheProviderDoesNotSay(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		longest := func(bound time.Duration) {
			t.Helper()
			fault := p.ask(t, "openai", "m", "operator")
			require.Equal(t, llm.KindRateLimited, fault.Kind)
			require.Positive(t, fault.RetryAfter)
			require.LessOrEqual(t, fault.RetryAfter, bound)
			time.Sleep(fault.RetryAfter)
		}
		refuse := answer(429, `{"error":{}}`)
		p.handle = refuse
		for _, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			longest(time.Duration(seconds) * time.Second)
		}
		// Of 40 more, some are longer than a half of the most: full jitter over a window that has grown.
		var most time.Duration
		for range 40 {
			fault := p.ask(t, "openai", "m", "operator")
			most = max(most, fault.RetryAfter)
			time.Sleep(fault.RetryAfter)
		}
		require.Greater(t, most, 30*time.Second)
		p.handle = answer(200, okReply)
		require.Nil(t, p.ask(t, "openai", "m", "operator"))
		p.handle = refuse
		longest(time.Second)
	})
}

// Calls that were under way together are refused together: that is one rate limit and not many.
func TestPauseIsLearnedOnce(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]string{"it says how long": {"Retry-After", "20"}, "it does not": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told []string
			var lock sync.Mutex
			config := llm.Config{Timeout: time.Minute, OnPause: func(provider, owner string, until time.Time) {
				lock.Lock()
				defer lock.Unlock()
				told = append(told, provider+" "+owner)
				if !until.After(time.Now()) {
					t.Error("a pause lies ahead")
				}
			}}
			inBubbleWith(t, config, func(t *testing.T, p *pipeProvider) {
				release := make(chan struct{})
				p.handle = func(w http.ResponseWriter, r *http.Request) {
					<-release
					answer(429, `{"error":{}}`, headers...)(w, r)
				}
				var calls sync.WaitGroup
				for i := range 16 {
					calls.Go(func() { _ = p.ask(t, "openai", fmt.Sprint("m", i), "operator") })
				}
				synctest.Wait()
				close(release)
				calls.Wait()
				require.Equal(t, []string{"openai operator"}, told)

				time.Sleep(time.Minute)
				close(releaseAgain(&release))
				fault := p.ask(t, "openai", "m", "operator")
				require.Len(t, told, 2)
				if headers == nil {
					require.LessOrEqual(t, fault.RetryAfter, 2*time.Second, "the wave counted as one refusal")
				}

				// A wave that meets a pause of up to a minute, which each call would draw anew.
				for range 6 {
					time.Sleep(time.Minute)
					_ = p.ask(t, "openai", "m", "operator")
				}
				time.Sleep(time.Minute)
				again := releaseAgain(&release)
				for i := range 16 {
					calls.Go(func() { _ = p.ask(t, "openai", fmt.Sprint("m", i), "operator") })
				}
				synctest.Wait()
				close(again)
				calls.Wait()
				require.Len(t, told, 9)
			})
		})
	}
}

// releaseAgain puts a new channel where the last one was closed.
func releaseAgain(release *chan struct{}) chan struct{} {
	*release = make(chan struct{})
	return *release
}

func TestPauseThatOthersLearnedOf(t *testing.T) {
	t.Parallel()
	config := llm.Config{OnPause: func(string, string, time.Time) { t.Error("only what this client learns is told") }}
	inBubbleWith(t, config, func(t *testing.T, p *pipeProvider) {
		p.client.Pause("openai", "operator", time.Now().Add(10*time.Second))
		p.client.Pause("openai", "operator", time.Now().Add(5*time.Second))
		p.client.Pause("openai", "operator", time.Time{})
		p.client.Pause("nobody", "operator", time.Now().Add(time.Hour))
		require.Equal(t, 10*time.Second, p.client.Ready("openai", "m", "operator").RetryAfter, "a pause is never shortened")
		require.Empty(t, p.client.States(), "Ready makes no breaker")
		require.Nil(t, p.ask(t, "openai", "m", "crd_1"))
		p.client.Pause("openai", "operator", time.Now().Add(1000*time.Hour))
		require.Equal(t, time.Hour, p.client.Ready("openai", "m", "operator").RetryAfter)
	})
}

func TestPausesAreBounded(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, llm.Config{Breaker: llm.BreakerConfig{EntriesMax: 8}}, func(t *testing.T, p *pipeProvider) {
		for i := range 100 {
			p.client.Pause("openai", fmt.Sprint("crd_", i), time.Now().Add(time.Minute+time.Duration(i)*time.Millisecond))
		}
		held := 0
		for i := range 100 {
			if p.client.Ready("openai", "m", fmt.Sprint("crd_", i)) != nil {
				held++
			}
		}
		require.LessOrEqual(t, held, 8)
		require.NotNil(t, p.client.Ready("openai", "m", "crd_99"), "the latest stay")
	})
}

func TestReadySaysWhatCompleteWould(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		require.Equal(t, llm.KindBadRequest, p.client.Ready("nobody", "m", "operator").Kind)
		require.Nil(t, p.client.Ready("openai", "m", "operator"))
		p.handle = answer(500, `{"error":{}}`)
		for range 5 {
			require.NotNil(t, p.ask(t, "openai", "m", "operator"))
		}
		require.Equal(t, p.ask(t, "openai", "m", "operator"), p.client.Ready("openai", "m", "operator"))
		require.Equal(t, llm.KindBreakerOpen, p.client.Ready("openai", "m", "operator").Kind)
		require.Nil(t, p.client.Ready("openai", "other", "operator"), "another model has another breaker")

		time.Sleep(31 * time.Second)
		for range 3 {
			require.Nil(t, p.client.Ready("openai", "m", "operator"), "asking does not use the probe up")
		}
		p.handle = hang
		probe := make(chan *llm.Error)
		go func() { probe <- p.ask(t, "openai", "m", "operator") }()
		synctest.Wait()
		require.Equal(t, p.ask(t, "openai", "m", "operator"), p.client.Ready("openai", "m", "operator"))
		require.Equal(t, llm.KindBreakerOpen, p.client.Ready("openai", "m", "operator").Kind)
		require.Equal(t, llm.KindTimeout, (<-probe).Kind)
		state := p.client.States()[0]
		require.EqualValues(t, 2, state.Opened)
		require.Equal(t, llm.LastError{Kind: llm.KindTimeout, At: time.Now()}, *state.LastError)
	})
}

func TestBulkheadTellsEachCallATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, llm.Config{Bulkhead: 4, Timeout: 5 * time.Minute}, func(t *testing.T, p *pipeProvider) {
		p.handle = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(8 * time.Second)
			answer(200, okReply)(w, r)
		}
		for range 3 { // Teaches how long a call is.
			require.Nil(t, p.ask(t, "openai", "m", "operator"))
		}
		state := p.client.States()[0]
		require.InDelta(t, 8, state.LatencySeconds, 0.01)
		require.Equal(t, 4, state.Bulkhead)
		require.Zero(t, state.InFlight)

		sent := 0
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				if fault := p.ask(t, "openai", "m", "operator"); fault != nil {
					t.Errorf("a call that has a place: %v", fault)
				}
			})
		}
		synctest.Wait()
		require.Equal(t, 4, p.client.States()[0].InFlight)
		r := request("m")
		r.Sending = func(context.Context) error { sent++; return nil }
		for i := range 3 {
			ready := p.client.Ready("openai", "m", "operator")
			_, err := p.client.Complete(t.Context(), "openai", "operator", r)
			fault := ended(t, err)
			require.Equal(t, llm.KindBusy, fault.Kind)
			require.False(t, fault.Sent)
			require.InDelta(t, time.Duration(i+1)*2*time.Second, fault.RetryAfter, float64(10*time.Millisecond), "4 places, 8 seconds: one every 2 seconds")
			require.Equal(t, fault, ready, "Ready says the slot that would be given next")
		}
		require.InDelta(t, 8*time.Second, p.client.Slot("openai", "m", "operator"), float64(10*time.Millisecond))
		require.Zero(t, sent)
		require.Nil(t, p.ask(t, "openai", "m", "crd_1"), "another owner has places of its own")
		require.Nil(t, p.ask(t, "openai", "other", "operator"), "and so has another model")
		calls.Wait()
		require.Zero(t, p.client.Slot("openai", "m", "operator"), "a place is free")
		require.Nil(t, p.ask(t, "openai", "m", "operator"))
		require.Zero(t, p.client.States()[0].Failures, "busy is nothing that a breaker counts")
	})
}

func TestBulkheadSlotsLieWithinTenMinutes(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, llm.Config{Bulkhead: 1}, func(t *testing.T, p *pipeProvider) {
		release := make(chan struct{})
		p.handle = func(w http.ResponseWriter, r *http.Request) {
			<-release
			answer(200, okReply)(w, r)
		}
		done := make(chan *llm.Error)
		go func() { done <- p.ask(t, "openai", "m", "operator") }()
		synctest.Wait()
		const asked, slots = 1000, 120 // One every 5 seconds, until a call has told better.
		times := map[time.Duration]bool{}
		for i := range asked {
			wait := p.ask(t, "openai", "m", "operator").RetryAfter
			require.LessOrEqual(t, wait, 10*time.Minute)
			if i >= slots {
				require.Greater(t, wait, 5*time.Minute)
			}
			times[wait] = true
		}
		require.Greater(t, len(times), asked*9/10, "each its own")
		close(release)
		require.Nil(t, <-done)
	})
}

func TestBulkheadPlacesComeBack(t *testing.T) {
	t.Parallel()
	config := llm.Config{Bulkhead: 1, Timeout: time.Minute, Breaker: llm.BreakerConfig{ConsecutiveFailures: 1000, MinRequests: 1000}}
	inBubbleWith(t, config, func(t *testing.T, p *pipeProvider) {
		aborted := request("m")
		aborted.Sending = func(context.Context) error { return context.Canceled }
		for range 20 {
			for _, handler := range []http.HandlerFunc{answer(200, okReply), answer(500, `x`), answer(400, `{"error":{}}`), hang} {
				synctest.Wait() // The server is done with the last one.
				p.handle = handler
				if fault := p.ask(t, "openai", "m", "operator"); fault != nil {
					require.NotEqual(t, llm.KindBusy, fault.Kind)
				}
			}
			_, err := p.client.Complete(t.Context(), "openai", "operator", aborted)
			require.ErrorIs(t, err, context.Canceled)
		}
		require.Zero(t, p.client.States()[0].InFlight)
	})
}

func TestMetricsOfWhatIsKeptInTheHouse(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	config := llm.Config{Bulkhead: 1, Timeout: time.Minute, MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}
	inBubbleWith(t, config, func(t *testing.T, p *pipeProvider) {
		p.handle = answer(500, `{"error":{}}`)
		for range 5 {
			_ = p.ask(t, "openai", "m", "operator")
		}
		p.handle = answer(429, `{"error":{}}`, "Retry-After", "1")
		_ = p.ask(t, "openai", "m", "crd_secret")
		p.handle = hang
		done := make(chan *llm.Error)
		go func() { done <- p.ask(t, "anthropic", "m", "crd_secret") }()
		synctest.Wait()
		_ = p.ask(t, "anthropic", "m", "crd_secret")
		<-done

		var got metricdata.ResourceMetrics
		require.NoError(t, reader.Collect(t.Context(), &got))
		require.NotContains(t, fmt.Sprintf("%+v", got), "crd_secret")
		counted := map[string]attribute.Set{}
		for _, m := range got.ScopeMetrics[0].Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
				require.Len(t, sum.DataPoints, 1, m.Name)
				require.EqualValues(t, 1, sum.DataPoints[0].Value, m.Name)
				counted[m.Name] = sum.DataPoints[0].Attributes
			}
		}
		provider, model := attribute.Key("gen_ai.provider.name"), attribute.Key("gen_ai.request.model")
		require.Equal(t, map[string]attribute.Set{
			"sluice.llm.breaker.changes": attribute.NewSet(provider.String("openai"), model.String("m"), attribute.String("owner", "operator"), attribute.String("state", "open")),
			"sluice.llm.pauses":          attribute.NewSet(provider.String("openai"), attribute.String("owner", "tenant")),
			"sluice.llm.busy":            attribute.NewSet(provider.String("anthropic"), model.String("m"), attribute.String("owner", "tenant")),
		}, counted)
	})
}

// Calls that began before a rate limit was known, and are refused after it ended, say nothing new.
func TestPauseDoesNotGrowByStragglers(t *testing.T) {
	t.Parallel()
	inBubble(t, llm.BreakerConfig{}, func(t *testing.T, p *pipeProvider) {
		const stragglers = 10
		next := make(chan struct{})
		p.handle = func(w http.ResponseWriter, r *http.Request) {
			<-next
			answer(429, `{"error":{}}`)(w, r)
		}
		var calls sync.WaitGroup
		for range stragglers {
			calls.Go(func() {
				if fault := p.ask(t, "openai", "m", "operator"); fault.RetryAfter > time.Second {
					t.Errorf("want the pause of a first refusal, got %s", fault.RetryAfter)
				}
			})
		}
		for range stragglers {
			time.Sleep(2 * time.Second) // Longer than the pause that the one before brought.
			next <- struct{}{}
			synctest.Wait()
		}
		calls.Wait()
		close(next)
		time.Sleep(2 * time.Second)
		require.LessOrEqual(t, p.ask(t, "openai", "m", "operator").RetryAfter, 2*time.Second)
	})
}
