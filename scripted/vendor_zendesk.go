package scripted

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What Zendesk takes.
const (
	zendeskCommentBytesMax  = 65536
	zendeskMetadataBytesMax = 1024
	zendeskPageMax          = 100
	zendeskAgent            = 8447388090495
)

// NewZendesk makes the part of Zendesk's Ticketing API that comments on tickets: updates of those tickets that are named, and their audits
// (developer.zendesk.com/api-reference/ticketing/tickets). The credential is EMAIL/token:TOKEN, or an OAuth access token.
func NewZendesk(credential string, now func() time.Time, tickets ...string) *Vendor {
	v := newVendor("zendesk", credential, now)
	z := zendeskTickets{v, tickets}
	v.mux.HandleFunc("GET /api/v2/users/me", z.me)
	v.mux.HandleFunc("PUT /api/v2/tickets/{id}", z.with(z.update))
	v.mux.HandleFunc("GET /api/v2/tickets/{id}/audits", z.with(z.audits))
	return v
}

type zendeskTickets struct {
	*Vendor

	tickets []string
}

func zendeskError(w http.ResponseWriter, status int, code, description string) {
	vendorJSON(w, status, map[string]any{"error": code, "description": description})
}

// allowed says whether a request bears the credential in one of the forms that Zendesk takes, or answers it.
func (z zendeskTickets) allowed(w http.ResponseWriter, r *http.Request) bool {
	user, _, basic := r.BasicAuth()
	form := basic && strings.HasSuffix(user, "/token") || strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !form || !z.authorized(r) {
		vendorJSON(w, http.StatusUnauthorized, map[string]any{"error": "Couldn't authenticate you"})
		return false
	}
	return true
}

func (z zendeskTickets) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !z.allowed(w, r):
		case !slices.Contains(z.tickets, r.PathValue("id")):
			zendeskError(w, http.StatusNotFound, "RecordNotFound", "Not found")
		default:
			handle(w, r)
		}
	}
}

// me answers whoever brings no credential with a user without an id, as Zendesk does.
func (z zendeskTickets) me(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") == "" {
		vendorJSON(w, http.StatusOK, map[string]any{"user": map[string]any{"id": nil, "name": "Anonymous user", "role": "end-user"}})
		return
	}
	if z.allowed(w, r) {
		vendorJSON(w, http.StatusOK, map[string]any{"user": map[string]any{"id": zendeskAgent, "name": "Sluice", "role": "agent"}})
	}
}

func (z zendeskTickets) update(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Ticket *struct {
			Comment *struct {
				Body   string `json:"body"`
				HTML   string `json:"html_body"`
				Public *bool  `json:"public"`
			} `json:"comment"`
			Metadata map[string]any `json:"metadata"`
		} `json:"ticket"`
	}
	if !vendorBody(w, r, &in) {
		return
	}
	if in.Ticket == nil {
		zendeskError(w, http.StatusBadRequest, "ParameterMissing", "Parameter ticket is required")
		return
	}
	custom, err := json.Marshal(in.Ticket.Metadata)
	if err != nil || len(custom) > zendeskMetadataBytesMax {
		zendeskError(w, http.StatusUnprocessableEntity, "RecordInvalid", "Metadata is too long")
		return
	}
	if in.Ticket.Comment == nil {
		vendorJSON(w, http.StatusOK, map[string]any{"ticket": map[string]any{"id": json.Number(r.PathValue("id"))}})
		return
	}
	text, public := in.Ticket.Comment.HTML, in.Ticket.Comment.Public == nil || *in.Ticket.Comment.Public
	if text == "" {
		text = in.Ticket.Comment.Body
	}
	if text == "" || len(text) > zendeskCommentBytesMax {
		zendeskError(w, http.StatusUnprocessableEntity, "RecordInvalid", "Comment: cannot be blank, or is too long")
		return
	}
	e := z.write(VendorEffect{
		Kind: "comment", Target: r.PathValue("id"), Text: text, More: map[string]string{"custom": string(custom), "public": strconv.FormatBool(public)},
	})
	vendorJSON(w, http.StatusOK, map[string]any{"ticket": map[string]any{"id": json.Number(e.Target)}, "audit": z.audit(e)})
}

// audit is the record of the update that made a comment.
func (zendeskTickets) audit(e VendorEffect) map[string]any {
	return map[string]any{
		"id": json.Number("9" + e.ID), "ticket_id": json.Number(e.Target), "created_at": e.At.Format(time.RFC3339), "author_id": zendeskAgent,
		"metadata": map[string]any{"system": map[string]any{"client": "Sluice/1"}, "custom": json.RawMessage(e.More["custom"])},
		"events": []any{
			map[string]any{"id": json.Number("8" + e.ID), "type": "Change", "field_name": "status", "value": "open"},
			map[string]any{"id": json.Number(e.ID), "type": "Comment", "html_body": e.Text, "public": e.More["public"] == "true"},
		},
	}
}

// audits lists, by cursors, the audit of the ticket's making and those of its comments.
func (z zendeskTickets) audits(w http.ResponseWriter, r *http.Request) {
	made := VendorEffect{ID: "1", Target: r.PathValue("id"), Text: "<p>It is broken.</p>", More: map[string]string{"custom": "{}", "public": "true"}}
	rows := []map[string]any{z.audit(made)}
	for _, e := range z.read("comment", r.PathValue("id")) {
		rows = append(rows, z.audit(e))
	}
	size, err := strconv.Atoi(r.URL.Query().Get("page[size]"))
	if err != nil || size < 1 || size > zendeskPageMax {
		zendeskError(w, http.StatusBadRequest, "InvalidPaginationParameter", "page[size] must be 1 to 100")
		return
	}
	from, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Query().Get("page[after]"), "cursor"))
	from = min(max(from, 0), len(rows))
	to := min(from+size, len(rows))
	vendorJSON(w, http.StatusOK, map[string]any{
		"audits": rows[from:to], "meta": map[string]any{"has_more": to < len(rows), "after_cursor": "cursor" + strconv.Itoa(to), "before_cursor": "cursor0"},
	})
}
