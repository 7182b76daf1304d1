package scripted

import (
	"hash/crc32"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What GitHub takes (docs.github.com/en/rest/issues/comments).
const (
	githubCommentMax  = 65536
	githubCommentRows = 30
	githubLabelMax    = 50
)

// NewGitHubIssues makes the part of GitHub's API that comments on issues and labels them. Requests must bear the token and name their User-Agent, as
// GitHub wants of all (docs.github.com/en/rest/using-the-rest-api/getting-started-with-the-rest-api).
func NewGitHubIssues(token string, now func() time.Time) *Vendor {
	v := newVendor("github", token, now)
	g := githubIssues{v}
	v.mux.HandleFunc("GET /user", g.with(g.user))
	v.mux.HandleFunc("GET /repos/{owner}/{repo}/issues/{issue}/comments", g.with(g.list))
	v.mux.HandleFunc("POST /repos/{owner}/{repo}/issues/{issue}/comments", g.with(g.comment))
	v.mux.HandleFunc("PATCH /repos/{owner}/{repo}/issues/comments/{id}", g.with(g.change))
	v.mux.HandleFunc("POST /repos/{owner}/{repo}/issues/{issue}/labels", g.with(g.label))
	return v
}

type githubIssues struct{ *Vendor }

func (g githubIssues) with(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("User-Agent") == "":
			http.Error(w, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.", http.StatusForbidden)
		case !g.authorized(r):
			vendorJSON(w, http.StatusUnauthorized, map[string]any{"message": "Bad credentials", "status": "401"})
		default:
			handle(w, r)
		}
	}
}

func (githubIssues) user(w http.ResponseWriter, _ *http.Request) {
	vendorJSON(w, http.StatusOK, map[string]any{"login": "sluice-bot", "id": 4711, "type": "User"})
}

func githubTarget(r *http.Request) string {
	return r.PathValue("owner") + "/" + r.PathValue("repo") + "#" + r.PathValue("issue")
}

func (githubIssues) show(e VendorEffect) map[string]any {
	id, _ := strconv.ParseInt(e.ID, 10, 64)
	repo, issue, _ := strings.Cut(e.Target, "#")
	return map[string]any{
		"id": id, "body": e.Text, "html_url": "https://github.com/" + repo + "/issues/" + issue + "#issuecomment-" + e.ID, "user": map[string]any{"login": "sluice-bot"},
		"created_at": e.At.Format(time.RFC3339), "updated_at": e.At.Format(time.RFC3339),
	}
}

func (g githubIssues) list(w http.ResponseWriter, r *http.Request) {
	since, err := time.Parse(time.RFC3339, r.URL.Query().Get("since"))
	rows := []map[string]any{}
	for _, e := range g.read("comment", githubTarget(r)) {
		if err != nil || !e.At.Before(since) {
			rows = append(rows, g.show(e))
		}
	}
	vendorJSON(w, http.StatusOK, vendorPage(r, rows, "page", "per_page", githubCommentRows, githubPageRowsMax))
}

// text reads a comment, or refuses it as GitHub does.
func (githubIssues) text(w http.ResponseWriter, r *http.Request) (string, bool) {
	var in struct {
		Body string `json:"body"`
	}
	if !vendorBody(w, r, &in) {
		return "", false
	}
	if in.Body == "" || utf8.RuneCountInString(in.Body) > githubCommentMax {
		vendorJSON(w, http.StatusUnprocessableEntity, map[string]any{"message": "Validation Failed", "errors": []any{map[string]any{"field": "body"}}})
		return "", false
	}
	return in.Body, true
}

func (g githubIssues) comment(w http.ResponseWriter, r *http.Request) {
	if text, ok := g.text(w, r); ok {
		vendorJSON(w, http.StatusCreated, g.show(g.write(VendorEffect{Kind: "comment", Target: githubTarget(r), Text: text})))
	}
}

func (g githubIssues) change(w http.ResponseWriter, r *http.Request) {
	text, ok := g.text(w, r)
	if !ok {
		return
	}
	e, there := g.rewrite(r.PathValue("id"), text)
	if !there {
		vendorJSON(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
		return
	}
	vendorJSON(w, http.StatusOK, g.show(e))
}

// label adds labels (docs.github.com/en/rest/issues/labels#add-labels-to-an-issue) and answers all that the issue has. What adds none is no effect.
func (g githubIssues) label(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Labels []string `json:"labels"`
	}
	if !vendorBody(w, r, &in) {
		return
	}
	target := githubTarget(r)
	if len(in.Labels) == 0 { // GitHub takes away all labels then
		for _, e := range g.read("labels", target) {
			g.Remove(e.ID)
		}
	}
	var have, ids, added []string
	for _, e := range g.read("labels", target) {
		have = append(have, strings.Split(e.More["labels"], "\n")...)
	}
	for _, name := range in.Labels {
		if name == "" || utf8.RuneCountInString(name) > githubLabelMax {
			vendorJSON(w, http.StatusUnprocessableEntity, map[string]any{"message": "Validation Failed", "errors": []any{map[string]any{"field": "name"}}})
			return
		}
		if !slices.ContainsFunc(have, func(h string) bool { return strings.EqualFold(h, name) }) {
			have, added, ids = append(have, name), append(added, name), append(ids, strconv.FormatInt(githubLabelID(name), 10))
		}
	}
	if len(added) > 0 {
		g.write(VendorEffect{
			ID: strings.Join(ids, ","), Kind: "labels", Target: target, Text: strings.Join(added, ", "), More: map[string]string{"labels": strings.Join(added, "\n")},
		})
	}
	rows := []map[string]any{}
	for _, name := range have {
		rows = append(rows, map[string]any{"id": githubLabelID(name), "name": name})
	}
	vendorJSON(w, http.StatusOK, rows)
}

// githubLabelID is the id of a label, the same for every issue.
func githubLabelID(name string) int64 {
	return int64(crc32.ChecksumIEEE([]byte(strings.ToLower(name)))) + 1
}
