package source

import (
	"crypto/ed25519"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	discordSignature = "X-Signature-Ed25519"
	discordTimestamp = "X-Signature-Timestamp"
	discordPing      = "0" // the outer type of a handshake; that of an event is 1
	// discordLayout is a time without zone, which is UTC, with a fraction or without.
	discordLayout = "2006-01-02T15:04:05"
)

// discord is Discord's webhook events, of an application. Interactions have the same signature but want an answer in their
// reply, and are not read.
var discord = Source{
	Name:       "discord",
	Title:      "Discord",
	Docs:       "https://docs.discord.com/developers/events/webhook-events",
	SecretFrom: SecretFromSource,
	Setup: "In the Discord Developer Portal, open your application, and paste its public key (General Information) here. Then, under Webhooks, " +
		"enter the URL {url}, switch events on and choose those you want; Discord asks the URL at once and saves it if it answers.",
	Signs: "Ed25519 over the timestamp and the raw body, in X-Signature-Ed25519 as hex; the secret of the endpoint is the application's public key.",
	Order: "event.timestamp, in microseconds; Discord says that events are neither in real time nor in order.",
	Notes: []string{
		"There is no id of an event; it is made of the application and the whole event, which are signed, so a replay is the same event.",
		"That the signed time is new with every retry is not published. Retries go on for 10 minutes, so the past is open for 15; a replay within " +
			"them is known by its id.",
		"Interactions, whose replies people see, are refused: an endpoint of interactions has to answer by itself.",
	},
	Window:       discordWindow,
	BodySigned:   always,
	IDSigned:     always, // the id is made of the signed body
	AnswerWithin: 3 * time.Second,
	Retries:      "With growing pauses for up to 10 minutes; after too many failures Discord stops and sends a mail.",
	BodyMax:      1 << 20,
	// Discord sends deliberately bad signatures and takes the URL away unless they are answered with 401, which is the usual code.
	Codes:    Codes{Refused: http.StatusUnauthorized},
	Accepted: discordAnswer(),

	Verify:      discordVerify,
	Handshake:   discordHandshake,
	Events:      discordEvents,
	Samples:     discordSamples,
	Sign:        discordSign,
	Trial:       ed25519Trial,
	CheckSecret: discordCheckSecret,
}

// discordAnswer is what Discord wants to hear, to the handshake and to events: 204, no body, and yet a content type.
func discordAnswer() *Answer {
	return &Answer{Status: http.StatusNoContent, Header: http.Header{"Content-Type": {"application/json"}}}
}

// discordRetries is how long Discord goes on retrying.
const discordRetries = 10 * time.Minute

func discordWindow(Settings) Window {
	return Window{Past: discordRetries + replayWindow, Future: replayWindow}
}

func discordVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, discordSignature)
	if err != nil {
		return -1, err
	}
	timestamp, err := timestampHeader(r.Header, discordTimestamp)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(timestamp, time.Second)
	if err != nil {
		return -1, err
	}
	signature, ok := decodeHex(value, ed25519.SignatureSize)
	if !ok {
		return -1, refuse(ReasonSignatureMalformed, "header "+discordSignature+" must be 128 hex digits")
	}
	message := append([]byte(timestamp), r.Body...)
	matched, err := matchPublic(secrets, ed25519Public, func(key ed25519.PublicKey) bool { return ed25519.Verify(key, message, signature) })
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, discordWindow(nil))
}

// discordHandshake answers a PING. The answer says nothing that is not in this file.
func discordHandshake(r Request, _ string, _ Settings) *Answer {
	doc, err := parseObject(r.Body)
	if err != nil || string(doc["type"]) != discordPing {
		return nil
	}
	return discordAnswer()
}

func discordEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	event := doc.in("event")
	kind := event.text("type")
	if kind == "" {
		return nil, refuse(ReasonPayloadMalformed, "expected a Discord webhook event with event.type")
	}
	return []Event{{
		ID:         digest([]byte(doc.id("application_id") + "\x00" + string(doc["event"]))),
		Type:       kind,
		OccurredAt: event.timeAs("timestamp", time.RFC3339Nano, discordLayout),
		Entity:     discordSubject(kind, event.in("data")),
	}}, nil
}

// discordSubject is what an event is about: the object with the id, whose kind is the type without its verb
// ("ENTITLEMENT_CREATE" is about an entitlement), else the user, as when an application was authorized.
func discordSubject(kind string, data object) string {
	if noun := kind[:max(strings.LastIndexByte(kind, '_'), 0)]; noun != "" && data.id("id") != "" {
		return entity(strings.ToLower(noun), data.id("id"))
	}
	if id := data.in("user").id("id"); id != "" {
		return entity("user", id)
	}
	return entity("user", data.id("user_id"))
}

func discordSign(in SignInput) (Signed, error) {
	key, err := ed25519Private(in.Secret)
	if err != nil {
		return Signed{}, errNoSecret
	}
	timestamp := strconv.FormatInt(in.At.Unix(), 10)
	h := signedHeader(in)
	h.Set(discordTimestamp, timestamp)
	h.Set(discordSignature, hex.EncodeToString(ed25519.Sign(key, append([]byte(timestamp), in.Body...))))
	return Signed{h, in.Body}, nil
}

func discordCheckSecret(secret string, _ Settings) error {
	_, err := ed25519Public(secret)
	return err
}

var discordSamples = []Sample{
	{Type: "APPLICATION_AUTHORIZED", Body: sampleBody(`
{
  "version": 1,
  "application_id": "1234560000000000001",
  "type": 1,
  "event": {
    "type": "APPLICATION_AUTHORIZED",
    "timestamp": "$AT",
    "data": {
      "integration_type": 1,
      "scopes": ["applications.commands"],
      "user": {"id": "$NUMBER", "username": "sample_user", "global_name": "Sample User", "bot": false}
    }
  }
}`)},
	{Type: "ENTITLEMENT_CREATE", Body: sampleBody(`
{
  "version": 1,
  "application_id": "1234560000000000001",
  "type": 1,
  "event": {
    "type": "ENTITLEMENT_CREATE",
    "timestamp": "$AT",
    "data": {
      "id": "$NUMBER",
      "user_id": "1234560000000000002",
      "sku_id": "1234560000000000003",
      "application_id": "1234560000000000001",
      "type": 4,
      "consumed": false,
      "deleted": false,
      "gift_code_flags": 0,
      "promotion_id": null
    }
  }
}`)},
}
