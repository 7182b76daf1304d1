package scripted

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// NewLinear makes the part of Linear's API, GraphQL at /graphql, that comments on issues. A key that begins with lin_api_ stands in the header bare, any
// other is a bearer's. The issues of the team GONE are none, and those with an id of zeros at its beginning.
//
// It runs no GraphQL: it looks for the operations that it knows, and refuses variables that are not declared, not used or not given.
func NewLinear(token string, now func() time.Time) *Vendor {
	v := newVendor("linear", token, now)
	l := linearAPI{v}
	v.mux.HandleFunc("POST /graphql", l.serve)
	return v
}

type linearAPI struct{ *Vendor }

type linearRequest struct {
	Query     string         `json:"query"`
	Variables map[string]any `json:"variables"`
}

// linearErrors answers as Linear does, whose errors mostly come with 200.
func linearErrors(w http.ResponseWriter, status int, message, kind, code, presentable string) {
	vendorJSON(w, status, map[string]any{"data": nil, "errors": []any{map[string]any{
		"message": message, "extensions": map[string]any{"type": kind, "code": code, "userError": true, "userPresentableMessage": presentable},
	}}})
}

func linearInvalid(w http.ResponseWriter, message, presentable string) {
	linearErrors(w, http.StatusOK, message, "invalid input", "INPUT_ERROR", presentable)
}

func (l linearAPI) serve(w http.ResponseWriter, r *http.Request) {
	header := r.Header.Get("Authorization")
	bare := strings.HasPrefix(strings.TrimPrefix(header, "Bearer "), "lin_api_")
	if strings.HasPrefix(header, "Bearer ") == bare || !l.authorized(r) {
		linearErrors(w, http.StatusUnauthorized, "Authentication required, not authenticated", "authentication error", "AUTHENTICATION_ERROR", "You need to authenticate to access this operation.")
		return
	}
	var in linearRequest
	if !vendorBody(w, r, &in) {
		return
	}
	if !linearShaped(in) {
		linearErrors(w, http.StatusBadRequest, "Syntax Error", "graphql error", "GRAPHQL_VALIDATION_FAILED", "")
		return
	}
	switch {
	case strings.Contains(in.Query, "commentCreate("):
		l.create(w, in.Variables)
	case strings.Contains(in.Query, "commentUpdate("):
		l.update(w, in.Variables)
	case strings.Contains(in.Query, "comments("):
		l.comments(w, in.Variables)
	case strings.Contains(in.Query, "viewer {"):
		vendorJSON(w, http.StatusOK, map[string]any{"data": map[string]any{
			"viewer": map[string]any{"id": "aacdca22-6266-4c0a-ab3c-8fa70a26765c", "name": "Sluice"}, "organization": map[string]any{"urlKey": "acme"},
		}})
	default:
		linearErrors(w, http.StatusBadRequest, "Cannot query field", "graphql error", "GRAPHQL_VALIDATION_FAILED", "")
	}
}

var linearVariableRE = regexp.MustCompile(`\$(\w+)(\s*:)?`)

// linearShaped says whether braces meet, and whether each variable is declared, used and given.
func linearShaped(in linearRequest) bool {
	declared, used := map[string]bool{}, map[string]bool{}
	for _, m := range linearVariableRE.FindAllStringSubmatch(in.Query, -1) {
		if m[2] != "" {
			declared[m[1]] = true
		} else {
			used[m[1]] = true
		}
	}
	for name := range declared {
		if _, given := in.Variables[name]; !given || !used[name] {
			return false
		}
	}
	for name := range in.Variables {
		if !declared[name] {
			return false
		}
	}
	for name := range used {
		if !declared[name] {
			return false
		}
	}
	return in.Query != "" && strings.Count(in.Query, "{") == strings.Count(in.Query, "}") && strings.Count(in.Query, "(") == strings.Count(in.Query, ")")
}

var (
	linearUUID4RE = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	linearNameRE  = regexp.MustCompile(`^([A-Z][A-Z0-9]*-[1-9][0-9]*|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
)

// linearInput reads an input of texts, with no fields but those that are known.
func linearInput(variables map[string]any, known ...string) (map[string]string, bool) {
	input, ok := variables["input"].(map[string]any)
	texts := map[string]string{}
	for name, value := range input {
		text, isText := value.(string)
		if !isText || !slices.Contains(known, name) {
			return nil, false
		}
		texts[name] = text
	}
	return texts, ok
}

func (linearAPI) show(e VendorEffect) map[string]any {
	return map[string]any{"id": e.ID, "url": "https://linear.app/acme/issue/" + e.Target + "/title#comment-" + e.ID[:8]}
}

func (l linearAPI) has(id string) (VendorEffect, bool) {
	for _, e := range l.Effects() {
		if e.ID == id {
			return e, true
		}
	}
	return VendorEffect{}, false
}

func (l linearAPI) create(w http.ResponseWriter, variables map[string]any) {
	in, ok := linearInput(variables, "id", "issueId", "body")
	_, taken := l.has(in["id"])
	switch {
	case !ok || in["body"] == "":
		linearInvalid(w, "Argument Validation Error", "body should not be empty.")
	case in["id"] != "" && !linearUUID4RE.MatchString(in["id"]):
		linearInvalid(w, "Argument Validation Error", "id must be a UUID.")
	case !linearNameRE.MatchString(in["issueId"]) || strings.HasPrefix(in["issueId"], "GONE-") || strings.HasPrefix(in["issueId"], "00000000-"):
		linearInvalid(w, "Entity not found: Issue", "Could not find referenced Issue.")
	case taken:
		linearInvalid(w, "conflict on insert of Comment", "Entity Comment with id "+in["id"]+" already exists.")
	default:
		e := l.write(VendorEffect{ID: in["id"], Kind: "comment", Target: in["issueId"], Text: in["body"]})
		vendorJSON(w, http.StatusOK, map[string]any{"data": map[string]any{"commentCreate": map[string]any{"success": true, "comment": l.show(e)}}})
	}
}

func (l linearAPI) update(w http.ResponseWriter, variables map[string]any) {
	in, ok := linearInput(variables, "body")
	id, isText := variables["id"].(string)
	if !ok || !isText || in["body"] == "" {
		linearInvalid(w, "Argument Validation Error", "body should not be empty.")
		return
	}
	e, there := l.rewrite(id, in["body"])
	if !there {
		linearInvalid(w, "Entity not found: Comment", "Could not find referenced Comment.")
		return
	}
	vendorJSON(w, http.StatusOK, map[string]any{"data": map[string]any{"commentUpdate": map[string]any{"success": true, "comment": l.show(e)}}})
}

// comments answers a filter by the id.
func (l linearAPI) comments(w http.ResponseWriter, variables map[string]any) {
	id, isText := variables["id"].(string)
	nodes := []map[string]any{}
	e, there := l.has(id)
	if isText && there && !slices.ContainsFunc(l.hidden(), func(h string) bool { return h == id }) {
		nodes = append(nodes, l.show(e))
	}
	vendorJSON(w, http.StatusOK, map[string]any{"data": map[string]any{"comments": map[string]any{"nodes": nodes}}})
}

// hidden are the ids of what those who read do not see, or not yet.
func (l linearAPI) hidden() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.effects {
		if e.More[vendorHidden] != "" || e.At.After(l.now().Add(-l.lag)) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}
