package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"sluice/api/source"
	"sluice/automations"
	"sluice/db"
	"sluice/jobs"
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
	db        *db.DB
	poster    *jobs.Poster
	publicURL string
	log       *slog.Logger
	now       func() time.Time
	compiled  *jobs.Compiled
	refused   *rejectionCounter
	answers   metric.Int64Counter
	took      metric.Float64Histogram
}

func newIntake(d Deps) *intake {
	meter := otel.Meter("sluice/api")
	// An instrument that cannot be made is a no-op: a door does not stay shut for a number.
	answers, _ := meter.Int64Counter("sluice.intake.answers", metric.WithDescription("Answers to deliveries, by source and outcome."))
	took, _ := meter.Float64Histogram("sluice.intake.duration", metric.WithUnit("s"), metric.WithDescription("From a delivery's first byte to its answer."),
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10))
	return &intake{
		db: d.DB, poster: d.Poster, publicURL: d.PublicURL, log: d.Log, now: d.Now, compiled: jobs.NewCompiled(),
		refused: newRejectionCounter(d.DB, d.Log), answers: answers, took: took,
	}
}

// testKey marks the context of a sample that a tenant sent to itself.
type testKey struct{}

// withTest marks a delivery as a test; only the process itself can, since no header says so.
func withTest(ctx context.Context) context.Context { return context.WithValue(ctx, testKey{}, true) }

// delivery is one request to the door, as far as it has come.
type delivery struct {
	endpoint db.EndpointFound
	source   source.Source
	settings source.Settings
	request  source.Request
	secret   db.OpenSecret
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
	d := delivery{request: source.Request{Method: r.Method, Header: r.Header, ReceivedAt: receivedAt}}
	token := r.PathValue("token")
	found, err := in.find(r.Context(), token)
	d.left = intakeDatabaseTimeout - in.now().Sub(receivedAt)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return "", in.answer(w, r, http.StatusNotFound, "endpoint.unknown", "There is no endpoint at this address.")
	case err != nil:
		return "", in.away(w, r, err)
	}
	d.endpoint = found
	var known bool
	if d.source, known = source.Get(found.Source); !known {
		return "", in.away(w, r, errors.New("endpoint of a source that this binary does not know: "+found.Source))
	}
	name = d.source.Name
	if !found.Enabled {
		in.refuse(r, &d, "endpoint.disabled", "The endpoint is switched off.")
		return name, in.answer(w, r, http.StatusNotFound, "endpoint.disabled", "The endpoint is switched off.")
	}
	d.request.URL = in.publicURL + "/in/" + token
	d.request.Body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, d.source.BodyMax))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		in.refuse(r, &d, "body.too_large", "The body is larger than the source sends.")
		return name, in.answer(w, r, http.StatusRequestEntityTooLarge, "body.too_large", "The body is larger than "+strconv.FormatInt(d.source.BodyMax, 10)+" bytes.")
	case err != nil:
		return name, in.answer(w, r, http.StatusBadRequest, "body.incomplete", "The body did not come to its end.")
	}
	if refusal := in.verify(&d); refusal != nil {
		in.refuse(r, &d, refusal.Reason, refusal.Detail)
		return name, in.answer(w, r, http.StatusUnauthorized, refusal.Reason, refusal.Detail)
	}
	if d.source.Handshake != nil {
		if a := d.source.Handshake(d.request, d.secret.Text.Reveal(), d.settings); a != nil {
			maps.Copy(w.Header(), a.Header)
			w.WriteHeader(a.Status)
			_, _ = w.Write(a.Body)
			return name, "handshake"
		}
	}
	events, err := d.source.Events(d.request, d.settings)
	if err != nil {
		reason, detail := "payload.malformed", "The payload cannot be read."
		if refusal, ok := errors.AsType[*source.Refusal](err); ok {
			reason, detail = refusal.Reason, refusal.Detail
		}
		in.refuse(r, &d, reason, detail)
		return name, in.answer(w, r, http.StatusBadRequest, reason, detail)
	}
	return name, in.keep(w, r, &d, events)
}

// find looks the endpoint up, within what a delivery may wait for the database.
func (in *intake) find(ctx context.Context, token string) (found db.EndpointFound, err error) {
	if len(token) != tokenLen {
		return found, db.ErrNotFound
	}
	// Some of the time is left for the transaction, or there is no use in going on.
	ctx, cancel := context.WithTimeout(ctx, intakeDatabaseTimeout/2)
	defer cancel()
	err = in.db.System(ctx, func(tx db.SystemTx) error {
		found, err = tx.EndpointFind(ctx, token)
		return err
	})
	return found, err
}

// verify holds the delivery against every secret that is good, and notes the one that matched.
func (in *intake) verify(d *delivery) *source.Refusal {
	settings, faults := splitSettings(d.source, d.endpoint.Settings)
	if len(faults) > 0 {
		return &source.Refusal{Reason: "settings.invalid", Detail: "The endpoint's settings cannot be used."}
	}
	d.settings = settings
	texts := make([]string, len(d.endpoint.Secrets))
	for i, s := range d.endpoint.Secrets {
		texts[i] = s.Text.Reveal()
	}
	matched, err := d.source.Verify(d.request, texts, d.settings)
	if err == nil && matched >= 0 && matched < len(texts) {
		d.secret = d.endpoint.Secrets[matched]
		return nil
	}
	if refusal, ok := errors.AsType[*source.Refusal](err); ok {
		return refusal
	}
	return &source.Refusal{Reason: "signature.mismatch", Detail: "The signature does not match."}
}

// keep stores the events of a delivery, their runs and jobs in one transaction, and answers after its commit.
func (in *intake) keep(w http.ResponseWriter, r *http.Request, d *delivery, events []source.Event) string {
	fresh, err := in.prepare(r, d, events)
	if err != nil {
		in.refuse(r, d, "payload.malformed", "The payload cannot be read.")
		return in.answer(w, r, http.StatusBadRequest, "payload.malformed", "The payload cannot be read: "+err.Error())
	}
	begun := in.now()
	ctx, cancel := context.WithTimeout(r.Context(), d.left-commitReadTimeout)
	defer cancel()
	answers := make([]intakeAnswer, len(fresh))
	err = in.db.Tenant(ctx, d.endpoint.TenantID, func(tx db.TenantTx) error { return in.insert(ctx, tx, d, fresh, answers) })
	if errors.Is(err, db.ErrCommitUnknown) {
		d.left -= in.now().Sub(begun)
		err = in.readAgain(r.Context(), d, fresh, answers)
	}
	if err != nil {
		return in.away(w, r, err)
	}
	answer := answers[0]
	outcome := "accepted"
	if answer.Duplicate {
		outcome = "duplicate"
	}
	if len(answers) > 1 {
		answer.Events = answers
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) //nolint:errchkjson // the source may have gone
	for i, e := range fresh {
		in.log.InfoContext(r.Context(), "event "+outcome, "tenant_id", tenants.FormatID(tenants.TenantPrefix, d.endpoint.TenantID),
			"event_id", answers[i].EventID, "source", e.event.Source, "type", e.event.Type, "received_at", d.request.ReceivedAt,
			"latency_ms", in.now().Sub(d.request.ReceivedAt).Milliseconds(), "runs", len(e.runs))
	}
	return outcome
}

// freshEvent is an event that is ready to be stored, with the runs that it makes.
type freshEvent struct {
	event db.EventNew
	runs  []db.RunNew
}

// verdict is what an automation made of an event, as explain shows it.
type verdict struct {
	AutomationID string `json:"automation_id"`
	Name         string `json:"name"`
	Version      int    `json:"version"`
	Matched      bool   `json:"matched"`
	Reason       string `json:"reason"`
	Detail       string `json:"detail"`
}

// prepare names the events and asks every automation of the endpoint, all before the transaction begins.
func (in *intake) prepare(r *http.Request, d *delivery, events []source.Event) ([]freshEvent, error) {
	document, err := d.source.Payload(d.request)
	if err != nil {
		return nil, err
	}
	payload, err := automations.DecodePayload(document)
	if err != nil {
		return nil, err
	}
	headers, err := json.Marshal(keptHeaders(r.Header))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(d.request.Body)
	traceID := ""
	if span := trace.SpanContextFromContext(r.Context()); span.HasTraceID() {
		traceID = span.TraceID().String()
	}
	test, _ := r.Context().Value(testKey{}).(bool)
	out := make([]freshEvent, len(events))
	for i, e := range events {
		f := freshEvent{event: db.EventNew{
			Event: db.Event{
				ID: tenants.NewID(), EndpointID: d.endpoint.ID, Source: d.source.Name, SourceEventID: e.ID, Type: e.Type, Entity: e.Entity,
				Sequence: e.Sequence, SecretID: &d.secret.ID, Test: test, TraceID: traceID,
				ReceivedAt: d.request.ReceivedAt, // the row's own is the database's clock
			},
			BodySHA256: sum[:], Headers: headers, Body: d.request.Body,
		}}
		if !e.OccurredAt.IsZero() {
			f.event.OccurredAt = &e.OccurredAt
		}
		if string(document) != string(d.request.Body) {
			f.event.Document = document
		}
		if !d.source.IDSigned(d.settings) {
			f.event.BodyKey = bodyKey(i, e.Type, d.request.Body)
		}
		in.ask(d, &f, payload)
		out[i] = f
	}
	return out, nil
}

// bodyKey is the second idempotency key of an event whose id is not under the signature: a replayed body under a new id is caught by it. The
// type is in it although it is not signed either: Shopify sends one order under two topics with the same bytes, and to lose a genuine event is
// worse than to take a replay once for every topic.
func bodyKey(index int, eventType string, body []byte) string {
	h := sha256.New()
	_, _ = io.WriteString(h, strconv.Itoa(index)+"\x00"+eventType+"\x00")
	_, _ = h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// ask lets every automation of the endpoint judge the event.
func (in *intake) ask(d *delivery, f *freshEvent, payload any) {
	e := jobs.EventOf(f.event.Event)
	verdicts := make([]verdict, 0, len(d.endpoint.Automations))
	for _, a := range d.endpoint.Automations {
		v := verdict{AutomationID: tenants.FormatID(tenants.AutomationPrefix, a.AutomationID), Version: a.Version}
		compiled, err := in.compiled.Of(a)
		if err != nil {
			v.Reason, v.Detail = "automation.invalid", err.Error()
			verdicts = append(verdicts, v)
			continue
		}
		v.Name = compiled.Spec().Name
		v.Matched, err = compiled.Matches(e, payload)
		switch {
		case err != nil:
			v.Matched, v.Reason, v.Detail = false, "when.error", err.Error()
		case !v.Matched:
			v.Reason, v.Detail = "when.false", "Its when is false for this event: "+cut(compiled.Spec().When, whenShownMax)
		default:
			priority, err := compiled.Priority(e, payload)
			if err != nil {
				v.Detail = "The priority is routine, since its expression failed: " + err.Error()
			}
			f.runs = append(f.runs, db.RunNew{
				EventID: f.event.ID, EndpointID: d.endpoint.ID, AutomationID: a.AutomationID, AutomationVersion: a.Version,
				Mode: compiled.Spec().Mode, Priority: priority,
			})
		}
		verdicts = append(verdicts, v)
	}
	f.event.Verdicts, _ = json.Marshal(verdicts) //nolint:errchkjson // texts, numbers and booleans always marshal
}

// whenShownMax is how much of a condition is shown of an event that it refused, in characters.
const whenShownMax = 200

func cut(text string, runesMax int) string {
	if runes := []rune(text); len(runes) > runesMax {
		return string(runes[:runesMax]) + "…"
	}
	return text
}

// insert is the one transaction: events, runs and jobs.
func (in *intake) insert(ctx context.Context, tx db.TenantTx, d *delivery, fresh []freshEvent, answers []intakeAnswer) error {
	var posted []jobs.RunArgs
	for i, f := range fresh {
		first, duplicate, err := tx.EventInsert(ctx, f.event)
		if err != nil {
			return err
		}
		answers[i] = intakeAnswer{EventID: tenants.FormatID(tenants.EventPrefix, first), Duplicate: duplicate}
		if duplicate {
			continue
		}
		for _, r := range f.runs {
			id, err := tx.RunInsert(ctx, r)
			if err != nil {
				return err
			}
			posted = append(posted, jobs.RunArgs{TenantID: tx.TenantID, RunID: id})
		}
	}
	if err := in.poster.PostRuns(ctx, tx.Pgx(), posted); err != nil {
		return err
	}
	const touchEvery = time.Minute
	if d.secret.LastUsedAt == nil || d.request.ReceivedAt.Sub(*d.secret.LastUsedAt) > touchEvery {
		return tx.EndpointSecretTouch(ctx, d.secret.ID)
	}
	return nil
}

// readAgain finds out what became of a commit whose answer was lost: only what stands is acked.
func (in *intake) readAgain(ctx context.Context, d *delivery, fresh []freshEvent, answers []intakeAnswer) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(d.left, commitReadTimeout))
	defer cancel()
	return in.db.Tenant(ctx, d.endpoint.TenantID, func(tx db.TenantTx) error {
		for i, f := range fresh {
			first, err := tx.EventFirst(ctx, f.event.EndpointID, f.event.SourceEventID, f.event.BodyKey)
			if err != nil {
				return err
			}
			answers[i] = intakeAnswer{EventID: tenants.FormatID(tenants.EventPrefix, first), Duplicate: first != f.event.ID}
		}
		return nil
	})
}

// refuse counts a refused delivery.
func (in *intake) refuse(r *http.Request, d *delivery, reason, detail string) {
	in.refused.add(rejectionKey{d.endpoint.TenantID, d.endpoint.ID, reason}, d.request.ReceivedAt, rejectionSample(r, d, detail))
}

// away answers 503: nothing was stored, and the source is to come again.
func (in *intake) away(w http.ResponseWriter, r *http.Request, err error) string {
	in.log.WarnContext(r.Context(), "delivery not stored", "error", err)
	w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds))
	return in.answer(w, r, http.StatusServiceUnavailable, "database.unavailable", "The event could not be stored. Send it again.")
}

// answer writes a problem document.
func (in *intake) answer(w http.ResponseWriter, _ *http.Request, status int, code, detail string) string {
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

// Close writes the counts that are still in memory.
func (in *intake) Close(ctx context.Context) { in.refused.close(ctx) }
