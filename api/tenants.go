package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// Tenant is a customer of the operator.
type Tenant struct {
	ID        string    `json:"id" example:"tnt_01980000000070008000000000000000"`
	Name      string    `json:"name"`
	TimeZone  string    `json:"time_zone" doc:"the zone whose midnight begins its days"`
	Status    string    `json:"status" enum:"active,suspended,erased"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func (t Tenant) version() int { return t.Version }

func toTenant(t db.Tenant) Tenant {
	return Tenant{
		ID: tenants.FormatID(tenants.TenantPrefix, t.TenantID), Name: t.Name, TimeZone: t.TimeZone, Status: string(t.Status), Version: t.Version,
		CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC(),
	}
}

// NewTenant is a tenant that was just made, with its first key.
type NewTenant struct {
	Tenant Tenant `json:"tenant"`
	Key    NewKey `json:"key"`
}

func (t NewTenant) version() int { return t.Tenant.Version }

type tenantCreateInput struct {
	Operator
	Creating

	Body struct {
		Name     string `json:"name" minLength:"1" maxLength:"200" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		TimeZone string `json:"time_zone,omitempty" default:"UTC" maxLength:"64" doc:"a name of the IANA time zone database" example:"Europe/Berlin"`

		Limits *LimitsConfig `json:"limits,omitempty" doc:"as PUT /v1/tenants/{id}/limits takes them; left out, nothing is limited"`
	}
}

type tenantListInput struct {
	Operator
	Page
}

type tenantGetInput struct {
	Operator
	Known

	ID string `path:"id" doc:"tnt_..."`
}

type tenantUpdateInput struct {
	Operator
	Unchanged

	ID   string `path:"id" doc:"tnt_..."`
	Body struct {
		Name     *string `json:"name,omitempty" minLength:"1" maxLength:"200" pattern:"^[^\\x00-\\x1f\\x7f]+$" patternDescription:"text without control characters"`
		TimeZone *string `json:"time_zone,omitempty" maxLength:"64"`
		Status   *string `json:"status,omitempty" enum:"active,suspended" doc:"a suspended tenant's events are taken in and kept, its runs wait, and its keys are refused"`
	}
}

type tenantDeleteInput struct {
	Operator
	Unchanged

	ID string `path:"id" doc:"tnt_..."`
}

type tenantSelfInput struct {
	Caller
	Known
}

func (a *API) registerTenants() {
	register(a, operator, huma.Operation{
		OperationID: "create-tenant", Method: http.MethodPost, Path: "/v1/tenants", Tags: []string{"Tenants"}, DefaultStatus: http.StatusCreated,
		Summary: "Make a tenant", Description: "Answers the tenant and its first key, of the role admin. The key's secret is shown here and never again.",
	}, a.tenantCreate)
	register(a, operator, huma.Operation{
		OperationID: "list-tenants", Method: http.MethodGet, Path: "/v1/tenants", Tags: []string{"Tenants"}, Summary: "List tenants",
	}, a.tenantList)
	register(a, operator, huma.Operation{
		OperationID: "get-tenant", Method: http.MethodGet, Path: "/v1/tenants/{id}", Tags: []string{"Tenants"}, Summary: "Read a tenant",
	}, a.tenantGet)
	register(a, operator, huma.Operation{
		OperationID: "update-tenant", Method: http.MethodPatch, Path: "/v1/tenants/{id}", Tags: []string{"Tenants"},
		Summary: "Change, suspend or reactivate a tenant",
	}, a.tenantUpdate)
	register(a, operator, huma.Operation{
		OperationID: "erase-tenant", Method: http.MethodDelete, Path: "/v1/tenants/{id}", Tags: []string{"Tenants"},
		Summary: "Erase a tenant", Description: "Erases all that the tenant owns but its ledger, for good. Its keys and its endpoints stop at once.",
	}, a.tenantErase)
	register(a, viewerRole, huma.Operation{
		OperationID: "get-own-tenant", Method: http.MethodGet, Path: "/v1/tenant", Tags: []string{"Tenants"}, Summary: "Read the tenant itself",
	}, a.tenantSelf)
}

// pathID reads an id of a path. What is no id at all answers as one that does not exist.
func pathID(prefix, text string) (uuid.UUID, error) {
	id, ok := tenants.ParseID(prefix, text)
	if !ok {
		return uuid.Nil, db.ErrNotFound
	}
	return id, nil
}

const faultTimeZone = "expected a name of the IANA time zone database, such as Europe/Berlin"

func (a *API) tenantCreate(ctx context.Context, in *tenantCreateInput) (*made[NewTenant], error) {
	var limits db.Limits
	var raises []db.LimitRaise
	var faults []Fault
	if in.Body.Limits != nil {
		limits, raises, faults = in.Body.Limits.rows("body.limits", a.deps.Now())
	}
	if _, ok := tenants.ParseTimeZone(in.Body.TimeZone); !ok {
		faults = append(faults, Fault{Location: "body.time_zone", Message: faultTimeZone})
	}
	if err := invalid(faults); err != nil {
		return nil, err
	}
	return createAsOperator(ctx, a, in.Creating, in.Body, func(tx db.SystemTx) (uuid.UUID, NewTenant, error) {
		t, err := tx.TenantInsert(ctx, in.Body.Name, in.Body.TimeZone)
		if err != nil {
			return uuid.Nil, NewTenant{}, err
		}
		if in.Body.Limits != nil {
			if _, err := tx.LimitsPut(ctx, t.TenantID, limits, raises); err != nil {
				return uuid.Nil, NewTenant{}, err
			}
		}
		text, err := tenants.NewKey(false)
		if err != nil {
			return uuid.Nil, NewTenant{}, err
		}
		k, err := tx.KeyInsert(ctx, t.TenantID, "first", tenants.Admin, text)
		return t.TenantID, NewTenant{Tenant: toTenant(t), Key: NewKey{Key: toKey(k), Secret: text.Reveal()}}, err
	})
}

func (a *API) tenantList(ctx context.Context, in *tenantListInput) (*listed[Tenant], error) {
	page, err := in.rows()
	if err != nil {
		return nil, err
	}
	var rows []db.Tenant
	err = a.deps.DB.System(ctx, func(tx db.SystemTx) (err error) {
		rows, err = tx.TenantList(ctx, page)
		return err
	})
	return pageOf(rows, in.Limit, toTenant, func(t db.Tenant) string { return byID(t.TenantID) }), err
}

func (a *API) tenantGet(ctx context.Context, in *tenantGetInput) (*got[Tenant], error) {
	id, err := pathID(tenants.TenantPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	var t db.Tenant
	err = a.deps.DB.System(ctx, func(tx db.SystemTx) (err error) {
		t, err = tx.TenantGet(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer(in.Known, toTenant(t)), nil
}

func (a *API) tenantUpdate(ctx context.Context, in *tenantUpdateInput) (*got[Tenant], error) {
	if in.Body.TimeZone != nil {
		if _, ok := tenants.ParseTimeZone(*in.Body.TimeZone); !ok {
			return nil, invalidAt("body.time_zone", faultTimeZone)
		}
	}
	id, err := pathID(tenants.TenantPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	change := db.TenantChange{Name: in.Body.Name, TimeZone: in.Body.TimeZone, Version: in.Version}
	if in.Body.Status != nil {
		status := tenants.Status(*in.Body.Status)
		change.Status = &status
	}
	var t db.Tenant
	err = a.deps.DB.System(ctx, func(tx db.SystemTx) (err error) {
		if t, err = tx.TenantGet(ctx, id); err != nil {
			return err
		}
		if t.Status == tenants.Erased {
			return conflict("tenant.erased", "The tenant was erased, and cannot be changed.")
		}
		t, err = tx.TenantUpdate(ctx, id, change)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer(Known{}, toTenant(t)), nil
}

func (a *API) tenantErase(ctx context.Context, in *tenantDeleteInput) (*struct{}, error) {
	id, err := pathID(tenants.TenantPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	// Workers that are at it may stand in the way of the erasure; they have less to do with each try, since what they began ends.
	for tries := 1; ; tries++ {
		err = a.deps.DB.System(ctx, func(tx db.SystemTx) error { return eraseOnce(ctx, tx, id, in.Version) })
		if tries == eraseTries || !errors.Is(err, db.ErrDeadlock) && !errors.Is(err, db.ErrConflict) {
			return nil, err
		}
	}
}

// eraseTries is how often an erasure is begun before it gives up, with nothing erased.
const eraseTries = 10

func eraseOnce(ctx context.Context, tx db.SystemTx, id uuid.UUID, version int) error {
	t, err := tx.TenantGet(ctx, id)
	switch {
	case err != nil:
		return err
	case t.Status == tenants.Erased:
		return nil
	case version != 0 && version != t.Version:
		return db.ErrStale
	}
	return tx.TenantErase(ctx, id)
}

func (a *API) tenantSelf(ctx context.Context, in *tenantSelfInput) (*got[Tenant], error) {
	var t db.Tenant
	err := a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) (err error) {
		t, err = tx.TenantGet(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer(in.Known, toTenant(t)), nil
}
