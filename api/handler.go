package api

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"sluice/tenants"
)

// requestTimeout bounds every request but a delivery, which has bounds of its own.
const requestTimeout = 30 * time.Second

// intakePrefix begins every path that may hold the token of an endpoint; such a path is never written anywhere.
const intakePrefix = "/in/"

// request is what is noted of a request while it is served.
type request struct {
	id       string
	address  string // of the peer
	pattern  string
	tenantID uuid.UUID
	// told says that the log has a line of the request already, with more in it.
	told bool
	// url is the real one, while the span is given one without secrets.
	url *url.URL
}

type requestKey struct{}

// requestOf is what is noted of a request; nil where a test calls past the handler.
func requestOf(ctx context.Context) *request {
	about, _ := ctx.Value(requestKey{}).(*request)
	return about
}

func requestID(ctx context.Context) string {
	if about := requestOf(ctx); about != nil {
		return about.id
	}
	return ""
}

// Handler serves all of the API: each request has an id, a span, a line in the log, and an answer whatever happens.
func (a *API) Handler() http.Handler {
	spanned := otelhttp.NewHandler(http.HandlerFunc(a.serve), "", otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
		if r.Pattern == "" {
			return r.Method + " unmatched"
		}
		return r.Pattern
	}), otelhttp.WithPublicEndpointFn(func(*http.Request) bool {
		return true // a stranger's trace is linked, and decides neither our trace id nor whether it is kept
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := a.deps.Now()
		about := &request{id: uuid.NewString(), address: addressOf(r), url: r.URL}
		_, about.pattern = a.routes.mux.Handler(r)
		if path.Clean(r.URL.Path) != r.URL.Path {
			about.pattern = "" // the mux would redirect to the path that was perhaps meant
		}
		out := &answerWriter{ResponseWriter: w}
		ctx := context.WithValue(r.Context(), requestKey{}, about)
		defer func() {
			if thrown := recover(); thrown != nil {
				a.panicked(ctx, out, thrown)
			}
			if !about.told {
				a.logAccess(ctx, r, about, out.status, a.deps.Now().Sub(started))
			}
		}()
		out.Header().Set("X-Request-Id", about.id)
		out.Header().Set("X-Content-Type-Options", "nosniff")
		out.Header().Set("Cache-Control", "no-store")
		spanned.ServeHTTP(out, shown(r.WithContext(ctx), about.pattern))
	})
}

// shown is the request as its span may describe it: no query, and no path that may hold a token. The pattern is the mux's, set ahead of it.
func shown(r *http.Request, pattern string) *http.Request {
	u := &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: r.URL.Path}
	if strings.HasPrefix(u.Path, intakePrefix) {
		u.Path = intakePrefix + "{token}"
	}
	r.URL, r.RequestURI, r.Pattern = u, u.Path, pattern
	return r
}

// serve is what happens within the span.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	about := requestOf(r.Context())
	r.URL = about.url
	if about.pattern == "" {
		a.unmatched(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, intakePrefix) {
		a.routes.ServeHTTP(w, r)
		return
	}
	if faults := queryFaults(r.URL); len(faults) > 0 {
		writeProblem(w, a.fault(r.Context(), invalid(faults)))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	r = r.WithContext(ctx)
	// One byte past the limit, so that Huma's own cap answers first.
	r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax+1)
	a.routes.ServeHTTP(w, r)
}

// queryFaults finds what no filter can be looked for with: the database takes no text with a NUL or with broken UTF-8.
func queryFaults(u *url.URL) []Fault {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return []Fault{{Location: "query", Message: "expected name=value pairs, percent-encoded"}}
	}
	var faults []Fault
	for name, all := range values {
		for _, v := range all {
			if !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
				faults = append(faults, Fault{Location: "query." + strings.ToValidUTF8(name, "?"), Message: "expected text in UTF-8 without control characters"})
				break
			}
		}
	}
	return faults
}

// methods are those that a route of ours can have.
var methods = []string{http.MethodDelete, http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut}

// unmatched answers a path that nothing is served at, and a method that a path does not have.
func (a *API) unmatched(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, m := range methods {
		try := &http.Request{Method: m, URL: &url.URL{Path: r.URL.Path}, Host: r.Host}
		if _, pattern := a.routes.mux.Handler(try); pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
			allowed = append(allowed, m)
		}
	}
	if len(allowed) == 0 {
		writeProblem(w, problem(http.StatusNotFound, "route.unknown", "There is nothing at this path. GET /docs lists what there is."))
		return
	}
	list := strings.Join(allowed, ", ")
	writeProblem(w, problem(http.StatusMethodNotAllowed, "route.method", "This path takes "+list+".").with("Allow", list))
}

// writeProblem answers where no operation does.
func writeProblem(w http.ResponseWriter, err error) {
	p, ok := err.(*Problem) //nolint:errorlint // fault and problem answer this very type
	if !ok {
		p = problemInternal("")
	}
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(p) //nolint:errchkjson // to a connection that is gone there is nothing to say
}

func (a *API) panicked(ctx context.Context, w *answerWriter, thrown any) {
	if thrown == http.ErrAbortHandler { //nolint:errorlint,err113 // net/http's own sign to give the connection up
		panic(thrown)
	}
	a.deps.Log.ErrorContext(ctx, "a handler panicked", "panic", thrown, "stack", string(debug.Stack()), "request_id", requestID(ctx))
	if w.status == 0 {
		writeProblem(w, problemInternal(requestID(ctx)))
	}
}

// logAccess writes one line for a request: the pattern and never the path, since a path may hold a token, and no value of the query.
func (a *API) logAccess(ctx context.Context, r *http.Request, about *request, status int, took time.Duration) {
	route := about.pattern
	if route == "" {
		route = "unmatched"
	}
	fields := []any{"method", r.Method, "route", route, "status", status, "duration_ms", took.Milliseconds(), "request_id", about.id}
	if about.tenantID != uuid.Nil {
		fields = append(fields, "tenant_id", tenants.FormatID(tenants.TenantPrefix, about.tenantID))
	}
	a.deps.Log.InfoContext(ctx, "request", fields...)
}

// answerWriter notes the status of an answer.
type answerWriter struct {
	http.ResponseWriter

	status int
}

// WriteHeader notes the status.
func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write is a 200 where nothing else was said.
func (w *answerWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach deadlines and flushing.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
