package source

import "net/http"

// The parts that the samples share.
const (
	githubSampleRepository = `{
    "id": 700000001,
    "node_id": "R_sample",
    "name": "rocket",
    "full_name": "acme-sample/rocket",
    "private": false,
    "owner": {"login": "acme-sample", "id": 600000001, "type": "Organization"},
    "html_url": "https://github.com/acme-sample/rocket",
    "default_branch": "main"
  }`
	githubSampleUser  = `{"login": "sample-user", "id": 500000001, "type": "User", "html_url": "https://github.com/sample-user"}`
	githubSampleIssue = `{
    "id": $NUMBER,
    "node_id": "I_sample",
    "number": 1347,
    "title": "Export to CSV loses the last row",
    "user": ` + githubSampleUser + `,
    "labels": [{"id": 400000001, "name": "bug", "color": "d73a4a"}],
    "state": "open",
    "locked": false,
    "comments": 0,
    "created_at": "$AT",
    "updated_at": "$AT",
    "closed_at": null,
    "author_association": "NONE",
    "html_url": "https://github.com/acme-sample/rocket/issues/1347",
    "body": "1. Make a list of 100 rows.\n2. Export it to CSV.\n\nThe file has 99 rows. Version 2.4.1, Firefox on Linux."
  }`
)

var githubSamples = []Sample{
	{Type: "issue_comment.created", Header: githubSampleHeader("issue_comment"), Body: sampleBody(`
{
  "action": "created",
  "issue": ` + githubSampleIssue + `,
  "comment": {
    "id": $NUMBER,
    "node_id": "IC_sample",
    "user": ` + githubSampleUser + `,
    "created_at": "$AT",
    "updated_at": "$AT",
    "author_association": "NONE",
    "html_url": "https://github.com/acme-sample/rocket/issues/1347#issuecomment-$NUMBER",
    "body": "It also happens with 10 rows. Is there a way around it?"
  },
  "repository": ` + githubSampleRepository + `,
  "sender": ` + githubSampleUser + `
}`)},
	{Type: "issues.opened", Header: githubSampleHeader("issues"), Body: sampleBody(`
{
  "action": "opened",
  "issue": ` + githubSampleIssue + `,
  "repository": ` + githubSampleRepository + `,
  "sender": ` + githubSampleUser + `
}`)},
	{Type: "ping", Header: githubSampleHeader("ping"), Body: sampleBody(`
{
  "zen": "Keep it logically awesome.",
  "hook_id": $NUMBER,
  "hook": {
    "type": "Repository",
    "id": $NUMBER,
    "name": "web",
    "active": true,
    "events": ["issues", "issue_comment", "pull_request"],
    "config": {"content_type": "json", "insecure_ssl": "0"},
    "created_at": "$AT",
    "updated_at": "$AT"
  },
  "repository": ` + githubSampleRepository + `,
  "sender": ` + githubSampleUser + `
}`)},
	{Type: "pull_request.opened", Header: githubSampleHeader("pull_request"), Body: sampleBody(`
{
  "action": "opened",
  "number": 1348,
  "pull_request": {
    "id": $NUMBER,
    "node_id": "PR_sample",
    "number": 1348,
    "state": "open",
    "draft": false,
    "title": "Write the last row before closing the file",
    "user": ` + githubSampleUser + `,
    "body": "The writer was closed before it was flushed. Fixes #1347.",
    "created_at": "$AT",
    "updated_at": "$AT",
    "merged": false,
    "commits": 1,
    "additions": 4,
    "deletions": 1,
    "changed_files": 1,
    "head": {"ref": "flush-csv", "sha": "0123456789abcdef0123456789abcdef01234567"},
    "base": {"ref": "main", "sha": "89abcdef0123456789abcdef0123456789abcdef"},
    "html_url": "https://github.com/acme-sample/rocket/pull/1348"
  },
  "repository": ` + githubSampleRepository + `,
  "sender": ` + githubSampleUser + `
}`)},
}

func githubSampleHeader(event string) http.Header {
	h := http.Header{}
	h.Set(githubEvent, event)
	return h
}
