package source

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	gitlabToken       = "X-Gitlab-Token"
	gitlabEvent       = "X-Gitlab-Event"
	gitlabEventUUID   = "X-Gitlab-Event-UUID"
	gitlabIdempotency = "Idempotency-Key"
)

// gitlab is GitLab.com and GitLab Self-Managed: webhooks of projects and groups, and system hooks. An endpoint takes one of
// its two schemes and never the other.
var gitlab = Source{
	Name:       "gitlab",
	Title:      "GitLab",
	Docs:       "https://docs.gitlab.com/user/project/integrations/webhooks/",
	SecretFrom: SecretFromEither,
	Setup: "In the project or group, Settings, Webhooks, add a webhook with the URL {url} and the triggers you want. Give it {secret} as the secret " +
		"token; or, with the setting auth \"signed\" in GitLab versions that have it, as the signing token (one that GitLab made is pasted here).",
	Signs: "By default nothing: the secret stands in X-Gitlab-Token. With the setting auth \"signed\", HMAC-SHA256 in base64 over webhook-id, " +
		"webhook-timestamp and raw body, joined by dots, in webhook-signature (v1).",
	Order: "updated_at of the object; a push has only the times of its commits.",
	Settings: []Setting{
		{Name: "auth", Help: "How GitLab proves itself: token (X-Gitlab-Token) or signed (webhook-signature); token if left out. The other is never accepted."},
		{Name: "signing_key", Help: "How a signing token is a key: base64 (what stands after whsec_, as GitLab makes it) or raw (the token as it is); base64 if left out."},
	},
	Notes: []string{
		"With auth token the body is not signed: whoever has seen one delivery can send any other. Choose signed where GitLab offers a signing token.",
		"The id is Idempotency-Key (since 17.4; with auth signed it is webhook-id, which is signed); an older GitLab has none, and the id is " +
			"made of X-Gitlab-Event-UUID, the event's name and the body.",
		"A webhook may have a body of its own making (custom templates): then the type is X-Gitlab-Event, and entity and time are what is found.",
		"Every refusal is answered with 503: older versions disable a webhook for good after a few 4xx, and pause it after 5xx; since 17.11 both " +
			"pause it, from 1 minute up to a day, and 40 failures in a row disable it.",
		"A push of no commits, as a deleted branch, has no time.",
	},
	Window:       gitlabWindow,
	BodySigned:   gitlabSigned,
	IDSigned:     gitlabSigned,
	AnswerWithin: 10 * time.Second,
	Retries: "No schedule is published; a delivery can be sent again by hand, with the same Idempotency-Key. After 4 failures in a row the webhook is " +
		"paused for 1 minute, growing to a day.",
	BodyMax: 25 << 20, // GitLab's own cap
	// A 4xx may disable the webhook for good, while a 5xx never does worse than pause it. So every refusal is a 5xx.
	Codes: Codes{
		Refused:   http.StatusServiceUnavailable,
		Malformed: http.StatusServiceUnavailable,
		TooLarge:  http.StatusServiceUnavailable,
		Disabled:  http.StatusServiceUnavailable,
	},

	Verify:        gitlabVerify,
	Events:        gitlabEvents,
	Samples:       gitlabSamples,
	Sign:          gitlabSign,
	NewSecret:     standardNewSecret, // GitLab takes it as a signing token, and any text as a secret token
	CheckSecret:   gitlabCheckSecret,
	ParseSettings: gitlabParseSettings,
}

// gitlabSettings are the settings of an endpoint.
type gitlabSettings struct {
	signed bool                                // the signature is the proof, and not the token
	key    func(secret string) ([]byte, error) // of a signing token
}

var errGitlabSettings = refuse(ReasonSettingsInvalid, "the endpoint has no settings of GitLab")

// gitlabKeys are the readings of a signing token.
var gitlabKeys = map[string]func(string) ([]byte, error){
	"base64": prefixedKey,
	"raw":    func(secret string) ([]byte, error) { return []byte(secret), nil },
}

func gitlabParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set := &gitlabSettings{}
	return parsed(raw, set, func(in *settingReader) {
		set.signed = choice(in, "auth", "token", map[string]bool{"token": false, "signed": true})
		set.key = choice(in, "signing_key", "base64", gitlabKeys)
	})
}

func gitlabSigned(s Settings) bool {
	set, ok := s.(*gitlabSettings)
	return ok && set.signed
}

func gitlabWindow(s Settings) Window {
	if gitlabSigned(s) {
		return fiveMinutes(s)
	}
	return untimed(s)
}

func gitlabVerify(r Request, secrets []string, s Settings) (int, error) {
	set, ok := s.(*gitlabSettings)
	if !ok {
		return -1, errGitlabSettings
	}
	if set.signed {
		return webhookHeaders.verify(r, secrets, set.key) // GitLab uses the specification's own names only
	}
	value, err := signatureHeader(r.Header, gitlabToken)
	if err != nil {
		return -1, err
	}
	return matchToken(value, secrets)
}

func gitlabEvents(r Request, s Settings) ([]Event, error) {
	doc, err := parseDocument(r.Body)
	if err != nil {
		return nil, err
	}
	id, err := gitlabID(r, s)
	if err != nil {
		return nil, err
	}
	kind, action := gitlabKind(doc), gitlabAction(doc)
	if kind == "" {
		kind = gitlabHeaderKind(r.Header.Get(gitlabEvent))
	}
	event := Event{ID: id, Type: kind, OccurredAt: gitlabTime(doc, action), Entity: gitlabSubject(kind, doc)}
	if action != "" {
		event.Type += "." + action
	}
	return []Event{event}, nil
}

// gitlabID is the id that is the same on every retry: under a signature the one it covers.
func gitlabID(r Request, s Settings) (string, error) {
	switch {
	case gitlabSigned(s):
		return idHeader(r.Header, webhookHeaders.id)
	case len(r.Header.Values(gitlabIdempotency)) > 0:
		return idHeader(r.Header, gitlabIdempotency)
	default:
		// Recursive webhooks share the UUID of the event, so that alone would lose events.
		return digest([]byte(r.Header.Get(gitlabEventUUID) + "\x00" + r.Header.Get(gitlabEvent) + "\x00" + string(r.Body))), nil
	}
}

// gitlabHeaderKind writes a name such as "Merge Request Hook" as the bodies do: "merge_request".
func gitlabHeaderKind(name string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSuffix(name, " Hook"), " ", "_"))
}

func gitlabSign(in SignInput) (Signed, error) {
	set, ok := in.Settings.(*gitlabSettings)
	if !ok {
		return Signed{}, errGitlabSettings
	}
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set(gitlabIdempotency, in.ID)
	if !set.signed {
		h.Set(gitlabToken, in.Secret)
		return Signed{h, in.Body}, nil
	}
	key, err := set.key(in.Secret)
	if err != nil {
		return Signed{}, errNoSecret
	}
	timestamp := strconv.FormatInt(in.At.Unix(), 10)
	mac := sum(sha256.New, key, []byte(in.ID+"."+timestamp+"."), in.Body)
	h.Set(webhookHeaders.id, in.ID)
	h.Set(webhookHeaders.timestamp, timestamp)
	h.Set(webhookHeaders.signature, "v1,"+base64.StdEncoding.EncodeToString(mac))
	return Signed{h, in.Body}, nil
}

func gitlabCheckSecret(secret string, s Settings) error {
	if err := checkPlainSecret(secret, s); err != nil {
		return err
	}
	set, ok := s.(*gitlabSettings)
	if !ok {
		return errGitlabSettings
	}
	if !set.signed {
		return nil
	}
	key, err := set.key(secret)
	if err == nil && len(key) < standardKeyMin {
		return fmt.Errorf("a signing token has at least %d bytes after decoding", standardKeyMin)
	}
	return err
}
