package source

import "net/http"

const (
	bitbucketSampleUser       = `{"type": "user", "nickname": "sample-user", "display_name": "Sample User", "uuid": "{00000000-0000-4000-8000-000000000001}"}`
	bitbucketSampleRepository = `{
    "type": "repository",
    "uuid": "{00000000-0000-4000-8000-000000000002}",
    "full_name": "acme-sample/rocket",
    "name": "rocket",
    "is_private": true,
    "links": {"html": {"href": "https://bitbucket.org/acme-sample/rocket"}}
  }`
	bitbucketSampleRequest = `{
    "type": "pullrequest",
    "id": $NUMBER,
    "title": "Write the last row before closing the file",
    "description": "The writer was closed before it was flushed.",
    "state": "OPEN",
    "author": ` + bitbucketSampleUser + `,
    "source": {"branch": {"name": "flush-csv"}, "commit": {"hash": "0123456789ab"}},
    "destination": {"branch": {"name": "main"}, "commit": {"hash": "89abcdef0123"}},
    "comment_count": 1,
    "created_on": "2026-01-15T09:30:00.000000+00:00",
    "updated_on": "$AT",
    "links": {"html": {"href": "https://bitbucket.org/acme-sample/rocket/pull-requests/$NUMBER"}}
  }`
)

var bitbucketSamples = []Sample{
	{Type: "pullrequest:comment_created", Header: bitbucketSampleHeader("pullrequest:comment_created"), Body: sampleBody(`
{
  "actor": ` + bitbucketSampleUser + `,
  "pullrequest": ` + bitbucketSampleRequest + `,
  "comment": {
    "id": 170001,
    "content": {"raw": "Does this also hold for an empty list?", "markup": "markdown"},
    "created_on": "$AT",
    "updated_on": "$AT",
    "user": ` + bitbucketSampleUser + `
  },
  "repository": ` + bitbucketSampleRepository + `
}`)},
	{Type: "pullrequest:created", Header: bitbucketSampleHeader("pullrequest:created"), Body: sampleBody(`
{
  "actor": ` + bitbucketSampleUser + `,
  "pullrequest": ` + bitbucketSampleRequest + `,
  "repository": ` + bitbucketSampleRepository + `
}`)},
	{Type: "repo:push", Header: bitbucketSampleHeader("repo:push"), Body: sampleBody(`
{
  "actor": ` + bitbucketSampleUser + `,
  "push": {
    "changes": [{
      "old": {"type": "branch", "name": "main", "target": {"type": "commit", "hash": "89abcdef0123456789abcdef0123456789abcdef"}},
      "new": {"type": "branch", "name": "main", "target": {"type": "commit", "hash": "0123456789abcdef0123456789abcdef01234567", "date": "$AT",
        "message": "Write the last row before closing the file ($NUMBER)\n"}},
      "created": false,
      "closed": false,
      "forced": false
    }]
  },
  "repository": ` + bitbucketSampleRepository + `
}`)},
}

func bitbucketSampleHeader(event string) http.Header {
	return http.Header{bitbucketEvent: {event}, "X-Attempt-Number": {"1"}}
}
