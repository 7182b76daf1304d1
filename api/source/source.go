// Package source is the catalogue of systems that send webhooks: for each, how a delivery proves who sent it, what the
// event in it is called, when it happened and what it is about, and how to sign a sample the way the system would.
//
// A source is a value with functions, in a file of its own, and one line in the list in catalogue.go. Everything here is
// a pure function of bytes, headers, secrets and a given time. What must not enter: SQL, HTTP handlers and status codes
// of the intake, the clock, configuration, the network, tenants, and any other room of the house.
package source

import (
	"encoding/json"
	"net/http"
	"time"
)

// Request is one delivery as it reached the door.
type Request struct {
	Method     string      // as received, upper case
	URL        string      // the public URL as registered at the source, never rebuilt from a proxied request
	Header     http.Header // canonical keys, as net/http delivers them
	Body       []byte      // the raw bytes; signatures cover these
	ReceivedAt time.Time   // when the delivery arrived; signed timestamps are held against it
}

// Settings are an endpoint's settings that belong to its source, as ParseSettings made them. They are opaque to callers
// and safe for concurrent use. Sources without settings of their own have nil.
type Settings any

// Fault is one bad field of an endpoint's settings.
type Fault struct {
	Place   string // the field, such as "signed_string"; empty for the settings as a whole
	Message string // what was expected there
}

// SecretOrigin says where the signing secret of an endpoint comes from.
type SecretOrigin string

// The origins of a secret.
const (
	SecretFromSource SecretOrigin = "source" // the source makes it; it is pasted here
	SecretFromSluice SecretOrigin = "sluice" // made here with NewSecret; it is pasted at the source
	SecretFromEither SecretOrigin = "either" // pasted here if there is one already, else made with NewSecret
)

// Event is what a delivery says happened. All strings are valid UTF-8 without control characters.
type Event struct {
	ID         string    // the same on every retry of one event; at most 256 runes, longer ones are hashed
	Type       string    // such as "issues.opened"; at most 128 runes, longer ones are cut; "" where the delivery names none
	OccurredAt time.Time // UTC; zero if unknown. Never the time of signing, which is new with every retry
	Entity     string    // what it is about, "kind:id"; at most 256 runes, longer ones are hashed; "" if unknown
	Sequence   *int64    // grows with each event of one entity, where the source has such a number; else nil
}

// Answer is what a source wants to hear to a handshake, in place of the usual answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Sample is a delivery that a source could make, for trying out an endpoint.
type Sample struct {
	Type   string                               // the type that Events will name; for hmac, if the settings have an expression for it
	Body   func(id string, at time.Time) []byte // the same id and time give the same bytes, another id another event
	Header http.Header                          // the unsigned headers that go with the body; to be read only
}

// SignInput is what Sign needs to sign a body as the source would.
type SignInput struct {
	Method, URL string      // as in Request
	Header      http.Header // headers of the sample; copied, not changed
	Body        []byte
	Secret      string
	ID          string    // the id of the event, where a header carries it
	At          time.Time // the time of signing
	Settings    Settings
}

// Source is one kind of system that sends webhooks. After All or Get every function but Handshake and NewSecret is set.
type Source struct {
	Name  string // lower case, stable, part of the contract
	Title string // for people
	Docs  string // the vendor's page on its webhooks

	SecretFrom SecretOrigin
	Setup      string // what to paste where, for a person; {url} and {secret} are slots
	Signs      string // one sentence: what is signed and how

	// SignedTime reports whether a timestamp is under the signature, so that Verify holds the delivery to a window of
	// five minutes before and after ReceivedAt.
	SignedTime func(Settings) bool
	// IDSigned reports whether the id of the event is under the signature. Where it is not, a replayed body with a fresh id
	// verifies, and the caller keeps a second key: the hash of the body.
	IDSigned func(Settings) bool

	AnswerWithin time.Duration // how long the source waits for an answer; 0 where it is not published
	Retries      string        // its habit of retrying, for a person
	BodyMax      int64         // bytes; a larger body is refused before it is read

	// Verify checks the signature over the raw bytes against every secret, and answers with the index of the one that
	// matched. Its error is a *Refusal. Nothing of the payload is parsed.
	Verify func(r Request, secrets []string, s Settings) (matched int, err error)
	// Handshake answers a delivery that is not an event but a question of the source, and nil for any other. It is nil for
	// sources that have none. secret is the one that Verify matched. It may be called only after Verify held.
	Handshake func(r Request, secret string, s Settings) *Answer
	// Payload gives the JSON document of the delivery, which is the body unless the source wraps it. Its error is a
	// *Refusal. It may be called only after Verify held.
	Payload func(Request) ([]byte, error)
	// Events names the one or more events of the delivery. Its error is a *Refusal. It may be called only after Verify held.
	Events func(Request, Settings) ([]Event, error)

	Samples []Sample // to be read only
	// Sign gives the headers with which the source would deliver in.Body.
	Sign func(in SignInput) (http.Header, error)

	// NewSecret makes a signing secret; nil where the source chooses it.
	NewSecret func() (string, error)
	// CheckSecret says what is wrong with a secret before it is stored, without repeating it.
	CheckSecret func(secret string, s Settings) error
	// ParseSettings reads the settings object of an endpoint and names every bad field; unknown fields are faults. Empty
	// input is an empty object. What is common to all sources (the order of events) is the caller's to take out first.
	ParseSettings func(raw json.RawMessage) (Settings, []Fault)
}

func always(Settings) bool { return true }
func never(Settings) bool  { return false }
