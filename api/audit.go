package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"sluice/db"
	"sluice/tenants"
)

// AuditEntry is what was changed in one transaction, who changed it, and its link in the chain.
type AuditEntry struct {
	ID        string        `json:"id" example:"aud_01980000000070008000000000000000"`
	Seq       int64         `json:"seq" doc:"its place in the chain: 1, 2, 3, without gaps"`
	At        time.Time     `json:"at"`
	Actor     AuditActor    `json:"actor"`
	Operation string        `json:"operation,omitempty" doc:"the operation of this API that was asked for" example:"update-automation"`
	Subjects  []string      `json:"subjects" doc:"the ids of what was changed"`
	Changes   []AuditChange `json:"changes" doc:"empty where they were erased with their tenant"`
	Prev      string        `json:"prev" doc:"the hash of the entry before it, in hex; zeros for the first"`
	Hash      string        `json:"hash" doc:"the SHA-256 of prev and of what the entry says, in hex; docs/audit.md says of which text"`
}

// AuditActor is who made a change.
type AuditActor struct {
	Kind string `json:"kind" enum:"key,operator,rule,command,database" doc:"key: a key of the tenant; operator: one of the operator; rule: Sluice itself, by what the tenant set; command: a subcommand on the operator's machine; database: somebody past all of them"`
	ID   string `json:"id" doc:"the key's id, or the name of the rule, the command, or the database's user" example:"key_01980000000070008000000000000000"`
}

// AuditChange is one row that was changed.
type AuditChange struct {
	What      string          `json:"what" example:"automation"`
	ID        string          `json:"id" example:"aut_01980000000070008000000000000000"`
	Did       string          `json:"did" doc:"insert, update, delete, or what was done to a run" example:"update"`
	Before    json.RawMessage `json:"before,omitempty" doc:"what it was; of an update, only what changed. Secrets are never here: replaced names those that are others now"`
	After     json.RawMessage `json:"after,omitempty"`
	Address   string          `json:"address,omitempty" doc:"where the request came from: the proxy's, if one is in front"`
	RequestID string          `json:"request_id,omitempty" doc:"the X-Request-Id of the answer"`
}

// AuditChain is the state of a chain.
type AuditChain struct {
	Entries int64        `json:"entries"`
	Head    string       `json:"head" doc:"the hash of the last entry, in hex. Keep it elsewhere: a chain that was cut off, or written anew, does not hold it any more"`
	Faults  []AuditFault `json:"faults" doc:"where the chain is not as it was written; empty is good"`
}

// AuditFault is a place where a chain is not as it was written.
type AuditFault struct {
	Seq   int64  `json:"seq"`
	Fault string `json:"fault"`
}

// auditPrefixes are the prefixes of the ids of what the audit tells of.
var auditPrefixes = map[string]string{
	"action": tenants.ActionPrefix, "alert_channel": tenants.ChannelPrefix, "automation": tenants.AutomationPrefix, "automation_version": tenants.AutomationPrefix,
	"call": tenants.CallPrefix, "credential": tenants.CredentialPrefix, "endpoint": tenants.EndpointPrefix, "endpoint_secret": tenants.SecretPrefix,
	"key": tenants.KeyPrefix, "limit_raise": tenants.RaisePrefix, "limits": tenants.TenantPrefix, "operator_key": tenants.OperatorPrefix,
	"replay": tenants.ReplayPrefix, "review": tenants.RunPrefix, "run": tenants.RunPrefix, "tenant": tenants.TenantPrefix,
}

func auditID(what string, id uuid.UUID) string {
	if prefix := auditPrefixes[what]; prefix != "" {
		return tenants.FormatID(prefix, id)
	}
	return id.String()
}

func toAuditEntry(e db.AuditEntry) (AuditEntry, error) {
	out := AuditEntry{
		ID: tenants.FormatID(tenants.AuditPrefix, e.ID), Seq: e.Seq, At: e.At.UTC(), Actor: AuditActor{Kind: string(e.ActorKind), ID: e.Actor},
		Operation: e.Operation, Subjects: []string{}, Changes: []AuditChange{}, Prev: hex.EncodeToString(e.Prev), Hash: hex.EncodeToString(e.Hash),
	}
	for _, text := range e.Subjects {
		if id := auditID(db.SubjectOf(text)); !slices.Contains(out.Subjects, id) {
			out.Subjects = append(out.Subjects, id)
		}
	}
	var told []db.AuditChange
	if err := json.Unmarshal(e.Told, &told); err != nil {
		return out, err
	}
	for _, c := range told {
		one := AuditChange{What: c.What, ID: auditID(c.What, c.Subject), Did: c.Did, Before: notNull(c.Before), After: notNull(c.After)}
		if c.Request != nil {
			one.Address, one.RequestID = c.Request.Address, c.Request.ID
		}
		out.Changes = append(out.Changes, one)
	}
	return out, nil
}

func notNull(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// AuditWanted narrows a list of the audit.
type AuditWanted struct {
	Subject   string    `query:"subject" maxLength:"64" doc:"what was changed: any id"`
	Actor     string    `query:"actor" maxLength:"100" doc:"who changed it: a key's id, the name of a rule, or a kind of actor" example:"demotion"`
	Operation string    `query:"operation" maxLength:"100" example:"update-automation"`
	Since     time.Time `query:"since" doc:"from this time on"`
	Until     time.Time `query:"until" doc:"before this time"`
}

// filter is what the database is asked; false says that nothing can be found, since the subject is no id.
func (w AuditWanted) filter(page *Page) (db.AuditFilter, bool, error) {
	f := db.AuditFilter{Actor: w.Actor, Operation: w.Operation, Since: given(w.Since), Until: given(w.Until), Limit: page.Limit + 1}
	text, err := page.text()
	if err != nil {
		return f, false, err
	}
	if text != "" {
		if f.Before, err = strconv.ParseInt(text, 10, 64); err != nil || f.Before < 1 {
			return f, false, invalidAt("query.cursor", errCursor)
		}
	}
	prefix, _, _ := strings.Cut(w.Subject, "_")
	var ok bool
	f.Subject, ok = filterID(prefix, w.Subject)
	return f, ok, nil
}

type auditListInput struct {
	Caller
	Page
	AuditWanted
}

type auditChainInput struct{ Caller }

type auditChainOutput struct{ Body AuditChain }

type auditOfTenantInput struct {
	Operator
	Page
	AuditWanted

	ID string `path:"id" doc:"tnt_..., also of one that was erased"`
}

type auditOfOperatorInput struct {
	Operator
	Page
	AuditWanted
}

func (a *API) registerAudit() {
	const told = "Newest first. Each change that a key, the operator, a rule or a command makes is an entry, written by the transaction that makes it, " +
		"and chained to the one before it. Nobody can change or delete one."
	register(a, adminRole, huma.Operation{
		OperationID: "list-audit", Method: http.MethodGet, Path: "/v1/audit", Tags: []string{"Audit"}, Summary: "List who changed what", Description: told,
	}, a.auditList)
	register(a, adminRole, huma.Operation{
		OperationID: "check-audit", Method: http.MethodGet, Path: "/v1/audit/chain", Tags: []string{"Audit"},
		Summary: "Check the chain of the audit", Description: "Computes every hash anew, and answers the head of the chain.",
	}, a.auditChain)
	register(a, operator, huma.Operation{
		OperationID: "list-audit-of-tenant", Method: http.MethodGet, Path: "/v1/tenants/{id}/audit", Tags: []string{"Audit"},
		Summary: "List who changed what of a tenant", Description: told + " Of an erased tenant there is when, who and what; from what to what was erased with it.",
	}, a.auditOfTenant)
	register(a, operator, huma.Operation{
		OperationID: "list-audit-of-operator", Method: http.MethodGet, Path: "/v1/operator/audit", Tags: []string{"Audit"},
		Summary: "List who changed the operator's keys", Description: told,
	}, a.auditOfOperator)
}

func (a *API) auditList(ctx context.Context, in *auditListInput) (*listed[AuditEntry], error) {
	return a.auditPage(ctx, in.TenantID, in.AuditWanted, &in.Page)
}

func (a *API) auditOfTenant(ctx context.Context, in *auditOfTenantInput) (*listed[AuditEntry], error) {
	id, err := pathID(tenants.TenantPrefix, in.ID)
	if err != nil {
		return nil, err
	}
	if err := a.deps.DB.System(ctx, func(tx db.SystemTx) error { _, err := tx.TenantGet(ctx, id); return err }); err != nil {
		return nil, err
	}
	return a.auditPage(ctx, id, in.AuditWanted, &in.Page)
}

func (a *API) auditOfOperator(ctx context.Context, in *auditOfOperatorInput) (*listed[AuditEntry], error) {
	return a.auditPage(ctx, uuid.Nil, in.AuditWanted, &in.Page)
}

// auditPage answers a page of a chain; that of the operator's keys is the zero tenant's.
func (a *API) auditPage(ctx context.Context, tenantID uuid.UUID, wanted AuditWanted, page *Page) (*listed[AuditEntry], error) {
	filter, possible, err := wanted.filter(page)
	if err != nil {
		return nil, err
	}
	var rows []db.AuditEntry
	if possible {
		err = a.deps.DB.Tenant(ctx, tenantID, func(tx db.TenantTx) (err error) {
			rows, err = tx.AuditList(ctx, filter)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	entries := make([]AuditEntry, len(rows))
	for i, r := range rows {
		if entries[i], err = toAuditEntry(r); err != nil {
			return nil, err
		}
	}
	return pageOf(entries, page.Limit, func(e AuditEntry) AuditEntry { return e }, func(e AuditEntry) string { return strconv.FormatInt(e.Seq, 10) }), nil
}

func (a *API) auditChain(ctx context.Context, in *auditChainInput) (*auditChainOutput, error) {
	out := &auditChainOutput{Body: AuditChain{Faults: []AuditFault{}}}
	err := a.deps.DB.Tenant(ctx, in.TenantID, func(tx db.TenantTx) error {
		head, err := tx.AuditHead(ctx)
		out.Body.Entries, out.Body.Head = head.Seq, hex.EncodeToString(head.Hash)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, a.deps.DB.System(ctx, func(tx db.SystemTx) error {
		faults, err := tx.AuditCheck(ctx, &in.TenantID)
		for _, f := range faults {
			out.Body.Faults = append(out.Body.Faults, AuditFault{Seq: f.Seq, Fault: f.Fault})
		}
		return err
	})
}

// actorOf is who asks for an operation, as the audit names it.
func actorOf(ctx context.Context, operation string) db.Actor {
	p, _ := ctx.Value(principalKey{}).(tenants.Principal)
	actor := db.Actor{Kind: db.ActorKey, ID: tenants.FormatID(tenants.KeyPrefix, p.KeyID), Operation: operation}
	if p.Operator {
		actor.Kind, actor.ID = db.ActorOperator, tenants.FormatID(tenants.OperatorPrefix, p.KeyID)
	}
	if about := requestOf(ctx); about != nil {
		actor.Request = &db.ActorRequest{Address: about.address, ID: about.id}
	}
	return actor
}

// addressOf is the address of a peer, without its port.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}
