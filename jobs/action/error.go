package action

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/outbound"
)

// A Kind says what can be done about an attempt that did not make its effect for certain.
type Kind string

// The kinds of Error.
const (
	Retry   Kind = "retry"   // the same Send may succeed later
	Refused Kind = "refused" // the target, or the connector, will not take this Send, now or later
	Blocked Kind = "blocked" // the door lets nothing out to this address
)

// The codes of Error, for machines to read.
const (
	CodeBlocked      = "action.blocked"      // the address is not allowed
	CodeBroken       = "action.broken"       // the connection broke, or the answer could not be read
	CodeCanceled     = "action.canceled"     // the caller gave up
	CodeConnect      = "action.connect"      // no connection could be made
	CodeCredential   = "action.credential"   // the secret is missing, or cannot be used
	CodeDNS          = "action.dns"          // the name could not be resolved
	CodeEmptyBody    = "action.empty_body"   // the body's template came out empty
	CodeGone         = "action.gone"         // 410: the target wants nothing more, ever
	CodeInvalid      = "action.invalid"      // the action, or what is to be sent, is not as it must be
	CodeLookup       = "action.lookup"       // the target could not be asked whether it has the effect
	CodeNotFound     = "action.not_found"    // 404
	CodeRateLimited  = "action.rate_limited" // 429, or what a service says instead
	CodeRedirect     = "action.redirect"     // 3xx, which is never followed
	CodeRefused      = "action.refused"      // any other 4xx
	CodeStatus4xx    = "action.status_4xx"   // 408 or 425, which may pass
	CodeStatus5xx    = "action.status_5xx"   // 5xx
	CodeTarget       = "action.target"       // what the event says of its target is none, or not an allowed one
	CodeTLS          = "action.tls"          // no secure connection could be made
	CodeTimeout      = "action.timeout"      // no answer in time
	CodeTooLarge     = "action.too_large"    // what is to be sent exceeds the connector's limit
	CodeUnauthorized = "action.unauthorized" // 401 or 403: the service does not take the credential
)

// retryAfterMax is the longest that a target may ask for: a careless header must not park an effect for days.
const retryAfterMax = time.Hour

// An Error tells how an attempt ended that did not make its effect for certain. Its text is fit for a tenant: it holds no
// secret, no part of an address, and nothing that the target said.
type Error struct {
	Kind    Kind
	Code    string
	Message string
	Status  int // of HTTP, 0 if there was no answer
	// RetryAfter is how long the target asks to be left alone, at most an hour, 0 if it does not ask.
	RetryAfter time.Duration
	// Doubt tells that the attempt may have made its effect all the same; false is certain that it has not.
	Doubt bool

	cause error
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns what happened underneath, for the operator's log.
func (e *Error) Unwrap() error { return e.cause }

// asError is an error in the words of this package.
func asError(err error) (*Error, bool) { return errors.AsType[*Error](err) }

func refused(code, message string) *Error {
	return &Error{Code: code, Kind: Refused, Message: message}
}

// limited says that a service wants to be asked less often; wait is 0 if it does not say for how long.
func limited(status int, wait time.Duration) *Error {
	return &Error{
		Code: CodeRateLimited, Kind: Retry, Message: "the target asked to be asked less often", Status: status, RetryAfter: min(max(wait, 0), retryAfterMax),
	}
}

// untilUnix is how long it is until a time in unix seconds, as a header says it, on the target's own clock where it shows it. 0 where there is none.
func untilUnix(text string, h http.Header, at time.Time) time.Duration {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		at = date
	}
	return min(max(time.Unix(seconds, 0).Sub(at), time.Second), retryAfterMax)
}

// undelivered translates an error of the door.
func undelivered(err error) *Error {
	var out *outbound.Error
	if !errors.As(err, &out) {
		// The door promises its own type; what is not known to be harmless may have been sent.
		return &Error{Code: CodeBroken, Kind: Retry, Message: "the request could not be made", Doubt: true, cause: err}
	}
	result := &Error{Code: CodeBroken, Kind: Retry, Message: out.Error(), Doubt: out.Sent, cause: err}
	switch out.Kind {
	case outbound.BadURL:
		result.Code, result.Kind = CodeInvalid, Refused
	case outbound.Blocked:
		result.Code, result.Kind = CodeBlocked, Blocked
	case outbound.Canceled:
		result.Code = CodeCanceled
	case outbound.Connect:
		result.Code = CodeConnect
	case outbound.DNS:
		result.Code = CodeDNS
	case outbound.TLS:
		result.Code = CodeTLS
	case outbound.Timeout:
		result.Code = CodeTimeout
	case outbound.Broken, outbound.TooLarge:
	}
	return result
}

// answered translates a status, nil for 2xx. Which statuses may pass follows the Standard Webhooks specification: a redirect
// is a failure, 410 ends it, and 429, 502 and 504 ask for patience.
func answered(res outbound.Response, at time.Time) *Error {
	if res.Status/100 == 2 {
		return nil
	}
	e := &Error{
		Kind: Refused, Message: "the target answered " + strconv.Itoa(res.Status), Status: res.Status,
	}
	switch {
	case res.Status/100 == 3:
		e.Code, e.Message = CodeRedirect, e.Message+", and redirects are not followed"
	case res.Status == http.StatusGone:
		e.Code = CodeGone
	case res.Status == http.StatusTooManyRequests:
		e.Code, e.Kind = CodeRateLimited, Retry
	case res.Status == http.StatusRequestTimeout, res.Status == http.StatusTooEarly:
		e.Code, e.Kind = CodeStatus4xx, Retry
	case res.Status == http.StatusUnauthorized, res.Status == http.StatusForbidden:
		e.Code, e.Message = CodeUnauthorized, e.Message+": the credential is wrong, has ended, or may not do this"
	case res.Status == http.StatusNotFound:
		e.Code, e.Message = CodeNotFound, e.Message+": it is not there, or the credential may not see it"
	case res.Status/100 == 4:
		e.Code = CodeRefused
	default:
		// It may have acted first, and have failed on the way back.
		e.Code, e.Kind, e.Doubt = CodeStatus5xx, Retry, true
	}
	if e.Kind == Retry {
		e.RetryAfter = RetryAfter(res.Header, at)
	}
	return e
}

// RetryAfter reads the header of that name, seconds or a date (RFC 9110, section 10.2.3). A date is measured from the
// target's own clock where it shows it, so that a difference between the clocks does not matter.
func RetryAfter(h http.Header, at time.Time) time.Duration {
	written := strings.TrimSpace(h.Get("Retry-After"))
	if written == "" {
		return 0
	}
	if strings.Trim(written, "0123456789") == "" {
		seconds, err := strconv.ParseInt(written, 10, 64)
		if err != nil {
			return retryAfterMax // more digits than a number has
		}
		return time.Duration(min(seconds, int64(retryAfterMax/time.Second))) * time.Second
	}
	until, err := http.ParseTime(written)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		at = date
	}
	return min(max(until.Sub(at), 0), retryAfterMax)
}
