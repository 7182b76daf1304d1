package source

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

const (
	zoomSignature  = "X-Zm-Signature"
	zoomTimestamp  = "X-Zm-Request-Timestamp"
	zoomValidation = "endpoint.url_validation"
)

// zoomToken is what a token of the validation may be. The signed string of a delivery has colons in it, so the answer to such
// a token is never the signature of a delivery: the endpoint cannot be asked to sign one.
var zoomToken = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// zoom is the event subscriptions of an app in Zoom's marketplace. The scheme is Slack's.
var zoom = Source{
	Name:       "zoom",
	Title:      "Zoom",
	Docs:       "https://developers.zoom.us/docs/api/webhooks/",
	SecretFrom: SecretFromSource,
	Setup: "First paste the Secret Token of your app's feature page (marketplace.zoom.us) here. Then add an event subscription " +
		"there with the event notification endpoint URL {url}, press Validate, and choose the events you want.",
	Signs: "HMAC-SHA256 in hex over v0, the timestamp and the raw body, joined by colons, in x-zm-signature; the key is the " +
		"app's secret token.",
	Window:       fiveMinutes,
	BodySigned:   always,
	IDSigned:     always, // the id is made of what stands in the body
	AnswerWithin: 3 * time.Second,
	Retries:      "3 times: 5 minutes after the first try, 20 minutes after the first retry and 60 after the second.",
	Order:        "event_ts, in milliseconds.",
	Notes: []string{
		"Events have no id; one is made of the event, its time and its payload, which are taken to be the same on every retry.",
		"Zoom names no tolerance for the signed time; five minutes are held, so a retry under its first timestamp would be refused.",
		"Zoom validates the URL when it is saved and every 72 hours; only a signed question is answered, and no token but one of " +
			"1 to 128 letters, digits, hyphens and underscores.",
	},
	BodyMax: 1 << 20,

	Verify:      zoomVerify,
	Handshake:   zoomHandshake,
	Events:      zoomEvents,
	Samples:     zoomSamples,
	Sign:        zoomSign,
	CheckSecret: checkPlainSecret,
}

func zoomVerify(r Request, secrets []string, _ Settings) (int, error) {
	return v0Verify(r, zoomSignature, zoomTimestamp, secrets)
}

func zoomSign(in SignInput) (Signed, error) { return v0Sign(in, zoomSignature, zoomTimestamp) }

// zoomHandshake proves that the secret is known here, by the HMAC of the token in the question.
func zoomHandshake(r Request, secret string, _ Settings) *Answer {
	doc, err := parseObject(r.Body)
	if err != nil || doc.text("event") != zoomValidation {
		return nil
	}
	token := doc.in("payload").text("plainToken")
	if secret == "" || !zoomToken.MatchString(token) {
		return nil
	}
	return jsonAnswer(map[string]string{
		"plainToken":     token,
		"encryptedToken": hex.EncodeToString(sum(sha256.New, []byte(secret), []byte(token))),
	})
}

// zoomEvents reads the event and the object of its payload. A meeting is named by its number, which every event of it has,
// while the uuid of one sitting is absent where the meeting itself was changed.
func zoomEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("event")
	if kind == "" || kind == zoomValidation {
		return nil, refuse(ReasonPayloadMalformed, "expected a Zoom event")
	}
	noun, _, _ := strings.Cut(kind, ".")
	about := doc.within("payload", "object")
	return []Event{{
		ID:         derivedID(kind, doc.id("event_ts"), string(doc["payload"])),
		Type:       kind,
		OccurredAt: doc.millis("event_ts"),
		Entity:     entity(noun, firstOf(about.id("id"), about.id("uuid"), about.id("call_id"), about.id("message_id"))),
	}}, nil
}

var zoomSamples = []Sample{
	{Type: "meeting.participant_joined", Body: sampleBody(`
{
  "event": "meeting.participant_joined",
  "event_ts": $UNIX000,
  "payload": {
    "account_id": "SampleAccount1",
    "object": {
      "id": "94512367809",
      "uuid": "c2FtcGxl$NUMBER==",
      "host_id": "SampleHost1",
      "topic": "Weekly support review",
      "type": 8,
      "start_time": "$AT",
      "timezone": "Europe/Berlin",
      "duration": 30,
      "participant": {
        "user_id": "16778240",
        "user_name": "Sample Customer",
        "participant_uuid": "SampleParticipant1",
        "email": "sample.customer@example.com",
        "join_time": "$AT"
      }
    }
  }
}`)},
	{Type: "recording.completed", Body: sampleBody(`
{
  "event": "recording.completed",
  "event_ts": $UNIX000,
  "payload": {
    "account_id": "SampleAccount1",
    "object": {
      "id": 94512367809,
      "uuid": "c2FtcGxl$NUMBER==",
      "host_id": "SampleHost1",
      "host_email": "sample.host@example.com",
      "topic": "Weekly support review",
      "type": 8,
      "start_time": "$AT",
      "timezone": "Europe/Berlin",
      "duration": 28,
      "total_size": 52428800,
      "recording_count": 1,
      "recording_files": [
        {"id": "sample-file-1", "meeting_id": "c2FtcGxl$NUMBER==", "recording_start": "$AT", "recording_end": "$AT",
         "file_type": "MP4", "file_size": 52428800, "status": "completed", "recording_type": "shared_screen_with_speaker_view"}
      ]
    }
  }
}`)},
}
