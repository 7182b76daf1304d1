package scripted

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// intercomAdmin is the admin whose token it is.
const intercomAdmin = "991267459"

// NewIntercom makes the part of Intercom's API that replies to those conversations that are named (github.com/intercom/Intercom-OpenAPI, 2.14).
func NewIntercom(token string, now func() time.Time, conversations ...string) *Vendor {
	v := newVendor("intercom", token, now)
	i := intercomConversations{v, conversations}
	v.mux.HandleFunc("GET /me", i.with(i.me))
	v.mux.HandleFunc("POST /conversations/{id}/reply", i.with(i.reply))
	return v
}

type intercomConversations struct {
	*Vendor

	conversations []string
}

func intercomError(w http.ResponseWriter, status int, code, message string) {
	vendorJSON(w, status, map[string]any{"type": "error.list", "request_id": nil, "errors": []any{map[string]any{"code": code, "message": message}}})
}

func (i intercomConversations) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch version := r.Header.Get("Intercom-Version"); {
		case !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || !i.authorized(r):
			intercomError(w, http.StatusUnauthorized, "unauthorized", "Access Token Invalid")
		case version != "" && !strings.HasPrefix(version, "2."):
			intercomError(w, http.StatusBadRequest, "intercom_version_invalid", "The requested version could not be found")
		default:
			handle(w, r)
		}
	}
}

func (intercomConversations) me(w http.ResponseWriter, _ *http.Request) {
	vendorJSON(w, http.StatusOK, map[string]any{"type": "admin", "id": intercomAdmin, "email": "sluice@acme.example", "name": "Sluice"})
}

func (i intercomConversations) reply(w http.ResponseWriter, r *http.Request) {
	var in struct {
		MessageType string `json:"message_type"`
		Type        string `json:"type"`
		Body        string `json:"body"`
		AdminID     string `json:"admin_id"`
	}
	if !vendorBody(w, r, &in) {
		return
	}
	switch id := r.PathValue("id"); {
	case !slices.Contains(i.conversations, id):
		intercomError(w, http.StatusNotFound, "not_found", "Resource Not Found")
	case in.Type != "admin" || in.Body == "" || in.MessageType != "comment" && in.MessageType != "note":
		intercomError(w, http.StatusBadRequest, "parameter_invalid", "type, message_type or body is invalid")
	case in.AdminID != intercomAdmin:
		intercomError(w, http.StatusForbidden, "forbidden", "admin_id is not an admin who may reply")
	default:
		e := i.write(VendorEffect{Kind: in.MessageType, Target: id, Text: in.Body, More: map[string]string{"admin_id": in.AdminID}})
		vendorJSON(w, http.StatusOK, map[string]any{
			"type": "conversation", "id": id, "conversation_parts": map[string]any{"type": "conversation_part.list", "total_count": 2, "conversation_parts": []any{
				map[string]any{"type": "conversation_part", "id": "1", "part_type": "comment", "author": map[string]any{"type": "user", "id": "6762f1571bb69f9f"}},
				map[string]any{"type": "conversation_part", "id": e.ID, "part_type": e.Kind, "body": e.Text, "author": map[string]any{"type": "admin", "id": in.AdminID}},
			}},
		})
	}
}
