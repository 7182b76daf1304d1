package llm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// TimeoutDefault is how long a call may take in all where Config does not say.
const TimeoutDefault = 2 * time.Minute

// Config is what a Client needs.
type Config struct {
	// Providers are the vendors to ask, each under its own name; their order is that of Client.Providers.
	Providers []Provider
	Breaker   BreakerConfig
	// Timeout bounds one call from the moment the breaker admits it, Sending included; TimeoutDefault if 0.
	Timeout time.Duration
	// Now is the clock; required.
	Now func() time.Time
	// TracerProvider and MeterProvider are told of every call, as spans.go says. Nil means the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// A Client asks models, behind a breaker per provider, model and owner of the credential. It is safe for concurrent use.
type Client struct {
	names     []string
	providers map[string]Provider
	timeout   time.Duration
	now       func() time.Time
	breakers  *breakers
	observer  observer
}

// New makes a client. Two providers of one name, or no clock, are mistakes of the wiring and panic.
func New(c Config) *Client {
	if c.Now == nil {
		panic("llm.New: Config.Now is required")
	}
	client := &Client{
		providers: make(map[string]Provider, len(c.Providers)),
		timeout:   cmp.Or(c.Timeout, TimeoutDefault),
		now:       c.Now,
		observer:  newObserver(c.TracerProvider, c.MeterProvider, c.Now),
	}
	for _, p := range c.Providers {
		if _, twice := client.providers[p.Name()]; twice {
			panic("llm.New: two providers are named " + p.Name())
		}
		client.providers[p.Name()] = p
		client.names = append(client.names, p.Name())
	}
	client.breakers = &breakers{config: c.Breaker.filled(client.timeout), now: c.Now, all: map[breakerKey]*breaker{}}
	return client
}

// Providers are the names of the providers, in the order of Config.
func (c *Client) Providers() []string { return append([]string(nil), c.names...) }

// States shows every breaker in memory, by provider, model and owner.
func (c *Client) States() []State { return c.breakers.states() }

// Complete makes at most one request to provider, in the name of owner: "operator", or the id of the tenant's credential. Every
// failure is a *Error, but for an error of r.Sending, which is returned as it is. Nothing is sent where the breaker is open, where the
// provider's last rate limit still holds for this owner and model, or where the request cannot be meant.
func (c *Client) Complete(ctx context.Context, provider, owner string, r Request) (Reply, error) {
	p, known := c.providers[provider]
	if !known {
		return Reply{}, badRequest(fmt.Sprintf("provider %q: expected one of %s", provider, strings.Join(c.names, ", ")))
	}
	if fault := r.check(); fault != nil {
		return Reply{}, fault
	}
	return c.observer.observe(ctx, provider, r, func(ctx context.Context) (Reply, error) { return c.complete(ctx, p, owner, r) })
}

// complete is Complete for a request that can be meant.
func (c *Client) complete(ctx context.Context, p Provider, owner string, r Request) (Reply, error) {
	b, wait := c.breakers.enter(breakerKey{p.Name(), r.Model, owner})
	defer c.breakers.leave(b)
	if wait > 0 {
		return Reply{}, &Error{Kind: KindRateLimited, RetryAfter: wait, Message: "the provider's last rate limit still holds"}
	}

	reply, err := b.gate.Execute(func() (Reply, error) { return c.ask(ctx, p, r) })
	if outer, ok := errors.AsType[excused](err); ok {
		err = outer.error
	}
	switch {
	case errors.Is(err, gobreaker.ErrOpenState):
		return Reply{}, c.breakerOpen(b)
	case errors.Is(err, gobreaker.ErrTooManyRequests):
		return Reply{}, &Error{Kind: KindBreakerOpen, RetryAfter: breakerBusyWait, Message: "the provider failed of late and is being probed"}
	}
	var fault *Error
	if errors.As(err, &fault) && fault.Kind == KindRateLimited && fault.RetryAfter > 0 {
		c.breakers.pause(b, fault.RetryAfter)
	}
	return reply, err
}

// ask makes the call within its time, and excuses the errors that do not speak against the provider.
func (c *Client) ask(ctx context.Context, p Provider, r Request) (Reply, error) {
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var refused error
	if sending := r.Sending; sending != nil {
		r.Sending = func(ctx context.Context) error {
			refused = sending(ctx)
			return refused
		}
	}
	reply, err := p.Complete(within, r)
	if refused != nil {
		return Reply{}, excused{refused}
	}
	if err == nil {
		return reply, nil
	}
	var fault *Error
	if !errors.As(err, &fault) {
		fault = &Error{Kind: KindUnavailable, Message: oneLine(err.Error(), r.APIKey), Sent: true}
	}
	// Where the caller's own context ended, the provider had no fair time to answer.
	if ctx.Err() != nil || !fault.counts() {
		return reply, excused{fault}
	}
	return reply, fault
}

func (c *Client) breakerOpen(b *breaker) *Error {
	e := &Error{Kind: KindBreakerOpen, RetryAfter: breakerBusyWait, Message: "the provider failed too often of late"}
	if until := b.openUntil.Load(); until != 0 {
		e.RetryAfter = max(time.Unix(0, until).Sub(c.now()), time.Millisecond)
	}
	return e
}
