package source

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	slackSignature    = "X-Slack-Signature"
	slackTimestamp    = "X-Slack-Request-Timestamp"
	slackVerification = "url_verification"
	slackRateLimited  = "app_rate_limited"
	v0Prefix          = "v0="
)

// slack is Slack's Events API over HTTP. Slash commands and interactive components are signed alike, but want answers that
// show in Slack, and are not read.
var slack = Source{
	Name:       "slack",
	Title:      "Slack",
	Docs:       "https://docs.slack.dev/apis/events-api",
	SecretFrom: SecretFromSource,
	Setup: "First paste the Signing Secret of your Slack app here (api.slack.com/apps, Basic Information). Then, under Event " +
		"Subscriptions, enable events, give the Request URL {url}, which Slack verifies at once, and subscribe to the events you want.",
	Signs: "HMAC-SHA256 in hex over v0, the timestamp and the raw body, joined by colons, in X-Slack-Signature; the key is the " +
		"app's signing secret.",
	Window:       fiveMinutes,
	BodySigned:   always,
	IDSigned:     always, // event_id stands in the body
	AnswerWithin: 3 * time.Second,
	Retries: "3 times: almost at once, after 1 minute and after 5; an app of which more than 95 % of the deliveries of an hour " +
		"fail is switched off. Order is not promised.",
	Order: "event_ts, in microseconds, of the channel.",
	Notes: []string{
		"Only the Events API is read: slash commands and interactive components are refused as malformed.",
		"Where Slack limits an app, its app_rate_limited has no id; one is made of the app, the team and the minute.",
		"A reaction or a pin does not say in which thread its message is, so it is about that message alone.",
	},
	BodyMax: 1 << 20,

	Verify:      slackVerify,
	Handshake:   slackHandshake,
	Events:      slackEvents,
	Samples:     slackSamples,
	Sign:        slackSign,
	CheckSecret: checkPlainSecret,
}

func slackVerify(r Request, secrets []string, _ Settings) (int, error) {
	return v0Verify(r, slackSignature, slackTimestamp, secrets)
}

// v0Verify checks the scheme that Slack and Zoom share: v0= and the HMAC-SHA256 in hex over "v0:", the unix seconds, ":" and
// the raw body.
func v0Verify(r Request, signature, timestamp string, secrets []string) (int, error) {
	value, err := signatureHeader(r.Header, signature)
	if err != nil {
		return -1, err
	}
	at, err := timestampHeader(r.Header, timestamp)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(at, time.Second)
	if err != nil {
		return -1, err
	}
	digits, found := strings.CutPrefix(value, v0Prefix)
	mac, ok := decodeHex(digits, sha256.Size)
	if !found || !ok {
		return -1, refuse(ReasonSignatureMalformed, "header "+signature+" must be "+v0Prefix+" and 64 hex digits")
	}
	matched, err := matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, []byte("v0:"+at+":"), r.Body)
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, fiveMinutes(nil))
}

// v0Sign signs as v0Verify checks.
func v0Sign(in SignInput, signature, timestamp string) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	at := strconv.FormatInt(in.At.Unix(), 10)
	h := signedHeader(in)
	h.Set(timestamp, at)
	h.Set(signature, v0Prefix+hex.EncodeToString(sum(sha256.New, []byte(in.Secret), []byte("v0:"+at+":"), in.Body)))
	return Signed{h, in.Body}, nil
}

func slackSign(in SignInput) (Signed, error) { return v0Sign(in, slackSignature, slackTimestamp) }

// slackHandshake gives the challenge back. It is asked after the signature held, and uses no secret.
func slackHandshake(r Request, _ string, _ Settings) *Answer {
	doc, err := parseObject(r.Body)
	if err != nil || doc.text("type") != slackVerification {
		return nil
	}
	challenge := doc.text("challenge")
	if challenge == "" {
		return nil
	}
	return jsonAnswer(map[string]string{"challenge": challenge})
}

// jsonAnswer is 200 with a JSON object.
func jsonAnswer(fields map[string]string) *Answer {
	body, err := json.Marshal(fields)
	if err != nil { // cannot be: every map of strings marshals
		return nil
	}
	return &Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
}

// slackEvents reads the envelope event_callback with the event in it, and app_rate_limited, which is an event itself.
func slackEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	team := entity("team", doc.text("team_id"))
	if doc.text("type") == slackRateLimited {
		minute := doc.time("minute_rate_limited")
		parts := []string{slackRateLimited, doc.text("api_app_id"), doc.text("team_id"), doc.id("minute_rate_limited")}
		if minute.IsZero() {
			return nil, refuse(ReasonIDMissing, "expected "+slackRateLimited+" with the minute that makes its id")
		}
		return []Event{{ID: derivedID(parts...), Type: slackRateLimited, OccurredAt: minute, Entity: team}}, nil
	}
	event := doc.in("event")
	kind := event.text("type")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected an event of Slack's Events API")
	}
	about := slackAbout(kind, event)
	if about == "" && slackOfTeam(kind) {
		about = team
	}
	at := event.seconds("event_ts")
	if at.IsZero() {
		at = doc.time("event_time")
	}
	if subtype := event.text("subtype"); subtype != "" {
		kind += "." + subtype
	}
	return []Event{{ID: doc.text("event_id"), Type: kind, OccurredAt: at, Entity: about}}, nil
}

// slackAbout says what an event is about: of all that has to do with a message it is the thread, which has the channel and
// the time of its first message for a name.
func slackAbout(kind string, event object) string {
	switch {
	case kind == "message", kind == "app_mention", kind == "link_shared", strings.HasPrefix(kind, "message_metadata_"):
		return slackMessage(event)
	case event.in("item") != nil:
		item := event.in("item")
		if file := slackID(item, "file"); file != "" {
			return entity("file", file)
		}
		return entity("message", item.text("channel"), firstOf(item.in("message").text("thread_ts"), item.in("message").text("ts"), item.text("ts")))
	case event.in("assistant_thread") != nil:
		thread := event.in("assistant_thread")
		return entity("message", thread.text("channel_id"), thread.text("thread_ts"))
	case kind == "app_home_opened": // it names the channel of the app's direct messages too
		return entity("user", event.text("user"))
	}
	for _, noun := range []string{"file", "function_execution", "channel", "subteam", "user"} {
		if id := slackID(event, noun); id != "" {
			return entity(noun, id)
		}
	}
	return ""
}

// slackMessage names the thread of a message. An edit has the message as it is now in message, a deletion the one that was
// in previous_message.
func slackMessage(event object) string {
	message := event
	for _, inner := range []string{"previous_message", "message"} {
		if o := event.in(inner); o != nil {
			message = o
		}
	}
	return entity("message", firstOf(event.text("channel"), event.text("channel_id")),
		firstOf(message.text("thread_ts"), message.text("ts"), event.text("message_ts"), event.text("deleted_ts")))
}

// slackID gives an id that stands under a name as itself, as an object with an id, or under the name with _id.
func slackID(o object, noun string) string {
	return firstOf(o.text(noun), o.in(noun).text("id"), o.text(noun+"_id"))
}

// slackOfTeam reports whether an event that names nothing else is about the whole workspace.
func slackOfTeam(kind string) bool {
	switch kind {
	case "app_uninstalled", "tokens_revoked", "emoji_changed", "email_domain_changed":
		return true
	}
	return strings.HasPrefix(kind, "team_") || strings.HasPrefix(kind, "grid_migration_")
}
