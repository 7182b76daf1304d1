package source

import "net/http"

const (
	gitlabSampleUser    = `{"id": 500001, "name": "Sample User", "username": "sample-user", "avatar_url": null, "email": "[REDACTED]"}`
	gitlabSampleProject = `{
    "id": 700001,
    "name": "Rocket",
    "web_url": "https://gitlab.com/acme-sample/rocket",
    "namespace": "acme-sample",
    "visibility_level": 0,
    "path_with_namespace": "acme-sample/rocket",
    "default_branch": "main"
  }`
)

var gitlabSamples = []Sample{
	{Type: "issue.open", Header: gitlabSampleHeader("Issue Hook"), Body: sampleBody(`
{
  "object_kind": "issue",
  "event_type": "issue",
  "user": ` + gitlabSampleUser + `,
  "project": ` + gitlabSampleProject + `,
  "object_attributes": {
    "id": $NUMBER,
    "iid": 42,
    "title": "Export to CSV loses the last row",
    "description": "1. Make a list of 100 rows.\n2. Export it to CSV.\n\nThe file has 99 rows.",
    "author_id": 500001,
    "project_id": 700001,
    "state": "opened",
    "severity": "unknown",
    "confidential": false,
    "created_at": "$AT",
    "updated_at": "$AT",
    "url": "https://gitlab.com/acme-sample/rocket/-/issues/42",
    "action": "open"
  },
  "labels": [],
  "changes": {}
}`)},
	{Type: "merge_request.open", Header: gitlabSampleHeader("Merge Request Hook"), Body: sampleBody(`
{
  "object_kind": "merge_request",
  "event_type": "merge_request",
  "user": ` + gitlabSampleUser + `,
  "project": ` + gitlabSampleProject + `,
  "object_attributes": {
    "id": $NUMBER,
    "iid": 43,
    "title": "Write the last row before closing the file",
    "description": "The writer was closed before it was flushed.",
    "source_branch": "flush-csv",
    "target_branch": "main",
    "source_project_id": 700001,
    "target_project_id": 700001,
    "author_id": 500001,
    "state": "opened",
    "draft": false,
    "detailed_merge_status": "checking",
    "created_at": "$AT",
    "updated_at": "$AT",
    "last_commit": {"id": "0123456789abcdef0123456789abcdef01234567", "title": "Write the last row", "timestamp": "2026-01-15T09:30:00+00:00"},
    "url": "https://gitlab.com/acme-sample/rocket/-/merge_requests/43",
    "action": "open"
  },
  "labels": [],
  "changes": {}
}`)},
	{Type: "note.create", Header: gitlabSampleHeader("Note Hook"), Body: sampleBody(`
{
  "object_kind": "note",
  "event_type": "note",
  "user": ` + gitlabSampleUser + `,
  "project_id": 700001,
  "project": ` + gitlabSampleProject + `,
  "object_attributes": {
    "id": 900001,
    "note": "It also happens with ten rows. Is there a way around it?",
    "noteable_type": "Issue",
    "noteable_id": $NUMBER,
    "author_id": 500001,
    "project_id": 700001,
    "system": false,
    "created_at": "$AT",
    "updated_at": "$AT",
    "url": "https://gitlab.com/acme-sample/rocket/-/issues/42#note_900001",
    "action": "create"
  },
  "issue": {"id": $NUMBER, "iid": 42, "title": "Export to CSV loses the last row", "state": "opened"}
}`)},
}

func gitlabSampleHeader(event string) http.Header {
	return http.Header{gitlabEvent: {event}, "X-Gitlab-Instance": {"https://gitlab.com"}}
}
