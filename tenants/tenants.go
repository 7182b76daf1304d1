// Package tenants knows who is asking and what they may do: principals, roles, API keys, ids and secrets. It is pure: no database, no
// network, no clock. Nothing that needs one of them may enter it.
package tenants

import (
	"time"

	"github.com/google/uuid"
)

// Role is what an API key of a tenant may do. Each role may do all that the one before it may.
type Role string

// The roles: a viewer reads; an editor also changes endpoints, automations and reviews; an admin also keys, credentials and the tenant.
const (
	Viewer Role = "viewer"
	Editor Role = "editor"
	Admin  Role = "admin"
)

// rank orders the roles; an unknown role has rank 0 and may do nothing.
var rank = map[Role]int{Viewer: 1, Editor: 2, Admin: 3}

// Valid says whether r is one of the three roles.
func (r Role) Valid() bool { return rank[r] > 0 }

// May says whether r is enough where needed is asked. Unknown roles are never enough, and never satisfied.
func (r Role) May(needed Role) bool {
	return rank[r] > 0 && rank[needed] > 0 && rank[r] >= rank[needed]
}

// Status is whether a tenant is served.
type Status string

// The states of a tenant. A suspended tenant's events are taken in and kept, its runs wait, and its keys are refused. An erased tenant
// has nothing left but its ledger.
const (
	Active    Status = "active"
	Suspended Status = "suspended"
	Erased    Status = "erased"
)

// Principal is who is asking: an operator, or a key of one tenant.
type Principal struct {
	// KeyID is the key that was shown.
	KeyID uuid.UUID
	// TenantID is the tenant that the key belongs to; the zero UUID for an operator.
	TenantID uuid.UUID
	// Role is the key's role; "" for an operator.
	Role Role
	// Operator says that the key is the operator's.
	Operator bool
}

// ParseTimeZone returns the named IANA time zone. "Local" and "" are refused: they mean another zone on another machine.
func ParseTimeZone(name string) (*time.Location, bool) {
	if name == "" || name == "Local" {
		return nil, false
	}
	zone, err := time.LoadLocation(name)
	return zone, err == nil
}
