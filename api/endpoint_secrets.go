package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"sluice/api/source"
	"sluice/db"
	"sluice/tenants"
)

const (
	// overlapDefault is how long the secrets before a new one stay good.
	overlapDefault = 24 * time.Hour
	overlapMax     = 30 * 24 * time.Hour
)

// NewEndpointSecret is a signing secret that was just added, and all that are good.
type NewEndpointSecret struct {
	EndpointSecret

	Secret  string           `json:"secret,omitempty" doc:"only if it was made here: shown now, and never again"`
	Secrets []EndpointSecret `json:"secrets" doc:"all that are good, newest first"`
}

// version is always 1: a secret is not changed, it is followed by another.
func (NewEndpointSecret) version() int { return 1 }

type endpointSecretCreateInput struct {
	Caller
	Creating

	ID   string `path:"id" doc:"end_..."`
	Body struct {
		Secret  string `json:"secret,omitempty" maxLength:"512" writeOnly:"true" doc:"the secret that the source shows; may be left out where one can be made here"`
		Overlap any    `json:"overlap,omitempty" doc:"how long the secrets before it stay good: a text such as 24h or 90m, or a number of seconds; 0s ends them at once; at most 720h, 24h if left out"`
	}
}

func (a *API) registerEndpointSecrets() {
	register(a, editorRole, huma.Operation{
		OperationID: "rotate-endpoint-secret", Method: http.MethodPost, Path: "/v1/endpoints/{id}/secrets", Tags: []string{"Endpoints"},
		DefaultStatus: http.StatusCreated, Summary: "Add or replace the signing secret",
		Description: "Both secrets are good until overlap ends. last_used_at tells when the source has taken up the one that follows.",
	}, a.endpointSecretCreate)
}

// overlapOf reads how long the secrets before stay good.
func overlapOf(given any) (time.Duration, error) {
	fault := invalidAt("body.overlap", `expected a duration such as "24h", or a number of seconds, of at most 720h`)
	overlap := overlapDefault
	switch v := given.(type) {
	case nil:
	case string:
		parsed, err := time.ParseDuration(v)
		if err != nil {
			return 0, fault
		}
		overlap = parsed
	case float64:
		if v < 0 || v > overlapMax.Seconds() {
			return 0, fault
		}
		overlap = time.Duration(v * float64(time.Second))
	default:
		return 0, fault
	}
	if overlap < 0 || overlap > overlapMax {
		return 0, fault
	}
	return overlap, nil
}

func (a *API) endpointSecretCreate(ctx context.Context, in *endpointSecretCreateInput) (*made[NewEndpointSecret], error) {
	overlap, err := overlapOf(in.Body.Overlap)
	if err != nil {
		return nil, err
	}
	id, err := pathID(tenants.EndpointPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	return create(ctx, a, in.Caller, in.Creating, in.Body, func(tx db.TenantTx) (out NewEndpointSecret, err error) {
		e, err := tx.EndpointGet(ctx, id)
		if err != nil {
			return out, err
		}
		secret, shown, err := endpointSecretFor(e, in.Body.Secret)
		if err != nil {
			return out, err
		}
		if err := tx.EndpointSecretsExpire(ctx, id, overlap); err != nil {
			return out, err
		}
		before, err := tx.EndpointSecretList(ctx, id)
		if err != nil {
			return out, err
		}
		if len(before) >= db.EndpointSecretsMax {
			return out, conflict("secret.too_many", fmt.Sprintf("An endpoint has at most %d secrets at once. Wait until one ends, or end all with overlap 0s.",
				db.EndpointSecretsMax))
		}
		kept, err := tx.EndpointSecretInsert(ctx, id, secret)
		if err != nil {
			return out, err
		}
		out = NewEndpointSecret{EndpointSecret: toEndpointSecret(kept), Secret: shown}
		for _, s := range append([]db.EndpointSecret{kept}, before...) {
			out.Secrets = append(out.Secrets, toEndpointSecret(s))
		}
		return out, nil
	})
}

// endpointSecretFor is the secret that was brought, checked, or one that is made here.
func endpointSecretFor(e db.Endpoint, brought string) (tenants.Secret, string, error) {
	s, ok := source.Get(e.Source)
	if !ok {
		return tenants.Secret{}, "", conflict("source.unknown", "This version does not know the source "+e.Source+".")
	}
	if s.SecretFrom == source.SecretNone {
		return tenants.Secret{}, "", conflict("secret.none", s.Title+" has no secret: its deliveries are known by a certificate.")
	}
	if brought != "" {
		settings, _, _ := splitSettings(s, e.Settings)
		if err := s.CheckSecret(brought, settings); err != nil {
			return tenants.Secret{}, "", invalidAt("body.secret", err.Error())
		}
	}
	secret, shown, err := secretOf(s, brought)
	if err == nil && secret.Empty() {
		err = invalidAt("body.secret", "expected the signing secret that "+s.Title+" shows: it cannot be made here")
	}
	return secret, shown, err
}
