package source

import (
	"crypto/sha256"
	"encoding/hex"
	"mime"
	"net/url"
	"strings"
	"time"
)

const (
	githubSignature = "X-Hub-Signature-256"
	githubEvent     = "X-GitHub-Event"
	githubDelivery  = "X-GitHub-Delivery"
	githubPrefix    = "sha256="
	formType        = "application/x-www-form-urlencoded"
)

// github is GitHub and GitHub Enterprise Server: webhooks of repositories, organisations and apps. The legacy SHA-1 header
// is not accepted.
var github = Source{
	Name:       "github",
	Title:      "GitHub",
	Docs:       "https://docs.github.com/en/webhooks",
	SecretFrom: SecretFromEither,
	Setup: "In the repository or organisation, Settings, Webhooks, add a webhook with the payload URL {url}, content type " +
		"application/json and the secret {secret}, and choose the events you want. GitHub sends a ping at once.",
	Settings:     githubSettings,
	Signs:        "HMAC-SHA256 in hex over the raw body, in X-Hub-Signature-256.",
	Window:       untimed,
	BodySigned:   always,
	IDSigned:     never, // the delivery id is a header
	AnswerWithin: 10 * time.Second,
	Retries:      "None by itself; a delivery of the last 3 days can be sent again by hand or API, with the same id, and is asked for with the setting redeliver_hook.",
	Order:        "updated_at and the like of the object; a push has only the time it arrived at GitHub.",
	BodyMax:      25 << 20, // GitHub's own cap; it does not send larger events

	Verify:      githubVerify,
	Events:      githubEvents,
	Samples:     githubSamples,
	Sign:        githubSign,
	NewSecret:   newHexSecret,
	CheckSecret: checkPlainSecret,

	ParseSettings: githubParse,
	Needs:         githubNeeds,
}

func githubVerify(r Request, secrets []string, _ Settings) (int, error) {
	value, err := signatureHeader(r.Header, githubSignature)
	if err != nil {
		return -1, err
	}
	digits, found := strings.CutPrefix(value, githubPrefix)
	mac, ok := decodeHex(digits, sha256.Size)
	if !found || !ok {
		return -1, refuse(ReasonSignatureMalformed, "header "+githubSignature+" must be "+githubPrefix+" and 64 hex digits")
	}
	return matchMAC(sha256.New, plainKeys(secrets), [][]byte{mac}, r.Body)
}

// githubPayload gives the JSON of a delivery: the body, or for a form-encoded webhook its field payload. The signature is
// over the raw form.
func githubPayload(r Request) ([]byte, error) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // what cannot be read is no form
	if media != formType {
		return r.Body, nil
	}
	form, err := url.ParseQuery(string(r.Body))
	if err != nil || len(form["payload"]) != 1 {
		return nil, refuse(ReasonPayloadMalformed, "expected a form with one field payload")
	}
	return []byte(form.Get("payload")), nil
}

func githubEvents(r Request, _ Settings) ([]Event, error) {
	id, err := idHeader(r.Header, githubDelivery)
	if err != nil {
		return nil, err
	}
	name, err := header(r.Header, githubEvent, ReasonTypeMissing, ReasonTypeMissing)
	if err != nil {
		return nil, err
	}
	payload, err := githubPayload(r)
	if err != nil {
		return nil, err
	}
	doc, err := parseObject(payload)
	if err != nil {
		return nil, err
	}
	kind := name
	if action := doc.text("action"); action != "" {
		kind += "." + action
	}
	about, at := githubSubject(name, doc)
	return []Event{{ID: id, Type: kind, OccurredAt: at, Entity: about, Payload: payload}}, nil
}

func githubSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	h := signedHeader(in)
	h.Set("User-Agent", "GitHub-Hookshot/sample")
	h.Set(githubDelivery, in.ID)
	h.Set(githubSignature, githubPrefix+hex.EncodeToString(sum(sha256.New, []byte(in.Secret), in.Body)))
	return Signed{h, in.Body}, nil
}
