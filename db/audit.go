package db

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// ActorKind says what made a change.
type ActorKind string

// The kinds of actors. ActorDatabase is what the database itself writes down where nobody said who they are.
const (
	ActorKey      ActorKind = "key"
	ActorOperator ActorKind = "operator"
	ActorRule     ActorKind = "rule"
	ActorCommand  ActorKind = "command"
	ActorDatabase ActorKind = "database"
)

// Actor is who makes the changes of a transaction. It is written into the audit with them.
type Actor struct {
	Kind ActorKind `json:"kind"`
	// ID is a key's id, or the name of a rule or a command.
	ID string `json:"id"`
	// Operation is the API's, "" for the others.
	Operation string `json:"operation"`
	// Request is where it was asked for.
	Request *ActorRequest `json:"request,omitempty"`
}

// ActorRequest is what is known of the request that asked for a change.
type ActorRequest struct {
	// Address is that of the peer: a proxy's, where one stands in front.
	Address string `json:"address,omitempty"`
	// ID is the X-Request-Id of the answer.
	ID string `json:"id,omitempty"`
}

type actorKey struct{}

// As makes actor the one whose changes are made with the context.
func As(ctx context.Context, actor Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// AsRule makes a rule of Sluice's own the one whose changes are made with the context.
func AsRule(ctx context.Context, name string) context.Context {
	return As(ctx, Actor{Kind: ActorRule, ID: name})
}

// actorSet is the statement that tells a transaction who makes it, "" where nobody said. It is one text, since a transaction's beginning takes no
// arguments; hex needs no quoting.
func actorSet(ctx context.Context) string {
	actor, ok := ctx.Value(actorKey{}).(Actor)
	if !ok {
		return ""
	}
	text, err := json.Marshal(actor)
	if err != nil { // cannot be: it is texts alone
		return ""
	}
	return "; select set_config('sluice.actor', convert_from(decode('" + hex.EncodeToString(text) + "', 'hex'), 'UTF8'), true)"
}

const auditNoteSQL = `select sluice.audit_noted(@what, @subject, @did, null, @after::jsonb)`

// AuditNote writes down a change that no trigger sees: that of a run, of which there are too many for each step to be looked at. It is part of the
// transaction's one entry. detail becomes JSON; nothing secret may be in it.
func (tx TenantTx) AuditNote(ctx context.Context, what string, subject uuid.UUID, did string, detail any) error {
	after, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("write a note of the audit: %w", err)
	}
	// tenant_id is the transaction's own: the function takes no other.
	_, err = run(ctx, tx.tx, auditNoteSQL, args{"what": what, "subject": subject, "did": did, "after": after})
	return err
}

// AuditEntry is one change, or several that were made together: who made it, when, and its link in the tenant's chain.
type AuditEntry struct {
	Seq       int64
	ID        uuid.UUID
	At        time.Time
	ActorKind ActorKind
	Actor     string
	Operation string
	Subjects  []string
	Changes   []byte
	Prev      []byte
	Hash      []byte
	// Told is a JSON array of AuditChange; empty where the content was erased with its tenant.
	Told json.RawMessage
}

// AuditChange is one row that was changed.
type AuditChange struct {
	What    string          `json:"what"`
	Subject uuid.UUID       `json:"subject"`
	Did     string          `json:"did"`
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
	Request *ActorRequest   `json:"request"`
}

// AuditFilter narrows a list; what is zero does not.
type AuditFilter struct {
	Subject   *uuid.UUID
	Actor     string
	Operation string
	Since     *time.Time
	Until     *time.Time
	// Before is the place in the chain to go on below; 0 begins at its end.
	Before int64
	Limit  int
}

const auditListSQL = `
select e.seq, e.id, e.at, e.actor_kind, e.actor, e.operation, e.subjects, e.changes, e.prev, e.hash, coalesce((
    select jsonb_agg(jsonb_build_object('what', c.what, 'subject', c.subject, 'did', c.did, 'before', c.before, 'after', c.after, 'request', c.request) order by c.n)
    from sluice.audit_changes c where c.tenant_id = @tenant_id and c.entry_id = e.id), '[]') as told
from sluice.audit_entries e
where e.tenant_id = @tenant_id and (@before::bigint = 0 or e.seq < @before)
  and (@actor::text is null or @actor in (e.actor, e.actor_kind)) and (@operation::text is null or e.operation = @operation)
  and (@since::timestamptz is null or e.at >= @since) and (@until::timestamptz is null or e.at < @until)
  and (@subject::uuid is null or exists (select from unnest(e.subjects) s where s like '%' || @subject::text))
order by e.seq desc limit @limit`

// AuditList lists the tenant's chain, newest first. The chain of the zero uuid is that of the operator's own keys.
func (tx TenantTx) AuditList(ctx context.Context, f AuditFilter) ([]AuditEntry, error) {
	return many[AuditEntry](ctx, tx.tx, auditListSQL, tx.with(args{
		"before": f.Before, "actor": orNil(f.Actor), "operation": orNil(f.Operation), "since": f.Since, "until": f.Until, "subject": f.Subject, "limit": f.Limit,
	}))
}

// AuditHead is the end of a chain: whoever keeps it elsewhere can tell a chain that was cut off or written anew.
type AuditHead struct {
	Seq  int64
	Hash []byte
}

const auditHeadSQL = `
select coalesce(max(h.seq), 0) as seq, coalesce((array_agg(h.hash))[1], '') as hash from sluice.audit_heads h where h.tenant_id = @tenant_id`

// AuditHead reads the end of the tenant's chain; Seq is 0 where nothing was changed yet.
func (tx TenantTx) AuditHead(ctx context.Context) (AuditHead, error) {
	return one[AuditHead](ctx, tx.tx, auditHeadSQL, tx.with(nil))
}

// AuditFault is a place where a chain is not as it was written.
type AuditFault struct {
	TenantID uuid.UUID
	Seq      int64
	Fault    string
}

const auditCheckSQL = `select tenant_id, seq, fault from sluice.audit_faults(@of)`

// AuditCheck holds every chain against its hashes, or that of one tenant: nil is all. It reads all of them.
func (tx SystemTx) AuditCheck(ctx context.Context, of *uuid.UUID) ([]AuditFault, error) {
	return many[AuditFault](ctx, tx.tx, auditCheckSQL, args{"of": of})
}

// SubjectOf tells a subject of an entry apart: what it is, and its id.
func SubjectOf(text string) (what string, id uuid.UUID) {
	what, digits, _ := strings.Cut(text, " ")
	id, _ = uuid.Parse(digits)
	return what, id
}
