package scripted

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What HubSpot takes.
const (
	hubspotNoteMax  = 65536
	hubspotPageMax  = 500
	hubspotReadMax  = 100
	hubspotPortal   = 62515
	hubspotApp      = 54321
	hubspotTimeForm = "2006-01-02T15:04:05.999Z"
)

// hubspotNotes is the number of the association from a note to a record, by the record's type.
var hubspotNotes = map[string]int{"0-1": 202, "0-2": 190, "0-3": 214, "0-5": 228}

// NewHubSpot makes the part of HubSpot's API that leaves notes on those records that are named, each by its type and id, such as 0-1/123 for a contact
// (github.com/HubSpot/HubSpot-public-api-spec-collection: CRM/Notes v3, CRM/Associations v4).
func NewHubSpot(token string, now func() time.Time, records ...string) *Vendor {
	v := newVendor("hubspot", token, now)
	h := hubspotCRM{v, records}
	v.mux.HandleFunc("GET /account-info/v3/details", h.with(h.details))
	v.mux.HandleFunc("POST /oauth/v2/private-apps/get/access-token-info", h.with(h.app))
	v.mux.HandleFunc("POST /crm/v3/objects/notes", h.with(h.create))
	v.mux.HandleFunc("PATCH /crm/v3/objects/notes/{id}", h.with(h.change))
	v.mux.HandleFunc("POST /crm/v3/objects/notes/batch/read", h.with(h.batch))
	v.mux.HandleFunc("GET /crm/v4/objects/{type}/{id}/associations/notes", h.with(h.associated))
	return v
}

type hubspotCRM struct {
	*Vendor

	records []string
}

func hubspotError(w http.ResponseWriter, status int, category, message string) {
	vendorJSON(w, status, map[string]any{"status": "error", "category": category, "message": message, "correlationId": "aeb5f871-7f07-4993-9211-075dc63e7cbf"})
}

func (h hubspotCRM) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || !h.authorized(r) {
			hubspotError(w, http.StatusUnauthorized, "INVALID_AUTHENTICATION", "Authentication credentials not found")
			return
		}
		handle(w, r)
	}
}

func (hubspotCRM) details(w http.ResponseWriter, _ *http.Request) {
	vendorJSON(w, http.StatusOK, map[string]any{"portalId": hubspotPortal, "accountType": "STANDARD"})
}

func (h hubspotCRM) app(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Token string `json:"tokenKey"`
	}
	switch {
	case !vendorBody(w, r, &in):
	case "Bearer "+in.Token != r.Header.Get("Authorization"):
		hubspotError(w, http.StatusUnauthorized, "INVALID_AUTHENTICATION", "The token is not known")
	default:
		vendorJSON(w, http.StatusOK, map[string]any{"userId": 9586504, "hubId": hubspotPortal, "appId": hubspotApp, "scopes": []string{"crm.objects.contacts.write"}})
	}
}

// properties checks those of a note, or says what is wrong with them.
func (hubspotCRM) properties(given map[string]string, all bool) string {
	for name := range given {
		if !slices.Contains([]string{"hs_note_body", "hs_timestamp", "hubspot_owner_id", "hs_attachment_ids"}, name) {
			return "Property " + name + " does not exist, or is read only"
		}
	}
	if when, ok := given["hs_timestamp"]; ok || all {
		_, notTime := time.Parse(hubspotTimeForm, when)
		if _, notNumber := strconv.ParseInt(when, 10, 64); notTime != nil && notNumber != nil {
			return "hs_timestamp is required, as a time"
		}
	}
	if utf8.RuneCountInString(given["hs_note_body"]) > hubspotNoteMax {
		return "hs_note_body is too long"
	}
	return ""
}

func (h hubspotCRM) create(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Properties   map[string]string `json:"properties"`
		Associations []struct {
			To struct {
				ID string `json:"id"`
			} `json:"to"`
			Types []struct {
				Category string `json:"associationCategory"`
				ID       int    `json:"associationTypeId"`
			} `json:"types"`
		} `json:"associations"`
	}
	if !vendorBody(w, r, &in) {
		return
	}
	if bad := h.properties(in.Properties, true); bad != "" {
		hubspotError(w, http.StatusBadRequest, "VALIDATION_ERROR", bad)
		return
	}
	target := ""
	for _, one := range in.Associations {
		for _, kind := range one.Types {
			for object, association := range hubspotNotes {
				if kind.Category == "HUBSPOT_DEFINED" && kind.ID == association {
					target = object + "/" + one.To.ID
				}
			}
		}
	}
	if len(in.Associations) != 1 || !slices.Contains(h.records, target) {
		hubspotError(w, http.StatusBadRequest, "VALIDATION_ERROR", "One or more associations are not valid")
		return
	}
	vendorJSON(w, http.StatusCreated, h.show(h.write(VendorEffect{Kind: "note", Target: target, Text: in.Properties["hs_note_body"]})))
}

func (hubspotCRM) show(e VendorEffect) map[string]any {
	return map[string]any{
		"id": e.ID, "archived": false, "createdAt": e.At.Format(hubspotTimeForm), "updatedAt": e.At.Format(hubspotTimeForm),
		"properties": map[string]any{"hs_note_body": e.Text, "hs_object_id": e.ID, "hubspot_owner_id": nil},
	}
}

func (h hubspotCRM) change(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Properties map[string]string `json:"properties"`
	}
	if !vendorBody(w, r, &in) {
		return
	}
	if bad := h.properties(in.Properties, false); bad != "" {
		hubspotError(w, http.StatusBadRequest, "VALIDATION_ERROR", bad)
		return
	}
	e, there := h.rewrite(r.PathValue("id"), in.Properties["hs_note_body"])
	if !there {
		hubspotError(w, http.StatusNotFound, "OBJECT_NOT_FOUND", "Object not found")
		return
	}
	vendorJSON(w, http.StatusOK, h.show(e))
}

// associated lists the notes of a record by their ids.
func (h hubspotCRM) associated(w http.ResponseWriter, r *http.Request) {
	target := r.PathValue("type") + "/" + r.PathValue("id")
	if !slices.Contains(h.records, target) {
		hubspotError(w, http.StatusNotFound, "OBJECT_NOT_FOUND", "resource not found")
		return
	}
	rows := []map[string]any{}
	for _, e := range h.read("note", target) {
		rows = append(rows, map[string]any{"toObjectId": json.Number(e.ID), "associationTypes": []any{}})
	}
	size, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || size < 1 || size > hubspotPageMax {
		hubspotError(w, http.StatusBadRequest, "VALIDATION_ERROR", "limit must be 1 to 500")
		return
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("after"))
	from = min(max(from, 0), len(rows))
	to := min(from+size, len(rows))
	answer := map[string]any{"results": rows[from:to]}
	if to < len(rows) {
		answer["paging"] = map[string]any{"next": map[string]any{"after": strconv.Itoa(to)}}
	}
	vendorJSON(w, http.StatusOK, answer)
}

// batch reads notes by their ids. Those that are not there are missing from the answer, which is a 207 then.
func (h hubspotCRM) batch(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Inputs []struct {
			ID string `json:"id"`
		} `json:"inputs"`
		Properties *[]string `json:"properties"`
		History    *[]string `json:"propertiesWithHistory"`
	}
	if !vendorBody(w, r, &in) {
		return
	}
	if len(in.Inputs) == 0 || len(in.Inputs) > hubspotReadMax || in.Properties == nil || in.History == nil {
		hubspotError(w, http.StatusBadRequest, "VALIDATION_ERROR", "inputs, properties or propertiesWithHistory is invalid")
		return
	}
	rows := []map[string]any{}
	for _, e := range h.Effects() {
		for _, one := range in.Inputs {
			if one.ID == e.ID {
				rows = append(rows, h.show(e))
			}
		}
	}
	status := http.StatusOK
	if len(rows) < len(in.Inputs) {
		status = http.StatusMultiStatus
	}
	vendorJSON(w, status, map[string]any{"status": "COMPLETE", "results": rows, "startedAt": h.now().UTC(), "completedAt": h.now().UTC()})
}
