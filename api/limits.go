package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// Standing is how a limit stands: used + reserved + remaining - over = effective.
type Standing[A any] struct {
	Soft        *A         `json:"soft" doc:"what is told when it is passed, and holds nothing; null is none"`
	Hard        *A         `json:"hard" doc:"what holds; null is no limit"`
	Effective   *A         `json:"effective" doc:"the hard limit as it is raised at this moment; null is no limit"`
	RaisedUntil *time.Time `json:"raised_until" doc:"when the raise ends that effective comes from; null if it is the hard limit itself"`
	Used        A          `json:"used" doc:"in this window"`
	Reserved    A          `json:"reserved" doc:"the worst case of what is under way; it becomes used, or free again"`
	Remaining   *A         `json:"remaining" doc:"effective - used - reserved, at least 0; null without a limit"`
	Over        A          `json:"over" doc:"by how much used and reserved are above effective: after a limit was lowered, or a raise ended"`
	WindowFrom  *time.Time `json:"window_from" doc:"when the window began, in the tenant's time zone; null for what is counted at once"`
	ResetsAt    *time.Time `json:"resets_at" doc:"when the window ends, and what is held goes on"`
	Held        int64      `json:"held" doc:"how many runs this limit holds; 100000 is that many or more"`
}

// CountLimit is a limit of a number.
type CountLimit struct {
	Name string `json:"name" enum:"events_per_hour,tokens_per_day,concurrent_runs"`
	Standing[int64]
}

// MoneyLimit is a limit of USD; its amounts are decimals in strings.
type MoneyLimit struct {
	Name string `json:"name" enum:"cost_per_day_usd,cost_per_month_usd"`
	Standing[string]
}

// PaceLimit is the pace at which runs may begin. There is nothing to use up.
type PaceLimit struct {
	Name  string   `json:"name" enum:"runs_per_second"`
	Hard  *float64 `json:"hard" doc:"null is no limit"`
	Burst int      `json:"burst" doc:"how many may begin at once after a quiet time"`
}

// Limit is one of the three; its name says which.
type Limit struct{ is any }

// MarshalJSON writes the one that it is.
func (l Limit) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(l.is)
	if err != nil {
		return nil, fmt.Errorf("write a limit: %w", err)
	}
	return text, nil
}

// Schema says which name is of which kind.
func (Limit) Schema(r huma.Registry) *huma.Schema {
	count := r.Schema(reflect.TypeFor[CountLimit](), true, "")
	money := r.Schema(reflect.TypeFor[MoneyLimit](), true, "")
	pace := r.Schema(reflect.TypeFor[PaceLimit](), true, "")
	return &huma.Schema{
		OneOf: []*huma.Schema{count, money, pace},
		Discriminator: &huma.Discriminator{PropertyName: "name", Mapping: map[string]string{
			db.LimitEventsPerHour: count.Ref, db.LimitTokensPerDay: count.Ref, db.LimitConcurrentRuns: count.Ref,
			db.LimitCostPerDay: money.Ref, db.LimitCostPerMonth: money.Ref, limitRunsPerSecond: pace.Ref,
		}},
	}
}

const limitRunsPerSecond = "runs_per_second"

// Limits are all limits of a tenant, as they stand at one moment.
type Limits struct {
	Data     []Limit `json:"data"`
	TimeZone string  `json:"time_zone" doc:"the zone of the windows"`
}

// TenantLimits are a tenant's limits as the operator sees them.
type TenantLimits struct {
	TenantID  string       `json:"tenant_id"`
	Version   int          `json:"version"`
	UpdatedAt time.Time    `json:"updated_at"`
	Config    LimitsConfig `json:"config" doc:"what is set; it can be changed and sent back by PUT"`
	Limits
}

func (t TenantLimits) version() int { return t.Version }

func toLimit(s db.LimitStanding) Limit {
	switch s.Name {
	case db.LimitCostPerDay, db.LimitCostPerMonth:
		return Limit{MoneyLimit{Name: s.Name, Standing: toStanding(s, usdOf)}}
	default:
		return Limit{CountLimit{Name: s.Name, Standing: toStanding(s, func(n int64) int64 { return n })}}
	}
}

func toStanding[A any](s db.LimitStanding, to func(int64) A) Standing[A] {
	out := Standing[A]{
		Soft: optional(s.Soft, to), Hard: optional(s.Hard, to), Effective: optional(s.Effective, to), RaisedUntil: utc(s.RaisedUntil),
		Used: to(s.Used), Reserved: to(s.Reserved), Over: to(0), WindowFrom: utc(s.WindowFrom), ResetsAt: utc(s.ResetsAt), Held: s.Held,
	}
	if s.Effective != nil {
		left := *s.Effective - s.Used - s.Reserved
		remaining := max(left, 0)
		out.Remaining, out.Over = optional(&remaining, to), to(max(-left, 0))
	}
	return out
}

func optional[A, B any](v *A, to func(A) B) *B {
	if v == nil {
		return nil
	}
	out := to(*v)
	return &out
}

func toLimits(standings []db.LimitStanding, l db.Limits, timeZone string) Limits {
	out := Limits{TimeZone: timeZone}
	for _, s := range standings {
		if s.Name == db.LimitConcurrentRuns {
			out.Data = append(out.Data, Limit{PaceLimit{Name: limitRunsPerSecond, Hard: l.RunsPerSecond, Burst: l.Burst}})
		}
		out.Data = append(out.Data, toLimit(s))
	}
	return out
}

type limitsInput struct{ Caller }

type limitsOutput struct{ Body Limits }

type tenantLimitsGetInput struct {
	Operator
	Known

	ID string `path:"id" doc:"tnt_..."`
}

type tenantLimitsPutInput struct {
	Operator
	Unchanged

	ID   string `path:"id" doc:"tnt_..."`
	Body LimitsConfig
}

func (a *API) registerLimits() {
	register(a, viewerRole, huma.Operation{
		OperationID: "get-limits", Method: http.MethodGet, Path: "/v1/limits", Tags: []string{"Limits"}, Summary: "Read what may be used, and what is left",
		Description: "Where there is a limit it adds up: used + reserved + remaining = effective, or over says by how much it is passed. What is over a limit is " +
			"held, and goes on by itself, in order, when the window turns or the limit is raised.",
	}, a.limits)
	register(a, operator, huma.Operation{
		OperationID: "get-tenant-limits", Method: http.MethodGet, Path: "/v1/tenants/{id}/limits", Tags: []string{"Limits"}, Summary: "Read a tenant's limits",
	}, a.tenantLimitsGet)
	register(a, operator, huma.Operation{
		OperationID: "put-tenant-limits", Method: http.MethodPut, Path: "/v1/tenants/{id}/limits", Tags: []string{"Limits"}, Summary: "Set a tenant's limits",
		Description: "Replaces all of them: what is left out is no limit, has its default, or is a raise that ends now. They hold from the next call to a model " +
			"and the next delivery on; what is held and fits goes on within seconds.",
	}, a.tenantLimitsPut)
}

func (a *API) limits(ctx context.Context, in *limitsInput) (*limitsOutput, error) {
	read, err := a.limitsOf(ctx, in.TenantID)
	return &limitsOutput{Body: read.Limits}, err
}

// limitsOf reads a tenant's limits. The version comes first: if they change meanwhile, it is the old one, and If-Match finds out.
func (a *API) limitsOf(ctx context.Context, id uuid.UUID) (TenantLimits, error) {
	var out TenantLimits
	err := a.deps.DB.Tenant(ctx, id, func(tx db.TenantTx) error {
		l, err := tx.LimitsGet(ctx)
		if err != nil {
			return err
		}
		raises, err := tx.LimitRaiseList(ctx)
		if err != nil {
			return err
		}
		t, err := tx.TenantGet(ctx)
		if err != nil {
			return err
		}
		standings, err := tx.LimitStandings(ctx)
		out = TenantLimits{
			TenantID: tenants.FormatID(tenants.TenantPrefix, id), Version: l.Version, UpdatedAt: l.UpdatedAt.UTC(),
			Config: toLimitsConfig(l, raises), Limits: toLimits(standings, l, t.TimeZone),
		}
		return err
	})
	return out, err
}

func (a *API) tenantLimitsGet(ctx context.Context, in *tenantLimitsGetInput) (*got[TenantLimits], error) {
	id, err := pathID(tenants.TenantPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	read, err := a.limitsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	return answer(in.Known, read), nil
}

func (a *API) tenantLimitsPut(ctx context.Context, in *tenantLimitsPutInput) (*got[TenantLimits], error) {
	id, err := pathID(tenants.TenantPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	l, raises, faults := in.Body.rows("body", a.deps.Now())
	if err := invalid(faults); err != nil {
		return nil, err
	}
	l.Version = in.Version
	var put db.Limits
	err = a.deps.DB.System(ctx, func(tx db.SystemTx) error {
		t, err := tx.TenantGet(ctx, id)
		if err != nil {
			return err
		}
		if t.Status == tenants.Erased {
			return conflict("tenant.erased", "The tenant was erased, and has no limits.")
		}
		put, err = tx.LimitsPut(ctx, id, l, raises)
		return err
	})
	if err != nil {
		return nil, err
	}
	read, err := a.limitsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	// As they were put, whoever put others since.
	read.Version, read.UpdatedAt, read.Config = put.Version, put.UpdatedAt.UTC(), toLimitsConfig(put, raises)
	return answer(Known{}, read), nil
}
