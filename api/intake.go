package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

const (
	// intakeDatabaseTimeout bounds what a delivery may wait for the database in all, so that a 503 comes within 2 s. What a slow sender takes for
	// its body does not count.
	intakeDatabaseTimeout = 1800 * time.Millisecond
	// commitReadTimeout is held back of it for a second look after a commit whose end is not known.
	commitReadTimeout = 300 * time.Millisecond
	// retryAfterSeconds is what a source that heeds it is told when the database is away.
	retryAfterSeconds = 5
	// tokenLen is the length of every token that tenants.NewToken makes: another is not looked up.
	tokenLen = 32
)

// intake is the door: it verifies a delivery over its raw bytes, and answers 2xx only after the event, its runs and their jobs are committed in
// one transaction. No model is called here, and nothing of a payload is parsed before its signature holds.
type intake struct {
	db           *db.DB
	publicURL    string
	proxyHeaders []string
	log          *slog.Logger
	now          func() time.Time
	cache        *endpointCache
	batcher      *batcher
	certificates *certificates
	touches      *secretTouches
	refused      *rejectionCounter
	bodies       *bodyRooms
	answers      metric.Int64Counter
	took         metric.Float64Histogram
}

func newIntake(d Deps) *intake {
	meter := otel.Meter("sluice/api")
	// An instrument that cannot be made is a no-op: a door does not stay shut for a number.
	answers, _ := meter.Int64Counter("sluice.intake.answers", metric.WithDescription("Answers to deliveries, by source and outcome."))
	took, _ := meter.Float64Histogram("sluice.intake.duration", metric.WithUnit("s"), metric.WithDescription("From a delivery's first byte to its answer."),
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10))
	return &intake{
		db: d.DB, publicURL: d.PublicURL, proxyHeaders: d.ProxyHeaders, log: d.Log, now: d.Now,
		cache: newEndpointCache(d.DB, d.Log, d.Now), batcher: newBatcher(d),
		certificates: newCertificates(d.Fetch, d.Now), touches: newSecretTouches(d.DB, d.Log),
		refused: newRejectionCounter(d.DB, d.Log), bodies: newBodyRooms(), answers: answers, took: took,
	}
}

// trial is a sample that a tenant sends to itself; only the process itself can mark a delivery so, since no header says it.
type trial struct {
	// key, if set, proves the sample where only the source could sign with the endpoint's own.
	key *source.Trial
	// told is what the door did with the sample, whatever its answer looks like.
	told intakeAnswer
}

type trialKey struct{}

func withTrial(ctx context.Context, t *trial) context.Context {
	return context.WithValue(ctx, trialKey{}, t)
}

func trialOf(ctx context.Context) *trial {
	t, _ := ctx.Value(trialKey{}).(*trial)
	return t
}

// delivery is one request to the door, as far as it has come.
type delivery struct {
	endpoint *cachedEndpoint
	request  source.Request
	// secret is the one that matched; nil where a certificate, or the key of a trial, did.
	secret *db.OpenSecret
	trial  *trial
	// left is what the delivery may still wait for the database.
	left time.Duration
}

// intakeAnswer is what a delivery is answered with after the commit.
type intakeAnswer struct {
	EventID   string `json:"event_id"`
	Duplicate bool   `json:"duplicate"`
	// Events is set where one request held several.
	Events []intakeAnswer `json:"events,omitempty"`
}

// ServeHTTP takes one delivery.
func (in *intake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := in.now()
	name, outcome := in.serve(w, r, started)
	set := metric.WithAttributes(attribute.String("source", name), attribute.String("outcome", outcome))
	in.answers.Add(r.Context(), 1, set)
	in.took.Record(r.Context(), in.now().Sub(started).Seconds(), set)
}

// serve answers, and returns the source's name and the outcome, for the numbers.
func (in *intake) serve(w http.ResponseWriter, r *http.Request, receivedAt time.Time) (name, outcome string) {
	found, err := in.find(r.Context(), r.PathValue("token"))
	switch {
	case errors.Is(err, db.ErrNotFound):
		return "", in.answer(w, http.StatusNotFound, "endpoint.unknown", "There is no endpoint at this address.")
	case err != nil:
		return "", in.away(w, r, source.Codes{}, err)
	case !found.known:
		return "", in.away(w, r, source.Codes{}, errors.New("endpoint of a source that this binary does not know: "+found.Source))
	}
	d := &delivery{
		endpoint: found, trial: trialOf(r.Context()), left: intakeDatabaseTimeout - in.now().Sub(receivedAt),
		request: source.Request{Method: r.Method, Header: r.Header, ReceivedAt: receivedAt, URL: in.publicURL + intakePrefix + found.Token, Proxy: in.proxied(r.Header)},
	}
	if r.URL.RawQuery != "" {
		d.request.URL += "?" + r.URL.RawQuery
	}
	s := found.source
	if !found.Enabled {
		in.refuse(r, d, "endpoint.disabled", "The endpoint is switched off.")
		return s.Name, in.answer(w, s.Codes.Disabled, "endpoint.disabled", "The endpoint is switched off.")
	}
	if in.batcher.full() { // before anything is spent on it
		return s.Name, in.away(w, r, s.Codes, errBusy)
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		// No source encodes what it signs, and what may unpack without bound is not unpacked.
		in.refuse(r, d, "body.encoded", "The body is encoded, which the source does not do.")
		return s.Name, in.answer(w, s.Codes.Malformed, "body.encoded", "The body must come without Content-Encoding.")
	}
	free, outcome := in.read(w, r, d)
	if outcome != "" {
		return s.Name, outcome
	}
	defer free()
	return s.Name, in.take(w, r, d)
}

// take is what follows when the body is there: the proof, the source's own questions, the events, the commit.
func (in *intake) take(w http.ResponseWriter, r *http.Request, d *delivery) (outcome string) {
	s := d.endpoint.source
	if s.Challenge != nil {
		if a := s.Challenge(d.request); a != nil {
			return in.say(w, r, d, a)
		}
	}
	refusal, err := in.verify(r.Context(), d)
	switch {
	case err != nil:
		return in.away(w, r, s.Codes, err)
	case refusal != nil:
		in.refuse(r, d, refusal.Reason, refusal.Detail)
		code := s.Codes.Refused
		if refusal.Reason == source.ReasonPayloadMalformed { // the proof stands in a body that cannot be read
			code = s.Codes.Malformed
		}
		return in.answer(w, code, refusal.Reason, refusal.Detail)
	}
	if s.Handshake != nil {
		secret := ""
		if d.secret != nil {
			secret = d.secret.Text.Reveal()
		}
		if a := s.Handshake(d.request, secret, d.endpoint.settings); a != nil {
			return in.say(w, r, d, a)
		}
	}
	events, err := s.Events(d.request, d.endpoint.settings)
	if err != nil {
		return in.malformed(w, r, d, err)
	}
	kept, err := in.prepare(r, d, events)
	if err != nil {
		return in.malformed(w, r, d, err)
	}
	return in.keep(w, r, d, kept)
}

// find looks the endpoint up, within what a delivery may wait for the database.
func (in *intake) find(ctx context.Context, token string) (*cachedEndpoint, error) {
	if len(token) != tokenLen || strings.ContainsFunc(token, notOfTokens) {
		return nil, db.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, intakeDatabaseTimeout/2)
	defer cancel()
	return in.cache.get(ctx, token)
}

// notOfTokens finds what no token holds, some of which the database would not even look for.
func notOfTokens(c rune) bool {
	return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
}

// proxied are the headers that the operator's proxy sets, and that a sender cannot.
func (in *intake) proxied(h http.Header) http.Header {
	if len(in.proxyHeaders) == 0 {
		return nil
	}
	out := http.Header{}
	for _, name := range in.proxyHeaders {
		if values := h.Values(name); len(values) > 0 {
			out[http.CanonicalHeaderKey(name)] = values
		}
	}
	return out
}

// verify holds the delivery against every secret that is good, and notes the one that matched. An error is nobody's refusal: what it takes to
// verify could not be had.
func (in *intake) verify(ctx context.Context, d *delivery) (*source.Refusal, error) {
	e := d.endpoint
	if len(e.faults) > 0 {
		return &source.Refusal{Reason: source.ReasonSettingsInvalid, Detail: "The endpoint's settings cannot be used: " + e.faults[0].Place + " " + e.faults[0].Message}, nil
	}
	secrets := d.secrets()
	texts := make([]string, len(secrets))
	for i, s := range secrets {
		texts[i] = s.Text.Reveal()
	}
	switch {
	case d.trial != nil && d.trial.key != nil:
		d.request.Certificate, d.request.Roots = d.trial.key.Certificate, d.trial.key.Roots
	case e.source.CertificateURL != nil:
		url, err := e.source.CertificateURL(d.request)
		if err != nil {
			return refusalOf(err, source.ReasonSignatureMalformed, "The certificate's address cannot be used."), nil
		}
		if d.request.Certificate, err = in.certificates.get(ctx, url); err != nil {
			return nil, err
		}
	}
	matched, err := e.source.Verify(d.request, texts, e.settings)
	switch {
	case err != nil:
		return refusalOf(err, source.ReasonSignatureMismatch, "The signature does not match."), nil
	case e.source.SecretFrom == source.SecretNone:
		return nil, nil //nolint:nilnil // it holds
	case matched < 0 || matched >= len(secrets):
		return &source.Refusal{Reason: source.ReasonSignatureMismatch, Detail: "The signature does not match."}, nil
	}
	if secrets[matched].ID != uuid.Nil {
		d.secret = &secrets[matched]
	}
	return nil, nil //nolint:nilnil // it holds
}

// secrets are those that may prove the delivery at this moment.
func (d *delivery) secrets() []db.OpenSecret {
	if d.trial != nil && d.trial.key != nil {
		return []db.OpenSecret{{Text: tenants.NewSecret(d.trial.key.Verify)}}
	}
	good := make([]db.OpenSecret, 0, len(d.endpoint.Secrets))
	for _, s := range d.endpoint.Secrets {
		if s.ExpiresAt == nil || s.ExpiresAt.After(d.request.ReceivedAt) {
			good = append(good, s)
		}
	}
	return good
}

func refusalOf(err error, reason, detail string) *source.Refusal {
	if refusal, ok := errors.AsType[*source.Refusal](err); ok {
		return refusal
	}
	return &source.Refusal{Reason: reason, Detail: detail}
}

// say answers a question of the source. One that needs a visit first is answered only after it.
func (in *intake) say(w http.ResponseWriter, r *http.Request, d *delivery, a *source.Answer) string {
	if a.Visit != "" {
		if _, err := in.certificates.fetch(r.Context(), a.Visit); err != nil {
			return in.away(w, r, d.endpoint.source.Codes, err)
		}
	}
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
	return "handshake"
}

// keep stores the events of a delivery, their runs and jobs in one transaction with others', and answers after its commit.
func (in *intake) keep(w http.ResponseWriter, r *http.Request, d *delivery, kept *keptDelivery) string {
	begun := in.now()
	ctx, cancel := context.WithTimeout(r.Context(), d.left-commitReadTimeout)
	defer cancel()
	admitted, err := in.batcher.store(ctx, kept.delivery, kept.posted)
	if errors.Is(err, db.ErrCommitUnknown) {
		d.left -= in.now().Sub(begun)
		admitted, err = in.readAgain(r.Context(), d, kept.delivery)
	}
	if err != nil {
		return in.away(w, r, d.endpoint.source.Codes, err)
	}
	if until := admitted[0].FullUntil; until != nil {
		return in.full(w, r, d, *until)
	}
	if d.secret != nil {
		in.touches.note(d.endpoint.TenantID, d.secret, d.request.ReceivedAt)
	}
	answer, outcome := in.outcome(r, d, kept, admitted)
	if d.trial != nil {
		d.trial.told = answer
	}
	if accepted := d.endpoint.source.Accepted; accepted != nil {
		maps.Copy(w.Header(), accepted.Header)
		w.WriteHeader(accepted.Status)
		_, _ = w.Write(accepted.Body)
		return outcome
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) //nolint:errchkjson // the source may have gone
	return outcome
}

// outcome is what became of each event.
func (in *intake) outcome(r *http.Request, d *delivery, kept *keptDelivery, admitted []db.Admitted) (answer intakeAnswer, outcome string) {
	answers := make([]intakeAnswer, len(admitted))
	outcome = "duplicate"
	for i, e := range kept.delivery.Events {
		answers[i] = intakeAnswer{EventID: tenants.FormatID(tenants.EventPrefix, admitted[i].Holder), Duplicate: admitted[i].Holder != e.ID}
		told := "duplicate"
		if !answers[i].Duplicate {
			told, outcome = "accepted", "accepted"
		}
		in.log.LogAttrs(r.Context(), slog.LevelInfo, "event "+told,
			slog.String("tenant_id", d.endpoint.tenant), slog.String("event_id", answers[i].EventID), slog.String("source", d.endpoint.Source),
			slog.String("type", e.Type), slog.Time("received_at", d.request.ReceivedAt),
			slog.Int64("latency_ms", in.now().Sub(d.request.ReceivedAt).Milliseconds()), slog.Int("runs", len(e.Runs)),
			slog.String("request_id", requestID(r.Context())))
	}
	if about := requestOf(r.Context()); about != nil {
		about.told = true
	}
	answer = answers[0]
	if len(answers) > 1 {
		answer.Events = answers
		answer.Duplicate = outcome == "duplicate"
	}
	return answer, outcome
}

// readAgain finds out what became of a commit whose answer was lost: only what stands is acked.
func (in *intake) readAgain(ctx context.Context, d *delivery, stored *db.Delivery) ([]db.Admitted, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(d.left, commitReadTimeout))
	defer cancel()
	admitted := make([]db.Admitted, len(stored.Events))
	err := in.db.Tenant(ctx, stored.TenantID, func(tx db.TenantTx) (err error) {
		for i, e := range stored.Events {
			if admitted[i].Holder, err = tx.EventFirst(ctx, stored.EndpointID, e.SourceEventID, e.Once); err != nil {
				return err
			}
		}
		return nil
	})
	return admitted, err
}

// refuse counts a refused delivery.
func (in *intake) refuse(r *http.Request, d *delivery, reason, detail string) {
	in.refused.add(rejectionKey{d.endpoint.TenantID, d.endpoint.ID, reason}, d.request.ReceivedAt, rejectionSample(r, d, detail))
}

// malformed answers a delivery that is rightly signed and cannot be read.
func (in *intake) malformed(w http.ResponseWriter, r *http.Request, d *delivery, err error) string {
	refusal := refusalOf(err, source.ReasonPayloadMalformed, "The payload cannot be read: "+err.Error())
	in.refuse(r, d, refusal.Reason, refusal.Detail)
	return in.answer(w, d.endpoint.source.Codes.Malformed, refusal.Reason, refusal.Detail)
}

// away answers 503, or what the source wants in its place: nothing was stored, and it is to come again.
func (in *intake) away(w http.ResponseWriter, r *http.Request, codes source.Codes, err error) string {
	if !errors.Is(err, errBusy) { // of which there may be thousands a second: they are counted, and each has its line of access
		in.log.WarnContext(r.Context(), "delivery not stored", "error", err)
	}
	w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds))
	status := codes.Busy
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	if errors.Is(err, errBusy) {
		return in.answer(w, status, "intake.busy", "Too many events wait to be stored. Send it again.")
	}
	if errors.Is(err, errFetch) {
		return in.answer(w, status, "source.unreachable", "What it takes to verify the delivery could not be had from its source. Send it again.")
	}
	return in.answer(w, status, "database.unavailable", "The event could not be stored. Send it again.")
}

// full answers 429: the tenant has stored as many events in this hour as protects the store. Nothing of the delivery was stored.
func (in *intake) full(w http.ResponseWriter, r *http.Request, d *delivery, until time.Time) string {
	const reason = "limit.stored_per_hour"
	in.refuse(r, d, reason, "As many events were stored in this hour as may be.")
	seconds := int(math.Ceil(until.Sub(in.now()).Seconds()))
	w.Header().Set("Retry-After", strconv.Itoa(min(max(seconds, 1), fullRetryMax)))
	return in.answer(w, http.StatusTooManyRequests, reason, "As many events were stored in this hour as may be. Send it again later.")
}

// fullRetryMax is the longest that a source is asked to wait, in seconds: its clock and its patience are not ours.
const fullRetryMax = 600

// answer writes a problem document.
func (in *intake) answer(w http.ResponseWriter, status int, code, detail string) string {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(refusalAnswer{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}) //nolint:errchkjson // the source may have gone
	return code
}

// refusalAnswer is the problem document (RFC 9457) of a delivery that was not taken.
type refusalAnswer struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// seen answers whether there is an endpoint at an address: some sources ask with HEAD before they save it.
func (in *intake) seen(w http.ResponseWriter, r *http.Request) {
	switch _, err := in.find(r.Context(), r.PathValue("token")); {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case errors.Is(err, db.ErrNotFound):
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds))
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// forget drops what is held of the tenant who has just changed something, or of all where the operator has: the next delivery to this process
// must not depend on how fast the database's notification comes.
func (in *intake) forget(ctx context.Context) {
	if about := requestOf(ctx); about != nil && about.tenantID != uuid.Nil {
		in.cache.drop(about.tenantID)
		return
	}
	in.cache.clear()
}

// Close stores what waits, and writes what is still in memory.
func (in *intake) Close(ctx context.Context) {
	in.batcher.close()
	in.cache.close()
	in.touches.close()
	in.refused.close(ctx)
}
