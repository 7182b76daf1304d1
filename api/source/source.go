// Package source is the catalogue of systems that send webhooks: for each, how a delivery proves who sent it, what the
// event in it is called, when it happened and what it is about, and how to sign a sample the way the system would.
//
// A source is a value with functions, in a file of its own, and one line in the list in catalogue.go. Everything here is
// a pure function of bytes, headers, secrets and a given time. What must not enter: SQL, HTTP handlers and status codes
// of the intake, the clock, configuration, the network, tenants, and any other room of the house.
package source

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"time"
)

// Request is one delivery as it reached the door.
type Request struct {
	Method     string      // as received, upper case
	URL        string      // the public URL as registered at the source, never rebuilt from a proxied request, and the query as received
	Header     http.Header // canonical keys, as net/http delivers them
	Body       []byte      // the raw bytes; signatures cover these
	ReceivedAt time.Time   // when the delivery arrived; signed timestamps are held against it

	// Proxy holds those headers that the operator has said his own proxy sets (of a client's certificate); never what a
	// sender could have written himself.
	Proxy http.Header
	// Certificate is what stands at the URL that CertificateURL gave: the caller fetches and caches it. PEM, the leaf first.
	Certificate []byte
	// Roots are what the chain of Certificate must end in; nil are the system's.
	Roots *x509.CertPool
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
	SecretNone       SecretOrigin = "none"   // there is none: the source proves itself by a certificate
)

// Event is what a delivery says happened. All strings are valid UTF-8 without control characters.
type Event struct {
	ID         string    // the same on every retry of one event; at most 256 runes, longer ones are hashed
	Type       string    // such as "issues.opened"; at most 128 runes, longer ones are cut; "" where the delivery names none
	OccurredAt time.Time // UTC; zero if unknown. Never the time of signing, which is new with every retry
	Entity     string    // what it is about, "kind:id"; at most 256 runes, longer ones are hashed; "" if unknown
	Sequence   *int64    // grows with each event of one entity, where the source has such a number; else nil

	// Once is a second key that is taken only once, "" for none: what proves a delivery without covering its id, so that a
	// replay under a fresh id is caught. Where IDSigned is false and the source sets none, it is made of the type and the body.
	Once string
	// Payload is the JSON document of this one event, which filters and templates see; nil where that is the body itself.
	Payload []byte
}

// Window is how far the signed time may lie before (Past) and after (Future) the arrival. Zero: no time is signed.
type Window struct{ Past, Future time.Duration }

// Signed reports whether a time is under the signature.
func (w Window) Signed() bool { return w != Window{} }

// Answer is what a source wants to hear to a handshake, in place of the usual answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// Visit, if set, is a URL that has to be fetched before this is answered: the source confirms a subscription so. Its host
	// is one of the source's own, which the handshake has checked.
	Visit string
}

// Codes are the statuses that harm least at a source for which a status has a side effect. 0 is the usual one, in brackets.
type Codes struct {
	Refused   int // [401] the signature does not hold
	Malformed int // [400] it holds, and the payload cannot be read
	TooLarge  int // [413] the body is larger than BodyMax
	Disabled  int // [404] the endpoint is switched off
	Busy      int // [503] not stored, to be sent again
}

// Signed is a delivery that is ready to be posted.
type Signed struct {
	Header http.Header
	Body   []byte // not the given one where the signature stands inside it
}

// Setting is one field of an endpoint's settings, for a person.
type Setting struct {
	Name string
	Help string // what it says, what it may be, and what it is if left out
}

// Need is a credential of the tenant that an endpoint's settings refer to.
type Need struct {
	Place string // the setting that names it
	ID    string // "crd_..."
	Kind  string // of what kind it must be
	// Stranger is the host that the credential is sent to, where that is not one of the source's own; else "".
	Stranger string
	// StrangerPlace is the setting that names that host.
	StrangerPlace string
}

// Trial is a key made for one sample to one's own endpoint, where only the source could sign with the endpoint's own.
type Trial struct {
	Sign        string // what Sign takes as the secret
	Verify      string // what Verify takes as the secret
	Certificate []byte // as in Request, for a source with certificates
	Roots       *x509.CertPool
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

// Source is one kind of system that sends webhooks. After All or Get every function is set but Challenge, ProxyHeader,
// CertificateURL, Handshake, Kept, Needs, Trial and NewSecret, which not every source has.
type Source struct {
	Name  string // lower case, stable, part of the contract
	Title string // for people
	Docs  string // the vendor's page on its webhooks

	SecretFrom SecretOrigin
	Setup      string // what to paste where, for a person; {url} and {secret} are slots
	Signs      string // one sentence: what is signed and how
	Order      string // one sentence: what its events can be ordered by
	Settings   []Setting
	Notes      []string // what is weak or not known for certain, and what was chosen therefore; a sentence each

	// Window is what Verify holds the signed time to.
	Window func(Settings) Window
	// BodySigned reports whether the body is under the signature. Where it is not, whoever knows the proof can send any body.
	BodySigned func(Settings) bool
	// IDSigned reports whether the id of the event is under the signature. Where it is not, a replayed body with a fresh id
	// verifies, and Event.Once catches it.
	IDSigned func(Settings) bool

	AnswerWithin time.Duration // how long the source waits for an answer; 0 where it is not published
	Retries      string        // its habit of retrying, for a person
	BodyMax      int64         // bytes; a larger body is refused before it is read
	Codes        Codes
	// Accepted is what a delivery is answered with after the commit; nil is 200 and the event's id.
	Accepted *Answer

	// Challenge answers a question that comes without any signature, by the source's own protocol, and nil for any other
	// delivery. It is nil for sources that have none. It must not use a secret: its answer is for everybody.
	Challenge func(Request) *Answer
	// ProxyHeader names the header that the operator's own proxy must set for this endpoint, "" for none. It is nil for sources
	// that need none.
	ProxyHeader func(Settings) string
	// CertificateURL says where the certificate of a delivery is, after checking that the URL is the source's own. Its error is
	// a *Refusal. It is nil for sources without certificates.
	CertificateURL func(Request) (string, error)
	// Verify checks the signature over the raw bytes against every secret, and answers with the index of the one that
	// matched; for SecretNone with -1. Its error is a *Refusal. Nothing of the payload is parsed that is not needed to verify.
	Verify func(r Request, secrets []string, s Settings) (matched int, err error)
	// Handshake answers a delivery that is not an event but a question of the source, and nil for any other. It is nil for
	// sources that have none. secret is the one that Verify matched. It may be called only after Verify held.
	Handshake func(r Request, secret string, s Settings) *Answer
	// Events names the one or more events of the delivery. Its error is a *Refusal. It may be called only after Verify held.
	Events func(Request, Settings) ([]Event, error)

	Samples []Sample // to be read only
	// Kept gives the raw body as it may be kept and shown: without what proves the next delivery, or opens the source's own doors. It is
	// nil where the body holds no such thing.
	Kept func(body []byte) []byte
	// Sign gives the headers, and the body, with which the source would deliver in.Body.
	Sign func(in SignInput) (Signed, error)
	// Trial makes a key for a sample; nil where the endpoint's secret can sign.
	Trial func() (Trial, error)

	// NewSecret makes a signing secret; nil where the source chooses it.
	NewSecret func() (string, error)
	// CheckSecret says what is wrong with a secret before it is stored, without repeating it.
	CheckSecret func(secret string, s Settings) error
	// ParseSettings reads the settings object of an endpoint and names every bad field; unknown fields are faults. Empty
	// input is an empty object. What is common to all sources (the order of events) is the caller's to take out first.
	ParseSettings func(raw json.RawMessage) (Settings, []Fault)
	// Needs names the tenant's credentials that settings refer to. It is nil for sources whose settings refer to none.
	Needs func(Settings) []Need
}

// ProofHeader names the header that the settings say holds the proof of a delivery, which must not be kept; "" where they name none.
func ProofHeader(s Settings) string {
	if set, ok := s.(interface{ proofHeader() string }); ok {
		return set.proofHeader()
	}
	return ""
}

func always(Settings) bool { return true }
func never(Settings) bool  { return false }

// untimed is the Window of a source that signs no time.
func untimed(Settings) Window { return Window{} }

// fiveMinutes is what Stripe's and the Standard Webhooks libraries allow; the future is bounded too, though Stripe's
// library does not.
func fiveMinutes(Settings) Window { return Window{Past: replayWindow, Future: replayWindow} }
