package source

import (
	"encoding/json"
	"strings"
	"time"
)

const (
	bitbucketEvent     = "X-Event-Key"
	bitbucketCloudID   = "X-Request-UUID"
	bitbucketServerID  = "X-Request-Id"
	bitbucketLayout    = "2006-01-02T15:04:05-0700" // how Data Center writes the date of an event
	bitbucketServerRef = "refId"
)

// bitbucket is Bitbucket Cloud, and Bitbucket Data Center and Server, which sign alike and name things otherwise.
var bitbucket = Source{
	Name:       "bitbucket",
	Title:      "Bitbucket",
	Docs:       "https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/",
	SecretFrom: SecretFromEither,
	Setup: "In the repository (in Data Center also in the project), Repository settings, Webhooks, add a webhook with the URL {url} and the " +
		"secret {secret}, and choose the triggers you want.",
	Signs: "HMAC-SHA256 in hex over the raw body, in X-Hub-Signature as sha256=<hex>.",
	Order: "updated_on of a pull request or issue, and the date of the event from Data Center; a push has only the time of its commit.",
	Notes: []string{
		"The id and the event's name are headers, which are not signed; the name is taken from the signed body where Data Center repeats it.",
		"Data Center's id is X-Request-Id: a proxy in front that writes this header itself must be told to leave it.",
		"The test of a connection in Data Center (diagnostics:ping) may come unsigned, and is refused then.",
		"A push of several branches or tags at once is about the repository; of a forced push no time is known, since its commit may be an old one.",
	},
	Window:     untimed,
	BodySigned: always,
	IDSigned:   never, // the request id is a header
	Retries: "Cloud tries again a few times, with the same X-Request-UUID and a growing X-Attempt-Number; the schedule is not published. Data " +
		"Center skips a webhook that keeps failing, for up to 10 hours.",
	BodyMax: 4 << 20, // Cloud sends at most 256 KB; for Data Center no cap is published

	Verify:      hubVerify,
	Events:      bitbucketEvents,
	Samples:     bitbucketSamples,
	Sign:        bitbucketSign,
	NewSecret:   newHexSecret,
	CheckSecret: checkPlainSecret,
}

func bitbucketSign(in SignInput) (Signed, error) { return hubSign(in, bitbucketCloudID) }

func bitbucketEvents(r Request, _ Settings) ([]Event, error) {
	name := bitbucketCloudID
	if len(r.Header.Values(bitbucketCloudID)) == 0 {
		name = bitbucketServerID
	}
	id, err := idHeader(r.Header, name)
	if err != nil {
		return nil, err
	}
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("eventKey")
	if kind == "" {
		if kind, err = header(r.Header, bitbucketEvent, ReasonTypeMissing, ReasonTypeMissing); err != nil {
			return nil, err
		}
	}
	about, at := bitbucketSubject(doc)
	return []Event{{ID: id, Type: kind, OccurredAt: at, Entity: about}}, nil
}

// bitbucketSubject finds what an event is about and when it happened. Pull requests and issues are numbered per repository;
// a comment or an approval is about the whole it belongs to.
func bitbucketSubject(doc object) (about string, at time.Time) {
	repository := bitbucketRepository(doc.in("repository"))
	at = doc.timeAs("date", bitbucketLayout, time.RFC3339Nano)
	if at.IsZero() {
		at = bitbucketTime(doc)
	}
	switch {
	case doc.in("pullrequest") != nil:
		about = entity("pull_request", repository, doc.in("pullrequest").id("id"))
	case doc.in("pullRequest") != nil:
		request := doc.in("pullRequest")
		about = entity("pull_request", bitbucketRepository(request.within("toRef", "repository")), request.id("id"))
	case doc.in("issue") != nil:
		about = entity("issue", repository, doc.in("issue").id("id"))
	case doc.in("push") != nil, doc["changes"] != nil:
		var moved time.Time
		if about, moved = bitbucketPush(doc, repository); at.IsZero() {
			at = moved
		}
	default:
		about = entity("commit", bitbucketCommit(doc))
	}
	if about == "" {
		about = entity("repository", repository)
	}
	return about, at
}

// bitbucketRepository is the id of a repository: Cloud's uuid, or Data Center's number.
func bitbucketRepository(repository object) string {
	if id := repository.text("uuid"); id != "" {
		return id
	}
	return repository.id("id")
}

// bitbucketCommit is the commit that a comment or a build's status is about.
func bitbucketCommit(doc object) string {
	if hash := doc.text("commit"); hash != "" { // Data Center
		return hash
	}
	if hash := doc.in("commit").text("hash"); hash != "" {
		return hash
	}
	status := doc.in("commit_status")
	if hash := status.in("commit").text("hash"); hash != "" {
		return hash
	}
	_, hash, _ := strings.Cut(status.within("links", "commit").text("href"), "/commit/")
	return hash
}

// bitbucketTime is the latest time at which one of the objects of a delivery from Cloud changed.
func bitbucketTime(doc object) time.Time {
	var at time.Time
	for _, name := range []string{"pullrequest", "issue", "comment", "commit_status"} {
		at = latest(at, doc.in(name).time("updated_on"))
	}
	for _, name := range []string{"approval", "changes_request"} {
		at = latest(at, doc.in(name).time("date"))
	}
	return at
}

// bitbucketPush is about the one ref that was moved, and about nothing narrower than the repository if there are several.
func bitbucketPush(doc object, repository string) (about string, at time.Time) {
	raw := doc["changes"]
	if push := doc.in("push"); push != nil {
		raw = push["changes"]
	}
	var changes []json.RawMessage
	if json.Unmarshal(raw, &changes) != nil || len(changes) != 1 || !isObject(changes[0]) {
		return "", time.Time{}
	}
	change := members(changes[0])
	if ref := change.text(bitbucketServerRef); ref != "" {
		return entity("ref", repository, ref), time.Time{}
	}
	moved := change.in("new")
	if string(change["forced"]) != "true" {
		at = moved.in("target").time("date")
	}
	if moved == nil { // a ref was deleted
		moved = change.in("old")
	}
	kinds := map[string]string{"branch": "refs/heads/", "tag": "refs/tags/"}
	prefix, known := kinds[moved.text("type")]
	if name := moved.text("name"); known && name != "" {
		return entity("ref", repository, prefix+name), at
	}
	return "", at
}
