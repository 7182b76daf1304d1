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

const (
	// TimeoutDefault is how long a call may take in all where Config does not say.
	TimeoutDefault = 2 * time.Minute
	// TimeoutMax is what Config may say at most.
	TimeoutMax = 10 * time.Minute
	// FirstTokenDefault is how long the first token may take.
	FirstTokenDefault = 30 * time.Second
	// IdleDefault is how long a stream may be silent after it.
	IdleDefault = 20 * time.Second
)

// OwnerOperator is the owner of the operator's own credentials; every other owner is the id of a tenant's.
const OwnerOperator = "operator"

// Config is what a Client needs.
type Config struct {
	// Providers are the vendors to ask, each under its own name; their order is that of Client.Providers.
	Providers []Provider
	Breaker   BreakerConfig
	// Bulkhead is how many calls may be under way per provider, model and owner; 0 is any number.
	Bulkhead int
	// Timeout bounds one call from the moment the breaker admits it, Sending included; TimeoutDefault if 0, TimeoutMax at most.
	Timeout time.Duration
	// FirstToken bounds the time from the POST to the first token; FirstTokenDefault if 0. Models that reason for long in silence, and
	// servers that do not stream, need more.
	FirstToken time.Duration
	// Idle bounds the time between the bytes that follow the first token; IdleDefault if 0.
	Idle time.Duration
	// OnPause, if set, is told when this client itself learns that a provider refuses all calls of owner until a time; other processes
	// can be told by it, and tell their clients by Pause. It is called by the call that learned it, which waits for it.
	OnPause func(provider, owner string, until time.Time)
	// Now is the clock; required.
	Now func() time.Time
	// TracerProvider and MeterProvider are told of every call, as spans.go says. Nil means the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// A Client asks models, behind a breaker and a bulkhead per provider, model and owner of the credential, and keeps to the rate limits that
// providers set an owner. It is safe for concurrent use.
type Client struct {
	names     []string
	providers map[string]Provider
	timeout   time.Duration
	patience  patience
	now       func() time.Time
	breakers  *breakers
	pauses    *pauses
	onPause   func(provider, owner string, until time.Time)
	observer  observer
}

// New makes a client. Two providers of one name, or no clock, are mistakes of the wiring and panic.
func New(c Config) *Client {
	if c.Now == nil {
		panic("llm.New: Config.Now is required")
	}
	client := &Client{
		providers: make(map[string]Provider, len(c.Providers)),
		timeout:   min(cmp.Or(c.Timeout, TimeoutDefault), TimeoutMax),
		patience:  patience{firstToken: cmp.Or(c.FirstToken, FirstTokenDefault), idle: cmp.Or(c.Idle, IdleDefault)},
		now:       c.Now,
		onPause:   c.OnPause,
		observer:  newObserver(c.TracerProvider, c.MeterProvider, c.Now),
	}
	for _, p := range c.Providers {
		if _, twice := client.providers[p.Name()]; twice {
			panic("llm.New: two providers are named " + p.Name())
		}
		client.providers[p.Name()] = p
		client.names = append(client.names, p.Name())
	}
	client.breakers = &breakers{
		config: c.Breaker.filled(client.timeout), places: c.Bulkhead, now: c.Now, changed: client.observer.breakerChanged,
		all: map[breakerKey]*breaker{},
	}
	client.pauses = &pauses{now: c.Now, entriesMax: client.breakers.config.EntriesMax, all: map[pauseKey]*pause{}}
	return client
}

// Providers are the names of the providers, in the order of Config.
func (c *Client) Providers() []string { return append([]string(nil), c.names...) }

// Complete makes at most one request to provider, in the name of owner: OwnerOperator, or the id of the tenant's credential. Every
// failure is a *Error, but for an error of r.Sending, which is returned as it is. Nothing is sent where the provider's last rate limit still
// holds for this owner, where the breaker is open, where the bulkhead is full, or where the request cannot be meant.
func (c *Client) Complete(ctx context.Context, provider, owner string, r Request) (Reply, error) {
	p, fault := c.provider(provider)
	if fault == nil {
		fault = r.check()
	}
	if fault != nil {
		return Reply{}, fault
	}
	key := breakerKey{provider, r.Model, owner}
	if fault := c.paused(key); fault != nil {
		return Reply{}, fault
	}
	b := c.breakers.enter(key)
	defer c.breakers.leave(b)
	if fault := b.refusal(c.now()); fault != nil {
		return Reply{}, fault
	}
	if wait, ok := b.bulkhead.enter(c.now()); !ok {
		c.observer.busy(key)
		return Reply{}, busy(wait)
	}
	return c.observer.observe(ctx, provider, r, func(ctx context.Context) (Reply, error) { return c.complete(ctx, p, b, r) })
}

// Ready is the error that Complete would meet at once, in the same words, or nil. It takes nothing: where the bulkhead is full, all who ask
// are told the same slot, and only Complete or Slot gives one out.
func (c *Client) Ready(provider, model, owner string) *Error {
	if _, fault := c.provider(provider); fault != nil {
		return fault
	}
	key := breakerKey{provider, model, owner}
	if fault := c.paused(key); fault != nil {
		return fault
	}
	b := c.breakers.find(key)
	if b == nil {
		return nil
	}
	if fault := b.refusal(c.now()); fault != nil {
		return fault
	}
	if wait, full := b.bulkhead.busy(c.now()); full {
		return busy(wait)
	}
	return nil
}

// Slot takes the next slot of a full bulkhead, for a call that Ready refused and that will come back: how long to wait, 0 where a place is
// free.
func (c *Client) Slot(provider, model, owner string) time.Duration {
	key := breakerKey{provider, model, owner}
	b := c.breakers.find(key)
	if b == nil {
		return 0
	}
	wait, full := b.bulkhead.reserve(c.now())
	if full {
		c.observer.busy(key)
	}
	return wait
}

// Pause makes all calls of owner to provider wait until a time, at most an hour from now, that another process learned of. It never
// shortens a pause, and OnPause is not told.
func (c *Client) Pause(provider, owner string, until time.Time) {
	if _, fault := c.provider(provider); fault == nil {
		c.pauses.hold(pauseKey{provider, owner}, until)
	}
}

func (c *Client) provider(name string) (Provider, *Error) {
	p, known := c.providers[name]
	if !known {
		return nil, badRequest(fmt.Sprintf("provider %q: expected one of %s", name, strings.Join(c.names, ", ")))
	}
	return p, nil
}

// paused is the error of a call whose owner has to wait.
func (c *Client) paused(key breakerKey) *Error {
	wait := c.pauses.wait(pauseKey{key.provider, key.owner})
	if wait == 0 {
		return nil
	}
	return &Error{Kind: KindRateLimited, RetryAfter: wait, Message: "the provider's last rate limit still holds"}
}

func busy(wait time.Duration) *Error {
	return &Error{Kind: KindBusy, RetryAfter: wait, Message: "as many calls to this model as may be are under way"}
}

// complete is Complete for a call that has a place in the bulkhead, which it gives back.
func (c *Client) complete(ctx context.Context, p Provider, b *breaker, r Request) (Reply, error) {
	began := c.now()
	length := time.Duration(0)
	defer func() { b.bulkhead.leave(length) }()

	reply, err := b.gate.Execute(func() (Reply, error) { return c.ask(ctx, p, r) })
	if outer, ok := errors.AsType[excused](err); ok {
		err = outer.error
	}
	switch {
	case errors.Is(err, gobreaker.ErrOpenState):
		return Reply{}, b.open(c.now())
	case errors.Is(err, gobreaker.ErrTooManyRequests):
		return Reply{}, probed()
	}
	fault, failed := errors.AsType[*Error](err)
	if err == nil || failed && fault.counts() {
		length = c.now().Sub(began)
	}
	if failed {
		b.lastError.Store(&LastError{Kind: fault.Kind, Status: fault.Status, At: c.now()})
	}
	c.heed(b.key, began, err, fault)
	return reply, err
}

// heed learns from a call what the provider says of the owner's pace.
func (c *Client) heed(key breakerKey, began time.Time, err error, fault *Error) {
	owner := pauseKey{key.provider, key.owner}
	switch {
	case err == nil:
		c.pauses.succeeded(owner, began)
	case fault == nil:
	case fault.Kind == KindRateLimited, fault.Kind == KindOverloaded && fault.RetryAfter > 0:
		wait, until, news := c.pauses.refused(owner, began, fault.RetryAfter)
		fault.RetryAfter = wait
		if !news {
			return
		}
		c.observer.paused(key)
		if c.onPause != nil {
			c.onPause(key.provider, key.owner, until)
		}
	}
}

// ask makes the call within its time, and excuses the errors that do not speak against the provider.
func (c *Client) ask(ctx context.Context, p Provider, r Request) (Reply, error) {
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r.patience = c.patience
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
