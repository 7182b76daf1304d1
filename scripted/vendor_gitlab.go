package scripted

import (
	"cmp"
	"crypto/subtle"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What GitLab takes (docs.gitlab.com/api/notes).
const (
	gitlabNoteMax     = 1_000_000
	gitlabNoteRows    = 20
	gitlabNoteRowsMax = 100
)

// NewGitLab makes the part of GitLab's API, below /api/v4, that comments on issues and merge requests. A project called "missing" is none, and so is an
// issue or a merge request with the number 404. A text of quick actions alone is carried out, and makes no note.
func NewGitLab(token string, now func() time.Time) *Vendor {
	v := newVendor("gitlab", token, now)
	g := gitlabNotes{v}
	const notes = "/api/v4/projects/{project}/{type}/{iid}/notes"
	v.mux.HandleFunc("GET /api/v4/user", g.with(func(w http.ResponseWriter, _ *http.Request) {
		vendorJSON(w, http.StatusOK, map[string]any{"id": 4711, "username": "project_5_bot_1", "name": "Sluice", "bot": true})
	}))
	v.mux.HandleFunc("GET "+notes, g.with(g.about(g.list)))
	v.mux.HandleFunc("POST "+notes, g.with(g.about(g.create)))
	v.mux.HandleFunc("PUT "+notes+"/{id}", g.with(g.about(g.change)))
	return v
}

type gitlabNotes struct{ *Vendor }

// with asks for the token as a bearer's, or in the header that is GitLab's own.
func (g gitlabNotes) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		private := r.Header.Get("PRIVATE-TOKEN")
		if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") && g.authorized(r) || private != "" && g.secret(private) {
			handle(w, r)
			return
		}
		vendorJSON(w, http.StatusUnauthorized, map[string]any{"message": "401 Unauthorized"})
	}
}

// secret says whether a text is the credential.
func (v *Vendor) secret(given string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return subtle.ConstantTimeCompare([]byte(given), []byte(v.token)) == 1
}

var gitlabIIDRE = regexp.MustCompile(`^[1-9][0-9]*$`)

// about answers 404 for what is not there. The path of a project is one escaped piece.
func (gitlabNotes) about(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		project, kind, iid := r.PathValue("project"), r.PathValue("type"), r.PathValue("iid")
		switch {
		case project == "missing" || strings.HasSuffix(project, "/missing") || !strings.Contains(project, "/") && !gitlabIIDRE.MatchString(project):
			vendorJSON(w, http.StatusNotFound, map[string]any{"message": "404 Project Not Found"})
		case kind != "issues" && kind != "merge_requests":
			vendorJSON(w, http.StatusNotFound, map[string]any{"error": "404 Not Found"})
		case !gitlabIIDRE.MatchString(iid):
			vendorJSON(w, http.StatusBadRequest, map[string]any{"error": "noteable_id is invalid"})
		case iid == "404":
			vendorJSON(w, http.StatusNotFound, map[string]any{"message": "404 Issue Not Found"})
		default:
			handle(w, r)
		}
	}
}

func gitlabTarget(r *http.Request) string {
	return r.PathValue("project") + "/" + r.PathValue("type") + "/" + r.PathValue("iid")
}

func (gitlabNotes) show(r *http.Request, e VendorEffect) map[string]any {
	id, _ := strconv.ParseInt(e.ID, 10, 64)
	return map[string]any{
		"id": id, "body": e.Text, "author": map[string]any{"id": 4711, "username": "project_5_bot_1"}, "system": false, "internal": false,
		"created_at": e.At.Format(time.RFC3339Nano), "updated_at": e.updatedAt(), "noteable_iid": r.PathValue("iid"),
	}
}

// updatedAt is when an effect was last written, as far as its service keeps that.
func (e VendorEffect) updatedAt() string {
	return cmp.Or(e.More["updated_at"], e.At.Format(time.RFC3339Nano))
}

// list answers a page, the latest first unless it is asked otherwise, and says in a header which page is next.
func (g gitlabNotes) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	order, sort := cmp.Or(query.Get("order_by"), "created_at"), cmp.Or(query.Get("sort"), "desc")
	if order != "created_at" && order != "updated_at" || sort != "asc" && sort != "desc" {
		vendorJSON(w, http.StatusBadRequest, map[string]any{"error": "order_by does not have a valid value"})
		return
	}
	notes := g.read("note", gitlabTarget(r))
	slices.SortStableFunc(notes, func(a, b VendorEffect) int {
		if order == "updated_at" {
			return strings.Compare(a.updatedAt(), b.updatedAt())
		}
		return a.At.Compare(b.At)
	})
	if sort == "desc" {
		slices.Reverse(notes)
	}
	rows := []map[string]any{}
	for _, e := range vendorPage(r, notes, "page", "per_page", gitlabNoteRows, gitlabNoteRowsMax) {
		if e.More[vendorHidden] == "" { // what the caller may not see is taken out of its page
			rows = append(rows, g.show(r, e))
		}
	}
	page, size := vendorNumber(query.Get("page"), 1), min(vendorNumber(query.Get("per_page"), gitlabNoteRows), gitlabNoteRowsMax)
	next := ""
	if page*size < len(notes) {
		next = strconv.Itoa(page + 1)
	}
	w.Header().Set("X-Next-Page", next)
	vendorJSON(w, http.StatusOK, rows)
}

// vendorNumber reads a number of a query, from 1.
func vendorNumber(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// gitlabCommandRE is a quick action (gitlab-org/gitlab, lib/gitlab/quick_actions/extractor.rb).
var gitlabCommandRE = regexp.MustCompile(`(?mi)^/(close|reopen|assign|label|merge|approve|move|title|lock)\b[^\n]*(\n|$)`)

// text reads a note and takes the quick actions out of it, or answers for itself.
func (g gitlabNotes) text(w http.ResponseWriter, r *http.Request) (string, bool) {
	var in struct {
		Body string `json:"body"`
	}
	if !vendorBody(w, r, &in) {
		return "", false
	}
	for _, command := range gitlabCommandRE.FindAllString(in.Body, -1) {
		g.write(VendorEffect{Kind: "command", Target: gitlabTarget(r), Text: strings.TrimSpace(command)})
	}
	text := strings.TrimRight(gitlabCommandRE.ReplaceAllString(strings.ReplaceAll(in.Body, "\r", ""), ""), " \n\t")
	switch {
	case in.Body == "":
		vendorJSON(w, http.StatusBadRequest, map[string]any{"error": "body is missing"})
	case text == "":
		vendorJSON(w, http.StatusAccepted, map[string]any{"commands_changes": map[string]any{"state_event": "close"}, "summary": []string{"Closed this issue."}})
	case utf8.RuneCountInString(text) > gitlabNoteMax:
		vendorJSON(w, http.StatusBadRequest, map[string]any{"message": "400 Bad request - Note {:note=>[\"is too long (maximum is 1000000 characters)\"]}"})
	default:
		return text, true
	}
	return "", false
}

func (g gitlabNotes) create(w http.ResponseWriter, r *http.Request) {
	if text, ok := g.text(w, r); ok {
		vendorJSON(w, http.StatusCreated, g.show(r, g.write(VendorEffect{Kind: "note", Target: gitlabTarget(r), Text: text})))
	}
}

func (g gitlabNotes) change(w http.ResponseWriter, r *http.Request) {
	text, ok := g.text(w, r)
	if !ok {
		return
	}
	e, there := g.revise(r.PathValue("id"), gitlabTarget(r), text, map[string]string{"updated_at": g.now().UTC().Format(time.RFC3339Nano)})
	if !there {
		vendorJSON(w, http.StatusNotFound, map[string]any{"message": "404 Not found"})
		return
	}
	vendorJSON(w, http.StatusOK, g.show(r, e))
}

// revise changes an effect of a target and what else is kept of it, and says whether it is there.
func (v *Vendor) revise(id, target, text string, more map[string]string) (VendorEffect, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.effects {
		if e := &v.effects[i]; e.ID == id && (target == "" || e.Target == target) {
			e.Text, e.Updates, e.More = text, e.Updates+1, more
			return *e, true
		}
	}
	return VendorEffect{}, false
}
