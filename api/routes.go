package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"sluice/db"
	"sluice/proof"
	"sluice/tenants"
)

// A class is who may call an operation. Every operation names one.
type class string

// The classes. A tenant's roles are named by tenants.Role.
const (
	public     class = "public"
	anyKey     class = "any key"
	operator   class = "operator"
	viewerRole class = class(tenants.Viewer)
	editorRole class = class(tenants.Editor)
	adminRole  class = class(tenants.Admin)
)

// role is the role that a class of a tenant's operations needs; "" for the other classes.
func (c class) role() tenants.Role {
	if r := tenants.Role(c); r.Valid() {
		return r
	}
	return ""
}

// The names of the security schemes in the OpenAPI document.
const (
	tenantScheme   = "tenant key"
	operatorScheme = "operator key"
)

// A Route is one pattern that is served.
type Route struct {
	// Pattern is a method and a path as net/http's mux takes them.
	Pattern string
	// Who may call it: public, any key, operator, or the lowest role of a tenant.
	Who string
}

// routes is the mux, with a list of what is on it.
type routes struct {
	mux  *http.ServeMux
	list []Route
	// who is the class of what is registered next.
	who class
}

func newRoutes() *routes { return &routes{mux: http.NewServeMux(), who: public} }

// HandleFunc is how Huma registers an operation.
func (r *routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	r.list = append(r.list, Route{Pattern: pattern, Who: string(r.who)})
	r.mux.HandleFunc(pattern, handler)
}

// ServeHTTP serves what is registered.
func (r *routes) ServeHTTP(w http.ResponseWriter, q *http.Request) { r.mux.ServeHTTP(w, q) }

// raw registers a public route that is no operation of the OpenAPI document.
func (a *API) raw(pattern string, handler http.HandlerFunc) {
	a.routes.who = public
	a.routes.HandleFunc(pattern, handler)
}

// register is the one way in which an operation comes to be: it names who may call it, and the input must hold what that class proves.
func register[I, O any](a *API, who class, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	input := reflect.TypeFor[I]()
	_, ofTenant := input.FieldByName("Caller")
	_, ofOperator := input.FieldByName("Operator")
	if ofTenant != (who.role() != "") || ofOperator != (who == operator) {
		panic(fmt.Sprintf("operation %s is for %s, but its input %s says otherwise", op.OperationID, who, input))
	}
	op.Extensions = map[string]any{"x-sluice-role": string(who)}
	op.MaxBodyBytes = bodyBytesMax
	switch who {
	case public:
	case operator:
		op.Security = []map[string][]string{{operatorScheme: {}}}
	case anyKey:
		op.Security = []map[string][]string{{tenantScheme: {}}, {operatorScheme: {}}}
	default:
		op.Security = []map[string][]string{{tenantScheme: {}}}
	}
	if who != public {
		op.Middlewares = append(huma.Middlewares{a.admit(who)}, op.Middlewares...)
	}
	a.routes.who = who
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		if err := invalid(bodyFaults(in)); err != nil {
			return nil, a.fault(ctx, err)
		}
		if op.Method != http.MethodGet {
			ctx = proof.Step(db.As(ctx, actorOf(ctx, op.OperationID)), "api."+op.OperationID)
		}
		out, err := handler(ctx, in)
		if err != nil {
			return nil, a.fault(ctx, err)
		}
		if op.Method != http.MethodGet {
			a.intake.forget(ctx)
		}
		return out, nil
	})
}

// bodyFaults finds texts of a body that the database cannot keep or look for: those with a NUL. A body that a handler reads itself is the handler's.
func bodyFaults(in any) []Fault {
	body := reflect.ValueOf(in).Elem().FieldByName("Body")
	if !body.IsValid() {
		return nil
	}
	text, err := json.Marshal(body.Interface())
	if err != nil || !bytes.Contains(text, []byte(`\u0000`)) {
		return nil
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil { // cannot be: it was just written
		return nil
	}
	return nulFaults("body", value)
}
