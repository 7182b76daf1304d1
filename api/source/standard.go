package source

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	standardPrefix = "whsec_"
	// standardKeyMin and standardKeyMax bound a key in bytes. The specification says 24 to 64; some senders are outside it.
	standardKeyMin = 16
	standardKeyMax = 128
)

// standardHeaders are the names of the three headers that make one signature.
type standardHeaders struct{ id, timestamp, signature string }

var (
	webhookHeaders = standardHeaders{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}
	svixHeaders    = standardHeaders{"Svix-Id", "Svix-Timestamp", "Svix-Signature"}
)

// standard is every sender that follows the Standard Webhooks specification with symmetric signatures (v1), and Svix, whose
// headers have other names. Ed25519 signatures (v1a) are not read.
var standard = Source{
	Name:       "standard",
	Title:      "Standard Webhooks",
	Docs:       "https://www.standardwebhooks.com",
	SecretFrom: SecretFromEither,
	Setup: "In the sending system, add a webhook with the URL {url}. If it shows a signing secret (whsec_...), paste that here; " +
		"if it asks for one, give it {secret}.",
	Signs: "HMAC-SHA256 in base64 over id, timestamp and raw body, joined by dots, in webhook-signature (v1; svix-signature " +
		"too); the key is the base64 after whsec_.",
	Window:       fiveMinutes,
	BodySigned:   always,
	IDSigned:     always,
	AnswerWithin: 15 * time.Second, // the specification recommends senders to wait 15 to 30 seconds
	Retries:      "As the sender chooses; the specification's example is 10 attempts over some 3 days. The id stays the same.",
	Order:        "timestamp of the body, if the sender follows the recommended shape.",
	BodyMax:      1 << 20,

	Verify:      standardVerify,
	Events:      standardEvents,
	Samples:     standardSamples,
	Sign:        standardSign,
	NewSecret:   standardNewSecret,
	CheckSecret: standardCheckSecret,
}

// standardSet chooses the set of headers: the specification's if all three are there, else Svix's if any of its own is. A
// set is never mixed from both.
func standardSet(h http.Header) standardHeaders {
	if webhookHeaders.count(h) < 3 && svixHeaders.count(h) > 0 {
		return svixHeaders
	}
	return webhookHeaders
}

// count says how many of the three headers are there.
func (s standardHeaders) count(h http.Header) int {
	count := 0
	for _, name := range []string{s.id, s.timestamp, s.signature} {
		if h.Get(name) != "" {
			count++
		}
	}
	return count
}

func standardVerify(r Request, secrets []string, _ Settings) (int, error) {
	return standardSet(r.Header).verify(r, secrets, prefixedKey)
}

// verify checks the scheme under these names of its headers, with keys as key reads them from the secrets.
func (s standardHeaders) verify(r Request, secrets []string, key func(secret string) ([]byte, error)) (int, error) {
	value, err := signatureHeader(r.Header, s.signature)
	if err != nil {
		return -1, err
	}
	id, err := idHeader(r.Header, s.id)
	if err != nil {
		return -1, err
	}
	timestamp, err := timestampHeader(r.Header, s.timestamp)
	if err != nil {
		return -1, err
	}
	signed, err := parseTimestamp(timestamp, time.Second)
	if err != nil {
		return -1, err
	}
	candidates, err := standardParse(value)
	if err != nil {
		return -1, err
	}
	keys := make([][]byte, len(secrets))
	for i, secret := range secrets {
		keys[i], _ = key(secret) // a key that cannot be read stays nil, and never matches
	}
	matched, err := matchMAC(sha256.New, keys, candidates, []byte(id+"."+timestamp+"."), r.Body)
	if err != nil {
		return -1, err
	}
	return matched, checkWindow(signed, r.ReceivedAt, fiveMinutes(nil))
}

// standardParse reads space-separated "v1,<base64>" signatures; those of other versions and unreadable ones are skipped.
func standardParse(value string) ([][]byte, error) {
	var candidates [][]byte
	seen, ours := 0, 0
	for element := range strings.SplitSeq(value, " ") {
		if seen++; seen > signaturesMax {
			return nil, refuse(ReasonSignatureMalformed, "the signature header has too many signatures")
		}
		version, encoded, found := strings.Cut(element, ",")
		if !found || version != "v1" {
			continue
		}
		ours++
		if mac, err := base64.StdEncoding.Strict().DecodeString(encoded); err == nil && len(mac) == sha256.Size {
			candidates = append(candidates, mac)
		}
	}
	switch {
	case ours == 0:
		return nil, refuse(ReasonSignatureMissing, "the signature header has no v1 signature")
	case len(candidates) == 0:
		return nil, refuse(ReasonSignatureMalformed, "the signature header has no v1 of base64 of 32 bytes")
	}
	return candidates, nil
}

// standardEvents follows the specification's recommended body: type, timestamp (of the event) and data. The entity is the
// first part of the type and data.id. A document of another shape is still an event, with the signed id.
func standardEvents(r Request, _ Settings) ([]Event, error) {
	id, err := idHeader(r.Header, standardSet(r.Header).id)
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(r.Body)
	if err != nil {
		return nil, err
	}
	kind := doc.text("type")
	noun, _, _ := strings.Cut(kind, ".")
	return []Event{{ID: id, Type: kind, OccurredAt: doc.time("timestamp"), Entity: entity(noun, doc.in("data").id("id"))}}, nil
}

func standardSign(in SignInput) (Signed, error) {
	key, err := prefixedKey(in.Secret)
	if err != nil {
		return Signed{}, errNoSecret
	}
	timestamp := strconv.FormatInt(in.At.Unix(), 10)
	mac := sum(sha256.New, key, []byte(in.ID+"."+timestamp+"."), in.Body)
	h := signedHeader(in)
	h.Set(webhookHeaders.id, in.ID)
	h.Set(webhookHeaders.timestamp, timestamp)
	h.Set(webhookHeaders.signature, "v1,"+base64.StdEncoding.EncodeToString(mac))
	return Signed{h, in.Body}, nil
}

func standardNewSecret() (string, error) {
	b := make([]byte, secretRandomBytes)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("read random bytes for a secret: %w", err)
	}
	return standardPrefix + base64.StdEncoding.EncodeToString(b), nil
}

func standardCheckSecret(secret string, _ Settings) error {
	if strings.HasPrefix(secret, "whsk_") || strings.HasPrefix(secret, "whpk_") {
		return errors.New("expected a symmetric secret, which begins with whsec_; ed25519 keys (whsk_, whpk_) are not supported")
	}
	key, err := prefixedKey(secret)
	if err != nil {
		return err
	}
	if len(key) < standardKeyMin || len(key) > standardKeyMax {
		return fmt.Errorf("the base64 after whsec_ must be of %d to %d bytes", standardKeyMin, standardKeyMax)
	}
	return nil
}

// prefixedKey decodes the base64 after whsec_, which may be left away, as the vendors' libraries allow. The key is never
// empty.
func prefixedKey(secret string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, standardPrefix))
	if err != nil || len(key) == 0 { // the decoder's own error would quote a byte's place only, but says no more
		return nil, errors.New("expected whsec_ followed by base64")
	}
	return key, nil
}

var standardSamples = []Sample{{
	Type: "contact.created",
	Body: sampleBody(`
{
  "type": "contact.created",
  "timestamp": "$AT",
  "data": {
    "id": "con_$NUMBER",
    "full_name": "Sample Customer",
    "email": "sample.customer@example.com",
    "company": "Acme Sample Ltd",
    "message": "Do you have a plan for a team of three?"
  }
}`),
}}
