package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// Provider is how a model does, asked in the name of one owner, over all worker processes.
type Provider struct {
	Provider string `json:"provider" example:"anthropic"`
	Model    string `json:"model" doc:"empty where nothing is known but that the provider asked the owner to wait"`
	Owner    string `json:"owner" doc:"operator, or the id of a tenant's credential" example:"operator"`
	TenantID string `json:"tenant_id,omitempty" doc:"the tenant of the credential"`
	// State is the worst that any process sees.
	State          string            `json:"state" enum:"closed,half_open,open" doc:"of the breaker, as the process sees it that sees it worst; an open one lets no call pass"`
	OpenUntil      *time.Time        `json:"open_until" doc:"when the last open breaker lets a probe pass"`
	PausedUntil    *time.Time        `json:"paused_until" doc:"when the rate limit ends that the provider set the owner, for all models"`
	PauseReason    string            `json:"pause_reason,omitempty"`
	InFlight       int               `json:"in_flight" doc:"calls under way"`
	Bulkhead       int               `json:"bulkhead" doc:"how many may be; 0 is any number"`
	Calls          int               `json:"calls" doc:"calls in the breakers' windows that count for or against the model"`
	Failures       int               `json:"failures" doc:"those of them that failed"`
	Opened         int64             `json:"opened" doc:"how often the breakers opened since the processes began"`
	LatencySeconds float64           `json:"latency_seconds" doc:"a moving average; 0 before the first call"`
	LastError      *ProviderError    `json:"last_error" doc:"null if none failed"`
	Processes      []ProviderProcess `json:"processes" doc:"what each worker process sees; one that is silent for 30 s is left out"`
}

// ProviderError is the last call that failed.
type ProviderError struct {
	Kind   string    `json:"kind" example:"overloaded"`
	Status int       `json:"status" doc:"the HTTP status; 0 if there was none"`
	At     time.Time `json:"at"`
}

// ProviderProcess is how a model does, as one worker process sees it.
type ProviderProcess struct {
	Process        string     `json:"process"`
	State          string     `json:"state" enum:"closed,half_open,open"`
	OpenUntil      *time.Time `json:"open_until"`
	InFlight       int        `json:"in_flight"`
	Calls          int        `json:"calls"`
	Failures       int        `json:"failures"`
	LatencySeconds float64    `json:"latency_seconds"`
	SeenAt         time.Time  `json:"seen_at"`
}

// breakerRank is how bad a state is.
var breakerRank = map[string]int{"closed": 0, "half_open": 1, "open": 2}

// toProviders makes one answer of the rows of each key, which stand together.
func toProviders(rows []db.ProviderStateRow) []Provider {
	var out []Provider
	for i := 0; i < len(rows); {
		end := i + 1
		for end < len(rows) && rows[end].ProviderKey == rows[i].ProviderKey {
			end++
		}
		out = append(out, toProvider(rows[i:end]))
		i = end
	}
	return out
}

func toProvider(rows []db.ProviderStateRow) Provider {
	first := rows[0]
	out := Provider{
		Provider: first.Provider, Model: first.Model, Owner: first.Owner, State: "closed", PausedUntil: utc(first.PausedUntil), Processes: []ProviderProcess{},
	}
	if id, err := uuid.Parse(first.Owner); err == nil {
		out.Owner = tenants.FormatID(tenants.CredentialPrefix, id)
	}
	if first.TenantID != nil {
		out.TenantID = tenants.FormatID(tenants.TenantPrefix, *first.TenantID)
	}
	if first.PauseReason != nil {
		out.PauseReason = *first.PauseReason
	}
	weighed := 0.0
	for _, r := range rows {
		if r.State != nil {
			weighed += out.add(*r.Process, *r.State, r.At.UTC())
		}
	}
	if weighed > 0 {
		out.LatencySeconds /= weighed
	}
	return out
}

// add counts one process in, and says by how much its latency, which is summed up, weighs.
func (p *Provider) add(process string, s db.ProviderHealth, at time.Time) float64 {
	one := ProviderProcess{
		Process: process, State: strings.ReplaceAll(s.State, "-", "_"), OpenUntil: utc(s.OpenUntil), InFlight: s.InFlight,
		Calls: s.Successes + s.Failures, Failures: s.Failures, LatencySeconds: s.LatencySeconds, SeenAt: at,
	}
	p.Processes = append(p.Processes, one)
	if breakerRank[one.State] > breakerRank[p.State] {
		p.State = one.State
	}
	p.OpenUntil, p.PausedUntil = later(p.OpenUntil, s.OpenUntil), later(p.PausedUntil, s.PausedUntil)
	p.InFlight += s.InFlight
	p.Bulkhead += s.Bulkhead
	p.Calls += one.Calls
	p.Failures += s.Failures
	p.Opened += s.Opened
	if s.ErrorKind != "" && s.ErrorAt != nil && (p.LastError == nil || s.ErrorAt.After(p.LastError.At)) {
		p.LastError = &ProviderError{Kind: s.ErrorKind, Status: s.ErrorStatus, At: s.ErrorAt.UTC()}
	}
	if s.LatencySeconds == 0 {
		return 0
	}
	weight := float64(max(one.Calls, 1))
	p.LatencySeconds += weight * s.LatencySeconds
	return weight
}

func later(a, b *time.Time) *time.Time {
	if b == nil || a != nil && a.After(*b) {
		return a
	}
	return utc(b)
}

type providerListInput struct {
	Operator
	Page
}

func (a *API) registerProviders() {
	register(a, operator, huma.Operation{
		OperationID: "list-providers", Method: http.MethodGet, Path: "/v1/providers", Tags: []string{"Providers"}, Summary: "See how the models do",
		Description: "By provider, model and owner of the credential: the breaker, the bulkhead and the rate limit of each, as the worker processes told in " +
			"the last seconds. Only what was asked lately is known.",
	}, a.providerList)
}

// keyBetween stands between the parts of a cursor; no name holds it.
const keyBetween = "\x00"

func (a *API) providerList(ctx context.Context, in *providerListInput) (*listed[Provider], error) {
	text, err := in.text()
	if err != nil {
		return nil, err
	}
	var after db.ProviderKey
	if text != "" {
		parts := strings.Split(text, keyBetween)
		if len(parts) != 3 || strings.ToValidUTF8(text, "") != text {
			return nil, invalidAt("query.cursor", errCursor)
		}
		after = db.ProviderKey{Provider: parts[0], Model: parts[1], Owner: parts[2]}
	}
	var rows []db.ProviderStateRow
	err = a.deps.DB.System(ctx, func(tx db.SystemTx) (err error) {
		rows, err = tx.ProviderStateList(ctx, after, in.Limit+1)
		return err
	})
	return pageOf(toProviders(rows), in.Limit, func(p Provider) Provider { return p }, func(p Provider) string {
		return strings.Join([]string{p.Provider, p.Model, ownerOf(p)}, keyBetween)
	}), err
}

// ownerOf is the owner as the database knows it.
func ownerOf(p Provider) string {
	if id, ok := tenants.ParseID(tenants.CredentialPrefix, p.Owner); ok {
		return id.String()
	}
	return p.Owner
}
