package source

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

const (
	hubSignature   = "X-Hub-Signature"
	hubPrefix      = "sha256="
	jiraIdentifier = "X-Atlassian-Webhook-Identifier"
)

// jira is Jira's webhooks made by an administrator, of Jira Cloud and of Jira Data Center.
var jira = Source{
	Name:       "jira",
	Title:      "Jira",
	Docs:       "https://developer.atlassian.com/cloud/jira/platform/webhooks/",
	SecretFrom: SecretFromEither,
	Setup: "In Jira, Settings, System, WebHooks (for administrators), create a webhook with the URL {url}, the secret {secret} and the events " +
		"you want, and leave \"exclude body\" off.",
	Signs: "HMAC-SHA256 in hex over the raw body, in X-Hub-Signature as <method>=<hex>; of the methods only sha256 is accepted.",
	Order: "timestamp, in milliseconds, and changelog.id where an issue was updated.",
	Notes: []string{
		"The header names its method of hashing, as WebSub has it; any other than sha256 is refused, so that nobody can choose a weaker one.",
		"The id is the header X-Atlassian-Webhook-Identifier, which is not signed; where it is absent the id is made of the body.",
		"Webhooks that an app registers by OAuth or Connect may come unsigned (what is published disagrees); such deliveries are refused.",
		"That changelog.id grows with each change of an issue is not published; it decides only between changes of one millisecond.",
	},
	Window:     untimed,
	BodySigned: always,
	IDSigned:   never, // the identifier is a header
	Retries:    "Up to 5 times on 408, 409, 425, 429, 5xx, a refused connection or a timeout; the identifier stays the same.",
	BodyMax:    4 << 20, // no cap is published; an issue with all its comments passes the usual 1 MiB

	Verify:      hubVerify,
	Events:      jiraEvents,
	Samples:     jiraSamples,
	Sign:        jiraSign,
	NewSecret:   newHexSecret,
	CheckSecret: checkPlainSecret,
}

// hubVerify is the scheme of Atlassian's products: "<method>=<hex>" in X-Hub-Signature, with sha256 as the only method.
func hubVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, hubSignature)
	if err != nil {
		return -1, err
	}
	digits, found := strings.CutPrefix(value, hubPrefix)
	mac, ok := decodeHex(digits, sha256.Size)
	if !found || !ok {
		return -1, refuse(ReasonSignatureMalformed, "header "+hubSignature+" must be "+hubPrefix+" and 64 hex digits")
	}
	return matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, r.Body)
}

// hubSign signs a body by the scheme of hubVerify, with an id in the header of that name.
func hubSign(in SignInput, idHeader string) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set(idHeader, in.ID)
	h.Set(hubSignature, hubPrefix+hex.EncodeToString(sum(sha256.New, []byte(in.Secret), in.Body)))
	return Signed{h, in.Body}, nil
}

func jiraSign(in SignInput) (Signed, error) { return hubSign(in, jiraIdentifier) }

func jiraEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	id := digest(r.Body)
	if len(r.Header.Values(jiraIdentifier)) > 0 {
		if id, err = idHeader(r.Header, jiraIdentifier); err != nil {
			return nil, err
		}
	}
	kind := doc.text("webhookEvent")
	about, at := jiraSubject(kind, doc), doc.millis("timestamp")
	if at.IsZero() {
		at = jiraTime(doc)
	}
	return []Event{{ID: id, Type: kind, OccurredAt: at, Entity: about, Sequence: doc.in("changelog").sequence("id")}}, nil
}

// jiraLayout is how Jira writes the times of fields: the zone has no colon.
const jiraLayout = "2006-01-02T15:04:05.999-0700"

// jiraTime is when the issue or comment last changed, for deliveries without a time of their own.
func jiraTime(doc object) time.Time {
	return latest(doc.within("issue", "fields").timeAs("updated", jiraLayout), doc.in("comment").timeAs("updated", jiraLayout))
}

// jiraIssuePath finds the id of the issue in the address of one of its parts.
var jiraIssuePath = regexp.MustCompile(`/issue/(\d+)/(?:comment|worklog)/`)

// jiraAbouts are the things an event may be about if it is not about an issue: the field and the kind.
var jiraAbouts = []struct{ field, kind string }{
	{"issueLink", "issue_link"},
	{"attachment", "attachment"},
	{"sprint", "sprint"},
	{"version", "version"},
	{"board", "board"},
	{"project", "project"},
}

// jiraSubject is what an event is about: the issue, also for its comments and worklogs, of which some come without the
// issue itself.
func jiraSubject(kind string, doc object) string {
	if id := doc.in("issue").id("id"); id != "" {
		return entity("issue", id)
	}
	if id := doc.in("worklog").id("issueId"); id != "" {
		return entity("issue", id)
	}
	for _, part := range []string{"comment", "worklog"} {
		if found := jiraIssuePath.FindStringSubmatch(doc.in(part).text("self")); found != nil {
			return entity("issue", found[1])
		}
	}
	for _, about := range jiraAbouts {
		if id := doc.in(about.field).id("id"); id != "" {
			return entity(about.kind, id)
		}
	}
	if user := doc.in("user"); strings.HasPrefix(kind, "user_") { // in other events the user is who did it
		if id := user.id("accountId"); id != "" {
			return entity("user", id)
		}
		return entity("user", user.id("key"))
	}
	return ""
}

const (
	jiraSampleIssue = `{
    "id": "$NUMBER",
    "self": "https://acme-sample.atlassian.net/rest/api/2/issue/$NUMBER",
    "key": "HELP-42",
    "fields": {
      "summary": "Export to CSV loses the last row",
      "description": "The file has 99 rows instead of 100. Version 2.4.1, Firefox on Linux.",
      "issuetype": {"id": "10004", "name": "Bug", "subtask": false},
      "project": {"id": "10000", "key": "HELP", "name": "Help desk"},
      "priority": {"id": "2", "name": "High"},
      "status": {"id": "3", "name": "In progress"},
      "labels": ["export"],
      "created": "2026-01-15T09:30:00.000+0000"
    }
  }`
	jiraSampleUser = `{"accountId": "sample:0001", "accountType": "atlassian", "displayName": "Sample User", "active": true}`
)

var jiraSamples = []Sample{
	{Type: "comment_created", Body: sampleBody(`
{
  "timestamp": $UNIX000,
  "webhookEvent": "comment_created",
  "comment": {
    "self": "https://acme-sample.atlassian.net/rest/api/2/issue/$NUMBER/comment/10019",
    "id": "10019",
    "author": ` + jiraSampleUser + `,
    "updateAuthor": ` + jiraSampleUser + `,
    "body": "It also happens with ten rows. Is there a way around it?",
    "created": "2026-01-15T09:30:00.000+0000",
    "updated": "2026-01-15T09:30:00.000+0000",
    "jsdPublic": true
  },
  "issue": ` + jiraSampleIssue + `,
  "eventType": "primaryAction"
}`)},
	{Type: "jira:issue_updated", Body: sampleBody(`
{
  "timestamp": $UNIX000,
  "webhookEvent": "jira:issue_updated",
  "issue_event_type_name": "issue_generic",
  "user": ` + jiraSampleUser + `,
  "issue": ` + jiraSampleIssue + `,
  "changelog": {
    "id": "10225",
    "items": [{"field": "status", "fieldtype": "jira", "fieldId": "status", "from": "1", "fromString": "Open", "to": "3", "toString": "In progress"}]
  }
}`)},
}
