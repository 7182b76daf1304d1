package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

// Tried is what became of a sample event.
type Tried struct {
	Status    int             `json:"status" doc:"what the source would have been answered"`
	EventID   string          `json:"event_id,omitempty" doc:"the event that was kept: GET /v1/events/{id}/explain tells what became of it"`
	Duplicate bool            `json:"duplicate"`
	Answer    json.RawMessage `json:"answer,omitempty" doc:"the answer's body"`
}

type endpointTestInput struct {
	Caller

	ID   string `path:"id" doc:"end_..."`
	Body *struct {
		Sample string `json:"sample,omitempty" doc:"the type of one of the source's samples, as GET /v1/sources lists them; the first if left out"`
	}
}

type endpointTestOutput struct{ Body Tried }

func (a *API) registerEndpointTest() {
	register(a, editorRole, huma.Operation{
		OperationID: "test-endpoint", Method: http.MethodPost, Path: "/v1/endpoints/{id}/test", Tags: []string{"Endpoints"},
		Summary:     "Send a signed sample event through the real door",
		Description: "The event is marked as a test, and is worked as any other: with an automation in mode live it has an effect.",
	}, a.endpointTest)
}

func (a *API) endpointTest(ctx context.Context, in *endpointTestInput) (*endpointTestOutput, error) {
	id, err := pathID(tenants.EndpointPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	wanted := ""
	if in.Body != nil {
		wanted = in.Body.Sample
	}
	var delivery *http.Request
	sent := &trial{}
	err = a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		e, err := tx.EndpointGet(ctx, id)
		if err != nil {
			return err
		}
		secrets, err := tx.EndpointSecrets(ctx, id)
		if err != nil {
			return err
		}
		delivery, err = a.sampleDelivery(withTrial(ctx, sent), e, secrets, wanted)
		return err
	})
	if err != nil {
		return nil, err
	}
	// The door is called after the transaction ended, as a source would: it begins one of its own.
	heard := &heardAnswer{header: http.Header{}, status: http.StatusOK}
	a.routes.ServeHTTP(heard, delivery)
	return &endpointTestOutput{Body: heard.tried(sent.told)}, nil
}

// sampleDelivery makes a delivery as the source would: body, headers, signature. Where only the source can sign with the endpoint's secret, a key
// is made for this one delivery; the door knows it by the context, which nobody outside can set.
func (a *API) sampleDelivery(ctx context.Context, e db.Endpoint, secrets []db.OpenSecret, wanted string) (*http.Request, error) {
	s, ok := source.Get(e.Source)
	if !ok {
		return nil, conflict("source.unknown", "This version does not know the source "+e.Source+".")
	}
	sample, err := sampleOf(s, wanted)
	if err != nil {
		return nil, err
	}
	settings, _, faults := splitSettings(s, e.Settings)
	if len(faults) > 0 {
		return nil, conflict("settings.invalid", "The endpoint's settings cannot be used: "+faults[0].Message)
	}
	var secret string
	switch {
	case s.Trial != nil:
		key, err := s.Trial()
		if err != nil {
			return nil, err
		}
		trialOf(ctx).key, secret = &key, key.Sign
	case len(secrets) == 0:
		return nil, conflict("secret.missing", "The endpoint has no secret to sign with. Give it one with POST /v1/endpoints/{id}/secrets.")
	default:
		secret = secrets[0].Text.Reveal()
	}
	at, id := a.deps.Now(), "test-"+tenants.NewID().String()
	body := sample.Body(id, at)
	signed, err := s.Sign(source.SignInput{
		Method: http.MethodPost, URL: a.endpointURL(e), Header: sample.Header, Body: body, Secret: secret, ID: id, At: at, Settings: settings,
	})
	if err != nil {
		return nil, conflict("sample.unsigned", "A sample cannot be signed with the endpoint's settings and secret.")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, intakePrefix+e.Token, bytes.NewReader(signed.Body))
	if err != nil {
		return nil, err
	}
	r.Header = signed.Header
	if s.ProxyHeader != nil && s.ProxyHeader(settings) != "" {
		r.Header.Set(s.ProxyHeader(settings), secret) // as the proxy would tell of the certificate whose fingerprint the secret is
	}
	return r, nil
}

func sampleOf(s source.Source, wanted string) (source.Sample, error) {
	var kinds []string
	for _, sample := range s.Samples {
		if wanted == "" || sample.Type == wanted {
			return sample, nil
		}
		kinds = append(kinds, sample.Type)
	}
	return source.Sample{}, invalidAt("body.sample", "expected one of "+strings.Join(kinds, ", "))
}

// heardAnswer keeps the answer to a delivery that never left the process.
type heardAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header is that of the answer.
func (h *heardAnswer) Header() http.Header { return h.header }

// Write keeps the body.
func (h *heardAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }

// WriteHeader keeps the status.
func (h *heardAnswer) WriteHeader(status int) { h.status = status }

// tried tells what was answered, and what the door did: some sources are answered in their own language, which names no event.
func (h *heardAnswer) tried(told intakeAnswer) Tried {
	out := Tried{Status: h.status, EventID: told.EventID, Duplicate: told.Duplicate}
	if json.Valid(h.body.Bytes()) {
		out.Answer = bytes.TrimSpace(h.body.Bytes())
	}
	return out
}
