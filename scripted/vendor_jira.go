package scripted

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// What Jira takes (developer.atlassian.com/cloud/jira/platform/rest/v3/api-group-issue-comments).
const (
	jiraTextMax = 32767
	jiraRowsMax = 100
	jiraIDsMax  = 1000
	jiraKeyMax  = 255
	jiraTime    = "2006-01-02T15:04:05.000-0700"
)

// NewJira makes the part of Jira Cloud's API, below /rest/api/3, that comments on issues. Its secret is EMAIL:TOKEN, as Basic authentication has it. The
// issues of the project GONE are none. A comment with anything but text in paragraphs is refused.
func NewJira(secret string, now func() time.Time) *Vendor {
	v := newVendor("jira", secret, now)
	j := jiraComments{v}
	v.mux.HandleFunc("GET /rest/api/3/myself", j.with(func(w http.ResponseWriter, _ *http.Request) {
		vendorJSON(w, http.StatusOK, map[string]any{"accountId": "5b10ac8d82e05b22cc7d4ef5", "accountType": "atlassian", "displayName": "Sluice", "active": true})
	}))
	v.mux.HandleFunc("GET /rest/api/3/issue/{issue}/comment", j.with(j.list))
	v.mux.HandleFunc("POST /rest/api/3/issue/{issue}/comment", j.with(j.create))
	v.mux.HandleFunc("PUT /rest/api/3/issue/{issue}/comment/{id}", j.with(j.change))
	v.mux.HandleFunc("POST /rest/api/3/comment/list", j.with(j.byIDs))
	return v
}

type jiraComments struct{ *Vendor }

func jiraErrors(w http.ResponseWriter, status int, message string) {
	vendorJSON(w, status, map[string]any{"errorMessages": []string{message}, "errors": map[string]string{}})
}

var jiraIssueRE = regexp.MustCompile(`^[A-Z][A-Z0-9_]+-[1-9][0-9]*$`)

// with asks for Basic authentication, and for an issue that is there.
func (j jiraComments) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		issue := r.PathValue("issue")
		switch {
		case !strings.HasPrefix(r.Header.Get("Authorization"), "Basic ") || !j.authorized(r):
			w.Header().Set("X-Seraph-LoginReason", "AUTHENTICATED_FAILED")
			http.Error(w, "Client must be authenticated to access this resource.", http.StatusUnauthorized)
		case issue != "" && (!jiraIssueRE.MatchString(issue) || strings.HasPrefix(issue, "GONE-")):
			jiraErrors(w, http.StatusNotFound, "Issue does not exist or you do not have permission to see it.")
		default:
			handle(w, r)
		}
	}
}

// show is a comment; its properties are in it if the request asks for them by a parameter that takes them.
func (jiraComments) show(e VendorEffect, properties bool) map[string]any {
	comment := map[string]any{
		"self": "https://acme.atlassian.net/rest/api/3/issue/10010/comment/" + e.ID, "id": e.ID, "created": e.At.Format(jiraTime),
		"updated": e.At.Format(jiraTime), "author": map[string]any{"accountId": "5b10ac8d82e05b22cc7d4ef5"}, "body": json.RawMessage(e.More["body"]),
	}
	if properties {
		comment["properties"] = json.RawMessage(e.More["properties"])
	}
	return comment
}

func (j jiraComments) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	comments := j.read("comment", r.PathValue("issue"))
	switch query.Get("orderBy") {
	case "", "created", "+created":
	case "-created":
		slices.Reverse(comments)
	default:
		jiraErrors(w, http.StatusBadRequest, "The orderBy parameter is not valid.")
		return
	}
	start, err := strconv.Atoi(query.Get("startAt"))
	if err != nil {
		start = 0
	}
	size := min(vendorNumber(query.Get("maxResults"), jiraRowsMax), jiraRowsMax)
	rows := []map[string]any{}
	for _, e := range comments[min(start, len(comments)):min(start+size, len(comments))] {
		rows = append(rows, j.show(e, false))
	}
	vendorJSON(w, http.StatusOK, map[string]any{"startAt": start, "maxResults": size, "total": len(comments), "comments": rows})
}

func (j jiraComments) byIDs(w http.ResponseWriter, r *http.Request) {
	var in struct {
		IDs []int64 `json:"ids"`
	}
	if !vendorBody(w, r, &in) {
		return
	}
	if len(in.IDs) == 0 || len(in.IDs) > jiraIDsMax {
		jiraErrors(w, http.StatusBadRequest, "The number of ids is not valid.")
		return
	}
	expanded := slices.Contains(strings.Split(r.URL.Query().Get("expand"), ","), "properties")
	rows := []map[string]any{}
	for _, e := range j.Effects() {
		if id, err := strconv.ParseInt(e.ID, 10, 64); err == nil && slices.Contains(in.IDs, id) && e.More[vendorHidden] == "" {
			rows = append(rows, j.show(e, expanded))
		}
	}
	vendorJSON(w, http.StatusOK, map[string]any{"startAt": 0, "maxResults": 1 << 20, "total": len(rows), "isLast": true, "values": rows})
}

// A jiraPart is a node of a document, with all that the format knows and this service does not take.
type jiraPart struct {
	Type    string            `json:"type"`
	Version int               `json:"version"`
	Text    *string           `json:"text"`
	Content []jiraPart        `json:"content"`
	Marks   []json.RawMessage `json:"marks"`
	Attrs   json.RawMessage   `json:"attrs"`
}

// flat is the text of a document, or false if it is none.
func (p jiraPart) flat() (string, bool) {
	if p.Type != "doc" || p.Version != 1 || len(p.Content) == 0 || p.Text != nil {
		return "", false
	}
	var paragraphs []string
	for _, paragraph := range p.Content {
		if paragraph.Type != "paragraph" || paragraph.Text != nil || paragraph.Attrs != nil || len(paragraph.Marks) > 0 {
			return "", false
		}
		var text strings.Builder
		for _, inline := range paragraph.Content {
			switch {
			case len(inline.Marks) > 0 || inline.Attrs != nil || len(inline.Content) > 0:
				return "", false
			case inline.Type == "text" && inline.Text != nil && *inline.Text != "":
				text.WriteString(*inline.Text)
			case inline.Type == "hardBreak" && inline.Text == nil:
				text.WriteString("\n")
			default:
				return "", false
			}
		}
		paragraphs = append(paragraphs, text.String())
	}
	return strings.Join(paragraphs, "\n\n"), true
}

// written reads a comment and its properties, or refuses them.
func (jiraComments) written(w http.ResponseWriter, r *http.Request) (text string, more map[string]string, ok bool) {
	var in struct {
		Body       json.RawMessage `json:"body"`
		Properties []struct {
			Key   string          `json:"key"`
			Value json.RawMessage `json:"value"`
		} `json:"properties"`
	}
	if !vendorBody(w, r, &in) {
		return "", nil, false
	}
	var document jiraPart
	text, whole := "", false
	if json.Unmarshal(in.Body, &document) == nil {
		text, whole = document.flat()
	}
	switch {
	case !whole:
		jiraErrors(w, http.StatusBadRequest, "Comment body is not valid!")
		return "", nil, false
	case len(utf16.Encode([]rune(text))) > jiraTextMax:
		vendorJSON(w, http.StatusBadRequest, map[string]any{
			"errorMessages": []string{}, "errors": map[string]string{"comment": "The entered text is too long. It exceeds the allowed limit of 32,767 characters."},
		})
		return "", nil, false
	}
	if in.Properties == nil {
		in.Properties = slices.Grow(in.Properties, 0)
	}
	for _, p := range in.Properties {
		if p.Key == "" || len(p.Key) > jiraKeyMax || !json.Valid(p.Value) {
			jiraErrors(w, http.StatusBadRequest, "The property is not valid.")
			return "", nil, false
		}
	}
	properties, _ := json.Marshal(in.Properties)
	return text, map[string]string{"body": string(in.Body), "properties": string(properties)}, true
}

func (j jiraComments) create(w http.ResponseWriter, r *http.Request) {
	if text, more, ok := j.written(w, r); ok {
		e := j.write(VendorEffect{Kind: "comment", Target: r.PathValue("issue"), Text: text, More: more})
		vendorJSON(w, http.StatusCreated, j.show(e, false))
	}
}

func (j jiraComments) change(w http.ResponseWriter, r *http.Request) {
	text, more, ok := j.written(w, r)
	if !ok {
		return
	}
	e, there := j.revise(r.PathValue("id"), r.PathValue("issue"), text, more)
	if !there {
		jiraErrors(w, http.StatusNotFound, "Can not find a comment for the id: "+strconv.Quote(r.PathValue("id"))+".")
		return
	}
	vendorJSON(w, http.StatusOK, j.show(e, false))
}
