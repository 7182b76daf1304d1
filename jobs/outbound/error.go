package outbound

import (
	"context"
	"errors"
	"net"
)

// A Kind says in one word why an exchange did not end with an answer. It is all that a tenant may be told: an address, a
// port or a peer's own words would make the door a scanner of networks.
type Kind string

// The kinds of Error.
const (
	BadURL   Kind = "bad_url"   // the address cannot be used as it is written; nothing was sent
	Blocked  Kind = "blocked"   // the address, or one that its name stands for, is not allowed; nothing was sent
	Broken   Kind = "broken"    // the connection ended, or the answer was no HTTP, or its header was too large
	Canceled Kind = "canceled"  // the caller gave up
	Connect  Kind = "connect"   // no connection could be made; nothing was sent
	DNS      Kind = "dns"       // the name could not be resolved; nothing was sent
	Timeout  Kind = "timeout"   // the time was over
	TLS      Kind = "tls"       // no trusted, encrypted connection could be made; nothing was sent
	TooLarge Kind = "too_large" // the body of the answer exceeds the limit of an Operator client, or what came over a connection that of Dial
)

var kindText = map[Kind]string{
	BadURL:   "the address cannot be used",
	Blocked:  "the address is not allowed",
	Broken:   "the connection broke, or the answer could not be read",
	Canceled: "the request was given up",
	Connect:  "no connection could be made",
	DNS:      "the name could not be resolved",
	Timeout:  "the target did not answer in time",
	TLS:      "no secure connection could be made",
	TooLarge: "the answer is too large",
}

// An Error tells why an exchange did not end with an answer.
type Error struct {
	Kind Kind
	// Sent tells whether the request may have reached its target: false is certain, true is a possibility.
	Sent bool

	reason string // a fixed sentence in place of the kind's, never one with parts of the address
	cause  error  // for errors.Is and for the operator's log
}

// Error is a sentence that a tenant may read. It holds nothing of the address, of the network, or of the answer.
func (e *Error) Error() string {
	if e.reason != "" {
		return e.reason
	}
	return kindText[e.Kind]
}

// Unwrap returns what happened underneath. Its text may name addresses and hosts, so it is for the operator and not for a
// tenant; it never holds a path or a query.
func (e *Error) Unwrap() error { return e.cause }

// classify names the error of an exchange from what the transport said, from how far the exchange had come, and from
// whether it was the caller who ended it: callerErr is the Err method of the caller's context.
func classify(err error, at *progress, callerErr func() error) *Error {
	var (
		known   *Error
		dns     *net.DNSError
		timeout net.Error
		result  = &Error{Sent: at.sent(), cause: err}
	)
	switch {
	case errors.As(err, &known):
		result.Kind, result.reason = known.Kind, known.reason
	case errors.Is(callerErr(), context.Canceled):
		result.Kind = Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		result.Kind = Timeout
	case errors.As(err, &dns):
		result.Kind = DNS
	case at.sent():
		result.Kind = Broken
	case at.shaking.Load():
		result.Kind = TLS
	default:
		result.Kind = Connect
	}
	return result
}
