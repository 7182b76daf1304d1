package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// Caller is the tenant that asks. An input of a tenant's operation embeds it: without it a handler has no tenant id, and does not compile.
type Caller struct {
	TenantID uuid.UUID
	KeyID    uuid.UUID
	Role     tenants.Role
}

// Resolve takes the caller from the middleware that admitted it.
func (c *Caller) Resolve(ctx huma.Context) []error {
	p, ok := ctx.Context().Value(principalKey{}).(tenants.Principal)
	if !ok || p.Operator || p.TenantID == uuid.Nil {
		return []error{problemUnauthorized()}
	}
	c.TenantID, c.KeyID, c.Role = p.TenantID, p.KeyID, p.Role
	return nil
}

// Operator is the operator that asks. An input of an operator's operation embeds it.
type Operator struct{ OperatorKeyID uuid.UUID }

// Resolve takes the operator from the middleware that admitted it.
func (o *Operator) Resolve(ctx huma.Context) []error {
	p, ok := ctx.Context().Value(principalKey{}).(tenants.Principal)
	if !ok || !p.Operator {
		return []error{problemUnauthorized()}
	}
	o.OperatorKeyID = p.KeyID
	return nil
}

// principalKey carries the principal for one hop, from the middleware to the input.
type principalKey struct{}

// admit lets a request pass to an operation of a class, or answers 401 or 403.
func (a *API) admit(who class) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		p, err := a.principal(ctx.Context(), ctx.Header("Authorization"))
		if err == nil {
			err = may(p, who)
		}
		if err != nil {
			a.refuse(ctx, err)
			return
		}
		if about := requestOf(ctx.Context()); about != nil && !p.Operator {
			about.tenantID = p.TenantID
		}
		next(huma.WithValue(ctx, principalKey{}, p.Principal))
	}
}

// refuse answers a request that no handler sees.
func (a *API) refuse(ctx huma.Context, err error) {
	err = a.fault(ctx.Context(), err)
	var p *Problem
	if !errors.As(err, &p) {
		p = problemInternal("")
	}
	for name, values := range p.GetHeaders() {
		ctx.SetHeader(name, strings.Join(values, ", "))
	}
	// Huma writes the problem as it is: see humaErrorsAreOurs.
	_ = huma.WriteErr(a.huma, ctx, p.Status, p.Detail, p)
}

// known is a principal, and whether its tenant is served.
type known struct {
	tenants.Principal

	status tenants.Status
}

// principal finds who shows a key. Whatever is wrong with the key, the answer is the same.
func (a *API) principal(ctx context.Context, header string) (known, error) {
	scheme, text, _ := strings.Cut(header, " ")
	text = strings.TrimSpace(text)
	isOperator, shaped := tenants.ParseKey(text)
	if !strings.EqualFold(scheme, "Bearer") || !shaped {
		return known{}, problemUnauthorized()
	}
	var found known
	err := a.deps.DB.System(ctx, func(tx db.SystemTx) error {
		if isOperator {
			id, err := tx.OperatorKeyFind(ctx, tenants.HashKey(text))
			found.Principal = tenants.Principal{KeyID: id, Operator: true}
			return err
		}
		k, err := tx.KeyFind(ctx, tenants.HashKey(text))
		found.Principal, found.status = tenants.Principal{KeyID: k.ID, TenantID: k.TenantID, Role: k.Role}, k.TenantStatus
		return err
	})
	if errors.Is(err, db.ErrNotFound) || err == nil && found.status == tenants.Erased {
		return known{}, problemUnauthorized()
	}
	return found, err
}

// may says whether a principal may call an operation of a class.
func may(p known, who class) error {
	needed := who.role()
	switch {
	case p.status == tenants.Suspended:
		return problem(http.StatusForbidden, "tenant.suspended", "The operator has suspended this tenant; its keys are refused until it is active again.")
	case who == anyKey:
		return nil
	case who == operator && p.Operator:
		return nil
	case who == operator:
		return problem(http.StatusForbidden, "key.kind", "This is for a key of the operator, not for a key of a tenant.")
	case needed != "" && p.Operator:
		return problem(http.StatusForbidden, "key.kind", "This is for a key of a tenant, not for a key of the operator.")
	case p.Role.May(needed):
		return nil
	default:
		return problem(http.StatusForbidden, "key.role", "This needs a key of the role "+string(needed)+"; the key has the role "+string(p.Role)+".")
	}
}
