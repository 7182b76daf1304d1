package scripted

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PagerDuty's codes for what it refuses.
const (
	pagerdutyInvalid  = 2001
	pagerdutyNotFound = 2100
	pagerdutyNobody   = 2006
	pagerdutyNotesMax = 2000
	pagerdutyUser     = "PXPGF42"
)

// NewPagerDuty makes the part of PagerDuty's REST API that leaves notes on those incidents that are named (github.com/PagerDuty/api-schema). The credential
// is EMAIL:KEY, a key of the whole account and the e-mail address of its only user.
func NewPagerDuty(credential string, now func() time.Time, incidents ...string) *Vendor {
	email, key, _ := strings.Cut(credential, ":")
	v := newVendor("pagerduty", key, now)
	d := pagerdutyIncidents{v, email, incidents}
	v.mux.HandleFunc("GET /users/me", d.with(func(w http.ResponseWriter, _ *http.Request) {
		pagerdutyError(w, http.StatusBadRequest, pagerdutyInvalid, "user required for /users/me")
	}))
	v.mux.HandleFunc("GET /users", d.with(d.users))
	v.mux.HandleFunc("GET /incidents/{id}/notes", d.with(d.list))
	v.mux.HandleFunc("POST /incidents/{id}/notes", d.with(d.create))
	v.mux.HandleFunc("PUT /incidents/{id}/notes/{note}", d.with(d.change))
	return v
}

type pagerdutyIncidents struct {
	*Vendor

	email     string
	incidents []string
}

func pagerdutyError(w http.ResponseWriter, status, code int, message string) {
	vendorJSON(w, status, map[string]any{"error": map[string]any{"code": code, "message": message}})
}

func (d pagerdutyIncidents) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		incident := r.PathValue("id")
		switch {
		case !strings.HasPrefix(r.Header.Get("Authorization"), "Token token=") || !d.authorized(r):
			w.WriteHeader(http.StatusUnauthorized) // without a body, as PagerDuty does
		case r.Header.Get("Accept") != "application/vnd.pagerduty+json;version=2":
			pagerdutyError(w, http.StatusNotAcceptable, pagerdutyInvalid, "The version is not known")
		case incident != "" && !slices.Contains(d.incidents, incident):
			pagerdutyError(w, http.StatusNotFound, pagerdutyNotFound, "Not Found")
		case r.Method != http.MethodGet && r.Header.Get("From") != d.email:
			pagerdutyError(w, http.StatusBadRequest, pagerdutyNobody, "Requester User Not Found")
		default:
			handle(w, r)
		}
	}
}

// users lists those whose name or e-mail address has what is asked for in it.
func (d pagerdutyIncidents) users(w http.ResponseWriter, r *http.Request) {
	list := []any{map[string]any{"id": "PSOMEONE", "type": "user", "email": "not-" + d.email}}
	if strings.Contains(d.email, r.URL.Query().Get("query")) {
		list = append(list, map[string]any{"id": pagerdutyUser, "type": "user", "email": d.email})
	}
	vendorJSON(w, http.StatusOK, map[string]any{"users": list, "limit": 25, "offset": 0, "more": false, "total": nil})
}

func (pagerdutyIncidents) show(e VendorEffect) map[string]any {
	return map[string]any{
		"id": e.ID, "content": e.Text, "created_at": e.At.Format(time.RFC3339), "channel": map[string]any{"summary": "The PagerDuty website or APIs"},
		"user": map[string]any{"id": pagerdutyUser, "type": "user_reference"},
	}
}

func (d pagerdutyIncidents) list(w http.ResponseWriter, r *http.Request) {
	rows := []map[string]any{}
	for _, e := range d.read("note", r.PathValue("id")) {
		rows = append(rows, d.show(e))
	}
	slices.Reverse(rows) // the newest first
	vendorJSON(w, http.StatusOK, map[string]any{"notes": rows})
}

func (pagerdutyIncidents) content(w http.ResponseWriter, r *http.Request) (string, bool) {
	var in struct {
		Note struct {
			Content string `json:"content"`
		} `json:"note"`
	}
	if !vendorBody(w, r, &in) {
		return "", false
	}
	if strings.TrimSpace(in.Note.Content) == "" {
		pagerdutyError(w, http.StatusBadRequest, pagerdutyInvalid, "Invalid Input Provided")
		return "", false
	}
	return in.Note.Content, true
}

func (d pagerdutyIncidents) create(w http.ResponseWriter, r *http.Request) {
	text, ok := d.content(w, r)
	switch {
	case !ok:
	case len(d.read("note", r.PathValue("id"))) >= pagerdutyNotesMax:
		pagerdutyError(w, http.StatusBadRequest, pagerdutyInvalid, "An incident has at most "+strconv.Itoa(pagerdutyNotesMax)+" notes")
	default:
		vendorJSON(w, http.StatusOK, map[string]any{"note": d.show(d.write(VendorEffect{Kind: "note", Target: r.PathValue("id"), Text: text}))})
	}
}

func (d pagerdutyIncidents) change(w http.ResponseWriter, r *http.Request) {
	text, ok := d.content(w, r)
	if !ok {
		return
	}
	e, there := d.rewrite(r.PathValue("note"), text)
	if !there {
		pagerdutyError(w, http.StatusNotFound, pagerdutyNotFound, "Not Found")
		return
	}
	vendorJSON(w, http.StatusOK, map[string]any{"note": d.show(e)})
}
