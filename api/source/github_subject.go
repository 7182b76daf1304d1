package source

import (
	"cmp"
	"slices"
	"time"
)

// githubAbout says which object of a payload an event is about, and which object has just changed, where that is another.
type githubAbout struct {
	entity  string // the field with the object
	kind    string // the kind of entity, where it is not the field's name
	changed string // the field with the object whose times are the event's, besides the entity's own
}

// githubAbouts has the events whose entity is not the field of the event's own name. An event of a part (a comment, a
// review) is about the whole, so that the order per entity holds over both.
var githubAbouts = map[string]githubAbout{
	"branch_protection_rule":      {entity: "rule", kind: "branch_protection_rule"},
	"deployment_status":           {entity: "deployment", changed: "deployment_status"},
	"discussion_comment":          {entity: "discussion", changed: "comment"},
	"installation_repositories":   {entity: "installation"},
	"installation_target":         {entity: "installation"},
	"issue_comment":               {entity: "issue", changed: "comment"},
	"issues":                      {entity: "issue"},
	"ping":                        {entity: "hook"},
	"pull_request_review":         {entity: "pull_request", changed: "review"},
	"pull_request_review_comment": {entity: "pull_request", changed: "comment"},
	"pull_request_review_thread":  {entity: "pull_request"},
	"team_add":                    {entity: "team"},
}

// githubAlerts are numbered per repository, and have no id of their own.
var githubAlerts = map[string]bool{
	"code_scanning_alert":            true,
	"dependabot_alert":               true,
	"repository_vulnerability_alert": true,
	"secret_scanning_alert":          true,
}

// githubTenants are the wider objects an event may be about if it names nothing narrower. Their times are not the event's.
var githubTenants = []string{"repository", "organization", "installation"}

// githubTimes are the fields that say when an object last changed. GitHub has no common one, and none of them lies after
// the event, so the latest is the nearest to it.
var githubTimes = []string{"updated_at", "completed_at", "submitted_at", "published_at", "started_at"}

// githubBirths are the actions that happen when an object is made, so that its created_at is a time of the event.
var githubBirths = []string{"", "create", "created", "opened"}

// githubSubject finds what an event is about and when it happened.
func githubSubject(name string, doc object) (about string, at time.Time) {
	action := doc.text("action")
	switch {
	case name == "push" || name == "create" || name == "delete":
		return githubRef(name, doc)
	case name == "status":
		return entity("commit", doc.text("sha")), githubTime(doc, action)
	case name == "commit_comment":
		comment := doc.in("comment")
		return entity("commit", comment.text("commit_id")), githubTime(comment, action)
	case githubAlerts[name]:
		alert := doc.in("alert")
		return entity(name, doc.in("repository").id("id"), alert.id("number")), githubTime(alert, action)
	}
	where, listed := githubAbouts[name]
	if !listed {
		where.entity = name
	}
	whole := doc.in(where.entity)
	about, at = entity(cmp.Or(where.kind, where.entity), whole.id("id")), githubTime(whole, action)
	if where.changed != "" {
		at = latest(at, githubTime(doc.in(where.changed), action))
	}
	if name == "ping" && about == "" {
		about = entity("hook", doc.id("hook_id"))
	}
	for i := 0; about == "" && i < len(githubTenants); i++ {
		about = entity(githubTenants[i], doc.in(githubTenants[i]).id("id"))
	}
	return about, at
}

// githubRef is about a branch or tag of a repository. A push has its time in repository.pushed_at, which GitHub sets; the
// commit's own time is the author's clock, and serves only where that is absent.
func githubRef(name string, doc object) (about string, at time.Time) {
	ref, repository := doc.text("ref"), doc.in("repository")
	if name == "push" {
		at = repository.time("pushed_at")
		if at.IsZero() {
			at = doc.in("head_commit").time("timestamp")
		}
		return entity("ref", repository.id("id"), ref), at
	}
	if ref == "" { // the creation of the repository itself
		return entity("repository", repository.id("id")), time.Time{}
	}
	switch doc.text("ref_type") {
	case "branch":
		ref = "refs/heads/" + ref
	case "tag":
		ref = "refs/tags/" + ref
	}
	return entity("ref", repository.id("id"), ref), time.Time{}
}

func githubTime(o object, action string) time.Time {
	var at time.Time
	for _, field := range githubTimes {
		at = latest(at, o.time(field))
	}
	if slices.Contains(githubBirths, action) {
		at = latest(at, o.time("created_at"))
	}
	return at
}
