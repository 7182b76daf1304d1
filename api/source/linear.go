package source

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	linearSignature = "Linear-Signature"
	linearDelivery  = "Linear-Delivery"
	linearEvent     = "Linear-Event"
	linearTimestamp = "webhookTimestamp" // a field of the body

	// linearReplayWindow is what Linear's own library allows, to both sides.
	linearReplayWindow = time.Minute
	linearWindowMin    = 30 * time.Second
	linearWindowMax    = 24 * time.Hour
)

// linear is Linear's webhooks, of a workspace or of an OAuth application.
var linear = Source{
	Name:       "linear",
	Title:      "Linear",
	Docs:       "https://linear.app/developers/webhooks",
	SecretFrom: SecretFromSource,
	Setup: "In Linear, Settings, API, Webhooks, add a webhook with the URL {url} and the data change events you want. Then open it and copy " +
		"its signing secret (lin_wh_...) here.",
	Signs: "HMAC-SHA256 in hex over the raw body, in Linear-Signature; the signed time is webhookTimestamp in the body.",
	Order: "createdAt, the time of the change, in milliseconds; Linear says nothing of the order of deliveries.",
	Settings: []Setting{{
		Name: "window_seconds",
		Help: "How old webhookTimestamp may be, in seconds, from 30 to 86400; 60 if left out, as in Linear's library. Raise it if retries are refused as stale.",
	}},
	Notes: []string{
		"Whether webhookTimestamp is new with every retry (after 1 minute, 1 hour and 6 hours) is not published; if it is not, the window of " +
			"60 seconds refuses retries, and window_seconds has to be raised.",
		"The id is the header Linear-Delivery, which is not signed; the webhookId of the body is that of the webhook, not of the event.",
	},
	Window:       linearWindow,
	BodySigned:   always,
	IDSigned:     never,           // the delivery id is a header
	AnswerWithin: 5 * time.Second, // with exactly 200
	Retries:      "3 times, after 1 minute, 1 hour and 6 hours; a webhook that keeps failing may be disabled.",
	BodyMax:      1 << 20,

	Verify:        linearVerify,
	Events:        linearEvents,
	Samples:       linearSamples,
	Sign:          linearSign,
	CheckSecret:   checkPlainSecret,
	ParseSettings: linearParseSettings,
}

// linearSettings are the settings of an endpoint.
type linearSettings struct{ past time.Duration }

// linearWindow is the window of the settings. They widen the past only: what lies in the future is a wrong clock, not a retry.
func linearWindow(s Settings) Window {
	past := linearReplayWindow
	if set, ok := s.(*linearSettings); ok {
		past = set.past
	}
	return Window{Past: past, Future: min(past, linearReplayWindow)}
}

func linearParseSettings(raw json.RawMessage) (Settings, []Fault) {
	const name = "window_seconds"
	set := &linearSettings{}
	return parsed(raw, set, func(in *settingReader) {
		set.past = in.seconds(name, linearReplayWindow, linearWindowMax)
		if set.past < linearWindowMin {
			in.fault(name, fmt.Sprintf("must be at least %d", int(linearWindowMin.Seconds())))
		}
	})
}

func linearVerify(r Request, secrets []string, s Settings) (int, error) {
	value, err := signatureHeader(r.Header, linearSignature)
	if err != nil {
		return -1, err
	}
	mac, ok := decodeHex(value, sha256.Size)
	if !ok {
		return -1, refuse(ReasonSignatureMalformed, "header "+linearSignature+" must be 64 hex digits")
	}
	matched, err := matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, r.Body)
	if err != nil {
		return -1, err
	}
	doc, err := parseObject(r.Body)
	if err != nil {
		return -1, err
	}
	if len(doc[linearTimestamp]) == 0 {
		return -1, refuse(ReasonTimestampMissing, "the body has no "+linearTimestamp)
	}
	signed, err := parseTimestamp(string(doc[linearTimestamp]), time.Millisecond)
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, linearWindow(s))
}

func linearEvents(r Request, _ Settings) ([]Event, error) {
	id, err := idHeader(r.Header, linearDelivery)
	if err != nil {
		return nil, err
	}
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("type")
	event := Event{ID: id, Type: kind, OccurredAt: doc.time("createdAt"), Entity: linearSubject(kind, doc)}
	if action := doc.text("action"); action != "" {
		event.Type += "." + action
	}
	if event.OccurredAt.IsZero() {
		event.OccurredAt = doc.in("data").time("updatedAt")
	}
	return []Event{event}, nil
}

// linearWholes are what a part may belong to, by the field of the part that names it.
var linearWholes = []struct{ field, kind string }{
	{"issueId", "issue"},
	{"projectUpdateId", "project_update"},
	{"initiativeUpdateId", "initiative_update"},
	{"documentId", "document"},
	{"commentId", "comment"},
}

// linearParts are the kinds that are parts of a whole.
var linearParts = map[string]bool{"Attachment": true, "Comment": true, "Reaction": true}

// linearSubject is what an event is about: for a comment and the like the issue, or whatever else they stand under.
func linearSubject(kind string, doc object) string {
	switch kind {
	case "AgentSessionEvent":
		session := doc.in("agentSession")
		if about := entity("issue", session.in("issue").id("id")); about != "" {
			return about
		}
		return entity("agent_session", session.id("id"))
	case "AppUserNotification":
		return entity("issue", doc.in("notification").id("issueId"))
	case "IssueSLA":
		return entity("issue", doc.in("issueData").id("id"))
	}
	data := doc.in("data")
	if linearParts[kind] {
		for _, whole := range linearWholes {
			if about := entity(whole.kind, data.id(whole.field)); about != "" {
				return about
			}
		}
	}
	return entity(linearKind(kind), data.id("id"))
}

// linearKind writes a type as the other sources write kinds: "ProjectUpdate" is "project_update".
func linearKind(name string) string {
	var b strings.Builder
	for i, r := range name {
		if upper := r >= 'A' && r <= 'Z'; upper && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// linearSentAt finds the signed time in a body.
var linearSentAt = regexp.MustCompile(`("` + linearTimestamp + `"\s*:\s*)\d+`)

// linearSign sets the signed time, which stands inside the body, to the time of signing.
func linearSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	body := linearSentAt.ReplaceAll(in.Body, []byte("${1}"+strconv.FormatInt(in.At.UnixMilli(), 10)))
	h := signedHeader(in)
	h.Set(linearDelivery, in.ID)
	h.Set(linearSignature, hex.EncodeToString(sum(sha256.New, []byte(in.Secret), body)))
	return Signed{h, body}, nil
}

const linearSampleActor = `{"id": "7c5e2f60-0000-4000-8000-000000000001", "name": "Sample User", "email": "sample.user@example.com", "type": "user"}`

var linearSamples = []Sample{
	{Type: "Comment.create", Header: linearSampleHeader("Comment"), Body: sampleBody(`
{
  "action": "create",
  "actor": ` + linearSampleActor + `,
  "createdAt": "$AT",
  "data": {
    "id": "c$NUMBER",
    "createdAt": "$AT",
    "updatedAt": "$AT",
    "body": "It also happens with ten rows. Is there a way around it?",
    "issueId": "i$NUMBER",
    "userId": "7c5e2f60-0000-4000-8000-000000000001",
    "issue": {"id": "i$NUMBER", "identifier": "ENG-42", "title": "Export to CSV loses the last row"}
  },
  "url": "https://linear.app/acme-sample/issue/ENG-42#comment-sample",
  "type": "Comment",
  "organizationId": "7c5e2f60-0000-4000-8000-000000000002",
  "webhookTimestamp": $UNIX000,
  "webhookId": "7c5e2f60-0000-4000-8000-000000000003"
}`)},
	{Type: "Issue.create", Header: linearSampleHeader("Issue"), Body: sampleBody(`
{
  "action": "create",
  "actor": ` + linearSampleActor + `,
  "createdAt": "$AT",
  "data": {
    "id": "i$NUMBER",
    "createdAt": "$AT",
    "updatedAt": "$AT",
    "number": 42,
    "identifier": "ENG-42",
    "title": "Export to CSV loses the last row",
    "description": "1. Make a list of 100 rows.\n2. Export it to CSV.\n\nThe file has 99 rows.",
    "priority": 2,
    "priorityLabel": "High",
    "labelIds": [],
    "teamId": "7c5e2f60-0000-4000-8000-000000000004",
    "state": {"id": "7c5e2f60-0000-4000-8000-000000000005", "name": "Triage", "type": "triage"},
    "team": {"id": "7c5e2f60-0000-4000-8000-000000000004", "key": "ENG", "name": "Engineering"}
  },
  "url": "https://linear.app/acme-sample/issue/ENG-42",
  "type": "Issue",
  "organizationId": "7c5e2f60-0000-4000-8000-000000000002",
  "webhookTimestamp": $UNIX000,
  "webhookId": "7c5e2f60-0000-4000-8000-000000000003"
}`)},
}

func linearSampleHeader(event string) http.Header { return http.Header{linearEvent: {event}} }
