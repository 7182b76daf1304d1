package source

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// gitlabLayouts are how GitLab writes times, sometimes several ways in one body.
var gitlabLayouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05 UTC", "2006-01-02 15:04:05 -0700"}

// gitlabPayload is what GitLab calls the object of an event.
const gitlabPayload = "object_attributes"

// gitlabKind is the kind of an event by its body; system hooks and those about members have event_name only.
func gitlabKind(doc object) string {
	if kind := doc.text("object_kind"); kind != "" {
		return kind
	}
	return doc.text("event_name")
}

// gitlabAction is what was done to the object, where the body says; "expiring" of an "expiring_access_token".
func gitlabAction(doc object) string {
	if action := doc.in(gitlabPayload).text("action"); action != "" {
		return action
	}
	if action := doc.text("action"); action != "" {
		return action
	}
	action, found := strings.CutSuffix(doc.text("event_name"), "_"+doc.text("object_kind"))
	if !found {
		return ""
	}
	return action
}

// gitlabWholes are the kinds of what a note or an emoji is about, by GitLab's name.
var gitlabWholes = map[string]string{
	"Issue":         "issue",
	"WorkItem":      "issue",
	"MergeRequest":  "merge_request",
	"Snippet":       "snippet",
	"Epic":          "epic",
	"Vulnerability": "vulnerability",
}

// gitlabFlat are the kinds whose id is a field of the body itself.
var gitlabFlat = map[string]string{"build": "build_id", "deployment": "deployment_id", "release": "id"}

// gitlabSubject is what an event is about: for a note or an emoji the issue, merge request, commit or snippet under which it
// stands, for a push the ref.
func gitlabSubject(kind string, doc object) string {
	attributes, project := doc.in(gitlabPayload), gitlabProject(doc)
	var about string
	switch kind {
	case "push", "tag_push":
		about = entity("ref", project, doc.text("ref"))
	case "note":
		about = gitlabWhole(attributes, "noteable", doc)
	case "emoji":
		about = gitlabWhole(attributes, "awardable", doc)
	case "wiki_page":
		about = entity(kind, project, attributes.text("slug"))
	case "work_item": // issues are work items, with the same ids
		about = entity("issue", attributes.id("id"))
	default:
		if field, flat := gitlabFlat[kind]; flat {
			about = entity(kind, doc.id(field))
		} else {
			about = entity(kind, attributes.id("id"))
		}
	}
	for _, wider := range []struct{ kind, id string }{
		{"project", project}, {"group", doc.id("group_id")}, {"group", doc.in("group").id("group_id")}, {"user", doc.id("user_id")},
	} {
		if about == "" {
			about = entity(wider.kind, wider.id)
		}
	}
	return about
}

func gitlabProject(doc object) string {
	if id := doc.in("project").id("id"); id != "" {
		return id
	}
	return doc.id("project_id")
}

// gitlabWhole is what a part belongs to, which the part names by type and id; a commit by its hash.
func gitlabWhole(part object, role string, doc object) string {
	named := part.text(role + "_type")
	if named == "Commit" {
		if hash := part.text("commit_id"); hash != "" {
			return entity("commit", hash)
		}
		return entity("commit", doc.in("commit").text("id"))
	}
	if named == "Note" { // an emoji on a note is about what the note is about
		return gitlabWhole(doc.in("note"), "noteable", doc)
	}
	kind := gitlabWholes[named]
	if id := part.id(role + "_id"); id != "" {
		return entity(kind, id)
	}
	return entity(kind, doc.in(kind).id("id"))
}

// gitlabBirths are the actions of which created_at is the time.
var gitlabBirths = []string{"open", "create"}

// gitlabTime is when the object last changed. What was born long ago and has not changed since has no time of the event.
func gitlabTime(doc object, action string) time.Time {
	attributes := doc.in(gitlabPayload)
	at := latest(
		attributes.timeAs("updated_at", gitlabLayouts...), attributes.timeAs("finished_at", gitlabLayouts...),
		doc.timeAs("updated_at", gitlabLayouts...), doc.timeAs("status_changed_at", gitlabLayouts...),
		doc.timeAs("build_created_at", gitlabLayouts...), doc.timeAs("build_started_at", gitlabLayouts...),
		doc.timeAs("build_finished_at", gitlabLayouts...), gitlabPushed(doc),
	)
	if at.IsZero() && (slices.Contains(gitlabBirths, action) || strings.HasSuffix(doc.text("event_name"), "_create")) {
		at = latest(attributes.timeAs("created_at", gitlabLayouts...), doc.timeAs("created_at", gitlabLayouts...))
	}
	if at.IsZero() && gitlabKind(doc) == "pipeline" {
		at = attributes.timeAs("created_at", gitlabLayouts...)
	}
	return at
}

// gitlabPushed is the latest time of the commits of a push, which are the committers' clocks: GitLab sends no other.
func gitlabPushed(doc object) time.Time {
	var commits []json.RawMessage
	if json.Unmarshal(doc["commits"], &commits) != nil {
		return time.Time{}
	}
	var at time.Time
	for _, commit := range commits {
		if isObject(commit) {
			at = latest(at, members(commit).timeAs("timestamp", gitlabLayouts...))
		}
	}
	return at
}
