package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"go.opentelemetry.io/otel/trace"

	"sluice/db"
)

// A Problem is every answer that is not the one asked for, as RFC 9457 writes it, with a code that programs can rely on.
type Problem struct {
	Type   string `json:"type" doc:"always about:blank: the code says which problem it is" example:"about:blank"`
	Title  string `json:"title" doc:"the name of the status" example:"Unprocessable Entity"`
	Status int    `json:"status" doc:"the HTTP status" example:"422"`
	Detail string `json:"detail" doc:"what is wrong, and what to do about it, for a person"`
	Code   string `json:"code" doc:"what is wrong, for a program: stable" example:"input.invalid"`
	// Errors is every bad field at once.
	Errors   []Fault `json:"errors,omitempty" doc:"every bad field of the request"`
	Instance string  `json:"instance,omitempty" doc:"the request, to quote when asking the operator about it"`

	header http.Header
	cause  error
}

// A Fault is one bad field of a request.
type Fault struct {
	Location string `json:"location" doc:"the field: body.name, query.limit, header.If-Match" example:"body.prompt.user"`
	Message  string `json:"message" doc:"what was expected there"`
}

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are the headers that go with the status.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType is that of RFC 9457, whatever the caller accepts.
func (p *Problem) ContentType(string) string { return problemType }

// Unwrap is what happened underneath; it is logged, and never sent.
func (p *Problem) Unwrap() error { return p.cause }

const problemType = "application/problem+json"

// retryAfterText is how many seconds a caller is asked to wait where the database is away.
const retryAfterText = "2"

func problem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

func (p *Problem) with(name, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

func problemUnauthorized() *Problem {
	return problem(http.StatusUnauthorized, "key.invalid", "Show a key as Authorization: Bearer slc_...; this one is missing, mistyped or revoked.").
		with("WWW-Authenticate", `Bearer realm="sluice"`)
}

// problemNotFound is byte for byte the same for an id that is malformed, unknown, or another tenant's.
func problemNotFound() *Problem {
	return problem(http.StatusNotFound, "not_found", "There is nothing here under this id.")
}

func problemUnavailable(code, detail string) *Problem {
	return problem(http.StatusServiceUnavailable, code, detail).with("Retry-After", retryAfterText)
}

func problemInternal(requestID string) *Problem {
	p := problem(http.StatusInternalServerError, "internal", "Something went wrong here, and is logged. Quote the instance when you ask about it.")
	if requestID != "" {
		p.Instance = "urn:uuid:" + requestID
	}
	return p
}

// invalid is a 422 that names every bad field; nil if there are none.
func invalid(faults []Fault) error {
	if len(faults) == 0 {
		return nil
	}
	p := problem(http.StatusUnprocessableEntity, "input.invalid", "The request has fields that cannot be taken; each is named in errors.")
	p.Errors = faults
	return p
}

// invalidAt is a 422 of one bad field.
func invalidAt(location, message string) error {
	return invalid([]Fault{{Location: location, Message: message}})
}

// conflict is a 409: the request is fine, and what is there stands in its way.
func conflict(code, detail string) error { return problem(http.StatusConflict, code, detail) }

// fault is the one place that turns errors into status codes. What it cannot name is logged with its cause, and answered without it.
func (a *API) fault(ctx context.Context, err error) error {
	var p *Problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, db.ErrNotFound):
		return problemNotFound()
	case errors.Is(err, db.ErrKeyReused):
		return problem(http.StatusUnprocessableEntity, "idempotency.key_reused",
			"This Idempotency-Key came before, with another request. Take a new key for a new request.")
	case errors.Is(err, db.ErrStale):
		return problem(http.StatusPreconditionFailed, "precondition_failed", "It was changed since you read it. Read it again, and send its new ETag as If-Match.")
	case errors.Is(err, db.ErrCommitUnknown):
		a.deps.Log.WarnContext(ctx, "the end of a commit is unknown", "error", err, "request_id", requestID(ctx))
		return problemUnavailable("database.commit_unknown",
			"The connection to the database was lost during the commit: the change may stand, or not. Read it, or send the same Idempotency-Key again.")
	case errors.Is(err, db.ErrUnavailable):
		a.deps.Log.WarnContext(ctx, "the database is away", "error", err, "request_id", requestID(ctx))
		return problemUnavailable("database.unavailable", "The database cannot be reached. Nothing was written; try again soon.")
	case errors.Is(err, db.ErrConflict):
		return conflict("conflict", "What is there stands in the way of this change.")
	case errors.Is(err, context.Canceled):
		// Nobody is there to read it.
		return problemUnavailable("request.canceled", "The request was given up by its sender.")
	case errors.Is(err, context.DeadlineExceeded):
		return problemUnavailable("request.timeout", "The request took too long. Ask for less, or try again.")
	}
	a.deps.Log.ErrorContext(ctx, "a request failed", "error", err, "request_id", requestID(ctx),
		"trace_id", trace.SpanContextFromContext(ctx).TraceID().String())
	return problemInternal(requestID(ctx))
}

// humaErrorsAreOurs makes Huma's own errors Problems, once for the process: Huma has one variable for all of its APIs.
var humaErrorsAreOurs = sync.OnceFunc(func() {
	huma.DefaultArrayNullable = false // a list of ours is empty, and never null
	huma.NewError = func(status int, detail string, errs ...error) huma.StatusError {
		return humaProblem(status, detail, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, detail string, errs ...error) huma.StatusError {
		p := humaProblem(status, detail, errs)
		if p.Code == "internal" && p.Instance == "" {
			if id := requestID(ctx.Context()); id != "" {
				p.Instance = "urn:uuid:" + id
			}
		}
		return p
	}
})

// missingProperty is how Huma says that a key is missing: at the object, and not at the key.
var missingProperty = regexp.MustCompile(`^expected required property (\S+) to be present$`)

// indexed is how Huma writes the place in a list; here it is a slash, as below a JSON document everywhere.
var indexed = regexp.MustCompile(`\[(\d+)\]`)

// faultOf says in our words what Huma found at one place, without the value that it found there.
func faultOf(d *huma.ErrorDetail) Fault {
	if m := missingProperty.FindStringSubmatch(d.Message); m != nil {
		return Fault{Location: d.Location + "." + m[1], Message: "is required"}
	}
	return Fault{Location: indexed.ReplaceAllString(d.Location, "/$1"), Message: d.Message}
}

// humaProblem says in our words what Huma found. The values it holds are left out: a body may hold a secret.
func humaProblem(status int, detail string, errs []error) *Problem {
	var faults []Fault
	for _, err := range errs {
		var p *Problem
		var d huma.ErrorDetailer
		switch {
		case errors.As(err, &p):
			return p
		case errors.As(err, &d):
			faults = append(faults, faultOf(d.ErrorDetail()))
		case err != nil && status < http.StatusInternalServerError:
			faults = append(faults, Fault{Location: "body", Message: err.Error()})
		}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) {
			status = http.StatusBadRequest
		}
	}
	switch {
	case status == http.StatusUnprocessableEntity && len(faults) > 0:
		var p *Problem
		_ = errors.As(invalid(faults), &p)
		return p
	case status == http.StatusBadRequest:
		p := problem(status, "input.malformed", "The body is not JSON that can be read.")
		if detail == "request body is required" {
			p.Detail = "This needs a body of JSON."
		}
		p.Errors = faults
		return p
	case status == http.StatusUnsupportedMediaType:
		return problem(status, "input.content_type", "Send the body as application/json.")
	case status == http.StatusRequestEntityTooLarge:
		return problem(status, "input.too_large", "The body is larger than this takes.")
	case status == http.StatusRequestTimeout:
		return problem(status, "request.timeout", "The body did not arrive in time.")
	case status >= http.StatusInternalServerError:
		return problemInternal("")
	}
	p := problem(status, strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_"), detail)
	p.Errors = faults
	return p
}
